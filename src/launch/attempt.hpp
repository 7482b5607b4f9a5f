// One attempt at one trial on one gang: from its config to how it ended.
#pragma once

#include <chrono>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "moesweep/launch/run.hpp"

namespace moesweep::launch {

/// The state of an attempt that could not go on since a file cannot be read just now: the trial is left open, and costs nothing. No state of a trial.
inline constexpr const char* kUnreadable = "unreadable";

struct Ending {
  std::string state, reason;
  double seconds = 0.0;
  store::TrialRecord record;   ///< with arrays when the trial came to its end
  store::Published published;  ///< the trial.h5 that it left, on the leader
};

/// Data sources of this process, each opened once.
class Sources {
 public:
  explicit Sources(const Runner& runner) : runner_(runner) {}
  const data::Source& of(const data::DataConfig& config);

 private:
  const Runner& runner_;
  std::map<std::string, std::unique_ptr<data::Source>> open_;
};

/// What an attempt needs beside its config.
struct AttemptContext {
  const Runner& runner;
  const RunOptions& options;
  Sources& sources;
  std::string data_digest;                                             ///< that the data must have; empty: any
  Json facts;                                                          ///< for the record's provenance: launch, attempt
  std::optional<std::chrono::steady_clock::time_point> deadline = {};  ///< of the launch
  std::function<train::Fault(std::int64_t)> before_step = {};          ///< injected faults of this rank
  std::function<bool()> give_up = {};                                  ///< see AttemptClock, on the leader
  /// Called about every options.progress_seconds on the leader.
  std::function<void(const train::StepReport&)> on_progress = {};
  /// Called on a rank whose files failed it, before that ends the launch: the trial is not to blame.
  std::function<void()> on_failed_files = {};
  /// Called on a rank of a gang whose failure the others cannot know, before the world is ended; also from another thread, when the trial hangs.
  std::function<void(const Ending&)> on_culprit = {};
};

/// Collective over `gang`. Gives how it ended, on every rank alike; a failure of one rank alone in a gang of several ends the world. The leader
/// writes config.yaml, log.txt and publishes trial.h5; failing to do so throws there. What an `io` error means goes by the file that it names:
/// - in the sweep's or the trial's folder, or none: the disk fails. It throws and leaves the trial open; a full disk says nothing about a trial.
/// - the trial's checkpoint.h5 or trial.h5, before it began, or its data: `kUnreadable`. The trial is left open, and others can run.
/// - another file, which the trial names (`init_from`): the trial's own `failed`.
/// A damaged trial.h5 or checkpoint.h5 is kept as NAME.damaged, and the trial starts afresh. A valid trial.h5 that is there is how the trial ended.
Ending attempt_trial(const std::string& id, const train::TrialConfig& config, const std::filesystem::path& folder, const comm::Communicator& gang,
                     const AttemptContext& context);

}  // namespace moesweep::launch
