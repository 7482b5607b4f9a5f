// See include/moesweep/core/fields.hpp.
#include "moesweep/core/fields.hpp"

#include <fmt/core.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <limits>

#include "moesweep/core/error.hpp"

namespace moesweep {

namespace {

template <class T>
void bind(Field& field, T& slot) {
  field.get = [&slot] { return Json(slot); };
  field.set = [&slot](const Json& value) { slot = value.get<T>(); };
}

template <class T>
void bind(Field& field, std::optional<T>& slot) {
  field.may_be_none = true;
  field.get = [&slot] { return slot ? Json(*slot) : Json(nullptr); };
  field.set = [&slot](const Json& value) { slot = value.is_null() ? std::nullopt : std::optional<T>(value.get<T>()); };
}

void collect_leaves(const FieldList& fields, const std::string& prefix, Role role, std::vector<Leaf>& leaves) {
  for (const Field& field : fields.fields()) {
    const std::string path = prefix.empty() ? field.name : prefix + "." + field.name;
    const Role inherited = role == Role::execution ? role : field.role;
    if (field.type == FieldType::section) {
      collect_leaves(field.section(), path, inherited, leaves);
    } else {
      leaves.push_back({path, field});
      leaves.back().field.role = inherited;
    }
  }
}

}  // namespace

Field& FieldList::append(std::string name, FieldType type, std::string doc) {
  MOESWEEP_ASSERT(find(name) == nullptr, "field listed twice: " + name);
  Field field;
  field.name = std::move(name);
  field.type = type;
  field.doc = std::move(doc);
  fields_.push_back(std::move(field));
  return fields_.back();
}

Field& FieldList::finish_section(Field& field) {
  field.get = [section = field.section] { return section().dump(); };
  return field;
}

Field& FieldList::add(std::string name, bool& slot, std::string doc) {
  Field& field = append(std::move(name), FieldType::boolean, std::move(doc));
  return bind(field, slot), field;
}
Field& FieldList::add(std::string name, std::int64_t& slot, std::string doc) {
  Field& field = append(std::move(name), FieldType::integer, std::move(doc));
  return bind(field, slot), field;
}
Field& FieldList::add(std::string name, double& slot, std::string doc) {
  Field& field = append(std::move(name), FieldType::real, std::move(doc));
  return bind(field, slot), field;
}
Field& FieldList::add(std::string name, std::string& slot, std::string doc) {
  Field& field = append(std::move(name), FieldType::text, std::move(doc));
  return bind(field, slot), field;
}
Field& FieldList::add(std::string name, std::vector<std::string>& slot, std::string doc) {
  Field& field = append(std::move(name), FieldType::text_list, std::move(doc));
  return bind(field, slot), field;
}
Field& FieldList::add(std::string name, std::optional<std::int64_t>& slot, std::string doc) {
  Field& field = append(std::move(name), FieldType::integer, std::move(doc));
  return bind(field, slot), field;
}
Field& FieldList::add(std::string name, std::optional<double>& slot, std::string doc) {
  Field& field = append(std::move(name), FieldType::real, std::move(doc));
  return bind(field, slot), field;
}
Field& FieldList::add(std::string name, std::string& slot, std::vector<std::string> choices, std::string doc) {
  Field& field = append(std::move(name), FieldType::choice, std::move(doc));
  field.choices = std::move(choices);
  return bind(field, slot), field;
}

const Field* FieldList::find(std::string_view name) const {
  const auto found = std::ranges::find(fields_, name, &Field::name);
  return found == fields_.end() ? nullptr : &*found;
}

Json FieldList::dump() const {
  Json values = Json::object();
  for (const Field& field : fields_) values[field.name] = field.get();
  return values;
}

Json FieldList::identity(const FieldList& defaults) const {
  const std::vector<Leaf> mine = leaves_of(*this), theirs = leaves_of(defaults);
  MOESWEEP_ASSERT(mine.size() == theirs.size(), "defaults of another struct");
  Json differing = Json::object();
  for (std::size_t i = 0; i < mine.size(); ++i) {
    if (mine[i].field.role == Role::execution) continue;
    Json value = mine[i].identity_value();
    if (value != theirs[i].identity_value()) differing[mine[i].path] = std::move(value);
  }
  return differing;
}

std::vector<Leaf> leaves_of(const FieldList& fields) {
  std::vector<Leaf> leaves;
  collect_leaves(fields, "", Role::identity, leaves);
  std::ranges::sort(leaves, {}, &Leaf::path);
  return leaves;
}

namespace {

/// What of `value` (as `dump` writes the struct of `example`, which holds its defaults) is identity and differs from the defaults, by dotted path.
void shrink(const FieldList& example, const Json& value, const std::string& prefix, Json& differing);

Json shrunk(const Field& field, const Json& value) {
  const FieldList example = field.section();
  const auto element = [&](const Json& from) {
    Json differing = Json::object();
    shrink(example, from, "", differing);
    return differing;
  };
  Json result = field.type == FieldType::section_list ? Json::array() : Json::object();
  if (field.type == FieldType::section_list)
    for (const Json& from : value) result.push_back(element(from));
  else
    for (const auto& [name, from] : value.items()) result[name] = element(from);
  return result;
}

void shrink(const FieldList& example, const Json& value, const std::string& prefix, Json& differing) {
  for (const Field& field : example.fields()) {
    if (field.role == Role::execution) continue;
    const Json& mine = value.at(field.name);
    const Json by_default = field.get();
    if (mine == by_default) continue;
    const std::string path = prefix + field.name;
    if (field.type == FieldType::section) shrink(field.section(), mine, path + ".", differing);
    else if (field.type == FieldType::section_list || field.type == FieldType::section_map) differing[path] = shrunk(field, mine);
    else differing[path] = mine;
  }
}

}  // namespace

Json Leaf::identity_value() const {
  const Json value = field.get();
  return field.type == FieldType::section_list || field.type == FieldType::section_map ? shrunk(field, value) : value;
}

namespace {

/// Bounds from here on only prevent overflow; an error message shows the bound to users who exceed it.
constexpr double kTechnicalBound = 1e6;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

bool all_of(std::string_view text, std::string_view allowed) { return text.find_first_not_of(allowed) == std::string_view::npos; }

bool is_decimal(std::string_view text, std::string_view characters) {
  const std::string_view digits = text.starts_with('-') || text.starts_with('+') ? text.substr(1) : text;
  const bool leading_zero = digits.size() > 1 && digits[0] == '0' && digits[1] >= '0' && digits[1] <= '9';
  return !digits.empty() && digits[0] != '-' && digits[0] != '+' && all_of(digits, characters) && !leading_zero;
}

template <class T>
Json parsed(std::string_view text) {
  if (text.starts_with('+')) text.remove_prefix(1);
  T value{};
  const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), value);
  return code == std::errc() && end == text.data() + text.size() ? Json(value) : Json(nullptr);
}

