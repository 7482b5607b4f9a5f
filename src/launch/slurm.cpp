// See slurm.hpp.
#include "slurm.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <random>
#include <set>
#include <sstream>
#include <thread>

#include "moesweep/core/error.hpp"
#include "moesweep/core/log.hpp"

namespace moesweep::launch {

namespace {

bool contains(const std::string& text, std::string_view part) {
  return std::ranges::search(text, part, [](char a, char b) {
           return std::tolower(static_cast<unsigned char>(a)) == std::tolower(static_cast<unsigned char>(b));
         }).begin() != text.end();
}

/// The text on one line, without blanks at its ends.
std::string one_line(const std::string& text) {
  std::string line;
  for (const char c : text) line += c == '\n' ? ' ' : c;
  const auto first = line.find_first_not_of(' '), last = line.find_last_not_of(' ');
  return first == std::string::npos ? "" : line.substr(first, last - first + 1);
}

bool is_number(std::string_view text) {
  return !text.empty() && std::ranges::all_of(text, [](unsigned char c) { return std::isdigit(c) != 0; });
}

/// What to do about a refusal, by Slurm's words.
std::string hint_of(const std::string& words) {
  constexpr std::array<std::pair<const char*, const char*>, 11> kHints{{
      {"violates", "a limit of the site: give fewer --shards or --ranks, or wait until earlier jobs have ended"},
      {"invalid partition", "`partition` of the site profile names it; `sinfo` lists what there is"},
      {"invalid account", "`account` of the site profile names it; `sacctmgr show associations user=$USER` lists yours"},
      {"qos", "`qos` of the site profile names it"},
      {"feature", "`constraint` of the site profile names it; `sinfo -o %f` lists what there is"},
      {"node configuration", "no node has so much: give fewer --ranks, or --nodes, or look at `sinfo -Nl`"},
      {"time limit", "give a shorter --time, or `time` in the site profile"},
      {"array", "give fewer --shards"},
      {"dependency", "--after names a job that Slurm knows"},
      {"configuration source", "this machine knows no Slurm controller: use a login node, or set SLURM_CONF"},
      {"permission", "this user may not do it: ask the site"},
  }};
  for (const auto& [part, hint] : kHints)
    if (contains(words, part)) return hint;
  return "`moesweep submit ... --dry-run` prints the scripts and calls; `sbatch` on one of them shows the same error";
}

const std::vector<std::string> kQueueFormat{"squeue", "-h", "-r", "-t", "all", "-o", "%i|%T|%S|%j|%r"};

std::vector<std::string> queue_command(const std::vector<std::string>& names) {
  std::vector<std::string> command = kQueueFormat;
  std::string list;
  for (const std::string& name : names) list += (list.empty() ? "" : ",") + name;
  command.push_back("--name=" + list);
  return command;
}

}  // namespace

bool is_busy(const std::string& words) {
  constexpr std::array kBusy{"unable to contact slurm controller",
                             "socket timed out",
                             "resource temporarily unavailable",
                             "connection refused",
                             "connection timed out",
                             "connection reset",
                             "zero bytes were transmitted",
                             "temporarily unable",
                             "communication connection failure",
                             "communications connection failure",
                             "connect failure",
                             "transport endpoint is not connected",
                             "slurm backup controller in standby",
                             "unable to connect",
                             "communication shutdown failure",
                             "message receive failure",
                             "message send failure",
                             "slurmctld is busy",
                             "too many open files",
                             "cannot allocate memory"};
  return std::ranges::any_of(kBusy, [&](const char* part) { return contains(words, part); });
}

bool QueuedJob::is_pending() const {
  constexpr std::array kPending{"PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"};
  return std::ranges::find(kPending, state) != kPending.end();
}

bool QueuedJob::is_active() const {
  constexpr std::array kRunning{"RUNNING", "CONFIGURING", "COMPLETING", "SUSPENDED", "STOPPED", "RESIZING", "SIGNALING", "STAGE_OUT"};
  return is_pending() || std::ranges::find(kRunning, state) != kRunning.end();
}

std::vector<QueuedJob> queue_of_text(const std::string& text) {
  std::vector<QueuedJob> jobs;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    std::vector<std::string> fields;
    std::istringstream parts(line);
    for (std::string part; fields.size() < 4 && std::getline(parts, part, '|');) fields.push_back(part);
    if (fields.size() < 4) continue;
    std::string reason;
    std::getline(parts, reason);
    QueuedJob job;
    const auto split = fields[0].find('_');
    job.job = fields[0].substr(0, split);
    if (split != std::string::npos) job.element = fields[0].substr(split + 1);
    if (!is_number(job.job)) continue;
    job.state = fields[1];
    job.start = fields[2] == "N/A" || fields[2] == "Unknown" ? "" : fields[2];
    job.name = fields[3];
    job.reason = reason == "None" ? "" : reason;
    jobs.push_back(std::move(job));
  }
  return jobs;
}

Slurm::Slurm(Options options)
    : options_(std::move(options)),
      deadline_(std::chrono::steady_clock::now() +
                std::chrono::duration_cast<std::chrono::steady_clock::duration>(std::chrono::duration<double>(options_.patience_seconds))) {}

