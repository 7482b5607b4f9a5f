// What parts of the program cost on this machine: bench.
#include "moesweep/train/bench.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <utility>

#include "cli.hpp"
#include "moesweep/core/log.hpp"
#include "moesweep/core/publish.hpp"
#include "moesweep/core/text.hpp"
#include "moesweep/core/version.hpp"
#include "moesweep/launch/provenance.hpp"
#include "moesweep/plan/cost.hpp"
#include "moesweep/spec/presets.hpp"
#include "moesweep/spec/sweep.hpp"
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

std::string in_words(const train::CommBench& bench, int ranks) {
  std::string text = fmt::format("{} rank{}; medians\n\n", ranks, ranks == 1 ? "" : "s");
  if (!bench.exchanges.empty()) {
    std::vector<std::vector<std::string>> rows{{"each rank to each other", "us", "GB/s sent by a rank"}};
    for (const auto& e : bench.exchanges)
      rows.push_back({bytes_in_words(static_cast<double>(e.bytes)), fmt::format("{:.1f}", 1e6 * e.seconds),
                      fmt::format("{:.2f}", 1e-9 * static_cast<double>(e.bytes * (ranks - 1)) / e.seconds)});
    text += table(rows) + fmt::format("fit: {:.1f} us and {:.2f} GB/s\n\n", 1e6 * bench.latency, 1e-9 * bench.bytes_per_second);
  }
  std::vector<std::vector<std::string>> rows{
      {"EP x DP", "tokens/s", "ms a step", "dispatch", "wait", "experts", "gradients", "MB sent", "predicted", "ms of exchange", "predicted"}};
  for (const auto& l : bench.layouts)
    rows.push_back({fmt::format("{} x {}", l.expert, l.data), fmt::format("{:.0f}", l.tokens_per_second), fmt::format("{:.2f}", 1e3 * l.step),
                    fmt::format("{:.2f}", 1e3 * l.dispatch), fmt::format("{:.2f}", 1e3 * l.wait), fmt::format("{:.2f}", 1e3 * l.compute),
                    fmt::format("{:.2f}", 1e3 * l.gradients), fmt::format("{:.3f}", 1e-6 * l.sent), fmt::format("{:.3f}", 1e-6 * l.predicted_sent),
                    fmt::format("{:.2f}", 1e3 * l.exchange), fmt::format("{:.2f}", 1e3 * l.predicted_exchange)});
  return text + table(rows) + fmt::format("tokens/s of experts over all ranks / sequences alone: {:.3f}\n", bench.ratio);
}

constexpr std::int64_t kMostLogits = std::int64_t{1} << 28;  // a GiB in fp32

constexpr const char* kModel = "models/testbed-tiny.yaml";

void add_bench_comm(CLI::App& group, Invocation& invocation) {
  struct Options {
    std::string trial = kModel;
    std::vector<std::string> overrides;
    train::CommBenchOptions bench;
    bool json = false;
  };
  auto options = std::make_shared<Options>();
  CLI::App* sub =
      subcommand(group, "comm",
                 "What spreading one trial over the ranks at hand costs: exchanges of so many bytes, and training steps with the experts\n"
                 "over all ranks against sequences alone, where their time goes, and the cost model of `plan` beside it.",
                 "mpirun -n 2 moesweep bench comm models/wide.yaml --steps 5 --json");
  sub->add_option("TRIAL", options->trial, "a trial's file, looked up as `base` is")->capture_default_str();
  sub->add_option("OVERRIDE", options->overrides, "key=value");
  sub->add_option("--steps", options->bench.steps, "training steps of a run")->check(integer_in(1, 1000000))->capture_default_str();
  sub->add_option("--repeats", options->bench.repeats, "runs of each layout, in turn")->check(integer_in(1, 1000))->capture_default_str();
  sub->add_flag("--json", options->json, "as JSON");
  sub->callback([options, sub, &invocation] {
    // Without a file: a trial like the quickstart's, which needs no text here.
    const bool no_file = options->trial.find('=') != std::string::npos;
    if (no_file) options->overrides.insert(options->overrides.begin(), std::exchange(options->trial, kModel));
    if (no_file || sub->count("TRIAL") == 0)
      options->overrides.insert(options->overrides.begin(),
                                {"data=data/synthetic8.yaml", "data.vocabulary=1024", "data.sequence_length=128", "routing.balance.method=aux_loss",
                                 "routing.balance.weight=0.1", "routing.balance.scope=global_batch"});
    invocation.exit_code = with_mpi([&](const comm::Communicator& world) {
      log::configure(world.rank(), world.size());
      world.agree([&] { options->bench.config = spec::load_trial(options->trial, options->overrides); }, "loading the trial");
      if (world.rank() == 0) options->bench.progress = [](const std::string& what) { log::info(what); };
      train::prepare_process();
      train::choose_gpu(world);
      const train::CommBench bench = train::bench_comm(options->bench, world);
      if (world.rank() != 0) return ExitCode::ok;
      if (!options->json) {
        print(in_words(bench, world.size()));
      } else {
        Json all = {{"version", fmt::format("moesweep {} ({})", version(), git_version())}, {"ranks", world.size()}, {"trial", options->trial}};
        all.update(bench.json());
        print_json(all);
      }
      return ExitCode::ok;
    });
  });
}

