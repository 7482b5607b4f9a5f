// Talking to Slurm: calls with a timeout, retried as long as the controller is busy, and what its answers mean.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "moesweep/launch/command.hpp"

namespace moesweep::launch {

/// Whether these are the words of a controller that is busy, stopped or out of reach, so that the same call may well succeed later.
bool is_busy(const std::string& words);

/// A job or an array's element as squeue lists it.
struct QueuedJob {
  std::string job;      ///< the id that cancels it; for an element the array's
  std::string element;  ///< "7" of "123_7"; empty for a plain job
  std::string name, state, reason;
  std::string start;  ///< when Slurm means to start it, or started it; empty where it does not say

  bool is_pending() const;  ///< waits to start, held and requeued ones too
  bool is_active() const;   ///< pending, running, or on its way into or out of either
};

/// The lines of squeue by `queue_format`; lines of another kind are passed over.
std::vector<QueuedJob> queue_of_text(const std::string& text);

class Slurm {
 public:
  struct Options {
    double patience_seconds = 600.0;  ///< how long a busy controller is asked again, over all calls
    double call_seconds = 60.0;       ///< of one call
    /// Told before each wait: the words of the controller and the seconds.
    std::function<void(const std::string& words, double seconds)> on_wait;
  };
  explicit Slurm(Options options);

  /// `max` of `MaxArraySize = max`, exclusive; a site without arrays is a `config` error.
  std::int64_t max_array_size();
  /// Jobs of these names, ended ones too as long as Slurm remembers them.
  std::vector<QueuedJob> jobs_named(const std::vector<std::string>& names);
  /// Submits the script; gives the job's id. No job of this name is submitted twice: when a call had no answer, squeue is asked by the name, which
  /// no other job may have. A duplicate that shows up late is cancelled.
  std::string submit(const std::string& name, const std::vector<std::string>& command);
  void cancel(const std::vector<std::string>& jobs);
  /// When a script would start, as Slurm estimates it; nothing when it does not say so within ten seconds.
  std::optional<std::string> start_estimate(const std::string& script) const;

 private:
  /// Standard output; retried while busy, unless `already_done`, asked before each further try, gives it.
  std::string call(const std::vector<std::string>& command, const std::function<std::optional<std::string>()>& already_done = nullptr);

  Options options_;
  std::chrono::steady_clock::time_point deadline_;
};

/// Jobs of these names in the queue within the limit; nothing when there is no Slurm or no answer.
std::optional<std::vector<QueuedJob>> ask_queue(const std::vector<std::string>& names, double limit_seconds);

}  // namespace moesweep::launch
