// Standings from made journals: no trial's folder is there at all.
#include "moesweep/launch/status.hpp"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <fstream>
#include <set>

#include "fake.hpp"
#include "launch/process.hpp"

namespace moesweep::launch {
namespace {

using namespace testing;  // NOLINT: the fakes of this folder

/// A folder with a journal that this rank alone writes.
class Status : public ::testing::Test {
 protected:
  comm::Communicator world = comm::Communicator::world();
  SharedFolder shared{world};
  fs::path folder = shared.path() / ("rank" + std::to_string(world.rank()));
  store::JournalWriter journal{folder, "launch", "r0"};
  PlanOutline plan{"made", {}};

  /// A trial's id from one digit.
  static std::string id_of(const std::string& digit) {
    std::string id;
    for (int i = 0; i < 16; ++i) id += digit;
    return id;
  }

  /// A trial of 100 steps and 1,000 tokens that the plan gives 10 s: 100 tokens/s.
  void trial(const std::string& id) { plan.trials.push_back({id_of(id), 100, 1000, 10.0, false}); }
  void write(const std::string& event, const std::string& id, int attempt, const Json& fields) {
    Json all = {{"trial", id_of(id)}, {"attempt", attempt}};
    all.update(fields);
    journal.write(event, all);
  }
  void started(const std::string& id, int attempt, std::int64_t process_start_shift = 0) {
    Owner owner = this_process("launch", "r0");
    owner.started += process_start_shift;
    write("started", id, attempt, {{"owner", owner.json()}});
  }
  void progress(const std::string& id, int attempt, std::int64_t step, double tokens_per_second) {
    write("progress", id, attempt, {{"step", step}, {"steps", 100}, {"loss", 3.5}, {"tokens_per_second", tokens_per_second}});
  }
  void ended(const std::string& id, int attempt, const std::string& state, const std::string& reason, double seconds) {
    write("ended", id, attempt, {{"state", state}, {"reason", reason}, {"seconds", seconds}});
  }
};

TEST_F(Status, RunningTrialsTellStepLossAndSpeedOfTheirLastAttempt) {
  trial("a");
  started("a", 1);
  progress("a", 1, 90, 7.0);
  ended("a", 1, "crashed", "", 0.0);
  started("a", 2);
  progress("a", 2, 20, 11.0);
  progress("a", 2, 50, 25.0);
  progress("a", 2, 40, 13.0);
  const Standings standings = standings_of(folder, plan);
  ASSERT_EQ(standings.trials.size(), 1U);
  EXPECT_EQ(standings.trials[0].status.state, "running");
  EXPECT_EQ(standings.trials[0].status.step, 50);
  EXPECT_EQ(standings.trials[0].tokens_per_second, 25.0);
  EXPECT_EQ(standings.tokens_per_second, 25.0);
  // Half of 10 s is left, at a quarter of the plan's 100 tokens/s.
  ASSERT_TRUE(standings.seconds_left);
  EXPECT_DOUBLE_EQ(*standings.seconds_left, 5.0 / 0.25);
  EXPECT_FALSE(standings.all_ended());
  const Json json = standings.json();
  EXPECT_EQ(json["trials"][0]["tokens_per_second"], 25.0);
  EXPECT_EQ(json["seconds_left"], 20.0);
  EXPECT_FALSE(fs::exists(folder / "trials"));
}

TEST_F(Status, ATrialThatHasToldNoSpeedGoesAsFastAsThoseThatEnded) {
  for (const char* id : {"a", "b", "c"}) trial(id);
  started("a", 1);
  ended("a", 1, "done", "", 20.0);
  started("b", 1);
  const Standings standings = standings_of(folder, plan);
  ASSERT_TRUE(standings.seconds_left);
  EXPECT_DOUBLE_EQ(*standings.seconds_left, (10.0 + 10.0) / 0.5) << "b and c are left, one at a time at half the plan's speed";
}

TEST_F(Status, NothingIsEstimatedWhereNothingRuns) {
  trial("a");
  trial("b");
  started("a", 1);
  ended("a", 1, "done", "", 20.0);
  EXPECT_FALSE(standings_of(folder, plan).seconds_left);
  EXPECT_FALSE(standings_of(folder, plan).all_ended());
}

TEST_F(Status, AnAttemptWhoseProcessIsGoneHasCrashed) {
  trial("a");
  started("a", 1, -1);
  progress("a", 1, 50, 25.0);
  const Standings standings = standings_of(folder, plan);
  EXPECT_EQ(standings.trials[0].status.state, "crashed");
  EXPECT_NE(standings.trials[0].status.reason.find("is gone"), std::string::npos);
  EXPECT_EQ(standings.tokens_per_second, 0.0);
}

TEST_F(Status, FailuresGroupByReasonTheMostFrequentFirst) {
  for (const char* id : {"a", "b", "c", "d", "e"}) trial(id);
  ended("a", 1, "failed", "the gate fell off", 1.0);
  ended("b", 1, "diverged", "loss", 1.0);
  ended("c", 1, "failed", "the gate fell off", 1.0);
  ended("d", 1, "done", "", 1.0);
  ended("e", 0, "skipped", "needs 4 ranks", 0.0);
  const Standings standings = standings_of(folder, plan);
  const auto failures = standings.failures();
  ASSERT_EQ(failures.size(), 3U);
  EXPECT_EQ(failures[0].reason, "the gate fell off");
  EXPECT_EQ(failures[0].trials, (std::vector<std::string>{id_of("a"), id_of("c")}));
  EXPECT_TRUE(standings.all_ended());
  EXPECT_EQ(standings.json()["failures"][0]["count"], 2);
}

TEST_F(Status, ALineThatIsWrongCostsNoOtherTrialItsState) {
  trial("a");
  trial("b");
  started("a", 1);
  ended("a", 1, "done", "", 20.0);
  started("b", 1, -1);
  std::ofstream foreign(folder / "journal" / "other.jsonl");
  foreign << R"({"event":"started","trial":")" << id_of("b") << R"(","attempt":2,"owner":{"process":"x"}})"
          << "\n"
          << R"({"event":"ended","trial":")" << id_of("a") << R"(","attempt":4294967297,"state":"preempted"})"
          << "\n"
          << R"({"event":"ended","trial":"../../../../etc","attempt":1,"state":"failed"})"
          << "\n";
  foreign.close();
  const Standings standings = standings_of(folder, plan);
  EXPECT_EQ(standings.trials[0].status.state, "done");
  EXPECT_EQ(standings.trials[1].status.state, "crashed");
  EXPECT_EQ(standings.problems.size(), 3U);
}

TEST_F(Status, ACollectiveFileThatIsAPipeIsNotWaitedFor) {
  trial("a");
  started("a", 1, -1);
  const fs::path attempt = trial_folder(folder, id_of("a")) / "attempt-1";
  fs::create_directories(attempt);
  ASSERT_EQ(::mkfifo((attempt / "collective-0").c_str(), 0666), 0);
  EXPECT_EQ(standings_of(folder, plan).trials[0].status.state, "crashed");
}

TEST_F(Status, AFileThatCannotBeOpenedIsUnreadableAndAMissingOneIsNot) {
  for (const char* digit : {"a", "b", "c", "d"}) {
    trial(digit);
    started(digit, 1);
    ended(digit, 1, digit == std::string("d") ? "failed" : "done", "", 1.0);
  }
  const auto file = [&](const char* digit) { return trial_file(folder, id_of(digit)); };
  for (const char* digit : {"a", "b"}) fs::create_directories(file(digit).parent_path());
  std::ofstream(file("a")) << "whatever is in it";
  fs::create_symlink("trial.h5", file("b"));  // to itself: nobody can open it
  Standings standings = standings_of(folder, plan);
  std::set<std::string> known;
  find_unreadable(standings, folder, known);
  EXPECT_EQ(standings.counts, (std::map<std::string, std::int64_t>{{"done", 2}, {"failed", 1}, {"unreadable", 1}}));
  EXPECT_EQ(standings.trials[1].status.state, "unreadable");
  EXPECT_NE(standings.trials[1].status.reason.find(file("b").string()), std::string::npos) << standings.trials[1].status.reason;
  EXPECT_EQ(known, std::set<std::string>{id_of("a")});
  EXPECT_TRUE(any_failed(standings.counts));
}

TEST_F(Status, WarningsAreShownWithTheirTrial) {
  trial("a");
  write("ended", "a", 1, {{"state", "done"}, {"seconds", 1.0}, {"warnings", {"no_better_than_uniform"}}});
  const Standings standings = standings_of(folder, plan);
  EXPECT_EQ(standings.trials[0].status.warnings, std::vector<std::string>{"no_better_than_uniform"});
  EXPECT_EQ(standings.json()["trials"][0]["warnings"], Json({"no_better_than_uniform"}));
}

}  // namespace
}  // namespace moesweep::launch