/// A bound as people write it: integers with all their digits.
std::string bound_in_words(const Field& field, double bound) {
  constexpr double kAllDigits = 9.2e18;
  if (field.type == FieldType::integer && std::abs(bound) < kAllDigits && bound == std::floor(bound))
    return fmt::format("{}", static_cast<std::int64_t>(bound));
  return fmt::format("{}", bound);
}

}  // namespace

std::string type_in_words(const Field& field, bool with_every_bound) {
  std::string words;
  switch (field.type) {
    case FieldType::boolean: words = "true or false"; break;
    case FieldType::integer: words = "integer"; break;
    case FieldType::real: words = "number"; break;
    case FieldType::text: words = "text"; break;
    case FieldType::choice: words = fmt::format("one of {}", fmt::join(field.choices, ", ")); break;
    case FieldType::text_list: words = "list of texts"; break;
    case FieldType::section: words = "mapping"; break;
    case FieldType::section_list: words = "list of mappings"; break;
    case FieldType::section_map: words = "mapping of names to mappings"; break;
  }
  const bool integer = field.type == FieldType::integer, number = integer || field.type == FieldType::real;
  std::string least, most;
  if (field.minimum > -kInfinity) least = fmt::format(" {} {}", field.minimum_excluded ? ">" : ">=", bound_in_words(field, field.minimum));
  if (field.maximum < (with_every_bound ? kInfinity : kTechnicalBound)) most = fmt::format(" <= {}", bound_in_words(field, field.maximum));
  if (with_every_bound && number) {
    // What the type itself can hold.
    if (least.empty())
      least = integer ? fmt::format(" >= {}", std::numeric_limits<std::int64_t>::min()) : fmt::format(" >= {}", -std::numeric_limits<double>::max());
    if (most.empty())
      most = integer ? fmt::format(" <= {}", std::numeric_limits<std::int64_t>::max()) : fmt::format(" <= {}", std::numeric_limits<double>::max());
  }
  words += least + (least.empty() || most.empty() ? "" : " and") + most;
  if (field.may_be_none) words += " or none";
  return words;
}

