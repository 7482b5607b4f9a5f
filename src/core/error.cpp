// See include/moesweep/core/error.hpp.
#include "moesweep/core/error.hpp"

#include <algorithm>
#include <array>
#include <filesystem>
#include <new>
#include <string_view>
#include <system_error>
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

bool tells_of_memory(const std::exception& exception) {
  if (dynamic_cast<const std::bad_alloc*>(&exception) != nullptr) return true;
  constexpr std::array<std::string_view, 7> kSigns{"memory ran out",         "out of memory",          "not enough memory", "can't allocate memory",
                                                   "cannot allocate memory", "Cannot allocate memory", "std::bad_alloc"};
  const std::string_view text = exception.what();
  return std::ranges::any_of(kSigns, [&](std::string_view sign) { return text.find(sign) != std::string_view::npos; });
}

namespace {
constexpr const char* kDefect = "this is a defect of moesweep: please report it with the command that led here";
}

Error error_of(const std::exception& exception) {
  if (const auto* known = dynamic_cast<const Error*>(&exception)) return *known;
  if (const auto* files = dynamic_cast<const std::filesystem::filesystem_error*>(&exception)) {
    const std::string second = files->path2().empty() ? "" : " (with " + files->path2().string() + ")";
    return {ErrorKind::io, files->code().message() + second, files->path1().string(), "check that it is there and its permissions"};
  }
  if (tells_of_memory(exception))
    return {ErrorKind::io, "memory ran out", "", "give it more memory, fewer ranks on a machine, or a larger --memory-limit where one was given"};
  // The system refuses a thread, a descriptor or the like.
  if (dynamic_cast<const std::system_error*>(&exception) != nullptr) return {ErrorKind::io, exception.what()};
  return {ErrorKind::internal, exception.what(), "", kDefect};
}

void assertion_failed(const char* condition, const std::string& text, const char* file, int line) {
  throw Error(ErrorKind::internal, text + " (" + condition + ")", std::string(file) + ":" + std::to_string(line), kDefect);
}

}  // namespace moesweep
