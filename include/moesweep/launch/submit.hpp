// A sweep as Slurm jobs: arrays of shards, then the aggregate, then the report; what was submitted for a folder, and where it stands in the queue.
// Nothing here calls MPI: login nodes may have none.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "moesweep/core/json.hpp"
#include "moesweep/launch/retries.hpp"
#include "moesweep/spec/profile.hpp"
#include "moesweep/spec/sweep.hpp"

namespace moesweep::launch {

/// A word of a shell: as it is where it is plain, else between single quotes, expanded by nothing.
std::string shell_word(std::string_view text);

/// A `usage` error unless the text can be a job's id, as `--after` takes it: digits, `_` and `:`.
void require_job_id(const std::string& text);

struct SubmitOptions {
  std::filesystem::path folder;
  std::vector<std::string> command_line;         ///< for the record
  std::map<std::string, std::string> libraries;  ///< versions by name, for provenance
  std::vector<std::string> run_options;          ///< passed to `moesweep run` in each element
  Retries retries;                               ///< which ended trials count as open
  spec::SiteProfile profile;
  std::int64_t shards = 0, ranks = 0;          ///< ranks of each shard; 0: chosen
  std::int64_t nodes = 0, throttle = 0;        ///< nodes of each shard, elements that run at a time; 0: Slurm's choice
  std::string time;                            ///< limit of an element; empty: the profile's, else chosen
  std::optional<std::int64_t> signal_seconds;  ///< USR2 so long before the limit
  std::string after;                           ///< the arrays wait until this job has ended
  bool layout_given = false;                   ///< as in RunOptions
  bool dry_run = false;                        ///< nothing is written or submitted
  bool again = false;                          ///< although an array of this folder is in the queue
  double patience_seconds = 600.0, call_seconds = 60.0;
};

struct SubmittedJob {
  std::string kind;   ///< "array", "aggregate" or "report"
  std::string name;   ///< no other job has it
  std::string job;    ///< Slurm's id; empty where it was not submitted
  std::string array;  ///< "0-7%2"; empty for other kinds
  std::filesystem::path script;
  std::string text;                  ///< of the script
  std::vector<std::string> command;  ///< that submits it; ids that are not known yet are written as JOB_OF_NAME
};

struct Submission {
  std::string sweep;
  std::filesystem::path folder;
  std::int64_t trials = 0, pending = 0;  ///< of the selection; pending: not ended
  std::int64_t shards = 0, ranks = 0;
  std::string time;
  std::int64_t signal_seconds = 0;
  bool submitted = false, continued = false;  ///< continued: an earlier submission, cut short, was completed
  std::string note;                           ///< why nothing was submitted
  std::vector<std::string> warnings;
  std::vector<SubmittedJob> jobs;
  std::optional<std::string> start_estimate;

  Json json() const;
};

/// Prepares the folder, writes DIR/slurm/*.sbatch and submits them. Every step is recorded in DIR/slurm/submissions.jsonl before and after it is
/// done, so that the same call goes on after any cut and submits nothing twice. A `config` error holds Slurm's own words when it refuses, an `io`
/// error says that the controller stayed busy; a `usage` error that an array of the folder is in the queue already.
Submission submit(const spec::Sweep& sweep, const SubmitOptions& options);

struct CancelOptions {
  bool keep_aggregate = false;
  double patience_seconds = 600.0, call_seconds = 60.0;
};
/// Cancels what was submitted for the folder and is in the queue; gives those jobs. An `io` error when the folder is no sweep folder.
std::vector<SubmittedJob> cancel(const std::filesystem::path& sweep_folder, const CancelOptions& options);

/// A job of a sweep folder in the queue.
struct QueueEntry {
  std::string kind, job, name;
  std::int64_t pending = 0, running = 0;        ///< elements; 0 or 1 for a plain job
  std::map<std::string, std::int64_t> reasons;  ///< why pending ones wait, in Slurm's words
  std::string start;                            ///< the earliest start that Slurm estimates for a pending one; may be empty
  Json json() const;
};

/// Jobs recorded for the folder that are in the queue now, in the order in which they were submitted; nothing when none was recorded, there is no
/// Slurm, or no answer within the limit.
std::optional<std::vector<QueueEntry>> queue_of(const std::filesystem::path& sweep_folder, double limit_seconds);

}  // namespace moesweep::launch
