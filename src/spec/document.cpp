// See document.hpp.
#include "document.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <optional>

#include "expression.hpp"
#include "files.hpp"
#include "keys.hpp"
#include "predicate.hpp"
#include "values.hpp"

namespace fs = std::filesystem;

namespace moesweep::spec {

namespace {

constexpr std::array kSweepKeys{"sweep", "base", "sets", "blocks", "grid", "zip", "points", "sample", "exclude", "when"};

/// Files being read, outermost first: a file that names itself is a cycle.
struct Reading {
  Limits limits = {};
  std::vector<fs::path> stack = {};
  std::int64_t files = 0;         ///< read so far
  std::int64_t range_values = 0;  ///< that ranges have given so far
};

class Step {
 public:
  /// `variant` is the entry that is read of a file that holds several sections.
  Step(Reading& reading, const fs::path& path, const Mark& mark, const std::string& variant = {}) : reading_(reading) {
    fs::path real = fs::weakly_canonical(path);
    if (!variant.empty()) real += ":" + variant;
    if (std::ranges::find(reading.stack, real) != reading.stack.end()) {
      std::string chain;
      for (const fs::path& file : reading.stack) chain += shown(file) + " -> ";
      fail(mark, fmt::format("files name each other in a circle: {}{}", chain, shown(real)));
    }
    if (++reading.files > reading.limits.files) fail(mark, fmt::format("more than {} files are read", reading.limits.files));
    reading.stack.push_back(real);
  }
  ~Step() { reading_.stack.pop_back(); }
  Step(const Step&) = delete;
  Step& operator=(const Step&) = delete;

