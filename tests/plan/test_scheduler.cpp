// The scheduler's decisions one by one, and its property under simulation: every job that fits runs exactly once, close to the lower bound.
#include <gtest/gtest.h>

#include <random>
#include <set>

#include "moesweep/plan/scheduler.hpp"
#include "moesweep/plan/simulate.hpp"

namespace moesweep::plan {
namespace {

std::size_t run_of(const Decision& decision) { return std::get<Run>(decision).job; }

TEST(Scheduler, LargestJobOfTheBlockGoesFirst) {
  const std::vector<Job> jobs{{"a", 1, 5}, {"b", 1, 9}, {"c", 1, 9}};
  Scheduler scheduler(jobs, {0, 1});
  EXPECT_EQ(run_of(scheduler.next()), 1U);
  EXPECT_EQ(run_of(scheduler.next()), 1U) << "asking twice changes nothing";
  scheduler.on(Ended{1});
  EXPECT_EQ(run_of(scheduler.next()), 2U) << "equal cost: by id";
  scheduler.on(Taken{2});
  EXPECT_EQ(run_of(scheduler.next()), 0U);
  scheduler.on(Ended{0});
  EXPECT_TRUE(std::holds_alternative<Finish>(scheduler.next()));
}

TEST(Scheduler, OwnShardGoesBeforeLargerJobsOfOthers) {
  const std::vector<Job> jobs{{"a", 1, 50, false}, {"b", 1, 1, true}};
  Scheduler scheduler(jobs, {0, 1});
  EXPECT_EQ(run_of(scheduler.next()), 1U);
  scheduler.on(Ended{1});
  EXPECT_EQ(run_of(scheduler.next()), 0U) << "then what nobody has claimed";
}

TEST(Scheduler, WorldIsCutIntoAlignedBlocksOfTheLargestSizeAndARemainder) {
  const std::vector<Job> jobs{{"a", 2, 1}, {"b", 1, 9}};
  const Decision decision = Scheduler(jobs, {0, 5}).next();
  ASSERT_TRUE(std::holds_alternative<Split>(decision));
  EXPECT_EQ(std::get<Split>(decision).parts, (std::vector<Block>{{0, 2}, {2, 2}, {4, 1}}));
}

TEST(Scheduler, BlockSplitsWhenNoJobOfItsSizeIsLeftAndPartsKnowWhatItKnew) {
  const std::vector<Job> jobs{{"a", 2, 1}, {"b", 1, 9}, {"c", 1, 8}};
  Scheduler scheduler(jobs, {4, 2});
  EXPECT_EQ(run_of(scheduler.next()), 0U);
  scheduler.on(Taken{0});
  scheduler.on(Ended{1});
  const Decision decision = scheduler.next();
  ASSERT_TRUE(std::holds_alternative<Split>(decision));
  EXPECT_EQ(std::get<Split>(decision).parts, (std::vector<Block>{{4, 1}, {5, 1}}));
  EXPECT_EQ(run_of(scheduler.part({4, 1}).next()), 2U);
  EXPECT_TRUE(std::holds_alternative<Finish>(scheduler.part({5, 1}).next())) << "the last job was dealt to the other part";
}

TEST(Scheduler, RemainderWithoutFittingJobsFinishes) {
  const std::vector<Job> jobs{{"a", 2, 1}};
  EXPECT_TRUE(std::holds_alternative<Finish>(Scheduler(jobs, {2, 1}).next()));
}

TEST(Scheduler, GangLargerThanTheWorldIsNamedWithItsReason) {
  const std::vector<Job> jobs{{"a", 1, 1}, {"b", 4, 1}};
  const auto skipped = too_large(jobs, 2);
  ASSERT_EQ(skipped.size(), 1U);
  EXPECT_EQ(skipped[0].job, 1U);
  EXPECT_EQ(skipped[0].reason, "needs 4 ranks (parallel.expert * parallel.data), this world has 2");
}

TEST(Simulation, OneRankTakesTheSum) {
  const std::vector<Job> jobs{{"a", 1, 3}, {"b", 1, 4}};
  const auto result = simulate(jobs, 1);
  EXPECT_DOUBLE_EQ(result.makespan_seconds, 7);
  EXPECT_DOUBLE_EQ(result.lower_bound_seconds, 7);
  EXPECT_DOUBLE_EQ(result.idle_share, 0);
}

TEST(Simulation, GangsOfTwoSizesShareAWorld) {
  // Ranks 0-1 run the pair for 4 s; rank 2 runs both singles meanwhile.
  const std::vector<Job> jobs{{"pair", 2, 4}, {"x", 1, 2}, {"y", 1, 2}};
  const auto result = simulate(jobs, 3);
  EXPECT_DOUBLE_EQ(result.makespan_seconds, 4);
  EXPECT_DOUBLE_EQ(result.idle_share, 0);
}

TEST(Simulation, EveryFittingJobRunsOnceWithinGrahamsBound) {
  std::mt19937 random(7);
  for (int round = 0; round < 200; ++round) {
    std::vector<Job> jobs;
    const int count = static_cast<int>(random() % 60);
    const std::int64_t ranks = 1 + static_cast<std::int64_t>(random() % 16);
    std::size_t fitting = 0;
    for (int i = 0; i < count; ++i) {
      jobs.push_back({std::to_string(i), std::int64_t{1} << (random() % 4), 1.0 + static_cast<double>(random() % 100), random() % 2 == 0});
      fitting += jobs.back().ranks <= ranks ? 1 : 0;
    }
    const auto result = simulate(jobs, ranks);
    EXPECT_EQ(result.jobs_run, fitting);
    EXPECT_EQ(too_large(jobs, ranks).size(), jobs.size() - fitting);
    EXPECT_GE(result.makespan_seconds, result.lower_bound_seconds - 1e-9);
  }
  // Singles only: list scheduling is within (2 - 1/ranks) of the optimum (Graham 1966).
  std::vector<Job> jobs;
  for (int i = 0; i < 100; ++i) jobs.push_back({std::to_string(i), 1, 1.0 + static_cast<double>(random() % 100)});
  const auto result = simulate(jobs, 7);
  EXPECT_LE(result.makespan_seconds, (2.0 - 1.0 / 7) * result.lower_bound_seconds);
}

}  // namespace
}  // namespace moesweep::plan
