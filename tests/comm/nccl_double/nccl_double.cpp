// See nccl_double.hpp.
#include "nccl_double.hpp"

#include <cuda_runtime_api.h>
#include <fmt/core.h>
#include <mpi.h>
#include <nccl.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <mutex>
#include <numeric>
#include <optional>
#include <thread>

#include "moesweep/comm/nccl.hpp"
#include "moesweep/comm/watchdog.hpp"

namespace moesweep::comm::nccl_double {
namespace {

struct Stream;

/// What an event stands for; the handle and the stream share it.
struct EventState {
  bool recorded = false, done = false;
};

/// Everything is reached under one lock: the transport's watching thread looks at events and states. Work moves on by the main thread alone.
struct World {
  std::recursive_mutex mutex;
  std::thread::id main = std::this_thread::get_id();
  std::vector<std::unique_ptr<Stream>> streams;
  std::vector<ncclComm_t> communicators;
  int group_depth = 0;
  std::vector<ncclComm_t> grouped;  ///< communicators with calls in the open group
  MPI_Comm prepared = MPI_COMM_NULL;
  int prepared_rank = 0;
  long long operations = 0;
  Fault fault = Fault::none;
  long long fault_at = 0;
  bool environment_read = false;
  bool collecting = false;
  std::vector<std::string> violations;
  int device = 0, devices = 8;
  Traffic traffic;
};

World& world() {
  static World* const instance = new World;
  return *instance;
}

using Lock = std::lock_guard<std::recursive_mutex>;
thread_local cudaError_t last_cuda_error = cudaSuccess;

ncclResult_t violation(const std::string& text) {
  World& w = world();
  if (!w.collecting) {
    std::fprintf(stderr, "nccl_double: %s\n", text.c_str());
    std::fflush(stderr);
    std::abort();
  }
  w.violations.push_back(text);
  return ncclInvalidUsage;
}

cudaError_t cuda(cudaError_t code) {
  if (code != cudaSuccess) last_cuda_error = code;
  return code;
}

/// NaN in every floating type, and never a size or an index.
constexpr int kGarbage = 0xFF;

bool is_garbage(const std::byte* data, std::size_t bytes) {
  return std::all_of(data, data + bytes, [](std::byte b) { return b == static_cast<std::byte>(kGarbage); });
}

std::uint64_t fingerprint(const void* data, std::size_t bytes) {
  std::uint64_t value = 0xcbf29ce484222325ULL;
  const auto* at = static_cast<const std::byte*>(data);
  const auto mix = [&](std::uint64_t word) { value = (value ^ word) * 0x100000001b3ULL + (value >> 29); };
  for (; bytes >= sizeof(std::uint64_t); bytes -= sizeof(std::uint64_t), at += sizeof(std::uint64_t)) {
    std::uint64_t word = 0;
    std::memcpy(&word, at, sizeof word);
    mix(word);
  }
  for (; bytes > 0; --bytes, ++at) mix(static_cast<std::uint64_t>(*at));
  return value;
}

/// Work on a stream.
struct Operation {
  virtual ~Operation() = default;
  /// It has come to the stream's head.
  virtual void begin() {}
  /// One poll; true when it is done.
  virtual bool advance() = 0;
  /// Takes no time once its turn has come.
  virtual bool instant() const { return false; }
  virtual ncclComm_t communicator() const { return nullptr; }
};

struct Stream {
  struct Entry {
    std::unique_ptr<Operation> operation;
    bool begun = false;
  };
  std::deque<Entry> queue;

