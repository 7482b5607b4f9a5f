// `moesweep status`: where a sweep folder stands, once or again and again.
#include <fmt/core.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <set>

#include "cli.hpp"
#include "moesweep/core/log.hpp"
#include "moesweep/core/text.hpp"
#include "moesweep/launch/run.hpp"
#include "moesweep/launch/status.hpp"
#include "moesweep/launch/submit.hpp"

namespace moesweep::cli {

namespace {

using Clock = std::chrono::steady_clock;

struct StatusOptions {
  std::string folder;
  bool json = false, watch = false;
  double interval_seconds = 2.0;
};

/// "a1b2, c3d4, ..."
std::string first_of(const std::vector<std::string>& ids) {
  constexpr std::size_t kShown = 4;
  std::string text;
  for (std::size_t i = 0; i < std::min(kShown, ids.size()); ++i) text += (i > 0 ? ", " : "") + ids[i];
  return ids.size() > kShown ? text + ", ..." : text;
}

/// "3 failed  the gate fell off  (a1b2, c3d4, ...)"
std::string line_of(const launch::Failure& failure) {
  return fmt::format("  {:>6} {}: {} ({})\n", failure.trials.size(), printable_line(failure.state), printable_line(failure.reason),
                     printable_line(first_of(failure.trials)));
}

/// What the queue says of the folder's jobs; asked again at most every half minute.
class Queue {
 public:
  explicit Queue(std::string folder) : folder_(std::move(folder)) {}

  const std::optional<std::vector<launch::QueueEntry>>& now() {
    constexpr auto kBetween = std::chrono::seconds(30);
    constexpr double kLimitSeconds = 10.0;
    if (!asked_ || Clock::now() - *asked_ >= kBetween) {
      try {
        entries_ = launch::queue_of(folder_, kLimitSeconds);
      } catch (const Error& error) {  // where the trials stand is told all the same
        entries_.reset();
        log::warning(fmt::format("{}: {}", error.where(), error.message()));
      }
      asked_ = Clock::now();
    }
    return entries_;
  }
  Json json() {
    if (!now()) return {};
    Json list = Json::array();
    for (const launch::QueueEntry& entry : *now()) list.push_back(entry.json());
    return list;
  }
  std::string text() {
    if (!now()) return "";
    if (now()->empty()) return "queue: none of its jobs\n";
    std::string text = "queue:\n";
    for (const launch::QueueEntry& entry : *now()) {
      text += fmt::format("  {} {}:", printable_line(entry.kind), printable_line(entry.job));
      if (entry.running > 0) text += fmt::format(" {} running", entry.running);
      if (entry.pending > 0) text += fmt::format("{} {} pending", entry.running > 0 ? "," : "", entry.pending);
      std::string why;
      for (const auto& [reason, count] : entry.reasons) why += (why.empty() ? "" : ", ") + reason;
      if (!why.empty()) text += " (" + printable_line(why) + ")";
      if (entry.pending > 0 && !entry.start.empty()) text += ", start about " + printable_line(entry.start);
      text += "\n";
    }
    return text;
  }

