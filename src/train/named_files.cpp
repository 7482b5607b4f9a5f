// See include/moesweep/train/named_files.hpp.
#include "moesweep/train/named_files.hpp"

#include <fmt/core.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <filesystem>
#include <set>
#include <span>
#include <string_view>
#include <system_error>

#include "moesweep/core/error.hpp"
#include "moesweep/core/publish.hpp"

namespace moesweep::train {

namespace {

void add_of_routing(const routing::RoutingConfig& routing, std::set<NamedFile>& files) {
  if (routing.learning == routing::Learning::imported && !routing.import_from.empty()) files.insert({"routing.import_from", routing.import_from});
  if ((routing.select == "replay" || routing.evaluation.select == "replay") && !routing.replay_from.empty())
    files.insert({"routing.replay_from", routing.replay_from});
}

/// Reads up to `bytes.size()` bytes; the number read, or -1 with errno set.
std::ptrdiff_t read_some(int file, std::span<char> bytes) {
  std::size_t got = 0;
  while (got < bytes.size()) {
    const auto count = ::read(file, bytes.data() + got, bytes.size() - got);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return -1;
    if (count == 0) break;
    got += static_cast<std::size_t>(count);
  }
  return static_cast<std::ptrdiff_t>(got);
}

}  // namespace

std::vector<NamedFile> named_files_of(const TrialConfig& config) {
  std::set<NamedFile> files;
  if (!config.train.init_from.empty()) files.insert({"train.init_from", config.train.init_from});
  if (config.routing.layers.empty()) {
    add_of_routing(config.routing, files);
  } else {
    for (std::int64_t layer = 0; layer < config.model.layers - config.model.dense_layers; ++layer)
      add_of_routing(config.routing.of_layer(layer), files);
  }
  return {files.begin(), files.end()};
}

std::string problem_of(const NamedFile& file) {
  namespace fs = std::filesystem;
  std::error_code failure;
  const fs::file_status status = fs::status(file.path, failure);
  if (status.type() == fs::file_type::not_found) return "is not there";
  if (failure) return "cannot be read: " + failure.message();
  if (fs::is_directory(status)) return "is a folder";
  if (!fs::is_regular_file(status)) return "is no regular file";
  std::array<char, 8> start{};
  std::ptrdiff_t count = 0;
  try {
    const int descriptor = open_regular(file.path);
    count = read_some(descriptor, start);
    const int code = errno;
    ::close(descriptor);
    if (count < 0) return "cannot be read: " + std::generic_category().message(code);
  } catch (const Error& error) {
    constexpr std::string_view kBegin = "cannot read: ";
    const std::string& message = error.message();
    return "cannot be read: " + (message.starts_with(kBegin) ? message.substr(kBegin.size()) : message);
  }
  if (count == 0) return "is empty";
  constexpr std::array<char, 8> kSignature{'\x89', 'H', 'D', 'F', '\r', '\n', '\x1a', '\n'};
  return start == kSignature ? "" : "is no HDF5 file";
}

std::vector<std::string> problems_of_named_files(const TrialConfig& config) {
  std::vector<std::string> problems;
  for (const NamedFile& file : named_files_of(config))
    if (const std::string problem = problem_of(file); !problem.empty())
      problems.push_back(fmt::format("{} names a file that {}: {}", file.key, problem, file.path));
  return problems;
}

std::string NamedFiles::Problem::sentence() const {
  std::string listed;
  for (const std::string& id : ids) listed += (listed.empty() ? "" : ", ") + id;
  if (trials > ids.size()) listed += fmt::format(" and {} more", trials - ids.size());
  return fmt::format("{} names a file that {}: {} ({} {}: {})", file.key, problem, file.path, trials, trials == 1 ? "trial" : "trials", listed);
}

void NamedFiles::see(const std::string& id, const TrialConfig& config) {
  for (const NamedFile& file : named_files_of(config)) {
    const auto [place, fresh] = seen_.try_emplace(file);
    Problem& of_file = place->second;
    if (fresh) {
      of_file.file = file;
      of_file.problem = problem_of(file);
    }
    if (of_file.problem.empty()) continue;
    if (++of_file.trials <= kListed) of_file.ids.push_back(id);
  }
}

std::vector<NamedFiles::Problem> NamedFiles::problems() const {
  std::vector<Problem> all;
  for (const auto& [file, of_file] : seen_)
    if (!of_file.problem.empty()) all.push_back(of_file);
  return all;
}

}  // namespace moesweep::train
