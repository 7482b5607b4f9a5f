// Checks of what a person types; see cli.hpp.
#include <fmt/core.h>
#include <unistd.h>

#include <fstream>
#include <sstream>
#include <utility>

#include "cli.hpp"
#include "moesweep/core/fields.hpp"
#include "moesweep/core/publish.hpp"

namespace moesweep::cli {

namespace {

/// The words of a key of a sweep file that is out of its range, for an option.
CLI::Validator within(const Field& field, const char* type, const std::string& least, const std::string& most) {
  const auto check = [field](const std::string& text) -> std::string {
    const Json value = number_of_text(field.type, text);
    if (!value.is_null() && check_value(field, value).empty()) return "";
    return fmt::format("expected {} but found '{}'", type_in_words(field, true), text);
  };
  return CLI::Validator([check](std::string& text) { return check(text); }, fmt::format("{} in [{} - {}]", type, least, most)).non_modifying();
}

}  // namespace

CLI::Validator integer_in(std::int64_t least, std::int64_t most) {
  Field field;
  field.type = FieldType::integer;
  field.at_least(static_cast<double>(least));
  if (most < std::numeric_limits<std::int64_t>::max()) field.at_most(static_cast<double>(most));
  return within(field, "INT", std::to_string(least), std::to_string(most));
}

CLI::Validator number_in(double least, double most) {
  Field field;
  field.type = FieldType::real;
  return within(field.at_least(least).at_most(most), "FLOAT", fmt::format("{}", least), fmt::format("{}", most));
}

CLI::Validator readable_by(std::function<void(const std::string&)> read) {
  const auto check = [read = std::move(read)](const std::string& text) -> std::string {
    try {
      read(text);
    } catch (const Error& error) {
      return error.message() + (error.hint().empty() ? "" : ": " + error.hint());
    }
    return "";
  };
  return CLI::Validator([check](std::string& text) { return check(text); }, "").non_modifying();
}

CLI::Validator duration() {
  return readable_by([](const std::string& text) { (void)seconds_of(text, ""); });
}

CLI::Validator size() {
  return readable_by([](const std::string& text) { (void)bytes_of(text, ""); });
}

double least_memory_limit() {
  double used = 0;
  std::ifstream status("/proc/self/status");
  constexpr std::string_view kName = "VmData:";  // what RLIMIT_DATA counts
  for (std::string line; std::getline(status, line);)
    if (line.starts_with(kName)) {
      std::istringstream(line.substr(kName.size())) >> used;
      constexpr double kKibi = 1024;
      used *= kKibi;
    }
  return used + kLeastWorkBytes;
}

void require_readable_file(const std::string& path, const std::string& hint) {
  try {
    ::close(open_regular(path));
  } catch (const Error& error) {
    throw Error(error.kind(), error.message(), error.where(), error.hint().empty() ? hint : error.hint());
  }
}

}  // namespace moesweep::cli
