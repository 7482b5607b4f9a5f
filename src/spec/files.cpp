// See files.hpp and include/moesweep/spec/sweep.hpp (config_folders).
#include "files.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <cstdlib>
#include <vector>

#include "keys.hpp"
#include "limits.hpp"
#include "moesweep/core/publish.hpp"
#include "moesweep/spec/sweep.hpp"

namespace fs = std::filesystem;

namespace moesweep::spec {

namespace {

bool is_file(const fs::path& path) {
  std::error_code error;
  return fs::is_regular_file(path, error);
}

bool is_folder(const fs::path& path) {
  std::error_code error;
  return fs::is_directory(path, error);
}

/// The names of the variants that a file holds.
std::vector<std::string> variants_in(const fs::path& file) {
  std::vector<std::string> names;
  if (is_file(file))
    for (const Entry& entry : parse_yaml(read_yaml_text(file), shown(file)).entries) names.push_back(entry.key);
  return names;
}

/// `did you mean` among the files, and the variants where they count, that lie where the missing one was looked for.
std::string nearest_file(const fs::path& name, const std::vector<fs::path>& folders, bool with_variants) {
  std::vector<std::string> names;
  for (const fs::path& folder : folders) {
    std::error_code error;
    const fs::path place = (folder / name).parent_path();
    for (const auto& entry : fs::directory_iterator(place, error))
      if (entry.path().extension() == ".yaml" && (!with_variants || entry.path().filename() != kVariants))
        names.push_back((name.parent_path() / entry.path().filename()).string());
    if (with_variants)
      for (const std::string& variant : variants_in(place / kVariants)) names.push_back((name.parent_path() / (variant + ".yaml")).string());
  }
  return did_you_mean(name.string(), names);
}

Place find(const std::string& name, const fs::path& folder, const Mark& mark, bool with_variants) {
  std::vector<fs::path> folders{folder.empty() ? fs::path(".") : folder};
  for (auto& other : config_folders()) folders.push_back(std::move(other));
  std::string looked;
  for (const fs::path& candidate : folders) {
    const fs::path path = (candidate / name).lexically_normal(), variants = path.parent_path() / kVariants;
    if (with_variants && path.filename() == kVariants && is_file(path))
      fail(mark, fmt::format("'{}' holds several sections: name one of them, as {}", name, (fs::path(name).parent_path() / "NAME.yaml").string()));
    if (is_file(path)) return {path, ""};
    looked += (looked.empty() ? "" : ", ") + shown(candidate);
    if (!with_variants || !is_file(variants)) continue;
    const std::vector<std::string> names = variants_in(variants);
    if (path.extension() == ".yaml" && std::ranges::find(names, path.stem().string()) != names.end()) return {variants, path.stem().string()};
    looked += fmt::format(", {}", shown(variants));
  }
  fail(mark, fmt::format("no file '{}'{}", name, nearest_file(name, folders, with_variants)), fmt::format("looked in {}", looked));
}

}  // namespace

std::vector<fs::path> config_folders() {
  std::vector<fs::path> folders;
  if (const char* given = std::getenv("MOESWEEP_CONFIGS"); given != nullptr && *given != '\0') folders.emplace_back(given);
  std::error_code error;
  const fs::path program = fs::read_symlink("/proc/self/exe", error);
  if (!error) {
    const fs::path installed = program.parent_path().parent_path() / "share" / "moesweep" / "configs";
    if (is_folder(installed)) folders.push_back(installed);
  }
  if (is_folder(MOESWEEP_SOURCE_CONFIGS)) folders.emplace_back(MOESWEEP_SOURCE_CONFIGS);
  return folders;
}

std::string shown(const fs::path& path) {
  std::error_code error;
  const fs::path relative = fs::relative(path, error);
  if (error || relative.empty() || *relative.begin() == "..") return path.string();
  return relative.string();
}

std::string read_yaml_text(const fs::path& path) {
  std::error_code error;
  const std::uintmax_t bytes = fs::file_size(path, error);
  if (!error && bytes > kMostFileBytes)
    fail({std::make_shared<const std::string>(shown(path)), 0, 0},
         fmt::format("{} bytes, and {} are the most of a YAML file", bytes, kMostFileBytes));
  return read_text(path);
}

fs::path find_file(const std::string& name, const fs::path& folder, const Mark& mark) { return find(name, folder, mark, false).file; }

Place find_section(const std::string& name, const fs::path& folder, const Mark& mark) { return find(name, folder, mark, true); }

fs::path find_named(const std::string& name, const std::string& kind) {
  if (is_file(name)) return name;
  std::vector<std::string> names;
  for (const fs::path& folder : config_folders()) {
    for (const fs::path& path : {folder / kind / name, folder / kind / (name + ".yaml"), folder / name})
      if (!name.empty() && is_file(path)) return path;
    std::error_code error;
    for (const auto& entry : fs::directory_iterator(folder / kind, error)) names.push_back(entry.path().stem().string());
  }
  throw Error(ErrorKind::config, fmt::format("no file of that name, and none in configs/{}{}", kind, did_you_mean(name, names)), name);
}

}  // namespace moesweep::spec
