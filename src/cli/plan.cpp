// What can be asked before anything runs: schema, plan.
#include "moesweep/plan/cost.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <utility>

#include "cli.hpp"
#include "moesweep/core/text.hpp"
#include "moesweep/plan/array.hpp"
#include "moesweep/plan/scheduler.hpp"
#include "moesweep/plan/shard.hpp"
#include "moesweep/plan/simulate.hpp"
#include "moesweep/spec/presets.hpp"
#include "moesweep/spec/sweep.hpp"
#include "moesweep/train/named_files.hpp"

namespace moesweep::cli {

void add_selection(CLI::App& sub, spec::Selection& selection) {
  sub.add_option("--only", selection.only, "trials for which this holds: a condition as in `exclude`, or the beginning of an id; any of several")
      ->allow_extra_args(false);
  sub.add_option("--skip", selection.skip, "but not these; the same, any number of times")->allow_extra_args(false);
}

void add_schema(CLI::App& app, Invocation& invocation) {
  auto markdown = std::make_shared<bool>(false);
  CLI::App* sub = subcommand(app, "schema", "JSON Schema of a sweep file, so that editors complete the YAML; or the reference of every key.",
                             "moesweep schema > sweep.schema.json");
  sub->add_flag("--markdown", *markdown, "the reference for people, as configs/README.md has it");
  sub->callback([markdown, &invocation] {
    if (*markdown) print(spec::reference_markdown());
    else print_json(spec::json_schema());
    invocation.exit_code = ExitCode::ok;
  });
}

namespace {

struct PlanOptions {
  std::string sweep, router, time_limit, walltime, memory_per_rank;
  std::vector<std::string> overrides;
  spec::Selection selection;
  std::int64_t ranks = 0;
  bool json = false, all = false, simulate = false;
  plan::ArrayOptions array;
  plan::SimulationOptions simulation;

  /// Bytes a rank may take; 0: any.
  double memory_limit() const { return memory_per_rank.empty() ? 0.0 : bytes_of(memory_per_rank, "--memory-per-rank"); }
};

std::string percent(double share) { return fmt::format("{:.1f} %", 100 * share); }

std::string in_words(const plan::Simulation& result, const plan::SimulationOptions& options) {
  const double ratio = result.lower_bound_seconds > 0 ? result.makespan_seconds / result.lower_bound_seconds : 1.0;
  std::string text = fmt::format(
      "simulated on {} ranks in {} world{}: {}, {:.3f} times the lower bound of {} (work over ranks, or the longest trial)\n", options.ranks,
      options.worlds, options.worlds == 1 ? "" : "s", seconds_in_words(result.makespan_seconds), ratio, seconds_in_words(result.lower_bound_seconds));
  text += fmt::format("  trials: {} run, {} crashed, {} too large for a world; idle ranks {}, work done twice {}\n", result.jobs_run,
                      result.jobs_crashed, result.jobs_skipped, percent(result.idle_share), percent(result.lost_share));
  text += fmt::format("  worlds: {} allocation{}, {} node failure{}, {} crash{}\n", result.allocations, result.allocations == 1 ? "" : "s",
                      result.failures, result.failures == 1 ? "" : "s", result.crashes, result.crashes == 1 ? "" : "es");
  text += fmt::format(
      "  claims: {:.3f} a trial, {} of {} lost to another block; {:.3f} rank-seconds a trial; {:.2f} a second on average, {:.0f} at most\n",
      result.claims_per_trial(), result.collisions, result.claims, result.dispatch_seconds_per_trial(), result.average_claims_per_second,
      result.peak_claims_per_second);
  return text;
}

std::string in_words(const plan::ArrayPlan& array, const plan::ArrayOptions& options) {
  std::string text = fmt::format("array: {} shard{} of {} rank{} ({}), as {}\n", array.shards, array.shards == 1 ? "" : "s", array.ranks,
                                 array.ranks == 1 ? "" : "s", array.reason, array.chunks_in_words());
  const double longest = array.shard_seconds.empty() ? 0.0 : *std::ranges::max_element(array.shard_seconds);
  text += fmt::format("walltime: {} a shard (the longest takes {}, times {}, and {} to start)", array.walltime(), seconds_in_words(longest),
                      options.margin, seconds_in_words(options.startup_seconds));
  if (array.requeues) text += fmt::format(": the limit. That is less than it takes: elements will be requeued and go on from their checkpoints");
  return text + "\n";
}

constexpr std::size_t kListed = 1000;  // trials of a text without --all

struct ListedTrial {
  std::string id;
  train::TrialConfig config;
};

/// A trial that needs more memory than a rank has, and a gang that would do.
struct Tight {
  std::string id;
  double memory_bytes = 0;
  std::optional<plan::Gang> gang;
};

/// What one walk over the trials leaves. Of a trial it keeps some hundred bytes, so that a million fit anywhere.
struct Totals {
  spec::Counts counts;
  spec::Axes axes;
  std::vector<plan::Job> jobs;
  std::vector<ListedTrial> first;  ///< the first `kListed`
  plan::TrialCost smallest, largest;
  double work_seconds = 0, tokens = 0, memory = 0, disk = 0;
  std::map<std::int64_t, std::size_t, std::greater<>> gangs;  ///< trials by ranks
  std::vector<Tight> tight;
  train::NamedFiles named_files;  ///< of other trials, that these name

