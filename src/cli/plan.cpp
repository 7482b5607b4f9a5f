// What can be asked before anything runs: schema, plan.
#include "moesweep/plan/cost.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <optional>

#include "cli.hpp"
#include "moesweep/core/text.hpp"
#include "moesweep/plan/array.hpp"
#include "moesweep/plan/scheduler.hpp"
#include "moesweep/plan/simulate.hpp"
#include "moesweep/spec/presets.hpp"
#include "moesweep/spec/sweep.hpp"

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
    print(*markdown ? spec::reference_markdown() : spec::json_schema().dump(2) + "\n");
    invocation.exit_code = ExitCode::ok;
  });
}

namespace {

struct PlanOptions {
  std::string sweep, router, time_limit, walltime, memory_per_rank;
  std::vector<std::string> overrides;
  spec::Selection selection;
  std::int64_t ranks = 0;
  bool json = false, simulate = false;
  plan::ArrayOptions array;
  plan::SimulationOptions simulation;
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

/// A trial that needs more memory than a rank has, and a gang that would do.
struct Tight {
  std::size_t trial;
  std::optional<plan::Gang> gang;
};

void show_plan(const PlanOptions& options) {
  spec::Sweep sweep = spec::load_sweep(options.sweep, spec::with_router(options.router, options.overrides), options.selection);
  std::erase_if(sweep.trials, [&](const spec::Trial& trial) { return sweep.passed_over.contains(trial.id); });
  const auto axes = spec::axes_of(sweep.trials);
  const plan::MachineSpeed speed = plan::machine_speed();
  std::vector<plan::TrialCost> costs;
  std::vector<plan::Job> jobs;
  double work_seconds = 0, tokens = 0, memory = 0, disk = 0;
  std::int64_t largest_gang = 1;
  for (const spec::Trial& trial : sweep.trials) {
    costs.push_back(plan::cost_of(trial.config, speed));
    const plan::TrialCost& cost = costs.back();
    jobs.push_back({trial.id, cost.ranks, cost.seconds, true});
    work_seconds += cost.seconds * static_cast<double>(cost.ranks);
    tokens += static_cast<double>(cost.training_tokens);
    memory = std::max(memory, cost.memory_bytes);
    disk += cost.disk_bytes;
    largest_gang = std::max(largest_gang, cost.ranks);
  }
  std::map<std::int64_t, std::size_t, std::greater<>> gangs;
  for (const plan::Job& job : jobs) ++gangs[job.ranks];
  const std::int64_t ranks = options.ranks > 0 ? options.ranks : largest_gang;
  std::optional<plan::ArrayPlan> array;
  plan::ArrayOptions array_options = options.array;
  if (options.ranks > 0 || options.array.shards > 0) {
    array_options.ranks = ranks;
    if (!options.time_limit.empty()) array_options.limit_seconds = plan::parse_time(options.time_limit);
    array = plan::plan_array(jobs, array_options);
  }
  std::optional<plan::Simulation> simulated;
  plan::SimulationOptions simulation_options = options.simulation;
  if (options.simulate) {
    simulation_options.ranks = ranks;
    if (!options.walltime.empty()) simulation_options.walltime_seconds = plan::parse_time(options.walltime);
    simulated = plan::simulate(jobs, simulation_options);
  }
  const double limit = options.memory_per_rank.empty() ? 0.0 : bytes_of(options.memory_per_rank, "--memory-per-rank");
  std::vector<Tight> tight;
  for (std::size_t i = 0; limit > 0 && i < costs.size(); ++i)
    if (costs[i].memory_bytes > limit)
      tight.push_back(
          {i, plan::suggest_gang(sweep.trials[i].config, limit, options.ranks > 0 ? options.ranks : sweep.trials[i].config.model.experts)});
  const plan::Simulation simulation = plan::simulate(jobs, ranks);
  const auto skipped = plan::too_large(jobs, ranks);
  const double ratio = plan::parameter_ratio(costs);
  const auto [smallest, largest] = std::ranges::minmax_element(costs, {}, &plan::TrialCost::parameters_total);

  if (options.json) {
    Json list = Json::array();
    for (std::size_t i = 0; i < sweep.trials.size(); ++i) {
      Json entry = {{"id", sweep.trials[i].id}, {"axes", Json::object()}};
      for (const auto& [path, value] : axes[i]) entry["axes"][path] = value;
      entry.update(costs[i].json());
      list.push_back(std::move(entry));
    }
    Json unrunnable = Json::array();
    for (const plan::Skipped& skip : skipped) unrunnable.push_back({{"id", jobs[skip.job].id}, {"reason", skip.reason}});
    Json json = {{"name", sweep.name},
                 {"count", sweep.trials.size()},
                 {"duplicates_dropped", sweep.duplicates_dropped},
                 {"excluded", sweep.excluded},
                 {"passed_over", sweep.passed_over.size()},
                 {"parameter_ratio", ratio},
                 {"training_tokens", tokens},
                 {"rank_seconds", work_seconds},
                 {"speed", speed.in_words()},
                 {"ranks", ranks},
                 {"seconds", simulation.makespan_seconds},
                 {"memory_bytes_per_rank", memory},
                 {"disk_bytes", disk},
                 {"skipped", std::move(unrunnable)}};
    json["gangs"] = Json::array();
    for (const auto& [size, count] : gangs) json["gangs"].push_back({{"ranks", size}, {"trials", count}});
    if (array) json["array"] = array->json();
    if (limit > 0) {
      json["over_memory"] = Json::array();
      for (const Tight& trial : tight)
        json["over_memory"].push_back(
            {{"id", sweep.trials[trial.trial].id},
             {"memory_bytes", costs[trial.trial].memory_bytes},
             {"gang",
              trial.gang ? Json{{"expert", trial.gang->expert}, {"data", trial.gang->data}, {"memory_bytes", trial.gang->memory_bytes}} : Json()}});
    }
    if (simulated) json["simulation"] = simulated->json();
    json["trials"] = std::move(list);
    print(json.dump(2) + "\n");
    return;
  }
  std::vector<std::vector<std::string>> rows{{"trial", "ranks", "parameters", "active", "tokens", "time", "memory", "what differs"}};
  for (std::size_t i = 0; i < sweep.trials.size(); ++i) {
    std::string differs;
    for (const auto& [path, value] : axes[i]) differs += fmt::format("{}{}={}", differs.empty() ? "" : " ", path, text_of(value));
    const plan::TrialCost& cost = costs[i];
    rows.push_back({sweep.trials[i].id, std::to_string(cost.ranks), count_in_words(static_cast<double>(cost.parameters_total)),
                    count_in_words(static_cast<double>(cost.parameters_active)), count_in_words(static_cast<double>(cost.training_tokens)),
                    seconds_in_words(cost.seconds), bytes_in_words(cost.memory_bytes), differs});
  }
  std::string text = table(rows);
  text += fmt::format("\n{}: {} trials ({} duplicates dropped, {} excluded{}), {} training tokens\n", sweep.name, sweep.trials.size(),
                      sweep.duplicates_dropped, sweep.excluded,
                      sweep.passed_over.empty() ? "" : fmt::format(", {} passed over", sweep.passed_over.size()), count_in_words(tokens));
  if (!costs.empty() && ratio > 1.0)
    text += fmt::format("total parameters: {} to {}, a ratio of {:.2f}\n", count_in_words(static_cast<double>(smallest->parameters_total)),
                        count_in_words(static_cast<double>(largest->parameters_total)), ratio);
  text +=
      fmt::format("estimated: {} on {} rank{} ({:.2f} rank-hours), at most {} a rank, {} on disk\n", seconds_in_words(simulation.makespan_seconds),
                  ranks, ranks == 1 ? "" : "s", work_seconds / 3600, bytes_in_words(memory), bytes_in_words(disk));
  text += fmt::format("({})\n", speed.in_words());
  if (gangs.size() > 1) {
    std::string sizes;
    for (const auto& [size, count] : gangs) sizes += fmt::format("{}{} of {}", sizes.empty() ? "" : ", ", count, size);
    text += fmt::format("gangs (trials of ranks): {}\n", sizes);
  }
  if (array) text += in_words(*array, array_options);
  if (simulated) text += in_words(*simulated, simulation_options);
  for (const Tight& trial : tight)
    text += fmt::format("over {} a rank: {} needs {}; {}\n", bytes_in_words(limit), sweep.trials[trial.trial].id,
                        bytes_in_words(costs[trial.trial].memory_bytes),
                        trial.gang ? fmt::format("parallel.expert={} parallel.data={} would need {}", trial.gang->expert, trial.gang->data,
                                                 bytes_in_words(trial.gang->memory_bytes))
                                   : "no gang would do");
  for (const plan::Skipped& skip : skipped) text += fmt::format("would be skipped: {} {}\n", jobs[skip.job].id, skip.reason);
  print(text);
}

}  // namespace

void add_plan(CLI::App& app, Invocation& invocation) {
  auto options = std::make_shared<PlanOptions>();
  CLI::App* sub = subcommand(app, "plan", "List the trials of a sweep with their size, time and memory, without running anything.",
                             "moesweep plan scale35x seed=[1,2] --ranks 8");
  sub->add_option("SWEEP", options->sweep, "sweep file, or the name of one in configs/sweeps")->required();
  sub->add_option("OVERRIDE", options->overrides, "key=value, key=[a,b] (an axis), +key=value, ~key");
  sub->add_option("--router", options->router, "a preset for all trials (`moesweep routers` lists them), before the overrides");
  add_selection(*sub, options->selection);
  sub->add_option("--ranks", options->ranks, "ranks of a launch or shard (default: the largest gang)")->check(CLI::Range(1, 10000000));
  sub->add_flag("--json", options->json, "as JSON");
  sub->add_option("--memory-per-rank", options->memory_per_rank, "names the trials that need more (2GiB), and the gang that would do");
  sub->add_option("--shards", options->array.shards, "elements of a job array (default: chosen from the work)")->check(CLI::Range(1, 10000000));
  sub->add_option("--max-array-size", options->array.max_array_size, "Slurm's MaxArraySize (1001)")->check(CLI::Range(2, 10000000));
  sub->add_option("--time-limit", options->time_limit, "the partition's, as Slurm writes it (1-00:00:00, 30 = minutes), or 90min, 4h");
  sub->add_flag("--simulate", options->simulate, "run the scheduler on a simulated clock over --ranks, with:");
  sub->add_option("--worlds", options->simulation.worlds, "array elements that share the ranks (1)")->check(CLI::Range(1, 10000000));
  sub->add_option("--noise", options->simulation.noise, "sigma of a log-normal factor on each trial's seconds")->check(CLI::Range(0.0, 3.0));
  sub->add_option("--failures-per-rank-hour", options->simulation.failures_per_rank_hour, "of nodes")->check(CLI::Range(0.0, 1e6));
  sub->add_option("--crash", options->simulation.crash_probability, "probability that an attempt crashes")->check(CLI::Range(0.0, 1.0));
  sub->add_option("--crash-named", options->simulation.named_share, "share of crashes that name their trial; others leave suspects (0)")
      ->check(CLI::Range(0.0, 1.0));
  sub->add_option("--walltime", options->walltime, "of one allocation; another follows");
  sub->add_option("--claim-seconds", options->simulation.claim_seconds, "what a claim takes (0)")->check(CLI::Range(0.0, 3600.0));
  sub->add_option("--simulation-seed", options->simulation.seed, "(1)");
  sub->callback([options, &invocation] {
    show_plan(*options);
    invocation.exit_code = ExitCode::ok;
  });
}

}  // namespace moesweep::cli
