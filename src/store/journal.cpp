// The journal: see include/moesweep/store/journal.hpp.
#include "moesweep/store/journal.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <limits>
#include <tuple>
#include <type_traits>
#include <utility>

#include "moesweep/core/error.hpp"
#include "moesweep/core/foreign_json.hpp"
#include "moesweep/core/publish.hpp"
#include "moesweep/core/text.hpp"

namespace moesweep::store {

JournalWriter::JournalWriter(const std::filesystem::path& sweep_folder, const std::string& launch, const std::string& writer) {
  const auto folder = sweep_folder / "journal";
  std::error_code code;
  std::filesystem::create_directories(folder, code);
  if (code) throw_io("cannot make the folder", folder, code.value());
  path_ = folder / (launch + "-" + writer + ".jsonl");
  file_ = open_to_append(path_);
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

void for_each_line(const std::filesystem::path& file, const std::function<void(std::size_t, std::string_view)>& line,
                   const std::function<void(std::size_t)>& too_long, std::size_t most_line_bytes, std::size_t most_bytes) {
  struct Open {
    int file;
    ~Open() { ::close(file); }
  } const in{open_regular(file)};
  constexpr std::size_t kPart = std::size_t{1} << 16;
  std::string text;           // the beginning of a line whose end was not read yet, then what was read last
  std::size_t number = 1;     // of that line
  bool passing_over = false;  // the line is too long: its end is awaited
  for (std::size_t total = 0;;) {
    const std::size_t kept = text.size();
    text.resize(kept + kPart);
    const ssize_t got = ::read(in.file, text.data() + kept, kPart);
    const int code = errno;
    text.resize(kept + static_cast<std::size_t>(std::max<ssize_t>(got, 0)));
    if (got < 0 && code == EINTR) continue;
    if (got < 0) throw_io("cannot read", file, code);
    if (got == 0) return;  // what has no end is torn by the death of its writer, or still being written
    std::size_t first = 0;
    for (std::size_t end = text.find('\n', kept); end != std::string::npos; end = text.find('\n', first)) {
      if (!passing_over && end - first <= most_line_bytes) line(number, std::string_view(text).substr(first, end - first));
      else if (!passing_over) too_long(number);
      passing_over = false;
      ++number;
      first = end + 1;
    }
    text.erase(0, first);
    if (text.size() > most_line_bytes) {
      if (!std::exchange(passing_over, true)) too_long(number);
      text.clear();
    }
    total += static_cast<std::size_t>(got);
    if (total >= most_bytes) return too_long(0);
  }
}

namespace {

/// Checks the type and range of the known fields of an event; an error names the field. Other fields, and other events, are left alone.
void check_event(const JsonView& event) {
  constexpr std::int64_t kMostCount = std::int64_t{1} << 53;
  constexpr std::size_t kMostName = 1000;  // bytes
  const std::string kind = event["event"].text(kMostName);
  if (const auto time = event.find("time")) (void)time->text(kMostName);
  constexpr std::array kKnown{"started", "progress", "ended", "watchdog", "retry"};
  if (std::ranges::find(kKnown, kind) == kKnown.end()) return;
  const JsonView trial = event["trial"];
  if (!is_trial_id(trial.text(kMostName))) trial.refuse("the 16 hexadecimal digits of a trial");
  (void)event["attempt"].integer(0, kMostAttempt);
  const auto count = [&](const char* key) {
    if (const auto field = event.find(key)) (void)field->integer(0, kMostCount);
  };
  const auto amount = [&](const char* key) {
    if (const auto field = event.find(key); field && field->number() < 0) field->refuse("a number of at least 0");
  };
  const auto flag = [&](const char* key) {
    if (const auto field = event.find(key)) (void)field->boolean();
  };
  const auto text = [](const JsonView& parent, const char* key) {
    if (const auto field = parent.find(key)) (void)field->text(kMostLineBytes);
  };
  for (const char* key : {"step", "steps"}) count(key);
  for (const char* key : {"seconds", "tokens_per_second"}) amount(key);
  if (const auto loss = event.find("loss")) (void)loss->number();
  for (const char* key : {"charged", "final", "suspect", "culprit"}) flag(key);
  for (const char* key : {"launch", "reason", "text"}) text(event, key);
  constexpr std::int64_t kMostRanks = std::int64_t{1} << 31;
  if (const auto ranks = event.find("ranks")) (void)ranks->integer(1, kMostRanks - 1);
  if (const auto rank = event.find("first_rank")) (void)rank->integer(0, kMostRanks - 1);
  if (const auto state = event.find("state")) {
    const std::string word = state->text(kMostName);
    constexpr std::size_t kMostLetters = 32;
    const auto is_letter = [](char c) { return (c >= 'a' && c <= 'z') || c == '_'; };
    if (word.empty() || word.size() > kMostLetters || !std::ranges::all_of(word, is_letter)) state->refuse("a state, one word of small letters");
  }
  if (const auto owner = event.find("owner")) {
    (void)owner->object();
    for (const char* key : {"launch", "writer", "host", "machine", "boot", "slurm_job", "slurm_step", "slurm_restarts"})
      if (const auto field = owner->find(key)) (void)field->text(kMostName);
    if (const auto process = owner->find("process")) (void)process->integer(-1, std::numeric_limits<std::int32_t>::max());
    if (const auto started = owner->find("started")) (void)started->integer(-1, std::numeric_limits<std::int64_t>::max());
  }
  if (const auto file = event.find("file")) (void)published_of(*file);
  if (const auto warnings = event.find("warnings"))
    for (const JsonView& word : warnings->elements())
      if (const std::string name = word.text(kMostName); name.empty() || name.find_first_of(",\n") != std::string::npos) word.refuse("a word");
}

}  // namespace

Json json_of(const Published& published) { return {{"sha256", published.sha256}, {"digest", published.digest}, {"bytes", published.bytes}}; }

Published published_of(const JsonView& view) {
  constexpr std::size_t kDigits = 64;
  const auto digest = [&](const char* key) {
    const JsonView field = view[key];
    std::string text = field.text();
    const auto is_digit = [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); };
    if (text.size() != kDigits || !std::ranges::all_of(text, is_digit)) field.refuse("64 hexadecimal digits");
    return text;
  };
  return {digest("sha256"), digest("digest"), view["bytes"].integer(0, std::numeric_limits<std::int64_t>::max())};
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
    constexpr std::size_t kMostListed = 1000;  // lines of one file
    std::size_t wrong = 0;
    const auto list = [&](std::size_t line, const std::string& what) {
      if (++wrong <= kMostListed) journal.problems.push_back(file.string() + ":" + std::to_string(line) + ": " + what);
    };
    try {
      std::error_code unknown;
      if (std::filesystem::is_symlink(std::filesystem::symlink_status(file, unknown)))
        throw Error(ErrorKind::io, "it is a link, and only regular files are read", file.string());
      for_each_line(
          file,
          [&](std::size_t number, std::string_view text) {
            try {
              Json event = parse_json(text, "");
              check_event(JsonView(event, ""));
              journal.events.push_back(std::move(event));
            } catch (const Error& error) {
              list(number, "not an event of the journal: " + error.message());
            }
          },
          [&](std::size_t number) {
            if (number > 0) list(number, "the line is longer than " + std::to_string(kMostLineBytes) + " bytes and is passed over");
            else
              journal.problems.push_back(file.string() + ": it is longer than " + std::to_string(kMostJournalBytes) + " bytes: the rest is not read");
          });
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::io) throw;
      journal.problems.push_back(file.string() + ": not read: " + error.message());
    }
    if (wrong > kMostListed)
      journal.problems.push_back(file.string() + ": " + std::to_string(wrong - kMostListed) + " further lines are not events of the journal");
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
  Published published;
  std::vector<std::string> warnings;
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
  else if constexpr (std::is_integral_v<Value>) return found->is_number_integer() ? found->get<Value>() : fallback;
  else return found->is_number() ? found->get<Value>() : fallback;
}

