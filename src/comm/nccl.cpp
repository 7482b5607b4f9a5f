// See include/moesweep/comm/nccl.hpp. The tests compile this file a second time, against a double of the calls that it uses
// (tests/comm/nccl_double): a call that is new here must be there too.
#include "moesweep/comm/nccl.hpp"

#include <cuda_runtime_api.h>
#include <fmt/core.h>
#include <nccl.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>

#include "moesweep/comm/watchdog.hpp"
#include "moesweep/core/error.hpp"

namespace moesweep::comm {

namespace {

using Clock = std::chrono::steady_clock;

/// The collectives that begin and end a transport, as messages name them.
constexpr const char* kStart = "start of NCCL";
constexpr const char* kEnd = "end of NCCL";
/// This file watches its deadlines by itself; the watchdog's thread comes later, in case a call of NCCL does not return.
constexpr double kGraceSeconds = 5.0;

void check_cuda(cudaError_t code, const char* call, const char* what) {
  if (code != cudaSuccess) throw Error(ErrorKind::mpi, fmt::format("{} failed in the collective '{}': {}", call, what, cudaGetErrorString(code)));
}

/// A result of NCCL in words, with what NCCL last said.
std::string reason(ncclResult_t code, ncclComm_t comm) {
  const char* last = ncclGetLastError(comm);
  const std::string text = ncclGetErrorString(code);
  return last == nullptr || *last == '\0' ? text : text + " (" + last + ")";
}

[[noreturn]] void refused(ncclResult_t code, const char* call, const char* what, ncclComm_t comm) {
  throw Error(ErrorKind::mpi, fmt::format("{} failed in the collective '{}': {}", call, what, reason(code, comm)));
}

ncclDataType_t nccl_type(DType type) {
  switch (type) {
    case DType::f64: return ncclFloat64;
    case DType::f32: return ncclFloat32;
    case DType::i64: return ncclInt64;
    case DType::i32: return ncclInt32;
    default: throw Error(ErrorKind::internal, "sums travel as f64, f32, i64 or i32, not as " + std::string(name_of(type)));
  }
}

/// False while the device is not there yet. Errors of the device are thrown.
bool is_done(cudaError_t code, const char* call, const char* what) {
  if (code == cudaErrorNotReady) {
    static_cast<void>(cudaGetLastError());  // it is no error, but stands there as the last one
    return false;
  }
  check_cuda(code, call, what);
  return true;
}

/// A collective under way: the event behind it on its stream.
struct Flight {
  cudaEvent_t event = nullptr;
  const char* what = nullptr;
  Clock::time_point since = Clock::now();
  Flight() = default;
  Flight(const Flight&) = delete;
  Flight& operator=(const Flight&) = delete;
  ~Flight() {
    if (event != nullptr) static_cast<void>(cudaEventDestroy(event));
  }
};

class NcclTransport final : public Transport {
 public:
  NcclTransport(const Communicator& communicator, NcclOptions options)
      : communicator_(communicator), options_(std::move(options)), host_(make_transport(communicator)) {
    const watchdog::Guard guard(kStart, kGraceSeconds);
    ncclUniqueId id{};
    communicator.agree(
        [&] {
          check_cuda(cudaGetDevice(&device_), "cudaGetDevice", kStart);
          if (rank() != 0) return;
          if (const ncclResult_t code = ncclGetUniqueId(&id); code != ncclSuccess) refused(code, "ncclGetUniqueId", kStart, nullptr);
        },
        kStart);
    const std::string text = communicator.broadcast(std::string(id.internal, sizeof id.internal), 0, kStart);
    std::memcpy(id.internal, text.data(), sizeof id.internal);
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    const ncclResult_t code = outcome(ncclCommInitRankConfig(&comm_, size(), id, rank(), &config), kStart);
    if (code != ncclSuccess) {
      const std::string why = reason(code, comm_);
      if (comm_ != nullptr) static_cast<void>(ncclCommAbort(comm_));
      throw Error(ErrorKind::mpi, fmt::format("ncclCommInitRankConfig failed in the collective '{}': {}", kStart, why), "",
                  "NCCL_DEBUG=WARN in the environment makes NCCL say more; ranks of one node need a GPU each");
    }
    watcher_ = std::thread([this] { watch(); });
  }

