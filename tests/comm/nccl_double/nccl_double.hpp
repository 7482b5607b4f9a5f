// A test double of the calls of NCCL and CUDA that the nccl transport makes. "Device memory" is the host's, messages travel by MPI.
//
// It does what a device may do, at its worst: calls of NCCL are in progress for some polls and reach their stream only then; work on a stream is
// carried out in its order, late, and while the main thread polls; until then what it will write holds 0xFF (NaN in every floating type), so a
// host that reads too early sees it. It notices buffers touched while an operation is under way, sizes and kinds that differ between ranks (an
// asynchronous error on the rank that sees it), and calls that the rules of NCCL forbid, which end the process ("nccl_double: ...").
//
// Link the target moesweep_comm_nccl_double before moesweep::comm.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "moesweep/comm/mpi.hpp"
#include "moesweep/comm/transport.hpp"

namespace moesweep::comm::nccl_double {

/// The nccl transport over the double, for host code that reads results right after `wait` (`host_reads_results`); fits `MakeTransport`.
std::unique_ptr<Transport> make_transport(const Communicator& communicator);
/// The same with waits that do not synchronise, as on a device; `on_other_stream` uses a second stream of the process in
/// place of the default one.
std::unique_ptr<Transport> make_stream_ordered_transport(const Communicator& communicator, bool on_other_stream = false);

/// Prepares one initialisation of a communicator; collective, needed only by those who call NCCL by themselves.
void prepare(const Communicator& communicator);

/// Waits for all streams, as a copy from the device to the host would.
void synchronise();

/// Whether the default stream, or the process's other one, has nothing left to do.
bool is_idle(bool other_stream);

enum class Fault { none, init_error, init_later_error, init_hang, call_error, call_hang, async_error, hang };
/// This process meets a fault: at its next initialisation, or at its `operation`-th group or sum from now on, counted from 1. The environment
/// does the same for whole programs: NCCL_DOUBLE_FAULT=RANK:NAME:OPERATION with the rank in the world and the names above.
void set_fault(Fault fault, int operation = 1);

/// How many GPUs this process sees (8 at first).
void set_device_count(int count);

/// From now on violations of the rules do not end the process: the call fails with ncclInvalidUsage, and the texts are kept.
void collect_violations();
std::vector<std::string> take_violations();

/// Groups and sums of this process so far, and the bytes that its groups sent.
struct Traffic {
  long long groups = 0, sums = 0, sent_bytes = 0;
};
Traffic traffic();

}  // namespace moesweep::comm::nccl_double
