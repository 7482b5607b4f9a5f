// Logging: one line per message on standard error, `time level [Rank r/n] text`; standard output is for results only.
#pragma once

#include <string>

namespace moesweep::log {

enum class Level { debug, info, warning, error };

/// Level from the environment variable MOESWEEP_LOG (debug, info, warning, error; default info), and the rank shown in each line.
void configure(int rank, int ranks);
void write(Level level, const std::string& text);

inline void debug(const std::string& text) { write(Level::debug, text); }
inline void info(const std::string& text) { write(Level::info, text); }
inline void warning(const std::string& text) { write(Level::warning, text); }
inline void error(const std::string& text) { write(Level::error, text); }

}  // namespace moesweep::log
