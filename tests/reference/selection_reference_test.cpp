// The selection oracle against hand-worked examples, special cases with a known answer and finite differences.
#include "reference/selection_reference.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

namespace moesweep::reference {
namespace {

constexpr Gate kGates[] = {Gate::softmax, Gate::softmax_selected, Gate::sigmoid, Gate::sqrt_softplus, Gate::relu};
constexpr Scope kScopes[] = {Scope::sequence, Scope::micro_batch, Scope::global_batch};

Input rows(std::int64_t k, const std::vector<Vector>& logits) {
  Input in;
  in.T = static_cast<std::int64_t>(logits.size());
  in.E = static_cast<std::int64_t>(logits.at(0).size());
  in.k = k;
  for (const Vector& x : logits) in.logits.insert(in.logits.end(), x.begin(), x.end());
  return in;
}

Vector normals(unsigned seed, std::size_t n) {
  std::mt19937_64 generator(seed);
  std::normal_distribution<double> normal;
  Vector values;
  for (std::size_t i = 0; i < n; ++i) values.push_back(normal(generator));
  return values;
}

/// `sequences` of `length` tokens with normal logits, two sequences a micro-batch.
Input random_input(unsigned seed, std::int64_t sequences, std::int64_t length, std::int64_t E, std::int64_t k) {
  Input in;
  in.T = sequences * length;
  in.E = E;
  in.k = k;
  in.logits = normals(seed, index(in.T * E));
  for (std::int64_t t = 0; t < in.T; ++t) {
    in.sequence.push_back(t / length);
    in.micro_batch.push_back(t / length / 2);
  }
  return in;
}

/// The same input with a masked token of high logits before every counted one, in the same units: counted token t is now 2 t + 1.
Input padded(const Input& in) {
  Input out;
  out.T = 2 * in.T;
  out.E = in.E;
  out.k = in.k;
  for (std::int64_t t = 0; t < in.T; ++t) {
    for (bool counts : {false, true}) {
      for (std::int64_t e = 0; e < in.E; ++e) out.logits.push_back(counts ? in.x(t, e) : 50.0 + static_cast<double>(e));
      out.sequence.push_back(in.unit_of(t, Scope::sequence));
      out.micro_batch.push_back(in.unit_of(t, Scope::micro_batch));
      out.mask.push_back(counts ? 1 : 0);
    }
  }
  return out;
}

/// Checks that masked rows are empty and returns the others.
template <class Rows>
Rows unpadded(const Rows& all) {
  Rows kept;
  for (std::size_t t = 0; t < all.size(); ++t) {
    if (t % 2 == 1) kept.push_back(all[t]);
    else EXPECT_TRUE(all[t].empty()) << "masked token " << t;
  }
  return kept;
}

Vector logs(Vector values) {
  for (double& v : values) v = std::log(v);
  return values;
}

/// The logit at which sqrt(softplus) is v: log(e^(v v) - 1).
double root_logit(double v) { return std::log(std::expm1(v * v)); }

Slots random_slots(unsigned seed, const Experts& experts) {
  Slots slots;
  for (const Integers& chosen : experts) slots.push_back(normals(seed++, chosen.size()));
  return slots;
}

void expect_near(const Vector& actual, const Vector& expected, double tolerance = 1e-12) {
  ASSERT_EQ(actual.size(), expected.size());
  for (std::size_t i = 0; i < actual.size(); ++i) EXPECT_NEAR(actual[i], expected[i], tolerance) << "entry " << i;
}

// ---------------------------------------------------------------------------------------------------------------- scores

TEST(SelectionReference, ScoresByHand) {
  const Vector x = logs({1, 2, 5});
  expect_near(scores(x, Gate::softmax), {1.0 / 8, 2.0 / 8, 5.0 / 8});
  expect_near(scores(x, Gate::softmax_selected), {1.0 / 8, 2.0 / 8, 5.0 / 8});
  expect_near(scores(x, Gate::sigmoid), {1.0 / 2, 2.0 / 3, 5.0 / 6});
  expect_near(probabilities(x, Gate::sigmoid), {1.0 / 4, 1.0 / 3, 5.0 / 12});  // the sum of s is 2
  // sqrt(log(1 + e^x)): at x = 0 sqrt(log 2), at log 3 sqrt(log 4).
  expect_near(scores({0, std::log(3.0)}, Gate::sqrt_softplus), {std::sqrt(std::log(2.0)), std::sqrt(std::log(4.0))});
  const Vector roots{root_logit(1), root_logit(2), root_logit(3)};
  expect_near(scores(roots, Gate::sqrt_softplus), {1, 2, 3});
  expect_near(probabilities(roots, Gate::sqrt_softplus), {1.0 / 6, 2.0 / 6, 3.0 / 6});
  expect_near(scores({-1, 2, 3}, Gate::relu), {0, 2, 3});
  expect_near(probabilities({-1, 2, 3}, Gate::relu), {0, 0.4, 0.6});
  expect_near(probabilities({-1, 0, -3}, Gate::relu), {0, 0, 0});
}

TEST(SelectionReference, ProbabilitiesOfExtremeLogitsStaySumOne) {
  for (Gate gate : {Gate::softmax, Gate::sigmoid, Gate::sqrt_softplus}) {
    for (double offset : {-2000.0, -40.0, 0.0, 40.0}) {
      const Vector p = probabilities({offset, offset + 1, offset + 2}, gate);
      EXPECT_NEAR(p[0] + p[1] + p[2], 1, 1e-12);
    }
  }
  // Far below zero sigmoid is e^x and sqrt(softplus) e^(x / 2).
  const double e = std::exp(1.0), h = std::exp(0.5);
  expect_near(probabilities({-2000, -1999}, Gate::sigmoid), {1 / (1 + e), e / (1 + e)});
  expect_near(probabilities({-2000, -1999}, Gate::sqrt_softplus), {1 / (1 + h), h / (1 + h)});
}

TEST(SelectionReference, WeightsByHand) {
  const Vector x = logs({1, 2, 5}), roots{root_logit(1), root_logit(2), root_logit(3)}, mixed{-1, 2, 3};
  expect_near(weights_of(x, {2, 1}, Gate::softmax), {5.0 / 8, 2.0 / 8});
  expect_near(weights_of(x, {2, 1}, Gate::softmax_selected), {5.0 / 7, 2.0 / 7});
  expect_near(weights_of(x, {2, 1}, Gate::sigmoid), {5.0 / 9, 4.0 / 9});  // 5/6 and 2/3 over 3/2
  expect_near(weights_of(roots, {2, 1}, Gate::sqrt_softplus), {3.0 / 5, 2.0 / 5});
  expect_near(weights_of(mixed, {2, 0, 1}, Gate::relu), {3, 0, 2});
  expect_near(weights_of(x, {2}, Gate::softmax), {5.0 / 8});
  expect_near(weights_of(x, {2}, Gate::softmax_selected), {1});
  expect_near(weights_of(x, {2}, Gate::sigmoid), {5.0 / 6});
  expect_near(weights_of(roots, {2}, Gate::sqrt_softplus), {3});
  expect_near(weights_of(roots, {2}, Gate::sqrt_softplus, 1.0, 2), {1});  // one expert of a token that may have two
  expect_near(weights_of(roots, {1, 0}, Gate::sqrt_softplus, 1.5), {1, 0.5});
  expect_near(weights_of(mixed, {1}, Gate::relu, 0.5), {1});
  for (Gate gate : kGates) EXPECT_TRUE(weights_of(x, {}, gate).empty());
}

// ----------------------------------------------------------------------------------------------------------- perturbation

TEST(SelectionReference, TemperatureAndNoiseByHand) {
  const Input in = rows(2, {logs({1, 4, 9})});  // x / 2 = log of 1, 2, 3
  const Perturbed cold = perturbed(in, 2);
  EXPECT_EQ(select_top_k(cold.select, Gate::softmax)[0], (Integers{2, 1}));
  expect_near(weighed(cold.weigh, {{2, 1}}, Gate::softmax).weights[0], {3.0 / 6, 2.0 / 6});

  const Vector noise{std::log(6.0), 0, 0};  // h = log of 6, 2, 3
  const Perturbed gaussian = perturbed(in, 2, Noise::gaussian, noise);
  const Experts chosen = select_top_k(gaussian.select, Gate::softmax);
  EXPECT_EQ(chosen[0], (Integers{0, 2}));
  expect_near(weighed(gaussian.weigh, chosen, Gate::softmax).weights[0], {6.0 / 11, 3.0 / 11});
  expect_near(weighed(gaussian.weigh, chosen, Gate::softmax_selected).weights[0], {6.0 / 9, 3.0 / 9});

  const Perturbed gumbel = perturbed(in, 2, Noise::gumbel, noise);  // the same choice, weights without the noise
  EXPECT_EQ(select_top_k(gumbel.select, Gate::softmax), chosen);
  expect_near(weighed(gumbel.weigh, chosen, Gate::softmax).weights[0], {1.0 / 6, 3.0 / 6});
  expect_near(weighed(gumbel.weigh, chosen, Gate::softmax_selected).weights[0], {1.0 / 4, 3.0 / 4});
}

TEST(SelectionReference, GumbelIsSamplingWithoutReplacement) {
  // p = .5 .3 .2, k = 2: the ordered pair (0, 1) has probability .5 (.3 / .5) = .3, and (1, 0) .3 (.5 / .7) = .2143.
  const Input in = rows(2, {logs({0.5, 0.3, 0.2})});
  std::mt19937_64 generator(7);
  std::uniform_real_distribution<double> uniform(1e-12, 1.0);
  const int draws = 20000;
  double first = 0, second = 0;
  for (int i = 0; i < draws; ++i) {
    Vector noise;
    for (int e = 0; e < 3; ++e) noise.push_back(-std::log(-std::log(uniform(generator))));
    const Integers chosen = select_top_k(perturbed(in, 1, Noise::gumbel, noise).select, Gate::softmax)[0];
    first += chosen == Integers{0, 1} ? 1.0 / draws : 0.0;
    second += chosen == Integers{1, 0} ? 1.0 / draws : 0.0;
  }
  EXPECT_NEAR(first, 0.3, 0.015);  // 4.6 standard deviations
  EXPECT_NEAR(second, 0.3 * 0.5 / 0.7, 0.015);
}

TEST(SelectionReference, NoisyTopKByHand) {
  // softplus(x_noise) = 1.99, so h = x + 2 n = 2, -1, .5; the kept ones are 0 and 2: weights e^2 and e^.5 over their sum.
  const double x_noise = std::log(std::expm1(1.99));
  const Input in = rows(2, {{0, 1, 0}});
  const Input h = noisy_logits(in, Vector(3, x_noise), {1, -1, 0.25});
  expect_near(h.logits, {2, -1, 0.5});
  const Choice choice = weighed(h, select_top_k(h, Gate::softmax_selected), Gate::softmax_selected);
  EXPECT_EQ(choice.experts[0], (Integers{0, 2}));
  expect_near(choice.weights[0], {1 / (1 + std::exp(-1.5)), 1 / (1 + std::exp(1.5))});
  // Both matrices at 0: only the noise, times log 2 + .01.
  expect_near(noisy_logits(rows(1, {{0, 0}}), {0, 0}, {1, -2}).logits, {std::log(2.0) + 0.01, -2 * std::log(2.0) - 0.02});
}

// -------------------------------------------------------------------------------------------------------------- selection

TEST(SelectionReference, BiasIsAddedToTheScore) {
  const Input in = rows(2, {logs({1, 2, 5})});  // sigmoid 1/2, 2/3, 5/6; with the bias .9, .667, .833
  const Experts chosen = select_top_k(in, Gate::sigmoid, {0.4, 0, 0});
  EXPECT_EQ(chosen[0], (Integers{0, 2}));
  expect_near(weighed(in, chosen, Gate::sigmoid).weights[0], {3.0 / 8, 5.0 / 8});
  EXPECT_EQ(select_top_k(in, Gate::sigmoid)[0], (Integers{2, 1}));
  // sqrt_softplus 1, 2, 3 and a bias of 1.5 on the first: 2.5 beats 2 but not 3.
  EXPECT_EQ(select_top_k(rows(2, {{root_logit(1), root_logit(2), root_logit(3)}}), Gate::sqrt_softplus, {1.5, 0, 0})[0], (Integers{2, 0}));
}

TEST(SelectionReference, GroupTopKByHand) {
  // relu scores, four groups of two. Best two: 10 12 11 9, so groups 1 and 2; best one: 9 6 7 8, so groups 0 and 3.
  const Input in = rows(3, {{9, 1, 6, 6, 7, 4, 8, 1}});
  EXPECT_EQ(select_group_top_k(in, Gate::relu, 4, 2, GroupScore::top2_sum)[0], (Integers{4, 2, 3}));
  EXPECT_EQ(select_group_top_k(in, Gate::relu, 4, 2, GroupScore::max)[0], (Integers{0, 6, 1}));
  EXPECT_EQ(select_group_top_k(in, Gate::relu, 4, 2, GroupScore::megatron)[0], (Integers{0, 6, 1}));  // the best 3 / 2 = 1
  // The bias moves group 3 from 9 to 12.5: it and group 1 are kept; the keys are 6 6 and 8 4.5.
  EXPECT_EQ(select_group_top_k(in, Gate::relu, 4, 2, GroupScore::top2_sum, {0, 0, 0, 0, 0, 0, 0, 3.5})[0], (Integers{6, 2, 3}));
}

TEST(SelectionReference, MegatronGroupsSumTheBestKOverKept) {
  // Two groups of four, one kept, k = 3. Best three: 10 and 11; best two: 10 and 8.
  const Input in = rows(3, {{5, 5, 0, 0, 4, 4, 3, 0}});
  EXPECT_EQ(select_group_top_k(in, Gate::relu, 2, 1, GroupScore::megatron)[0], (Integers{4, 5, 6}));
  EXPECT_EQ(select_group_top_k(in, Gate::relu, 2, 1, GroupScore::top2_sum)[0], (Integers{0, 1, 2}));
  EXPECT_THROW(select_group_top_k(rows(1, {{1, 2, 3, 4}}), Gate::relu, 2, 2, GroupScore::megatron), std::invalid_argument);
  EXPECT_THROW(select_group_top_k(in, Gate::relu, 4, 1, GroupScore::max), std::invalid_argument);  // two experts for k = 3
  EXPECT_THROW(select_group_top_k(in, Gate::relu, 3, 2, GroupScore::max), std::invalid_argument);
}

TEST(SelectionReference, ExpertsOutsideTheGroupsKeptAreAtMinusInfinity) {
  // s + b = -2 -2 -3.5 -3.5: with 0 in place of -inf the second group would win.
  const Input in = rows(2, {{1, 1, 0.5, 0.5}});
  EXPECT_EQ(select_group_top_k(in, Gate::relu, 2, 1, GroupScore::top2_sum, {-3, -3, -4, -4})[0], (Integers{0, 1}));
}

TEST(SelectionReference, GroupTies) {
  const Input in = rows(2, {Vector(8, 1.0)});
  for (GroupScore rule : {GroupScore::top2_sum, GroupScore::max, GroupScore::megatron})
    EXPECT_EQ(select_group_top_k(in, Gate::softmax, 4, 2, rule)[0], (Integers{0, 1}));
  EXPECT_EQ(select_group_top_k(rows(2, {{0, 0, 1, 1, 1, 1}}), Gate::sigmoid, 3, 1, GroupScore::top2_sum)[0], (Integers{2, 3}));
  EXPECT_EQ(select_grouped_top_k(in, Gate::softmax, 2)[0], (Integers{0, 4}));
  // One expert a group: the sum of the best two is that one.
  EXPECT_EQ(select_group_top_k(rows(1, {{1, 3, 2}}), Gate::relu, 3, 2, GroupScore::top2_sum)[0], (Integers{1}));
}

TEST(SelectionReference, GroupedTopKByHand) {
  const Input in = rows(2, {logs({5, 4, 1, 2}), logs({1, 2, 5, 4})});
  const Experts chosen = select_grouped_top_k(in, Gate::softmax_selected, 2);
  EXPECT_EQ(chosen, (Experts{{0, 3}, {2, 1}}));
  const Choice choice = weighed(in, chosen, Gate::softmax_selected);
  expect_near(choice.weights[0], {5.0 / 7, 2.0 / 7});
  expect_near(choice.weights[1], {5.0 / 7, 2.0 / 7});
  // p of the first row is 5 4 1 2 over 12; 1/4 more for expert 1 puts it before expert 0.
  EXPECT_EQ(select_grouped_top_k(in, Gate::softmax_selected, 2, {0, 0.25, 0, 0})[0], (Integers{1, 3}));
  EXPECT_THROW(select_grouped_top_k(rows(3, {{1, 2, 3, 4}}), Gate::softmax, 2), std::invalid_argument);
}

TEST(SelectionReference, GroupsThatDoNotLimitAreTopK) {
  const Input in = random_input(1, 2, 5, 8, 4);
  for (Gate gate : {Gate::softmax, Gate::sigmoid, Gate::sqrt_softplus}) {
    const Experts plain = select_top_k(in, gate);
    EXPECT_EQ(select_group_top_k(in, gate, 4, 4, GroupScore::top2_sum), plain);
    EXPECT_EQ(select_group_top_k(in, gate, 1, 1, GroupScore::megatron), plain);
    EXPECT_EQ(select_grouped_top_k(in, gate, 1), plain);
  }
}

TEST(SelectionReference, TopPByHand) {
  const auto chosen = [](double p0, std::int64_t k_max) {
    return select_top_p(rows(1, {logs({0.3, 0.05, 0.5, 0.15})}), Gate::softmax, p0, k_max)[0];
  };
  EXPECT_EQ(chosen(0, 4), (Integers{2}));
  EXPECT_EQ(chosen(0.4, 4), (Integers{2}));
  EXPECT_EQ(chosen(0.6, 4), (Integers{2, 0}));
  EXPECT_EQ(chosen(0.9, 4), (Integers{2, 0, 3}));
  EXPECT_EQ(chosen(0.9, 2), (Integers{2, 0}));
  EXPECT_EQ(chosen(0.97, 4), (Integers{2, 0, 3, 1}));
  // Two equal halves, exact in binary by relu: the sum reaches 1/2 with the first.
  EXPECT_EQ(select_top_p(rows(1, {{3, 3}}), Gate::relu, 0.5, 2)[0], (Integers{0}));
  // Weights of the kept prefix: 5 and 3 of 8 by softmax_selected.
  const Input in = rows(1, {logs({0.3, 0.05, 0.5, 0.15})});
  expect_near(weighed(in, {{2, 0}}, Gate::softmax_selected).weights[0], {5.0 / 8, 3.0 / 8});
}

TEST(SelectionReference, DenseReluHashAndReplayByHand) {
  const Input in = rows(2, {logs({1, 2, 5}), {-1, 0, 2}});
  EXPECT_EQ(select_dense(in), (Experts{{0, 1, 2}, {0, 1, 2}}));
  expect_near(weighed(in, select_dense(in), Gate::softmax).weights[0], {1.0 / 8, 2.0 / 8, 5.0 / 8});

  EXPECT_EQ(select_relu(in), (Experts{{1, 2}, {2}}));  // log 1 = 0 is not active
  const Choice relu = weighed(in, select_relu(in), Gate::relu, 2.0);
  expect_near(relu.weights[0], {2 * std::log(2.0), 2 * std::log(5.0)});
  expect_near(relu.weights[1], {4});
  EXPECT_EQ(select_relu(rows(1, {{-1, -2}})), (Experts{{}}));

  const Choice hash = route_hash(in, {1, 0}, {{0, 2}, {2, 1}}, 3.0);
  EXPECT_EQ(hash.experts, (Experts{{2, 1}, {0, 2}}));
  expect_near(hash.weights[0], {1.5, 1.5});

  // Replay of experts 0 and 1, which top-k would not choose: p itself, never renormalised for softmax.
  const Choice replay = weighed(in, {{0, 1}, {1, 2}}, Gate::softmax);
  expect_near(replay.weights[0], {1.0 / 8, 2.0 / 8});
  expect_near(weighed(in, {{0, 1}, {1, 2}}, Gate::softmax_selected).weights[0], {1.0 / 3, 2.0 / 3});
}

// ---------------------------------------------------------------------------------------------------- expert choice, threshold

TEST(SelectionReference, ExpertChoiceByHand) {
  // p of expert 0: .9 .5 .5 .5; C = floor(1 1 4 / 2 + 1/2) = 2. Expert 0 takes tokens 0 and 1, expert 1 (p .1 .5 .5 .5) tokens 1 and 2.
  const Input in = rows(1, {logs({9, 1}), {0, 0}, {0, 0}, {0, 0}});
  const Experts chosen = select_expert_choice(in, Scope::global_batch, 1.0);
  EXPECT_EQ(chosen, (Experts{{0}, {0, 1}, {1}, {}}));
  const Choice choice = weighed(in, chosen, Gate::softmax);
  expect_near(choice.weights[0], {0.9});
  expect_near(choice.weights[1], {0.5, 0.5});
  EXPECT_TRUE(choice.weights[3].empty());
  // By p, not by logits: expert 0 prefers the row with the smaller logit but the larger share.
  EXPECT_EQ(select_expert_choice(rows(1, {{1, 0}, {5, 7}}), Scope::global_batch, 1.0), (Experts{{0}, {1}}));
  EXPECT_EQ(expert_choice_capacity(5, 1, 2, 1.0), 3);    // 2.5 + .5
  EXPECT_EQ(expert_choice_capacity(3, 1, 8, 1.0), 0);    // .375 + .5
  EXPECT_EQ(expert_choice_capacity(8, 2, 4, 1.25), 5);   // 5 + .5
  EXPECT_EQ(expert_choice_capacity(8, 2, 4, 100.0), 8);  // no more than T
}

TEST(SelectionReference, ExpertChoiceFillsEveryExpertOfEveryUnit) {
  const Input in = random_input(2, 4, 6, 4, 2);
  for (Scope scope : kScopes) {
    const Choice choice = weighed(in, select_expert_choice(in, scope, 1.0), Gate::softmax);
    const double T = scope == Scope::sequence ? 6 : scope == Scope::micro_batch ? 12 : 24;
    for (const Vector& counts : counts_by_unit(in, choice, scope)) expect_near(counts, Vector(4, T / 2));
  }
}

TEST(SelectionReference, ThresholdByHand) {
  // m = floor(4 1 / 2 + 1/2) = 2: the second largest of each column.
  Input in = rows(1, {{1, 0}, {4, -1}, {3, -2}, {2, 5}});
  expect_near(threshold_quantiles(in, Scope::global_batch), {3, 0});
  in.sequence = {0, 0, 0, 1};  // T = 3: m = 2, q = 3 and -1; T = 1: m = 1, q = 2 and 5; weighted 3 to 1
  expect_near(threshold_quantiles(in, Scope::sequence), {(3 * 3 + 2) / 4.0, (-3 + 5) / 4.0});
  EXPECT_EQ(threshold_rank(2, 1, 8), 1);  // .25 + .5, but at least 1

  // b = .9. First q = 3: raw .3, cut .3 / .1 = 3. Then q = 1: raw .27 + .1 = .37, cut .37 / .19.
  EXPECT_THROW(threshold_cut({{0.0}, 0}), std::invalid_argument);
  ThresholdState state = updated_threshold({}, {3}, 0.9);
  expect_near(state.raw, {0.3});
  expect_near(threshold_cut(state, 0.9), {3});
  state = updated_threshold(state, {1}, 0.9);
  EXPECT_EQ(state.updates, 2);
  expect_near(state.raw, {0.37});
  expect_near(threshold_cut(state, 0.9), {0.37 / 0.19});

  const Choice choice = route_threshold(rows(1, {{std::log(3.0), 0}, {0.5, std::log(4.0)}, {0, 0}}), {0.5, 0}, 2.0);
  EXPECT_EQ(choice.experts, (Experts{{0}, {1}, {}}));  // 0.5 is not above 0.5, nor 0 above 0
  expect_near(choice.weights[0], {1.5});
  expect_near(choice.weights[1], {1.6});
}

// ------------------------------------------------------------------------------------------------------------------- ReMoE

TEST(SelectionReference, ReluL1ByHand) {
  // c = 2 1, sums of R = 3 3; .1 2 / (1 4) (2 3 + 1 3) = .45; the gradient is .05 c[e] where active.
  Input in = rows(1, {{1, -1}, {2, 3}});
  Loss loss = relu_l1(in, Scope::global_batch, 0.1);
  EXPECT_NEAR(loss.value, 0.45, 1e-15);
  expect_near(loss.gradient, {0.1, 0, 0.1, 0.05});
  // A unit each: .1 2 / 1 (1) = .2 and .2 (2 + 3) = 1, mean .6; gradients .2 / 2.
  in.sequence = {0, 1};
  loss = relu_l1(in, Scope::sequence, 0.1);
  EXPECT_NEAR(loss.value, 0.6, 1e-15);
  expect_near(loss.gradient, {0.1, 0, 0.1, 0.1});
}

TEST(SelectionReference, ReluL1GradientIsThatOfFiniteDifferences) {
  const Input in = random_input(3, 4, 3, 4, 2);
  for (Scope scope : kScopes) {
    const auto value = [&](const Vector& logits) {
      Input moved = in;
      moved.logits = logits;
      return relu_l1(moved, scope, 0.7).value;
    };
    expect_near(relu_l1(in, scope, 0.7).gradient, finite_differences(value, in.logits), 1e-8);
  }
}

TEST(SelectionReference, L1WeightFollowsTheSparsity) {
  // Four tokens, four experts, k = 1: the target sparsity is 3/4, four active pairs.
  EXPECT_DOUBLE_EQ(updated_l1_weight(1e-8, 5, 4, 1), 1.2e-8);
  EXPECT_DOUBLE_EQ(updated_l1_weight(1e-8, 4, 4, 1), 1e-8);
  EXPECT_DOUBLE_EQ(updated_l1_weight(1.2e-8, 3, 4, 1), 1e-8);
}

// --------------------------------------------------------------------------------------------------------------- capacity

TEST(SelectionReference, CapacityByHand) {
  EXPECT_EQ(capacity(4, 2, 3, 0.75), 2);   // exactly 2
  EXPECT_EQ(capacity(25, 2, 11, 1.1), 5);  // 5 in truth, 5.000000000000001 in doubles
  EXPECT_EQ(capacity(5, 1, 2, 1.0), 3);    // 2.5
  EXPECT_EQ(capacity(5, 2, 4, 100.0), 5);  // no more than T
}

TEST(SelectionReference, DropPoliciesByHand) {
  // C = 2. Expert 0 is claimed by token 0 (slot 1, .4), 1 (slot 0, .7), 2 (slot 0, .45) and 3 (slot 0, .5); expert 1 by token 0 (slot 0, .6),
  // 1 (slot 1, .3) and 3 (slot 1, .35); expert 2 by token 2 alone.
  const Input in = rows(2, std::vector<Vector>(4, Vector(3, 0.0)));
  const Choice choice{{{1, 0}, {0, 1}, {0, 2}, {0, 1}}, {{0.6, 0.4}, {0.7, 0.3}, {0.45, 0.2}, {0.5, 0.35}}};
  const auto flags = [&](DropPolicy policy, const Slots& priority = {}) { return dropped(in, choice, Scope::global_batch, 0.75, policy, priority); };
  EXPECT_EQ(flags(DropPolicy::probability), (Experts{{0, 1}, {0, 1}, {1, 0}, {0, 0}}));  // expert 0 keeps tokens 1, 3; expert 1 tokens 0, 3
  EXPECT_EQ(flags(DropPolicy::position), (Experts{{0, 0}, {0, 0}, {1, 0}, {1, 1}}));     // both keep tokens 0, 1
  EXPECT_EQ(flags(DropPolicy::gshard), (Experts{{0, 1}, {0, 0}, {0, 0}, {1, 1}}));       // expert 0 keeps 1, 2; expert 1 keeps 0, then 1
  // Expert 0: .9 .1 .8 .2 keeps tokens 0, 2; expert 1: .1 .5 .4 keeps tokens 1, 3.
  EXPECT_EQ(flags(DropPolicy::random, {{0.1, 0.9}, {0.1, 0.5}, {0.8, 0.3}, {0.2, 0.4}}), (Experts{{1, 0}, {1, 0}, {0, 0}, {1, 0}}));
}

TEST(SelectionReference, EqualClaimsKeepTheLowestToken) {
  const Input in = rows(1, std::vector<Vector>(4, Vector(2, 0.0)));
  const Choice choice{Experts(4, Integers{1}), Slots(4, Vector{0.5})};
  const Slots priority(4, Vector{0.25});
  for (DropPolicy policy : {DropPolicy::probability, DropPolicy::position, DropPolicy::gshard, DropPolicy::random})
    EXPECT_EQ(dropped(in, choice, Scope::global_batch, 1.0, policy, priority), (Experts{{0}, {0}, {1}, {1}}));
}

TEST(SelectionReference, CapacityIsOfItsUnit) {
  Input in = rows(1, std::vector<Vector>(4, Vector(2, 0.0)));
  in.sequence = {0, 1, 0, 1};
  const Choice choice{Experts(4, Integers{0}), Slots(4, Vector{0.5})};
  EXPECT_EQ(dropped(in, choice, Scope::sequence, 1.0, DropPolicy::position), (Experts{{0}, {0}, {1}, {1}}));
  EXPECT_EQ(dropped(in, choice, Scope::sequence, 2.0, DropPolicy::position), (Experts{{0}, {0}, {0}, {0}}));
  in.mask = {1, 1, 1, 0};  // sequence 1 has one token and keeps ceil(1/2) = 1
  const Choice masked{{{0}, {0}, {0}, {}}, {{0.5}, {0.5}, {0.5}, {}}};
  EXPECT_EQ(dropped(in, masked, Scope::sequence, 1.0, DropPolicy::position), (Experts{{0}, {0}, {1}, {}}));
}

TEST(SelectionReference, EarlierTokensAreUntouchedByLaterOnesUnderPosition) {
  const Input in = random_input(4, 1, 12, 4, 2);
  const Choice choice = weighed(in, select_top_k(in, Gate::softmax), Gate::softmax);
  const Experts flags = dropped(in, choice, Scope::sequence, 0.8, DropPolicy::position);
  Input changed = in;
  for (std::size_t i = 6 * 4; i < changed.logits.size(); ++i) changed.logits[i] = -2 * changed.logits[i];
  const Choice other = weighed(changed, select_top_k(changed, Gate::softmax), Gate::softmax);
  const Experts other_flags = dropped(changed, other, Scope::sequence, 0.8, DropPolicy::position);
  for (std::size_t t = 0; t < 6; ++t) EXPECT_EQ(flags[t], other_flags[t]);
}

// ----------------------------------------------------------------------------------------------------- pooling, schedules

TEST(SelectionReference, PoolingByHand) {
  Input in = rows(1, {{1, 3}, {3, 5}, {7, 0}, {9, 100}, {11, 4}});
  in.sequence = {0, 0, 1, 1, 1};
  in.mask = {1, 1, 1, 0, 1};
  const Input means = pooled(in, Scope::sequence);
  EXPECT_EQ(row(means, 0), (Vector{2, 4}));
  EXPECT_EQ(row(means, 1), (Vector{2, 4}));
  EXPECT_EQ(row(means, 2), (Vector{9, 2}));
  EXPECT_EQ(row(means, 4), (Vector{9, 2}));
  expect_near(row(pooled(in, Scope::micro_batch), 4), {22.0 / 4, 12.0 / 4});

  const Input one = pooled_prefix(in, 1);
  EXPECT_EQ(row(one, 0), (Vector{1, 3}));
  EXPECT_EQ(row(one, 1), (Vector{1, 3}));
  EXPECT_EQ(row(one, 2), (Vector{7, 0}));
  EXPECT_EQ(row(one, 4), (Vector{7, 0}));
  const Input two = pooled_prefix(in, 2);  // no sequence has more than two tokens that count
  for (std::int64_t t : {0, 1, 2, 4}) EXPECT_EQ(row(two, t), row(in, t));
}

TEST(SelectionReference, PooledGradientsAreThoseOfFiniteDifferences) {
  const Input in = padded(random_input(5, 4, 4, 3, 1));
  const Vector upstream = normals(6, in.logits.size());
  const auto differences = [&](const std::function<Input(const Input&)>& pool) {
    const auto loss = [&](const Vector& logits) {
      Input moved = in;
      moved.logits = logits;
      const Input out = pool(moved);
      double sum = 0;
      for (std::int64_t t = 0; t < in.T; ++t)
        for (std::int64_t e = 0; e < in.E && in.counts(t); ++e) sum += upstream[index(t * in.E + e)] * out.x(t, e);
      return sum;
    };
    return finite_differences(loss, in.logits);
  };
  for (Scope scope : kScopes)
    expect_near(pooled_gradient(in, scope, upstream), differences([&](const Input& moved) { return pooled(moved, scope); }), 1e-6);
  for (std::int64_t n : {1, 3, 4, 5})
    expect_near(pooled_prefix_gradient(in, n, upstream), differences([&](const Input& moved) { return pooled_prefix(moved, n); }), 1e-6);
}

TEST(SelectionReference, SchedulesByHand) {
  for (Schedule kind : {Schedule::linear, Schedule::cosine}) {
    EXPECT_DOUBLE_EQ(scheduled(kind, 1, 5, 10, 20, 0), 1);
    EXPECT_DOUBLE_EQ(scheduled(kind, 1, 5, 10, 20, 10), 1);
    EXPECT_DOUBLE_EQ(scheduled(kind, 1, 5, 10, 20, 15), 3);
    EXPECT_DOUBLE_EQ(scheduled(kind, 1, 5, 10, 20, 20), 5);
    EXPECT_DOUBLE_EQ(scheduled(kind, 1, 5, 10, 20, 99), 5);
  }
  EXPECT_DOUBLE_EQ(scheduled(Schedule::linear, 8, 2, 0, 30, 10), 6);
  EXPECT_NEAR(scheduled(Schedule::cosine, 8, 2, 0, 30, 10), 6.5, 1e-14);  // (1 - cos 60 degrees) / 2 = 1/4 of the way
  EXPECT_NEAR(scheduled(Schedule::cosine, 8, 2, 0, 30, 20), 3.5, 1e-14);  // 3/4 of the way
  EXPECT_EQ(scheduled(Schedule::step, 1, 5, 10, 20, 9), 1);
  EXPECT_EQ(scheduled(Schedule::step, 1, 5, 10, 20, 10), 5);
  EXPECT_EQ(scheduled(Schedule::constant, 1, 5, 10, 20, 99), 1);
}

// -------------------------------------------------------------------------------------------------------------- gradients

TEST(SelectionReference, WeightSlopesByHand) {
  const Vector x = logs({1, 2, 5});
  expect_near(weights_slope(x, {2}, {1}, Gate::softmax), {-5.0 / 64, -10.0 / 64, 15.0 / 64});
  expect_near(weights_slope(x, {2, 1}, {1, 0}, Gate::softmax_selected), {0, -10.0 / 49, 10.0 / 49});
  expect_near(weights_slope(x, {2}, {1}, Gate::sigmoid), {0, 0, 5.0 / 36});
  // s = 5/6, 2/3 with slopes 5/36, 2/9; w = s / (3/2): dw2 = (4/9) / (3/2) (5/36) and -(5/9) / (3/2) (2/9).
  expect_near(weights_slope(x, {2, 1}, {1, 0}, Gate::sigmoid), {0, -20.0 / 243, 10.0 / 243});
  // At 0: sigmoid / (2 s) = 1 / (4 sqrt(log 2)); normalised over two equal ones half of the log slope 1 / (4 log 2), times 1/2.
  expect_near(weights_slope({0, 0}, {0}, {1}, Gate::sqrt_softplus), {1 / (4 * std::sqrt(std::log(2.0))), 0});
  expect_near(weights_slope({0, 0}, {0, 1}, {1, 0}, Gate::sqrt_softplus), {1 / (16 * std::log(2.0)), -1 / (16 * std::log(2.0))});
  expect_near(weights_slope({2, -1, 3}, {2, 1}, {4, 5}, Gate::relu, 0.5), {0, 0, 2});
}

TEST(SelectionReference, WeightGradientsAreThoseOfFiniteDifferences) {
  for (std::int64_t k : {1, 3}) {
    const Input in = padded(random_input(7, 2, 3, 5, k));
    const Vector noise = normals(8, in.logits.size());
    for (Gate gate : kGates) {
      for (Noise kind : {Noise::none, Noise::gaussian, Noise::gumbel}) {
        const Perturbed h = perturbed(in, 1.7, kind, noise);
        const Experts chosen = select_top_k(h.select, gate);
        const Slots upstream = random_slots(9, chosen);
        const auto weights = [&](const Input& moved) { return weighed(perturbed(moved, 1.7, kind, noise).weigh, chosen, gate, 2.5).weights; };
        expect_near(weights_gradient(h.weigh, chosen, upstream, gate, 2.5, 1.7), weights_differences(in, upstream, weights), 1e-8);
      }
    }
  }
}

TEST(SelectionReference, GradientsOfListsOfAnyLength) {
  const Input in = random_input(10, 2, 6, 5, 2);
  for (Gate gate : kGates) {
    for (const Experts& chosen : {select_top_p(in, Gate::softmax, 0.6, 4), select_expert_choice(in, Scope::sequence, 1.0), select_relu(in)}) {
      for (std::int64_t k : {0, 4}) {
        const Slots upstream = random_slots(11, chosen);
        const auto weights = [&](const Input& moved) { return weighed(moved, chosen, gate, 1.0, k).weights; };
        expect_near(weights_gradient(in, chosen, upstream, gate, 1.0, 1.0, k), weights_differences(in, upstream, weights), 1e-8);
      }
    }
  }
  const Vector cut(5, 0.1);
  const Experts chosen = route_threshold(in, cut).experts;
  const Slots upstream = random_slots(12, chosen);
  const auto weights = [&](const Input& moved) { return route_threshold(moved, cut, 1.5).weights; };
  expect_near(threshold_weights_gradient(in, chosen, upstream, 1.5), weights_differences(in, upstream, weights), 1e-8);
}

TEST(SelectionReference, NoisyGradientsAreThoseOfFiniteDifferences) {
  const Input in = random_input(13, 2, 3, 5, 2);
  const Vector x_noise = normals(14, in.logits.size()), n = normals(15, in.logits.size());
  const Experts chosen = select_top_k(noisy_logits(in, x_noise, n), Gate::softmax_selected);
  const Slots upstream = random_slots(16, chosen);
  const NoisyGradient gradient = noisy_gradient(in, x_noise, n, chosen, upstream);
  const auto by_logits = [&](const Input& moved) { return weighed(noisy_logits(moved, x_noise, n), chosen, Gate::softmax_selected).weights; };
  expect_near(gradient.logits, weights_differences(in, upstream, by_logits), 1e-8);
  Input noise = in;
  noise.logits = x_noise;
  const auto by_noise = [&](const Input& moved) { return weighed(noisy_logits(in, moved.logits, n), chosen, Gate::softmax_selected).weights; };
  expect_near(gradient.noise_logits, weights_differences(noise, upstream, by_noise), 1e-8);
}

TEST(SelectionReference, ProbabilitySlopesAreThoseOfFiniteDifferences) {
  const Vector x = normals(17, 5), upstream = normals(18, 5);
  for (Gate gate : kGates) {
    const auto loss = [&](const Vector& moved) {
      const Vector p = probabilities(moved, gate);
      double sum = 0;
      for (std::size_t e = 0; e < p.size(); ++e) sum += upstream[e] * p[e];
      return sum;
    };
    expect_near(probabilities_slope(x, upstream, gate), finite_differences(loss, x), 1e-8);
  }
  expect_near(probabilities_slope({-1, -2}, {1, 2}, Gate::relu), {0, 0});
}

// ------------------------------------------------------------------------------------------------------------------ masks

TEST(SelectionReference, MaskedTokensCountNowhere) {
  const Input in = random_input(19, 4, 5, 6, 2), with = padded(in);
  const auto same = [&](const std::function<Experts(const Input&)>& select) { EXPECT_EQ(unpadded(select(with)), select(in)); };
  same([](const Input& i) { return select_top_k(i, Gate::sigmoid); });
  same([](const Input& i) { return select_dense(i); });
  same([](const Input& i) { return select_relu(i); });
  same([](const Input& i) { return select_group_top_k(i, Gate::sigmoid, 3, 2, GroupScore::top2_sum); });
  same([](const Input& i) { return select_grouped_top_k(i, Gate::softmax_selected, 2); });
  same([](const Input& i) { return select_top_p(i, Gate::softmax, 0.7, 3); });
  same([](const Input& i) { return route_hash(i, Integers(index(i.T), 0), {{3, 1}}).experts; });
  same([](const Input& i) { return select_top_k(pooled_prefix(i, 2), Gate::softmax); });
  for (Scope scope : kScopes) {
    same([&](const Input& i) { return select_expert_choice(i, scope, 1.0); });
    same([&](const Input& i) { return route_threshold(i, threshold_quantiles(i, scope)).experts; });
    same([&](const Input& i) { return select_top_k(pooled(i, scope), Gate::softmax); });
    for (DropPolicy policy : {DropPolicy::probability, DropPolicy::position, DropPolicy::gshard})
      same([&](const Input& i) { return dropped(i, weighed(i, select_top_k(i, Gate::softmax), Gate::softmax), scope, 0.6, policy); });
    EXPECT_NEAR(relu_l1(with, scope, 0.3).value, relu_l1(in, scope, 0.3).value, 1e-14);
  }
}

}  // namespace
}  // namespace moesweep::reference
