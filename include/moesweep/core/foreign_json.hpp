// JSON whose writer is not trusted: journals, plans, manifests, headers inside HDF5 files. Parsing has limits, and every access checks type and
// range.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "moesweep/core/error.hpp"
#include "moesweep/core/json.hpp"

namespace moesweep {

/// Nested arrays and objects that are read; deeper JSON is an error. What moesweep writes is less than 16 deep.
inline constexpr int kMostJsonDepth = 64;

/// Parses one JSON value. An error of `kind` at `where` says in which line and column the text is no JSON, no UTF-8, or nested too deep.
Json parse_json(std::string_view text, const std::string& where, ErrorKind kind = ErrorKind::corrupt);

/// A value inside parsed JSON, with its place for messages. It refers to the JSON, which must outlive it. Each access throws an error of the
/// view's kind, at `where`, that names the path inside, what was expected and what is there:
///   steps: expected an integer from 1 to 100 but found "x"
class JsonView {
 public:
  JsonView(const Json& value, std::string where, ErrorKind kind = ErrorKind::corrupt) : value_(&value), where_(std::move(where)), kind_(kind) {}

  /// The member of an object; an error when this is no object or has no such member.
  JsonView operator[](const std::string& key) const;
  /// The same, or nothing when the member is absent or null.
  std::optional<JsonView> find(const std::string& key) const;
  /// The elements of an array.
  std::vector<JsonView> elements() const;
  /// The members of an object, in the order of the text.
  std::vector<std::pair<std::string, JsonView>> members() const;

  std::string text(std::size_t most_bytes = std::size_t{1} << 26) const;
  std::int64_t integer(std::int64_t least, std::int64_t most) const;
  double number() const;  ///< finite; an integer is a number too
  bool boolean() const;
  std::vector<std::string> texts() const;
  /// The value itself; an error unless it is an object.
  const Json& object() const;

  /// Throws the error that this value is not what was `expected`.
  [[noreturn]] void refuse(const std::string& expected) const;
  const std::string& path() const { return path_; }

 private:
  const Json* value_;
  std::string where_, path_;
  ErrorKind kind_;
};

/// True for the 16 lower-case hexadecimal digits of a trial's id: what names a folder may be nothing else.
bool is_trial_id(std::string_view text);

}  // namespace moesweep
