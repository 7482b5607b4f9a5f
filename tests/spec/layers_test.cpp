// Values that are structs in a list or a mapping: `routing.layers`, `routing.schedules`, `routing.balance.also`, and the table of combinations.
#include <algorithm>
#include <set>

#include "spec/support.hpp"

namespace moesweep::spec {

namespace {

const char* const kData = "data.domains: [a, b]\n";

}  // namespace

class Layers : public InFolder {
 protected:
  void SetUp() override {
    InFolder::SetUp();
    write("hashed.yaml", "select: hash\ntop_k: 2\n");
    write("below/outer.yaml", "top_k: 3\nlayers: {0: inner.yaml}\n");
    write("below/inner.yaml", "base: base.yaml\nbalance: balance.yaml\n");
    write("below/base.yaml", "top_k: 5\ncapacity.factor: 2\n");
    write("below/balance.yaml", "method: aux_loss\nscope: sequence\n");
  }
  static routing::RoutingConfig routing_of(const std::string& text, const std::vector<std::string>& overrides = {}) {
    const Sweep one = sweep(kData + text, overrides);
    EXPECT_EQ(one.trials.size(), 1u);
    return one.trials.front().config.routing;
  }
};

TEST_F(Layers, ARangeIsAMappingOrAFile) {
  const auto routing = routing_of(
      "routing:\n  top_k: 3\n  layers:\n    0: hashed.yaml\n"
      "    1: {select: top_k, balance: {method: aux_loss, also: [{method: importance_load, scope: sequence}]}, capacity.factor: none}\n");
  ASSERT_EQ(routing.layers.size(), 2u);
  EXPECT_EQ(routing.of_layer(0).select, "hash");
  EXPECT_EQ(routing.of_layer(0).top_k, 2);
  EXPECT_EQ(routing.of_layer(1).top_k, 4);  // not the 3 around it: a range is a whole section
  EXPECT_EQ(routing.of_layer(1).balance.also.at(0).method, "importance_load");
  EXPECT_EQ(routing.of_layer(1).capacity.factor, std::nullopt);
}

TEST_F(Layers, ARangesFilesAreLookedUpBesideTheNamingFile) {
  const auto routing = routing_of("routing: below/outer.yaml\n");
  EXPECT_EQ(routing.top_k, 3);
  EXPECT_EQ(routing.of_layer(0).top_k, 5);
  EXPECT_EQ(routing.of_layer(0).capacity.factor, 2.0);
  EXPECT_EQ(routing.of_layer(0).balance.scope, routing::ScopeKind::sequence);
  EXPECT_EQ(routing_of("routing.layers: {0-1: routers/hash_balanced.yaml}\n").of_layer(1).hash_table, routing::HashTable::balanced);
}

TEST_F(Layers, TheyReplaceAsOneValue) {
  write("base.yaml", "routing.layers: {0: hashed.yaml}\n");
  EXPECT_EQ(routing_of("base: base.yaml\nrouting.layers: {1: {top_k: 1}}\n").layers.size(), 1u);
  EXPECT_EQ(routing_of("base: base.yaml\nrouting.top_k: 1\n").layers.size(), 1u);
  EXPECT_TRUE(routing_of("base: base.yaml\nrouting.layers: {}\n").layers.empty());
  EXPECT_TRUE(routing_of("base: base.yaml\n", {"~routing.layers"}).layers.empty());
  EXPECT_EQ(routing_of("base: base.yaml\n", {"routing.layers={1: {top_k: 1}}"}).of_layer(1).top_k, 1);
  EXPECT_TRUE(routing_of("base: base.yaml\nrouting: hashed.yaml\n").layers.empty());
}

TEST_F(Layers, TheyAreAnAxis) {
  const std::string axis = "routing.layers: [{}, {0: hashed.yaml}, {0-1: {select: random}}]";
  const Sweep three = sweep(std::string(kData) + "grid: {" + axis + ", seed: [1]}\n");
  ASSERT_EQ(three.trials.size(), 3u);
  EXPECT_EQ(three.trials[2].config.routing.of_layer(1).select, "random");
  const auto axes = axes_of(three.trials);
  EXPECT_EQ(axes[1].at("routing.layers").dump(), R"({"0":{"select":"hash","top_k":2}})");  // what it says, not every default
  EXPECT_EQ(sweep(kData, {"routing.layers=[{}, {0: hashed.yaml}]"}).trials.size(), 2u);
  EXPECT_EQ(message_of([] { sweep(std::string(kData) + "routing.layers: {0: hashed.yaml}\n", {"+routing.layers={1: hashed.yaml}"}); }),
            "command line: +routing.layers: already given at sweep.yaml:2:17\n  routing.layers=... replaces it");
}

TEST_F(Layers, TheIdHoldsWhatDiffersInARange) {
  const auto identity = [](const std::string& text) { return train::identity_of(sweep(kData + text).trials.front().config)["routing.layers"]; };
  EXPECT_EQ(identity("routing.layers: {0: {select: hash, top_k: 4, balance: {weight: 0.01}}}").dump(), R"({"0":{"select":"hash"}})");
  EXPECT_EQ(identity("routing.layers: {1: {}, 0: {balance: {method: aux_loss, also: [{method: bandpass}]}}}").dump(),
            R"({"0":{"balance.method":"aux_loss","balance.also":[{"method":"bandpass"}]},"1":{}})");
  EXPECT_TRUE(identity("routing.layers: {}").is_null());
  // Dotted and nested are one trial.
  const auto id = [](const std::string& text) { return sweep(kData + text).trials.front().id; };
  EXPECT_EQ(id("routing.layers: {0: {balance.method: aux_loss}}"), id("routing: {layers: {0: {balance: {method: aux_loss}}}}"));
  for (const Trial& trial : sweep(std::string(kData) + "grid: {routing.layers: [{}, {0: hashed.yaml}], seed: [1]}").trials)
    EXPECT_EQ(trial.id, train::id_of(trial.config));
}

TEST_F(Layers, TheyReadBackFromATrialsYamlAndFromTheResolvedForm) {
  const Sweep one = sweep(std::string(kData) +
                          "routing:\n  score: sigmoid\n  balance: {method: expert_bias, also: [{method: aux_loss, ffn_share: none}]}\n"
                          "  schedules: [{key: temperature, kind: cosine, start: 2, end: 1, to_step: 9}]\n"
                          "  layers: {0: hashed.yaml, 1: {balance: {method: aux_loss, scope: sequence, ffn_share: none}, "
                          "schedules: [{key: z_loss_weight, end: 1}]}}\n");
  const std::string text = trial_yaml(one.trials.front().config);
  write("config.yaml", text);
  train::TrialConfig again = load_trial("config.yaml"), before = one.trials.front().config;
  EXPECT_EQ(train::id_of(again), one.trials.front().id);
  EXPECT_EQ(fields_of(again).dump(), fields_of(before).dump());
  EXPECT_EQ(trial_yaml(again), text);
  EXPECT_EQ(one.resolved.dump().find(".yaml"), std::string::npos);
  EXPECT_EQ(sweep(one.resolved.dump()).trials.front().id, one.trials.front().id);
}

TEST_F(Layers, ASchedulesElementsHaveTheirOwnKeys) {
  const auto routing = routing_of("routing: {temperature: 2, schedules: [{key: temperature, start: 2, end: 1, from_step: 2, to_step: 4}]}\n");
  EXPECT_EQ(routing.at_step(0).temperature, 2);
  EXPECT_EQ(routing.at_step(3).temperature, 1.5);
  EXPECT_EQ(routing.at_step(99).temperature, 1);
}

TEST_F(Layers, EveryCellOfTheTableOfCombinationsIsFilled) {
  const auto cells = routing::combinations();
  std::set<std::string> methods, selections;
  std::set<std::tuple<std::string, routing::ScopeKind, routing::Granularity>> seen;
  for (const auto& cell : cells) {
    EXPECT_TRUE(seen.emplace(cell.method, cell.scope, cell.granularity).second) << cell.method;
    methods.insert(cell.method);
    using enum routing::ScopeKind;
    const bool exact = cell.scope == sequence || cell.scope == micro_batch || cell.scope == group || cell.scope == global_batch;
    if (cell.granularity == routing::Granularity::token && exact) {
      EXPECT_EQ(cell.reason, "") << cell.method << " over " << name_of_value(cell.scope);
    }
  }
  EXPECT_EQ(cells.size(), methods.size() * 6 * 3);
  for (const std::string& method : routing::strategy_names(routing::StrategyKind::balance))
    EXPECT_TRUE(method == "none" || methods.contains(method)) << method;
  // The Markdown table says the same: a row of six cells for each method and granularity, each "yes" or a numbered reason.
  const std::string text = routing::combinations_markdown();
  EXPECT_NE(reference_markdown().find(text), std::string::npos);
  std::size_t rows = 0, yes = 0, refused = 0;
  for (std::size_t at = text.find("\n| `"); at != std::string::npos; at = text.find("\n| `", at + 1)) {
    const std::string row = text.substr(at + 1, text.find('\n', at + 1) - at - 1);
    EXPECT_EQ(std::ranges::count(row, '|'), 8) << row;
    EXPECT_EQ(row.find("|  |"), std::string::npos) << row;
    ++rows;
    for (std::size_t cell = row.find("| yes"); cell != std::string::npos; cell = row.find("| yes", cell + 1)) ++yes;
    for (std::size_t cell = row.find("| refused ("); cell != std::string::npos; cell = row.find("| refused (", cell + 1)) ++refused;
  }
  EXPECT_EQ(rows, methods.size() * 3);
  EXPECT_EQ(yes + refused, cells.size());
  EXPECT_EQ(yes, static_cast<std::size_t>(std::ranges::count_if(cells, [](const auto& cell) { return cell.reason.empty(); })));
}

}  // namespace moesweep::spec
