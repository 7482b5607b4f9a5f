// See include/moesweep/routing/router.hpp.
#include "moesweep/routing/router.hpp"

#include <ATen/core/grad_mode.h>

#include <algorithm>

#include "moesweep/core/error.hpp"

namespace moesweep::routing {

namespace {

/// The group of each token when sequences are grouped: [T] i64.
at::Tensor per_token(const at::Tensor& of_sequence, const TokenLayout& tokens) { return of_sequence.repeat_interleave(tokens.length); }

at::Tensor load_shares(const at::Tensor& counts) {
  const at::Tensor c = counts.to(at::kDouble);
  return c / c.sum(-1, true).clamp_min(1.0);
}

/// The step of the bias that each unit asks for: the sum over non-empty units, and behind it their number. [E + 1] fp64.
at::Tensor bias_steps(const at::Tensor& counts, BiasRule rule) {
  const at::Tensor c = counts.to(at::kDouble);
  const at::Tensor mean = c.mean(-1, true);
  const at::Tensor filled = (mean > 0).to(at::kDouble);
  const at::Tensor wanted = rule == BiasRule::sign ? at::sign(mean - c) : (mean - c) / mean.clamp_min(1e-300);
  return at::cat({(wanted * filled).sum(0), filled.sum().view({1})});
}

}  // namespace

LayerRouter::LayerRouter(const RoutingConfig& config, std::int64_t layer, std::int64_t experts, std::int64_t domains, comm::Transport& gang)
    : config_(config), layer_(layer), experts_(experts), domains_(domains), gang_(&gang) {
  const auto add = [&](const BalanceConfig& term) {
    if (term.method != BalanceMethod::none) terms_.push_back({term, Scope(term.scope, gang)});
  };
  add(config.balance);
  for (const auto& term : config.balance.also) add(term);
  for (std::size_t i = 0; i < terms_.size(); ++i)
    if (terms_[i].config.method == BalanceMethod::expert_bias) bias_term_ = i;
  if (bias_term_) {
    bias_ = at::zeros({experts}, at::kDouble);
    bias_step_ = at::zeros({experts + 1}, at::kDouble);
  }
}

bool LayerRouter::needs_whole_step(Mode mode) const {
  // No method here chooses by its unit's other tokens: only the statistics of a training step can span passes.
  return mode == Mode::train && std::ranges::any_of(terms_, [](const Term& term) { return term.scope.spans_passes(); });
}

at::Tensor LayerRouter::choose(const Scores& scores) const {
  const TokenLayout& tokens = *scores.tokens;
  const at::Tensor& logits = scores.logits;
  switch (config_.select) {
    case Select::top_k:
      // Without a bias logits and scores have one order, and logits tell apart what a saturated score cannot.
      return top_k_indices(bias_.defined() ? scores_of(logits, config_.score) + bias_.to(logits.scalar_type()) : logits, config_.top_k);
    case Select::random: return random_experts(tokens, layer_, experts_, config_.top_k);
    case Select::reference: break;
  }
  // Reference: experts [d E/D, (d + 1) E/D) belong to domain d; with more than k of them the k best by score.
  const std::int64_t own = experts_ / domains_;
  const at::Tensor first = per_token(at::tensor(tokens.domain, at::kLong) * own, tokens).view({-1, 1});
  const at::Tensor allowed = first + at::arange(own, at::kLong);
  if (own == config_.top_k) return allowed;
  return allowed.gather(1, top_k_indices(logits.gather(1, allowed), config_.top_k));
}

std::vector<Decision> LayerRouter::decide(std::span<const Scores> passes, Mode mode) {
  const at::NoGradGuard no_gradient;
  std::vector<Decision> decisions(passes.size());
  const Scope micro_batches(ScopeKind::micro_batch, *gang_);
  for (std::size_t p = 0; p < passes.size(); ++p) {
    const TokenLayout& tokens = *passes[p].tokens;
    decisions[p].slots = slots_of(choose(passes[p]));
    decisions[p].counts = count_slots(decisions[p].slots, per_token(micro_batches.unit_of_sequence(tokens), tokens), micro_batches.units(tokens),
                                      experts_, tokens.mask);
  }
  if (mode != Mode::train) return decisions;

  for (const Term& term : terms_) {
    const bool is_bias = term.config.method == BalanceMethod::expert_bias;
    std::vector<at::Tensor> counts;
    for (std::size_t p = 0; p < passes.size(); ++p) {
      const TokenLayout& tokens = *passes[p].tokens;
      decisions[p].terms.push_back({{}, term.scope.unit_of_sequence(tokens)});
      // The loss counts the plain top-k, the bias what was chosen with it.
      const bool plain = !is_bias && bias_.defined();
      counts.push_back(count_slots(plain ? slots_of(top_k_indices(passes[p].logits, config_.top_k)) : decisions[p].slots,
                                   per_token(decisions[p].terms.back().unit, tokens), term.scope.units(tokens), experts_, tokens.mask));
    }
    const auto totals = term.scope.totals(std::move(counts));
    if (!is_bias) {
      for (std::size_t p = 0; p < passes.size(); ++p) decisions[p].terms.back().load = load_shares(totals[p]);
      continue;
    }
    // A unit that spans passes and ranks is the same everywhere and counts once; others add up over passes, and over ranks in end_step.
    const std::size_t seen = term.scope.spans_passes() ? std::min<std::size_t>(1, totals.size()) : totals.size();
    for (std::size_t p = 0; p < seen; ++p) bias_step_ += bias_steps(totals[p], term.config.rule);
  }
  return decisions;
}

Assignment LayerRouter::apply(const Scores& scores, const Decision& decision) const {
  const TokenLayout& tokens = *scores.tokens;
  const at::Tensor expert = decision.slots.by_token();
  Assignment assignment;
  assignment.slots = decision.slots;
  at::Tensor weight;
  if (config_.select == Select::reference && config_.reference_weights == ReferenceWeights::uniform)
    weight = at::full(expert.sizes(), config_.weight_scale / static_cast<double>(expert.size(1)), scores.logits.options());
  else weight = gate_weights(scores.logits, expert, config_.select == Select::top_k ? config_.score : Score::softmax_selected, config_.weight_scale);
  assignment.weight = weight.reshape({weight.numel()});
  if (decision.terms.size() != terms_.size()) return assignment;  // an evaluation: no losses

  at::Tensor probabilities;
  for (std::size_t i = 0; i < terms_.size(); ++i) {
    if (terms_[i].config.method != BalanceMethod::aux_loss) continue;
    if (!probabilities.defined()) probabilities = probabilities_of(scores.logits, config_.score);
    const UnitStatistics& units = decision.terms[i];
    const at::Tensor loss =
        aux_loss(probabilities, units.load, per_token(units.unit, tokens), tokens.mask, tokens.step_tokens) * terms_[i].config.weight;
    auto [place, fresh] = assignment.losses.try_emplace("balance", loss);
    if (!fresh) place->second = place->second + loss;
  }
  if (config_.z_loss_weight > 0) assignment.losses["z"] = z_loss(scores.logits, tokens.mask, tokens.step_tokens) * config_.z_loss_weight;
  return assignment;
}

void LayerRouter::end_step() {
  if (!bias_term_) return;
  const Term& term = terms_[*bias_term_];
  if (!term.scope.spans_ranks())
    gang_->all_reduce_sum(bias_step_.data_ptr(), static_cast<std::size_t>(bias_step_.numel()), DType::f64, "expert bias");
  const double units = bias_step_[experts_].item<double>();
  if (units > 0) bias_ += bias_step_.narrow(0, 0, experts_) * (term.config.rate / units);
  if (term.config.mean_centred) bias_ -= bias_.mean();
  bias_step_.zero_();
}

std::vector<std::pair<std::string, at::Tensor>> LayerRouter::state() {
  if (!bias_.defined()) return {};
  return {{"bias", bias_}};
}

}  // namespace moesweep::routing
