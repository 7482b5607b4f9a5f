// What can be asked while a sweep runs and afterwards: status, results, verify.
#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <memory>

#include "cli.hpp"
#include "moesweep/launch/status.hpp"
#include "moesweep/store/aggregate.hpp"

namespace moesweep::cli {

void add_status(CLI::App& app, Invocation& invocation) {
  struct Options {
    std::string folder;
    bool json = false;
  };
  auto options = std::make_shared<Options>();
  CLI::App* sub = subcommand(app, "status", "Where the trials of a sweep folder stand, from its journal. Exit code 1 when some failed.",
                             "moesweep status runs/quickstart");
  sub->add_option("DIR", options->folder, "sweep folder")->required();
  sub->add_flag("--json", options->json, "as JSON");
  sub->callback([options, &invocation] {
    const launch::Standings standings = launch::standings_of(options->folder, launch::read_plan(options->folder));
    if (options->json) {
      print(standings.json().dump(2) + "\n");
    } else {
      const auto removed = std::ranges::count(standings.trials, true, &launch::TrialStanding::removed);
      std::string text = fmt::format("{}: {} trials{}\n", standings.name, standings.trials.size(),
                                     removed > 0 ? fmt::format(", {} of them not in the sweep file any more", removed) : "");
      for (const auto& [state, count] : standings.counts) text += fmt::format("  {:>6} {}\n", count, state);
      for (const auto& trial : standings.trials) {
        const auto& status = trial.status;
        if (status.state == "running")
          text += fmt::format("running  {}  step {}/{}{}\n", trial.id, status.step, trial.steps,
                              std::isfinite(status.loss) ? fmt::format(", loss {:.4f}", status.loss) : "");
        else if (status.state != "done" && status.state != "pending")
          text += fmt::format("{}  {}  attempt {}: {}\n", status.state, trial.id, status.attempts, status.reason);
      }
      for (const std::string& problem : standings.problems) text += "journal: " + problem + "\n";
      print(text);
    }
    invocation.exit_code = launch::any_failed(standings.counts) ? ExitCode::some_trials_failed : ExitCode::ok;
  });
}

namespace {

/// The value at a dotted path of a row's config, which keeps the type that the axis' text has lost; null pointer when there is none.
const Json* at_path(const Json& config, const std::string& path) {
  const Json* here = &config;
  for (std::size_t start = 0; start <= path.size();) {
    const auto end = std::min(path.find('.', start), path.size());
    const auto found = here->is_object() ? here->find(path.substr(start, end - start)) : here->end();
    if (!here->is_object() || found == here->end()) return nullptr;
    here = &*found;
    start = end + 1;
  }
  return here;
}

/// For these, less is better.
bool less_is_better(const std::string& metric) {
  std::string name = metric;
  for (const char* prefix : {"gap_to_reference.", "greedy."}) {
    if (!name.starts_with(prefix)) continue;
    if (std::string_view(prefix) == "gap_to_reference.") return true;
    name = name.substr(std::string_view(prefix).size());
  }
  return name.starts_with("loss") || name.starts_with("bits_per_byte") || name == "max_violation" || name == "dead_experts" ||
         name.ends_with("seconds");
}

void show_results(const std::string& path, const std::string& top, bool json) {
  const store::SweepFile file(path);
  std::vector<const store::SweepRow*> rows;
  std::vector<std::string> names;
  for (const store::SweepRow& row : file.rows()) {
    rows.push_back(&row);
    for (const auto& [name, value] : row.metrics)
      if (std::ranges::find(names, name) == names.end()) names.push_back(name);
  }
  if (!top.empty()) {
    if (std::ranges::find(names, top) == names.end()) {
      std::string known;
      for (const std::string& name : names) known += (known.empty() ? "" : ", ") + name;
      throw Error(ErrorKind::usage, fmt::format("there is no metric '{}' in this sweep", top), path, "known metrics: " + known);
    }
    const double sign = less_is_better(top) ? 1.0 : -1.0;
    const auto place = [&](const store::SweepRow* row) {
      const auto found = row->metrics.find(top);
      return found == row->metrics.end() || std::isnan(found->second) ? std::numeric_limits<double>::infinity() : sign * found->second;
    };
    std::ranges::stable_sort(rows, {}, place);
  }
  if (json) {
    Json list = Json::array();
    for (const store::SweepRow* row : rows) {
      const Json config = Json::parse(row->config, nullptr, false);
      Json entry = {{"id", row->id}, {"state", row->state}, {"reason", row->reason}, {"axes", Json::object()}, {"metrics", Json::object()}};
      for (const auto& [axis, text] : row->axes) {
        const Json* typed = at_path(config, axis);
        entry["axes"][axis] = typed != nullptr ? *typed : Json(text);
      }
      for (const auto& [name, value] : row->metrics)
        if (std::isfinite(value)) entry["metrics"][name] = value;
        else if (row->state == "done") entry["metrics"][name] = nullptr;
      list.push_back(std::move(entry));
    }
    print(list.dump(2) + "\n");
    return;
  }
  std::vector<std::string> columns{"loss", "purity_expert", "utilisation"};
  if (!top.empty() && std::ranges::find(columns, top) == columns.end()) columns.insert(columns.begin(), top);
  std::vector<std::vector<std::string>> cells{{"trial", "state"}};
  cells[0].insert(cells[0].end(), columns.begin(), columns.end());
  cells[0].emplace_back("what differs");
  for (const store::SweepRow* row : rows) {
    std::vector<std::string> line{row->id, row->state};
    for (const std::string& name : columns) {
      const auto found = row->metrics.find(name);
      line.push_back(found == row->metrics.end() || std::isnan(found->second) ? "" : fmt::format("{:.4f}", found->second));
    }
    std::string differs;
    for (const auto& [axis, text] : row->axes) differs += fmt::format("{}{}={}", differs.empty() ? "" : " ", axis, text);
    line.push_back(differs);
    cells.push_back(std::move(line));
  }
  print(table(cells));
}

}  // namespace

void add_results(CLI::App& app, Invocation& invocation) {
  struct Options {
    std::string file, top;
    bool json = false;
  };
  auto options = std::make_shared<Options>();
  CLI::App* sub =
      subcommand(app, "results", "The trials of a sweep.h5 with their axes and metrics: a JSON array, or a table when standard output is a terminal.",
                 "moesweep results runs/quickstart/sweep.h5 --top purity_expert --json");
  sub->add_option("FILE", options->file, "sweep.h5")->required();
  sub->add_option("--top", options->top, "a metric: the best trials by it come first");
  sub->add_flag("--json", options->json, "JSON on a terminal too");
  sub->callback([options, &invocation] {
    show_results(options->file, options->top, options->json || ::isatty(STDOUT_FILENO) == 0);
    invocation.exit_code = ExitCode::ok;
  });
}

void add_verify(CLI::App& app, Invocation& invocation) {
  auto file = std::make_shared<std::string>();
  CLI::App* sub = subcommand(app, "verify", "Read a trial.h5, checkpoint.h5 or sweep.h5 whole and check its digest and structure.",
                             "moesweep verify runs/quickstart/sweep.h5");
  sub->add_option("FILE", *file, "the file to check")->required();
  sub->callback([file, &invocation] {
    if (!std::filesystem::is_regular_file(*file)) throw Error(ErrorKind::io, "there is no such file", *file);
    const store::Verification verification = store::verify(*file);
    if (verification.problems.empty()) {
      print(fmt::format("{}: sound, {} datasets, {} rows, digest {}\n", *file, verification.datasets, verification.rows, verification.digest));
      return;
    }
    std::string problems;
    for (const std::string& problem : verification.problems) problems += (problems.empty() ? "" : "; ") + problem;
    throw Error(ErrorKind::corrupt, problems, *file, "make it again: aggregate for a sweep.h5, run for a trial.h5");
  });
  (void)invocation;
}

}  // namespace moesweep::cli
