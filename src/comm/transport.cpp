// See include/moesweep/comm/transport.hpp.
#include "moesweep/comm/transport.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <cstring>

#include "moesweep/comm/mpi.hpp"
#include "moesweep/comm/watchdog.hpp"
#include "moesweep/core/error.hpp"

namespace moesweep::comm {

double Transport::all_reduce_sum(double value, const char* what) {
  host().all_reduce_sum(&value, 1, DType::f64, what);
  return value;
}

std::int64_t Transport::all_reduce_sum(std::int64_t value, const char* what) {
  host().all_reduce_sum(&value, 1, DType::i64, what);
  return value;
}

std::vector<std::int64_t> Transport::exchange_counts(std::span<const std::int64_t> counts, const char* what) {
  const auto ranks = static_cast<std::size_t>(size()), each = counts.size() / ranks;
  MOESWEEP_ASSERT(each * ranks == counts.size(), "as many counts for each rank");
  std::vector<std::int64_t> mine(counts.begin(), counts.end()), theirs(counts.size());
  std::vector<Part> send, receive;
  for (std::size_t r = 0; r < ranks; ++r) {
    send.push_back({mine.data() + r * each, each * sizeof(std::int64_t)});
    receive.push_back({theirs.data() + r * each, each * sizeof(std::int64_t)});
  }
  host().start_exchange(send, receive, what).wait();
  return theirs;
}

namespace {

/// The part of an exchange that stays on its rank.
void copy_own(const Part& from, const Part& to, const char* what) {
  if (from.bytes != to.bytes) throw Error(ErrorKind::mpi, fmt::format("{}: a rank sends itself {} bytes and expects {}", what, from.bytes, to.bytes));
  if (from.bytes > 0 && from.data != to.data) std::memcpy(to.data, from.data, from.bytes);
}

class LocalTransport final : public Transport {
 public:
  using Transport::all_reduce_sum;
  int rank() const override { return 0; }
  int size() const override { return 1; }
  void all_reduce_sum(void*, std::size_t, DType, const char*) override {}
  Pending start_all_reduce_sum(void*, std::size_t, DType, const char*) override { return {}; }
  Pending start_exchange(std::span<const Part> send, std::span<const Part> receive, const char* what) override {
    copy_own(send[0], receive[0], what);
    return {};
  }
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

/// Messages in both directions. Between two ranks they keep their order, so exchanges started one after the other do not mix.
struct PendingExchange final : Pending::Impl {
  struct Expected {
    int rank;
    std::size_t bytes;
  };
  std::vector<MPI_Request> requests;  ///< those of `expected` first
  std::vector<Expected> expected;
  const char* what = nullptr;

  void wait() override {
    const watchdog::Guard guard(what);
    std::vector<MPI_Status> statuses(requests.size());
    const int code = MPI_Waitall(static_cast<int>(requests.size()), requests.data(), statuses.data());
    for (std::size_t i = 0; i < expected.size(); ++i) {
      int bytes = 0;
      if (code == MPI_SUCCESS || statuses[i].MPI_ERROR == MPI_SUCCESS) MPI_Get_count(&statuses[i], MPI_BYTE, &bytes);
      if (code != MPI_SUCCESS ? statuses[i].MPI_ERROR == MPI_ERR_TRUNCATE : static_cast<std::size_t>(bytes) != expected[i].bytes)
        throw Error(ErrorKind::mpi,
                    fmt::format("{}: rank {} did not send the {} bytes that this rank expects", what, expected[i].rank, expected[i].bytes));
    }
    check(code, "MPI_Waitall");
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

  Pending start_exchange(std::span<const Part> send, std::span<const Part> receive, const char* what) override {
    constexpr int kTag = 1;
    const auto ranks = static_cast<std::size_t>(size()), me = static_cast<std::size_t>(rank());
    MOESWEEP_ASSERT(send.size() == ranks && receive.size() == ranks, "an exchange has a part for each rank");
    const watchdog::Guard guard(what);
    auto pending = std::make_unique<PendingExchange>();
    pending->what = what;
    const auto in_pieces = [](const Part& part, auto&& piece) {
      for (std::size_t first = 0; first < part.bytes; first += kLargestCount)
        piece(static_cast<std::byte*>(part.data) + first, std::min(kLargestCount, part.bytes - first));
    };
    // Each rank begins with its neighbour, so that not all of them write to the same one at once.
    for (std::size_t i = 1; i < ranks; ++i) {
      const auto from = static_cast<int>((me + ranks - i) % ranks);
      in_pieces(receive[static_cast<std::size_t>(from)], [&](std::byte* data, std::size_t bytes) {
        pending->expected.push_back({from, bytes});
        pending->requests.push_back(MPI_REQUEST_NULL);
        check(MPI_Irecv(data, static_cast<int>(bytes), MPI_BYTE, from, kTag, communicator_.native(), &pending->requests.back()), "MPI_Irecv");
      });
    }
    for (std::size_t i = 1; i < ranks; ++i) {
      const auto to = static_cast<int>((me + i) % ranks);
      in_pieces(send[static_cast<std::size_t>(to)], [&](std::byte* data, std::size_t bytes) {
        pending->requests.push_back(MPI_REQUEST_NULL);
        check(MPI_Isend(data, static_cast<int>(bytes), MPI_BYTE, to, kTag, communicator_.native(), &pending->requests.back()), "MPI_Isend");
      });
    }
    copy_own(send[me], receive[me], what);
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