  void push(std::unique_ptr<Operation> operation) {
    queue.push_back({std::move(operation)});
    begin_head();
  }
  void begin_head() {
    while (!queue.empty() && queue.front().operation->instant()) {
      queue.front().operation->advance();
      queue.pop_front();
    }
    if (queue.empty() || queue.front().begun) return;
    queue.front().begun = true;
    queue.front().operation->begin();
  }
  void advance() {
    while (!queue.empty() && queue.front().operation->advance()) {
      queue.pop_front();
      begin_head();
    }
  }
};

Stream& stream_of(cudaStream_t handle) {
  World& w = world();
  if (w.streams.empty()) w.streams.push_back(std::make_unique<Stream>());
  if (handle == nullptr) return *w.streams.front();
  return *reinterpret_cast<Stream*>(handle);
}

Stream& other_stream_of_process() {
  static Stream* const other = [] {
    const Lock lock(world().mutex);
    stream_of(nullptr);
    return world().streams.emplace_back(std::make_unique<Stream>()).get();
  }();
  return *other;
}

bool on_main_thread() { return std::this_thread::get_id() == world().main; }

/// One poll of the host: everything moves on a little.
void advance_all() {
  if (!on_main_thread()) return;
  for (std::size_t i = 0; i < world().streams.size(); ++i) world().streams[i]->advance();
}

/// Messages of one operation.
struct Messages {
  std::vector<MPI_Request> requests;
  static constexpr std::size_t kPiece = 1U << 30;

  void send(MPI_Comm comm, const void* data, std::size_t bytes, int to, int tag) {
    for (std::size_t first = 0; first < bytes; first += kPiece) {
      requests.push_back(MPI_REQUEST_NULL);
      check(MPI_Isend(static_cast<const std::byte*>(data) + first, static_cast<int>(std::min(kPiece, bytes - first)), MPI_BYTE, to, tag, comm,
                      &requests.back()),
            "MPI_Isend");
    }
  }
  void receive(MPI_Comm comm, void* data, std::size_t bytes, int from, int tag) {
    for (std::size_t first = 0; first < bytes; first += kPiece) {
      requests.push_back(MPI_REQUEST_NULL);
      check(MPI_Irecv(static_cast<std::byte*>(data) + first, static_cast<int>(std::min(kPiece, bytes - first)), MPI_BYTE, from, tag, comm,
                      &requests.back()),
            "MPI_Irecv");
    }
  }
  bool done() {
    int flag = 1;
    check(MPI_Testall(static_cast<int>(requests.size()), requests.data(), &flag, MPI_STATUSES_IGNORE), "MPI_Testall");
    if (flag != 0) requests.clear();
    return flag != 0;
  }
};

enum Tag : int { kHeader = 1, kPayload = 2, kResult = 3 };

/// What a rank says of a message before it.
struct Header {
  std::int64_t kind = 0;  ///< 0 a message, 1 a sum
  std::int64_t count = 0, type = 0, number = 0;
  bool operator==(const Header&) const = default;
};

std::string in_words(const Header& header) {
  return fmt::format("{} of {} elements of type {}, the {}-th", header.kind == 0 ? "a message" : "a sum", header.count, header.type,
                     header.number + 1);
}

std::size_t bytes_of(ncclDataType_t type) {
  switch (type) {
    case ncclUint8: return 1;
    case ncclInt32:
    case ncclFloat32: return 4;
    case ncclInt64:
    case ncclFloat64: return 8;
  }
  return 0;
}

}  // namespace
}  // namespace moesweep::comm::nccl_double

using moesweep::comm::check;                  // what follows is the C interface
using namespace moesweep::comm::nccl_double;  // NOLINT: of this same file

/// A call to be carried out by an operation: one message of a group.
struct Message {
  void* data;
  std::size_t count;
  ncclDataType_t type;
  int peer;
  std::size_t bytes() const { return count * bytes_of(type); }
};

struct ncclComm {
  MPI_Comm mpi = MPI_COMM_NULL;
  int rank = 0, size = 1;
  ncclResult_t state = ncclSuccess;
  int polls_left = 0;            ///< until the call in progress has settled; below zero never
  std::function<void()> settle;  ///< what it then comes to
  std::string last_error;
  bool finalized = false;
  std::int64_t issued = 0, completed = 0;          ///< operations on streams
  std::vector<std::int64_t> sent, received, sums;  ///< messages with each rank so far; sums has one element
  std::vector<Message> group_sends, group_receives;
  std::optional<cudaStream_t> group_stream;

  void fail(ncclResult_t code, std::string text) {
    state = code;
    last_error = std::move(text);
  }
};

