// Expansion against a brute-force enumerator on generated sweeps, trial ids that must never change, and the ways back to YAML.
#include <algorithm>
#include <numeric>
#include <random>
#include <set>

#include "spec/support.hpp"

namespace moesweep::spec {

namespace {

const char* const kData = "data.domains: [a, b]\n";
const char* const kBalanced = "data.domains: [a, b]\nrouting.balance.method: aux_loss\n";  // a scope means something

/// Keys of different sections that may take any of their values in any combination.
struct Knob {
  const char* key;
  std::vector<std::string> values;
};
const std::vector<Knob> kKnobs{
    {"seed", {"1", "2", "3", "4"}},
    {"model.width", {"64", "32", "128"}},
    {"routing.top_k", {"1", "2", "4"}},
    {"routing.balance.scope", {"sequence", "micro_batch", "global_batch"}},
    {"routing.balance.weight", {"0.01", "0.5", "1"}},
    {"train.steps", {"200", "10", "20"}},
    {"train.tokens", {"none", "4096"}},
    {"train.learning_rate", {"6e-3", "1e-3"}},
};

using Settings = std::map<std::string, std::string>;  ///< what a trial sets over the defaults

std::string text_of(const Json& value) { return value.is_null() ? "none" : value.is_string() ? value.get<std::string>() : value.dump(); }

/// The trial's values of all knobs, as text.
Settings settings_of(const train::TrialConfig& config) {
  train::TrialConfig mine = config;
  const Json all = fields_of(mine).dump();
  Settings settings;
  for (const Knob& knob : kKnobs) {
    const Json* at = &all;
    std::string path = knob.key;
    for (std::size_t dot; (dot = path.find('.')) != std::string::npos; path = path.substr(dot + 1)) at = &at->at(path.substr(0, dot));
    settings[knob.key] = text_of(at->at(path));
  }
  return settings;
}

/// `1` and `1.0`, `6e-3` and `0.006` are one value.
Settings normal(const Settings& settings) {
  Settings result = settings;
  for (const char* key : {"routing.balance.weight", "train.learning_rate"}) result[key] = std::to_string(std::stod(result[key]));
  return result;
}

/// A random sweep, as YAML and as the list of trials that it must give, enumerated by recursion over the text's own parts.
struct Generated {
  std::string yaml;
  std::vector<Settings> trials;
  std::int64_t duplicates = 0, excluded = 0;
};

Generated generate(std::mt19937& random) {
  const auto pick = [&](std::size_t below) { return std::uniform_int_distribution<std::size_t>(0, below - 1)(random); };
  const auto value_of = [&](std::size_t knob) { return kKnobs[knob].values[pick(kKnobs[knob].values.size())]; };
  Generated result;
  Settings defaults;
  for (const Knob& knob : kKnobs) defaults[knob.key] = knob.values.front();
  defaults["routing.top_k"] = "4";
  defaults["routing.balance.scope"] = "global_batch";

  std::string file = kBalanced;
  Settings base = defaults;
  for (std::size_t knob = 0; knob < kKnobs.size(); ++knob)
    if (pick(4) == 0) {
      base[kKnobs[knob].key] = value_of(knob);
      file += std::string(kKnobs[knob].key) + ": " + base[kKnobs[knob].key] + "\n";
    }
  // One group of sets, used by some of the blocks as an axis.
  std::vector<Settings> sets(2);
  file += "sets:\n  size:\n";
  for (std::size_t s = 0; s < sets.size(); ++s) {
    file += "    s" + std::to_string(s) + ": {";
    for (std::size_t i = 0; i < pick(3); ++i) {
      const std::size_t knob = pick(kKnobs.size());
      if (sets[s].contains(kKnobs[knob].key)) continue;
      file += (sets[s].empty() ? "" : ", ") + std::string(kKnobs[knob].key) + ": ";
      file += sets[s][kKnobs[knob].key] = value_of(knob);
    }
    file += "}\n";
  }

  file += "blocks:\n";
  std::set<Settings> seen;
  for (std::size_t b = 0; b <= pick(3); ++b) {
    std::vector<std::size_t> order(kKnobs.size());
    std::iota(order.begin(), order.end(), 0u);
    std::shuffle(order.begin(), order.end(), random);
    const std::size_t points_keys = pick(3), zip_keys = pick(3), grid_keys = 1 + pick(3);
    std::vector<std::vector<Settings>> axes;
    file += "  -\n";
    std::size_t next = 0;
    if (points_keys > 0) {
      std::vector<Settings> points(1 + pick(3));
      file += "    points:\n";
      for (Settings& point : points) {
        file += "      - {";
        for (std::size_t i = 0; i < points_keys; ++i) {
          if (pick(5) == 0) continue;  // a point need not give every key
          file += (point.empty() ? "" : ", ") + std::string(kKnobs[order[next + i]].key) + ": ";
          file += point[kKnobs[order[next + i]].key] = value_of(order[next + i]);
        }
        file += "}\n";
      }
      axes.push_back(points);
      next += points_keys;
    }
    if (zip_keys > 0) {
      std::vector<Settings> rows(1 + pick(3));
      file += "    zip:\n";
      for (std::size_t i = 0; i < zip_keys; ++i) {
        file += "      " + std::string(kKnobs[order[next + i]].key) + ": [";
        for (std::size_t r = 0; r < rows.size(); ++r) {
          file += r == 0 ? "" : ", ";
          file += rows[r][kKnobs[order[next + i]].key] = value_of(order[next + i]);
        }
        file += "]\n";
      }
      axes.push_back(rows);
      next += zip_keys;
    }
    file += "    grid:\n";
    const bool by_set = pick(2) == 0;
    if (by_set) {
      file += "      size: [s1, s0]\n";
      axes.push_back({{{"size", "1"}}, {{"size", "0"}}});
    }
    for (std::size_t i = 0; i < grid_keys; ++i) {
      std::vector<Settings> values(1 + pick(3));
      file += "      " + std::string(kKnobs[order[next + i]].key) + ": [";
      for (std::size_t v = 0; v < values.size(); ++v) {
        file += v == 0 ? "" : ", ";
        file += values[v][kKnobs[order[next + i]].key] = value_of(order[next + i]);
      }
      file += "]\n";
      axes.push_back(values);
    }
    const bool excluding = pick(2) == 0;
    if (excluding) file += "    exclude: seed == 2 and not routing.top_k in [1, 2] or train.steps < 15\n";

    const auto enumerate = [&](const auto& self, std::size_t axis, Settings settings) -> void {
      if (axis < axes.size()) {
        for (const Settings& choice : axes[axis]) {
          Settings more = settings;
          for (const auto& [key, value] : choice) more[key] = value;
          self(self, axis + 1, more);
        }
        return;
      }
      Settings trial = base;
      if (const auto size = settings.find("size"); size != settings.end())
        for (const auto& [key, value] : sets[size->second == "1" ? 1 : 0]) trial[key] = value;
      for (const auto& [key, value] : settings)
        if (key != "size") trial[key] = value;
      if (excluding && ((trial["seed"] == "2" && trial["routing.top_k"] == "4") || trial["train.steps"] == "10")) ++result.excluded;
      else if (!seen.insert(normal(trial)).second) ++result.duplicates;
      else result.trials.push_back(normal(trial));
    };
    enumerate(enumerate, 0, {});
  }
  result.yaml = file;
  return result;
}

}  // namespace

class Expand : public InFolder {};

TEST_F(Expand, AgreesWithBruteForceOnGeneratedSweeps) {
  std::mt19937 random(20240);
  std::size_t trials = 0;
  for (int round = 0; round < 300; ++round) {
    const Generated expected = generate(random);
    if (expected.trials.empty()) continue;
    const Sweep found = sweep(expected.yaml);
    ASSERT_EQ(found.trials.size(), expected.trials.size()) << expected.yaml;
    for (std::size_t i = 0; i < found.trials.size(); ++i)
      ASSERT_EQ(normal(settings_of(found.trials[i].config)), expected.trials[i]) << "trial " << i << " of\n" << expected.yaml;
    ASSERT_EQ(found.duplicates_dropped, expected.duplicates) << expected.yaml;
    ASSERT_EQ(found.excluded, expected.excluded) << expected.yaml;
    trials += found.trials.size();

    // Read again from its resolved form, it is the same sweep.
    const Sweep again = sweep(found.resolved.dump());
    ASSERT_EQ(again.trials.size(), found.trials.size());
    for (std::size_t i = 0; i < found.trials.size(); ++i) ASSERT_EQ(again.trials[i].id, found.trials[i].id);
  }
  EXPECT_GT(trials, 1000u);
}

TEST_F(Expand, IdsAreThoseOfTheConfigAndNeverChange) {
  EXPECT_EQ(train::id_of(train::TrialConfig{}), "44136fa355b3678a");
  const Sweep quickstart = load_sweep("quickstart");
  ASSERT_EQ(quickstart.trials.size(), 27u);
  for (const Trial& trial : quickstart.trials) EXPECT_EQ(trial.id, train::id_of(trial.config));
  EXPECT_EQ(quickstart.trials[0].id, "ad78286a4719c7d7");   // reference, seed 1
  EXPECT_EQ(quickstart.trials[9].id, "2bfce2f539467692");   // aux loss, sequence, seed 1
  EXPECT_EQ(quickstart.trials[26].id, "524a253c955bbf55");  // expert bias, global batch, seed 3
}

TEST_F(Expand, TheIdIsTheHashOfWhatDiffersFromTheDefaults) {
  train::TrialConfig config;
  config.train.learning_rate = 1e-3;
  config.routing.balance.method = "aux_loss";
  config.parallel.data = 4;  // execution: no part of it
  config.data.store = "elsewhere";
  EXPECT_EQ(train::identity_of(config).dump(), R"({"routing.balance.method":"aux_loss","train.learning_rate":0.001})");
  routing::BalanceConfig further;
  further.scope = routing::ScopeKind::sequence;
  config.routing.balance.also.push_back(further);
  EXPECT_EQ(train::identity_of(config).dump(),
            R"({"routing.balance.also":[{"scope":"sequence"}],"routing.balance.method":"aux_loss","train.learning_rate":0.001})");
}

TEST_F(Expand, ATrialsYamlReadsBackToTheSameTrial) {
  std::vector<Trial> trials = load_sweep("quickstart").trials;
  for (Trial& trial :
       sweep(std::string(kData) +
             "data.tokenizer: \"none\"\ndata.synthetic.entropy: 1.0000000000000002\n"
             "train: {tokens: 4096, learning_rate: 1e-7, init_from: \"a: b # \\\"c\\\" \\n ü\"}\nparallel.threads: 3\n"
             "routing: {score: sigmoid, balance: {method: expert_bias, also: [{method: aux_loss, scope: sequence}, {method: aux_loss}]}}\n")
           .trials)
    trials.push_back(trial);
  for (const Trial& trial : trials) {
    write("config.yaml", trial_yaml(trial.config));
    train::TrialConfig again = load_trial("config.yaml"), before = trial.config;
    EXPECT_EQ(train::id_of(again), trial.id);
    EXPECT_EQ(fields_of(again).dump(), fields_of(before).dump());  // execution fields too
  }
}

TEST_F(Expand, ATrialsFileTakesBaseReferencesAndOverridesButNoBlocks) {
  write("trial.yaml", "base: models/testbed-tiny.yaml\ndata: data/synthetic8.yaml\nrouting: routers/reference.yaml\n");
  const auto config = load_trial("trial.yaml", {"seed=4", "+model.dense_width=128", "~routing.select"});
  EXPECT_EQ(config.seed, 4);
  EXPECT_EQ(config.model.dense_width, 128);
  EXPECT_EQ(config.routing.select, "top_k");
  EXPECT_EQ(message_of([] { load_trial("trial.yaml", {"seed=[1,2]"}); }), "command line: seed: one trial takes one value, not a list");
  write("trial.yaml", "grid: {seed: [1]}\n");
  EXPECT_EQ(message_of([] { load_trial("trial.yaml"); }),
            "trial.yaml:1:1: 'grid' belongs to a sweep; this file is read as one trial\n  a sweep is run by `moesweep run`");
  EXPECT_EQ(message_of([] { load_trial("missing.yaml"); }), "missing.yaml: no file of that name, and none in configs/trials");
}

TEST_F(Expand, ASweepIsFoundByItsName) {
  EXPECT_EQ(load_sweep("smoke").trials.size(), 4u);
  EXPECT_EQ(load_sweep("smoke.yaml").trials.size(), 4u);
  EXPECT_EQ(load_sweep("sweeps/smoke.yaml").trials.size(), 4u);
  EXPECT_EQ(message_of([] { load_sweep("quikstart"); }), "quikstart: no file of that name, and none in configs/sweeps: did you mean 'quickstart'?");
  write("unnamed.yaml", kData);
  EXPECT_EQ(load_sweep("unnamed.yaml").name, "unnamed");
}

TEST_F(Expand, AxesAreTheKeysThatDiffer) {
  const auto axes = axes_of(sweep(std::string(kData) + "points: [{seed: 1, train.tokens: 4096}, {seed: 2, parallel.threads: 2}]\n").trials);
  ASSERT_EQ(axes.size(), 2u);
  EXPECT_EQ(axes[0], (std::map<std::string, Json>{{"seed", 1}, {"train.tokens", 4096}, {"parallel.threads", 1}}));
  EXPECT_EQ(axes[1], (std::map<std::string, Json>{{"seed", 2}, {"train.tokens", nullptr}, {"parallel.threads", 2}}));
  EXPECT_TRUE(axes_of({}).empty());
  EXPECT_TRUE(axes_of(sweep(kData).trials)[0].empty());
}

TEST_F(Expand, ResolvedNeedsNoOtherFile) {
  const Sweep study = load_sweep("scale35x", {"seed=[1,2]", "routing.top_k=2"});
  const std::string text = study.resolved.dump(2);
  EXPECT_EQ(text.find(".yaml"), std::string::npos) << text;
  setenv("MOESWEEP_CONFIGS", "/nonexistent", 1);
  const Sweep again = sweep(text);
  unsetenv("MOESWEEP_CONFIGS");
  ASSERT_EQ(again.trials.size(), study.trials.size());
  EXPECT_EQ(again.name, "scale35x");
  for (std::size_t i = 0; i < again.trials.size(); ++i) EXPECT_EQ(again.trials[i].id, study.trials[i].id);
}

TEST_F(Expand, AHundredThousandTrials) {
  std::string seeds = "1";
  for (int seed = 2; seed <= 2000; ++seed) seeds += ", " + std::to_string(seed);
  const Sweep large = sweep(std::string("base: models/testbed-tiny.yaml\ndata: data/languages8.yaml\nrouting.balance.method: aux_loss\n") +
                            "grid:\n  routing.balance.scope: [sequence, micro_batch, global_batch]\n  model.width: [32, 64, 128, 256, 512]\n"
                            "  routing.top_k: [1, 2, 4, 8]\n  seed: [" +
                            seeds + "]\nexclude: routing.balance.scope == sequence and routing.top_k in [1, 2]\n");
  EXPECT_EQ(large.trials.size(), 100'000u);
  EXPECT_EQ(large.excluded, 20'000);
  EXPECT_EQ(large.trials.back().id, train::id_of(large.trials.back().config));
}

}  // namespace moesweep::spec
