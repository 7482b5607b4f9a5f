#include <ATen/ops/ones.h>
#include <torch/version.h>
#if TORCH_VERSION_MAJOR < 2 || (TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR < 13)
#error "this LibTorch is older than 2.13"
#endif
int main() { return static_cast<int>(at::ones({1}).item<float>()) - 1; }
