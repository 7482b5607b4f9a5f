// See include/moesweep/launch/submit.hpp.
#include "moesweep/launch/submit.hpp"

#include <fmt/core.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <random>
#include <set>
#include <sstream>

#include "moesweep/core/error.hpp"
#include "moesweep/core/foreign_json.hpp"
#include "moesweep/core/log.hpp"
#include "moesweep/core/publish.hpp"
#include "moesweep/core/text.hpp"
#include "moesweep/core/version.hpp"
#include "moesweep/data/source.hpp"
#include "moesweep/launch/folder.hpp"
#include "moesweep/launch/provenance.hpp"
#include "moesweep/launch/status.hpp"
#include "moesweep/plan/array.hpp"
#include "moesweep/plan/machine.hpp"
#include "moesweep/plan/scheduler.hpp"
#include "moesweep/store/journal.hpp"
#include "script.hpp"
#include "slurm.hpp"

namespace moesweep::launch {

namespace fs = std::filesystem;

namespace {

constexpr std::int64_t kUsualSignalSeconds = 300;

/// Whether something is there. What cannot be looked at is an `io` error: it may be there.
bool is_there(const fs::path& path) {
  std::error_code code;
  const fs::file_status status = fs::status(path, code);
  if (status.type() == fs::file_type::not_found) return false;
  if (code) throw_io("cannot look at it", path, code.value());
  return true;
}

/// Held for one submit or cancel of a folder at a time; released by closing, so also by death.
class SubmitLock {
 public:
  explicit SubmitLock(const fs::path& slurm_folder) : file_(open_to_append(slurm_folder / ".lock")) {
    if (::flock(file_, LOCK_EX | LOCK_NB) == 0) return;
    ::close(file_);
    throw Error(ErrorKind::usage, "another submit or cancel of this folder is at work", slurm_folder.parent_path().string(),
                "wait until it has ended");
  }
  ~SubmitLock() { ::close(file_); }
  SubmitLock(const SubmitLock&) = delete;
  SubmitLock& operator=(const SubmitLock&) = delete;

 private:
  int file_;
};

/// submissions.jsonl: a line per event.
///   submission: token, shards, ranks, time_limit, inherit, export, command_line, jobs [{kind, name, array, script}]
///   submitted:  name, job        cancelled: name, job        abandoned: token
/// What goes from it into a command is checked: names and tokens are plain words, jobs are numbers, scripts lie in DIR/slurm.
/// `inherit` and `export`, which sbatch's --export was given, are names of variables.
class Records {
 public:
  struct Entry {
    std::string token, time, time_limit, export_list;
    std::int64_t shards = 0, ranks = 0, signal_seconds = 0;
    std::vector<std::string> inherit;
    std::vector<SubmittedJob> jobs;
    bool abandoned = false;

    bool anything_submitted() const {
      return std::ranges::any_of(jobs, [](const SubmittedJob& job) { return !job.job.empty(); });
    }
  };

  explicit Records(const fs::path& sweep_folder) : file_(sweep_folder / "slurm" / "submissions.jsonl") {
    if (!is_there(file_)) return;
    // The last line may have been cut by a full disk or a power failure: it has no end, and is not read.
    store::for_each_line(
        file_,
        [&](std::size_t number, std::string_view text) {
          try {
            const std::string where = fmt::format("{}:{}", file_.string(), number);
            apply(parse_json(text, where), where);
          } catch (const Error& error) {
            if (!text.empty()) pass_over(number, error.message());
          }
        },
        [&](std::size_t number) { pass_over(number, "it is too long"); });
  }

  std::vector<Entry>& entries() { return entries_; }
  const std::vector<Entry>& entries() const { return entries_; }
  bool is_cancelled(const std::string& job) const { return cancelled_.contains(job); }

  std::vector<std::string> names() const {
    std::vector<std::string> names;
    for (const Entry& entry : entries_)
      for (const SubmittedJob& job : entry.jobs) names.push_back(job.name);
    return names;
  }
  /// The recorded job of that name, or null.
  const SubmittedJob* find(const std::string& name) const {
    for (const Entry& entry : entries_)
      for (const SubmittedJob& job : entry.jobs)
        if (job.name == name) return &job;
    return nullptr;
  }

