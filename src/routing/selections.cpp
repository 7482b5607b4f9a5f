// The built-in selections. See include/moesweep/routing/strategy.hpp; formulas and sources: README.md.
#include <algorithm>
#include <map>

#include "moesweep/core/error.hpp"
#include "moesweep/routing/parts.hpp"
#include "moesweep/routing/strategy.hpp"

namespace moesweep::routing {

namespace {

at::Tensor counted_slots(const PassView& pass, const at::Tensor& unit, std::int64_t units) {
  return count_slots(pass.slots, unit, units, pass.place->experts, pass.tokens().mask).to(at::kDouble);
}

class TopK final : public Selection {
 public:
  Slots choose(const PassView& pass, const at::Tensor& keys) const override {
    return slots_of(top_k_indices(keys, pass.config->top_k), pass.tokens().mask);
  }
};

class GroupTopK final : public Selection {
 public:
  Slots choose(const PassView& pass, const at::Tensor& keys) const override {
    // Groups are ranked by scores, so without a bias the keys are the scores, not the logits.
    const at::Tensor scores = keys.is_same(pass.choice) ? scores_of(keys, pass.config->score) : keys;
    return slots_of(top_k_indices(group_limited(scores, pass.config->groups, pass.config->top_k), pass.config->top_k), pass.tokens().mask);
  }
};

class GroupedTopK final : public Selection {
 public:
  Slots choose(const PassView& pass, const at::Tensor& keys) const override {
    return slots_of(grouped_top_k_indices(keys, pass.config->groups.count, pass.config->top_k), pass.tokens().mask);
  }
};

class TopP final : public Selection {
 public:
  Slots choose(const PassView& pass, const at::Tensor& keys) const override {
    return top_p_slots(probabilities_of(keys, pass.config->score), pass.config->top_p, pass.config->top_k, pass.tokens().mask);
  }
};

/// floor(factor k T / E + 1/2) best tokens of each expert.
at::Tensor experts_choose(const at::Tensor& scores, const RoutingConfig& config, double factor) {
  const auto tokens = static_cast<double>(scores.size(0)), experts = static_cast<double>(scores.size(1));
  const auto count = static_cast<std::int64_t>(factor * static_cast<double>(config.top_k) * tokens / experts + 0.5);
  return expert_choice_unit(comparable(scores), std::min(count, scores.size(0)));
}

/// Tokens take 0 to E experts; without their unit (greedy reading) they take their own k best.
class ExpertChoice final : public Selection {
 public:
  bool needs_unit(Mode mode) const override { return mode != Mode::greedy; }
  Slots choose(const PassView& pass, const at::Tensor& keys) const override {
    return slots_of(top_k_indices(keys, pass.config->top_k), pass.tokens().mask);
  }
  at::Tensor choose_from_unit(const at::Tensor& choice, const RoutingConfig& config) const override {
    return experts_choose(scores_of(choice, config.score), config, config.capacity.factor.value_or(1.0));
  }
};

/// Each expert takes tokens whose logit is above its cut-off, a debiased moving average of the quantiles that give it its share.
class Threshold final : public Selection {
 public:
  explicit Threshold(const StrategyContext& context)
      : raw_(at::zeros({context.place.experts}, at::kDouble)),
        updates_(at::zeros({1}, at::kDouble)),
        seen_(at::zeros({context.place.experts + 1}, at::kDouble)) {}

  void begin_step(const RoutingConfig& now, const BalanceConfig&, std::int64_t step) override {
    config_ = now.threshold;
    top_k_ = now.top_k;
    step_ = step;
  }
  bool needs_unit(Mode mode) const override { return mode != Mode::greedy && (step_ < config_.warmup_steps || updates() == 0); }
  Slots choose(const PassView& pass, const at::Tensor& keys) const override {
    if (updates() == 0) return slots_of(top_k_indices(keys, pass.config->top_k), pass.tokens().mask);  // greedily, before any cut-off exists
    const at::Tensor cut = raw_ / (1.0 - std::pow(config_.decay, updates()));
    return slots_of_flags(keys.to(at::kDouble) > cut, pass.tokens().mask);
  }
  at::Tensor choose_from_unit(const at::Tensor& choice, const RoutingConfig& config) const override { return experts_choose(choice, config, 1.0); }
  at::Tensor weights(const PassView& pass) const override {
    return gate_weights(pass.gate, pass.slots, Score::sigmoid, pass.config->weight_scale, /*normalise=*/false);
  }

