// The text of job scripts: quoting, and the three scripts of a submission. Nothing here starts or asks anything.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "moesweep/plan/array.hpp"
#include "moesweep/spec/profile.hpp"

namespace moesweep::launch {

/// One word of bash, whatever is in it: between single quotes, expanded by nothing.
std::string shell_quoted(std::string_view text);
std::string shell_quoted(const std::vector<std::string>& words);

/// One value of a #SBATCH line, which sbatch splits itself: plain words as they are, others between single quotes, where a backslash still escapes.
std::string sbatch_quoted(std::string_view text);

/// The value of sbatch's --export that hands on the variables of these names beside what is asked for already: by $SBATCH_EXPORT (empty: not set),
/// else by the options of #SBATCH lines, else by Slurm itself, everything. Names only: every user of a machine sees its command lines. A `config`
/// error where one of them gives a value.
std::string export_list(const std::vector<std::string>& names, const std::vector<std::string>& sbatch_options, std::string_view sbatch_export);

/// A path as sbatch's --output takes it: `%` is doubled.
std::string output_pattern(const std::filesystem::path& path);

/// What is left of a name for a job's: letters, digits, `.`, `_` and `-`, at most 40; never empty.
std::string plain_name(std::string_view name);

/// Throws a `config` error when Slurm cannot take the path: line breaks and other control characters, backslashes (they end patterns), bad UTF-8.
void require_slurm_path(const std::filesystem::path& path);

/// What the scripts of one submission share.
struct Scripts {
  std::string sweep;   ///< its name
  std::string origin;  ///< who wrote them and when, for the first lines
  std::filesystem::path program, folder, working_folder;
  std::string report_program;            ///< empty: there is no report job
  std::vector<std::string> run_options;  ///< for `moesweep run`, after --out and before --shard
  std::vector<std::pair<std::string, std::string>> environment;
  spec::SiteProfile profile;
  std::int64_t shards = 1, ranks = 1, nodes = 0, threads = 1, throttle = 0, signal_seconds = 300;
  std::string time, aggregate_time = "00:30:00";
};

std::string array_script(const Scripts& scripts, const std::string& job_name, const plan::ArrayChunk& chunk);
std::string aggregate_script(const Scripts& scripts, const std::string& job_name);
std::string report_script(const Scripts& scripts, const std::string& job_name);

}  // namespace moesweep::launch