  /// Appends the event, which is on disk when this returns.
  void write(const std::string& kind, const Json& fields) {
    Json event = {{"time", utc_now()}, {"event", kind}};
    event.update(fields);
    const std::string line = event.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
    const int file = open_to_append(file_);
    // A line that was cut stays one line of its own.
    struct stat status {};
    char last = '\n';
    const bool torn = ::fstat(file, &status) == 0 && status.st_size > 0 && ::pread(file, &last, 1, status.st_size - 1) == 1 && last != '\n';
    const std::string text = torn ? "\n" + line : line;
    errno = 0;
    const auto written = ::write(file, text.data(), text.size());
    const int code = written == static_cast<ssize_t>(text.size()) && ::fsync(file) == 0 ? 0 : errno == 0 ? ENOSPC : errno;
    ::close(file);
    if (code != 0) throw_io("cannot write", file_, code);
    apply(event, file_.string());
  }

 private:
  void pass_over(std::size_t line, const std::string& why) const {
    log::warning(fmt::format("{}{}: no record of a submission, passed over: {}", file_.string(), line > 0 ? fmt::format(":{}", line) : "", why));
  }

  /// A text of letters, digits and `-_.`, which does not begin with a '-': it is a word of a command, or a part of a name.
  static std::string word_in(const JsonView& parent, const char* key) {
    constexpr std::size_t kMostBytes = 255;
    const JsonView field = parent[key];
    std::string text = field.text(kMostBytes);
    const auto is_plain = [](unsigned char c) { return std::isalnum(c) != 0 || c == '-' || c == '_' || c == '.'; };
    if (text.empty() || text[0] == '-' || !std::ranges::all_of(text, is_plain)) field.refuse("a word of letters, digits and - _ .");
    return text;
  }

  static std::string job_in(const JsonView& event) {
    const JsonView field = event["job"];
    constexpr std::size_t kMostDigits = 20;
    std::string text = field.text(kMostDigits);
    if (text.empty() || text.find_first_not_of("0123456789") != std::string::npos) field.refuse("the number of a job");
    return text;
  }

  SubmittedJob submitted_in(const JsonView& job) const {
    SubmittedJob made;
    const JsonView kind = job["kind"], array = job["array"];
    made.kind = kind.text();
    if (made.kind != "array" && made.kind != "aggregate" && made.kind != "report") kind.refuse("array, aggregate or report");
    made.name = word_in(job, "name");
    made.array = array.text();
    if (made.array.find_first_not_of("0123456789-,:%") != std::string::npos) array.refuse("indices of an array");
    // The folder may have got another name since: its scripts went with it.
    const JsonView script = job["script"];
    const std::string name = fs::path(script.text()).filename().string();
    if (!name.ends_with(".sbatch") || !(name.starts_with("array") || name == "aggregate.sbatch" || name == "report.sbatch"))
      script.refuse("array*.sbatch, aggregate.sbatch or report.sbatch");
    made.script = file_.parent_path() / name;
    return made;
  }

  void apply(const Json& json, const std::string& where) {
    const JsonView event(json, where);
    const std::string kind = event["event"].text();
    if (kind == "submission") {
      constexpr std::int64_t kMost = std::int64_t{1} << 31;
      Entry entry;
      entry.token = word_in(event, "token");
      for (const auto& [name, field] : {std::pair("shards", &entry.shards), {"ranks", &entry.ranks}, {"signal_seconds", &entry.signal_seconds}})
        if (const auto value = event.find(name)) *field = value->integer(0, kMost);
      for (const auto& [name, field] : {std::pair("time", &entry.time), {"time_limit", &entry.time_limit}})
        if (const auto value = event.find(name)) *field = value->text();
      const auto is_plain = [](unsigned char c) { return std::isalnum(c) != 0 || c == '_' || c == ','; };
      if (const auto names = event.find("export"))
        if (entry.export_list = names->text(); !std::ranges::all_of(entry.export_list, is_plain)) names->refuse("names of variables");
      if (const auto names = event.find("inherit")) entry.inherit = names->texts();
      for (const JsonView& job : event["jobs"].elements()) entry.jobs.push_back(submitted_in(job));
      entries_.push_back(std::move(entry));
    } else if (kind == "submitted") {
      const std::string name = word_in(event, "name"), number = job_in(event);
      for (Entry& entry : entries_)
        for (SubmittedJob& job : entry.jobs)
          if (job.name == name) job.job = number;
    } else if (kind == "cancelled") {
      cancelled_.insert(job_in(event));
    } else if (kind == "abandoned") {
      const std::string token = word_in(event, "token");
      for (Entry& entry : entries_)
        if (entry.token == token) entry.abandoned = true;
    }
  }

