// Expansion against a brute-force enumerator on generated sweeps, trial ids that must never change, and the ways back to YAML.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <numeric>
#include <random>
#include <set>

#include "moesweep/model/costs.hpp"
#include "spec/node.hpp"
#include "spec/support.hpp"
#include "spec/values.hpp"

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

const char* const kDerivedKey = "model.dense_width";
const char* const kSecondKey = "train.warmup_steps";

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
  settings[kDerivedKey] = std::to_string(config.model.dense_width);
  settings[kSecondKey] = std::to_string(config.train.warmup_steps);
  return settings;
}

/// `1` and `1.0`, `6e-3` and `0.006` are one value.
Settings normal(const Settings& settings) {
  Settings result = settings;
  for (const char* key : {"routing.balance.weight", "train.learning_rate"}) result[key] = std::to_string(std::stod(result[key]));
  return result;
}

/// A random sweep, as YAML with an override, and as the list of trials that it must give, enumerated by recursion over the text's own parts.
struct Generated {
  std::string yaml;
  std::vector<std::string> overrides;
  std::vector<Settings> trials;
  std::int64_t duplicates = 0, excluded = 0;
};

/// A derived value and what it must be, computed from the trial's other values.
struct Derivation {
  const char* text;
  std::int64_t (*of)(Settings&);
};
const std::vector<Derivation> kDerivations{
    {"${seed} * 3 + 1", [](Settings& t) { return std::stol(t["seed"]) * 3 + 1; }},
    {"${train.steps} // (${seed} + 2)", [](Settings& t) { return std::stol(t["train.steps"]) / (std::stol(t["seed"]) + 2); }},
    {"min(${model.width}, ${routing.top_k} * 50) - ${seed} % 2",
     [](Settings& t) { return std::min(std::stol(t["model.width"]), std::stol(t["routing.top_k"]) * 50) - std::stol(t["seed"]) % 2; }},
    {"round(${routing.balance.weight} * 100)", [](Settings& t) { return std::lround(std::stod(t["routing.balance.weight"]) * 100); }},
};

/// What a block of the text says: its axes in the order in which they turn.
struct BlockParts {
  enum class Kind { points, zip, sample, grid };
  struct AxisParts {
    Kind kind;
    std::vector<Settings> rows;

    bool gives(const std::string& key) const {
      return std::ranges::any_of(rows, [&](const Settings& row) { return row.contains(key); });
    }
  };
  std::vector<AxisParts> axes;
  std::string optional;  ///< the key with a `when`
  bool excluding = false;
};

struct FileParts {
  Settings defaults, base;
  std::set<std::string> given;  ///< keys of the file itself
  std::vector<Settings> sets;
  std::vector<BlockParts> blocks;
};

