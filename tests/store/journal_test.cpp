// The journal: whole lines, torn lines, full disks, and the fold into states.
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <cmath>
#include <csignal>

#include "moesweep/core/error.hpp"
#include "moesweep/store/journal.hpp"
#include "samples.hpp"

namespace moesweep::store {
namespace {

using namespace samples;

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
  second.write("started", {{"trial", "t2"}, {"attempt", 1}});
  first.write("started", {{"trial", "t1"}, {"attempt", 1}});
  first.write("ended", {{"trial", "t1"}, {"attempt", 1}, {"state", "done"}, {"note", "line\nbreak, \xff"}});
  EXPECT_EQ(first.path(), folder / "journal/launch-a.jsonl");
  const auto journal = read_journal(folder.path());
  ASSERT_EQ(journal.events.size(), 3U);
  EXPECT_TRUE(journal.problems.empty());
  EXPECT_EQ(journal.events[0]["trial"], "t1");
  EXPECT_EQ(journal.events[1]["event"], "ended");
  EXPECT_EQ(journal.events[2]["trial"], "t2");
  auto keys = journal.events[0].items().begin();
  EXPECT_EQ(keys.key(), "event");
  EXPECT_EQ((++keys).key(), "time");
  const auto text = slurp(first.path());
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 2);
}

TEST(Journal, AppendsToWhatIsThere) {
  const Folder folder;
  JournalWriter(folder.path(), "l", "w").write("started", {{"trial", "t"}, {"attempt", 1}});
  JournalWriter moved(folder.path(), "other", "w");
  moved = JournalWriter(folder.path(), "l", "w");
  moved.write("ended", {{"trial", "t"}, {"attempt", 1}, {"state", "done"}});
  EXPECT_EQ(read_journal(folder.path()).events.size(), 2U);
}

TEST(Journal, ATornLastLineIsToleratedAtEveryByte) {
  const Folder folder;
  JournalWriter writer(folder.path(), "l", "w");
  writer.write("started", {{"trial", "t"}, {"attempt", 1}});
  const auto whole = slurp(writer.path());
  writer.write("ended", {{"trial", "t"}, {"attempt", 1}, {"state", "done"}});
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
  writer.write("started", {{"trial", "t"}, {"attempt", 1}});
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
    writer.write("started", {{"trial", "t"}, {"attempt", 1}});
    spill(writer.path(), slurp(writer.path()) + "{\"event\": \"en");
  }
  JournalWriter(folder.path(), "l", "w").write("ended", {{"trial", "t"}, {"attempt", 1}, {"state", "done"}});
  const auto journal = read_journal(folder.path());
  EXPECT_EQ(journal.events.size(), 2U);
  EXPECT_EQ(journal.problems.size(), 1U);
  EXPECT_EQ(fold(journal).at("t").state, "done");
}

TEST(Journal, AFullDiskLeavesWholeLines) {
  const Folder folder;
  JournalWriter writer(folder.path(), "l", "w");
  writer.write("started", {{"trial", "t"}, {"attempt", 1}});
  const auto before = slurp(writer.path());
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit limit{};
  getrlimit(RLIMIT_FSIZE, &limit);
  const rlimit tight{before.size() + 10, limit.rlim_max};
  setrlimit(RLIMIT_FSIZE, &tight);
  EXPECT_THROW(writer.write("ended", {{"trial", "t"}, {"attempt", 1}}), Error);
  setrlimit(RLIMIT_FSIZE, &limit);
  std::signal(SIGXFSZ, handler);
  EXPECT_EQ(slurp(writer.path()), before);
  writer.write("ended", {{"trial", "t"}, {"attempt", 1}, {"state", "done"}});
  EXPECT_TRUE(read_journal(folder.path()).problems.empty());
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
