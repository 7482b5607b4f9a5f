// Derived values: arithmetic over the trial's own keys, `${model.experts} * 4` or `round(4096 / ${train.batch_sequences})`.
//   sum     := product { ("+" | "-") product }       product := factor { ("*" | "/" | "//" | "%") factor }
//   factor  := "-" factor | NUMBER | "${" KEY "}" | "(" sum ")" | FUNCTION "(" sum { "," sum } ")"
//   FUNCTION := min | max | round | floor | ceil | sqrt
// Integers stay integers: "/" of two is one where it leaves no remainder, "//" rounds down, "%" has the divisor's sign.
#pragma once

#include <cstddef>
#include <functional>
#include <vector>

#include "keys.hpp"
#include "node.hpp"

namespace moesweep::spec {

class Expression {
 public:
  /// The value of a leaf of the trial.
  using Lookup = std::function<Json(std::size_t leaf)>;

  /// Whether the scalar is a derived value: text with `${` at a key of numbers, quoted or not.
  static bool is_one(const Field& field, const Node& node);

  /// Grammar, keys and their types are checked here; a `config` error points into the text.
  static Expression parse(const Node& text);

  /// Leaves that it reads, in the order of `Keys`.
  const std::vector<std::size_t>& leaves() const { return leaves_; }

  /// Its value for the field at `path`, as `convert` would give it; what cannot be computed or does not fit is a `config` error.
  Json value(const Field& field, const std::string& path, const Lookup& lookup) const;

 private:
  Mark mark_;
  std::string text_;
  std::vector<std::size_t> leaves_;
  std::function<Json(const Lookup&)> compute_;
};

}  // namespace moesweep::spec
