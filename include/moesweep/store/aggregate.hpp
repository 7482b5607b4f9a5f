// sweep.h5: every trial of a sweep in one file, written collectively and never changed in place. Layout: analysis/FORMAT.md.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "moesweep/comm/mpi.hpp"
#include "moesweep/store/record.hpp"

namespace moesweep::store {

/// One row of the aggregate: all of a trial but its arrays.
struct SweepRow {
  std::string id;
  std::string state, reason;                ///< at most 4,000 bytes are stored
  std::map<std::string, std::string> axes;  ///< resolved keys that differ within the sweep -> value as text; an empty text is read back as absent
  std::map<std::string, double> metrics;    ///< metric name -> value; absent ones are NaN in the file
  std::string config;                       ///< resolved config as JSON
  std::string provenance;                   ///< JSON
  std::filesystem::path trial_file;         ///< empty when the trial left none
  Published published = {};                 ///< of that file, where known
  std::string warnings = {};                ///< words, separated by commas: `no_better_than_uniform`
};

struct SweepHeader {
  std::string name;
  std::string resolved;    ///< the sweep as resolved, JSON
  std::string provenance;  ///< of the aggregation's input, JSON: nothing in it may depend on the number of ranks
};

/// A trial of an aggregate and the trial.h5 that it left; an empty path when it left none.
struct SweepTrial {
  std::string id;
  std::filesystem::path file;
  Published published;  ///< as the journal has it: a file of these bytes is taken from an earlier aggregate, or read without a check first
};

/// Where an aggregate comes from. Each trial is read once, by one rank; no rank ever holds more than a part of the trials.
struct SweepSource {
  std::vector<SweepTrial> trials;  ///< in order of their ids, the same on every rank
  /// The row of trials[i], made of the record that it left; null when it left none. Called once for each trial, on one rank. A record that comes from
  /// an earlier aggregate has state, reason and provenance of its row there, no config, and no arrays that stay with the trial (`assignments/...`).
  std::function<SweepRow(std::size_t i, const TrialRecord* record)> row;
  std::function<void()> meet;  ///< collective, after the last row: ranks may tell each other what they saw; may be empty
  /// Further metrics of trials[i], beside those of its row; on the rank that made the row, after `meet`; may be empty.
  std::function<std::map<std::string, double>(std::size_t i, const std::map<std::string, double>& metrics)> more_metrics;
};

/// What making an aggregate took, over all ranks.
struct SweepMaking {
  std::int64_t files_read = 0;  ///< trial files read whole
  std::int64_t rows_kept = 0;   ///< trials whose arrays came from the earlier aggregate
  std::string earlier_refused;  ///< why the earlier aggregate gave nothing; empty when it gave, or there was none
};

/// Collective over `communicator`; every rank passes the same header and trials. Copies each trial's arrays from its file; ranks share the reading.
/// Published by rename. A bad input names file and dataset; on any failure every rank throws. The published file's attribute `digest` is the same
/// for any number of ranks. `earlier` may name an aggregate, `path` itself or another: when it is sound, trials whose published file is the one that
/// it was made of are taken from it, and only the others' files are read; the result is the same.
SweepMaking write_sweep(const comm::Communicator& communicator, const std::filesystem::path& path, const SweepHeader& header,
                        const SweepSource& source, const std::filesystem::path& earlier = {});

/// The same from rows that every rank has whole, in order of their ids. Rows that differ between ranks are an `internal` error.
SweepMaking write_sweep(const comm::Communicator& communicator, const std::filesystem::path& path, const SweepHeader& header,
                        const std::vector<SweepRow>& rows, const std::filesystem::path& earlier = {});

/// The aggregate, opened for reading by one process. Opening checks the file's digest against its attributes; what is read is checked against its own
/// digest. An older file, without digests of its own for each dataset, is read whole once.
class SweepFile {
 public:
  explicit SweepFile(const std::filesystem::path& path);  ///< `corrupt` and `io` errors name file and dataset
  ~SweepFile();
  SweepFile(SweepFile&&) noexcept;

  const SweepHeader& header() const;
  const std::vector<SweepRow>& rows() const;  ///< trial_file is empty
  std::vector<std::string> array_paths() const;
  Array array(std::size_t row, const std::string& path) const;  ///< elements() is 0 and shape empty when the trial has none

 private:
  struct State;
  std::unique_ptr<State> state_;
};

struct Verification {
  std::size_t datasets = 0, rows = 0;
  std::string digest;
  std::vector<std::string> problems;  ///< empty when the file is sound
};

/// Reads every dataset (checksums), checks structure, offsets and the stored digest. For trial.h5, checkpoint.h5 and sweep.h5.
/// Each problem names file and dataset. A file that cannot be opened at all is an `io` error.
Verification verify(const std::filesystem::path& path);

}  // namespace moesweep::store
