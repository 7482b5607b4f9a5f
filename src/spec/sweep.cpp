// See include/moesweep/spec/sweep.hpp.
#include "moesweep/spec/sweep.hpp"

#include <algorithm>
#include <cctype>

#include "document.hpp"
#include "expand.hpp"
#include "files.hpp"
#include "overrides.hpp"

namespace moesweep::spec {

namespace {

/// A JSON value as YAML on one line: plain where that is unmistakable, else in double quotes.
std::string yaml_of(const Json& value) {
  if (value.is_null()) return "none";
  if (value.is_array()) {
    std::string text;
    for (const Json& item : value) text += (text.empty() ? "" : ", ") + yaml_of(item);
    return "[" + text + "]";
  }
  if (value.is_object()) {
    std::string text;
    for (const auto& [key, item] : value.items()) text += (text.empty() ? "" : ", ") + key + ": " + yaml_of(item);
    return "{" + text + "}";
  }
  if (!value.is_string()) return canonical(value);
  const std::string& text = value.get_ref<const std::string&>();
  const auto plain = [](unsigned char c) { return std::isalnum(c) != 0 || c == '_' || c == '-' || c == '/' || c == '.'; };
  return !text.empty() && std::isalpha(static_cast<unsigned char>(text[0])) != 0 && std::ranges::all_of(text, plain) ? text : value.dump();
}

void write_section(const Json& section, int indent, std::string& text) {
  for (const auto& [key, value] : section.items()) {
    text.append(static_cast<std::size_t>(indent), ' ').append(key).append(":");
    if (value.is_object()) {
      text += "\n";
      write_section(value, indent + 2, text);
    } else {
      text.append(" ").append(yaml_of(value)).append("\n");
    }
  }
}

}  // namespace

Sweep load_sweep(const std::string& path, const std::vector<std::string>& overrides) {
  Document document = load_document(find_named(path, "sweeps"), FileKind::sweep);
  apply_overrides(document, overrides, FileKind::sweep);
  return expand(document);
}

train::TrialConfig load_trial(const std::string& path, const std::vector<std::string>& overrides) {
  Document document = load_document(find_named(path, "trials"), FileKind::trial);
  apply_overrides(document, overrides, FileKind::trial);
  return expand_trial(document);
}

std::string trial_yaml(const train::TrialConfig& config) {
  train::TrialConfig mine = config;
  std::string text = "# moesweep trial " + train::id_of(config) + "\n";
  write_section(fields_of(mine).dump(), 0, text);
  return text;
}

std::vector<std::map<std::string, Json>> axes_of(const std::vector<Trial>& trials) {
  std::vector<std::map<std::string, Json>> axes(trials.size());
  if (trials.empty()) return axes;
  train::TrialConfig bench = trials.front().config;
  const std::vector<Leaf> leaves = leaves_of(fields_of(bench));
  std::vector<Json> first;
  std::vector<bool> differs(leaves.size(), false);
  for (const Leaf& leaf : leaves) first.push_back(leaf.field.get());
  for (const Trial& trial : trials) {
    bench = trial.config;
    for (std::size_t i = 0; i < leaves.size(); ++i)
      if (!differs[i]) differs[i] = leaves[i].field.get() != first[i];
  }
  for (std::size_t t = 0; t < trials.size(); ++t) {
    bench = trials[t].config;
    for (std::size_t i = 0; i < leaves.size(); ++i)
      if (differs[i]) axes[t].emplace(leaves[i].path, leaves[i].field.get());
  }
  return axes;
}

}  // namespace moesweep::spec
