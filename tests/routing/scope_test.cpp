// A step cut over ranks: units are totalled over the gang, and every rank gets what one rank alone computes.
#include <gtest/gtest.h>

#include "moesweep/comm/mpi.hpp"
#include "routing/support.hpp"

namespace moesweep::routing {
namespace {

TEST(Ranks, DecisionsLossesAndBiasAreThoseOfOneRank) {
  const auto world = comm::Communicator::world();
  auto gang = comm::make_transport(world);
  auto alone = comm::make_local_transport();
  for (const auto method : {BalanceMethod::aux_loss, BalanceMethod::expert_bias})
    for (const auto scope : {ScopeKind::sequence, ScopeKind::micro_batch, ScopeKind::global_batch}) {
      RoutingConfig config;
      config.score = Score::sigmoid;
      config.top_k = 2;
      config.balance.method = method;
      config.balance.scope = scope;
      LayerRouter mine(config, 0, 8, 4, *gang), reference_router(config, 0, 8, 4, *alone);
      for (std::uint64_t n = 0; n < 3; ++n) {
        const Step step = make_step(80 + n, 12, 4, 8, 2);
        const Scores all{step.logits, 0, &step.layout};
        const auto expected = reference_router.decide({&all, 1}, Mode::train)[0];
        const Assignment expected_assignment = reference_router.apply(all, expected);
        reference_router.end_step();

        // Micro-batches of two sequences: rank r takes [6 r / R, 6 (r + 1) / R) of the six.
        const std::int64_t first = 6 * world.rank() / world.size() * 2, count = 6 * (world.rank() + 1) / world.size() * 2 - first;
        const auto [layout, logits] = part_of(step, first, count);
        const Scores part{logits, 0, &layout};
        const auto decision = mine.decide({&part, 1}, Mode::train)[0];
        const Assignment assignment = mine.apply(part, decision);
        mine.end_step();
        EXPECT_TRUE(at::equal(decision.slots.by_token(), expected.slots.by_token().narrow(0, first * 4, count * 4)));
        if (method == BalanceMethod::aux_loss) {
          EXPECT_NEAR(gang->all_reduce_sum(assignment.losses.at("balance").item<double>(), "loss"),
                      expected_assignment.losses.at("balance").item<double>(), 1e-14);
        } else {
          EXPECT_TRUE(at::allclose(mine.state()[0].second, reference_router.state()[0].second, 0, 1e-15));
        }
      }
    }
}

}  // namespace
}  // namespace moesweep::routing
