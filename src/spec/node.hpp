// Our own tree of a YAML text: raw scalars, ordered mappings, lists, each with the place it came from.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "moesweep/core/error.hpp"

namespace moesweep::spec {

/// Where a node was written; line 0 means that the source as a whole is meant (the command line).
struct Mark {
  std::shared_ptr<const std::string> source;
  int line = 0, column = 0;  ///< from 1
};

/// `file:line:column`, or the source alone.
std::string place(const Mark& mark);

/// A text as a message quotes it: its beginning, where it has more than `most` bytes.
std::string shortened(const std::string& text, std::size_t most = 200);

struct Entry;

struct Node {
  enum class Kind { scalar, map, list };
  Kind kind = Kind::map;
  std::string text;     ///< a scalar as written, without its quotes
  bool quoted = false;  ///< a quoted scalar is text, never a number
  bool whole = false;   ///< a mapping that stands for a whole section: what it does not set takes its default
  Mark mark;
  std::vector<Entry> entries;
  std::vector<Node> items;

  bool is_scalar() const { return kind == Kind::scalar; }
  bool is_map() const { return kind == Kind::map; }
  bool is_list() const { return kind == Kind::list; }
  const Node* find(std::string_view key) const;
  Node* find(std::string_view key);
  bool erase(std::string_view key);
  /// What it is, for messages: `'text'`, "a list", "a mapping", "nothing".
  std::string in_words() const;
};

struct Entry {
  std::string key;
  Mark mark;
  Node value;
};

/// The scalars, lists and mappings that it is made of, itself included.
std::size_t count_nodes(const Node& node);

Node make_map(const Mark& mark);
Node make_list(const Mark& mark);
Node make_scalar(std::string text, const Mark& mark, bool quoted = false);

/// Parses one YAML document; an empty one is an empty mapping. Duplicate keys, tags, unclosed brackets and the like are `config` errors;
/// so is what limits.hpp does not allow.
Node parse_yaml(const std::string& text, const std::string& source);

/// Parses the value of a command-line override: `[...]`, `{...}` and quoted text as YAML, anything else as plain text.
Node parse_override_value(const std::string& text, const Mark& mark);

[[noreturn]] void fail(const Mark& mark, const std::string& sentence, const std::string& hint = {});

}  // namespace moesweep::spec
