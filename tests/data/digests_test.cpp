// Token files are those of the manifest: each is digested once a machine, and again when it may have changed.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <list>
#include <string>
#include <thread>
#include <vector>

#include "data/digests.hpp"
#include "data/store_writer.hpp"
#include "moesweep/core/error.hpp"
#include "moesweep/core/publish.hpp"

namespace moesweep::data {
namespace {

namespace fs = std::filesystem;

/// Tests do not wait until a file's times lie 2 s back.
DigestRules at_once(DigestCheck check = DigestCheck::cached) {
  return {.check = check, .settled = std::chrono::nanoseconds(0), .wait = std::chrono::milliseconds(20000)};
}

/// Two files as a manifest lists them.
struct TwoFiles {
  explicit TwoFiles(fs::path folder) : store(std::move(folder)) {
    fs::create_directories(store);
    write_bytes(store / "one", "tokens of one");
    write_bytes(store / "two", "tokens of two");
    // File systems keep coarser times than clocks: the next tick makes the files' times past ones.
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }

  /// How many files were digested.
  std::size_t check(const DigestRules& rules = at_once()) const {
    const RegularFile one(store / "one"), two(store / "two");
    const std::vector<ListedFile> files{{&one, "one", sha256_hex("tokens of one")}, {&two, "two", sha256_hex("tokens of two")}};
    return check_digests(store, files, rules);
  }

