// See include/moesweep/comm/watchdog.hpp.
#include "moesweep/comm/watchdog.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <future>
#include <mutex>
#include <thread>
#include <utility>

#include "moesweep/core/error.hpp"
#include "moesweep/core/publish.hpp"
#include "moesweep/core/text.hpp"

namespace moesweep::comm::watchdog {

namespace {

using Clock = std::chrono::steady_clock;

/// One collective in a file, through mapped memory: the kernel keeps what a killed process wrote.
struct Mark {
  std::uint64_t number;
  char inside;
  char stopping;
  char name[118];
};

/// Shared between the guarded thread and the watching one; lives for the process, so that no destructor races with the thread.
struct State {
  std::mutex mutex;
  std::condition_variable changed;
  double timeout_seconds = 300.0;
  double grace_seconds = 0.0;
  const char* waiting_in = nullptr;
  Clock::time_point since;
  int depth = 0;
  int rank = 0, size = 1;
  std::function<void(const std::string&)> callback;
  bool running = false, ending = false;
  Mark* mark = nullptr;
  std::filesystem::path mark_file;
};

State& state() {
  static State* const instance = new State;
  return *instance;
}

/// Sleeps until the deadline of the collective at hand; where none is, until the earliest deadline of one that could begin now. So nobody needs to
/// wake it: a wake-up a collective would cost more than a small collective does, and a rank would wait for its own watcher where cores are few.
[[noreturn]] void watch() {
  State& s = state();
  std::unique_lock lock(s.mutex);
  for (;;) {
    const auto now = Clock::now();
    const auto timeout = std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(s.timeout_seconds));
    const auto grace = std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(s.grace_seconds));
    const auto deadline = (s.waiting_in == nullptr ? now : s.since + grace) + timeout;
    if (s.waiting_in == nullptr || now < deadline) {
      s.changed.wait_until(lock, deadline);
      continue;
    }
    const char* what = s.waiting_in;
    lock.unlock();
    end_process(what);
  }
}

}  // namespace

void set_timeout(double seconds) {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  s.timeout_seconds = seconds;
  s.changed.notify_all();
}

double timeout_seconds() {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  return s.timeout_seconds;
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

void record_in(const std::filesystem::path& file) {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  if (s.mark != nullptr) {
    ::munmap(s.mark, sizeof(Mark));
    s.mark = nullptr;
    std::error_code ignored;
    std::filesystem::remove(s.mark_file, ignored);
  }
  s.mark_file = file;
  if (file.empty()) return;
  const int descriptor = ::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0666);
  if (descriptor < 0) return;
  struct stat status {};
  const bool regular = ::fstat(descriptor, &status) == 0 && S_ISREG(status.st_mode) && ::ftruncate(descriptor, 0) == 0;
  if (!regular) {
    s.mark_file.clear();  // what stands there is not ours
    ::close(descriptor);
    return;
  }
  const Mark empty{};
  // Written, not truncated to its size: a full disk must not become a fault in mapped memory.
  if (::write(descriptor, &empty, sizeof(empty)) == static_cast<ssize_t>(sizeof(empty))) {
    void* mapped = ::mmap(nullptr, sizeof(Mark), PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    if (mapped != MAP_FAILED) s.mark = static_cast<Mark*>(mapped);
  }
  ::close(descriptor);
}

void record_stop() {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  if (s.mark != nullptr) s.mark->stopping = 1;
}

namespace {

/// All zeros where the file says nothing.
Mark mark_in(const std::filesystem::path& file) {
  Mark mark{};
  try {
    const int descriptor = open_regular(file);
    if (::pread(descriptor, &mark, sizeof(mark), 0) != static_cast<ssize_t>(sizeof(mark))) mark = {};
    ::close(descriptor);
  } catch (const Error&) {
    // Absent, a pipe, or not to be read just now.
  }
  return mark;
}

}  // namespace

bool stop_recorded_in(const std::filesystem::path& file) { return mark_in(file).stopping != 0; }

std::string recorded_in(const std::filesystem::path& file) {
  Mark mark = mark_in(file);
  if (mark.number == 0) return {};
  mark.name[sizeof(mark.name) - 1] = '\0';
  for (char& c : mark.name)
    if (c != '\0' && (c < ' ' || c > '~')) c = '?';
  return std::string(mark.inside != 0 ? "in" : "past") + " '" + mark.name + "', its collective number " + std::to_string(mark.number);
}

namespace {

/// The one thread that gets past this ends the process.
std::unique_lock<std::mutex> be_the_last() {
  State& s = state();
  std::unique_lock lock(s.mutex);
  if (std::exchange(s.ending, true)) {
    lock.unlock();
    for (;;) std::this_thread::sleep_for(std::chrono::hours(1));  // another thread is ending the process
  }
  return lock;
}

void say(const std::string& text) {
  std::fprintf(stderr, "%s\n", printable(text).c_str());
  std::fflush(stderr);
}

[[noreturn]] void leave(const std::function<void()>& last_act) {
  constexpr auto kLastAct = std::chrono::seconds(3);
  if (last_act) {
    std::packaged_task<void()> task(last_act);
    const auto ended = task.get_future();
    std::thread(std::move(task)).detach();
    ended.wait_for(kLastAct);
  }
  _exit(static_cast<int>(ExitCode::mpi));
}

std::string who(const State& s) { return "[Rank " + std::to_string(s.rank) + "/" + std::to_string(s.size) + "] "; }

}  // namespace

void end_process(const char* what, const std::string& failure, const std::function<void()>& last_act) {
  State& s = state();
  std::unique_lock lock = be_the_last();
  const std::string where = "in the collective '" + std::string(what) + "': ";
  const std::string text = failure.empty() ? who(s) + "waited longer than " + std::to_string(static_cast<long long>(s.timeout_seconds)) + " s " +
                                                 where + "another rank is gone or stuck; the process ends (comm.timeout_seconds)"
                                           : who(s) + "failed " + where + failure + "; the process ends";
  const auto callback = s.callback;
  lock.unlock();
  say(text);
  if (callback) callback(text);
  leave(last_act);
}

void end_process_saying(const std::string& sentence, const std::function<void()>& last_act) {
  std::unique_lock lock = be_the_last();
  const std::string text = who(state()) + sentence;
  lock.unlock();
  say(text);
  leave(last_act);
}

Guard::Guard(const char* what, double grace_seconds) {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  if (s.depth++ > 0) return;
  if (!s.running) {
    s.running = true;
    std::thread(watch).detach();
  }
  if (s.mark != nullptr) {
    ++s.mark->number;
    s.mark->inside = 1;
    std::strncpy(s.mark->name, what, sizeof(s.mark->name) - 1);
  }
  s.since = Clock::now();
  s.waiting_in = what;
  s.grace_seconds = grace_seconds;
}

Guard::~Guard() {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  if (--s.depth > 0) return;
  s.waiting_in = nullptr;
  if (s.mark != nullptr) s.mark->inside = 0;
}

}  // namespace moesweep::comm::watchdog
