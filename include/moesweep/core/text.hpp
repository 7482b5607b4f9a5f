// Values as text, for people and for files that people read.
#pragma once

#include <string>
#include <string_view>

#include "moesweep/core/json.hpp"

namespace moesweep {

/// Now, as `2026-01-31T12:00:00Z`, with so many digits of the second's fraction (at most 3).
std::string utc_now(int fraction_digits = 0);

/// The longest time that an option or the environment may give, about 31 years: clocks that count nanoseconds hold ten times that.
inline constexpr double kMostSeconds = 1e9;

std::string seconds_in_words(double seconds);  ///< "14 s", "2.5 min", "3.0 h"
std::string text_of(const Json& value);        ///< a value of a config: texts as they are, `none` for null, else canonical JSON

/// Text as a terminal may show it: control characters (except line break and tab), marks that turn the direction of text, other line separators and
/// bytes that are no UTF-8 are written as `\x1b`, `\u202e` or `\xff`. Text that others wrote (names, reasons, paths) passes through it before a
/// person reads it.
std::string printable(std::string_view text);
/// The same for what must stay on one line, a cell of a table: line breaks and tabs are written as `\n`, `\r` and `\t` too.
std::string printable_line(std::string_view text);

/// The text with each byte that is no UTF-8 written as `\xff`, so that JSON can hold it; valid UTF-8 is left as it is.
std::string as_utf8(std::string_view text);

/// JSON as text, indented by so many blanks (-1: on one line). What `printable` hides in a text is written as `\u001b`, which is the same JSON; bytes
/// that are no UTF-8 become U+FFFD. Never throws for its content.
std::string json_text(const Json& value, int indent = -1);

}  // namespace moesweep
