// The named routers of the config folders: a file routers/NAME.yaml, or the entry NAME of routers/variants.yaml.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "moesweep/routing/config.hpp"
#include "moesweep/train/config.hpp"

namespace moesweep::spec {

/// A named router. `routing: routers/NAME.yaml` and `--router NAME` mean it.
struct Preset {
  std::string name;
  std::string description;     ///< the first line of the comment above its keys
  std::filesystem::path path;  ///< the file that holds it
  bool is_variant = false;     ///< an entry of variants.yaml, not a file of its own
  std::string yaml;            ///< its text, comment included

  /// Its config, with what `base` brings along. A wrong key or value is a `config` error; combinations are judged where it is used.
  routing::RoutingConfig load() const;
};

/// Every preset, by name; of equal names the first config folder's counts, and in a folder the file's.
std::vector<Preset> router_presets();

/// The preset of that name; none: a `usage` error with the nearest name.
Preset find_router(const std::string& name);

/// The config of `find_router(name)` with overrides as a sweep takes them (`routing.top_k=4`); other keys than routing's are a `usage` error.
routing::RoutingConfig load_router(const std::string& name, const std::vector<std::string>& overrides = {});

/// A trial of defaults with that router and overrides of any key. Errors as `find_router`; combinations are judged where it is used.
train::TrialConfig load_router_trial(const std::string& name, const std::vector<std::string>& overrides);

/// The overrides that `--router NAME` stands for, before further ones; an empty name gives those alone. Errors as `find_router`.
std::vector<std::string> with_router(const std::string& name, const std::vector<std::string>& overrides);

}  // namespace moesweep::spec
