// Arrays and texts of different sizes joined into one dataset, as sweep.h5 holds them: reading and checking their places.
#pragma once

#include <cstring>
#include <string>
#include <vector>

#include "layout.hpp"

namespace moesweep::store {

struct Ragged {
  std::vector<std::int64_t> offsets;  ///< [rows + 1]
  std::vector<std::int64_t> shapes;   ///< [rows, dimensions]
  std::size_t dimensions = 0;

  /// Empty when the row has no array.
  std::vector<std::int64_t> shape(std::size_t row) const;
};

template <class Value>
std::vector<Value> read_numbers(hid_t file, const Description& description, DType type) {
  if (description.type != ElementType{type, 0})
    throw Error(ErrorKind::corrupt, "dataset " + description.path + ": it holds " + description.type.name() + ", not " + std::string(name_of(type)));
  const auto bytes = read_dataset(file, description);
  std::vector<Value> values(bytes.size() / sizeof(Value));
  if (!bytes.empty()) std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

/// A `corrupt` error when a column of sweep.h5 is not of the type that FORMAT.md gives it.
void require_column_type(const Description& description);

/// A `corrupt` error, with dataset and row, when one of `trials/state` is no state of a trial (FORMAT.md lists them).
void require_states(const std::vector<std::string>& states);

/// A `corrupt` error when two joined arrays of these give the metric of one name.
void require_metrics_once(const std::vector<Description>& descriptions);

/// The offsets of GROUP/offsets, checked: rows + 1 of them, from 0 to `elements`, never falling. `corrupt` errors name the dataset.
std::vector<std::int64_t> read_offsets(hid_t file, const std::string& group, std::int64_t rows, std::int64_t elements);
/// The places of a joined array whose data is described; checks that shapes and offsets fit.
Ragged read_places(hid_t file, const Description& data, std::int64_t rows);
std::vector<std::string> read_ragged_texts(hid_t file, const std::string& group, std::int64_t rows);

}  // namespace moesweep::store