  bool observes_units() const override { return true; }
  void observe_unit(const at::Tensor& choice) override {
    const std::int64_t tokens = choice.size(0), experts = choice.size(1);
    if (tokens == 0) return;
    const double share = static_cast<double>(tokens * top_k_) / static_cast<double>(experts);
    const at::Tensor quantile = column_quantile(choice, std::max<std::int64_t>(1, static_cast<std::int64_t>(share + 0.5)));
    seen_.narrow(0, 0, experts) += quantile * static_cast<double>(tokens);
    seen_[experts] += tokens;
  }
  void end_step(comm::Transport& gang) override {
    gang.all_reduce_sum(seen_.data_ptr(), static_cast<std::size_t>(seen_.numel()), DType::f64, "expert cut-offs");
    const std::int64_t experts = raw_.numel();
    if (const double tokens = seen_[experts].item<double>(); tokens > 0) {
      raw_.mul_(config_.decay).add_(seen_.narrow(0, 0, experts) * ((1.0 - config_.decay) / tokens));
      updates_ += 1;
    }
    seen_.zero_();
  }
  std::vector<std::pair<std::string, at::Tensor>> state() override { return {{"cut_off", raw_}, {"cut_off_updates", updates_}}; }

 private:
  double updates() const { return *updates_.const_data_ptr<double>(); }

  ThresholdConfig config_;
  std::int64_t top_k_ = 1, step_ = 0;
  at::Tensor raw_, updates_;  ///< [E] and [1]: persistent
  at::Tensor seen_;           ///< [E + 1]: this step's quantiles times tokens, and tokens
};

/// Active where the logit is positive; a load-weighted L1 penalty, whose weight adapts, keeps top_k active on average (ReMoE).
class Relu final : public Selection {
 public:
  explicit Relu(const StrategyContext& context)
      : penalty_(at::full({1}, context.routing.relu.penalty, at::kDouble)), seen_(at::zeros({2}, at::kDouble)) {}

  void begin_step(const RoutingConfig& now, const BalanceConfig&, std::int64_t) override {
    factor_ = now.relu.penalty_factor;
    top_k_ = now.top_k;
  }
  Slots choose(const PassView& pass, const at::Tensor& keys) const override { return slots_of_flags(keys > 0, pass.tokens().mask); }
  bool has_sums() const override { return true; }
  at::Tensor sums(const PassView& pass, const at::Tensor& unit, std::int64_t units) const override { return counted_slots(pass, unit, units); }
  void observe(const UnitStatistics& units) override {
    // Where totals reach back in time, their rate stands for the unit.
    const at::Tensor active = units.totals.sum(1), rate = active / units.tokens.clamp_min(1);
    seen_[0] += at::where(units.tokens == units.own_tokens, active, rate * units.own_tokens).sum();
    seen_[1] += units.own_tokens.sum();
  }
  std::string loss_name() const override { return "relu_l1"; }
  at::Tensor loss(const PassView& pass, const UnitStatistics& units) const override {
    const at::Tensor load = units.totals / units.tokens.clamp_min(1).view({-1, 1});
    const at::Tensor l1 = aux_loss(at::relu(pass.gate), load, pass.tokens().spread(units.unit), pass.tokens().mask, pass.tokens().step_tokens);
    return l1 * (penalty_.item<double>() / static_cast<double>(top_k_));
  }
  void end_step(comm::Transport& gang) override {
    gang.all_reduce_sum(seen_.data_ptr(), 2, DType::f64, "active experts");
    const double active = seen_[0].item<double>(), wanted = seen_[1].item<double>() * static_cast<double>(top_k_);
    if (wanted > 0 && active > wanted) penalty_ *= factor_;
    else if (active < wanted) penalty_ /= factor_;
    seen_.zero_();
  }
  std::vector<std::pair<std::string, at::Tensor>> state() override { return {{"relu_penalty", penalty_}}; }

 private:
  double factor_ = 1.2;
  std::int64_t top_k_ = 1;
  at::Tensor penalty_;  ///< [1], persistent
  at::Tensor seen_;     ///< active pairs and tokens of the step
};

/// A weight of scale / k for every slot.
at::Tensor uniform_weights(const PassView& pass) {
  return at::full({pass.slots.expert.numel()}, pass.config->weight_scale / static_cast<double>(pass.config->top_k), pass.gate.options());
}

class Hash final : public Selection {
 public:
  explicit Hash(const StrategyContext& context)
      : table_(hash_table(context.routing.hash_table, context.place.seed, context.place.layer, context.place.vocabulary, context.place.experts,
                          context.routing.top_k, context.place.token_frequency)) {}
  Slots choose(const PassView& pass, const at::Tensor&) const override {
    MOESWEEP_ASSERT(pass.tokens().ids.defined(), "hash routing needs token ids");
    return slots_of(table_.index_select(0, pass.tokens().ids).contiguous(), pass.tokens().mask);
  }
  at::Tensor weights(const PassView& pass) const override {
    return pass.config->hash_weights == ReferenceWeights::uniform ? uniform_weights(pass) : at::Tensor();
  }

