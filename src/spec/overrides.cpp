// See overrides.hpp.
#include "overrides.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "keys.hpp"
#include "values.hpp"

namespace moesweep::spec {

namespace {

struct Override {
  enum class Kind { set, axis, add, remove };
  Kind kind = Kind::set;
  std::string key;
  Mark mark;
  Node value;  ///< nested; for an axis the list of its values
};

bool is_list_field(const std::string& path) {
  const Key* key = Keys::instance().find(path);
  return key != nullptr && (key->field.type == FieldType::text_list || key->field.type == FieldType::section_list);
}

bool is_list_of_lists(const Node& value) { return value.is_list() && !value.items.empty() && value.items.front().is_list(); }

bool at_or_below(std::string_view path, std::string_view key) {
  return path == key || (path.size() > key.size() && path.starts_with(key) && path[key.size()] == '.');
}

Override read_override(const std::string& text, const Document& document, FileKind kind) {
  Override result;
  result.mark.source = std::make_shared<const std::string>("command line");
  std::string_view rest = text;
  if (rest.starts_with('~')) {
    result.kind = Override::Kind::remove;
    result.key = rest.substr(1);
    if (result.key == "exclude" || result.key == "when") return result;
  } else {
    const std::size_t equals = rest.find('=');
    if (equals == std::string_view::npos || equals == 0)
      fail(result.mark, fmt::format("'{}' is no override", text), "write key=value, key=[a,b], +key=value or ~key");
    if (rest.starts_with('+')) result.kind = Override::Kind::add;
    const std::size_t start = result.kind == Override::Kind::add ? 1 : 0;
    result.key = rest.substr(start, equals - start);
    result.value = parse_override_value(std::string(rest.substr(equals + 1)), result.mark);
  }
  if (Keys::instance().find(result.key) == nullptr && !document.is_group(result.key)) fail_unknown_key(result.mark, result.key, document.groups());
  if (result.kind == Override::Kind::remove) return result;

  if (const Key* key = Keys::instance().find(result.key); key != nullptr && is_range(result.value) && !key->is_section && !holds_sections(key->field))
    result.value = nested_range(result.value, result.key, document.limits.values);
  // Brackets make an axis, except for a field that is itself a list: there the list is the value, and a list of lists the axis.
  const bool list = result.value.is_list();
  const bool axis = list && (!is_list_field(result.key) || is_list_of_lists(result.value));
  const auto checked = [&](const Node& value) { return nested_value(value, result.key, result.mark, ".", &document); };
  if (!axis) {
    result.value = checked(result.value);
    if (result.value.is_map()) result.value.whole = true;
    return result;
  }
  if (result.value.items.empty()) fail(result.mark, fmt::format("{}=[] is empty: no trial would be left", result.key));
  if (kind == FileKind::trial) fail(result.mark, fmt::format("{}: one trial takes one value, not a list", result.key));
  for (Node& item : result.value.items) item = checked(item);
  if (result.kind == Override::Kind::set) result.kind = Override::Kind::axis;
  return result;
}

/// Takes the key, and all below it, out of a nested mapping. Inside a whole section it is replaced instead, since the section outranks
/// what lies under it; without a replacement it is only taken out.
bool take_out(Node& keys, std::string_view path, const Node* replacement, bool in_whole = false) {
  in_whole = in_whole || keys.whole;
  const std::size_t dot = path.find('.');
  Node* child = keys.find(path.substr(0, dot));
  if (dot != std::string_view::npos) {
    if (child != nullptr) return take_out(*child, path.substr(dot + 1), replacement, in_whole);
    if (in_whole && replacement != nullptr) put(keys, path, replacement->mark, *replacement);
    return false;
  }
  if (in_whole && replacement != nullptr) {
    put(keys, path, replacement->mark, *replacement);
    return child != nullptr;
  }
  return keys.erase(path);
}

struct Editor {
  Document& document;

  template <class Action>
  void each_block(Action action) {
    if (document.blocks)
      for (Block& block : *document.blocks) action(block);
    else if (document.top.has_axes()) action(document.top);
  }

  /// Removes the key everywhere but at the top of the file; `replacement` (may be null) goes into whole sections around it.
  bool take_from_sets_and_blocks(const std::string& key, const Node* replacement, bool keep_when) {
    bool found = false;
    for (Entry& group : document.sets.entries)
      for (Entry& set : group.value.entries) found |= take_out(set.value, key, replacement);
    each_block([&](Block& block) {
      for (std::optional<Node>* axes : {&block.grid, &block.zip}) {
        if (!*axes) continue;
        found |= std::erase_if((*axes)->entries, [&](const Entry& axis) { return at_or_below(axis.key, key); }) > 0;
        for (Entry& axis : (*axes)->entries)
          if (at_or_below(key, axis.key))
            for (Node& value : axis.value.items)
              if (value.is_map()) found |= take_out(value, std::string_view(key).substr(axis.key.size() + 1), replacement);
        if ((*axes)->entries.empty()) axes->reset();
      }
      if (block.points)
        for (Node& point : block.points->items) found |= take_out(point, key, replacement);
      if (block.sample) found |= take_from_sample(*block.sample, key, replacement);
      if (block.sample && block.sample->find("of")->entries.empty()) block.sample.reset();
      if (!keep_when) drop_when(block, key);
      if (!block.has_axes()) block.points = one_empty_point(block.mark);
    });
    if (!keep_when) drop_when(document.top, key);
    return found;
  }

