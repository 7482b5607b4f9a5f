// Where config files are found.
#pragma once

#include <filesystem>
#include <string>

#include "node.hpp"

namespace moesweep::spec {

/// The file that `name`, written at `mark`, means: beside `folder`, then in the config folders. Missing: a `config` error at the mark.
std::filesystem::path find_file(const std::string& name, const std::filesystem::path& folder, const Mark& mark);

/// The file that a command line names: a path, or a name looked up in configs/`kind`, with or without `.yaml`.
std::filesystem::path find_named(const std::string& name, const std::string& kind);

/// The path as messages show it: relative where it lies below the current folder.
std::string shown(const std::filesystem::path& path);

}  // namespace moesweep::spec
