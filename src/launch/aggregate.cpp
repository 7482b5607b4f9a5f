// See include/moesweep/launch/aggregate.hpp.
#include "moesweep/launch/aggregate.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>

#include "moesweep/core/error.hpp"
#include "moesweep/core/text.hpp"
#include "moesweep/core/version.hpp"
#include "moesweep/diagnose/testbed.hpp"
#include "moesweep/launch/folder.hpp"
#include "moesweep/launch/status.hpp"
#include "moesweep/spec/sweep.hpp"

namespace moesweep::launch {

namespace fs = std::filesystem;

std::map<std::string, double> metrics_of(const store::TrialRecord& record) {
  std::map<std::string, double> metrics;
  for (const store::Array& array : record.arrays) {
    if (!array.metric || array.shape.empty() || array.elements() == 0) continue;
    const std::vector<double> values = store::as_doubles(array);
    const auto row = static_cast<std::ptrdiff_t>(array.elements() / array.shape[0]);
    const double sum = std::accumulate(values.end() - row, values.end(), 0.0);
    metrics[array.path.substr(array.path.find('/') + 1)] = sum / static_cast<double>(row);
  }
  return metrics;
}

std::string comparison_key(const train::TrialConfig& config) {
  const Json identity = train::identity_of(config);
  Json key = Json::object();
  for (const auto& [path, value] : identity.items())
    if (!path.starts_with("routing.")) key[path] = value;
  return canonical(key);
}

namespace {

/// What one process found out about the sweep; the same text on every rank after a broadcast.
struct Survey {
  SweepPlan plan;
  std::vector<std::string> states, reasons;
};

Survey survey(const fs::path& sweep_folder) {
  Survey result;
  result.plan = read_plan(sweep_folder);
  std::ranges::sort(result.plan.trials, {}, &PlannedTrial::id);
  std::vector<PlannedTrial> all = std::move(result.plan.trials);
  result.plan.trials.clear();
  const Standings standings = standings_of(sweep_folder, SweepPlan{"", {}, {}, all});
  auto standing = standings.trials.begin();  // both are in order of the ids; removed trials that never started have none
  for (PlannedTrial& trial : all) {
    if (standing == standings.trials.end() || standing->id != trial.id) continue;
    result.plan.trials.push_back(std::move(trial));
    result.states.push_back(standing->status.state);
    result.reasons.push_back(standing->status.reason);
    ++standing;
  }
  return result;
}

/// What a trial's file adds to its row.
Json facts_of(const fs::path& file) {
  const store::TrialRecord record = store::read_trial(file);
  Json metrics = Json::object();
  for (const auto& [name, value] : metrics_of(record)) metrics[name] = std::isfinite(value) ? Json(value) : Json();
  return {{"state", record.state}, {"reason", record.reason}, {"provenance", record.provenance}, {"metrics", std::move(metrics)}};
}

}  // namespace

Aggregation aggregate(const comm::Communicator& world, const fs::path& sweep_folder, const fs::path& file) {
  // One rank looks at plan and journal, which may change meanwhile; all use what it saw.
  std::string seen;
  world.agree(
      [&] {
        if (world.rank() != 0) return;
        const Survey mine = survey(sweep_folder);
        seen = Json{{"plan", mine.plan.json()}, {"states", mine.states}, {"reasons", mine.reasons}}.dump();
      },
      "survey of the sweep folder");
  const Json told = Json::parse(world.broadcast(seen, 0, "survey of the sweep folder"));
  const SweepPlan plan = plan_of_json(told["plan"]);

  // Ranks share the reading of trial files.
  const auto ranks = static_cast<std::size_t>(world.size()), rank = static_cast<std::size_t>(world.rank());
  Json mine = Json::object();
  world.agree(
      [&] {
        for (std::size_t i = rank; i < plan.trials.size(); i += ranks)
          if (const fs::path path = trial_file(sweep_folder, plan.trials[i].id); fs::exists(path)) mine[plan.trials[i].id] = facts_of(path);
      },
      "reading of trial files");
  Json facts = Json::object();
  for (const std::string& part : world.all_gather(mine.dump(-1, ' ', false, Json::error_handler_t::replace), "facts of trial files"))
    facts.update(Json::parse(part));

  std::vector<spec::Trial> trials;
  for (const PlannedTrial& trial : plan.trials) trials.push_back({trial.id, trial.config});
  const auto axes = spec::axes_of(trials);
  std::vector<store::SweepRow> rows;
  std::map<std::string, std::size_t> references;  // by comparison key
  std::vector<std::string> keys;
  for (std::size_t i = 0; i < trials.size(); ++i) {
    store::SweepRow row;
    row.id = trials[i].id;
    row.state = told["states"][i];
    row.reason = told["reasons"][i];
    for (const auto& [path, value] : axes[i]) row.axes[path] = text_of(value);
    row.config = canonical(fields_of(trials[i].config).dump());
    row.provenance = "{}";
    if (const auto found = facts.find(row.id); found != facts.end()) {
      row.state = (*found)["state"];
      row.reason = (*found)["reason"];
      row.provenance = (*found)["provenance"];
      row.trial_file = trial_file(sweep_folder, row.id);
      for (const auto& [name, value] : (*found)["metrics"].items()) row.metrics[name] = value.is_null() ? std::nan("") : value.get<double>();
    }
    if (plan.trials[i].removed) row.reason = "not in the sweep file any more" + (row.reason.empty() ? "" : ": " + row.reason);
    keys.push_back(comparison_key(trials[i].config));
    if (trials[i].config.routing.select == "reference" && row.state == "done") references.emplace(keys.back(), i);
    rows.push_back(std::move(row));
  }
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const auto reference = references.find(keys[i]);
    if (reference == references.end() || rows[i].metrics.empty()) continue;
    // Adding 0 makes a negative zero positive.
    for (const auto& [name, gap] : diagnose::gaps_to_reference(rows[i].metrics, rows[reference->second].metrics)) rows[i].metrics[name] = gap + 0.0;
  }

  std::vector<plan::TrialCost> costs;
  for (const PlannedTrial& trial : plan.trials) costs.push_back(trial.cost);
  const Json provenance = {{"made_by", {{"version", version()}, {"git", git_version()}}},
                           {"sweep_folder_made_by", plan.provenance},
                           {"parameter_ratio", plan::parameter_ratio(costs)}};
  const fs::path target = file.empty() ? sweep_folder / "sweep.h5" : file;
  store::write_sweep(world, target, {plan.name, canonical(plan.resolved), canonical(provenance)}, rows);

  Aggregation result{target, static_cast<std::int64_t>(rows.size()), 0};
  for (const store::SweepRow& row : rows) result.done += row.state == "done" ? 1 : 0;
  return result;
}

}  // namespace moesweep::launch
