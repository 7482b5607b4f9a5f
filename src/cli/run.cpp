// The subcommands that need MPI: run, train, aggregate.
#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>

#include "cli.hpp"
#include "moesweep/core/log.hpp"
#include "moesweep/core/publish.hpp"
#include "moesweep/core/text.hpp"
#include "moesweep/launch/aggregate.hpp"
#include "moesweep/launch/run.hpp"
#include "moesweep/launch/status.hpp"
#include "moesweep/spec/presets.hpp"
#include "moesweep/train/named_files.hpp"
#include "moesweep/train/trial.hpp"
#include "moesweep/train/warnings.hpp"

namespace moesweep::cli {

namespace {

void add_verify_data(CLI::App& sub, bool& verify_data) {
  sub.add_flag("--verify-data", verify_data,
               "digest all token files again; otherwise only those that this machine has not seen, or that have another size, inode or time");
}

data::DigestCheck check_of(bool verify_data) { return verify_data ? data::DigestCheck::always : data::DigestCheck::cached; }

/// The real thing: train's run_trial, with the process prepared before the first.
launch::Runner trainer(data::DigestCheck check) {
  launch::Runner runner;
  runner.open_data = [check](const data::DataConfig& config) { return data::open_source(config, check); };
  runner.libraries = {{"hdf5", MOESWEEP_HDF5_VERSION}, {"libtorch", MOESWEEP_TORCH_VERSION}};
  runner.run_trial = [](const train::TrialConfig& config, const data::Source& source, const comm::Communicator& gang,
                        const train::RunOptions& options) {
    static std::once_flag prepared;
    std::call_once(prepared, train::prepare_process);
    return train::run_trial(config, source, gang, options);
  };
  return runner;
}

std::string in_words(const std::map<std::string, std::int64_t>& states) {
  std::string text;
  for (const auto& [state, count] : states) text += fmt::format("{}{} {}", text.empty() ? "" : ", ", count, state);
  return text;
}

/// Tells, before anything runs, which files of other trials cannot be used: each trial that names one will fail.
void warn_of_named_files(const spec::Sweep& sweep) {
  train::NamedFiles files;
  for (const spec::Trial& trial : sweep.trials)
    if (!sweep.passed_over.contains(trial.id)) files.see(trial.id, trial.config);
  for (const auto& problem : files.problems()) log::warning(problem.sentence());
}

Json numbers(const std::map<std::string, double>& values) {
  Json object = Json::object();
  for (const auto& [name, value] : values) object[name] = std::isfinite(value) ? Json(value) : Json();
  return object;
}

/// The error of trials that were left alone, each with its file and what is wrong.
Error error_of(const std::map<std::string, std::string>& unreadable) {
  std::string text;
  for (const auto& [id, why] : unreadable) text += fmt::format("\n  {}: {}", id, why);
  return {ErrorKind::io,
          fmt::format("{} trial{} left alone, since a file cannot be read just now:{}", unreadable.size(), unreadable.size() == 1 ? " was" : "s were",
                      text),
          "", "nothing of them was changed: see to the files, then run the same command again"};
}

}  // namespace

void add_run(CLI::App& app, Invocation& invocation) {
  struct Options {
    std::string sweep, router, out, shard = "0/1";
    std::vector<std::string> overrides;
    spec::Selection selection;
    LimitOptions limits;
    double progress_seconds = launch::RunOptions().progress_seconds;
    bool verify_data = false;
  };
  auto options = std::make_shared<Options>();
  CLI::App* sub = subcommand(app, "run",
                             "Run the trials of a sweep on the ranks at hand (mpirun, srun --mpi=pmix, or alone).\n"
                             "Running it again goes on where it was; a finished sweep does nothing. Several launches may share a folder.",
                             "mpirun -n 2 moesweep run quickstart train.steps=50 --out runs/short");
  sub->add_option("SWEEP", options->sweep, "sweep file, or the name of one in configs/sweeps")->required();
  sub->add_option("OVERRIDE", options->overrides, "key=value, key=[a,b] (an axis), +key=value, ~key");
  sub->add_option("--router", options->router, "a preset for all trials (`moesweep routers` lists them), before the overrides");
  sub->add_option("--out", options->out, "sweep folder (default: runs/NAME)");
  add_selection(*sub, options->selection);
  sub->add_option("--shard", options->shard, "i/n: first the i-th of n parts, i from 0; then what nobody has claimed")
      ->check(readable_by([](const std::string& text) { (void)plan::parse_shard(text); }));
  sub->add_option("--progress-seconds", options->progress_seconds, "a running trial tells the journal its step, loss and tokens/s so often (30)")
      ->check(number_in(0, kMostSeconds));
  add_verify_data(*sub, options->verify_data);
  add_limits(*sub, options->limits);
  sub->callback([options, &invocation] {
    const plan::Shard shard = plan::parse_shard(options->shard);
    invocation.exit_code = with_mpi([&](const comm::Communicator& world) {
      log::configure(world.rank(), world.size());
      train::choose_gpu(world);
      spec::Sweep sweep;
      launch::RunOptions run;
      world.agree(
          [&] {
            sweep = spec::load_sweep(options->sweep, spec::with_router(options->router, options->overrides), options->selection);
            options->limits.apply(run);
            run.folder = options->out.empty() ? launch::default_folder(sweep.name) : std::filesystem::path(options->out);
          },
          "reading of the sweep file");
      if (world.rank() == 0) warn_of_named_files(sweep);
      const launch::StopSignals signals;
      run.shard = shard;
      run.progress_seconds = options->progress_seconds;
      run.layout_given = std::ranges::any_of(options->overrides, names_layout);
      run.command_line = invocation.command_line;
      run.stop = &signals.flag();
      const launch::Outcome outcome = launch::run_sweep(sweep, run, trainer(check_of(options->verify_data)), world);
      if (world.rank() == 0) {
        print(fmt::format("{}: {}\n", printable_line(run.folder.string()), in_words(outcome.states)));
        if (outcome.gave_up) log::warning("too many trials failed: none is started any more (--max-failures, --fail-fast)");
        else if (outcome.stopped) log::warning("stopped by a signal or for lack of time: the same command goes on from the checkpoints");
      }
      if (world.rank() == 0 && !outcome.unreadable.empty()) report(error_of(outcome.unreadable));
      if (outcome.gave_up) return ExitCode::some_trials_failed;
      if (outcome.stopped) return ExitCode::requeue;
      if (!outcome.unreadable.empty()) return ExitCode::io;
      return launch::any_failed(outcome.states) ? ExitCode::some_trials_failed : ExitCode::ok;
    });
  });
}

namespace {

/// The folder's config.yaml is replaced by that of the trial `id`: an `io` error when it is another trial's, or somebody's own.
void require_own_config(const std::filesystem::path& file, const std::string& id) {
  if (is_absent(file)) return;
  std::string found;
  try {
    found = train::id_of(spec::load_trial(file.string()));
  } catch (const Error&) {
  }
  if (found != id) throw Error(ErrorKind::io, "it is there already, and it is not this trial's", file.string(), "choose another folder with --out");
}

}  // namespace

void add_train(CLI::App& app, Invocation& invocation) {
  struct Options {
    std::string trial, router, out;
    std::vector<std::string> overrides;
    LimitOptions limits;
    bool verify_data = false;
  };
  auto options = std::make_shared<Options>();
  CLI::App* sub = subcommand(app, "train", "Train one trial on all ranks of this world. A trial's own config.yaml reproduces it.",
                             "moesweep train runs/quickstart/trials/3f/3fa1c2.../config.yaml --out runs/again");
  sub->add_option("TRIAL", options->trial, "YAML file of one trial")->required();
  sub->add_option("OVERRIDE", options->overrides, "key=value");
  sub->add_option("--router", options->router, "a preset (`moesweep routers` lists them), before the overrides");
  sub->add_option("--out", options->out, "folder of its files (default: runs/train-ID)");
  add_verify_data(*sub, options->verify_data);
  add_limits(*sub, options->limits, /*one_trial=*/true);
  sub->callback([options, &invocation] {
    invocation.exit_code = with_mpi([&](const comm::Communicator& world) {
      log::configure(world.rank(), world.size());
      train::choose_gpu(world);
      train::TrialConfig config;
      std::filesystem::path folder, file;
      std::string id;
      bool there = false;
      store::TrialFinding found;
      launch::RunOptions run;
      world.agree(
          [&] {
            options->limits.apply(run);
            config = spec::load_trial(options->trial, spec::with_router(options->router, options->overrides));
            id = train::id_of(config);
            folder = options->out.empty() ? std::filesystem::path("runs") / ("train-" + id) : std::filesystem::path(options->out);
            file = folder / "trial.h5";
            require_replaceable(file);
            require_own_config(folder / "config.yaml", id);
            found = store::find_trial(file, id);
            there = found.valid();
            if (found.kind == store::TrialFinding::Kind::unreadable)
              throw Error(ErrorKind::io, found.why, file.string(), "see to the file, or choose another folder with --out");
            if (found.kind == store::TrialFinding::Kind::damaged)
              throw Error(ErrorKind::io, "it is there already, and not this trial: " + found.why, file.string(), "choose another folder with --out");
            if (config.ranks() != world.size())
              throw Error(ErrorKind::config,
                          fmt::format("the trial needs {} ranks (parallel.expert * parallel.data), this world has {}", config.ranks(), world.size()),
                          "", fmt::format("start it on {} ranks, or give parallel.data={}", config.ranks(), world.size()));
          },
          "reading of the trial's file");
      const launch::StopSignals signals;
      run.command_line = invocation.command_line;
      run.stop = &signals.flag();
      // Ranks look at the file at different times: it is there when all of them saw it.
      there = world.minimum(there ? 1 : 0, "look for a finished trial") != 0;
      store::TrialRecord record;
      if (!there) record = launch::run_single(config, folder, run, trainer(check_of(options->verify_data)), world);
      if (world.rank() == 0) {
        if (there) {
          log::info(fmt::format("nothing to do: {} holds this trial", file.string()));
          record = std::move(found.record);
        }
        Json results = Json::object();
        print_json({{"id", id},
                    {"state", record.state},
                    {"reason", record.reason},
                    {"file", file.string()},
                    {"metrics", numbers(launch::metrics_of(record, file))},
                    {"warnings", launch::add_results(results, record, file)}});
      }
      const bool stopped = world.maximum(record.state == "preempted" ? 1 : 0, "end of the trial") != 0;
      const bool done = world.maximum(record.state == "done" ? 1 : 0, "end of the trial") != 0;
      return stopped ? ExitCode::requeue : done ? ExitCode::ok : ExitCode::some_trials_failed;
    });
  });
}

void add_aggregate(CLI::App& app, Invocation& invocation) {
  struct Options {
    std::string folder, out;
  };
  auto options = std::make_shared<Options>();
  CLI::App* sub = subcommand(app, "aggregate",
                             "Collect a sweep folder into one file: a row for every trial, finished or not. Any number of ranks gives the same file.",
                             "mpirun -n 2 moesweep aggregate runs/quickstart");
  sub->add_option("DIR", options->folder, "sweep folder")->required();
  sub->add_option("--out", options->out, "file to write (default: DIR/sweep.h5)");
  sub->callback([options, &invocation] {
    invocation.exit_code = with_mpi([&](const comm::Communicator& world) {
      log::configure(world.rank(), world.size());
      const launch::Aggregation made = launch::aggregate(world, options->folder, options->out);
      if (world.rank() == 0) print(fmt::format("{}: {} trials, {} done\n", printable_line(made.file.string()), made.rows, made.done));
      return ExitCode::ok;
    });
  });
}

}  // namespace moesweep::cli
