// See digests.hpp.
#include "digests.hpp"

#include <fmt/core.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <ctime>
#include <limits>
#include <map>
#include <memory>
#include <string_view>
#include <thread>
#include <vector>

#include "moesweep/core/error.hpp"
#include "moesweep/core/foreign_json.hpp"
#include "moesweep/core/hash.hpp"
#include "moesweep/core/log.hpp"
#include "moesweep/core/publish.hpp"

namespace moesweep::data {

namespace {

namespace fs = std::filesystem;

constexpr std::string_view kFormat = "moesweep-digests";
constexpr std::int64_t kVersion = 1;
constexpr std::size_t kMostCacheBytes = std::size_t{1} << 24;

FileTime now_by(clockid_t clock) {
  timespec time{};
  ::clock_gettime(clock, &time);
  return {time.tv_sec, time.tv_nsec};
}

/// Since the machine's start, so that no change of its clock matters.
const FileTime kProgramStart = now_by(CLOCK_BOOTTIME);

/// Another text after each start of the machine; empty where the system does not say.
const std::string& boot_id() {
  static const std::string id = [] {
    try {
      return read_text("/proc/sys/kernel/random/boot_id", 256);
    } catch (const Error&) {
      return std::string();
    }
  }();
  return id;
}

/// What was found of a file at some time.
struct Found {
  FileState state;
  std::string sha256;
  std::string boot;  ///< boot_id() then
  FileTime checked;  ///< since the machine's start
};
using Remembered = std::map<std::string, Found>;  ///< by name in the manifest

Json json_of(const FileTime& time) { return {time.seconds, time.nanoseconds}; }

FileTime time_of(const JsonView& view) {
  const auto parts = view.elements();
  if (parts.size() != 2) view.refuse("seconds and nanoseconds");
  constexpr std::int64_t kNano = 1'000'000'000;
  return {parts[0].integer(std::numeric_limits<std::int64_t>::min(), std::numeric_limits<std::int64_t>::max()), parts[1].integer(0, kNano - 1)};
}

Remembered parse_cache(const std::string& text, const fs::path& path) {
  const Json json = parse_json(text, path.string());
  const JsonView root(json, path.string());
  if (root["format"].text() != kFormat) root["format"].refuse(std::string(kFormat));
  root["version"].integer(kVersion, kVersion);
  Remembered known;
  for (const auto& [name, view] : root["files"].members()) {
    constexpr auto least = std::numeric_limits<std::int64_t>::min(), most = std::numeric_limits<std::int64_t>::max();
    known[name] = {{view["device"].integer(least, most), view["inode"].integer(least, most), view["bytes"].integer(0, most),
                    time_of(view["modified"]), time_of(view["changed"])},
                   view["sha256"].text(),
                   view["boot"].text(),
                   time_of(view["checked"])};
  }
  return known;
}

/// What the file remembers; nothing when it is absent, a link, another user's, or damaged.
Remembered read_cache(const fs::path& path) {
  struct stat status {};
  if (::lstat(path.c_str(), &status) != 0 || !S_ISREG(status.st_mode) || status.st_uid != ::geteuid()) return {};
  try {
    return parse_cache(read_text(path, kMostCacheBytes), path);
  } catch (const Error& error) {
    log::debug(fmt::format("{}: {}; the digests that it remembers are found anew", path.string(), error.message()));
    return {};
  }
}

std::string text_of(const Remembered& known, const fs::path& store) {
  Json json = {{"format", kFormat}, {"version", kVersion}, {"store", store.string()}, {"files", Json::object()}};
  for (const auto& [name, found] : known)
    json["files"][name] = {{"device", found.state.device},
                           {"inode", found.state.inode},
                           {"bytes", found.state.bytes},
                           {"modified", json_of(found.state.modified)},
                           {"changed", json_of(found.state.changed)},
                           {"sha256", found.sha256},
                           {"boot", found.boot},
                           {"checked", json_of(found.checked)}};
  return json.dump(1, ' ', false, Json::error_handler_t::replace) + "\n";
}

/// The store's real place, so that all names of it share what is remembered.
fs::path real_place(const fs::path& store) {
  std::error_code failure;
  auto place = fs::canonical(store, failure);
  return failure ? store : place;
}

fs::path cache_file(const fs::path& store) {
  const auto folder = cache_folder();
  if (folder.empty()) return {};
  char host[256] = {};
  ::gethostname(host, sizeof host - 1);
  constexpr std::size_t kDigits = 32;
  return folder / fmt::format("digests-{}.json", sha256_hex(std::string(host) + "\n" + store.string()).substr(0, kDigits));
}

void say_once_that_nothing_is_remembered(const std::string& why) {
  static std::atomic<bool> said{false};
  if (!said.exchange(true)) log::debug(fmt::format("token files are digested each time that they are opened: {}", why));
}

/// Held by the process that digests a store, until it ends.
class StoreLock {
 public:
  /// Waits at most so long; without the lock afterwards, where another process keeps it or the file system has no locks.
  StoreLock(const fs::path& path, std::chrono::milliseconds wait) : file_(open_to_append(path)) {
    constexpr std::chrono::milliseconds kPause{20};
    const auto end = std::chrono::steady_clock::now() + wait;
    while (::flock(file_, LOCK_EX | LOCK_NB) != 0) {
      if (errno == EINTR) continue;
      if (errno != EWOULDBLOCK) return;
      if (std::chrono::steady_clock::now() >= end) {
        log::info(fmt::format("{}: another process still digests this token store; this one does it too", path.string()));
        return;
      }
      std::this_thread::sleep_for(kPause);
    }
  }
  ~StoreLock() { ::close(file_); }
  StoreLock(const StoreLock&) = delete;
  StoreLock& operator=(const StoreLock&) = delete;

