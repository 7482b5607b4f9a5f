// See include/moesweep/core/text.hpp.
#include "moesweep/core/text.hpp"

#include <fmt/chrono.h>
#include <fmt/core.h>

#include <array>
#include <chrono>
#include <ctime>

#include "moesweep/core/fields.hpp"

namespace moesweep {

namespace {

/// One character of UTF-8, or one byte that is none.
struct Character {
  char32_t code = 0;
  std::size_t bytes = 1;
  bool valid = false;
};

Character character_at(std::string_view text, std::size_t at) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[at + i]); };
  const unsigned char first = byte(0);
  if (first < 0x80) return {first, 1, true};
  const std::size_t bytes = first >= 0xC2 && first < 0xE0 ? 2 : first >= 0xE0 && first < 0xF0 ? 3 : first >= 0xF0 && first < 0xF5 ? 4 : 1;
  if (bytes == 1 || at + bytes > text.size()) return {first, 1, false};
  char32_t code = first & (0x7FU >> bytes);
  for (std::size_t i = 1; i < bytes; ++i) {
    if ((byte(i) & 0xC0U) != 0x80) return {first, 1, false};
    code = (code << 6) | (byte(i) & 0x3FU);
  }
  constexpr std::array<char32_t, 5> kLeast{0, 0, 0x80, 0x800, 0x10000};
  const bool surrogate = code >= 0xD800 && code < 0xE000;
  if (code < kLeast[bytes] || code > 0x10FFFF || surrogate) return {first, 1, false};
  return {code, bytes, true};
}

/// C0, DEL and C1 command a terminal; the rest turns the direction of text or begins a new line.
bool is_hidden(char32_t code) {
  const auto within = [&](char32_t least, char32_t most) { return code >= least && code <= most; };
  return code < 0x20 || within(0x7F, 0x9F) || code == 0x061C || within(0x200E, 0x200F) || within(0x2028, 0x202E) || within(0x2066, 0x2069);
}

/// `text` with each hidden character as `escape` writes it, and each byte that is no UTF-8 as `\xff`.
template <class Escape>
std::string escaped(std::string_view text, Escape escape) {
  std::string result;
  result.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) {
    const Character character = character_at(text, at);
    if (!character.valid) result += fmt::format("\\x{:02x}", static_cast<unsigned>(character.code));
    else if (is_hidden(character.code)) result += escape(character.code);
    else result += text.substr(at, character.bytes);
    at += character.bytes;
  }
  return result;
}

std::string in_digits(char32_t code) {
  const auto number = static_cast<unsigned>(code);
  return number < 0x100 ? fmt::format("\\x{:02x}", number) : fmt::format("\\u{:04x}", number);
}

std::string utf8_of(char32_t code) {
  std::string text;
  if (code < 0x80) text += static_cast<char>(code);
  else if (code < 0x800) {
    text += static_cast<char>(0xC0U | (code >> 6));
    text += static_cast<char>(0x80U | (code & 0x3FU));
  } else {
    text += static_cast<char>(0xE0U | (code >> 12));
    text += static_cast<char>(0x80U | ((code >> 6) & 0x3FU));
    text += static_cast<char>(0x80U | (code & 0x3FU));
  }
  return text;
}

}  // namespace

std::string printable(std::string_view text) {
  return escaped(text, [](char32_t code) { return code == '\n' || code == '\t' ? std::string(1, static_cast<char>(code)) : in_digits(code); });
}

std::string printable_line(std::string_view text) {
  return escaped(text, [](char32_t code) {
    return code == '\n' ? std::string("\\n") : code == '\r' ? std::string("\\r") : code == '\t' ? std::string("\\t") : in_digits(code);
  });
}

std::string as_utf8(std::string_view text) { return escaped(text, utf8_of); }

std::string json_text(const Json& value, int indent) {
  // What remains hidden in it stands inside a text: line breaks between values are written by `dump`, those in texts are escaped already.
  return escaped(value.dump(indent, ' ', /*ensure_ascii=*/false, Json::error_handler_t::replace),
                 [](char32_t code) { return code == '\n' ? std::string("\n") : fmt::format("\\u{:04x}", static_cast<unsigned>(code)); });
}

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
