// Where config files are found.
#pragma once

#include <filesystem>
#include <string>

#include "node.hpp"

namespace moesweep::spec {

/// The file that `name`, written at `mark`, means: beside `folder`, then in the config folders. Missing: a `config` error at the mark.
std::filesystem::path find_file(const std::string& name, const std::filesystem::path& folder, const Mark& mark);

/// Where a section is written: a file, or an entry of a folder's variants.yaml, which holds sections by name.
struct Place {
  std::filesystem::path file;
  std::string variant;  ///< empty: the whole file
};

/// The name of the files that hold variants.
inline constexpr const char* kVariants = "variants.yaml";

/// As `find_file`, for a section: where a folder has no FOLDER/NAME.yaml, the entry NAME of its FOLDER/variants.yaml counts.
Place find_section(const std::string& name, const std::filesystem::path& folder, const Mark& mark);

/// The file that a command line names: a path, or a name looked up in configs/`kind`, with or without `.yaml`.
std::filesystem::path find_named(const std::string& name, const std::string& kind);

/// The text of a YAML file; one larger than `kMostFileBytes` is a `config` error, what cannot be read an `io` error.
std::string read_yaml_text(const std::filesystem::path& path);

/// The path as messages show it: relative where it lies below the current folder.
std::string shown(const std::filesystem::path& path);

}  // namespace moesweep::spec
