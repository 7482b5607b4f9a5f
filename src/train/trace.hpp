// trace.h5: where single validation tokens went, layer by layer, with what they were and what was predicted. Layout: analysis/FORMAT.md.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "moesweep/comm/transport.hpp"
#include "moesweep/model/moe_model.hpp"
#include "moesweep/store/record.hpp"

namespace moesweep::train {

/// The first tokens of the validation set as one reading routed them: those of this rank's sequences.
class Trace {
 public:
  Trace() = default;
  Trace(std::int64_t tokens, bool logits) : tokens_(tokens), logits_(logits) {}

  /// Takes what a validation pass holds of them.
  void add(const model::PassInput& pass, const model::PassResult& result, const model::MoeModel& model);
  /// Collective. Every rank's tokens as arrays below `prefix`, by sequence and position, the same on each rank.
  std::vector<store::Array> arrays(comm::Transport& gang, const std::string& prefix) const;

 private:
  std::int64_t tokens_ = 0;
  bool logits_ = false;
  std::int64_t layers_ = 0, experts_ = 0;
  /// Token by token: sequence, position, token, target, predicted, domain, loss; then a layer each: slots, (expert, weight, dropped) of each slot,
  /// and the logits where they are wanted.
  std::vector<double> rows_;
};

}  // namespace moesweep::train