  static bool take_from_sample(Node& sample, const std::string& key, const Node* replacement) {
    Node& of = *sample.find("of");
    bool found = std::erase_if(of.entries, [&](const Entry& entry) { return at_or_below(entry.key, key); }) > 0;
    for (Entry& entry : of.entries)
      if (at_or_below(key, entry.key) && entry.value.entries.front().key == "choice")
        for (Node& value : entry.value.entries.front().value.items)
          if (value.is_map()) found |= take_out(value, std::string_view(key).substr(entry.key.size() + 1), replacement);
    return found;
  }

  static Node one_empty_point(const Mark& mark) {
    Node points = make_list(mark);
    points.items.push_back(make_map(mark));
    return points;
  }

  static void drop_when(Block& block, const std::string& key) {
    if (block.when) std::erase_if(block.when->entries, [&](const Entry& entry) { return at_or_below(entry.key, key); });
    if (block.when && block.when->entries.empty()) block.when.reset();
  }

  void set(const Override& change) {
    take_from_sets_and_blocks(change.key, &change.value, false);
    take_out(document.trial, change.key, nullptr);
    put(document.trial, change.key, change.mark, change.value);
  }

  void axis(const Override& change) {
    // An axis of that name keeps its place in the grid; elsewhere it comes last.
    const auto grid_place = [&](const Block& block) {
      std::size_t place = 0;
      if (block.grid)
        for (const Entry& entry : block.grid->entries) {
          if (entry.key == change.key) return place;
          place += at_or_below(entry.key, change.key) ? 0 : 1;
        }
      return std::size_t(-1);
    };
    std::vector<std::size_t> places;
    each_block([&](Block& block) { places.push_back(grid_place(block)); });
    take_from_sets_and_blocks(change.key, nullptr, true);
    if (places.empty()) {
      document.top.mark = document.mark;
      document.top.points = one_empty_point(document.mark);
      places.push_back(std::size_t(-1));
    }
    std::size_t i = 0;
    each_block([&](Block& block) {
      if (!block.grid) block.grid = make_map(block.mark);
      auto& entries = block.grid->entries;
      const std::size_t place = std::min(places[i++], entries.size());
      entries.insert(entries.begin() + static_cast<std::ptrdiff_t>(place), Entry{change.key, change.mark, change.value});
    });
  }

  void add(const Override& change) {
    bool extended = false;
    each_block([&](Block& block) {
      if (block.zip && block.zip->find(change.key) != nullptr)
        fail(change.mark, fmt::format("+{}: it is an axis of a zip, which cannot grow alone", change.key),
             fmt::format("{}=... replaces it", change.key));
      if (block.sample && block.sample->find("of")->find(change.key) != nullptr)
        fail(change.mark, fmt::format("+{}: it is drawn by a sample, which takes no further value", change.key),
             fmt::format("{}=... replaces it", change.key));
      Node* values = block.grid ? block.grid->find(change.key) : nullptr;
      if (values == nullptr) return;
      extended = true;
      const bool many = change.value.is_list() && (!is_list_field(change.key) || is_list_of_lists(change.value));
      if (many) values->items.insert(values->items.end(), change.value.items.begin(), change.value.items.end());
      else values->items.push_back(change.value);
    });
    if (extended) return;
    const Node* given = at_path(document.trial, change.key);
    if (given != nullptr && is_list_field(change.key)) {
      if (change.value.items.empty()) fail(change.mark, fmt::format("+{}=[] adds nothing", change.key), fmt::format("{}=[] empties it", change.key));
      Node longer = *given;
      longer.items.insert(longer.items.end(), change.value.items.begin(), change.value.items.end());
      put(document.trial, change.key, change.mark, std::move(longer));
      return;
    }
    if (given != nullptr)
      fail(change.mark, fmt::format("+{}: already given at {}", change.key, place(given->mark)), fmt::format("{}=... replaces it", change.key));
    if (change.value.is_list() && !is_list_field(change.key)) {
      axis(change);
      return;
    }
    put(document.trial, change.key, change.mark, change.value);
  }

  void remove(const Override& change) {
    if (change.key == "exclude" || change.key == "when") {
      const auto member = change.key == "exclude" ? &Block::exclude : &Block::when;
      bool found = (document.top.*member).has_value();
      (document.top.*member).reset();
      each_block([&](Block& block) {
        found |= (block.*member).has_value();
        (block.*member).reset();
      });
      if (!found) fail(change.mark, fmt::format("~{}: the file does not give it", change.key));
      return;
    }
    bool found = take_from_sets_and_blocks(change.key, nullptr, false);
    found |= take_out(document.trial, change.key, nullptr);
    if (!found) fail(change.mark, fmt::format("~{}: the file does not give it", change.key));
  }
};

}  // namespace

void apply_overrides(Document& document, const std::vector<std::string>& overrides, FileKind kind) {
  std::vector<Override> changes;
  for (const std::string& text : overrides) {
    if (text.starts_with("sweep=")) {
      fail({std::make_shared<const std::string>("command line"), 0, 0}, "the name of a sweep is its file's: 'sweep' takes no override");
    }
    changes.push_back(read_override(text, document, kind));
  }
  // Sections first, so that `routing=FILE` and `routing.top_k=2` go together in either order; of two for one key the later wins.
  std::ranges::stable_sort(changes, {}, [](const Override& change) { return std::ranges::count(change.key, '.'); });
  Editor editor{document};
  for (const Override& change : changes) switch (change.kind) {
      case Override::Kind::set: editor.set(change); break;
      case Override::Kind::axis: editor.axis(change); break;
      case Override::Kind::add: editor.add(change); break;
      case Override::Kind::remove: editor.remove(change); break;
    }
}

}  // namespace moesweep::spec
