// See include/moesweep/core/text.hpp.
#include "moesweep/core/text.hpp"

#include <fmt/chrono.h>
#include <fmt/core.h>

#include <chrono>
#include <ctime>

#include "moesweep/core/fields.hpp"

namespace moesweep {

std::string utc_now(int fraction_digits) {
  const auto time = std::chrono::system_clock::now();
  const auto milliseconds = std::chrono::duration_cast<std::chrono::milliseconds>(time.time_since_epoch()).count() % 1000;
  std::string fraction = fmt::format(".{:03}", milliseconds).substr(0, fraction_digits > 0 ? static_cast<std::size_t>(fraction_digits) + 1 : 0);
  return fmt::format("{:%Y-%m-%dT%H:%M:%S}{}Z", fmt::gmtime(std::chrono::system_clock::to_time_t(time)), fraction);
}

std::string seconds_in_words(double seconds) {
  if (seconds < 90) return fmt::format("{:.0f} s", seconds);
  if (seconds < 5400) return fmt::format("{:.1f} min", seconds / 60);
  return fmt::format("{:.1f} h", seconds / 3600);
}

std::string text_of(const Json& value) {
  if (value.is_null()) return "none";
  return value.is_string() ? value.get<std::string>() : canonical(value);
}

}  // namespace moesweep
