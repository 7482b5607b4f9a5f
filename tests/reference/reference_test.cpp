// The routing oracle against hand-worked examples, closed forms and finite differences, so that it can be trusted as a judge.
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "reference/routing_reference.hpp"

namespace moesweep::reference {
namespace {

/// `sequences` of `length` tokens with normal logits; every sequence has one domain, `together` sequences make a micro-batch.
Input random_input(unsigned seed, std::int64_t sequences, std::int64_t length, std::int64_t E, std::int64_t k, std::int64_t together = 1) {
  std::mt19937_64 generator(seed);
  std::normal_distribution<double> normal;
  Input in;
  in.T = sequences * length;
  in.E = E;
  in.k = k;
  for (std::int64_t t = 0; t < in.T; ++t) {
    for (std::int64_t e = 0; e < E; ++e) in.logits.push_back(normal(generator));
    in.sequence.push_back(t / length);
    in.micro_batch.push_back(t / length / together);
    in.domain.push_back(t / length % 4);
  }
  return in;
}

Input rows(std::int64_t E, std::int64_t k, const std::vector<Vector>& logits) {
  Input in;
  in.T = static_cast<std::int64_t>(logits.size());
  in.E = E;
  in.k = k;
  for (const Vector& x : logits) in.logits.insert(in.logits.end(), x.begin(), x.end());
  return in;
}

/// The same input with a masked token of wild logits after every counted one, in the same units.
Input padded(const Input& in) {
  Input out;
  out.T = 2 * in.T;
  out.E = in.E;
  out.k = in.k;
  for (std::int64_t t = 0; t < in.T; ++t) {
    for (bool counts : {true, false}) {
      for (std::int64_t e = 0; e < in.E; ++e) out.logits.push_back(counts ? in.x(t, e) : 1e3 * static_cast<double>(e));
      out.sequence.push_back(in.unit_of(t, Scope::sequence));
      out.micro_batch.push_back(in.unit_of(t, Scope::micro_batch));
      out.domain.push_back(in.domain_of(t));
      out.mask.push_back(counts ? 1 : 0);
    }
  }
  return out;
}

void expect_near(const Vector& actual, const Vector& expected, double tolerance = 1e-12) {
  ASSERT_EQ(actual.size(), expected.size());
  for (std::size_t i = 0; i < actual.size(); ++i) EXPECT_NEAR(actual[i], expected[i], tolerance) << "entry " << i;
}

constexpr Score kScores[] = {Score::softmax, Score::softmax_selected, Score::sigmoid};
constexpr Scope kScopes[] = {Scope::sequence, Scope::micro_batch, Scope::global_batch};

TEST(RoutingReference, ScoresByHand) {
  const Vector x{std::log(1.0), std::log(2.0), std::log(5.0)};
  expect_near(scores(x, Score::softmax), {1.0 / 8, 2.0 / 8, 5.0 / 8});
  expect_near(scores(x, Score::softmax_selected), {1.0 / 8, 2.0 / 8, 5.0 / 8});
  expect_near(scores(x, Score::sigmoid), {1.0 / 2, 2.0 / 3, 5.0 / 6});
  expect_near(probabilities(x, Score::sigmoid), {1.0 / 4, 1.0 / 3, 5.0 / 12});
}

TEST(RoutingReference, WeightsByHand) {
  const Vector x{std::log(1.0), std::log(2.0), std::log(5.0)};
  expect_near(weights_of(x, {2, 1}, Score::softmax), {5.0 / 8, 2.0 / 8});
  expect_near(weights_of(x, {2, 1}, Score::softmax_selected), {5.0 / 7, 2.0 / 7});
  expect_near(weights_of(x, {2, 1}, Score::sigmoid), {5.0 / 9, 4.0 / 9});
  expect_near(weights_of(x, {2}, Score::softmax), {5.0 / 8});
  expect_near(weights_of(x, {2}, Score::softmax_selected), {1.0});
  expect_near(weights_of(x, {2}, Score::sigmoid), {5.0 / 6});
  expect_near(weights_of(x, {2, 1}, Score::sigmoid, 2.5), {2.5 * 5.0 / 9, 2.5 * 4.0 / 9});
}

TEST(RoutingReference, TiesGoToTheLowestExpert) {
  EXPECT_EQ(top_k({1, 1, 1, 1}, 2), (Integers{0, 1}));
  EXPECT_EQ(top_k({0, 2, 1, 2, 1}, 3), (Integers{1, 3, 2}));
  EXPECT_EQ(top_k({5, 4, 4, 9}, 2, {1, 2}), (Integers{1, 2}));
  EXPECT_EQ(top_k({3, 1, 2}, 3), (Integers{0, 2, 1}));
  EXPECT_THROW(top_k({1, 2}, 3), std::invalid_argument);
  EXPECT_THROW(top_k({1, 2}, 0), std::invalid_argument);
}

TEST(RoutingReference, BiasIsAddedToTheScoreNotToTheLogit) {
  const Input in = rows(3, 1, {{std::log(0.5), std::log(0.3), std::log(0.2)}});
  const Vector bias{-0.25, 0.0, 0.0};  // s + b: .25 .3 .2; x + b would keep expert 0
  for (Score score : {Score::softmax, Score::softmax_selected}) {
    const Choice choice = route_top_k(in, score, 1.0, bias);
    EXPECT_EQ(choice.experts[0], (Integers{1}));
    expect_near(choice.weights[0], {score == Score::softmax ? 0.3 : 1.0});
  }
}

TEST(RoutingReference, ReferenceRouterByHand) {
  Input in = rows(4, 2, {{0, std::log(3.0), 9, 9}, {9, 9, std::log(4.0), 0}});
  in.domain = {0, 1};
  Choice choice = by_expert(route_reference(in, 2));
  EXPECT_EQ(choice.experts, (std::vector<Integers>{{0, 1}, {2, 3}}));
  expect_near(choice.weights[0], {1.0 / 4, 3.0 / 4});
  expect_near(choice.weights[1], {4.0 / 5, 1.0 / 5});
  choice = route_reference(in, 2, true, 3.0);
  expect_near(choice.weights[0], {1.5, 1.5});
  in.k = 1;  // more experts a domain than k: the best inside the domain's
  choice = route_reference(in, 2);
  EXPECT_EQ(choice.experts, (std::vector<Integers>{{1}, {2}}));
  expect_near(choice.weights[0], {1.0});
  EXPECT_THROW(route_reference(in, 3), std::invalid_argument);
  in.k = 3;
  EXPECT_THROW(route_reference(in, 2), std::invalid_argument);
}

TEST(RoutingReference, AuxLossByHand) {
  // p = (3/4, 1/4) for both tokens, f = (1, 0): L = a 2 (3/4).
  const Input in = rows(2, 1, {{std::log(3.0), 0}, {std::log(3.0), 0}});
  const Loss loss = aux_loss(in, Score::softmax, Scope::global_batch, 0.01);
  EXPECT_NEAR(loss.value, 0.015, 1e-15);
  expect_near(loss.gradient, {0.001875, -0.001875, 0.001875, -0.001875});
  // sigmoid: s = (3/4, 1/2), p = (3/5, 2/5); d/dx0 of p0 is s0 (1 - s0) / sum s (1 - p0) = (3/16) (4/5) (2/5) = .06.
  const Loss by_sigmoid = aux_loss(in, Score::sigmoid, Scope::global_batch, 1.0);
  EXPECT_NEAR(by_sigmoid.value, 1.2, 1e-15);
  EXPECT_NEAR(by_sigmoid.gradient[0], 0.06, 1e-15);
}

TEST(RoutingReference, AuxLossIsItsWeightUnderUniformCounts) {
  // Token t prefers experts t, t+1 of 4 by a margin of its own: counts are equal, p is not.
  std::vector<Vector> logits;
  for (std::size_t t = 0; t < 4; ++t) {
    Vector x{0, 0, 0, 0};
    x[t] = 3.0 + static_cast<double>(t);
    x[(t + 1) % 4] = 0.5 + static_cast<double>(t * t);
    logits.push_back(x);
  }
  for (Score score : kScores) {
    const Loss loss = aux_loss(rows(4, 2, logits), score, Scope::global_batch, 0.3);
    EXPECT_NEAR(loss.value, 0.3, 1e-15);
    expect_near(loss.gradient, Vector(16, 0.0), 1e-15);  // sum_e P[e] = 1 moves nowhere
  }
}

TEST(RoutingReference, AuxLossOfACollapseIsExpertsOverK) {
  const Input in = rows(6, 2, std::vector<Vector>(5, Vector{-60, 20, -60, 20, -60, -60}));
  EXPECT_NEAR(aux_loss(in, Score::softmax, Scope::global_batch, 0.01).value, 0.01 * 6 / 2, 1e-14);
}

TEST(RoutingReference, AuxLossIsBelowItsWeightWhenCountsAndScoresDisagree) {
  // Expert 0 is chosen by a hair twice, expert 1 strongly once: f = (2/3, 1/3), P leans to expert 1; a is no lower bound.
  const Input in = rows(2, 1, {{0.01, 0}, {0.01, 0}, {0, 5}});
  EXPECT_LT(aux_loss(in, Score::softmax, Scope::global_batch, 1.0).value, 0.95);
}

TEST(RoutingReference, AuxLossUnitsAreAveragedByTokens) {
  // Sequence 0: three tokens on expert 0, p0 = 3/4: 1.5. Sequence 1: one token on expert 1, p1 = 9/10: 1.8.
  Input in = rows(2, 1, {{std::log(3.0), 0}, {std::log(3.0), 0}, {std::log(3.0), 0}, {0, std::log(9.0)}});
  in.sequence = {7, 7, 7, 9};
  in.micro_batch = {0, 0, 0, 0};
  EXPECT_NEAR(aux_loss(in, Score::softmax, Scope::sequence, 1.0).value, 0.75 * 1.5 + 0.25 * 1.8, 1e-15);
  // One unit: f = (3/4, 1/4), P = (.75 * .75 + .25 * .1, .75 * .25 + .25 * .9).
  const double whole = 2 * (0.75 * (0.5625 + 0.025) + 0.25 * (0.1875 + 0.225));
  EXPECT_NEAR(aux_loss(in, Score::softmax, Scope::micro_batch, 1.0).value, whole, 1e-15);
  EXPECT_NEAR(aux_loss(in, Score::softmax, Scope::global_batch, 1.0).value, whole, 1e-15);
}

TEST(RoutingReference, ScopesOfOneUnitAgree) {
  const Input in = random_input(3, 1, 12, 8, 2);
  for (Score score : kScores) {
    const Loss global = aux_loss(in, score, Scope::global_batch, 0.7);
    for (Scope scope : kScopes) {
      const Loss loss = aux_loss(in, score, scope, 0.7);
      EXPECT_DOUBLE_EQ(loss.value, global.value);
      expect_near(loss.gradient, global.gradient, 0);
    }
  }
}

TEST(RoutingReference, GlobalLossIsTheSumOverPasses) {
  // a E sum_e f[e] (1/T_step) sum_{t in pass} p[t,e], f over the whole step, summed over passes of any size.
  const Input in = random_input(11, 6, 5, 8, 3);
  for (Score score : kScores) {
    const Vector c = counts_by_unit(in, route_top_k(in, score), Scope::global_batch).at(0);
    double sum = 0;
    for (std::int64_t first : {0, 7, 8, 22}) {
      const std::int64_t last = first == 0 ? 7 : first == 7 ? 8 : first == 8 ? 22 : in.T;
      for (std::int64_t t = first; t < last; ++t) {
        const Vector p = probabilities(row(in, t), score);
        for (std::size_t e = 0; e < p.size(); ++e) sum += 0.02 * 8 * c[e] / (static_cast<double>(in.T) * 3) * p[e] / static_cast<double>(in.T);
      }
    }
    EXPECT_NEAR(sum, aux_loss(in, score, Scope::global_batch, 0.02).value, 1e-15);
  }
}

TEST(RoutingReference, GradientsMatchFiniteDifferences) {
  Input in = random_input(5, 4, 3, 6, 2, 2);
  in.mask.assign(12, 1);
  in.mask[4] = in.mask[11] = 0;
  const auto with = [&](const Vector& logits) {
    Input moved = in;
    moved.logits = logits;
    return moved;
  };
  for (Score score : kScores) {
    for (Scope scope : kScopes) {
      const auto value = [&](const Vector& logits) { return aux_loss(with(logits), score, scope, 0.4).value; };
      expect_near(aux_loss(in, score, scope, 0.4).gradient, finite_differences(value, in.logits), 1e-9);
    }
    for (std::int64_t k : {1, 2, 6}) {
      in.k = k;
      const Choice choice = route_top_k(in, score, 1.7);
      std::vector<Vector> upstream(12, Vector{0.3, -1.1, 0.7, 0.2, -0.6, 1.3});
      const auto value = [&](const Vector& logits) {
        double sum = 0;
        for (std::int64_t t = 0; t < in.T; ++t) {
          const auto& chosen = choice.experts[static_cast<std::size_t>(t)];
          if (chosen.empty()) continue;
          const Vector w = weights_of(row(with(logits), t), chosen, score, 1.7);
          for (std::size_t i = 0; i < w.size(); ++i) sum += upstream[static_cast<std::size_t>(t)][i] * w[i];
        }
        return sum;
      };
      expect_near(weights_gradient(in, choice, upstream, score, 1.7), finite_differences(value, in.logits), 1e-8);
    }
    in.k = 2;
  }
  const auto value = [&](const Vector& logits) { return z_loss(with(logits), 1e-3).value; };
  expect_near(z_loss(in, 1e-3).gradient, finite_differences(value, in.logits), 1e-9);
}

TEST(RoutingReference, ZLossByHand) {
  const Loss loss = z_loss(rows(4, 1, {{0, 0, 0, 0}, {1, 1, 1, 1}}), 0.5);
  const double z = std::log(4.0);
  EXPECT_NEAR(loss.value, 0.5 * (z * z + (z + 1) * (z + 1)) / 2, 1e-15);
  EXPECT_NEAR(loss.gradient[0], 0.5 * 2 * z / 4 / 2, 1e-15);
  EXPECT_NEAR(loss.gradient[7], 0.5 * 2 * (z + 1) / 4 / 2, 1e-15);
}

TEST(RoutingReference, MaskedTokensCountNowhere) {
  const Input in = random_input(8, 4, 5, 6, 2, 2), with_padding = padded(in);
  const Vector bias{0.1, -0.2, 0.05, 0, 0.3, -0.1};
  for (Score score : kScores) {
    for (Scope scope : kScopes) {
      const Loss loss = aux_loss(in, score, scope, 0.1), other = aux_loss(with_padding, score, scope, 0.1);
      EXPECT_DOUBLE_EQ(loss.value, other.value);
      for (std::int64_t t = 0; t < in.T; ++t) {
        for (std::int64_t e = 0; e < in.E; ++e) {
          EXPECT_DOUBLE_EQ(other.gradient[static_cast<std::size_t>(2 * t * in.E + e)], loss.gradient[static_cast<std::size_t>(t * in.E + e)]);
          EXPECT_EQ(other.gradient[static_cast<std::size_t>((2 * t + 1) * in.E + e)], 0);
        }
      }
      EXPECT_EQ(counts_by_unit(in, route_top_k(in, score, 1, bias), scope),
                counts_by_unit(with_padding, route_top_k(with_padding, score, 1, bias), scope));
    }
  }
  EXPECT_DOUBLE_EQ(z_loss(in, 1).value, z_loss(with_padding, 1).value);
  EXPECT_EQ(counts_by_domain(with_padding, route_top_k(with_padding, Score::softmax), 4), counts_by_domain(in, route_top_k(in, Score::softmax), 4));
}

TEST(RoutingReference, NothingCountedIsNoLoss) {
  Input in = rows(2, 1, {{1, 2}});
  in.mask = {0};
  EXPECT_EQ(aux_loss(in, Score::softmax, Scope::sequence, 1).value, 0);
  EXPECT_EQ(z_loss(in, 1).value, 0);
  EXPECT_TRUE(counts_by_unit(in, route_top_k(in, Score::softmax), Scope::sequence).empty());
  EXPECT_EQ(updated_bias({0.5, -0.5}, {}, 0.1), (Vector{0.5, -0.5}));
}

TEST(RoutingReference, ExtremeLogitsStayFinite) {
  const Input in = rows(4, 2, {{1e4, -1e4, 1e4, 0}, {-1e4, -1e4, -1e4, -1e4}, {-1e4, 0, 1e4, 5e3}});
  EXPECT_EQ(route_top_k(in, Score::softmax).experts, (std::vector<Integers>{{0, 2}, {0, 1}, {2, 3}}));
  for (Score score : kScores) {
    const Choice choice = route_top_k(in, score);
    for (const Vector& weights : choice.weights)
      for (double w : weights) EXPECT_TRUE(std::isfinite(w));
    const Loss loss = aux_loss(in, score, Scope::global_batch, 1);
    EXPECT_TRUE(std::isfinite(loss.value));
    for (double g : loss.gradient) EXPECT_TRUE(std::isfinite(g));
    expect_near(probabilities(row(in, 1), score), {0.25, 0.25, 0.25, 0.25});
  }
  EXPECT_NEAR(z_loss(in, 1).value, (std::pow(1e4 + std::log(2.0), 2) + std::pow(-1e4 + std::log(4.0), 2) + 1e8) / 3, 1e-6);
}

TEST(RoutingReference, BiasUpdateByHand) {
  const Vector zero(4, 0.0);
  // mean 4: one above, one at the mean, two below.
  expect_near(updated_bias(zero, {{10, 4, 2, 0}}, 0.1), {-0.1, 0, 0.1, 0.1});
  expect_near(updated_bias(zero, {{10, 4, 2, 0}}, 0.1, BiasRule::proportional), {-0.15, 0, 0.05, 0.1});
  expect_near(updated_bias(zero, {{10, 4, 2, 0}}, 0.1, BiasRule::sign, true), {-0.125, -0.025, 0.075, 0.075});
  // Two units that hold tokens and one that holds none: the mean of their signs.
  expect_near(updated_bias({1, 2, 3, 4}, {{10, 4, 2, 0}, {0, 0, 0, 0}, {0, 0, 0, 8}}, 0.1), {1, 2.05, 3.1, 4});
  expect_near(updated_bias(zero, {{5, 5, 5, 5}}, 0.1), zero);
}

TEST(RoutingReference, MaxViolationByHand) {
  EXPECT_DOUBLE_EQ(max_violation({10, 4, 2, 0}), 1.5);
  EXPECT_DOUBLE_EQ(max_violation({3, 3, 3}), 0.0);
  EXPECT_DOUBLE_EQ(max_violation({0, 0, 12, 0}), 3.0);  // E / 1 - 1
}

TEST(RoutingReference, PermutingTokensOrExpertsPermutesTheResult) {
  const Input in = random_input(21, 1, 9, 5, 2);
  Input turned = in;
  for (std::int64_t t = 0; t < in.T; ++t)
    for (std::int64_t e = 0; e < in.E; ++e) turned.logits[static_cast<std::size_t>((in.T - 1 - t) * in.E + (e + 2) % in.E)] = in.x(t, e);
  const Choice a = route_top_k(in, Score::sigmoid), b = route_top_k(turned, Score::sigmoid);
  for (std::int64_t t = 0; t < in.T; ++t) {
    Integers moved = a.experts[static_cast<std::size_t>(t)];
    for (auto& e : moved) e = (e + 2) % in.E;
    EXPECT_EQ(b.experts[static_cast<std::size_t>(in.T - 1 - t)], moved);
  }
  EXPECT_NEAR(aux_loss(in, Score::sigmoid, Scope::global_batch, 1).value, aux_loss(turned, Score::sigmoid, Scope::global_batch, 1).value, 1e-14);
}

}  // namespace
}  // namespace moesweep::reference