/// A random override of `knob` and what it does to the parts; none where it would be an error.
std::vector<std::string> override_of(FileParts& file, const Knob& knob, std::size_t kind, const std::string& value, const std::string& other) {
  using Kind = BlockParts::Kind;
  const std::string key = knob.key;
  const auto anywhere = [&](auto accept) {
    return std::ranges::any_of(file.blocks, [&](const BlockParts& block) { return std::ranges::any_of(block.axes, accept); });
  };
  const bool in_axes = anywhere([&](const auto& axis) { return axis.gives(key); });
  const bool in_grid = anywhere([&](const auto& axis) { return axis.kind == Kind::grid && axis.gives(key); });
  const bool in_rows = anywhere([&](const auto& axis) { return (axis.kind == Kind::zip || axis.kind == Kind::sample) && axis.gives(key); });
  const bool in_sets = std::ranges::any_of(file.sets, [&](const Settings& set) { return set.contains(key); });
  const auto remove = [&](bool keep_when) {
    for (Settings& set : file.sets) set.erase(key);
    for (BlockParts& block : file.blocks) {
      for (auto& axis : block.axes)
        for (Settings& row : axis.rows) row.erase(key);
      // Points without a key are still points; an axis without one is gone.
      std::erase_if(block.axes, [](const auto& axis) {
        return axis.kind != Kind::points && std::ranges::all_of(axis.rows, [](const Settings& row) { return row.empty(); });
      });
      if (!keep_when && block.optional == key) block.optional.clear();
    }
  };
  if (kind == 0) {
    remove(false);
    file.base[key] = value;
    return {key + "=" + value};
  }
  if (kind == 1) {
    std::vector<std::size_t> places;
    for (BlockParts& block : file.blocks) {
      const auto found = std::ranges::find_if(block.axes, [&](const auto& axis) { return axis.kind == Kind::grid && axis.gives(key); });
      // Axes before it that vanish do not hold this key, so counting from the end is safe.
      places.push_back(found == block.axes.end() ? 0 : static_cast<std::size_t>(block.axes.end() - found) - 1);
    }
    remove(true);
    for (std::size_t b = 0; b < file.blocks.size(); ++b) {
      auto& axes = file.blocks[b].axes;
      axes.insert(axes.end() - static_cast<std::ptrdiff_t>(places[b]), {Kind::grid, {{{key, value}}, {{key, other}}}});
    }
    return {key + "=[" + value + ", " + other + "]"};
  }
  if (kind == 2) {
    if (in_rows || (!in_grid && file.given.contains(key))) return {};
    if (!in_grid) file.base[key] = value;
    for (BlockParts& block : file.blocks)
      for (auto& axis : block.axes)
        if (axis.kind == Kind::grid && axis.gives(key)) axis.rows.push_back({{key, value}});
    return {"+" + key + "=" + value};
  }
  if (!in_axes && !in_sets && !file.given.contains(key)) return {};
  remove(false);
  file.base[key] = file.defaults[key];
  return {"~" + key};
}

