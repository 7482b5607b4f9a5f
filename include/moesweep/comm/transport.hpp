// The one interface by which ranks exchange numbers. Implementations: `local` (one rank), `mpi` (host memory) and `nccl` (device memory).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "moesweep/core/dtype.hpp"

namespace moesweep::comm {

class Communicator;

/// A collective that was started and not yet waited for; the buffer must live until `wait` returns. Move-only.
class Pending {
 public:
  struct Impl {
    virtual ~Impl() = default;
    virtual void wait() = 0;
  };
  Pending() = default;
  explicit Pending(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
  /// Waits for the end; does nothing when there is nothing to wait for.
  void wait() {
    if (impl_) impl_->wait();
    impl_.reset();
  }

 private:
  std::unique_ptr<Impl> impl_;
};

/// Bytes that go to one rank, or come from it.
struct Part {
  void* data = nullptr;
  std::size_t bytes = 0;
};

/// All members are collective over the transport's ranks: every rank calls them in the same order with the same arguments but for the data.
/// `what` names the collective in messages of the watchdog and must live for the process. Errors are of kind `mpi`.
///
/// Pointers are into the transport's memory, which is the host's but for `nccl`. There a started collective has the order of LibTorch's current
/// stream, `wait` returns before the device is done, and what comes behind on that stream sees the result.
class Transport {
 public:
  virtual ~Transport() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  /// The same ranks over host memory.
  virtual Transport& host() { return *this; }

  /// `data[i]` becomes the sum over ranks, equal on every rank bit by bit; f64, f32, i64 and i32.
  virtual void all_reduce_sum(void* data, std::size_t count, DType type, const char* what) = 0;
  /// The same, started; the sum is there when the returned handle was waited for.
  virtual Pending start_all_reduce_sum(void* data, std::size_t count, DType type, const char* what) = 0;
  /// Starts an exchange: `send[r]` goes to rank r, and `receive[r]` takes what comes from there, this rank's own part included. Both sides must
  /// give a part the same size; parts of 0 bytes do not travel. The buffers must live until the handle was waited for, the spans need not.
  virtual Pending start_exchange(std::span<const Part> send, std::span<const Part> receive, const char* what) = 0;
  virtual void barrier(const char* what) = 0;

  // Of host values, whatever the transport's memory.
  /// The bytes of every rank in rank order; ranks may give different numbers of bytes.
  virtual std::vector<std::vector<std::byte>> all_gather(std::span<const std::byte> mine, const char* what) = 0;
  double all_reduce_sum(double value, const char* what);
  std::int64_t all_reduce_sum(std::int64_t value, const char* what);
  /// True on every rank when it is true on any.
  bool any(bool value, const char* what) { return all_reduce_sum(static_cast<std::int64_t>(value), what) > 0; }
  /// Numbers for each rank, the same count for all: those of [r n, (r + 1) n) go to rank r; what came from rank r lies there in the result.
  std::vector<std::int64_t> exchange_counts(std::span<const std::int64_t> counts, const char* what);
};

/// One rank by itself.
std::unique_ptr<Transport> make_local_transport();

/// The ranks of a communicator, over host memory. The communicator must outlive the transport.
std::unique_ptr<Transport> make_mpi_transport(const Communicator& communicator);

/// Local for one rank, else MPI.
std::unique_ptr<Transport> make_transport(const Communicator& communicator);

}  // namespace moesweep::comm
