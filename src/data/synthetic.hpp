// Synthetic domains: Markov chains over their own parts of the vocabulary, of exactly known entropy rate.
//
// A domain has n tokens: those that all domains share, and its own. With two shuffles a and b of 0 .. n-1,
//   P(next = j | now = i) = w[(b(j) - a(i)) mod n],   w[k] = (k + 1)^-s / sum.
// Each row holds the same numbers, so the entropy rate is the entropy of w whatever the state, and s is solved for it. Each column does too:
// the chain is doubly stochastic, and its stationary distribution is uniform, from which sequences start.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "moesweep/data/source.hpp"

namespace moesweep::data {

class MarkovChain {
 public:
  MarkovChain(const DataConfig& config, std::int64_t domain);

  std::int64_t states() const { return static_cast<std::int64_t>(token_of_.size()); }
  /// Vocabulary id of a state.
  std::int32_t token(std::int64_t state) const { return token_of_[static_cast<std::size_t>(state)]; }
  /// P(next state = to | state = from).
  double transition(std::int64_t from, std::int64_t to) const;
  /// The state after `from`, by a uniform in (0, 1).
  std::int64_t next(std::int64_t from, double uniform) const;
  /// Nats per token.
  double entropy_rate() const;

 private:
  std::vector<std::int32_t> token_of_;      ///< [n]
  std::vector<std::int64_t> row_shift_;     ///< a, [n]
  std::vector<std::int64_t> state_at_;      ///< the inverse of b, [n]
  std::vector<std::int64_t> column_shift_;  ///< b, [n]
  std::vector<double> weights_;             ///< w, [n]
  std::vector<double> cumulative_;          ///< sums of w, the last is 1, [n]
};

std::unique_ptr<Source> open_synthetic(const DataConfig& config);

}  // namespace moesweep::data
