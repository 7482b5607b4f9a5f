// Which combinations of a strategy's parts make no sense, and why. See include/moesweep/routing/config.hpp.
#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <string_view>

#include "moesweep/routing/config.hpp"

namespace moesweep::routing {

// One of config.cpp's.
std::string refusal_of_schedule(const RoutingConfig& config, const ScheduleConfig& schedule, const std::string& path);

namespace {

bool one_of(std::string_view name, std::initializer_list<std::string_view> names) { return std::ranges::find(names, name) != names.end(); }

bool is_built_in(const std::string& select) {
  return one_of(select, {"top_k", "group_top_k", "grouped_top_k", "top_p", "expert_choice", "threshold", "relu", "hash", "random", "reference",
                         "replay", "dense"});
}
/// The choice does not depend on the logits.
bool ignores_logits(const std::string& select) { return one_of(select, {"hash", "random", "reference", "replay", "dense"}); }
/// Selections with a unit of their own, which `balance.scope` names.
bool has_unit(const std::string& select) { return one_of(select, {"expert_choice", "threshold", "relu"}); }
bool is_bias(const std::string& method) { return one_of(method, {"expert_bias", "expert_bias_momentum"}); }
/// Methods that change what is compared when experts are chosen: a router has at most one.
bool moves_choice(const std::string& method) {
  return is_bias(method) || one_of(method, {"expert_bias_solved", "sinkhorn", "assignment", "quantile"});
}
/// Methods that choose from a whole unit at once.
bool chooses_from_unit(const std::string& method) { return one_of(method, {"expert_bias_solved", "sinkhorn", "assignment"}); }
bool is_loss(const std::string& method) { return one_of(method, {"aux_loss", "importance_load", "bandpass"}); }
bool is_built_in_method(const std::string& method) { return is_loss(method) || moves_choice(method); }

/// Why a unit of that scope says nothing to the method (or to a selection that has a unit); empty where it does.
std::string refusal_of_scope(const std::string& method, ScopeKind scope, Granularity granularity) {
  if (scope == ScopeKind::running && (chooses_from_unit(method) || one_of(method, {"quantile", "expert_choice", "threshold"})))
    return "it chooses from a whole unit, and the counts since the step began are none";
  if (scope == ScopeKind::history) {
    if (chooses_from_unit(method) || method == "expert_choice")
      return "it chooses from a whole unit, and past steps' tokens cannot be chosen any more";
    if (one_of(method, {"quantile", "threshold"})) return "its cut-offs are a history themselves (decay)";
    if (one_of(method, {"importance_load", "bandpass", "batch_entropy", "score_variance"}))
      return "it is a function of the present probabilities, and no gradient flows through past ones";
  }
  if (granularity == Granularity::token) return "";
  if (one_of(method, {"assignment", "expert_choice", "threshold"}))
    return fmt::format("an expert's share of the unit's tokens would cut through a {} that has one decision",
                       granularity == Granularity::sequence ? "sequence" : "micro-batch");
  const bool one_decision_a_unit =
      scope == ScopeKind::sequence || (granularity == Granularity::batch && (scope == ScopeKind::micro_batch || scope == ScopeKind::running));
  if (one_decision_a_unit && !is_bias(method)) return "a unit with one decision cannot be balanced: its load is never uniform";
  return "";
}

std::string refusal_of_term(const RoutingConfig& config, const BalanceConfig& term, const std::string& path, const RoutedModel& model) {
  if (term.method == "none") {
    if (path.ends_with("]")) return fmt::format("{} names no method", path);
    if (has_unit(config.select)) {
      const auto reason = refusal_of_scope(config.select, term.scope, config.granularity);
      if (!reason.empty())
        return fmt::format("routing.select = {} with {}.scope = {} and routing.granularity = {}: {}", config.select, path, name_of_value(term.scope),
                           name_of_value(config.granularity), reason);
      return "";
    }
    if (!is_built_in(config.select) || term.scope == BalanceConfig{}.scope) return "";
    return fmt::format("{}.scope = {} says nothing with {}.method = none: leave the scope out (`when` or `exclude` keep it from that method)", path,
                       name_of_value(term.scope), path);
  }
  const auto refused = [&](const std::string& why) { return fmt::format("{}.method = {} {}", path, term.method, why); };
  if (has_unit(config.select))
    if (const auto reason = refusal_of_scope(config.select, config.balance.scope, config.granularity); !reason.empty())
      return fmt::format("routing.select = {} with routing.balance.scope = {} and routing.granularity = {}: {}", config.select,
                         name_of_value(config.balance.scope), name_of_value(config.granularity), reason);
  if (!is_built_in_method(term.method)) return "";
  if (ignores_logits(config.select))
    return refused(fmt::format("has nothing to balance with routing.select = {}: the choice does not depend on the logits", config.select));
  if (config.select == "expert_choice" || config.select == "threshold")
    return refused(fmt::format("has nothing to balance with routing.select = {}, which gives every expert its share itself", config.select));
  if (const auto reason = refusal_of_scope(term.method, term.scope, config.granularity); !reason.empty())
    return refused(fmt::format("with {}.scope = {} and routing.granularity = {}: {}", path, name_of_value(term.scope),
                               name_of_value(config.granularity), reason));
  if (is_bias(term.method)) {
    if (!one_of(config.select, {"top_k", "group_top_k", "grouped_top_k"}) && is_built_in(config.select))
      return refused(fmt::format("moves the choice of the k best, which routing.select = {} is not", config.select));
    if (term.method == "expert_bias" && term.rule == BiasRule::sign && config.score != Score::sigmoid && config.score != Score::sqrt_softplus)
      return fmt::format("{}.method = expert_bias with {}.rule = sign needs routing.score = sigmoid (set it, or rule = proportional)", path, path);
    if (term.ffn_share && config.extra_experts.routed() == 0)
      return fmt::format("{}.ffn_share needs zero, copy or constant experts (routing.extra_experts)", path);
  } else if (moves_choice(term.method) && config.select != "top_k") {
    return refused(fmt::format("chooses the k best itself: it needs routing.select = top_k, not {}", config.select));
  }
  if (term.method == "quantile") {
    // Every unit's slots must divide over the experts.
    const std::int64_t experts = model.experts + config.extra_experts.routed();
    const std::int64_t sequences = term.scope == ScopeKind::sequence       ? 1
                                   : term.scope == ScopeKind::global_batch ? model.batch_sequences
                                                                           : model.micro_batch_sequences;
    const std::int64_t slots = sequences * model.sequence_length * config.top_k;
    if (slots % experts != 0)
      return refused(fmt::format("needs a unit's slots ({} with {}.scope = {}) to be divisible by the {} experts", slots, path,
                                 name_of_value(term.scope), experts));
  }
  if (term.method == "bandpass" && term.low > term.high) return fmt::format("{}.low = {} lies above {}.high = {}", path, term.low, path, term.high);
  return "";
}

std::string refusal_of_selection(const RoutingConfig& config, const RoutedModel& model, std::int64_t experts) {
  const std::string& select = config.select;
  const auto needs_score = [&](Score score) {
    return config.score == score ? "" : fmt::format("routing.select = {} needs routing.score = {}", select, name_of_value(score));
  };
  if (config.top_k > experts) {
    if (experts == model.experts) return fmt::format("routing.top_k = {} is more than model.experts = {}", config.top_k, experts);
    return fmt::format("routing.top_k = {} is more than the {} routed experts", config.top_k, experts);
  }
  if ((select == "random" || select == "hash") && config.top_k > 1024)
    return fmt::format("routing.select = {} takes a routing.top_k of at most 1024", select);
  if (select == "group_top_k" || select == "grouped_top_k") {
    const auto& groups = config.groups;
    if (experts % groups.count != 0)
      return fmt::format("routing.select = {} needs the {} experts to be divisible by routing.groups.count = {}", select, experts, groups.count);
    const std::int64_t size = experts / groups.count;
    if (select == "group_top_k") {
      if (groups.keep > groups.count)
        return fmt::format("routing.groups.keep = {} is more than routing.groups.count = {}", groups.keep, groups.count);
      if (groups.keep * size < config.top_k)
        return fmt::format("routing.groups.keep = {} groups of {} experts are fewer than routing.top_k = {}", groups.keep, size, config.top_k);
      if (groups.score == GroupScore::megatron && config.top_k % groups.keep != 0)
        return fmt::format("routing.groups.score = megatron needs routing.top_k = {} to be divisible by routing.groups.keep = {}", config.top_k,
                           groups.keep);
    } else {
      if (config.top_k % groups.count != 0)
        return fmt::format("routing.select = grouped_top_k needs routing.top_k = {} to be divisible by routing.groups.count = {}", config.top_k,
                           groups.count);
      if (config.top_k / groups.count > size)
        return fmt::format("routing.select = grouped_top_k takes {} experts of a group, which has {}", config.top_k / groups.count, size);
      return needs_score(Score::softmax_selected);
    }
  }
  if (select == "expert_choice") return needs_score(Score::softmax);
  if (select == "threshold") return needs_score(Score::sigmoid);
  if (select == "relu") return needs_score(Score::relu);
  if (select == "top_p" && config.score != Score::softmax && config.score != Score::softmax_selected)
    return "routing.select = top_p adds probabilities up: it needs routing.score = softmax or softmax_selected";
  if (select == "replay" && config.replay_from.empty())
    return "routing.select = replay needs routing.replay_from, a trial.h5 with recorded assignments";
  if (select == "reference") {
    if (config.extra_experts.routed() > 0) return "routing.select = reference prescribes FFN experts: it takes no zero, copy or constant ones";
    if (model.domains < 1) return "routing.select = reference needs data with domains";
    if (experts % model.domains != 0)
      return fmt::format("routing.select = reference needs model.experts = {} to be divisible by the {} domains", experts, model.domains);
    if (experts / model.domains < config.top_k)
      return fmt::format("routing.select = reference has {} experts a domain, fewer than routing.top_k = {}", experts / model.domains, config.top_k);
  }
  return "";
}

std::string refusal_of_noise(const RoutingConfig& config) {
  if (config.perturb == Perturb::none) return config.noise.learned ? "routing.noise.learned needs routing.perturb = gaussian" : "";
  const auto perturb = name_of_value(config.perturb);
  if (ignores_logits(config.select))
    return fmt::format("routing.perturb = {} has nothing to perturb with routing.select = {}: the choice does not depend on the logits", perturb,
                       config.select);
  if (config.perturb != Perturb::jitter && (config.select == "threshold" || config.select == "relu"))
    return fmt::format("routing.select = {} works on raw logits: it takes no routing.perturb = {}", config.select, perturb);
  if (config.noise.learned && config.perturb != Perturb::gaussian) return "routing.noise.learned needs routing.perturb = gaussian";
  if (config.noise.learned && config.score != Score::softmax_selected)
    return "routing.noise.learned is the noisy top-k gate: it needs routing.score = softmax_selected";
  return "";
}

std::string refusal_of_granularity(const RoutingConfig& config, const RoutedModel& model, std::int64_t experts) {
  if (config.granularity == Granularity::token) {
    if (config.pool.by == Pooling::mean) return "";
    return fmt::format("routing.pool.by = {} says nothing with routing.granularity = token", name_of_value(config.pool.by));
  }
  const auto granularity = name_of_value(config.granularity);
  if (config.select == "hash") return fmt::format("routing.select = hash decides by token id: routing.granularity = {} has no token", granularity);
  if (config.granularity == Granularity::batch && config.pool.by != Pooling::mean)
    return fmt::format("routing.granularity = batch takes the mean of the micro-batch: it has no routing.pool.by = {}",
                       name_of_value(config.pool.by));
  if (config.granularity == Granularity::batch && config.select == "reference")
    return "routing.select = reference prescribes experts by sequence: a micro-batch holds several domains";
  if (config.granularity == Granularity::sequence && config.pool.by == Pooling::domain) {
    if (config.select != "reference") return "routing.pool.by = domain is language-guided routing: it needs routing.select = reference";
    if (experts != model.domains * config.top_k)
      return fmt::format("routing.pool.by = domain lets the domain alone decide: it needs model.experts = {} to be the {} domains times top_k = {}",
                         experts, model.domains, config.top_k);
  }
  return "";
}

std::string refusal_of_one(const RoutingConfig& config, const RoutedModel& model) {
  const std::int64_t experts = model.experts + config.extra_experts.routed();
  if (auto reason = refusal_of_selection(config, model, experts); !reason.empty()) return reason;
  if (auto reason = refusal_of_noise(config); !reason.empty()) return reason;
  if (auto reason = refusal_of_granularity(config, model, experts); !reason.empty()) return reason;
  if (auto reason = refusal_of_term(config, config.balance, "routing.balance", model); !reason.empty()) return reason;
  int moving = moves_choice(config.balance.method) ? 1 : 0;
  for (std::size_t i = 0; i < config.balance.also.size(); ++i) {
    const auto& term = config.balance.also[i];
    if (auto reason = refusal_of_term(config, term, fmt::format("routing.balance.also[{}]", i), model); !reason.empty()) return reason;
    moving += moves_choice(term.method) ? 1 : 0;
  }
  if (moving > 1) {
    if (is_bias(config.balance.method)) return "routing.balance and routing.balance.also name expert_bias more than once: a router has one bias";
    return "routing.balance and routing.balance.also name several methods that move the choice: a router has one";
  }
  if ((config.has_capacity() || config.evaluation.capacity_factor) &&
      (config.capacity.scope == ScopeKind::running || config.capacity.scope == ScopeKind::history))
    return fmt::format("routing.capacity.scope = {}: capacity is a share of a whole unit's tokens", name_of_value(config.capacity.scope));
  for (const auto& [name, weight] :
       {std::pair("batch_entropy", config.regularise.batch_entropy), {"score_variance", config.regularise.score_variance}})
    if (const auto reason = refusal_of_scope(name, config.regularise.scope, config.granularity); weight > 0 && !reason.empty())
      return fmt::format("routing.regularise.{} with routing.regularise.scope = {}: {}", name, name_of_value(config.regularise.scope), reason);
  if (config.regularise.router_orthogonality > 0 && config.logits == Logits::cosine)
    return "routing.regularise.router_orthogonality is about the rows of a linear router: routing.logits = cosine has none";
  if (config.regularise.expert_router_coupling > 0 && config.logits == Logits::cosine)
    return "routing.regularise.expert_router_coupling sends router rows through experts: routing.logits = cosine has none of that width";
  if (config.regularise.router_orthogonality > 0 && model.width > 0 && experts > model.width)
    return fmt::format("routing.regularise.router_orthogonality cannot make {} router rows of width {} orthogonal: it needs experts <= model.width",
                       experts, model.width);
  if (config.learning == Learning::imported && config.import_from.empty())
    return "routing.learning = imported needs routing.import_from, a checkpoint of another trial";
  if (config.learning != Learning::imported && !config.import_from.empty())
    return "routing.import_from says nothing without routing.learning = imported";
  if (config.depth != Depth::shared_weights && config.depth_block != 0)
    return "routing.depth_block says nothing without routing.depth = shared_weights";
  for (std::size_t i = 0; i < config.schedules.size(); ++i)
    if (auto reason = refusal_of_schedule(config, config.schedules[i], fmt::format("routing.schedules[{}]", i)); !reason.empty()) return reason;
  for (std::size_t i = 0; i < config.schedules.size(); ++i)
    for (std::size_t j = 0; j < i; ++j)
      if (config.schedules[i].key == config.schedules[j].key)
        return fmt::format("routing.schedules[{}] and [{}] both move {}", j, i, config.schedules[i].key);
  for (const auto& schedule : config.schedules) {
    if (schedule.key != "top_k") continue;
    if (config.select == "hash") return "routing.schedules takes top_k of routing.select = hash elsewhere: its table is for one top_k";
    // Every k on the way must make sense.
    const double start = schedule.start, end = schedule.kind == ScheduleKind::constant ? start : schedule.end;
    for (std::int64_t k = std::llround(std::min(start, end)); k <= std::llround(std::max(start, end)); ++k) {
      RoutingConfig then = config;
      then.schedules.clear();
      then.top_k = k;
      if (auto reason = refusal_of_one(then, model); !reason.empty()) return fmt::format("routing.schedules takes top_k to {}: {}", k, reason);
    }
  }
  if (config.select == "hash" && config.evaluation.select == "same" && config.evaluation.top_k && *config.evaluation.top_k != config.top_k)
    return "routing.evaluation.top_k differs from routing.top_k: the table of routing.select = hash is for one top_k";
  const RoutingConfig greedy = config.in_evaluation();
  if (has_unit(greedy.select) && greedy.select != config.select)
    return fmt::format("routing.evaluation.select = {}: the greedy reading chooses without seeing other tokens", greedy.select);
  if (auto reason = refusal_of_selection(greedy, model, experts); !reason.empty()) return "routing.evaluation: " + reason;
  return "";
}

}  // namespace

std::string refusal(const RoutingConfig& config, const RoutedModel& model) {
  if (auto reason = refusal_of_one(config, model); !reason.empty()) return reason;
  std::vector<bool> taken(static_cast<std::size_t>(model.moe_layers), false);
  for (const auto& [text, own] : config.layers) {
    const auto range = layer_range(text);
    const std::string path = "routing.layers." + text;
    if (!range) return fmt::format("{}: a range is a layer (`3`) or a first and a last one (`0-2`)", path);
    if (range->last >= model.moe_layers) return fmt::format("{}: there are {} MoE layers, numbered from 0", path, model.moe_layers);
    if (!own.layers.empty()) return fmt::format("{}: a range holds no ranges itself", path);
    for (std::int64_t layer = range->first; layer <= range->last; ++layer) {
      if (taken[static_cast<std::size_t>(layer)]) return fmt::format("{}: layer {} lies in another range too", path, layer);
      taken[static_cast<std::size_t>(layer)] = true;
    }
    if (auto reason = refusal_of_one(own, model); !reason.empty()) return fmt::format("{}: {}", path, reason);
    if (own.extra_experts.zero != config.extra_experts.zero || own.extra_experts.copy != config.extra_experts.copy ||
        own.extra_experts.constant != config.extra_experts.constant || own.extra_experts.shared != config.extra_experts.shared)
      return fmt::format("{}.extra_experts must be as in routing.extra_experts: layers have the same experts", path);
    if (own.depth != Depth::per_layer) return fmt::format("{}.depth: a range's layers decide one by one", path);
  }
  std::string replayed = config.select == "replay" || config.evaluation.select == "replay" ? config.replay_from : "";
  for (const auto& [text, own] : config.layers) {
    if (own.select != "replay" && own.evaluation.select != "replay") continue;
    if (!replayed.empty() && own.replay_from != replayed)
      return fmt::format("routing.layers.{}.replay_from = {}: a trial replays one record, and another layer names {}", text, own.replay_from,
                         replayed);
    replayed = own.replay_from;
  }
  if (!config.layers.empty() && config.depth != Depth::per_layer)
    return "routing.layers needs routing.depth = per_layer: ranges with a routing of their own share nothing";
  return "";
}

std::vector<Combination> combinations() {
  std::vector<Combination> cells;
  const RoutedModel model{8, 4, 2, 64, 16, 4, 16};
  for (const Granularity granularity : {Granularity::token, Granularity::sequence, Granularity::batch})
    for (const std::string method : {"aux_loss", "importance_load", "bandpass", "expert_bias", "expert_bias_momentum", "expert_bias_solved",
                                     "sinkhorn", "assignment", "quantile", "expert_choice", "threshold", "relu"})
      for (std::size_t scope = 0; scope < EnumNames<ScopeKind>::names.size(); ++scope) {
        RoutingConfig config;
        config.top_k = 2;
        config.granularity = granularity;
        config.balance.scope = static_cast<ScopeKind>(scope);
        if (is_built_in_method(method)) config.balance.method = method;
        else config.select = method;
        config.score = is_bias(method) || method == "threshold" ? Score::sigmoid : method == "relu" ? Score::relu : Score::softmax;
        const std::string whole = refusal(config, model);
        const std::string reason = whole.empty() ? "" : refusal_of_scope(method, config.balance.scope, granularity);
        cells.push_back({method, config.balance.scope, granularity, whole.empty() || !reason.empty() ? reason : whole});
      }
  return cells;
}

std::string combinations_markdown() {
  std::string text =
      "## Which method works over which scope\n\n"
      "`yes` is held by `ctest -R routing` (tests `Combinations.*`), at one, two and four ranks and over passes; a number is the reason of a "
      "refusal, "
      "below.\nThe last three are selections: `routing.balance.scope` is the scope of their own unit. `global_batch`, `micro_batch`, `sequence` and "
      "`history` are the\nsame on every layout; `group` and `running` depend on it by nature.\nDepth (`per_layer`, `shared_decision`, "
      "`shared_weights`) changes nothing here: with a shared decision the first MoE layer's is the one that counts.\n";
  std::vector<std::string> reasons;
  std::string row;
  Granularity granularity = Granularity::token;
  bool first = true;
  std::string method;
  for (const Combination& cell : combinations()) {
    if (first || cell.granularity != granularity) {
      granularity = cell.granularity;
      text += fmt::format(
          "{}\nGranularity `{}`:\n\n| method | sequence | micro_batch | group | global_batch | running | history |\n"
          "| --- | --- | --- | --- | --- | --- | --- |",
          first ? "" : " |\n", name_of_value(granularity));
      method.clear();
      first = true;
    }
    if (cell.method != method) text += fmt::format("{}\n| `{}`", first ? "" : " |", cell.method), method = cell.method;
    first = false;
    if (cell.reason.empty()) {
      text += " | yes";
      continue;
    }
    auto place = std::ranges::find(reasons, cell.reason);
    if (place == reasons.end()) place = reasons.insert(reasons.end(), cell.reason);
    text += fmt::format(" | refused ({})", place - reasons.begin() + 1);
  }
  text += " |\n\n";
  for (std::size_t i = 0; i < reasons.size(); ++i) text += fmt::format("{}. {}\n", i + 1, reasons[i]);
  return text + "\n";
}

bool sees_future(const RoutingConfig& config, std::int64_t step) {
  if (config.granularity == Granularity::batch) return true;
  if (config.granularity == Granularity::sequence && config.pool.by == Pooling::mean) return true;
  if (config.select == "expert_choice") return true;
  if (config.select == "threshold" && step < config.threshold.warmup_steps) return true;
  const auto terms = config.terms();
  if (std::ranges::any_of(terms, [](const BalanceConfig& term) { return chooses_from_unit(term.method); })) return true;
  if (config.select != "expert_choice" && config.has_capacity() && config.capacity.policy != CapacityPolicy::position) return true;
  return std::ranges::any_of(config.layers, [&](const auto& range) { return sees_future(range.second, step); });
}

bool sees_future_greedily(const RoutingConfig& config) {
  RoutingConfig greedy = config.in_evaluation();
  if (greedy.select == "expert_choice") greedy.select = "top_k";
  greedy.threshold.warmup_steps = 0;
  greedy.layers.clear();
  if (!config.evaluation.balancing) {
    greedy.balance.method = "none";
    greedy.balance.also.clear();
  }
  if (sees_future(greedy, 0)) return true;
  return std::ranges::any_of(config.layers, [&](const auto& range) { return sees_future_greedily(range.second); });
}

}  // namespace moesweep::routing