  fs::path file_;
  std::vector<Entry> entries_;
  std::set<std::string> cancelled_;
};

/// Eight hexadecimal digits that no other submission has.
std::string new_token() {
  std::random_device device;
  return fmt::format("{:08x}", static_cast<std::uint32_t>(device()));
}

fs::path this_program() {
  std::error_code error;
  const fs::path program = fs::read_symlink("/proc/self/exe", error);
  if (error) throw Error(ErrorKind::io, "the program's own path is not known", "/proc/self/exe");
  return program;
}

/// moesweep-report: as the profile says, else beside the program, in the checkout's virtual environment, or on PATH. Empty: none.
std::string find_report(const spec::SiteProfile& profile, const fs::path& program) {
  if (profile.report == "none") return "";
  std::error_code none;
  const auto runs = [&](const fs::path& path) { return ::access(path.c_str(), X_OK) == 0 && !fs::is_directory(path, none); };
  if (profile.report != "auto") {
    if (!runs(profile.report))
      throw Error(ErrorKind::config, fmt::format("report: {} is no program", profile.report), profile.file.string(), "give its path, auto or none");
    return fs::absolute(profile.report).string();
  }
  std::vector<fs::path> places{program.parent_path() / "moesweep-report"};
  for (fs::path above = program.parent_path(); above.has_relative_path(); above = above.parent_path())
    if (fs::exists(above / "CMakeLists.txt", none)) places.push_back(above / ".venv" / "bin" / "moesweep-report");
  if (const char* path = std::getenv("PATH")) {
    std::istringstream folders(path);
    for (std::string folder; std::getline(folders, folder, ':');)
      if (!folder.empty()) places.push_back(fs::path(folder) / "moesweep-report");
  }
  for (const fs::path& place : places)
    if (runs(place)) return fs::absolute(place).string();
  return "";
}

std::vector<std::pair<std::string, std::string>> environment_of_jobs() {
  std::vector<std::pair<std::string, std::string>> environment;
  environment.emplace_back("MOESWEEP_DATA", fs::absolute(data::data_folder()).string());
  if (const char* configs = std::getenv("MOESWEEP_CONFIGS"); configs != nullptr && *configs != '\0')
    environment.emplace_back("MOESWEEP_CONFIGS", fs::absolute(configs).string());
  environment.emplace_back("OMP_NUM_THREADS", "1");
  return environment;
}

/// Throws a `usage` error that names the first variable that is not set.
void require_set(const std::vector<std::string>& names, const fs::path& profile) {
  for (const std::string& name : names)
    if (std::getenv(name.c_str()) == nullptr)
      throw Error(ErrorKind::usage,
                  fmt::format("{} is not set: `inherit` of the site profile takes its value from the environment of this command", name),
                  profile.string(), fmt::format("`export {}=...` in this shell, then run the same command again", name));
}

/// What is inherited must stay out of every file: a `config` error names a variable that the scripts set or the provenance of the results tells.
void require_untold(const spec::SiteProfile& profile) {
  for (const std::string& name : profile.inherit)
    if (is_told(name))
      throw Error(ErrorKind::config, fmt::format("inherit: the value of {} is written into the results, and what is inherited is for no file", name),
                  profile.file.string(), "give it under `environment` instead");
}

/// A folder is made in it, or is there; never a link to one.
void make_own_folder(const fs::path& folder) {
  std::error_code failure;
  const fs::file_status there = fs::symlink_status(folder, failure);
  if (fs::is_symlink(there)) throw Error(ErrorKind::io, "it is a link, and nothing is written through one", folder.string(), "remove it yourself");
  failure.clear();
  fs::create_directories(folder, failure);
  if (failure) throw Error(ErrorKind::io, fmt::format("cannot make the folder: {}", failure.message()), folder.string());
}

constexpr std::string_view kWrittenBy = "Written by moesweep ";

/// An `io` error unless the script is absent or one that an earlier submission wrote.
void require_own_script(const fs::path& script) {
  constexpr std::size_t kMostBytes = std::size_t{1} << 20;
  require_replaceable(script);
  if (std::error_code none; !fs::exists(script, none)) return;
  std::istringstream lines(read_text(script, kMostBytes));
  std::string line;
  for (int i = 0; i < 3 && std::getline(lines, line);) {
    if (line.starts_with("# " + std::string(kWrittenBy))) return;
    ++i;
  }
  throw Error(ErrorKind::io, "`moesweep submit` would write its script here, and this is a file that it did not make", script.string(),
              "move it away, or choose another folder with --out");
}

Slurm slurm_of(double patience_seconds, double call_seconds) {
  return Slurm({patience_seconds, call_seconds,
                [](const std::string& words, double seconds) { log::warning(fmt::format("{}; asked again in {:.0f} s", words, seconds)); }});
}

class Submitter {
 public:
  Submitter(const spec::Sweep& sweep, const SubmitOptions& options)
      : sweep_(sweep), options_(options), folder_(fs::absolute(options.folder)), slurm_(slurm_of(options.patience_seconds, options.call_seconds)) {
    require_slurm_path(folder_);
    result_.sweep = sweep.name;
    result_.folder = options.folder;
  }

