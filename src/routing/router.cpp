// The composition of a strategy's parts. See include/moesweep/routing/router.hpp.
#include "moesweep/routing/router.hpp"

#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <utility>

#include "moesweep/core/error.hpp"

namespace moesweep::routing {

/// A part with its scope, and what it keeps between units and steps.
struct LayerRouter::Term {
  BalanceConfig config;
  Scope scope;
  Part* part = nullptr;
  std::unique_ptr<BalanceMethod> method;  ///< owns the part, but for the selection's own term
  at::Tensor running;                     ///< scope running: [1, C + 1], totals and tokens since the step began
  at::Tensor history;                     ///< scope history: [E] fp64, moving average of each expert's share of the statistics
  at::Tensor past;                        ///< scope history: [2] fp64, steps that it comes from, and moving average of the statistics of a token
  at::Tensor step;                        ///< scope history: [1, E + 1], this rank's totals and tokens of the step
  at::Tensor deferred;                    ///< [1, C + 1], this rank's totals and tokens where only the step's end needs them

  /// Statistics need all passes of a step at once.
  bool spans_passes() const {
    if (defers() || (!part->has_sums() && !part->observes_units())) return false;
    return config.scope == ScopeKind::history ? steps() == 0 : scope.spans_passes();
  }
  /// Sums over the whole step that no loss needs (a bias): they are totalled at its end, and passes need not wait for one another.
  bool defers() const { return config.scope == ScopeKind::global_batch && part->has_sums() && part->loss_name().empty() && !part->observes_units(); }
  double steps() const { return *past.const_data_ptr<double>(); }
};

namespace {

/// Rows of the counting tokens alone, with the sequence of each.
struct Counting {
  at::Tensor rows, sequence, place;  ///< place: their indices in the pass; undefined when all tokens count
};

Counting counting_rows(const at::Tensor& rows, const TokenLayout& tokens) {
  Counting counting{rows, tokens.sequence_of_token(), {}};
  if (!tokens.mask.defined()) return counting;
  counting.place = tokens.mask.nonzero().view({-1});
  counting.rows = rows.index_select(0, counting.place);
  counting.sequence = counting.sequence.index_select(0, counting.place);
  return counting;
}

/// Calls `function` on each unit's counting tokens' choice logits; the results are spread back to [T, C], zero where a token does not count.
std::vector<at::Tensor> map_choice(const Scope& scope, std::span<const PassView> passes, const Scope::UnitFunction& function) {
  std::vector<const TokenLayout*> layouts;
  std::vector<at::Tensor> rows, sequences;
  std::vector<Counting> counting;
  for (const PassView& pass : passes) {
    layouts.push_back(&pass.tokens());
    counting.push_back(counting_rows(pass.choice, pass.tokens()));
    rows.push_back(counting.back().rows);
    sequences.push_back(counting.back().sequence);
  }
  auto results = scope.map_units(layouts, rows, sequences, function);
  for (std::size_t p = 0; p < results.size(); ++p) {
    if (!results[p].defined() || !counting[p].place.defined()) continue;
    at::Tensor whole = at::zeros({passes[p].tokens().tokens(), results[p].size(1)}, results[p].options());
    whole.index_copy_(0, counting[p].place, results[p]);
    results[p] = whole;
  }
  return results;
}

bool is_scheduled(const RoutingConfig& config, const std::string& key) {
  return std::ranges::any_of(config.schedules, [&](const ScheduleConfig& schedule) { return schedule.key == key; });
}

/// A name that is not taken yet: `aux_loss`, `aux_loss_2`, ...
std::string fresh(const std::string& name, const std::vector<std::string>& taken) {
  std::string candidate = name;
  for (int i = 2; std::ranges::find(taken, candidate) != taken.end(); ++i) candidate = name + "_" + std::to_string(i);
  return candidate;
}

}  // namespace

LayerRouter::LayerRouter(LayerRouter&&) noexcept = default;
LayerRouter::~LayerRouter() = default;

LayerRouter::LayerRouter(const RoutingConfig& config, RouterPlace place, comm::Transport& gang)
    : config_(config), place_(std::move(place)), gang_(&gang) {
  config_.layers.clear();
  selection_ = make_selection({config_, config_.balance, place_});
  if (const RoutingConfig greedy = config_.in_evaluation(); greedy.select != config_.select)
    greedy_selection_ = make_selection({greedy, greedy.balance, place_});
  const auto add = [&](const BalanceConfig& term, Part* part, std::unique_ptr<BalanceMethod> method) {
    Term made{term, Scope(term.scope, gang), part != nullptr ? part : method.get(), std::move(method), {}, {}, {}, {}, {}};
    if (term.scope == ScopeKind::history && made.part->has_sums()) {
      made.history = at::zeros({place_.experts}, at::kDouble);
      made.past = at::zeros({2}, at::kDouble);
      made.step = at::zeros({1, place_.experts + 1}, at::kDouble);
    }
    terms_.push_back(std::move(made));
  };
  add(config_.balance, selection_.get(), nullptr);
  for (const BalanceConfig& term : config_.terms()) add(term, nullptr, make_balance_method({config_, term, place_}));
  const auto add_regulariser = [&](double weight, const char* key, auto&& make) {
    if (weight <= 0 && !is_scheduled(config_, key)) return;
    BalanceConfig term;
    term.scope = config_.regularise.scope;
    add(term, nullptr, make());
  };
  add_regulariser(config_.regularise.batch_entropy, "regularise.batch_entropy", make_batch_entropy);
  add_regulariser(config_.regularise.score_variance, "regularise.score_variance", make_score_variance);
  begin_step(0);
}

void LayerRouter::begin_step(std::int64_t step) {
  step_ = step;
  if (!config_.schedules.empty() || step == 0) {
    now_ = config_.at_step(step);
    greedy_ = now_.in_evaluation();
  }
  const auto terms = now_.terms();
  for (std::size_t i = 0; i < terms_.size(); ++i)
    terms_[i].part->begin_step(now_, i == 0 ? now_.balance : i <= terms.size() ? terms[i - 1] : terms_[i].config, step);
  if (greedy_selection_) greedy_selection_->begin_step(greedy_, greedy_.balance, step);
}

bool LayerRouter::balances_units(Mode mode) const { return mode != Mode::greedy || config_.evaluation.balancing; }

bool LayerRouter::needs_whole_step(Mode mode) const {
  if (mode == Mode::train && std::ranges::any_of(terms_, [](const Term& term) { return term.spans_passes(); })) return true;
  if (balances_units(mode) && std::ranges::any_of(terms_, [](const Term& term) {
        return term.method != nullptr && term.method->chooses_from_unit() && term.scope.spans_passes();
      }))
    return true;
  const Selection& selection = mode == Mode::greedy && greedy_selection_ ? *greedy_selection_ : *selection_;
  if (selection.needs_unit(mode) && terms_.front().scope.spans_passes()) return true;
  const RoutingConfig& config = mode == Mode::greedy ? greedy_ : now_;
  return config.capacity.factor && config.select != "expert_choice" && Scope(config.capacity.scope, *gang_).spans_passes();
}

bool LayerRouter::causal(Mode mode) const {
  if (mode == Mode::greedy ? sees_future_greedily(now_) : sees_future(now_, step_)) return false;
  const Selection& selection = mode == Mode::greedy && greedy_selection_ ? *greedy_selection_ : *selection_;
  if (selection.needs_unit(mode) || !selection.causal(mode)) return false;
  return std::ranges::all_of(terms_, [&](const Term& term) {
    return term.part->causal(mode) && (term.method == nullptr || !term.method->chooses_from_unit() || !balances_units(mode));
  });
}

bool LayerRouter::readings_differ() const {
  const auto& evaluation = config_.evaluation;
  if (evaluation.select != "same" || evaluation.top_k || evaluation.temperature || evaluation.capacity_factor != now_.capacity.factor) return true;
  if (selection_->needs_unit(Mode::evaluate)) return true;
  return !evaluation.balancing &&
         std::ranges::any_of(terms_, [](const Term& term) { return term.method != nullptr && term.method->chooses_from_unit(); });
}

PassView LayerRouter::view(const Scores& scores, Mode mode, const at::Tensor& noise) const {
  PassView pass;
  pass.scores = &scores;
  pass.config = mode == Mode::greedy ? &greedy_ : &now_;
  pass.place = &place_;
  pass.mode = mode;
  pass.logits = scores.logits;
  const RoutingConfig& config = *pass.config;
  pass.gate = pass.choice = config.temperature == 1.0 ? scores.logits : scores.logits / config.temperature;
  if (mode != Mode::train || (config.perturb != Perturb::gaussian && config.perturb != Perturb::gumbel)) return pass;
  const bool gumbel = config.perturb == Perturb::gumbel;
  pass.noise = noise;
  if (!noise.defined()) {
    const TokenLayout places = decision_layout(*scores.tokens, config.granularity, config.pool);
    const auto draw = gumbel ? gumbel_noise : gaussian_noise;
    pass.noise = draw(places, place_.layer, place_.experts, scores.logits.scalar_type());
  }
  if (gumbel) {
    pass.choice = pass.choice + pass.noise * config.noise.scale;
    return pass;
  }
  pass.noise_deviation = config.noise.learned ? (at::softplus(scores.noise_logits) + 1e-2) * config.noise.scale
                                              : at::full({}, config.noise.scale, scores.logits.options());
  pass.gate = pass.choice = pass.choice + pass.noise * pass.noise_deviation;
  if (config.noise.scale == 0) pass.noise_deviation = at::Tensor();
  return pass;
}

std::vector<Slots> LayerRouter::choose(std::span<PassView> passes, Mode mode) {
  const Selection& selection = mode == Mode::greedy && greedy_selection_ ? *greedy_selection_ : *selection_;
  std::vector<Slots> slots(passes.size());
  if (passes.empty()) return slots;
  const RoutingConfig& config = *passes.front().config;
  if (selection.needs_unit(mode)) {
    const auto flags = map_choice(terms_.front().scope, passes, [&](const at::Tensor& rows) {
      return rows.size(0) == 0 ? at::zeros(rows.sizes(), at::kBool) : selection.choose_from_unit(rows, config);
    });
    for (std::size_t p = 0; p < passes.size(); ++p) slots[p] = slots_of_flags(flags[p], passes[p].tokens().mask);
    return slots;
  }
  std::vector<at::Tensor> keys(passes.size());
  for (std::size_t p = 0; p < passes.size(); ++p) keys[p] = passes[p].choice;
  for (const Term& term : terms_) {
    if (term.method == nullptr) continue;
    if (term.method->chooses_from_unit()) {
      if (!balances_units(mode)) continue;
      keys = map_choice(term.scope, passes, [&](const at::Tensor& rows) { return rows.size(0) == 0 ? rows : term.method->unit_keys(rows, config); });
      continue;
    }
    for (std::size_t p = 0; p < passes.size(); ++p)
      if (const at::Tensor moved = term.method->keys(passes[p]); moved.defined()) keys[p] = moved;
  }
  for (std::size_t p = 0; p < passes.size(); ++p) {
    slots[p] = selection.choose(passes[p], keys[p]);
    passes[p].plain_top_k = config.select == "top_k" && keys[p].is_same(passes[p].choice);
  }
  return slots;
}

void LayerRouter::drop(std::span<PassView> passes) const {
  if (passes.empty()) return;
  const RoutingConfig& config = *passes.front().config;
  if (!config.capacity.factor || config.select == "expert_choice") return;
  const Scope scope(config.capacity.scope, *gang_);
  std::vector<const TokenLayout*> layouts;
  std::vector<at::Tensor> rows, sequences;
  for (const PassView& pass : passes) {
    const TokenLayout& tokens = pass.tokens();
    at::Tensor priority = at::zeros({pass.slots.expert.numel()}, at::kDouble);
    if (config.capacity.policy == CapacityPolicy::random) priority = capacity_priorities(tokens, place_.layer, pass.slots);
    else if (config.capacity.policy == CapacityPolicy::probability) priority = comparable(weigh(pass).weight.to(at::kDouble));
    // A row for each counting token, that units know how many there are, and behind it its slots: expert (-1), place among its choices, priority.
    const at::Tensor sequence = tokens.sequence_of_token(), mask = tokens.mask.defined() ? tokens.mask.contiguous() : tokens.mask;
    const bool* counts = mask.defined() ? mask.const_data_ptr<bool>() : nullptr;
    const at::Tensor offsets = pass.slots.offsets.contiguous(), experts = pass.slots.expert.contiguous();
    priority = priority.contiguous();
    const auto* begin = offsets.const_data_ptr<std::int64_t>();
    const auto* expert = experts.const_data_ptr<std::int64_t>();
    const auto* weight = priority.const_data_ptr<double>();
    const auto* of = sequence.const_data_ptr<std::int64_t>();
    std::vector<double> values;
    std::vector<std::int64_t> owner;
    values.reserve(static_cast<std::size_t>(3 * (tokens.tokens() + experts.numel())));
    for (std::int64_t t = 0; t < tokens.tokens(); ++t) {
      if (counts != nullptr && !counts[t]) continue;
      values.insert(values.end(), {-1.0, 0.0, 0.0});
      owner.push_back(of[t]);
      for (std::int64_t s = begin[t]; s < begin[t + 1]; ++s) {
        values.insert(values.end(), {static_cast<double>(expert[s]), static_cast<double>(s - begin[t]), weight[s]});
        owner.push_back(of[t]);
      }
    }
    layouts.push_back(&tokens);
    rows.push_back(at::tensor(values, at::kDouble).view({-1, 3}));
    sequences.push_back(at::tensor(owner, at::kLong));
  }
  const auto kept = scope.map_units(layouts, rows, sequences, [&](const at::Tensor& unit) {
    const at::Tensor all = unit.contiguous();
    const auto* value = all.const_data_ptr<double>();
    std::vector<CapacityRow> slots;
    std::int64_t token = -1;
    for (std::int64_t r = 0; r < all.size(0); ++r, value += 3) {
      if (value[0] < 0) ++token;
      else slots.push_back({token, static_cast<std::int64_t>(value[0]), static_cast<std::int64_t>(value[1]), value[2]});
    }
    const std::int64_t k = config.select == "dense" ? place_.experts : config.top_k;
    const auto most = capacity_of(token + 1, k, place_.experts, *config.capacity.factor);
    const auto dropped = dropped_over_capacity(slots, place_.experts, most, config.capacity.policy);
    at::Tensor flags = at::zeros({all.size(0), 1}, at::kBool);
    auto* flag = flags.mutable_data_ptr<bool>();
    std::size_t next = 0;
    value = all.const_data_ptr<double>();
    for (std::int64_t r = 0; r < all.size(0); ++r, value += 3)
      if (value[0] >= 0) flag[r] = dropped[next++];
    return flags;
  });
  for (std::size_t p = 0; p < passes.size(); ++p) passes[p].slots.dropped = kept[p].view({-1}).masked_select(rows[p].select(1, 0) >= 0).contiguous();
}

std::vector<UnitStatistics> LayerRouter::statistics(Term& term, std::span<const PassView> passes) {
  std::vector<UnitStatistics> statistics(passes.size());
  for (std::size_t p = 0; p < passes.size(); ++p) statistics[p].unit = term.scope.unit_of_sequence(passes[p].tokens());
  if (term.part->observes_units())
    map_choice(term.scope, passes, [&](const at::Tensor& rows) {
      if (term.scope.speaks()) term.part->observe_unit(rows);
      return at::Tensor();
    });
  if (!term.part->has_sums()) return statistics;

  // The last column counts tokens.
  std::vector<at::Tensor> sums;
  for (std::size_t p = 0; p < passes.size(); ++p) {
    const TokenLayout& tokens = passes[p].tokens();
    const std::int64_t units = term.scope.units(tokens);
    const at::Tensor unit = tokens.spread(statistics[p].unit);
    sums.push_back(at::cat({term.part->sums(passes[p], unit, units), tokens_of_units(tokens, statistics[p].unit, units).view({-1, 1})}, 1));
  }
  if (sums.empty()) return statistics;
  if (term.defers()) {
    if (!term.deferred.defined()) term.deferred = at::zeros_like(sums.front());
    for (const at::Tensor& sum : sums) term.deferred += sum;
    return statistics;
  }
  const std::int64_t columns = sums.front().size(1) - 1;
  if (term.config.scope == ScopeKind::history) {
    MOESWEEP_ASSERT(columns == place_.experts, "scope history keeps one number for each expert");
    for (const at::Tensor& sum : sums) term.step += sum.sum(0, true);
  }
  const bool from_history = term.config.scope == ScopeKind::history && term.steps() > 0;
  std::vector<at::Tensor> totals;
  if (from_history) {
    const at::Tensor row = at::cat({term.history * term.past[1], at::ones({1}, at::kDouble)}).view({1, -1});
    totals.assign(passes.size(), row);
  } else {
    totals = term.scope.totals(std::move(sums));
  }
  for (std::size_t p = 0; p < passes.size(); ++p) {
    statistics[p].own_tokens = totals[p].select(1, columns).clone();
    if (term.config.scope == ScopeKind::running) {
      if (!term.running.defined()) term.running = at::zeros({1, columns + 1}, at::kDouble);
      if (totals[p].size(0) > 0) {
        totals[p] = totals[p].cumsum(0) + term.running;
        term.running = totals[p].narrow(0, totals[p].size(0) - 1, 1).clone();
      }
    }
    statistics[p].totals = totals[p].narrow(1, 0, columns);
    statistics[p].tokens = totals[p].select(1, columns);
  }
  // A unit that spans passes is the same in each of them.
  if (term.scope.speaks())
    for (std::size_t p = 0; p < (term.scope.spans_passes() ? std::size_t{1} : passes.size()); ++p) term.part->observe(statistics[p]);
  return statistics;
}

std::vector<Decision> LayerRouter::decide(std::span<const Scores> passes, Mode mode) {
  const at::NoGradGuard no_gradient;
  std::vector<PassView> views;
  for (const Scores& scores : passes) views.push_back(view(scores, mode));
  auto slots = choose(views, mode);
  for (std::size_t p = 0; p < views.size(); ++p) views[p].slots = std::move(slots[p]);
  drop(views);

  std::vector<Decision> decisions(passes.size());
  const Scope micro_batches(ScopeKind::micro_batch, *gang_);
  for (std::size_t p = 0; p < passes.size(); ++p) {
    const TokenLayout& tokens = *passes[p].tokens;
    decisions[p].slots = views[p].slots;
    if (passes.size() == 1) decisions[p].noise = views[p].noise;
    decisions[p].counts =
        count_slots(views[p].slots, tokens.spread(micro_batches.unit_of_sequence(tokens)), micro_batches.units(tokens), place_.experts, tokens.mask);
  }
  if (mode != Mode::train) return decisions;
  for (Term& term : terms_) {
    auto units = statistics(term, views);
    for (std::size_t p = 0; p < passes.size(); ++p) decisions[p].terms.push_back(std::move(units[p]));
  }
  return decisions;
}

Assignment LayerRouter::weigh(const PassView& pass) const {
  const Selection& selection = pass.mode == Mode::greedy && greedy_selection_ ? *greedy_selection_ : *selection_;
  Assignment assignment;
  assignment.slots = pass.slots;
  assignment.weight = selection.weights(pass);
  if (!assignment.weight.defined()) {
    const bool normalise = pass.config->score == Score::softmax_selected ||
                           std::ranges::all_of(terms_, [](const Term& term) { return term.method == nullptr || term.method->normalises_weights(); });
    assignment.weight = gate_weights(pass.gate, pass.slots, pass.config->score, pass.config->weight_scale, normalise);
  }
  return assignment;
}

Assignment LayerRouter::weigh(const Scores& scores, const Decision& decision, Mode mode) const {
  PassView pass = view(scores, mode, decision.noise);
  pass.slots = decision.slots;
  return weigh(pass);
}

Assignment LayerRouter::apply(const Scores& scores, const Decision& decision, Mode mode) const {
  const TokenLayout& tokens = *scores.tokens;
  PassView pass = view(scores, mode, decision.noise);
  pass.slots = decision.slots;
  Assignment assignment = weigh(pass);
  if (decision.terms.size() != terms_.size()) return assignment;  // an evaluation: no losses

  std::vector<std::string> taken{"z_loss", "token_entropy"};
  for (std::size_t i = 0; i < terms_.size(); ++i) {
    if (terms_[i].part->loss_name().empty()) continue;
    taken.push_back(fresh(terms_[i].part->loss_name(), taken));
    if (const at::Tensor loss = terms_[i].part->loss(pass, decision.terms[i]); loss.defined()) assignment.losses[taken.back()] = loss;
    for (auto& pooled : terms_[i].part->pooled(pass, decision.terms[i])) {
      pooled.loss = taken.back();
      assignment.pooled.push_back(std::move(pooled));
    }
  }
  const RoutingConfig& config = *pass.config;
  if (config.z_loss_weight > 0) assignment.losses["z_loss"] = z_loss(scores.logits, tokens.mask, tokens.step_tokens) * config.z_loss_weight;
  if (config.regularise.token_entropy > 0)
    assignment.losses["token_entropy"] = token_entropy(pass.probabilities(), tokens.mask, tokens.step_tokens) * config.regularise.token_entropy;
  return assignment;
}

std::vector<std::string> LayerRouter::loss_names() const {
  std::vector<std::string> names, taken{"z_loss", "token_entropy"};
  for (const Term& term : terms_) {
    if (term.part->loss_name().empty()) continue;
    taken.push_back(fresh(term.part->loss_name(), taken));
    names.push_back(taken.back());
  }
  const auto add = [&](const char* name, const char* key, double weight) {
    if (weight > 0 || is_scheduled(config_, key)) names.emplace_back(name);
  };
  add("z_loss", "z_loss_weight", config_.z_loss_weight);
  add("token_entropy", "regularise.token_entropy", config_.regularise.token_entropy);
  add("router_orthogonality", "regularise.router_orthogonality", config_.regularise.router_orthogonality);
  add("output_orthogonality", "regularise.output_orthogonality", config_.regularise.output_orthogonality);
  add("expert_router_coupling", "regularise.expert_router_coupling", config_.regularise.expert_router_coupling);
  return names;
}

void LayerRouter::end_step() {
  for (Term& term : terms_) {
    if (term.deferred.defined()) {
      const at::Tensor total = term.scope.totals({std::exchange(term.deferred, at::Tensor())}).front();
      const std::int64_t columns = total.size(1) - 1;
      const at::Tensor tokens = total.select(1, columns);
      if (term.scope.speaks()) term.part->observe({total.narrow(1, 0, columns), tokens, tokens, {}});
    }
    term.part->end_step(*gang_);
    term.running = at::Tensor();
    if (!term.history.defined()) continue;
    gang_->all_reduce_sum(term.step.data_ptr(), static_cast<std::size_t>(term.step.numel()), DType::f64, "load history");
    const at::Tensor totals = term.step[0].narrow(0, 0, term.history.numel());
    const double sum = totals.sum().item<double>(), tokens = term.step[0][term.history.numel()].item<double>();
    if (sum > 0) {
      const double kept = term.steps() == 0 ? 0.0 : term.config.history_decay;
      term.history.mul_(kept).add_(totals, (1.0 - kept) / sum);
      term.past[1] = kept * term.past[1] + (1.0 - kept) * sum / tokens;
      term.past[0] += 1;
    }
    term.step.zero_();
  }
}

std::vector<std::pair<std::string, at::Tensor>> LayerRouter::state() {
  std::vector<std::pair<std::string, at::Tensor>> all;
  std::vector<std::string> taken;
  for (Term& term : terms_) {
    auto own = term.part->state();
    if (term.history.defined()) {
      own.emplace_back("history", term.history);
      own.emplace_back("history_past", term.past);
    }
    for (auto& [name, tensor] : own) {
      taken.push_back(fresh(name, taken));
      all.emplace_back(taken.back(), tensor);
    }
  }
  return all;
}

}  // namespace moesweep::routing