 private:
  int file_;
};

/// Makes the folder, for this user alone as the XDG base directory specification wants it, and takes the lock; nothing where that is not possible.
std::unique_ptr<StoreLock> lock_beside(const fs::path& cache, std::chrono::milliseconds wait) {
  try {
    const auto folder = cache.parent_path();
    fs::create_directories(folder.parent_path());
    if (::mkdir(folder.c_str(), 0700) != 0 && errno != EEXIST) throw_io("cannot make the folder", folder, errno);
    auto path = cache;
    return std::make_unique<StoreLock>(path.replace_extension(".lock"), wait);
  } catch (const std::exception& error) {
    say_once_that_nothing_is_remembered(error.what());
    return nullptr;
  }
}

std::chrono::milliseconds waiting_time(std::int64_t bytes) {
  constexpr std::int64_t kBytesPerMillisecond = 20'000;
  return std::chrono::minutes(1) + std::chrono::milliseconds(bytes / kBytesPerMillisecond);
}

/// Whether times of that state can tell a change that comes at `now` or later.
bool has_settled(const FileState& state, std::chrono::nanoseconds settled) {
  const FileTime now = now_by(CLOCK_REALTIME);
  constexpr std::int64_t kNano = 1'000'000'000;
  FileTime before{now.seconds - settled.count() / kNano, now.nanoseconds - settled.count() % kNano};
  if (before.nanoseconds < 0) before = {before.seconds - 1, before.nanoseconds + kNano};
  return state.modified <= before && state.changed <= before;
}

}  // namespace

fs::path cache_folder() {
  const auto absolute = [](const char* name) {
    const char* value = std::getenv(name);
    const fs::path path = value == nullptr ? "" : value;
    return path.is_absolute() ? path : fs::path();
  };
  if (const auto chosen = absolute("XDG_CACHE_HOME"); !chosen.empty()) return chosen / "moesweep";
  if (const auto home = absolute("HOME"); !home.empty()) return home / ".cache" / "moesweep";
  return {};
}

std::size_t check_digests(const fs::path& given_store, std::span<const ListedFile> files, const DigestRules& rules) {
  const fs::path store = real_place(given_store), cache = cache_file(store);
  if (cache.empty()) say_once_that_nothing_is_remembered("neither XDG_CACHE_HOME nor HOME names a folder");
  Remembered known;
  const auto is_known = [&](const ListedFile& listed) {
    const auto found = known.find(listed.name);
    if (found == known.end() || found->second.sha256 != listed.sha256 || found->second.state != listed.file->state()) return false;
    // All ranks of a launch on this machine, and all sources of a process, share one check.
    return rules.check == DigestCheck::cached || (!boot_id().empty() && found->second.boot == boot_id() && found->second.checked >= kProgramStart);
  };
  const auto unknown = [&] {
    if (!cache.empty()) known = read_cache(cache);
    std::vector<const ListedFile*> list;
    for (const auto& listed : files)
      if (!is_known(listed)) list.push_back(&listed);
    return list;
  };
  auto pending = unknown();
  if (pending.empty()) return 0;

  std::int64_t bytes = 0;
  for (const auto* listed : pending) bytes += listed->file->bytes();
  std::unique_ptr<StoreLock> lock;
  if (!cache.empty()) {
    lock = lock_beside(cache, rules.wait.count() < 0 ? waiting_time(bytes) : rules.wait);
    pending = unknown();  // another process may have done it meanwhile
  }
  constexpr std::int64_t kWorthALine = std::int64_t{1} << 30;
  if (!pending.empty() && bytes >= kWorthALine)
    log::info(fmt::format("{}: comparing the digests of {:.1f} GB of tokens with the manifest", store.string(), 1e-9 * static_cast<double>(bytes)));
  Remembered fresh;
  for (const auto* listed : pending) {
    const FileState before = listed->file->state();
    const bool settled = has_settled(before, rules.settled);
    const FileTime checked = now_by(CLOCK_BOOTTIME);
    if (listed->file->sha256() != listed->sha256)
      throw Error(ErrorKind::corrupt, "has another digest than the manifest says: it changed after the store was built",
                  listed->file->path().string(),
                  "`moesweep-data verify CONFIG` checks the store, `moesweep-data build CONFIG --force` makes it again");
    const bool unchanged = before.bytes == listed->file->bytes() && listed->file->state() == before;
    if (settled && unchanged) fresh[listed->name] = {before, listed->sha256, boot_id(), checked};
  }
  if (!fresh.empty() && lock) {
    // Files that are not pending were known; what is remembered of others, which the manifest no longer lists, goes.
    for (const auto& listed : files)
      if (const auto found = known.find(listed.name); found != known.end() && found->second.sha256 == listed.sha256)
        fresh.emplace(listed.name, found->second);
    try {
      publish_text(cache, text_of(fresh, store));
    } catch (const Error& error) {
      say_once_that_nothing_is_remembered(error.what());
    }
  }
  return pending.size();
}

}  // namespace moesweep::data
