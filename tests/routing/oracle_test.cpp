// The routing parts against their literal transcription in tests/reference: choices, weights, losses, gradients, bias steps.
#include <gtest/gtest.h>

#include <torch/csrc/autograd/autograd.h>

#include "routing/support.hpp"

namespace moesweep::routing {
namespace {

constexpr Score kScores[] = {Score::softmax, Score::softmax_selected, Score::sigmoid};
constexpr ScopeKind kScopes[] = {ScopeKind::sequence, ScopeKind::micro_batch, ScopeKind::global_batch};

void expect_same_choice(const at::Tensor& expert, const at::Tensor& weight, const reference::Choice& oracle, double tolerance, const char* what) {
  for (std::size_t t = 0; t < oracle.experts.size(); ++t)
    for (std::size_t slot = 0; slot < oracle.experts[t].size(); ++slot) {
      const auto i = static_cast<std::int64_t>(t), j = static_cast<std::int64_t>(slot);
      ASSERT_EQ(expert[i][j].item<std::int64_t>(), oracle.experts[t][slot]) << what << " token " << t << " slot " << slot;
      ASSERT_NEAR(weight[i][j].item<double>(), oracle.weights[t][slot], tolerance) << what << " token " << t << " slot " << slot;
    }
}

TEST(Choices, TopKAndWeightsOnRandomLogits) {
  for (const Score score : kScores)
    for (const double spread : {0.0, 0.3, 3.0, 30.0})  // 0: all equal, ties go to the lower expert
      for (const auto& [experts, k] : {std::pair<std::int64_t, std::int64_t>{8, 1}, {8, 3}, {5, 5}, {32, 4}, {1, 1}}) {
        const Step step = make_step(static_cast<std::uint64_t>(experts * 100 + k), 6, 5, experts, k, spread);
        const at::Tensor expert = top_k_indices(step.logits, k);
        expect_same_choice(expert, gate_weights(step.logits, slots_of(expert), score, 2.5).view({-1, k}),
                           reference::route_top_k(step.oracle, oracle_score(score), 2.5), 1e-13,
                           EnumNames<Score>::names[static_cast<std::size_t>(score)]);
      }
}

// A logit of 1e4 carries 1e-12 of rounding into its exponential.
TEST(Choices, HugeLogitsStayOrdered) {
  Step step = make_step(3, 2, 4, 6, 2, 1e4);
  const at::Tensor expert = top_k_indices(step.logits, 2);
  for (const Score score : kScores)
    expect_same_choice(expert, gate_weights(step.logits, slots_of(expert), score, 1.0).view({-1, 2}),
                       reference::route_top_k(step.oracle, oracle_score(score)), 1e-11, "huge");
}

TEST(Choices, TheDeviceIndependentPathAgreesWithTheKernel) {
  const Step step = make_step(11, 4, 16, 32, 4);
  at::Tensor tied = (step.logits * 2).round();
  const at::Tensor sorted = std::get<1>(at::sort(tied, /*stable=*/true, 1, /*descending=*/true)).narrow(1, 0, 4);
  EXPECT_TRUE(at::equal(top_k_indices(tied, 4), sorted));
}

TEST(Choices, ReferenceRouterFollowsTheDomain) {
  auto gang = comm::make_local_transport();
  for (const bool uniform : {false, true})
    for (const std::int64_t experts : {8, 16}) {  // E = D k, and E/D > k
      const Step step = make_step(21, 8, 3, experts, 2);
      RoutingConfig config;
      config.select = "reference";
      config.top_k = 2;
      config.weight_scale = 1.5;
      config.reference_weights = uniform ? ReferenceWeights::uniform : ReferenceWeights::gate;
      LayerRouter router(config, place_of(experts), *gang);
      const Scores scores{step.logits, 0, &step.layout, {}};
      const auto decision = router.decide({&scores, 1}, Mode::train)[0];
      const Assignment assignment = router.apply(scores, decision, Mode::train);
      // The order of a token's slots means nothing here: compare sorted by expert.
      const at::Tensor order = decision.slots.by_token().argsort(std::int64_t{1}, false);
      expect_same_choice(decision.slots.by_token().gather(1, order), assignment.weight.view({-1, 2}).gather(1, order),
                         reference::by_expert(reference::route_reference(step.oracle, 4, uniform, 1.5)), 1e-13, uniform ? "uniform" : "gate");
    }
}

TEST(Losses, AuxLossAndItsGradientAtEveryScope) {
  auto gang = comm::make_local_transport();
  for (const Score score : kScores)
    for (const ScopeKind scope : kScopes)
      for (const bool masked : {false, true}) {
        Step step = make_step(31, 6, 5, 8, 2, 1.5, masked);
        RoutingConfig config;
        config.score = score;
        config.top_k = 2;
        config.balance.method = "aux_loss";
        config.balance.scope = scope;
        config.balance.weight = 0.37;
        LayerRouter router(config, place_of(8), *gang);
        step.logits.set_requires_grad(true);
        const Scores scores{step.logits, 0, &step.layout, {}};
        const Assignment assignment = router.apply(scores, router.decide({&scores, 1}, Mode::train)[0], Mode::train);
        const auto oracle = reference::aux_loss(step.oracle, oracle_score(score), oracle_scope(scope), 0.37);
        const at::Tensor loss = assignment.losses.at("aux_loss");
        EXPECT_NEAR(loss.item<double>(), oracle.value, 1e-13);
        const at::Tensor gradient = torch::autograd::grad({loss}, {step.logits})[0].view(-1);
        for (std::size_t i = 0; i < oracle.gradient.size(); ++i)
          ASSERT_NEAR(gradient[static_cast<std::int64_t>(i)].item<double>(), oracle.gradient[i], 1e-14) << "element " << i;
      }
}

TEST(Losses, AuxLossIsExactlyItsWeightUnderPerfectBalance) {
  auto gang = comm::make_local_transport();
  // Token t prefers expert t mod E: each expert is chosen equally often in every sequence of E tokens.
  const std::int64_t experts = 8, sequences = 4;
  Step step = make_step(1, sequences, experts, experts, 1);
  for (std::int64_t t = 0; t < step.layout.tokens(); ++t) step.logits[t].zero_()[t % experts] = 2.0;
  for (const ScopeKind scope : kScopes) {
    RoutingConfig config;
    config.top_k = 1;
    config.balance.method = "aux_loss";
    config.balance.scope = scope;
    config.balance.weight = 0.125;
    LayerRouter router(config, place_of(experts), *gang);
    const Scores scores{step.logits, 0, &step.layout, {}};
    EXPECT_DOUBLE_EQ(router.apply(scores, router.decide({&scores, 1}, Mode::train)[0], Mode::train).losses.at("aux_loss").item<double>(), 0.125);
  }
}

TEST(Losses, ZLossAndItsGradient) {
  for (const bool masked : {false, true}) {
    Step step = make_step(41, 3, 7, 6, 2, 2.0, masked);
    step.logits.set_requires_grad(true);
    const at::Tensor loss = z_loss(step.logits, step.layout.mask, step.layout.step_tokens) * 0.01;
    const auto oracle = reference::z_loss(step.oracle, 0.01);
    EXPECT_NEAR(loss.item<double>(), oracle.value, 1e-14);
    const at::Tensor gradient = torch::autograd::grad({loss}, {step.logits})[0].view(-1);
    for (std::size_t i = 0; i < oracle.gradient.size(); ++i)
      ASSERT_NEAR(gradient[static_cast<std::int64_t>(i)].item<double>(), oracle.gradient[i], 1e-15);
  }
}

TEST(Losses, GateGradientsByFiniteDifferences) {
  for (const Score score : kScores) {
    Step step = make_step(51, 2, 3, 6, 3, 1.0);
    const at::Tensor expert = top_k_indices(step.logits, 3), upstream = at::arange(18, at::kDouble).view({6, 3}).sin();
    at::Tensor logits = step.logits.clone().set_requires_grad(true);
    const at::Tensor gradient =
        torch::autograd::grad({(gate_weights(logits, slots_of(expert), score, 1.3).view({-1, 3}) * upstream).sum()}, {logits})[0];
    const double h = 1e-6;
    for (std::int64_t i = 0; i < logits.numel(); ++i) {
      at::Tensor up = step.logits.clone(), down = step.logits.clone();
      up.view(-1)[i] += h;
      down.view(-1)[i] -= h;
      const double slope =
          ((gate_weights(up, slots_of(expert), score, 1.3).view({-1, 3}) - gate_weights(down, slots_of(expert), score, 1.3).view({-1, 3})) * upstream)
              .sum()
              .item<double>() /
          (2 * h);
      ASSERT_NEAR(gradient.view(-1)[i].item<double>(), slope, 1e-8);
    }
  }
}

TEST(Counting, MaximumViolationPerRow) {
  const at::Tensor counts = at::tensor({4, 4, 4, 4, 10, 2, 2, 2, 0, 0, 0, 0}, at::kLong).view({3, 4});
  const at::Tensor violation = max_violation(counts);
  EXPECT_DOUBLE_EQ(violation[0].item<double>(), reference::max_violation({4, 4, 4, 4}));
  EXPECT_DOUBLE_EQ(violation[1].item<double>(), reference::max_violation({10, 2, 2, 2}));
  EXPECT_DOUBLE_EQ(violation[2].item<double>(), 0.0);
}

}  // namespace
}  // namespace moesweep::routing
