// See include/moesweep/launch/run.hpp.
#include "moesweep/launch/run.hpp"

#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <csignal>
#include <optional>
#include <set>

#include "attempt.hpp"
#include "claim.hpp"
#include "moesweep/comm/watchdog.hpp"
#include "moesweep/core/error.hpp"
#include "moesweep/core/log.hpp"
#include "moesweep/core/text.hpp"
#include "moesweep/launch/aggregate.hpp"
#include "moesweep/launch/provenance.hpp"
#include "moesweep/launch/status.hpp"
#include "moesweep/plan/scheduler.hpp"
#include "progress.hpp"

namespace moesweep::launch {

namespace fs = std::filesystem;

namespace {

/// A name for this launch that no other has: time, host, process, and how many launches this process made before.
std::string new_launch_id() {
  static std::atomic<int> made{0};
  std::string id;
  for (const char c : utc_now() + "-" + host_name())
    if (std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '-') id += c;
  return fmt::format("{}-{}-{}", id, ::getpid(), made++);
}

/// Everything that the ranks of one launch share.
class Launch {
 public:
  Launch(const spec::Sweep& sweep, const RunOptions& options, const Runner& runner, const comm::Communicator& world)
      : sweep_(sweep), options_(options), runner_(runner), world_(world), sources_(runner), display_(display_of_this_process()) {}

  Outcome run() {
    prepare();
    const std::vector<char> closed = close_what_has_ended();
    std::vector<plan::Job> jobs;
    choose(closed, jobs);
    Outcome outcome;
    if (jobs_trial_.empty()) {
      if (world_.rank() == 0)
        log::info(
            fmt::format("nothing to do: all {} trials of {} have ended", sweep_.trials.size() - sweep_.passed_over.size(), options_.folder.string()));
    } else {
      if (world_.rank() == 0)
        log::info(fmt::format("{}: {} of {} trials to run on {} rank{}, folder {}", sweep_.name, jobs_trial_.size(), sweep_.trials.size(),
                              world_.size(), world_.size() == 1 ? "" : "s", options_.folder.string()));
      std::optional<Progress> progress;
      if (world_.rank() == 0 && options_.show_progress) progress.emplace(options_.folder, ids_of_jobs(), display_);
      try {
        const comm::Communicator everyone = world_.duplicate();
        work(everyone, plan::Scheduler(jobs, {0, world_.size()}));
        // Ranks without work wait here for as long as the others train.
        comm::watchdog::set_timeout(kNoTimeout);
        outcome.ran = world_.sum(ran_, "end of the sweep");
        outcome.stopped = world_.maximum(stopped_ ? 1 : 0, "end of the sweep") != 0;
      } catch (const std::exception& error) {
        if (world_.size() == 1) throw;
        const auto* known = dynamic_cast<const Error*>(&error);
        const ExitCode code = known != nullptr ? exit_code_of(known->kind()) : ExitCode::internal;
        comm::abort_world(static_cast<int>(code), fmt::format("[Rank {}/{}] {}", world_.rank(), world_.size(), error.what()));
      }
    }
    comm::watchdog::set_timeout(kNoTimeout);
    tell_states(outcome);
    return outcome;
  }

 private:
  static constexpr double kNoTimeout = 1e9;  // seconds

  /// Rank 0 makes the folder and reads the journal; every rank learns the launch's name, the data's digests, the states and the layouts.
  void prepare() {
    std::string told;
    const Json hosts = machines_of(world_);
    world_.agree(
        [&] {
          if (world_.rank() != 0) return;
          Json facts = provenance(options_.command_line, world_.size(), runner_.libraries);
          facts["hosts"] = hosts;
          facts["start"] = utc_now();
          const auto digest = [&](const data::DataConfig& config) { return sources_.of(config).digest(); };
          const SweepPlan plan = prepare_folder(options_.folder, sweep_, facts, digest, options_.layout_given);
          std::map<std::string, const PlannedTrial*> planned;
          for (const PlannedTrial& trial : plan.trials) planned[trial.id] = &trial;
          std::size_t kept = 0;
          const auto states = store::fold(store::read_journal(options_.folder));
          Json trials = Json::array();
          for (const spec::Trial& trial : sweep_.trials) {
            const auto known = states.find(trial.id);
            const PlannedTrial& mine = *planned.at(trial.id);
            const train::ParallelConfig &layout = mine.config.parallel, &wish = trial.config.parallel;
            kept += layout.expert != wish.expert || layout.data != wish.data ? 1 : 0;
            trials.push_back({mine.data_digest, known == states.end() ? "pending" : known->second.state,
                              Json::array({layout.expert, layout.data, layout.threads})});
          }
          if (kept > 0)
            log::info(fmt::format("{} trials keep the gang layout that plan.json has for them; parallel.* on the command line changes it", kept));
          told = Json{{"launch", new_launch_id()}, {"trials", std::move(trials)}}.dump();
        },
        "preparation of the sweep folder");
    const Json known = Json::parse(world_.broadcast(told, 0, "preparation of the sweep folder"));
    launch_ = known["launch"];
    for (std::size_t i = 0; i < sweep_.trials.size(); ++i) {
      const Json& trial = known["trials"][i];
      digests_.push_back(trial[0]);
      states_.push_back(trial[1]);
      train::ParallelConfig& layout = sweep_.trials[i].config.parallel;
      layout.expert = trial[2][0];
      layout.data = trial[2][1];
      layout.threads = trial[2][2];
    }
    writer_ = fmt::format("r{}", world_.rank());
    me_ = this_process(launch_, writer_);
  }

