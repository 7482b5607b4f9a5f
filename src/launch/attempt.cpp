// See attempt.hpp.
#include "attempt.hpp"

#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <mutex>
#include <new>
#include <set>

#include "attempt_clock.hpp"
#include "moesweep/comm/watchdog.hpp"
#include "moesweep/core/error.hpp"
#include "moesweep/core/log.hpp"
#include "moesweep/core/publish.hpp"
#include "moesweep/core/text.hpp"
#include "moesweep/launch/aggregate.hpp"
#include "moesweep/launch/provenance.hpp"
#include "moesweep/spec/sweep.hpp"
#include "own_files.hpp"

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

/// log.txt of a trial, appended to by each attempt. What is no regular file stays as it is, and the trial has no log.
class TrialLog {
 public:
  explicit TrialLog(const fs::path& folder) {
    try {
      file_ = open_to_append(folder / "log.txt");
    } catch (const Error& error) {
      log::warning(fmt::format("{}: {}: the trial has no log", (folder / "log.txt").string(), error.message()));
    }
  }
  ~TrialLog() {
    if (file_ >= 0) ::close(file_);
  }
  TrialLog(const TrialLog&) = delete;
  TrialLog& operator=(const TrialLog&) = delete;

  void line(const std::string& text) {
    const std::string whole = utc_now() + ' ' + text + '\n';
    if (file_ >= 0 && ::write(file_, whole.data(), whole.size()) < 0) {
      // A log that is full ends no trial.
    }
  }

 private:
  int file_ = -1;
};

/// The data of a trial; tells whether an `io` error was thrown by it.
class WatchedSource final : public data::Source {
 public:
  explicit WatchedSource(const data::Source& source) : source_(source) {}
  std::int64_t vocabulary() const override { return source_.vocabulary(); }
  std::int64_t domains() const override { return source_.domains(); }
  std::string digest() const override { return source_.digest(); }
  double bytes_per_token(std::int64_t domain) const override { return source_.bytes_per_token(domain); }
  data::Batch training(std::int64_t seed, std::int64_t step, std::int64_t batch_sequences, std::int64_t first, std::int64_t count) const override {
    return watched([&] { return source_.training(seed, step, batch_sequences, first, count); });
  }
  data::Batch validation(std::int64_t first, std::int64_t count) const override {
    return watched([&] { return source_.validation(first, count); });
  }
  std::int64_t validation_sequences(std::int64_t tokens) const override { return source_.validation_sequences(tokens); }

  /// True when `where` is the place of an `io` error that it threw.
  bool threw(const std::string& where) const {
    const std::lock_guard lock(mutex_);
    return !places_.empty() && places_.contains(where);
  }

 private:
  template <class Work>
  data::Batch watched(const Work& work) const {
    try {
      return work();
    } catch (const Error& error) {
      if (error.kind() == ErrorKind::io) {
        const std::lock_guard lock(mutex_);
        places_.insert(error.where());
      }
      throw;
    }
  }

