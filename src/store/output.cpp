// See include/moesweep/store/output.hpp.
#include "moesweep/store/output.hpp"

#include "layout.hpp"
#include "moesweep/core/publish.hpp"

namespace moesweep::store {

void require_own_output(const std::filesystem::path& path, const std::string& attribute, const std::string& value) {
  if (is_absent(path)) return;
  require_replaceable(path);
  try {
    require_hdf5(path, h5::Origin::foreign);
    const auto found = h5::read_text_attribute(h5::open_file(path).get(), attribute.c_str());
    if (found && (value.empty() || *found == value)) return;
  } catch (const std::exception&) {  // no HDF5 file, or a damaged one: not ours to replace
  }
  throw Error(ErrorKind::io, "it is there already, and it is no file that this command wrote", path.string(),
              "name another file, or remove it yourself");
}

}  // namespace moesweep::store
