// What parts of the program cost on this machine: bench.
#include "moesweep/train/bench.hpp"

#include <fmt/core.h>

#include <memory>

#include "cli.hpp"
#include "moesweep/core/log.hpp"
#include "moesweep/core/version.hpp"
#include "moesweep/spec/presets.hpp"
#include "moesweep/train/trial.hpp"

namespace moesweep::cli {

namespace {

std::string in_words(const train::RoutingBench& bench, std::int64_t tokens) {
  std::vector<std::vector<std::string>> eager{{"plain top-k", "k", "ns a token", "eager operators", "times faster"}};
  for (const auto& row : bench.plain_top_k)
    eager.push_back({fmt::format("{} experts", row.experts), std::to_string(row.top_k), fmt::format("{:.1f}", row.ours),
                     fmt::format("{:.1f}", row.eager), fmt::format("{:.2f}", row.speedup)});
  std::vector<std::vector<std::string>> rows{
      {"router", "experts", "k", "forward ns a token", "backward", "plain top-k", "ratio", "tensor bytes a logit"}};
  for (const auto& row : bench.strategies)
    rows.push_back({row.router, std::to_string(row.experts), std::to_string(row.top_k), fmt::format("{:.1f}", row.forward),
                    fmt::format("{:.1f}", row.backward), fmt::format("{:.1f}", row.plain), fmt::format("{:.2f}", row.ratio),
                    fmt::format("{:.1f}", row.bytes_per_logit)});
  std::string text = fmt::format("{} tokens, fp32, one core; medians\n\n{}\n{}", tokens, table(eager), table(rows));
  for (const auto& row : bench.skipped) text += fmt::format("skipped: {} with {} experts: {}\n", row.router, row.experts, row.reason);
  return text;
}

}  // namespace

void add_bench(CLI::App& app, Invocation& invocation) {
  struct Options {
    train::RoutingBenchOptions routing;
    std::vector<std::string> routers;
    bool json = false;
  };
  auto options = std::make_shared<Options>();
  CLI::App* group = subcommand(app, "bench", "What parts of the program cost on this machine.", "moesweep bench routing --help");
  group->require_subcommand(1);
  add_bench_store(*group, invocation);
  CLI::App* sub = subcommand(*group, "routing",
                             "What routing costs on one core: the forward and backward time per token of each preset against plain top-k, and of\n"
                             "plain top-k, from logits to the permutation of slots, against the same in eager ATen operators.",
                             "moesweep bench routing --experts 8,64 --router top_k,sinkhorn --json");
  sub->add_option("--tokens", options->routing.tokens, "tokens of a step")->check(CLI::Range(1, 16777216))->capture_default_str();
  sub->add_option("--experts", options->routing.experts, "numbers of experts")->delimiter(',')->check(CLI::Range(1, 65536))->capture_default_str();
  sub->add_option("--router", options->routers, "presets (default: all that logits suffice for)")->delimiter(',');
  sub->add_option("--repeats", options->routing.repeats, "measurements of each")->check(CLI::Range(1, 1000000))->capture_default_str();
  sub->add_flag("--json", options->json, "as JSON");
  sub->callback([options, &invocation] {
    for (const std::string& name : options->routers) options->routing.routers.emplace_back(name, spec::load_router(name));
    if (options->routers.empty())
      for (const spec::Preset& preset : spec::router_presets()) options->routing.routers.emplace_back(preset.name, preset.load());
    options->routing.progress = [](const std::string& what) { log::info(what); };
    train::prepare_process();
    const train::RoutingBench bench = train::bench_routing(options->routing);
    if (!options->json) {
      print(in_words(bench, options->routing.tokens));
    } else {
      Json all = {{"version", fmt::format("moesweep {} ({})", version(), git_version())},
                  {"tokens", options->routing.tokens},
                  {"threads", 1},
                  {"dtype", "fp32"}};
      all.update(bench.json());
      print(all.dump(2) + "\n");
    }
    invocation.exit_code = ExitCode::ok;
  });
}

}  // namespace moesweep::cli
