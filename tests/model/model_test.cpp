// The transformer against the naive double-precision one in tests/reference, gradients by finite differences, closed-form counts.
#include <gtest/gtest.h>

#include <ATen/core/grad_mode.h>

#include "moesweep/model/costs.hpp"
#include "reference/balancing_reference.hpp"
#include "reference/transformer_reference.hpp"
#include "support.hpp"

namespace moesweep::model {
namespace {

reference::Parameters oracle_parameters(Parameters& parameters) {
  reference::Parameters values;
  for (const auto& span : parameters.spans()) {
    const at::Tensor value = parameters.buffers(span.parameter_class).value.narrow(0, span.offset, span.count());
    values[span.name].assign(value.const_data_ptr<double>(), value.const_data_ptr<double>() + span.count());
  }
  return values;
}

reference::Forward oracle_forward(const Case& c, Parameters& parameters, const PassInput& pass) {
  reference::TransformerShape shape;
  shape.vocabulary = c.vocabulary;
  shape.width = c.model.width;
  shape.layers = c.model.layers;
  shape.heads = c.model.heads;
  shape.experts = c.model.experts;
  shape.expert_width = c.model.expert_width;
  shape.top_k = c.routing.top_k;
  shape.shared_experts = c.model.shared_experts;
  shape.dense_layers = c.model.dense_layers;
  shape.dense_width = c.model.dense_width;
  shape.tied_embeddings = c.model.tied_embeddings;
  shape.rotary_base = c.model.rotary_base;
  shape.norm_epsilon = c.model.norm_epsilon;
  shape.score = static_cast<reference::Score>(c.routing.score);
  shape.weight_scale = c.routing.weight_scale;
  const auto list = [](const at::Tensor& t) {
    return reference::Integers(t.const_data_ptr<std::int64_t>(), t.const_data_ptr<std::int64_t>() + t.numel());
  };
  return reference::forward(shape, oracle_parameters(parameters), list(pass.tokens), list(pass.targets), c.sequences, c.length);
}

std::vector<Case> cases() {
  std::vector<Case> all(1, small_case());
  all.push_back(small_case());
  all.back().model.shared_experts = 2;
  all.back().model.dense_layers = 1;
  all.back().model.dense_width = 10;
  all.back().routing.score = routing::Score::softmax_selected;
  all.push_back(small_case());
  all.back().model.tied_embeddings = true;
  all.back().routing.score = routing::Score::sigmoid;
  all.back().routing.weight_scale = 2.5;
  all.push_back(small_case());
  all.back().routing.top_k = 1;
  all.back().sequences = 1;
  all.back().length = 1;
  all.push_back(small_case());
  all.back().routing.top_k = 4;  // every expert
  return all;
}

TEST(Forward, TokenLossesAreThoseOfTheNaiveTransformer) {
  comm::Grid gang;
  for (const Case& c : cases()) {
    MoeModel model(c.model, c.routing, c.vocabulary, 2, gang, {at::kDouble, 3});
    const PassInput pass = pass_of(c);
    const auto result = model.forward(pass, nullptr, routing::Mode::train);
    const auto oracle = oracle_forward(c, model.parameters(), pass);
    for (std::size_t t = 0; t < oracle.token_loss.size(); ++t)
      ASSERT_NEAR(result.token_loss[static_cast<std::int64_t>(t)].item<double>(), oracle.token_loss[t], 1e-12);
  }
}

TEST(Forward, SinglePrecisionAndBf16StayNear) {
  comm::Grid gang;
  const Case c = small_case();
  const PassInput pass = pass_of(c);
  const auto loss = [&](at::ScalarType type) {
    MoeModel model(c.model, c.routing, c.vocabulary, 2, gang, {type, 3});
    return model.forward(pass, nullptr, routing::Mode::train).token_loss.mean().item<double>();
  };
  const double exact = loss(at::kDouble);
  EXPECT_NEAR(loss(at::kFloat), exact, 1e-5);
  EXPECT_NEAR(loss(at::kBFloat16), exact, 3e-2);
}

TEST(Forward, APassWithoutSequencesContributesNothing) {
  comm::Grid gang;
  Case c = small_case();
  c.sequences = 0;
  c.routing.balance.method = "aux_loss";
  for (const auto scope : {routing::ScopeKind::sequence, routing::ScopeKind::global_batch}) {
    c.routing.balance.scope = scope;
    MoeModel model(c.model, c.routing, c.vocabulary, 2, gang, {at::kDouble, 3});
    PassInput pass = pass_of(c);
    pass.layout.step_tokens = 8;
    const auto result = model.forward(pass, nullptr, routing::Mode::train);
    at::Tensor loss = result.token_loss.sum();
    for (const auto& [name, part] : result.losses) loss = loss + part;
    loss.backward();
    EXPECT_EQ(loss.item<double>(), 0.0);
    for (const auto kind : {ParameterClass::dense, ParameterClass::expert})
      EXPECT_EQ(model.parameters().buffers(kind).gradient.abs().sum().item<double>(), 0.0);
  }
}

TEST(Gradients, EveryParameterClassByFiniteDifferences) {
  comm::Grid gang;
  for (const Case& c : cases()) {
    MoeModel model(c.model, c.routing, c.vocabulary, 2, gang, {at::kDouble, 3});
    const PassInput pass = pass_of(c);
    // The weights differ by token, so that a gradient that ignores its factor is seen.
    const at::Tensor factor = at::arange(1, pass.tokens.numel() + 1, at::kDouble).sin();
    model.parameters().zero_gradients();
    (model.forward(pass, nullptr, routing::Mode::train).token_loss * factor).sum().backward();
    const auto value = [&] {
      const at::NoGradGuard none;
      return (model.forward(pass, nullptr, routing::Mode::evaluate).token_loss * factor).sum().item<double>();
    };
    const double h = 1e-5;
    for (const auto& span : model.parameters().spans()) {
      auto& buffers = model.parameters().buffers(span.parameter_class);
      for (std::int64_t n = 0; n < 3; ++n) {
        const std::int64_t i = span.offset + (n * 7919) % span.count();
        const double before = buffers.value[i].item<double>();
        buffers.value[i] = before + h;
        const double up = value();
        buffers.value[i] = before - h;
        const double down = value();
        buffers.value[i] = before;
        ASSERT_NEAR(buffers.gradient[i].item<double>(), (up - down) / (2 * h), 2e-6) << span.name << " element " << i - span.offset;
      }
    }
  }
}

TEST(Gradients, BalancingLossReachesTheRouterOnce) {
  comm::Grid gang;
  Case c = small_case();
  c.routing.balance.method = "aux_loss";
  const PassInput pass = pass_of(c);
  const auto router_gradient = [&](double weight) {
    c.routing.balance.weight = weight;
    MoeModel model(c.model, c.routing, c.vocabulary, 2, gang, {at::kDouble, 3});
    model.parameters().zero_gradients();
    const auto result = model.forward(pass, nullptr, routing::Mode::train);
    result.losses.at("aux_loss").backward();
    return model.parameters()["layers.1.router"].grad().clone();
  };
  const at::Tensor once = router_gradient(0.1), twice = router_gradient(0.2);
  EXPECT_GT(once.abs().max().item<double>(), 1e-6);
  EXPECT_TRUE(at::allclose(twice, once * 2, 1e-12, 1e-15));
  EXPECT_EQ(router_gradient(0.0).abs().max().item<double>(), 0.0);
}

TEST(PooledLayers, AreTheReferencesJoinedLayers) {
  comm::Grid gang;
  Case c = small_case();
  c.model.layers = 4;
  c.model.dense_layers = 1;
  c.routing.balance.method = "aux_loss";
  c.routing.balance.convention = routing::AuxConvention::transformers;
  c.routing.balance.weight = 0.3;
  for (const auto& [scope, theirs] : {std::pair{routing::ScopeKind::sequence, reference::Scope::sequence},
                                      std::pair{routing::ScopeKind::global_batch, reference::Scope::global_batch}}) {
    c.routing.balance.scope = scope;
    MoeModel model(c.model, c.routing, c.vocabulary, 2, gang, {at::kDouble, 3});
    const PassInput pass = pass_of(c);
    std::vector<reference::Input> layers;
    for (auto& [layer, input] : oracle_forward(c, model.parameters(), pass).router) layers.push_back(input);
    ASSERT_EQ(layers.size(), 3U);
    const double expected = reference::aux_loss_variant(layers, reference::Score::softmax, theirs, 0.3, reference::AuxVariant::transformers).value;
    EXPECT_NEAR(model.forward(pass, nullptr, routing::Mode::train).losses.at("aux_loss").item<double>(), expected, 1e-12);
  }
}

TEST(Decisions, TwoPhasesGiveWhatOnePassGives) {
  comm::Grid gang;
  Case c = small_case();
  c.sequences = 4;
  c.routing.balance.method = "aux_loss";
  c.routing.balance.scope = routing::ScopeKind::global_batch;
  c.model.shared_experts = 1;
  MoeModel model(c.model, c.routing, c.vocabulary, 2, gang, {at::kDouble, 3});
  EXPECT_TRUE(model.needs_whole_step(routing::Mode::train));
  const PassInput whole = pass_of(c);
  const auto in_flight = model.forward(whole, nullptr, routing::Mode::train);
  const auto passes = cut(whole, 2);
  const auto decisions = model.decide_step(passes, routing::Mode::train);
  double balance = 0;
  for (std::size_t p = 0; p < 2; ++p) {
    const auto result = model.forward(passes[p], &decisions[p], routing::Mode::train);
    balance += result.losses.at("aux_loss").item<double>();
    EXPECT_TRUE(at::allclose(result.token_loss, in_flight.token_loss.narrow(0, static_cast<std::int64_t>(p) * 2 * c.length, 2 * c.length), 0, 1e-13));
  }
  EXPECT_NEAR(balance, in_flight.losses.at("aux_loss").item<double>(), 1e-14);
}

TEST(Causality, LaterTokensDoNotMoveEarlierLosses) {
  comm::Grid gang;
  for (const std::string select : {"top_k", "reference", "random"}) {
    Case c = small_case();
    c.routing.select = select;
    MoeModel model(c.model, c.routing, c.vocabulary, 2, gang, {at::kDouble, 3});
    PassInput pass = pass_of(c);
    const at::Tensor before = model.forward(pass, nullptr, routing::Mode::train).token_loss.detach().view({c.sequences, c.length});
    at::Tensor tokens = pass.tokens.clone().view({c.sequences, c.length});
    tokens.narrow(1, 3, 2).add_(1).remainder_(c.vocabulary);
    pass.tokens = tokens.view(-1);
    const at::Tensor after = model.forward(pass, nullptr, routing::Mode::train).token_loss.detach().view({c.sequences, c.length});
    // To rounding: an expert's rows move within their product when other tokens choose otherwise.
    EXPECT_TRUE(at::allclose(before.narrow(1, 0, 3), after.narrow(1, 0, 3), 0, 1e-13));
    EXPECT_GT((before.narrow(1, 3, 2) - after.narrow(1, 3, 2)).abs().max().item<double>(), 1e-3);
    EXPECT_TRUE(model.causal(routing::Mode::train));
  }
}

TEST(Costs, ClosedFormsCountTheBuiltModel) {
  comm::Grid gang;
  for (const Case& c : cases()) {
    MoeModel model(c.model, c.routing, c.vocabulary, 2, gang, {at::kFloat, 3});
    std::int64_t total = 0, visited = 0;
    for (const auto& span : model.parameters().spans()) {
      total += span.count();
      if (span.parameter_class == ParameterClass::expert) visited += span.count() * c.routing.top_k / c.model.experts;
      else visited += span.count();
    }
    CostInput input;
    input.model = c.model;
    input.vocabulary = c.vocabulary;
    input.routing = c.routing;
    input.sequence_length = c.length;
    const Costs costs = costs_of(input);
    EXPECT_EQ(costs.parameters_total, total);
    EXPECT_EQ(costs.parameters_active, visited);
    const auto& dense = model.parameters().buffers(ParameterClass::dense);
    const auto& expert = model.parameters().buffers(ParameterClass::expert);
    EXPECT_EQ(costs.memory.parameters, static_cast<double>(dense.value.nbytes() + expert.value.nbytes()));
    EXPECT_EQ(costs.memory.moments, 2 * costs.memory.parameters);
  }
}

TEST(Costs, ForwardArithmeticByHand) {
  // d = 2, one layer, one head, E = 3, f = 5, k = 2, V = 7, S = 4: per token and multiply-add 2 operations.
  CostInput input;
  input.model.width = 2;
  input.model.layers = 1;
  input.model.heads = 1;
  input.model.experts = 3;
  input.model.expert_width = 5;
  input.vocabulary = 7;
  input.routing.top_k = 2;
  input.sequence_length = 4;
  const double projections = 4 * 2 * 2, router = 3 * 2, experts = 2 * 3 * 2 * 5, head = 7 * 2, attention = 2 * 4 * 2;
  EXPECT_EQ(costs_of(input).forward_flops_per_token, 2 * (projections + router + experts + head + attention));
}

TEST(Initialisation, DependsOnSeedAndNameAlone) {
  const Case c = small_case();
  Parameters a(c.model, c.vocabulary, at::kFloat, 1), b(c.model, c.vocabulary, at::kFloat, 1), other(c.model, c.vocabulary, at::kFloat, 2);
  EXPECT_TRUE(at::equal(a.buffers(ParameterClass::expert).value, b.buffers(ParameterClass::expert).value));
  EXPECT_FALSE(at::equal(a.buffers(ParameterClass::expert).value, other.buffers(ParameterClass::expert).value));
  ModelConfig more = c.model;
  more.experts = 6;
  Parameters wider(more, c.vocabulary, at::kFloat, 1);
  EXPECT_TRUE(at::equal(a.stack(1, "down").value[3], wider.stack(1, "down").value[3]));
}

TEST(Initialisation, ADeviationOfZeroIsZeros) {
  ModelConfig config = small_case().model;
  config.router_init_deviation = 0;
  Parameters parameters(config, 13, at::kFloat, 1);
  EXPECT_EQ(parameters["layers.0.router"].abs().max().item<double>(), 0.0);
  for (const auto& span : parameters.spans()) EXPECT_EQ(span.decays, span.shape.size() == 2) << span.name;
}

TEST(Initialisation, HasTheNamedDeviations) {
  ModelConfig config;  // testbed-tiny
  Parameters parameters(config, 1024, at::kFloat, 1);
  const auto deviation = [&](const at::Tensor& t) { return t.std().item<double>(); };
  EXPECT_NEAR(deviation(parameters["embedding"]), 1 / 8.0, 0.002);
  EXPECT_NEAR(deviation(parameters["head"]), 0.02, 0.0005);
  EXPECT_NEAR(deviation(parameters["layers.0.router"]), 0.02, 0.002);
  EXPECT_NEAR(deviation(parameters["layers.1.qkv"]), 1 / 8.0, 0.005);
  EXPECT_NEAR(deviation(parameters["layers.1.attention_output"]), 1 / 16.0, 0.005);
  EXPECT_NEAR(deviation(parameters.stack(0, "gate_up").value), 1 / 8.0, 0.002);
  EXPECT_NEAR(deviation(parameters.stack(0, "down").value), 1 / std::sqrt(32.0) / 2, 0.002);
  EXPECT_EQ(parameters["final_norm"].min().item<double>(), 1.0);
}

}  // namespace
}  // namespace moesweep::model