  ~NcclTransport() override {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    changed_.notify_all();
    watcher_.join();
    const watchdog::Guard guard(kEnd, kGraceSeconds);
    if (std::uncaught_exceptions() == 0) {
      ncclResult_t code = outcome(ncclCommFinalize(comm_), kEnd);
      if (code == ncclSuccess) code = ncclCommDestroy(comm_);
      if (code == ncclSuccess) return;
      std::fprintf(stderr, "%s failed: %s\n", kEnd, reason(code, comm_).c_str());
    }
    static_cast<void>(ncclCommAbort(comm_));
  }

  using Transport::all_reduce_sum;
  int rank() const override { return communicator_.rank(); }
  int size() const override { return communicator_.size(); }
  Transport& host() override { return *host_; }

  void all_reduce_sum(void* data, std::size_t count, DType type, const char* what) override { start_all_reduce_sum(data, count, type, what).wait(); }

  Pending start_all_reduce_sum(void* data, std::size_t count, DType type, const char* what) override {
    const ncclDataType_t of = nccl_type(type);
    if (count == 0) return {};
    const watchdog::Guard guard(what, kGraceSeconds);
    const cudaStream_t on = stream();
    issued(ncclAllReduce(data, data, count, of, ncclSum, comm_, on), "ncclAllReduce", what);
    return under_way(on, what);
  }

  Pending start_exchange(std::span<const Part> send, std::span<const Part> receive, const char* what) override {
    const auto ranks = static_cast<std::size_t>(size()), me = static_cast<std::size_t>(rank());
    MOESWEEP_ASSERT(send.size() == ranks && receive.size() == ranks, "an exchange has a part for each rank");
    if (send[me].bytes != receive[me].bytes)
      throw Error(ErrorKind::mpi, fmt::format("{}: a rank sends itself {} bytes and expects {}", what, send[me].bytes, receive[me].bytes));
    const watchdog::Guard guard(what, kGraceSeconds);
    const cudaStream_t on = stream();
    bool any = false, far = false;
    if (send[me].bytes > 0 && send[me].data != receive[me].data) {
      check_cuda(cudaMemcpyAsync(receive[me].data, send[me].data, send[me].bytes, cudaMemcpyDeviceToDevice, on), "cudaMemcpyAsync", what);
      any = true;
    }
    for (std::size_t r = 0; r < ranks; ++r) far = far || (r != me && (send[r].bytes > 0 || receive[r].bytes > 0));
    if (far) exchange_with_others(send, receive, on, what);
    return any || far ? under_way(on, what) : Pending();
  }

  std::vector<std::vector<std::byte>> all_gather(std::span<const std::byte> mine, const char* what) override { return host_->all_gather(mine, what); }

  void barrier(const char* what) override {
    const cudaStream_t on = stream();
    synchronise(what, [&] { return is_done(cudaStreamQuery(on), "cudaStreamQuery", what); });
    host_->barrier(what);
  }

 private:
  struct PendingFlight final : Pending::Impl {
    PendingFlight(NcclTransport& of, std::shared_ptr<const Flight> one) : transport(of), flight(std::move(one)) {}
    void wait() override {
      transport.check_asynchronous(flight->what);
      if (transport.options_.host_reads_results)
        transport.synchronise(flight->what, [&] { return is_done(cudaEventQuery(flight->event), "cudaEventQuery", flight->what); });
    }
    NcclTransport& transport;
    std::shared_ptr<const Flight> flight;
  };

  cudaStream_t stream() const { return options_.stream ? static_cast<cudaStream_t>(options_.stream()) : nullptr; }

