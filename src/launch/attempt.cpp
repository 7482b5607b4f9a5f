// See attempt.hpp.
#include "attempt.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <fstream>
#include <new>

#include "attempt_clock.hpp"
#include "moesweep/comm/watchdog.hpp"
#include "moesweep/core/error.hpp"
#include "moesweep/core/publish.hpp"
#include "moesweep/core/text.hpp"
#include "moesweep/launch/aggregate.hpp"
#include "moesweep/launch/provenance.hpp"
#include "moesweep/spec/sweep.hpp"

namespace moesweep::launch {

namespace fs = std::filesystem;

const data::Source& Sources::of(const data::DataConfig& config) {
  data::DataConfig copy = config;
  auto& source = open_[canonical(fields_of(copy).dump())];
  if (!source) source = runner_.open_data(config);
  return *source;
}

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

/// log.txt of a trial, appended to by each attempt.
class TrialLog {
 public:
  explicit TrialLog(const fs::path& folder) : out_(folder / "log.txt", std::ios::app) {}
  void line(const std::string& text) { out_ << utc_now() << ' ' << text << std::endl; }

 private:
  std::ofstream out_;
};

class LeaderObserver final : public train::Observer {
 public:
  LeaderObserver(TrialLog& log, const AttemptContext& context, std::int64_t step_tokens) : log_(log), context_(context), step_tokens_(step_tokens) {}

  /// True once the trial has come beyond reading its checkpoint.
  bool began() const { return began_; }

  void on_step(const train::StepReport& report) override {
    if (last_step_ < 0) last_step_ = report.step - 1;
    began_ = true;
    const double passed = seconds_since(last_);
    const bool due = passed >= context_.options.progress_seconds;
    const std::int64_t tenth = std::max<std::int64_t>(report.steps / 10, 1);
    if (due || report.step % tenth == 0)
      log_.line(fmt::format("step {}/{} loss {:.6g} {:.0f} tokens/s", report.step, report.steps, report.loss, report.tokens_per_second));
    if (!due) return;
    last_ = Clock::now();
    // What is told to those who wait includes evaluations and checkpoints since the last time.
    train::StepReport told = report;
    if (passed > 0) told.tokens_per_second = static_cast<double>((report.step - last_step_) * step_tokens_) / passed;
    last_step_ = report.step;
    if (context_.on_progress) context_.on_progress(told);
  }
  void on_evaluation(std::int64_t step, double loss) override {
    began_ = true;
    log_.line(fmt::format("evaluation at step {}: validation loss {:.6g}", step, loss));
  }
  void on_checkpoint(std::int64_t step) override { log_.line(fmt::format("checkpoint at step {}", step)); }

 private:
  TrialLog& log_;
  const AttemptContext& context_;
  std::int64_t step_tokens_, last_step_ = -1;
  Clock::time_point last_ = Clock::now();
  bool began_ = false;
};

bool tells_of_memory(const std::string& text) {
  constexpr std::array kSigns{"out of memory",          "not enough memory",      "can't allocate memory",
                              "cannot allocate memory", "Cannot allocate memory", "std::bad_alloc"};
  return std::ranges::any_of(kSigns, [&](const char* sign) { return text.find(sign) != std::string::npos; });
}

/// An error of files as one of ours; nothing for any other. It is the disk's and not the trial's, so it becomes no trial's state.
std::optional<Error> error_of_files(const std::exception& error) {
  constexpr const char* kHint = "the trial stays open: run the same command again to go on";
  if (const auto* known = dynamic_cast<const Error*>(&error)) {
    if (known->kind() != ErrorKind::io) return std::nullopt;
    Error mine(ErrorKind::io, known->message(), known->where(), known->hint().empty() ? kHint : known->hint());
    if (known->on_every_rank()) mine.thrown_on_every_rank();
    return mine;
  }
  if (const auto* failure = dynamic_cast<const fs::filesystem_error*>(&error))
    return Error(ErrorKind::io, failure->code().message(), failure->path1().string(), kHint);
  return std::nullopt;
}

/// Removes what an earlier attempt was writing when it was killed. Only for who holds the trial's claim.
void remove_half_written(const fs::path& folder) {
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(folder, ignored)) {
    const std::string name = entry.path().filename().string();
    constexpr std::array kWritten{".checkpoint.h5.", ".trace.h5.", ".trial.h5.", ".config.yaml."};
    if (name.ends_with(".tmp") && std::ranges::any_of(kWritten, [&](const char* beginning) { return name.starts_with(beginning); }))
      fs::remove(entry.path(), ignored);
  }
}

