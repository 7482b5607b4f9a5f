// Watches one attempt from a thread of its own: when it has to stop, and whether it still lives.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

namespace moesweep::launch {

class AttemptClock {
 public:
  using Clock = std::chrono::steady_clock;
  struct Rules {
    const std::atomic<bool>* stop = nullptr;    ///< the launch's own, set by a signal; may be null
    std::optional<Clock::time_point> deadline;  ///< the launch's: the attempt stops then
    double timeout_seconds = 0;                 ///< of the attempt; 0: none
    double stall_seconds = 0;                   ///< without a sign of life; 0: any
    std::function<bool()> give_up;              ///< asked every second: whether the launch stops for another reason; may be empty
    /// Called once, when the attempt has to stop because the launch does.
    std::function<void()> on_stop;
    /// Called when the attempt gives no sign of life any more; does not come back.
    std::function<void(const std::string& why)> on_stall;
  };

  explicit AttemptClock(Rules rules);
  ~AttemptClock();
  AttemptClock(const AttemptClock&) = delete;
  AttemptClock& operator=(const AttemptClock&) = delete;

  /// Set when the attempt has to stop at its next chance.
  const std::atomic<bool>& stop() const { return stop_; }
  /// The attempt counts it up as a sign of life.
  std::atomic<std::uint64_t>& pulse() { return pulse_; }
  /// It was asked to stop because its own time was up.
  bool timed_out() const { return timed_out_.load(); }

 private:
  void watch();

  Rules rules_;
  std::atomic<bool> stop_{false}, timed_out_{false};
  std::atomic<std::uint64_t> pulse_{0};
  std::mutex mutex_;
  std::condition_variable changed_;
  bool ending_ = false;
  std::thread thread_;
};

}  // namespace moesweep::launch
