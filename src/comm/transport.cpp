// See include/moesweep/comm/transport.hpp.
#include "moesweep/comm/transport.hpp"

#include <algorithm>

#include "moesweep/comm/mpi.hpp"
#include "moesweep/comm/watchdog.hpp"
#include "moesweep/core/error.hpp"

namespace moesweep::comm {

double Transport::all_reduce_sum(double value, const char* what) {
  all_reduce_sum(&value, 1, DType::f64, what);
  return value;
}

std::int64_t Transport::all_reduce_sum(std::int64_t value, const char* what) {
  all_reduce_sum(&value, 1, DType::i64, what);
  return value;
}

namespace {

class LocalTransport final : public Transport {
 public:
  using Transport::all_reduce_sum;
  int rank() const override { return 0; }
  int size() const override { return 1; }
  void all_reduce_sum(void*, std::size_t, DType, const char*) override {}
  Pending start_all_reduce_sum(void*, std::size_t, DType, const char*) override { return {}; }
  std::vector<std::vector<std::byte>> all_gather(std::span<const std::byte> mine, const char*) override { return {{mine.begin(), mine.end()}}; }
  void barrier(const char*) override {}
};

MPI_Datatype mpi_type(DType type) {
  switch (type) {
    case DType::f64: return MPI_DOUBLE;
    case DType::f32: return MPI_FLOAT;
    case DType::i64: return MPI_INT64_T;
    case DType::i32: return MPI_INT32_T;
    default: throw Error(ErrorKind::internal, "sums travel as f64, f32, i64 or i32, not as " + std::string(name_of(type)));
  }
}

/// MPI counts are ints: larger buffers go in parts.
constexpr std::size_t kLargestCount = 1U << 30;

struct PendingReduction final : Pending::Impl {
  std::vector<MPI_Request> requests;
  const char* what = nullptr;
  void wait() override {
    const watchdog::Guard guard(what);
    check(MPI_Waitall(static_cast<int>(requests.size()), requests.data(), MPI_STATUSES_IGNORE), "MPI_Waitall");
  }
};

class MpiTransport final : public Transport {
 public:
  explicit MpiTransport(const Communicator& communicator) : communicator_(communicator) {}
  using Transport::all_reduce_sum;
  int rank() const override { return communicator_.rank(); }
  int size() const override { return communicator_.size(); }

  void all_reduce_sum(void* data, std::size_t count, DType type, const char* what) override {
    const watchdog::Guard guard(what);
    for (std::size_t first = 0; first < count; first += kLargestCount)
      check(MPI_Allreduce(MPI_IN_PLACE, static_cast<std::byte*>(data) + first * size_of(type),
                          static_cast<int>(std::min(kLargestCount, count - first)), mpi_type(type), MPI_SUM, communicator_.native()),
            "MPI_Allreduce");
  }

  Pending start_all_reduce_sum(void* data, std::size_t count, DType type, const char* what) override {
    auto pending = std::make_unique<PendingReduction>();
    pending->what = what;
    for (std::size_t first = 0; first < count; first += kLargestCount) {
      pending->requests.push_back(MPI_REQUEST_NULL);
      check(MPI_Iallreduce(MPI_IN_PLACE, static_cast<std::byte*>(data) + first * size_of(type),
                           static_cast<int>(std::min(kLargestCount, count - first)), mpi_type(type), MPI_SUM, communicator_.native(),
                           &pending->requests.back()),
            "MPI_Iallreduce");
    }
    return Pending(std::move(pending));
  }

  std::vector<std::vector<std::byte>> all_gather(std::span<const std::byte> mine, const char* what) override {
    const std::string text(reinterpret_cast<const char*>(mine.data()), mine.size());
    std::vector<std::vector<std::byte>> parts;
    for (const std::string& part : communicator_.all_gather(text, what)) {
      const auto bytes = std::as_bytes(std::span(part.data(), part.size()));
      parts.emplace_back(bytes.begin(), bytes.end());
    }
    return parts;
  }

  void barrier(const char* what) override { communicator_.barrier(what); }

 private:
  const Communicator& communicator_;
};

}  // namespace

std::unique_ptr<Transport> make_local_transport() { return std::make_unique<LocalTransport>(); }
std::unique_ptr<Transport> make_mpi_transport(const Communicator& communicator) { return std::make_unique<MpiTransport>(communicator); }
std::unique_ptr<Transport> make_transport(const Communicator& communicator) {
  return communicator.size() == 1 ? make_local_transport() : make_mpi_transport(communicator);
}

}  // namespace moesweep::comm
