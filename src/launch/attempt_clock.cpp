// See attempt_clock.hpp.
#include "attempt_clock.hpp"

#include <fmt/core.h>

#include <algorithm>

namespace moesweep::launch {

AttemptClock::AttemptClock(Rules rules) : rules_(std::move(rules)), thread_([this] { watch(); }) {}

AttemptClock::~AttemptClock() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void AttemptClock::watch() {
  constexpr auto kTurn = std::chrono::milliseconds(50);
  const auto seconds = [](double count) { return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(count)); };
  const auto start = Clock::now();
  // One that is asked to stop for its time gets at most this long for its step, and then for its checkpoint.
  const double grace = std::max(30.0, rules_.timeout_seconds / 4);
  auto last_sign = start, last_asked = start;
  std::uint64_t seen = 0;
  const auto stop = [&] {
    if (!stop_.exchange(true) && rules_.on_stop) rules_.on_stop();
  };
  std::unique_lock lock(mutex_);
  while (!changed_.wait_for(lock, kTurn, [this] { return ending_; })) {
    lock.unlock();
    const auto now = Clock::now();
    if (rules_.stop != nullptr && rules_.stop->load()) stop();
    if (rules_.deadline && now >= *rules_.deadline) stop();
    if (rules_.give_up && now - last_asked >= std::chrono::seconds(1)) {
      last_asked = now;
      if (rules_.give_up()) stop();
    }
    if (rules_.timeout_seconds > 0 && now - start >= seconds(rules_.timeout_seconds) && !timed_out_.exchange(true)) stop_.store(true);
    if (const std::uint64_t pulse = pulse_.load(); pulse != seen) {
      seen = pulse;
      last_sign = now;
    }
    double patience = rules_.stall_seconds;
    if (timed_out_.load() && (patience <= 0 || grace < patience)) patience = grace;
    if (patience > 0 && now - last_sign >= seconds(patience) && rules_.on_stall)
      rules_.on_stall(fmt::format("no sign of life for {:.0f} s: no step and no batch of an evaluation", patience));
    lock.lock();
  }
}

}  // namespace moesweep::launch
