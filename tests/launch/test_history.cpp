// Who pays for an attempt that was lost, as the journal tells it; budgets; faults as they are written.
#include "launch/history.hpp"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <set>

#include "fake.hpp"
#include "launch/board.hpp"
#include "moesweep/launch/inject.hpp"

namespace moesweep::launch {
namespace {

using namespace testing;  // NOLINT: the fakes of this folder

/// A journal in the making: launches begin trials, end them, die.
struct Story {
  store::Journal journal;
  std::set<std::string> asked_to_stop;  ///< trials all of whose ranks were

  static Owner owner(const std::string& launch) {
    Owner owner;
    owner.launch = launch;
    return owner;
  }
  Story& started(const std::string& launch, const std::string& trial, int attempt = 1) {
    journal.events.push_back({{"event", "started"}, {"trial", trial}, {"attempt", attempt}, {"owner", owner(launch).json()}});
    return *this;
  }
  Story& ended(const std::string& by, const std::string& trial, const std::string& state, Json more = Json::object(), int attempt = 1) {
    Json event = {{"event", "ended"}, {"trial", trial}, {"attempt", attempt}, {"state", state}, {"launch", by}};
    event.update(more);
    journal.events.push_back(std::move(event));
    return *this;
  }
  Story& says(Json event) {
    journal.events.push_back(std::move(event));
    return *this;
  }
  Verdict of(const std::string& trial, const std::string& launch, const std::string& outside = "", int attempt = 1) const {
    return judge(History(journal), trial, attempt, owner(launch), "process 7 on node is gone", outside,
                 [this](const History::Open& open) { return asked_to_stop.contains(open.trial); });
  }
};

TEST(Judge, CrashAloneCounts) {
  const Verdict verdict = Story().started("L", "a").of("a", "L");
  EXPECT_EQ(verdict.state, "crashed");
  EXPECT_TRUE(verdict.charged);
  EXPECT_FALSE(verdict.suspect);
}

TEST(Judge, WhatHadEndedIsNoCompany) { EXPECT_TRUE(Story().started("L", "a").started("L", "b").ended("L", "b", "done").of("a", "L").charged); }

TEST(Judge, OfSeveralOpenTrialsEachIsASuspectAndNonePays) {
  Story story;
  story.started("L", "a").started("L", "b").started("L", "c").ended("L", "c", "done");
  for (const char* trial : {"a", "b"}) {
    const Verdict verdict = story.of(trial, "L");
    EXPECT_EQ(verdict.state, "crashed");
    EXPECT_TRUE(verdict.suspect);
    EXPECT_FALSE(verdict.charged);
  }
  // Closing one of them by another launch does not leave the other alone.
  story.ended("M", "a", "crashed", {{"suspect", true}, {"charged", false}});
  EXPECT_TRUE(story.of("b", "L").suspect);
}

TEST(Judge, TrialThatItsDyingProcessNamedPaysAndTheOthersDoNot) {
  Story story;
  story.started("L", "a").started("L", "b").ended("L", "a", "failed", {{"culprit", true}});
  const Verdict other = story.of("b", "L");
  EXPECT_EQ(other.state, "preempted");
  EXPECT_NE(other.reason.find("trial a"), std::string::npos);
  EXPECT_FALSE(other.charged || other.suspect);
}

TEST(Judge, TrialThatTheWatchdogNamedPays) {
  Story story;
  story.started("L", "a").started("L", "b").says({{"event", "watchdog"}, {"trial", "a"}, {"attempt", 1}, {"text", "waited longer than 5 s"}});
  EXPECT_TRUE(story.of("a", "L").charged);
  EXPECT_EQ(story.of("a", "L").reason, "waited longer than 5 s; process 7 on node is gone");
  EXPECT_EQ(story.of("b", "L").state, "preempted");
}

TEST(Judge, WhatEndsAStepFromOutsideIsNobodysFault) {
  const Verdict verdict = Story().started("L", "a").of("a", "L", "its Slurm job 17 is NODE_FAIL");
  EXPECT_EQ(verdict.state, "preempted");
  EXPECT_EQ(verdict.reason, "its Slurm job 17 is NODE_FAIL");
  EXPECT_FALSE(verdict.charged || verdict.suspect);
}

TEST(Judge, AttemptThatWasAskedToStopWasKilledForThat) {
  Story story;
  story.started("L", "a").started("L", "b").asked_to_stop = {"a", "b"};
  EXPECT_EQ(story.of("a", "L").state, "preempted");
}

TEST(Judge, OneThatDiedBeforeTheOthersWereAskedToStopIsFound) {
  // A rank dies; the launcher asks the others to stop, and kills them.
  Story story;
  story.started("L", "a").started("L", "b").started("L", "c").asked_to_stop = {"b", "c"};
  EXPECT_EQ(story.of("b", "L").state, "preempted");
  EXPECT_FALSE(story.of("b", "L").charged);
  EXPECT_EQ(story.of("a", "L").state, "crashed");
  EXPECT_TRUE(story.of("a", "L").charged) << "nothing else can have been it";
  story.asked_to_stop = {"c"};
  EXPECT_TRUE(story.of("a", "L").suspect);
  EXPECT_TRUE(story.of("b", "L").suspect);
}

TEST(Charges, AreFoldedByCauseAndForgiven) {
  Story story;
  story.started("L", "a").ended("L", "a", "crashed", {{"charged", true}, {"final", false}});
  story.started("M", "a", 2).ended("M", "a", "crashed", {{"charged", false}, {"suspect", true}, {"final", false}}, 2);
  auto status = store::fold(story.journal).at("a");
  EXPECT_EQ(status.charges.at("crashed"), 1);
  EXPECT_TRUE(status.suspect);
  EXPECT_FALSE(status.final);
  story.started("N", "a", 3).ended("N", "a", "preempted", Json::object(), 3);
  EXPECT_TRUE(store::fold(story.journal).at("a").suspect) << "an interruption clears nobody";
  story.started("O", "a", 4).ended("O", "a", "crashed", {{"charged", true}, {"final", true}}, 4);
  status = store::fold(story.journal).at("a");
  EXPECT_FALSE(status.suspect);
  EXPECT_TRUE(status.final);
  EXPECT_EQ(status.charges.at("crashed"), 2);
  EXPECT_TRUE(needs_no_attempt(status, {.crashed = 1}));
  EXPECT_FALSE(needs_no_attempt(status, {.crashed = 2}));
  story.says({{"event", "retry"}, {"trial", "a"}, {"attempt", 4}});
  status = store::fold(story.journal).at("a");
  EXPECT_EQ(status.state, "pending");
  EXPECT_TRUE(status.charges.empty());
  EXPECT_FALSE(status.final);
  EXPECT_EQ(status.attempts, 4);
}

TEST(Charges, LinesOfEarlierVersionsAreTheLastWord) {
  Story story;
  story.says({{"event", "ended"}, {"trial", "a"}, {"attempt", 1}, {"state", "failed"}});
  EXPECT_TRUE(store::fold(story.journal).at("a").final);
  EXPECT_TRUE(needs_no_attempt(store::fold(story.journal).at("a"), {}));
  story.says({{"event", "ended"}, {"trial", "b"}, {"attempt", 1}, {"state", "crashed"}});
  EXPECT_FALSE(store::fold(story.journal).at("b").final);
}

/// A trial's id from one digit.
std::string trial_id(char digit) { return std::string(16, digit); }

TEST(Boards, TellWhatIsNewAndFromWhen) {
  const auto self = comm::Communicator::self();
  const SharedFolder shared(self);
  fs::create_directories(shared.path() / "journal");
  Board first(shared.path(), 0);
  first.claimed(trial_id('a'));
  first.failed(trial_id('a'));
  Board second(shared.path(), Board::length(shared.path()));
  EXPECT_TRUE(second.new_claims().empty());
  EXPECT_EQ(second.failures(), 0);
  first.claimed(trial_id('b'));
  first.failed(trial_id('c'));
  EXPECT_EQ(second.new_claims(), std::vector<std::string>{trial_id('b')});
  EXPECT_TRUE(second.new_claims().empty()) << "told once";
  EXPECT_EQ(second.failures(), 1);
  std::ofstream(Board::file_of(shared.path()), std::ios::app) << "C " << trial_id('d') << "\nC " << trial_id('e').substr(0, 7);
  EXPECT_EQ(second.new_claims(), std::vector<std::string>{trial_id('d')}) << "a torn line waits for its end";
  std::ofstream(Board::file_of(shared.path()), std::ios::app) << trial_id('e').substr(7) << "\n";
  EXPECT_EQ(second.new_claims(), std::vector<std::string>{trial_id('e')});
  EXPECT_EQ(first.failures(), 2);
}

TEST(Boards, PassOverWhatIsNoLineOfTheirs) {
  const auto self = comm::Communicator::self();
  const SharedFolder shared(self);
  fs::create_directories(shared.path() / "journal");
  Board board(shared.path(), 0);
  std::ofstream(Board::file_of(shared.path())) << "C ../../etc\nC\n\nF x\nC" << trial_id('a') << "\n"
                                               << std::string(1 << 20, 'C') << "\n"
                                               << "C " << trial_id('b') << "\nF " << trial_id('b') << "\n";
  EXPECT_EQ(board.new_claims(), std::vector<std::string>{trial_id('b')});
  EXPECT_EQ(board.failures(), 1);
}

TEST(Boards, ArePipesAndLinksForNobody) {
  const auto self = comm::Communicator::self();
  const SharedFolder shared(self);
  fs::create_directories(shared.path() / "journal");
  ASSERT_EQ(::mkfifo(Board::file_of(shared.path()).c_str(), 0666), 0);
  Board board(shared.path(), 0);
  board.claimed(trial_id('a'));  // waits for no reader
  EXPECT_TRUE(board.new_claims().empty());
  fs::remove(Board::file_of(shared.path()));
  fs::create_symlink(shared.path() / "elsewhere", Board::file_of(shared.path()));
  board.claimed(trial_id('a'));
  EXPECT_FALSE(fs::exists(shared.path() / "elsewhere"));
}

TEST(Faults, AreReadAndMeantForOneRankOfOneAttempt) {
  const InjectedFault fault = parse_fault("exception@trial=3,step=30,rank=1,attempt=2");
  EXPECT_EQ(fault.kind, FaultKind::exception);
  EXPECT_EQ(fault.step, 30);
  EXPECT_FALSE(hook_of({fault}, 2, "ab", 2, 1));
  EXPECT_FALSE(hook_of({fault}, 3, "ab", 1, 1));
  EXPECT_FALSE(hook_of({fault}, 3, "ab", 2, 0));
  auto hook = hook_of({fault}, 3, "ab", 2, 1);
  ASSERT_TRUE(hook);
  EXPECT_EQ(hook(29), train::Fault::none);
  EXPECT_THROW(hook(31), std::runtime_error) << "an attempt that goes on from a later step meets it too";
  EXPECT_EQ(hook(32), train::Fault::none) << "once an attempt";
  EXPECT_TRUE(hook_of({parse_fault("nan@trial=abc")}, 9, "abcdef", 1, 0)) << "by the beginning of the id";
  EXPECT_EQ(hook_of({parse_fault("nan")}, 9, "abcdef", 5, 0)(1), train::Fault::not_a_number) << "every trial and attempt";
  EXPECT_DOUBLE_EQ(parse_fault("slow@seconds=0.25").seconds, 0.25);
  for (const char* wrong : {"", "explode", "kill@trial", "kill@trial=", "kill@trial=xyz", "kill@step=0", "kill@step=-1", "kill@rank=1x",
                            "kill@attempt=0", "slow@seconds=fast", "slow@seconds=1e99", "kill@when=now"}) {
    try {
      parse_fault(wrong);
      ADD_FAILURE() << wrong;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::usage) << wrong;
      EXPECT_NE(error.hint().find("kill@trial=3,step=30,rank=1"), std::string::npos);
    }
  }
}

}  // namespace
}  // namespace moesweep::launch