  fs::path store;
};

fs::path cache_of(const TemporaryData& data) {
  std::vector<fs::path> found;
  for (const auto& entry : fs::directory_iterator(data.cache_home() / "moesweep"))
    if (entry.path().extension() == ".json") found.push_back(entry.path());
  EXPECT_EQ(found.size(), 1U);
  return found.empty() ? fs::path() : found.front();
}

void expect_corrupt(const std::function<void()>& work, const fs::path& file) {
  try {
    work();
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(name_of(error.kind()), std::string("corrupt")) << error.what();
    EXPECT_EQ(error.where(), file.string());
    EXPECT_NE(error.message().find("has another digest than the manifest says"), std::string::npos) << error.message();
    EXPECT_NE(error.hint().find("moesweep-data verify"), std::string::npos) << error.hint();
  }
}

TEST(Digests, AreFoundOnceAMachine) {
  const TemporaryData data;
  const TwoFiles files(data.path() / "store");
  EXPECT_EQ(files.check(), 2U);
  EXPECT_EQ(files.check(), 0U);
  // The same store by another name.
  fs::create_directory_symlink(files.store, data.path() / "link");
  TwoFiles linked = files;
  linked.store = data.path() / "link";
  EXPECT_EQ(linked.check(), 0U);
  // Another store has its own file.
  EXPECT_EQ(TwoFiles(data.path() / "other").check(), 2U);
  EXPECT_EQ(files.check(), 0U);
}

TEST(Digests, OfAFileThatMayHaveChangedAreFoundAgain) {
  const TemporaryData data;
  const TwoFiles files(data.path() / "store");
  const auto one = files.store / "one";
  EXPECT_EQ(files.check(), 2U);
  const auto settle = [] { std::this_thread::sleep_for(std::chrono::milliseconds(20)); };
  // The same bytes, written again.
  write_bytes(one, "tokens of one");
  settle();
  EXPECT_EQ(files.check(), 1U);
  EXPECT_EQ(files.check(), 0U);
  // Another file of the same bytes and times.
  const auto times = fs::last_write_time(one);
  write_bytes(files.store / "new", "tokens of one");
  fs::rename(files.store / "new", one);
  fs::last_write_time(one, times);
  settle();
  EXPECT_EQ(files.check(), 1U);
  EXPECT_EQ(files.check(), 0U);
  // Other bytes of the same length, and the time of the last writing set back.
  write_bytes(one, "tokens of 0ne");
  fs::last_write_time(one, times);
  settle();
  expect_corrupt([&] { files.check(); }, one);
  expect_corrupt([&] { files.check(); }, one);
}

TEST(Digests, OfAFileThatChangedJustNowAreNotRemembered) {
  const TemporaryData data;
  const TwoFiles files(data.path() / "store");
  const DigestRules rules{.settled = std::chrono::hours(1)};
  EXPECT_EQ(files.check(rules), 2U);
  EXPECT_EQ(files.check(rules), 2U);
  fs::last_write_time(files.store / "one", fs::file_time_type::clock::now() + std::chrono::hours(1));  // a time in the future is none to trust
  EXPECT_EQ(files.check(), 2U);
  EXPECT_EQ(files.check(), 1U);
}

TEST(Digests, AreFoundAgainWhenAskedFor) {
  const TemporaryData data;
  const TwoFiles files(data.path() / "store");
  EXPECT_EQ(files.check(at_once()), 2U);
  // What this run of the program found counts, for the other ranks of a launch and for other sources of the same store.
  EXPECT_EQ(files.check(at_once(DigestCheck::always)), 0U);
  // What an earlier run found does not.
  auto text = Json::parse(read_text(cache_of(data)));
  for (const char* name : {"one", "two"}) text["files"][name]["checked"] = {0, 0};
  write_bytes(cache_of(data), text.dump());
  EXPECT_EQ(files.check(), 0U);
  EXPECT_EQ(files.check(at_once(DigestCheck::always)), 2U);
  EXPECT_EQ(files.check(at_once(DigestCheck::always)), 0U);
  // Nor what was found before the machine was started again.
  text = Json::parse(read_text(cache_of(data)));
  for (const char* name : {"one", "two"}) text["files"][name]["boot"] = "another";
  write_bytes(cache_of(data), text.dump());
  EXPECT_EQ(files.check(), 0U);
  EXPECT_EQ(files.check(at_once(DigestCheck::always)), 2U);
}

TEST(Digests, ARememberedDigestThatIsWrongIsNoProof) {
  const TemporaryData data;
  const TwoFiles files(data.path() / "store");
  EXPECT_EQ(files.check(), 2U);
  auto text = Json::parse(read_text(cache_of(data)));
  text["files"]["one"]["sha256"] = std::string(64, '0');
  write_bytes(cache_of(data), text.dump());
  EXPECT_EQ(files.check(), 1U);
}

TEST(Digests, ADamagedMemoryIsNoneAndIsReplaced) {
  const TemporaryData data;
  const TwoFiles files(data.path() / "store");
  EXPECT_EQ(files.check(), 2U);
  const std::string sound = read_text(cache_of(data));
  std::vector<std::string> damaged{"", "{", "[]", "null", "\xff", std::string(1 << 20, '['), std::string((1 << 24) + 1, ' ')};
  for (const char* key : {"format", "version", "files"}) {
    auto json = Json::parse(sound);
    json[key] = -1;
    damaged.push_back(json.dump());
    json.erase(key);
    damaged.push_back(json.dump());
  }
  for (const char* key : {"device", "inode", "bytes", "modified", "changed", "sha256", "boot", "checked"})
    for (const Json& value : {Json(), Json(1.5), Json({1, 2, 3}), Json({1, -1}), Json({{"a", 1}}), Json(std::uint64_t{1} << 63)}) {
      auto json = Json::parse(sound);
      json["files"]["one"][key] = value;
      damaged.push_back(json.dump());
    }
  for (const auto& text : damaged) {
    write_bytes(cache_of(data), text);
    EXPECT_EQ(files.check(), 2U) << text.substr(0, 1000);
    EXPECT_EQ(files.check(), 0U) << text.substr(0, 1000);
  }
}

TEST(Digests, AMemoryThatIsALinkIsNotReadNorWritten) {
  const TemporaryData data;
  const TwoFiles files(data.path() / "store");
  EXPECT_EQ(files.check(), 2U);
  const auto cache = cache_of(data), elsewhere = data.path() / "elsewhere.json";
  fs::rename(cache, elsewhere);
  fs::create_symlink(elsewhere, cache);
  const auto before = read_text(elsewhere);
  EXPECT_EQ(files.check(), 2U);
  EXPECT_EQ(files.check(), 2U);
  EXPECT_EQ(read_text(elsewhere), before);
  EXPECT_TRUE(fs::is_symlink(cache));
  // A lock that is a link is not followed either: what it points to is not made.
  auto lock = cache;
  lock.replace_extension(".lock");
  fs::remove(lock);
  fs::remove(cache);
  fs::create_symlink(data.path() / "made", lock);
  EXPECT_EQ(files.check(), 2U);
  EXPECT_FALSE(fs::exists(data.path() / "made"));
}

TEST(Digests, AMemoryOfAnotherUserIsNone) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root can give files away";
  const TemporaryData data;
  const TwoFiles files(data.path() / "store");
  EXPECT_EQ(files.check(), 2U);
  ASSERT_EQ(::chown(cache_of(data).c_str(), 12345, 12345), 0);
  EXPECT_EQ(files.check(), 2U);
  EXPECT_EQ(files.check(), 0U);  // it was replaced by one of our own
}

TEST(Digests, WithoutAPlaceForTheMemoryAreFoundEachTime) {
  const TemporaryData data;
  const TwoFiles files(data.path() / "store");
  write_bytes(data.cache_home(), "a file where a folder should be");
  EXPECT_EQ(files.check(), 2U);
  EXPECT_EQ(files.check(), 2U);
  const std::string home = std::getenv("HOME") == nullptr ? "" : std::getenv("HOME");
  ::setenv("XDG_CACHE_HOME", "relative/folders/are/to/be/ignored", 1);
  ::setenv("HOME", (data.path() / "home").c_str(), 1);
  EXPECT_EQ(cache_folder(), data.path() / "home" / ".cache" / "moesweep");
  ::unsetenv("HOME");
  EXPECT_EQ(cache_folder(), "");
  EXPECT_EQ(files.check(), 2U);
  EXPECT_EQ(files.check(), 2U);
  if (!home.empty()) ::setenv("HOME", home.c_str(), 1);
}

TEST(Digests, AreFoundByOneOfManyThatAskAtOnce) {
  const TemporaryData data;
  const TwoFiles files(data.path() / "store");
  std::atomic<std::size_t> digested{0};
  std::list<std::thread> threads;
  for (int i = 0; i < 8; ++i) threads.emplace_back([&] { digested += files.check(); });
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(digested, 2U);
}

TEST(Digests, AreFoundWithoutTheLockWhenItStaysTaken) {
  const TemporaryData data;
  const TwoFiles files(data.path() / "store");
  EXPECT_EQ(files.check(), 2U);
  auto lock = cache_of(data);
  fs::remove(lock);
  lock.replace_extension(".lock");
  const int held = ::open(lock.c_str(), O_RDWR | O_CLOEXEC);
  ASSERT_GE(held, 0);
  ASSERT_EQ(::flock(held, LOCK_EX), 0);
  EXPECT_EQ(files.check({.settled = std::chrono::nanoseconds(0), .wait = std::chrono::milliseconds(50)}), 2U);
  ::close(held);
}

TEST(Digests, AFileThatIsCutShortWhileItIsReadIsAnIoError) {
  const TemporaryData data;
  const TwoFiles files(data.path() / "store");
  const RegularFile one(files.store / "one");
  fs::resize_file(files.store / "one", 3);
  const std::vector<ListedFile> listed{{&one, "one", sha256_hex("tokens of one")}};
  try {
    check_digests(files.store, listed, at_once());
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(name_of(error.kind()), std::string("io"));
    EXPECT_NE(error.message().find("it ends at byte 3, and had 13 bytes when it was opened"), std::string::npos) << error.message();
  }
}

// --- a whole store

TEST(Digests, EveryFileOfAStoreIsChecked) {
  const TemporaryData data;
  TinyStore tiny(data.path());
  const std::string tokenizer = "{}";
  write_bytes(tiny.folder / "tokenizer.json", tokenizer);
  tiny.manifest["tokenizer"].update({{"file", "tokenizer.json"}, {"sha256", sha256_hex(tokenizer)}});
  tiny.save();
  open_source(tiny.config);
  for (const char* name : {"a.train.u16", "a.validation.u16", "b.train.u16", "b.validation.u16", "tokenizer.json"}) {
    const auto path = tiny.folder / name;
    const auto sound = read_text(path);
    auto changed = sound;
    changed.back() = static_cast<char>(changed.back() ^ 1);  // still a token of the vocabulary
    write_bytes(path, changed);
    expect_corrupt([&] { open_source(tiny.config); }, path);
    write_bytes(path, sound);
    open_source(tiny.config);
  }
}

TEST(Digests, NothingIsWrittenIntoTheDataFolder) {
  const TemporaryData data;
  const TinyStore tiny(data.path());
  const auto listing = [&] {
    std::vector<std::string> names;
    for (const auto& entry : fs::recursive_directory_iterator(data.path())) names.push_back(entry.path().string());
    std::ranges::sort(names);
    return names;
  };
  const auto before = listing();
  for (const auto& path : before) fs::permissions(path, fs::is_directory(path) ? fs::perms(0555) : fs::perms(0444));
  fs::permissions(data.path(), fs::perms(0555));
  open_source(tiny.config)->training(1, 2, 8, 0, 8);
  open_source(tiny.config, DigestCheck::always)->training(1, 2, 8, 0, 8);
  EXPECT_EQ(listing(), before);
  for (const auto& path : before) fs::permissions(path, fs::is_directory(path) ? fs::perms(0755) : fs::perms(0644));
  fs::permissions(data.path(), fs::perms(0755));
}

TEST(Digests, TwoOfOneFileAreCorrupt) {
  const TemporaryData data;
  TinyStore tiny(data.path());
  tiny.split("a", "validation").update({{"file", "a.train.u16"}, {"tokens", 200}});
  tiny.save();
  try {
    open_source(tiny.config);
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(name_of(error.kind()), std::string("corrupt"));
    EXPECT_NE(error.message().find("gives a.train.u16 two digests"), std::string::npos) << error.message();
  }
}

}  // namespace
}  // namespace moesweep::data
