// See include/moesweep/routing/options.hpp.
#include "moesweep/routing/options.hpp"

#include <algorithm>

#include "moesweep/core/error.hpp"

namespace moesweep::routing {

namespace {

/// Names of a kind in order, with the options of those that have any.
struct Names {
  std::vector<std::string> names;
  std::map<std::string, std::unique_ptr<Options>> options;
};

Names& names_of(StrategyKind kind) {
  static Names selections{
      {"top_k", "group_top_k", "grouped_top_k", "top_p", "expert_choice", "threshold", "relu", "hash", "random", "reference", "replay", "dense"}, {}};
  static Names methods{{"none", "aux_loss", "importance_load", "expert_bias", "expert_bias_momentum", "expert_bias_solved", "sinkhorn", "assignment",
                        "quantile", "bandpass"},
                       {}};
  return kind == StrategyKind::selection ? selections : methods;
}

}  // namespace

OptionSets& OptionSets::operator=(const OptionSets& other) {
  if (this == &other) return *this;
  std::erase_if(sets_, [&](const auto& set) { return !other.sets_.contains(set.first); });
  for (const auto& [name, options] : other.sets_) {
    const auto known = sets_.find(name);
    if (known == sets_.end()) sets_.emplace(name, options->clone());
    else known->second->assign(*options);
  }
  return *this;
}

OptionSets OptionSets::of(StrategyKind kind) {
  OptionSets sets;
  for (const auto& [name, options] : names_of(kind).options) sets.sets_.emplace(name, options->clone());
  return sets;
}

void OptionSets::list(FieldList& fields) {
  for (auto& [name, options] : sets_) fields.add_section(name, *options, "options of " + name);
}

void register_strategy_name(StrategyKind kind, const std::string& name, std::unique_ptr<Options> options) {
  Names& known = names_of(kind);
  MOESWEEP_ASSERT(std::ranges::find(known.names, name) == known.names.end(), "a strategy of that name is there already: " + name);
  known.names.push_back(name);
  if (options) known.options.emplace(name, std::move(options));
}

std::vector<std::string> strategy_names(StrategyKind kind) { return names_of(kind).names; }

}  // namespace moesweep::routing