namespace moesweep::comm::nccl_double {
namespace {

/// An operation that waits for its turn on its communicator, and then some polls more.
struct CommOperation : Operation {
  explicit CommOperation(ncclComm_t of) : comm(of), ticket(of->issued++) {
    // Different on each rank and for each operation, so that no order of completion can be relied on.
    patience = 1 + static_cast<int>((ticket * 7 + of->rank * 3) % 4);
    number = ++world().operations;
  }
  ncclComm_t communicator() const final { return comm; }
  bool advance() final {
    if (comm->completed != ticket || comm->state == ncclRemoteError) return false;
    const Fault fault = world().fault_at == number ? world().fault : Fault::none;
    if (fault == Fault::hang) return false;
    if (fault == Fault::async_error) {
      comm->fail(ncclRemoteError, "an error on demand");
      return false;
    }
    if (patience-- > 0) return false;
    patience = 0;
    if (!carry_out()) return false;
    ++comm->completed;
    return true;
  }
  virtual bool carry_out() = 0;

  ncclComm_t comm;
  std::int64_t ticket;
  long long number;
  int patience;
};

struct Exchange final : CommOperation {
  Exchange(ncclComm_t of, std::vector<Message> sends_, std::vector<Message> receives_)
      : CommOperation(of), sends(std::move(sends_)), receives(std::move(receives_)) {
    for (const Message& m : sends)
      send_headers.push_back({0, static_cast<std::int64_t>(m.count), m.type, of->sent[static_cast<std::size_t>(m.peer)]++});
    for (const Message& m : receives)
      expected.push_back({0, static_cast<std::int64_t>(m.count), m.type, of->received[static_cast<std::size_t>(m.peer)]++});
  }
  void begin() override {
    for (const Message& m : sends) prints.push_back(fingerprint(m.data, m.bytes()));
    for (const Message& m : receives) std::memset(m.data, kGarbage, m.bytes());
  }
  bool carry_out() override {
    if (stage == 0) {
      for (std::size_t i = 0; i < sends.size(); ++i) {
        const Message& m = sends[i];
        out.send(comm->mpi, &send_headers[i], sizeof(Header), m.peer, kHeader);
        out.send(comm->mpi, m.data, m.bytes(), m.peer, kPayload);
      }
      headers.resize(receives.size());
      for (std::size_t i = 0; i < receives.size(); ++i) in.receive(comm->mpi, &headers[i], sizeof(Header), receives[i].peer, kHeader);
      stage = 1;
    }
    if (stage == 1) {
      if (!in.done()) return false;
      for (std::size_t i = 0; i < receives.size(); ++i)
        if (headers[i] != expected[i]) {
          comm->fail(ncclRemoteError,
                     fmt::format("rank {} sends {}; expected was {}", receives[i].peer, in_words(headers[i]), in_words(expected[i])));
          return false;
        }
      for (const Message& m : receives) {
        arrived.emplace_back(m.bytes());
        in.receive(comm->mpi, arrived.back().data(), m.bytes(), m.peer, kPayload);
      }
      stage = 2;
    }
    if (!in.done() || !out.done()) return false;
    for (std::size_t i = 0; i < sends.size(); ++i)
      if (fingerprint(sends[i].data, sends[i].bytes()) != prints[i]) violation("what is sent was changed while its exchange was under way");
    for (std::size_t i = 0; i < receives.size(); ++i) {
      auto* to = static_cast<std::byte*>(receives[i].data);
      if (!is_garbage(to, receives[i].bytes())) violation("a receive buffer was written to while its exchange was under way");
      std::memcpy(to, arrived[i].data(), receives[i].bytes());
    }
    return true;
  }

