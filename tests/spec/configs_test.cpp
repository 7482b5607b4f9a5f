// Every file in configs/ loads and expands; the studies are what they say; schema and reference agree with the files.
#include <algorithm>
#include <regex>
#include <set>

#include "moesweep/core/publish.hpp"
#include "moesweep/spec/presets.hpp"
#include "moesweep/spec/profile.hpp"
#include "spec/node.hpp"
#include "spec/support.hpp"

namespace fs = std::filesystem;

namespace moesweep::spec {

namespace {

const fs::path kConfigs = fs::path(std::getenv("MOESWEEP_SOURCE_DIR") ? std::getenv("MOESWEEP_SOURCE_DIR") : MOESWEEP_TEST_SOURCE_DIR) / "configs";

/// YAML as plain JSON, by the core schema that editors use.
Json json_of(const Node& node) {
  Json value;
  if (node.is_map()) {
    value = Json::object();
    for (const Entry& entry : node.entries) value[entry.key] = json_of(entry.value);
  } else if (node.is_list()) {
    value = Json::array();
    for (const Node& item : node.items) value.push_back(json_of(item));
  } else if (!node.quoted && (node.text == "true" || node.text == "false")) {
    value = node.text == "true";
  } else if (!node.quoted && std::regex_match(node.text, std::regex("[-+]?[0-9]+"))) {
    value = std::stoll(node.text);
  } else if (!node.quoted && std::regex_match(node.text, std::regex("[-+]?(\\.[0-9]+|[0-9]+(\\.[0-9]*)?)([eE][-+]?[0-9]+)?"))) {
    value = std::stod(node.text);
  } else {
    value = node.text;
  }
  return value;
}

/// A validator of the part of JSON Schema that ours uses; unknown words are an error, so that it cannot pass by ignorance.
class Validator {
 public:
  explicit Validator(Json root) : root_(std::move(root)) {}

  /// Why the value does not fit; empty when it does.
  std::string check(const Json& value, const Json& schema, const std::string& path = "") const {
    static const std::set<std::string> kKnown{"$schema", "$defs",    "$ref",          "title",   "description",      "default",
                                              "type",    "enum",     "const",         "anyOf",   "properties",       "additionalProperties",
                                              "items",   "minItems", "minProperties", "minimum", "exclusiveMinimum", "maximum",
                                              "pattern"};
    if (schema.is_boolean()) return schema.get<bool>() ? "" : path + ": not allowed";
    for (const auto& [word, ignored] : schema.items())
      if (!kKnown.contains(word)) return path + ": the schema uses " + word;
    if (schema.contains("$ref")) {
      std::string reference = schema["$ref"].get<std::string>().substr(2);  // after "#/"
      const Json* target = &root_;
      for (std::size_t slash; (slash = reference.find('/')) != std::string::npos; reference = reference.substr(slash + 1))
        target = &target->at(reference.substr(0, slash));
      if (auto reason = check(value, target->at(reference), path); !reason.empty()) return reason;
    }
    if (schema.contains("anyOf")) {
      std::string reasons;
      if (std::ranges::none_of(schema["anyOf"], [&](const Json& option) {
            const std::string reason = check(value, option, path);
            reasons += "[" + reason + "]";
            return reason.empty();
          }))
        return path + ": none of " + reasons;
    }
    if (schema.contains("const") && value != schema["const"]) return path + ": not " + schema["const"].dump();
    if (schema.contains("enum") && std::ranges::find(schema["enum"], value) == schema["enum"].end())
      return path + ": not one of " + schema["enum"].dump();
    if (schema.contains("type")) {
      const std::string type = schema["type"];
      const bool fits = type == "object"    ? value.is_object()
                        : type == "array"   ? value.is_array()
                        : type == "string"  ? value.is_string()
                        : type == "integer" ? value.is_number_integer()
                        : type == "number"  ? value.is_number()
                                            : value.is_boolean();
      if (!fits) return path + ": not a " + type;
    }
    if (value.is_number()) {
      const double number = value;
      if (schema.contains("minimum") && number < schema["minimum"].get<double>()) return path + ": too small";
      if (schema.contains("exclusiveMinimum") && number <= schema["exclusiveMinimum"].get<double>()) return path + ": too small";
      if (schema.contains("maximum") && number > schema["maximum"].get<double>()) return path + ": too large";
    }
    if (value.is_string() && schema.contains("pattern") &&
        !std::regex_search(value.get<std::string>(), std::regex(schema["pattern"].get<std::string>())))
      return path + ": does not match";
    if (value.is_array()) {
      if (value.size() < schema.value("minItems", std::size_t{0})) return path + ": too short";
      for (std::size_t i = 0; i < value.size() && schema.contains("items"); ++i)
        if (auto reason = check(value[i], schema["items"], path + "/" + std::to_string(i)); !reason.empty()) return reason;
    }
    if (value.is_object()) {
      if (value.size() < schema.value("minProperties", std::size_t{0})) return path + ": too few keys";
      for (const auto& [key, inner] : value.items()) {
        const bool named = schema.contains("properties") && schema["properties"].contains(key);
        if (!named && !schema.contains("additionalProperties")) continue;
        if (auto reason = check(inner, named ? schema["properties"][key] : schema["additionalProperties"], path + "/" + key); !reason.empty())
          return reason;
      }
    }
    return "";
  }
  std::string check(const Json& value) const { return check(value, root_); }

