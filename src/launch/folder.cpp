// See include/moesweep/launch/folder.hpp.
#include "moesweep/launch/folder.hpp"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <map>
#include <optional>
#include <set>

#include "moesweep/core/error.hpp"
#include "moesweep/core/publish.hpp"

namespace moesweep::launch {

namespace fs = std::filesystem;

fs::path trial_folder(const fs::path& sweep_folder, const std::string& id) { return sweep_folder / "trials" / id.substr(0, 2) / id; }
fs::path trial_file(const fs::path& sweep_folder, const std::string& id) { return trial_folder(sweep_folder, id) / "trial.h5"; }

fs::path default_folder(const std::string& sweep_name) {
  const fs::path name(sweep_name);
  if (sweep_name.empty() || name.has_parent_path() || sweep_name == "." || sweep_name == "..")
    throw Error(ErrorKind::config, fmt::format("the sweep's name '{}' cannot name a folder", sweep_name), "",
                "give `sweep:` a plain name, or choose the folder with --out");
  return fs::path("runs") / name;
}

namespace {

/// What of `mine` differs from `theirs`; sections recursively, everything else whole.
Json difference(const Json& mine, const Json& theirs) {
  Json result = Json::object();
  for (const auto& [key, value] : mine.items()) {
    const auto other = theirs.find(key);
    if (other != theirs.end() && *other == value) continue;
    if (value.is_object() && other != theirs.end() && other->is_object()) {
      Json inner = difference(value, *other);
      if (!inner.empty()) result[key] = std::move(inner);
    } else {
      result[key] = value;
    }
  }
  return result;
}

constexpr int kPlanVersion = 1;

/// Holds the folder's plan for one process at a time; released by closing, so also by death.
class PlanLock {
 public:
  explicit PlanLock(const fs::path& sweep_folder) : file_(::open((sweep_folder / ".plan.lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666)) {
    if (file_ < 0) throw Error(ErrorKind::io, fmt::format("cannot open: {}", std::strerror(errno)), (sweep_folder / ".plan.lock").string());
    while (::flock(file_, LOCK_EX) != 0 && errno == EINTR) {
    }
  }
  ~PlanLock() { ::close(file_); }
  PlanLock(const PlanLock&) = delete;
  PlanLock& operator=(const PlanLock&) = delete;

 private:
  int file_;
};

}  // namespace

Json difference_from_defaults(const train::TrialConfig& config) {
  static const Json defaults = [] {
    train::TrialConfig config_of_defaults;
    return fields_of(config_of_defaults).dump();
  }();
  train::TrialConfig mine = config;
  return difference(fields_of(mine).dump(), defaults);
}

Json SweepPlan::json() const {
  std::vector<plan::TrialCost> costs;
  Json list = Json::array();
  for (const PlannedTrial& trial : trials) {
    Json entry = {{"id", trial.id},
                  {"data_digest", trial.data_digest},
                  {"config", difference_from_defaults(trial.config)},
                  {"steps", trial.config.steps()},
                  {"cost", trial.cost.json()}};
    if (trial.removed) entry["removed"] = true;
    if (!trial.earlier_layouts.empty()) entry["earlier_layouts"] = trial.earlier_layouts;
    list.push_back(std::move(entry));
    costs.push_back(trial.cost);
  }
  return {{"format", "moesweep-plan"}, {"version", kPlanVersion}, {"name", name},
          {"provenance", provenance},  {"resolved", resolved},    {"parameter_ratio", plan::parameter_ratio(costs)},
          {"trials", std::move(list)}};
}

namespace {

void require_plan(const Json& json) {
  if (json.at("format") != "moesweep-plan") throw Error(ErrorKind::corrupt, "this is no plan of moesweep");
  if (json.at("version").get<int>() > kPlanVersion)
    throw Error(ErrorKind::corrupt, fmt::format("the plan has version {}, this moesweep reads up to {}", json.at("version").get<int>(), kPlanVersion),
                "", "use the newer moesweep that made it");
}

/// plan.json of a folder as `read` makes it from JSON.
template <class Read>
auto read_plan_file(const fs::path& sweep_folder, Read&& read) {
  const fs::path file = sweep_folder / "plan.json";
  if (!fs::exists(file))
    throw Error(ErrorKind::io, "there is no plan.json: this is no sweep folder", sweep_folder.string(),
                "give the folder that `moesweep run` made, for example runs/quickstart");
  const std::string text = read_text(file);
  try {
    return read(Json::parse(text));
  } catch (const Error& error) {
    throw Error(error.kind(), error.message(), file.string(), error.hint());
  } catch (const std::exception& error) {
    throw Error(ErrorKind::corrupt, fmt::format("plan.json cannot be read: {}", error.what()), file.string(),
                "remove plan.json and run the sweep again: finished trials are kept");
  }
}

OutlinedTrial outline_of(const PlannedTrial& trial) {
  return {trial.id, trial.config.steps(), trial.cost.training_tokens, trial.cost.seconds, trial.removed};
}

}  // namespace

SweepPlan plan_of_json(const Json& json) {
  require_plan(json);
  SweepPlan plan;
  plan.name = json.at("name");
  plan.resolved = json.at("resolved");
  plan.provenance = json.at("provenance");
  for (const Json& entry : json.at("trials")) {
    PlannedTrial trial;
    trial.id = entry.at("id");
    trial.data_digest = entry.at("data_digest");
    trial.removed = entry.value("removed", false);
    trial.earlier_layouts = entry.value("earlier_layouts", Json::array());
    load(fields_of(trial.config), entry.at("config"));
    // As stored: machines differ in speed, and all who share the folder cut it into the same shards.
    trial.cost = entry.contains("cost") ? plan::TrialCost::of_json(entry.at("cost")) : plan::cost_of(trial.config);
    plan.trials.push_back(std::move(trial));
  }
  return plan;
}

SweepPlan read_plan(const fs::path& sweep_folder) { return read_plan_file(sweep_folder, plan_of_json); }

PlanOutline outline_of(const SweepPlan& plan) {
  PlanOutline outline{plan.name, {}};
  for (const PlannedTrial& trial : plan.trials) outline.trials.push_back(outline_of(trial));
  return outline;
}

PlanOutline read_outline(const fs::path& sweep_folder) {
  return read_plan_file(sweep_folder, [](const Json& json) {
    require_plan(json);
    PlanOutline outline{json.at("name"), {}};
    for (const Json& entry : json.at("trials")) {
      // Plans of earlier versions name no steps.
      if (!entry.contains("steps")) return outline_of(plan_of_json(json));
      const Json& cost = entry.at("cost");
      outline.trials.push_back({entry.at("id"), entry.at("steps"), cost.at("training_tokens"), cost.at("seconds"), entry.value("removed", false)});
    }
    return outline;
  });
}

SweepPlan prepare_folder(const fs::path& sweep_folder, const spec::Sweep& sweep, const Json& provenance,
                         const std::function<std::string(const data::DataConfig&)>& digest_of_data, bool layout_given) {
  std::error_code failure;
  fs::create_directories(sweep_folder / "trials", failure);
  if (!failure) fs::create_directories(sweep_folder / "journal", failure);
  if (failure)
    throw Error(ErrorKind::io, fmt::format("cannot make the sweep folder: {}", failure.message()), sweep_folder.string(),
                "is it writable, and is there space? Choose another with --out");
  const PlanLock lock(sweep_folder);
  const bool known = fs::exists(sweep_folder / "plan.json");
  SweepPlan plan;
  if (known) plan = read_plan(sweep_folder);
  const std::string before = known ? plan.json().dump() : "";
  if (!known) plan.provenance = provenance;
  plan.name = sweep.name;
  plan.resolved = sweep.resolved;

  std::map<std::string, std::size_t> place;
  for (std::size_t i = 0; i < plan.trials.size(); ++i) {
    place[plan.trials[i].id] = i;
    plan.trials[i].removed = true;
  }
  std::map<std::string, std::string> digests;  // each data config is opened once
  std::optional<plan::MachineSpeed> speed;
  for (const spec::Trial& trial : sweep.trials) {
    data::DataConfig data = trial.config.data;
    std::string& digest = digests[canonical(fields_of(data).dump())];
    if (digest.empty()) digest = digest_of_data(data);
    const auto [found, is_new] = place.emplace(trial.id, plan.trials.size());
    if (is_new) plan.trials.emplace_back().id = trial.id;
    PlannedTrial& planned = plan.trials[found->second];
    if (!is_new && planned.data_digest != digest)
      throw Error(ErrorKind::data,
                  fmt::format("the data of trial {} has digest {:.12}, but this folder was made with {:.12}", trial.id, digest, planned.data_digest),
                  sweep_folder.string(), "choose another folder with --out, or bring back the token store that the folder was made with");
    train::ParallelConfig layout = is_new || layout_given ? trial.config.parallel : planned.config.parallel;
    const Json before_change = fields_of(planned.config.parallel).dump();
    if (!is_new && before_change != fields_of(layout).dump()) planned.earlier_layouts.push_back(before_change);
    const Json planned_before = fields_of(planned.config).dump();
    planned.config = trial.config;
    planned.config.parallel = layout;
    if (is_new || planned_before != fields_of(planned.config).dump()) {
      if (!speed) speed = plan::machine_speed();
      planned.cost = plan::cost_of(planned.config, *speed);
    }
    planned.data_digest = digest;
    planned.removed = false;
  }
  if (plan.json().dump() != before) {
    publish_text(sweep_folder / "sweep.yaml", "# The sweep as resolved by moesweep; its trials are in plan.json.\n" + spec::yaml_text(plan.resolved));
    publish_text(sweep_folder / "plan.json", plan.json().dump(1) + "\n");
  }
  return plan;
}

}  // namespace moesweep::launch
