// The journal: whole lines, torn lines, full disks, and the fold into states.
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <algorithm>
#include <cmath>
#include <csignal>

#include "moesweep/core/error.hpp"
#include "moesweep/store/journal.hpp"
#include "samples.hpp"

namespace moesweep::store {
namespace {

using namespace samples;

/// An id of sixteen digits alike.
std::string id(const std::string& digit) {
  std::string text;
  for (int i = 0; i < 16; ++i) text += digit;
  return text;
}

TEST(Journal, AnAbsentFolderHasNoEvents) {
  const Folder folder;
  const auto journal = read_journal(folder.path());
  EXPECT_TRUE(journal.events.empty());
  EXPECT_TRUE(journal.problems.empty());
  EXPECT_TRUE(fold(journal).empty());
}

TEST(Journal, LinesComeBackInNameOrder) {
  const Folder folder;
  JournalWriter second(folder.path(), "launch", "b"), first(folder.path(), "launch", "a");
  second.write("started", {{"trial", id("2")}, {"attempt", 1}});
  first.write("started", {{"trial", id("1")}, {"attempt", 1}});
  first.write("ended", {{"trial", id("1")}, {"attempt", 1}, {"state", "done"}, {"note", "line\nbreak, \xff"}});
  EXPECT_EQ(first.path(), folder / "journal/launch-a.jsonl");
  const auto journal = read_journal(folder.path());
  ASSERT_EQ(journal.events.size(), 3U);
  EXPECT_TRUE(journal.problems.empty());
  EXPECT_EQ(journal.events[0]["trial"], id("1"));
  EXPECT_EQ(journal.events[1]["event"], "ended");
  EXPECT_EQ(journal.events[2]["trial"], id("2"));
  auto keys = journal.events[0].items().begin();
  EXPECT_EQ(keys.key(), "event");
  EXPECT_EQ((++keys).key(), "time");
  const auto text = slurp(first.path());
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 2);
}

TEST(Journal, AppendsToWhatIsThere) {
  const Folder folder;
  JournalWriter(folder.path(), "l", "w").write("started", {{"trial", id("f")}, {"attempt", 1}});
  JournalWriter moved(folder.path(), "other", "w");
  moved = JournalWriter(folder.path(), "l", "w");
  moved.write("ended", {{"trial", id("f")}, {"attempt", 1}, {"state", "done"}});
  EXPECT_EQ(read_journal(folder.path()).events.size(), 2U);
}

TEST(Journal, ATornLastLineIsToleratedAtEveryByte) {
  const Folder folder;
  JournalWriter writer(folder.path(), "l", "w");
  writer.write("started", {{"trial", id("f")}, {"attempt", 1}});
  const auto whole = slurp(writer.path());
  writer.write("ended", {{"trial", id("f")}, {"attempt", 1}, {"state", "done"}});
  const auto both = slurp(writer.path());
  for (std::size_t keep = whole.size(); keep < both.size(); ++keep) {
    spill(writer.path(), both.substr(0, keep));
    const auto journal = read_journal(folder.path());
    EXPECT_EQ(journal.events.size(), 1U);
    EXPECT_TRUE(journal.problems.empty());
  }
}

TEST(Journal, TornAndForeignLinesInTheMiddleAreReported) {
  const Folder folder;
  JournalWriter writer(folder.path(), "l", "w");
  writer.write("started", {{"trial", id("f")}, {"attempt", 1}});
  const auto line = slurp(writer.path());
  spill(writer.path(), line + line.substr(0, 20) + "\n" + "[1, 2]\n" + "{\"a\": 1}\n" + line);
  const auto journal = read_journal(folder.path());
  EXPECT_EQ(journal.events.size(), 2U);
  ASSERT_EQ(journal.problems.size(), 3U);
  for (std::size_t i = 0; i < 3; ++i)
    EXPECT_NE(journal.problems[i].find("l-w.jsonl:" + std::to_string(i + 2) + ":"), std::string::npos) << journal.problems[i];
}

TEST(Journal, AWriterAfterATornLineSpoilsNothing) {
  const Folder folder;
  {
    JournalWriter writer(folder.path(), "l", "w");
    writer.write("started", {{"trial", id("f")}, {"attempt", 1}});
    spill(writer.path(), slurp(writer.path()) + "{\"event\": \"en");
  }
  JournalWriter(folder.path(), "l", "w").write("ended", {{"trial", id("f")}, {"attempt", 1}, {"state", "done"}});
  const auto journal = read_journal(folder.path());
  EXPECT_EQ(journal.events.size(), 2U);
  EXPECT_EQ(journal.problems.size(), 1U);
  EXPECT_EQ(fold(journal).at(id("f")).state, "done");
}

TEST(Journal, AFullDiskLeavesWholeLines) {
  const Folder folder;
  JournalWriter writer(folder.path(), "l", "w");
  writer.write("started", {{"trial", id("f")}, {"attempt", 1}});
  const auto before = slurp(writer.path());
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit limit{};
  getrlimit(RLIMIT_FSIZE, &limit);
  const rlimit tight{before.size() + 10, limit.rlim_max};
  setrlimit(RLIMIT_FSIZE, &tight);
  EXPECT_THROW(writer.write("ended", {{"trial", id("f")}, {"attempt", 1}}), Error);
  setrlimit(RLIMIT_FSIZE, &limit);
  std::signal(SIGXFSZ, handler);
  EXPECT_EQ(slurp(writer.path()), before);
  writer.write("ended", {{"trial", id("f")}, {"attempt", 1}, {"state", "done"}});
  EXPECT_TRUE(read_journal(folder.path()).problems.empty());
}

TEST(Journal, AFieldOfAWrongTypeOrRangeIsListedAndTheRestGoesOn) {
  const Folder folder;
  JournalWriter writer(folder.path(), "l", "w");
  writer.write("ended", {{"trial", id("f")}, {"attempt", 1}, {"state", "done"}, {"reason", ""}, {"seconds", 2.0}});
  const auto good = slurp(writer.path());
  const std::string trial = "\"trial\":\"" + id("f") + "\"";
  const std::vector<std::string> wrong{
      R"({"event":"started","attempt":1})",
      R"({"event":"started","trial":7,"attempt":1})",
      R"({"event":"started","trial":"../../../x","attempt":1})",
      R"({"event":"started",)" + trial + R"(,"attempt":"x"})",
      R"({"event":"started",)" + trial + R"(,"attempt":-2147483648})",
      R"({"event":"ended",)" + trial + R"(,"attempt":999999999999,"state":"preempted"})",
      R"({"event":"ended",)" + trial + R"(,"attempt":1000001,"state":"preempted"})",
      R"({"event":"ended",)" + trial + R"(,"attempt":18446744073709551615,"state":"preempted"})",
      R"({"event":"ended",)" + trial + R"(,"attempt":1e3,"state":"preempted"})",
      R"({"event":"started",)" + trial + R"(,"attempt":2,"owner":[]})",
      R"({"event":"started",)" + trial + R"(,"attempt":2,"owner":{"launch":"l","process":"seven"}})",
      R"({"event":"started",)" + trial + R"(,"attempt":2,"owner":{"launch":"l","process":99999999999}})",
      R"({"event":"started",)" + trial + R"(,"attempt":2,"owner":{"launch":{}}})",
      R"({"event":"started",)" + trial + R"(,"attempt":2,"ranks":0})",
      R"({"event":"progress",)" + trial + R"(,"attempt":2,"step":-1})",
      R"({"event":"progress",)" + trial + R"(,"attempt":2,"step":9007199254740993})",
      R"({"event":"progress",)" + trial + R"(,"attempt":2,"loss":"low"})",
      R"({"event":"progress",)" + trial + R"(,"attempt":2,"tokens_per_second":-1})",
      R"({"event":"ended",)" + trial + R"(,"attempt":2,"state":3})",
      R"({"event":"ended",)" + trial + R"(,"attempt":2,"state":"don\u001b[31m"})",
      R"({"event":"ended",)" + trial + R"(,"attempt":2,"state":"failed","seconds":-1.0})",
      R"({"event":"ended",)" + trial + R"(,"attempt":2,"state":"failed","seconds":1e999})",
      R"({"event":"ended",)" + trial + R"(,"attempt":2,"state":"failed","charged":1})",
      R"({"event":"ended",)" + trial + R"(,"attempt":2,"state":"failed","reason":["x"]})",
      R"({"event":"ended",)" + trial + R"(,"attempt":2,"state":"failed","file":{"sha256":"x"}})",
      R"({"event":"ended",)" + trial + R"(,"attempt":2,"state":"failed","warnings":"x"})",
      R"({"event":"watchdog",)" + trial + R"(,"attempt":2,"text":9})",
      R"({"event":7})",
      R"({"event":"started",)" + trial + R"(,"attempt":2,"owner":)" + std::string(100, '[') + std::string(100, ']') + "}",
      "{\"event\":\"started\",\"reason\":\"\xff\"}",
  };
  std::string text;
  for (const std::string& line : wrong) text += line + "\n";
  spill(writer.path(), text + good);
  const auto journal = read_journal(folder.path());
  EXPECT_EQ(journal.events.size(), 1U);
  ASSERT_EQ(journal.problems.size(), wrong.size());
  for (std::size_t i = 0; i < wrong.size(); ++i) {
    EXPECT_NE(journal.problems[i].find("l-w.jsonl:" + std::to_string(i + 1) + ": "), std::string::npos) << journal.problems[i];
    EXPECT_EQ(journal.problems[i].find('\x1b'), std::string::npos) << journal.problems[i];
  }
  EXPECT_NE(journal.problems[3].find("attempt: expected an integer from 0 to 1000000 but found \"x\""), std::string::npos) << journal.problems[3];
  EXPECT_NE(journal.problems[10].find("owner.process"), std::string::npos) << journal.problems[10];
  EXPECT_EQ(fold(journal).at(id("f")).state, "done");
}

TEST(Journal, EventsAndFieldsOfLaterVersionsAreNoProblem) {
  const Folder folder;
  JournalWriter writer(folder.path(), "l", "w");
  writer.write("painted", {{"trial", "any"}, {"attempt", "many"}, {"colour", 7}});
  writer.write("ended", {{"trial", id("f")}, {"attempt", 1}, {"state", "done"}, {"loss", nullptr}, {"colour", {{"deep", 1}}}});
  const auto journal = read_journal(folder.path());
  EXPECT_EQ(journal.events.size(), 2U);
  EXPECT_TRUE(journal.problems.empty());
}

TEST(Journal, OnlyRegularFilesAreReadAndTheOthersAreListed) {
  const Folder folder;
  JournalWriter writer(folder.path(), "l", "w");
  writer.write("started", {{"trial", id("f")}, {"attempt", 1}});
  const auto place = folder / "journal";
  ASSERT_EQ(::mkfifo((place / "a-pipe.jsonl").c_str(), 0666), 0);
  std::filesystem::create_symlink("/dev/zero", place / "b-device.jsonl");
  std::filesystem::create_directory(place / "c-folder.jsonl");
  std::filesystem::create_symlink("l-w.jsonl", place / "d-link.jsonl");
  std::filesystem::create_symlink("e-loop.jsonl", place / "e-loop.jsonl");
  const auto journal = read_journal(folder.path());
  EXPECT_EQ(journal.events.size(), 1U) << "what a link points to is not read twice";
  ASSERT_EQ(journal.problems.size(), 5U);
  const std::vector<std::string> names{"a-pipe", "b-device", "c-folder", "d-link", "e-loop"};
  for (std::size_t i = 0; i < names.size(); ++i) EXPECT_NE(journal.problems[i].find(names[i] + ".jsonl: "), std::string::npos) << journal.problems[i];
}

TEST(Journal, LinesAndFilesThatAreTooLongAreBounded) {
  const Folder folder;
  JournalWriter writer(folder.path(), "l", "w");
  writer.write("started", {{"trial", id("f")}, {"attempt", 1}});
  const auto line = slurp(writer.path());
  spill(writer.path(), std::string(3 * kMostLineBytes, 'x') + "\n" + line + std::string(kMostLineBytes + 1, ' ') + "\n" + line);
  const auto journal = read_journal(folder.path());
  EXPECT_EQ(journal.events.size(), 2U);
  ASSERT_EQ(journal.problems.size(), 2U);
  EXPECT_NE(journal.problems[0].find("l-w.jsonl:1: the line is longer than"), std::string::npos) << journal.problems[0];
  EXPECT_NE(journal.problems[1].find("l-w.jsonl:3: the line is longer than"), std::string::npos) << journal.problems[1];
  // Of a file that is too long the rest is not read: here of 5 parts of 64 KiB, by a bound of 3.
  constexpr std::size_t kPart = std::size_t{1} << 16;
  spill(writer.path(), std::string(5 * kPart, '\n'));
  std::size_t lines = 0;
  std::vector<std::size_t> told;
  for_each_line(
      writer.path(), [&](std::size_t, std::string_view) { ++lines; }, [&](std::size_t number) { told.push_back(number); }, 100, 3 * kPart);
  EXPECT_EQ(lines, 3 * kPart);
  EXPECT_EQ(told, std::vector<std::size_t>{0});
}

TEST(Journal, AWriterGoesThroughNoLink) {
  const Folder folder;
  std::filesystem::create_directory(folder / "journal");
  std::filesystem::create_symlink(folder / "elsewhere", folder / "journal" / "l-w.jsonl");
  EXPECT_THROW(JournalWriter(folder.path(), "l", "w"), Error);
  EXPECT_FALSE(std::filesystem::exists(folder / "elsewhere"));
}

TEST(Fold, ThePublishedFileAndTheWarningsAreThoseOfTheLastAttemptThatTells) {
  const auto file = [](char digit) { return Json{{"sha256", std::string(64, digit)}, {"digest", std::string(64, 'd')}, {"bytes", 10}}; };
  Journal journal{
      {{{"event", "ended"}, {"trial", "a"}, {"attempt", 1}, {"state", "done"}, {"file", file('1')}, {"warnings", {"no_better_than_uniform"}}},
       {{"event", "ended"}, {"trial", "b"}, {"attempt", 1}, {"state", "done"}, {"file", file('1')}},
       {{"event", "ended"}, {"trial", "b"}, {"attempt", 2}, {"state", "done"}, {"file", file('2')}},
       {{"event", "ended"}, {"trial", "b"}, {"attempt", 3}, {"state", "preempted"}},
       {{"event", "ended"}, {"trial", "c"}, {"attempt", 1}, {"state", "done"}}},
      {}};
  auto states = fold(journal);
  EXPECT_EQ(states.at("a").published.sha256, std::string(64, '1'));
  EXPECT_EQ(states.at("a").published.bytes, 10);
  EXPECT_EQ(states.at("a").warnings, std::vector<std::string>{"no_better_than_uniform"});
  EXPECT_EQ(states.at("b").published.sha256, std::string(64, '2'));
  EXPECT_TRUE(states.at("b").warnings.empty());
  EXPECT_TRUE(states.at("c").published.sha256.empty()) << "older journals tell of no file";
  journal.events.push_back({{"event", "retry"}, {"trial", "a"}, {"attempt", 1}});
  states = fold(journal);
  EXPECT_TRUE(states.at("a").published.sha256.empty());
  EXPECT_TRUE(states.at("a").warnings.empty());
}

TEST(Fold, DoesNotDependOnTheOrderOfEvents) {
  std::vector<Json> events{
      {{"event", "started"}, {"trial", "a"}, {"attempt", 1}},
      {{"event", "progress"}, {"trial", "a"}, {"attempt", 1}, {"step", 10}, {"loss", 3.0}},
      {{"event", "progress"}, {"trial", "a"}, {"attempt", 1}, {"step", 20}, {"loss", 2.5}},
      {{"event", "ended"}, {"trial", "a"}, {"attempt", 1}, {"state", "preempted"}, {"reason", "signal"}, {"seconds", 4.0}},
      {{"event", "started"}, {"trial", "a"}, {"attempt", 2}},
      {{"event", "progress"}, {"trial", "a"}, {"attempt", 2}, {"step", 30}, {"loss", 2.0}},
      {{"event", "started"}, {"trial", "b"}, {"attempt", 1}},
      {{"event", "ended"}, {"trial", "b"}, {"attempt", 1}, {"state", "crashed"}, {"reason", "rank 1 died"}, {"seconds", 1.5}},
      {{"event", "ended"}, {"trial", "b"}, {"attempt", 1}, {"state", "done"}, {"seconds", 2.0}},
      {{"event", "started"}, {"trial", "c"}, {"attempt", 1}},
      {{"event", "launched"}, {"ranks", 2}},
  };
  std::sort(events.begin(), events.end());
  int orders = 0;
  for (int i = 0; i < 2000; ++i) {
    for (std::size_t k = events.size() - 1; k > 0; --k)
      std::swap(events[k], events[static_cast<std::size_t>(i * 31 + 7 * static_cast<int>(k)) % (k + 1)]);
    const auto status = fold({events, {}});
    ASSERT_EQ(status.size(), 3U);
    EXPECT_EQ(status.at("a").state, "running");
    EXPECT_EQ(status.at("a").attempts, 2);
    EXPECT_EQ(status.at("a").step, 30);
    EXPECT_EQ(status.at("a").loss, 2.0);
    EXPECT_EQ(status.at("a").seconds, 4.0);
    EXPECT_EQ(status.at("a").reason, "");
    EXPECT_EQ(status.at("b").state, "done");
    EXPECT_EQ(status.at("b").reason, "");
    EXPECT_EQ(status.at("b").seconds, 2.0);
    EXPECT_EQ(status.at("c").state, "running");
    EXPECT_TRUE(std::isnan(status.at("c").loss));
    ++orders;
  }
  EXPECT_EQ(orders, 2000);
}

TEST(Fold, OfEndingsThatDifferInOneFieldTheSameOneCountsInEveryOrder) {
  const Json ended{{"event", "ended"}, {"trial", "a"}, {"attempt", 1}, {"state", "crashed"}, {"reason", "gone"}, {"seconds", 1.0}};
  const auto with = [&](const char* key, const Json& value) {
    Json line = ended;
    line[key] = value;
    return line;
  };
  const auto file = [](const std::string& digest, int bytes) { return json_of({std::string(64, 'a'), digest, bytes}); };
  const std::string low(64, '1'), high(64, '2');
  const std::vector<std::pair<Json, Json>> pairs{{with("charged", true), with("charged", false)},
                                                 {with("suspect", true), with("suspect", false)},
                                                 {with("final", true), with("final", false)},
                                                 {with("seconds", 2.0), with("seconds", 3.0)},
                                                 {with("file", file(low, 7)), with("file", file(high, 7))},
                                                 {with("file", file(low, 7)), with("file", file(low, 8))}};
  for (const auto& [one, other] : pairs) {
    const auto a = fold({{one, other}, {}}).at("a"), b = fold({{other, one}, {}}).at("a");
    EXPECT_EQ(a.charges, b.charges) << one << other;
    EXPECT_EQ(a.suspect, b.suspect) << one << other;
    EXPECT_EQ(a.final, b.final) << one << other;
    EXPECT_EQ(a.seconds, b.seconds) << one << other;
    EXPECT_EQ(a.published.digest, b.published.digest) << one << other;
    EXPECT_EQ(a.published.bytes, b.published.bytes) << one << other;
  }
}

TEST(Fold, TheHighestAttemptDecidesAndItsEndWinsOverProgress) {
  const Journal journal{
      {{{"event", "ended"}, {"trial", "a"}, {"attempt", 2}, {"state", "failed"}, {"reason", "why"}, {"step", 40}, {"loss", nullptr}},
       {{"event", "progress"}, {"trial", "a"}, {"attempt", 2}, {"step", 50}, {"loss", 1.0}},
       {{"event", "ended"}, {"trial", "a"}, {"attempt", 1}, {"state", "done"}}},
      {}};
  const auto status = fold(journal).at("a");
  EXPECT_EQ(status.state, "failed");
  EXPECT_EQ(status.reason, "why");
  EXPECT_EQ(status.step, 50);
  EXPECT_EQ(status.attempts, 2);
}

}  // namespace
}  // namespace moesweep::store
