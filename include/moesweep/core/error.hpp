// The one exception type of moesweep, and the exit codes that its kinds turn into.
#pragma once

#include <exception>
#include <stdexcept>
#include <string>

namespace moesweep {

/// Exit codes of every moesweep program; documented in README.md.
enum class ExitCode : int {
  ok = 0,
  some_trials_failed = 1,
  usage = 2,
  config = 3,
  io = 4,
  corrupt = 5,
  mpi = 6,
  data = 7,
  internal = 70,
  requeue = 75,
};

/// Who is at fault, which decides the exit code.
enum class ErrorKind { usage, config, data, io, corrupt, mpi, internal };

const char* name_of(ErrorKind kind);
ExitCode exit_code_of(ErrorKind kind);

/// An error that a user reads: what happened, where (`file:line:column` or a path, may be empty), what to do next (may be empty).
class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, std::string what, std::string where = {}, std::string hint = {});

  ErrorKind kind() const { return kind_; }
  const std::string& message() const { return message_; }
  const std::string& where() const { return where_; }
  const std::string& hint() const { return hint_; }

  /// True when every rank of the gang (or world) throws this error at the same place, so that all can go on together.
  bool on_every_rank() const { return on_every_rank_; }
  /// Marks an error that is thrown alike on every rank: what it depends on is the same everywhere, or was agreed on.
  Error& thrown_on_every_rank() { return on_every_rank_ = true, *this; }

 private:
  ErrorKind kind_;
  std::string message_, where_, hint_;
  bool on_every_rank_ = false;
};

/// Whether memory ran out: by the type, or by the words of moesweep, libtorch or the system.
bool tells_of_memory(const std::exception& exception);

/// Any exception as an error that a user reads. One of files (std::filesystem) and memory that ran out are `io`, with the path where there is one;
/// what nobody expected is `internal`. An `Error` is given back as it is.
Error error_of(const std::exception& exception);

/// Throws an internal error, naming the place, when `condition` is false. For programmer errors only; user errors throw `Error` by kind.
#define MOESWEEP_ASSERT(condition, text)                                                    \
  do {                                                                                      \
    if (!(condition)) ::moesweep::assertion_failed(#condition, (text), __FILE__, __LINE__); \
  } while (false)

[[noreturn]] void assertion_failed(const char* condition, const std::string& text, const char* file, int line);

}  // namespace moesweep
