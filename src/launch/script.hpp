// The text of job scripts: quoting, and the three scripts of a submission. Nothing here starts or asks anything.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "moesweep/spec/profile.hpp"

namespace moesweep::launch {

/// One word of bash, whatever is in it: between single quotes, expanded by nothing.
std::string shell_quoted(std::string_view text);
std::string shell_quoted(const std::vector<std::string>& words);

/// One value of a #SBATCH line, which sbatch splits itself: plain words as they are, others between single quotes, where a backslash still escapes.
std::string sbatch_quoted(std::string_view text);

/// A path as sbatch's --output takes it: `%` is doubled.
std::string output_pattern(const std::filesystem::path& path);

/// What is left of a name for a job's: letters, digits, `.`, `_` and `-`, at most 40; never empty.
std::string plain_name(std::string_view name);

/// Throws a `config` error when Slurm cannot take the path: line breaks and other control characters, backslashes (they end patterns), bad UTF-8.
void require_slurm_path(const std::filesystem::path& path);

/// Shards first .. first+count-1 of `shards`, submitted as one array.
struct Chunk {
  std::int64_t first = 0, count = 1, shards = 1;
};

/// Shards 0 .. shards-1 as arrays of at most `most` elements, each as large as the others to within one.
std::vector<Chunk> chunks_of(std::int64_t shards, std::int64_t most);

/// What the scripts of one submission share.
struct Scripts {
  std::string sweep;   ///< its name
  std::string origin;  ///< who wrote them and when, for the first lines
  std::filesystem::path program, folder, working_folder;
  std::string report_program;            ///< empty: there is no report job
  std::vector<std::string> run_options;  ///< for `moesweep run`, after --out and before --shard
  std::vector<std::pair<std::string, std::string>> environment;
  spec::SiteProfile profile;
  std::int64_t ranks = 1, nodes = 0, threads = 1, throttle = 0, signal_seconds = 300;
  std::string time, aggregate_time = "00:30:00";
};

std::string array_script(const Scripts& scripts, const std::string& job_name, const Chunk& chunk);
std::string aggregate_script(const Scripts& scripts, const std::string& job_name);
std::string report_script(const Scripts& scripts, const std::string& job_name);

/// Seconds of a time limit as sbatch takes it: minutes, M:S, H:M:S, D-H, D-H:M, D-H:M:S. A `usage` error otherwise, or when it is 0.
std::int64_t seconds_of_time_limit(const std::string& text);
std::string time_limit_of(double seconds);  ///< D-HH:MM:SS or HH:MM:SS, up to whole minutes

}  // namespace moesweep::launch