Generated generate(std::mt19937& random) {
  const auto pick = [&](std::size_t below) { return std::uniform_int_distribution<std::size_t>(0, below - 1)(random); };
  const auto value_of = [&](std::size_t knob) { return kKnobs[knob].values[pick(kKnobs[knob].values.size())]; };
  Generated result;
  Settings defaults;
  for (const Knob& knob : kKnobs) defaults[knob.key] = knob.values.front();
  defaults["routing.top_k"] = "4";
  defaults["routing.balance.scope"] = "global_batch";
  defaults[kDerivedKey] = "256";
  defaults[kSecondKey] = "20";

  std::string file = kBalanced;
  FileParts parts;
  parts.defaults = defaults;
  Settings& base = parts.base = defaults;
  for (std::size_t knob = 0; knob < kKnobs.size(); ++knob)
    if (pick(4) == 0) {
      base[kKnobs[knob].key] = value_of(knob);
      file += std::string(kKnobs[knob].key) + ": " + base[kKnobs[knob].key] + "\n";
      parts.given.insert(kKnobs[knob].key);
    }
  // A derived value in the file, and one that reads it.
  const Derivation* derivation = pick(2) == 0 ? &kDerivations[pick(kDerivations.size())] : nullptr;
  if (derivation != nullptr) file += std::string(kSecondKey) + ": ${" + kDerivedKey + "} + 1\n" + kDerivedKey + ": " + derivation->text + "\n";
  // One group of sets, used by some of the blocks as an axis.
  std::vector<Settings>& sets = parts.sets;
  sets.resize(2);
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
  for (std::size_t b = 0; b <= pick(3); ++b) {
    std::vector<std::size_t> order(kKnobs.size());
    std::iota(order.begin(), order.end(), 0u);
    std::shuffle(order.begin(), order.end(), random);
    const std::size_t points_keys = pick(3), zip_keys = pick(3), grid_keys = 1 + pick(2);
    using Kind = BlockParts::Kind;
    BlockParts& block = parts.blocks.emplace_back();
    auto& axes = block.axes;
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
      axes.push_back({Kind::points, points});
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
      axes.push_back({Kind::zip, rows});
      next += zip_keys;
    }
    // A sample of choices: its rows are those of the same sample alone, which other tests hold to their distribution.
    if (pick(3) == 0) {
      const std::size_t knob = order.back();
      const std::string body = "count: " + std::to_string(1 + pick(4)) + ", seed: " + std::to_string(pick(100)) + ", of: {" + kKnobs[knob].key +
                               ": {choice: [" + kKnobs[knob].values[0] + ", " + kKnobs[knob].values[1] + "]}}";
      file += "    sample: {" + body + "}\n";
      std::vector<Settings> rows;
      const Node rolled = draw(parse_yaml("{" + body + "}", "text"), 100);
      for (const Node& value : rolled.find(kKnobs[knob].key)->items) rows.push_back({{kKnobs[knob].key, value.text}});
      axes.push_back({Kind::sample, rows});
    }
    file += "    grid:\n";
    const bool by_set = pick(2) == 0;
    if (by_set) {
      file += "      size: [s1, s0]\n";
      axes.push_back({Kind::grid, {{{"size", "1"}}, {{"size", "0"}}}});
    }
    for (std::size_t i = 0; i < grid_keys; ++i) {
      std::vector<Settings> values(1 + pick(3));
      file += "      " + std::string(kKnobs[order[next + i]].key) + ": ";
      if (kKnobs[order[next + i]].key == std::string("seed")) {  // 1, 3, ... as a range
        file += "{range: [1, " + std::to_string(2 * values.size() - pick(2)) + ", 2]}\n";
        for (std::size_t v = 0; v < values.size(); ++v) values[v]["seed"] = std::to_string(2 * v + 1);
        axes.push_back({Kind::grid, values});
        continue;
      }
      file += "[";
      for (std::size_t v = 0; v < values.size(); ++v) {
        file += v == 0 ? "" : ", ";
        file += values[v][kKnobs[order[next + i]].key] = value_of(order[next + i]);
      }
      file += "]\n";
      axes.push_back({Kind::grid, values});
    }
    // Where the condition fails, the last axis falls back to what the file and its sets give.
    std::string& optional = block.optional;
    optional = pick(2) == 0 ? kKnobs[order[next + grid_keys - 1]].key : "";
    if (!optional.empty()) file += "    when: {" + optional + ": train.steps >= 15 and seed < 4}\n";
    block.excluding = pick(2) == 0;
    if (block.excluding) file += "    exclude: seed == 2 and not routing.top_k in [1, 2] or train.steps < 15\n";
  }

  if (pick(2) == 0) {
    const std::size_t knob = pick(kKnobs.size());
    const std::string value = value_of(knob), other = value_of(knob);
    result.overrides = override_of(parts, kKnobs[knob], pick(4), value, other);
  }
  std::set<Settings> seen;
  for (const auto& [axes, optional, excluding] : parts.blocks) {
    const auto enumerate = [&, &axes = axes, &optional = optional, &excluding = excluding](const auto& self, std::size_t axis,
                                                                                           Settings settings) -> void {
      if (axis < axes.size()) {
        for (const Settings& choice : axes[axis].rows) {
          Settings more = settings;
          for (const auto& [key, value] : choice) more[key] = value;
          self(self, axis + 1, more);
        }
        return;
      }
      const auto put_together = [&] {
        Settings trial = base;
        if (const auto size = settings.find("size"); size != settings.end())
          for (const auto& [key, value] : sets[size->second == "1" ? 1 : 0]) trial[key] = value;
        for (const auto& [key, value] : settings)
          if (key != "size") trial[key] = value;
        return trial;
      };
      Settings trial = put_together();
      if (!optional.empty() && (std::stol(trial["train.steps"]) < 15 || std::stol(trial["seed"]) >= 4)) {
        settings.erase(optional);
        trial = put_together();
      }
      if (derivation != nullptr) {
        trial[kDerivedKey] = std::to_string(derivation->of(trial));
        trial[kSecondKey] = std::to_string(derivation->of(trial) + 1);
      }
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
  std::map<std::string, int> overridden;  // by what the override does
  const char* full = std::getenv("MOESWEEP_FULL");
  const int rounds = full != nullptr && std::string(full) == "1" ? 20000 : 2000;
  for (int round = 0; round < rounds; ++round) {
    Generated expected = generate(random);
    if (!expected.overrides.empty()) {
      const std::string& text = expected.overrides.front();
      ++overridden[text[0] == '+' || text[0] == '~' ? text.substr(0, 1) : text.ends_with(']') ? "axis" : "value"];
      expected.yaml += "# " + text + "\n";
    }
    if (expected.trials.empty()) continue;
    const Sweep found = sweep(expected.yaml, expected.overrides);
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
  EXPECT_GT(trials, 10'000u);
  for (const char* kind : {"value", "axis", "+", "~"}) EXPECT_GT(overridden[kind], rounds / 50) << kind;
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

TEST_F(Expand, DerivedValuesReadTheTrialAsItEndsUp) {
  const auto found = sweep(std::string(kData) +
                               "model: {width: 64, expert_width: \"${model.width} / ${routing.top_k}\"}\ntrain.warmup_steps: ${train.steps} // 30\n"
                               "train.learning_rate: 0.1 / sqrt(${model.width})\nsets: {scale: {x1: {}, x4: {model.width: 256}}}\n"
                               "grid: {routing.top_k: [1, 4], scale: [x1, x4]}\n",
                           {"train.steps=100"});
  ASSERT_EQ(found.trials.size(), 4u);
  const std::vector<std::int64_t> widths{64, 256, 16, 64};
  for (std::size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(found.trials[i].config.model.expert_width, widths[i]);
    EXPECT_EQ(found.trials[i].config.train.warmup_steps, 3);
    EXPECT_EQ(found.trials[i].config.train.learning_rate, i % 2 == 0 ? 0.0125 : 0.00625);
  }
  // Whatever replaces the key, an axis or the command line, replaces the derived value too.
  EXPECT_EQ(sweep(std::string(kData) + "model.expert_width: ${model.width} * 2\ngrid: {model.expert_width: [8, \"${model.width}\"]}\n")
                .trials[0]
                .config.model.expert_width,
            8);
  EXPECT_EQ(sweep("model.expert_width: ${model.width}\n" + std::string(kData), {"model.expert_width=${model.width} * 3"})
                .trials[0]
                .config.model.expert_width,
            192);
}

TEST_F(Expand, ArithmeticOfDerivedValues) {
  const auto value = [](const std::string& text) {
    write("trial.yaml", std::string(kData) + "seed: 7\nmodel.dense_width: \"" + text + "\"\n");
    return load_trial("trial.yaml").model.dense_width;
  };
  EXPECT_EQ(value("${seed}+2*3"), 13);
  EXPECT_EQ(value("(${seed}+2)*3"), 27);
  EXPECT_EQ(value("${seed} - 2 - 1"), 4);
  EXPECT_EQ(value("-(0-${ seed }) // 2"), 3);
  EXPECT_EQ(value("10 + -${seed} // 2"), 6);  // rounds down: -4
  EXPECT_EQ(value("-${seed} % 5"), 3);
  EXPECT_EQ(value("${seed} * 2 / 7"), 2);
  EXPECT_EQ(value("${seed} / 2 * 2"), 7);
  EXPECT_EQ(value("${seed} * 1e1"), 70);
  EXPECT_EQ(value("round(${seed} / 2) + floor(2.9) + ceil(2.1)"), 9);
  EXPECT_EQ(value("max(${seed}, 3, 8) * min(${seed}, 2)"), 16);
  EXPECT_EQ(value("9007199254740993 - 9007199254740980 + ${seed} * 0"), 13);  // not through a float
}

TEST_F(Expand, WhatIsExcludedNeedsNoDerivedValue) {
  const std::string text = std::string(kData) + "model.expert_width: 64 / ${routing.top_k}\ngrid: {routing.top_k: [1, 3, 4]}\n";
  EXPECT_EQ(message_of([&] { sweep(text); }),
            "sweep.yaml:2:21: model.expert_width: expected integer >= 1 and <= 262144 but 64 / ${routing.top_k} is 21.333333333333332\n"
            "  round(), floor() and ceil() make it whole\n  in the trial of routing.top_k = 3");
  EXPECT_EQ(sweep(text + "exclude: routing.top_k == 3\n").trials.size(), 2u);
  EXPECT_NE(message_of([&] { sweep(text + "exclude: model.expert_width == 32\n"); }).find("21.333"), std::string::npos);
}

TEST_F(Expand, Ranges) {
  const auto values = [](const std::string& range, const std::vector<std::string>& overrides = {}) {
    std::vector<double> rates;
    for (const Trial& trial : sweep(std::string(kData) + "grid: {" + range + "}\n", overrides).trials)
      rates.push_back(trial.config.train.learning_rate);
    return rates;
  };
  EXPECT_EQ(values("train.learning_rate: {linspace: [0.1, 0.5, 5]}"), (std::vector<double>{0.1, 0.2, 0.3, 0.4, 0.5}));
  EXPECT_EQ(values("train.learning_rate: {logspace: [1e-4, 1, 5]}"), (std::vector<double>{1e-4, 1e-3, 1e-2, 0.1, 1}));
  EXPECT_EQ(values("train.learning_rate: {range: [0.1, 0.35, 0.1]}"), (std::vector<double>{0.1, 0.2, 0.3}));
  EXPECT_EQ(values("train.learning_rate: {range: [0.3, 0.1, -0.1]}"), (std::vector<double>{0.3, 0.2, 0.1}));
  EXPECT_EQ(values("train.learning_rate: {linspace: [0.5, 1, 1]}"), (std::vector<double>{0.5}));
  EXPECT_EQ(values("seed: [1]", {"train.learning_rate={linspace: [1, 2, 3]}"}), (std::vector<double>{1, 1.5, 2}));
  std::vector<std::int64_t> widths;
  for (const Trial& trial : sweep(std::string(kData) + "zip: {model.width: {logspace: [8, 64, 4]}, seed: {range: [4, 1, -1]}}\n").trials)
    widths.push_back(trial.config.model.width * 10 + trial.config.seed);
  EXPECT_EQ(widths, (std::vector<std::int64_t>{84, 163, 322, 641}));
}

TEST_F(Expand, SamplesAreAPureFunctionOfTheirSeed) {
  const auto draws = [](int count, int seed, const std::string& further = "") {
    return sweep(std::string(kBalanced) + "sample:\n  count: " + std::to_string(count) + "\n  seed: " + std::to_string(seed) +
                 "\n  of:\n    train.learning_rate: {log_uniform: [1e-4, 1e-1]}\n    routing.balance.weight: {uniform: [0.25, 0.75]}\n"
                 "    train.steps: {integers: [3, 6]}\n    routing.balance.scope: {choice: [sequence, global_batch]}\n" +
                 further)
        .trials;
  };
  const auto all = draws(4000, 5);
  ASSERT_EQ(all.size(), 4000u);
  double logarithms = 0, weights = 0;
  std::map<std::int64_t, int> steps;
  int sequences = 0;
  for (const Trial& trial : all) {
    const auto& c = trial.config;
    EXPECT_TRUE(c.train.learning_rate >= 1e-4 && c.train.learning_rate <= 1e-1);
    EXPECT_TRUE(c.routing.balance.weight >= 0.25 && c.routing.balance.weight <= 0.75);
    logarithms += std::log10(c.train.learning_rate) / 4000;
    weights += c.routing.balance.weight / 4000;
    ++steps[c.train.steps];
    sequences += c.routing.balance.scope == routing::ScopeKind::sequence ? 1 : 0;
  }
  EXPECT_NEAR(logarithms, -2.5, 4 * 3 / std::sqrt(12 * 4000.));  // four standard errors each
  EXPECT_NEAR(weights, 0.5, 4 * 0.5 / std::sqrt(12 * 4000.));
  EXPECT_NEAR(sequences, 2000, 4 * std::sqrt(1000.));
  ASSERT_EQ(steps.size(), 4u);
  for (const auto& [value, count] : steps) EXPECT_NEAR(count, 1000, 4 * std::sqrt(750.)) << value;

  const auto few = draws(10, 5), others = draws(10, 6);
  for (std::size_t i = 0; i < few.size(); ++i) {
    EXPECT_EQ(few[i].id, all[i].id);  // a larger count goes on
    EXPECT_NE(few[i].id, others[i].id);
  }
  // A further key leaves the draws of the others; the sample is an axis beside a grid.
  const auto more = draws(10, 5, "    seed: {integers: [1, 1000000]}\ngrid: {model.width: [32, 64]}\n");
  ASSERT_EQ(more.size(), 20u);
  for (std::size_t i = 0; i < more.size(); ++i) EXPECT_EQ(more[i].config.train.learning_rate, few[i / 2].config.train.learning_rate);
  EXPECT_EQ(few[0].id, "add1ce72f6c14081");  // the same on every machine, for ever
}

TEST_F(Expand, ASampleTakesOverridesAndReadsBack) {
  const std::string text =
      std::string(kData) +
      "sets: {scale: {x1: {}, x2: {model.width: 128}}}\nsample: {count: 6, of: {seed: {integers: [1, 99]}, scale: {choice: [x1, x2]}, "
      "routing: {choice: [routers/random.yaml, {top_k: 2}]}}}\n";
  const Sweep found = sweep(text);
  const Sweep again = sweep(found.resolved.dump());
  ASSERT_EQ(found.trials.size(), again.trials.size());
  for (std::size_t i = 0; i < found.trials.size(); ++i) EXPECT_EQ(found.trials[i].id, again.trials[i].id);
  for (const Trial& trial : sweep(text, {"seed=3", "routing.top_k=1"}).trials) {
    EXPECT_EQ(trial.config.seed, 3);
    EXPECT_EQ(trial.config.routing.top_k, 1);
  }
  EXPECT_EQ(sweep(text, {"seed=3", "~scale", "~routing"}).trials.size(), 1u);
  EXPECT_EQ(message_of([&] { sweep(text, {"+seed=3"}); }),
            "command line: +seed: it is drawn by a sample, which takes no further value\n  seed=... replaces it");
}

TEST_F(Expand, ASelectionPassesOverTheOthers) {
  const std::string text = std::string(kData) + "sets: {scale: {x1: {}, x2: {model.width: 128}}}\ngrid: {seed: [1, 2, 3, 4], scale: [x1, x2]}\n";
  const Sweep all = sweep(text);
  ASSERT_EQ(all.trials.size(), 8u);
  EXPECT_TRUE(all.passed_over.empty());
  const auto chosen = [&](const Selection& selection) {
    write("sweep.yaml", text);
    const Sweep found = load_sweep("sweep.yaml", {}, selection);
    EXPECT_EQ(found.trials.size(), 8u);
    std::string marks;
    for (const Trial& trial : found.trials) marks += found.passed_over.contains(trial.id) ? '.' : 'x';
    return marks;
  };
  EXPECT_EQ(chosen({{"seed <= 2"}, {}}), "xxxx....");
  EXPECT_EQ(chosen({{"seed == 1", "seed == 4"}, {"scale == x2"}}), "x.....x.");
  EXPECT_EQ(chosen({{}, {"model.width == 128", "seed in [2, 3]"}}), "x.....x.");
  EXPECT_EQ(chosen({{all.trials[3].id, all.trials[5].id.substr(0, 8)}, {}}), "...x.x..");
  EXPECT_EQ(chosen({{"scale == x1"}, {all.trials[0].id}}), "..x.x.x.");
  const auto message = [&](const Selection& selection) { return message_of([&] { chosen(selection); }); };
  EXPECT_EQ(message({{"seed == 9"}, {}}), "command line: none of 8 trials is left by --only and --skip");
  EXPECT_EQ(message({{"0123456789abcdef"}, {}}), "--only: no trial's id begins with 0123456789abcdef\n  `moesweep plan` lists them");
  EXPECT_EQ(message({{}, {"sed == 1"}}), "--skip: in the condition \"sed == 1\": 'sed' is not a key: did you mean 'seed'?");
  EXPECT_EQ(message({{""}, {}}), "--only: expected a condition but found nothing");
}

TEST_F(Expand, TheGranularityStudyIsAtEqualSizesAndEqualArithmetic) {
  const Sweep study = load_sweep("granularity");
  ASSERT_EQ(study.trials.size(), 12u);
  std::set<std::int64_t> total, active, multiplications, cuts;
  for (std::size_t i = 0; i < study.trials.size(); ++i) {
    const train::TrialConfig& c = study.trials[i].config;
    model::CostInput input;
    input.model = c.model;
    input.routing = c.routing;
    input.vocabulary = c.data.vocabulary;
    input.sequence_length = c.data.sequence_length;
    const model::Costs costs = model::costs_of(input);
    const std::int64_t routers = c.model.layers * c.model.width * c.model.experts;  // grow with the number of experts
    if (i < 6) {
      total.insert(costs.parameters_total - routers);
      active.insert(costs.parameters_active - routers);
      cuts.insert(c.model.experts);
    } else {
      multiplications.insert(c.routing.top_k * c.model.expert_width * c.train.steps);
    }
  }
  EXPECT_EQ(total.size(), 1u);
  EXPECT_EQ(active.size(), 1u);
  EXPECT_EQ(cuts.size(), 3u);
  EXPECT_EQ(multiplications.size(), 1u);
}

TEST_F(Expand, AStreamHandsOutWhatTheSweepHolds) {
  const std::string text = std::string(kData) + "sets: {scale: {x1: {}, x2: {model.width: 128}, x3: {}}}\n" +
                           "grid: {seed: [1, 2, 3, 4, 2], scale: [x1, x2, x3]}\nexclude: seed == 4\n";
  write("sweep.yaml", text);
  for (const Selection& selection : {Selection{}, Selection{{"seed <= 2"}, {}}, Selection{{"scale == x3", "seed == 1"}, {"model.width == 128"}}}) {
    const Sweep sweep = load_sweep("sweep.yaml", {"+seed=7"}, selection);
    std::vector<std::string> expected, found, configs;
    for (const Trial& trial : sweep.trials)
      if (!sweep.passed_over.contains(trial.id)) expected.push_back(trial.id);
    const TrialStream stream("sweep.yaml", {"+seed=7"}, selection);
    EXPECT_EQ(stream.name(), "sweep");
    for (int walk = 0; walk < 2; ++walk) {
      found.clear(), configs.clear();
      const Counts counts = stream.for_each([&](const std::string& id, const train::TrialConfig& config) {
        found.push_back(id);
        configs.push_back(train::id_of(config));
      });
      EXPECT_EQ(found, expected);
      EXPECT_EQ(configs, expected);
      EXPECT_EQ(counts.trials, static_cast<std::int64_t>(sweep.trials.size()));
      EXPECT_EQ(counts.duplicates_dropped, sweep.duplicates_dropped);
      EXPECT_EQ(counts.excluded, sweep.excluded);
      EXPECT_EQ(counts.passed_over, static_cast<std::int64_t>(sweep.passed_over.size()));
    }
  }
  // `scale == x3` holds for a duplicate of the trials of x1 alone: those are chosen, as the sweep has it.
  EXPECT_EQ(TrialStream("sweep.yaml", {}, {{"scale == x3"}, {}}).for_each({}).passed_over, 3);
  EXPECT_EQ(message_of([] {
              TrialStream("sweep.yaml", {}, {{"seed == 9"}, {}}).for_each({});
            }),
            "command line: none of 6 trials is left by --only and --skip");
}

TEST_F(Expand, WholeSectionsBesideASingleKeyReadBack) {
  const Sweep found = sweep(std::string(kData) +
                                "points: [{routing: routers/reference.yaml}, {routing: {whole: true, select: hash}}]\n"
                                "sample: {count: 3, of: {routing.temperature: {choice: [1, 2, 3]}}}\ngrid: {routing.top_k: [1, 2]}\n"
                                "when: {routing.top_k: routing.temperature > 1}\n",
                            {"routing.select=top_k"});
  const Sweep again = sweep(found.resolved.dump());
  ASSERT_EQ(again.trials.size(), found.trials.size());
  for (std::size_t i = 0; i < found.trials.size(); ++i) EXPECT_EQ(again.trials[i].id, found.trials[i].id);
  const Sweep whole = sweep(std::string(kData) + "routing.top_k: 2\ngrid: {routing: [{whole: true, temperature: 2}, {temperature: 2}]}\n");
  EXPECT_EQ(whole.trials[0].config.routing.top_k, 4);  // the default
  EXPECT_EQ(whole.trials[1].config.routing.top_k, 2);
}

TEST_F(Expand, WhatAsksForTooMuchIsAnErrorAtOnce) {
  const std::string head = std::string(kData) + "grid: {seed: {range: [1, 100000, 1]}, ";
  const auto message = [](const std::string& text) { return message_of([&] { sweep(text); }); };
  EXPECT_EQ(message(head + "routing.top_k: [1, 2, 4], model.width: {range: [2, 200, 2]}}\n"),
            "sweep.yaml:1:1: more than 10000000 combinations: a sweep has no more trials than that\n"
            "  a step, a count or an axis too many? `sample` draws some of many");
  EXPECT_EQ(message(std::string(kData) +
                    "zip: {seed: {range: [1, 1000000, 1]}, train.steps: {range: [1, 1000000, 1]}, train.tokens: {range: [1, 2, 1]}}\n"),
            "sweep.yaml:2:100: train.tokens.range: 2 values, with which the ranges of the sweep stand for too many");
  EXPECT_EQ(message(std::string(kData) +
                    "sample: {count: 1000000, of: {seed: {integers: [1, 9]}, model.width: {integers: [2, 9]}, train.steps: {integers: [1, 9]}}}\n"),
            "sweep.yaml:2:17: sample: 1000000 draws of 3 values each are more than 2000000 values");
  // Files that name each other over and over, without a circle: 3 + 3 * 30 + 3 * 30 * 30 + ...
  write("b0.yaml", "seed: 1\n");
  for (int level = 1; level < 4; ++level) {
    std::string names;
    for (int i = 0; i < 30; ++i) names += (i == 0 ? "b" : ", b") + std::to_string(level - 1) + ".yaml";
    write("b" + std::to_string(level) + ".yaml", "base: [" + names + "]\n");
  }
  EXPECT_NE(message(std::string(kData) + "base: b3.yaml\n").find("more than 10000 files are read"), std::string::npos);
  write("large.yaml", std::string(16 * 1024 * 1024, '#') + "\n");
  EXPECT_EQ(message("base: large.yaml\n"), "large.yaml: 16777217 bytes, and 16777216 are the most of a YAML file");
  const std::string message_of_long = message(std::string(1 << 20, 'a') + ": 1\n");
  EXPECT_LT(message_of_long.size(), 1000u);
  EXPECT_TRUE(message_of_long.starts_with("sweep.yaml:1:1: unknown key 'aaaa") || message_of_long.find("not valid YAML") != std::string::npos)
      << message_of_long;
  EXPECT_LT(message("seed: " + std::string(1 << 20, 'a') + "\n").size(), 1000u);
  std::string dots = "a";
  for (int i = 0; i < 200'000; ++i) dots += ".a";
  EXPECT_LT(message("? " + dots + "\n: 1\n").size(), 1000u);
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