  /// Which trials need no attempt: failed ones by the journal, finished ones by their file, whatever the journal says. Ranks share the reading.
  std::vector<char> close_what_has_ended() {
    const auto ranks = static_cast<std::size_t>(world_.size()), rank = static_cast<std::size_t>(world_.rank());
    std::string mine;
    world_.agree(
        [&] {
          for (std::size_t i = rank; i < sweep_.trials.size(); i += ranks) {
            const std::string& id = sweep_.trials[i].id;
            const bool has_file = states_[i] == "done" || states_[i] == "diverged" || fs::exists(trial_file(options_.folder, id));
            bool closed = is_final(states_[i]) && !has_file;
            if (has_file && store::is_valid_trial(trial_file(options_.folder, id), id)) {
              closed = true;
              drop_checkpoint(i);
              // It was published, and its writer died before the journal's line.
              if (!is_final(states_[i]))
                journal().write("ended", {{"trial", id},
                                          {"attempt", last_attempt(trial_folder(options_.folder, id))},
                                          {"state", store::read_trial(trial_file(options_.folder, id)).state},
                                          {"reason", ""},
                                          {"seconds", 0.0}});
            } else if (has_file) {
              log::warning(fmt::format("{} is missing or damaged: the trial runs again", trial_file(options_.folder, id).string()));
            }
            mine += closed ? '1' : '0';
          }
        },
        "check of finished trials");
    const auto parts = world_.all_gather(mine, "check of finished trials");
    std::vector<char> closed(sweep_.trials.size());
    for (std::size_t i = 0; i < closed.size(); ++i) closed[i] = parts[i % ranks][i / ranks] == '1';
    return closed;
  }

  /// The jobs of this launch: open trials that fit into this world. Those that do not are journaled as skipped.
  void choose(const std::vector<char>& closed, std::vector<plan::Job>& jobs) {
    std::vector<plan::Job> all;
    for (const spec::Trial& trial : sweep_.trials) {
      const plan::TrialCost cost = plan::cost_of(trial.config);
      all.push_back({trial.id, cost.ranks, cost.seconds, true});
    }
    const auto shards = plan::shards_of(all, options_.shard.count);
    std::set<std::size_t> skipped;
    world_.agree(
        [&] {
          for (const plan::Skipped& skip : plan::too_large(all, world_.size())) {
            if (closed[skip.job] != 0 || passed_over(skip.job)) continue;
            skipped.insert(skip.job);
            if (world_.rank() != 0) continue;
            log::warning(fmt::format("trial {} is skipped: it {}", all[skip.job].id, skip.reason));
            journal().write("ended", {{"trial", all[skip.job].id}, {"attempt", 0}, {"state", "skipped"}, {"reason", skip.reason}, {"seconds", 0.0}});
          }
        },
        "journal of skipped trials");
    for (std::size_t i = 0; i < all.size(); ++i) {
      if (closed[i] != 0 || skipped.contains(i) || passed_over(i)) continue;
      all[i].preferred = shards[i] == options_.shard.index;
      jobs.push_back(all[i]);
      jobs_trial_.push_back(i);
    }
  }

