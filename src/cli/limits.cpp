// What ends trials and launches before their time, as options; `moesweep retry`, which gives ended trials a new chance.
#include <fmt/core.h>
#include <fmt/ranges.h>

#include <array>
#include <charconv>
#include <cmath>
#include <memory>
#include <set>
#include <span>
#include <sstream>

#include "cli.hpp"
#include "moesweep/core/text.hpp"
#include "moesweep/launch/retry.hpp"
#include "moesweep/launch/run.hpp"

namespace moesweep::cli {

namespace {

struct Unit {
  const char* name;
  double size;
};

constexpr double kKibi = 1024, kMebi = kKibi * kKibi, kGibi = kMebi * kKibi, kTebi = kGibi * kKibi;
constexpr double kMostBytes = 1e18;
constexpr std::int64_t kMostFailures = 1'000'000'000;

/// A number with one of the units behind it; nothing when it is none, or not positive and finite.
std::optional<double> quantity(const std::string& text, std::span<const Unit> units) {
  double number = 0;
  const auto read = std::from_chars(text.data(), text.data() + text.size(), number);
  if (read.ec != std::errc() || !(number > 0) || !(number < 1e18)) return std::nullopt;
  const std::string_view rest(read.ptr, static_cast<std::size_t>(text.data() + text.size() - read.ptr));
  for (const Unit& unit : units)
    if (rest == unit.name) return number * unit.size;
  return std::nullopt;
}

}  // namespace

double seconds_of(const std::string& text, const std::string& option) {
  constexpr std::array<Unit, 6> kUnits{{{"", 1}, {"s", 1}, {"m", 60}, {"min", 60}, {"h", 3600}, {"d", 86400}}};
  if (const auto seconds = quantity(text, kUnits); seconds && *seconds <= kMostSeconds) return *seconds;
  // H:MM:SS or M:SS, as Slurm writes times.
  double total = 0;
  int parts = 0;
  bool read = text.find(':') != std::string::npos && !text.ends_with(':');
  std::istringstream fields(text);
  for (std::string field; read && std::getline(fields, field, ':'); ++parts) {
    int number = 0;
    const auto result = std::from_chars(field.data(), field.data() + field.size(), number);
    read = result.ec == std::errc() && result.ptr == field.data() + field.size() && number >= 0 && (parts == 0 || number < 60);
    total = total * 60 + number;
  }
  if (!read || parts < 2 || parts > 3 || total <= 0 || total > kMostSeconds)
    throw Error(ErrorKind::usage, fmt::format("'{}' is no time", text), option,
                fmt::format("give seconds or a unit, for example 90, 45s, 10m, 2h, 1d or 1:30:00; above 0 and at most {:.0f} s", kMostSeconds));
  return total;
}

double bytes_of(const std::string& text, const std::string& option) {
  constexpr std::array<Unit, 14> kUnits{{{"", 1},
                                         {"B", 1},
                                         {"K", kKibi},
                                         {"KiB", kKibi},
                                         {"kB", 1e3},
                                         {"M", kMebi},
                                         {"MiB", kMebi},
                                         {"MB", 1e6},
                                         {"G", kGibi},
                                         {"GiB", kGibi},
                                         {"GB", 1e9},
                                         {"T", kTebi},
                                         {"TiB", kTebi},
                                         {"TB", 1e12}}};
  if (const auto bytes = quantity(text, kUnits); bytes && *bytes <= kMostBytes) return *bytes;
  throw Error(ErrorKind::usage, fmt::format("'{}' is no size", text), option,
              fmt::format("give bytes or a unit, for example 2GiB, 500M or 1.5GB; above 0 and at most {:.0f} bytes", kMostBytes));
}

namespace {

/// The limit of a rank's private memory. A `usage` error when this process could not live in it.
double memory_limit_of(const std::string& text) {
  const double bytes = bytes_of(text, "--memory-limit"), least = least_memory_limit();
  if (bytes >= least) return bytes;
  throw Error(ErrorKind::usage, fmt::format("'{}' is less than {:.0f} MiB", text, std::ceil(least / kMebi)), "--memory-limit",
              fmt::format("a rank has {:.0f} MiB of private memory before the first trial, and needs {:.0f} MiB at least for its work",
                          std::ceil((least - kLeastWorkBytes) / kMebi), kLeastWorkBytes / kMebi));
}

}  // namespace

void add_limits(CLI::App& sub, LimitOptions& options, bool one_trial) {
  const auto duration_or_0 = readable_by([](const std::string& text) { (void)(text == "0" ? 0.0 : seconds_of(text, "")); });
  sub.add_option("--deadline", options.deadline, "time from now; trials are checkpointed then (default: the end of the Slurm job)")
      ->check(duration());
  sub.add_option("--trial-timeout", options.trial_timeout, "an attempt that takes longer is checkpointed and ends as timed_out")->check(duration());
  sub.add_option("--stall-timeout", options.stall_timeout,
                 "one that gives no sign of life for so long is ended with its step (default: 30m; 0: never)")
      ->check(duration_or_0);
  sub.add_option("--memory-limit", options.memory_limit, "private memory of a rank; a trial that wants more ends as out_of_memory")->check(size());
  if (!one_trial) {
    sub.add_option("--retries", options.retries, "further attempts by cause (default: crashed=2,failed=0,out_of_memory=0,timed_out=0)")
        ->check(readable_by([](const std::string& text) { (void)launch::parse_retries(text); }));
    sub.add_option("--max-failures", options.max_failures, "when more trials than this have failed, none is started any more")
        ->check(integer_in(0, kMostFailures));
    sub.add_flag("--fail-fast", options.fail_fast, "the first failed trial stops the others too, with checkpoints");
  }
  sub.add_option("--inject", options.faults, "a fault, to test a cluster: kill@trial=3,step=30,rank=1 (any number of times)")
      ->allow_extra_args(false)
      ->check(readable_by([](const std::string& text) { (void)launch::parse_fault(text); }));
}

void LimitOptions::check() const {
  if (!memory_limit.empty()) (void)memory_limit_of(memory_limit);
}

void LimitOptions::apply(launch::RunOptions& options) const {
  launch::Limits& limits = options.limits;
  if (!deadline.empty()) limits.deadline_seconds = seconds_of(deadline, "--deadline");
  if (!trial_timeout.empty()) limits.trial_timeout_seconds = seconds_of(trial_timeout, "--trial-timeout");
  if (!stall_timeout.empty()) limits.stall_seconds = stall_timeout == "0" ? 0.0 : seconds_of(stall_timeout, "--stall-timeout");
  if (!retries.empty()) limits.retries = launch::parse_retries(retries);
  limits.max_failures = max_failures;
  limits.fail_fast = fail_fast;
  for (const std::string& fault : faults) options.faults.push_back(launch::parse_fault(fault));
  if (!memory_limit.empty()) launch::limit_memory(memory_limit_of(memory_limit));
}

std::vector<std::string> LimitOptions::words() const {
  std::vector<std::string> words;
  const auto add = [&](const char* name, const std::string& value) {
    if (!value.empty()) words.push_back(fmt::format("{}={}", name, value));
  };
  add("--deadline", deadline);
  add("--trial-timeout", trial_timeout);
  add("--stall-timeout", stall_timeout);
  add("--memory-limit", memory_limit);
  add("--retries", retries);
  if (max_failures) add("--max-failures", std::to_string(*max_failures));
  if (fail_fast) words.emplace_back("--fail-fast");
  for (const std::string& fault : faults) add("--inject", fault);
  return words;
}

void add_retry(CLI::App& app, Invocation& invocation) {
  struct Options {
    std::string folder;
    std::vector<std::string> states{"crashed", "failed", "out_of_memory", "timed_out"}, trials;
    bool json = false;
  };
  auto options = std::make_shared<Options>();
  CLI::App* sub =
      subcommand(app, "retry",
                 "Give trials that went wrong a new chance: they are pending again, and the next run or submit of the sweep takes them up,\n"
                 "from their checkpoint where there is one. Writes to the journal alone; other launches may be at work.",
                 "moesweep retry runs/scale35x --state failed && mpirun -n 2 moesweep run scale35x");
  sub->add_option("DIR", options->folder, "sweep folder")->required();
  sub->add_option("--state", options->states, "crashed, diverged, failed, out_of_memory, timed_out (default: all but diverged)")
      ->delimiter(',')
      ->allow_extra_args(false);
  sub->add_option("--trial", options->trials, "only trials whose id begins so")->delimiter(',')->allow_extra_args(false);
  sub->add_flag("--json", options->json, "the ids as JSON");
  sub->callback([options, &invocation] {
    const auto ids = launch::retry_trials(options->folder, {options->states.begin(), options->states.end()}, options->trials);
    if (options->json) print_json(Json(ids), -1);
    else if (ids.empty()) print(fmt::format("no trial of {} is {}\n", printable_line(options->folder), fmt::join(options->states, " or ")));
    else
      print(fmt::format("{} trial{} pending again: run or submit the sweep to take {} up\n", ids.size(), ids.size() == 1 ? " is" : "s are",
                        ids.size() == 1 ? "it" : "them"));
    invocation.exit_code = ExitCode::ok;
  });
}

}  // namespace moesweep::cli
