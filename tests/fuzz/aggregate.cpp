// sweep.h5 that was changed by the HDF5 API: its reader, verify, and the aggregate that is made with it as an earlier one, which is the same as
// without it, or, where its digest is right and so it may say anything of the trials, is sound.
#include "moesweep/store/aggregate.hpp"

#include "changed_file.hpp"
#include "moesweep/comm/mpi.hpp"
#include "moesweep/core/foreign_json.hpp"
#include "reading.hpp"

using namespace moesweep;         // NOLINT
using namespace moesweep::fuzz;   // NOLINT
using namespace moesweep::store;  // NOLINT

namespace {

const SweepHeader kHeader{"a-study", "{\"sweep\": \"a-study\"}", "{\"version\": 1}"};
constexpr int kTrials = 3;

/// Trials of which the last left no file.
const SweepSource& source() {
  static const auto made = [] {
    SweepSource all;
    for (int i = 0; i < kTrials; ++i) {
      const auto file = scratch() / ("trial" + std::to_string(i) + ".h5");
      const Published published = write_trial(file, sample_trial(i));
      if (i + 1 < kTrials) all.trials.push_back({sample_trial(i).id, file, published});
      else all.trials.push_back({sample_trial(i).id, {}, {}});
    }
    all.row = [](std::size_t i, const TrialRecord* record) {
      SweepRow row{sample_trial(static_cast<int>(i)).id, "pending", "", {{"seed", std::to_string(i)}}, {{"loss", 1.5}}, "{\"n\": 1}", "{}", {}};
      if (record == nullptr) return row;
      row.state = record->state;
      row.reason = record->reason;
      const Json facts = parse_json(record->provenance, "the provenance of a trial");
      static_cast<void>(JsonView(facts, "the provenance of a trial").object());
      row.provenance = record->provenance;
      row.warnings = i == 0 ? "no_better_than_uniform" : "";
      return row;
    };
    return all;
  }();
  return made;
}

std::vector<std::string> make_bases(const comm::Communicator& self) {
  const auto path = scratch() / "base.h5";
  write_sweep(self, path, kHeader, source());
  std::vector<std::string> bases{slurp(path)};
  write_sweep(self, path, kHeader, std::vector<SweepRow>{});
  bases.push_back(slurp(path));
  return bases;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  begin();
  static const auto self = comm::Communicator::self();
  static const auto bases = make_bases(self);
  const auto path = scratch() / "sweep.h5";
  const Changed changed = write_changed(path, bases, {data, size});

  const auto refused = refusal([&] { static_cast<void>(SweepFile(path)); });
  Verification verification;
  const auto broken = refusal([&] { verification = verify(path); });
  const bool sound = !broken && verification.problems.empty();
  require(!sound || !refused, "verify calls sound what cannot be opened: " + refused.value_or(""));
  require(!changed.as_it_was || sound, "a file that nobody changed is not sound: " + (broken ? *broken : refused.value_or("a problem")));
  if (!refused) {
    const SweepFile sweep(path);
    require(sweep.rows().size() < 100000 && (!sound || sweep.rows().size() == verification.rows), "another number of rows than verify has");
    for (const auto& row : sweep.rows())
      for (const std::string* text : {&row.id, &row.state, &row.reason, &row.config, &row.provenance, &row.warnings})
        require_no_secret(std::as_bytes(std::span(*text)), "a text");
    for (const auto& name : sweep.array_paths())
      for (std::size_t row = 0; row < sweep.rows().size(); ++row) {
        Array array;
        const auto unread = refusal([&] { array = sweep.array(row, name); });
        require(!unread || !sound, "verify calls sound what cannot be read: " + unread.value_or(""));
        if (unread) continue;
        require(array.bytes.size() == static_cast<std::size_t>(array.elements()) * size_of(array.type), name + " has not the bytes of its shape");
        require_no_secret(array.bytes, name);
        static_cast<void>(as_doubles(array));
      }
  }
  require(open_identifiers() == 0, "a reader leaves something open");

  if (changed.choice || changed.as_it_was) {
    const auto made = scratch() / "made.h5";
    static const std::string expected = [&] {
      write_sweep(self, made, kHeader, source());
      return verify(made).digest;
    }();
    SweepMaking making;
    const auto failed = refusal([&] { making = write_sweep(self, made, kHeader, source(), path); }, {ErrorKind::corrupt, ErrorKind::data});
    if (failed) {
      close_identifiers();  // the unfinished file
    } else {
      const auto result = verify(made);
      require(result.problems.empty(), "an unsound aggregate was made: " + (result.problems.empty() ? "" : result.problems[0]));
      require(making.rows_kept > 0 || making.files_read == kTrials - 1, "trials were neither read nor kept");
      require((changed.sealed && making.rows_kept > 0) || result.digest == expected, "an earlier aggregate that is not sound changes the next one");
      require(!changed.as_it_was || changed.base != 0 || making.rows_kept == kTrials - 1, "a sound earlier aggregate is not taken");
    }
    require(failed || open_identifiers() == 0, "a writer leaves something open");
  }
  return 0;
}