  std::vector<Message> sends, receives;
  std::vector<Header> send_headers, expected, headers;
  std::vector<std::uint64_t> prints;
  std::vector<std::vector<std::byte>> arrived;
  Messages in, out;
  int stage = 0;
};

template <typename T>
void add(std::byte* to, const std::byte* from, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) {
    T a{}, b{};
    std::memcpy(&a, to + i * sizeof(T), sizeof(T));
    std::memcpy(&b, from + i * sizeof(T), sizeof(T));
    a += b;
    std::memcpy(to + i * sizeof(T), &a, sizeof(T));
  }
}

/// Rank 0 adds in the order of ranks and sends the sum back.
struct Sum final : CommOperation {
  Sum(ncclComm_t of, void* in_and_out, std::size_t n, ncclDataType_t of_type)
      : CommOperation(of), data(static_cast<std::byte*>(in_and_out)), count(n), type(of_type), bytes(n * bytes_of(of_type)) {
    mine = {1, static_cast<std::int64_t>(n), of_type, of->sums[0]++};
  }
  void begin() override {
    sum.assign(data, data + bytes);
    std::memset(data, kGarbage, bytes);
  }
  bool carry_out() override {
    const int others = comm->rank == 0 ? comm->size - 1 : 0;
    if (stage == 0) {
      if (comm->rank > 0) {
        messages.send(comm->mpi, &mine, sizeof mine, 0, kHeader);
        messages.send(comm->mpi, sum.data(), bytes, 0, kPayload);
        result.resize(bytes);
        messages.receive(comm->mpi, result.data(), bytes, 0, kResult);
      }
      headers.resize(static_cast<std::size_t>(others));
      for (int r = 1; r <= others; ++r) messages.receive(comm->mpi, &headers[static_cast<std::size_t>(r - 1)], sizeof mine, r, kHeader);
      stage = 1;
    }
    if (!messages.done()) return false;
    if (stage == 1) {
      for (int r = 1; r <= others; ++r)
        if (const Header& header = headers[static_cast<std::size_t>(r - 1)]; header != mine) {
          comm->fail(ncclRemoteError, fmt::format("rank {} comes with {}; this rank with {}", r, in_words(header), in_words(mine)));
          return false;
        }
      for (int r = 1; r <= others; ++r) {
        theirs.emplace_back(bytes);
        messages.receive(comm->mpi, theirs.back().data(), bytes, r, kPayload);
      }
      stage = 2;
      if (!messages.done()) return false;
    }
    if (stage == 2) {
      for (const auto& other : theirs) switch (type) {
          case ncclFloat64: add<double>(sum.data(), other.data(), count); break;
          case ncclFloat32: add<float>(sum.data(), other.data(), count); break;
          case ncclInt64: add<std::int64_t>(sum.data(), other.data(), count); break;
          case ncclInt32: add<std::int32_t>(sum.data(), other.data(), count); break;
          case ncclUint8: violation("a sum of bytes"); break;
        }
      if (comm->rank == 0) result = sum;
      for (int r = 1; r <= others; ++r) messages.send(comm->mpi, result.data(), bytes, r, kResult);
      stage = 3;
      if (!messages.done()) return false;
    }
    if (!is_garbage(data, bytes)) violation("a buffer was written to while its sum was under way");
    std::memcpy(data, result.data(), bytes);
    return true;
  }

