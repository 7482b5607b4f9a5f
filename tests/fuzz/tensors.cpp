// HDF5 files of others, as `moesweep route` reads them: one array and all arrays are the same, and none holds what is no number.
#include "moesweep/store/tensors.hpp"

#include <algorithm>
#include <cmath>

#include "changed_file.hpp"
#include "reading.hpp"

using namespace moesweep;         // NOLINT
using namespace moesweep::fuzz;   // NOLINT
using namespace moesweep::store;  // NOLINT

namespace {

std::string make_base() {
  auto arrays = sample_trial(1).arrays;
  write_tensors(scratch() / "base.h5", {{"made_by", "a person"}}, arrays);
  return slurp(scratch() / "base.h5");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  begin();
  static const std::vector<std::string> bases{make_base()};
  const auto path = scratch() / "tensors.h5";
  const Changed changed = write_changed(path, bases, {data, size});
  std::vector<std::string> names;
  std::vector<Array> arrays;
  const auto unnamed = refusal([&] { names = tensor_names(path); });
  const auto refused = refusal([&] { arrays = read_tensors(path); }, {ErrorKind::corrupt, ErrorKind::data});
  require(!unnamed || refused, "arrays of a file that has no names");
  require(!changed.as_it_was || !refused, "a file that nobody changed is refused: " + refused.value_or(""));
  for (const auto& name : names) {
    Array one;
    const auto alone = refusal([&] { one = read_tensor(path, name); }, {ErrorKind::corrupt, ErrorKind::data});
    const auto among = std::ranges::find(arrays, name, &Array::path);
    require(refused || (!alone) == (among != arrays.end()), name + " is read alone and not with others, or the reverse");
    if (alone) continue;
    require(refused || (one.bytes == among->bytes && one.shape == among->shape && one.type == among->type), name + " differs when it is read alone");
    require(one.bytes.size() == static_cast<std::size_t>(one.elements()) * size_of(one.type), name + " has not the bytes of its shape");
    require(std::ranges::none_of(as_doubles(one), [](double value) { return std::isnan(value); }), name + " holds a NaN");
    require_no_secret(one.bytes, name);
  }
  require(refusal([&] { static_cast<void>(read_tensor(path, "none of this name")); }, {ErrorKind::corrupt, ErrorKind::data}).has_value(),
          "there is an array of no name");
  require(open_identifiers() == 0, "a reader leaves something open");
  return 0;
}
