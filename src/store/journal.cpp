// The journal: see include/moesweep/store/journal.hpp.
#include "moesweep/store/journal.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstring>
#include <ctime>
#include <limits>
#include <utility>

#include "moesweep/core/error.hpp"
#include "moesweep/core/publish.hpp"

namespace moesweep::store {

namespace {

[[noreturn]] void fail(const std::string& what, const std::filesystem::path& path, int code) {
  const std::string hint = code == ENOSPC || code == EDQUOT || code == EFBIG
                               ? "the disk, the quota or a file size limit is full: free space, then run the same command again"
                           : code == EROFS || code == EACCES ? "the folder is not writable: check its permissions, or choose another with --out"
                                                             : "";
  throw Error(ErrorKind::io, what + ": " + std::strerror(code), path.string(), hint);
}

std::string now() {
  const auto time = std::chrono::system_clock::now();
  const std::time_t seconds = std::chrono::system_clock::to_time_t(time);
  const auto milliseconds = std::chrono::duration_cast<std::chrono::milliseconds>(time.time_since_epoch()).count() % 1000;
  std::tm utc{};
  ::gmtime_r(&seconds, &utc);
  std::array<char, 48> text{};
  const auto length = std::strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%S", &utc);
  std::snprintf(text.data() + length, text.size() - length, ".%03dZ", static_cast<int>(milliseconds));
  return text.data();
}

void flush_folder(const std::filesystem::path& folder) {
  const int file = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (file < 0) fail("cannot open", folder, errno);
  const int code = ::fsync(file) == 0 ? 0 : errno;
  ::close(file);
  if (code != 0) fail("cannot flush to disk", folder, code);
}

}  // namespace

JournalWriter::JournalWriter(const std::filesystem::path& sweep_folder, const std::string& launch, const std::string& writer) {
  const auto folder = sweep_folder / "journal";
  std::error_code code;
  std::filesystem::create_directories(folder, code);
  if (code) fail("cannot make the folder", folder, code.value());
  path_ = folder / (launch + "-" + writer + ".jsonl");
  file_ = ::open(path_.c_str(), O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
  if (file_ < 0) fail("cannot open", path_, errno);
  flush_folder(folder);
  // A torn last line of an earlier writer is ended, so that it spoils no line of ours; readers then report it.
  struct stat status {};
  char last = '\n';
  if (::fstat(file_, &status) == 0 && status.st_size > 0 && ::pread(file_, &last, 1, status.st_size - 1) == 1 && last != '\n' &&
      ::write(file_, "\n", 1) != 1)
    fail("cannot write", path_, errno);
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
  Json line = {{"event", event}, {"time", now()}};
  for (auto& [key, value] : fields.items()) line[key] = std::move(value);
  const std::string text = line.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
  const ssize_t put = ::write(file_, text.data(), text.size());
  if (put != static_cast<ssize_t>(text.size())) {
    const int code = put < 0 ? errno : ENOSPC;
    // What was written of the line goes again, so that the next line stands alone.
    if (put > 0) {
      const off_t end = ::lseek(file_, 0, SEEK_END);
      if (end >= put && ::ftruncate(file_, end - put) != 0) fail("cannot cut a torn line off", path_, errno);
    }
    fail("cannot write", path_, code);
  }
  if (::fsync(file_) != 0) fail("cannot flush to disk", path_, errno);
}

Journal read_journal(const std::filesystem::path& sweep_folder) {
  Journal journal;
  const auto folder = sweep_folder / "journal";
  std::vector<std::filesystem::path> files;
  std::error_code code;
  for (std::filesystem::directory_iterator entry(folder, code), end; !code && entry != end; entry.increment(code))
    if (entry->path().extension() == ".jsonl") files.push_back(entry->path());
  if (code && code != std::errc::no_such_file_or_directory) fail("cannot list", folder, code.value());
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
};

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
  for (const auto& event : journal.events) {
    const auto kind = value_or<std::string>(event, "event", "");
    const auto trial = value_or<std::string>(event, "trial", "");
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
    // Of two endings of one attempt `done` wins, since its file is checked; else the first by name.
    const auto rank = [](const std::string& s, const std::string& r, double t) { return std::tuple(s != "done", s, r, -t); };
    if (!attempt.ended || rank(state, reason, seconds) < rank(attempt.state, attempt.reason, attempt.seconds)) {
      attempt.state = state;
      attempt.reason = reason;
      attempt.seconds = seconds;
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
    }
    result[trial] = status;
  }
  return result;
}

}  // namespace moesweep::store
