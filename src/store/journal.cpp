// The journal: see include/moesweep/store/journal.hpp.
#include "moesweep/store/journal.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <limits>
#include <utility>

#include "moesweep/core/error.hpp"
#include "moesweep/core/publish.hpp"
#include "moesweep/core/text.hpp"

namespace moesweep::store {

JournalWriter::JournalWriter(const std::filesystem::path& sweep_folder, const std::string& launch, const std::string& writer) {
  const auto folder = sweep_folder / "journal";
  std::error_code code;
  std::filesystem::create_directories(folder, code);
  if (code) throw_io("cannot make the folder", folder, code.value());
  path_ = folder / (launch + "-" + writer + ".jsonl");
  file_ = ::open(path_.c_str(), O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
  if (file_ < 0) throw_io("cannot open", path_, errno);
  flush_to_disk(folder);
  // A torn last line of an earlier writer is ended, so that it spoils no line of ours; readers then report it.
  struct stat status {};
  char last = '\n';
  if (::fstat(file_, &status) == 0 && status.st_size > 0 && ::pread(file_, &last, 1, status.st_size - 1) == 1 && last != '\n' &&
      ::write(file_, "\n", 1) != 1)
    throw_io("cannot write", path_, errno);
}

JournalWriter::~JournalWriter() {
  if (file_ >= 0) ::close(file_);
}

JournalWriter::JournalWriter(JournalWriter&& other) noexcept : path_(std::move(other.path_)), file_(std::exchange(other.file_, -1)) {}

JournalWriter& JournalWriter::operator=(JournalWriter&& other) noexcept {
  if (this != &other) {
    if (file_ >= 0) ::close(file_);
    path_ = std::move(other.path_);
    file_ = std::exchange(other.file_, -1);
  }
  return *this;
}

void JournalWriter::write(const std::string& event, Json fields) {
  Json line = {{"event", event}, {"time", utc_now(3)}};
  for (auto& [key, value] : fields.items()) line[key] = std::move(value);
  const std::string text = line.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
  const ssize_t put = ::write(file_, text.data(), text.size());
  if (put != static_cast<ssize_t>(text.size())) {
    const int code = put < 0 ? errno : ENOSPC;
    // What was written of the line goes again, so that the next line stands alone.
    if (put > 0) {
      const off_t end = ::lseek(file_, 0, SEEK_END);
      if (end >= put && ::ftruncate(file_, end - put) != 0) throw_io("cannot cut a torn line off", path_, errno);
    }
    throw_io("cannot write", path_, code);
  }
  if (::fsync(file_) != 0) throw_io("cannot flush to disk", path_, errno);
}

Journal read_journal(const std::filesystem::path& sweep_folder) {
  Journal journal;
  const auto folder = sweep_folder / "journal";
  std::vector<std::filesystem::path> files;
  std::error_code code;
  for (std::filesystem::directory_iterator entry(folder, code), end; !code && entry != end; entry.increment(code))
    if (entry->path().extension() == ".jsonl") files.push_back(entry->path());
  if (code && code != std::errc::no_such_file_or_directory) throw_io("cannot list", folder, code.value());
  std::sort(files.begin(), files.end());
  for (const auto& file : files) {
    const auto text = read_text(file);
    std::size_t line = 0;
    for (std::size_t first = 0; first < text.size();) {
      ++line;
      const auto end = text.find('\n', first);
      if (end == std::string::npos) break;  // torn by the death of its writer, or still being written
      Json event = Json::parse(text.begin() + static_cast<std::ptrdiff_t>(first), text.begin() + static_cast<std::ptrdiff_t>(end), nullptr, false);
      const bool ours = event.is_object() && event.contains("event") && event["event"].is_string();
      if (ours) journal.events.push_back(std::move(event));
      else journal.problems.push_back(file.string() + ":" + std::to_string(line) + ": not an event of the journal (a torn or foreign line)");
      first = end + 1;
    }
  }
  return journal;
}

namespace {

/// What the journal says of one attempt: sums over its events that do not depend on their order.
struct Attempt {
  std::int64_t step = -1;
  double loss = std::numeric_limits<double>::quiet_NaN();
  bool ended = false;
  std::string state, reason;
  double seconds = 0.0;
  bool charged = false, final = false, suspect = false;
};

/// States that lines of earlier versions, which do not say so, mean as the last word.
bool was_final(const std::string& state) {
  constexpr std::array kFinal{"done", "diverged", "failed", "out_of_memory", "timed_out"};
  return std::ranges::find(kFinal, state) != kFinal.end();
}

bool flag_or(const Json& event, const char* key, bool fallback) {
  const auto found = event.find(key);
  return found != event.end() && found->is_boolean() ? found->get<bool>() : fallback;
}

template <class Value>
Value value_or(const Json& event, const char* key, Value fallback) {
  const auto found = event.find(key);
  if (found == event.end()) return fallback;
  if constexpr (std::is_same_v<Value, std::string>) return found->is_string() ? found->get<std::string>() : fallback;
  else return found->is_number() ? found->get<Value>() : fallback;
}

}  // namespace

std::map<std::string, TrialStatus> fold(const Journal& journal) {
  std::map<std::string, std::map<std::int64_t, Attempt>> trials;
  std::map<std::string, std::int64_t> forgiven;  // attempts up to this one, by trial
  for (const auto& event : journal.events) {
    const auto kind = value_or<std::string>(event, "event", "");
    const auto trial = value_or<std::string>(event, "trial", "");
    if (kind == "retry" && !trial.empty()) {
      std::int64_t& last = forgiven[trial];
      last = std::max(last, value_or<std::int64_t>(event, "attempt", 0));
    }
    if (trial.empty() || (kind != "started" && kind != "progress" && kind != "ended")) continue;
    Attempt& attempt = trials[trial][value_or<std::int64_t>(event, "attempt", 0)];
    const auto step = value_or<std::int64_t>(event, "step", -1);
    const auto loss = value_or<double>(event, "loss", std::numeric_limits<double>::quiet_NaN());
    // Of two reports of one step the greater loss stays, whichever file came first.
    if (step > attempt.step) {
      attempt.step = step;
      attempt.loss = loss;
    } else if (step >= 0 && step == attempt.step && (std::isnan(attempt.loss) || loss > attempt.loss)) {
      attempt.loss = loss;
    }
    if (kind != "ended") continue;
    const auto state = value_or<std::string>(event, "state", "failed");
    const auto reason = value_or<std::string>(event, "reason", "");
    const auto seconds = value_or<double>(event, "seconds", 0.0);
    const bool final = flag_or(event, "final", was_final(state));
    // Of two endings of one attempt `done` wins, since its file is checked, then the one that is the last word; else the first by name.
    const auto rank = [](const std::string& s, bool f, const std::string& r, double t) { return std::tuple(s != "done", !f, s, r, -t); };
    if (!attempt.ended || rank(state, final, reason, seconds) < rank(attempt.state, attempt.final, attempt.reason, attempt.seconds)) {
      attempt.state = state;
      attempt.reason = reason;
      attempt.seconds = seconds;
      attempt.charged = flag_or(event, "charged", state != "done" && state != "preempted" && state != "skipped");
      attempt.final = final;
      attempt.suspect = flag_or(event, "suspect", false);
    }
    attempt.ended = true;
  }
  std::map<std::string, TrialStatus> result;
  for (const auto& [trial, attempts] : trials) {
    TrialStatus status;
    status.loss = std::numeric_limits<double>::quiet_NaN();
    status.attempts = static_cast<int>(attempts.size());
    for (const auto& [number, attempt] : attempts) {
      if (attempt.ended) status.seconds = attempt.seconds;
      status.state = attempt.ended ? attempt.state : "running";
      status.reason = attempt.reason;
      if (attempt.step >= 0) {
        status.step = attempt.step;
        status.loss = attempt.loss;
      }
      if (const auto until = forgiven.find(trial); until != forgiven.end() && number <= until->second) {
        status.state = "pending";
        status.reason.clear();
        continue;
      }
      status.final = attempt.ended && attempt.final;
      if (attempt.ended && attempt.charged) ++status.charges[attempt.state];
      // An attempt that was only interrupted clears nobody.
      if (attempt.ended && attempt.state != "preempted") status.suspect = attempt.suspect;
    }
    result[trial] = status;
  }
  return result;
}

}  // namespace moesweep::store
