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

TEST(Cost, MemoryOfASmallTrialByHand) {
  // d = 64, f = 32, E = 32, k = 4, 4 heads, 2 layers, S = 64, V = 1,024, one pass of 64 sequences: T = 4,096 tokens, 16,384 rows.
  auto config = testbed_tiny();
  config.routing.balance.method = "aux_loss";
  config.routing.balance.scope = routing::ScopeKind::global_batch;
  const double tokens = 4096, rows = 4 * tokens, d = 64, f = 32;
  const TrialCost cost = cost_of(config);
  const model::Memory& memory = cost.memory;
  const double parameters = static_cast<double>(cost.parameters_total);
  EXPECT_EQ(memory.parameters, 4 * parameters);
  EXPECT_EQ(memory.gradients, 4 * parameters);
  EXPECT_EQ(memory.moments, 8 * parameters);
  const double attention = tokens * (10 * d + 4 * 64) * 4, routing = tokens * (2 * 32 * 4 + 4 * (5 * 8 + 4));
  const double experts = rows * (2 * d + 3 * f) * 4, ids = tokens * (4 + 2 * 2 * 4) * 8;
  EXPECT_EQ(memory.activations, 2 * (attention + routing + experts) + ids);
  EXPECT_EQ(memory.loss, tokens * (2 * 1024 + 4 * d) * 4 + 1024 * d * 4);
  EXPECT_EQ(memory.experts, rows * (2 * d + 3 * f) * 4 + 3 * tokens * d * 4);
  EXPECT_EQ(memory.exchange, 0);
  EXPECT_EQ(memory.reduction, 0);
  EXPECT_EQ(memory.kernels, 0);
  EXPECT_EQ(memory.decisions, 0);
  const double phase = memory.activations + memory.loss;
  EXPECT_EQ(memory.largest_phase(), phase) << "the loss of 1,024 logits a token is more than an expert layer";
  EXPECT_DOUBLE_EQ(cost.memory_bytes, 16 * parameters + phase + memory.framework + 0.28 * phase);
}

TEST(Cost, MemoryFollowsTheLayout) {
  auto config = testbed_tiny();
  const model::Memory alone = cost_of(config).memory;
  const double experts = 4.0 * 2 * 32 * 3 * 64 * 32, dense = alone.parameters - experts;
  config.parallel.expert = 2;
  const model::Memory shared = cost_of(config).memory;
  EXPECT_EQ(shared.parameters, dense + experts / 2);
  EXPECT_EQ(shared.reduction, dense) << "experts have one holder each";
  EXPECT_GT(shared.exchange, 0);
  config.parallel.data = 2;
  config.parallel.shard_moments = true;
  const model::Memory sharded = cost_of(config).memory;
  EXPECT_EQ(sharded.moments, 2 * (dense / 4 + experts / 4));
  EXPECT_EQ(sharded.reduction, dense + experts / 2);
  config = testbed_tiny();
  config.parallel.recompute = true;
  EXPECT_LT(cost_of(config).memory.activations, alone.activations);
  config = testbed_tiny();
  config.train.dtype = train::Precision::bf16;
  EXPECT_EQ(cost_of(config).memory.parameters, alone.parameters) << "master weights stay";
  EXPECT_GT(cost_of(config).memory.kernels, 0);
}

TEST(Cost, SurvivesItsJson) {
  auto config = testbed_tiny();
  config.parallel.expert = 2;
  const TrialCost cost = cost_of(config);
  EXPECT_EQ(TrialCost::of_json(Json::parse(cost.json().dump())).json(), cost.json());
  Json earlier = cost.json();
  earlier.erase("memory");
  EXPECT_EQ(TrialCost::of_json(earlier).memory_bytes, cost.memory_bytes);
  earlier.erase("seconds");
  EXPECT_ANY_THROW(TrialCost::of_json(earlier));
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