Json number_of_text(FieldType type, std::string_view text) {
  if (type == FieldType::integer) return is_decimal(text, "0123456789") ? parsed<std::int64_t>(text) : Json(nullptr);
  if (type != FieldType::real || !is_decimal(text, "0123456789.eE+-")) return nullptr;
  Json value = parsed<double>(text);
  if (value.is_null() || !std::isfinite(value.get<double>())) return nullptr;
  return value.get<double>() == 0 ? Json(0.0) : value;  // -0 is 0
}

std::string type_in_words_for(const Field& field, std::string_view text) {
  const bool integer = field.type == FieldType::integer;
  if ((!integer && field.type != FieldType::real) || !is_decimal(text, "0123456789.eE+-")) return type_in_words(field);
  const std::string copy(text);
  char* end = nullptr;
  const double value = std::strtod(copy.c_str(), &end);  // infinite where a double cannot hold it
  if (end != copy.c_str() + copy.size()) return type_in_words(field);
  const bool no_integer = integer && is_decimal(text, "0123456789") && number_of_text(field.type, text).is_null();
  return type_in_words(field, value > field.maximum || std::isinf(value) || no_integer);
}

std::string check_value(const Field& field, const Json& value) {
  const std::string expected = fmt::format("expected {}", type_in_words(field, value.is_number() && value.get<double>() > field.maximum));
  if (value.is_null()) return field.may_be_none ? "" : expected;
  bool fits = false;
  switch (field.type) {
    case FieldType::boolean: fits = value.is_boolean(); break;
    case FieldType::integer: fits = value.is_number_integer(); break;
    case FieldType::real: fits = value.is_number(); break;
    case FieldType::text: fits = value.is_string(); break;
    case FieldType::choice: fits = value.is_string() && std::ranges::find(field.choices, value.get<std::string>()) != field.choices.end(); break;
    case FieldType::text_list: fits = value.is_array() && std::ranges::all_of(value, [](const Json& item) { return item.is_string(); }); break;
    case FieldType::section: fits = value.is_object(); break;
    case FieldType::section_list: fits = value.is_array(); break;
    case FieldType::section_map: fits = value.is_object(); break;
  }
  if (fits && value.is_number()) {
    const double number = value.get<double>();
    fits = number <= field.maximum && (field.minimum_excluded ? number > field.minimum : number >= field.minimum);
  }
  return fits ? "" : expected;
}

void load(const FieldList& fields, const Json& values, const std::string& path) {
  for (const auto& [key, value] : values.items()) {
    const std::string here = path.empty() ? key : path + "." + key;
    const Field* field = fields.find(key);
    if (field == nullptr) throw Error(ErrorKind::config, fmt::format("unknown key '{}'", here));
    if (const std::string reason = check_value(*field, value); !reason.empty())
      throw Error(ErrorKind::config, fmt::format("{}: {} but found {}", here, reason, value.dump()));
    if (field->type == FieldType::section) load(field->section(), value, here);
    else if (field->type == FieldType::section_list) {
      const auto elements = field->resize(value.size());
      for (std::size_t i = 0; i < elements.size(); ++i) load(elements[i], value[i], fmt::format("{}[{}]", here, i));
    } else if (field->type == FieldType::section_map) {
      std::vector<std::string> names;
      for (const auto& [name, element] : value.items()) names.push_back(name);
      const auto elements = field->rename(names);
      for (std::size_t i = 0; i < elements.size(); ++i) load(elements[i], value.at(names[i]), here + "." + names[i]);
    } else field->set(value);
  }
}

std::string canonical(const Json& value) { return value.dump(); }

}  // namespace moesweep
