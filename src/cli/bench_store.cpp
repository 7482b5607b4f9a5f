// What files cost on this machine: bench store.
#include <fmt/core.h>
#include <malloc.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <fstream>
#include <limits>
#include <map>
#include <memory>
#include <thread>

#include "cli.hpp"
#include "moesweep/core/log.hpp"
#include "moesweep/core/publish.hpp"
#include "moesweep/core/version.hpp"
#include "moesweep/launch/aggregate.hpp"
#include "moesweep/launch/provenance.hpp"
#include "moesweep/launch/status.hpp"
#include "moesweep/store/journal.hpp"
#include "moesweep/store/plain_reader.hpp"

namespace moesweep::cli {

namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

/// Four trials a seed: the reference router and three numbers of experts a token.
spec::Sweep synthetic_sweep(std::int64_t trials) {
  spec::Sweep sweep;
  sweep.name = "bench-store";
  sweep.resolved = {{"sweep", "bench-store"}, {"trials", trials}};
  for (std::int64_t i = 0; i < trials; ++i) {
    spec::Trial trial;
    trial.config.data.domains = {"a", "b", "c", "d", "e", "f", "g", "h"};
    trial.config.seed = i / 4 + 1;
    if (i % 4 == 0) trial.config.routing.select = "reference";
    else trial.config.routing.top_k = std::int64_t{1} << (i % 4);
    trial.id = train::id_of(trial.config);
    sweep.trials.push_back(std::move(trial));
  }
  return sweep;
}

/// The record of a trial of 50 steps, 10 evaluations, 2 MoE layers, 8 domains, 32 experts: what a trial of the quickstart leaves, with numbers made
/// up.
store::TrialRecord synthetic_record(const train::TrialConfig& config, const std::string& id, const std::string& provenance) {
  constexpr std::int64_t kSteps = 50, kEvaluations = 10, kLayers = 2, kDomains = 8, kExperts = 32;
  store::TrialRecord record;
  record.id = id;
  record.state = "done";
  train::TrialConfig mine = config;
  record.config = canonical(fields_of(mine).dump());
  record.provenance = provenance;
  std::uint64_t state = std::stoull(id.substr(0, 15), nullptr, 16) | 1;
  const auto next = [&state] {
    state = state * 6364136223846793005ULL + 1442695040888963407ULL;
    return state >> 40;
  };
  const auto reals = [&](const std::string& path, const std::vector<std::int64_t>& shape, const std::string& unit, bool metric) {
    std::int64_t count = 1;
    for (const auto dimension : shape) count *= dimension;
    std::vector<double> values(static_cast<std::size_t>(count));
    for (double& value : values) value = static_cast<double>(next()) / 16777216.0;
    record.arrays.push_back(store::make_array(path, shape, values, unit, "made up for a measurement", metric));
  };
  const auto integers = [&](const std::string& path, const std::vector<std::int64_t>& shape, const std::string& unit, bool metric) {
    std::int64_t count = 1;
    for (const auto dimension : shape) count *= dimension;
    std::vector<std::int64_t> values(static_cast<std::size_t>(count));
    for (auto& value : values) value = static_cast<std::int64_t>(next() % 4096);
    record.arrays.push_back(store::make_array(path, shape, values, unit, "made up for a measurement", metric));
  };
  integers("steps/step", {kSteps}, "step", false);
  for (const char* name : {"loss", "balance_loss", "z_loss", "learning_rate", "gradient_norm", "tokens_per_second", "seconds"})
    reals(std::string("steps/") + name, {kSteps}, "1", false);
  for (const char* name : {"max_violation_micro_batch", "max_violation_global_batch"})
    reals(std::string("steps/") + name, {kSteps, kLayers}, "1", false);
  integers("evaluations/step", {kEvaluations}, "step", false);
  for (const char* reading : {"", "greedy."}) {
    const std::string prefix = std::string("evaluations/") + reading;
    for (const char* name : {"loss", "bits_per_byte"}) {
      reals(prefix + name, {kEvaluations}, "nats per token", true);
      reals(prefix + name + "_by_domain", {kEvaluations, kDomains}, "nats per token", false);
    }
    integers(prefix + "counts", {kEvaluations, kLayers, kDomains, kExperts}, "pairs", false);
    integers(prefix + "dead_experts", {kEvaluations, kLayers}, "experts", true);
    for (const char* name : {"utilisation", "expert_entropy", "purity_expert", "purity_expert_unweighted", "purity_reference", "domain_information",
                             "nmi", "max_violation"})
      reals(prefix + name, {kEvaluations, kLayers}, "1", true);
  }
  for (const char* name : {"parameters_total", "parameters_active", "training_tokens"}) integers(std::string("summary/") + name, {1}, "1", true);
  reals("summary/training_seconds", {1}, "s", true);
  return record;
}

/// This process' memory now ("VmRSS:") or at its peak ("VmHWM:") since `forget_peak`, where the kernel allows that; 0 where it is not told.
std::int64_t memory_bytes(std::string_view which) {
  std::ifstream in("/proc/self/status");
  for (std::string line; std::getline(in, line);)
    if (line.starts_with(which)) return std::stoll(line.substr(which.size())) * 1024;
  return 0;
}
/// Gives back what is free, so that work that comes cannot hide in it.
void forget_peak() {
  ::malloc_trim(0);
  std::ofstream("/proc/self/clear_refs") << "5";
}

/// Runs `work` on rank 0 while the other ranks sleep: a waiting rank of MPI takes a whole core.
void on_first(const comm::Communicator& world, const std::function<void()>& work, const char* what) {
  std::exception_ptr failure;
  if (world.rank() == 0) {
    try {
      work();
    } catch (...) {
      failure = std::current_exception();
    }
  }
  MPI_Request request = MPI_REQUEST_NULL;
  comm::check(MPI_Ibarrier(world.native(), &request), "MPI_Ibarrier");
  for (int done = 0; done == 0;) {
    comm::check(MPI_Test(&request, &done, MPI_STATUS_IGNORE), "MPI_Test");
    if (done == 0) std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  world.agree(
      [&] {
        if (failure) std::rethrow_exception(failure);
      },
      what);
}

/// Trial files that each number of ranks writes, to see how writing scales.
constexpr std::size_t kWritesTried = 500;

/// Memory of each rank at its peak: of the whole process, and what a piece of work added.
struct Peaks {
  std::vector<std::int64_t> whole, own;
};

struct StoreBenchOptions {
  std::int64_t trials = 1000, repeats = 3;
  std::string folder;
  bool json = false;
};

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return (values[(values.size() - 1) / 2] + values[values.size() / 2]) / 2;
}

struct Throughput {
  double seconds = 0.0;
  std::int64_t trials = 0, bytes = 0;

