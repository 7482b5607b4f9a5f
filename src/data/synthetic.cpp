// See synthetic.hpp.
#include "synthetic.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "moesweep/core/error.hpp"
#include "moesweep/core/hash.hpp"
#include "moesweep/core/random.hpp"
#include "sequence_order.hpp"

namespace moesweep::data {

namespace {

// Streams of Purpose::synthetic_text: training text by the trial's seed, the rest by the data's own seed.
enum Lane : std::uint32_t { training_text = 0, validation_text = 1, row_shuffle = 2, column_shuffle = 3 };

double entropy_of(const std::vector<double>& weights) {
  double sum = 0;
  for (const double w : weights)
    if (w > 0) sum -= w * std::log(w);
  return sum;
}

std::vector<double> power_law(std::int64_t size, double exponent) {
  std::vector<double> weights(static_cast<std::size_t>(size));
  double total = 0;
  for (std::size_t k = 0; k < weights.size(); ++k) total += weights[k] = std::exp(-exponent * std::log1p(static_cast<double>(k)));
  for (double& w : weights) w /= total;
  return weights;
}

/// The power law whose entropy is `entropy`: bisection, since the entropy falls from log(size) to 0 as the exponent grows.
std::vector<double> power_law_of_entropy(std::int64_t size, double entropy) {
  double low = 0, high = 64;
  for (int i = 0; i < 80; ++i) {
    const double middle = (low + high) / 2;
    (entropy_of(power_law(size, middle)) > entropy ? low : high) = middle;
  }
  return power_law(size, (low + high) / 2);
}

std::vector<std::int64_t> shuffle(const DataConfig& config, std::int64_t domain, std::int64_t size, Lane lane) {
  std::vector<std::int64_t> order(static_cast<std::size_t>(size));
  std::iota(order.begin(), order.end(), 0);
  for (std::int64_t i = size - 1; i > 0; --i) {
    const auto words = random_words(static_cast<std::uint64_t>(config.synthetic.seed), Purpose::synthetic_text,
                                    {.sequence = static_cast<std::uint32_t>(domain), .position = static_cast<std::uint32_t>(i)}, lane);
    std::swap(order[static_cast<std::size_t>(i)], order[static_cast<std::size_t>(below(i + 1, words[0], words[1]))]);
  }
  return order;
}

class SyntheticSource final : public Source {
 public:
  explicit SyntheticSource(const DataConfig& config) : config_(config) {
    for (std::size_t d = 0; d < config.domains.size(); ++d) chains_.emplace_back(config, static_cast<std::int64_t>(d));
  }

  std::int64_t vocabulary() const override { return config_.vocabulary; }
  std::int64_t domains() const override { return static_cast<std::int64_t>(chains_.size()); }
  double bytes_per_token(std::int64_t) const override { return 1; }

  std::string digest() const override {
    DataConfig copy = config_;
    Json content = {{"generator", "moesweep-synthetic-1"}, {"vocabulary", copy.vocabulary}, {"domains", copy.domains.size()}};
    content["synthetic"] = fields_of(copy.synthetic).dump();
    return sha256_hex(canonical(content));
  }

  Batch training(std::int64_t seed, std::int64_t step, std::int64_t batch_sequences, std::int64_t first, std::int64_t count) const override {
    const auto slots = training_slots(seed, step, batch_sequences, domains(), first, count);
    return write(slots, first, static_cast<std::uint64_t>(seed), static_cast<std::uint32_t>(step), training_text);
  }

  Batch validation(std::int64_t first, std::int64_t count) const override {
    const auto slots = validation_slots(domains(), first, count);
    return write(slots, first, static_cast<std::uint64_t>(config_.synthetic.seed), 0, validation_text);
  }

  std::int64_t validation_sequences(std::int64_t tokens) const override {
    return validation_sequences_for(tokens, config_.sequence_length, domains());
  }

