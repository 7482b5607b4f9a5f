// See include/moesweep/core/log.hpp. spdlog does the work.
#include "moesweep/core/log.hpp"

#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include <cstdlib>

#include "moesweep/core/text.hpp"

namespace moesweep::log {

namespace {
spdlog::logger& logger() {
  static const std::shared_ptr<spdlog::logger> instance = [] {
    auto made = std::make_shared<spdlog::logger>("moesweep", std::make_shared<spdlog::sinks::stderr_color_sink_mt>());
    made->set_pattern("%H:%M:%S %^%l%$ %v");
    const char* level = std::getenv("MOESWEEP_LOG");
    made->set_level(spdlog::level::info);
    if (level != nullptr) {
      const auto wanted = spdlog::level::from_str(level);  // `off` also for words that are no level
      if (wanted != spdlog::level::off) made->set_level(wanted);
      else made->warn("MOESWEEP_LOG={} is no level (debug, info, warning, error): info it is", printable_line(level));
    }
    return made;
  }();
  return *instance;
}
}  // namespace

void configure(int rank, int ranks) {
  const std::string who = ranks > 1 ? "[Rank " + std::to_string(rank) + "/" + std::to_string(ranks) + "] " : "";
  logger().set_pattern("%H:%M:%S %^%l%$ " + who + "%v");
}

void write(Level level, const std::string& raw) {
  const std::string text = printable(raw);
  switch (level) {
    case Level::debug: logger().log(spdlog::level::debug, text); return;
    case Level::info: logger().log(spdlog::level::info, text); return;
    case Level::warning: logger().log(spdlog::level::warn, text); return;
    case Level::error: logger().log(spdlog::level::err, text); return;
  }
}

}  // namespace moesweep::log
