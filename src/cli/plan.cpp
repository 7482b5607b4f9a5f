// What can be asked before anything runs: schema, plan.
#include "moesweep/plan/cost.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <memory>

#include "cli.hpp"
#include "moesweep/core/text.hpp"
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
  std::string sweep, router;
  std::vector<std::string> overrides;
  spec::Selection selection;
  std::int64_t ranks = 0;
  bool json = false;
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
  const std::int64_t ranks = options.ranks > 0 ? options.ranks : largest_gang;
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
                 {"skipped", std::move(unrunnable)},
                 {"trials", std::move(list)}};
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
  sub->add_option("--ranks", options->ranks, "ranks to estimate the time for (default: the largest gang)")->check(CLI::Range(1, 10000000));
  sub->add_flag("--json", options->json, "as JSON");
  sub->callback([options, &invocation] {
    show_plan(*options);
    invocation.exit_code = ExitCode::ok;
  });
}

}  // namespace moesweep::cli
