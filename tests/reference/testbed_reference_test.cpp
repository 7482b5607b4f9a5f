// The oracle of the testbed's metrics against hand-worked tables, closed forms and the published chance levels.
#include "reference/testbed_reference.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "reference/routing_reference.hpp"

namespace moesweep::reference {
namespace {

DomainCounts random_counts(std::mt19937_64& generator, std::int64_t D, std::int64_t E, std::int64_t highest) {
  std::uniform_int_distribution<std::int64_t> draw(0, highest);
  DomainCounts counts{D, E, {}};
  for (std::int64_t i = 0; i < D * E; ++i) counts.n.push_back(draw(generator));
  counts.n[0] += 1;
  return counts;
}

TEST(TestbedReference, TwoByTwoByHand) {
  const DomainCounts n{2, 2, {3, 1, 1, 3}};
  const double information = std::log(2.0) - static_cast<double>(minus_f_log_f(0.25L) + minus_f_log_f(0.75L));
  EXPECT_DOUBLE_EQ(utilisation(n), 1);
  EXPECT_NEAR(expert_entropy(n), 1, 1e-15);
  EXPECT_DOUBLE_EQ(purity_expert(n), 0.75);
  EXPECT_DOUBLE_EQ(purity_expert_unweighted(n), 0.75);
  EXPECT_DOUBLE_EQ(purity_reference(n), 0.75);
  EXPECT_NEAR(domain_information(n), information / std::log(2.0), 1e-15);
  EXPECT_NEAR(nmi(n), information / std::log(2.0), 1e-15);
  EXPECT_EQ(max_violation(n), 0);
}

TEST(TestbedReference, UnevenTableByHand) {
  // Experts hold 8, 2, 0, 2 of 12 slots; the domains 6 each.
  const DomainCounts n{2, 4, {6, 0, 0, 0, 2, 2, 0, 2}};
  EXPECT_NEAR(utilisation(n), 0.25 + 2.0 / 12 + 2.0 / 12, 1e-15);
  EXPECT_NEAR(expert_entropy(n), (2.0 / 3 * std::log(1.5) + 2.0 / 6 * std::log(6.0)) / std::log(4.0), 1e-15);
  EXPECT_NEAR(purity_expert(n), (6 + 2 + 2) / 12.0, 1e-15);
  EXPECT_NEAR(purity_expert_unweighted(n), (0.75 + 1 + 1) / 3, 1e-15);
  EXPECT_NEAR(purity_reference(n), 10.0 / 12, 1e-15);  // experts 0, 2 to the first domain, 1, 3 to the second
  EXPECT_NEAR(max_violation(n), (8 - 3) / 3.0, 1e-15);
  EXPECT_EQ(dead_experts(n), 1);
}

TEST(TestbedReference, ReferenceRouterIsOneEverywhere) {
  for (auto [D, k] : {std::pair<std::int64_t, std::int64_t>{8, 4}, {2, 1}, {3, 5}}) {
    Input in;
    in.E = D * k;
    in.k = k;
    in.T = 6 * D;
    for (std::int64_t t = 0; t < in.T; ++t) in.domain.push_back(t % D);
    in.logits.assign(static_cast<std::size_t>(in.T * in.E), 0.0);
    const DomainCounts n{D, in.E, counts_by_domain(in, route_reference(in, D), D)};
    EXPECT_NEAR(utilisation(n), 1, 1e-14);
    EXPECT_NEAR(expert_entropy(n), 1, 1e-14);
    EXPECT_NEAR(purity_expert(n), 1, 1e-14);
    EXPECT_NEAR(purity_expert_unweighted(n), 1, 1e-14);
    EXPECT_NEAR(purity_reference(n), 1, 1e-14);
    EXPECT_NEAR(domain_information(n), 1, 1e-14);
    EXPECT_NEAR(nmi(n), std::sqrt(std::log(static_cast<double>(D)) / std::log(static_cast<double>(in.E))), 1e-14);
    EXPECT_EQ(max_violation(n), 0);
  }
}

TEST(TestbedReference, RandomRoutingIsNearChance) {
  std::mt19937_64 generator(1);
  std::uniform_int_distribution<std::int64_t> expert(0, 31);
  DomainCounts n{8, 32, std::vector<std::int64_t>(8 * 32, 0)};
  for (std::int64_t i = 0; i < 400000; ++i) n.n[static_cast<std::size_t>(i % 8 * 32 + expert(generator))] += 1;
  EXPECT_GT(purity_expert(n), 0.125);
  EXPECT_LT(purity_expert(n), 0.135);
  EXPECT_NEAR(purity_reference(n), 0.125, 0.01);
  EXPECT_LT(domain_information(n), 1e-3);
  EXPECT_LT(nmi(n), 1e-3);
  EXPECT_GT(utilisation(n), 0.98);
}

TEST(TestbedReference, IndependentTableHasNoInformation) {
  DomainCounts n{3, 4, {}};
  for (std::int64_t d : {1, 2, 5})
    for (std::int64_t e : {7, 1, 0, 3}) n.n.push_back(d * e);
  EXPECT_NEAR(domain_information(n), 0, 1e-15);
  EXPECT_NEAR(nmi(n), 0, 1e-15);
  EXPECT_NEAR(purity_expert(n), 5.0 / 8, 1e-15);  // the largest domain's share
}

TEST(TestbedReference, DegenerateTables) {
  const DomainCounts one_domain{1, 4, {1, 2, 3, 4}};
  EXPECT_EQ(purity_expert(one_domain), 1);
  EXPECT_EQ(purity_reference(one_domain), 1);
  EXPECT_EQ(domain_information(one_domain), 0);
  EXPECT_EQ(nmi(one_domain), 0);
  const DomainCounts one_expert{3, 1, {4, 2, 2}};
  EXPECT_EQ(expert_entropy(one_expert), 1);
  EXPECT_EQ(utilisation(one_expert), 1);
  EXPECT_EQ(purity_expert(one_expert), 0.5);
  EXPECT_EQ(nmi(one_expert), 0);
  EXPECT_TRUE(std::isnan(purity_reference(one_expert)));
  const DomainCounts collapsed{2, 8, {0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0}};
  EXPECT_DOUBLE_EQ(utilisation(collapsed), 1.0 / 8);
  EXPECT_EQ(expert_entropy(collapsed), 0);
  EXPECT_EQ(dead_experts(collapsed), 7);
  EXPECT_EQ(max_violation(collapsed), 7);
}

TEST(TestbedReference, BothMatchingsFindTheSameOptimum) {
  std::mt19937_64 generator(17);
  for (auto [D, E] : {std::pair<std::int64_t, std::int64_t>{2, 2}, {2, 8}, {3, 3}, {3, 9}, {4, 8}, {5, 5}, {7, 7}, {8, 8}}) {
    for (std::int64_t highest : {1, 3, 1000}) {
      for (int repeat = 0; repeat < 20; ++repeat) {
        const DomainCounts n = random_counts(generator, D, E, highest);
        EXPECT_EQ(best_matching_by_paths(n), best_matching_by_enumeration(n)) << D << " domains, " << E << " experts, up to " << highest;
      }
    }
  }
}

TEST(TestbedReference, MatchingIsNotGreedy) {
  // The largest entry first (10) leaves 0: 10; the best is 9 + 9.
  EXPECT_EQ(best_matching_by_paths({2, 2, {10, 9, 9, 0}}), 18);
  EXPECT_EQ(best_matching_by_enumeration({2, 2, {10, 9, 9, 0}}), 18);
}

TEST(TestbedReference, RelabellingChangesNothing) {
  std::mt19937_64 generator(5);
  const DomainCounts n = random_counts(generator, 4, 8, 50);
  DomainCounts turned{4, 8, std::vector<std::int64_t>(32, 0)};
  for (std::int64_t d = 0; d < 4; ++d)
    for (std::int64_t e = 0; e < 8; ++e)
      turned.n[static_cast<std::size_t>((d + 3) % 4 * 8 + (5 * e + 2) % 8)] = n.n[static_cast<std::size_t>(d * 8 + e)];
  EXPECT_NEAR(purity_expert(turned), purity_expert(n), 1e-14);
  EXPECT_NEAR(purity_reference(turned), purity_reference(n), 1e-14);
  EXPECT_NEAR(domain_information(turned), domain_information(n), 1e-14);
  EXPECT_NEAR(nmi(turned), nmi(n), 1e-14);
  EXPECT_NEAR(utilisation(turned), utilisation(n), 1e-14);
}

}  // namespace
}  // namespace moesweep::reference
