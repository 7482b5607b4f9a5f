// The built-in balancing methods. See include/moesweep/routing/strategy.hpp; formulas and sources: README.md.
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>
#include <map>
#include <numbers>

#include "moesweep/core/error.hpp"
#include "moesweep/routing/parts.hpp"
#include "moesweep/routing/strategy.hpp"

namespace moesweep::routing {

const at::Tensor& PassView::probabilities() const {
  if (!probabilities_.defined()) probabilities_ = probabilities_of(logits, config->score);
  return probabilities_;
}

at::Tensor sums_of_features(const at::Tensor& features, const TokenLayout& tokens, const at::Tensor& unit, std::int64_t units) {
  at::Tensor wide = features.to(at::kDouble);
  if (tokens.mask.defined()) wide = wide.masked_fill(tokens.mask.logical_not().view({-1, 1}), 0.0);
  if (units == 1) return wide.sum(0, /*keepdim=*/true);
  return at::zeros({units, features.size(1)}, wide.options()).index_add(0, unit, wide);
}

at::Tensor tokens_of_units(const TokenLayout& tokens, const at::Tensor& unit, std::int64_t units) {
  std::vector<double> counting;
  for (std::int64_t s = 0; s < tokens.sequences; ++s) {
    const std::int64_t begin = tokens.begin_of(s), length = tokens.begin_of(s + 1) - begin;
    counting.push_back(static_cast<double>(tokens.mask.defined() ? tokens.mask.narrow(0, begin, length).sum().item<std::int64_t>() : length));
  }
  return at::zeros({units}, at::kDouble).index_add(0, unit, at::tensor(counting, at::kDouble));
}

at::Tensor loss_of_sums(const at::Tensor& features, const TokenLayout& tokens, const UnitStatistics& units,
                        const std::function<at::Tensor(const at::Tensor&, const at::Tensor&)>& value) {
  const std::int64_t count = units.totals.size(0);
  at::Tensor values, slopes;
  {
    const at::AutoGradMode with_gradient(true);
    at::Tensor totals = units.totals.detach().clone().set_requires_grad(true);
    values = value(totals, units.tokens.clamp_min(1));
    slopes = torch::autograd::grad({values.sum()}, {totals}, {}, std::nullopt, false, /*allow_unused=*/true)[0];
    values = values.detach();
  }
  const at::Tensor unit = tokens.spread(units.unit);
  const at::Tensor local = sums_of_features(features, tokens, unit, count);
  const at::Tensor mine = tokens_of_units(tokens, units.unit, count);
  const double step_tokens = static_cast<double>(tokens.step_tokens);
  // A unit's share in the step is its own tokens'; of its value this pass carries what its tokens are of them.
  at::Tensor loss = (values * mine).sum() / step_tokens;
  if (slopes.defined()) loss = loss + ((local - local.detach()) * slopes * (units.own_tokens / step_tokens).view({-1, 1})).sum();
  return loss.to(features.scalar_type());
}

namespace {

at::Tensor counted(const Slots& slots, const PassView& pass, const at::Tensor& unit, std::int64_t units) {
  return count_slots(slots, unit, units, pass.place->experts, pass.tokens().mask).to(at::kDouble);
}

/// a E sum_e f[e] P[e] of each unit (Switch, arXiv 2101.03961; over the global batch, arXiv 2501.11873).
class AuxLoss final : public BalanceMethod {
 public:
  void begin_step(const RoutingConfig& now, const BalanceConfig& term, std::int64_t) override {
    config_ = term;
    top_k_ = now.top_k;
  }
  bool has_sums() const override { return true; }
  at::Tensor sums(const PassView& pass, const at::Tensor& unit, std::int64_t units) const override {
    const bool first_only = config_.convention == AuxConvention::gshard;
    if (pass.plain_top_k && !first_only) return counted(pass.slots, pass, unit, units);
    const std::int64_t k = first_only ? 1 : std::min(top_k_, pass.choice.size(1));
    return counted(slots_of(top_k_indices(pass.choice.detach(), k), pass.tokens().mask), pass, unit, units);
  }
  std::string loss_name() const override { return "aux_loss"; }
  at::Tensor loss(const PassView& pass, const UnitStatistics& units) const override {
    if (config_.convention == AuxConvention::transformers) return {};
    const bool mean = config_.convention == AuxConvention::olmo || config_.convention == AuxConvention::megablocks;
    const double weight = config_.weight / (mean ? static_cast<double>(pass.place->layers) : 1.0);
    const TokenLayout& tokens = pass.tokens();
    return aux_loss(pass.probabilities(), load(units), tokens.spread(units.unit), tokens.mask, tokens.step_tokens) * weight;
  }
  std::vector<Assignment::Pooled> pooled(const PassView& pass, const UnitStatistics& units) const override {
    if (config_.convention != AuxConvention::transformers) return {};
    const TokenLayout& tokens = pass.tokens();
    const at::Tensor sums = sums_of_features(pass.probabilities(), tokens, tokens.spread(units.unit), units.totals.size(0));
    const double factor = config_.weight * static_cast<double>(pass.place->experts * top_k_);
    return {{loss_name(), factor, load(units), sums / static_cast<double>(tokens.step_tokens)}};
  }

