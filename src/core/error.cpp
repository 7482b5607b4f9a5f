// See include/moesweep/core/error.hpp.
#include "moesweep/core/error.hpp"

#include <utility>

namespace moesweep {

const char* name_of(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::usage: return "usage";
    case ErrorKind::config: return "config";
    case ErrorKind::data: return "data";
    case ErrorKind::io: return "io";
    case ErrorKind::corrupt: return "corrupt";
    case ErrorKind::mpi: return "mpi";
    case ErrorKind::internal: return "internal";
  }
  return "unknown";
}

ExitCode exit_code_of(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::usage: return ExitCode::usage;
    case ErrorKind::config: return ExitCode::config;
    case ErrorKind::data: return ExitCode::data;
    case ErrorKind::io: return ExitCode::io;
    case ErrorKind::corrupt: return ExitCode::corrupt;
    case ErrorKind::mpi: return ExitCode::mpi;
    case ErrorKind::internal: return ExitCode::internal;
  }
  return ExitCode::internal;
}

namespace {
std::string compose(const std::string& what, const std::string& where, const std::string& hint) {
  std::string text = where.empty() ? what : where + ": " + what;
  if (!hint.empty()) text += "\n  " + hint;
  return text;
}
}  // namespace

Error::Error(ErrorKind kind, std::string what, std::string where, std::string hint)
    : std::runtime_error(compose(what, where, hint)), kind_(kind), message_(std::move(what)), where_(std::move(where)), hint_(std::move(hint)) {}

void assertion_failed(const char* condition, const std::string& text, const char* file, int line) {
  throw Error(ErrorKind::internal, text + " (" + condition + ")", std::string(file) + ":" + std::to_string(line),
              "this is a defect of moesweep: please report it with the command that led here");
}

}  // namespace moesweep