  Submission run() {
    require_untold(options_.profile);
    require_set(options_.profile.inherit, options_.profile.file);
    if (!options_.profile.inherit.empty()) {
      const char* given = std::getenv("SBATCH_EXPORT");
      export_list_ = export_list(options_.profile.inherit, options_.profile.sbatch, given == nullptr ? "" : given);
    }
    const std::vector<plan::Job> open = options_.dry_run ? open_jobs_unprepared() : open_jobs();
    result_.pending = static_cast<std::int64_t>(open.size());
    if (options_.dry_run) {
      write_scripts(open);
      return std::move(result_);
    }
    make_own_folder(folder_ / "slurm");
    make_own_folder(folder_ / "slurm" / "logs");
    const SubmitLock lock(folder_ / "slurm");
    Records records(folder_);
    std::set<std::string> active;  // ids of jobs in the queue
    bool array_in_queue = false;
    if (!records.entries().empty()) {
      for (const QueuedJob& queued : slurm_.jobs_named(records.names())) {
        const SubmittedJob* known = records.find(queued.name);
        if (known == nullptr) continue;
        // A call that had no answer has submitted it after all.
        if (known->job.empty()) records.write("submitted", {{"name", queued.name}, {"job", queued.job}});
        if (!queued.is_active() || (records.is_cancelled(queued.job) && queued.state == "COMPLETING")) continue;
        active.insert(queued.job);
        array_in_queue |= known->kind == "array";
      }
    }
    Records::Entry* last = records.entries().empty() ? nullptr : &records.entries().back();
    const bool cut = last != nullptr && !last->abandoned && std::ranges::any_of(last->jobs, [](const SubmittedJob& job) { return job.job.empty(); });
    if (cut && last->anything_submitted() && !options_.again) {
      go_on(records, *last, active, open.empty());
      return std::move(result_);
    }
    if (open.empty()) {
      result_.note = fmt::format("nothing to submit: all {} trials have ended", result_.trials);
      return std::move(result_);
    }
    if (array_in_queue && !options_.again)
      throw Error(
          ErrorKind::usage, "an array of this folder is in the queue already", options_.folder.string(),
          fmt::format("`moesweep status {0}` shows it, `moesweep cancel {0}` takes it out, --again submits one more", options_.folder.string()));
    if (cut) records.write("abandoned", {{"token", last->token}});
    write_scripts(open);
    Json jobs = Json::array();
    for (const SubmittedJob& job : result_.jobs)
      jobs.push_back({{"kind", job.kind}, {"name", job.name}, {"array", job.array}, {"script", job.script.string()}});
    records.write("submission", {{"token", token_},
                                 {"version", version()},
                                 {"shards", result_.shards},
                                 {"ranks", result_.ranks},
                                 {"time_limit", result_.time},
                                 {"signal_seconds", result_.signal_seconds},
                                 {"pending", result_.pending},
                                 {"profile", options_.profile.file.string()},
                                 {"inherit", options_.profile.inherit},
                                 {"export", export_list_},
                                 {"run_options", options_.run_options},
                                 {"command_line", options_.command_line},
                                 {"jobs", std::move(jobs)}});
    result_.start_estimate = slurm_.start_estimate(result_.jobs.front().script.string());
    submit_missing(records, active, false);
    return std::move(result_);
  }