 private:
  at::Tensor table_;  ///< [V, k]
};

class Random final : public Selection {
 public:
  Slots choose(const PassView& pass, const at::Tensor&) const override {
    const auto& config = *pass.config;
    const TokenLayout places = decision_layout(pass.tokens(), config.granularity, config.pool);
    return slots_of(random_experts(places, pass.place->layer, pass.place->experts, config.top_k), pass.tokens().mask);
  }
  at::Tensor weights(const PassView& pass) const override {
    return gate_weights(pass.gate, pass.slots, Score::softmax_selected, pass.config->weight_scale);
  }
};

/// Experts [d E/D, (d + 1) E/D) belong to domain d; the k best by logit, best first.
class Reference final : public Selection {
 public:
  Slots choose(const PassView& pass, const at::Tensor& keys) const override {
    const std::int64_t own = pass.place->experts / pass.place->domains, k = pass.config->top_k;
    const TokenLayout& tokens = pass.tokens();
    const at::Tensor first = tokens.spread(at::tensor(tokens.domain, at::kLong) * own).view({-1, 1});
    const at::Tensor allowed = first + at::arange(own, at::kLong);
    return slots_of(allowed.gather(1, top_k_indices(keys.gather(1, allowed), k)), tokens.mask);
  }
  at::Tensor weights(const PassView& pass) const override {
    if (pass.config->reference_weights == ReferenceWeights::uniform) return uniform_weights(pass);
    return gate_weights(pass.gate, pass.slots, Score::softmax_selected, pass.config->weight_scale);
  }
};

class Replay final : public Selection {
 public:
  explicit Replay(const StrategyContext& context) {
    MOESWEEP_ASSERT(context.place.recording != nullptr, "replay needs a recording");
    if (const std::int64_t experts = context.place.recording->experts(); experts > context.place.experts)
      throw Error(ErrorKind::data,
                  "the recorded assignments are of a model with " + std::to_string(experts) + " experts or more, this one has " +
                      std::to_string(context.place.experts),
                  context.routing.replay_from, "replay a trial of the same model.experts")
          .thrown_on_every_rank();
  }
  Slots choose(const PassView& pass, const at::Tensor&) const override { return pass.place->recording->find(pass.tokens(), pass.place->layer); }
};

class Dense final : public Selection {
 public:
  Slots choose(const PassView& pass, const at::Tensor& keys) const override {
    return slots_of(at::arange(keys.size(1), at::kLong).expand({keys.size(0), keys.size(1)}).contiguous(), pass.tokens().mask);
  }
};

std::map<std::string, MakeSelection>& registered() {
  static std::map<std::string, MakeSelection> makers;
  return makers;
}

template <class Part>
std::unique_ptr<Selection> plain(const StrategyContext&) {
  return std::make_unique<Part>();
}
template <class Part>
std::unique_ptr<Selection> from_context(const StrategyContext& context) {
  return std::make_unique<Part>(context);
}

}  // namespace

bool register_selection(const std::string& name, MakeSelection make, std::unique_ptr<Options> options) {
  register_strategy_name(StrategyKind::selection, name, std::move(options));
  registered().emplace(name, std::move(make));
  return true;
}

std::unique_ptr<Selection> make_selection(const StrategyContext& context) {
  static const std::map<std::string, MakeSelection> built_in{
      {"top_k", plain<TopK>},          {"group_top_k", plain<GroupTopK>},      {"grouped_top_k", plain<GroupedTopK>},
      {"top_p", plain<TopP>},          {"expert_choice", plain<ExpertChoice>}, {"threshold", from_context<Threshold>},
      {"relu", from_context<Relu>},    {"hash", from_context<Hash>},           {"random", plain<Random>},
      {"reference", plain<Reference>}, {"replay", from_context<Replay>},       {"dense", plain<Dense>}};
  for (const auto* makers : {&built_in, static_cast<const std::map<std::string, MakeSelection>*>(&registered())})
    if (const auto found = makers->find(context.routing.select); found != makers->end()) return found->second(context);
  throw Error(ErrorKind::internal, "no selection is called " + context.routing.select);
}

}  // namespace moesweep::routing
