// The scheduler's decisions one by one; and in launches of many ranks, each with a scheduler of its own: every job runs once, no block idles beside
// a job that it could run, all ranks of a block decide alike.
#include "moesweep/plan/scheduler.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <map>
#include <queue>
#include <random>
#include <string>

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

TEST(Scheduler, NothingStartsThatCannotEndBeforeTheDeadline) {
  const std::vector<Job> jobs{{"a", 1, 50}, {"b", 1, 20}, {"c", 1, 5}};
  Scheduler scheduler(jobs, {0, 1});
  EXPECT_EQ(run_of(scheduler.next({50, 60, 1})), 0U) << "as long as the time that is left";
  EXPECT_EQ(run_of(scheduler.next({49, 60, 1})), 1U);
  EXPECT_EQ(run_of(scheduler.next({29, 60, 2})), 2U) << "at twice the estimates' pace";
  EXPECT_EQ(run_of(scheduler.next({60, 60, 0.5})), 0U);
  const Decision late = scheduler.next({4, 60, 1});
  ASSERT_TRUE(std::holds_alternative<Finish>(late));
  EXPECT_TRUE(std::get<Finish>(late).no_time);
  for (const std::size_t job : {0, 1, 2}) scheduler.on(Taken{job});
  const Decision empty = scheduler.next({4, 60, 1});
  ASSERT_TRUE(std::holds_alternative<Finish>(empty));
  EXPECT_FALSE(std::get<Finish>(empty).no_time);
}

TEST(Scheduler, JobLongerThanAnyLaunchIsBegunInItsFirstHalf) {
  const std::vector<Job> jobs{{"endless", 1, 500}, {"b", 1, 20}};
  Scheduler scheduler(jobs, {0, 1});
  EXPECT_EQ(run_of(scheduler.next({100, 100, 1})), 0U);
  EXPECT_EQ(run_of(scheduler.next({50, 100, 1})), 0U);
  EXPECT_EQ(run_of(scheduler.next({49, 100, 1})), 1U);
  scheduler.on(Ended{1});
  EXPECT_TRUE(std::get<Finish>(scheduler.next({49, 100, 1})).no_time);
}

TEST(Scheduler, BlockWhoseOwnJobsFindNoTimeSplitsOnToSmallerOnes) {
  const std::vector<Job> jobs{{"pair", 2, 50}, {"x", 1, 20}, {"y", 1, 10}};
  Scheduler scheduler(jobs, {0, 2});
  const TimeLeft time{30, 60, 1};
  const Decision decision = scheduler.next(time);
  ASSERT_TRUE(std::holds_alternative<Split>(decision));
  EXPECT_EQ(run_of(scheduler.part({0, 1}).next(time)), 1U);
  EXPECT_EQ(run_of(scheduler.part({1, 1}).next(time)), 2U);
}

TEST(Scheduler, PartsOfASplitTryDifferentJobsFirstAndGoOnToSmallerOnesAtOnce) {
  const std::vector<Job> jobs{{"p1", 2, 9}, {"p2", 2, 8}, {"s1", 1, 7}, {"s2", 1, 6}, {"s3", 1, 5}};
  Scheduler world(jobs, {0, 7});
  const Decision decision = world.next();
  ASSERT_TRUE(std::holds_alternative<Split>(decision));
  EXPECT_EQ(std::get<Split>(decision).parts, (std::vector<Block>{{0, 2}, {2, 2}, {4, 2}, {6, 1}}));
  EXPECT_EQ(run_of(world.part({0, 2}).next()), 0U);
  EXPECT_EQ(run_of(world.part({2, 2}).next()), 1U);
  Scheduler third = world.part({4, 2});
  ASSERT_TRUE(std::holds_alternative<Split>(third.next())) << "both pairs were dealt to others";
  EXPECT_EQ(run_of(third.part({4, 1}).next()), 2U);
  EXPECT_EQ(run_of(third.part({5, 1}).next()), 3U);
  Scheduler last = world.part({6, 1});
  EXPECT_EQ(run_of(last.next()), 4U);
  last.on(Lost{4});
  EXPECT_LE(run_of(last.next()), 3U) << "its own was lost: any of the others";
  EXPECT_GE(run_of(last.next()), 2U);
}

TEST(Scheduler, WorldIsShapedSoThatLongJobsOfSmallGangsStartEarly) {
  // Four pairs of 10 s, a single of 40 s. Pairs first on both halves, the single would start at 20 s; a rank of its own ends everything at 40 s.
  const std::vector<Job> jobs{{"a", 2, 10}, {"b", 2, 10}, {"c", 2, 10}, {"d", 2, 10}, {"long", 1, 40}};
  Scheduler world(jobs, {0, 4});
  ASSERT_TRUE(std::holds_alternative<Split>(world.next()));
  EXPECT_EQ(run_of(world.part({0, 2}).next()), 0U);
  Scheduler half = world.part({2, 2});
  ASSERT_TRUE(std::holds_alternative<Split>(half.next()));
  EXPECT_EQ(run_of(half.part({2, 1}).next()), 4U);
}

