// The transport over device memory, by NCCL, and what else of the GPUs comm knows. Needs neither NCCL nor CUDA to be included; in a build without
// them (`nccl_is_built()` is false) what needs them throws an `Error` of kind `config` that says how to build with them.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "moesweep/comm/mpi.hpp"
#include "moesweep/comm/transport.hpp"

namespace moesweep::comm {

/// True in a build with -DMOESWEEP_CUDA=ON.
bool nccl_is_built();

struct NcclOptions {
  /// Gives the cudaStream_t whose order collectives have, asked for at each start; without it CUDA's default stream. With LibTorch it is
  /// `c10::cuda::getCurrentCUDAStream().stream()`.
  std::function<void*()> stream;
  /// Whether `wait` (and the blocking sum) returns only when the device is done, for a host that reads the result right behind it without
  /// synchronising the stream. Without it `wait` makes sure that NCCL reports no error and returns at once: what comes behind on the stream sees
  /// the result, and the host after it synchronised the stream, by a copy to the host, for example.
  bool host_reads_results = false;
};

/// Collective over the communicator, which must outlive the transport. The process computes on the device that is current (`choose_device`),
/// and two ranks of one transport need two devices. Host values (`all_gather`, counts, numbers) travel by MPI: `host()`.
///
/// `barrier` waits for the stream, then for the ranks. A call that NCCL or CUDA refuses is an `Error` of kind `mpi` with the call, its reason and
/// the collective. An error that NCCL reports later, and a collective that is not done `comm.timeout_seconds` after its start, end the process as
/// the watchdog does: the message names rank and collective, the communicator is aborted, the exit code is 6. A thread watches over collectives
/// under way, so this holds wherever the host waits for the device. Part sizes that differ between sender and receiver are not noticed by NCCL.
///
/// The destructor is collective, but while an exception unwinds: then it aborts the communicator and waits for nobody.
std::unique_ptr<Transport> make_nccl_transport(const Communicator& communicator, NcclOptions options = {});

/// Makes a GPU of this node the process's current device, and returns its number: the rank's place among the ranks of its node, modulo the GPUs
/// that the process sees. Collective; give it the world, so that gangs on one node get different GPUs, and let each process see all GPUs of its
/// node. Throws on every rank an `Error` of kind `config` when a rank sees no GPU.
int choose_device(const Communicator& world);

/// Lines for a person: the versions of NCCL and CUDA and each device, or what is missing. Throws nothing.
std::vector<std::string> describe_nccl();

}  // namespace moesweep::comm
