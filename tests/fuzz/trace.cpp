// trace.h5 that was changed by the HDF5 API: verify, and what any reader of plain HDF5 files makes of what verify calls sound.
#include "changed_file.hpp"
#include "moesweep/store/aggregate.hpp"
#include "moesweep/store/tensors.hpp"
#include "reading.hpp"

using namespace moesweep;         // NOLINT
using namespace moesweep::fuzz;   // NOLINT
using namespace moesweep::store;  // NOLINT

namespace {

std::string make_base() {
  TrialRecord record = sample_trial(0);
  record.arrays.clear();
  const auto add = [&](const char* name, std::vector<std::int64_t> shape, std::int64_t elements) {
    record.arrays.push_back(make_array(name, std::move(shape), std::vector<std::int64_t>(static_cast<std::size_t>(elements), 2), "1", "numbers"));
  };
  add("trace/token", {6}, 6);
  add("trace/domain", {6}, 6);
  add("trace/expert", {2, 6, 2}, 24);
  add("trace/step", {3}, 3);
  write_trace(scratch() / "base.h5", record);
  return slurp(scratch() / "base.h5");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  begin();
  static const std::vector<std::string> bases{make_base()};
  const auto path = scratch() / "trace.h5";
  const Changed changed = write_changed(path, bases, {data, size});
  Verification verification;
  const auto broken = refusal([&] { verification = verify(path); });
  const bool sound = !broken && verification.problems.empty();
  require(!changed.as_it_was || (sound && verification.rows == 6), "a file that nobody changed is not sound");
  if (sound) {
    std::vector<Array> arrays;
    refusal([&] { arrays = read_tensors(path); }, {ErrorKind::data});
    for (const Array& array : arrays) require_no_secret(array.bytes, array.path);
  }
  // A trace is no trial, whatever else it is.
  require(refusal([&] { static_cast<void>(read_trial(path)); }).has_value(), "a trace is read as a trial");
  require(open_identifiers() == 0, "a reader leaves something open");
  return 0;
}