TEST(Scheduler, BlocksThatLostClaimsPart) {
  std::vector<Job> jobs;
  for (int i = 1000; i < 2000; ++i) jobs.push_back({std::to_string(i), 1, 1});
  std::map<std::size_t, int> tried;
  for (std::int64_t rank = 0; rank < 16; ++rank) {
    Scheduler block(jobs, {rank, 1});
    for (int i = 0; i < 6; ++i) block.on(Lost{run_of(block.next())});
    ++tried[run_of(block.next())];
    for (int i = 0; i < 6; ++i) block.on(Ended{run_of(block.next())});
    EXPECT_LE(run_of(block.next()), 12U) << "the first that is open again, after as many claims won";
  }
  EXPECT_GT(tried.size(), 8U);
}

// ---------------------------------------------------------------------------------------------------------------- launches

std::string text_of(const Decision& decision) {
  if (const auto* run = std::get_if<Run>(&decision)) return "run " + std::to_string(run->job);
  if (const auto* split = std::get_if<Split>(&decision)) {
    std::string text = "split";
    for (const Block& block : split->parts) text += " " + std::to_string(block.first) + "+" + std::to_string(block.ranks);
    return text;
  }
  return std::get<Finish>(decision).no_time ? "finish, no time" : "finish";
}

/// A launch as the real one: every rank has a scheduler of its own; a block's leader reads the board, decides and claims, and the other ranks hear
/// its events and decide once, at the end.
struct Launch {
  struct Start {
    double time;
    std::int64_t ranks;
  };
  struct Idle {
    double time;
    std::int64_t ranks;
    bool no_time;
  };

  Launch(const std::vector<Job>& all, std::int64_t ranks, double length, double board_delay) : jobs(all), whole(length), delay(board_delay) {
    for (std::int64_t rank = 0; rank < ranks; ++rank) schedulers.emplace_back(jobs, Block{0, ranks});
    claimed.assign(jobs.size(), -1.0);
    read.assign(static_cast<std::size_t>(ranks), 0);
    events.push({0.0, 0, {0, ranks}, kNoJob});
    while (!events.empty()) step();
  }

  void step() {
    const Ready now = events.top();
    events.pop();
    std::vector<Event> heard;
    Scheduler& leader = schedulers[static_cast<std::size_t>(now.block.first)];
    const auto hear = [&](const Event& event) {
      leader.on(event);
      heard.push_back(event);
    };
    if (now.ended != kNoJob) hear(Ended{now.ended});
    auto& at = read[static_cast<std::size_t>(now.block.first)];
    for (; at < board.size() && board[at].first <= now.time; ++at) hear(Taken{board[at].second});
    const TimeLeft time{whole - now.time, whole, 1.0};
    Decision decision = leader.next(time);
    while (std::holds_alternative<Run>(decision) && claimed[std::get<Run>(decision).job] >= 0.0) {
      ++lost;
      hear(Lost{std::get<Run>(decision).job});
      decision = leader.next(time);
    }
    for (std::int64_t rank = now.block.first; rank < now.block.first + now.block.ranks; ++rank) {
      Scheduler& scheduler = schedulers[static_cast<std::size_t>(rank)];
      if (rank != now.block.first)
        for (const Event& event : heard) scheduler.on(event);
      EXPECT_EQ(text_of(scheduler.next(time)), text_of(decision)) << "rank " << rank;
      read[static_cast<std::size_t>(rank)] = at;
    }
    if (const auto* run = std::get_if<Run>(&decision)) {
      const Job& job = jobs[run->job];
      EXPECT_EQ(job.ranks, now.block.ranks);
      EXPECT_TRUE(now.time + job.seconds <= whole || (job.seconds > whole && now.time <= whole / 2)) << job.seconds << " s at " << now.time;
      claimed[run->job] = now.time;
      board.push_back({now.time + delay, run->job});
      events.push({now.time + job.seconds, ++sequence, now.block, run->job});
    } else if (const auto* split = std::get_if<Split>(&decision)) {
      std::int64_t first = now.block.first;
      for (const Block& block : split->parts) {
        EXPECT_EQ(block.first, first) << "parts follow each other";
        EXPECT_LT(block.ranks, now.block.ranks);
        first += block.ranks;
        for (std::int64_t rank = block.first; rank < first; ++rank) {
          Scheduler& scheduler = schedulers[static_cast<std::size_t>(rank)];
          scheduler = scheduler.part(block);
        }
        events.push({now.time, ++sequence, block, kNoJob});
      }
      EXPECT_EQ(first, now.block.first + now.block.ranks);
    } else {
      idle.push_back({now.time, now.block.ranks, std::get<Finish>(decision).no_time});
    }
  }