 private:
  Reading& reading_;
};

Node map_of(const std::string& text, const fs::path& path) {
  Node root = parse_yaml(text, shown(path));
  if (root.is_scalar() && root.text.empty() && !root.quoted) return make_map(root.mark);
  if (!root.is_map()) fail(root.mark, fmt::format("expected a mapping of keys but found {}", root.in_words()));
  return root;
}

Node read_map(const fs::path& path) { return map_of(read_yaml_text(path), path); }

/// The names under `base`: one file or a list of them, earliest first.
std::vector<Node> bases_of(const Node& root) {
  const Node* base = root.find("base");
  if (base == nullptr) return {};
  std::vector<Node> names = base->is_list() ? base->items : std::vector<Node>{*base};
  for (const Node& name : names)
    if (!name.is_scalar() || name.text.empty()) fail(name.mark, fmt::format("base: expected a file's name but found {}", name.in_words()));
  return names;
}

/// An element of a section list or map, whose keys are found among its own fields.
struct Element {
  FieldList fields;
  std::string path;
};

struct Context {
  fs::path folder;
  const Document* document = nullptr;
  Reading* reading = nullptr;
  const Element* element = nullptr;
};

/// The field at a dotted path, or nothing.
std::optional<Field> field_below(const FieldList& fields, std::string_view path) {
  const std::size_t dot = path.find('.');
  const Field* field = fields.find(path.substr(0, dot));
  if (field == nullptr) return std::nullopt;
  if (dot == std::string_view::npos) return *field;
  if (field->type != FieldType::section) return std::nullopt;
  return field_below(field->section(), path.substr(dot + 1));
}

Node nested_in(const Node& keys, const std::string& prefix, const Context& context);

/// A file that holds the keys of one section, or a variant that does.
Node section_file(const Node& name, const std::string& path, const Context& context) {
  const auto [file, variant] = find_section(name.text, context.folder, name.mark);
  const Step step(*context.reading, file, name.mark, variant);
  Node root = read_map(file);
  if (!variant.empty()) {
    Node chosen = *root.find(variant);
    if (!chosen.is_map()) fail(chosen.mark, fmt::format("{}: expected a mapping of keys but found {}", variant, chosen.in_words()));
    root = std::move(chosen);
  }
  const Context inner{file.parent_path(), nullptr, context.reading, context.element};
  Node section = make_map(name.mark);
  for (const Node& base : bases_of(root)) merge(section, section_file(base, path, inner));
  root.erase("base");
  merge(section, nested_in(root, path, inner));
  section.whole = true;
  section.mark = name.mark;
  return section;
}

Node set_choice(const Node& value, const std::string& group, const Document& document) {
  const Node& sets = *document.sets.find(group);
  std::vector<std::string> names;
  for (const Entry& entry : sets.entries) names.push_back(entry.key);
  if (!value.is_scalar()) fail(value.mark, fmt::format("{}: expected the name of a set but found {}", group, value.in_words()));
  if (sets.find(value.text) == nullptr)
    fail(value.mark, fmt::format("{}: no set '{}' in sets.{}{}", group, value.text, group, did_you_mean(value.text, names)));
  return value;
}

/// The elements of a section list or map with their keys nested and the files that they name read.
Node elements_in(const Field& field, const Node& value, const std::string& path, const Context& context) {
  Node result = value;
  const auto element = [&](Node& item, const std::string& here) {
    const Element own{field.section(), here};
    const Context inner{context.folder, nullptr, context.reading, &own};
    if (item.is_map()) {
      item = nested_in(item, here, inner);
    } else if (field.type == FieldType::section_map) {
      if (!item.is_scalar() || item.text.empty())
        fail(item.mark, fmt::format("{}: expected a mapping or the name of a file but found {}", here, item.in_words()));
      item = section_file(item, here, inner);
    }
  };
  if (field.type == FieldType::section_list)
    for (std::size_t i = 0; i < result.items.size(); ++i) element(result.items[i], fmt::format("{}[{}]", path, i));
  if (field.type == FieldType::section_map && result.is_map()) {
    if (context.element != nullptr && !result.entries.empty()) fail(value.mark, fmt::format("{}: what holds for a part is not divided again", path));
    for (Entry& entry : result.entries) element(entry.value, path + "." + entry.key);
    result.whole = true;  // one value: it replaces, as a list does
  }
  return result;
}

Node value_in(const Node& value, const std::string& path, const Mark& key_mark, const Context& context) {
  if (context.document != nullptr && context.document->is_group(path)) return set_choice(value, path, *context.document);
  Field field;
  if (context.element != nullptr) {
    const std::string below = path.substr(context.element->path.size() + 1);
    std::optional<Field> found = field_below(context.element->fields, below);
    if (!found) fail_unknown_key_in(key_mark, below, context.element->fields, context.element->path);
    field = *std::move(found);
  } else {
    const Key* key = Keys::instance().find(path);
    if (key == nullptr) fail_unknown_key(key_mark, path, context.document ? context.document->groups() : std::vector<std::string>{});
    field = key->field;
  }
  if (Expression::is_one(field, value)) {
    if (context.element != nullptr)
      fail(value.mark, fmt::format("{}: a derived value stands at a key of its own, not in a part of {}", path, context.element->path));
    (void)Expression::parse(value);
    return value;
  }
  if (field.type != FieldType::section) {
    Node checked = holds_sections(field) ? elements_in(field, value, path, context) : value;
    (void)convert(field, checked, path);
    return checked;
  }
  if (value.is_map()) {
    const Node* whole = context.element == nullptr ? value.find("whole") : nullptr;
    if (whole == nullptr) return nested_in(value, path, context);
    if (!whole->is_scalar() || whole->quoted || whole->text != "true")
      fail(whole->mark, fmt::format("{}.whole: expected true but found {}", path, whole->in_words()),
           "a section with `whole: true` is as one read from a file: what it does not set takes its default");
    Node rest = value;
    rest.erase("whole");
    Node section = nested_in(rest, path, context);
    section.whole = true;
    return section;
  }
  if (!value.is_scalar() || value.text.empty())
    fail(value.mark, fmt::format("{}: expected a mapping or the name of a file but found {}", path, value.in_words()));
  return section_file(value, path, context);
}

/// Stores an entry of a mapping; the same leaf twice in one mapping is an error, except over a file reference.
void insert(Node& target, const std::vector<std::string>& parts, std::size_t depth, const std::string& path, const Mark& key_mark, Node value,
            bool in_whole) {
  in_whole = in_whole || target.whole;
  Node* found = target.find(parts[depth]);
  if (depth + 1 < parts.size()) {
    if (found == nullptr) {
      target.entries.push_back({parts[depth], key_mark, make_map(value.mark)});
      found = &target.entries.back().value;
    }
    insert(*found, parts, depth + 1, path, key_mark, std::move(value), in_whole);
  } else if (found == nullptr) {
    target.entries.push_back({parts[depth], key_mark, std::move(value)});
  } else if (found->is_map() && value.is_map() && !value.whole) {
    for (Entry& entry : value.entries) insert(*found, {entry.key}, 0, path + "." + entry.key, entry.mark, std::move(entry.value), in_whole);
  } else if (in_whole) {
    *found = std::move(value);
  } else {
    fail(key_mark, fmt::format("duplicate key '{}', first given at {}", path, place(found->mark)));
  }
}

Node nested_in(const Node& keys, const std::string& prefix, const Context& context) {
  std::vector<const Entry*> order;
  for (const Entry& entry : keys.entries) order.push_back(&entry);
  std::ranges::stable_sort(order, {}, [](const Entry* entry) { return std::ranges::count(entry->key, '.'); });
  Node result = make_map(keys.mark);
  for (const Entry* entry : order) {
    const std::string path = prefix.empty() ? entry->key : prefix + "." + entry->key;
    insert(result, split_path(entry->key), 0, path, entry->mark, value_in(entry->value, path, entry->mark, context), false);
  }
  return result;
}

/// grid or zip: axis -> list of values.
Node read_axes(const Node& axes, const std::string& kind, const Context& context) {
  if (!axes.is_map()) fail(axes.mark, fmt::format("{}: expected a mapping of axes to lists but found {}", kind, axes.in_words()));
  if (axes.entries.empty()) fail(axes.mark, fmt::format("{} is empty: name an axis, or leave {} out", kind, kind));
  Node result = make_map(axes.mark);
  for (const Entry& entry : axes.entries) {
    const Key* key = Keys::instance().find(entry.key);
    if (key == nullptr && !context.document->is_group(entry.key)) fail_unknown_key(entry.mark, entry.key, context.document->groups());
    if (is_range(entry.value) && key != nullptr) {
      Reading& reading = *context.reading;
      Node values = nested_range(entry.value, entry.key, reading.limits.values - reading.range_values);
      reading.range_values += static_cast<std::int64_t>(values.items.size());
      result.entries.push_back({entry.key, entry.mark, std::move(values)});
      continue;
    }
    if (!entry.value.is_list())
      fail(entry.value.mark, fmt::format("{}.{}: expected a list of values but found {}", kind, entry.key, entry.value.in_words()),
           entry.value.is_map() ? "a range is linspace: [a, b, count], logspace: [a, b, count] or range: [a, b, step]" : "");
    if (entry.value.items.empty()) fail(entry.value.mark, fmt::format("{}.{} is empty: no trial would be left", kind, entry.key));
    Node values = make_list(entry.value.mark);
    for (const Node& item : entry.value.items) values.items.push_back(value_in(item, entry.key, entry.mark, context));
    result.entries.push_back({entry.key, entry.mark, std::move(values)});
  }
  return result;
}

Node read_sample(const Node& sample, const Context& context) {
  check_sample(sample);
  Node result = sample;
  for (Entry& entry : result.find("of")->entries) {
    const Key* key = Keys::instance().find(entry.key);
    if (key == nullptr && !context.document->is_group(entry.key)) fail_unknown_key(entry.mark, entry.key, context.document->groups());
    check_distribution(entry.value, entry.key, key);
    Entry& kind = entry.value.entries.front();
    if (kind.key == "choice")
      for (Node& item : kind.value.items) item = value_in(item, entry.key, entry.mark, context);
    entry.value.whole = true;  // one distribution replaces another
  }
  return result;
}

Node read_points(const Node& points, const Context& context) {
  if (!points.is_list()) fail(points.mark, fmt::format("points: expected a list of mappings but found {}", points.in_words()));
  if (points.items.empty()) fail(points.mark, "points is empty: no trial would be left");
  Node result = make_list(points.mark);
  for (const Node& item : points.items) {
    if (!item.is_map()) fail(item.mark, fmt::format("points: expected a mapping but found {}", item.in_words()));
    result.items.push_back(nested_in(item, "", context));
  }
  return result;
}

void read_block_key(Block& block, const Entry& entry, const Context& context) {
  const Node& value = entry.value;
  if (entry.key == "grid") block.grid = read_axes(value, "grid", context);
  else if (entry.key == "zip") block.zip = read_axes(value, "zip", context);
  else if (entry.key == "points") block.points = read_points(value, context);
  else if (entry.key == "sample") block.sample = read_sample(value, context);
  else if (entry.key == "exclude") {
    Node list = make_list(value.mark);
    if (value.is_list()) list.items = value.items;
    else list.items.push_back(value);
    for (const Node& item : list.items) (void)Predicate::parse(item, *context.document);
    block.exclude = std::move(list);
  } else if (entry.key == "when") {
    if (!value.is_map()) fail(value.mark, fmt::format("when: expected a mapping of axes to conditions but found {}", value.in_words()));
    for (const Entry& condition : value.entries) (void)Predicate::parse(condition.value, *context.document);
    block.when = value;
  }
}

void read_sets(Node& sets, const Node& node, const Context& context) {
  if (!node.is_map()) fail(node.mark, fmt::format("sets: expected a mapping of groups but found {}", node.in_words()));
  for (const Entry& group : node.entries) {
    if (Keys::instance().find(group.key) != nullptr || std::ranges::find(kSweepKeys, group.key) != kSweepKeys.end() ||
        group.key.find('.') != std::string::npos)
      fail(group.mark, fmt::format("sets.{}: a group needs a name of its own, without dots and not a key", group.key));
    if (!group.value.is_map() || group.value.entries.empty())
      fail(group.value.mark, fmt::format("sets.{}: expected a mapping of set names to keys but found {}", group.key,
                                         group.value.is_map() ? "an empty one" : group.value.in_words()));
    Node read = make_map(group.value.mark);
    for (const Entry& set : group.value.entries) {
      if (!set.value.is_map())
        fail(set.value.mark, fmt::format("sets.{}.{}: expected a mapping of keys but found {}", group.key, set.key, set.value.in_words()));
      read.entries.push_back({set.key, set.mark, nested_in(set.value, "", {context.folder, nullptr, context.reading})});
    }
    if (Node* known = sets.find(group.key)) merge(*known, read);
    else sets.entries.push_back({group.key, group.mark, std::move(read)});
  }
}

void merge_optional(std::optional<Node>& earlier, const std::optional<Node>& later) {
  if (!later) return;
  if (earlier) merge(*earlier, *later);
  else earlier = later;
}

void merge_documents(Document& earlier, const Document& later) {
  earlier.mark = later.mark;
  if (later.name) earlier.name = later.name;
  merge(earlier.sets, later.sets);
  merge(earlier.trial, later.trial);
  if (later.blocks) {
    earlier.blocks = later.blocks;
    earlier.top.grid = earlier.top.zip = earlier.top.points = earlier.top.sample = std::nullopt;
  } else if (later.top.has_axes()) {
    earlier.blocks.reset();
    earlier.top.mark = later.top.mark;
  }
  merge_optional(earlier.top.grid, later.top.grid);
  merge_optional(earlier.top.zip, later.top.zip);
  merge_optional(earlier.top.points, later.top.points);
  merge_optional(earlier.top.sample, later.top.sample);
  merge_optional(earlier.top.exclude, later.top.exclude);
  merge_optional(earlier.top.when, later.top.when);
}

void check_name(const Node& name) {
  const auto allowed = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_' || c == '.';
  };
  if (!name.is_scalar() || name.text.empty() || name.text.size() > 100 || name.text.front() == '.' || name.text.front() == '-' ||
      !std::ranges::all_of(name.text, allowed))
    fail(name.mark, fmt::format("sweep: expected a name of letters, digits, '-', '_' and '.' but found {}", name.in_words()));
}

/// `text` in place of what the file holds, where there is one.
Document read_document(const fs::path& path, FileKind kind, Reading& reading, const Mark& named_at, const std::string* text = nullptr) {
  const Step step(reading, path, named_at);
  const Node root = text == nullptr ? read_map(path) : map_of(*text, path);
  Document document;
  document.limits = reading.limits;
  document.mark = root.mark;
  for (const Node& base : bases_of(root))
    merge_documents(document, read_document(find_file(base.text, path.parent_path(), base.mark), kind, reading, base.mark));

  Document own;  // this file's part, with the groups of its bases known
  own.mark = own.top.mark = root.mark;
  own.sets = document.sets;
  Context context{path.parent_path(), &own, &reading};
  if (const Node* sets = root.find("sets"); sets != nullptr && kind == FileKind::sweep) read_sets(own.sets, *sets, context);
  Node keys = make_map(root.mark);
  const Entry* blocks = nullptr;
  const Entry* top = nullptr;
  for (const Entry& entry : root.entries) {
    if (entry.key == "base") continue;
    if (std::ranges::find(kSweepKeys, entry.key) == kSweepKeys.end()) {
      keys.entries.push_back(entry);
      continue;
    }
    if (kind == FileKind::trial)
      fail(entry.mark, fmt::format("'{}' belongs to a sweep; this file is read as one trial", entry.key), "a sweep is run by `moesweep run`");
    if (entry.key == "sweep") {
      check_name(entry.value);
      own.name = entry.value;
    } else if (entry.key == "blocks") {
      blocks = &entry;
    } else if (entry.key != "sets") {
      if (entry.key == "grid" || entry.key == "zip" || entry.key == "points" || entry.key == "sample") top = &entry;
      read_block_key(own.top, entry, context);
    }
  }
  if (blocks != nullptr) {
    if (top != nullptr) fail(top->mark, fmt::format("'{}' stands beside 'blocks': make it a block of its own", top->key));
    if (!blocks->value.is_list()) fail(blocks->value.mark, fmt::format("blocks: expected a list but found {}", blocks->value.in_words()));
    if (blocks->value.items.empty()) fail(blocks->value.mark, "blocks is empty: no trial would be left");
    own.blocks.emplace();
    for (const Node& item : blocks->value.items) {
      if (!item.is_map()) fail(item.mark, fmt::format("blocks: expected a mapping but found {}", item.in_words()));
      Block block;
      block.mark = item.mark;
      static const std::vector<std::string> kBlockKeys{"grid", "zip", "points", "sample", "exclude", "when"};
      for (const Entry& entry : item.entries) {
        if (std::ranges::find(kBlockKeys, entry.key) == kBlockKeys.end())
          fail(entry.mark, fmt::format("unknown key '{}' in a block{}", entry.key, did_you_mean(entry.key, kBlockKeys)),
               "a block holds grid, zip, points, sample, exclude and when");
        read_block_key(block, entry, context);
      }
      if (!block.has_axes()) fail(block.mark, "a block without grid, zip, points or sample: no trial would come of it");
      own.blocks->push_back(std::move(block));
    }
  }
  own.trial = nested_in(keys, "", context);
  merge_documents(document, own);
  document.path = path;
  return document;
}

}  // namespace