 private:
  bool passed_over(const std::string& id) const { return sweep_.passed_over.contains(id); }

  /// The trials that have not ended, after the folder was prepared as `run` does it.
  std::vector<plan::Job> open_jobs() {
    Json facts = provenance(options_.command_line, std::max<std::int64_t>(options_.ranks, 1), options_.libraries);
    facts["start"] = utc_now();
    const auto digest = [](const data::DataConfig& config) { return data::open_source(config)->digest(); };
    const SweepPlan plan = prepare_folder(options_.folder, sweep_, facts, digest, options_.layout_given);
    const Standings standings = standings_of(options_.folder, plan);
    std::map<std::string, const PlannedTrial*> planned;
    for (const PlannedTrial& trial : plan.trials) planned[trial.id] = &trial;
    std::vector<plan::Job> jobs;
    for (const TrialStanding& trial : standings.trials) {
      if (trial.removed || passed_over(trial.id)) continue;
      ++result_.trials;
      const PlannedTrial& mine = *planned.at(trial.id);
      if (!needs_no_attempt(trial.status, options_.retries)) add(jobs, trial.id, mine.cost, mine.config);
    }
    return jobs;
  }

  /// The same without touching the folder, which need not be there.
  std::vector<plan::Job> open_jobs_unprepared() {
    std::map<std::string, store::TrialStatus> states;
    if (is_there(options_.folder / "plan.json"))
      for (const TrialStanding& trial : standings_of(options_.folder, read_outline(options_.folder)).trials) states[trial.id] = trial.status;
    std::vector<plan::Job> jobs;
    const plan::MachineSpeed speed = plan::machine_speed();
    for (const spec::Trial& trial : sweep_.trials) {
      if (passed_over(trial.id)) continue;
      ++result_.trials;
      if (const auto known = states.find(trial.id); known == states.end() || !needs_no_attempt(known->second, options_.retries))
        add(jobs, trial.id, plan::cost_of(trial.config, speed), trial.config);
    }
    return jobs;
  }

  void add(std::vector<plan::Job>& jobs, const std::string& id, const plan::TrialCost& cost, const train::TrialConfig& config) {
    jobs.push_back({id, cost.ranks, cost.seconds, true});
    threads_ = std::max(threads_, config.parallel.threads);
  }

