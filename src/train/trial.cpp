// See include/moesweep/train/trial.hpp.
#include "moesweep/train/trial.hpp"

#include <ATen/Parallel.h>

#include <cmath>

#include "moesweep/comm/watchdog.hpp"
#include "moesweep/core/error.hpp"
#include "trainer.hpp"

namespace moesweep::train {

store::TrialRecord run_trial(const TrialConfig& config, const data::Source& source, const comm::Communicator& gang, const RunOptions& options) {
  if (gang.size() != config.ranks())
    throw Error(ErrorKind::internal, "a gang of " + std::to_string(gang.size()) + " ranks for a trial of " + std::to_string(config.ranks()))
        .thrown_on_every_rank();
  comm::watchdog::set_timeout(config.comm.timeout_seconds);
  at::set_num_threads(static_cast<int>(config.parallel.threads));
  Observer silent;
  Observer& observer = options.observer != nullptr && gang.rank() == 0 ? *options.observer : silent;

  const auto checkpoint = options.folder.empty() ? std::filesystem::path() : options.folder / "checkpoint.h5";
  bool there = false;
  if (!checkpoint.empty())
    gang.agree(
        [&] {
          std::error_code failure;
          there = std::filesystem::exists(checkpoint, failure);
          if (failure) throw Error(ErrorKind::io, "cannot look for it: " + failure.message(), checkpoint.string());
        },
        "looking for a checkpoint");
  const bool resumes = gang.maximum(there ? 1 : 0, "looking for a checkpoint") > 0;
  Trainer trainer(config, source, gang, options.stop, resumes);
  trainer.set_pulse(options.pulse);
  if (resumes) trainer.read_checkpoint(checkpoint);
  else if (!config.train.init_from.empty()) trainer.read_parameters(config.train.init_from);
  // Nothing was trained since the last checkpoint, if there is one: it stays as it is.
  if (!trainer.ready())
    return trainer.record("preempted", "stopped by a signal or a deadline while the model was made, before any step of this attempt");

  const auto save = [&] {
    if (checkpoint.empty()) return;
    trainer.write_checkpoint(checkpoint);
    observer.on_checkpoint(trainer.step());
  };
  const auto preempted = [&] {
    save();
    return trainer.record("preempted", "stopped by a signal or a deadline after step " + std::to_string(trainer.step()));
  };
  for (;;) {
    if (trainer.evaluation_due()) {
      if (!trainer.evaluate()) return preempted();
      observer.on_evaluation(trainer.step(), trainer.last_validation_loss());
      if (!trainer.trace().empty() && !options.folder.empty())
        gang.agree(
            [&] {
              TrialConfig resolved = config;
              if (gang.rank() != 0) return;
              store::write_trace(options.folder / "trace.h5", {id_of(config), "", "", canonical(fields_of(resolved).dump()), "{}", trainer.trace()});
            },
            "writing of the trace");
    }
    if (trainer.step() >= trainer.steps()) break;
    if (options.before_step && options.before_step(trainer.step() + 1) == Fault::not_a_number) trainer.spoil();
    const StepResult result = trainer.train_step();
    if (!std::isfinite(result.loss) || !std::isfinite(result.gradient_norm) || result.loss > config.train.loss_limit)
      return trainer.record("diverged",
                            std::isfinite(result.loss) && std::isfinite(result.gradient_norm)
                                ? "training loss " + std::to_string(result.loss) + " above train.loss_limit at step " + std::to_string(trainer.step())
                                : "training loss or gradient is not a number at step " + std::to_string(trainer.step()));
    observer.on_step({trainer.step(), trainer.steps(), result.loss, trainer.recorder().last("steps/tokens_per_second")});
    const bool last = trainer.step() >= trainer.steps();
    if (result.stop && !last) return preempted();
    if (config.checkpoint.every_steps > 0 && trainer.step() % config.checkpoint.every_steps == 0 && !last) save();
  }
  if (config.checkpoint.keep == Keep::final_only) save();
  return trainer.record("done", "");
}

}  // namespace moesweep::train
