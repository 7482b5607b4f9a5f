// A strategy applied to logits from a file: route.
#include "moesweep/train/route.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <filesystem>
#include <memory>

#include "cli.hpp"
#include "moesweep/core/log.hpp"
#include "moesweep/core/version.hpp"
#include "moesweep/spec/presets.hpp"
#include "moesweep/store/tensors.hpp"
#include "moesweep/train/config.hpp"

namespace moesweep::cli {

namespace {

struct RouteOptions {
  std::string router, input, output, mode = "train";
  std::int64_t step = 0, layer = 0;
  std::vector<std::string> overrides;
};

/// A key of a trial that is none of routing's: `key=value`, lists in brackets.
void set_key(train::TrialConfig& config, const std::string& text) {
  const auto fail = [&](const std::string& what) {
    throw Error(ErrorKind::config, what, "command line", "`moesweep schema --markdown` lists the keys");
  };
  const auto equals = text.find('=');
  if (equals == std::string::npos || equals == 0 || text[0] == '+' || text[0] == '~') fail(fmt::format("'{}' is no key=value", text));
  const std::string key = text.substr(0, equals), value = text.substr(equals + 1);
  for (const Leaf& leaf : leaves_of(fields_of(config))) {
    if (leaf.path != key) continue;
    Json parsed;
    if (leaf.field.type == FieldType::text_list) {
      if (!value.starts_with('[') || !value.ends_with(']')) fail(fmt::format("{} takes a list: {}=[a, b]", key, key));
      parsed = Json::array();
      const std::string inside = value.substr(1, value.size() - 2);
      for (std::size_t begin = 0; begin < inside.size();) {
        const std::size_t end = std::min(inside.find(',', begin), inside.size());
        const std::size_t first = std::min(inside.find_first_not_of(" ", begin), end);
        std::size_t last = end;
        while (last > first && inside[last - 1] == ' ') --last;
        parsed.push_back(inside.substr(first, last - first));
        begin = end + 1;
      }
    } else if (leaf.field.type == FieldType::text || leaf.field.type == FieldType::choice) {
      parsed = value;
    } else {
      parsed = value == "none" ? Json() : Json::parse(value, nullptr, false);
      if (parsed.is_discarded()) parsed = value;
    }
    if (const auto reason = check_value(leaf.field, parsed); !reason.empty()) fail(fmt::format("{}: {}", key, reason));
    leaf.field.set(parsed);
    return;
  }
  fail(fmt::format("there is no key '{}'", key));
}

/// Keys outside of routing that a file of logits leaves something to say to.
bool has_effect(const std::string& override_text) {
  const std::string key = override_text.substr(0, override_text.find('='));
  return key == "seed" || key == "train.micro_batch_sequences" || key == "data.vocabulary" || key == "data.domains";
}

void apply_router(const RouteOptions& options) {
  std::error_code error;
  if (std::filesystem::equivalent(options.input, options.output, error))
    throw Error(ErrorKind::usage, "--output is the file of --input, which would be lost", options.input, "name another file to write");
  std::vector<std::string> routing;
  train::TrialConfig config;
  train::RouteRequest request;
  request.source = options.input;
  for (const std::string& text : options.overrides) {
    const std::string key = text.substr(text.starts_with('+') || text.starts_with('~') ? 1 : 0);
    if (key.starts_with("routing.") || key.starts_with("routing=")) {
      routing.push_back(text);
      continue;
    }
    set_key(config, text);
    if (!has_effect(text)) log::warning(fmt::format("{} says nothing to logits from a file", text));
    if (key.starts_with("data.vocabulary=")) request.vocabulary = config.data.vocabulary;
  }
  request.routing = spec::load_router(options.router, routing).of_layer(options.layer);
  for (const auto mode : {train::RouteMode::train, train::RouteMode::evaluate, train::RouteMode::greedy})
    if (name_of_value(mode) == options.mode) request.mode = mode;
  request.seed = config.seed;
  request.step = options.step;
  request.layer = options.layer;
  request.micro_batch_sequences = config.train.micro_batch_sequences;
  request.domains = static_cast<std::int64_t>(config.data.domains.size());

  for (const std::string& name : store::tensor_names(options.input)) {
    const auto known = std::ranges::find_if(train::route_datasets(), [&](const train::RouteDataset& dataset) {
      return dataset.name.ends_with('/') ? name.starts_with(dataset.name) : name == dataset.name;
    });
    if (known == train::route_datasets().end()) log::warning(fmt::format("{}: the dataset {} is none that route reads", options.input, name));
    else request.inputs.push_back(store::read_tensor(options.input, name, known->dimensions));
  }
  const train::Routed routed = train::route(request);
  for (const std::string& note : routed.notes) log::warning(note);
  const auto flag = [](bool value) { return std::string(value ? "true" : "false"); };
  store::write_tensors(options.output,
                       {{"router", options.router},
                        {"routing", fields_of(request.routing).dump().dump()},
                        {"mode", options.mode},
                        {"step", std::to_string(options.step)},
                        {"layer", std::to_string(options.layer)},
                        {"seed", std::to_string(config.seed)},
                        {"version", fmt::format("moesweep {} ({})", version(), git_version())},
                        {"causal_training", flag(routed.causal_training)},
                        {"causal_greedy", flag(routed.causal_greedy)}},
                       routed.arrays);
}

}  // namespace

void add_route(CLI::App& app, Invocation& invocation) {
  auto options = std::make_shared<RouteOptions>();
  CLI::App* sub = subcommand(
      app, "route",
      "Apply a strategy to logits from an HDF5 file, as one step of one layer: slots, counts, losses, gradients and state.\n"
      "Reads logits [T, E] (f32 is routed in fp32, f64 in fp64) and, where there are any: upstream [N] or [T, k] (gradients of the slots'\n"
      "weights), domain, sequence, token, mask [T] (1 counts), noise_logits [T, E], replay/expert [T, k] and state/NAME. Jitter acts on the\n"
      "router's input, which the file has not: none is applied; losses of weights are absent. Writes, each with a description: token, expert, "
      "weight,\n"
      "dropped, offsets (slots), counts, losses/NAME, gradients/NAME (gradients/weights from upstream) and state/NAME.",
      "moesweep route --router expert_bias --input logits.h5 --output routed.h5 routing.top_k=2 train.micro_batch_sequences=2");
  sub->add_option("--router", options->router, "a preset of `moesweep routers`")->required();
  sub->add_option("--input", options->input, "HDF5 file with logits")->required();
  sub->add_option("--output", options->output, "file to write")->required();
  sub->add_option("--mode", options->mode, "train (losses, noise, state), evaluate (the training reading without noise) or greedy")
      ->check(CLI::IsMember({"train", "evaluate", "greedy"}))
      ->capture_default_str();
  sub->add_option("--step", options->step, "step, for schedules, noise and warm-ups")->check(CLI::Range(0, 1000000000))->capture_default_str();
  sub->add_option("--layer", options->layer, "MoE layer, for ranges of layers, noise and hash tables")
      ->check(CLI::Range(0, 1000000))
      ->capture_default_str();
  sub->add_option("OVERRIDE", options->overrides,
                  "key=value as in a sweep: routing.*, seed, train.micro_batch_sequences, data.vocabulary, data.domains");
  sub->callback([options, &invocation] {
    apply_router(*options);
    invocation.exit_code = ExitCode::ok;
  });
}

}  // namespace moesweep::cli
