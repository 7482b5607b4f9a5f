// The balancing oracle against hand-worked examples, closed forms, exhaustive search and finite differences.
#include "reference/balancing_reference.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

namespace moesweep::reference {
namespace {

Input drawn(unsigned seed, std::int64_t sequences, std::int64_t length, std::int64_t E, std::int64_t k) {
  std::mt19937_64 generator(seed);
  std::normal_distribution<double> normal;
  Input in;
  in.T = sequences * length;
  in.E = E;
  in.k = k;
  for (std::int64_t t = 0; t < in.T; ++t) {
    for (std::int64_t e = 0; e < E; ++e) in.logits.push_back(normal(generator));
    in.sequence.push_back(t / length);
    in.micro_batch.push_back(t / length / 2);
  }
  return in;
}

Input of_rows(std::int64_t k, const std::vector<Vector>& logits) {
  Input in;
  in.T = static_cast<std::int64_t>(logits.size());
  in.E = static_cast<std::int64_t>(logits.at(0).size());
  in.k = k;
  for (const Vector& x : logits) in.logits.insert(in.logits.end(), x.begin(), x.end());
  return in;
}

/// Masks every third token and gives it logits that would show.
Input masked(Input in) {
  for (std::int64_t t = 0; t < in.T; ++t) {
    in.mask.push_back(t % 3 == 1 ? 0 : 1);
    for (std::int64_t e = 0; t % 3 == 1 && e < in.E; ++e) in.logits[static_cast<std::size_t>(t * in.E + e)] = 30.0 * static_cast<double>(e % 2);
  }
  return in;
}

Input with_logits(Input in, const Vector& logits) {
  in.logits = logits;
  return in;
}

Integers one_unit(const Input& in) { return Integers(static_cast<std::size_t>(in.T), 0); }

Integers every_token(const Input& in) {
  Integers tokens(static_cast<std::size_t>(in.T));
  std::iota(tokens.begin(), tokens.end(), std::int64_t{0});
  return tokens;
}

void near(const Vector& actual, const Vector& expected, double tolerance = 1e-12) {
  ASSERT_EQ(actual.size(), expected.size());
  for (std::size_t i = 0; i < actual.size(); ++i) EXPECT_NEAR(actual[i], expected[i], tolerance) << "entry " << i;
}

constexpr Score kEveryScore[] = {Score::softmax, Score::softmax_selected, Score::sigmoid};
constexpr Scope kEveryScope[] = {Scope::sequence, Scope::micro_batch, Scope::global_batch};
const double kLog3 = std::log(3.0);

TEST(BalancingReference, AuxLossOfGivenFractionsByHand) {
  // P = (3/4, 1/4) in unit 0 (three tokens), (1/2, 1/2) in unit 1 (one token); a E sum f P = 2 (.1 .75 + .9 .25) = .6, and 1 whatever f.
  const Input in = of_rows(1, {{kLog3, 0}, {kLog3, 0}, {kLog3, 0}, {0, 0}});
  const Loss loss = aux_loss_given(in, Score::softmax, {0, 0, 0, 1}, {{0, {0.1, 0.9}}, {1, {0.3, 0.7}}}, 0.5);
  EXPECT_NEAR(loss.value, 0.5 * (0.75 * 0.6 + 0.25), 1e-15);
  // d/dx0 of sum f P: p0 p1 (f0 - f1) = (3/16) (-.8), times a E / T_all.
  EXPECT_NEAR(loss.gradient[0], 0.5 * 2 * (3.0 / 16) * -0.8 / 4, 1e-15);
}

TEST(BalancingReference, AuxLossWithItsOwnFractionsIsTheAuxLoss) {
  const Input in = masked(drawn(1, 4, 5, 6, 2));
  for (Score score : kEveryScore) {
    for (Scope scope : kEveryScope) {
      const Loss expected = aux_loss(in, score, scope, 0.3);
      const LayersLoss loss = aux_loss_variant({in}, score, scope, 0.3, AuxVariant::ours);
      EXPECT_NEAR(loss.value, expected.value, 1e-14);
      near(loss.gradients.at(0), expected.gradient, 1e-15);
    }
  }
}

TEST(BalancingReference, AuxLossVariants) {
  const Input first = drawn(2, 2, 5, 4, 2), second = drawn(3, 2, 5, 4, 2);
  for (Score score : kEveryScore) {
    for (Scope scope : kEveryScope) {
      const auto value = [&](const std::vector<Input>& layers, AuxVariant variant) {
        return aux_loss_variant(layers, score, scope, 0.1, variant).value;
      };
      const double sum = value({first}, AuxVariant::ours) + value({second}, AuxVariant::ours);
      EXPECT_NEAR(value({first, second}, AuxVariant::ours), sum, 1e-14);
      EXPECT_NEAR(value({first, second}, AuxVariant::megablocks), sum / 2, 1e-14);
      EXPECT_NEAR(value({first, first}, AuxVariant::transformers), 2 * value({first}, AuxVariant::ours), 1e-14);  // k times
      Input top_1 = first;
      top_1.k = 1;
      EXPECT_NEAR(value({first}, AuxVariant::gshard), value({top_1}, AuxVariant::ours), 1e-14);
      for (AuxVariant variant : {AuxVariant::ours, AuxVariant::gshard, AuxVariant::transformers, AuxVariant::megablocks}) {
        const auto moved = [&](const Vector& logits) { return value({with_logits(first, logits), second}, variant); };
        near(aux_loss_variant({first, second}, score, scope, 0.1, variant).gradients.at(0), finite_differences(moved, first.logits), 1e-9);
      }
    }
  }
}

TEST(BalancingReference, PooledLayersAreOneProduct) {
  // Layer 0 all on expert 0, layer 1 all on expert 1, p = (3/4, 1/4) and (1/4, 3/4): pooled f = P = (1/2, 1/2), so k times a.
  const Input first = of_rows(1, {{kLog3, 0}}), second = of_rows(1, {{0, kLog3}});
  EXPECT_NEAR(aux_loss_variant({first, second}, Score::softmax, Scope::global_batch, 1, AuxVariant::transformers).value, 1.0, 1e-15);
  EXPECT_NEAR(aux_loss_variant({first, second}, Score::softmax, Scope::global_batch, 1, AuxVariant::ours).value, 3.0, 1e-15);
}

TEST(BalancingReference, RunningAndHistory) {
  EXPECT_EQ(running_counts({{1, 2}, {3, 0}, {0, 1}}), (std::vector<Vector>{{1, 2}, {4, 2}, {4, 3}}));
  Vector f = updated_history({}, {3, 1});
  near(f, {0.75, 0.25});
  f = updated_history(f, {0, 8});
  near(f, {0.675, 0.325});
  near(updated_history(f, {0, 0}), f, 0);
  // The last running unit has seen the whole step: its f is that of the global batch.
  const Input in = drawn(4, 6, 3, 4, 2);
  const auto counts = counts_by_unit(in, route_top_k(in, Score::softmax), Scope::micro_batch);
  near(running_counts(counts).back(), counts_by_unit(in, route_top_k(in, Score::softmax), Scope::global_batch).at(0), 0);
}

TEST(BalancingReference, ImportanceAndCountsByHand) {
  EXPECT_DOUBLE_EQ(squared_variation({2, 2, 2}), 0);
  EXPECT_DOUBLE_EQ(squared_variation({1, 3}), 0.25);     // variance 1, mean 2
  EXPECT_DOUBLE_EQ(squared_variation({0, 0, 0, 4}), 3);  // E - 1
  near(squared_variation_gradient({1, 3}), finite_differences(squared_variation, {1, 3}), 1e-9);
  // Softmax weights 3/4 and 3/4 on expert 0, 3/4 on expert 1: importance (1.5, .75), CV^2 = 1/9; counts (2, 1) the same 1/9.
  const Input in = of_rows(1, {{kLog3, 0}, {kLog3, 0}, {0, kLog3}});
  const ImportanceLoad loss = importance_load(in, Score::softmax, one_unit(in), 0.1);
  EXPECT_NEAR(loss.value, 0.1 * 2 / 9, 1e-15);
  near(loss.importance.at(0), {1.5, 0.75});
  near(loss.load.at(0), {2, 1});
  // tutel: sum of p = (1.75, 1.25), mean 1.5, variance 1/16.
  EXPECT_NEAR(importance_load(in, Score::softmax, one_unit(in), 1, {}, true).value, (1.0 / 16) / 2.25 + 1.0 / 9, 1e-15);
  // Units: the first two tokens (CV^2 = 1 twice), the last one likewise.
  EXPECT_NEAR(importance_load(in, Score::softmax, {0, 0, 5}, 1).value, 2, 1e-15);
}

TEST(BalancingReference, SmoothLoadByHand) {
  // One token, h = x: expert 0 is chosen and must beat h1, expert 1 must beat h0; sigma = log 2 + .01 for both, so the loads add up to 1.
  const Input in = of_rows(1, {{0.4, 0.1}});
  const LoadNoise noise = load_noise(in, {0, 0}, {0, 0});
  const double load = normal_cdf(0.3 / (std::log(2.0) + 0.01));
  near(importance_load(in, Score::softmax_selected, {0}, 1, noise).load.at(0), {load, 1 - load});
  EXPECT_NEAR(normal_cdf(1.959963984540054), 0.975, 1e-12);
  // Noise that turns the choice: h = (.4, 1.1); expert 1 is chosen and must beat .4, expert 0 must beat 1.1.
  const LoadNoise turned{{0, 0}, {0.4, 1.1}};
  const double sigma = std::log(2.0) + 0.01;
  near(importance_load(in, Score::softmax_selected, {0}, 1, turned).load.at(0), {normal_cdf((0.4 - 1.1) / sigma), normal_cdf((0.1 - 0.4) / sigma)});
  // k = E: plain counts.
  Input full = in;
  full.k = 2;
  near(importance_load(full, Score::softmax_selected, {0}, 1, noise).load.at(0), {1, 1});
}

TEST(BalancingReference, ImportanceLoadGradients) {
  const Input in = masked(drawn(5, 2, 6, 5, 2));
  std::mt19937_64 generator(6);
  std::normal_distribution<double> normal;
  Vector noise_logits, draws;
  for (std::size_t i = 0; i < in.logits.size(); ++i) {
    noise_logits.push_back(0.5 * normal(generator));
    draws.push_back(normal(generator));
  }
  for (Score score : kEveryScore) {
    for (bool tutel : {false, true}) {
      const Integers units = units_of(in, Scope::sequence);
      const auto plain = [&](const Vector& x) { return importance_load(with_logits(in, x), score, units, 0.3, {}, tutel).value; };
      near(importance_load(in, score, units, 0.3, {}, tutel).gradient, finite_differences(plain, in.logits), 1e-8);
      const auto noisy = [&](const Vector& x, const Vector& x_noise) {
        const Input moved = with_logits(in, x);
        return importance_load(moved, score, units, 0.3, load_noise(moved, x_noise, draws), tutel);
      };
      const ImportanceLoad loss = noisy(in.logits, noise_logits);
      near(loss.gradient, finite_differences([&](const Vector& x) { return noisy(x, noise_logits).value; }, in.logits), 1e-8);
      near(loss.noise_gradient, finite_differences([&](const Vector& x) { return noisy(in.logits, x).value; }, noise_logits), 1e-8);
    }
  }
}

TEST(BalancingReference, MomentumBiasByHand) {
  // mean 4: (mean - c) / mean = (-1, 0, 1, 0), kappa 2: tanh(2) (-1, 0, 1, 0), centred already.
  const double d = std::tanh(2.0);
  MomentumBias state{{1, 1, 1, 1}, {0.1, 0, 0, 0}};
  state = updated_momentum_bias(state, {{8, 4, 0, 4}}, {2, 0.01, 0.9});
  near(state.momentum, {0.09 - 0.001 * d, 0, 0.001 * d, 0});
  near(state.bias, {1.09 - 0.001 * d, 1, 1 + 0.001 * d, 1});
  // Centring: counts (12, 2, 2, 0), mean 4: v = (-2, .5, .5, 1).
  const double c = (std::tanh(-2) + 2 * std::tanh(0.5) + std::tanh(1)) / 4;
  const MomentumBias zero{Vector(4, 0), Vector(4, 0)};
  near(updated_momentum_bias(zero, {{12, 2, 2, 0}}, {1, 1, 0}).bias, {std::tanh(-2) - c, std::tanh(0.5) - c, std::tanh(0.5) - c, std::tanh(1) - c});
  // Two units and an empty one: the mean of their d. Nothing counted: no change, not even of the momentum.
  near(updated_momentum_bias(zero, {{8, 4, 0, 4}, {0, 0, 0, 0}, {4, 4, 4, 4}}, {2, 1, 0}).bias, {-d / 2, 0, d / 2, 0});
  near(updated_momentum_bias(state, {{0, 0, 0, 0}}, {2, 0.01, 0.9}).momentum, state.momentum, 0);
}

TEST(BalancingReference, BudgetSteersTheFirstExpertsAlone) {
  // 12 slots, two FFN experts with half of them: target 3 each. The two zero experts are left alone.
  const Budget budget{2, 0.5};
  near(updated_bias_budget(Vector(4, 0), {{6, 0, 3, 3}}, 0.1, budget), {-0.1, 0.1, 0, 0});
  near(updated_bias_budget(Vector(4, 0), {{6, 1.5, 4.5, 0}}, 0.1, budget, BiasRule::proportional), {-0.1, 0.05, 0, 0});
  near(updated_bias_budget(Vector(4, 0), {{3, 3, 6, 0}}, 0.1, budget), {0, 0, 0, 0});
  // Both FFN experts short of the budget: uncentred they rise together, centred they stay.
  const MomentumBias zero{Vector(4, 0), Vector(4, 0)};
  near(updated_momentum_bias(zero, {{1.5, 1.5, 9, 0}}, {1, 1, 0, false}, &budget).bias, {std::tanh(0.5), std::tanh(0.5), 0, 0});
  near(updated_momentum_bias(zero, {{1.5, 1.5, 9, 0}}, {1, 1, 0, true}, &budget).bias, {0, 0, 0, 0});
  // All experts and all slots is the plain rule; LongCat's step is the proportional one.
  const std::vector<Vector> counts{{10, 4, 2, 0}, {1, 2, 3, 2}};
  near(updated_bias_budget(Vector(4, 0), counts, 0.1, {4, 1}, BiasRule::proportional),
       updated_bias(Vector(4, 0), counts, 0.1, BiasRule::proportional));
  const Vector step = updated_bias_budget(Vector(4, 0), {{6, 1, 4, 1}}, 0.02 * 0.5 / 2, budget, BiasRule::proportional);
  near(step, {0.02 * (0.25 - 6.0 / 12), 0.02 * (0.25 - 1.0 / 12), 0, 0});
}

TEST(BalancingReference, SolvedBiasByHand) {
  // Two tokens on expert 0 of 2: sd of (2, 0, 1, 0) = sqrt(11) / 4. target 1; the first step is .6 sd (-1, +1), a gap of 1.2 sd = .995 that
  // does not turn token 1 (margin 1): the second adds .48 sd to each side, a gap of 2.16 sd = 1.79, and turns it.
  const Input in = of_rows(1, {{2, 0}, {1, 0}});
  const double sd = std::sqrt(11.0) / 4;
  near(route_solved_bias(in, Score::softmax, one_unit(in), 1).duals.at(0), {-0.6 * sd, 0.6 * sd});
  EXPECT_EQ(route_solved_bias(in, Score::softmax, one_unit(in), 1).choice.experts, (std::vector<Integers>{{0}, {0}}));
  const Solved solved = route_solved_bias(in, Score::softmax, one_unit(in));
  near(solved.duals.at(0), {-(0.6 + 0.48) * sd, (0.6 + 0.48) * sd});
  EXPECT_EQ(solved.choice.experts, (std::vector<Integers>{{0}, {1}}));
  near(solved.choice.weights[1], {1 / (1 + std::exp(1.0))});  // the clean gate
  // Each unit has a bias of its own.
  EXPECT_EQ(route_solved_bias(in, Score::softmax, {0, 1}, 1).duals.size(), 2U);
  // Clamped at -1 however overloaded: three tokens on one expert of three, target 1, c = (3, 0, 0).
  const Input crowd = of_rows(1, {{9, 0, 0}, {9, 0, 0}, {9, 0, 0}});
  const double spread = std::sqrt(18.0);  // 9 with probability 1/3
  near(route_solved_bias(crowd, Score::softmax, one_unit(crowd), 1).duals.at(0), {-0.6 * spread, 0.6 * spread, 0.6 * spread});
}

TEST(BalancingReference, SolvedBiasBalancesAndSkipsMaskedTokens) {
  Input in = drawn(7, 1, 64, 8, 2);
  for (std::size_t i = 0; i < in.logits.size(); i += 8) in.logits[i] += 3;  // everyone likes expert 0
  const double before = max_violation(counts_by_unit(in, route_top_k(in, Score::softmax), Scope::global_batch).at(0));
  const Solved solved = route_solved_bias(in, Score::softmax, one_unit(in));
  EXPECT_LT(max_violation(counts_by_unit(in, solved.choice, Scope::global_batch).at(0)), 0.2 * before);
  const Input hidden = masked(in);
  Input without = in;
  without.logits.clear();
  for (std::int64_t t = 0; t < in.T; ++t)
    if (hidden.counts(t)) without.logits.insert(without.logits.end(), in.logits.begin() + t * 8, in.logits.begin() + t * 8 + 8);
  without.T = hidden.tokens();
  near(route_solved_bias(hidden, Score::softmax, one_unit(hidden)).duals.at(0),
       route_solved_bias(without, Score::softmax, one_unit(without)).duals.at(0));
}

TEST(BalancingReference, SinkhornByHand) {
  // Equal logits: d0 = 1/(T E), then d1 = (1/E) / (T / (T E)) = 1; no change of d1, so one iteration.
  const Input flat = of_rows(1, std::vector<Vector>(4, Vector(2, 0.7)));
  const Sinkhorn even = sinkhorn(flat, every_token(flat));
  EXPECT_EQ(even.iterations, 1);
  near(even.d0, Vector(4, 0.125), 1e-7);
  near(even.d1, {1, 1}, 1e-6);
  EXPECT_EQ(even.experts, (std::vector<Integers>(4, Integers{0})));
  // A permutation-symmetric C = (1, r; r, 1) is balanced by constants as well.
  const Input mirror = of_rows(1, {{kLog3, 0}, {0, kLog3}});
  near(sinkhorn(mirror, every_token(mirror)).d0, Vector(2, 0.5 / (1 + 1.0 / 3)), 1e-7);
  // Two tokens that both prefer expert 0, by 2 and by 1: the plan gives expert 1 to the second. Greedy gives both expert 0.
  const Input both = of_rows(1, {{2, 0}, {1, 0}});
  EXPECT_EQ(sinkhorn(both, every_token(both)).experts, (std::vector<Integers>{{0}, {1}}));
}

TEST(BalancingReference, SinkhornMarginals) {
  const Input in = drawn(8, 1, 24, 6, 2);
  const Sinkhorn plan = sinkhorn(in, every_token(in), 1e-13, 10000, 0);  // with eps, d0 and d1 drift in scale for ever
  EXPECT_LT(plan.iterations, 10000);
  Vector columns(6, 0.0);
  for (std::int64_t t = 0; t < in.T; ++t) {
    const Vector x = row(in, t);
    const double highest = *std::max_element(x.begin(), x.end());
    double sum = 0;
    for (std::size_t e = 0; e < 6; ++e) {
      const double mass = plan.d0[static_cast<std::size_t>(t)] * std::exp(x[e] - highest) * plan.d1[e];
      sum += mass;
      columns[e] += mass;
    }
    EXPECT_NEAR(sum, 1.0 / 24, 1e-12);
  }
  near(columns, Vector(6, 1.0 / 6), 1e-12);
  EXPECT_EQ(sinkhorn(in, every_token(in), 0, 7).iterations, 7);  // the cap
  // Weights: the chosen score, not renormalised; units by themselves.
  EXPECT_EQ(megatron_sinkhorn_score(1), Score::sigmoid);
  EXPECT_EQ(megatron_sinkhorn_score(2), Score::softmax);
  const Input hidden = masked(in);
  const Choice choice = route_sinkhorn(hidden, Score::softmax, one_unit(hidden));
  for (std::int64_t t = 0; t < in.T; ++t) {
    const auto i = static_cast<std::size_t>(t);
    EXPECT_EQ(choice.experts[i].empty(), !hidden.counts(t));
    if (!hidden.counts(t)) continue;
    EXPECT_DOUBLE_EQ(choice.weights[i][1], softmax(row(hidden, t))[static_cast<std::size_t>(choice.experts[i][1])]);
  }
}

TEST(BalancingReference, AssignmentByHand) {
  EXPECT_EQ(assignment_loads(5, 2, 4), (Integers{3, 3, 2, 2}));
  EXPECT_EQ(assignment_loads(4, 2, 4), (Integers{2, 2, 2, 2}));
  // Greedy would give expert 0 to both (2 + 1); balanced: 2 + 0 beats 0 + 1.
  const Input in = of_rows(1, {{2, 0}, {1, 0}});
  for (const Assignment& best : {assignment_brute_force(in, {0, 1}), assignment_flow(in, {0, 1})}) {
    EXPECT_DOUBLE_EQ(best.score, 2);
    EXPECT_EQ(best.experts, (std::vector<Integers>{{0}, {1}}));
    EXPECT_TRUE(is_balanced_assignment(in, best.experts));
  }
  EXPECT_FALSE(is_balanced_assignment(in, {{0}, {0}}));
  // Three tokens, two experts: loads (2, 1). Taking expert 1 costs (3, 1, 2): token 1 pays.
  EXPECT_DOUBLE_EQ(assignment_flow(of_rows(1, {{3, 0}, {1, 0}, {2, 0}}), {0, 1, 2}).score, 5);
  // k = E leaves no choice.
  EXPECT_DOUBLE_EQ(assignment_flow(of_rows(2, {{3, 1}, {-1, 4}}), {0, 1}).score, 7);
}

TEST(BalancingReference, AssignmentByFlowIsTheOptimum) {
  std::mt19937_64 generator(9);
  for (unsigned i = 0; i < 50; ++i) {
    const auto E = static_cast<std::int64_t>(2 + generator() % 4), T = static_cast<std::int64_t>(1 + generator() % 5);
    const auto k = 1 + static_cast<std::int64_t>(generator() % static_cast<std::uint64_t>(std::min<std::int64_t>(E, 3)));
    Input in = drawn(100 + i, 1, T, E, k);
    if (i % 3 == 0)  // ties
      for (double& x : in.logits) x = std::round(x);
    const Assignment tried = assignment_brute_force(in, every_token(in)), flow = assignment_flow(in, every_token(in));
    EXPECT_NEAR(flow.score, tried.score, 1e-12) << "T " << T << " E " << E << " k " << k;
    EXPECT_TRUE(is_balanced_assignment(in, flow.experts));
    EXPECT_TRUE(is_balanced_assignment(in, tried.experts));
    EXPECT_NEAR(assignment_score(in, every_token(in), tried.experts), tried.score, 1e-12);
  }
}

TEST(BalancingReference, QuantileByHand) {
  // k = 1 of 2, two tokens: alpha = the smaller logit, x - alpha = (2, 0) and (1, 0); q = second largest over tokens = (1, 0).
  const Input in = of_rows(1, {{2, 0}, {1, 0}});
  const Vector alpha = quantile_alpha(in, {0, 1}, {0, 0}), q = quantile_q(in, {0, 1}, alpha);
  near(alpha, {0, 0});
  near(q, {1, 0});
  near(updated_beta({0, 0}, q), {0.5, -0.5});
  near(updated_beta({1, -1}, q, 0.5), {0.75, -0.75});  // (1, -.5) minus .25
  // beta = (.5, -.5): x - beta = (1.5, .5), (.5, .5): the tie goes to the lower expert.
  EXPECT_EQ(route_quantile(in, Score::softmax, {0.5, -0.5}).experts, (std::vector<Integers>{{0}, {0}}));
  EXPECT_EQ(route_quantile(in, Score::softmax, {0.75, -0.75}).experts, (std::vector<Integers>{{0}, {1}}));
  near(route_quantile(in, Score::softmax, {0.75, -0.75}).weights[1], {1 / (1 + std::exp(1.0))});
  EXPECT_THROW(quantile_q(in, {0}, {0}), std::invalid_argument);
  EXPECT_THROW(quantile_alpha(of_rows(2, {{1, 2}}), {0}, {0, 0}), std::invalid_argument);
}

TEST(BalancingReference, QuantileCountBounds) {
  for (unsigned seed = 0; seed < 20; ++seed) {
    Input in = drawn(200 + seed, 1, 12, 6, 2);
    if (seed % 2 == 1)  // ties
      for (double& x : in.logits) x = std::round(2 * x) / 2;
    const Vector beta{0.25, -0.25, 0, 0.5, -0.5, 0};
    const Vector alpha = quantile_alpha(in, every_token(in), beta), q = quantile_q(in, every_token(in), alpha);
    for (const auto& [above, at_least] : quantile_counts(in, every_token(in), alpha, q)) {
      EXPECT_LE(above, 4);
      EXPECT_GT(at_least, 4);
    }
  }
  // Two units of equal size: the mean of their q.
  const Input in = drawn(300, 2, 6, 3, 1);
  const auto q_of = [&](const Integers& tokens) { return quantile_q(in, tokens, quantile_alpha(in, tokens, Vector(3, 0))); };
  const Vector a = q_of({0, 1, 2, 3, 4, 5}), b = q_of({6, 7, 8, 9, 10, 11});
  near(quantile_step(in, in.sequence, Vector(3, 0)), {(a[0] + b[0]) / 2, (a[1] + b[1]) / 2, (a[2] + b[2]) / 2});
}

TEST(BalancingReference, QuantileBalancesABatchThatStays) {
  Input in = drawn(301, 1, 96, 8, 2);
  for (std::size_t i = 0; i < in.logits.size(); i += 8) in.logits[i] += 2;
  Vector beta(8, 0.0);
  const double before = max_violation(counts_by_unit(in, route_quantile(in, Score::softmax, beta), Scope::global_batch).at(0));
  for (int step = 0; step < 10; ++step) beta = updated_beta(beta, quantile_step(in, one_unit(in), beta));
  EXPECT_LT(max_violation(counts_by_unit(in, route_quantile(in, Score::softmax, beta), Scope::global_batch).at(0)), 0.25 * before);
}

TEST(BalancingReference, EntropiesAndBandpassByHand) {
  // p = (3/4, 1/4) and (1/4, 3/4): the mean is uniform, H = log 2; each token has H(1/4).
  const Input in = of_rows(1, {{kLog3, 0}, {0, kLog3}});
  const double quarter = -0.25 * std::log(0.25) - 0.75 * std::log(0.75);
  EXPECT_NEAR(batch_entropy(in, Score::softmax, one_unit(in), 0.5).value, -0.5 * std::log(2.0), 1e-15);
  EXPECT_NEAR(batch_entropy(in, Score::softmax, {0, 1}, 0.5).value, -0.5 * quarter, 1e-15);
  EXPECT_NEAR(token_entropy(in, Score::softmax, 0.5).value, 0.5 * quarter, 1e-15);
  EXPECT_EQ(bandpass(in, Score::softmax, one_unit(in), 0.4, 0.6, 1).value, 0);
  EXPECT_NEAR(bandpass(in, Score::softmax, {0, 1}, 0.4, 0.6, 2).value, 2 * (0.15 + 0.15), 1e-15);
  EXPECT_NEAR(bandpass(in, Score::softmax, {0, 1}, 0.1, 0.6, 1).value, 0.15, 1e-15);
  // s over tokens: (3/4, 1/4) in both columns, variance 1/16 each.
  EXPECT_NEAR(score_variance(in, Score::softmax, one_unit(in), 1).value, -1.0 / 16, 1e-15);
  EXPECT_EQ(score_variance(in, Score::softmax, {0, 1}, 1).value, 0);
  // Sure tokens have no entropy, and its gradient stays finite.
  const Loss sure = token_entropy(of_rows(1, {{2000, 0, 0}}), Score::softmax, 1);
  EXPECT_EQ(sure.value, 0);
  near(sure.gradient, {0, 0, 0});
}

TEST(BalancingReference, LossesOfTheLogitsHaveTheirGradients) {
  const Input in = masked(drawn(10, 4, 3, 5, 2));
  for (Score score : kEveryScore) {
    for (Scope scope : kEveryScope) {
      const Integers units = units_of(in, scope);
      const std::function<Loss(const Input&)> losses[] = {
          [&](const Input& i) { return bandpass(i, score, units, 0.17, 0.22, 0.6); },
          [&](const Input& i) { return batch_entropy(i, score, units, 0.6); },
          [&](const Input& i) { return token_entropy(i, score, 0.6); },
          [&](const Input& i) { return score_variance(i, score, units, 0.6); },
      };
      for (const auto& loss : losses)
        near(loss(in).gradient, finite_differences([&](const Vector& x) { return loss(with_logits(in, x)).value; }, in.logits), 1e-9);
    }
  }
}

TEST(BalancingReference, NothingCountedIsNothing) {
  Input in = of_rows(1, {{1, 2}, {3, 4}});
  in.mask = {0, 0};
  const Integers units = one_unit(in);
  for (const Loss& loss : {bandpass(in, Score::softmax, units, 0.6, 0.7, 1), batch_entropy(in, Score::softmax, units, 1),
                           token_entropy(in, Score::softmax, 1), score_variance(in, Score::softmax, units, 1)}) {
    EXPECT_EQ(loss.value, 0);
    near(loss.gradient, Vector(4, 0), 0);
  }
  EXPECT_EQ(importance_load(in, Score::softmax, units, 1).value, 0);
  EXPECT_TRUE(route_solved_bias(in, Score::softmax, units).duals.empty());
  EXPECT_TRUE(route_sinkhorn(in, Score::softmax, units).experts[0].empty());
}

TEST(BalancingReference, RouterOrthogonality) {
  EXPECT_EQ(router_orthogonality({1, 0, 0, 0, 1, 0}, 2, 1).value, 0);
  // r0 = (2, 0), r1 = (1, 1): |4 - 1| + |2 - 1| + 2 |2| = 8.
  EXPECT_DOUBLE_EQ(router_orthogonality({2, 0, 1, 1}, 2, 0.5).value, 4);
  EXPECT_THROW(router_orthogonality({1, 2}, 2, 1), std::invalid_argument);
  const Vector rows{0.3, -0.7, 1.1, 0.2, 0.9, -0.4};
  near(router_orthogonality(rows, 2, 0.3).gradient, finite_differences([](const Vector& r) { return router_orthogonality(r, 2, 0.3).value; }, rows),
       1e-9);
}

TEST(BalancingReference, ExpertRouterCoupling) {
  // a = .5, thresholds .5 M_ii = (1, 2). (0, 1): M01 - 1 = 2, M10 - 1 = .5; (1, 0): M10 - 2 < 0, M01 - 2 = 1. Sum 3.5, over 4.
  const Vector M{2, 3, 1.5, 4};
  EXPECT_DOUBLE_EQ(expert_router_coupling(M, 2, 0.5, 1).value, 3.5 / 4);
  EXPECT_EQ(expert_router_coupling({2, 1, 1, 2}, 2, 0.6, 1).value, 0);
  near(expert_router_coupling(M, 2, 0.5, 0.7).gradient,
       finite_differences([](const Vector& m) { return expert_router_coupling(m, 2, 0.5, 0.7).value; }, M), 1e-9);
}

TEST(BalancingReference, OutputOrthogonality) {
  EXPECT_EQ(output_orthogonality({{{1, 0}, {0, 5}}, {{2, 2}}}, 1).value, 0);  // orthogonal; and a single slot
  // o0 = (1, 0), o1 = (2, 2), eps 0: the projection of o0 on o1 has norm^2 4/8, that of o1 on o0 4.
  const std::vector<std::vector<Vector>> outputs{{{1, 0}, {2, 2}}, {{0, 1}, {0, 1}}};
  EXPECT_NEAR(output_orthogonality(outputs, 1, false, 0).value, 4.5 + 2, 1e-15);
  EXPECT_NEAR(output_orthogonality(outputs, 0.5, true, 0).value, 0.25 * 6.5, 1e-15);
  // Zero outputs are finite through eps.
  EXPECT_EQ(output_orthogonality({{{0, 0}, {1, 1}}}, 1).value, 0);
  const Vector flat{0.3, -1.2, 0.8, 0.5, 0.1, -0.9, 1.4, 0.2, 0.6};
  const auto three = [](const Vector& v) { return std::vector<std::vector<Vector>>{{{v[0], v[1], v[2]}, {v[3], v[4], v[5]}, {v[6], v[7], v[8]}}}; };
  const OutputLoss loss = output_orthogonality(three(flat), 0.3, false, 0.1);
  Vector gradient;
  for (const Vector& g : loss.gradient.at(0)) gradient.insert(gradient.end(), g.begin(), g.end());
  near(gradient, finite_differences([&](const Vector& v) { return output_orthogonality(three(v), 0.3, false, 0.1).value; }, flat), 1e-9);
}

}  // namespace
}  // namespace moesweep::reference
