// What can be asked before anything runs: schema, plan.
#include "moesweep/plan/cost.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <memory>
#include <utility>

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
  bool json = false, all = false;
};

constexpr std::size_t kListed = 1000;  // trials of a text without --all

struct ListedTrial {
  std::string id;
  train::TrialConfig config;
};

/// What one walk over the trials leaves. Of a trial it keeps some hundred bytes, so that a million fit anywhere.
struct Totals {
  spec::Counts counts;
  spec::Axes axes;
  std::vector<plan::Job> jobs;
  std::vector<ListedTrial> first;  ///< the first `kListed`
  plan::TrialCost smallest, largest;
  double work_seconds = 0, tokens = 0, memory = 0, disk = 0;
  std::int64_t largest_gang = 1;

  double ratio() const { return plan::parameter_ratio(std::vector{smallest, largest}); }
};

Totals totals_of(const spec::TrialStream& stream) {
  Totals totals;
  totals.counts = stream.for_each([&](const std::string& id, const train::TrialConfig& config) {
    const plan::TrialCost cost = plan::cost_of(config);
    if (totals.jobs.empty() || cost.parameters_total < totals.smallest.parameters_total) totals.smallest = cost;
    if (totals.jobs.empty() || cost.parameters_total > totals.largest.parameters_total) totals.largest = cost;
    totals.jobs.push_back({id, cost.ranks, cost.seconds, true});
    totals.axes.see(config);
    if (totals.first.size() < kListed) totals.first.push_back({id, config});
    totals.work_seconds += cost.seconds * static_cast<double>(cost.ranks);
    totals.tokens += static_cast<double>(cost.training_tokens);
    totals.memory = std::max(totals.memory, cost.memory_bytes);
    totals.disk += cost.disk_bytes;
    totals.largest_gang = std::max(totals.largest_gang, cost.ranks);
  });
  return totals;
}

/// The object with `trials` as its last member, written as it goes: a million trials are never one text.
void print_json(const Json& head, const spec::TrialStream& stream, const spec::Axes& axes) {
  std::string text = head.dump(2);
  text.resize(text.rfind('\n'));
  print(text + ",\n  \"trials\": [");
  bool first = true;
  text.clear();
  stream.for_each([&](const std::string& id, const train::TrialConfig& config) {
    Json entry = {{"id", id}, {"axes", Json::object()}};
    for (const auto& [path, value] : axes.of(config)) entry["axes"][path] = value;
    entry.update(plan::cost_of(config).json());
    text += std::exchange(first, false) ? "\n    " : ",\n    ";
    for (const char c : entry.dump(2)) {
      text += c;
      if (c == '\n') text += "    ";
    }
    if (text.size() > 1 << 16) {
      print(text);
      text.clear();
    }
  });
  print(text + "\n  ]\n}\n");
}

using Rows = std::vector<std::vector<std::string>>;

const std::vector<std::string> kColumns{"trial", "ranks", "parameters", "active", "tokens", "time", "memory", "what differs"};

std::vector<std::string> row_of(const std::string& id, const train::TrialConfig& config, const spec::Axes& axes) {
  std::string differs;
  for (const auto& [path, value] : axes.of(config)) differs += fmt::format("{}{}={}", differs.empty() ? "" : " ", path, text_of(value));
  const plan::TrialCost cost = plan::cost_of(config);
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
void print_trials(const PlanOptions& options, const spec::TrialStream& stream, const Totals& totals) {
  Rows rows{kColumns};
  if (!options.all || totals.jobs.size() <= kListed) {
    for (const ListedTrial& trial : totals.first) rows.push_back(row_of(trial.id, trial.config, totals.axes));
    print(table(rows));
    if (totals.jobs.size() > kListed) print(fmt::format("... and {} more: --all or --json lists them\n", totals.jobs.size() - kListed));
    return;
  }
  stream.for_each([&](const std::string& id, const train::TrialConfig& config) {
    rows.push_back(row_of(id, config, totals.axes));
    if (rows.size() <= kListed) return;
    print(table(rows));
    rows = {kColumns};
  });
  if (rows.size() > 1) print(table(rows));
}

void show_plan(const PlanOptions& options) {
  const spec::TrialStream stream(options.sweep, spec::with_router(options.router, options.overrides), options.selection);
  const Totals totals = totals_of(stream);
  const std::int64_t ranks = options.ranks > 0 ? options.ranks : totals.largest_gang;
  const plan::Simulation simulation = plan::simulate(totals.jobs, ranks);
  const auto skipped = plan::too_large(totals.jobs, ranks);

  if (options.json) {
    Json unrunnable = Json::array();
    for (const plan::Skipped& skip : skipped) unrunnable.push_back({{"id", totals.jobs[skip.job].id}, {"reason", skip.reason}});
    const Json head = {{"name", stream.name()},
                       {"count", totals.jobs.size()},
                       {"duplicates_dropped", totals.counts.duplicates_dropped},
                       {"excluded", totals.counts.excluded},
                       {"passed_over", totals.counts.passed_over},
                       {"parameter_ratio", totals.ratio()},
                       {"training_tokens", totals.tokens},
                       {"rank_seconds", totals.work_seconds},
                       {"ranks", ranks},
                       {"seconds", simulation.makespan_seconds},
                       {"memory_bytes_per_rank", totals.memory},
                       {"disk_bytes", totals.disk},
                       {"skipped", std::move(unrunnable)}};
    print_json(head, stream, totals.axes);
    return;
  }
  print_trials(options, stream, totals);
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
  text += fmt::format("(time at {} FLOP/s a rank, a plain default that was not measured on this machine)\n",
                      count_in_words(plan::kDefaultFlopsPerSecond));
  for (const plan::Skipped& skip : skipped) text += fmt::format("would be skipped: {} {}\n", totals.jobs[skip.job].id, skip.reason);
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
  sub->add_flag("--all", options->all, fmt::format("list every trial; without it the first {}", kListed));
  sub->callback([options, &invocation] {
    show_plan(*options);
    invocation.exit_code = ExitCode::ok;
  });
}

}  // namespace moesweep::cli