  Json json() const {
    return {{"seconds", seconds},
            {"trials_per_second", static_cast<double>(trials) / seconds},
            {"megabytes_per_second", static_cast<double>(bytes) / seconds / 1e6}};
  }
};

/// Makes the folder of a sweep whose trials all ended, without their files, by rank 0. Gives the names that those are to have.
std::vector<fs::path> plan_of(const comm::Communicator& world, const fs::path& folder, const spec::Sweep& sweep) {
  std::vector<fs::path> files;
  for (const auto& trial : sweep.trials) files.push_back(launch::trial_file(folder, trial.id));
  on_first(
      world,
      [&] {
        launch::prepare_folder(folder, sweep, {{"made_by", "moesweep bench store"}}, [](const data::DataConfig&) { return "none"; });
        for (const auto& file : files) fs::create_directories(file.parent_path());
        // What a launch writes, without a flush for each line.
        std::ofstream journal(folder / "journal" / "bench-0.jsonl");
        for (const auto& trial : sweep.trials) {
          const Json attempt = {{"trial", trial.id}, {"attempt", 1}};
          for (const char* event : {"started", "progress", "progress", "ended"}) {
            Json line = {{"event", event}, {"time", "2026-01-31T12:00:00.000Z"}};
            line.update(attempt);
            if (std::string_view(event) == "progress") line.update({{"step", 25}, {"loss", 3.5}, {"tokens_per_second", 12345.6}});
            if (std::string_view(event) == "ended") line.update({{"state", "done"}, {"reason", ""}, {"seconds", 12.5}, {"step", 50}, {"loss", 3.25}});
            journal << line.dump() << "\n";
          }
        }
        if (!journal.flush()) throw Error(ErrorKind::io, "cannot write the journal", folder.string());
      },
      "making of a sweep folder");
  return files;
}

Json measure(const comm::Communicator& world, const StoreBenchOptions& options, const fs::path& folder) {
  const auto note = [&](const std::string& what) {
    if (world.rank() == 0) log::info(what);
  };
  const spec::Sweep sweep = synthetic_sweep(options.trials);
  const fs::path all = folder / "all", tenth = folder / "tenth", trying = folder / "writes";
  const std::vector<fs::path> files = plan_of(world, all, sweep);
  const std::string provenance = canonical(launch::provenance({"moesweep", "bench", "store"}, 1, {}));

  // Writes the first `count` files by some of the ranks. Each is flushed and published as a trial does it, without waiting for the others.
  std::map<std::size_t, store::Published> published;  // by this rank
  const auto write = [&](std::size_t count, int ranks, const std::function<fs::path(std::size_t)>& name) {
    world.barrier("start of writing");
    const auto begin = Clock::now();
    std::int64_t bytes = 0;
    world.agree(
        [&] {
          for (auto i = static_cast<std::size_t>(world.rank()); world.rank() < ranks && i < count; i += static_cast<std::size_t>(ranks)) {
            published[i] = store::write_trial(name(i), synthetic_record(sweep.trials[i].config, sweep.trials[i].id, provenance));
            bytes += static_cast<std::int64_t>(fs::file_size(name(i)));
          }
        },
        "writing of trial files");
    return Throughput{seconds_since(begin), static_cast<std::int64_t>(count), world.sum(bytes, "bytes of trial files")};
  };
  note(fmt::format("writing {} trial files", options.trials));
  const Throughput writing = write(files.size(), world.size(), [&](std::size_t i) { return files[i]; });
  // What a launch journals of its files: readers know their bytes.
  const auto journal_files = [&](const fs::path& sweep_folder, std::size_t count) {
    world.agree(
        [&] {
          std::ofstream journal(sweep_folder / "journal" / fmt::format("files-{}.jsonl", world.rank()));
          for (const auto& [i, file] : published)
            if (i < count)
              journal << Json{{"event", "ended"}, {"trial", sweep.trials[i].id}, {"attempt", 1}, {"state", "done"}, {"reason", ""},
                              {"seconds", 12.5},  {"file", store::json_of(file)}}
                             .dump()
                      << "\n";
          if (!journal.flush()) throw Error(ErrorKind::io, "cannot write the journal", sweep_folder.string());
        },
        "journal of trial files");
  };
  journal_files(all, files.size());
  Json writes = Json::array();
  for (int ranks = 1; ranks <= world.size(); ranks *= 2) {
    on_first(
        world,
        [&] {
          fs::remove_all(trying);
          fs::create_directories(trying);
        },
        "folder of trial files");
    Json row = {{"ranks", ranks}};
    row.update(
        write(std::min<std::size_t>(files.size(), kWritesTried), ranks, [&](std::size_t i) { return trying / fmt::format("{}.h5", i); }).json());
    writes.push_back(std::move(row));
  }
  on_first(
      world, [&] { fs::remove_all(trying); }, "removal of trial files");

  // A tenth of them as a sweep of its own: how memory grows.
  spec::Sweep few = sweep;
  few.trials.resize(static_cast<std::size_t>((options.trials + 9) / 10));
  const std::vector<fs::path> links = plan_of(world, tenth, few);
  on_first(
      world,
      [&] {
        for (std::size_t i = 0; i < links.size(); ++i) fs::create_hard_link(files[i], links[i]);
      },
      "links to trial files");

  const auto peaks = [&](const std::function<void()>& work) {
    world.barrier("start");
    forget_peak();
    const std::int64_t before = memory_bytes("VmRSS:");
    work();
    const Json mine = {memory_bytes("VmHWM:"), memory_bytes("VmHWM:") - before};
    Peaks told;
    for (const auto& text : world.all_gather(mine.dump(), "peaks of memory")) {
      const Json theirs = Json::parse(text);
      told.whole.push_back(theirs[0]);
      told.own.push_back(theirs[1]);
    }
    return told;
  };
  Throughput status{0.0, options.trials, 0};
  on_first(
      world,
      [&] {
        for (const auto& entry : fs::directory_iterator(all / "journal")) status.bytes += static_cast<std::int64_t>(entry.file_size());
        const auto begin = Clock::now();
        launch::standings_of(all, launch::read_outline(all));
        status.seconds = seconds_since(begin);
      },
      "status");
  note("aggregating");
  journal_files(tenth, links.size());
  launch::aggregate(world, tenth);  // what libraries set up once is no trial's
  if (world.rank() == 0) fs::remove(tenth / "sweep.h5");
  const auto few_peaks = peaks([&] { launch::aggregate(world, tenth); });
  store::PlainReading read;
  std::vector<double> reading_seconds, aggregating_seconds, again_seconds, ratios;
  Peaks all_peaks;
  launch::Aggregation second;
  for (std::int64_t repeat = 0; repeat < options.repeats; ++repeat) {
    on_first(
        world,
        [&] {
          const auto begin = Clock::now();
          read = store::read_plainly(files);
          reading_seconds.push_back(seconds_since(begin));
        },
        "the plain reader");
    if (world.rank() == 0) fs::remove(all / "sweep.h5");
    all_peaks = peaks([&] {
      const auto start = Clock::now();
      launch::aggregate(world, all);
      aggregating_seconds.push_back(seconds_since(start));
    });
    const auto start = Clock::now();
    second = launch::aggregate(world, all);
    again_seconds.push_back(seconds_since(start));
    if (world.rank() == 0) ratios.push_back(reading_seconds.back() / aggregating_seconds.back());
  }
  if (world.rank() != 0) return {};
  const auto throughput = [&](const std::vector<double>& seconds) {
    Json row = Throughput{median(seconds), options.trials, writing.bytes}.json();
    row["all_seconds"] = seconds;
    return row;
  };
  std::vector<double> growth;  // of each rank
  for (std::size_t rank = 0; rank < all_peaks.own.size(); ++rank)
    growth.push_back(static_cast<double>(all_peaks.own[rank] - few_peaks.own[rank]) /
                     static_cast<double>(std::max<std::size_t>(files.size() - few.trials.size(), 1)));
  return {{"version", fmt::format("moesweep {} ({})", version(), git_version())},
          {"ranks", world.size()},
          {"trials", options.trials},
          {"repeats", options.repeats},
          {"trial_file", {{"bytes", writing.bytes / options.trials}, {"datasets", read.datasets / std::max<std::int64_t>(read.files, 1)}}},
          {"sweep_file", {{"bytes", static_cast<std::int64_t>(fs::file_size(all / "sweep.h5"))}}},
          {"write", writing.json()},
          {"writes", std::move(writes)},
          {"plain_reader", throughput(reading_seconds)},
          {"aggregate", throughput(aggregating_seconds)},
          {"aggregate_again", throughput(again_seconds)},
          {"again", {{"files_read", second.files_read}, {"rows_kept", second.rows_kept}}},
          {"ratio", median(ratios)},
          {"ratios", ratios},
          {"memory",
           {{"few_trials", few.trials.size()},
            {"few_peak_bytes", few_peaks.whole},
            {"peak_bytes", all_peaks.whole},
            {"few_own_bytes", few_peaks.own},
            {"own_bytes", all_peaks.own},
            {"growth_bytes_per_trial", growth}}},
          {"status", {{"seconds", status.seconds}, {"journal_bytes", status.bytes}}}};
}

std::string in_words(const Json& bench) {
  std::vector<std::vector<std::string>> rows{{"what", "seconds", "trials/s", "MB/s"}};
  const auto add = [&](const std::string& what, const Json& row) {
    rows.push_back({what, fmt::format("{:.3f}", row["seconds"].get<double>()), fmt::format("{:.1f}", row["trials_per_second"].get<double>()),
                    fmt::format("{:.1f}", row["megabytes_per_second"].get<double>())});
  };
  const auto ranks = bench["ranks"].get<int>();
  for (const Json& row : bench["writes"]) add(fmt::format("some trial files written, {} ranks", row["ranks"].get<int>()), row);
  add(fmt::format("trial files written, {} ranks", ranks), bench["write"]);
  add("plain HDF5 reader, serial", bench["plain_reader"]);
  add(fmt::format("aggregate, {} ranks", ranks), bench["aggregate"]);
  add("aggregate again, nothing new", bench["aggregate_again"]);
  std::int64_t few = 0, all = 0;
  for (const auto bytes : bench["memory"]["few_peak_bytes"].get<std::vector<std::int64_t>>()) few = std::max(few, bytes);
  for (const auto bytes : bench["memory"]["peak_bytes"].get<std::vector<std::int64_t>>()) all = std::max(all, bytes);
  return fmt::format(
      "{} trials of {} datasets, {}\n\n{}\naggregate against the plain reader: {:.2f}\npeak memory of a rank: {} at {} trials, {} at {}\nstatus: "
      "{:.3f} s\n",
      bench["trials"].get<std::int64_t>(), bench["trial_file"]["datasets"].get<std::int64_t>(),
      bytes_in_words(bench["trial_file"]["bytes"].get<double>()), table(rows), bench["ratio"].get<double>(), bytes_in_words(static_cast<double>(few)),
      bench["memory"]["few_trials"].get<std::int64_t>(), bytes_in_words(static_cast<double>(all)), bench["trials"].get<std::int64_t>(),
      bench["status"]["seconds"].get<double>());
}

}  // namespace