 private:
  Json root_;
};

}  // namespace

class Configs : public InFolder {};

TEST_F(Configs, EveryFileLoadsAndExpands) {
  std::size_t files = 0;
  for (const auto& entry : fs::recursive_directory_iterator(kConfigs)) {
    if (entry.path().extension() != ".yaml") continue;
    ++files;
    const std::string folder = entry.path().parent_path().filename(), file = entry.path().string();
    const auto load = [&] {
      if (folder == "sweeps") {
        const Sweep found = load_sweep(file);
        EXPECT_FALSE(found.trials.empty()) << file;
        EXPECT_TRUE(entry.path().filename().string().starts_with(found.name)) << file << " is named " << found.name;
      } else if (folder == "models") {
        load_trial(file, {"data=data/synthetic8.yaml"});
      } else if (folder == "routers" && entry.path().filename() == "variants.yaml") {
        // presets_test.cpp loads each entry
      } else if (folder == "routers") {
        write("trial.yaml", "base: models/testbed-tiny.yaml\ndata: data/synthetic8.yaml\nrouting: " + file + "\n");
        load_trial("trial.yaml");
      } else if (folder == "data") {
        write("trial.yaml", "base: models/testbed-tiny.yaml\ndata: " + file + "\n");
        load_trial("trial.yaml");
      } else if (folder == "profiles") {
        load_profile(file);
      } else {
        ADD_FAILURE() << file << " lies in a folder that this test does not know";
      }
    };
    EXPECT_EQ(message_of(load), "accepted") << file;
  }
  EXPECT_GE(files, 10u);
}

TEST_F(Configs, QuickstartIsTheStudyOfTheIssue) {
  const Sweep study = load_sweep("quickstart");
  EXPECT_EQ(study.name, "quickstart");
  ASSERT_EQ(study.trials.size(), 27u);
  EXPECT_EQ(study.duplicates_dropped, 0);
  std::map<std::string, int> counts;
  for (const auto& [id, c] : study.trials) {
    EXPECT_EQ(c.data.domains.size(), 8u);
    EXPECT_EQ(c.data.vocabulary, 1024);
    EXPECT_EQ(c.data.sequence_length, 64);
    EXPECT_EQ(c.steps(), 200);
    EXPECT_EQ(c.evaluation.tokens, 16384);
    EXPECT_EQ(c.model.width, 64);
    EXPECT_EQ(c.model.layers, 2);
    EXPECT_EQ(c.model.experts, 32);
    EXPECT_EQ(c.model.expert_width, 32);
    EXPECT_EQ(c.routing.top_k, 4);
    EXPECT_EQ(c.train.learning_rate, 6e-3);
    EXPECT_EQ(c.train.batch_sequences, 64);
    EXPECT_EQ(c.train.micro_batch_sequences, 4);
    std::string kind = c.routing.select;
    if (c.routing.select == "top_k") {
      kind = c.routing.balance.method;
      if (c.routing.balance.method != "none") kind += "/" + std::string(name_of_value(c.routing.balance.scope));
    }
    if (c.routing.balance.method == "aux_loss") {
      EXPECT_EQ(c.routing.balance.weight, 0.1);
      EXPECT_EQ(c.routing.score, routing::Score::softmax_selected);
    }
    if (c.routing.balance.method == "expert_bias") {
      EXPECT_EQ(c.routing.balance.rate, 2e-2);
      EXPECT_EQ(c.routing.balance.rule, routing::BiasRule::sign);
      EXPECT_EQ(c.routing.score, routing::Score::sigmoid);
    }
    ++counts[kind];
  }
  EXPECT_EQ(counts.size(), 9u);
  for (const auto& [kind, count] : counts) EXPECT_EQ(count, 3) << kind;
}

TEST_F(Configs, Scale35xHas35TimesTheParameters) {
  const auto parameters = [](const train::TrialConfig& c) {
    const auto& m = c.model;
    const std::int64_t layer = 4 * m.width * m.width + 2 * m.width + m.width * m.experts + m.experts * 3 * m.width * m.expert_width;
    return 2 * c.data.vocabulary * m.width + m.width + m.layers * layer;
  };
  const Sweep study = load_sweep("scale35x");
  ASSERT_EQ(study.trials.size(), 24u);
  std::set<std::int64_t> sizes;
  for (const Trial& trial : study.trials) sizes.insert(parameters(trial.config));
  ASSERT_EQ(sizes.size(), 2u);
  EXPECT_GE(static_cast<double>(*sizes.rbegin()) / static_cast<double>(*sizes.begin()), 35.0);
  EXPECT_NEAR(static_cast<double>(*sizes.rbegin()), 20e6, 1e6);
  // every aux-loss trial has the reference trial of equal other config and seed
  const auto without_routing = [](train::TrialConfig config) {
    config.routing = {};
    return train::id_of(config);
  };
  std::set<std::string> references;
  for (const Trial& trial : study.trials)
    if (trial.config.routing.select == "reference") references.insert(without_routing(trial.config));
  for (const Trial& trial : study.trials) EXPECT_TRUE(references.contains(without_routing(trial.config)));
}

TEST_F(Configs, TheSchemaAcceptsEverySweep) {
  const Validator validator(json_schema());
  std::size_t files = 0;
  for (const auto& entry : fs::directory_iterator(kConfigs / "sweeps")) {
    if (entry.path().extension() != ".yaml") continue;
    ++files;
    EXPECT_EQ(validator.check(json_of(parse_yaml(read_text(entry.path()), "file"))), "") << entry.path();
    Json resolved = load_sweep(entry.path().string()).resolved;
    EXPECT_EQ(validator.check(resolved), "") << entry.path();
  }
  EXPECT_GE(files, 3u);
  for (const Preset& preset : router_presets()) {
    write("sweep.yaml", "base: models/testbed-tiny.yaml\ndata: data/synthetic8.yaml\nrouting: routers/" + preset.name + ".yaml\n");
    EXPECT_EQ(validator.check(load_sweep("sweep.yaml").resolved), "") << preset.name;
  }
}

TEST_F(Configs, TheSchemaRefusesWhatTheParserRefuses) {
  const Validator validator(json_schema());
  for (const char* text : {"model: {widht: 3}",
                           "model.width: wide",
                           "train.steps: 0",
                           "train.steps: none",
                           "grid: {seed: 1}",
                           "grid: {seed: []}",
                           "grid: {model.width: [32, a]}",
                           "points: []",
                           "blocks: [{gird: {}}]",
                           "routing.balance.scope: global",
                           "routing: 3",
                           "modle: {a: 1}",
                           "points: [{train.learning_rate: 0}]",
                           "sets: {scale: {x1: {modle: 1}}}",
                           "routing: {balance: {also: [{scop: sequence}]}}",
                           "sweep: a/b",
                           "exclude: {a: b}",
                           "routing.layers: {0: 3}",
                           "routing: {layers: {0: {selekt: hash}}}",
                           "routing.layers: {0: {balance: {scope: global}}}",
                           "routing.layers: [a.yaml]",
                           "routing.schedules: [{kind: cosin}]",
                           "grid: {seed: {lin: [1, 2, 3]}}",
                           "grid: {routing.balance.scope: {linspace: [1, 2, 3]}}",
                           "grid: {seed: {range: 3}}",
                           "sample: {cuont: 1, of: {seed: {integers: [1, 2]}}}",
                           "sample: {count: 0, of: {seed: {integers: [1, 2]}}}",
                           "sample: {count: 1, of: {sede: {integers: [1, 2]}}}",
                           "sample: {count: 1, of: {seed: {normal: [1, 2]}}}",
                           "sample: {count: 1, of: {routing.balance.scope: {uniform: [1, 2]}}}",
                           "routing.balance.scope: ${seed}"}) {
    EXPECT_NE(validator.check(json_of(parse_yaml(text, "text"))), "") << text;
    EXPECT_NE(message_of([&] { sweep(std::string(text)); }), "accepted") << text;
  }
  for (const char* text :
       {"train.tokens: none", "routing: routers/random.yaml", "grid: {routing: [routers/random.yaml, {top_k: 2}], scale: [x1]}", "scale: x1",
        "model.width: ${model.heads} * 16", "grid: {train.tokens: [none, \"${train.steps} * 4096\"], seed: {range: [1, 9, 2]}}",
        "sample: {count: 3, seed: 2, of: {train.learning_rate: {log_uniform: [1e-4, 1]}, routing: {choice: [a.yaml, {top_k: 2}]}, size: {choice: "
        "[x1]}}}",
        "base: [a.yaml, b.yaml]", "exclude: seed == 1",
        "routing.layers: {0-2: routers/hash_random.yaml, 3: {select: top_k, balance: {method: aux_loss}}}",
        "routing: {layers: {0: {schedules: [{key: temperature, kind: step}]}}}", "grid: {routing.layers: [{}, {0: a.yaml}]}", "routing.layers: {}"})
    EXPECT_EQ(validator.check(json_of(parse_yaml(text, "text"))), "") << text;
}

TEST_F(Configs, TheReadmesReferenceIsTheGeneratedOne) {
  const std::string readme = read_text(kConfigs / "README.md"), begin = "<!-- generated by `moesweep schema --markdown` -->\n",
                    end = "<!-- end of the generated part -->";
  const auto from = readme.find(begin), to = readme.find(end);
  ASSERT_NE(from, std::string::npos);
  ASSERT_NE(to, std::string::npos);
  const std::string generated = readme.substr(from + begin.size(), to - from - begin.size());
  if (const char* build = std::getenv("MOESWEEP_BINARY_DIR"); build != nullptr && generated != reference_markdown())
    write(fs::path(build) / "reference.md", reference_markdown());
  EXPECT_EQ(generated, reference_markdown()) << "put the output of `moesweep schema --markdown` between the two comments of configs/README.md";
}

TEST_F(Configs, TheReadmesExampleRuns) {
  const std::string readme = read_text(kConfigs / "README.md");
  const auto from = readme.find("```yaml\n") + 8, to = readme.find("```", from);
  const Sweep example = sweep(readme.substr(from, to - from));
  EXPECT_EQ(example.name, "mine");
  EXPECT_EQ(example.trials.size(), 24u);
  EXPECT_EQ(example.excluded, 6);
}

TEST_F(Configs, TheReferenceNamesEveryKey) {
  train::TrialConfig config;
  const std::string text = reference_markdown();
  for (const Leaf& leaf : leaves_of(fields_of(config))) EXPECT_NE(text.find("`" + leaf.path + "`"), std::string::npos) << leaf.path;
}

}  // namespace moesweep::spec
