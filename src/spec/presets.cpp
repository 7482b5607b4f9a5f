// See include/moesweep/spec/presets.hpp.
#include "moesweep/spec/presets.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <map>
#include <memory>

#include "expand.hpp"
#include "files.hpp"
#include "keys.hpp"
#include "overrides.hpp"

namespace fs = std::filesystem;

namespace moesweep::spec {

namespace {

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    lines.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return lines;
}

std::string comment_of(const std::string& line) {
  const auto start = line.find_first_not_of("# ");
  return start == std::string::npos ? "" : line.substr(start);
}

Preset from_file(const fs::path& file) {
  Preset preset{file.stem().string(), "", file, false, read_yaml_text(file)};
  if (preset.yaml.starts_with("#")) preset.description = comment_of(lines_of(preset.yaml).front());
  return preset;
}

std::vector<Preset> from_variants(const fs::path& file) {
  const std::string text = read_yaml_text(file);
  const std::vector<std::string> lines = lines_of(text);
  std::vector<Preset> presets;
  std::vector<std::size_t> starts;  // first line of each entry, its comment included
  for (const Entry& entry : parse_yaml(text, shown(file)).entries) {
    const auto key = static_cast<std::size_t>(entry.mark.line - 1);
    std::size_t start = key;
    while (start > 0 && lines[start - 1].starts_with("#")) --start;
    presets.push_back({entry.key, start < key ? comment_of(lines[start]) : "", file, true, ""});
    starts.push_back(start);
  }
  starts.push_back(lines.size());
  for (std::size_t i = 0; i < presets.size(); ++i)
    for (std::size_t line = starts[i]; line < starts[i + 1]; ++line)
      if (!lines[line].empty()) presets[i].yaml += lines[line] + "\n";
  return presets;
}

/// A trial that holds nothing but this router.
Document document_of(const Preset& preset) {
  Document document;
  document.mark.source = std::make_shared<const std::string>(shown(preset.path));
  document.path = preset.path;
  Node keys = make_map(document.mark);
  keys.entries.push_back({"routing", document.mark, make_scalar(preset.name + ".yaml", document.mark)});
  document.trial = nested(keys, "", preset.path.parent_path(), nullptr);
  return document;
}

}  // namespace

routing::RoutingConfig Preset::load() const { return config_of(document_of(*this)).routing; }

std::vector<Preset> router_presets() {
  std::map<std::string, Preset> presets;
  for (const fs::path& folder : config_folders()) {
    std::error_code failure;
    for (const auto& entry : fs::directory_iterator(folder / "routers", failure))
      if (entry.path().extension() == ".yaml" && entry.path().filename() != kVariants)
        presets.emplace(entry.path().stem().string(), from_file(entry.path()));
    const fs::path variants = folder / "routers" / kVariants;
    if (fs::is_regular_file(variants, failure))
      for (Preset& variant : from_variants(variants)) presets.emplace(variant.name, std::move(variant));
  }
  std::vector<Preset> sorted;
  for (auto& [name, preset] : presets) sorted.push_back(std::move(preset));
  return sorted;
}

Preset find_router(const std::string& name) {
  std::vector<Preset> presets = router_presets();
  std::vector<std::string> names;
  for (const Preset& preset : presets) names.push_back(preset.name);
  const auto found = std::ranges::find(names, name);
  if (found != names.end()) return std::move(presets[static_cast<std::size_t>(found - names.begin())]);
  if (names.empty()) throw Error(ErrorKind::io, "no configs/routers folder was found", "", "set MOESWEEP_CONFIGS to the configs folder of moesweep");
  std::string known;
  for (const std::string& each : names) known += (known.empty() ? "" : ", ") + each;
  throw Error(ErrorKind::usage, fmt::format("there is no router preset '{}'{}", name, did_you_mean(name, names)), "", "known presets: " + known);
}

train::TrialConfig load_router_trial(const std::string& name, const std::vector<std::string>& overrides) {
  Document document = document_of(find_router(name));
  apply_overrides(document, overrides, FileKind::trial);
  return config_of(document);
}

routing::RoutingConfig load_router(const std::string& name, const std::vector<std::string>& overrides) {
  for (const std::string& text : overrides) {
    const std::string key = text.substr(text.starts_with('+') || text.starts_with('~') ? 1 : 0);
    if (!key.starts_with("routing.") && !key.starts_with("routing="))
      throw Error(ErrorKind::usage, fmt::format("'{}' is no key of a router", text), "", "a router takes the keys of the section routing");
  }
  return load_router_trial(name, overrides).routing;
}

std::vector<std::string> with_router(const std::string& name, const std::vector<std::string>& overrides) {
  std::vector<std::string> all;
  if (!name.empty()) all.push_back(fmt::format("routing=routers/{}.yaml", find_router(name).name));
  all.insert(all.end(), overrides.begin(), overrides.end());
  return all;
}

}  // namespace moesweep::spec
