// A whole sweep file: bytes to trials. The resolved form, and the trials' own files, read back to the same trials.
#include "moesweep/spec/sweep.hpp"
#include "fuzz.hpp"
#include "spec/document.hpp"
#include "spec/expand.hpp"

using namespace moesweep::spec;  // NOLINT

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  go_to_empty_folder();
  const std::string text(reinterpret_cast<const char*>(data), size);
  const auto expanded = [](const std::string& yaml) { return expand(document_of(yaml, "sweep.yaml", FileKind::sweep, kFuzzLimits)); };
  Sweep sweep, again;
  if (!accepted([&] { sweep = expanded(text); })) return 0;

  const std::string resolved = sweep.resolved.dump();
  require_accepted([&] { again = expanded(resolved); }, "the resolved form is refused");
  require(again.trials.size() == sweep.trials.size() && again.duplicates_dropped == sweep.duplicates_dropped && again.excluded == sweep.excluded,
          "the resolved form has other trials: " + resolved);
  for (std::size_t i = 0; i < sweep.trials.size(); ++i)
    require(again.trials[i].id == sweep.trials[i].id, "another trial in the resolved form: " + resolved);

  for (std::size_t i = 0; i < sweep.trials.size() && i < 2; ++i) {
    const std::string yaml = trial_yaml(sweep.trials[i].config);
    moesweep::train::TrialConfig trial;
    require_accepted([&] { trial = expand_trial(document_of(yaml, "config.yaml", FileKind::trial)); }, "a trial's own file is refused:\n" + yaml);
    require(moesweep::train::id_of(trial) == sweep.trials[i].id, "a trial's own file is another trial:\n" + yaml);
  }
  return 0;
}