  std::int64_t largest_gang() const { return gangs.empty() ? 1 : gangs.begin()->first; }
  double ratio() const { return plan::parameter_ratio(std::vector{smallest, largest}); }
};

Totals totals_of(const spec::TrialStream& stream, const PlanOptions& options, const plan::MachineSpeed& speed) {
  const double limit = options.memory_limit();
  Totals totals;
  totals.counts = stream.for_each([&](const std::string& id, const train::TrialConfig& config) {
    const plan::TrialCost cost = plan::cost_of(config, speed);
    if (totals.jobs.empty() || cost.parameters_total < totals.smallest.parameters_total) totals.smallest = cost;
    if (totals.jobs.empty() || cost.parameters_total > totals.largest.parameters_total) totals.largest = cost;
    totals.jobs.push_back({id, cost.ranks, cost.seconds, true});
    totals.axes.see(config);
    totals.named_files.see(id, config);
    if (totals.first.size() < kListed) totals.first.push_back({id, config});
    totals.work_seconds += cost.seconds * static_cast<double>(cost.ranks);
    totals.tokens += static_cast<double>(cost.training_tokens);
    totals.memory = std::max(totals.memory, cost.memory_bytes);
    totals.disk += cost.disk_bytes;
    ++totals.gangs[cost.ranks];
    if (limit > 0 && cost.memory_bytes > limit)
      totals.tight.push_back({id, cost.memory_bytes, plan::suggest_gang(config, limit, options.ranks > 0 ? options.ranks : config.model.experts)});
  });
  return totals;
}

/// The object with `trials` as its last member, written as it goes: a million trials are never one text.
void print_with_trials(const Json& head, const spec::TrialStream& stream, const spec::Axes& axes, const plan::MachineSpeed& speed) {
  std::string text = json_text(head, 2);
  text.resize(text.rfind('\n'));
  write_to_stdout(text + ",\n  \"trials\": [");
  bool first = true;
  text.clear();
  stream.for_each([&](const std::string& id, const train::TrialConfig& config) {
    Json entry = {{"id", id}, {"axes", Json::object()}};
    for (const auto& [path, value] : axes.of(config)) entry["axes"][path] = value;
    entry.update(plan::cost_of(config, speed).json());
    text += std::exchange(first, false) ? "\n    " : ",\n    ";
    for (const char c : json_text(entry, 2)) {
      text += c;
      if (c == '\n') text += "    ";
    }
    if (text.size() > 1 << 16) {
      write_to_stdout(text);
      text.clear();
    }
  });
  write_to_stdout(text + "\n  ]\n}\n");
}

using Rows = std::vector<std::vector<std::string>>;

const std::vector<std::string> kColumns{"trial", "ranks", "parameters", "active", "tokens", "time", "memory", "what differs"};

std::vector<std::string> row_of(const std::string& id, const train::TrialConfig& config, const spec::Axes& axes, const plan::MachineSpeed& speed) {
  std::string differs;
  for (const auto& [path, value] : axes.of(config)) differs += fmt::format("{}{}={}", differs.empty() ? "" : " ", path, text_of(value));
  const plan::TrialCost cost = plan::cost_of(config, speed);
  return {id,
          std::to_string(cost.ranks),
          count_in_words(static_cast<double>(cost.parameters_total)),
          count_in_words(static_cast<double>(cost.parameters_active)),
          count_in_words(static_cast<double>(cost.training_tokens)),
          seconds_in_words(cost.seconds),
          bytes_in_words(cost.memory_bytes),
          differs};
}

/// A table of the first trials, or with --all tables of so many each.
void print_trials(const PlanOptions& options, const spec::TrialStream& stream, const Totals& totals, const plan::MachineSpeed& speed) {
  Rows rows{kColumns};
  if (!options.all || totals.jobs.size() <= kListed) {
    for (const ListedTrial& trial : totals.first) rows.push_back(row_of(trial.id, trial.config, totals.axes, speed));
    print(table(rows));
    if (totals.jobs.size() > kListed) print(fmt::format("... and {} more: --all or --json lists them\n", totals.jobs.size() - kListed));
    return;
  }
  stream.for_each([&](const std::string& id, const train::TrialConfig& config) {
    rows.push_back(row_of(id, config, totals.axes, speed));
    if (rows.size() <= kListed) return;
    print(table(rows));
    rows = {kColumns};
  });
  if (rows.size() > 1) print(table(rows));
}

void show_plan(const PlanOptions& options) {
  const spec::TrialStream stream(options.sweep, spec::with_router(options.router, options.overrides), options.selection);
  const plan::MachineSpeed speed = plan::machine_speed();
  const Totals totals = totals_of(stream, options, speed);
  const std::int64_t ranks = options.ranks > 0 ? options.ranks : totals.largest_gang();
  std::optional<plan::ArrayPlan> array;
  plan::ArrayOptions array_options = options.array;
  if (options.ranks > 0 || options.array.shards > 0) {
    array_options.ranks = ranks;
    if (!options.time_limit.empty()) array_options.limit_seconds = plan::parse_time(options.time_limit);
    array = plan::plan_array(totals.jobs, array_options);
  }
  std::optional<plan::Simulation> simulated;
  plan::SimulationOptions simulation_options = options.simulation;
  if (options.simulate) {
    simulation_options.ranks = ranks;
    if (!options.walltime.empty()) simulation_options.walltime_seconds = plan::parse_time(options.walltime);
    simulated = plan::simulate(totals.jobs, simulation_options);
  }
  const plan::Simulation simulation = plan::simulate(totals.jobs, ranks);
  const auto skipped = plan::too_large(totals.jobs, ranks);

  if (options.json) {
    Json unrunnable = Json::array();
    for (const plan::Skipped& skip : skipped) unrunnable.push_back({{"id", totals.jobs[skip.job].id}, {"reason", skip.reason}});
    Json head = {{"name", stream.name()},
                 {"count", totals.jobs.size()},
                 {"duplicates_dropped", totals.counts.duplicates_dropped},
                 {"excluded", totals.counts.excluded},
                 {"passed_over", totals.counts.passed_over},
                 {"parameter_ratio", totals.ratio()},
                 {"training_tokens", totals.tokens},
                 {"rank_seconds", totals.work_seconds},
                 {"speed", speed.in_words()},
                 {"ranks", ranks},
                 {"seconds", simulation.makespan_seconds},
                 {"memory_bytes_per_rank", totals.memory},
                 {"disk_bytes", totals.disk},
                 {"skipped", std::move(unrunnable)},
                 {"problems", Json::array()}};
    for (const auto& problem : totals.named_files.problems())
      head["problems"].push_back(
          {{"key", problem.file.key}, {"file", problem.file.path}, {"problem", problem.problem}, {"trials", problem.trials}, {"ids", problem.ids}});
    head["gangs"] = Json::array();
    for (const auto& [size, count] : totals.gangs) head["gangs"].push_back({{"ranks", size}, {"trials", count}});
    if (array) head["array"] = array->json();
    if (options.memory_limit() > 0) {
      head["over_memory"] = Json::array();
      for (const Tight& trial : totals.tight)
        head["over_memory"].push_back(
            {{"id", trial.id},
             {"memory_bytes", trial.memory_bytes},
             {"gang",
              trial.gang ? Json{{"expert", trial.gang->expert}, {"data", trial.gang->data}, {"memory_bytes", trial.gang->memory_bytes}} : Json()}});
    }
    if (simulated) head["simulation"] = simulated->json();
    print_with_trials(head, stream, totals.axes, speed);
    return;
  }
  print_trials(options, stream, totals, speed);
  std::string text =
      fmt::format("\n{}: {} trials ({} duplicates dropped, {} excluded{}), {} training tokens\n", stream.name(), totals.jobs.size(),
                  totals.counts.duplicates_dropped, totals.counts.excluded,
                  totals.counts.passed_over == 0 ? "" : fmt::format(", {} passed over", totals.counts.passed_over), count_in_words(totals.tokens));
  if (totals.ratio() > 1.0)
    text += fmt::format("total parameters: {} to {}, a ratio of {:.2f}\n", count_in_words(static_cast<double>(totals.smallest.parameters_total)),
                        count_in_words(static_cast<double>(totals.largest.parameters_total)), totals.ratio());
  text +=
      fmt::format("estimated: {} on {} rank{} ({:.2f} rank-hours), at most {} a rank, {} on disk\n", seconds_in_words(simulation.makespan_seconds),
                  ranks, ranks == 1 ? "" : "s", totals.work_seconds / 3600, bytes_in_words(totals.memory), bytes_in_words(totals.disk));
  text += fmt::format("({})\n", speed.in_words());
  if (totals.gangs.size() > 1) {
    std::string sizes;
    for (const auto& [size, count] : totals.gangs) sizes += fmt::format("{}{} of {}", sizes.empty() ? "" : ", ", count, size);
    text += fmt::format("gangs (trials of ranks): {}\n", sizes);
  }
  if (array) text += in_words(*array, array_options);
  if (simulated) text += in_words(*simulated, simulation_options);
  for (const Tight& trial : totals.tight)
    text += fmt::format("over {} a rank: {} needs {}; {}\n", bytes_in_words(options.memory_limit()), trial.id, bytes_in_words(trial.memory_bytes),
                        trial.gang ? fmt::format("parallel.expert={} parallel.data={} would need {}", trial.gang->expert, trial.gang->data,
                                                 bytes_in_words(trial.gang->memory_bytes))
                                   : "no gang would do");
  for (const auto& problem : totals.named_files.problems()) text += fmt::format("warning: {}\n", problem.sentence());
  for (const plan::Skipped& skip : skipped) text += fmt::format("would be skipped: {} {}\n", totals.jobs[skip.job].id, skip.reason);
  print(text);
}

}  // namespace

void add_plan(CLI::App& app, Invocation& invocation) {
  auto options = std::make_shared<PlanOptions>();
  CLI::App* sub = subcommand(app, "plan", "List the trials of a sweep with their size, time and memory, without running anything.",
                             "moesweep plan scale35x seed=[1,2] --ranks 8");
  const auto time = readable_by([](const std::string& text) { (void)plan::parse_time(text); });
  sub->add_option("SWEEP", options->sweep, "sweep file, or the name of one in configs/sweeps")->required();
  sub->add_option("OVERRIDE", options->overrides, "key=value, key=[a,b] (an axis), +key=value, ~key");
  sub->add_option("--router", options->router, "a preset for all trials (`moesweep routers` lists them), before the overrides");
  add_selection(*sub, options->selection);
  sub->add_option("--ranks", options->ranks, "ranks of a launch or shard (default: the largest gang)")->check(integer_in(1, plan::kMostRanks));
  sub->add_flag("--json", options->json, "as JSON");
  sub->add_flag("--all", options->all, fmt::format("list every trial; without it the first {}", kListed));
  sub->add_option("--memory-per-rank", options->memory_per_rank, "names the trials that need more (2GiB), and the gang that would do")->check(size());
  sub->add_option("--shards", options->array.shards, "elements of a job array (default: chosen from the work)")
      ->check(integer_in(1, plan::kMostShards));
  sub->add_option("--max-array-size", options->array.max_array_size, "Slurm's MaxArraySize (1001)")->check(integer_in(2, 10000000));
  sub->add_option("--time-limit", options->time_limit, "the partition's, as Slurm writes it (1-00:00:00, 30 = minutes), or 90min, 4h")->check(time);
  sub->add_flag("--simulate", options->simulate, "run the scheduler on a simulated clock over --ranks, with:");
  sub->add_option("--worlds", options->simulation.worlds, "array elements that share the ranks (1)")->check(integer_in(1, plan::kMostShards));
  sub->add_option("--noise", options->simulation.noise, "sigma of a log-normal factor on each trial's seconds")->check(number_in(0, 3));
  sub->add_option("--failures-per-rank-hour", options->simulation.failures_per_rank_hour, "of nodes")->check(number_in(0, 1e6));
  sub->add_option("--crash", options->simulation.crash_probability, "probability that an attempt crashes")->check(number_in(0, 1));
  sub->add_option("--crash-named", options->simulation.named_share, "share of crashes that name their trial; others leave suspects (0)")
      ->check(number_in(0, 1));
  sub->add_option("--walltime", options->walltime, "of one allocation; another follows")->check(time);
  sub->add_option("--claim-seconds", options->simulation.claim_seconds, "what a claim takes (0)")->check(number_in(0, 3600));
  sub->add_option("--simulation-seed", options->simulation.seed, "(1)")->check(integer_in(0, std::numeric_limits<std::int64_t>::max()));
  sub->callback([options, &invocation] {
    show_plan(*options);
    invocation.exit_code = ExitCode::ok;
  });
}

}  // namespace moesweep::cli
