// JSON Schema and reference of a sweep file, both from the field lists. See include/moesweep/spec/sweep.hpp.
#include <fmt/core.h>

#include <algorithm>

#include "keys.hpp"
#include "moesweep/spec/sweep.hpp"

namespace moesweep::spec {

namespace {

/// The sections around a field, outermost first: path and the names of the keys in it.
using Around = std::vector<std::pair<std::string, std::vector<std::string>>>;

Json schema_of(const Field& field, const std::string& path, const Around& around);

Json object_of(const FieldList& fields, const std::string& path, const Around& around) {
  Around inside = around;
  inside.emplace_back(path, names_of(fields));
  Json properties = Json::object();
  for (const Field& field : fields.fields()) properties[field.name] = schema_of(field, path.empty() ? field.name : path + "." + field.name, inside);
  return {{"type", "object"}, {"additionalProperties", false}, {"properties", properties}};
}

/// A section as a value: a mapping, or a file. An element that is a section around it (a range of layers is a routing again) is that one's.
Json section_schema(const FieldList& fields, const std::string& path, const Around& around) {
  for (const auto& [section, names] : around)
    if (names == names_of(fields)) return {{"$ref", "#/$defs/keys/" + section}};
  Json own = object_of(fields, path, around);
  own["properties"]["whole"] = {{"const", true}, {"description", "as if the section were a file's: what it does not set takes its default"}};
  return {{"anyOf", Json::array({std::move(own), {{"$ref", "#/$defs/file"}}})}};
}

Json schema_of(const Field& field, const std::string& path, const Around& around) {
  Json schema = Json::object();
  switch (field.type) {
    case FieldType::boolean: schema["type"] = "boolean"; break;
    case FieldType::integer: schema["anyOf"] = Json::array({{{"type", "integer"}}, {{"$ref", "#/$defs/derived"}}}); break;
    case FieldType::real: schema["anyOf"] = Json::array({{{"type", "number"}}, {{"$ref", "#/$defs/derived"}}}); break;
    case FieldType::text: schema["type"] = "string"; break;
    case FieldType::choice: schema["enum"] = field.choices; break;
    case FieldType::text_list: schema = {{"type", "array"}, {"items", {{"type", "string"}}}}; break;
    case FieldType::section: schema = section_schema(field.section(), path, around); break;
    case FieldType::section_list: schema = {{"type", "array"}, {"items", object_of(field.section(), path, around)}}; break;
    case FieldType::section_map: schema = {{"type", "object"}, {"additionalProperties", section_schema(field.section(), path, around)}}; break;
  }
  if (field.minimum > -std::numeric_limits<double>::infinity()) schema[field.minimum_excluded ? "exclusiveMinimum" : "minimum"] = field.minimum;
  if (field.maximum < std::numeric_limits<double>::infinity()) schema["maximum"] = field.maximum;
  if (field.may_be_none) schema = {{"anyOf", Json::array({schema, {{"const", "none"}}})}};
  schema["description"] = field.doc + (field.unit.empty() ? "" : " [" + field.unit + "]");
  if (field.type != FieldType::section && !holds_sections(field)) schema["default"] = field.get().is_null() ? Json("none") : field.get();
  return schema;
}

Json list_of(Json items) { return {{"type", "array"}, {"minItems", 1}, {"items", std::move(items)}}; }

/// A mapping of one of these keys to numbers.
Json one_of_its_keys(const std::vector<std::pair<const char*, const char*>>& keys) {
  Json schema = {{"type", "object"}, {"minProperties", 1}, {"additionalProperties", false}, {"properties", Json::object()}};
  for (const auto& [key, doc] : keys) schema["properties"][key] = {{"$ref", "#/$defs/numbers"}, {"description", doc}};
  return schema;
}

Json distribution_of(const Json& value, bool is_number) {
  Json schema = is_number ? one_of_its_keys({{"uniform", "[least, most]"},
                                             {"log_uniform", "[least, most]: uniform in the logarithm"},
                                             {"integers", "[least, most], both included"}})
                          : one_of_its_keys({});
  schema["properties"]["choice"] = list_of(value);
  return schema;
}

/// Every section and leaf by its full dotted path.
void dotted(const FieldList& fields, const std::string& prefix, Json& properties) {
  for (const Field& field : fields.fields()) {
    const std::string path = prefix.empty() ? field.name : prefix + "." + field.name;
    properties[path] = {{"$ref", "#/$defs/keys/" + path}};
    if (field.type == FieldType::section) dotted(field.section(), path, properties);
  }
}

void definitions(const FieldList& fields, const std::string& prefix, const Around& around, Json& result) {
  Around inside = around;
  if (!prefix.empty()) inside.emplace_back(prefix, names_of(fields));
  for (const Field& field : fields.fields()) {
    const std::string path = prefix.empty() ? field.name : prefix + "." + field.name;
    result[path] = schema_of(field, path, inside);
    if (field.type == FieldType::section) definitions(field.section(), path, inside, result);
  }
}

std::string default_in_words(const Field& field) {
  const Json value = field.get();
  if (value.is_null()) return "none";
  if (value.is_string()) return value.get_ref<const std::string&>().empty() ? "(empty)" : value.get<std::string>();
  return canonical(value);
}

void write_rows(const FieldList& fields, const std::string& prefix, std::string& text) {
  for (const Field& field : fields.fields()) {
    if (field.type == FieldType::section) continue;
    std::string doc = field.doc + (field.unit.empty() ? "" : " [" + field.unit + "]");
    for (std::size_t bar = doc.find('|'); bar != std::string::npos; bar = doc.find('|', bar + 2)) doc.insert(bar, 1, '\\');
    text += fmt::format("| `{}{}` | {} | {} | {}{} |\n", prefix, field.name, type_in_words(field), default_in_words(field), doc,
                        field.role == Role::execution ? " *(execution)*" : "");
  }
  for (const Field& field : fields.fields())
    if (field.type == FieldType::section) write_rows(field.section(), prefix + field.name + ".", text);
}

constexpr const char* kTableHead = "| key | value | default | what it is |\n| --- | --- | --- | --- |\n";

}  // namespace

Json json_schema() {
  train::TrialConfig defaults;
  const FieldList fields = fields_of(defaults);
  Json keys = Json::object(), properties = Json::object();
  definitions(fields, "", {}, keys);
  dotted(fields, "", properties);
  const Json set_name = {{"type", "string"}, {"description", "the name of a set, when the key is a group of `sets`"}};

  Json axes = {{"type", "object"}, {"minProperties", 1}, {"properties", Json::object()}, {"additionalProperties", list_of(set_name)}};
  for (const auto& [path, reference] : properties.items()) axes["properties"][path] = list_of(reference);
  Json drawn = {{"type", "object"}, {"minProperties", 1}, {"properties", Json::object()}, {"additionalProperties", distribution_of(set_name, false)}};
  for (const auto& [path, reference] : properties.items()) drawn["properties"][path] = distribution_of(reference, false);
  for (const auto& leaf : leaves_of(fields))
    if (leaf.field.type == FieldType::integer || leaf.field.type == FieldType::real) {
      axes["properties"][leaf.path] = {{"anyOf", Json::array({list_of(properties[leaf.path]), {{"$ref", "#/$defs/range"}}})}};
      drawn["properties"][leaf.path] = distribution_of(properties[leaf.path], true);
    }
  const Json settings = {{"type", "object"}, {"properties", properties}, {"additionalProperties", set_name}};
  const Json in_set = {{"type", "object"}, {"properties", properties}, {"additionalProperties", false}};

  Json block = {{"grid", {{"$ref", "#/$defs/axes"}, {"description", "axes that multiply: key -> list of values, or a range"}}},
                {"zip", {{"$ref", "#/$defs/axes"}, {"description", "axes that go in step: key -> list or range, all of one length"}}},
                {"points", list_of({{"$ref", "#/$defs/settings"}})},
                {"sample", {{"$ref", "#/$defs/sample"}}},
                {"exclude", {{"$ref", "#/$defs/exclude"}}},
                {"when", {{"$ref", "#/$defs/when"}}}};
  block["points"]["description"] = "hand-picked settings, each a mapping of keys";

  Json root = Json::object();
  root["sweep"] = {
      {"type", "string"}, {"pattern", "^[A-Za-z0-9_][A-Za-z0-9._-]*$"}, {"description", "name of the sweep; the file's name by default"}};
  root["base"] = {{"anyOf", Json::array({{{"$ref", "#/$defs/file"}}, list_of({{"$ref", "#/$defs/file"}})})},
                  {"description", "file merged under this one, key by key; of a list, later files win"}};
  root["sets"] = {{"type", "object"},
                  {"additionalProperties", {{"type", "object"}, {"minProperties", 1}, {"additionalProperties", in_set}}},
                  {"description", "groups of named override sets; a group's name is a key whose value is a set's name"}};
  root["blocks"] = list_of({{"type", "object"}, {"additionalProperties", false}, {"properties", block}});
  root["blocks"]["description"] = "blocks follow one another; inside a block points, zip, sample and grid multiply";
  for (const auto& [key, schema] : block.items()) root[key] = schema;
  for (const auto& [path, reference] : properties.items()) root[path] = reference;

  Json schema = Json::object();
  schema["$schema"] = "https://json-schema.org/draft/2020-12/schema";
  schema["title"] = "moesweep sweep";
  schema["type"] = "object";
  schema["properties"] = root;
  schema["additionalProperties"] = set_name;
  schema["$defs"]["file"] = {{"type", "string"}, {"pattern", "\\.yaml$"}, {"description", "a file, beside this one or in the config folders"}};
  schema["$defs"]["exclude"] = {{"anyOf", Json::array({{{"type", "string"}}, {{"type", "array"}, {"items", {{"type", "string"}}}}})},
                                {"description", "conditions; a trial that fulfils one is left out"}};
  schema["$defs"]["when"] = {{"type", "object"},
                             {"additionalProperties", {{"type", "string"}}},
                             {"description", "axis -> condition; where it is false the axis falls back to its base value"}};
  schema["$defs"]["derived"] = {{"type", "string"},
                                {"pattern", "\\$\\{"},
                                {"description", "arithmetic over keys of the trial: ${model.experts} * 4, round(4096 / ${model.width})"}};
  schema["$defs"]["numbers"] = {{"type", "array"}, {"minItems", 2}, {"items", {{"type", "number"}}}};
  schema["$defs"]["range"] = one_of_its_keys({{"linspace", "[first, last, count]: evenly spaced"},
                                              {"logspace", "[first, last, count]: evenly spaced in the logarithm; first and last are values"},
                                              {"range", "[first, last, step]: up to last, which is included where a step falls on it"}});
  schema["$defs"]["sample"] = {
      {"type", "object"},
      {"additionalProperties", false},
      {"properties",
       {{"count", {{"type", "integer"}, {"minimum", 1}, {"description", "how many are drawn"}}},
        {"seed", {{"type", "integer"}, {"minimum", 0}, {"default", 1}, {"description", "the draws are a pure function of it"}}},
        {"of", drawn}}},
      {"description", "random draws, an axis: each gives every key under `of` a value"}};
  schema["$defs"]["axes"] = axes;
  schema["$defs"]["settings"] = settings;
  schema["$defs"]["keys"] = keys;
  return schema;
}

std::string reference_markdown() {
  train::TrialConfig defaults;
  std::string text =
      "## The keys of a sweep file\n\n"
      "| key | value | what it is |\n| --- | --- | --- |\n"
      "| `sweep` | text | name of the sweep (letters, digits, `-`, `_`, `.`); the file's name by default |\n"
      "| `base` | file, or list of files | merged under this file, key by key; lists replace; of several files the later wins |\n"
      "| `sets` | mapping | groups of named override sets; a group's name is a key, and an axis, whose values are the names of its sets |\n"
      "| `blocks` | list of blocks | they follow one another; a block holds `grid`, `zip`, `points`, `sample`, `exclude`, `when` |\n"
      "| `grid` | key -> list or range | axes that multiply |\n"
      "| `zip` | key -> list or range | axes that go in step; all lists are of one length |\n"
      "| `points` | list of mappings | hand-picked settings |\n"
      "| `sample` | `{count, seed, of}` | random draws, an axis: each of `count` gives every key under `of` a value; a pure function of `seed` (1) "
      "|\n"
      "| `exclude` | condition, or list | a trial that fulfils one is left out |\n"
      "| `when` | axis -> condition | where it is false the axis of the grid falls back to its base value |\n\n"
      "`grid`, `zip`, `points` and `sample` at the top of the file are one block; `exclude` and `when` there hold for every block.\n"
      "A condition compares keys with values or keys: `routing.balance.method == aux_loss and not model.width >= 128`, "
      "`routing.balance.scope in [sequence, micro_batch]`, `train.tokens == none`. `--only` and `--skip` take conditions too.\n\n"
      "A range in place of an axis' list: `linspace: [first, last, count]`, `logspace: [first, last, count]` (values, not exponents), "
      "`range: [first, last, step]` (with the last value where a step falls on it). At keys of integers linspace and logspace are rounded to the "
      "nearest, elsewhere to 12 significant digits.\n\n"
      "A key under `sample.of` takes one distribution: `uniform: [least, most]`, `log_uniform: [least, most]` (rounded at keys of integers), "
      "`integers: [least, most]` (both included), `choice: [a, b, ...]` (any values). A key's draws do not depend on the other keys, and a larger "
      "count begins with the draws of a smaller one.\n\n"
      "A derived value stands at any key of numbers, in axes, points and sets too: `model.expert_width: ${model.width} / ${routing.top_k}`. It is "
      "computed in each trial after everything else, in any order, from numbers, `${key}`, `+ - * / // %`, brackets, `min max round floor ceil "
      "sqrt`. "
      "Integers stay integers: `/` of two is one where nothing remains, `//` rounds down. Inside `{...}` and `[...]` YAML wants it in quotes.\n\n"
      "## The keys of a trial\n\n"
      "A key's place is its dotted path; sections may be nested, dotted or mixed. A key marked *(execution)* says how a trial is carried out and is "
      "no part of its id.\n\n";
  const FieldList fields = fields_of(defaults);
  text += kTableHead;
  for (const Field& field : fields.fields())
    if (field.type != FieldType::section)
      text += fmt::format("| `{}` | {} | {} | {} |\n", field.name, type_in_words(field), default_in_words(field), field.doc);
  for (const Field& field : fields.fields()) {
    if (field.type != FieldType::section) continue;
    text += fmt::format("\n### `{}`: {}\n\n{}", field.name, field.doc, kTableHead);
    write_rows(field.section(), field.name + ".", text);
  }
  return text + "\n" + routing::combinations_markdown();
}

}  // namespace moesweep::spec