  std::byte* data;
  std::size_t count;
  ncclDataType_t type;
  std::size_t bytes;
  Header mine;
  std::vector<std::byte> sum, result;
  std::vector<Header> headers;
  std::vector<std::vector<std::byte>> theirs;
  Messages messages;
  int stage = 0;
};

struct Copy final : Operation {
  Copy(void* to_, const void* from_, std::size_t bytes_) : to(static_cast<std::byte*>(to_)), from(from_), bytes(bytes_) {}
  void begin() override {
    print = fingerprint(from, bytes);
    std::memset(to, kGarbage, bytes);
  }
  bool advance() override {
    if (patience-- > 0) return false;
    if (fingerprint(from, bytes) != print) violation("the source of a copy was changed while it was under way");
    if (!is_garbage(to, bytes)) violation("the target of a copy was written to while it was under way");
    std::memcpy(to, from, bytes);
    return true;
  }
  std::byte* to;
  const void* from;
  std::size_t bytes;
  std::uint64_t print = 0;
  int patience = 2;
};

struct Record final : Operation {
  explicit Record(std::shared_ptr<EventState> of) : event(std::move(of)) {}
  bool advance() override { return event->done = true; }
  bool instant() const override { return true; }
  std::shared_ptr<EventState> event;
};

constexpr int kNever = -1;

/// A call that a non-blocking communicator takes: done at once now and then, else in progress for some polls, and on its stream only behind them.
ncclResult_t take(ncclComm_t comm, std::function<void()> settle) {
  World& w = world();
  const long long number = w.operations + 1;
  const Fault fault = w.fault_at == number ? w.fault : Fault::none;
  if (fault == Fault::call_error) {
    ++w.operations;
    comm->last_error = "an error on demand";
    return ncclInvalidArgument;
  }
  if (fault == Fault::none && comm->issued % 3 == 2) {
    settle();
    return ncclSuccess;
  }
  comm->state = ncclInProgress;
  comm->polls_left = fault == Fault::call_hang ? kNever : 3;
  comm->settle = std::move(settle);
  return ncclInProgress;
}

/// The rules for any call that gives work to a communicator; empty when they are kept.
std::string forbidden(ncclComm_t comm, const char* call) {
  World& w = world();
  if (std::ranges::find(w.communicators, comm) == w.communicators.end()) return fmt::format("{} of a communicator that does not live", call);
  if (!on_main_thread()) return fmt::format("{} from another thread than the main one", call);
  if (comm->finalized) return fmt::format("{} after ncclCommFinalize", call);
  if (comm->state == ncclInProgress) return fmt::format("{} while the communicator's last call is in progress", call);
  if (comm->state != ncclSuccess) return fmt::format("{} after an asynchronous error", call);
  return "";
}

/// CUDA calls that would not be ordered behind a call which has not reached its stream.
void forbid_unsettled(const char* call) {
  World& w = world();
  if (!on_main_thread()) return;
  if (w.group_depth > 0) violation(fmt::format("{} in an open group", call));
  for (const auto* comm : w.communicators)
    if (comm->state == ncclInProgress) violation(fmt::format("{} while a call of NCCL is in progress", call));
}

void drop_operations(ncclComm_t comm) {
  for (auto& stream : world().streams) {
    std::deque<Stream::Entry> kept;
    for (auto& entry : stream->queue)
      if (entry.operation->communicator() != comm) kept.push_back(std::move(entry));
      else static_cast<void>(entry.operation.release());  // MPI may still write into what it holds
    stream->queue = std::move(kept);
  }
}

void forget(ncclComm_t comm) {
  World& w = world();
  std::erase(w.communicators, comm);
  std::erase(w.grouped, comm);
  delete comm;
}

void read_environment() {
  World& w = world();
  if (std::exchange(w.environment_read, true)) return;
  const char* text = std::getenv("NCCL_DOUBLE_FAULT");
  if (text == nullptr) return;
  constexpr std::array kNames{"none", "init_error", "init_later_error", "init_hang", "call_error", "call_hang", "async_error", "hang"};
  int wanted = -1, operation = 1, mine = 0;
  std::array<char, 32> name{};
  if (std::sscanf(text, "%d:%31[a-z_]:%d", &wanted, name.data(), &operation) < 2) violation("NCCL_DOUBLE_FAULT is RANK:NAME:OPERATION");
  check(MPI_Comm_rank(MPI_COMM_WORLD, &mine), "MPI_Comm_rank");
  const auto at = std::ranges::find(kNames, std::string(name.data()));
  if (at == kNames.end()) violation(fmt::format("NCCL_DOUBLE_FAULT names no fault: {}", name.data()));
  if (mine == wanted) set_fault(static_cast<Fault>(at - kNames.begin()), operation);
}

}  // namespace

void prepare(const Communicator& communicator) {
  World& w = world();
  const Lock lock(w.mutex);
  w.main = std::this_thread::get_id();
  read_environment();
  const watchdog::Guard guard("preparation of the NCCL double");
  check(MPI_Comm_dup(communicator.native(), &w.prepared), "MPI_Comm_dup");
}

std::unique_ptr<Transport> make_transport(const Communicator& communicator) {
  prepare(communicator);
  NcclOptions options;
  options.host_reads_results = true;
  return make_nccl_transport(communicator, options);
}

std::unique_ptr<Transport> make_stream_ordered_transport(const Communicator& communicator, bool on_other_stream) {
  prepare(communicator);
  NcclOptions options;
  if (on_other_stream) options.stream = []() -> void* { return &other_stream_of_process(); };
  return make_nccl_transport(communicator, options);
}

