// See keys.hpp.
#include "keys.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <numeric>

namespace moesweep::spec {

namespace {

constexpr std::size_t kLongestMeant = 200;  // no name is near to a longer word

/// Edits (insert, delete, replace, swap of neighbours) between two words.
std::size_t distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> before(b.size() + 1), last(b.size() + 1), now(b.size() + 1);
  std::iota(last.begin(), last.end(), std::size_t{0});
  for (std::size_t i = 1; i <= a.size(); ++i) {
    now[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      now[j] = std::min({last[j] + 1, now[j - 1] + 1, last[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1)});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) now[j] = std::min(now[j], before[j - 2] + 1);
    }
    std::swap(before, last);
    std::swap(last, now);
  }
  return last[b.size()];
}

bool has_leading_zero(std::string_view digits) { return digits.size() > 1 && digits[0] == '0' && digits[1] >= '0' && digits[1] <= '9'; }

/// The scalar as the field's type; null when it does not write one.
Json scalar_of(const Field& field, const Node& node) {
  if (!node.is_scalar()) return nullptr;
  if (field.type == FieldType::text) return !node.quoted && node.text.empty() ? Json(nullptr) : Json(node.text);
  if (field.type == FieldType::choice) return node.text;
  if (node.quoted) return nullptr;
  if (field.type == FieldType::boolean) return node.text == "true" ? Json(true) : node.text == "false" ? Json(false) : Json(nullptr);
  return number_of_text(field.type, node.text);
}

[[noreturn]] void fail_value(const Field& field, const Node& node, const std::string& path) {
  std::string hint;
  const bool takes_list = field.type == FieldType::text_list || field.type == FieldType::section_list;
  if (field.type == FieldType::choice && node.is_scalar()) {
    const std::string near = did_you_mean(node.text, field.choices);
    if (!near.empty()) hint = near.substr(2);
  } else if (node.is_list() && !takes_list) {
    hint = "several values are an axis: write them under grid";
  } else if (node.is_scalar() && !node.quoted && field.may_be_none && (node.text.empty() || node.text == "~" || node.text == "null")) {
    hint = "an absent value is written none";
  } else if (node.is_scalar() && node.quoted && (field.type == FieldType::integer || field.type == FieldType::real)) {
    hint = "a quoted value is text: leave the quotes out";
  } else if (node.is_scalar() && has_leading_zero(node.text) && (field.type == FieldType::integer || field.type == FieldType::real)) {
    hint = "numbers are decimal, without leading zeros";
  }
  const std::string expected = node.is_scalar() && !node.quoted ? type_in_words_for(field, node.text) : type_in_words(field);
  fail(node.mark, fmt::format("{}: expected {} but found {}", path, expected, node.in_words()), hint);
}

}  // namespace

Keys::Keys() : fields_(fields_of(example_)), leaves_(leaves_of(fields_)) {
  for (const Leaf& leaf : leaves_) defaults_.push_back(leaf.field.get());
  collect(fields_, "");
}

const Keys& Keys::instance() {
  static const Keys keys;
  return keys;
}

void Keys::collect(const FieldList& fields, const std::string& prefix) {
  for (const Field& field : fields.fields()) {
    Key key;
    key.path = prefix.empty() ? field.name : prefix + "." + field.name;
    key.is_section = field.type == FieldType::section;
    const std::string below = key.path + ".";
    const auto first = std::ranges::find_if(leaves_, [&](const Leaf& leaf) { return leaf.path == key.path || leaf.path.starts_with(below); });
    const auto last = std::find_if(first, leaves_.end(), [&](const Leaf& leaf) { return leaf.path != key.path && !leaf.path.starts_with(below); });
    key.first = static_cast<std::size_t>(first - leaves_.begin());
    key.last = static_cast<std::size_t>(last - leaves_.begin());
    key.field = field;
    paths_.push_back(key.path);
    const std::string path = key.path;
    keys_.emplace(path, std::move(key));
    if (field.type == FieldType::section) collect(field.section(), path);
  }
}

const Key* Keys::find(std::string_view path) const {
  const auto found = keys_.find(std::string(path));
  return found == keys_.end() ? nullptr : &found->second;
}

namespace {

Json section_of(const FieldList& fields, const Node& node, const std::string& path, const std::string& element) {
  Json value = Json::object();
  for (const Entry& entry : node.entries) {
    const Field* inner = fields.find(entry.key);
    if (inner == nullptr) fail_unknown_key_in(entry.mark, entry.key, fields, element);
    value[entry.key] = convert(*inner, entry.value, path + "." + entry.key);
  }
  return value;
}

Json element_of(const Field& field, const Node& node, const std::string& path) {
  if (!node.is_map()) fail(node.mark, fmt::format("{}: expected a mapping but found {}", path, node.in_words()));
  return section_of(field.section(), node, path, path);
}

}  // namespace

