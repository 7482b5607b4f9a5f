// Where a trial computes. Routing decides on the host in any case.
#pragma once

#include <c10/core/Device.h>

namespace moesweep::model {

/// True where this build and machine have a GPU.
bool has_gpu();

/// The process's current GPU (`comm::choose_device`).
c10::Device current_gpu();

/// LibTorch's current stream on the current GPU, a cudaStream_t; null in a build without CUDA.
void* current_stream();

}  // namespace moesweep::model