 private:
  static at::Tensor load(const UnitStatistics& units) { return units.totals / units.totals.sum(-1, true).clamp_min(1e-300); }
  BalanceConfig config_;
  std::int64_t top_k_ = 1;
};

/// Population variance over squared mean of each row; 0 for a row of zeros.
at::Tensor squared_variation(const at::Tensor& rows) {
  const at::Tensor mean = rows.mean(-1, true);
  const at::Tensor safe = at::where(mean > 0, mean, at::ones_like(mean));
  return ((rows - mean) / safe).square().mean(-1);
}

/// w CV^2(importance) + w CV^2(load) of each unit (Shazeer 2017).
class ImportanceLoad final : public BalanceMethod {
 public:
  void begin_step(const RoutingConfig&, const BalanceConfig& term, std::int64_t) override { config_ = term; }
  bool has_sums() const override { return true; }
  at::Tensor sums(const PassView& pass, const at::Tensor& unit, std::int64_t units) const override {
    return sums_of_features(features(pass).detach(), pass.tokens(), unit, units);
  }
  std::string loss_name() const override { return "importance_load"; }
  at::Tensor loss(const PassView& pass, const UnitStatistics& units) const override {
    const std::int64_t experts = pass.place->experts;
    return loss_of_sums(features(pass), pass.tokens(), units, [&](const at::Tensor& totals, const at::Tensor&) {
      return (squared_variation(totals.narrow(1, 0, experts)) + squared_variation(totals.narrow(1, experts, experts))) * config_.weight;
    });
  }

 private:
  /// [T, 2E]: importance (gates after top-k, or all probabilities), then load (chance to be among the k best under fresh noise, or the choice).
  at::Tensor features(const PassView& pass) const {
    const std::int64_t k = pass.config->select == "top_k" ? pass.config->top_k : 0;
    at::Tensor importance;
    if (config_.all_probabilities) {
      importance = pass.probabilities();
    } else {
      const at::Tensor weight = gate_weights(pass.gate, pass.slots, pass.config->score, pass.config->weight_scale);
      const at::Tensor cell = pass.slots.token * pass.gate.size(1) + pass.slots.expert;
      importance = at::zeros({pass.gate.numel()}, weight.options()).index_add(0, cell, weight).view(pass.gate.sizes());
    }
    at::Tensor chosen = at::zeros({pass.gate.numel()}, at::kDouble);
    chosen.index_fill_(0, pass.slots.token * pass.gate.size(1) + pass.slots.expert, 1.0);
    chosen = chosen.view(pass.gate.sizes());
    at::Tensor load = chosen.to(importance.scalar_type());
    if (pass.noise_deviation.defined() && k > 0 && k < pass.gate.size(1)) {
      const at::Tensor best = std::get<0>(at::topk(pass.choice, k + 1, 1));
      const at::Tensor threshold = at::where(chosen > 0, best.narrow(1, k, 1), best.narrow(1, k - 1, 1));
      const at::Tensor clean = pass.config->temperature == 1.0 ? pass.logits : pass.logits / pass.config->temperature;
      load = at::special_ndtr((clean - threshold) / pass.noise_deviation);
    }
    return at::cat({importance, load}, 1);
  }
  BalanceConfig config_;
};

/// w sum_e relu(low - P[e]) + relu(P[e] - high) of each unit (arXiv 2509.14255).
class Bandpass final : public BalanceMethod {
 public:
  void begin_step(const RoutingConfig&, const BalanceConfig& term, std::int64_t) override { config_ = term; }
  bool has_sums() const override { return true; }
  at::Tensor sums(const PassView& pass, const at::Tensor& unit, std::int64_t units) const override {
    return sums_of_features(pass.probabilities().detach(), pass.tokens(), unit, units);
  }
  std::string loss_name() const override { return "bandpass"; }
  at::Tensor loss(const PassView& pass, const UnitStatistics& units) const override {
    return loss_of_sums(pass.probabilities(), pass.tokens(), units, [&](const at::Tensor& totals, const at::Tensor& tokens) {
      const at::Tensor mean = totals / tokens.view({-1, 1});
      return (at::relu(config_.low - mean) + at::relu(mean - config_.high)).sum(1) * config_.weight;
    });
  }

