// Conditions on a trial: `routing.balance.method == aux_loss and not (model.width >= 128 or scale in [x35])`.
//   expression := conjunction { "or" conjunction }      conjunction := negation { "and" negation }
//   negation   := "not" negation | "(" expression ")" | comparison
//   comparison := KEY | KEY OPERATOR (KEY | VALUE) | KEY ["not"] "in" "[" VALUE {"," VALUE} "]"      OPERATOR := == != < <= > >=
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "keys.hpp"
#include "node.hpp"

namespace moesweep::spec {

struct Document;

/// What a condition is asked of: a trial's leaves (in the order of `Keys`), and the set chosen in each group (empty: none).
struct Values {
  std::span<const Leaf> leaves;
  std::span<const std::string> sets;
  std::span<const std::size_t> unknown = {};  ///< leaves whose derived value cannot be computed: asking for one throws `UnknownValue`
};

struct UnknownValue {};

class Predicate {
 public:
  /// Keys, values and operators are checked here; a `config` error points into the text.
  static Predicate parse(const Node& text, const Document& document);

  bool operator()(const Values& values) const { return holds_(values); }

 private:
  std::function<bool(const Values&)> holds_;
};

}  // namespace moesweep::spec
