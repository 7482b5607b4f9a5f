// Overrides of the command line, one a line, over a sweep that has something of everything. What they give reads back from its resolved form.
#include <vector>

#include "fuzz.hpp"
#include "moesweep/spec/sweep.hpp"
#include "spec/document.hpp"
#include "spec/expand.hpp"
#include "spec/overrides.hpp"

using namespace moesweep::spec;  // NOLINT

namespace {

const char* const kSweep = R"(
data.domains: [a, b]
routing: {score: sigmoid, balance: {method: aux_loss, also: [{method: aux_loss, scope: sequence}]}}
model.dense_width: ${model.width} * 2
sets: {scale: {x1: {}, x35: {model.width: 128, train.steps: 80}}}
exclude: seed == 9
blocks:
  - grid: {seed: [1, 2], scale: [x1, x35], routing.capacity.factor: [none, 1.25]}
    zip: {train.steps: [10, 20], train.batch_sequences: [64, 32]}
    when: {routing.capacity.factor: seed == 1}
  - points: [{routing: routers/reference.yaml}, {routing.top_k: 2, data.tokenizer: bytes}]
    sample: {count: 2, seed: 3, of: {train.learning_rate: {log_uniform: [1e-4, 1e-2]}, routing.temperature: {choice: [1, 2]}}}
)";

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  go_to_empty_folder();
  static const Document sweep_document = document_of(kSweep, "sweep.yaml", FileKind::sweep, kFuzzLimits);
  static const Document trial_document = document_of("seed: 2\ndata.domains: [a, b]\n", "trial.yaml", FileKind::trial, kFuzzLimits);
  std::vector<std::string> overrides;
  for (std::size_t start = 0; start < size && overrides.size() < 16;) {
    std::size_t end = start;
    while (end < size && data[end] != '\n') ++end;
    overrides.emplace_back(reinterpret_cast<const char*>(data) + start, end - start);
    start = end + 1;
  }
  moesweep::train::TrialConfig trial;
  if (accepted([&] {
        Document document = trial_document;
        apply_overrides(document, overrides, FileKind::trial);
        trial = expand_trial(document);
      })) {
    const std::string yaml = trial_yaml(trial);
    moesweep::train::TrialConfig again;
    require_accepted([&] { again = expand_trial(document_of(yaml, "config.yaml", FileKind::trial)); }, "a trial's own file is refused:\n" + yaml);
    require(moesweep::train::id_of(trial) == moesweep::train::id_of(again), "a trial's own file is another trial:\n" + yaml);
  }
  Sweep sweep, again;
  if (!accepted([&] {
        Document document = sweep_document;
        apply_overrides(document, overrides, FileKind::sweep);
        sweep = expand(document);
      }))
    return 0;
  const std::string resolved = sweep.resolved.dump();
  require_accepted([&] { again = expand(document_of(resolved, "sweep.yaml", FileKind::sweep, kFuzzLimits)); },
                   "the resolved form is refused: " + resolved);
  require(again.trials.size() == sweep.trials.size() && again.duplicates_dropped == sweep.duplicates_dropped && again.excluded == sweep.excluded,
          "the resolved form has other trials: " + resolved);
  for (std::size_t i = 0; i < sweep.trials.size(); ++i)
    require(again.trials[i].id == sweep.trials[i].id, "another trial in the resolved form: " + resolved);
  return 0;
}
