// The model under every kind of router, expert and regulariser: gradients by finite differences, passes against one, costs against what is built.
#include <gtest/gtest.h>

#include <ATen/core/grad_mode.h>

#include "model/combine.hpp"
#include "model/experts.hpp"
#include "model/extra_experts.hpp"
#include "model/regularisers.hpp"
#include "moesweep/model/costs.hpp"
#include "reference/balancing_reference.hpp"
#include "support.hpp"

namespace moesweep::model {
namespace {

using routing::Mode;

Case named(const std::string& name, const std::function<void(Case&)>& change) {
  Case c = small_case();
  c.name = name;
  c.sequences = 4;
  c.routing.balance.weight = 0.3;
  change(c);
  return c;
}

/// One case for each kind of parameter, input and loss, and some of several together.
std::vector<Case> cases() {
  std::vector<Case> all;
  const auto add = [&](const std::string& name, const std::function<void(Case&)>& change) { all.push_back(named(name, change)); };
  add("cosine", [](Case& c) {
    c.routing.logits = routing::Logits::cosine;
    c.routing.cosine_width = 3;
  });
  add("learned noise", [](Case& c) {
    c.routing.perturb = routing::Perturb::gaussian;
    c.routing.noise.learned = true;
    c.routing.score = routing::Score::softmax_selected;
    c.routing.balance.method = "importance_load";
  });
  add("jitter", [](Case& c) {
    c.routing.perturb = routing::Perturb::jitter;
    c.routing.noise.jitter = 0.5;
  });
  add("zero, copy and constant experts", [](Case& c) {
    c.routing.extra_experts = {1, 2, 2, 1};
    c.routing.top_k = 4;
    c.routing.balance.method = "aux_loss";
  });
  add("copy alone, dropped over capacity", [](Case& c) {
    c.routing.extra_experts.copy = 3;
    c.routing.capacity.factor = 0.8;
    c.routing.capacity.scope = routing::ScopeKind::global_batch;
  });
  add("shared decision", [](Case& c) {
    c.model.layers = 3;
    c.routing.depth = routing::Depth::shared_decision;
    c.routing.balance.method = "aux_loss";
    c.routing.z_loss_weight = 0.1;
    c.routing.regularise.router_orthogonality = 0.2;
  });
  add("shared weights", [](Case& c) {
    c.model.layers = 4;
    c.model.dense_layers = 1;
    c.model.dense_width = 10;
    c.routing.depth = routing::Depth::shared_weights;
    c.routing.depth_block = 2;
    c.routing.regularise.router_orthogonality = 0.2;
    c.routing.regularise.expert_router_coupling = 0.5;
  });
  add("expert-router coupling", [](Case& c) {
    c.routing.extra_experts.copy = 1;
    c.routing.regularise.expert_router_coupling = 0.7;
    c.routing.regularise.coupling_margin = 0.6;
  });
  add("expert-router coupling of a frozen router", [](Case& c) {
    c.routing.learning = routing::Learning::frozen;
    c.routing.regularise.expert_router_coupling = 0.7;
  });
  add("output orthogonality", [](Case& c) {
    c.routing.select = "top_p";
    c.routing.top_p = 0.8;
    c.routing.top_k = 3;
    c.routing.extra_experts.copy = 1;
    c.routing.regularise.output_orthogonality = 0.7;
    c.routing.capacity.factor = 0.9;
  });
  add("layers pooled", [](Case& c) {
    c.routing.balance.method = "aux_loss";
    c.routing.balance.convention = routing::AuxConvention::transformers;
  });
  add("layers pooled by sequence", [](Case& c) {
    c.routing.balance.method = "aux_loss";
    c.routing.balance.convention = routing::AuxConvention::transformers;
    c.routing.balance.scope = routing::ScopeKind::sequence;
  });
  add("sequence means", [](Case& c) {
    c.routing.granularity = routing::Granularity::sequence;
    c.routing.perturb = routing::Perturb::jitter;
    c.routing.noise.jitter = 0.9;
  });
  add("prefixes", [](Case& c) {
    c.routing.granularity = routing::Granularity::sequence;
    c.routing.pool.by = routing::Pooling::prefix;
    c.routing.pool.prefix_tokens = 2;
  });
  add("micro-batches", [](Case& c) { c.routing.granularity = routing::Granularity::batch; });
  add("a layer of its own", [](Case& c) {
    c.routing.balance.method = "aux_loss";
    routing::RoutingConfig first = c.routing;
    first.select = "hash";
    first.logits = routing::Logits::cosine;
    first.cosine_width = 5;
    first.hash_weights = routing::ReferenceWeights::gate;
    first.balance.method = "none";
    c.routing.layers["0"] = first;
  });
  add("dense with everything", [](Case& c) {
    c.model.shared_experts = 1;
    c.routing.select = "dense";
    c.routing.logits = routing::Logits::cosine;
    c.routing.extra_experts = {1, 1, 1, 1};
    c.routing.regularise.output_orthogonality = 0.2;
    c.routing.regularise.token_entropy = 0.1;
    c.routing.regularise.batch_entropy = 0.1;
  });
  return all;
}

/// The model of a case, with noise in every router parameter that starts at a fixed value.
MoeModel model_of(const Case& c, comm::Grid& gang) {
  EXPECT_EQ(routing::refusal(c.routing, {c.model.experts, 2, c.model.layers - c.model.dense_layers, c.model.width}), "") << c.name;
  MoeModel model(c.model, c.routing, c.vocabulary, 2, gang, {at::kDouble, 3});
  for (const Span& span : model.parameters().spans())
    if (span.name.find(".router") != std::string::npos && span.deviation == 0)
      model.parameters().buffers(span.parameter_class).value.narrow(0, span.offset, span.count()).add_(at::arange(1, span.count() + 1).sin(), 0.5);
  return model;
}

TEST(RoutedModel, GradientsByFiniteDifferences) {
  comm::Grid gang;
  for (const Case& c : cases()) {
    MoeModel model = model_of(c, gang);
    const PassInput pass = pass_of(c);
    train_step(model, {pass});
    const auto value = [&] {
      const at::NoGradGuard none;
      return loss_of(pass, model.forward(pass, nullptr, Mode::train)).item<double>();
    };
    const double h = 1e-5;
    for (const auto& span : model.parameters().spans()) {
      auto& buffers = model.parameters().buffers(span.parameter_class);
      if (span.frozen) {
        EXPECT_EQ(buffers.gradient.narrow(0, span.offset, span.count()).abs().max().item<double>(), 0.0) << c.name;
        continue;
      }
      for (std::int64_t n = 0; n < 3; ++n) {
        const std::int64_t i = span.offset + (n * 7919) % span.count();
        const double before = buffers.value[i].item<double>();
        buffers.value[i] = before + h;
        const double up = value();
        buffers.value[i] = before - h;
        const double down = value();
        buffers.value[i] = before;
        const double difference = (up - down) / (2 * h);
        EXPECT_NEAR(buffers.gradient[i].item<double>(), difference, 1e-8 + 1e-6 * std::abs(difference))
            << c.name << ": " << span.name << " element " << i - span.offset;
      }
    }
  }
}

TEST(RoutedModel, PassesGiveWhatOnePassGives) {
  comm::Grid gang;
  for (const Case& c : cases()) {
    MoeModel model = model_of(c, gang);
    const PassInput whole = pass_of(c);
    const Step once = train_step(model, {whole});
    for (const std::int64_t sequences : {1, 3}) {
      const Step cut_up = train_step(model, cut(whole, sequences));
      EXPECT_NEAR(cut_up.loss, once.loss, 1e-12) << c.name;
      EXPECT_EQ(cut_up.losses.size(), once.losses.size()) << c.name;
      for (const auto& [name, loss] : once.losses) EXPECT_NEAR(cut_up.losses.at(name), loss, 1e-12) << c.name << ": " << name;
      EXPECT_TRUE(at::allclose(cut_up.dense, once.dense, 1e-10, 1e-12)) << c.name;
      EXPECT_TRUE(at::allclose(cut_up.expert, once.expert, 1e-10, 1e-12)) << c.name;
    }
  }
}

TEST(RoutedModel, LossesAreThoseThatAreNamed) {
  comm::Grid gang;
  for (const Case& c : cases()) {
    MoeModel model = model_of(c, gang);
    const auto names = model.loss_names();
    const auto losses = train_step(model, {pass_of(c)}).losses;
    EXPECT_EQ(losses.size(), names.size()) << c.name;
    for (const auto& name : names) EXPECT_TRUE(losses.contains(name)) << c.name << ": " << name;
    EXPECT_TRUE(model.forward(pass_of(c), nullptr, Mode::evaluate).losses.empty()) << c.name;
  }
}

TEST(RoutedModel, APassWithoutSequencesContributesNothing) {
  comm::Grid gang;
  for (Case c : cases()) {
    c.sequences = 0;
    MoeModel model = model_of(c, gang);
    PassInput pass = pass_of(c);
    pass.layout.step_tokens = 8;
    const Step step = train_step(model, {pass});
    EXPECT_EQ(step.loss, 0.0) << c.name;
    EXPECT_EQ(step.dense.abs().sum().item<double>(), 0.0) << c.name;
    EXPECT_EQ(step.expert.abs().sum().item<double>(), 0.0) << c.name;
  }
}

TEST(RoutedModel, PaddingChangesNothing) {
  comm::Grid gang;
  for (const Case& c : cases()) {
    MoeModel model = model_of(c, gang);
    const PassInput plain = pass_of(c);
    const Step step = train_step(model, {plain});
    Case longer = c;
    longer.length = c.length + 3;
    PassInput padded = pass_of(longer);
    const auto pad = [&](const at::Tensor& from, const at::Tensor& into) {
      const at::Tensor rows = into.clone().view({c.sequences, longer.length});
      rows.narrow(1, 0, c.length).copy_(from.view({c.sequences, c.length}));
      return rows.view({-1});
    };
    padded.tokens = padded.layout.ids = pad(plain.tokens, padded.tokens);
    padded.targets = pad(plain.targets, padded.targets);
    padded.layout.mask = pad(at::ones({c.sequences * c.length}, at::kBool), at::zeros({c.sequences * longer.length}, at::kBool));
    padded.layout.step_tokens = plain.layout.step_tokens;
    const Step again = train_step(model, {padded});
    EXPECT_NEAR(again.loss, step.loss, 1e-12) << c.name;
    for (const auto& [name, loss] : step.losses) EXPECT_NEAR(again.losses.at(name), loss, 1e-12) << c.name << ": " << name;
    EXPECT_TRUE(at::allclose(again.dense, step.dense, 1e-9, 1e-12)) << c.name;
    EXPECT_TRUE(at::allclose(again.expert, step.expert, 1e-9, 1e-12)) << c.name;
  }
}

TEST(RoutedModel, CostsCountWhatIsBuilt) {
  comm::Grid gang;
  auto all = cases();
  all.push_back(named("shared by all layers", [](Case& c) { c.routing.depth = routing::Depth::shared_weights; }));
  for (const Case& c : all) {
    MoeModel model(c.model, c.routing, c.vocabulary, 2, gang, {at::kFloat, 3});
    std::int64_t total = 0;
    for (const auto& span : model.parameters().spans()) total += span.count();
    CostInput input;
    input.model = c.model;
    input.routing = c.routing;
    input.vocabulary = c.vocabulary;
    input.sequence_length = c.length;
    EXPECT_EQ(costs_of(input).parameters_total, total) << c.name;
    EXPECT_LE(costs_of(input).parameters_active, total) << c.name;
    EXPECT_EQ(model.routed_experts(), c.model.experts + c.routing.extra_experts.routed());
  }
}

// ------------------------------------------------------------------------------------------------------------------ routers

std::vector<std::string> router_spans(MoeModel& model) {
  std::vector<std::string> names;
  for (const Span& span : model.parameters().spans())
    if (span.name.find(".router") != std::string::npos) names.push_back(span.name);
  return names;
}

const Case& case_named(const std::string& name) {
  static const std::vector<Case> all = cases();
  for (const Case& c : all)
    if (c.name == name) return c;
  throw std::invalid_argument(name);
}

TEST(RouterParameters, AreThoseOfTheLayersThatOwnThem) {
  comm::Grid gang;
  const auto names = [&](const std::string& name) {
    MoeModel model = model_of(case_named(name), gang);
    return router_spans(model);
  };
  using Names = std::vector<std::string>;
  EXPECT_EQ(names("cosine"), (Names{"layers.0.router_projection", "layers.0.router_temperature", "layers.0.router", "layers.1.router_projection",
                                    "layers.1.router_temperature", "layers.1.router"}));
  EXPECT_EQ(names("learned noise"), (Names{"layers.0.router", "layers.0.router_noise", "layers.1.router", "layers.1.router_noise"}));
  EXPECT_EQ(names("shared weights"), (Names{"layers.1.router", "layers.3.router"}));
  EXPECT_EQ(names("shared decision"), (Names{"layers.0.router"}));
}

TEST(RouterParameters, StartAsTheirSourcesSay) {
  const auto& noisy = case_named("learned noise");
  const Parameters noise(noisy.model, noisy.vocabulary, at::kDouble, 1, noisy.routing);
  EXPECT_EQ(noise["layers.0.router"].abs().max().item<double>(), 0.0);
  EXPECT_EQ(noise["layers.0.router_noise"].abs().max().item<double>(), 0.0);
  const auto& cosines = case_named("cosine");
  const Parameters cosine(cosines.model, cosines.vocabulary, at::kDouble, 1, cosines.routing);
  EXPECT_DOUBLE_EQ(cosine["layers.0.router_temperature"].item<double>(), std::log(2.0));
  for (const auto& span : cosine.spans()) EXPECT_EQ(span.decays, span.shape.size() == 2) << span.name;
}

TEST(RouterParameters, ACosineIsScaledByAtMostAHundred) {
  comm::Grid gang;
  const Case& c = case_named("cosine");
  MoeModel model = model_of(c, gang);
  const PassInput pass = pass_of(c);
  const auto loss = [&](double scale) {
    for (const std::string layer : {"layers.0.", "layers.1."})
      const_cast<at::Tensor&>(model.parameters()[layer + "router_temperature"]).detach().fill_(std::log(scale));
    const Step step = train_step(model, {pass});
    return std::pair(step.loss, model.parameters()["layers.1.router_temperature"].grad().abs().item<double>());
  };
  EXPECT_GT(loss(99).second, 0.0);
  EXPECT_EQ(loss(150), loss(1000));
  EXPECT_EQ(loss(150).second, 0.0);
  EXPECT_NE(loss(50).first, loss(150).first);
}

TEST(Learning, FixedRoutersHaveNoGradientButTheHiddenStateDoes) {
  comm::Grid gang;
  Case c = case_named("cosine");
  c.routing.balance.method = "aux_loss";
  const PassInput pass = pass_of(c);
  const Step learned = train_step(*std::make_unique<MoeModel>(c.model, c.routing, c.vocabulary, 2, gang, MoeModelOptions{at::kDouble, 3}), {pass});
  c.routing.learning = routing::Learning::frozen;
  MoeModel model(c.model, c.routing, c.vocabulary, 2, gang, {at::kDouble, 3});
  const Step frozen = train_step(model, {pass});
  EXPECT_EQ(frozen.loss, learned.loss);
  EXPECT_TRUE(at::equal(frozen.expert, learned.expert));
  for (const Span& span : model.parameters().spans()) {
    EXPECT_EQ(span.frozen, span.name.find(".router") != std::string::npos) << span.name;
    if (span.parameter_class == ParameterClass::expert) continue;
    const at::Tensor gradient = frozen.dense.narrow(0, span.offset, span.count());
    if (span.frozen) EXPECT_EQ(gradient.abs().max().item<double>(), 0.0) << span.name;
    else EXPECT_TRUE(at::equal(gradient, learned.dense.narrow(0, span.offset, span.count()))) << span.name;
  }
}

TEST(Learning, ResampledRoutersDependOnTheStepAlone) {
  comm::Grid gang;
  Case c = small_case();
  c.routing.learning = routing::Learning::resampled;
  MoeModel model(c.model, c.routing, c.vocabulary, 2, gang, {at::kFloat, 3}), other(c.model, c.routing, c.vocabulary, 2, gang, {at::kFloat, 3});
  const auto router = [](MoeModel& m) { return m.parameters()["layers.1.router"].clone(); };
  const at::Tensor embedding = model.parameters()["embedding"].clone();
  model.begin_step(3, true);
  const at::Tensor third = router(model);
  model.begin_step(4, true);
  const at::Tensor fourth = router(model);
  EXPECT_GT((third - fourth).abs().min().item<double>(), 0.0);
  EXPECT_FALSE(at::equal(fourth, model.parameters()["layers.0.router"]));
  model.begin_step(9, false);
  EXPECT_TRUE(at::equal(router(model), fourth));
  other.begin_step(4, true);
  EXPECT_TRUE(at::equal(router(other), fourth));
  EXPECT_TRUE(at::equal(model.parameters()["embedding"], embedding));
  EXPECT_NEAR(fourth.std().item<double>(), c.model.router_init_deviation, 0.3);
}

TEST(Learning, ImportedRoutersAreNamedByTheirCheckpoint) {
  comm::Grid gang;
  Case c = case_named("learned noise");
  c.routing.learning = routing::Learning::imported;
  c.routing.import_from = "a.h5";
  routing::RoutingConfig second;
  second.learning = routing::Learning::imported;
  second.import_from = "b.h5";
  c.routing.layers["1"] = second;
  MoeModel model(c.model, c.routing, c.vocabulary, 2, gang, {at::kFloat, 3});
  std::map<std::string, std::vector<std::string>> imported;
  for (const auto& array : model.parameters().logical())
    if (!array.imported_from.empty()) imported[array.imported_from].push_back(array.name);
  EXPECT_EQ(imported,
            (std::map<std::string, std::vector<std::string>>{{"a.h5", {"layers.0.router", "layers.0.router_noise"}}, {"b.h5", {"layers.1.router"}}}));
  for (const Span& span : model.parameters().spans()) EXPECT_EQ(span.frozen, span.name.find("router") != std::string::npos) << span.name;
}

TEST(Jitter, IsDrawnInTrainingByStep) {
  comm::Grid gang;
  const Case& c = case_named("jitter");
  MoeModel model = model_of(c, gang);
  PassInput pass = pass_of(c);
  const auto loss = [&](Mode mode) { return model.forward(pass, nullptr, mode).token_loss.sum().item<double>(); };
  const double first = loss(Mode::train), evaluated = loss(Mode::evaluate);
  EXPECT_EQ(loss(Mode::train), first);
  EXPECT_NE(evaluated, first);
  pass.layout.step = 1;
  EXPECT_NE(loss(Mode::train), first);
  EXPECT_EQ(loss(Mode::evaluate), evaluated);
  EXPECT_EQ(loss(Mode::greedy), evaluated);
}

TEST(Granularity, TokensOfOneDecisionGoToTheSameExperts) {
  comm::Grid gang;
  Case c = case_named("sequence means");  // with jitter, which is drawn for each decision
  for (const auto granularity : {routing::Granularity::token, routing::Granularity::sequence, routing::Granularity::batch}) {
    c.routing.granularity = granularity;
    MoeModel model = model_of(c, gang);
    PassInput pass = pass_of(c);
    pass.layout.micro_batch_sequences = 2;
    const auto result = model.forward(pass, nullptr, Mode::train);
    const at::Tensor expert = result.decisions[1].slots.by_token();
    const std::int64_t tokens = granularity == routing::Granularity::batch ? 2 * c.length : c.length;
    const at::Tensor decisions = expert.view({-1, tokens, c.routing.top_k});
    EXPECT_EQ((decisions == decisions.narrow(1, 0, 1)).all().item<bool>(), granularity != routing::Granularity::token);
  }
}

TEST(SharedDecision, LaterLayersTakeTheFirstOnes) {
  comm::Grid gang;
  Case c = case_named("shared decision");
  c.routing.capacity.factor = 0.7;
  MoeModel model = model_of(c, gang);
  const auto passes = cut(pass_of(c), 2);
  const auto given = model.decide_step(passes, Mode::train);
  ASSERT_EQ(given.size(), 2U);
  EXPECT_EQ(model.routers().size(), 1U);
  for (std::size_t p = 0; p < 2; ++p) {
    const auto result = model.forward(passes[p], &given[p], Mode::train);
    for (const auto& decisions : {given[p], result.decisions}) {
      ASSERT_EQ(decisions.size(), 3U);
      for (const auto& decision : decisions) {
        EXPECT_TRUE(at::equal(decision.slots.expert, decisions[0].slots.expert));
        EXPECT_TRUE(at::equal(decision.slots.dropped, decisions[0].slots.dropped));
        EXPECT_TRUE(at::equal(decision.counts, decisions[0].counts));
      }
      EXPECT_TRUE(decisions[2].terms.empty());
      EXPECT_GT(decisions[0].slots.dropped.sum().item<std::int64_t>(), 0);
    }
  }
}

TEST(State, IsNamedByLayer) {
  comm::Grid gang;
  Case c = small_case();
  c.routing.balance.method = "expert_bias";
  c.routing.score = routing::Score::sigmoid;
  MoeModel model(c.model, c.routing, c.vocabulary, 2, gang, {at::kDouble, 3});
  ASSERT_EQ(model.state().size(), 2U);
  EXPECT_EQ(model.state()[1].first, "layers.1.bias");
  train_step(model, {pass_of(c)});
  model.end_step();
  EXPECT_GT(model.state()[1].second.abs().max().item<double>(), 0.0);
  c.routing.depth = routing::Depth::shared_decision;
  EXPECT_EQ(MoeModel(c.model, c.routing, c.vocabulary, 2, gang, {at::kDouble, 3}).state().size(), 1U);
}

// ------------------------------------------------------------------------------------------------------ experts, regularisers

/// Random numbers in (-1, 1).
at::Tensor numbers(at::IntArrayRef shape, std::uint32_t stream) {
  at::Tensor values = at::empty(shape, at::kDouble);
  for (std::int64_t i = 0; i < values.numel(); ++i) {
    const auto words = random_words(1, Purpose::test, {stream, 0, 0, static_cast<std::uint32_t>(i)});
    values.mutable_data_ptr<double>()[i] = 2 * to_uniform(words[0], words[1]) - 1;
  }
  return values;
}

Parameters::Stack stack_of(std::int64_t experts, std::int64_t rows, std::int64_t columns, std::uint32_t stream) {
  return {numbers({experts, rows, columns}, stream), at::zeros({experts, rows, columns}, at::kDouble)};
}

reference::Vector list(const at::Tensor& t) {
  const at::Tensor whole = t.detach().contiguous();
  return {whole.const_data_ptr<double>(), whole.const_data_ptr<double>() + whole.numel()};
}

TEST(ExtraExperts, GiveWhatTheirDefinitionSays) {
  // 2 FFN experts, then zero (2), copy (3), constant (4, 5); the slot of token 1 at expert 5 is dropped.
  const at::Tensor x = numbers({3, 4}, 1), weight = numbers({7}, 2);
  const std::vector<ConstantExpert> constants{{numbers({2, 4}, 3), numbers({4}, 4)}, {numbers({2, 4}, 5), numbers({4}, 6)}};
  routing::Assignment assignment;
  assignment.slots.token = at::tensor({0, 0, 1, 1, 1, 2, 2}, at::kLong);
  assignment.slots.expert = at::tensor({0, 2, 3, 4, 5, 5, 3}, at::kLong);
  assignment.slots.offsets = at::tensor({0, 2, 5, 7}, at::kLong);
  assignment.slots.dropped = at::tensor({0, 0, 0, 0, 1, 0, 0}, at::kLong).to(at::kBool);
  assignment.weight = weight;
  const at::Tensor y = extra_experts(x, assignment, 2, {1, 1, 2, 0}, constants);
  const auto constant = [&](std::size_t k, std::int64_t t) {
    const at::Tensor a = at::softmax(at::mv(constants[k].mix, x[t]), 0);
    return a[0] * x[t] + a[1] * constants[k].vector;
  };
  EXPECT_EQ(y[0].abs().max().item<double>(), 0.0);
  EXPECT_TRUE(at::allclose(y[1], weight[2] * x[1] + weight[3] * constant(0, 1), 1e-12, 1e-14));
  EXPECT_TRUE(at::allclose(y[2], weight[5] * constant(1, 2) + weight[6] * x[2], 1e-12, 1e-14));
  const auto stack_up = stack_of(2, 4, 6, 7), stack_down = stack_of(2, 3, 4, 8);
  comm::Grid gang;
  ExpertWork seconds;
  const auto outputs = expert_outputs(x, assignment, stack_up, stack_down, at::kDouble, gang.experts(), seconds);
  EXPECT_EQ(outputs.rows.size(0), 1);
  EXPECT_TRUE(at::equal(outputs.row_of_slot, at::tensor({0, -1, -1, -1, -1, -1, -1}, at::kLong)));
  EXPECT_TRUE(at::allclose(outputs.combined[0], weight[0] * outputs.rows[0], 1e-12, 1e-14));
  EXPECT_EQ(outputs.combined.narrow(0, 1, 2).abs().max().item<double>(), 0.0);
}

TEST(Coupling, ActivationsAreNormsThroughTheGateHalf) {
  const at::Tensor rows = numbers({3, 4}, 1);
  const auto stack = stack_of(3, 4, 10, 2);
  comm::Grid gang;
  const at::Tensor m = gate_activations(rows, stack, gang.experts());
  for (std::int64_t i = 0; i < 3; ++i)
    for (std::int64_t j = 0; j < 3; ++j) {
      double square = 0;
      for (std::int64_t c = 0; c < 5; ++c) {
        double inner = 0;
        for (std::int64_t r = 0; r < 4; ++r) inner += rows[i][r].item<double>() * stack.value[j][r][c].item<double>();
        square += inner * inner;
      }
      EXPECT_NEAR(m[i][j].item<double>(), std::sqrt(square), 1e-12);
    }
  EXPECT_NEAR(routing::expert_router_coupling(m, 0.8).item<double>(), reference::expert_router_coupling(list(m), 3, 0.8, 1.0).value, 1e-12);
}

TEST(Coupling, ProxiesStayNearestToTheirRows) {
  const at::Tensor rows = numbers({4, 6}, 3);
  const at::Tensor proxies = noisy_proxies(rows, 1, 2, 0);
  for (std::int64_t i = 0; i < 4; ++i) {
    double nearest = 1e9;
    for (std::int64_t j = 0; j < 4; ++j)
      if (j != i) nearest = std::min(nearest, (rows[i] - rows[j]).norm().item<double>());
    const double most = nearest / (2 * rows[i].norm().item<double>());
    const at::Tensor moved = (proxies[i] / rows[i] - 1).abs();
    EXPECT_LE(moved.max().item<double>(), most * (1 + 1e-12));
    EXPECT_GT(moved.max().item<double>(), 0.3 * most);
    EXPECT_LT((proxies[i] - rows[i]).norm().item<double>(), nearest / 2);
  }
  EXPECT_TRUE(at::equal(noisy_proxies(rows, 1, 2, 0), proxies));
  for (const at::Tensor& other : {noisy_proxies(rows, 2, 2, 0), noisy_proxies(rows, 1, 3, 0), noisy_proxies(rows, 1, 2, 1)})
    EXPECT_GT((other - proxies).abs().max().item<double>(), 1e-3);
  EXPECT_EQ(noisy_proxies(at::zeros({2, 3}, at::kDouble), 1, 2, 0).abs().max().item<double>(), 0.0);  // as a noisy router starts
}

TEST(Combine, OperatorsGiveWhatTheLoopsGive) {
  // Tokens with 0 to 3 slots; a dropped one, and one of an expert behind the FFN experts.
  routing::Slots slots;
  slots.offsets = at::tensor({0, 2, 2, 5, 6, 8}, at::kLong);
  slots.token = at::tensor({0, 0, 2, 2, 2, 3, 4, 4}, at::kLong);
  slots.expert = at::tensor({3, 1, 0, 4, 2, 1, 3, 0}, at::kLong);
  slots.dropped = at::tensor({0, 0, 0, 0, 1, 0, 0, 0}, at::kLong).to(at::kBool);
  const Dispatch dispatch = sort_by_expert(slots, 4, at::kCPU);
  EXPECT_EQ(dispatch.start, (std::vector<std::int64_t>{0, 2, 4, 4, 6}));
  const at::Tensor rows = numbers({6, 5}, 1), weight = numbers({8}, 2), gradient = numbers({5, 5}, 3);
  EXPECT_TRUE(at::allclose(combine(rows, dispatch, weight), combine_by_operators(rows, dispatch, weight), 1e-14, 1e-15));
  EXPECT_TRUE(at::allclose(combine(rows, dispatch, at::Tensor()), combine_by_operators(rows, dispatch, at::Tensor()), 1e-14, 1e-15));
  const auto loops = combine_backward(gradient, rows, dispatch, weight), operators = combine_backward_by_operators(gradient, rows, dispatch, weight);
  EXPECT_TRUE(at::allclose(loops.rows, operators.rows, 1e-14, 1e-15));
  EXPECT_TRUE(at::allclose(loops.weight, operators.weight, 1e-14, 1e-15));
}

TEST(OutputOrthogonality, IsTheReferencesOverKeptFfnSlots) {
  const at::Tensor x = numbers({3, 4}, 1);
  routing::Assignment assignment;  // the last expert is no FFN expert; token 1's second slot is dropped
  assignment.slots.token = at::tensor({0, 0, 0, 1, 1, 2, 2, 2}, at::kLong);
  assignment.slots.expert = at::tensor({2, 0, 3, 1, 0, 0, 1, 2}, at::kLong);
  assignment.slots.offsets = at::tensor({0, 3, 5, 8}, at::kLong);
  assignment.slots.dropped = at::tensor({0, 0, 0, 0, 1, 0, 0, 0}, at::kLong).to(at::kBool);
  assignment.weight = numbers({8}, 2);
  comm::Grid gang;
  ExpertWork seconds;
  const auto outputs = expert_outputs(x, assignment, stack_of(3, 4, 6, 7), stack_of(3, 3, 4, 8), at::kDouble, gang.experts(), seconds);
  const auto row = [&](std::int64_t slot) { return list(outputs.rows[outputs.row_of_slot[slot].item<std::int64_t>()]); };
  const double expected = reference::output_orthogonality({{row(0), row(1)}, {row(3)}, {row(5), row(6), row(7)}}, 1.0).value;
  EXPECT_GT(expected, 0.0);
  EXPECT_NEAR(output_orthogonality(outputs, assignment.slots, 6).item<double>(), expected / 6, 1e-12);
}

TEST(RouterOrthogonality, CountsOnceForAMatrix) {
  comm::Grid gang;
  for (const std::string name : {"shared weights", "shared decision"}) {
    const Case& c = case_named(name);
    MoeModel model = model_of(c, gang);
    double expected = 0;
    for (const std::string& span : router_spans(model))
      expected += reference::router_orthogonality(list(model.parameters()[span]), c.model.experts, c.routing.regularise.router_orthogonality).value;
    EXPECT_NEAR(train_step(model, cut(pass_of(c), 1)).losses.at("router_orthogonality"), expected, 1e-12) << name;
  }
}

}  // namespace
}  // namespace moesweep::model