std::vector<std::string> Document::groups() const {
  std::vector<std::string> names;
  for (const Entry& entry : sets.entries) names.push_back(entry.key);
  return names;
}

Document load_document(const fs::path& path, FileKind kind, const Limits& limits) {
  Reading reading{limits};
  return read_document(path, kind, reading, {});
}

Document document_of(const std::string& text, const fs::path& path, FileKind kind, const Limits& limits) {
  Reading reading{limits};
  return read_document(path, kind, reading, {}, &text);
}

Node nested(const Node& keys, const std::string& prefix, const fs::path& folder, const Document* document) {
  Reading reading{document == nullptr ? Limits{} : document->limits};
  return nested_in(keys, prefix, {folder, document, &reading});
}

Node nested_value(const Node& value, const std::string& path, const Mark& key_mark, const fs::path& folder, const Document* document) {
  Reading reading{document == nullptr ? Limits{} : document->limits};
  return value_in(value, path, key_mark, {folder, document, &reading});
}

Node nested_range(const Node& range, const std::string& path, std::int64_t most) {
  const Key& key = *Keys::instance().find(path);
  Node values = range_values(range, key, most);
  for (const Node& item : values.items) (void)convert(key.field, item, path);
  return values;
}

void merge(Node& earlier, const Node& later) {
  if (!earlier.is_map() || !later.is_map() || later.whole) {
    earlier = later;
    return;
  }
  for (const Entry& entry : later.entries) {
    if (Node* known = earlier.find(entry.key)) merge(*known, entry.value);
    else earlier.entries.push_back(entry);
  }
}

const Node* at_path(const Node& nested, std::string_view path) {
  const Node* node = &nested;
  for (const std::string& part : split_path(path)) {
    node = node->is_map() ? node->find(part) : nullptr;
    if (node == nullptr) return nullptr;
  }
  return node;
}

void put(Node& nested, std::string_view path, const Mark& key_mark, Node value) {
  Node* node = &nested;
  const std::vector<std::string> parts = split_path(path);
  for (const std::string& part : parts) {
    Node* next = node->find(part);
    if (next == nullptr) {
      node->entries.push_back({part, key_mark, make_map(value.mark)});
      next = &node->entries.back().value;
    }
    node = next;
  }
  *node = std::move(value);
}

}  // namespace moesweep::spec
