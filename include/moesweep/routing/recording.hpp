// Assignments by (record, layer, sequence): written down as a trial goes, replayed by another one.
#pragma once

#include <cstdint>
#include <limits>
#include <map>
#include <tuple>
#include <vector>

#include "moesweep/routing/scores.hpp"

namespace moesweep::routing {

class Recording {
 public:
  /// Adds the slots of a pass, dropped ones as such.
  void add(const TokenLayout& tokens, std::int64_t layer, const Slots& slots);
  /// Whether the layer's sequences [0, sequences) are there under that record.
  bool covers(std::int64_t record, std::int64_t layer, std::int64_t sequences) const;
  /// One more than the largest expert recorded; 0 when there is none.
  std::int64_t experts() const;
  /// The slots of a pass; a `data` error names a sequence that was never recorded or has another length.
  Slots find(const TokenLayout& tokens, std::int64_t layer) const;
  bool empty() const { return sequences_.empty(); }

  /// Everything as flat arrays, sorted by (record, layer, sequence): `key` [n, 4] (record, layer, sequence, tokens), `slots` [tokens] experts of
  /// each token, `expert` [slots], -1 - number for a dropped one.
  struct Flat {
    std::vector<std::int64_t> key, slots, expert;
  };
  Flat flat() const;

  /// What flat arrays from elsewhere may hold: records in [least_record, most_record], layers and experts below these numbers.
  struct Bounds {
    std::int64_t least_record = std::numeric_limits<std::int32_t>::min(), most_record = std::numeric_limits<std::int32_t>::max();
    std::int64_t layers = std::numeric_limits<std::int32_t>::max(), experts = std::numeric_limits<std::int32_t>::max();
  };
  /// Adds flat arrays to what is there; a key that is there already gets the new slots. A `corrupt` error, without a place, names array and
  /// element (`key[3]: ...`) when a number is out of bounds, a key comes twice, or the arrays do not fit together; then nothing was added.
  void take(const Flat& flat, const Bounds& bounds);
  void take(const Flat& flat) { take(flat, Bounds()); }

 private:
  struct Sequence {
    std::vector<std::int32_t> slots;   ///< of each token
    std::vector<std::int32_t> expert;  ///< of each slot, -1 - number where it was dropped
  };
  using Sequences = std::map<std::tuple<std::int64_t, std::int64_t, std::int64_t>, Sequence>;
  Sequences sequences_;
};

}  // namespace moesweep::routing