  /// One block of ranks, until nothing is left that fits. The leader claims; the others follow its events, so all know the same.
  void work(const comm::Communicator& block, plan::Scheduler scheduler) {
    for (;;) {
      Json order = {{"closed", Json::array()}, {"attempt", 0}, {"stop", false}};
      if (block.rank() == 0) {
        for (;;) {
          const plan::Decision decision = scheduler.next();
          const auto* run = std::get_if<plan::Run>(&decision);
          if (run == nullptr) break;
          // A stop counts only when it leaves something undone.
          const std::size_t trial = jobs_trial_[run->job];
          const bool stop = options_.stop != nullptr && options_.stop->load();
          const Claim claim = stop ? look_at_claim(options_.folder, sweep_.trials[trial].id, me_, journal())
                                   : try_claim(options_.folder, sweep_.trials[trial].id, me_, journal());
          if (claim.result == Claim::Result::open) {
            order["stop"] = true;
            break;
          }
          if (claim.result == Claim::Result::claimed) {
            order["attempt"] = claim.attempt;
            break;
          }
          if (claim.result == Claim::Result::ended && (claim.state == "done" || claim.state == "diverged")) drop_checkpoint(trial);
          order["closed"].push_back(run->job);
          scheduler.on(plan::Taken{run->job});
        }
      }
      order = Json::parse(block.broadcast(order.dump(), 0, "what the block does next"));
      if (block.rank() != 0)
        for (const Json& job : order["closed"]) scheduler.on(plan::Taken{job.get<std::size_t>()});
      if (order["stop"].get<bool>()) {
        stopped_ = true;
        return;
      }
      const plan::Decision decision = scheduler.next();
      if (const auto* run = std::get_if<plan::Run>(&decision)) {
        const bool preempted = run_trial(block, jobs_trial_[run->job], order["attempt"].get<int>()) == "preempted";
        scheduler.on(plan::Ended{run->job});
        if (preempted) {
          stopped_ = true;
          return;
        }
      } else if (const auto* split = std::get_if<plan::Split>(&decision)) {
        const std::int64_t here = scheduler.block().first + block.rank();
        const auto part = std::ranges::find_if(split->parts, [&](const plan::Block& p) { return here >= p.first && here < p.first + p.ranks; });
        const auto ranks = block.split(static_cast<int>(part - split->parts.begin()));
        work(*ranks, scheduler.part(*part));
        return;
      } else {
        return;
      }
    }
  }

  std::string run_trial(const comm::Communicator& gang, std::size_t index, int attempt) {
    const spec::Trial& trial = sweep_.trials[index];
    const bool leader = gang.rank() == 0;
    const auto keyed = [&](Json fields) {
      Json event = {{"trial", trial.id}, {"attempt", attempt}};
      event.update(fields);
      return event;
    };
    const auto ended = [&](const Ending& ending) {
      journal().write("ended", keyed({{"state", ending.state}, {"reason", ending.reason}, {"seconds", ending.seconds}}));
    };
    if (leader) journal().write("started", keyed({{"ranks", gang.size()}, {"first_rank", world_.rank()}, {"owner", me_.json()}}));
    const struct Unwatched {
      ~Unwatched() { comm::watchdog::on_timeout(nullptr); }
    } unwatched;
    comm::watchdog::on_timeout([this, id = trial.id, attempt](const std::string& text) {
      // From the watchdog's own thread: a file of its own, and nothing may throw.
      try {
        store::JournalWriter(options_.folder, launch_, writer_ + "-watchdog")
            .write("watchdog", {{"trial", id}, {"attempt", attempt}, {"text", text}});
      } catch (const std::exception&) {
      }
    });
    AttemptContext context{runner_, options_, sources_, digests_[index], {{"launch", launch_}, {"attempt", attempt}}, nullptr, ended};
    context.on_progress = [&](const train::StepReport& report) {
      Json fields = {{"step", report.step}, {"steps", report.steps}, {"tokens_per_second", report.tokens_per_second}};
      if (std::isfinite(report.loss)) fields["loss"] = report.loss;
      journal().write("progress", keyed(std::move(fields)));
    };
    const fs::path folder = trial_folder(options_.folder, trial.id);
    comm::watchdog::record_in(collective_file(folder, attempt, gang.rank()));
    const Ending ending = attempt_trial(trial.id, trial.config, folder, gang, context);
    comm::watchdog::record_in({});
    if (!leader) return ending.state;
    ++ran_;
    Json fields = {{"state", ending.state}, {"reason", ending.reason}, {"seconds", ending.seconds}};
    if (const auto* steps = ending.record.find("steps/step"); steps != nullptr && !steps->shape.empty()) fields["step"] = steps->shape.front();
    std::string loss;
    if (const auto metrics = metrics_of(ending.record); metrics.contains("loss") && std::isfinite(metrics.at("loss"))) {
      fields["loss"] = metrics.at("loss");
      loss = fmt::format(", validation loss {:.4f}", metrics.at("loss"));
    }
    journal().write("ended", keyed(std::move(fields)));
    const std::string line =
        fmt::format("trial {} {} in {:.1f} s{}{}", trial.id, ending.state, ending.seconds, loss, ending.reason.empty() ? "" : ": " + ending.reason);
    if (ending.state != "done") log::warning(line);
    else if (display_ == Display::lines) log::info(line);
    return ending.state;
  }

