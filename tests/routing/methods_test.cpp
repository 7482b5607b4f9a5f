// The router as a whole against the oracles, several steps long: what each method chooses, weighs, adds as a loss with its gradient, and keeps.
#include <gtest/gtest.h>

#include <iostream>

#include "reference/balancing_reference.hpp"
#include "reference/selection_reference.hpp"
#include "routing/support.hpp"

namespace moesweep::routing {
namespace {

constexpr std::int64_t kSequences = 6, kLength = 8, kExperts = 8, kTop = 2;
constexpr ScopeKind kScopes[] = {ScopeKind::sequence, ScopeKind::micro_batch, ScopeKind::global_batch};

/// Counts comparisons with the oracle by part, and the worst relative error.
class Tally {
 public:
  ~Tally() {
    for (const auto& [part, tally] : parts_)
      std::cout << "oracle " << part << ": " << tally.first << " comparisons, worst relative error " << tally.second << "\n";
  }
  void expect_near(const std::string& part, double found, double expected, double tolerance) {
    const double error = std::abs(found - expected) / std::max(1.0, std::abs(expected));
    auto& tally = parts_[part];
    ++tally.first;
    tally.second = std::max(tally.second, error);
    EXPECT_LE(error, tolerance) << part << ": " << found << " against the oracle's " << expected;
  }
  void expect_near(const std::string& part, const at::Tensor& found, const reference::Vector& expected, double tolerance) {
    const at::Tensor flat = found.reshape({-1}).to(at::kDouble).contiguous();
    ASSERT_EQ(static_cast<std::size_t>(flat.numel()), expected.size()) << part;
    for (std::size_t i = 0; i < expected.size(); ++i) expect_near(part, flat.const_data_ptr<double>()[i], expected[i], tolerance);
  }

 private:
  std::map<std::string, std::pair<std::int64_t, double>> parts_;
};

class Methods : public testing::Test {
 protected:
  static void TearDownTestSuite() { tally() = {}; }
  static std::unique_ptr<Tally>& tally() {
    static auto instance = std::make_unique<Tally>();
    return instance;
  }

  void expect_choice(const std::string& part, const Outcome& outcome, const reference::Choice& oracle, double tolerance = 1e-12) {
    std::int64_t slot = 0;
    for (std::size_t t = 0; t < oracle.experts.size(); ++t)
      for (std::size_t i = 0; i < oracle.experts[t].size(); ++i, ++slot) {
        ASSERT_LT(slot, outcome.expert.numel()) << part;
        ASSERT_EQ(outcome.token[slot].item<std::int64_t>(), static_cast<std::int64_t>(t)) << part;
        ASSERT_EQ(outcome.expert[slot].item<std::int64_t>(), oracle.experts[t][i]) << part << " token " << t << " slot " << i;
        tally()->expect_near(part + " weights", outcome.weight[slot].item<double>(), oracle.weights[t][i], tolerance);
      }
    EXPECT_EQ(slot, outcome.expert.numel()) << part;
  }

  /// The gradient of the losses alone: the driver's less that of sum upstream * weight.
  static at::Tensor loss_gradient(const RoutingConfig& config, const Step& step, const Outcome& outcome) {
    at::Tensor logits = step.logits.clone().set_requires_grad(true);
    Slots slots;
    slots.token = outcome.token;
    slots.expert = outcome.expert;
    const at::Tensor counts = at::bincount(outcome.token, {}, logits.size(0));
    slots.offsets = at::cat({at::zeros({1}, at::kLong), counts.cumsum(0)});
    const at::Tensor upstream = (slots.token * 31 + slots.expert * 7).to(at::kDouble).sin() * 1e-2;
    const at::Tensor weight = gate_weights(logits, slots, config.score, config.weight_scale);
    return outcome.gradient - torch::autograd::grad({(weight * upstream).sum()}, {logits})[0];
  }

