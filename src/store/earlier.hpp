// An earlier sweep.h5 as a source of the next: what it holds of trials whose files have not changed.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "layout.hpp"
#include "moesweep/comm/mpi.hpp"

namespace moesweep::store {

class EarlierSweep {
 public:
  /// Collective. Nothing when there is no such file; nothing and a reason in `refused` when it is not sound or not of this version: its digest is
  /// checked, so all of it is read, shared by the ranks.
  static std::optional<EarlierSweep> open(const comm::Communicator& communicator, const std::filesystem::path& path, std::string& refused);

  /// The row of a trial, when it gives back all that the trial's file of that digest holds.
  std::optional<std::size_t> find(const std::string& id, const std::string& digest) const;
  /// The records of rows [first, end): no config, none of the arrays that an aggregate leaves out.
  std::vector<TrialRecord> read(std::size_t first, std::size_t end) const;

 private:
  struct Place {
    Description data, offsets, shapes;
  };
  std::filesystem::path path_;
  h5::Handle file_;
  std::vector<std::string> ids_;      ///< in order
  std::vector<std::string> digests_;  ///< empty where the row does not give all back
  Description states_, reasons_, provenances_, provenance_offsets_;
  std::vector<Place> arrays_;
};

}  // namespace moesweep::store