 private:
  std::string folder_;
  std::optional<std::vector<launch::QueueEntry>> entries_;
  std::optional<Clock::time_point> asked_;
};

Json json_of(const launch::Standings& standings, Queue& queue) {
  Json json = standings.json();
  json["queue"] = queue.json();
  return json;
}

/// "warnings:" and a line for each word, with the trials that carry it.
std::string text_of_warnings(const launch::Standings& standings) {
  std::map<std::string, std::vector<std::string>> trials;
  for (const launch::TrialStanding& trial : standings.trials)
    for (const std::string& word : trial.status.warnings) trials[word].push_back(trial.id);
  std::string text;
  for (const auto& [word, ids] : trials)
    text += fmt::format("{}  {:>6} {} ({})\n", text.empty() ? "warnings:\n" : "", ids.size(), word, first_of(ids));
  return text;
}

/// The standings for a person; at most `most_lines` lines, of which running trials are cut first.
std::string text_of(const launch::Standings& standings, Queue& queue, std::size_t most_lines) {
  const auto removed = std::ranges::count(standings.trials, true, &launch::TrialStanding::removed);
  std::string text = fmt::format("{}: {} trials{}\n", printable_line(standings.name), standings.trials.size(),
                                 removed > 0 ? fmt::format(", {} of them not in the sweep file any more", removed) : "");
  for (const auto& [state, count] : standings.counts) text += fmt::format("  {:>6} {}\n", count, printable_line(state));
  if (standings.tokens_per_second > 0) text += fmt::format("{} tokens/s", count_in_words(standings.tokens_per_second));
  if (standings.seconds_left)
    text += fmt::format("{}about {} left", standings.tokens_per_second > 0 ? ", " : "", seconds_in_words(*standings.seconds_left));
  if (standings.tokens_per_second > 0 || standings.seconds_left) text += "\n";

  std::string after;
  if (const auto slowest = standings.slowest(3); !slowest.empty()) {
    after += "slowest:";
    for (const launch::TrialStanding* trial : slowest)
      after += fmt::format("{} {} {}", trial == slowest.front() ? "" : ",", printable_line(trial->id), seconds_in_words(trial->status.seconds));
    after += "\n";
  }
  after += queue.text();
  after += text_of_warnings(standings);
  if (const auto failures = standings.failures(); !failures.empty()) {
    constexpr std::size_t kMostFailures = 8;
    after += "what went wrong:\n";
    for (std::size_t i = 0; i < std::min(kMostFailures, failures.size()); ++i) after += line_of(failures[i]);
    if (failures.size() > kMostFailures) after += fmt::format("  and {} further reasons: --json lists them\n", failures.size() - kMostFailures);
  }
  constexpr std::size_t kMostProblems = 5;
  if (!standings.problems.empty())
    after += fmt::format("journal: {} problem{}\n", standings.problems.size(), standings.problems.size() == 1 ? "" : "s");
  for (std::size_t i = 0; i < std::min(kMostProblems, standings.problems.size()); ++i) after += "  " + printable_line(standings.problems[i]) + "\n";
  if (standings.problems.size() > kMostProblems)
    after += fmt::format("  and {} more: --json lists them\n", standings.problems.size() - kMostProblems);

  std::vector<const launch::TrialStanding*> running;
  for (const auto& trial : standings.trials)
    if (trial.status.state == "running") running.push_back(&trial);
  if (running.empty()) return text + after;
  const auto lines = static_cast<std::size_t>(std::ranges::count(text, '\n') + std::ranges::count(after, '\n'));
  const std::size_t room = most_lines > lines + 3 ? most_lines - lines - 3 : 1;
  std::vector<std::vector<std::string>> cells{{"running", "step", "of", "loss", "tokens/s"}};
  for (std::size_t i = 0; i < std::min(room, running.size()); ++i) {
    const auto& status = running[i]->status;
    cells.push_back({running[i]->id, std::to_string(status.step), std::to_string(running[i]->steps),
                     std::isfinite(status.loss) ? fmt::format("{:.4f}", status.loss) : "",
                     running[i]->tokens_per_second > 0 ? count_in_words(running[i]->tokens_per_second) : ""});
  }
  text += table(cells);
  if (running.size() > room) text += fmt::format("and {} more\n", running.size() - room);
  return text + after;
}

ExitCode exit_code_of_standings(const launch::Standings& standings) {
  return launch::any_failed(standings.counts) ? ExitCode::some_trials_failed : ExitCode::ok;
}

/// A terminal that gives keys one by one and does not show them, for the life of the object. Nothing where standard input is no terminal.
class Keyboard {
 public:
  Keyboard() {
    if (::isatty(STDIN_FILENO) == 0 || ::tcgetattr(STDIN_FILENO, &before_) != 0) return;
    termios raw = before_;
    raw.c_lflag &= ~static_cast<tcflag_t>(ICANON | ECHO);
    is_terminal_ = ::tcsetattr(STDIN_FILENO, TCSANOW, &raw) == 0;
  }
  ~Keyboard() {
    if (is_terminal_) ::tcsetattr(STDIN_FILENO, TCSANOW, &before_);
  }
  Keyboard(const Keyboard&) = delete;
  Keyboard& operator=(const Keyboard&) = delete;

