// The fields of a routing section, its schedules and ranges. See include/moesweep/routing/config.hpp.
#include "moesweep/routing/config.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <numbers>

#include "moesweep/core/error.hpp"

namespace moesweep::routing {

void BalanceConfig::list(FieldList& fields) {
  fields.add("method", method, strategy_names(StrategyKind::balance), "what pushes the load towards uniform");
  fields.add("scope", scope, "the tokens over which load is counted as one unit, and from which expert_choice, threshold and relu take theirs");
  fields.add("weight", weight, "weight of the balancing loss (aux_loss, importance_load, bandpass)").at_least(0);
  fields.add("rate", rate, "step of the bias at each optimizer step (expert_bias, expert_bias_momentum)").at_least(0);
  fields.add("rule", rule, "bias step by the sign of the load error, or in proportion to it (expert_bias)");
  fields.add("mean_centred", mean_centred, "subtract the mean from the bias after each step (expert_bias)");
  fields.add(
      "convention", convention,
      "whose normalisation (aux_loss): ours; olmo and megablocks: mean over layers; transformers: k times ours, layers pooled; gshard: load of "
      "first choices only");
  fields.add("all_probabilities", all_probabilities, "importance of all probabilities in place of the gates after top-k (importance_load)");
  fields.add("momentum", momentum, "share of the last step that is kept (expert_bias_momentum)").at_least(0).at_most(0.9999999);
  fields.add("sharpness", sharpness, "factor on the relative load error inside the tanh (expert_bias_momentum)").more_than(0);
  fields.add("ffn_share", ffn_share, "share of the slots that FFN experts are steered to beside zero, copy and constant ones (expert_bias)")
      .more_than(0)
      .at_most(1);
  fields.add("iterations", iterations, "at most so many (sinkhorn)").at_least(1);
  fields.add("tolerance", tolerance, "ends when the mean change of the expert scaling is below it (sinkhorn)").at_least(0);
  fields.add("decay", decay, "share of the old thresholds that each step keeps (quantile)").at_least(0).at_most(0.9999999);
  fields.add("low", low, "mean probability below which an expert is pushed up (bandpass)").at_least(0);
  fields.add("high", high, "mean probability above which an expert is pushed down (bandpass)").at_least(0);
  fields.add("history_decay", history_decay, "share of the old load that each step keeps (scope history)").at_least(0).at_most(0.9999999);
  options.list(fields);
}

void MainBalanceConfig::list(FieldList& fields) {
  BalanceConfig::list(fields);
  fields.add_sections("also", also, "further balancing terms beside the main one");
}

void PoolConfig::list(FieldList& fields) {
  fields.add("by", by, "what decides for a sequence: the mean of its tokens, of its first ones (which route by token themselves), or its domain");
  fields.add("prefix_tokens", prefix_tokens, "tokens of the prefix").at_least(1).in_unit("tokens");
}

void NoiseConfig::list(FieldList& fields) {
  fields.add("scale", scale, "standard deviation of gaussian noise, factor on gumbel noise").at_least(0);
  fields.add("learned", learned, "the deviation is softplus of a second matrix's logits + 1e-2, times scale (gaussian; Shazeer 2017)");
  fields.add("jitter", jitter, "the router's input is multiplied by U(1 - jitter, 1 + jitter) (perturb = jitter)").at_least(0).at_most(1);
}

void GroupConfig::list(FieldList& fields) {
  fields.add("count", count, "groups of neighbouring experts").at_least(1);
  fields.add("keep", keep, "groups that a token may use (group_top_k)").at_least(1);
  fields.add("score", score, "what ranks groups: their two best scores, the best, or the sum of the k / keep best (group_top_k)");
}

void ThresholdConfig::list(FieldList& fields) {
  fields.add("decay", decay, "share of the old cut-off that each step keeps").at_least(0).at_most(0.9999999);
  fields.add("warmup_steps", warmup_steps, "first steps, which route by expert choice").at_least(1).in_unit("steps");
}

void ReluConfig::list(FieldList& fields) {
  fields.add("penalty", penalty, "first weight of the load-weighted L1 penalty").at_least(0);
  fields.add("penalty_factor", penalty_factor, "the weight is multiplied or divided by it each step, towards top_k active experts").at_least(1);
}

void CapacityConfig::list(FieldList& fields) {
  fields.add("factor", factor, "an expert takes at most factor * tokens * top_k / experts tokens; none = no limit; for expert_choice: what it takes")
      .more_than(0);
  fields.add("policy", policy, "which slots are kept: the largest gate weights, the earliest tokens, first choices before second ones, or at random");
  fields.add("scope", scope, "the tokens over which capacity is counted");
}

void RegulariseConfig::list(FieldList& fields) {
  fields.add("batch_entropy", batch_entropy, "weight of -H(mean probability) over the scope").at_least(0);
  fields.add("token_entropy", token_entropy, "weight of the mean entropy of each token's probabilities").at_least(0);
  fields.add("scope", scope, "the tokens over which batch_entropy and score_variance are taken");
  fields.add("router_orthogonality", router_orthogonality, "weight of sum |R R^T - 1| over router rows (SimBal, arXiv 2506.14038)").at_least(0);
  fields.add("output_orthogonality", output_orthogonality, "weight of the projections between a token's expert outputs (arXiv 2505.22323)")
      .at_least(0);
  fields.add("score_variance", score_variance, "weight of the negative variance of each expert's scores over tokens (arXiv 2505.22323)").at_least(0);
  fields.add("expert_router_coupling", expert_router_coupling, "weight of the expert-router coupling loss (ERC, arXiv 2512.23447)").at_least(0);
  fields.add("coupling_margin", coupling_margin, "factor on an expert's own activation in the coupling loss").at_least(0);
}

void ExtraExperts::list(FieldList& fields) {
  fields.add("zero", zero, "routed experts that give nothing").at_least(0).at_most(65536);
  fields.add("copy", copy, "routed experts that give their input").at_least(0).at_most(65536);
  fields.add("constant", constant, "routed experts that mix their input with a learned vector (MoE++, arXiv 2410.07348)").at_least(0).at_most(65536);
  fields.add("shared", shared, "FFN experts that every token visits, beside model.shared_experts").at_least(0).at_most(1024);
}

void ScheduleConfig::list(FieldList& fields) {
  fields.add("key", key, "the number that changes, by its path inside routing: temperature, noise.scale, balance.weight, balance.also.0.rate, ...");
  fields.add("kind", kind, "the curve from start to end");
  fields.add("start", start, "value up to from_step");
  fields.add("end", end, "value from to_step on (step: from from_step on)");
  fields.add("from_step", from_step, "where the curve starts").at_least(0).at_most(1e9).in_unit("steps");
  fields.add("to_step", to_step, "where it ends").at_least(0).at_most(1e9).in_unit("steps");
}

void EvaluationRoutingConfig::list(FieldList& fields) {
  std::vector<std::string> selections{"same"};
  for (auto& name : strategy_names(StrategyKind::selection)) selections.push_back(std::move(name));
  fields.add("select", select, std::move(selections), "which experts a token visits in the greedy reading");
  fields.add("top_k", top_k, "experts a token visits in the greedy reading; none = as in training").at_least(1);
  fields.add("temperature", temperature, "temperature in the greedy reading; none = as in training").more_than(0);
  fields.add("capacity_factor", capacity_factor, "capacity factor in the greedy reading; none = no limit").more_than(0);
  fields.add("balancing", balancing, "methods that choose from a whole unit stay in force in the greedy reading");
}

void RoutingConfig::list(FieldList& fields) {
  fields.add("granularity", granularity, "what a decision is for: each token, a whole sequence, or a whole micro-batch");
  fields.add_section("pool", pool, "what stands for a sequence or micro-batch");
  fields.add("depth", depth, "each layer decides, all take the first one's decision, or blocks of layers share one router matrix");
  fields.add("depth_block", depth_block, "layers that share a router matrix (shared_weights); 0 = all").at_least(0);
  fields.add("logits", logits, "hidden states to logits: a matrix, or the cosine with expert vectors at a learned temperature");
  fields.add("cosine_width", cosine_width, "width of the space in which cosines are taken").at_least(1).at_most(65536);
  fields.add("score", score, "logits to scores: softmax over all experts, softmax of the chosen logits, sigmoid, sqrt(softplus), or relu");
  fields.add("perturb", perturb, "noise in training: on the logits, or (jitter) on the router's input");
  fields.add("temperature", temperature, "logits are divided by it before noise, choice and weights").more_than(0);
  fields.add_section("noise", noise, "the noise of perturb");
  fields.add("select", select, strategy_names(StrategyKind::selection), "which experts a token visits");
  fields.add("top_k", top_k, "experts a token visits").at_least(1);
  fields.add("top_p", top_p, "probability that a token's experts reach together (top_p; at most top_k experts)").more_than(0).at_most(1);
  fields.add_section("groups", groups, "groups of experts (group_top_k, grouped_top_k)");
  fields.add_section("threshold", threshold, "cut-off of each expert (threshold)");
  fields.add_section("relu", relu, "the penalty that keeps relu sparse (relu)");
  fields.add("hash_table", hash_table, "experts of a token id: at random, or by falling frequency to the least loaded (hash)");
  fields.add("hash_weights", hash_weights, "gate weights of hashed experts: uniform, or the gate's at those experts (hash)");
  fields.add("weight_scale", weight_scale, "factor on the gate weights").more_than(0);
  fields.add("reference_weights", reference_weights, "gate weights of the reference router: softmax over the domain's chosen experts, or uniform");
  fields.add("replay_from", replay_from, "trial.h5 with recorded assignments (replay)");
  fields.add("record", record, "write every assignment of the trial into its trial.h5, for replay").execution();
  fields.add("learning", learning, "router weights: learned, frozen as they start, drawn anew each step, or imported and fixed");
  fields.add("import_from", import_from, "checkpoint whose router weights are taken (imported)");
  fields.add("z_loss_weight", z_loss_weight, "weight of the router z-loss, mean of logsumexp(logits)^2 (arXiv 2202.08906)").at_least(0);
  fields.add_section("balance", balance, "the main balancing term");
  fields.add_section("capacity", capacity, "limit on the tokens of an expert, and which are dropped");
  fields.add_section("regularise", regularise, "losses on router and experts beside balancing");
  fields.add_section("extra_experts", extra_experts, "experts beside the model's");
  fields.add_sections("schedules", schedules, "numbers of this section that change over the steps");
  fields.add_section("evaluation", evaluation, "what the greedy reading does otherwise");
  fields.add_section_map("layers", layers, "MoE layers (`3`, `0-2`, from 0) with a routing of their own");
  options.list(fields);
}

namespace {

/// The numbers of a routing section that a schedule may move.
const char* const kSchedulable[] = {"temperature",
                                    "noise.scale",
                                    "noise.jitter",
                                    "top_k",
                                    "top_p",
                                    "weight_scale",
                                    "z_loss_weight",
                                    "balance.weight",
                                    "balance.rate",
                                    "capacity.factor",
                                    "regularise.batch_entropy",
                                    "regularise.token_entropy",
                                    "regularise.router_orthogonality",
                                    "regularise.output_orthogonality",
                                    "regularise.score_variance",
                                    "regularise.expert_router_coupling"};

/// Runs `action` on the field that a schedule's key names; false when there is none.
template <class Action>
bool with_scheduled_field(RoutingConfig& config, const std::string& key, Action&& action) {
  const std::string further = "balance.also";  // balance.also[0].weight, or balance.also.0.weight, which YAML takes without quotes
  if (key.starts_with(further) && key.size() > further.size()) {
    std::size_t index = 0;
    const char* end = key.data() + key.size();
    const auto [rest, code] = std::from_chars(key.data() + further.size() + 1, end, index);
    std::string_view tail(rest, static_cast<std::size_t>(end - rest));
    if (key[further.size()] == '[' && tail.starts_with(']')) tail.remove_prefix(1);
    else if (key[further.size()] != '.') return false;
    if (code != std::errc() || index >= config.balance.also.size() || (tail != ".weight" && tail != ".rate")) return false;
    const FieldList fields = fields_of(config.balance.also[index]);
    action(*fields.find(tail.substr(1)));
    return true;
  }
  if (std::ranges::find(kSchedulable, key) == std::end(kSchedulable)) return false;
  for (const Leaf& leaf : leaves_of(fields_of(config)))
    if (leaf.path == key) action(leaf.field);
  return true;
}

}  // namespace

double scheduled_value(const ScheduleConfig& schedule, std::int64_t step) {
  const auto after = static_cast<double>(step - schedule.from_step), length = static_cast<double>(schedule.to_step - schedule.from_step);
  if (schedule.kind == ScheduleKind::constant || step < schedule.from_step) return schedule.start;
  if (schedule.kind == ScheduleKind::step || step >= schedule.to_step) return schedule.end;
  const double share = after / length;
  const double curve = schedule.kind == ScheduleKind::linear ? share : 0.5 * (1 - std::cos(std::numbers::pi * share));
  return schedule.start + (schedule.end - schedule.start) * curve;
}

std::string refusal_of_schedule(const RoutingConfig& config, const ScheduleConfig& schedule, const std::string& path) {
  RoutingConfig copy = config;
  std::string reason;
  const bool known = with_scheduled_field(copy, schedule.key, [&](const Field& field) {
    for (const double value : {schedule.start, schedule.kind == ScheduleKind::constant ? schedule.start : schedule.end}) {
      const bool whole = field.type == FieldType::integer;
      const Json checked = whole ? Json(std::llround(value)) : Json(value);
      if (const auto wrong = check_value(field, checked); !wrong.empty() && reason.empty())
        reason = path + " takes routing." + schedule.key + " to " + canonical(checked) + ": " + wrong;
    }
  });
  if (!known) return path + ".key = " + schedule.key + " names no number that can be scheduled (temperature, noise.scale, balance.weight, ...)";
  const bool curved = schedule.kind == ScheduleKind::linear || schedule.kind == ScheduleKind::cosine;
  if (curved && schedule.to_step < schedule.from_step) return path + ".to_step lies before from_step";
  return reason;
}

RoutingConfig RoutingConfig::at_step(std::int64_t step) const {
  RoutingConfig now = *this;
  for (const ScheduleConfig& schedule : schedules) {
    const double value = scheduled_value(schedule, step);
    with_scheduled_field(now, schedule.key,
                         [&](const Field& field) { field.set(field.type == FieldType::integer ? Json(std::llround(value)) : Json(value)); });
  }
  return now;
}

RoutingConfig RoutingConfig::in_evaluation() const {
  RoutingConfig greedy = *this;
  if (evaluation.select != "same") greedy.select = evaluation.select;
  if (evaluation.top_k) greedy.top_k = *evaluation.top_k;
  if (evaluation.temperature) greedy.temperature = *evaluation.temperature;
  greedy.capacity.factor = evaluation.capacity_factor;
  greedy.perturb = Perturb::none;
  return greedy;
}

RoutingConfig RoutingConfig::of_layer(std::int64_t layer) const {
  RoutingConfig own = *this;
  for (const auto& [text, config] : layers)
    if (const auto range = layer_range(text); range && layer >= range->first && layer <= range->last) own = config;
  own.layers.clear();
  return own;
}

bool RoutingConfig::has_capacity() const {
  return capacity.factor || std::ranges::any_of(schedules, [](const ScheduleConfig& schedule) { return schedule.key == "capacity.factor"; });
}

std::vector<BalanceConfig> RoutingConfig::terms() const {
  std::vector<BalanceConfig> all;
  if (balance.method != "none") all.push_back(balance);
  for (const auto& term : balance.also)
    if (term.method != "none") all.push_back(term);
  return all;
}

std::optional<LayerRange> layer_range(const std::string& text) {
  LayerRange range;
  const char *begin = text.data(), *end = begin + text.size();
  auto read = std::from_chars(begin, end, range.first);
  if (read.ec != std::errc() || range.first < 0) return std::nullopt;
  range.last = range.first;
  if (read.ptr == end) return range;
  if (*read.ptr != '-') return std::nullopt;
  read = std::from_chars(read.ptr + 1, end, range.last);
  if (read.ec != std::errc() || read.ptr != end || range.last < range.first) return std::nullopt;
  return range;
}

}  // namespace moesweep::routing
