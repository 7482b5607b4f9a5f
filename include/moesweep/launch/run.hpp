// Drives a sweep on the ranks at hand: claims trials, runs them in gangs, publishes what they leave, resumes what an earlier launch left open.
#pragma once

#include <atomic>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "moesweep/comm/mpi.hpp"
#include "moesweep/data/source.hpp"
#include "moesweep/launch/folder.hpp"
#include "moesweep/launch/inject.hpp"
#include "moesweep/launch/retries.hpp"
#include "moesweep/plan/shard.hpp"
#include "moesweep/spec/sweep.hpp"
#include "moesweep/store/record.hpp"
#include "moesweep/train/trial.hpp"

namespace moesweep::launch {

/// What launch does not know itself: how data is opened and a trial is run. Tests put their own in place.
struct Runner {
  std::function<std::unique_ptr<data::Source>(const data::DataConfig&)> open_data = [](const data::DataConfig& config) {
    return data::open_source(config);
  };
  std::function<store::TrialRecord(const train::TrialConfig&, const data::Source&, const comm::Communicator& gang, const train::RunOptions&)>
      run_trial;
  std::map<std::string, std::string> libraries;  ///< versions by name ("libtorch", "hdf5"), for the provenance of results
};

/// What ends a launch or an attempt before its time.
struct Limits {
  std::optional<double> deadline_seconds;    ///< from the launch's start; none: what Slurm says of its job, if it runs there
  double trial_timeout_seconds = 0;          ///< of one attempt; 0: none
  double stall_seconds = 1800;               ///< an attempt that gives no sign of life for so long is ended with its step; 0: none
  std::optional<std::int64_t> max_failures;  ///< more failed trials than this in this launch, and no further one starts
  bool fail_fast = false;                    ///< the first failed trial stops the others too
  Retries retries;
};

struct RunOptions {
  std::filesystem::path folder;
  plan::Shard shard;
  bool layout_given = false;  ///< `parallel.*` was given anew: else trials that the folder knows keep the layout of their plan
  std::vector<std::string> command_line;
  double progress_seconds = 30.0;           ///< between a running trial's `progress` lines in the journal
  const std::atomic<bool>* stop = nullptr;  ///< set by a signal; may be null
  bool show_progress = true;                ///< a bar on a terminal, else lines
  Limits limits;
  std::vector<InjectedFault> faults;
};

/// What handing out work cost.
struct Dispatch {
  std::int64_t claims_tried = 0, claims_made = 0;
  double seconds = 0.0;  ///< of all leaders, between two trials

  double tried_per_claim() const { return claims_made > 0 ? static_cast<double>(claims_tried) / static_cast<double>(claims_made) : 0.0; }
  double seconds_per_claim() const { return claims_made > 0 ? seconds / static_cast<double>(claims_made) : 0.0; }
};

struct Outcome {
  std::map<std::string, std::int64_t> states;  ///< trials of the sweep by where they stand now
  std::int64_t ran = 0;                        ///< attempts that ended in this launch, all ranks
  bool stopped = false;                        ///< asked to stop, or out of time, before everything was done
  bool gave_up = false;                        ///< too many trials failed (Limits::max_failures, fail_fast)
  Dispatch dispatch;                           ///< all ranks
  /// Trials that were left alone since a file of theirs cannot be read just now: by id, the file and what is wrong. The same on every rank. They
  /// count as `unreadable` in `states`.
  std::map<std::string, std::string> unreadable;
};

/// At most so many bytes of private memory for this process from now on (RLIMIT_DATA): a trial that wants more ends as `out_of_memory`. An `io` error
/// when the system refuses.
void limit_memory(double bytes);

/// Collective over `world`. Every rank gives the same sweep and options. Trials that the sweep's
/// selection passes over are planned, not run or counted. Trials run in the gang layout that the folder's plan has for them. What
/// happens to a trial is in the journal. A trial of which a file cannot be read just now (trial.h5, a claim, a checkpoint, its data) is left alone:
/// neither run nor changed, and the others run. A failure of the launch itself (folder not writable, another data digest) throws on every rank before
/// the first trial starts. Later, a failure that other ranks cannot be told of ends the world (`comm::abort_world`); in a world of one rank it
/// throws.
Outcome run_sweep(const spec::Sweep& sweep, const RunOptions& options, const Runner& runner, const comm::Communicator& world);

/// Collective over `gang`: one trial by itself into `folder` (config.yaml, log.txt, trial.h5, checkpoint.h5). Gives its record, on every rank.
store::TrialRecord run_single(const train::TrialConfig& config, const std::filesystem::path& folder, const RunOptions& options, const Runner& runner,
                              const comm::Communicator& gang);

/// Sets a flag when SIGTERM, SIGINT or SIGUSR2 arrives, for the life of the object; a second SIGINT ends the process as usual.
class StopSignals {
 public:
  StopSignals();
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;
  const std::atomic<bool>& flag() const;
};

}  // namespace moesweep::launch
