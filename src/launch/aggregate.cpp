// See include/moesweep/launch/aggregate.hpp.
#include "moesweep/launch/aggregate.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string_view>
#include <utility>

#include "moesweep/core/error.hpp"
#include "moesweep/core/foreign_json.hpp"
#include "moesweep/core/hash.hpp"
#include "moesweep/core/log.hpp"
#include "moesweep/core/publish.hpp"
#include "moesweep/core/text.hpp"
#include "moesweep/core/version.hpp"
#include "moesweep/diagnose/testbed.hpp"
#include "moesweep/launch/folder.hpp"
#include "moesweep/launch/status.hpp"
#include "moesweep/spec/sweep.hpp"
#include "moesweep/store/output.hpp"
#include "moesweep/train/warnings.hpp"

namespace moesweep::launch {

namespace fs = std::filesystem;

std::map<std::string, double> metrics_of(const store::TrialRecord& record, const fs::path& file) {
  std::map<std::string, double> metrics;
  std::map<std::string, std::string> datasets;  // by metric
  for (const store::Array& array : record.arrays) {
    if (!array.metric || array.shape.empty() || array.elements() == 0) continue;
    const std::vector<double> values = store::as_doubles(array);
    const auto row = static_cast<std::ptrdiff_t>(array.elements() / array.shape[0]);
    const double sum = std::accumulate(values.end() - row, values.end(), 0.0);
    const std::string name = array.path.substr(array.path.find('/') + 1);
    const auto [place, is_new] = datasets.emplace(name, array.path);
    if (!is_new)
      throw Error(ErrorKind::corrupt, fmt::format("datasets {} and {} are both the metric '{}'", place->second, array.path, name), file.string(),
                  "a metric has one dataset: give one of them another name, and run the trial again");
    metrics[name] = sum / static_cast<double>(row);
  }
  return metrics;
}

namespace {

/// The config that a trial's file holds.
train::TrialConfig config_of(const store::TrialRecord& record, const fs::path& file) {
  const std::string where = file.string() + ": dataset header/config";
  const Json json = parse_json(record.config, where);
  (void)JsonView(json, where).object();
  train::TrialConfig config;
  try {
    load(fields_of(config), json);
  } catch (const Error& error) {
    throw Error(ErrorKind::corrupt, error.message(), where);
  }
  return config;
}

std::string joined(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : ",") + word;
  return text;
}

}  // namespace

std::vector<std::string> add_results(Json& fields, const store::TrialRecord& record, const fs::path& file) {
  if (const auto* steps = record.find("steps/step"); steps != nullptr && !steps->shape.empty()) fields["step"] = steps->shape.front();
  const auto metrics = metrics_of(record, file);
  const auto loss = metrics.find("loss");
  if (loss == metrics.end() || !std::isfinite(loss->second)) return {};
  fields["loss"] = loss->second;
  if (record.state != "done" || record.config.empty()) return {};
  std::vector<std::string> warnings = train::warnings_of(config_of(record, file), loss->second);
  if (!warnings.empty()) fields["warnings"] = warnings;
  return warnings;
}

namespace {

/// Makes comparison keys of many trials: the fields of a config are listed once.
class ComparisonKeys {
 public:
  ComparisonKeys() {
    for (Leaf& leaf : leaves_of(fields_of(config_))) {
      if (leaf.path.starts_with("routing.") || leaf.field.role == Role::execution) continue;
      by_default_.push_back(leaf.identity_value());
      leaves_.push_back(std::move(leaf));
    }
  }
  ComparisonKeys(const ComparisonKeys&) = delete;

  std::string of(const train::TrialConfig& config) {
    config_ = config;
    Json key = Json::object();
    for (std::size_t i = 0; i < leaves_.size(); ++i)
      if (Json value = leaves_[i].identity_value(); value != by_default_[i]) key[leaves_[i].path] = std::move(value);
    return canonical(key);
  }

 private:
  train::TrialConfig config_;  ///< which the leaves are bound to
  std::vector<Leaf> leaves_;
  std::vector<Json> by_default_;
};

}  // namespace

std::string comparison_key(const train::TrialConfig& config) { return ComparisonKeys().of(config); }