bool is_idle(bool other_stream) {
  const Lock lock(world().mutex);
  return (other_stream ? other_stream_of_process() : stream_of(nullptr)).queue.empty();
}

void synchronise() {
  World& w = world();
  forbid_unsettled("a copy to the host");
  for (bool idle = false; !idle; std::this_thread::yield()) {
    const Lock lock(w.mutex);
    advance_all();
    idle = std::ranges::all_of(w.streams, [](const auto& stream) { return stream->queue.empty(); });
  }
}

void set_fault(Fault fault, int operation) {
  World& w = world();
  const Lock lock(w.mutex);
  w.fault = fault;
  w.fault_at = fault == Fault::none ? 0 : w.operations + operation;
}

void set_device_count(int count) { world().devices = count; }
void collect_violations() { world().collecting = true; }
std::vector<std::string> take_violations() { return std::exchange(world().violations, {}); }
Traffic traffic() { return world().traffic; }

}  // namespace moesweep::comm::nccl_double

// NCCL.

ncclResult_t ncclGetVersion(int* version) {
  *version = NCCL_VERSION_CODE;
  return ncclSuccess;
}

const char* ncclGetErrorString(ncclResult_t result) {
  switch (result) {
    case ncclSuccess: return "no error";
    case ncclUnhandledCudaError: return "unhandled cuda error";
    case ncclSystemError: return "unhandled system error";
    case ncclInternalError: return "internal error";
    case ncclInvalidArgument: return "invalid argument";
    case ncclInvalidUsage: return "invalid usage";
    case ncclRemoteError: return "remote process exited or there was a network error";
    case ncclInProgress: return "NCCL operation in progress";
  }
  return "unknown result code";
}

const char* ncclGetLastError(ncclComm_t comm) {
  const Lock lock(world().mutex);
  return comm == nullptr ? "" : comm->last_error.c_str();
}

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  static int number = 0;
  const Lock lock(world().mutex);
  std::memset(id->internal, 0, sizeof id->internal);
  std::snprintf(id->internal, sizeof id->internal, "the double's id %d", number++);
  return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int ranks, ncclUniqueId id, int rank, ncclConfig_t* config) {
  World& w = world();
  const Lock lock(w.mutex);
  *comm = nullptr;
  if (config->size != sizeof(ncclConfig_t) || config->magic != 0xcafebeef) return violation("the config was not initialised");
  if (config->blocking != 0) return violation("a blocking communicator");
  const MPI_Comm mpi = std::exchange(w.prepared, MPI_COMM_NULL);
  if (mpi == MPI_COMM_NULL) return violation("an initialisation that was not prepared (nccl_double::prepare)");
  if (w.fault == Fault::init_error) return ncclSystemError;
  auto* made = new ncclComm;
  made->mpi = mpi;
  check(MPI_Comm_rank(mpi, &made->rank), "MPI_Comm_rank");
  check(MPI_Comm_size(mpi, &made->size), "MPI_Comm_size");
  if (made->rank != rank || made->size != ranks) return violation("rank and size are not those of the communicator");
  made->sent.resize(static_cast<std::size_t>(ranks));
  made->received.resize(static_cast<std::size_t>(ranks));
  made->sums.resize(1);
  made->state = ncclInProgress;
  // All ranks must come, with the id of rank 0.
  struct Meeting {
    ncclUniqueId id{}, root{};
    MPI_Request request = MPI_REQUEST_NULL;
  };
  auto meeting = std::make_shared<Meeting>();
  meeting->id = meeting->root = id;
  check(MPI_Ibcast(meeting->root.internal, sizeof id.internal, MPI_BYTE, 0, mpi, &meeting->request), "MPI_Ibcast");
  made->polls_left = w.fault == Fault::init_hang ? kNever : 5;
  const bool fails = w.fault == Fault::init_later_error;
  made->settle = [made, meeting, fails] {
    int met = 0;
    check(MPI_Test(&meeting->request, &met, MPI_STATUS_IGNORE), "MPI_Test");
    if (met == 0) {
      made->state = ncclInProgress;  // and once more at the next poll
      return;
    }
    made->settle = nullptr;
    if (fails) made->fail(ncclSystemError, "an error on demand");
    if (std::memcmp(meeting->id.internal, meeting->root.internal, sizeof meeting->id.internal) != 0) violation("ranks with different unique ids");
  };
  w.communicators.push_back(made);
  *comm = made;
  return ncclInProgress;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* state) {
  World& w = world();
  const Lock lock(w.mutex);
  if (std::ranges::find(w.communicators, comm) == w.communicators.end())
    return violation("ncclCommGetAsyncError of a communicator that does not live");
  if (on_main_thread()) {
    if (w.group_depth > 0) return violation("ncclCommGetAsyncError in an open group");
    if (comm->state == ncclInProgress && comm->polls_left >= 0 && comm->polls_left-- == 0) {
      comm->polls_left = 0;
      comm->state = ncclSuccess;
      const auto settle = comm->settle;
      if (settle) settle();
    }
  }
  *state = comm->state;
  return ncclSuccess;
}