  static Outcome route(LayerRouter& router, const Step& step, Mode mode = Mode::train) {
    static auto alone = comm::make_local_transport();
    return run_step(router, step, {0, kSequences, 0, 0, false}, *alone, mode);
  }
  LayerRouter router_of(const RoutingConfig& config, std::int64_t experts = kExperts) { return {config, place_of(experts), *alone_}; }
  static RoutingConfig config_of(const std::string& method, ScopeKind scope, Score score = Score::softmax) {
    RoutingConfig config;
    config.top_k = kTop;
    config.score = score;
    config.balance.method = method;
    config.balance.scope = scope;
    config.balance.weight = 0.37;
    config.balance.rate = 0.05;
    return config;
  }
  static Step step_of(std::uint64_t n, bool masked = true) { return make_step(n, kSequences, kLength, kExperts, kTop, 1.0, masked); }
  static reference::Integers units(const Step& step, ScopeKind scope) { return reference::units_of(step.oracle, oracle_scope(scope)); }
  static std::vector<reference::Vector> values(const reference::ByUnit<reference::Vector>& by_unit) {
    std::vector<reference::Vector> all;
    for (const auto& [unit, value] : by_unit) all.push_back(value);
    return all;
  }

  std::unique_ptr<comm::Transport> alone_ = comm::make_local_transport();
};

TEST_F(Methods, ImportanceAndLoad) {
  for (const ScopeKind scope : kScopes)
    for (const bool all : {false, true})
      for (const Score score : {Score::softmax, Score::softmax_selected, Score::sigmoid}) {
        auto config = config_of("importance_load", scope, score);
        config.balance.all_probabilities = all;
        auto router = router_of(config);
        const Step step = step_of(1);
        const Outcome outcome = route(router, step);
        const auto oracle = reference::importance_load(step.oracle, oracle_score(score), units(step, scope), 0.37, {}, all);
        tally()->expect_near("importance_load", outcome.losses.at("importance_load"), oracle.value, 1e-12);
        tally()->expect_near("importance_load gradient", loss_gradient(config, step, outcome), oracle.gradient, 1e-12);
      }
}

TEST_F(Methods, NoisyTopKWithImportanceAndLoad) {
  for (const ScopeKind scope : kScopes) {
    auto config = config_of("importance_load", scope, Score::softmax_selected);
    config.perturb = Perturb::gaussian;
    config.noise.learned = true;
    auto router = router_of(config);
    const Step step = step_of(2);
    const Outcome outcome = route(router, step);
    const at::Tensor draws = gaussian_noise(step.layout, 0, kExperts, at::kDouble).contiguous(), logits = step.noise_logits.contiguous();
    const reference::Vector n(draws.const_data_ptr<double>(), draws.const_data_ptr<double>() + draws.numel());
    const reference::Vector x(logits.const_data_ptr<double>(), logits.const_data_ptr<double>() + logits.numel());
    const auto oracle = reference::importance_load(step.oracle, reference::Score::softmax_selected, units(step, scope), 0.37,
                                                   reference::load_noise(step.oracle, x, n));
    tally()->expect_near("noisy load", outcome.losses.at("importance_load"), oracle.value, 1e-12);
    const auto noisy = reference::noisy_logits(step.oracle, x, n);
    expect_choice("noisy top-k", outcome, reference::route_top_k(noisy, reference::Score::softmax_selected));
  }
}

TEST_F(Methods, BandpassAndEntropies) {
  for (const ScopeKind scope : kScopes)
    for (const Score score : {Score::softmax, Score::sigmoid}) {
      auto config = config_of("bandpass", scope, score);
      config.balance.low = 0.11;
      config.balance.high = 0.13;
      {
        auto router = router_of(config);
        const Step step = step_of(3);
        const Outcome outcome = route(router, step);
        const auto oracle = reference::bandpass(step.oracle, oracle_score(score), units(step, scope), 0.11, 0.13, 0.37);
        tally()->expect_near("bandpass", outcome.losses.at("bandpass"), oracle.value, 1e-13);
        tally()->expect_near("bandpass gradient", loss_gradient(config, step, outcome), oracle.gradient, 1e-13);
      }
      for (const std::string name : {"batch_entropy", "token_entropy", "score_variance"}) {
        auto regularised = config_of("none", ScopeKind::global_batch, score);
        regularised.regularise.scope = scope;
        const bool batch = name == "batch_entropy", variance = name == "score_variance";
        (batch      ? regularised.regularise.batch_entropy
         : variance ? regularised.regularise.score_variance
                    : regularised.regularise.token_entropy) = 0.2;
        auto router = router_of(regularised);
        const Step step = step_of(4);
        const Outcome outcome = route(router, step);
        const auto oracle = batch      ? reference::batch_entropy(step.oracle, oracle_score(score), units(step, scope), 0.2)
                            : variance ? reference::score_variance(step.oracle, oracle_score(score), units(step, scope), 0.2)
                                       : reference::token_entropy(step.oracle, oracle_score(score), 0.2);
        tally()->expect_near(name, outcome.losses.at(name), oracle.value, 1e-12);
        tally()->expect_near(name + " gradient", loss_gradient(regularised, step, outcome), oracle.gradient, 1e-12);
      }
    }
}

TEST_F(Methods, ExpertBiasOverSteps) {
  for (const ScopeKind scope : kScopes)
    for (const BiasRule rule : {BiasRule::sign, BiasRule::proportional})
      for (const bool centred : {false, true}) {
        auto config = config_of("expert_bias", scope, Score::sigmoid);
        config.balance.rule = rule;
        config.balance.mean_centred = centred;
        auto router = router_of(config);
        reference::Vector bias(kExperts, 0.0);
        for (std::uint64_t n = 0; n < 5; ++n) {
          const Step step = step_of(100 + n, n % 2 == 1);
          const Outcome outcome = route(router, step);
          const auto choice = reference::route_top_k(step.oracle, reference::Score::sigmoid, 1.0, bias);
          expect_choice("expert bias", outcome, choice);
          bias = reference::updated_bias(bias, reference::counts_by_unit(step.oracle, choice, oracle_scope(scope)), 0.05,
                                         rule == BiasRule::sign ? reference::BiasRule::sign : reference::BiasRule::proportional, centred);
          tally()->expect_near("expert bias state", outcome.state.at("bias"), bias, 1e-14);
        }
      }
}

TEST_F(Methods, MomentumBiasOverSteps) {
  for (const ScopeKind scope : kScopes) {
    auto config = config_of("expert_bias_momentum", scope, Score::sigmoid);
    config.balance.momentum = 0.6;
    config.balance.sharpness = 1.7;
    auto router = router_of(config);
    reference::MomentumBias state{reference::Vector(kExperts, 0.0), reference::Vector(kExperts, 0.0)};
    for (std::uint64_t n = 0; n < 5; ++n) {
      const Step step = step_of(10 + n, n % 2 == 1);
      const Outcome outcome = route(router, step);
      const auto choice = reference::route_top_k(step.oracle, reference::Score::sigmoid, 1.0, state.bias);
      expect_choice("momentum bias", outcome, choice);
      reference::MomentumRates rates;
      rates.kappa = 1.7;
      rates.lambda = 0.05;
      rates.beta = 0.6;
      state = reference::updated_momentum_bias(state, values(reference::unit_counts(step.oracle, choice, units(step, scope))), rates);
      tally()->expect_near("momentum bias state", outcome.state.at("bias"), state.bias, 1e-13);
      tally()->expect_near("momentum bias state", outcome.state.at("bias_momentum"), state.momentum, 1e-13);
    }
  }
}

TEST_F(Methods, BudgetSteersFfnExpertsAlone) {
  auto config = config_of("expert_bias", ScopeKind::micro_batch);
  config.balance.rule = BiasRule::proportional;
  config.balance.ffn_share = 0.6;
  config.extra_experts.copy = 3;
  RouterPlace place = place_of(kExperts);
  place.ffn_experts = kExperts - 3;
  LayerRouter router(config, place, *alone_);
  reference::Vector bias(kExperts, 0.0);
  for (std::uint64_t n = 0; n < 4; ++n) {
    const Step step = step_of(20 + n);
    const Outcome outcome = route(router, step);
    const auto choice = reference::route_top_k(step.oracle, reference::Score::softmax, 1.0, bias);
    expect_choice("budget", outcome, choice);
    bias = reference::updated_bias_budget(bias, values(reference::unit_counts(step.oracle, choice, units(step, ScopeKind::micro_batch))), 0.05,
                                          {kExperts - 3, 0.6}, reference::BiasRule::proportional);
    tally()->expect_near("budget state", outcome.state.at("bias"), bias, 1e-13);
  }
}

TEST_F(Methods, SolvedBiasIsFoundInsideEachUnit) {
  for (const ScopeKind scope : kScopes)
    for (const Score score : {Score::softmax, Score::softmax_selected, Score::sigmoid}) {
      auto router = router_of(config_of("expert_bias_solved", scope, score));
      const Step step = step_of(30);
      expect_choice("solved bias", route(router, step), reference::route_solved_bias(step.oracle, oracle_score(score), units(step, scope)).choice);
      EXPECT_TRUE(router.state().empty());
    }
}

TEST_F(Methods, SinkhornChoosesByItsScalingAndWeighsByTheScore) {
  for (const ScopeKind scope : kScopes)
    for (const Score score : {Score::softmax, Score::sigmoid}) {
      auto router = router_of(config_of("sinkhorn", scope, score));
      const Step step = step_of(31);
      expect_choice("sinkhorn", route(router, step), reference::route_sinkhorn(step.oracle, oracle_score(score), units(step, scope)));
      // Greedily it is plain top-k.
      auto greedy = route(router, step, Mode::greedy);
      EXPECT_TRUE(at::equal(greedy.expert.view({-1, kTop}), top_k_indices(step.logits.index({step.layout.mask}), kTop)));
    }
}

TEST_F(Methods, AssignmentIsExactlyBalancedAndNearTheOptimum) {
  for (const ScopeKind scope : kScopes)
    for (std::uint64_t n = 0; n < 4; ++n) {
      auto router = router_of(config_of("assignment", scope));
      const Step step = step_of(40 + n, n % 2 == 1);
      const Outcome outcome = route(router, step);
      for (const auto& [unit, tokens] : reference::tokens_by_unit(step.oracle, units(step, scope))) {
        std::vector<reference::Integers> experts;
        for (const std::int64_t t : tokens) {
          experts.emplace_back();
          for (std::int64_t slot = 0; slot < outcome.token.numel(); ++slot)
            if (outcome.token[slot].item<std::int64_t>() == t) experts.back().push_back(outcome.expert[slot].item<std::int64_t>());
        }
        EXPECT_TRUE(reference::is_balanced_assignment(step.oracle, experts));
        const double optimum = reference::assignment_flow(step.oracle, tokens).score;
        const double found = reference::assignment_score(step.oracle, tokens, experts);
        EXPECT_LE(found, optimum + 1e-9);
        tally()->expect_near("assignment score", found, optimum, 1e-2);
      }
    }
}

TEST_F(Methods, QuantileThresholdsOverSteps) {
  for (const ScopeKind scope : kScopes)
    for (const double decay : {0.0, 0.5}) {
      auto config = config_of("quantile", scope, Score::sigmoid);
      config.balance.decay = decay;
      auto router = router_of(config);
      reference::Vector beta(kExperts, 0.0);
      for (std::uint64_t n = 0; n < 4; ++n) {
        const Step step = step_of(50 + n, false);
        const Outcome outcome = route(router, step);
        expect_choice("quantile", outcome, reference::route_quantile(step.oracle, reference::Score::sigmoid, beta));
        beta = reference::updated_beta(beta, reference::quantile_step(step.oracle, units(step, scope), beta), decay);
        tally()->expect_near("quantile state", outcome.state.at("beta"), beta, 1e-13);
      }
    }
}

TEST_F(Methods, ExpertChoiceAndThreshold) {
  for (const ScopeKind scope : kScopes) {
    auto config = config_of("none", scope);
    config.select = "expert_choice";
    config.capacity.factor = 1.4;
    auto router = router_of(config);
    const Step step = step_of(60);
    expect_choice("expert choice", route(router, step),
                  reference::weighed(step.oracle, reference::select_expert_choice(step.oracle, oracle_scope(scope), 1.4), reference::Gate::softmax));

    auto threshold = config_of("none", scope, Score::sigmoid);
    threshold.select = "threshold";
    threshold.threshold = {0.8, 2};
    auto second = router_of(threshold);
    reference::ThresholdState state{reference::Vector(kExperts, 0.0), 0};
    for (std::uint64_t n = 0; n < 5; ++n) {
      Step next = step_of(n);
      const Outcome outcome = route(second, next);
      if (n >= 2) expect_choice("threshold", outcome, reference::route_threshold(next.oracle, reference::threshold_cut(state, 0.8)));
      state = reference::updated_threshold(state, reference::threshold_quantiles(next.oracle, oracle_scope(scope)), 0.8);
      tally()->expect_near("threshold state", outcome.state.at("cut_off"), state.raw, 1e-13);
    }
  }
}

TEST_F(Methods, ReluWithItsPenalty) {
  for (const ScopeKind scope : kScopes) {
    auto config = config_of("none", scope, Score::relu);
    config.select = "relu";
    config.relu.penalty = 1e-2;
    auto router = router_of(config);
    double penalty = 1e-2;
    for (std::uint64_t n = 0; n < 4; ++n) {
      const Step step = step_of(70 + n);
      const Outcome outcome = route(router, step);
      const auto chosen = reference::select_relu(step.oracle);
      expect_choice("relu", outcome, reference::weighed(step.oracle, chosen, reference::Gate::relu));
      const auto oracle = reference::relu_l1(step.oracle, oracle_scope(scope), penalty);
      tally()->expect_near("relu penalty", outcome.losses.at("relu_l1"), oracle.value, 1e-13);
      tally()->expect_near("relu penalty gradient", loss_gradient(config, step, outcome), oracle.gradient, 1e-13);
      std::int64_t active = 0;
      for (const auto& row : chosen) active += static_cast<std::int64_t>(row.size());
      penalty = reference::updated_l1_weight(penalty, active, step.oracle.tokens(), kTop);
      tally()->expect_near("relu penalty state", outcome.state.at("relu_penalty").item<double>(), penalty, 1e-14);
    }
  }
}

TEST_F(Methods, HistoryIsUsedFromTheSecondStep) {
  auto config = config_of("aux_loss", ScopeKind::history);
  auto router = router_of(config);
  reference::Vector history;
  for (std::uint64_t n = 0; n < 4; ++n) {
    const Step step = step_of(80 + n);
    EXPECT_EQ(router.needs_whole_step(Mode::train), n == 0);
    const Outcome outcome = route(router, step);
    const reference::Integers whole(static_cast<std::size_t>(step.oracle.T), 0);
    const auto counts = reference::unit_counts(step.oracle, reference::route_top_k(step.oracle, reference::Score::softmax), whole).at(0);
    const auto used = history.empty() ? reference::fractions(counts) : reference::fractions(history);
    const auto oracle = reference::aux_loss_given(step.oracle, reference::Score::softmax, whole, {{0, used}}, 0.37);
    tally()->expect_near("history", outcome.losses.at("aux_loss"), oracle.value, 1e-13);
    tally()->expect_near("history gradient", loss_gradient(config, step, outcome), oracle.gradient, 1e-13);
    history = reference::updated_history(history, counts);
  }
}

TEST_F(Methods, HistoryWeighsStepsAlikeWhateverTheirK) {
  auto config = config_of("aux_loss", ScopeKind::history);
  config.schedules = {{"top_k", ScheduleKind::step, 4, 1, 1, 0}};
  auto router = router_of(config);
  reference::Vector history;
  for (std::uint64_t n = 0; n < 4; ++n) {
    Step step = step_of(n);
    step.oracle.k = n == 0 ? 4 : 1;
    const Outcome outcome = route(router, step);
    const reference::Integers whole(static_cast<std::size_t>(step.oracle.T), 0);
    const auto counts = reference::unit_counts(step.oracle, reference::route_top_k(step.oracle, reference::Score::softmax), whole).at(0);
    const auto used = history.empty() ? reference::fractions(counts) : history;
    const auto oracle = reference::aux_loss_given(step.oracle, reference::Score::softmax, whole, {{0, used}}, 0.37);
    tally()->expect_near("history of another k", outcome.losses.at("aux_loss"), oracle.value, 1e-13);
    history = reference::updated_history(history, counts);
    tally()->expect_near("history state", outcome.state.at("history"), history, 1e-13);
  }
}

TEST_F(Methods, ConventionsOfOtherProjects) {
  // One layer: transformers is k times ours, gshard counts first choices, the means over one layer are ours.
  const Step step = step_of(90, false);
  for (const auto& [convention, variant] : {std::pair(AuxConvention::moesweep, reference::AuxVariant::ours),
                                            {AuxConvention::transformers, reference::AuxVariant::transformers},
                                            {AuxConvention::gshard, reference::AuxVariant::gshard},
                                            {AuxConvention::megablocks, reference::AuxVariant::megablocks}}) {
    auto config = config_of("aux_loss", ScopeKind::global_batch);
    config.balance.convention = convention;
    auto router = router_of(config);
    const Outcome outcome = route(router, step);
    const auto oracle = reference::aux_loss_variant({step.oracle}, reference::Score::softmax, reference::Scope::global_batch, 0.37, variant);
    tally()->expect_near("conventions", outcome.losses.at("aux_loss"), oracle.value, 1e-13);
    tally()->expect_near("conventions gradient", loss_gradient(config, step, outcome), oracle.gradients.at(0), 1e-13);
  }
}

TEST_F(Methods, CapacityOverItsScope) {
  for (const ScopeKind scope : kScopes)
    for (const auto& [policy, oracle_policy] : {std::pair(CapacityPolicy::probability, reference::DropPolicy::probability),
                                                {CapacityPolicy::position, reference::DropPolicy::position},
                                                {CapacityPolicy::gshard, reference::DropPolicy::gshard},
                                                {CapacityPolicy::random, reference::DropPolicy::random}}) {
      auto config = config_of("none", ScopeKind::global_batch, Score::softmax_selected);
      config.capacity = {0.8, policy, scope};
      auto router = router_of(config);
      const Step step = step_of(95);
      const Outcome outcome = route(router, step);
      const auto choice = reference::route_top_k(step.oracle, reference::Score::softmax_selected);
      reference::Slots priority(choice.experts.size());
      if (policy == CapacityPolicy::random) {
        const at::Tensor drawn = capacity_priorities(step.layout, 0, slots_of(top_k_indices(step.logits, kTop), step.layout.mask));
        for (std::int64_t slot = 0; slot < outcome.token.numel(); ++slot)
          priority[static_cast<std::size_t>(outcome.token[slot].item<std::int64_t>())].push_back(drawn[slot].item<double>());
      }
      const auto expected = reference::dropped(step.oracle, choice, oracle_scope(scope), 0.8, oracle_policy, priority);
      std::int64_t slot = 0;
      for (const auto& token : expected)
        for (const auto flag : token) tally()->expect_near("capacity", outcome.dropped[slot++].item<bool>() ? 1 : 0, static_cast<double>(flag), 0);
      EXPECT_EQ(slot, outcome.dropped.numel());
      EXPECT_GT(outcome.dropped.sum().item<std::int64_t>(), 0);
    }
}

// Two steps: the first with these tokens alone, the second with the same and padding behind them.
TEST_F(Methods, APaddedBatchEqualsTheShorterOne) {
  for (const std::string method :
       {"aux_loss", "importance_load", "bandpass", "expert_bias", "expert_bias_momentum", "expert_bias_solved", "sinkhorn", "assignment", "quantile"})
    for (const ScopeKind scope : kScopes) {
      auto config = config_of(method, scope, method.starts_with("expert_bias") ? Score::sigmoid : Score::softmax);
      config.capacity = {0.9, CapacityPolicy::probability, scope};
      config.z_loss_weight = 0.01;
      auto shorter_router = router_of(config), padded_router = router_of(config);
      Step shorter = make_step(7, kSequences, 4, kExperts, kTop), padded = make_step(8, kSequences, 6, kExperts, kTop);
      padded.layout.mask = at::zeros({kSequences, 6}, at::kBool);
      padded.layout.mask.narrow(1, 0, 4).fill_(true);
      padded.logits.view({kSequences, 6, kExperts}).narrow(1, 0, 4).copy_(shorter.logits.view({kSequences, 4, kExperts}));
      padded.layout.mask = padded.layout.mask.view({-1});
      padded.layout.step_tokens = shorter.layout.step_tokens;
      padded.layout.step = shorter.layout.step;
      const Outcome small = route(shorter_router, shorter), large = route(padded_router, padded);
      const std::string what = method + " at " + std::string(name_of_value(scope));
      EXPECT_TRUE(at::equal(small.expert, large.expert)) << what;
      EXPECT_TRUE(at::equal(small.dropped, large.dropped)) << what;
      const at::Tensor upstream_free = large.gradient.view({kSequences, 6, kExperts});
      EXPECT_EQ(upstream_free.narrow(1, 4, 2).abs().max().item<double>(), 0.0) << what;
      for (const auto& [name, value] : small.losses) EXPECT_NEAR(large.losses.at(name), value, 1e-13) << what << " " << name;
      for (const auto& [name, value] : small.state) EXPECT_TRUE(at::allclose(large.state.at(name), value, 0, 1e-13)) << what << " " << name;
    }
}

TEST_F(Methods, SchedulesMoveTheirNumbers) {
  for (const auto& [kind, oracle] : {std::pair(ScheduleKind::constant, reference::Schedule::constant),
                                     {ScheduleKind::linear, reference::Schedule::linear},
                                     {ScheduleKind::cosine, reference::Schedule::cosine},
                                     {ScheduleKind::step, reference::Schedule::step}})
    for (const auto& [from, to] : {std::pair<std::int64_t, std::int64_t>{0, 10}, {3, 8}, {4, 4}})
      for (std::int64_t step = 0; step < 14; ++step)
        tally()->expect_near("schedules", scheduled_value({"temperature", kind, 4.0, 0.5, from, to}, step),
                             reference::scheduled(oracle, 4.0, 0.5, from, to, step), 1e-15);

  RoutingConfig config = config_of("aux_loss", ScopeKind::global_batch);
  config.balance.also.push_back(config.balance);
  config.schedules = {{"top_k", ScheduleKind::linear, 1, 4, 0, 6},
                      {"balance.weight", ScheduleKind::step, 0.5, 0.25, 3, 3},
                      {"balance.also[0].weight", ScheduleKind::linear, 0.0, 1.0, 0, 4}};
  EXPECT_EQ(refusal(config, {kExperts, 4, 1, 0, 0, 0, 0}), "");
  auto router = router_of(config);
  for (const std::int64_t n : {0, 2, 4, 6}) {
    Step step = step_of(static_cast<std::uint64_t>(n), false);
    const Outcome outcome = route(router, step);
    EXPECT_EQ(outcome.expert.numel(), step.layout.tokens() * (1 + n / 2));
    step.oracle.k = 1 + n / 2;
    const double main = n < 3 ? 0.5 : 0.25, also = std::min(1.0, 0.25 * static_cast<double>(n));
    const double whole = reference::aux_loss(step.oracle, reference::Score::softmax, reference::Scope::global_batch, 1.0).value;
    tally()->expect_near("scheduled losses", outcome.losses.at("aux_loss"), main * whole, 1e-13);
    tally()->expect_near("scheduled losses", outcome.losses.at("aux_loss_2"), also * whole, 1e-13);
  }
}

TEST_F(Methods, SchedulesAreRefusedByWhatTheyPassThrough) {
  const RoutedModel model{kExperts, 4, 1, 0, kLength, 2, kSequences};
  const auto reason = [&](const std::string& select, ScheduleConfig schedule) {
    auto config = config_of("none", ScopeKind::global_batch, Score::softmax_selected);
    config.select = select;
    config.groups.count = 4;
    config.top_k = 4;
    config.schedules = {schedule};
    return refusal(config, model);
  };
  EXPECT_NE(reason("grouped_top_k", {"top_k", ScheduleKind::linear, 8, 4, 0, 6}).find("takes top_k to 5"), std::string::npos);
  EXPECT_NE(reason("hash", {"top_k", ScheduleKind::linear, 4, 2, 0, 6}).find("one top_k"), std::string::npos);
  EXPECT_NE(reason("top_k", {"top_k", ScheduleKind::linear, 4, 9, 0, 6}).find("takes top_k to 9"), std::string::npos);
  EXPECT_NE(reason("top_k", {"balance.also.0.weight", ScheduleKind::linear, 1, 0, 0, 6}).find("names no number"), std::string::npos);
  EXPECT_EQ(reason("top_k", {"temperature", ScheduleKind::constant, 2, 0, 0, 0}), "");
  EXPECT_EQ(reason("top_k", {"temperature", ScheduleKind::step, 2, 1, 5, 0}), "");
  auto twice = config_of("none", ScopeKind::global_batch);
  twice.schedules = {{"temperature", ScheduleKind::constant, 2, 0, 0, 0}, {"temperature", ScheduleKind::constant, 3, 0, 0, 0}};
  EXPECT_NE(refusal(twice, model).find("both move temperature"), std::string::npos);
  // A scheduled capacity is one: over a scope that it can have, and seen by the causality flag and the readings.
  auto capped = config_of("none", ScopeKind::global_batch);
  capped.schedules = {{"capacity.factor", ScheduleKind::linear, 2, 0.5, 0, 6}};
  auto router = router_of(capped);
  EXPECT_FALSE(router.causal(Mode::train));
  EXPECT_TRUE(router.readings_differ());
  capped.capacity.scope = ScopeKind::running;
  EXPECT_NE(refusal(capped, model), "");
}

TEST_F(Methods, PooledWeightsSeeTheFutureThoughRandomChoicesDoNot) {
  for (const std::string select : {"random", "replay"}) {
    auto config = config_of("none", ScopeKind::global_batch);
    config.select = select;
    EXPECT_FALSE(sees_future(config, 0));
    config.granularity = Granularity::sequence;
    EXPECT_TRUE(sees_future(config, 0)) << select;
    config.pool.by = Pooling::prefix;
    EXPECT_FALSE(sees_future(config, 0)) << select;
  }
}

TEST_F(Methods, DenseHasTheCapacityOfAllItsExperts) {
  auto config = config_of("none", ScopeKind::global_batch);
  config.select = "dense";
  config.capacity = {0.5, CapacityPolicy::position, ScopeKind::global_batch};
  auto router = router_of(config);
  const Step step = step_of(3, false);
  const Outcome outcome = route(router, step);
  EXPECT_EQ(outcome.dropped.logical_not().sum().item<std::int64_t>(), step.layout.tokens() * kExperts / 2);
}

TEST_F(Methods, EvaluationMayRouteOtherwise) {
  RoutingConfig config = config_of("sinkhorn", ScopeKind::global_batch);
  const Step step = step_of(3, false);
  {
    auto router = router_of(config);
    EXPECT_TRUE(router.readings_differ());
    EXPECT_TRUE(at::equal(route(router, step, Mode::evaluate).expert, route(router, step).expert));
    EXPECT_FALSE(at::equal(route(router, step, Mode::greedy).expert, route(router, step).expert));
  }
  config.evaluation.balancing = true;
  {
    auto router = router_of(config);
    EXPECT_FALSE(router.readings_differ());
    EXPECT_TRUE(at::equal(route(router, step, Mode::greedy).expert, route(router, step).expert));
  }
  config = config_of("none", ScopeKind::global_batch);
  config.select = "expert_choice";
  config.evaluation.select = "top_k";
  config.evaluation.top_k = 3;
  config.evaluation.temperature = 2.0;
  auto router = router_of(config);
  const Outcome greedy = route(router, step, Mode::greedy);
  EXPECT_TRUE(at::equal(greedy.expert.view({-1, 3}), top_k_indices(step.logits, 3)));
  EXPECT_TRUE(at::allclose(greedy.weight.view({-1, 3}), at::softmax(step.logits / 2.0, 1).gather(1, greedy.expert.view({-1, 3})), 0, 1e-14));
}

TEST_F(Methods, OneSequenceIsTheSameAtEveryScope) {
  for (const std::string method : {"aux_loss", "importance_load", "bandpass", "expert_bias", "expert_bias_momentum", "expert_bias_solved", "sinkhorn",
                                   "assignment", "quantile"}) {
    std::vector<Outcome> outcomes;
    for (const ScopeKind scope : {ScopeKind::sequence, ScopeKind::micro_batch, ScopeKind::group, ScopeKind::global_batch}) {
      auto router = router_of(config_of(method, scope, method.starts_with("expert_bias") ? Score::sigmoid : Score::softmax));
      const Step step = make_step(9, 1, 16, kExperts, kTop);
      outcomes.push_back(run_step(router, step, {0, 1, 0, 0, false}, *alone_));
      expect_same(outcomes.front(), outcomes.back(), {0, 1, 0, 0, false}, 16, 1e-14, method);
    }
  }
}

TEST_F(Methods, UniformLoadGivesEachLossItsKnownValue) {
  // Every expert is wanted equally often, with equal probabilities in sum: token t prefers experts t and t + 1.
  Step step = make_step(1, 4, kExperts, kExperts, kTop);
  for (std::int64_t t = 0; t < step.layout.tokens(); ++t) {
    step.logits[t].zero_();
    step.logits[t][t % kExperts] = 2.0;
    step.logits[t][(t + 1) % kExperts] = 1.0;
  }
  for (const ScopeKind scope : kScopes) {
    auto aux = router_of(config_of("aux_loss", scope));
    EXPECT_NEAR(run_step(aux, step, {0, 4, 0, 0, false}, *alone_).losses.at("aux_loss"), 0.37, 1e-14);
    auto load = router_of(config_of("importance_load", scope));
    EXPECT_NEAR(run_step(load, step, {0, 4, 0, 0, false}, *alone_).losses.at("importance_load"), 0.0, 1e-14);
    auto entropy_config = config_of("none", ScopeKind::global_batch);
    entropy_config.regularise.batch_entropy = 1.0;
    entropy_config.regularise.scope = scope;
    auto entropy = router_of(entropy_config);
    EXPECT_NEAR(run_step(entropy, step, {0, 4, 0, 0, false}, *alone_).losses.at("batch_entropy"), -std::log(8.0), 1e-13);
  }
}

}  // namespace
}  // namespace moesweep::routing
