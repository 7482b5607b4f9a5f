// Properties of the router as a whole: passes, readings, randomness, combinations that are refused.
#include <gtest/gtest.h>

#include <set>

#include "routing/support.hpp"

namespace moesweep::routing {
namespace {

TEST(Passes, CuttingAStepChangesNeitherChoicesNorLossesNorState) {
  auto gang = comm::make_local_transport();
  const Step step = make_step(7, 8, 4, 8, 2, 1.0, true);
  for (const std::string method : {"aux_loss", "expert_bias"})
    for (const auto scope : {ScopeKind::sequence, ScopeKind::micro_batch, ScopeKind::global_batch}) {
      RoutingConfig config;
      config.score = Score::sigmoid;
      config.top_k = 2;
      config.balance.method = method;
      config.balance.scope = scope;
      LayerRouter whole(config, place_of(8), *gang), cut(config, place_of(8), *gang);
      const Scores all{step.logits, 0, &step.layout, {}};
      const auto decision = whole.decide({&all, 1}, Mode::train)[0];
      const Assignment assignment = whole.apply(all, decision, Mode::train);

      std::vector<std::pair<TokenLayout, at::Tensor>> parts{part_of(step, 0, 2), part_of(step, 2, 4), part_of(step, 6, 2), part_of(step, 8, 0)};
      std::vector<Scores> passes;
      for (const auto& [layout, logits] : parts) passes.push_back({logits, 0, &layout, {}});
      const auto decisions = cut.decide(passes, Mode::train);
      double loss = 0;
      std::vector<at::Tensor> experts, weights;
      for (std::size_t p = 0; p < passes.size(); ++p) {
        const Assignment piece = cut.apply(passes[p], decisions[p], Mode::train);
        if (piece.losses.contains("aux_loss")) loss += piece.losses.at("aux_loss").item<double>();
        experts.push_back(piece.slots.expert);
        weights.push_back(piece.weight);
      }
      EXPECT_TRUE(at::equal(at::cat(experts), assignment.slots.expert));
      EXPECT_TRUE(at::allclose(at::cat(weights), assignment.weight, 0, 1e-15));
      if (method == "aux_loss") {
        EXPECT_NEAR(loss, assignment.losses.at("aux_loss").item<double>(), 1e-14);
      }
      whole.end_step();
      cut.end_step();
      if (method == "expert_bias") {
        EXPECT_TRUE(at::allclose(whole.state()[0].second, cut.state()[0].second, 0, 1e-15));
      }
    }
}

TEST(Passes, OnlyScopesThatSpanPassesNeedTheWholeStep) {
  auto gang = comm::make_local_transport();
  RoutingConfig config;
  config.score = Score::sigmoid;
  // A bias needs its counts at the end of the step only.
  config.balance.method = "expert_bias";
  config.balance.scope = ScopeKind::global_batch;
  EXPECT_FALSE(LayerRouter(config, place_of(8), *gang).needs_whole_step(Mode::train));
  config.balance.method = "aux_loss";
  for (const auto scope : {ScopeKind::sequence, ScopeKind::micro_batch, ScopeKind::global_batch}) {
    config.balance.scope = scope;
    EXPECT_EQ(LayerRouter(config, place_of(8), *gang).needs_whole_step(Mode::train), scope == ScopeKind::global_batch);
  }
  config.balance.method = "none";
  EXPECT_FALSE(LayerRouter(config, place_of(8), *gang).needs_whole_step(Mode::train));
}

TEST(Evaluation, LeavesTheBiasAlone) {
  auto gang = comm::make_local_transport();
  RoutingConfig config;
  config.score = Score::sigmoid;
  config.balance.method = "expert_bias";
  LayerRouter router(config, place_of(8), *gang);
  const Step step = make_step(9, 4, 4, 8, 4);
  const Scores scores{step.logits, 0, &step.layout, {}};
  router.decide({&scores, 1}, Mode::evaluate);
  router.end_step();
  EXPECT_EQ(router.state()[0].second.abs().sum().item<double>(), 0.0);
}

TEST(RandomRouter, DistinctUniformAndTiedToThePlaceAlone) {
  const Step step = make_step(1, 64, 64, 16, 4);
  const at::Tensor chosen = random_experts(step.layout, 1, 16, 4);
  for (std::int64_t t = 0; t < 200; ++t) {
    std::set<std::int64_t> distinct;
    for (std::int64_t slot = 0; slot < 4; ++slot) distinct.insert(chosen[t][slot].item<std::int64_t>());
    EXPECT_EQ(distinct.size(), 4U);
  }
  // Each of 16 experts is expected 1,024 times of 16,384: five standard deviations are 155.
  const at::Tensor counts = at::bincount(chosen.view(-1), {}, 16);
  EXPECT_LT((counts - 1024).abs().max().item<std::int64_t>(), 155);
  const auto [layout, logits] = part_of(step, 10, 3);
  EXPECT_TRUE(at::equal(random_experts(layout, 1, 16, 4), chosen.narrow(0, 640, 192)));
  EXPECT_FALSE(at::equal(random_experts(step.layout, 0, 16, 4), chosen));
}

TEST(Terms, TwoLossesAddUp) {
  auto gang = comm::make_local_transport();
  const Step step = make_step(17, 4, 6, 8, 2);
  RoutingConfig both;
  both.top_k = 2;
  both.balance.method = "aux_loss";
  both.balance.scope = ScopeKind::global_batch;
  both.balance.weight = 0.1;
  both.balance.also.push_back({});
  both.balance.also[0].method = "aux_loss";
  both.balance.also[0].scope = ScopeKind::sequence;
  both.balance.also[0].weight = 0.02;
  LayerRouter router(both, place_of(8), *gang);
  const Scores scores{step.logits, 0, &step.layout, {}};
  const Assignment assignment = router.apply(scores, router.decide({&scores, 1}, Mode::train)[0], Mode::train);
  const double sum = assignment.losses.at("aux_loss").item<double>() + assignment.losses.at("aux_loss_2").item<double>();
  const double expected = reference::aux_loss(step.oracle, reference::Score::softmax, reference::Scope::global_batch, 0.1).value +
                          reference::aux_loss(step.oracle, reference::Score::softmax, reference::Scope::sequence, 0.02).value;
  EXPECT_NEAR(sum, expected, 1e-14);
}

}  // namespace
}  // namespace moesweep::routing
