// See include/moesweep/model/device.hpp.
#include "moesweep/model/device.hpp"

#ifdef MOESWEEP_CUDA
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAStream.h>
#endif

namespace moesweep::model {

#ifdef MOESWEEP_CUDA
bool has_gpu() { return c10::cuda::device_count() > 0; }
c10::Device current_gpu() { return {c10::kCUDA, c10::cuda::current_device()}; }
void* current_stream() { return c10::cuda::getCurrentCUDAStream().stream(); }
#else
bool has_gpu() { return false; }
c10::Device current_gpu() { return c10::kCPU; }
void* current_stream() { return nullptr; }
#endif

}  // namespace moesweep::model
