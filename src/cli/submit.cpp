// `moesweep submit` and `moesweep cancel`: a sweep as Slurm jobs. No MPI: they run on login nodes.
#include "moesweep/launch/submit.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <memory>

#include "cli.hpp"
#include "moesweep/core/log.hpp"
#include "moesweep/core/text.hpp"
#include "moesweep/launch/folder.hpp"
#include "moesweep/launch/run.hpp"
#include "moesweep/plan/array.hpp"
#include "moesweep/plan/shard.hpp"
#include "moesweep/spec/presets.hpp"

namespace moesweep::cli {

namespace {

struct Options {
  std::string sweep, router, out, profile;
  std::vector<std::string> overrides;
  spec::Selection selection;
  launch::SubmitOptions submit;
  std::int64_t signal_seconds = 0;
  LimitOptions limits;
  bool json = false;

  /// What each element's `moesweep run` is given beside folder and shard.
  std::vector<std::string> run_options() const {
    std::vector<std::string> words;
    for (const std::string& text : selection.only) words.push_back("--only=" + text);
    for (const std::string& text : selection.skip) words.push_back("--skip=" + text);
    for (std::string& word : limits.words()) words.push_back(std::move(word));
    return words;
  }
};

std::string call_in_words(const std::vector<std::string>& command) {
  std::string text;
  for (const std::string& word : command) text += (text.empty() ? "" : " ") + launch::shell_word(word);
  return text;
}

std::string text_of(const launch::Submission& made, bool dry_run) {
  std::string text;
  for (const std::string& warning : made.warnings) log::warning(warning);
  if (!made.note.empty()) return made.folder.string() + ": " + made.note + "\n";
  if (dry_run)
    for (const launch::SubmittedJob& job : made.jobs) text += fmt::format("==> {}\n{}\n", job.script.string(), job.text);
  if (dry_run || made.submitted) {
    text +=
        fmt::format("{}: {} of {} trials open, {} shard{} of {} rank{}, time limit {} (USR2 {} s before it)\n", made.sweep, made.pending, made.trials,
                    made.shards, made.shards == 1 ? "" : "s", made.ranks, made.ranks == 1 ? "" : "s", made.time, made.signal_seconds);
  }
  if (dry_run) {
    for (const launch::SubmittedJob& job : made.jobs) text += call_in_words(job.command) + "\n";
    return text + "(a dry run: nothing was written or submitted)\n";
  }
  if (!made.submitted) return text + made.folder.string() + ": nothing was missing of the earlier submission\n";
  std::vector<std::vector<std::string>> rows{{"job", "id", "elements"}};
  for (const launch::SubmittedJob& job : made.jobs) rows.push_back({job.kind, job.job.empty() ? "left out" : job.job, job.array});
  text += table(rows);
  if (made.start_estimate) text += fmt::format("start: about {}, as Slurm estimates it\n", *made.start_estimate);
  text += fmt::format("next: moesweep status {0}    moesweep cancel {0}    logs in {1}\n", launch::shell_word(made.folder.string()),
                      launch::shell_word((made.folder / "slurm" / "logs").string()));
  return text;
}

}  // namespace

void add_submit(CLI::App& app, Invocation& invocation) {
  auto options = std::make_shared<Options>();
  CLI::App* sub = subcommand(app, "submit", "Submit a sweep to Slurm: arrays of shards, then the aggregate and the report. The same command goes on.",
                             "moesweep submit scale35x --ranks 16 --shards 8 --profile mysite");
  launch::SubmitOptions& submit = options->submit;
  const auto time = readable_by([](const std::string& text) { (void)plan::parse_time(text); });
  sub->add_option("SWEEP", options->sweep, "sweep file, or the name of one in configs/sweeps")->required();
  sub->add_option("OVERRIDE", options->overrides, "key=value, key=[a,b] (an axis), +key=value, ~key");
  sub->add_option("--router", options->router, "a preset for all trials, before the overrides");
  sub->add_option("--out", options->out, "sweep folder (default: runs/NAME)");
  add_selection(*sub, options->selection);
  sub->add_option("--profile", options->profile, "site profile: a file, or a name in $MOESWEEP_PROFILES or configs/profiles");
  sub->add_option("--shards", submit.shards, "elements of the array")->check(integer_in(1, plan::kMostShards));
  sub->add_option("--ranks", submit.ranks, "ranks of a shard (default: the largest gang)")->check(integer_in(1, plan::kMostRanks));
  sub->add_option("--nodes", submit.nodes, "nodes of a shard")->check(integer_in(1, plan::kMostRanks));
  sub->add_option("--time", submit.time, "time limit of an element, as sbatch takes it")->check(time);
  sub->add_option("--signal-seconds", options->signal_seconds, "USR2 so long before it (300, at most a quarter of it)")->check(integer_in(1, 65535));
  sub->add_option("--throttle", submit.throttle, "elements that run at a time")->check(integer_in(1, plan::kMostShards));
  sub->add_option("--after", submit.after, "start after this job has ended, however")->check(readable_by(launch::require_job_id));
  sub->add_option("--patience", submit.patience_seconds, "seconds that a busy controller is asked again (600)")->check(number_in(0, 1e7));
  sub->add_option("--call-timeout", submit.call_seconds, "seconds of one call of Slurm (60)")->check(number_in(0.1, 1e5));
  sub->add_flag("--again", submit.again, "although an array of this folder is in the queue");
  sub->add_flag("--dry-run", submit.dry_run, "print scripts and calls; write nothing");
  sub->add_flag("--json", options->json, "the summary as JSON");
  add_limits(*sub, options->limits);
  sub->callback([options, &invocation] {
    launch::SubmitOptions& mine = options->submit;
    spec::Sweep sweep = spec::load_sweep(options->sweep, spec::with_router(options->router, options->overrides), options->selection);
    if (!options->profile.empty()) mine.profile = spec::load_profile(options->profile);
    mine.folder = options->out.empty() ? launch::default_folder(sweep.name) : std::filesystem::path(options->out);
    // Read here, so that a slip is told now and not by each element.
    LimitOptions limits = options->limits;
    limits.check();
    limits.memory_limit.clear();
    launch::RunOptions read;
    limits.apply(read);
    mine.retries = read.limits.retries;
    mine.command_line = invocation.command_line;
    mine.libraries = {{"hdf5", MOESWEEP_HDF5_VERSION}, {"libtorch", MOESWEEP_TORCH_VERSION}};
    mine.run_options = options->run_options();
    mine.layout_given = std::ranges::any_of(options->overrides, names_layout);
    if (options->signal_seconds > 0) mine.signal_seconds = options->signal_seconds;
    const launch::Submission made = launch::submit(sweep, mine);
    if (options->json) print_json(made.json());
    else print(text_of(made, mine.dry_run));
    invocation.exit_code = ExitCode::ok;
  });
}

void add_cancel(CLI::App& app, Invocation& invocation) {
  struct Cancel {
    std::string folder;
    launch::CancelOptions options;
    bool json = false;
  };
  auto cancel = std::make_shared<Cancel>();
  CLI::App* sub = subcommand(app, "cancel", "Cancel what was submitted for a sweep folder and is in the queue; running trials write checkpoints.",
                             "moesweep cancel runs/scale35x --keep-aggregate");
  sub->add_option("DIR", cancel->folder, "sweep folder")->required();
  sub->add_flag("--keep-aggregate", cancel->options.keep_aggregate, "the aggregate and the report stay, and run now");
  sub->add_option("--patience", cancel->options.patience_seconds, "seconds that a busy controller is asked again (600)")->check(number_in(0, 1e7));
  sub->add_option("--call-timeout", cancel->options.call_seconds, "seconds of one call of Slurm (60)")->check(number_in(0.1, 1e5));
  sub->add_flag("--json", cancel->json, "as JSON");
  sub->callback([cancel, &invocation] {
    const auto done = launch::cancel(cancel->folder, cancel->options);
    if (cancel->json) {
      Json list = Json::array();
      for (const launch::SubmittedJob& job : done) list.push_back({{"kind", job.kind}, {"job", job.job}, {"name", job.name}});
      print_json({{"cancelled", std::move(list)}});
    } else {
      std::string text;
      for (const launch::SubmittedJob& job : done) text += fmt::format("cancelled: {} {}\n", printable_line(job.kind), printable_line(job.job));
      print(text.empty() ? fmt::format("{}: none of its jobs is in the queue\n", printable_line(cancel->folder)) : text);
    }
    invocation.exit_code = ExitCode::ok;
  });
}

}  // namespace moesweep::cli