 private:
  BalanceConfig config_;
};

/// - w H(mean p) of each unit: a regulariser with a scope.
class BatchEntropy final : public BalanceMethod {
 public:
  void begin_step(const RoutingConfig& now, const BalanceConfig&, std::int64_t) override { weight_ = now.regularise.batch_entropy; }
  bool has_sums() const override { return true; }
  at::Tensor sums(const PassView& pass, const at::Tensor& unit, std::int64_t units) const override {
    return sums_of_features(pass.probabilities().detach(), pass.tokens(), unit, units);
  }
  std::string loss_name() const override { return "batch_entropy"; }
  at::Tensor loss(const PassView& pass, const UnitStatistics& units) const override {
    return loss_of_sums(pass.probabilities(), pass.tokens(), units, [&](const at::Tensor& totals, const at::Tensor& tokens) {
      const at::Tensor mean = totals / tokens.view({-1, 1});
      return (mean * mean.clamp_min(1e-300).log()).sum(1) * weight_;
    });
  }

 private:
  double weight_ = 0;
};

/// - w mean over experts of the variance of a unit's scores (arXiv 2505.22323): a regulariser with a scope.
class ScoreVariance final : public BalanceMethod {
 public:
  void begin_step(const RoutingConfig& now, const BalanceConfig&, std::int64_t) override { weight_ = now.regularise.score_variance; }
  bool has_sums() const override { return true; }
  at::Tensor sums(const PassView& pass, const at::Tensor& unit, std::int64_t units) const override {
    return sums_of_features(features(pass).detach().to(at::kDouble), pass.tokens(), unit, units);
  }
  std::string loss_name() const override { return "score_variance"; }
  at::Tensor loss(const PassView& pass, const UnitStatistics& units) const override {
    const std::int64_t experts = pass.place->experts;
    return loss_of_sums(features(pass), pass.tokens(), units, [&](const at::Tensor& totals, const at::Tensor& tokens) {
      const at::Tensor mean = totals / tokens.view({-1, 1});
      return (mean.narrow(1, 0, experts).square() - mean.narrow(1, experts, experts)).mean(1) * weight_;
    });
  }

 private:
  /// [T, 2E]: scores and their squares.
  static at::Tensor features(const PassView& pass) {
    const at::Tensor scores = scores_of(pass.logits, pass.config->score).to(at::kDouble);
    return at::cat({scores, scores.square()}, 1);
  }
  double weight_ = 0;
};

/// A bias on the choice alone, moved once a step by what each unit's load asks for (arXiv 2408.15664; with momentum: Trinity, 2602.17004).
class ExpertBias final : public BalanceMethod {
 public:
  ExpertBias(const StrategyContext& context, bool momentum)
      : ffn_experts_(context.place.ffn_experts),
        bias_(at::zeros({context.place.experts}, at::kDouble)),
        wanted_(at::zeros({context.place.experts + 1}, at::kDouble)) {
    if (momentum) momentum_ = at::zeros({context.place.experts}, at::kDouble);
  }
  void begin_step(const RoutingConfig&, const BalanceConfig& term, std::int64_t) override { config_ = term; }
  at::Tensor keys(const PassView& pass) const override { return scores_of(pass.choice, pass.config->score) + bias_.to(pass.choice.scalar_type()); }
  bool has_sums() const override { return true; }
  at::Tensor sums(const PassView& pass, const at::Tensor& unit, std::int64_t units) const override { return counted(pass.slots, pass, unit, units); }

