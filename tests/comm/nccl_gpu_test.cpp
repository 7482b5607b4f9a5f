// The nccl transport over the real NCCL, on this machine's GPU: the contract of transports on one rank. Without a GPU it is skipped.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cstdio>

#include "moesweep/comm/nccl.hpp"
#include "moesweep/core/error.hpp"
#include "transport_contract.hpp"

namespace moesweep::comm {

namespace {

bool has_gpu() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess && count > 0;
}

void succeed(cudaError_t code) {
  if (code != cudaSuccess) throw Error(ErrorKind::mpi, cudaGetErrorString(code));
}

Memory device_memory() {
  Memory memory;
  memory.allocate = [](std::size_t bytes) {
    void* data = nullptr;
    succeed(cudaMalloc(&data, bytes));
    return data;
  };
  memory.release = [](void* data) { static_cast<void>(cudaFree(data)); };
  memory.write = [](void* to, const void* from, std::size_t bytes) { succeed(cudaMemcpy(to, from, bytes, cudaMemcpyHostToDevice)); };
  memory.read = [](void* to, const void* from, std::size_t bytes) { succeed(cudaMemcpy(to, from, bytes, cudaMemcpyDeviceToHost)); };
  return memory;
}

}  // namespace

std::vector<Implementation> implementations() {
  if (!has_gpu()) return {};
  return {{"nccl", [](const Communicator& c) { return make_nccl_transport(c); }, device_memory()}};
}

namespace {

TEST(NcclOnAGpu, DescribesWhatIsThere) {
  const auto lines = describe_nccl();
  ASSERT_GE(lines.size(), 2U);
  EXPECT_EQ(lines[0].substr(0, 7), "NCCL 2.") << lines[0];
  for (const std::string& line : lines) std::printf("%s\n", line.c_str());
}

TEST(NcclOnAGpu, WithoutAGpuItIsSaid) {
  if (has_gpu()) return;
  std::printf("skipped: the transport over NCCL on a GPU: %s\n", describe_nccl()[1].c_str());
  const auto world = Communicator::world();
  try {
    choose_device(world);
    ADD_FAILURE() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::config);
  }
  EXPECT_THROW(make_nccl_transport(world), Error);
}

}  // namespace
}  // namespace moesweep::comm
