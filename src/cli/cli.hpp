// The subcommands of `moesweep`: each is registered by one function and sets the program's exit code when it runs.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "moesweep/comm/mpi.hpp"
#include "moesweep/core/error.hpp"
#include "moesweep/core/json.hpp"

namespace moesweep::launch {
struct RunOptions;
}
namespace moesweep::spec {
struct Selection;
}

namespace moesweep::cli {

/// One call of the program.
struct Invocation {
  std::vector<std::string> command_line;
  ExitCode exit_code = ExitCode::ok;
};

void add_doctor(CLI::App& app, Invocation& invocation);
void add_schema(CLI::App& app, Invocation& invocation);
void add_routers(CLI::App& app, Invocation& invocation);
void add_plan(CLI::App& app, Invocation& invocation);
void add_run(CLI::App& app, Invocation& invocation);
void add_train(CLI::App& app, Invocation& invocation);
void add_route(CLI::App& app, Invocation& invocation);
void add_bench(CLI::App& app, Invocation& invocation);
void add_bench_store(CLI::App& group, Invocation& invocation);
void add_submit(CLI::App& app, Invocation& invocation);
void add_cancel(CLI::App& app, Invocation& invocation);
void add_status(CLI::App& app, Invocation& invocation);
void add_aggregate(CLI::App& app, Invocation& invocation);
void add_retry(CLI::App& app, Invocation& invocation);
void add_diff(CLI::App& app, Invocation& invocation);
void add_results(CLI::App& app, Invocation& invocation);
void add_verify(CLI::App& app, Invocation& invocation);

/// A subcommand with its help on one screen: what it does, its options, an example.
CLI::App* subcommand(CLI::App& app, const std::string& name, const std::string& what, const std::string& example);

/// `--only` and `--skip`, each any number of times.
void add_selection(CLI::App& sub, spec::Selection& selection);

/// What ends trials and launches before their time, and faults for tests, as written on the command line.
struct LimitOptions {
  std::string deadline, trial_timeout, stall_timeout, memory_limit, retries;
  std::optional<std::int64_t> max_failures;
  bool fail_fast = false;
  std::vector<std::string> faults;

  /// A `usage` error names the option that cannot be read. Limits the memory of this process, where that is asked for.
  void apply(launch::RunOptions& options) const;
  /// Only what can be checked without setting a limit: a `usage` error when this process could not live in `memory_limit`.
  void check() const;
  /// As words of a command line, `--name=value`.
  std::vector<std::string> words() const;
};
/// `one_trial`: only those that make sense for `train`.
void add_limits(CLI::App& sub, LimitOptions& options, bool one_trial = false);

/// Seconds: `90`, `90s`, `5m`, `2h`, `1d`, `1:30:00`; above 0, at most `kMostSeconds`. A `usage` error naming `option` otherwise.
double seconds_of(const std::string& text, const std::string& option);
/// Bytes: `2GiB`, `500MB`, `1.5G`, `4096`; above 0, at most 10^18. A `usage` error naming `option` otherwise.
double bytes_of(const std::string& text, const std::string& option);

/// Whether an override (key=value, +key=value, ~key) is of `parallel`, the gang layout.
bool names_layout(const std::string& text);

// Checks of options. Whatever does not fit is a usage error that names the option, what is allowed and what was given. CLI::Range is not used: it
// lets NaN through, reads blanks, octal and hexadecimal numbers, and does not show what was given.
CLI::Validator integer_in(std::int64_t least, std::int64_t most);
CLI::Validator number_in(double least, double most);
/// `read` throws an `Error` for a text that does not fit.
CLI::Validator readable_by(std::function<void(const std::string&)> read);
CLI::Validator duration();  ///< as `seconds_of` reads it
CLI::Validator size();      ///< as `bytes_of` reads it

/// The bytes of private memory that a limit must leave a process: what it has by now, and `kLeastWorkBytes` for the work itself.
double least_memory_limit();
inline constexpr double kLeastWorkBytes = 64.0 * 1024 * 1024;

/// An `io` error that names `path` unless it is a regular file that can be opened. Pipes and devices are not waited for.
void require_readable_file(const std::string& path, const std::string& hint = {});

/// Writes an error for a person: one message, where, and what to do next.
void report(const Error& error);

/// Runs `body` between MPI_Init and MPI_Finalize. An error that all ranks share is written once; one of a single rank ends the world.
ExitCode with_mpi(const std::function<ExitCode(const comm::Communicator& world)>& body);

// Text for people. A cell of a table, and what is put into a line by `printable_line`, stays on its line.
std::string count_in_words(double count);  ///< "570 k", "20.0 M"
std::string bytes_in_words(double bytes);  ///< "12.3 MiB"
/// Rows as left-aligned columns, numbers right-aligned; the first row is the heading.
std::string table(const std::vector<std::vector<std::string>>& rows);
void print(const std::string& text);                 ///< text for people to standard output, without what commands a terminal
void print_json(const Json& value, int indent = 2);  ///< JSON and a line break to standard output; -1: on one line
void write_to_stdout(const std::string& text);       ///< as it is; an `io` error when that fails

}  // namespace moesweep::cli