  /// Plans the jobs and makes their scripts; writes them unless this is a dry run.
  void write_scripts(const std::vector<plan::Job>& open) {
    if (!options_.after.empty()) require_job_id(options_.after);
    plan::ArrayOptions wishes;
    wishes.shards = options_.shards;
    wishes.ranks = options_.ranks;
    try {
      wishes.max_array_size = slurm_.max_array_size();
    } catch (const Error& error) {
      if (!options_.dry_run) throw;
      result_.warnings.push_back(fmt::format("arrays of at most {} elements are assumed: {}", wishes.max_array_size, error.message()));
    }
    const std::string& time = options_.time.empty() ? options_.profile.time : options_.time;
    try {
      if (!time.empty()) wishes.limit_seconds = plan::parse_time(time);
    } catch (const Error& error) {
      throw Error(error.kind(), error.message(), options_.time.empty() ? options_.profile.file.string() + ": time" : "--time", error.hint());
    }
    const plan::ArrayPlan numbers = plan::plan_array(open, wishes);
    const double limit = time.empty() ? numbers.walltime_seconds : wishes.limit_seconds;
    token_ = new_token();
    result_.shards = numbers.shards;
    result_.ranks = numbers.ranks;
    result_.time = std::isfinite(limit) ? plan::slurm_time(limit) : "UNLIMITED";
    if (options_.signal_seconds && static_cast<double>(*options_.signal_seconds) >= limit)
      throw Error(ErrorKind::usage, fmt::format("the signal would come {} s before a limit of {}", *options_.signal_seconds, result_.time), "",
                  "give a longer --time or a shorter --signal-seconds");
    // What was not asked for with this very limit is at most a quarter of it: the trials need the rest.
    const double most = std::max(1.0, std::floor(limit / 4));
    const std::int64_t usual = options_.profile.signal_seconds.value_or(kUsualSignalSeconds);
    result_.signal_seconds = options_.signal_seconds.value_or(static_cast<double>(usual) > most ? static_cast<std::int64_t>(most) : usual);
    if (numbers.skipped > 0)
      result_.warnings.push_back(fmt::format("{} of {} trials need more than {} ranks and would be skipped: give more --ranks", numbers.skipped,
                                             open.size(), numbers.ranks));
    if (numbers.requeues) result_.warnings.push_back("the time limit is shorter than a shard needs: elements go back into the queue and go on");
    Scripts scripts;
    scripts.sweep = sweep_.name;
    scripts.origin = fmt::format("{}{} at {} for `moesweep submit`, token {}.", kWrittenBy, version(), utc_now(), token_);
    scripts.program = this_program();
    scripts.folder = folder_;
    scripts.working_folder = fs::current_path();
    scripts.report_program = find_report(options_.profile, scripts.program);
    scripts.run_options = options_.run_options;
    scripts.environment = environment_of_jobs();
    scripts.profile = options_.profile;
    scripts.shards = numbers.shards;
    scripts.ranks = numbers.ranks;
    scripts.nodes = options_.nodes;
    scripts.threads = threads_;
    scripts.throttle = options_.throttle;
    scripts.signal_seconds = result_.signal_seconds;
    scripts.time = result_.time;
    const fs::path place = folder_ / "slurm";
    const std::string stem = fmt::format("moesweep-{}-{}", plain_name(sweep_.name), token_);
    const auto& chunks = numbers.chunks;
    for (std::size_t i = 0; i < chunks.size(); ++i) {
      const std::string number = chunks.size() > 1 ? fmt::format("-{}", i) : "";
      const std::string name = stem + number;
      result_.jobs.push_back({"array",
                              name,
                              "",
                              chunks[i].indices() + (options_.throttle > 0 ? fmt::format("%{}", options_.throttle) : ""),
                              place / ("array" + number + ".sbatch"),
                              array_script(scripts, name, chunks[i]),
                              {}});
    }
    result_.jobs.push_back(
        {"aggregate", stem + "-aggregate", "", "", place / "aggregate.sbatch", aggregate_script(scripts, stem + "-aggregate"), {}});
    if (!scripts.report_program.empty())
      result_.jobs.push_back({"report", stem + "-report", "", "", place / "report.sbatch", report_script(scripts, stem + "-report"), {}});
    else if (options_.profile.report != "none") result_.warnings.push_back("no report job: moesweep-report is not installed beside the program");
    for (SubmittedJob& job : result_.jobs) job.command = command_of(job, result_.jobs, nullptr);
    if (options_.dry_run) return;
    for (const SubmittedJob& job : result_.jobs) require_own_script(job.script);
    for (const SubmittedJob& job : result_.jobs) publish_text(job.script, job.text, 0777);
  }