 private:
  Batch write(const std::vector<Slot>& slots, std::int64_t first, std::uint64_t seed, std::uint32_t step, Lane lane) const {
    const std::int64_t width = config_.sequence_length + 1;
    Batch batch{.length = config_.sequence_length, .tokens = {}, .domains = {}, .index = {}};
    batch.tokens.resize(slots.size() * static_cast<std::size_t>(width));
    for (std::size_t s = 0; s < slots.size(); ++s) {
      const std::int64_t index = first + static_cast<std::int64_t>(s);
      batch.domains.push_back(static_cast<std::int32_t>(slots[s].domain));
      batch.index.push_back(index);
      const MarkovChain& chain = chains_[static_cast<std::size_t>(slots[s].domain)];
      std::int32_t* row = batch.tokens.data() + s * static_cast<std::size_t>(width);
      std::int64_t state = 0;
      std::array<std::uint32_t, 4> words{};
      for (std::int64_t t = 0; t < width; ++t) {
        if (t % 2 == 0)
          words = random_words(seed, Purpose::synthetic_text,
                               {.step = step, .sequence = static_cast<std::uint32_t>(index), .position = static_cast<std::uint32_t>(t / 2)}, lane);
        const std::uint32_t high = words[t % 2 == 0 ? 0 : 2], low = words[t % 2 == 0 ? 1 : 3];
        state = t == 0 ? below(chain.states(), high, low) : chain.next(state, to_uniform(high, low));
        row[t] = chain.token(state);
      }
    }
    return batch;
  }

  DataConfig config_;
  std::vector<MarkovChain> chains_;
};

}  // namespace

MarkovChain::MarkovChain(const DataConfig& config, std::int64_t domain) {
  const auto count = static_cast<double>(config.vocabulary);
  const auto own = static_cast<std::int64_t>(std::floor(count * (1 - config.synthetic.shared_share) / static_cast<double>(config.domains.size())));
  const auto shared = static_cast<std::int64_t>(std::floor(count * config.synthetic.shared_share));
  const std::int64_t size = own + shared;
  for (std::int64_t i = 0; i < size; ++i) token_of_.push_back(static_cast<std::int32_t>(i < shared ? i : i + domain * own));
  row_shift_ = shuffle(config, domain, size, row_shuffle);
  column_shift_ = shuffle(config, domain, size, column_shuffle);
  state_at_.resize(column_shift_.size());
  for (std::size_t j = 0; j < column_shift_.size(); ++j) state_at_[static_cast<std::size_t>(column_shift_[j])] = static_cast<std::int64_t>(j);
  weights_ = power_law_of_entropy(size, config.synthetic.entropy);
  cumulative_.resize(weights_.size());
  std::partial_sum(weights_.begin(), weights_.end(), cumulative_.begin());
  cumulative_.back() = 1;
}

double MarkovChain::transition(std::int64_t from, std::int64_t to) const {
  const std::int64_t offset = column_shift_[static_cast<std::size_t>(to)] - row_shift_[static_cast<std::size_t>(from)];
  return weights_[static_cast<std::size_t>(offset < 0 ? offset + states() : offset)];
}

std::int64_t MarkovChain::next(std::int64_t from, double uniform) const {
  const auto offset = std::upper_bound(cumulative_.begin(), cumulative_.end() - 1, uniform) - cumulative_.begin();
  return state_at_[static_cast<std::size_t>((row_shift_[static_cast<std::size_t>(from)] + offset) % states())];
}

double MarkovChain::entropy_rate() const { return entropy_of(weights_); }

std::unique_ptr<Source> open_synthetic(const DataConfig& config) { return std::make_unique<SyntheticSource>(config); }

double synthetic_entropy_rate(const DataConfig& config, std::int64_t domain) {
  if (config.kind != DataKind::synthetic) throw Error(ErrorKind::config, "only synthetic domains have a known entropy rate");
  if (const auto why = refusal(config); !why.empty()) throw Error(ErrorKind::config, why);
  MOESWEEP_ASSERT(domain >= 0 && domain < static_cast<std::int64_t>(config.domains.size()), "no such domain");
  return MarkovChain(config, domain).entropy_rate();
}

}  // namespace moesweep::data
