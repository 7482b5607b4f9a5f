// See include/moesweep/launch/run.hpp.
#include "moesweep/launch/run.hpp"

#include <fmt/core.h>
#include <fmt/ranges.h>
#include <sys/resource.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <csignal>
#include <cstring>
#include <optional>
#include <set>
#include <utility>

#include "attempt.hpp"
#include "board.hpp"
#include "claim.hpp"
#include "last_words.hpp"
#include "moesweep/comm/watchdog.hpp"
#include "moesweep/core/error.hpp"
#include "moesweep/core/log.hpp"
#include "moesweep/core/text.hpp"
#include "moesweep/launch/aggregate.hpp"
#include "moesweep/launch/provenance.hpp"
#include "moesweep/launch/status.hpp"
#include "moesweep/plan/scheduler.hpp"
#include "own_files.hpp"
#include "progress.hpp"

namespace moesweep::launch {

namespace fs = std::filesystem;

namespace {

using Clock = std::chrono::steady_clock;

Clock::time_point in_seconds(double count) {
  return Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(count));
}

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

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
    if (jobs_trial_.empty() && suspects_.empty()) {
      if (world_.rank() == 0)
        log::info(unreadable_.empty()
                      ? fmt::format("nothing to do: all {} trials of {} have ended", sweep_.trials.size() - sweep_.passed_over.size(),
                                    options_.folder.string())
                      : fmt::format("nothing to do in {} but for trials whose files cannot be read just now", options_.folder.string()));
    } else {
      if (world_.rank() == 0)
        log::info(fmt::format("{}: {} of {} trials to run on {} rank{}, folder {}", sweep_.name, jobs_trial_.size() + suspects_.size(),
                              sweep_.trials.size(), world_.size(), world_.size() == 1 ? "" : "s", options_.folder.string()));
      std::optional<Progress> progress;
      if (world_.rank() == 0 && options_.show_progress) progress.emplace(options_.folder, ids_to_run(), display_);
      try {
        const comm::Communicator everyone = world_.duplicate();
        work(everyone, plan::Scheduler(jobs, {0, world_.size()}, salt()), jobs_trial_, false);
        work_alone(everyone);
        // Ranks without work wait here for as long as the others train.
        comm::watchdog::set_timeout(comm::watchdog::kNoTimeout);
        outcome.ran = world_.sum(ran_, "end of the sweep");
        outcome.stopped = world_.maximum(stopped_ ? 1 : 0, "end of the sweep") != 0;
        outcome.gave_up = world_.maximum(gave_up_ ? 1 : 0, "end of the sweep") != 0;
        outcome.dispatch.claims_tried = world_.sum(dispatch_.claims_tried, "end of the sweep");
        outcome.dispatch.claims_made = world_.sum(dispatch_.claims_made, "end of the sweep");
        outcome.dispatch.seconds = 1e-6 * static_cast<double>(world_.sum(std::llround(1e6 * dispatch_.seconds), "end of the sweep"));
      } catch (const std::exception& error) {
        if (world_.size() == 1) throw;
        const auto* known = dynamic_cast<const Error*>(&error);
        const ExitCode code = known != nullptr ? exit_code_of(known->kind()) : ExitCode::internal;
        comm::abort_world(static_cast<int>(code), fmt::format("[Rank {}/{}] {}", world_.rank(), world_.size(), error.what()));
      }
    }
    comm::watchdog::set_timeout(comm::watchdog::kNoTimeout);
    share_unreadable(outcome);
    tell_states(outcome);
    if (world_.rank() == 0 && outcome.dispatch.claims_made > 0)
      log::debug(fmt::format("dispatch: {:.3f} ms a trial, {:.2f} claims tried a trial", 1e3 * outcome.dispatch.seconds_per_claim(),
                             outcome.dispatch.tried_per_claim()));
    return outcome;
  }

 private:
  /// Rank 0 makes the folder, reads the journal and closes what died; every rank learns the launch's name and where each trial stands.
  void prepare() {
    std::string told;
    const Json hosts = machines_of(world_);
    const double timeout = comm::watchdog::timeout_seconds();
    comm::watchdog::set_timeout(comm::watchdog::kNoTimeout);  // rank 0 may have to digest a large token store
    world_.agree(
        [&] {
          if (world_.rank() != 0) return;
          Json facts = provenance(options_.command_line, world_.size(), runner_.libraries);
          facts["hosts"] = hosts;
          facts["start"] = utc_now();
          const auto digest = [&](const data::DataConfig& config) { return sources_.of(config).digest(); };
          const SweepPlan plan = prepare_folder(options_.folder, sweep_, facts, digest, options_.layout_given);
          launch_ = new_launch_id();
          be_somebody();
          told = what_is_known(plan).dump();
        },
        "preparation of the sweep folder");
    comm::watchdog::set_timeout(timeout);
    const Json known = Json::parse(world_.broadcast(told, 0, "preparation of the sweep folder"));
    launch_ = known["launch"];
    if (world_.rank() != 0) be_somebody();
    for (std::size_t i = 0; i < sweep_.trials.size(); ++i) {
      const Json& trial = known["trials"][i];
      known_.push_back({trial[0], trial[1], trial[3], trial[4], trial[5], trial[6], {}});
      if (!trial[7].is_null()) known_.back().published = store::published_of(JsonView(trial[7], "the journal"));
      train::ParallelConfig& layout = sweep_.trials[i].config.parallel;
      layout.expert = trial[2][0];
      layout.data = trial[2][1];
      layout.threads = trial[2][2];
    }
    board_.emplace(options_.folder, known["board"].get<std::int64_t>());
    pace_ = known["pace"];
    if (!known["seconds_left"].is_null()) {
      whole_seconds_ = known["seconds_left"];
      deadline_ = in_seconds(whole_seconds_);
    }
  }

  void be_somebody() {
    writer_ = fmt::format("r{}", world_.rank());
    me_ = this_process(launch_, writer_);
    claims_.emplace(options_.folder, me_, options_.limits.retries, [this]() -> store::JournalWriter& { return journal(); });
  }

  /// On rank 0.
  Json what_is_known(const SweepPlan& plan) {
    std::map<std::string, const PlannedTrial*> planned;
    for (const PlannedTrial& trial : plan.trials) planned[trial.id] = &trial;
    claims_->read_journal();
    const std::vector<std::string>& problems = claims_->problems();
    constexpr std::size_t kShown = 3;
    for (std::size_t i = 0; i < std::min(kShown, problems.size()); ++i) log::warning("journal: " + problems[i]);
    if (problems.size() > kShown)
      log::warning(
          fmt::format("journal: {} further problems: `moesweep status {} --json` lists them", problems.size() - kShown, options_.folder.string()));
    bool news = false;
    for (const spec::Trial& trial : sweep_.trials) {
      if (claims_->history().status_of(trial.id).state == "running") news = claims_->close_if_lost(trial.id) || news;
      else news = claims_->finish_if_spent(trial.id) || news;
    }
    if (news) claims_->read_journal();
    std::size_t kept = 0;
    double estimated = 0, taken = 0;
    Json trials = Json::array();
    for (const spec::Trial& trial : sweep_.trials) {
      const store::TrialStatus& status = claims_->history().status_of(trial.id);
      const PlannedTrial& mine = *planned.at(trial.id);
      const train::ParallelConfig &layout = mine.config.parallel, &wish = trial.config.parallel;
      kept += layout.expert != wish.expert || layout.data != wish.data ? 1 : 0;
      const auto steps = static_cast<double>(std::max<std::int64_t>(1, trial.config.steps()));
      const double left = status.state == "preempted" ? std::clamp(1.0 - static_cast<double>(status.step) / steps, 0.0, 1.0) : 1.0;
      trials.push_back({mine.data_digest, status.state, Json::array({layout.expert, layout.data, layout.threads}),
                        needs_no_attempt(status, options_.limits.retries), status.suspect, mine.cost.seconds, left,
                        status.published.sha256.empty() ? Json() : json_of(status.published)});
      if (status.state == "done" && status.seconds > 0) {
        estimated += mine.cost.seconds;
        taken += status.seconds;
      }
    }
    if (kept > 0)
      log::info(fmt::format("{} trials keep the gang layout that plan.json has for them; parallel.* on the command line changes it", kept));
    const auto left = options_.limits.deadline_seconds ? options_.limits.deadline_seconds : slurm_seconds_left();
    return {{"launch", launch_},
            {"trials", std::move(trials)},
            {"board", Board::length(options_.folder)},
            {"pace", estimated > 0 ? taken / estimated : 1.0},
            {"seconds_left", left ? Json(std::max(0.0, *left)) : Json()}};
  }

  /// Which trials need no attempt: failed ones by the journal, finished ones by their file, whatever the journal says. Ranks share the reading.
  std::vector<char> close_what_has_ended() {
    const auto ranks = static_cast<std::size_t>(world_.size()), rank = static_cast<std::size_t>(world_.rank());
    std::string mine;
    world_.agree(
        [&] {
          for (std::size_t i = rank; i < sweep_.trials.size(); i += ranks) mine += close_if_ended(i) ? '1' : '0';
        },
        "check of finished trials");
    const auto parts = world_.all_gather(mine, "check of finished trials");
    std::vector<char> closed(sweep_.trials.size());
    for (std::size_t i = 0; i < closed.size(); ++i) closed[i] = parts[i % ranks][i / ranks] == '1';
    gather_unreadable();
    return closed;
  }

  bool close_if_ended(std::size_t i) {
    using Kind = store::TrialFinding::Kind;
    const std::string& id = sweep_.trials[i].id;
    const Known& known = known_[i];
    const bool has_ended = known.state == "done" || known.state == "diverged";
    const fs::path file = trial_file(options_.folder, id);
    const store::TrialFinding found = find_trial_file(options_.folder, id, known.published);
    switch (found.kind) {
      case Kind::absent:
        if (has_ended) log::warning(fmt::format("{} is missing: the trial runs again", file.string()));
        return known.closed && !has_ended;
      case Kind::damaged: log::warning(fmt::format("{}: the trial runs again", found.why)); return false;
      case Kind::unreadable: leave_alone(i, found.why); return false;
      case Kind::valid: break;
    }
    drop_checkpoint(i);
    // It was published, and its writer died before the journal's line.
    if (!has_ended) {
      Json event = {{"trial", id}, {"attempt", last_attempt(trial_folder(options_.folder, id))}, {"launch", launch_}};
      event.update(fields_of_found(file, found));
      journal().write("ended", std::move(event));
    }
    return true;
  }

  /// Notes that a file of the trial cannot be read just now. Its files and what the journal says of it stay as they are.
  void leave_alone(std::size_t trial, const std::string& why) {
    if (passed_over(trial) || !unreadable_.emplace(trial, why).second) return;
    log::warning(fmt::format("trial {} is left alone: {}", sweep_.trials[trial].id, why));
  }

  /// Collective: what one rank found unreadable, all know.
  void gather_unreadable() {
    Json mine = Json::array();
    for (const auto& [trial, why] : unreadable_) mine.push_back({trial, why});
    for (const std::string& text : world_.all_gather(mine.dump(-1, ' ', false, Json::error_handler_t::replace), "unreadable trials"))
      for (const Json& entry : Json::parse(text)) unreadable_.emplace(entry[0].get<std::size_t>(), entry[1].get<std::string>());
  }

  void share_unreadable(Outcome& outcome) {
    gather_unreadable();
    for (const auto& [trial, why] : unreadable_) outcome.unreadable.emplace(sweep_.trials[trial].id, why);
  }

  /// The jobs of this launch: open trials that fit into this world. Those that do not are journaled as skipped.
  void choose(const std::vector<char>& closed, std::vector<plan::Job>& jobs) {
    std::vector<plan::Job> all;
    for (std::size_t i = 0; i < sweep_.trials.size(); ++i)
      all.push_back({sweep_.trials[i].id, sweep_.trials[i].config.ranks(), known_[i].seconds, true});
    const auto shards = plan::shards_of(all, options_.shard.count);
    std::set<std::size_t> skipped;
    world_.agree(
        [&] {
          for (const plan::Skipped& skip : plan::too_large(all, world_.size())) {
            if (closed[skip.job] != 0 || passed_over(skip.job) || unreadable_.contains(skip.job)) continue;
            skipped.insert(skip.job);
            if (world_.rank() != 0) continue;
            log::warning(fmt::format("trial {} is skipped: it {}", all[skip.job].id, skip.reason));
            journal().write(
                "ended",
                {{"trial", all[skip.job].id}, {"attempt", 0}, {"launch", launch_}, {"state", "skipped"}, {"reason", skip.reason}, {"seconds", 0.0}});
          }
        },
        "journal of skipped trials");
    for (std::size_t i = 0; i < all.size(); ++i) {
      if (closed[i] != 0 || skipped.contains(i) || passed_over(i) || unreadable_.contains(i)) continue;
      all[i].preferred = shards[i] == options_.shard.index;
      all[i].seconds *= known_[i].left;  // shards are those of whole trials, the same for every launch
      if (known_[i].suspect) {
        suspects_.insert(i);
      } else {
        jobs.push_back(all[i]);
        jobs_trial_.push_back(i);
      }
    }
    all_jobs_ = std::move(all);
  }

  /// One block of ranks, until nothing is left that fits. The leader decides and claims; the others do as it says.
  void work(const comm::Communicator& block, plan::Scheduler scheduler, const std::vector<std::size_t>& trial_of_job, bool alone) {
    std::map<std::string, std::size_t> job_of;
    if (block.rank() == 0)
      for (std::size_t job = 0; job < trial_of_job.size(); ++job) job_of[sweep_.trials[trial_of_job[job]].id] = job;
    std::vector<plan::Event> heard;        // by the leader, since the others were told last
    std::map<std::size_t, int> once_more;  // jobs whose attempt of that number has just ended here, with a budget for another
    const auto hear = [&](const plan::Event& event) {
      scheduler.on(event);
      heard.push_back(event);
    };
    for (;;) {
      Json order = {{"attempt", 0}, {"stop", false}, {"split", false}, {"heard", Json::array()}};
      plan::TimeLeft time;
      if (block.rank() == 0) {
        const auto begun = Clock::now();
        for (const std::string& id : board_->new_claims())
          if (const auto known = job_of.find(id); known != job_of.end() && !mine_.contains(id)) hear(plan::Taken{known->second});
        for (;;) {
          if (has_given_up()) {
            order["stop"] = gave_up_ = true;
            break;
          }
          time = time_left();
          const plan::Decision decision = scheduler.next(time);
          if (std::holds_alternative<plan::Split>(decision)) {
            order["split"] = true;
            break;
          }
          const auto* run = std::get_if<plan::Run>(&decision);
          if (run == nullptr) {
            order["stop"] = std::get<plan::Finish>(decision).no_time;
            break;
          }
          // A stop counts only when it leaves something undone.
          const std::size_t trial = trial_of_job[run->job];
          const std::string& id = sweep_.trials[trial].id;
          const bool stop = options_.stop != nullptr && options_.stop->load();
          const auto again = once_more.find(run->job);
          Claim claim;
          if (again == once_more.end()) claim = stop ? claims_->look(id, alone) : claims_->try_claim(id, alone);
          else if (stop) claim.result = Claim::Result::open;
          else claim = claims_->claim_again(id, again->second);
          ++dispatch_.claims_tried;
          if (claim.result == Claim::Result::open) {
            order["stop"] = true;
            break;
          }
          if (claim.result == Claim::Result::claimed) {
            ++dispatch_.claims_made;
            mine_.insert(id);
            board_->claimed(id);
            order["attempt"] = claim.attempt;
            order["run"] = run->job;
            break;
          }
          if (claim.result == Claim::Result::unreadable) leave_alone(trial, claim.why);
          if (claim.result == Claim::Result::suspect) suspects_.insert(trial);
          if (claim.result == Claim::Result::ended && (claim.state == "done" || claim.state == "diverged")) drop_checkpoint(trial);
          if (claim.result == Claim::Result::taken) hear(plan::Lost{run->job});
          else hear(plan::Taken{run->job});
        }
        for (const plan::Event& event : std::exchange(heard, {}))
          order["heard"].push_back({event.index(), std::visit([](const auto& known) { return known.job; }, event)});
        if (std::isfinite(time.seconds)) order["time"] = {time.seconds, time.whole, time.pace};
        dispatch_.seconds += seconds_since(begun);
      }
      order = Json::parse(block.broadcast(order.dump(), 0, "what the block does next"));
      if (block.rank() != 0)
        for (const Json& event : order["heard"]) scheduler.on(event_of(event[0].get<std::size_t>(), event[1].get<std::size_t>()));
      if (order["stop"].get<bool>()) {
        stopped_ = true;
        return;
      }
      if (order.contains("run")) {
        const auto job = order["run"].get<std::size_t>();
        const Ran ran = run_trial(block, trial_of_job[job], order["attempt"].get<int>());
        if (ran.state == "preempted") {
          stopped_ = true;
          return;
        }
        if (block.rank() != 0) continue;
        if (ran.once_more) once_more[job] = order["attempt"].get<int>();
        else hear(plan::Ended{job});
      } else if (order["split"].get<bool>()) {
        if (order.contains("time")) time = {order["time"][0], order["time"][1], order["time"][2]};
        const auto parts = std::get<plan::Split>(scheduler.next(time)).parts;
        const std::int64_t here = scheduler.block().first + block.rank();
        const auto part = std::ranges::find_if(parts, [&](const plan::Block& p) { return here >= p.first && here < p.first + p.ranks; });
        const auto ranks = block.split(static_cast<int>(part - parts.begin()));
        work(*ranks, scheduler.part(*part), trial_of_job, alone);
        return;
      } else {
        return;
      }
    }
  }

  static plan::Event event_of(std::size_t kind, std::size_t job) {
    if (kind == plan::Event(plan::Ended{}).index()) return plan::Ended{job};
    if (kind == plan::Event(plan::Lost{}).index()) return plan::Lost{job};
    return plan::Taken{job};
  }

  /// Suspects, one after the other, each with nothing else running in this launch: when the step dies, it was that trial.
  void work_alone(const comm::Communicator& everyone) {
    comm::watchdog::set_timeout(comm::watchdog::kNoTimeout);
    Json mine = Json::array();
    for (const std::size_t trial : suspects_) mine.push_back(trial);
    for (const std::string& text : everyone.all_gather(mine.dump(), "suspects"))
      for (const Json& trial : Json::parse(text)) suspects_.insert(trial.get<std::size_t>());
    for (const std::size_t trial : suspects_) {
      if (everyone.maximum(stopped_ || gave_up_ ? 1 : 0, "before a suspect") != 0) {
        stopped_ = true;
        return;
      }
      if (everyone.rank() == 0) log::info(fmt::format("trial {} runs alone: it was open when its step died", sweep_.trials[trial].id));
      const plan::Job job = all_jobs_[trial];
      work(everyone, plan::Scheduler({&job, 1}, {0, everyone.size()}), {trial}, true);
      comm::watchdog::set_timeout(comm::watchdog::kNoTimeout);
    }
  }

  /// Too many trials failed since this launch began, in whatever launch.
  bool has_given_up() {
    const auto& limits = options_.limits;
    if (!limits.fail_fast && !limits.max_failures) return false;
    return board_->failures() > (limits.fail_fast ? 0 : *limits.max_failures);
  }

  /// Another number for each launch, so that launches that share a folder part sooner.
  std::uint64_t salt() const { return std::hash<std::string>()(launch_); }

  plan::TimeLeft time_left() const {
    if (!deadline_) return {};
    return {std::chrono::duration<double>(*deadline_ - Clock::now()).count(), whole_seconds_, pace_};
  }

  /// How an attempt ended here, and on the leader whether the trial is tried again at once.
  struct Ran {
    std::string state;
    bool once_more = false;
  };

  Ran run_trial(const comm::Communicator& gang, std::size_t index, int attempt) {
    const spec::Trial& trial = sweep_.trials[index];
    const bool leader = gang.rank() == 0;
    const auto keyed = [&](Json fields) {
      Json event = {{"trial", trial.id}, {"attempt", attempt}};
      event.update(fields);
      return event;
    };
    // From the thread of the failure, on a rank of the gang that may not lead: a file of its own, and the charges as the journal has them.
    const auto culprit = [this, id = trial.id, attempt](const Ending& ending) {
      try {
        const History history(store::read_journal(options_.folder));
        const bool last = options_.limits.retries.exhausted(history.status_of(id), ending.state);
        store::JournalWriter(options_.folder, launch_, writer_ + "-culprit")
            .write("ended", {{"trial", id},
                             {"attempt", attempt},
                             {"launch", launch_},
                             {"culprit", true},
                             {"state", ending.state},
                             {"reason", ending.reason},
                             {"seconds", ending.seconds},
                             {"charged", true},
                             {"final", last}});
        if (last) board_->failed(id);
      } catch (const std::exception& error) {
        log::warning(fmt::format("the failure of trial {} is not in the journal: {}", id, error.what()));
      }
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
    AttemptContext context{runner_, options_, sources_, known_[index].digest, {{"launch", launch_}, {"attempt", attempt}}};
    context.on_culprit = culprit;
    context.deadline = deadline_;
    context.before_step = hook_of(options_.faults, index, trial.id, attempt, gang.rank());
    if (options_.limits.fail_fast) context.give_up = [this] { return has_given_up(); };
    context.on_failed_files = [&] { give_back(trial_folder(options_.folder, trial.id), attempt); };
    context.on_progress = [&](const train::StepReport& report) {
      Json fields = {{"step", report.step}, {"steps", report.steps}, {"tokens_per_second", report.tokens_per_second}};
      if (std::isfinite(report.loss)) fields["loss"] = report.loss;
      journal().write("progress", keyed(std::move(fields)));
    };
    const fs::path folder = trial_folder(options_.folder, trial.id);
    comm::watchdog::record_in(collective_file(folder, attempt, gang.rank()));
    const Ending ending = [&] {
      const LastWords words(
          options_.folder / "journal" / fmt::format("{}-{}-culprit.jsonl", launch_, writer_),
          keyed({{"launch", launch_}, {"culprit", true}, {"state", "crashed"}, {"seconds", 0.0}, {"charged", true}, {"final", false}}));
      return attempt_trial(trial.id, trial.config, folder, gang, context);
    }();
    comm::watchdog::record_in({});
    if (!leader) return {ending.state, false};
    ++ran_;
    if (ending.state == kUnreadable) {
      leave_alone(index, ending.reason);
      journal().write("ended", keyed({{"launch", launch_},
                                      {"state", "preempted"},
                                      {"reason", ending.reason},
                                      {"seconds", ending.seconds},
                                      {"charged", false},
                                      {"final", false}}));
      return {ending.state, false};
    }
    const bool failed = ending.state != "done" && ending.state != "preempted";
    const bool last = ending.state == "done" || (failed && options_.limits.retries.exhausted(claims_->history().status_of(trial.id), ending.state));
    Json fields = {{"launch", launch_},         {"state", ending.state}, {"reason", ending.reason},
                   {"seconds", ending.seconds}, {"charged", failed},     {"final", last}};
    const std::vector<std::string> warnings = add_results(fields, ending.record, folder / "trial.h5");
    const std::string loss = fields.contains("loss") ? fmt::format(", validation loss {:.4f}", fields["loss"].get<double>()) : "";
    if (!ending.published.sha256.empty()) fields["file"] = json_of(ending.published);
    journal().write("ended", keyed(std::move(fields)));
    const std::string line =
        fmt::format("trial {} {} in {:.1f} s{}{}{}", trial.id, ending.state, ending.seconds, loss, ending.reason.empty() ? "" : ": " + ending.reason,
                    warnings.empty() ? "" : fmt::format("; warning: {}", fmt::join(warnings, ", ")));
    if (ending.state != "done" || !warnings.empty()) log::warning(line);
    else if (display_ == Display::lines) log::info(line);
    if (failed && last) board_->failed(trial.id);
    if (failed && !last) claims_->read_journal();  // so that the next ending knows of this charge
    return {ending.state, failed && !last};
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
          Standings standings = standings_of(options_.folder, plan);
          for (const auto& [id, why] : outcome.unreadable) standings.set_unreadable(id, why);
          for (const auto& [state, count] : standings.counts) states[state] = count;
          told = states.dump();
        },
        "states of the sweep");
    const Json states = Json::parse(world_.broadcast(told, 0, "states of the sweep"));
    for (const auto& [state, count] : states.items()) outcome.states[state] = count.get<std::int64_t>();
  }

  /// Removes the checkpoint of a finished trial, which is there when its writer died right after publishing trial.h5.
  void drop_checkpoint(std::size_t index) const {
    const spec::Trial& trial = sweep_.trials[index];
    if (trial.config.checkpoint.keep == train::Keep::none) remove_own(trial_folder(options_.folder, trial.id) / "checkpoint.h5");
  }

  /// Whether the selection leaves the trial for another time.
  bool passed_over(std::size_t index) const { return sweep_.passed_over.contains(sweep_.trials[index].id); }

  std::vector<std::string> ids_to_run() const {
    std::vector<std::string> ids;
    for (const std::size_t index : jobs_trial_) ids.push_back(sweep_.trials[index].id);
    for (const std::size_t index : suspects_) ids.push_back(sweep_.trials[index].id);
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
  /// What rank 0 told of a trial of the sweep.
  struct Known {
    std::string digest, state;
    bool closed = false, suspect = false;
    double seconds = 0.0;        ///< estimated
    double left = 1.0;           ///< share of its steps that is left
    store::Published published;  ///< as the journal has its file
  };
  std::vector<Known> known_;                       // by trial of the sweep
  std::vector<plan::Job> all_jobs_;                // by trial of the sweep
  std::vector<std::size_t> jobs_trial_;            // job -> trial of the sweep
  std::set<std::size_t> suspects_;                 // trials of the sweep that have to run alone
  std::set<std::string> mine_;                     // claimed by this process
  std::map<std::size_t, std::string> unreadable_;  // trials of the sweep that are left alone, and why
  std::optional<Claims> claims_;
  std::optional<Board> board_;
  std::optional<Clock::time_point> deadline_;
  double whole_seconds_ = 0, pace_ = 1;
  Dispatch dispatch_;
  std::optional<store::JournalWriter> journal_;
  std::int64_t ran_ = 0;
  bool stopped_ = false, gave_up_ = false;
};

