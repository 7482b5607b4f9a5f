// A sweep folder: where its files lie, and plan.json, which fixes trials, gang layouts and data for every launch that shares the folder.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "moesweep/core/json.hpp"
#include "moesweep/plan/cost.hpp"
#include "moesweep/spec/sweep.hpp"

namespace moesweep::launch {

/// DIR/trials/3f/3fa1c2...; an `internal` error when the id is none (`is_trial_id`): what comes from files is checked before.
std::filesystem::path trial_folder(const std::filesystem::path& sweep_folder, const std::string& id);
std::filesystem::path trial_file(const std::filesystem::path& sweep_folder, const std::string& id);  ///< its trial.h5
/// `runs/NAME` for a sweep's name; a `config` error when the name would leave the folder or is empty.
std::filesystem::path default_folder(const std::string& sweep_name);

struct PlannedTrial {
  std::string id;
  train::TrialConfig config;
  plan::TrialCost cost;  ///< as estimated when the trial came in or its config last changed, by the machine's speed of then
  std::string data_digest;
  bool removed = false;                  ///< the sweep file of the latest launch no longer has it
  Json earlier_layouts = Json::array();  ///< its `parallel` section before each change, oldest first
};

/// plan.json.
struct SweepPlan {
  std::string name;
  Json resolved;
  Json provenance;  ///< of the launch that made the folder
  std::vector<PlannedTrial> trials;

  Json json() const;
};

/// A `corrupt` error names the path inside of what has a wrong type or range.
SweepPlan plan_of_json(const Json& json);
/// An `io` error when the folder holds no plan.json (with a hint) or it cannot be read just now, `corrupt` with the file and the path inside when
/// something in it has a wrong type or range.
SweepPlan read_plan(const std::filesystem::path& sweep_folder);

/// What `status` needs of a plan, which is much less to read.
struct OutlinedTrial {
  std::string id;
  std::int64_t steps = 0, training_tokens = 0;
  double seconds = 0.0;  ///< as the plan estimates them
  bool removed = false;
};
struct PlanOutline {
  std::string name;
  std::vector<OutlinedTrial> trials;
};
PlanOutline outline_of(const SweepPlan& plan);
/// Errors as those of `read_plan`.
PlanOutline read_outline(const std::filesystem::path& sweep_folder);

/// Makes the folder's sweep.yaml and plan.json, or brings them up to date: new trials are added, missing ones are kept and marked. A trial
/// that is there keeps its gang layout, `parallel.*`, unless that was given anew (`layout_given`); the old one is then recorded. A `data` error when
/// a trial is there with another data digest. Called by one process at a time (a lock in the folder sees to it); nothing is written when nothing
/// changes.
SweepPlan prepare_folder(const std::filesystem::path& sweep_folder, const spec::Sweep& sweep, const Json& provenance,
                         const std::function<std::string(const data::DataConfig&)>& digest_of_data, bool layout_given = false);

/// The values of `config` that differ from the defaults, execution fields included, as nested JSON that `load` reads back.
Json difference_from_defaults(const train::TrialConfig& config);

}  // namespace moesweep::launch
