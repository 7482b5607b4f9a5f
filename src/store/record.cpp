// Arrays in memory: see include/moesweep/store/record.hpp.
#include "moesweep/store/record.hpp"

#include <cstring>

#include "layout.hpp"
#include "moesweep/core/checked.hpp"

namespace moesweep::store {

std::int64_t Array::elements() const { return shape.empty() ? 0 : checked_product(shape); }

namespace {

template <class Value>
Array make(std::string path, DType type, std::vector<std::int64_t> shape, std::span<const Value> values, std::string unit, std::string description,
           bool metric) {
  Array array{std::move(path), type, std::move(shape), {}, std::move(unit), std::move(description), metric};
  MOESWEEP_ASSERT(array.elements() == static_cast<std::int64_t>(values.size()), "the array `" + array.path + "` does not hold what its shape says");
  const auto bytes = std::as_bytes(values);
  array.bytes.assign(bytes.begin(), bytes.end());
  return array;
}

template <class Value>
void append_as_doubles(const Array& array, std::vector<double>& values) {
  for (std::size_t i = 0; i < array.bytes.size(); i += sizeof(Value)) {
    Value value;
    std::memcpy(&value, array.bytes.data() + i, sizeof value);
    values.push_back(static_cast<double>(value));
  }
}

}  // namespace

Array make_array(std::string path, std::vector<std::int64_t> shape, std::span<const double> values, std::string unit, std::string description,
                 bool metric) {
  return make(std::move(path), DType::f64, std::move(shape), values, std::move(unit), std::move(description), metric);
}

Array make_array(std::string path, std::vector<std::int64_t> shape, std::span<const std::int64_t> values, std::string unit, std::string description,
                 bool metric) {
  return make(std::move(path), DType::i64, std::move(shape), values, std::move(unit), std::move(description), metric);
}

std::vector<double> as_doubles(const Array& array) {
  std::vector<double> values;
  values.reserve(array.bytes.size() / size_of(array.type));
  switch (array.type) {
    case DType::f64: append_as_doubles<double>(array, values); break;
    case DType::f32: append_as_doubles<float>(array, values); break;
    case DType::i64: append_as_doubles<std::int64_t>(array, values); break;
    case DType::i32: append_as_doubles<std::int32_t>(array, values); break;
    case DType::u8: append_as_doubles<std::uint8_t>(array, values); break;
    case DType::bf16:
      for (std::size_t i = 0; i < array.bytes.size(); i += 2) {
        const auto word = std::to_integer<std::uint32_t>(array.bytes[i]) << 16 | std::to_integer<std::uint32_t>(array.bytes[i + 1]) << 24;
        float value;
        std::memcpy(&value, &word, sizeof value);
        values.push_back(static_cast<double>(value));
      }
      break;
  }
  return values;
}

const Array* TrialRecord::find(const std::string& path) const {
  for (const auto& array : arrays)
    if (array.path == path) return &array;
  return nullptr;
}

}  // namespace moesweep::store
