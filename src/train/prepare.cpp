// Process-wide settings for speed: malloc, and the matrix library's choice of kernels.
#include <malloc.h>

#include "moesweep/comm/nccl.hpp"
#include "moesweep/model/device.hpp"
#include "moesweep/train/trial.hpp"

/// MKL, static inside LibTorch, asks this before it chooses kernels by CPU features, and takes slow generic ones on any CPU not made by
/// Intel. Answering yes makes it look at the features alone: the same fp32 arithmetic, about twice the speed on AMD CPUs.
extern "C" __attribute__((visibility("default"))) int mkl_serv_intel_cpu_true();
extern "C" int mkl_serv_intel_cpu_true() { return 1; }

namespace moesweep::train {

void prepare_process() {
  // Large tensors come and go each step: keep their pages instead of faulting them anew.
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
  mallopt(M_TOP_PAD, 64 << 20);
}

void choose_gpu(const comm::Communicator& world) {
  if (world.minimum(model::has_gpu() ? 1 : 0, "looking for GPUs") > 0) comm::choose_device(world);
}

}  // namespace moesweep::train