plan::MachineSpeed speed_of(const train::Calibration& calibration) {
  plan::MachineSpeed machine;
  machine.cpu = launch::cpu_model();
  machine.date = utc_now();
  machine.version = fmt::format("moesweep {} ({})", version(), git_version());
  for (const auto& p : calibration.products)
    (p.dtype == train::Precision::bf16 ? machine.bf16 : machine.fp32)
        .products.push_back({static_cast<double>(p.rows), static_cast<double>(p.width), p.flops_per_second});
  for (const train::Precision dtype : {train::Precision::fp32, train::Precision::bf16}) {
    std::vector<plan::MeasuredTrial> trials;
    for (const auto& trial : calibration.trials)
      if (trial.config.train.dtype == dtype) trials.push_back({trial.config, trial.step_seconds, trial.evaluation_seconds});
    plan::fit(dtype == train::Precision::bf16 ? machine.bf16 : machine.fp32, trials);
  }
  machine.exchange_measured = !calibration.exchange.exchanges.empty() && calibration.exchange.bytes_per_second > 0;
  if (machine.exchange_measured) machine.exchange = {calibration.exchange.latency, calibration.exchange.bytes_per_second};
  return machine;
}

/// Seconds that the fit gives for a measured trial's step.
double predicted_step_seconds(const train::TrialConfig& config, const plan::MachineSpeed& machine) {
  train::TrialConfig one = config;
  one.evaluation.tokens = 1;
  one.train.steps = 1;
  const double once = plan::cost_of(one, machine).seconds;
  one.train.steps = 2;
  one.evaluation.every_steps = 0;
  return plan::cost_of(one, machine).seconds - once;
}

std::string in_words(const plan::MachineSpeed& machine, const train::Calibration& calibration) {
  std::vector<std::vector<std::string>> rows{{"GFLOP/s of products", "rows"}};
  std::vector<double> widths;
  for (const auto& p : machine.fp32.products)
    if (std::ranges::find(widths, p.width) == widths.end()) widths.push_back(p.width);
  for (const double width : widths) rows[0].push_back(fmt::format("width {:.0f}", width));
  for (const auto* speed : {&machine.fp32, &machine.bf16})
    for (const auto& p : speed->products) {
      if (p.width == widths.front()) rows.push_back({speed == &machine.fp32 ? "fp32" : "bf16", fmt::format("{:.0f}", p.rows)});
      rows.back().push_back(fmt::format("{:.0f}", 1e-9 * p.flops_per_second));
    }
  std::vector<std::vector<std::string>> trials{{"trial", "width", "layers", "tokens a step", "ms a step", "by the fit"}};
  for (const auto& trial : calibration.trials)
    trials.push_back({trial.config.train.dtype == train::Precision::bf16 ? "bf16" : "fp32", std::to_string(trial.config.model.width),
                      std::to_string(trial.config.model.layers), std::to_string(trial.config.step_tokens()),
                      fmt::format("{:.1f}", 1e3 * trial.step_seconds), fmt::format("{:.1f}", 1e3 * predicted_step_seconds(trial.config, machine))});
  std::string text = fmt::format("{}, one thread\n\n{}\n{}", machine.cpu, table(rows), table(trials));
  if (machine.exchange_measured)
    text += fmt::format("exchanges: {:.1f} us and {:.2f} GB/s\n", 1e6 * machine.exchange.latency_seconds, 1e-9 * machine.exchange.bytes_per_second);
  return text;
}