  /// The sbatch call of a job. Of the jobs that it waits for, those outside `active` are left out where that is given: they have ended.
  std::vector<std::string> command_of(const SubmittedJob& job, const std::vector<SubmittedJob>& jobs, const std::set<std::string>* active) const {
    std::string after = job.kind == "array" ? (options_.after.empty() ? "" : ":" + options_.after) : "";
    const std::string waits_for = job.kind == "aggregate" ? "array" : job.kind == "report" ? "aggregate" : "";
    for (const SubmittedJob& other : jobs) {
      if (other.kind != waits_for) continue;
      if (active == nullptr) after += ":JOB_OF_" + other.name;
      else if (!other.job.empty() && active->contains(other.job)) after += ":" + other.job;
    }
    std::vector<std::string> command{"sbatch", "--parsable"};
    if (!after.empty()) command.push_back("--dependency=afterany" + after);
    if (!export_list_.empty()) command.push_back("--export=" + export_list_);
    command.push_back(job.script.string());
    return command;
  }

  /// Completes an earlier submission that was cut short.
  void go_on(Records& records, const Records::Entry& entry, std::set<std::string> active, bool nothing_open) {
    result_.continued = true;
    token_ = entry.token;
    result_.jobs = entry.jobs;
    result_.shards = entry.shards;
    result_.ranks = entry.ranks;
    result_.time = entry.time_limit;
    result_.signal_seconds = entry.signal_seconds;
    require_set(entry.inherit, folder_ / "slurm" / "submissions.jsonl");
    export_list_ = entry.export_list;
    log::info(fmt::format("going on with the submission of {}, which was cut short: its scripts and options stand", entry.time));
    submit_missing(records, std::move(active), nothing_open);
  }

  void submit_missing(Records& records, std::set<std::string> active, bool without_arrays) {
    for (SubmittedJob& job : result_.jobs) {
      if (!job.job.empty() || (job.kind == "array" && without_arrays)) continue;
      job.command = command_of(job, result_.jobs, &active);
      try {
        job.job = slurm_.submit(job.name, job.command);
      } catch (const Error& error) {
        give_up(records, error);
      }
      records.write("submitted", {{"name", job.name}, {"job", job.job}, {"command", job.command}});
      active.insert(job.job);
      result_.submitted = true;
    }
  }

  /// Says what was submitted until then.
  [[noreturn]] void give_up(Records& records, const Error& error) {
    std::string done;
    for (const SubmittedJob& job : result_.jobs)
      if (!job.job.empty()) done += fmt::format("{}{} {}", done.empty() ? "" : ", ", job.kind, job.job);
    // What Slurm refused as a whole is not gone on with: the next call may have other options.
    if (done.empty() && error.kind() == ErrorKind::config) records.write("abandoned", {{"token", token_}});
    if (done.empty()) throw error;
    throw Error(error.kind(), error.message() + fmt::format("; submitted until then, and recorded: {}", done), error.where(),
                error.hint() + (error.hint().empty() ? "" : "; ") + "the same command submits what is missing, and that alone");
  }

