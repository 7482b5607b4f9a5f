// sweep.h5: every trial of a sweep in one file, written collectively and never changed in place. Layout: analysis/FORMAT.md.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "moesweep/comm/mpi.hpp"
#include "moesweep/store/record.hpp"

namespace moesweep::store {

/// One row of the aggregate. Small: what is large stays in the trial's file until it is copied.
struct SweepRow {
  std::string id;
  std::string state, reason;                ///< at most 4,000 bytes are stored
  std::map<std::string, std::string> axes;  ///< resolved keys that differ within the sweep -> value as text; an empty text is read back as absent
  std::map<std::string, double> metrics;    ///< metric name -> value; absent ones are NaN in the file
  std::string config;                       ///< resolved config as JSON
  std::string provenance;                   ///< JSON
  std::filesystem::path trial_file;         ///< empty when the trial left none
};

struct SweepHeader {
  std::string name;
  std::string resolved;    ///< the sweep as resolved, JSON
  std::string provenance;  ///< of the aggregation's input, JSON: nothing in it may depend on the number of ranks
};

/// Collective over `communicator`; every rank passes the same header and rows, in the same order (by id). Copies each row's arrays
/// from its trial file; ranks share the reading. Published by rename. A bad input names file and dataset; on any failure every rank throws.
/// The published file's attribute `digest` is the same for any number of ranks. Rows that differ between ranks are an `internal` error.
void write_sweep(const comm::Communicator& communicator, const std::filesystem::path& path, const SweepHeader& header,
                 const std::vector<SweepRow>& rows);

/// The aggregate, opened for reading by one process. What is read is checked by HDF5's checksums; the digest is `verify`'s.
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