void add_bench_calibrate(CLI::App& group, Invocation& invocation) {
  struct Options {
    train::CalibrationOptions bench;
    std::string out;
    bool json = false;
  };
  auto options = std::make_shared<Options>();
  CLI::App* sub =
      subcommand(group, "calibrate",
                 "Measure this machine, for the times that `plan`, `run` and `submit` estimate: products by size in fp32 and bf16, steps\n"
                 "and evaluations of a few small trials, and on several ranks exchanges. Half a minute on an idle machine.",
                 "mpirun -n 2 moesweep bench calibrate");
  sub->add_option("--out", options->out, "file to write (default: $MOESWEEP_MACHINE, else moesweep/machine.json in $XDG_CONFIG_HOME or ~/.config)");
  sub->add_flag("--small", options->bench.small, "fewer and smaller sizes: shows that it works, not what the machine does");
  sub->add_flag("--json", options->json, "what was written, as JSON");
  sub->callback([options, &invocation] {
    const std::filesystem::path file = options->out.empty() ? plan::machine_file() : std::filesystem::path(options->out);
    if (file.empty())
      throw Error(ErrorKind::usage, "no place for the machine's file: neither HOME nor XDG_CONFIG_HOME is set", "", "name it with --out FILE");
    // Before half a minute of work; a file that a person names is replaced only when it is of this kind.
    require_replaceable(file);
    if (std::error_code absent;
        !options->out.empty() && std::filesystem::exists(file, absent) && read_text(file).find("\"moesweep-machine\"") == std::string::npos)
      throw Error(ErrorKind::io, "it is there already, and it is no file that this command wrote", file.string(),
                  "name another file, or remove it yourself");
    invocation.exit_code = with_mpi([&](const comm::Communicator& world) {
      log::configure(world.rank(), world.size());
      options->bench.progress = [](const std::string& what) { log::info(what); };
      train::prepare_process();
      const train::Calibration calibration = train::calibrate(options->bench, world);
      world.agree(
          [&] {
            if (world.rank() != 0) return;
            const plan::MachineSpeed machine = speed_of(calibration);
            plan::write_machine(file, machine);
            if (options->json) print_json(machine.json());
            else print(in_words(machine, calibration) + "written: " + printable_line(file.string()) + "\n");
          },
          "writing of the machine's file");
      return ExitCode::ok;
    });
  });
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
  add_bench_comm(*group, invocation);
  add_bench_calibrate(*group, invocation);
  add_bench_store(*group, invocation);
  CLI::App* sub = subcommand(*group, "routing",
                             "What routing costs on one core: the forward and backward time per token of each preset against plain top-k, and of\n"
                             "plain top-k, from logits to the permutation of slots, against the same in eager ATen operators.",
                             "moesweep bench routing --experts 8,64 --router top_k,sinkhorn --json");
  sub->add_option("--tokens", options->routing.tokens, "tokens of a step")->check(integer_in(1, 16777216))->capture_default_str();
  sub->add_option("--experts", options->routing.experts, "numbers of experts")->delimiter(',')->check(integer_in(1, 65536))->capture_default_str();
  sub->add_option("--router", options->routers, "presets (default: all that logits suffice for)")->delimiter(',');
  sub->add_option("--repeats", options->routing.repeats, "measurements of each")->check(integer_in(1, 1000000))->capture_default_str();
  sub->add_flag("--json", options->json, "as JSON");
  sub->callback([options, &invocation] {
    const std::int64_t widest = std::ranges::max(options->routing.experts);
    if (options->routing.tokens > kMostLogits / widest)
      throw Error(ErrorKind::usage, fmt::format("{} tokens of {} experts are more than {} logits", options->routing.tokens, widest, kMostLogits),
                  "--tokens", "give fewer tokens or experts: every logit takes several times 4 bytes");
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
      print_json(all);
    }
    invocation.exit_code = ExitCode::ok;
  });
}

}  // namespace moesweep::cli
