// See include/moesweep/launch/folder.hpp.
#include "moesweep/launch/folder.hpp"

#include <fmt/core.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <limits>
#include <map>
#include <optional>
#include <set>

#include "moesweep/core/error.hpp"
#include "moesweep/core/foreign_json.hpp"
#include "moesweep/core/publish.hpp"

namespace moesweep::launch {

namespace fs = std::filesystem;

fs::path trial_folder(const fs::path& sweep_folder, const std::string& id) {
  MOESWEEP_ASSERT(is_trial_id(id), "'" + id + "' is no trial's id and names no folder");
  return sweep_folder / "trials" / id.substr(0, 2) / id;
}
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
  explicit PlanLock(const fs::path& sweep_folder) : file_(open_to_append(sweep_folder / ".plan.lock")) {
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

constexpr std::int64_t kMostCount = std::int64_t{1} << 53;

/// `read` of plan.json's text, whose `corrupt` errors name the file and the path inside.
template <class Read>
auto read_plan_file(const fs::path& sweep_folder, Read&& read) {
  const fs::path file = sweep_folder / "plan.json";
  if (is_absent(file))
    throw Error(ErrorKind::io, "there is no plan.json: this is no sweep folder", sweep_folder.string(),
                "give the folder that `moesweep run` made, for example runs/quickstart");
  const std::string text = read_text(file);
  try {
    const Json json = parse_json(text, file.string());
    return read(JsonView(json, file.string()));
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::corrupt) throw;
    throw Error(error.kind(), error.message(), error.where().empty() ? file.string() : error.where(),
                error.hint().empty() ? "remove plan.json and run the sweep again: finished trials are kept" : error.hint());
  }
}

void require_plan(const JsonView& plan) {
  if (const JsonView format = plan["format"]; format.text() != "moesweep-plan") format.refuse("\"moesweep-plan\"");
  const std::int64_t version = plan["version"].integer(1, std::numeric_limits<int>::max());
  if (version > kPlanVersion)
    throw Error(ErrorKind::corrupt, fmt::format("the plan has version {}, this moesweep reads up to {}", version, kPlanVersion), "",
                "use the newer moesweep that made it");
}

std::string id_in(const JsonView& trial) {
  const JsonView id = trial["id"];
  std::string text = id.text();
  if (!is_trial_id(text)) id.refuse("the 16 hexadecimal digits of a trial");
  return text;
}

bool removed_in(const JsonView& trial) {
  const auto removed = trial.find("removed");
  return removed && removed->boolean();
}

double amount_in(const JsonView& parent, const std::string& key) {
  const JsonView amount = parent[key];
  if (amount.number() < 0) amount.refuse("a number of at least 0");
  return amount.number();
}

/// The trials of a plan as `read` makes them; two of one id are an error.
template <class Read>
void for_each_trial(const JsonView& plan, const Read& read) {
  std::set<std::string> ids;
  for (const JsonView& entry : plan["trials"].elements()) {
    std::string id = id_in(entry);
    if (!ids.insert(id).second) entry["id"].refuse("another id than those of the trials before it");
    read(entry, std::move(id));
  }
}

plan::TrialCost cost_in(const JsonView& cost) {
  constexpr std::int64_t kMostRanks = std::int64_t{1} << 31;
  (void)cost["ranks"].integer(1, kMostRanks);
  for (const char* key : {"parameters_total", "parameters_active", "training_tokens"}) (void)cost[key].integer(0, kMostCount);
  for (const char* key : {"flops", "seconds", "memory_bytes", "disk_bytes"}) (void)amount_in(cost, key);
  for (const char* key : {"exchanged_bytes", "exchange_seconds"})
    if (cost.find(key)) (void)amount_in(cost, key);
  if (const auto memory = cost.find("memory"))
    for (const auto& [name, part] : memory->members()) (void)part.number();
  return plan::TrialCost::of_json(cost.object());
}

SweepPlan plan_of(const JsonView& view) {
  require_plan(view);
  SweepPlan plan;
  plan.name = view["name"].text();
  plan.resolved = view["resolved"].object();
  plan.provenance = view["provenance"].object();
  for_each_trial(view, [&](const JsonView& entry, std::string id) {
    PlannedTrial trial;
    trial.id = std::move(id);
    trial.data_digest = entry["data_digest"].text();
    trial.removed = removed_in(entry);
    if (const auto steps = entry.find("steps")) (void)steps->integer(0, kMostCount);
    if (const auto layouts = entry.find("earlier_layouts")) {
      for (const JsonView& layout : layouts->elements()) trial.earlier_layouts.push_back(layout.object());
    }
    const JsonView config = entry["config"];
    try {
      load(fields_of(trial.config), config.object());
    } catch (const Error& error) {
      if (error.kind() == ErrorKind::corrupt) throw;
      throw Error(ErrorKind::corrupt, config.path() + "." + error.message());
    }
    // As stored: machines differ in speed, and all who share the folder cut it into the same shards.
    const auto cost = entry.find("cost");
    trial.cost = cost ? cost_in(*cost) : plan::cost_of(trial.config);
    plan.trials.push_back(std::move(trial));
  });
  return plan;
}

OutlinedTrial outline_of(const PlannedTrial& trial) {
  return {trial.id, trial.config.steps(), trial.cost.training_tokens, trial.cost.seconds, trial.removed};
}

}  // namespace

