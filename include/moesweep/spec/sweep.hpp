// YAML to typed trials: files, base, sets, blocks, overrides, ids. Errors are `config` errors at `file:line:column`.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "moesweep/core/json.hpp"
#include "moesweep/train/config.hpp"

namespace moesweep::spec {

struct Trial {
  std::string id;
  train::TrialConfig config;
};

struct Sweep {
  std::string name;
  std::vector<Trial> trials;  ///< in order of the blocks, duplicates dropped
  std::int64_t duplicates_dropped = 0;
  std::int64_t excluded = 0;
  Json resolved;  ///< the file after base, sets, references and overrides, for the record
};

/// Where `models/...`, `data/...`, `routers/...` are looked up after the naming file's own folder: $MOESWEEP_CONFIGS, then the
/// configs folder of the source tree or of the installation.
std::vector<std::filesystem::path> config_folders();

/// Loads a sweep (a path, or a name looked up in configs/sweeps). Overrides are `key=value`, `key=[a,b]`, `+key=value`, `~key`.
Sweep load_sweep(const std::string& path, const std::vector<std::string>& overrides = {});

/// Loads one trial's file: the keys of a trial, `base` and file references allowed; no blocks.
train::TrialConfig load_trial(const std::string& path, const std::vector<std::string>& overrides = {});

/// A JSON object as YAML in block style, lists on one line; texts are quoted unless they are plain words that no reader takes for another type.
std::string yaml_text(const Json& object);

/// A trial's config as YAML that `load_trial` reads back to the same id.
std::string trial_yaml(const train::TrialConfig& config);

/// Keys that differ within the trials, by dotted path -> canonical value per trial (execution fields included only if they differ).
std::vector<std::map<std::string, Json>> axes_of(const std::vector<Trial>& trials);

/// JSON Schema (draft 2020-12) of a sweep file.
Json json_schema();
/// The same as a reference for people, Markdown; configs/README.md is made from it.
std::string reference_markdown();

}  // namespace moesweep::spec
