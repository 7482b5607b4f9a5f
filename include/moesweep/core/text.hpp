// Values as text, for people and for files that people read.
#pragma once

#include <string>

#include "moesweep/core/json.hpp"

namespace moesweep {

/// Now, as `2026-01-31T12:00:00Z`, with so many digits of the second's fraction (at most 3).
std::string utc_now(int fraction_digits = 0);

std::string seconds_in_words(double seconds);  ///< "14 s", "2.5 min", "3.0 h"
std::string text_of(const Json& value);        ///< a value of a config: texts as they are, `none` for null, else canonical JSON

}  // namespace moesweep