std::atomic<bool> stop_flag{false};
static_assert(std::atomic<bool>::is_always_lock_free, "a signal handler may only touch lock-free atomics");

void on_signal(int) { stop_flag.store(true); }

constexpr int kSignals[] = {SIGTERM, SIGINT, SIGUSR2};

}  // namespace

void limit_memory(double bytes) {
  const rlimit limit{static_cast<rlim_t>(bytes), static_cast<rlim_t>(bytes)};
  if (::setrlimit(RLIMIT_DATA, &limit) != 0)
    throw Error(ErrorKind::io, fmt::format("the system refuses a limit of {:.0f} bytes of private memory: {}", bytes, std::strerror(errno)),
                "--memory-limit");
}

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
  AttemptContext context{runner, options, sources, "", Json::object()};
  const std::string id = train::id_of(config);
  context.before_step = hook_of(options.faults, 0, id, 1, gang.rank());
  if (options.limits.deadline_seconds) context.deadline = in_seconds(*options.limits.deadline_seconds);
  // A folder that the user names may be a link; a trial's folder inside a sweep may not.
  std::error_code absent;
  const fs::path real = fs::is_symlink(folder, absent) ? fs::canonical(folder, absent) : folder;
  Ending ending = attempt_trial(id, config, absent ? folder : real, gang, context);
  if (ending.state == kUnreadable)
    throw Error(ErrorKind::io, ending.reason, "", "the trial stays open: run the same command again to go on").thrown_on_every_rank();
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