  void observe(const UnitStatistics& units) override {
    const at::Tensor c = units.totals, slots = c.sum(-1, true), filled = (slots > 0).to(at::kDouble);
    const std::int64_t experts = bias_.numel();
    at::Tensor target = slots / static_cast<double>(experts);
    if (config_.ffn_share) target = slots * (*config_.ffn_share / static_cast<double>(ffn_experts_));
    const at::Tensor error = (target - c) / target.clamp_min(1e-300);
    at::Tensor step = momentum_.defined() ? at::tanh(error * config_.sharpness) : config_.rule == BiasRule::sign ? at::sign(target - c) : error;
    if (config_.ffn_share) step.narrow(1, ffn_experts_, experts - ffn_experts_).zero_();  // the budget steers FFN experts alone
    else if (momentum_.defined()) step = step - step.mean(-1, true);
    wanted_ += at::cat({(step * filled).sum(0), filled.sum().view({1})});
  }
  void end_step(comm::Transport& gang) override {
    gang.all_reduce_sum(wanted_.data_ptr(), static_cast<std::size_t>(wanted_.numel()), DType::f64, "expert bias");
    const std::int64_t experts = bias_.numel();
    const double units = wanted_[experts].item<double>();
    if (units > 0) {
      const at::Tensor step = wanted_.narrow(0, 0, experts) * (config_.rate / units);
      if (momentum_.defined()) bias_ += momentum_.mul_(config_.momentum).add_(step * (1.0 - config_.momentum));
      else bias_ += step;
      if (config_.mean_centred) {
        at::Tensor steered = bias_.narrow(0, 0, config_.ffn_share ? ffn_experts_ : experts);
        steered -= steered.mean();
      }
    }
    wanted_.zero_();
  }
  std::vector<std::pair<std::string, at::Tensor>> state() override {
    if (momentum_.defined()) return {{"bias", bias_}, {"bias_momentum", momentum_}};
    return {{"bias", bias_}};
  }

 private:
  BalanceConfig config_;
  std::int64_t ffn_experts_;
  at::Tensor bias_;      ///< [E], persistent
  at::Tensor momentum_;  ///< [E], persistent; undefined without momentum
  at::Tensor wanted_;    ///< [E + 1]: summed steps of the units seen since end_step, and their number
};

/// A bias found anew inside each unit and forgotten (ours): as local as its scope. Not to be mixed up with ExpertBias.
class SolvedBias final : public BalanceMethod {
 public:
  bool chooses_from_unit() const override { return true; }
  at::Tensor unit_keys(const at::Tensor& choice, const RoutingConfig& config) const override {
    return choice + solved_bias_unit(choice, config.top_k).to(choice.scalar_type());
  }
};

class Sinkhorn final : public BalanceMethod {
 public:
  void begin_step(const RoutingConfig&, const BalanceConfig& term, std::int64_t) override { config_ = term; }
  bool chooses_from_unit() const override { return true; }
  at::Tensor unit_keys(const at::Tensor& choice, const RoutingConfig&) const override {
    return sinkhorn_unit(choice, config_.iterations, config_.tolerance).keys;
  }
  bool normalises_weights() const override { return false; }

