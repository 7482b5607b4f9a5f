// Config field lists. A config struct lists its fields once; parser, dump, identity, schema and reference all come from that list.
//
//   struct OptimiserConfig {
//     double learning_rate = 1e-3;
//     void list(FieldList& fields) {
//       fields.add("learning_rate", learning_rate, "peak learning rate of AdamW").more_than(0);
//     }
//   };
#pragma once

#include <concepts>
#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "moesweep/core/json.hpp"

namespace moesweep {

/// Whether a field changes what a trial computes (and so its id), or only how it is carried out.
enum class Role { identity, execution };

enum class FieldType { boolean, integer, real, text, choice, text_list, section, section_list, section_map };

/// The names of an enum's values, in order; specialise it beside the enum:
///   template <> struct EnumNames<Score> { static constexpr std::array names{"softmax", "sigmoid"}; };
template <class Enum>
struct EnumNames;

template <class Enum>
std::string_view name_of_value(Enum value) {
  return EnumNames<Enum>::names[static_cast<std::size_t>(value)];
}

class FieldList;

/// One field, bound to the struct it was listed from: valid as long as that struct lives and does not move.
struct Field {
  std::string name;
  std::string doc;
  std::string unit;  ///< empty where the number has none
  FieldType type = FieldType::text;
  Role role = Role::identity;
  bool may_be_none = false;  ///< the value may be absent, written `none`
  double minimum = -std::numeric_limits<double>::infinity();
  double maximum = std::numeric_limits<double>::infinity();
  bool minimum_excluded = false;
  std::vector<std::string> choices;

  /// Canonical value: null for none, an array for lists; an object for a section or a section map, an array of objects for a section list.
  std::function<Json()> get;
  /// Stores a scalar or text list of the right type; type and range were checked by the caller (see `check_value`).
  std::function<void(const Json&)> set;
  /// The fields of a section, bound to it.
  std::function<FieldList()> section;
  /// Section lists: makes the list this long (new ones hold defaults) and gives each one's fields.
  std::function<std::vector<FieldList>(std::size_t)> resize;
  /// Section maps: makes the map hold exactly these names (with defaults) and gives each one's fields, in that order.
  std::function<std::vector<FieldList>(const std::vector<std::string>&)> rename;

  Field& at_least(double value) { return minimum = value, *this; }
  Field& at_most(double value) { return maximum = value, *this; }
  Field& more_than(double value) { return minimum = value, minimum_excluded = true, *this; }
  Field& in_unit(std::string value) { return unit = std::move(value), *this; }
  Field& execution() { return role = Role::execution, *this; }
};

/// The fields of one struct, in the order in which they were listed.
class FieldList {
 public:
  Field& add(std::string name, bool& slot, std::string doc);
  Field& add(std::string name, std::int64_t& slot, std::string doc);
  Field& add(std::string name, double& slot, std::string doc);
  Field& add(std::string name, std::string& slot, std::string doc);
  Field& add(std::string name, std::vector<std::string>& slot, std::string doc);
  Field& add(std::string name, std::optional<std::int64_t>& slot, std::string doc);
  Field& add(std::string name, std::optional<double>& slot, std::string doc);
  /// Text out of a fixed set that is known only at run time (registered strategies, for example).
  Field& add(std::string name, std::string& slot, std::vector<std::string> choices, std::string doc);

  template <class Enum>
  requires std::is_enum_v<Enum> Field& add(std::string name, Enum& slot, std::string doc) {
    Field& field = append(std::move(name), FieldType::choice, std::move(doc));
    for (const auto& value : EnumNames<Enum>::names) field.choices.emplace_back(value);
    field.get = [&slot] { return Json(std::string(name_of_value(slot))); };
    field.set = [&slot, choices = field.choices](const Json& value) {
      for (std::size_t i = 0; i < choices.size(); ++i)
        if (choices[i] == value.get<std::string>()) slot = static_cast<Enum>(i);
    };
    return field;
  }