SweepPlan plan_of_json(const Json& json) { return plan_of(JsonView(json, "plan.json")); }

SweepPlan read_plan(const fs::path& sweep_folder) { return read_plan_file(sweep_folder, plan_of); }

PlanOutline outline_of(const SweepPlan& plan) {
  PlanOutline outline{plan.name, {}};
  for (const PlannedTrial& trial : plan.trials) outline.trials.push_back(outline_of(trial));
  return outline;
}

PlanOutline read_outline(const fs::path& sweep_folder) {
  return read_plan_file(sweep_folder, [](const JsonView& view) {
    require_plan(view);
    PlanOutline outline{view["name"].text(), {}};
    bool names_steps = true;  // plans of earlier versions do not
    for_each_trial(view, [&](const JsonView& entry, std::string id) {
      names_steps = names_steps && entry.find("steps");
      if (!names_steps) return;
      const JsonView cost = entry["cost"];
      outline.trials.push_back({std::move(id), entry["steps"].integer(0, kMostCount), cost["training_tokens"].integer(0, kMostCount),
                                amount_in(cost, "seconds"), removed_in(entry)});
    });
    return names_steps ? outline : outline_of(plan_of(view));
  });
}

namespace {

constexpr std::string_view kResolvedHeading = "# The sweep as resolved by moesweep; its trials are in plan.json.\n";

/// A sweep.yaml of our own begins with that heading. Somebody's own file of that name would be replaced: an `io` error.
void require_own_sweep_file(const fs::path& sweep_folder) {
  const fs::path file = sweep_folder / "sweep.yaml";
  if (is_absent(file)) return;
  if (!read_text(file).starts_with(kResolvedHeading))
    throw Error(ErrorKind::io, "it is there already, and moesweep did not write it: a sweep folder has a sweep.yaml of its own", file.string(),
                "choose another folder with --out");
}

}  // namespace

SweepPlan prepare_folder(const fs::path& sweep_folder, const spec::Sweep& sweep, const Json& provenance,
                         const std::function<std::string(const data::DataConfig&)>& digest_of_data, bool layout_given) {
  require_own_sweep_file(sweep_folder);
  std::error_code failure;
  fs::create_directories(sweep_folder / "trials", failure);
  if (!failure) fs::create_directories(sweep_folder / "journal", failure);
  if (failure)
    throw Error(ErrorKind::io, fmt::format("cannot make the sweep folder: {}", failure.message()), sweep_folder.string(),
                "is it writable, and is there space? Choose another with --out");
  const PlanLock lock(sweep_folder);
  const bool known = !is_absent(sweep_folder / "plan.json");
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
    publish_text(sweep_folder / "sweep.yaml", std::string(kResolvedHeading) + spec::yaml_text(plan.resolved));
    publish_text(sweep_folder / "plan.json", plan.json().dump(1) + "\n");
  }
  return plan;
}

}  // namespace moesweep::launch
