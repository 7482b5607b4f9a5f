// The keys of a trial by dotted path, as the config structs list them; checked conversion of scalars; "did you mean".
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "moesweep/core/fields.hpp"
#include "moesweep/train/config.hpp"
#include "node.hpp"

namespace moesweep::spec {

/// A section or a leaf of a trial's config. `first` and `last` bound the leaves below it, in the order of `leaves_of`.
struct Key {
  std::string path;
  bool is_section = false;
  Field field;
  std::size_t first = 0, last = 0;
};

/// Every key of TrialConfig. One instance serves the whole process.
class Keys {
 public:
  static const Keys& instance();

  const Key* find(std::string_view path) const;
  const std::vector<Leaf>& leaves() const { return leaves_; }
  const Json& default_value(std::size_t leaf) const { return defaults_[leaf]; }
  const std::vector<std::string>& paths() const { return paths_; }

 private:
  Keys();
  train::TrialConfig example_;
  FieldList fields_;
  std::vector<Leaf> leaves_;
  std::vector<Json> defaults_;
  std::vector<std::string> paths_;
  std::unordered_map<std::string, Key> keys_;

  void collect(const FieldList& fields, const std::string& prefix);
};

/// The node as a value of the field; a `config` error at the node's mark names `path` when type, range or choices forbid it. Elements of section
/// lists and maps become objects of the keys that they give, nested as the sections are; the node must be so already (`nested`).
Json convert(const Field& field, const Node& node, const std::string& path);

/// Whether a field's elements are structs: a list or a mapping of sections.
bool holds_sections(const Field& field);

/// The names of the fields, sections included.
std::vector<std::string> names_of(const FieldList& fields);

/// `: did you mean 'X'?` with the nearest candidate, or nothing when none is near.
std::string did_you_mean(std::string_view word, std::span<const std::string> candidates);

[[noreturn]] void fail_unknown_key(const Mark& mark, const std::string& path, std::span<const std::string> further = {});
/// The same inside an element of a section list or map: `path` is the key's place in the element, `element` the element's in the trial.
[[noreturn]] void fail_unknown_key_in(const Mark& mark, const std::string& path, const FieldList& fields, const std::string& element);

std::vector<std::string> split_path(std::string_view path);

}  // namespace moesweep::spec
