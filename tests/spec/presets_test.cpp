// The router presets: every name of the catalogue, each usable on the testbed, none an alias of another, and the ways to name them.
#include "moesweep/spec/presets.hpp"

#include <algorithm>
#include <map>
#include <set>

#include "moesweep/core/publish.hpp"
#include "spec/support.hpp"

namespace fs = std::filesystem;

namespace moesweep::spec {

class Presets : public InFolder {
 protected:
  static std::vector<std::string> names() {
    std::vector<std::string> found;
    for (const Preset& preset : router_presets()) found.push_back(preset.name);
    return found;
  }
  /// The trial that the testbed gives with this router.
  static train::TrialConfig trial_of(const std::string& router, const std::string& data = "data/synthetic8.yaml") {
    write("trial.yaml", "base: models/testbed-tiny.yaml\ndata: " + data + "\nrouting: " + router + "\n");
    return load_trial("trial.yaml");
  }
};

TEST_F(Presets, EveryNameOfTheCatalogueIsThere) {
  const std::vector<std::string> found = names();
  EXPECT_TRUE(std::ranges::is_sorted(found));
  for (const char* name : {"switch",
                           "gshard",
                           "mixtral",
                           "olmoe",
                           "deepseek_v3",
                           "noisy_top_k",
                           "gumbel",
                           "jitter",
                           "cosine",
                           "expert_bias",
                           "temperature_annealed",
                           "sinkhorn",
                           "base_assignment",
                           "quantile",
                           "expert_choice",
                           "top_p",
                           "expert_threshold",
                           "remoe",
                           "moge",
                           "hash_random",
                           "hash_balanced",
                           "deepseek_v4",
                           "trinity",
                           "longcat",
                           "moepp",
                           "pathmoe",
                           "simbal",
                           "erc",
                           "frozen",
                           "imported",
                           "resampled",
                           "random",
                           "reference",
                           "replay",
                           "dense",
                           "sequence_prefix",
                           "sequence_mean",
                           "batch",
                           "sequence_domain",
                           "shared_decision",
                           "shared_experts",
                           "mixtral_global",
                           "aux_loss",
                           "top_k",
                           "deepseek_v3_global"})
    EXPECT_TRUE(std::ranges::find(found, name) != found.end()) << name;
}

TEST_F(Presets, EachRunsOnTheTestbedAndItsConfigReadsBack) {
  for (const char* data : {"data/synthetic8.yaml", "data/languages8.yaml"})
    for (const Preset& preset : router_presets()) {
      train::TrialConfig config;
      ASSERT_EQ(message_of([&] { config = trial_of("routers/" + preset.name + ".yaml", data); }), "accepted") << preset.name;
      write("config.yaml", trial_yaml(config));
      train::TrialConfig again = load_trial("config.yaml"), before = config;
      EXPECT_EQ(train::id_of(again), train::id_of(config)) << preset.name;
      EXPECT_EQ(fields_of(again).dump(), fields_of(before).dump()) << preset.name;
      routing::RoutingConfig loaded = preset.load();
      EXPECT_EQ(fields_of(loaded).dump(), fields_of(before.routing).dump()) << preset.name;
      // The resolved form of a sweep is the same trial without any other file.
      write("sweep.yaml", "base: models/testbed-tiny.yaml\ndata: " + std::string(data) + "\npoints: [{routing: routers/" + preset.name + ".yaml}]\n");
      const Sweep one = load_sweep("sweep.yaml");
      write("sweep.yaml", one.resolved.dump());
      EXPECT_EQ(load_sweep("sweep.yaml").trials.front().id, train::id_of(config)) << preset.name;
    }
}

TEST_F(Presets, EachIsDescribedAndSaysItsExperts) {
  for (const Preset& preset : router_presets()) {
    EXPECT_FALSE(preset.description.empty()) << preset.name;
    EXPECT_EQ(preset.description.find('\n'), std::string::npos) << preset.name;
    EXPECT_TRUE(preset.description.ends_with(".") || preset.description.ends_with(")")) << preset.name << ": " << preset.description;
    EXPECT_EQ(preset.is_variant, preset.path.filename() == "variants.yaml") << preset.name;
    EXPECT_NE(preset.yaml.find("#"), std::string::npos) << preset.name;
    const bool says = preset.name == "dense" || preset.yaml.find("base:") != std::string::npos || preset.yaml.find("top_k: ") != std::string::npos;
    EXPECT_TRUE(says) << preset.name << ": write top_k, whatever its default";
  }
}

TEST_F(Presets, NoneIsAnAliasOfAnother) {
  std::map<std::string, std::string> seen;
  for (const Preset& preset : router_presets()) {
    const auto [other, fresh] = seen.emplace(train::id_of(trial_of("routers/" + preset.name + ".yaml")), preset.name);
    EXPECT_TRUE(fresh) << preset.name << " is " << other->second;
  }
}

TEST_F(Presets, RecipesAreWhatTheirPapersSay) {
  const auto v3 = load_router("deepseek_v3");
  EXPECT_EQ(v3.select, "group_top_k");
  ASSERT_EQ(v3.balance.also.size(), 1u);
  EXPECT_EQ(v3.balance.also[0].scope, routing::ScopeKind::sequence);
  const auto global = load_router("deepseek_v3_global");
  EXPECT_EQ(global.select, "group_top_k");
  EXPECT_EQ(global.balance.also[0].scope, routing::ScopeKind::global_batch);
  const auto v4 = load_router("deepseek_v4");
  ASSERT_EQ(v4.layers.size(), 1u);
  EXPECT_EQ(v4.of_layer(0).select, "hash");
  EXPECT_EQ(v4.of_layer(0).hash_weights, routing::ReferenceWeights::gate);
  EXPECT_EQ(v4.of_layer(1).balance.method, "expert_bias");
  const auto annealed = load_router("temperature_annealed");
  EXPECT_EQ(annealed.at_step(0).temperature, 4);
  EXPECT_EQ(annealed.at_step(1000).temperature, 1);
  EXPECT_LT(annealed.at_step(1000).balance.weight, annealed.at_step(0).balance.weight);
  EXPECT_EQ(load_router("longcat").extra_experts.routed(), 16);
  EXPECT_EQ(load_router("mixtral_global").balance.scope, routing::ScopeKind::global_batch);
  EXPECT_EQ(load_router("mixtral").balance.scope, routing::ScopeKind::micro_batch);
}

TEST_F(Presets, OverridesGoOverAPreset) {
  const auto router = load_router("switch", {"routing.top_k=2", "~routing.capacity", "routing.balance={method: none}"});
  EXPECT_EQ(router.top_k, 2);
  EXPECT_FALSE(router.capacity.factor.has_value());
  EXPECT_EQ(router.balance.method, "none");
  EXPECT_EQ(router.perturb, routing::Perturb::jitter);
  EXPECT_EQ(message_of([] { load_router("switch", {"seed=2"}); }),
            "usage 'seed=2' is no key of a router\n  a router takes the keys of the section routing");
  EXPECT_EQ(message_of([] { load_router("switch", {"routing.topk=2"}); }), "command line: unknown key 'routing.topk': did you mean 'routing.top_k'?");
}

TEST_F(Presets, AnOptionNamesOne) {
  EXPECT_EQ(with_router("", {"seed=1"}), (std::vector<std::string>{"seed=1"}));
  EXPECT_EQ(with_router("hash_balanced", {"seed=1"}), (std::vector<std::string>{"routing=routers/hash_balanced.yaml", "seed=1"}));
  const std::string message = message_of([] { with_router("hash_balance", {}); });
  EXPECT_TRUE(message.starts_with("usage there is no router preset 'hash_balance': did you mean 'hash_balanced'?\n  known presets: aux_loss, "))
      << message;
  // After the file, before further keys.
  write("sweep.yaml", "base: models/testbed-tiny.yaml\ndata.domains: [a, b]\npoints: [{routing.balance.method: aux_loss}]\n");
  const Sweep one = load_sweep("sweep.yaml", with_router("switch", {"routing.weight_scale=2"}));
  ASSERT_EQ(one.trials.size(), 1u);
  EXPECT_EQ(one.trials[0].config.routing.top_k, 1);
  EXPECT_EQ(one.trials[0].config.routing.weight_scale, 2);
}

TEST_F(Presets, VariantsStandInForFilesInAnyFolder) {
  write("routers/variants.yaml",
        "# heading\n\n# The first.\n# More about it.\nmine: {base: switch.yaml, top_k: 2}\n# The second, of the first.\nsecond: {base: mine.yaml, "
        "weight_scale: 3}\n"
        "switch: {top_k: 3}\nbare:\n  top_k: 2\n");
  EXPECT_EQ(trial_of("routers/mine.yaml").routing.top_k, 2);
  EXPECT_EQ(trial_of("routers/second.yaml").routing.weight_scale, 3.0);
  EXPECT_EQ(trial_of("routers/second.yaml").routing.top_k, 2);
  EXPECT_EQ(trial_of("routers/bare.yaml").routing.top_k, 2);
  // A folder's own entry comes before another folder's file, its own file before its entry.
  EXPECT_EQ(trial_of("routers/switch.yaml").routing.top_k, 3);
  write("routers/switch.yaml", "top_k: 5\n");
  EXPECT_EQ(trial_of("routers/switch.yaml").routing.top_k, 5);

  fs::create_directories("folder");
  fs::rename("routers", "folder/routers");
  setenv("MOESWEEP_CONFIGS", fs::absolute("folder").c_str(), 1);
  const auto presets = router_presets();
  const auto find = [&](const std::string& name) { return *std::ranges::find(presets, name, &Preset::name); };
  EXPECT_EQ(find("mine").description, "The first.");
  EXPECT_EQ(find("mine").yaml, "# The first.\n# More about it.\nmine: {base: switch.yaml, top_k: 2}\n");
  EXPECT_EQ(find("bare").description, "");
  EXPECT_EQ(find("bare").yaml, "bare:\n  top_k: 2\n");
  EXPECT_EQ(find("switch").is_variant, false);
  EXPECT_EQ(find("switch").load().top_k, 5);
  EXPECT_EQ(find("mine").load().top_k, 2);
  EXPECT_EQ(find("mixtral").load().top_k, 2);  // the source tree's are there too
  unsetenv("MOESWEEP_CONFIGS");
}

TEST_F(Presets, WhatIsWrongWithAVariantIsSaidWithItsPlace) {
  write("routers/variants.yaml", "good: {top_k: 2}\nloop: {base: pool.yaml}\npool: {base: loop.yaml}\nbad: {selekt: top_k}\nscalar: 3\n");
  const std::string folder = fs::canonical(config_folders().back()).string();
  const auto message = [&](const std::string& router) {
    std::string text = message_of([&] { trial_of(router); });
    for (std::size_t at; (at = text.find(folder)) != std::string::npos;) text.replace(at, folder.size(), "CONFIGS");
    return text;
  };
  EXPECT_EQ(message("routers/bad.yaml"), "routers/variants.yaml:4:7: unknown key 'routing.selekt': did you mean 'routing.select'?");
  EXPECT_EQ(message("routers/scalar.yaml"), "routers/variants.yaml:5:9: scalar: expected a mapping of keys but found 3");
  EXPECT_EQ(
      message("routers/loop.yaml"),
      "routers/variants.yaml:3:14: files name each other in a circle: trial.yaml -> routers/variants.yaml:loop -> routers/variants.yaml:pool -> "
      "routers/variants.yaml:loop");
  EXPECT_EQ(message("routers/goood.yaml"),
            "trial.yaml:3:10: no file 'routers/goood.yaml': did you mean 'routers/good.yaml'?\n  looked in ., routers/variants.yaml, CONFIGS, "
            "CONFIGS/routers/variants.yaml");
  EXPECT_EQ(message("routers/gumble.yaml").substr(0, 83), "trial.yaml:3:10: no file 'routers/gumble.yaml': did you mean 'routers/gumbel.yaml'?");
  EXPECT_EQ(message("routers/variants.yaml"),
            "trial.yaml:3:10: 'routers/variants.yaml' holds several sections: name one of them, as routers/NAME.yaml");
}

}  // namespace moesweep::spec
