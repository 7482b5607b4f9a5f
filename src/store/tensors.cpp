// See include/moesweep/store/tensors.hpp.
#include "moesweep/store/tensors.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "layout.hpp"
#include "moesweep/core/checked.hpp"
#include "moesweep/core/publish.hpp"

namespace moesweep::store {

namespace {

/// Runs `read`; what HDF5 cannot read is a `corrupt` error that names file and dataset.
template <class Read>
auto as_damaged(const std::filesystem::path& path, Read&& read) {
  const std::string hint = "the file is damaged: write it again";
  try {
    return read();
  } catch (const h5::Failure& failure) {
    if (failure.out_of_memory()) throw_memory_ran_out(path);
    const std::string where = failure.object().empty() ? "" : "dataset " + failure.object() + ": ";
    throw Error(ErrorKind::corrupt, where + failure.what(), path.string(), hint);
  } catch (const Error& error) {
    if (!error.where().empty()) throw;
    throw Error(error.kind(), error.message(), path.string(), hint);
  } catch (const std::bad_alloc&) {
    throw_memory_ran_out(path);
  }
}

/// What an element is read as; nothing for what is no number.
std::optional<DType> memory_type(hid_t type) {
  switch (H5Tget_class(type)) {
    case H5T_INTEGER:
    case H5T_ENUM:  // booleans are written as an enumeration by h5py
      return DType::i64;
    case H5T_FLOAT: return H5Tget_size(type) <= sizeof(float) ? DType::f32 : DType::f64;
    default: return {};
  }
}

bool is_beyond_i64(hid_t type) {
  return H5Tget_class(type) == H5T_INTEGER &&
         (H5Tget_size(type) > sizeof(std::int64_t) || (H5Tget_size(type) == sizeof(std::int64_t) && H5Tget_sign(type) == H5T_SGN_NONE));
}

template <class Number>
std::span<const Number> values_of(const Array& array) {
  return {reinterpret_cast<const Number*>(array.bytes.data()), array.bytes.size() / sizeof(Number)};
}

/// The place of an element as text, "[3, 1]".
std::string place_of(std::int64_t element, const std::vector<std::int64_t>& shape) {
  std::string text;
  for (std::size_t i = shape.size(); i-- > 0; element /= shape[i]) text = std::to_string(element % shape[i]) + (text.empty() ? "" : ", ") + text;
  return "[" + text + "]";
}

template <class Number>
void refuse_nan(const Array& array, const std::filesystem::path& path) {
  const auto values = values_of<Number>(array);
  const auto found = std::ranges::find_if(values, [](Number value) { return std::isnan(value); });
  if (found != values.end())
    throw Error(ErrorKind::data, "dataset " + array.path + ": a NaN at " + place_of(found - values.begin(), array.shape), path.string(),
                "every element must be a number");
}

void read_all(hid_t dataset, hid_t type, Array& array) {
  if (H5Dread(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, array.bytes.data()) < 0) throw h5::Failure("H5Dread", array.path);
}

Array read_open(hid_t file, const std::filesystem::path& path, const std::string& name, std::optional<std::size_t> dimensions) {
  const auto dataset = h5::open_dataset(file, name);
  const auto type = h5::type_of(dataset.get(), name);
  const auto stored = memory_type(type.get());
  if (!stored) throw Error(ErrorKind::data, "dataset " + name + ": it does not hold numbers", path.string());
  h5::require_plain(dataset.get(), H5Tget_size(type.get()), h5::Origin::foreign, name);
  Array array;
  array.path = name;
  array.type = *stored;
  for (const auto dimension : h5::shape_of(dataset.get(), name)) array.shape.push_back(static_cast<std::int64_t>(dimension));
  if (dimensions && array.shape.size() != *dimensions)
    throw Error(ErrorKind::data,
                "dataset " + name + ": it has " + std::to_string(array.shape.size()) + " dimensions, not " + std::to_string(*dimensions),
                path.string());
  if (array.shape.empty()) array.shape = {1};
  array.bytes.resize(static_cast<std::size_t>(checked_product(array.elements(), static_cast<std::int64_t>(size_of(array.type)))));
  array.unit = h5::read_text_attribute(dataset.get(), "unit").value_or("");
  array.description = h5::read_text_attribute(dataset.get(), "description").value_or("");
  if (array.bytes.empty()) return array;
  if (is_beyond_i64(type.get())) {
    // HDF5 would cut what is too large to the largest i64.
    read_all(dataset.get(), H5T_NATIVE_UINT64, array);
    constexpr auto kMost = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
    if (H5Tget_size(type.get()) > sizeof(std::int64_t) ||
        std::ranges::any_of(values_of<std::uint64_t>(array), [](std::uint64_t value) { return value > kMost; }))
      throw Error(ErrorKind::data, "dataset " + name + ": an integer beyond 64 bits with a sign", path.string());
    return array;
  }
  read_all(dataset.get(), hdf5_type({array.type, 0}).get(), array);
  if (array.type == DType::f32) refuse_nan<float>(array, path);
  if (array.type == DType::f64) refuse_nan<double>(array, path);
  return array;
}

}  // namespace

std::vector<std::string> tensor_names(const std::filesystem::path& path) {
  require_hdf5(path, h5::Origin::foreign);
  return as_damaged(path, [&] { return h5::dataset_paths(h5::open_file(path).get()); });
}

Array read_tensor(const std::filesystem::path& path, const std::string& name, std::optional<std::size_t> dimensions) {
  const auto names = tensor_names(path);
  if (!std::ranges::binary_search(names, name)) {
    std::string there;
    for (const auto& each : names) there += (there.empty() ? "" : ", ") + each;
    throw Error(ErrorKind::data, "there is no dataset " + name, path.string(), there.empty() ? "it holds no dataset" : "it holds " + there);
  }
  return as_damaged(path, [&] { return read_open(h5::open_file(path).get(), path, name, dimensions); });
}

std::vector<Array> read_tensors(const std::filesystem::path& path) {
  const auto names = tensor_names(path);
  return as_damaged(path, [&] {
    const auto file = h5::open_file(path);
    std::vector<Array> arrays;
    for (const auto& name : names) {
      const auto dataset = h5::open_dataset(file.get(), name);
      if (memory_type(h5::type_of(dataset.get(), name).get())) arrays.push_back(read_open(file.get(), path, name, {}));
    }
    return arrays;
  });
}

void write_tensors(const std::filesystem::path& path, const std::map<std::string, std::string>& attributes, const std::vector<Array>& arrays) {
  std::vector<const Array*> sorted;
  std::vector<std::string> paths;
  for (const Array& array : arrays) {
    paths.push_back(array.path);
    sorted.push_back(&array);
    if (array.shape.empty() || array.bytes.size() != static_cast<std::size_t>(checked_product(array.shape)) * size_of(array.type))
      throw Error(ErrorKind::internal, "the array `" + array.path + "` does not hold what its shape says");
  }
  check_paths(paths, "");
  std::ranges::sort(sorted, {}, &Array::path);
  const auto image = as_io(path, [&] {
    return h5::build_image([&](hid_t file) {
      for (const auto& [name, text] : attributes) h5::write_text_attribute(file, name.c_str(), text);
      for (const Array* array : sorted)
        write_dataset(file, {array->path, {array->type, 0}, array->shape, shortened(array->unit, 1000), shortened(array->description, 4000), {}, {}},
                      array->bytes.data());
    });
  });
  publish_bytes(path, image);
}

}  // namespace moesweep::store