ncclResult_t ncclCommFinalize(ncclComm_t comm) {
  World& w = world();
  const Lock lock(w.mutex);
  if (const std::string why = forbidden(comm, "ncclCommFinalize"); !why.empty()) return violation(why);
  if (w.group_depth > 0) return violation("ncclCommFinalize in an open group");
  comm->finalized = true;
  comm->state = ncclInProgress;
  comm->polls_left = 2;
  comm->settle = [comm] {
    advance_all();
    if (comm->state == ncclSuccess && comm->completed != comm->issued) comm->state = ncclInProgress;
  };
  return ncclInProgress;
}

ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  World& w = world();
  const Lock lock(w.mutex);
  if (std::ranges::find(w.communicators, comm) == w.communicators.end()) return violation("ncclCommDestroy of a communicator that does not live");
  if (!comm->finalized || comm->state != ncclSuccess) return violation("ncclCommDestroy before ncclCommFinalize is done");
  check(MPI_Comm_free(&comm->mpi), "MPI_Comm_free");
  forget(comm);
  return ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t comm) {
  World& w = world();
  const Lock lock(w.mutex);
  if (std::ranges::find(w.communicators, comm) == w.communicators.end()) return violation("ncclCommAbort of a communicator that does not live");
  drop_operations(comm);
  forget(comm);
  return ncclSuccess;
}

ncclResult_t ncclGroupStart() {
  const Lock lock(world().mutex);
  ++world().group_depth;
  return ncclSuccess;
}

ncclResult_t ncclGroupEnd() {
  World& w = world();
  const Lock lock(w.mutex);
  if (w.group_depth == 0) return violation("ncclGroupEnd without ncclGroupStart");
  if (--w.group_depth > 0) return ncclSuccess;
  ncclResult_t result = ncclSuccess;
  for (ncclComm_t comm : std::exchange(w.grouped, {})) {
    auto sends = std::exchange(comm->group_sends, {}), receives = std::exchange(comm->group_receives, {});
    const cudaStream_t on = *std::exchange(comm->group_stream, std::nullopt);
    ++w.traffic.groups;
    for (const Message& m : sends) w.traffic.sent_bytes += static_cast<long long>(m.bytes());
    const ncclResult_t code = take(comm, [=] { stream_of(on).push(std::make_unique<Exchange>(comm, sends, receives)); });
    if (result == ncclSuccess || code != ncclInProgress) result = code;
  }
  return result;
}

namespace {
ncclResult_t into_group(bool sends, void* data, std::size_t count, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t stream) {
  World& w = world();
  const Lock lock(w.mutex);
  const char* call = sends ? "ncclSend" : "ncclRecv";
  if (const std::string why = forbidden(comm, call); !why.empty()) return violation(why);
  if (w.group_depth == 0) return violation(fmt::format("{} outside of a group", call));
  if (peer < 0 || peer >= comm->size) return ncclInvalidArgument;
  if (peer == comm->rank) return violation(fmt::format("{} with the rank itself", call));
  if (count == 0 || data == nullptr) return violation(fmt::format("{} of nothing", call));
  if (comm->group_stream.value_or(stream) != stream) return violation("a group on two streams");
  if (std::ranges::find(w.grouped, comm) == w.grouped.end()) w.grouped.push_back(comm);
  comm->group_stream = stream;
  (sends ? comm->group_sends : comm->group_receives).push_back({data, count, type, peer});
  return ncclSuccess;
}
}  // namespace

