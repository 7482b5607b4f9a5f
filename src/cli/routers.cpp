// `moesweep routers`: the presets with what they cost and need, and one of them part by part with its formulas.
#include <fmt/core.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <limits>
#include <memory>
#include <set>

#include "cli.hpp"
#include "moesweep/spec/presets.hpp"

namespace moesweep::cli {

namespace {

using namespace moesweep::routing;

bool one_of(const std::string& name, std::initializer_list<const char*> names) { return std::ranges::find(names, name) != names.end(); }

/// Selections with statistics of their own, over `balance.scope`.
bool has_unit(const RoutingConfig& config) { return one_of(config.select, {"expert_choice", "threshold", "relu"}); }

bool chooses_from_unit(const BalanceConfig& term) { return one_of(term.method, {"expert_bias_solved", "sinkhorn", "assignment"}); }

std::vector<BalanceConfig> terms_with_unit(const RoutingConfig& config) {
  std::vector<BalanceConfig> terms = config.terms();
  if (has_unit(config)) terms.insert(terms.begin(), config.balance);
  return terms;
}

template <class Action>
void each_range(const RoutingConfig& config, Action action) {
  action(config);
  for (const auto& [range, own] : config.layers) action(own);
}

/// What persists from step to step, and so goes into checkpoints.
std::vector<std::string> state_of(const RoutingConfig& config) {
  std::vector<std::string> names;
  const auto add = [&](const char* name) {
    if (std::ranges::find(names, name) == names.end()) names.emplace_back(name);
  };
  each_range(config, [&](const RoutingConfig& one) {
    if (one.select == "threshold") add("cut-offs");
    if (one.select == "relu") add("penalty");
    for (const BalanceConfig& term : terms_with_unit(one)) {
      if (one_of(term.method, {"expert_bias", "expert_bias_momentum"})) add("bias");
      if (term.method == "expert_bias_momentum") add("momentum");
      if (term.method == "quantile") add("thresholds");
      if (term.scope == ScopeKind::history) add("load");
    }
  });
  return names;
}

/// Whether a step of several passes needs a first phase without gradient: "no", "yes" or "at first".
std::string two_phases(const RoutingConfig& config) {
  bool always = false, at_first = false;
  each_range(config, [&](const RoutingConfig& one) {
    const auto scope = [&](ScopeKind kind) {
      always = always || kind == ScopeKind::global_batch;
      at_first = at_first || kind == ScopeKind::history;
    };
    for (const BalanceConfig& term : terms_with_unit(one)) {
      const bool bias = term.method == "expert_bias" || term.method == "expert_bias_momentum";
      if (!bias || term.scope == ScopeKind::history) scope(term.scope);  // a bias needs its counts at the end of the step only
    }
    if (one.regularise.batch_entropy > 0 || one.regularise.score_variance > 0) scope(one.regularise.scope);
    if (one.has_capacity() && one.select != "expert_choice") scope(one.capacity.scope);
  });
  return always ? "yes" : at_first ? "at first" : "no";
}

std::string causal_in_training(const RoutingConfig& config) {
  const bool first = sees_future(config, 0), later = sees_future(config, std::numeric_limits<std::int64_t>::max());
  return first == later ? (first ? "no" : "yes") : (first ? "no, then yes" : "yes, then no");
}

/// Work beside plain top-k, T tokens and E experts of a unit or pass.
std::vector<std::string> cost_of(const RoutingConfig& config) {
  std::vector<std::string> extra;
  const auto add = [&](std::string what) {
    if (std::ranges::find(extra, what) == extra.end()) extra.push_back(std::move(what));
  };
  each_range(config, [&](const RoutingConfig& one) {
    if (one_of(one.select, {"hash", "random", "reference", "replay"})) add("no choice to compute");
    if (one.select == "group_top_k" || one.select == "grouped_top_k") add("O(T E) group scores");
    if (one.select == "top_p") add("O(T E log E) sort");
    if (one.select == "expert_choice") add("O(T E log T) sort of the unit's scores");
    if (one.select == "threshold") add("O(T E) quantiles of the unit's logits a step");
    if (one.select == "dense") add("all E experts for each token");
    if (one.logits == Logits::cosine) add("a projection of width " + std::to_string(one.cosine_width));
    if (one.noise.learned) add("a second router matrix");
    if (one.perturb == Perturb::jitter) add("O(T d) random numbers");
    else if (one.perturb != Perturb::none) add("O(T E) random numbers");
    if (one.learning == Learning::resampled) add("new router weights a step");
    bool gathers = one.select == "expert_choice" || one.select == "threshold";
    for (const BalanceConfig& term : one.terms()) {
      if (one_of(term.method, {"aux_loss", "importance_load", "bandpass"})) add("O(T E) loss");
      if (one_of(term.method, {"expert_bias", "expert_bias_momentum"})) add("O(E) update a step");
      if (term.method == "sinkhorn") add("O(T E) a scaling iteration, at most " + std::to_string(term.iterations));
      if (term.method == "assignment") add("O(T E) a bidding round of an auction");
      if (term.method == "expert_bias_solved") add("10 times O(T E) top-k");
      if (term.method == "quantile") add("O(T E) quantiles of the unit's logits a step");
      gathers = gathers || chooses_from_unit(term) || term.method == "quantile";
    }
    if (gathers && one.balance.scope != ScopeKind::sequence && one.balance.scope != ScopeKind::micro_batch) add("one gather of the unit's logits");
    if (one.select == "relu") add("O(T E) loss");
    if (one.capacity.factor && one.select != "expert_choice") add("O(T k log T) capacity");
    if (one.regularise.batch_entropy > 0 || one.regularise.token_entropy > 0 || one.regularise.score_variance > 0 || one.z_loss_weight > 0)
      add("O(T E) regulariser");
    if (one.regularise.router_orthogonality > 0) add("O(E^2 d) regulariser");
    if (one.regularise.expert_router_coupling > 0) add("every router row through every expert");
    if (one.regularise.output_orthogonality > 0) add("O(T k^2 d) regulariser");
    if (one.extra_experts.shared > 0) add(fmt::format("{} shared expert{}", one.extra_experts.shared, one.extra_experts.shared == 1 ? "" : "s"));
  });
  if (two_phases(config) == "yes") add("with several passes a second forward");
  if (extra.empty()) extra.emplace_back("none");
  return extra;
}

// --- the composition, part by part ---

struct Line {
  std::string part, value, formula;
};

std::string number(double value) { return fmt::format("{:.6g}", value); }

std::string score_formula(Score score) {
  switch (score) {
    case Score::softmax: return "s = p = softmax_e(x)";
    case Score::softmax_selected: return "s = p = softmax_e(x); weights softmax over the chosen logits alone";
    case Score::sigmoid: return "s = sigmoid(x), p = s / sum_e s";
    case Score::sqrt_softplus: return "s = sqrt(log(1 + exp(x))), p = s / sum_e s";
    case Score::relu: return "s = R = max(x, 0), p = s / sum_e s";
  }
  return "";
}

std::string select_formula(const RoutingConfig& config) {
  const auto& select = config.select;
  const auto& groups = config.groups;
  if (select == "top_k") return "the k largest, ties to the lower expert";
  if (select == "group_top_k")
    return fmt::format("experts outside the best {} of {} groups ({}) are out, then the k largest", groups.keep, groups.count,
                       groups.score == GroupScore::top2_sum ? "by the sum of a group's two best"
                       : groups.score == GroupScore::max    ? "by a group's best"
                                                            : "by the sum of a group's k / keep best");
  if (select == "grouped_top_k") return fmt::format("the k / {} largest in each of {} groups", groups.count, groups.count);
  if (select == "top_p") return fmt::format("the smallest prefix of sorted p with sum >= {}, at least 1 and at most k experts", number(config.top_p));
  if (select == "expert_choice") return "expert e takes its C = min(T, floor(cf k T / E + 1/2)) best tokens of the unit by p[:, e]";
  if (select == "threshold")
    return fmt::format(
        "z = 1[x > cut]; q[e] = m-th largest of x[:, e], m = max(1, floor(T k / E + 1/2)); raw <- {} raw + {} q, cut = raw / (1 - b^n); "
        "expert choice in the first {} steps",
        number(config.threshold.decay), number(1 - config.threshold.decay), config.threshold.warmup_steps);
  if (select == "relu")
    return fmt::format(
        "active where x > 0; L1 = lambda E / (k T^2) sum_e c[e] sum_t R[t, e]; lambda from {}, times {} when more than k are active on "
        "average, divided when fewer",
        number(config.relu.penalty), number(config.relu.penalty_factor));
  if (select == "hash")
    return config.hash_table == HashTable::random ? "a fixed table from token id to k distinct experts, drawn at random"
                                                  : "a fixed table from token id to k distinct experts, by falling frequency into the least loaded";
  if (select == "random") return "k distinct experts, uniform by (seed, step, layer, sequence, position)";
  if (select == "reference") return "the token's domain d prescribes its experts: of the E / D from d E / D on, the k largest";
  if (select == "replay") return "the experts that were recorded";
  if (select == "dense") return "every expert";
  return "of a strategy registered from outside";
}

std::string weight_formula(const RoutingConfig& config) {
  std::string formula;
  const bool uniform = (config.select == "hash" && config.hash_weights == ReferenceWeights::uniform) ||
                       (config.select == "reference" && config.reference_weights == ReferenceWeights::uniform);
  if (uniform) formula = "1 / k";
  else if (config.select == "threshold") formula = "sigmoid(x)";
  else if (config.select == "relu") formula = "R";
  else if (config.select == "expert_choice" || config.select == "dense") formula = "p";
  else {
    const bool raw = std::ranges::any_of(config.terms(), [](const BalanceConfig& term) { return one_of(term.method, {"sinkhorn", "assignment"}); });
    switch (config.score) {
      case Score::softmax: formula = "p of the chosen, as it is"; break;
      case Score::softmax_selected: formula = "softmax over the chosen logits"; break;
      case Score::sigmoid:
      case Score::sqrt_softplus: formula = raw ? "s of the chosen, as it is" : "s / (sum of the chosen s + 1e-20), s itself if k = 1"; break;
      case Score::relu: formula = "R of the chosen"; break;
    }
  }
  if (config.perturb == Perturb::gumbel) formula += ", without the noise";
  if (config.weight_scale != 1) formula += fmt::format(", times {}", number(config.weight_scale));
  return formula;
}

std::string balance_formula(const BalanceConfig& term) {
  const auto& method = term.method;
  if (method == "aux_loss") {
    std::string formula = fmt::format("a E sum_e f[e] P[e], a = {}, f = c / sum c of plain top-k before dropping, P = mean_t p", number(term.weight));
    switch (term.convention) {
      case AuxConvention::moesweep: break;
      case AuxConvention::olmo:
      case AuxConvention::megablocks: formula += "; mean over layers"; break;
      case AuxConvention::transformers: formula += "; times k, layers pooled before the product"; break;
      case AuxConvention::gshard: formula += "; f from first choices only"; break;
    }
    return formula;
  }
  if (method == "importance_load")
    return fmt::format("w CV^2(sum_t {}[t, e]) + w CV^2(load[e]), w = {}, load[e] = sum_t Phi((x - kth excluding e) / sigma), counts without noise",
                       term.all_probabilities ? "p" : "G", number(term.weight));
  if (method == "bandpass")
    return fmt::format("w sum_e relu(lo - P[e]) + relu(P[e] - hi), w = {}, lo = {}, hi = {}", number(term.weight), number(term.low),
                       number(term.high));
  if (method == "expert_bias") {
    std::string formula = fmt::format("choice by s + b, weights by s; after each step b += u mean over units of {}, u = {}",
                                      term.rule == BiasRule::sign ? "sign(mean c - c)" : "(mean c - c) / mean c", number(term.rate));
    if (term.mean_centred) formula += ", then minus its mean";
    if (term.ffn_share) formula += fmt::format("; FFN experts are steered to {} of the slots, the others' bias stays", number(*term.ffn_share));
    return formula;
  }
  if (method == "expert_bias_momentum")
    return fmt::format("choice by s + b; d = lambda tanh({} (mean c - c) / mean c), centred; m <- {} m + {} d; b += m; lambda = {}",
                       number(term.sharpness), number(term.momentum), number(1 - term.momentum), number(term.rate));
  if (method == "expert_bias_solved")
    return "10 times from b = 0: b += .6 sd(x) / (1 + i/4) clamp((T k/E - c) / (T k/E), -1, 1) on x + b, in each unit by itself, then forgotten";
  if (method == "sinkhorn")
    return fmt::format(
        "top-k of d0 C d1, C = exp(x - rowmax); d0 = (1/T) / (C d1 + 1e-8), d1 = (1/E) / (C^T d0 + 1e-8) until mean |change of d1| <= {}, "
        "at most {} times; without gradient",
        number(term.tolerance), term.iterations);
  if (method == "assignment") return "the largest sum of logits with k distinct experts a token and T k / E tokens an expert, by an auction";
  if (method == "quantile")
    return fmt::format(
        "choice by x - beta; alpha[t] = (k+1)-th largest of x - beta, q[e] = (T k/E + 1)-th largest of x - alpha; after each step "
        "beta <- {} beta + {} q, minus its mean",
        number(term.decay), number(1 - term.decay));
  return "of a strategy registered from outside";
}

std::string granularity_formula(const RoutingConfig& config) {
  if (config.granularity == Granularity::batch) return "one decision for a micro-batch, by the mean of its tokens";
  if (config.granularity == Granularity::token) return "every token decides for itself";
  if (config.pool.by == Pooling::domain) return "one decision for a sequence, by its domain";
  if (config.pool.by == Pooling::mean) return "one decision for a sequence, by the mean of its tokens";
  return fmt::format("the mean of a sequence's first {} tokens decides for the rest; those route by themselves", config.pool.prefix_tokens);
}

std::string capacity_formula(const CapacityConfig& capacity) {
  const std::string kept = capacity.policy == CapacityPolicy::probability ? "the largest weights stay"
                           : capacity.policy == CapacityPolicy::position  ? "the earliest tokens stay"
                           : capacity.policy == CapacityPolicy::gshard    ? "first choices stay before second ones, earlier tokens first"
                                                                          : "a random part stays";
  return fmt::format("C = min(T, ceil(T k {} / E)) a unit of {}; {}, weights are not divided anew", number(*capacity.factor),
                     name_of_value(capacity.scope), kept);
}

std::string evaluation_in_words(const RoutingConfig& config) {
  const auto& evaluation = config.evaluation;
  std::vector<std::string> changes;
  if (evaluation.select != "same") changes.push_back("select " + evaluation.select);
  if (evaluation.top_k) changes.push_back(fmt::format("k = {}", *evaluation.top_k));
  if (evaluation.temperature) changes.push_back("temperature " + number(*evaluation.temperature));
  if (config.capacity.factor || evaluation.capacity_factor)
    changes.push_back(evaluation.capacity_factor ? "capacity factor " + number(*evaluation.capacity_factor) : "no capacity limit");
  if (config.perturb != Perturb::none) changes.emplace_back("no noise");
  const bool unit = std::ranges::any_of(config.terms(), chooses_from_unit);
  if (unit) changes.emplace_back(evaluation.balancing ? "the unit's method stays" : "plain top-k without the unit's method");
  if (config.select == "expert_choice") changes.emplace_back("top-k of p: other tokens are not seen");
  return changes.empty() ? "as in training" : fmt::format("{}", fmt::join(changes, ", "));
}

std::vector<Line> parts_of(const RoutingConfig& config) {
  std::vector<Line> lines;
  const auto add = [&](std::string part, std::string_view value, std::string formula) {
    lines.push_back({std::move(part), std::string(value), std::move(formula)});
  };
  add("granularity", name_of_value(config.granularity), granularity_formula(config));
  if (config.depth == Depth::shared_decision)
    add("depth", "shared_decision", "experts, weights and drops of the first MoE layer are used at every depth; its losses count once");
  if (config.depth == Depth::shared_weights)
    add("depth", "shared_weights",
        config.depth_block == 0 ? "all layers share one router matrix, each decides for itself"
                                : fmt::format("blocks of {} layers share one router matrix, each decides for itself", config.depth_block));
  add("logits", name_of_value(config.logits),
      config.logits == Logits::linear
          ? "x = W h"
          : fmt::format("x = (P h).e / (|P h| |e|) * min(exp(tau), 100), P to {} dimensions, tau learned from log 2", config.cosine_width));
  const std::string divided = config.temperature == 1 ? "x" : "x / " + number(config.temperature);
  switch (config.perturb) {
    case Perturb::none:
      if (config.temperature != 1) add("perturb", "none", "choice and weights by " + divided);
      break;
    case Perturb::gaussian:
      add("perturb", "gaussian",
          config.noise.learned ? fmt::format("choice by {} + {} n (softplus(x_noise) + 1e-2), n ~ N(0, 1)", divided, number(config.noise.scale))
                               : fmt::format("choice by {} + {} n, n ~ N(0, 1)", divided, number(config.noise.scale)));
      break;
    case Perturb::gumbel:
      add("perturb", "gumbel",
          fmt::format("choice by {} + {} g, g standard Gumbel: samples k experts without replacement", divided, number(config.noise.scale)));
      break;
    case Perturb::jitter:
      add("perturb", "jitter", fmt::format("h times U(1 - {}, 1 + {})", number(config.noise.jitter), number(config.noise.jitter)));
      break;
  }
  add("score", name_of_value(config.score), score_formula(config.score));
  const std::string unit = has_unit(config) ? fmt::format(", over units of {}", name_of_value(config.balance.scope)) : "";
  add("select", config.select == "dense" ? "dense" : fmt::format("{}, k = {}", config.select, config.top_k), select_formula(config) + unit);
  if (config.capacity.factor && config.select != "expert_choice")
    add("cap", fmt::format("{}, factor {}", name_of_value(config.capacity.policy), number(*config.capacity.factor)),
        capacity_formula(config.capacity));
  if (config.capacity.factor && config.select == "expert_choice") add("cap", "factor " + number(*config.capacity.factor), "cf of the selection");
  add("weigh", config.weight_scale == 1 ? "gate" : "gate, scaled", weight_formula(config));
  const auto terms = config.terms();
  if (terms.empty()) add("balance", "none", has_unit(config) ? "the selection keeps its own balance" : "nothing pushes the load");
  for (const BalanceConfig& term : terms) add("balance", fmt::format("{} over {}", term.method, name_of_value(term.scope)), balance_formula(term));
  const auto& regularise = config.regularise;
  const auto scope = name_of_value(regularise.scope);
  if (config.z_loss_weight > 0) add("regularise", "z-loss", number(config.z_loss_weight) + " mean_t logsumexp_e(x)^2");
  if (regularise.batch_entropy > 0)
    add("regularise", fmt::format("batch entropy over {}", scope), fmt::format("-{} H(mean_t p)", number(regularise.batch_entropy)));
  if (regularise.token_entropy > 0) add("regularise", "token entropy", fmt::format("+{} mean_t H(p[t])", number(regularise.token_entropy)));
  if (regularise.router_orthogonality > 0)
    add("regularise", "router orthogonality", number(regularise.router_orthogonality) + " sum_{e, e'} |r_e . r_e' - delta|");
  if (regularise.output_orthogonality > 0)
    add("regularise", "output orthogonality",
        number(regularise.output_orthogonality) + " mean_t sum_{j != k} |<o_j, o_k> / <o_k, o_k> o_k|^2 over a token's expert outputs");
  if (regularise.score_variance > 0)
    add("regularise", fmt::format("score variance over {}", scope), fmt::format("-{} mean_e var_t s[t, e]", number(regularise.score_variance)));
  if (regularise.expert_router_coupling > 0)
    add("regularise", "expert-router coupling",
        fmt::format("{} / E^2 sum_{{i != j}} relu(M_ij - {} M_ii) + relu(M_ji - {} M_ii), M_ij = expert j's inner norm on router row i",
                    number(regularise.expert_router_coupling), number(regularise.coupling_margin), number(regularise.coupling_margin)));
  for (const ScheduleConfig& schedule : config.schedules) {
    const std::string span = fmt::format("{} to {}", number(schedule.start), number(schedule.end));
    add("schedule", schedule.key,
        schedule.kind == ScheduleKind::constant ? "always " + number(schedule.start)
        : schedule.kind == ScheduleKind::step
            ? fmt::format("{} at step {}", span, schedule.from_step)
            : fmt::format("{} from step {} to {}, {}", span, schedule.from_step, schedule.to_step, name_of_value(schedule.kind)));
  }
  switch (config.learning) {
    case Learning::learned: add("learning", "learned", "router weights follow the gradient"); break;
    case Learning::frozen: add("learning", "frozen", "router weights stay as they start; gradient still flows to h"); break;
    case Learning::resampled: add("learning", "resampled", "new router weights at each step; evaluation uses the last"); break;
    case Learning::imported: add("learning", "imported", "router weights of " + config.import_from + ", fixed"); break;
  }
  const auto& extra = config.extra_experts;
  std::vector<std::string> kinds;
  if (extra.zero > 0) kinds.push_back(fmt::format("{} zero: 0", extra.zero));
  if (extra.copy > 0) kinds.push_back(fmt::format("{} copy: h", extra.copy));
  if (extra.constant > 0) kinds.push_back(fmt::format("{} constant: a1 h + a2 v, [a1, a2] = softmax(W_c h)", extra.constant));
  if (extra.shared > 0) kinds.push_back(fmt::format("{} shared: FFN for every token", extra.shared));
  if (!kinds.empty()) add("experts", fmt::format("{} more", extra.routed() + extra.shared), fmt::format("{}", fmt::join(kinds, "; ")));
  add("evaluation", "greedy reading", evaluation_in_words(config));
  return lines;
}

std::string text_of(const std::vector<Line>& lines, const std::string& indent) {
  std::size_t part = 0, value = 0;
  for (const Line& line : lines) part = std::max(part, line.part.size()), value = std::max(value, line.value.size());
  std::string text;
  for (const Line& line : lines) text += fmt::format("{}{:<{}}  {:<{}}  {}\n", indent, line.part, part, line.value, value, line.formula);
  return text;
}

Json json_of(const std::vector<Line>& lines) {
  Json list = Json::array();
  for (const Line& line : lines) list.push_back({{"part", line.part}, {"value", line.value}, {"formula", line.formula}});
  return list;
}

Json json_of(const spec::Preset& preset, const RoutingConfig& config) {
  return {{"name", preset.name},
          {"description", preset.description},
          {"file", preset.path.string()},
          {"cost", cost_of(config)},
          {"causal_in_training", causal_in_training(config)},
          {"causal_greedily", !sees_future_greedily(config)},
          {"state", state_of(config)},
          {"two_phases", two_phases(config)}};
}

std::string joined(const std::vector<std::string>& words, const char* none) {
  return words.empty() ? none : fmt::format("{}", fmt::join(words, ", "));
}

void list_presets(bool as_json) {
  const auto presets = spec::router_presets();
  if (presets.empty())
    throw Error(ErrorKind::io, "no configs/routers folder was found", "", "set MOESWEEP_CONFIGS to the configs folder of moesweep");
  Json list = Json::array();
  std::vector<std::vector<std::string>> rows;
  for (const spec::Preset& preset : presets) {
    const RoutingConfig config = preset.load();
    list.push_back(json_of(preset, config));
    rows.push_back({preset.name, "causal: " + causal_in_training(config), std::string("greedy: ") + (sees_future_greedily(config) ? "no" : "yes"),
                    "state: " + joined(state_of(config), "none"), "two phases: " + two_phases(config), preset.description,
                    "extra cost: " + joined(cost_of(config), "none")});
  }
  if (as_json) print_json(list);
  else print(table(rows));
}

void explain(const std::string& name, bool as_json) {
  const spec::Preset preset = spec::find_router(name);
  RoutingConfig config = preset.load();
  Json json = json_of(preset, config);
  std::string text = fmt::format("{}: {}\n\n", preset.name, preset.description);
  const auto parts = parts_of(config);
  text += text_of(parts, "  ");
  json["parts"] = json_of(parts);
  for (const auto& [range, own] : config.layers) {
    const auto inner = parts_of(own);
    text += fmt::format("\n  MoE layers {} instead:\n{}", range, text_of(inner, "    "));
    json["layers"][range] = json_of(inner);
  }
  text += fmt::format(
      "\n  x logits [T, E] of a unit's T tokens, h the router's input, c[e] slots that chose e, k experts a token\n\n"
      "extra cost beside plain top-k: {}\ncausal in training: {}\ncausal in the greedy reading: {}\nstate: {}\ntwo phases with several passes: {}\n\n"
      "Use it as `routing: routers/{}.yaml`, in points, or on the command line: --router {}\n{}:\n\n{}",
      joined(cost_of(config), "none"), causal_in_training(config), sees_future_greedily(config) ? "no" : "yes", joined(state_of(config), "none"),
      two_phases(config), name, name, preset.path.string(), preset.yaml);
  json["yaml"] = preset.yaml;
  json["routing"] = fields_of(config).dump();
  if (as_json) print_json(json);
  else print(text);
}

}  // namespace

void add_routers(CLI::App& app, Invocation& invocation) {
  auto name = std::make_shared<std::string>();
  auto json = std::make_shared<bool>(false);
  CLI::App* sub = subcommand(app, "routers",
                             "The router presets in configs/routers, one line each: whether tokens see later ones in training and in the greedy\n"
                             "reading, what persists between steps, and what they cost beside plain top-k.",
                             "moesweep routers --explain deepseek_v3");
  sub->add_option("--explain", *name, "show one preset: its parts with their formulas, and its keys");
  sub->add_flag("--json", *json, "as JSON");
  sub->callback([name, json, &invocation] {
    if (name->empty()) list_presets(*json);
    else explain(*name, *json);
    invocation.exit_code = ExitCode::ok;
  });
}

}  // namespace moesweep::cli