  /// A job that a block could have run when it finished, with the block's time; empty when there is none.
  std::string left_idle() const {
    for (const Idle& block : idle)
      for (std::size_t i = 0; i < jobs.size(); ++i)
        if (jobs[i].ranks <= block.ranks && (claimed[i] < 0.0 || claimed[i] > block.time) &&
            TimeLeft{whole - block.time, whole, 1.0}.allows(jobs[i].seconds))
          return jobs[i].id + " at " + std::to_string(block.time);
    return {};
  }

  static constexpr std::size_t kNoJob = std::numeric_limits<std::size_t>::max();
  struct Ready {
    double time;
    std::size_t sequence;
    Block block;
    std::size_t ended;
    bool operator>(const Ready& other) const { return std::tie(time, sequence) > std::tie(other.time, other.sequence); }
  };
  const std::vector<Job>& jobs;
  double whole, delay;
  std::vector<Scheduler> schedulers;  // by rank
  std::vector<std::size_t> read;      // of the board, by rank
  std::vector<double> claimed;        // when, by job; -1: never
  std::vector<std::pair<double, std::size_t>> board;
  std::vector<Idle> idle;
  std::priority_queue<Ready, std::vector<Ready>, std::greater<>> events;
  std::size_t sequence = 0, lost = 0;
};

std::vector<Job> random_jobs(std::mt19937& random, bool powers_of_two) {
  std::vector<Job> jobs;
  const int count = static_cast<int>(random() % 60);
  for (int i = 0; i < count; ++i) {
    const std::int64_t ranks = powers_of_two ? std::int64_t{1} << (random() % 4) : 1 + static_cast<std::int64_t>(random() % 7);
    jobs.push_back({std::to_string(i), ranks, 1.0 + static_cast<double>(random() % 100), random() % 3 != 0});
  }
  return jobs;
}

TEST(Launch, EveryJobThatFitsRunsOnceAndNoBlockIdlesBesideOne) {
  std::mt19937 random(7);
  for (int round = 0; round < 400; ++round) {
    const std::vector<Job> jobs = random_jobs(random, round % 2 == 0);
    const auto ranks = 1 + static_cast<std::int64_t>(random() % 24);
    const Launch launch(jobs, ranks, std::numeric_limits<double>::infinity(), 0.0);
    for (std::size_t i = 0; i < jobs.size(); ++i) EXPECT_EQ(launch.claimed[i] >= 0.0, jobs[i].ranks <= ranks) << "round " << round << " job " << i;
    EXPECT_EQ(launch.lost, 0U) << "what the board tells at once is never tried twice";
    EXPECT_EQ(launch.left_idle(), "") << "round " << round;
    std::size_t fitting = 0;
    for (const Job& job : jobs) fitting += job.ranks <= ranks ? 1 : 0;
    EXPECT_EQ(too_large(jobs, ranks).size(), jobs.size() - fitting);
  }
}

TEST(Launch, DeadlineIsKeptAndNoBlockIdlesBesideAJobThatFitsTheTime) {
  std::mt19937 random(8);
  std::size_t not_run = 0;
  for (int round = 0; round < 400; ++round) {
    const std::vector<Job> jobs = random_jobs(random, round % 2 == 0);
    const auto ranks = 1 + static_cast<std::int64_t>(random() % 24);
    const Launch launch(jobs, ranks, 60.0 + static_cast<double>(random() % 100), 0.0);  // each start is held against the deadline
    EXPECT_EQ(launch.left_idle(), "") << "round " << round;
    bool told = false;
    for (const auto& block : launch.idle) told = told || block.no_time;
    bool left = false;
    for (std::size_t i = 0; i < jobs.size(); ++i) left = left || (jobs[i].ranks <= ranks && launch.claimed[i] < 0.0);
    EXPECT_TRUE(told || !left) << "round " << round << ": jobs are left, and no block said that time was short";
    not_run += left ? 1 : 0;
  }
  EXPECT_GT(not_run, 100U);
}

TEST(Launch, LateNewsOfClaimsCostsTriesButNeverAJob) {
  std::mt19937 random(9);
  std::size_t lost = 0;
  for (int round = 0; round < 200; ++round) {
    const std::vector<Job> jobs = random_jobs(random, true);
    const auto ranks = 1 + static_cast<std::int64_t>(random() % 24);
    const Launch launch(jobs, ranks, std::numeric_limits<double>::infinity(), static_cast<double>(random() % 200));
    for (std::size_t i = 0; i < jobs.size(); ++i) EXPECT_EQ(launch.claimed[i] >= 0.0, jobs[i].ranks <= ranks) << "round " << round << " job " << i;
    lost += launch.lost;
  }
  EXPECT_GT(lost, 0U);
}

}  // namespace
}  // namespace moesweep::plan
