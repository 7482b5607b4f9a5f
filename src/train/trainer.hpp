// One trial's training: steps, evaluations, checkpoints. All members are collective over the gang.
#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "moesweep/comm/grid.hpp"
#include "moesweep/comm/mpi.hpp"
#include "moesweep/data/source.hpp"
#include "moesweep/model/moe_model.hpp"
#include "moesweep/train/config.hpp"
#include "moesweep/train/trial.hpp"
#include "recorder.hpp"
#include "trace.hpp"

namespace moesweep::train {

/// What one optimizer step saw, over the whole gang.
struct StepResult {
  double loss = 0;           ///< nats per token
  double balance_loss = 0;   ///< as added to the loss
  double gradient_norm = 0;  ///< before clipping
  bool stop = false;         ///< some rank was asked to stop
};

/// One validation, over the whole gang.
struct Evaluation {
  std::vector<double> loss_sum;                   ///< [domains], nats
  std::vector<double> tokens;                     ///< [domains]
  std::vector<double> counts;                     ///< [MoE layers, domains, experts], kept (token, slot) pairs
  double prefix_loss_sum = 0, prefix_tokens = 0;  ///< of prefixes that decide for their sequences, where there are any
  std::vector<double> counts_before;              ///< the same with dropped ones
  std::vector<double> weighted_loss;              ///< [MoE layers, experts], sum over kept slots of weight * loss of the token
  std::vector<double> weight;                     ///< [MoE layers, experts], sum over kept slots of weight
};

class Trainer {
 public:
  /// `make` gives other transports than those of the config: for tests.
  Trainer(const TrialConfig& config, const data::Source& source, const comm::Communicator& gang, const std::atomic<bool>* stop = nullptr,
          bool resumes = false, const comm::MakeTransport& make = {});

  /// False when a stop was asked for, on any rank, before the model was made or read: the trainer can then only give its record.
  bool ready() const { return ready_; }
  std::int64_t step() const { return step_; }  ///< steps done
  std::int64_t steps() const { return steps_; }
  model::MoeModel& model() { return *model_; }
  Recorder& recorder() { return recorder_; }
  /// Decisions of the last step's passes on this rank, [passes][MoE layers].
  const std::vector<model::PassDecisions>& last_decisions() const { return decisions_; }

  /// One optimizer step, recorded.
  StepResult train_step();
  /// The fixed validation set in both readings, recorded; false when a stop was asked for in its midst (then nothing is recorded).
  bool evaluate();
  bool evaluation_due() const;
  /// Counts up whenever the trainer looks whether to stop; may be null.
  void set_pulse(std::atomic<std::uint64_t>* pulse) { pulse_ = pulse; }
  /// Makes this rank's dense parameters no numbers, as an injected fault does.
  void spoil();
  double last_validation_loss() const { return validation_loss_; }
  /// Arrays of trace.h5 as the last evaluation left them; empty before it, or when no trace is asked for.
  const std::vector<store::Array>& trace() const { return trace_; }

  void write_checkpoint(const std::filesystem::path& path);
  /// Goes on from a checkpoint of this trial, unless a stop is asked for meanwhile (`ready`). What does not fit the trial or itself (step, record,
  /// state, shapes, types) is a `corrupt` error on every rank, whose place is `path`.
  void read_checkpoint(const std::filesystem::path& path);
  /// Parameters only, for init_from. A file that is missing, damaged or none is a `data` error on every rank that names key and file.
  void read_parameters(const std::filesystem::path& path);
  /// Collective where assignments are recorded.
  store::TrialRecord record(const std::string& state, const std::string& reason) const;

 private:
  model::PassInput pass_of(const data::Batch& batch, std::int64_t step, std::int64_t step_tokens) const;
  void reduce_gradients();
  /// The ranks that hold the same parameters of a class as this one.
  comm::Transport& holders_of(model::ParameterClass c) { return c == model::ParameterClass::dense ? grid_.all() : grid_.copies(); }
  /// After each rank updated its part: all ranks have all values again.
  void share_updated_values();
  void declare_series();
  /// The record that some layer replays, checked to hold every batch of the trial; null when none does.
  std::shared_ptr<const routing::Recording> read_replayed() const;
  /// Router weights that come from another trial's checkpoint; a resumed trial has them in its own.
  void import_routers();
  /// This rank's passes of a batch of `sequences`: as many as the largest share needs, missing ones empty. `fetch(first, count)` gives sequences.
  template <class Fetch>
  std::vector<model::PassInput> passes_of(std::int64_t sequences, std::int64_t step, Fetch&& fetch) const;
  /// Whether this rank was asked to stop; a sign of life.
  bool asked_to_stop() const;
  /// Collective: whether the trainer is ready still, which it is not once a rank was asked to stop.
  bool keeps_ready(const char* what);
  /// What a checkpoint's header and record say, checked against this trial and taken. `path` names the file in errors. Not collective.
  void take_progress(const std::string& header, const store::TrialRecord& record, const std::string& path);
  /// False when a stop was asked for in its midst.
  bool evaluate_reading(routing::Mode mode, Evaluation& result, Trace* trace);
  void record_evaluation(const Evaluation& evaluation, const std::string& prefix);
  void record_drops(const Evaluation& evaluation, const std::string& prefix);

  TrialConfig config_;
  const data::Source& source_;
  const comm::Communicator& gang_;
  const std::atomic<bool>* stop_;
  std::atomic<std::uint64_t>* pulse_ = nullptr;
  c10::Device device_;
  comm::Grid grid_;
  comm::Transport* transport_;  ///< the gang, over host memory
  std::unique_ptr<model::MoeModel> model_;
  Recorder recorder_;
  std::vector<std::string> losses_;  ///< beside the language model's, in the order of a step's sums
  std::vector<model::PassDecisions> decisions_;
  routing::Recording recording_;  ///< of this rank's sequences, with routing.record
  std::int64_t step_ = 0, steps_ = 0;
  std::int64_t prefix_tokens_ = 0;  ///< of a sequence, that decide for the rest of it; 0 where none do
  double seconds_ = 0, validation_loss_ = 0;
  bool ready_ = true;
  std::vector<store::Array> trace_;
};

/// The sequences of a global batch that a rank takes: whole micro-batches, in order.
struct Share {
  std::int64_t first = 0, count = 0;
};
Share share_of(std::int64_t sequences, std::int64_t micro_batch_sequences, int rank, int ranks);

}  // namespace moesweep::train
