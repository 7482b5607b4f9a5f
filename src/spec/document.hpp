// A sweep or trial file as it stands after `base` and file references: one merged tree, keys checked, blocks apart.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "limits.hpp"
#include "node.hpp"

namespace moesweep::spec {

/// What a block holds. `sample` is as written, its choices nested; `grid` and `zip` map dotted keys (or a group of sets) to lists; each of `points`
/// is a nested mapping of a trial's keys.
struct Block {
  Mark mark;
  std::optional<Node> grid, zip, points, sample;
  std::optional<Node> exclude;  ///< predicates, a list of scalars
  std::optional<Node> when;     ///< axis -> predicate

  bool has_axes() const { return grid || zip || points || sample; }
};

struct Document {
  Mark mark;
  std::filesystem::path path;
  std::optional<Node> name;
  Node trial;  ///< nested mapping of a trial's keys; the choice of a group's set is a scalar under the group's name
  Node sets;   ///< group -> set -> nested mapping
  std::optional<std::vector<Block>> blocks;
  Limits limits;
  Block top;  ///< grid, zip, points and sample of the file itself (one block); exclude and when for every block

  bool is_group(std::string_view key) const { return sets.find(key) != nullptr; }
  std::vector<std::string> groups() const;
  /// What the file says, or its own name.
  std::string sweep_name() const { return name ? name->text : path.stem().string(); }
};

enum class FileKind { sweep, trial };

/// Reads the file with its bases. Every key and value is checked here, whether or not a later one replaces it.
Document load_document(const std::filesystem::path& path, FileKind kind, const Limits& limits = {});

/// As `load_document`, of a text that stands for the file at `path`.
Document document_of(const std::string& text, const std::filesystem::path& path, FileKind kind, const Limits& limits = {});

/// A mapping of dotted or nested keys as one nested mapping. File references become whole sections, looked up beside `folder`.
/// `prefix` is the section that the keys are in; with `document`, the names of its groups are keys too.
Node nested(const Node& keys, const std::string& prefix, const std::filesystem::path& folder, const Document* document);

/// The value of `path` checked and in nested form: a leaf's scalar (a derived value as its text) or list, a section's mapping or file reference, a
/// set's name.
Node nested_value(const Node& value, const std::string& path, const Mark& key_mark, const std::filesystem::path& folder, const Document* document);

/// `later` over `earlier`, key by key; lists, scalars and whole sections replace.
void merge(Node& earlier, const Node& later);

/// A range (`{linspace: [1, 2, 5]}`) as the list of values of `path`, an axis; more than `most` are an error.
Node nested_range(const Node& range, const std::string& path, std::int64_t most);

/// The node at a dotted path of a nested mapping, or null.
const Node* at_path(const Node& nested, std::string_view path);
/// Stores at a dotted path, making sections on the way; what was there goes.
void put(Node& nested, std::string_view path, const Mark& key_mark, Node value);

}  // namespace moesweep::spec
