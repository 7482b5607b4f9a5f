// The transformer oracle against cases small enough to work out by hand, and the laws of its parts.
#include "reference/transformer_reference.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

namespace moesweep::reference {
namespace {

void expect_near(const Vector& actual, const Vector& expected, double tolerance = 1e-12) {
  ASSERT_EQ(actual.size(), expected.size());
  for (std::size_t i = 0; i < actual.size(); ++i) EXPECT_NEAR(actual[i], expected[i], tolerance) << "entry " << i;
}

Parameters random_parameters(const TransformerShape& shape, unsigned seed) {
  std::mt19937_64 generator(seed);
  std::normal_distribution<double> normal(0, 0.5);
  Parameters parameters;
  for (const auto& [name, size] : parameter_sizes(shape))
    for (std::int64_t i = 0; i < size; ++i) parameters[name].push_back(normal(generator));
  return parameters;
}

TransformerShape small_shape() {
  TransformerShape shape;
  shape.vocabulary = 7;
  shape.width = 8;
  shape.layers = 3;
  shape.heads = 2;
  shape.experts = 4;
  shape.expert_width = 3;
  shape.top_k = 2;
  shape.shared_experts = 2;
  shape.dense_layers = 1;
  shape.dense_width = 5;
  return shape;
}

TEST(TransformerReference, RmsNormByHand) {
  expect_near(rms_norm({3, 4}, {1, 2}, 0), {3 / std::sqrt(12.5), 8 / std::sqrt(12.5)});
  expect_near(rms_norm({3, 4}, {1, 1}, 3.5), {0.75, 1.0});
}

TEST(TransformerReference, MatricesByHand) {
  EXPECT_EQ(matrix_times({1, 2, 3, 4, 5, 6}, {1, 10}, 3), (Vector{21, 43, 65}));
  EXPECT_EQ(matrix_times({1, 2, 3, 4, 5, 6}, {1, 10}, 2, 1), (Vector{43, 65}));
  EXPECT_EQ(times_matrix({1, 10}, {1, 2, 3, 4, 5, 6}, 3), (Vector{41, 52, 63}));
}

TEST(TransformerReference, SwigluByHand) {
  // gate = log 3, so silu(gate) = 3/4 log 3; up = 2; down = (1, -1).
  const Vector gate_up{std::log(3.0), 0, 0, 2};  // rows: input 0, input 1; columns: gate, up
  expect_near(swiglu({1, 1}, gate_up, {1, -1}, 1), {1.5 * std::log(3.0), -1.5 * std::log(3.0)});
}

TEST(TransformerReference, RotaryByHand) {
  Vector x{1, 0};
  rotate(x, 2, 1, 10000);
  expect_near(x, {std::cos(2.0), std::sin(2.0)});
  // Two heads of four: pairs (0, 2) turn by the position, pairs (1, 3) by position * base^(-1/2).
  x = {1, 1, 0, 0, 0, 0, 1, 1};
  rotate(x, 3, 2, 4);
  expect_near(x, {std::cos(3.0), std::cos(1.5), std::sin(3.0), std::sin(1.5), -std::sin(3.0), -std::sin(1.5), std::cos(3.0), std::cos(1.5)});
}

TEST(TransformerReference, RotaryDependsOnTheDistanceAlone) {
  const Vector q{0.3, -1, 0.4, 2}, k{1, 0.2, -0.5, 0.7};
  const auto dot = [&](std::int64_t a, std::int64_t b) {
    Vector x = q, y = k;
    rotate(x, a, 1, 100);
    rotate(y, b, 1, 100);
    double sum = 0;
    for (std::size_t i = 0; i < x.size(); ++i) sum += x[i] * y[i];
    return sum;
  };
  EXPECT_NEAR(dot(5, 2), dot(9, 6), 1e-13);
  EXPECT_GT(std::abs(dot(5, 2) - dot(5, 3)), 1e-3);
}

TEST(TransformerReference, AttentionByHand) {
  // q = k = 0: every position averages the values so far.
  const Vector identity_values{0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 1}, identity{1, 0, 0, 1};
  const auto even = attention({{2, 0}, {0, 4}, {4, 2}}, identity_values, identity, 1, 10000);
  expect_near(even[0], {2, 0});
  expect_near(even[1], {1, 2});
  expect_near(even[2], {2, 2});
  // q = k = v = h, two heads of one channel each: no pair to turn, so position t mixes by exp(h_t h_u).
  const Vector all_identity{1, 0, 0, 1, 1, 0, 0, 1, 1, 0, 0, 1};
  const auto mixed = attention({{1, 0}, {2, 3}}, all_identity, identity, 2, 10000);
  const double first = std::exp(2.0) / (std::exp(2.0) + std::exp(4.0));
  const double second = 1 / (1 + std::exp(9.0));
  expect_near(mixed[1], {first * 1 + (1 - first) * 2, second * 0 + (1 - second) * 3});
  // One head of two: the turn by one position and the scale 1 / sqrt 2.
  const auto turned = attention({{1, 0}, {1, 0}, {0, 1}}, all_identity, identity, 1, 10000);
  const double same = std::exp(1 / std::sqrt(2.0)), apart = std::exp(std::cos(1.0) / std::sqrt(2.0));
  expect_near(turned[1], {1, 0});
  // Position 2 looks along (0, 1) turned by 2: -sin 2, cos 2; the keys are (1, 0) turned by 0 and 1.
  const double a = std::exp(-std::sin(2.0) / std::sqrt(2.0)), b = std::exp(-std::sin(1.0) / std::sqrt(2.0));
  expect_near(turned[2], {(a + b) / (a + b + same), same / (a + b + same)});
  EXPECT_LT(apart, same);
}

TEST(TransformerReference, OneLayerByHand) {
  TransformerShape shape;
  shape.vocabulary = 2;
  shape.width = 2;
  shape.layers = 1;
  shape.experts = 2;
  shape.expert_width = 1;
  shape.norm_epsilon = 0;
  const double root = std::sqrt(12.5);
  Parameters parameters{{"embedding", {3, 4, 1, 1}},
                        {"head", {1, 0, 0, 0}},
                        {"final_norm", {1, 1}},
                        {"layers.0.attention_norm", {1, 1}},
                        {"layers.0.qkv", Vector(12, 0.0)},
                        {"layers.0.attention_output", Vector(4, 0.0)},
                        {"layers.0.moe_norm", {root, root}},
                        {"layers.0.router", {0, 0, 1, 0}},
                        {"layers.0.experts.0.gate_up", Vector(4, 100.0)},
                        {"layers.0.experts.0.down", {100, 100}},
                        {"layers.0.experts.1.gate_up", {std::log(3.0) / 3, 0, 0, 0.5}},
                        {"layers.0.experts.1.down", {1, 0}}};
  // h = (3, 4), router logits (0, 3): expert 1 with p = 1 / (1 + exp(-3)) adds 1.5 log 3 to the first channel.
  const Forward result = forward(shape, parameters, {0}, {1}, 1, 1);
  expect_near(result.router.at(0).logits, {0, 3});
  EXPECT_EQ(result.choice.at(0).experts[0], (Integers{1}));
  const double weight = 1 / (1 + std::exp(-3.0)), first = 3 + weight * 1.5 * std::log(3.0);
  const double logit = first / std::sqrt((first * first + 16) / 2);
  expect_near(result.logits, {logit, 0});
  EXPECT_NEAR(result.loss, std::log(1 + std::exp(logit)), 1e-12);
  // Attention of a lone position is Wo Wv h: with Wv = Wo = 1 and a norm that gives (3, 4) it doubles x, and the norms hide it again.
  parameters["layers.0.attention_norm"] = {root, root};
  parameters["layers.0.qkv"] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 1};
  parameters["layers.0.attention_output"] = {1, 0, 0, 1};
  const Forward doubled = forward(shape, parameters, {0}, {1}, 1, 1);
  expect_near(doubled.router.at(0).logits, {0, 3});
  const double second = 6 + weight * 1.5 * std::log(3.0);
  expect_near(doubled.logits, {second / std::sqrt((second * second + 64) / 2), 0});
}

TEST(TransformerReference, ZeroHeadIsUniform) {
  const TransformerShape shape = small_shape();
  Parameters parameters = random_parameters(shape, 1);
  parameters["head"].assign(parameters["head"].size(), 0.0);
  EXPECT_NEAR(forward(shape, parameters, {0, 1, 2, 3}, {1, 2, 3, 4}, 1, 4).loss, std::log(7.0), 1e-14);
}

TEST(TransformerReference, LossIsTheMeanOfTheTokens) {
  const TransformerShape shape = small_shape();
  const Forward result = forward(shape, random_parameters(shape, 2), {0, 1, 2, 3, 4, 5}, {1, 2, 3, 4, 5, 6}, 2, 3);
  double sum = 0;
  for (double loss : result.token_loss) sum += loss;
  EXPECT_NEAR(result.loss, sum / 6, 1e-14);
  EXPECT_EQ(result.logits.size(), 42U);
  EXPECT_EQ(result.router.size(), 2U);  // layer 0 is dense
  EXPECT_EQ(result.router.at(1).sequence, (Integers{0, 0, 0, 1, 1, 1}));
}

TEST(TransformerReference, CausalAndSequencesApart) {
  const TransformerShape shape = small_shape();
  const Parameters parameters = random_parameters(shape, 3);
  const Integers targets(8, 0);
  const Forward whole = forward(shape, parameters, {0, 1, 2, 3, 4, 5, 6, 0}, targets, 2, 4);
  const Forward changed = forward(shape, parameters, {0, 1, 6, 3, 4, 5, 6, 0}, targets, 2, 4);
  const Forward alone = forward(shape, parameters, {4, 5, 6, 0}, {0, 0, 0, 0}, 1, 4);
  for (std::size_t i = 0; i < whole.logits.size(); ++i) {
    const std::size_t token = i / 7;
    if (token < 2 || token >= 4) {
      EXPECT_EQ(whole.logits[i], changed.logits[i]) << "token " << token;
    }
    if (token >= 4) {
      EXPECT_EQ(whole.logits[i], alone.logits[i - 28]) << "token " << token;
    }
  }
  EXPECT_NE(whole.logits[2 * 7], changed.logits[2 * 7]);
  EXPECT_NE(whole.logits[3 * 7], changed.logits[3 * 7]);
}

TEST(TransformerReference, TiedHeadIsTheEmbedding) {
  TransformerShape shape = small_shape();
  Parameters parameters = random_parameters(shape, 4);
  parameters["head"] = parameters["embedding"];
  const Integers tokens{0, 1, 2}, targets{1, 2, 3};
  const Forward untied = forward(shape, parameters, tokens, targets, 1, 3);
  shape.tied_embeddings = true;
  parameters.erase("head");
  EXPECT_EQ(forward(shape, parameters, tokens, targets, 1, 3).logits, untied.logits);
}

TEST(TransformerReference, MergedSharedExpertsAreTheirSum) {
  const Vector x{0.4, -1.2};
  const Vector first{1, 2, 3, 4}, second{-1, 0.5, 2, 1};                // [2, 2]: gate, up
  const Vector merged{1, -1, 2, 0.5, 3, 2, 4, 1}, down{1, 2, -1, 0.5};  // [2, 4]: gates, then ups; [2, 2]
  const Vector a = swiglu(x, first, {1, 2}, 1), b = swiglu(x, second, {-1, 0.5}, 1);
  expect_near(swiglu(x, merged, down, 2), {a[0] + b[0], a[1] + b[1]});
}

TEST(TransformerReference, EqualExpertsMakeTheChoiceIrrelevant) {
  TransformerShape shape = small_shape();
  shape.score = Score::softmax_selected;  // weights sum to 1
  Parameters parameters = random_parameters(shape, 5);
  for (std::int64_t layer : {1, 2})
    for (std::int64_t e = 1; e < 4; ++e)
      for (const char* part : {".gate_up", ".down"})
        parameters["layers." + std::to_string(layer) + ".experts." + std::to_string(e) + part] =
            parameters["layers." + std::to_string(layer) + ".experts.0" + part];
  const Integers tokens{0, 1, 2}, targets{1, 2, 3};
  const Forward learned = forward(shape, parameters, tokens, targets, 1, 3);
  const Router last = [](std::int64_t, const Input& in) {
    return Choice{std::vector<Integers>(static_cast<std::size_t>(in.T), {3}), std::vector<Vector>(static_cast<std::size_t>(in.T), {1.0})};
  };
  expect_near(forward(shape, parameters, tokens, targets, 1, 3, last).logits, learned.logits, 1e-12);
}

TEST(TransformerReference, WrongParametersAreNamed) {
  const TransformerShape shape = small_shape();
  Parameters parameters = random_parameters(shape, 6);
  parameters["layers.1.router"].pop_back();
  EXPECT_THROW(forward(shape, parameters, {0}, {1}, 1, 1), std::invalid_argument);
  parameters.erase("layers.1.router");
  EXPECT_THROW(forward(shape, parameters, {0}, {1}, 1, 1), std::invalid_argument);
}

}  // namespace
}  // namespace moesweep::reference