namespace {

constexpr std::string_view kRemoved = "not in the sweep file any more";

/// What one process found out about the sweep; every rank gets it as text, and makes a trial's config of it only when that trial's turn comes.
Json survey(const fs::path& sweep_folder) {
  const SweepPlan plan = read_plan(sweep_folder);
  std::map<std::string, std::size_t> places;
  for (std::size_t i = 0; i < plan.trials.size(); ++i) places[plan.trials[i].id] = i;
  const Standings standings = standings_of(sweep_folder, plan);  // removed trials that never started are left out
  std::map<std::string, const TrialStanding*> by_id;
  for (const TrialStanding& standing : standings.trials) by_id[standing.id] = &standing;
  std::vector<spec::Trial> trials;
  std::vector<plan::TrialCost> costs;
  for (const auto& [id, standing] : by_id) {
    trials.push_back({id, plan.trials[places.at(id)].config});
    costs.push_back(plan.trials[places.at(id)].cost);
  }
  const auto axes = spec::axes_of(trials);
  Json ids = Json::array(), published = Json::array(), list = Json::array();
  for (std::size_t i = 0; i < trials.size(); ++i) {
    const TrialStanding& standing = *by_id.at(trials[i].id);
    Json texts = Json::object();
    for (const auto& [path, value] : axes[i]) texts[path] = text_of(value);
    ids.push_back(standing.id);
    const store::Published& file = standing.status.published;
    published.push_back(file.sha256.empty() ? Json() : json_of(file));
    const Json entry = {{"config", difference_from_defaults(trials[i].config)},
                        {"axes", std::move(texts)},
                        {"removed", standing.removed},
                        {"state", standing.status.state},
                        {"reason", standing.status.reason}};
    list.push_back(entry.dump(-1, ' ', false, Json::error_handler_t::replace));
  }
  return {{"name", plan.name},
          {"resolved", plan.resolved},
          {"provenance", plan.provenance},
          {"parameter_ratio", plan::parameter_ratio(costs)},
          {"ids", std::move(ids)},
          {"published", std::move(published)},
          {"trials", std::move(list)}};
}

/// The metrics of reference trials, which other trials are held against, and of which trials they are wanted.
class References {
 public:
  void note(std::size_t trial, const std::string& key, bool is_reference, const std::map<std::string, double>& metrics) {
    keys_[trial] = key;
    if (is_reference) mine_[key].emplace(trial, metrics);
  }

  /// Collective. Of several references of a key the first trial counts.
  void share(const comm::Communicator& world) {
    Json list = Json::array();
    for (const auto& [key, trials] : mine_) {
      Json metrics = Json::object();
      for (const auto& [name, value] : trials.begin()->second) metrics[name] = std::isfinite(value) ? Json(value) : Json();
      list.push_back({key, trials.begin()->first, std::move(metrics)});
    }
    for (const std::string& text : world.all_gather(list.dump(-1, ' ', false, Json::error_handler_t::replace), "reference trials"))
      for (const Json& entry : Json::parse(text)) {
        const auto trial = entry[1].get<std::size_t>();
        auto [place, is_new] = first_.try_emplace(entry[0].get<std::string>());
        if (!is_new && place->second.first < trial) continue;
        place->second = {trial, {}};
        for (const auto& [name, value] : entry[2].items()) place->second.second[name] = value.is_null() ? std::nan("") : value.get<double>();
      }
  }

  /// The gaps of a trial, a negative zero made positive; empty when there is no reference.
  std::map<std::string, double> gaps(std::size_t trial, const std::map<std::string, double>& metrics) const {
    const auto reference = first_.find(keys_.at(trial));
    if (reference == first_.end() || metrics.empty()) return {};
    auto gaps = diagnose::gaps_to_reference(metrics, reference->second.second);
    for (auto& [name, gap] : gaps) gap += 0.0;
    return gaps;
  }

 private:
  std::map<std::size_t, std::string> keys_;                                           ///< of the trials of this rank
  std::map<std::string, std::map<std::size_t, std::map<std::string, double>>> mine_;  ///< by key, then trial
  std::map<std::string, std::pair<std::size_t, std::map<std::string, double>>> first_;
};

}  // namespace