/// On every rank of the gang the data of the trial, or the error of one of them. The first opening of a token store on a machine digests all of it,
/// so the ranks of other machines wait without a timeout.
const data::Source& open_data(const train::TrialConfig& config, const comm::Communicator& gang, const AttemptContext& context) {
  constexpr double kNoTimeout = 1e9;  // seconds
  comm::watchdog::set_timeout(kNoTimeout);
  const data::Source* source = nullptr;
  gang.agree(
      [&] {
        source = &context.sources.of(config.data);
        if (!context.data_digest.empty() && source->digest() != context.data_digest)
          throw Error(ErrorKind::data,
                      fmt::format("the data has digest {:.12}, the sweep was planned with {:.12}", source->digest(), context.data_digest), "",
                      "did the token store change meanwhile?");
      },
      "opening of the data");
  return *source;
}

/// The first line of a message that may hold a stack trace.
std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

}  // namespace

Ending attempt_trial(const std::string& id, const train::TrialConfig& config, const fs::path& folder, const comm::Communicator& gang,
                     const AttemptContext& context) {
  const bool leader = gang.rank() == 0;
  const auto start = Clock::now();
  const std::string started = utc_now();
  const Json hosts = machines_of(gang);
  std::optional<TrialLog> log;
  std::optional<LeaderObserver> observer;
  if (leader) {
    std::error_code failure;
    fs::create_directories(folder, failure);
    if (failure) throw Error(ErrorKind::io, fmt::format("cannot make the trial's folder: {}", failure.message()), folder.string());
    remove_half_written(folder);
    publish_text(folder / "config.yaml", spec::trial_yaml(config));
    log.emplace(folder);
    log->line(fmt::format("trial {} on {} rank{} of {}", id, gang.size(), gang.size() == 1 ? "" : "s", host_name()));
    observer.emplace(*log, context, config.step_tokens());
  }

  const Limits& limits = context.options.limits;
  AttemptClock::Rules rules{context.options.stop, context.deadline, limits.trial_timeout_seconds, limits.stall_seconds, {}, {}, {}};
  if (leader) rules.give_up = context.give_up;
  rules.on_stop = comm::watchdog::record_stop;
  rules.on_stall = [&, who = fmt::format("[Rank {}/{}] ", gang.rank(), gang.size())](const std::string& why) {
    comm::watchdog::end_process_saying(fmt::format("trial {} gives {}; the process ends (--stall-timeout, --trial-timeout)", id, why), [&] {
      if (context.on_culprit) context.on_culprit({"timed_out", who + why, seconds_since(start), {}});
    });
  };
  std::optional<AttemptClock> clock(std::in_place, std::move(rules));

  Ending ending;
  bool agreed = true;  // every rank of the gang knows of a failure
  std::string details;
  std::optional<Error> of_files;
  try {
    const data::Source& source = open_data(config, gang, context);
    comm::watchdog::set_timeout(config.comm.timeout_seconds);
    train::RunOptions options;
    options.folder = folder;
    options.stop = &clock->stop();
    options.pulse = &clock->pulse();
    options.before_step = context.before_step;
    options.observer = observer ? &*observer : nullptr;
    try {
      ending.record = context.runner.run_trial(config, source, gang, options);
    } catch (const Error& error) {
      const fs::path checkpoint = folder / "checkpoint.h5";
      const bool of_checkpoint = error.kind() == ErrorKind::corrupt && error.where() == checkpoint.string();
      if (!of_checkpoint || (gang.size() > 1 && !error.on_every_rank())) throw;
      if (gang.maximum(observer && observer->began() ? 1 : 0, "look for the start of the trial") != 0) throw;
      gang.agree(
          [&] {
            if (!leader) return;
            fs::rename(checkpoint, folder / "checkpoint.h5.damaged");
            log->line(
                fmt::format("warning: {}; it is kept as checkpoint.h5.damaged, and the trial starts from its beginning", first_line(error.what())));
          },
          "setting a damaged checkpoint aside");
      ending.record = context.runner.run_trial(config, source, gang, options);
    }
    ending.state = ending.record.state;
    ending.reason = ending.record.reason;
    if (ending.state == "preempted" && gang.maximum(clock->timed_out() ? 1 : 0, "why the trial stopped") != 0) {
      ending.state = ending.record.state = "timed_out";
      ending.reason = ending.record.reason = fmt::format("longer than {:.0f} s (--trial-timeout); {}", limits.trial_timeout_seconds, ending.reason);
    }
  } catch (const std::bad_alloc&) {
    ending.state = "out_of_memory";
    ending.reason = "memory ran out";
    agreed = false;
  } catch (const std::exception& error) {
    details = error.what();
    const auto* known = dynamic_cast<const Error*>(&error);
    agreed = known != nullptr && known->on_every_rank();
    ending.state = tells_of_memory(details) ? "out_of_memory" : known != nullptr && known->kind() == ErrorKind::mpi ? "crashed" : "failed";
    if (ending.state == "failed") of_files = error_of_files(error);
    ending.reason = known != nullptr && !known->where().empty() ? known->where() + ": " + known->message() : first_line(details);
  }
  clock.reset();
  ending.seconds = seconds_since(start);
  if (of_files && context.on_failed_files) context.on_failed_files();
  if (of_files && (gang.size() == 1 || agreed)) {
    if (leader) log->line(fmt::format("interrupted after {:.1f} s: {}", ending.seconds, details));
    throw Error(*of_files);
  }
  if (gang.size() > 1 && !agreed) {
    ending.reason = fmt::format("[Rank {}/{}] {}", gang.rank(), gang.size(), ending.reason);
    if (of_files)
      comm::abort_world(static_cast<int>(ExitCode::io),
                        fmt::format("trial {} is interrupted: {}; the world ends, run the same command again to go on", id, ending.reason));
    if (context.on_culprit) context.on_culprit(ending);
    comm::abort_world(static_cast<int>(ExitCode::mpi),
                      fmt::format("trial {} {}: {}; the world ends, run the same command again to go on", id, ending.state, ending.reason));
  }
  if (!leader) return ending;

  if (ending.state == "done" || ending.state == "diverged") {
    Json facts = provenance(context.options.command_line, gang.size(), context.runner.libraries);
    facts.update(context.facts);
    facts["hosts"] = hosts;
    facts["threads"] = config.parallel.threads;
    facts["start"] = started;
    facts["end"] = utc_now();
    facts["seed"] = config.seed;
    facts["seeds"] = {{"trial", config.seed}};
    if (config.data.kind == data::DataKind::synthetic) facts["seeds"]["data"] = config.data.synthetic.seed;
    facts["data_digest"] = context.sources.of(config.data).digest();
    ending.record.id = id;
    ending.record.provenance = facts.dump(-1, ' ', false, Json::error_handler_t::replace);
    if (ending.record.config.empty()) {
      train::TrialConfig copy = config;
      ending.record.config = canonical(fields_of(copy).dump());
    }
    store::write_trial(folder / "trial.h5", ending.record);
    if (config.checkpoint.keep == train::Keep::none) {
      std::error_code ignored;
      fs::remove(folder / "checkpoint.h5", ignored);
    }
  }
  log->line(ending.reason.empty() ? fmt::format("{} after {:.1f} s", ending.state, ending.seconds)
                                  : fmt::format("{} after {:.1f} s: {}", ending.state, ending.seconds, details.empty() ? ending.reason : details));
  return ending;
}

}  // namespace moesweep::launch