void add_bench_store(CLI::App& group, Invocation& invocation) {
  auto options = std::make_shared<StoreBenchOptions>();
  CLI::App* sub =
      subcommand(group, "store",
                 "What files cost: makes a sweep folder of synthetic trials, aggregates it on the ranks at hand, and holds that against one\n"
                 "serial program that opens each trial file and reads every dataset by plain HDF5 calls. Also: peak memory of each rank at a tenth\n"
                 "of the trials and at all, trial files written per second by 1, 2, 4 ... ranks, aggregating again with nothing new, and `status`.",
                 "mpirun -n 2 moesweep bench store --trials 10000 --json");
  sub->add_option("--trials", options->trials, "trials of the sweep, about 110 KiB each")->check(integer_in(1, 1000000))->capture_default_str();
  sub->add_option("--repeats", options->repeats, "measurements of reading and aggregating, in turn: the median counts")
      ->check(integer_in(1, 1000))
      ->capture_default_str();
  sub->add_option("--folder", options->folder, "new folder for the files, kept (default: a temporary one, removed)");
  sub->add_flag("--json", options->json, "as JSON");
  sub->callback([options, &invocation] {
    invocation.exit_code = with_mpi([&](const comm::Communicator& world) {
      log::configure(world.rank(), world.size());
      std::string made;
      world.agree(
          [&] {
            if (world.rank() != 0) return;
            if (options->folder.empty()) {
              std::string pattern = (fs::temp_directory_path() / "moesweep-bench-XXXXXX").string();
              if (::mkdtemp(pattern.data()) == nullptr) throw_io("cannot make a folder", pattern, errno);
              made = pattern;
            } else {
              if (fs::exists(options->folder) && !fs::is_empty(options->folder))
                throw Error(ErrorKind::usage, "the folder is not empty", options->folder, "give --folder a new one");
              fs::create_directories(options->folder);
              made = options->folder;
            }
            // Trial files, the aggregate of about the same size, and what is written beside them.
            constexpr double kBytesOfTrial = 2.0 * 110 * 1024;
            const double needed = kBytesOfTrial * static_cast<double>(options->trials);
            std::error_code unknown;
            const auto space = fs::space(made, unknown);
            if (!unknown && static_cast<double>(space.available) < needed) {
              if (options->folder.empty()) fs::remove(made, unknown);
              throw Error(ErrorKind::io,
                          fmt::format("{} trials need about {}, and {} are free", options->trials, bytes_in_words(needed),
                                      bytes_in_words(static_cast<double>(space.available))),
                          made, "give fewer --trials or another --folder");
            }
          },
          "making of a folder");
      const fs::path folder = world.broadcast(made, 0, "folder");
      const auto remove = [&] {
        std::error_code ignored;
        if (options->folder.empty() && world.rank() == 0) fs::remove_all(folder, ignored);
      };
      try {
        const Json bench = measure(world, *options, folder);
        if (world.rank() == 0 && options->json) print_json(bench);
        else if (world.rank() == 0) print(in_words(bench));
      } catch (...) {
        remove();
        throw;
      }
      remove();
      return ExitCode::ok;
    });
  });
}

}  // namespace moesweep::cli