Aggregation aggregate(const comm::Communicator& world, const fs::path& sweep_folder, const fs::path& file) {
  const fs::path own = sweep_folder / "sweep.h5", target = file.empty() ? own : file;
  world.agree(
      [&] {
        if (world.rank() != 0) return;
        // Before the work, which reads an earlier aggregate there. The folder's own is replaced whatever its content; a file that a person names
        // only when it is an aggregate.
        require_replaceable(target);
        std::error_code none;
        if (!file.empty() && !fs::equivalent(file, own, none)) store::require_own_output(file, "format", "moesweep-sweep");
      },
      "look at the file to write");
  // One rank looks at plan and journal, which may change meanwhile; all use what it saw.
  std::string seen;
  world.agree(
      [&] {
        if (world.rank() == 0) seen = survey(sweep_folder).dump();
      },
      "survey of the sweep folder");
  Json told = Json::parse(world.broadcast(std::exchange(seen, {}), 0, "survey of the sweep folder"));
  std::vector<std::string> entries;
  store::SweepSource source;
  for (auto& entry : told["trials"]) entries.push_back(std::move(entry.get_ref<std::string&>()));
  told.erase("trials");
  // Which trials left a file is seen by one rank too: a running sweep publishes more all the time.
  std::string there;
  world.agree(
      [&] {
        if (world.rank() != 0) return;
        for (const auto& id : told["ids"]) {
          // One that cannot be looked at is no absent one: reading it says what is wrong.
          there += is_absent(trial_file(sweep_folder, id.get<std::string>())) ? '0' : '1';
        }
      },
      "look for trial files");
  there = world.broadcast(there, 0, "look for trial files");
  for (std::size_t i = 0; i < entries.size(); ++i) {
    const std::string id = told["ids"][i];
    source.trials.push_back({id, {}, {}});
    if (there[i] != '1') continue;
    source.trials.back().file = trial_file(sweep_folder, id);
    if (const Json& published = told["published"][i]; !published.is_null())
      source.trials.back().published = store::published_of(JsonView(published, "the journal"));
  }
  told.erase("ids");
  told.erase("published");

  References references;
  ComparisonKeys comparison_keys;
  std::int64_t done = 0;
  source.row = [&](std::size_t i, const store::TrialRecord* record) {
    const Json entry = Json::parse(entries[i]);
    train::TrialConfig config;
    load(fields_of(config), entry["config"]);
    store::SweepRow row;
    row.id = source.trials[i].id;
    row.state = entry["state"];
    row.reason = entry["reason"];
    for (const auto& [path, text] : entry["axes"].items()) row.axes[path] = text.get<std::string>();
    row.config = canonical(fields_of(config).dump());
    row.provenance = "{}";
    if (record != nullptr) {
      row.state = record->state;
      row.reason = record->reason;
      // The note of an earlier aggregate is no part of the trial's own reason.
      if (row.reason.starts_with(kRemoved)) row.reason.erase(0, std::min(row.reason.size(), kRemoved.size() + 2));
      const fs::path& left = source.trials[i].file;
      // What is no JSON of this file is found here, by its name, and not in what ranks tell each other.
      if (const std::string where = left.string() + ": dataset header/provenance"; !record->provenance.empty()) {
        const Json facts = parse_json(record->provenance, where);
        (void)JsonView(facts, where).object();
        row.provenance = record->provenance;
      }
      if (!record->config.empty()) (void)parse_json(record->config, left.string() + ": dataset header/config");
      row.metrics = metrics_of(*record, left);
      if (const auto loss = row.metrics.find("loss"); row.state == "done" && loss != row.metrics.end())
        row.warnings = joined(train::warnings_of(config, loss->second));
      for (auto& [name, value] : row.metrics)
        if (!std::isfinite(value)) value = std::nan("");
    }
    if (entry["removed"]) row.reason = std::string(kRemoved) + (row.reason.empty() ? "" : ": " + row.reason);
    const bool ended_well = row.state == "done";
    done += ended_well ? 1 : 0;
    references.note(i, sha256_hex(comparison_keys.of(config)), ended_well && config.routing.select == "reference", row.metrics);
    return row;
  };
  source.meet = [&] { references.share(world); };
  source.more_metrics = [&](std::size_t i, const std::map<std::string, double>& metrics) { return references.gaps(i, metrics); };

  const Json provenance = {{"made_by", {{"version", version()}, {"git", git_version()}}},
                           {"sweep_folder_made_by", told["provenance"]},
                           {"parameter_ratio", told["parameter_ratio"]}};
  const store::SweepMaking making =
      store::write_sweep(world, target, {told["name"], canonical(told["resolved"]), canonical(provenance)}, source, target);
  if (world.rank() == 0 && !making.earlier_refused.empty())
    log::warning(
        fmt::format("{}: every trial file is read, since the earlier aggregate cannot be used: {}", target.string(), making.earlier_refused));
  return {target, static_cast<std::int64_t>(entries.size()), world.sum(done, "trials that are done"), making.files_read, making.rows_kept};
}

}  // namespace moesweep::launch