  /// A struct inside this one; it lists its own fields.
  template <class Config>
  Field& add_section(std::string name, Config& config, std::string doc) {
    Field& field = append(std::move(name), FieldType::section, std::move(doc));
    field.section = [&config] { return fields_of(config); };
    return finish_section(field);
  }

  /// A list of structs.
  template <class Config>
  Field& add_sections(std::string name, std::vector<Config>& configs, std::string doc) {
    Field& field = append(std::move(name), FieldType::section_list, std::move(doc));
    field.section = [] {  // the fields of one element, for schema and reference only
      static thread_local Config example;
      example = Config{};
      return fields_of(example);
    };
    field.resize = [&configs](std::size_t count) {
      configs.assign(count, Config{});
      std::vector<FieldList> lists;
      for (auto& config : configs) lists.push_back(fields_of(config));
      return lists;
    };
    field.get = [&configs] {
      Json list = Json::array();
      for (auto& config : configs) list.push_back(fields_of(config).dump());
      return list;
    };
    return field;
  }

  /// Structs by name.
  template <class Config>
  Field& add_section_map(std::string name, std::map<std::string, Config>& configs, std::string doc) {
    Field& field = append(std::move(name), FieldType::section_map, std::move(doc));
    field.section = [] {  // the fields of one element, for schema and reference only
      static thread_local Config example;
      example = Config{};
      return fields_of(example);
    };
    field.rename = [&configs](const std::vector<std::string>& names) {
      configs.clear();
      std::vector<FieldList> lists;
      for (const auto& each : names) lists.push_back(fields_of(configs[each]));
      return lists;
    };
    field.get = [&configs] {
      Json values = Json::object();
      for (auto& [each, config] : configs) values[each] = fields_of(config).dump();
      return values;
    };
    return field;
  }

  template <class Config>
  static FieldList fields_of(Config& config) {
    FieldList list;
    config.list(list);
    return list;
  }

  const std::vector<Field>& fields() const { return fields_; }
  /// The field of that name, or null.
  const Field* find(std::string_view name) const;
  /// Every value as nested JSON, execution fields included.
  Json dump() const;
  /// Values of the identity fields that differ from `defaults` (the same struct's list, untouched), by dotted path in sorted order.
  Json identity(const FieldList& defaults) const;

 private:
  Field& append(std::string name, FieldType type, std::string doc);
  static Field& finish_section(Field& field);
  std::vector<Field> fields_;
};

/// The fields of `config`, bound to it.
template <class Config>
FieldList fields_of(Config& config) {
  return FieldList::fields_of(config);
}

/// A field that is not a section, with its dotted path.
struct Leaf {
  std::string path;
  Field field;

  /// The value as identity sees it: elements of a section list shrink to what differs from their defaults.
  Json identity_value() const;
};

/// Every field below `fields` that is not a section, sorted by path; bound as `fields` is.
std::vector<Leaf> leaves_of(const FieldList& fields);

/// Why `value` does not fit the field's type, range or choices; empty when it does. The sentence names what is allowed.
std::string check_value(const Field& field, const Json& value);

/// The type in words, for messages and the reference: "integer >= 1", "one of softmax, sigmoid", "number or none". A maximum of a million or more
/// only prevents overflow: the reference leaves it out, `with_every_bound` names it, and the limits of the type where the field has none.
std::string type_in_words(const Field& field, bool with_every_bound = false);

/// The number that a text writes in decimal, without blanks and leading zeros: an integer or a finite real. Null when it writes none, or one that the
/// type cannot hold.
Json number_of_text(FieldType type, std::string_view text);

/// What a field takes, in words, for a message about `text`, which does not fit. Names the maximum when the text is a number above it.
std::string type_in_words_for(const Field& field, std::string_view text);

/// Stores every value of nested JSON (as `dump` writes it) into the struct; a `config` error names the path of an unknown key or a bad value.
void load(const FieldList& fields, const Json& values, const std::string& path = {});

/// Canonical text of a value: floats in shortest round-trip form, keys in the order given.
std::string canonical(const Json& value);

}  // namespace moesweep
