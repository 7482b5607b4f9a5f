// The ranks of a trial as a grid: expert-parallel ranks side by side, data-parallel groups of them one behind the other.
#pragma once

#include <functional>
#include <memory>
#include <optional>

#include "moesweep/comm/mpi.hpp"
#include "moesweep/comm/transport.hpp"

namespace moesweep::comm {

using MakeTransport = std::function<std::unique_ptr<Transport>(const Communicator&)>;

/// Rank r of the gang is rank r % EP of its expert group, which is the r / EP-th one: neighbours, which launchers put on one node, share the
/// experts. Each expert lives once in every expert group, on ranks that form a data group. Every rank has sequences of its own.
class Grid {
 public:
  /// Collective over the gang, whose size `expert_ranks` must divide. The communicator must outlive the grid.
  Grid(const Communicator& gang, int expert_ranks, const MakeTransport& make = make_transport);
  /// One rank by itself.
  Grid();

  Transport& all() { return *all_; }          ///< the gang
  Transport& experts() { return *experts_; }  ///< ranks that hold one copy of all experts together
  Transport& copies() { return *copies_; }    ///< ranks that hold the same experts
  Transport& host() { return all_->host(); }  ///< the gang, over host memory

 private:
  std::vector<Communicator> communicators_;
  std::vector<std::unique_ptr<Transport>> owned_;
  Transport *all_ = nullptr, *experts_ = nullptr, *copies_ = nullptr;
};

}  // namespace moesweep::comm
