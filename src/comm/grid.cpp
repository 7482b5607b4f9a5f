// See include/moesweep/comm/grid.hpp.
#include "moesweep/comm/grid.hpp"

#include <utility>

#include "moesweep/core/error.hpp"

namespace moesweep::comm {

Grid::Grid(const Communicator& gang, int expert_ranks, const MakeTransport& make) {
  MOESWEEP_ASSERT(expert_ranks > 0 && gang.size() % expert_ranks == 0, "the expert ranks divide the gang");
  const auto own = [&](std::unique_ptr<Transport> transport) {
    owned_.push_back(std::move(transport));
    return owned_.back().get();
  };
  all_ = own(make(gang));
  // A group of one rank, or of all, needs no communicator.
  communicators_.reserve(2);
  const auto group = [&](int size, int colour) {
    if (size == gang.size()) return all_;
    if (size == 1) return own(make_local_transport());
    communicators_.push_back(std::move(*gang.split(colour)));
    return own(make(communicators_.back()));
  };
  experts_ = group(expert_ranks, gang.rank() / expert_ranks);
  copies_ = group(gang.size() / expert_ranks, gang.rank() % expert_ranks);
}

Grid::Grid() {
  owned_.push_back(make_local_transport());
  all_ = experts_ = copies_ = owned_.back().get();
}

}  // namespace moesweep::comm
