// See include/moesweep/store/plain_reader.hpp. On purpose none of this room's wrappers: this is what others would write.
#include "moesweep/store/plain_reader.hpp"

#include <hdf5.h>

#include <vector>

#include "moesweep/core/error.hpp"

namespace moesweep::store {

namespace {

struct Pass {
  PlainReading reading;
  std::vector<char> buffer;
};

herr_t read_object(hid_t file, const char* name, const H5O_info_t* info, void* data) {
  if (info->type != H5O_TYPE_DATASET) return 0;
  auto& pass = *static_cast<Pass*>(data);
  const hid_t dataset = H5Dopen2(file, name, H5P_DEFAULT);
  const hid_t stored = H5Dget_type(dataset), native = H5Tget_native_type(stored, H5T_DIR_DEFAULT), space = H5Dget_space(dataset);
  const auto bytes = static_cast<std::size_t>(H5Sget_simple_extent_npoints(space)) * H5Tget_size(native);
  pass.buffer.resize(bytes + 1);
  const herr_t status = H5Dread(dataset, native, H5S_ALL, H5S_ALL, H5P_DEFAULT, pass.buffer.data());
  H5Sclose(space);
  H5Tclose(native);
  H5Tclose(stored);
  H5Dclose(dataset);
  ++pass.reading.datasets;
  pass.reading.bytes += static_cast<std::int64_t>(bytes);
  return status;
}

}  // namespace

PlainReading read_plainly(std::span<const std::filesystem::path> files) {
  Pass pass;
  for (const auto& path : files) {
    const hid_t file = H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT);
    const herr_t status = file < 0 ? -1 : H5Ovisit2(file, H5_INDEX_NAME, H5_ITER_NATIVE, read_object, &pass, H5O_INFO_BASIC);
    if (file >= 0) H5Fclose(file);
    if (status < 0) throw Error(ErrorKind::io, "plain HDF5 cannot read it", path.string());
    ++pass.reading.files;
  }
  return pass.reading;
}

}  // namespace moesweep::store