ncclResult_t ncclSend(const void* data, std::size_t count, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t stream) {
  return into_group(true, const_cast<void*>(data), count, type, peer, comm, stream);
}

ncclResult_t ncclRecv(void* data, std::size_t count, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t stream) {
  return into_group(false, data, count, type, peer, comm, stream);
}

ncclResult_t ncclAllReduce(const void* from, void* to, std::size_t count, ncclDataType_t type, ncclRedOp_t operation, ncclComm_t comm,
                           cudaStream_t stream) {
  World& w = world();
  const Lock lock(w.mutex);
  if (const std::string why = forbidden(comm, "ncclAllReduce"); !why.empty()) return violation(why);
  if (w.group_depth > 0) return violation("ncclAllReduce in a group");
  if (from != to || operation != ncclSum) return violation("a reduction other than a sum in place");
  if (count == 0 || to == nullptr) return violation("a sum of nothing");
  ++w.traffic.sums;
  return take(comm, [=] { stream_of(stream).push(std::make_unique<Sum>(comm, to, count, type)); });
}

// CUDA.

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "no error";
    case cudaErrorInvalidValue: return "invalid argument";
    case cudaErrorNoDevice: return "no CUDA-capable device is detected";
    case cudaErrorInvalidDevice: return "invalid device ordinal";
    case cudaErrorNotReady: return "device not ready";
  }
  return "unrecognized error code";
}

cudaError_t cudaGetLastError() { return std::exchange(last_cuda_error, cudaSuccess); }

cudaError_t cudaGetDeviceCount(int* count) {
  *count = world().devices;
  return cuda(*count > 0 ? cudaSuccess : cudaErrorNoDevice);
}

cudaError_t cudaGetDevice(int* device) {
  *device = world().device;
  return cuda(world().devices > 0 ? cudaSuccess : cudaErrorNoDevice);
}

cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= world().devices) return cuda(cudaErrorInvalidDevice);
  if (on_main_thread()) world().device = device;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (device < 0 || device >= world().devices) return cuda(cudaErrorInvalidDevice);
  *properties = {};
  std::snprintf(properties->name, sizeof properties->name, "double of a GPU");
  properties->totalGlobalMem = std::size_t{1} << 30;
  properties->major = 9;
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  World& w = world();
  const Lock lock(w.mutex);
  forbid_unsettled("cudaMemcpyAsync");
  const auto *a = static_cast<const std::byte*>(to), *b = static_cast<const std::byte*>(from);
  if (kind != cudaMemcpyDeviceToDevice || (a < b + bytes && b < a + bytes)) return cuda(cudaErrorInvalidValue);
  stream_of(stream).push(std::make_unique<Copy>(to, from, bytes));
  return cudaSuccess;
}

cudaError_t cudaStreamQuery(cudaStream_t stream) {
  World& w = world();
  const Lock lock(w.mutex);
  forbid_unsettled("cudaStreamQuery");
  advance_all();
  return cuda(stream_of(stream).queue.empty() ? cudaSuccess : cudaErrorNotReady);
}

struct CUevent_st {
  std::shared_ptr<EventState> state = std::make_shared<EventState>();
};

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  if (flags != cudaEventDisableTiming) return cuda(cudaErrorInvalidValue);
  *event = new CUevent_st;
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  World& w = world();
  const Lock lock(w.mutex);
  forbid_unsettled("cudaEventRecord");
  if (std::exchange(event->state->recorded, true)) violation("an event recorded twice");
  stream_of(stream).push(std::make_unique<Record>(event->state));
  return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  World& w = world();
  const Lock lock(w.mutex);
  forbid_unsettled("cudaEventQuery");
  if (!event->state->recorded) violation("a query of an event that was not recorded");
  advance_all();
  return cuda(event->state->done ? cudaSuccess : cudaErrorNotReady);
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  const Lock lock(world().mutex);
  delete event;
  return cudaSuccess;
}