std::string Slurm::call(const std::vector<std::string>& command, const std::function<std::optional<std::string>()>& already_done) {
  constexpr double kLongestPause = 60.0;
  static std::mt19937 random{std::random_device{}()};
  double pause = 1.0;
  for (int tries = 1;; ++tries) {
    if (tries > 1 && already_done)
      if (auto done = already_done()) return *done;
    const CommandResult result = run_command(command, options_.call_seconds);
    if (result.ok()) return result.output;
    if (!result.started)
      throw Error(ErrorKind::io, fmt::format("there is no program {} on this machine", command[0]), "",
                  "submit from a login node of a Slurm cluster; without Slurm, jobs/local.sh runs a sweep with mpirun");
    const std::string words =
        result.timed_out ? fmt::format("no answer in {:.0f} s", options_.call_seconds) : one_line(result.error + "\n" + result.output);
    const bool busy = result.timed_out || is_busy(words);
    if (!busy)
      throw Error(ErrorKind::config,
                  fmt::format("{} was refused (exit code {}): {}", command[0], result.exit_code, words.empty() ? "without a word" : words), "",
                  hint_of(words));
    const double left = std::chrono::duration<double>(deadline_ - std::chrono::steady_clock::now()).count();
    if (left <= 0)
      throw Error(ErrorKind::io, fmt::format("the Slurm controller stayed busy for {:.0f} s: {}: {}", options_.patience_seconds, command[0], words),
                  "", "the same command goes on where it was; --patience SECONDS waits longer");
    const double wait = std::min({pause * std::uniform_real_distribution<double>(0.5, 1.5)(random), kLongestPause, left});
    if (options_.on_wait) options_.on_wait(command[0] + ": " + words, wait);
    std::this_thread::sleep_for(std::chrono::duration<double>(wait));
    pause = std::min(2 * pause, kLongestPause);
  }
}

std::int64_t Slurm::max_array_size() {
  const std::string text = call({"scontrol", "show", "config"});
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with("MaxArraySize")) continue;
    std::string digits = line.substr(line.find('=') == std::string::npos ? line.size() : line.find('=') + 1);
    digits.erase(std::remove_if(digits.begin(), digits.end(), [](unsigned char c) { return std::isspace(c) != 0; }), digits.end());
    std::int64_t size = 0;
    const auto [end, code] = std::from_chars(digits.data(), digits.data() + digits.size(), size);
    if (code != std::errc() || end != digits.data() + digits.size()) break;
    if (size <= 0)
      throw Error(ErrorKind::config, "this site allows no job arrays (MaxArraySize is 0)", "", "submit jobs/array.sbatch's steps by hand");
    return size;
  }
  throw Error(ErrorKind::io, "`scontrol show config` names no MaxArraySize", "",
              "look at what it prints: the controller's answer is no configuration");
}

std::vector<QueuedJob> Slurm::jobs_named(const std::vector<std::string>& names) {
  if (names.empty()) return {};
  return queue_of_text(call(queue_command(names)));
}

std::string Slurm::submit(const std::string& name, const std::vector<std::string>& command) {
  bool unknown = false;
  const auto known = [&]() -> std::set<std::string> {
    std::set<std::string> ids;
    for (const QueuedJob& job : queue_of_text(call(queue_command({name}))))
      if (job.name == name) ids.insert(job.job);
    return ids;
  };
  const std::string answer = call(command, [&]() -> std::optional<std::string> {
    unknown = true;
    const auto ids = known();
    return ids.empty() ? std::nullopt : std::optional(*ids.begin());
  });
  // "123" or "123;cluster"; warnings may stand before it.
  std::string id;
  std::istringstream lines(answer);
  for (std::string line; std::getline(lines, line);)
    if (const std::string first = line.substr(0, line.find(';')); is_number(first)) id = first;
  if (const auto ids = id.empty() ? known() : std::set<std::string>{}; !ids.empty()) id = *ids.begin();
  if (id.empty())
    throw Error(ErrorKind::io, fmt::format("sbatch gave no job id: '{}'", one_line(answer).substr(0, 200)), "",
                "no job of that name is in the queue: look at what sbatch prints here; the same command goes on");
  if (unknown)
    for (const std::string& other : known()) {
      if (other == id) continue;
      log::warning(fmt::format("an earlier call that had no answer has submitted {} too: it is cancelled", other));
      cancel({other});
    }
  return id;
}

void Slurm::cancel(const std::vector<std::string>& jobs) {
  std::vector<std::string> command{"scancel"};
  command.insert(command.end(), jobs.begin(), jobs.end());
  (void)call(command);
}

std::optional<std::string> Slurm::start_estimate(const std::string& script) const {
  const CommandResult result = run_command({"sbatch", "--test-only", script}, std::min(10.0, options_.call_seconds));
  constexpr std::string_view kWords = "to start at ";
  const std::string words = result.output + result.error;
  const auto found = words.find(kWords);
  if (!result.ok() || found == std::string::npos) return std::nullopt;
  const auto begin = found + kWords.size();
  const std::string when = words.substr(begin, words.find_first_of(" \n", begin) - begin);
  const bool plain =
      !when.empty() && std::ranges::all_of(when, [](unsigned char c) { return std::isalnum(c) != 0 || c == '-' || c == ':' || c == '.'; });
  return plain ? std::optional(when) : std::nullopt;
}

std::optional<std::vector<QueuedJob>> ask_queue(const std::vector<std::string>& names, double limit_seconds) {
  if (names.empty()) return std::vector<QueuedJob>{};
  const auto text = output_of(queue_command(names), limit_seconds);
  if (!text) return std::nullopt;
  return queue_of_text(*text);
}

}  // namespace moesweep::launch
