// See include/moesweep/core/foreign_json.hpp.
#include "moesweep/core/foreign_json.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>

namespace moesweep {

namespace {

std::string place_in(std::string_view text, std::size_t at) {
  at = std::min(at, text.size());
  const auto before = text.substr(0, at);
  const auto line = 1 + std::ranges::count(before, '\n');
  const auto start = before.rfind('\n');
  return fmt::format("{}:{}", line, at - (start == std::string_view::npos ? 0 : start + 1) + 1);
}

[[noreturn]] void fail(ErrorKind kind, const std::string& what, const std::string& where, std::string_view text, std::size_t at) {
  throw Error(kind, what, where.empty() ? "" : where + ":" + place_in(text, at));
}

/// The first bracket that opens a nesting deeper than the limit; nothing when there is none. Brackets inside strings do not count.
std::optional<std::size_t> too_deep(std::string_view text) {
  int depth = 0;
  bool in_string = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      else if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '{' || c == '[') {
      if (++depth > kMostJsonDepth) return i;
    } else if (c == '}' || c == ']') {
      --depth;
    }
  }
  return std::nullopt;
}

/// A short form of a value for a message.
std::string shown(const Json& value) {
  constexpr std::size_t kMost = 60;
  if (value.is_object()) return "an object";
  if (value.is_array()) return "an array";
  std::string text = value.dump(-1, ' ', /*ensure_ascii=*/true, Json::error_handler_t::replace);
  return text.size() <= kMost ? text : text.substr(0, kMost) + " ...";
}

}  // namespace

Json parse_json(std::string_view text, const std::string& where, ErrorKind kind) {
  if (const auto at = too_deep(text)) fail(kind, fmt::format("JSON nested deeper than {} levels", kMostJsonDepth), where, text, *at);
  try {
    return Json::parse(text);
  } catch (const Json::parse_error& error) {
    const std::string what = error.what();
    const bool utf8 = what.find("UTF-8") != std::string::npos;
    fail(kind, utf8 ? "this is not UTF-8" : "this is no JSON", where, text, error.byte > 0 ? error.byte - 1 : 0);
  } catch (const Json::exception&) {  // a number beyond the range of double
    throw Error(kind, "this JSON holds a number that is too large", where);
  }
}

void JsonView::refuse(const std::string& expected) const {
  throw Error(kind_, fmt::format("{}expected {} but found {}", path_.empty() ? "" : path_ + ": ", expected, shown(*value_)), where_);
}

std::optional<JsonView> JsonView::find(const std::string& key) const {
  const auto found = object().find(key);
  if (found == value_->end() || found->is_null()) return std::nullopt;
  JsonView view(*found, where_, kind_);
  view.path_ = path_.empty() ? key : path_ + "." + key;
  return view;
}

JsonView JsonView::operator[](const std::string& key) const {
  if (auto found = find(key)) return *found;
  throw Error(kind_, fmt::format("{} is missing", path_.empty() ? key : path_ + "." + key), where_);
}

std::vector<JsonView> JsonView::elements() const {
  if (!value_->is_array()) refuse("an array");
  std::vector<JsonView> views;
  views.reserve(value_->size());
  for (std::size_t i = 0; i < value_->size(); ++i) {
    views.emplace_back((*value_)[i], where_, kind_);
    views.back().path_ = fmt::format("{}[{}]", path_, i);
  }
  return views;
}

std::vector<std::pair<std::string, JsonView>> JsonView::members() const {
  std::vector<std::pair<std::string, JsonView>> views;
  for (const auto& [key, value] : object().items()) {
    views.emplace_back(key, JsonView(value, where_, kind_));
    views.back().second.path_ = path_.empty() ? key : path_ + "." + key;
  }
  return views;
}

std::string JsonView::text(std::size_t most_bytes) const {
  if (!value_->is_string()) refuse("a text");
  const auto& text = value_->get_ref<const std::string&>();
  if (text.size() > most_bytes) refuse(fmt::format("a text of at most {} bytes", most_bytes));
  return text;
}

std::int64_t JsonView::integer(std::int64_t least, std::int64_t most) const {
  const auto expected = [&] { return fmt::format("an integer from {} to {}", least, most); };
  if (!value_->is_number_integer()) refuse(expected());
  if (value_->is_number_unsigned() && value_->get<std::uint64_t>() > static_cast<std::uint64_t>(std::max<std::int64_t>(most, 0))) refuse(expected());
  const auto number = value_->get<std::int64_t>();
  if (number < least || number > most) refuse(expected());
  return number;
}

double JsonView::number() const {
  if (!value_->is_number() || !std::isfinite(value_->get<double>())) refuse("a number");
  return value_->get<double>();
}

bool JsonView::boolean() const {
  if (!value_->is_boolean()) refuse("true or false");
  return value_->get<bool>();
}

std::vector<std::string> JsonView::texts() const {
  std::vector<std::string> all;
  for (const auto& element : elements()) all.push_back(element.text());
  return all;
}

const Json& JsonView::object() const {
  if (!value_->is_object()) refuse("an object");
  return *value_;
}

bool is_trial_id(std::string_view text) {
  constexpr std::size_t kDigits = 16;
  return text.size() == kDigits && std::ranges::all_of(text, [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

}  // namespace moesweep