  const data::Source& source_;
  mutable std::mutex mutex_;
  mutable std::set<std::string> places_;
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

/// Whether the place of an error lies in that folder, by its path as it is written and as the file system has it.
bool lies_in(const std::string& where, const fs::path& folder) {
  if (folder.empty()) return false;
  const auto holds = [](const fs::path& outer, const fs::path& inner) {
    return std::mismatch(outer.begin(), outer.end(), inner.begin(), inner.end()).first == outer.end();
  };
  const auto plain = [](const fs::path& path) {
    const fs::path normal = path.lexically_normal();
    return normal.has_filename() ? normal : normal.parent_path();  // without a slash at its end
  };
  std::error_code failure;
  if (holds(plain(fs::absolute(folder, failure)), plain(fs::absolute(where, failure)))) return true;
  const fs::path real_folder = fs::weakly_canonical(folder, failure);
  if (failure) return false;
  const fs::path real = fs::weakly_canonical(where, failure);
  return !failure && holds(plain(real_folder), plain(real));
}

/// An `io` error, or one of the file system, that names no file or one inside the folders of the sweep and the trial: the disk's and not the
/// trial's, so it becomes no trial's state. Nothing for any other error.
std::optional<Error> error_of_disk(const std::exception& error, const fs::path& trial_folder, const fs::path& sweep_folder) {
  constexpr const char* kHint = "the trial stays open: run the same command again to go on";
  const auto is_ours = [&](const std::string& where) {
    const bool is_path = where.find('/') != std::string::npos;
    return !is_path || lies_in(where, trial_folder) || lies_in(where, sweep_folder);
  };
  if (const auto* known = dynamic_cast<const Error*>(&error)) {
    if (known->kind() != ErrorKind::io || !is_ours(known->where())) return std::nullopt;
    Error mine(ErrorKind::io, known->message(), known->where(), known->hint().empty() ? kHint : known->hint());
    if (known->on_every_rank()) mine.thrown_on_every_rank();
    return mine;
  }
  if (const auto* failure = dynamic_cast<const fs::filesystem_error*>(&error); failure != nullptr && is_ours(failure->path1().string()))
    return Error(ErrorKind::io, failure->code().message(), failure->path1().string(), kHint);
  return std::nullopt;
}

/// On every rank of the gang the data of the trial, or the error of one of them. The first opening of a token store on a machine digests all of it,
/// so the ranks of other machines wait without a timeout.
const data::Source& open_data(const train::TrialConfig& config, const comm::Communicator& gang, const AttemptContext& context) {
  comm::watchdog::set_timeout(comm::watchdog::kNoTimeout);
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

/// How the trial has ended or why it cannot run, by the trial.h5 that is there; nothing when it has to run. A damaged file is kept under another
/// name. For who holds the trial's claim.
std::optional<Ending> what_is_there(const std::string& id, const fs::path& folder, TrialLog& log) {
  const fs::path file = folder / "trial.h5";
  store::TrialFinding found = store::find_trial(file, id);
  const auto unreadable = [](std::string why) { return Ending{kUnreadable, std::move(why), 0.0, {}, {}}; };
  switch (found.kind) {
    case store::TrialFinding::Kind::absent: return std::nullopt;
    case store::TrialFinding::Kind::valid: {
      const std::string state = found.record.state;
      return Ending{state, "", 0.0, std::move(found.record), std::move(found.published)};
    }
    case store::TrialFinding::Kind::unreadable: return unreadable(fmt::format("{}: {}", file.string(), found.why));
    case store::TrialFinding::Kind::damaged: break;
  }
  try {
    const fs::path kept = set_aside(file, ".damaged");
    const std::string text = fmt::format("{}: {}; it is kept as {}, and the trial runs again", file.string(), found.why, kept.filename().string());
    log.line("warning: " + text);
    log::warning(text);
    return std::nullopt;
  } catch (const Error& error) {
    return unreadable(fmt::format("{}: {}, and {}", file.string(), found.why, error.message()));
  }
}

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
    log.emplace(folder);
  }
  // What stands at the place of its file: seen by the leader, who holds the trial's claim, told to the others.
  std::optional<Ending> there;
  if (leader) there = what_is_there(id, folder, *log);
  const std::string told = gang.broadcast(there ? "ended as " + there->state : "", 0, "look for the trial's file");
  if (!told.empty()) {
    if (!leader) return {told.substr(std::string_view("ended as ").size()), "", seconds_since(start), {}, {}};
    there->seconds = seconds_since(start);
    log->line(fmt::format("{} without training: {}", there->state, there->reason.empty() ? "its file is there and whole" : there->reason));
    return *std::move(there);
  }
  if (leader) {
    publish_text(folder / "config.yaml", spec::trial_yaml(config));
    log->line(fmt::format("trial {} on {} rank{} of {}", id, gang.size(), gang.size() == 1 ? "" : "s", host_name()));
    observer.emplace(*log, context, config.step_tokens());
  }

