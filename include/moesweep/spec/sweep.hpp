// YAML to typed trials: files, base, sets, blocks, overrides, ids. Errors are `config` errors at `file:line:column`.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <set>
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
  std::set<std::string> passed_over;  ///< ids that the selection leaves for another time
  Json resolved;                      ///< the file after base, sets, references and overrides, for the record
};

/// Which of a sweep's trials are meant now. Each text is a condition as in `exclude`, or the beginning of trial ids.
struct Selection {
  std::vector<std::string> only;  ///< trials for which one of them holds; none: all
  std::vector<std::string> skip;  ///< but not those for which one of these holds
};

/// What a sweep comes to.
struct Counts {
  std::int64_t trials = 0;  ///< without duplicates, those that the selection passes over included
  std::int64_t duplicates_dropped = 0, excluded = 0, passed_over = 0;
};

/// Is handed a trial, which is the caller's until it returns.
using Visit = std::function<void(const std::string& id, const train::TrialConfig& config)>;

/// A sweep too large to be held: its trials are made anew, one by one, each time that they are walked through.
class TrialStream {
 public:
  /// Reads the file as `load_sweep` does; its errors, but for those of single trials.
  explicit TrialStream(const std::string& path, const std::vector<std::string>& overrides = {}, Selection selection = {});
  ~TrialStream();
  TrialStream(TrialStream&&) noexcept;
  TrialStream& operator=(TrialStream&&) noexcept;

  const std::string& name() const;

  /// Hands the trials that the selection chooses to `visit`, in the order of `load_sweep` and with its errors. Any number of times, each alike. Keeps
  /// some 50 bytes a trial meanwhile.
  Counts for_each(const Visit& visit) const;

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

/// Where `models/...`, `data/...`, `routers/...` are looked up after the naming file's own folder: $MOESWEEP_CONFIGS, then the
/// configs folder of the source tree or of the installation.
std::vector<std::filesystem::path> config_folders();

/// Loads a sweep (a path, or a name looked up in configs/sweeps). Overrides are `key=value`, `key=[a,b]`, `+key=value`, `~key`.
/// All its trials are there whatever the selection says; a selection that leaves none, or an id that no trial has, is an error.
Sweep load_sweep(const std::string& path, const std::vector<std::string>& overrides = {}, const Selection& selection = {});

/// Loads one trial's file: the keys of a trial, `base` and file references allowed; no blocks.
train::TrialConfig load_trial(const std::string& path, const std::vector<std::string>& overrides = {});

/// A JSON object as YAML in block style, lists on one line; texts are quoted unless they are plain words that no reader takes for another type.
std::string yaml_text(const Json& object);

/// A trial's config as YAML that `load_trial` reads back to the same id.
std::string trial_yaml(const train::TrialConfig& config);

/// Finds the keys that differ among trials that are seen one by one, and then gives each one's.
class Axes {
 public:
  Axes();
  ~Axes();
  Axes(Axes&&) noexcept;
  Axes& operator=(Axes&&) noexcept;

  void see(const train::TrialConfig& config);
  /// By dotted path -> canonical value, once all trials were seen; execution fields too if they differ.
  std::map<std::string, Json> of(const train::TrialConfig& config) const;

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

/// Keys that differ within the trials, by dotted path -> canonical value per trial (execution fields included only if they differ).
std::vector<std::map<std::string, Json>> axes_of(const std::vector<Trial>& trials);

/// JSON Schema (draft 2020-12) of a sweep file.
Json json_schema();
/// The same as a reference for people, Markdown; configs/README.md is made from it.
std::string reference_markdown();

}  // namespace moesweep::spec
