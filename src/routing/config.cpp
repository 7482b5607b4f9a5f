// See include/moesweep/routing/config.hpp.
#include "moesweep/routing/config.hpp"

#include <fmt/core.h>

namespace moesweep::routing {

void BalanceConfig::list(FieldList& fields) {
  fields.add("method", method, "what pushes the load towards uniform");
  fields.add("scope", scope, "the tokens over which load is counted as one unit");
  fields.add("weight", weight, "weight of the balancing loss (aux_loss)").at_least(0);
  fields.add("rate", rate, "step of the bias at each optimizer step (expert_bias)").at_least(0);
  fields.add("rule", rule, "bias step by the sign of the load error, or in proportion to it (expert_bias)");
  fields.add("mean_centred", mean_centred, "subtract the mean from the bias after each step (expert_bias)");
}

void MainBalanceConfig::list(FieldList& fields) {
  BalanceConfig::list(fields);
  fields.add_sections("also", also, "further balancing terms beside the main one");
}

void RoutingConfig::list(FieldList& fields) {
  fields.add("score", score, "logits to scores: softmax over all experts, softmax of the chosen logits, or sigmoid");
  fields.add("select", select, "which experts a token visits: the k best, those of its domain, or k at random");
  fields.add("top_k", top_k, "experts a token visits").at_least(1);
  fields.add("weight_scale", weight_scale, "factor on the gate weights").more_than(0);
  fields.add("reference_weights", reference_weights, "gate weights of the reference router: softmax over the domain's chosen experts, or uniform");
  fields.add("z_loss_weight", z_loss_weight, "weight of the router z-loss, mean of logsumexp(logits)^2 (arXiv 2202.08906)").at_least(0);
  fields.add_section("balance", balance, "the main balancing term");
}

namespace {

std::string refusal_of_term(const RoutingConfig& config, const BalanceConfig& term, const std::string& path) {
  if (term.method == BalanceMethod::none) {
    if (path.ends_with("]")) return fmt::format("{} names no method", path);
    if (term.scope == BalanceConfig{}.scope) return "";
    return fmt::format("{}.scope = {} says nothing with {}.method = none: leave the scope out (`when` or `exclude` keep it from that method)", path,
                       name_of_value(term.scope), path);
  }
  const std::string method(name_of_value(term.method));
  if (config.select != Select::top_k)
    return fmt::format("{}.method = {} has nothing to balance with routing.select = {}: the choice does not depend on the logits", path, method,
                       name_of_value(config.select));
  if (term.method == BalanceMethod::expert_bias && term.rule == BiasRule::sign && config.score != Score::sigmoid)
    return fmt::format("{}.method = expert_bias with {}.rule = sign needs routing.score = sigmoid (set it, or rule = proportional)", path, path);
  return "";
}

}  // namespace

std::string refusal(const RoutingConfig& config, std::int64_t experts, std::int64_t domains) {
  if (config.top_k > experts) return fmt::format("routing.top_k = {} is more than model.experts = {}", config.top_k, experts);
  if (config.select == Select::random && config.top_k > 1024) return "routing.select = random takes a routing.top_k of at most 1024";
  if (config.select == Select::reference) {
    if (domains < 1) return "routing.select = reference needs data with domains";
    if (experts % domains != 0)
      return fmt::format("routing.select = reference needs model.experts = {} to be divisible by the {} domains", experts, domains);
    if (experts / domains < config.top_k)
      return fmt::format("routing.select = reference has {} experts a domain, fewer than routing.top_k = {}", experts / domains, config.top_k);
  }
  if (auto reason = refusal_of_term(config, config.balance, "routing.balance"); !reason.empty()) return reason;
  int biases = config.balance.method == BalanceMethod::expert_bias ? 1 : 0;
  for (std::size_t i = 0; i < config.balance.also.size(); ++i) {
    const auto& term = config.balance.also[i];
    if (auto reason = refusal_of_term(config, term, fmt::format("routing.balance.also[{}]", i)); !reason.empty()) return reason;
    biases += term.method == BalanceMethod::expert_bias ? 1 : 0;
  }
  if (biases > 1) return "routing.balance and routing.balance.also name expert_bias more than once: a router has one bias";
  return "";
}

}  // namespace moesweep::routing
