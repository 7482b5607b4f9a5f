// See files.hpp and include/moesweep/spec/sweep.hpp (config_folders).
#include "files.hpp"

#include <fmt/core.h>

#include <cstdlib>
#include <vector>

#include "keys.hpp"
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

/// `did you mean` among the files that lie where the missing one was looked for.
std::string nearest_file(const fs::path& name, const std::vector<fs::path>& folders) {
  std::vector<std::string> names;
  for (const fs::path& folder : folders) {
    std::error_code error;
    for (const auto& entry : fs::directory_iterator((folder / name).parent_path(), error))
      if (entry.path().extension() == ".yaml") names.push_back((name.parent_path() / entry.path().filename()).string());
  }
  return did_you_mean(name.string(), names);
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

fs::path find_file(const std::string& name, const fs::path& folder, const Mark& mark) {
  std::vector<fs::path> folders{folder.empty() ? fs::path(".") : folder};
  for (auto& other : config_folders()) folders.push_back(std::move(other));
  std::string looked;
  for (const fs::path& candidate : folders) {
    fs::path path = (candidate / name).lexically_normal();
    if (is_file(path)) return path;
    looked += (looked.empty() ? "" : ", ") + shown(candidate);
  }
  fail(mark, fmt::format("no file '{}'{}", name, nearest_file(name, folders)), fmt::format("looked in {}", looked));
}

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
