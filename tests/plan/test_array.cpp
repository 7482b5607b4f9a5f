// Job arrays: chunks within the limits, walltimes from simulated shards, times as Slurm writes them; gangs from memory.
#include "moesweep/plan/array.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "moesweep/core/error.hpp"
#include "moesweep/plan/cost.hpp"
#include "moesweep/plan/shard.hpp"

namespace moesweep::plan {
namespace {

constexpr double kHour = 3600;

std::vector<Job> equal_jobs(std::size_t count, std::int64_t ranks, double seconds) {
  std::vector<Job> jobs;
  for (std::size_t i = 0; i < count; ++i) jobs.push_back({std::to_string(i), ranks, seconds});
  return jobs;
}

TEST(Array, ChunksHoldEveryShardOnceWithinMaxArraySize) {
  const auto jobs = equal_jobs(3000, 1, 60);
  ArrayOptions options;
  options.shards = 2500;
  const ArrayPlan plan = plan_array(jobs, options);
  EXPECT_EQ(plan.chunks_in_words(), "0-999 + 1000-1999 + 2000-2499");
  EXPECT_EQ(plan.chunks.back().indices(), "0-499");
  std::int64_t next = 0;
  for (const ArrayChunk& chunk : plan.chunks) {
    EXPECT_EQ(chunk.first, next);
    EXPECT_LT(chunk.last - chunk.first, options.max_array_size - 1) << "MaxArraySize is exclusive";
    next = chunk.last + 1;
  }
  EXPECT_EQ(next, 2500);
  EXPECT_EQ(plan.shard_seconds.size(), 2500U);
}

TEST(Array, NumberOfShardsComesFromTheWorkWhereNoneIsGiven) {
  const auto jobs = equal_jobs(96, 2, kHour);  // 192 rank-hours
  ArrayOptions options;
  options.ranks = 4;
  options.target_seconds = 4 * kHour;
  EXPECT_EQ(plan_array(jobs, options).shards, 12) << "192 rank-hours over 4 ranks x 4 hours";
  EXPECT_NE(plan_array(jobs, options).reason.find("192.0 rank-hours"), std::string::npos);
  options.limit_seconds = 2 * kHour;
  options.margin = 1;
  options.startup_seconds = 0;
  EXPECT_EQ(plan_array(jobs, options).shards, 24) << "shards fit the limit";
  options.max_jobs = 10;
  const ArrayPlan few = plan_array(jobs, options);
  EXPECT_EQ(few.shards, 10);
  EXPECT_NE(few.reason.find("10 jobs"), std::string::npos);
  EXPECT_TRUE(few.requeues);
  EXPECT_EQ(few.walltime(), "02:00:00");
  EXPECT_EQ(plan_array({}, {}).shards, 1);
  EXPECT_EQ(plan_array(equal_jobs(2, 1, 100 * kHour), {}).shards, 2) << "no more shards than trials";
}

TEST(Array, WalltimeIsTheLongestShardWithMarginAndStartInWholeMinutes) {
  ArrayOptions options;
  options.shards = 2;
  options.ranks = 1;
  options.margin = 1.5;
  options.startup_seconds = 100;
  const std::vector<Job> jobs{{"a", 1, 1000}, {"b", 1, 300}, {"c", 1, 200}};  // shards: a and c; b
  const ArrayPlan plan = plan_array(jobs, options);
  EXPECT_EQ(plan.shard_seconds, (std::vector<double>{1200, 300}));
  EXPECT_EQ(plan.walltime_seconds, 32 * 60) << "1200 x 1.5 + 100 = 1900 s";
  EXPECT_FALSE(plan.requeues);
  options.limit_seconds = 1000;
  const ArrayPlan cut = plan_array(jobs, options);
  EXPECT_TRUE(cut.requeues);
  EXPECT_EQ(cut.walltime_seconds, 16 * 60) << "whole minutes within the limit";
}

TEST(Array, SameForEveryOrderAndSkipsWhatNoShardHolds) {
  std::vector<Job> jobs{{"a", 1, 10}, {"b", 2, 20}, {"c", 4, 30}, {"d", 8, 40}};
  ArrayOptions options;
  options.ranks = 4;
  options.shards = 2;
  const ArrayPlan plan = plan_array(jobs, options);
  EXPECT_EQ(plan.jobs, 3U);
  EXPECT_EQ(plan.skipped, 1U);
  EXPECT_EQ(plan.gangs, (std::vector<std::int64_t>{8, 4, 2, 1}));
  std::ranges::reverse(jobs);
  EXPECT_EQ(plan_array(jobs, options).json(), plan.json());
}

TEST(Array, RefusesWhatLeavesNoRoom) {
  ArrayOptions options;
  options.max_array_size = 1;
  EXPECT_THROW(plan_array({}, options), Error);
  options = {};
  options.limit_seconds = 0;
  EXPECT_THROW(plan_array({}, options), Error);
  options = {};
  options.margin = 0.5;
  EXPECT_THROW(plan_array({}, options), Error);
}

TEST(Array, TimesAsSlurmWritesThem) {
  EXPECT_EQ(slurm_time(59.5), "00:01:00");
  EXPECT_EQ(slurm_time(5400), "01:30:00");
  EXPECT_EQ(slurm_time(2 * 86400 + 3661), "2-01:01:01");
  EXPECT_EQ(parse_time("30"), 30 * 60);
  EXPECT_EQ(parse_time("10:30"), 630);
  EXPECT_EQ(parse_time("1:30:00"), 5400);
  EXPECT_EQ(parse_time("2-0"), 2 * 86400);
  EXPECT_EQ(parse_time("1-02:03"), 86400 + 2 * 3600 + 3 * 60);
  EXPECT_EQ(parse_time("1-02:03:04"), 86400 + 2 * 3600 + 3 * 60 + 4);
  EXPECT_EQ(parse_time("90s"), 90);
  EXPECT_EQ(parse_time("1.5h"), 5400);
  EXPECT_EQ(parse_time("1000000000s"), 1e9);
  EXPECT_EQ(parse_time("UNLIMITED"), std::numeric_limits<double>::infinity());
  for (const double seconds : {1.0, 60.0, 3599.0, 86399.0, 86400.0, 1e6}) EXPECT_EQ(parse_time(slurm_time(seconds)), seconds);
  for (const char* text : {"",
                           "0",
                           "-5",
                           "x",
                           "1:",
                           ":30",
                           "1:2:3:4",
                           "1-",
                           "-1:00",
                           "1-2-3",
                           "4 h",
                           "4hours",
                           "1e3",
                           "nan",
                           "1:-5",
                           "00:00",
                           "99999999999",
                           "99999999999999999999d",
                           "999999999-00:00:00",
                           "1000000001s",
                           "inf",
                           " 5",
                           "5 "}) {
    try {
      parse_time(text);
      ADD_FAILURE() << "'" << text << "' was taken";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::usage) << text;
    }
  }
}

train::TrialConfig large() {
  train::TrialConfig config;
  config.data.vocabulary = 1024;
  config.data.domains = {"a", "b"};
  config.model.width = 256;
  config.model.layers = 6;
  config.model.heads = 8;
  config.model.experts = 24;
  config.model.expert_width = 512;
  return config;
}

TEST(Gang, IsTheSmallestThatFitsAndDividesTheExperts) {
  const double alone = cost_of(large()).memory_bytes;
  const auto none_needed = suggest_gang(large(), alone, 64);
  ASSERT_TRUE(none_needed);
  EXPECT_EQ(none_needed->expert * none_needed->data, 1);
  const double limit = 0.4 * alone;
  const auto gang = suggest_gang(large(), limit, 64);
  ASSERT_TRUE(gang);
  EXPECT_LE(gang->memory_bytes, limit);
  EXPECT_EQ(24 % gang->expert, 0);
  const std::int64_t ranks = gang->expert * gang->data;
  EXPECT_GT(ranks, 1);
  for (std::int64_t expert = 1; expert <= 24; ++expert)
    for (std::int64_t data = 1; expert * data < ranks; ++data) {
      if (24 % expert != 0 || (data & (data - 1)) != 0) continue;
      auto smaller = large();
      smaller.parallel.expert = expert;
      smaller.parallel.data = data;
      EXPECT_GT(cost_of(smaller).memory_bytes, limit) << expert << " x " << data << " would have done";
    }
  EXPECT_FALSE(suggest_gang(large(), 1e3, 64));
  const auto narrow = suggest_gang(large(), limit, 2);
  EXPECT_TRUE(!narrow || narrow->expert <= 2);
}

}  // namespace
}  // namespace moesweep::plan
