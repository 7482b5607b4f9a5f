// Every method at every scope over every layout: a step cut over ranks and passes, in flight or in two phases, gives what one rank gives
// at once. Runs on 1, 2 and 4 ranks. Also holds the table of combinations: each cell works here, or is refused with its reason.
#include <gtest/gtest.h>

#include "moesweep/comm/mpi.hpp"
#include "reference/balancing_reference.hpp"
#include "routing/support.hpp"

namespace moesweep::routing {
namespace {

constexpr std::int64_t kSequences = 12, kLength = 8, kExperts = 8;

/// The strategy of a cell of the table.
RoutingConfig config_of(const Combination& cell) {
  RoutingConfig config;
  config.top_k = 2;
  config.granularity = cell.granularity;
  config.balance.scope = cell.scope;
  config.balance.rate = 0.02;
  config.balance.weight = 0.3;
  config.balance.low = 0.1;
  config.balance.high = 0.15;
  const auto names = strategy_names(StrategyKind::balance);
  if (std::ranges::find(names, cell.method) != names.end()) config.balance.method = cell.method;
  else config.select = cell.method;
  config.threshold.warmup_steps = 2;
  config.threshold.decay = 0.9;
  config.relu.penalty = 1e-2;
  const bool bias = cell.method.starts_with("expert_bias") && cell.method != "expert_bias_solved";
  config.score = bias || cell.method == "threshold" ? Score::sigmoid : cell.method == "relu" ? Score::relu : Score::softmax;
  return config;
}

bool depends_on_layout(ScopeKind scope) { return scope == ScopeKind::group || scope == ScopeKind::running; }

/// Four steps on this layout against one rank at once; the fourth step routes with all that the state has learned.
void expect_equal_on_layouts(const RoutingConfig& config, bool masked, const std::string& what, const comm::Communicator& world) {
  auto gang = comm::make_transport(world);
  auto alone = comm::make_local_transport();
  // Units that depend on the layout are compared over passes of one rank; over ranks the group test below holds them.
  const bool alone_only = depends_on_layout(config.balance.scope) && world.size() > 1;
  if (alone_only) return;
  const Cut mine = share_of_rank(kSequences, world.rank(), world.size());
  for (const std::int64_t per_pass : {0, 2, 4, 6})
    for (const bool two_phase : {false, true}) {
      LayerRouter whole(config, place_of(kExperts), *alone), cut(config, place_of(kExperts), *gang);
      for (std::uint64_t n = 0; n < 4; ++n) {
        const Step step = make_step(n, kSequences, kLength, kExperts, config.top_k, 1.0, masked);
        const Outcome expected = run_step(whole, step, {0, kSequences, 0, 0, false}, *alone);
        Cut part = mine;
        part.per_pass = per_pass;
        part.two_phase = two_phase;
        part.passes = per_pass == 0 ? 1 : (kSequences + per_pass - 1) / per_pass;
        const Outcome found = run_step(cut, step, part, *gang);
        expect_same(expected, found, part, kLength, 1e-10,
                    what + ", passes of " + std::to_string(per_pass) + (two_phase ? ", two-phase" : "") + ", step " + std::to_string(n));
        if (::testing::Test::HasFailure()) return;
      }
    }
}

TEST(Combinations, EveryCellWorksOnEveryLayoutOrIsRefusedWithItsReason) {
  const auto world = comm::Communicator::world();
  std::size_t works = 0, refused = 0;
  for (const Combination& cell : combinations()) {
    const std::string what =
        cell.method + " at " + std::string(name_of_value(cell.scope)) + ", granularity " + std::string(name_of_value(cell.granularity));
    const RoutedModel model{kExperts, 4, 1, 0, kLength, 2, kSequences};
    const std::string reason = refusal(config_of(cell), model);
    EXPECT_EQ(reason.empty(), cell.reason.empty()) << what << ": " << reason;
    if (!reason.empty()) {
      EXPECT_NE(reason.find(cell.reason), std::string::npos) << what;
      ++refused;
      continue;
    }
    ++works;
    expect_equal_on_layouts(config_of(cell), false, what, world);
    // Masked steps have units of any size, which quantile does not take.
    if (cell.method != "quantile") expect_equal_on_layouts(config_of(cell), true, what + ", masked", world);
    if (HasFailure()) return;
  }
  EXPECT_EQ(works + refused, 3 * 12 * 6u);
  if (world.rank() == 0) std::cout << "combinations: " << works << " work, " << refused << " refused\n";
}

TEST(Combinations, AtTokenGranularityNothingIsRefusedAtTheFourScopesOfAStep) {
  for (const Combination& cell : combinations())
    if (cell.granularity == Granularity::token && cell.scope != ScopeKind::running && cell.scope != ScopeKind::history) {
      EXPECT_EQ(cell.reason, "") << cell.method;
    }
}

TEST(Layouts, CapacityNoiseAndOtherSelectionsDoNotDependOnThem) {
  const auto world = comm::Communicator::world();
  for (const CapacityPolicy policy : {CapacityPolicy::probability, CapacityPolicy::position, CapacityPolicy::gshard, CapacityPolicy::random})
    for (const ScopeKind scope : {ScopeKind::sequence, ScopeKind::micro_batch, ScopeKind::global_batch})
      for (const Perturb perturb : {Perturb::none, Perturb::gaussian, Perturb::gumbel}) {
        RoutingConfig config;
        config.top_k = 2;
        config.perturb = perturb;
        config.temperature = 1.3;
        config.capacity = {0.7, policy, scope};
        config.balance.method = "aux_loss";
        expect_equal_on_layouts(config, true, std::string(name_of_value(policy)) + " capacity, " + std::string(name_of_value(perturb)), world);
      }
  for (const std::string select : {"group_top_k", "grouped_top_k", "top_p", "hash", "random", "reference", "dense"}) {
    RoutingConfig config;
    config.select = select;
    config.score = Score::softmax_selected;
    config.top_k = 2;
    config.groups.count = 2;
    config.groups.keep = 1;
    expect_equal_on_layouts(config, true, select, world);
  }
  RoutingConfig noisy;
  noisy.score = Score::softmax_selected;
  noisy.top_k = 2;
  noisy.perturb = Perturb::gaussian;
  noisy.noise.learned = true;
  noisy.balance.method = "importance_load";
  for (const ScopeKind scope : {ScopeKind::sequence, ScopeKind::micro_batch, ScopeKind::global_batch}) {
    noisy.balance.scope = scope;
    expect_equal_on_layouts(noisy, true, "noisy top-k", world);
  }
}

TEST(Layouts, RegularisersAndFurtherTermsAddUp) {
  const auto world = comm::Communicator::world();
  RoutingConfig config;
  config.top_k = 2;
  config.score = Score::sigmoid;
  config.balance.method = "expert_bias";
  config.balance.scope = ScopeKind::global_batch;
  config.balance.also.resize(2);
  config.balance.also[0].method = config.balance.also[1].method = "aux_loss";
  config.balance.also[0].scope = ScopeKind::sequence;
  config.balance.also[1].scope = ScopeKind::history;
  config.z_loss_weight = 1e-2;
  config.regularise.token_entropy = 0.1;
  config.regularise.batch_entropy = 0.2;
  config.schedules.push_back({"balance.also[0].weight", ScheduleKind::linear, 0.5, 0.0, 0, 3});
  expect_equal_on_layouts(config, true, "a bias with two losses", world);
}

// The j-th micro-batches of all ranks are a unit; running adds up from the step's beginning.
TEST(Groups, AuxLossIsThatOfItsUnits) {
  const auto world = comm::Communicator::world();
  auto gang = comm::make_transport(world);
  for (const ScopeKind scope : {ScopeKind::group, ScopeKind::running})
    for (const std::int64_t per_pass : {0, 2, 4}) {
      RoutingConfig config;
      config.top_k = 2;
      config.balance.method = "aux_loss";
      config.balance.scope = scope;
      config.balance.weight = 0.5;
      const Step step = make_step(3, kSequences, kLength, kExperts, 2, 1.0, true);
      Cut mine = share_of_rank(kSequences, world.rank(), world.size());
      mine.per_pass = per_pass;
      mine.passes = per_pass == 0 ? 1 : (kSequences + per_pass - 1) / per_pass;
      LayerRouter router(config, place_of(kExperts), *gang);
      const double found = run_step(router, step, mine, *gang).losses.at("aux_loss");

      // The unit of a token: the number of its micro-batch among those of its rank.
      reference::Integers units;
      std::int64_t most = 0;
      for (std::int64_t s = 0; s < kSequences; ++s)
        for (int rank = 0; rank < world.size(); ++rank) {
          const Cut share = share_of_rank(kSequences, rank, world.size());
          if (s < share.first || s >= share.first + share.count) continue;
          units.insert(units.end(), static_cast<std::size_t>(kLength), (s - share.first) / 2);
          most = std::max(most, (s - share.first) / 2 + 1);
        }
      const auto choice = reference::route_top_k(step.oracle, reference::Score::softmax);
      auto counts = reference::unit_counts(step.oracle, choice, units);
      if (scope == ScopeKind::running)
        for (std::int64_t j = 1; j < most; ++j)
          for (std::size_t e = 0; e < counts.at(j).size(); ++e) counts.at(j)[e] += counts.at(j - 1)[e];
      reference::ByUnit<reference::Vector> shares;
      for (const auto& [unit, c] : counts) shares[unit] = reference::fractions(c);
      const double expected = reference::aux_loss_given(step.oracle, reference::Score::softmax, units, shares, 0.5).value;
      EXPECT_NEAR(found, expected, 1e-12) << name_of_value(scope) << ", passes of " << per_pass;
    }
}

}  // namespace
}  // namespace moesweep::routing