  const spec::Sweep& sweep_;
  const SubmitOptions& options_;
  fs::path folder_;
  Slurm slurm_;
  Submission result_;
  std::string token_;
  std::string export_list_;  ///< sbatch's --export; empty: not given
  std::int64_t threads_ = 1;
};

void require_sweep_folder(const fs::path& folder) { (void)read_outline(folder); }

int rank_of_kind(const std::string& kind) { return kind == "array" ? 0 : kind == "aggregate" ? 1 : 2; }

}  // namespace

Json Submission::json() const {
  Json list = Json::array();
  for (const SubmittedJob& job : jobs) {
    Json entry = {{"kind", job.kind}, {"name", job.name}, {"job", nullptr}, {"script", job.script.string()}, {"command", job.command}};
    if (!job.job.empty()) entry["job"] = job.job;
    if (!job.array.empty()) entry["array"] = job.array;
    if (!job.text.empty() && !submitted) entry["text"] = job.text;
    list.push_back(std::move(entry));
  }
  return {{"sweep", sweep},
          {"folder", folder.string()},
          {"submitted", submitted},
          {"continued", continued},
          {"note", note},
          {"trials", trials},
          {"pending", pending},
          {"shards", shards},
          {"ranks", ranks},
          {"time_limit", time},
          {"signal_seconds", signal_seconds},
          {"start_estimate", start_estimate ? Json(*start_estimate) : Json()},
          {"warnings", warnings},
          {"jobs", std::move(list)}};
}

void require_job_id(const std::string& text) {
  if (text.empty() || text.find_first_not_of("0123456789_:") != std::string::npos)
    throw Error(ErrorKind::usage, fmt::format("'{}' is no job id", text), "--after", "give the number that sbatch printed");
}

Submission submit(const spec::Sweep& sweep, const SubmitOptions& options) { return Submitter(sweep, options).run(); }

std::vector<SubmittedJob> cancel(const fs::path& sweep_folder, const CancelOptions& options) {
  require_sweep_folder(sweep_folder);
  std::vector<SubmittedJob> cancelled;
  if (!is_there(sweep_folder / "slurm" / "submissions.jsonl")) return cancelled;
  const SubmitLock lock(sweep_folder / "slurm");
  Records records(sweep_folder);
  Slurm slurm = slurm_of(options.patience_seconds, options.call_seconds);
  std::set<std::string> seen;
  for (const QueuedJob& queued : slurm.jobs_named(records.names())) {
    const SubmittedJob* known = records.find(queued.name);
    if (known == nullptr || !queued.is_active() || queued.state == "COMPLETING" || seen.contains(queued.job)) continue;
    if (options.keep_aggregate && known->kind != "array") continue;
    seen.insert(queued.job);
    SubmittedJob job = *known;
    job.job = queued.job;
    cancelled.push_back(std::move(job));
  }
  // What waits for others goes first, so that it does not begin when they end.
  std::ranges::stable_sort(cancelled, std::greater<>(), [](const SubmittedJob& job) { return rank_of_kind(job.kind); });
  for (const SubmittedJob& job : cancelled) {
    slurm.cancel({job.job});
    records.write("cancelled", {{"name", job.name}, {"job", job.job}});
  }
  if (!records.entries().empty() && !options.keep_aggregate) {
    const Records::Entry& last = records.entries().back();
    const bool cut = std::ranges::any_of(last.jobs, [](const SubmittedJob& job) { return job.job.empty(); });
    if (cut && !last.abandoned) records.write("abandoned", {{"token", last.token}});
  }
  return cancelled;
}

Json QueueEntry::json() const {
  Json why = Json::object();
  for (const auto& [reason, count] : reasons) why[reason] = count;
  return {{"kind", kind},
          {"job", job},
          {"name", name},
          {"pending", pending},
          {"running", running},
          {"reasons", std::move(why)},
          {"start", start.empty() ? Json() : Json(start)}};
}

std::optional<std::vector<QueueEntry>> queue_of(const fs::path& sweep_folder, double limit_seconds) {
  if (std::error_code none; !fs::exists(sweep_folder / "slurm" / "submissions.jsonl", none)) return std::nullopt;
  const Records records(sweep_folder);
  const auto queued = ask_queue(records.names(), limit_seconds);
  if (!queued) return std::nullopt;
  std::vector<QueueEntry> entries;
  for (const Records::Entry& entry : records.entries())
    for (const SubmittedJob& job : entry.jobs) {
      QueueEntry here{job.kind, job.job, job.name, 0, 0, {}, ""};
      for (const QueuedJob& each : *queued) {
        if (each.name != job.name || !each.is_active()) continue;
        here.job = each.job;
        if (!each.is_pending()) {
          ++here.running;
          continue;
        }
        ++here.pending;
        if (!each.reason.empty()) ++here.reasons[each.reason];
        if (!each.start.empty() && (here.start.empty() || each.start < here.start)) here.start = each.start;
      }
      if (here.pending + here.running > 0) entries.push_back(std::move(here));
    }
  return entries;
}

}  // namespace moesweep::launch