/// The file that an `ended` line tells of; an empty one where it tells of none.
Published published_in(const Json& event) {
  const auto found = event.find("file");
  if (found == event.end() || !found->is_object()) return {};
  return published_of(JsonView(*found, "the journal"));
}

std::vector<std::string> warnings_in(const Json& event) {
  const auto found = event.find("warnings");
  if (found == event.end() || !found->is_array()) return {};
  return JsonView(*found, "the journal").texts();
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
    // Of two endings that tell of a file, the first by its digests.
    const auto order = [](const Published& file) { return std::tie(file.sha256, file.digest, file.bytes); };
    if (Published published = published_in(event);
        !published.sha256.empty() && (attempt.published.sha256.empty() || order(published) < order(attempt.published)))
      attempt.published = std::move(published);
    for (std::string& word : warnings_in(event))
      if (const auto place = std::ranges::lower_bound(attempt.warnings, word); place == attempt.warnings.end() || *place != word)
        attempt.warnings.insert(place, std::move(word));
    const auto state = value_or<std::string>(event, "state", "failed");
    const auto reason = value_or<std::string>(event, "reason", "");
    const auto seconds = value_or<double>(event, "seconds", 0.0);
    const bool final = flag_or(event, "final", was_final(state));
    const bool charged = flag_or(event, "charged", state != "done" && state != "preempted" && state != "skipped");
    const bool suspect = flag_or(event, "suspect", false);
    // Of two endings of one attempt `done` wins, since its file is checked, then the one that is the last word; else the first by name. All fields
    // are compared, so that the order of the files never matters.
    const auto rank = [](const std::string& s, bool f, const std::string& r, double t, bool c, bool u) {
      return std::tuple(s != "done", !f, s, r, -t, !c, !u);
    };
    if (!attempt.ended || rank(state, final, reason, seconds, charged, suspect) <
                              rank(attempt.state, attempt.final, attempt.reason, attempt.seconds, attempt.charged, attempt.suspect)) {
      attempt.state = state;
      attempt.reason = reason;
      attempt.seconds = seconds;
      attempt.charged = charged;
      attempt.final = final;
      attempt.suspect = suspect;
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
      status.warnings = attempt.warnings;
      if (!attempt.published.sha256.empty()) status.published = attempt.published;
      if (attempt.step >= 0) {
        status.step = attempt.step;
        status.loss = attempt.loss;
      }
      if (const auto until = forgiven.find(trial); until != forgiven.end() && number <= until->second) {
        status.state = "pending";
        status.reason.clear();
        status.warnings.clear();
        status.published = {};
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
