// trial.h5 that was changed by the HDF5 API. What is read has the same values when it is read again by what is known of its bytes; what verify calls
// sound can be read.
#include "store/trial.hpp"

#include <algorithm>

#include "changed_file.hpp"
#include "moesweep/core/hash.hpp"
#include "moesweep/store/aggregate.hpp"
#include "reading.hpp"

using namespace moesweep;         // NOLINT
using namespace moesweep::fuzz;   // NOLINT
using namespace moesweep::store;  // NOLINT

namespace {

std::vector<std::string> make_bases() {
  std::vector<std::string> bases;
  for (const int index : {0, 1}) {
    write_trial(scratch() / "base.h5", sample_trial(index));
    bases.push_back(slurp(scratch() / "base.h5"));
  }
  return bases;
}

bool equal(const Array& a, const Array& b) {
  return a.path == b.path && a.type == b.type && a.shape == b.shape && a.bytes == b.bytes && a.unit == b.unit && a.description == b.description &&
         a.metric == b.metric;
}

bool equal(const TrialRecord& a, const TrialRecord& b) {
  return a.id == b.id && a.state == b.state && a.reason == b.reason && a.config == b.config && a.provenance == b.provenance &&
         std::ranges::equal(a.arrays, b.arrays, [](const Array& x, const Array& y) { return equal(x, y); });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  begin();
  static const auto bases = make_bases();
  const auto path = scratch() / "trial.h5";
  const Changed changed = write_changed(path, bases, {data, size});

  TrialRecord record;
  Published found;
  const auto refused = refusal([&] { record = TrialReader().read(path, {}, &found); });
  Verification verification;
  const auto broken = refusal([&] { verification = verify(path); });
  const bool sound = !broken && verification.problems.empty();
  require(!sound || !refused, "verify calls sound what cannot be read: " + refused.value_or(""));
  require(!changed.as_it_was || sound, "a file that nobody changed is not sound: " + (broken ? *broken : refused.value_or("a problem")));

  if (!changed.choice) {
    const TrialFinding finding = find_trial(path, sample_trial(static_cast<int>(changed.base)).id);
    require(finding.valid() == (!refused && record.id == sample_trial(static_cast<int>(changed.base)).id), "find_trial and read_trial do not agree");
    require(finding.kind != TrialFinding::Kind::absent, "find_trial finds nothing");
    require(finding.kind != TrialFinding::Kind::unreadable || (refused && refused->find("newer") != std::string::npos),
            "find_trial calls a file of wrong content unreadable: " + finding.why);
  }

  if (!refused) {
    require_no_secret(record);
    require(!changed.sealed || !sound || verification.digest == found.digest, "two digests of one file");
    require(found.sha256 == sha256_of_file(path) && found.bytes == static_cast<std::int64_t>(std::filesystem::file_size(path)),
            "other bytes were read");
    for (const Array& array : record.arrays) {
      require(array.bytes.size() == static_cast<std::size_t>(array.elements()) * size_of(array.type), array.path + " has not the bytes of its shape");
      static_cast<void>(as_doubles(array));
    }
    if (changed.choice) {
      // A reader that knows a file of the same names, and then the bytes of this one.
      TrialReader reader;
      spill(scratch() / "base.h5", bases[changed.base]);
      static_cast<void>(reader.read(scratch() / "base.h5", {sha256_of_file(scratch() / "base.h5"), "", 0}));
      TrialRecord again;
      Published known;
      require(!refusal([&] { again = reader.read(path, found, &known); }), "a file is refused when its bytes are known");
      require(equal(record, again) && known.digest == found.digest, "a file of known bytes is read as something else");
    }
  }
  require(open_identifiers() == 0, "a reader leaves something open");
  return 0;
}