Json convert(const Field& field, const Node& node, const std::string& path) {
  if (field.may_be_none && node.is_scalar() && node.text == "none") return nullptr;  // quoted too: JSON knows no other text
  Json value;
  if (field.type == FieldType::text_list) {
    if (!node.is_list()) fail_value(field, node, path);
    value = Json::array();
    for (const Node& item : node.items) {
      if (!item.is_scalar() || (!item.quoted && item.text.empty()))
        fail(item.mark, fmt::format("{}: expected text but found {}", path, item.in_words()));
      value.push_back(item.text);
    }
    return value;
  }
  if (field.type == FieldType::section) {
    if (!node.is_map()) fail_value(field, node, path);
    return section_of(field.section(), node, path, path);
  }
  if (field.type == FieldType::section_list) {
    if (!node.is_list()) fail_value(field, node, path);
    value = Json::array();
    for (std::size_t i = 0; i < node.items.size(); ++i) {
      const std::string here = fmt::format("{}[{}]", path, i);
      value.push_back(element_of(field, node.items[i], here));
    }
    return value;
  }
  if (field.type == FieldType::section_map) {
    if (!node.is_map()) fail_value(field, node, path);
    value = Json::object();
    for (const Entry& entry : node.entries) value[entry.key] = element_of(field, entry.value, path + "." + entry.key);
    return value;
  }
  value = scalar_of(field, node);
  if (value.is_null() || !check_value(field, value).empty()) fail_value(field, node, path);
  return value;
}

bool holds_sections(const Field& field) { return field.type == FieldType::section_list || field.type == FieldType::section_map; }

std::vector<std::string> names_of(const FieldList& fields) {
  std::vector<std::string> names;
  for (const Field& field : fields.fields()) names.push_back(field.name);
  return names;
}

std::string did_you_mean(std::string_view word, std::span<const std::string> candidates) {
  const std::string* best = nullptr;
  std::size_t fewest = std::max<std::size_t>(2, word.size() / 3) + 1;
  if (word.size() > kLongestMeant) return "";
  for (const std::string& candidate : candidates) {
    const std::size_t longer = std::max(word.size(), candidate.size()) - std::min(word.size(), candidate.size());
    if (longer >= fewest) continue;  // at least so many insertions
    if (const std::size_t edits = distance(word, candidate); edits < fewest) fewest = edits, best = &candidate;
  }
  return best == nullptr ? "" : fmt::format(": did you mean '{}'?", *best);
}

void fail_unknown_key_in(const Mark& mark, const std::string& path, const FieldList& fields, const std::string& element) {
  std::vector<std::string> paths;
  const auto collect = [&](const auto& self, const FieldList& list, const std::string& prefix) -> void {
    for (const Field& field : list.fields()) {
      paths.push_back(prefix + field.name);
      if (field.type == FieldType::section) self(self, field.section(), paths.back() + ".");
    }
  };
  collect(collect, fields, "");
  std::string near = did_you_mean(path, paths);
  const auto same_name = std::ranges::find_if(paths, [&](const std::string& known) { return known.ends_with("." + path); });
  if (near.empty() && same_name != paths.end()) near = fmt::format(": did you mean '{}'?", *same_name);
  fail(mark, fmt::format("unknown key '{}' in {}{}", shortened(path), element, near));
}

void fail_unknown_key(const Mark& mark, const std::string& path, std::span<const std::string> further) {
  if (path.size() > kLongestMeant) fail(mark, fmt::format("unknown key '{}'", shortened(path)));
  for (std::size_t end = path.find_last_of(".["); end != std::string::npos && end > 0; end = path.find_last_of(".[", end - 1))
    if (const Key* key = Keys::instance().find(path.substr(0, end)); key != nullptr && holds_sections(key->field))
      fail(mark, fmt::format("'{}' is no key of its own: {} is one value", path, key->path),
           fmt::format("give all of it: {}={}", key->path,
                       key->field.type == FieldType::section_list ? "[{...}, {...}]" : "{" + path.substr(key->path.size() + 1) + ": {...}}"));
  std::vector<std::string> candidates = Keys::instance().paths();
  candidates.insert(candidates.end(), further.begin(), further.end());
  // Brothers first: the nearest name in the same section; then the same name in another section; then the nearest path of all.
  const std::size_t dot = path.rfind('.');
  const std::string section = dot == std::string::npos ? "" : path.substr(0, dot + 1), name = path.substr(section.size());
  std::string near;
  if (section.empty() || Keys::instance().find(section.substr(0, section.size() - 1)) != nullptr) {
    std::vector<std::string> brothers;
    for (const std::string& candidate : candidates)
      if (candidate.starts_with(section) && candidate.find('.', section.size()) == std::string::npos)
        brothers.push_back(candidate.substr(section.size()));
    near = did_you_mean(name, brothers);
    if (!near.empty() && !section.empty()) near.insert(near.find('\'') + 1, section);
  }
  if (near.empty())
    for (const std::string& candidate : candidates)
      if (near.empty() && candidate.ends_with("." + name)) near = fmt::format(": did you mean '{}'?", candidate);
  if (near.empty()) near = did_you_mean(path, candidates);
  fail(mark, fmt::format("unknown key '{}'{}", path, near),
       near.empty() ? "`moesweep schema --markdown` lists every key; a group of sets is a key where `sets` names it" : "");
}

std::vector<std::string> split_path(std::string_view path) {
  std::vector<std::string> parts;
  while (true) {
    const std::size_t dot = path.find('.');
    parts.emplace_back(path.substr(0, dot));
    if (dot == std::string_view::npos) return parts;
    path.remove_prefix(dot + 1);
  }
}

}  // namespace moesweep::spec
