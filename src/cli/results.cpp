// What can be asked of results: results, diff, verify.
#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "cli.hpp"
#include "moesweep/core/foreign_json.hpp"
#include "moesweep/core/text.hpp"
#include "moesweep/store/aggregate.hpp"

namespace moesweep::cli {

namespace {

constexpr const char* kWhichFile = "name the file that `moesweep aggregate` wrote: DIR/sweep.h5";

/// The config that a row holds. A trial that never started has none.
Json config_of(const store::SweepRow& row, const std::string& path) {
  return row.config.empty() ? Json() : parse_json(row.config, fmt::format("{}: config of trial {}", path, row.id));
}

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
  return name.starts_with("loss") || name.starts_with("bits_per_byte") || name == "max_violation" || name == "dead_experts" || name == "drop_rate" ||
         name == "overflow_rate" || name.ends_with("seconds");
}

/// Words between commas; none of an empty text.
std::vector<std::string> words_of(const std::string& text) {
  std::vector<std::string> words;
  std::istringstream parts(text);
  for (std::string word; std::getline(parts, word, ',');) words.push_back(word);
  return words;
}

void show_results(const std::string& path, const std::string& top, bool json) {
  require_readable_file(path, kWhichFile);
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
      const Json config = config_of(*row, path);
      Json entry = {{"id", row->id},          {"state", row->state},       {"reason", row->reason},
                    {"axes", Json::object()}, {"metrics", Json::object()}, {"warnings", words_of(row->warnings)}};
      for (const auto& [axis, text] : row->axes) {
        const Json* typed = at_path(config, axis);
        entry["axes"][axis] = typed != nullptr ? *typed : Json(text);
      }
      for (const auto& [name, value] : row->metrics)
        if (std::isfinite(value)) entry["metrics"][name] = value;
        else if (row->state == "done") entry["metrics"][name] = nullptr;
      list.push_back(std::move(entry));
    }
    print_json(list);
    return;
  }
  std::vector<std::string> columns{"loss", "purity_expert", "utilisation"};
  if (!top.empty() && std::ranges::find(columns, top) == columns.end()) columns.insert(columns.begin(), top);
  std::vector<std::vector<std::string>> cells{{"trial", "state"}};
  cells[0].insert(cells[0].end(), columns.begin(), columns.end());
  const bool any_warning = std::ranges::any_of(rows, [](const store::SweepRow* row) { return !row->warnings.empty(); });
  if (any_warning) cells[0].emplace_back("warnings");
  cells[0].emplace_back("what differs");
  for (const store::SweepRow* row : rows) {
    std::vector<std::string> line{row->id, row->state};
    for (const std::string& name : columns) {
      const auto found = row->metrics.find(name);
      line.push_back(found == row->metrics.end() || std::isnan(found->second) ? "" : fmt::format("{:.4f}", found->second));
    }
    if (any_warning) line.push_back(row->warnings);
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

namespace {

/// The one row whose id begins with `prefix`.
const store::SweepRow& row_of(const store::SweepFile& file, const std::string& prefix, const std::string& path) {
  std::vector<const store::SweepRow*> found;
  for (const store::SweepRow& row : file.rows())
    if (row.id.starts_with(prefix)) found.push_back(&row);
  if (found.size() == 1) return *found.front();
  if (found.empty())
    throw Error(ErrorKind::usage, fmt::format("there is no trial '{}' in this sweep", prefix), path, "`moesweep results` lists them");
  constexpr std::size_t kShown = 5;
  std::string ids;
  for (std::size_t i = 0; i < std::min(kShown, found.size()); ++i) ids += (i > 0 ? ", " : "") + found[i]->id;
  throw Error(ErrorKind::usage,
              fmt::format("'{}' is the beginning of {} trials: {}{}", prefix, found.size(), ids, found.size() > kShown ? ", ..." : ""), path,
              "give more of the id");
}

/// The leaves of a config by dotted path; lists are leaves.
void flatten(const Json& value, const std::string& path, std::map<std::string, Json>& leaves) {
  if (!value.is_object()) {
    leaves[path] = value;
    return;
  }
  for (const auto& [key, inner] : value.items()) flatten(inner, path.empty() ? key : path + "." + key, leaves);
}

struct DiffOptions {
  std::string file, first, second;
  bool json = false;
};

void show_diff(const DiffOptions& options) {
  require_readable_file(options.file, kWhichFile);
  const store::SweepFile file(options.file);
  const store::SweepRow &one = row_of(file, options.first, options.file), &other = row_of(file, options.second, options.file);
  std::map<std::string, std::array<Json, 2>> config;
  std::map<std::string, std::array<double, 2>> metrics;
  const std::array rows{&one, &other};
  for (std::size_t i = 0; i < rows.size(); ++i) {
    std::map<std::string, Json> leaves;
    flatten(config_of(*rows[i], options.file), "", leaves);
    for (auto& [path, value] : leaves) config[path][i] = std::move(value);
    for (const auto& [name, value] : rows[i]->metrics) metrics.try_emplace(name, std::array{std::nan(""), std::nan("")}).first->second[i] = value;
  }
  std::erase_if(config, [](const auto& entry) { return entry.second[0] == entry.second[1]; });
  std::erase_if(metrics, [](const auto& entry) { return std::isnan(entry.second[0]) && std::isnan(entry.second[1]); });
  if (options.json) {
    Json json = {{"trials", Json::array()}, {"config", Json::object()}, {"metrics", Json::object()}};
    for (const store::SweepRow* row : rows) json["trials"].push_back({{"id", row->id}, {"state", row->state}, {"reason", row->reason}});
    const auto number = [](double value) { return std::isfinite(value) ? Json(value) : Json(); };
    for (const auto& [path, values] : config) json["config"][path] = values;
    for (const auto& [name, values] : metrics) json["metrics"][name] = {number(values[0]), number(values[1])};
    print_json(json);
    return;
  }
  std::vector<std::vector<std::string>> cells{{"", one.id, other.id, "second - first"}, {"state", one.state, other.state}};
  for (const auto& [path, values] : config) cells.push_back({path, moesweep::text_of(values[0]), moesweep::text_of(values[1])});
  if (config.empty()) cells.push_back({"(the configs are equal)"});
  const auto number = [](double value) { return std::isnan(value) ? std::string() : fmt::format("{:.6g}", value); };
  for (const auto& [name, values] : metrics) cells.push_back({name, number(values[0]), number(values[1]), number(values[1] - values[0])});
  print(table(cells));
}

}  // namespace

void add_diff(CLI::App& app, Invocation& invocation) {
  auto options = std::make_shared<DiffOptions>();
  CLI::App* sub = subcommand(app, "diff", "Two trials of a sweep side by side: the keys in which they differ, then their metrics.",
                             "moesweep diff runs/quickstart/sweep.h5 3fa1 9c02");
  sub->add_option("FILE", options->file, "sweep.h5 from `moesweep aggregate`")->required();
  sub->add_option("ID", options->first, "a trial's id, or a beginning of it that no other has")->required();
  sub->add_option("OTHER", options->second, "the same of the other trial")->required();
  sub->add_flag("--json", options->json, "as JSON: each key and metric with its two values");
  sub->callback([options, &invocation] {
    show_diff(*options);
    invocation.exit_code = ExitCode::ok;
  });
}

void add_verify(CLI::App& app, Invocation& invocation) {
  auto file = std::make_shared<std::string>();
  CLI::App* sub = subcommand(app, "verify", "Read a trial.h5, trace.h5, checkpoint.h5 or sweep.h5 whole and check its digest and structure.",
                             "moesweep verify runs/quickstart/sweep.h5");
  sub->add_option("FILE", *file, "the file to check")->required();
  sub->callback([file, &invocation] {
    require_readable_file(*file, "name the file itself: DIR/sweep.h5, or the trial.h5 of a trial's folder");
    const store::Verification verification = store::verify(*file);
    if (verification.problems.empty()) {
      print(fmt::format("{}: sound, {} datasets, {} rows, digest {}\n", printable_line(*file), verification.datasets, verification.rows,
                        verification.digest));
      return;
    }
    std::string problems;
    for (const std::string& problem : verification.problems) problems += (problems.empty() ? "" : "; ") + problem;
    throw Error(ErrorKind::corrupt, problems, *file, "make it again: aggregate for a sweep.h5, run for a trial.h5");
  });
  (void)invocation;
}

}  // namespace moesweep::cli
