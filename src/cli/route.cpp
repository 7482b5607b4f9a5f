// A strategy applied to logits from a file: route.
#include "moesweep/train/route.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <filesystem>
#include <memory>

#include "cli.hpp"
#include "moesweep/core/log.hpp"
#include "moesweep/core/publish.hpp"
#include "moesweep/core/version.hpp"
#include "moesweep/spec/presets.hpp"
#include "moesweep/store/output.hpp"
#include "moesweep/store/tensors.hpp"
#include "moesweep/train/config.hpp"

namespace moesweep::cli {

namespace {

struct RouteOptions {
  std::string router, input, output, mode = "train";
  std::int64_t step = 0, layer = 0;
  std::vector<std::string> overrides;
};

/// Keys outside of routing that a file of logits leaves something to say to.
bool has_effect(const std::string& override_text) {
  const std::string key = override_text.substr(0, override_text.find('='));
  return key == "seed" || key == "train.micro_batch_sequences" || key == "data.vocabulary" || key == "data.domains";
}

void apply_router(const RouteOptions& options) {
  std::error_code error;
  if (std::filesystem::equivalent(options.input, options.output, error))
    throw Error(ErrorKind::usage, "--output is the file of --input, which would be lost", options.input, "name another file to write");
  require_readable_file(options.input);
  store::require_own_output(options.output, "router");  // before the work; publishing looks again
  const train::TrialConfig config = spec::load_router_trial(options.router, options.overrides);
  train::RouteRequest request;
  request.source = options.input;
  for (const std::string& text : options.overrides) {
    const std::string key = text.substr(text.starts_with('+') || text.starts_with('~') ? 1 : 0);
    if (key.starts_with("data.vocabulary=")) request.vocabulary = config.data.vocabulary;
    if (!key.starts_with("routing.") && !key.starts_with("routing=") && !has_effect(key))
      log::warning(fmt::format("{} says nothing to logits from a file", text));
  }
  request.routing = config.routing.of_layer(options.layer);
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
  sub->add_option("--step", options->step, "step, for schedules, noise and warm-ups")->check(integer_in(0, 1000000000))->capture_default_str();
  sub->add_option("--layer", options->layer, "MoE layer, for ranges of layers, noise and hash tables")
      ->check(integer_in(0, 1000000))
      ->capture_default_str();
  sub->add_option("OVERRIDE", options->overrides,
                  "key=value as in a sweep: routing.*, seed, train.micro_batch_sequences, data.vocabulary, data.domains");
  sub->callback([options, &invocation] {
    apply_router(*options);
    invocation.exit_code = ExitCode::ok;
  });
}

}  // namespace moesweep::cli