  /// Where the sweep's trials stand, told to every rank.
  void tell_states(Outcome& outcome) {
    std::string told;
    world_.agree(
        [&] {
          if (world_.rank() != 0) return;
          SweepPlan plan;
          for (std::size_t i = 0; i < sweep_.trials.size(); ++i)
            if (!passed_over(i)) plan.trials.push_back({sweep_.trials[i].id, sweep_.trials[i].config, {}, "", false});
          Json states = Json::object();
          for (const auto& [state, count] : standings_of(options_.folder, plan).counts) states[state] = count;
          told = states.dump();
        },
        "states of the sweep");
    const Json states = Json::parse(world_.broadcast(told, 0, "states of the sweep"));
    for (const auto& [state, count] : states.items()) outcome.states[state] = count.get<std::int64_t>();
  }

  /// Removes the checkpoint of a finished trial, which is there when its writer died right after publishing trial.h5.
  void drop_checkpoint(std::size_t index) const {
    const spec::Trial& trial = sweep_.trials[index];
    std::error_code ignored;
    if (trial.config.checkpoint.keep == train::Keep::none) fs::remove(trial_folder(options_.folder, trial.id) / "checkpoint.h5", ignored);
  }

  /// Whether the selection leaves the trial for another time.
  bool passed_over(std::size_t index) const { return sweep_.passed_over.contains(sweep_.trials[index].id); }

  std::vector<std::string> ids_of_jobs() const {
    std::vector<std::string> ids;
    for (const std::size_t index : jobs_trial_) ids.push_back(sweep_.trials[index].id);
    return ids;
  }

  /// This rank's journal file, made when it has something to say.
  store::JournalWriter& journal() {
    if (!journal_) journal_.emplace(options_.folder, launch_, writer_);
    return *journal_;
  }

  spec::Sweep sweep_;  // with the layouts of the plan
  const RunOptions& options_;
  const Runner& runner_;
  const comm::Communicator& world_;
  Sources sources_;
  Display display_;
  std::string launch_, writer_;
  Owner me_;
  std::vector<std::string> digests_, states_;  // by trial of the sweep
  std::vector<std::size_t> jobs_trial_;        // job -> trial of the sweep
  std::optional<store::JournalWriter> journal_;
  std::int64_t ran_ = 0;
  bool stopped_ = false;
};

std::atomic<bool> stop_flag{false};
static_assert(std::atomic<bool>::is_always_lock_free, "a signal handler may only touch lock-free atomics");

void on_signal(int) { stop_flag.store(true); }

constexpr int kSignals[] = {SIGTERM, SIGINT, SIGUSR2};

}  // namespace

Outcome run_sweep(const spec::Sweep& sweep, const RunOptions& options, const Runner& runner, const comm::Communicator& world) {
  return Launch(sweep, options, runner, world).run();
}

store::TrialRecord run_single(const train::TrialConfig& config, const fs::path& folder, const RunOptions& options, const Runner& runner,
                              const comm::Communicator& gang) {
  if (config.ranks() != gang.size())
    throw Error(ErrorKind::config,
                fmt::format("the trial's gang has {} ranks (parallel.expert * parallel.data), this world has {}", config.ranks(), gang.size()), "",
                fmt::format("give parallel.data={}, or start it on {} ranks", gang.size(), config.ranks()))
        .thrown_on_every_rank();
  Sources sources(runner);
  AttemptContext context{runner, options, sources, "", Json::object(), nullptr, nullptr};
  Ending ending = attempt_trial(train::id_of(config), config, folder, gang, context);
  ending.record.state = ending.state;
  ending.record.reason = ending.reason;
  return ending.record;
}

StopSignals::StopSignals() {
  stop_flag.store(false);
  struct sigaction action {};
  action.sa_handler = on_signal;
  sigemptyset(&action.sa_mask);
  for (const int signal : kSignals) {
    action.sa_flags = SA_RESTART | (signal == SIGINT ? static_cast<int>(SA_RESETHAND) : 0);
    ::sigaction(signal, &action, nullptr);
  }
}

StopSignals::~StopSignals() {
  for (const int signal : kSignals) std::signal(signal, SIG_DFL);
}

const std::atomic<bool>& StopSignals::flag() const { return stop_flag; }

}  // namespace moesweep::launch