  /// Polls until `done`, or ends the process at the deadline.
  template <typename Done>
  void poll(const char* what, Done&& done) {
    constexpr int kEagerRounds = 1000;
    const auto since = Clock::now();
    const double limit_seconds = watchdog::timeout_seconds();
    for (int round = 0; !done(); ++round) {
      if (seconds_since(since) > limit_seconds) end(what, "");
      if (round < kEagerRounds) std::this_thread::yield();
      else std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
  }

  template <typename Done>
  void synchronise(const char* what, Done&& done) {
    const watchdog::Guard guard(what, kGraceSeconds);
    poll(what, [&] {
      check_asynchronous(what);
      return done();
    });
  }

  static double seconds_since(Clock::time_point since) { return std::chrono::duration<double>(Clock::now() - since).count(); }

  /// What a call of a non-blocking communicator came to, which can be known only later.
  ncclResult_t outcome(ncclResult_t returned, const char* what) {
    if (returned != ncclInProgress) return returned;
    ncclResult_t state = ncclInProgress;
    poll(what, [&] {
      if (const ncclResult_t code = ncclCommGetAsyncError(comm_, &state); code != ncclSuccess) state = code;
      return state != ncclInProgress;
    });
    return state;
  }

  /// Throws when NCCL refused the call; ends the process when it took it and failed later.
  void issued(ncclResult_t returned, const char* call, const char* what) {
    if (returned != ncclSuccess && returned != ncclInProgress) refused(returned, call, what, comm_);
    if (const ncclResult_t code = outcome(returned, what); code != ncclSuccess) end(what, call + (": " + reason(code, comm_)));
  }

  void exchange_with_others(std::span<const Part> send, std::span<const Part> receive, cudaStream_t on, const char* what) {
    const auto ranks = static_cast<std::size_t>(size()), me = static_cast<std::size_t>(rank());
    if (const ncclResult_t code = ncclGroupStart(); code != ncclSuccess) refused(code, "ncclGroupStart", what, comm_);
    ncclResult_t failure = ncclSuccess;
    const char* failed = nullptr;
    const auto take = [&](ncclResult_t code, const char* call) {
      if (failed != nullptr || code == ncclSuccess || code == ncclInProgress) return;
      failure = code;
      failed = call;
    };
    // Each rank begins with its neighbour, so that not all of them write to the same one at once.
    for (std::size_t i = 1; i < ranks; ++i) {
      const std::size_t to = (me + i) % ranks, from = (me + ranks - i) % ranks;
      if (send[to].bytes > 0) take(ncclSend(send[to].data, send[to].bytes, ncclUint8, static_cast<int>(to), comm_, on), "ncclSend");
      if (receive[from].bytes > 0) take(ncclRecv(receive[from].data, receive[from].bytes, ncclUint8, static_cast<int>(from), comm_, on), "ncclRecv");
    }
    const ncclResult_t ended = ncclGroupEnd();
    if (failed != nullptr) refused(failure, failed, what, comm_);
    issued(ended, "ncclGroupEnd", what);
  }

  Pending under_way(cudaStream_t on, const char* what) {
    auto flight = std::make_shared<Flight>();
    flight->what = what;
    check_cuda(cudaEventCreateWithFlags(&flight->event, cudaEventDisableTiming), "cudaEventCreateWithFlags", what);
    check_cuda(cudaEventRecord(flight->event, on), "cudaEventRecord", what);
    {
      const std::lock_guard lock(mutex_);
      flights_.push_back(flight);
    }
    return Pending(std::make_unique<PendingFlight>(*this, std::move(flight)));
  }

  /// The error that NCCL reports, in words; empty when there is none.
  std::string asynchronous_error() {
    const std::lock_guard lock(life_);
    if (aborted_) return "";  // the process is ending
    ncclResult_t state = ncclSuccess;
    if (const ncclResult_t code = ncclCommGetAsyncError(comm_, &state); code != ncclSuccess) state = code;
    return state == ncclSuccess || state == ncclInProgress ? "" : "NCCL reports " + reason(state, comm_);
  }

  void check_asynchronous(const char* what) {
    const std::string error = asynchronous_error();
    if (error.empty()) return;
    {
      // It befell the oldest collective that is not done.
      const std::lock_guard lock(mutex_);
      const auto oldest = std::ranges::find_if(flights_, [](const auto& flight) { return cudaEventQuery(flight->event) == cudaErrorNotReady; });
      if (oldest != flights_.end()) what = (*oldest)->what;
    }
    end(what, error);
  }

  [[noreturn]] void end(const char* what, const std::string& failure) {
    watchdog::end_process(what, failure, [this] {
      const std::lock_guard lock(life_);
      aborted_ = true;
      if (comm_ != nullptr) static_cast<void>(ncclCommAbort(comm_));
    });
  }

  /// Watches over the collectives under way from a thread of its own, since the host may wait for the device outside of this file. It looks now and
  /// then: a wake-up for each collective would cost more than a small one does.
  void watch() {
    constexpr auto kInterval = std::chrono::milliseconds(50);
    static_cast<void>(cudaSetDevice(device_));
    std::unique_lock lock(mutex_);
    while (!changed_.wait_for(lock, kInterval, [&] { return stopping_; })) {
      // An error of the device itself is for the host, which finds it at its next call.
      while (!flights_.empty() && cudaEventQuery(flights_.front()->event) != cudaErrorNotReady) flights_.pop_front();
      static_cast<void>(cudaGetLastError());
      if (flights_.empty()) continue;
      const auto oldest = flights_.front();
      lock.unlock();
      const std::string error = asynchronous_error();
      if (!error.empty() || seconds_since(oldest->since) > watchdog::timeout_seconds()) end(oldest->what, error);
      lock.lock();
    }
  }

  std::mutex life_;  ///< of the communicator: nobody asks it anything once it is aborted
  bool aborted_ = false;
  const Communicator& communicator_;
  NcclOptions options_;
  std::unique_ptr<Transport> host_;
  int device_ = 0;
  ncclComm_t comm_ = nullptr;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::shared_ptr<const Flight>> flights_;  ///< oldest first
  bool stopping_ = false;
  std::thread watcher_;
};

std::string version_text(int version) {
  // NCCL counts 2.32.3 as 23203; before 2.9 as 2803.
  const int major = version >= 10000 ? version / 10000 : version / 1000, minor = version >= 10000 ? version / 100 % 100 : version / 100 % 10;
  return fmt::format("{}.{}.{}", major, minor, version % 100);
}

}  // namespace

bool nccl_is_built() { return true; }

std::unique_ptr<Transport> make_nccl_transport(const Communicator& communicator, NcclOptions options) {
  return std::make_unique<NcclTransport>(communicator, std::move(options));
}

int choose_device(const Communicator& world) {
  constexpr const char* kChoice = "choice of a GPU";
  int device = 0;
  world.agree(
      [&] {
        int count = 0;
        const cudaError_t code = cudaGetDeviceCount(&count);
        if (code != cudaSuccess || count == 0)
          throw Error(ErrorKind::config,
                      fmt::format("this process sees no GPU: {}", code != cudaSuccess ? cudaGetErrorString(code) : "CUDA counts none"), "",
                      "ask Slurm for GPUs (--gres=gpu:N), check nvidia-smi and CUDA_VISIBLE_DEVICES, or compute on the CPU");
        device = count;
      },
      kChoice);
  const int count = std::exchange(device, 0);
  {
    const watchdog::Guard guard(kChoice);
    MPI_Comm node = MPI_COMM_NULL;
    check(MPI_Comm_split_type(world.native(), MPI_COMM_TYPE_SHARED, world.rank(), MPI_INFO_NULL, &node), "MPI_Comm_split_type");
    check(MPI_Comm_rank(node, &device), "MPI_Comm_rank");
    check(MPI_Comm_free(&node), "MPI_Comm_free");
  }
  device %= count;
  world.agree([&] { check_cuda(cudaSetDevice(device), "cudaSetDevice", kChoice); }, kChoice);
  return device;
}

std::vector<std::string> describe_nccl() {
  std::vector<std::string> lines;
  int version = 0;
  if (const ncclResult_t code = ncclGetVersion(&version); code == ncclSuccess)
    lines.push_back(fmt::format("NCCL {} (built with {})", version_text(version), version_text(NCCL_VERSION_CODE)));
  else lines.push_back(fmt::format("NCCL: {}", ncclGetErrorString(code)));
  int count = 0;
  if (const cudaError_t code = cudaGetDeviceCount(&count); code != cudaSuccess) {
    lines.push_back(fmt::format("no GPU: {}", cudaGetErrorString(code)));
    static_cast<void>(cudaGetLastError());
  } else if (count == 0) {
    lines.emplace_back("no GPU");
  }
  for (int i = 0; i < count; ++i) {
    cudaDeviceProp properties{};
    if (const cudaError_t code = cudaGetDeviceProperties(&properties, i); code != cudaSuccess)
      lines.push_back(fmt::format("GPU {}: {}", i, cudaGetErrorString(code)));
    else
      lines.push_back(fmt::format("GPU {}: {}, {:.1f} GiB, compute capability {}.{}", i, properties.name,
                                  static_cast<double>(properties.totalGlobalMem) / (1024.0 * 1024 * 1024), properties.major, properties.minor));
  }
  return lines;
}

}  // namespace moesweep::comm