 private:
  BalanceConfig config_;
};

class BalancedAssignment final : public BalanceMethod {
 public:
  bool chooses_from_unit() const override { return true; }
  /// k for a token's best assigned expert, k - 1 for the next, ..., 0 elsewhere.
  at::Tensor unit_keys(const at::Tensor& choice, const RoutingConfig& config) const override {
    const at::Tensor expert = assignment_unit(choice, config.top_k).expert;
    at::Tensor keys = at::zeros_like(choice);
    return keys.scatter_(1, expert, at::arange(config.top_k, 0, -1, choice.options()).expand(expert.sizes()));
  }
  bool normalises_weights() const override { return false; }
};

/// Thresholds beta that take from each expert what lies above its share, found by quantiles of whole units (Megatron-Core).
class Quantile final : public BalanceMethod {
 public:
  explicit Quantile(const StrategyContext& context)
      : beta_(at::zeros({context.place.experts}, at::kDouble)), seen_(at::zeros({context.place.experts + 1}, at::kDouble)) {}
  void begin_step(const RoutingConfig& now, const BalanceConfig& term, std::int64_t) override {
    config_ = term;
    top_k_ = now.top_k;
  }
  at::Tensor keys(const PassView& pass) const override { return pass.choice - beta_.to(pass.choice.scalar_type()); }
  bool observes_units() const override { return true; }
  void observe_unit(const at::Tensor& choice) override {
    const std::int64_t tokens = choice.size(0), experts = choice.size(1);
    if (tokens == 0) return;
    if (tokens * top_k_ % experts != 0)
      throw Error(ErrorKind::data,
                  "quantile balancing needs a unit's slots (" + std::to_string(tokens * top_k_) + ") to be divisible by the " +
                      std::to_string(experts) + " experts",
                  "", "choose a scope or batch that divides");
    seen_.narrow(0, 0, experts) += quantile_unit(choice, beta_, top_k_) * static_cast<double>(tokens);
    seen_[experts] += tokens;
  }
  void end_step(comm::Transport& gang) override {
    gang.all_reduce_sum(seen_.data_ptr(), static_cast<std::size_t>(seen_.numel()), DType::f64, "quantile thresholds");
    const std::int64_t experts = beta_.numel();
    if (const double tokens = seen_[experts].item<double>(); tokens > 0) {
      beta_.mul_(config_.decay).add_(seen_.narrow(0, 0, experts) * ((1.0 - config_.decay) / tokens));
      beta_ -= beta_.mean();
    }
    seen_.zero_();
  }
  std::vector<std::pair<std::string, at::Tensor>> state() override { return {{"beta", beta_}}; }

 private:
  BalanceConfig config_;
  std::int64_t top_k_ = 1;
  at::Tensor beta_;  ///< [E], persistent
  at::Tensor seen_;  ///< [E + 1]: this step's quantiles times tokens, and tokens
};

std::map<std::string, MakeBalanceMethod>& registered() {
  static std::map<std::string, MakeBalanceMethod> makers;
  return makers;
}

template <class Method>
std::unique_ptr<BalanceMethod> plain(const StrategyContext&) {
  return std::make_unique<Method>();
}

}  // namespace

std::unique_ptr<BalanceMethod> make_batch_entropy() { return std::make_unique<BatchEntropy>(); }
std::unique_ptr<BalanceMethod> make_score_variance() { return std::make_unique<ScoreVariance>(); }

bool register_balance_method(const std::string& name, MakeBalanceMethod make, std::unique_ptr<Options> options) {
  register_strategy_name(StrategyKind::balance, name, std::move(options));
  registered().emplace(name, std::move(make));
  return true;
}

std::unique_ptr<BalanceMethod> make_balance_method(const StrategyContext& context) {
  static const std::map<std::string, MakeBalanceMethod> built_in{
      {"aux_loss", plain<AuxLoss>},
      {"importance_load", plain<ImportanceLoad>},
      {"bandpass", plain<Bandpass>},
      {"expert_bias", [](const StrategyContext& from) { return std::make_unique<ExpertBias>(from, false); }},
      {"expert_bias_momentum", [](const StrategyContext& from) { return std::make_unique<ExpertBias>(from, true); }},
      {"expert_bias_solved", plain<SolvedBias>},
      {"sinkhorn", plain<Sinkhorn>},
      {"assignment", plain<BalancedAssignment>},
      {"quantile", [](const StrategyContext& from) { return std::make_unique<Quantile>(from); }}};
  for (const auto* makers : {&built_in, static_cast<const std::map<std::string, MakeBalanceMethod>*>(&registered())})
    if (const auto found = makers->find(context.term.method); found != makers->end()) return found->second(context);
  throw Error(ErrorKind::internal, "no balancing method is called " + context.term.method);
}

}  // namespace moesweep::routing