  const Limits& limits = context.options.limits;
  AttemptClock::Rules rules{context.options.stop, context.deadline, limits.trial_timeout_seconds, limits.stall_seconds, {}, {}, {}};
  if (leader) rules.give_up = context.give_up;
  rules.on_stop = comm::watchdog::record_stop;
  rules.on_stall = [&, who = fmt::format("[Rank {}/{}] ", gang.rank(), gang.size())](const std::string& why) {
    comm::watchdog::end_process_saying(fmt::format("trial {} gives {}; the process ends (--stall-timeout, --trial-timeout)", id, why), [&] {
      if (context.on_culprit) context.on_culprit({"timed_out", who + why, seconds_since(start), {}, {}});
    });
  };
  std::optional<AttemptClock> clock(std::in_place, std::move(rules));

  Ending ending;
  bool agreed = true;  // every rank of the gang knows of a failure
  std::string details;
  std::optional<Error> of_files;
  std::optional<WatchedSource> watched;
  const fs::path checkpoint = folder / "checkpoint.h5";
  std::error_code none;
  const bool goes_on = fs::exists(fs::symlink_status(checkpoint, none));  // from it: the first to use it reads it
  // The same on every rank: a failure that all know of, before the first step or evaluation.
  bool may_have_begun = true;
  const auto has_begun = [&] { return gang.maximum(observer && observer->began() ? 1 : 0, "look for the start of the trial") != 0; };
  try {
    const data::Source& source = watched.emplace(open_data(config, gang, context));
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
      const bool of_checkpoint = (error.kind() == ErrorKind::corrupt || error.kind() == ErrorKind::io) && error.where() == checkpoint.string();
      if (!of_checkpoint || (gang.size() > 1 && !error.on_every_rank())) throw;
      may_have_begun = has_begun();
      if (may_have_begun || error.kind() == ErrorKind::io) throw;
      may_have_begun = true;
      gang.agree(
          [&] {
            if (!leader) return;
            const fs::path kept = set_aside(checkpoint, ".damaged");
            log->line(fmt::format("warning: {}; it is kept as {}, and the trial starts from its beginning", first_line(error.what()),
                                  kept.filename().string()));
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
    ending.state = tells_of_memory(error) ? "out_of_memory" : known != nullptr && known->kind() == ErrorKind::mpi ? "crashed" : "failed";
    if (ending.state == "failed") {
      of_files = error_of_disk(error, folder, context.options.folder);
      // Of its data and its own checkpoint that cannot be read just now: the trial is not to blame, and neither are the others.
      const bool of_io = known != nullptr && known->kind() == ErrorKind::io;
      const bool of_data = of_io && (!watched || watched->threw(known->where()));
      if (of_io && (gang.size() == 1 || agreed)) {
        const bool of_checkpoint = goes_on && !may_have_begun && known->where() == checkpoint.string();
        if (gang.maximum(of_data || of_checkpoint ? 1 : 0, "whose failure it is") != 0) {
          of_files.reset();
          ending.state = kUnreadable;
        }
      } else if (of_data && !of_files) {
        of_files.emplace(*known);
      }
    }
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

  try {
    (void)metrics_of(ending.record, folder / "trial.h5");
  } catch (const Error& error) {  // a strategy of the user's named a statistic like another one: no reader would take the file
    details = error.what();
    ending.state = "failed";
    ending.reason = error.message();
    ending.record.arrays.clear();
  }
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
    ending.published = store::write_trial(folder / "trial.h5", ending.record);
    if (config.checkpoint.keep == train::Keep::none) remove_own(checkpoint);
  }
  log->line(ending.reason.empty() ? fmt::format("{} after {:.1f} s", ending.state, ending.seconds)
                                  : fmt::format("{} after {:.1f} s: {}", ending.state, ending.seconds, details.empty() ? ending.reason : details));
  return ending;
}

}  // namespace moesweep::launch
