// One trial from its config to its record.
#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>

#include "moesweep/comm/mpi.hpp"
#include "moesweep/data/source.hpp"
#include "moesweep/store/record.hpp"
#include "moesweep/train/config.hpp"

namespace moesweep::train {

/// What a training step reports (same on every rank of the gang).
struct StepReport {
  std::int64_t step = 0, steps = 0;
  double loss = 0.0;  ///< nats per token, language model only
  double tokens_per_second = 0.0;
};

/// Watches a trial; called on rank 0 of the gang only.
class Observer {
 public:
  virtual ~Observer() = default;
  virtual void on_step(const StepReport&) {}
  virtual void on_evaluation(std::int64_t /*step*/, double /*validation_loss*/) {}
  virtual void on_checkpoint(std::int64_t /*step*/) {}
};

/// What a test does to a trial from within: see RunOptions::before_step.
enum class Fault { none, not_a_number };

struct RunOptions {
  /// Folder of the trial's files; checkpoint.h5 is written and looked for there. Empty: no checkpoints.
  std::filesystem::path folder;
  /// Asks the trial to stop at the next step's end, or while its model is made (signal, deadline); read on every rank, agreed collectively. May be
  /// null.
  const std::atomic<bool>* stop = nullptr;
  Observer* observer = nullptr;  ///< may be null
  /// Goes up each time the trial looks whether to stop: at every step and batch of an evaluation. May be null.
  std::atomic<std::uint64_t>* pulse = nullptr;
  /// Called on every rank before each step, counted from 1; may be empty. It may end the process or throw, or ask for numbers that are none.
  std::function<Fault(std::int64_t step)> before_step = {};
};

/// How a trial ended; `record` is complete for `done` and `diverged`, and holds what there is for `preempted`.
/// States: `done`, `diverged` (NaN or loss above train.loss_limit), `preempted` (stopped; a checkpoint was written, or nothing was trained since the
/// last one). Errors: a file of another trial that the config names and that cannot be used is a `data` error with key and file; a checkpoint of this
/// trial that is damaged or does not fit it is a `corrupt` one whose place is that file.
/// The record's provenance is left empty: the caller fills it. Errors that every rank of the gang throws alike are marked so
/// (`Error::on_every_rank`). Sets the threads of this process to parallel.threads.
store::TrialRecord run_trial(const TrialConfig& config, const data::Source& source, const comm::Communicator& gang, const RunOptions& options);

/// Tunes malloc for this process; call once, before the first trial. (A trial sets its own threads.)
void prepare_process();

/// Collective, once a process: where every rank of the world has a GPU, each makes one its own, by its place on its node.
void choose_gpu(const comm::Communicator& world);

}  // namespace moesweep::train