  /// Waits so long; true when a key or `stop` ended it. `stop` is looked at every tenth of a second: a signal may come just before the wait.
  bool wait(double seconds, const std::atomic<bool>& stop) const {
    const auto end = Clock::now() + std::chrono::duration<double>(seconds);
    while (!stop.load()) {
      const auto left = std::chrono::ceil<std::chrono::milliseconds>(end - Clock::now()).count();
      if (left <= 0) return false;
      pollfd key{STDIN_FILENO, POLLIN, 0};
      if (::poll(is_terminal_ ? &key : nullptr, is_terminal_ ? 1 : 0, static_cast<int>(std::min<std::int64_t>(left, 100))) > 0) return true;
    }
    return true;
  }
  bool is_terminal() const { return is_terminal_; }

 private:
  termios before_{};
  bool is_terminal_ = false;
};

std::size_t lines_of_screen() {
  winsize size{};
  return ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_row > 4 ? size.ws_row - 2U : 40U;
}

/// Draws until every trial has ended, or a key or a signal ends it.
ExitCode watch(const StatusOptions& options) {
  const launch::StopSignals signals;
  const Keyboard keyboard;
  const bool screen = ::isatty(STDOUT_FILENO) != 0;
  const std::filesystem::path file = std::filesystem::path(options.folder) / "plan.json";
  Queue queue(options.folder);
  launch::PlanOutline plan;
  std::optional<std::filesystem::file_time_type> read_at;
  std::set<std::string> readable;
  for (;;) {
    const auto start = Clock::now();
    std::error_code gone;
    if (const auto changed = std::filesystem::last_write_time(file, gone); !read_at || gone || changed != *read_at) {
      plan = launch::read_outline(options.folder);
      read_at = changed;
    }
    launch::Standings standings = launch::standings_of(options.folder, plan);
    launch::find_unreadable(standings, options.folder, readable);
    const bool last = standings.all_ended();
    if (options.json) {
      print_json(json_of(standings, queue), -1);
    } else {
      std::string text = text_of(standings, queue, screen ? lines_of_screen() : 40);
      if (!last && keyboard.is_terminal()) text += "any key ends the watch\n";
      if (screen) write_to_stdout("\033[H\033[2J");
      print(text + (screen ? "" : "\n"));
    }
    if (last) return exit_code_of_standings(standings);
    // A large journal is read less often: watching costs at most a twentieth of a core.
    const double reading = std::chrono::duration<double>(Clock::now() - start).count();
    if (keyboard.wait(std::max(options.interval_seconds, 20 * reading), signals.flag())) return exit_code_of_standings(standings);
  }
}

}  // namespace

void add_status(CLI::App& app, Invocation& invocation) {
  auto options = std::make_shared<StatusOptions>();
  CLI::App* sub = subcommand(app, "status", "Where the trials of a sweep folder stand, from its journal. Exit code 1 when some failed.",
                             "moesweep status runs/quickstart --watch");
  sub->add_option("DIR", options->folder, "sweep folder")->required();
  sub->add_flag("--watch", options->watch, "draw it again and again until all trials have ended, or a key or a signal ends it");
  sub->add_option("--interval", options->interval_seconds, "seconds between two drawings (default: 2)")->check(number_in(0.05, 86400));
  sub->add_flag("--json", options->json, "as JSON; with --watch a line each time");
  sub->callback([options, &invocation] {
    if (options->watch) {
      invocation.exit_code = watch(*options);
      return;
    }
    launch::Standings standings = launch::standings_of(options->folder, launch::read_outline(options->folder));
    std::set<std::string> readable;
    launch::find_unreadable(standings, options->folder, readable);
    Queue queue(options->folder);
    if (options->json) print_json(json_of(standings, queue));
    else print(text_of(standings, queue, std::numeric_limits<std::size_t>::max()));
    invocation.exit_code = exit_code_of_standings(standings);
  });
}

}  // namespace moesweep::cli
