// Costs: hand-counted model sizes, and how time and memory follow the config.
#include "moesweep/plan/cost.hpp"

#include <gtest/gtest.h>

#include <vector>

namespace moesweep::plan {
namespace {

/// The testbed's tiny model (two layers, width 64, 32 experts of width 32, vocabulary of 1,024) with eight domains.
train::TrialConfig testbed_tiny() {
  train::TrialConfig config;
  config.data.vocabulary = 1024;
  config.data.domains = {"a", "b", "c", "d", "e", "f", "g", "h"};
  return config;
}

TEST(Cost, ParametersOfTheTestbedModelCountedByHand) {
  const TrialCost cost = cost_of(testbed_tiny());
  const std::int64_t embeddings = 2 * 1024 * 64, attention = 4 * 64 * 64, router = 64 * 32, expert = 3 * 64 * 32, norms = 2 * 64;
  EXPECT_EQ(cost.parameters_total, embeddings + 2 * (attention + router + 32 * expert + norms) + 64);
  EXPECT_EQ(cost.parameters_total - cost.parameters_active, 2 * (32 - 4) * expert);
}

TEST(Cost, TokensAndTimeFollowTheSteps) {
  auto config = testbed_tiny();
  config.evaluation.every_steps = 0;
  config.evaluation.tokens = 1;
  const TrialCost once = cost_of(config);
  EXPECT_EQ(once.training_tokens, 200 * 64 * 64);
  EXPECT_DOUBLE_EQ(once.seconds, once.flops / kDefaultFlopsPerSecond);
  config.train.steps *= 2;
  EXPECT_NEAR(cost_of(config).flops / once.flops, 2.0, 1e-5);
  config.parallel.data = 2;
  const TrialCost halved = cost_of(config);
  EXPECT_EQ(halved.ranks, 2);
  EXPECT_NEAR(halved.seconds / once.seconds, 1.0, 1e-5) << "twice the steps on twice the ranks";
}

TEST(Cost, SmallerPassesNeedLessMemory) {
  auto config = testbed_tiny();
  const double whole = cost_of(config).memory_bytes;
  config.train.sequences_per_pass = 8;
  EXPECT_LT(cost_of(config).memory_bytes, whole);
}

TEST(Cost, RatioOfTheLargestToTheSmallestModel) {
  EXPECT_DOUBLE_EQ(parameter_ratio({}), 1.0);
  auto large = testbed_tiny();
  large.model.width = 256;
  large.model.layers = 6;
  large.model.heads = 8;
  large.model.expert_width = 120;
  const std::vector<TrialCost> costs{cost_of(large), cost_of(testbed_tiny())};
  EXPECT_GE(parameter_ratio(costs), 33.0);
  EXPECT_DOUBLE_EQ(parameter_ratio(costs), static_cast<double>(costs[0].parameters_total) / static_cast<double>(costs[1].parameters_total));
}

}  // namespace
}  // namespace moesweep::plan
