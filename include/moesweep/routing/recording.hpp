// Assignments by (record, layer, sequence): written down as a trial goes, replayed by another one.
#pragma once

#include <cstdint>
#include <map>
#include <tuple>
#include <vector>

#include "moesweep/routing/scores.hpp"

namespace moesweep::routing {

class Recording {
 public:
  /// Adds the kept slots of a pass. Ids are stored in the order of the slots.
  void add(const TokenLayout& tokens, std::int64_t layer, const Slots& slots);
  /// The slots of a pass; a `data` error names a sequence that was never recorded or has another length.
  Slots find(const TokenLayout& tokens, std::int64_t layer) const;
  bool empty() const { return sequences_.empty(); }

  /// Everything as flat arrays, sorted by (record, layer, sequence): `key` [n, 4] (record, layer, sequence, tokens), `slots` [tokens] experts of
  /// each token, `expert` [slots]. Taking flat arrays adds to what is there.
  struct Flat {
    std::vector<std::int64_t> key, slots, expert;
  };
  Flat flat() const;
  void take(const Flat& flat);

 private:
  struct Sequence {
    std::vector<std::int32_t> slots;   ///< of each token
    std::vector<std::int32_t> expert;  ///< of each slot
  };
  std::map<std::tuple<std::int64_t, std::int64_t, std::int64_t>, Sequence> sequences_;
};

}  // namespace moesweep::routing
