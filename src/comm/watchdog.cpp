// See include/moesweep/comm/watchdog.hpp.
#include "moesweep/comm/watchdog.hpp"

#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <thread>

#include "moesweep/core/error.hpp"

namespace moesweep::comm::watchdog {

namespace {

using Clock = std::chrono::steady_clock;

/// Shared between the guarded thread and the watching one; lives for the process, so that no destructor races with the thread.
struct State {
  std::mutex mutex;
  std::condition_variable changed;
  double timeout_seconds = 300.0;
  const char* waiting_in = nullptr;
  Clock::time_point since;
  int depth = 0;
  int rank = 0, size = 1;
  std::function<void(const std::string&)> callback;
  bool running = false;
};

State& state() {
  static State* const instance = new State;
  return *instance;
}

/// Wakes at the deadline of the collective at hand; a wake-up costs nothing while none is waiting.
[[noreturn]] void watch() {
  State& s = state();
  std::unique_lock lock(s.mutex);
  for (;;) {
    if (s.waiting_in == nullptr) {
      s.changed.wait(lock, [&] { return s.waiting_in != nullptr; });
      continue;
    }
    const auto started = s.since;
    const auto deadline = started + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(s.timeout_seconds));
    if (Clock::now() < deadline) {
      s.changed.wait_until(lock, deadline);
      continue;
    }
    const std::string text = "[Rank " + std::to_string(s.rank) + "/" + std::to_string(s.size) + "] waited longer than " +
                             std::to_string(static_cast<long long>(s.timeout_seconds)) + " s in the collective '" + s.waiting_in +
                             "': another rank is gone or stuck; the process ends (comm.timeout_seconds)";
    std::fprintf(stderr, "%s\n", text.c_str());
    std::fflush(stderr);
    const auto callback = s.callback;
    lock.unlock();
    if (callback) callback(text);
    _exit(static_cast<int>(ExitCode::mpi));
  }
}

}  // namespace

void set_timeout(double seconds) {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  s.timeout_seconds = seconds;
  s.changed.notify_all();
}

void on_timeout(std::function<void(const std::string&)> callback) {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  s.callback = std::move(callback);
}

void set_rank(int rank, int size) {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  s.rank = rank;
  s.size = size;
}

Guard::Guard(const char* what) {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  if (s.depth++ > 0) return;
  if (!s.running) {
    s.running = true;
    std::thread(watch).detach();
  }
  s.since = Clock::now();
  s.waiting_in = what;
  s.changed.notify_all();
}

Guard::~Guard() {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  if (--s.depth == 0) s.waiting_in = nullptr;
}

}  // namespace moesweep::comm::watchdog
