// Gradients on every layout of expert and data ranks: each class of parameters alone after one step, which tells factors of EP or DP that Adam
// would hide, and the part of balancing losses, which must flow once. Runs on 4 ranks.
#include <fmt/core.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "moesweep/spec/presets.hpp"
#include "parity.hpp"

namespace moesweep::train::parity {
namespace {

/// One step without clipping; router logits of size one, so that gates and balancing losses weigh something.
TrialConfig one_step(const routing::RoutingConfig& routing) {
  auto config = small(routing, Precision::fp64);
  config.model.router_init_deviation = 1.0;
  config.train.steps = 1;
  config.train.clip_norm = 0;
  return config;
}

/// That trial on every layout; on four ranks in several passes and with layers that run again, too.
std::vector<Job> on_all_layouts(const TrialConfig& config) {
  std::vector<Job> jobs;
  for (const auto& layout : kLayouts) jobs.push_back({config, layout});
  for (const auto& layout : {Layout{2, 2}, Layout{4, 1}}) {
    jobs.push_back({config, layout});
    jobs.back().config.train.sequences_per_pass = 2;
    jobs.back().config.parallel.recompute = true;
  }
  return jobs;
}

class Gradients : public testing::Test {
 protected:
  comm::Communicator world_ = comm::Communicator::world();
};

TEST_F(Gradients, OfEachClassAreThoseOfOneRank) {
  std::map<std::string, double> worst;
  std::size_t turn = 0;
  for (const std::string preset : {"mixtral", "deepseek_v3", "sinkhorn", "base_assignment", "expert_choice", "quantile", "remoe", "hash_random"}) {
    if (!full() && turn++ % 2 != 0) continue;
    const auto jobs = on_all_layouts(one_step(spec::load_router(preset)));
    const auto outcomes = run(world_, jobs);
    if (world_.rank() != 0) continue;
    for (std::size_t i = 0; i < jobs.size(); ++i) {
      const std::string what = preset + " on " + jobs[i].layout.name();
      EXPECT_EQ(error_of(outcomes[i]), "") << what;
      if (!error_of(outcomes[i]).empty() || !error_of(outcomes[0]).empty()) continue;
      for (const std::string name : kClasses) {
        const std::string key = "gradients/" + name;
        const bool learns = preset != "hash_random" || name != "router";  // a table does not
        EXPECT_EQ(std::ranges::max(outcomes[0].at(key)) > 0, learns) << what << " " << name;
        const double difference = by_size(outcomes[0], outcomes[i], key);
        EXPECT_LT(difference, 1e-12) << what << " " << name;
        worst[name] = std::max(worst[name], difference);
      }
      EXPECT_EQ(outcomes[i].at("replicas")[0], 0) << what;
    }
  }
  for (const auto& [name, difference] : worst)
    add_note(fmt::format("gradients of {} after one step, fp64, all presets and layouts: {:.1e}", name, difference));
}

/// A router and the same without its auxiliary losses.
struct Auxiliary {
  std::string name;
  routing::RoutingConfig with, without;
};

std::vector<Auxiliary> auxiliaries() {
  std::vector<Auxiliary> all;
  const auto add = [&](const std::string& name, const routing::RoutingConfig& routing, auto&& change) {
    all.push_back({name, routing, routing});
    change(all.back().without);
  };
  const auto no_balance = [](routing::RoutingConfig& routing) { routing.balance.weight = 0; };
  for (const auto scope : {routing::ScopeKind::sequence, routing::ScopeKind::micro_batch, routing::ScopeKind::global_batch}) {
    auto routing = spec::load_router("mixtral");
    routing.balance.scope = scope;
    add("mixtral by " + std::string(EnumNames<routing::ScopeKind>::names[static_cast<std::size_t>(scope)]), routing, no_balance);
  }
  add("aux_loss", spec::load_router("aux_loss"), no_balance);
  add("importance_load", spec::load_router("importance_load"), no_balance);
  add("deepseek_v3's sequence loss", spec::load_router("deepseek_v3"), [](auto& routing) { routing.balance.also.at(0).weight = 0; });
  add("remoe's penalty", spec::load_router("remoe"), [](auto& routing) { routing.relu.penalty = 0; });
  auto z = spec::load_router("top_k");
  z.z_loss_weight = 1e-3;
  add("z-loss", z, [](auto& routing) { routing.z_loss_weight = 0; });
  add("entropy", spec::load_router("entropy"), [](auto& routing) { routing.regularise.batch_entropy = routing.regularise.token_entropy = 0; });
  return all;
}

TEST_F(Gradients, OfAuxiliaryLossesFlowOnceOnEveryLayout) {
  std::size_t turn = 0;
  for (const auto& auxiliary : auxiliaries()) {
    if (!full() && turn++ % 3 != 0) continue;
    auto jobs = on_all_layouts(one_step(auxiliary.with));
    const std::size_t layouts = jobs.size();
    for (std::size_t i = 0; i < layouts; ++i) {
      jobs.push_back(jobs[i]);
      jobs.back().config.routing = auxiliary.without;
    }
    const auto outcomes = run(world_, jobs);
    if (world_.rank() != 0) continue;
    std::vector<double> alone;
    for (std::size_t i = 0; i < layouts; ++i) {
      const std::string what = auxiliary.name + " on " + jobs[i].layout.name();
      EXPECT_EQ(error_of(outcomes[i]) + error_of(outcomes[layouts + i]), "") << what;
      if (!error_of(outcomes[i]).empty() || !error_of(outcomes[layouts + i]).empty()) break;
      std::vector<double> part = outcomes[i].at("gradients/router");
      const auto& without = outcomes[layouts + i].at("gradients/router");
      for (std::size_t n = 0; n < part.size(); ++n) part[n] -= without[n];
      if (i == 0) alone = part;
      const Outcome expected{{"router", alone}}, found{{"router", part}};
      double largest = 0, whole = 0;
      for (const double value : alone) largest = std::max(largest, std::abs(value));
      for (const double value : without) whole = std::max(whole, std::abs(value));
      EXPECT_GT(largest, 1e-9 * whole) << what;
      // The difference of two gradients carries the rounding of both.
      EXPECT_LT(by_size(expected, found, "router"), 1e-10 + 1e-14 * whole / largest) << what;
      if (i == 0) add_note(fmt::format("{}: its part of the router's gradient is {:.1e} of the rest", auxiliary.name, largest / whole));
    }
  }
}

}  // namespace
}  // namespace moesweep::train::parity
