// moesweep::diagnose's testbed metrics against the oracle on random and adversarial counts, known values, and errors.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "moesweep/core/error.hpp"
#include "moesweep/diagnose/testbed.hpp"
#include "reference/testbed_reference.hpp"

namespace moesweep::diagnose {
namespace {

void expect_as_oracle(std::int64_t domains, std::int64_t experts, const std::vector<std::int64_t>& values) {
  const TestbedMetrics m = testbed_metrics({domains, experts, values});
  const reference::DomainCounts n{domains, experts, values};
  // 1e-14 for sums of E terms; the information is a difference of near equals where routing is independent of the domain.
  EXPECT_NEAR(m.utilisation, reference::utilisation(n), 1e-14);
  EXPECT_NEAR(m.expert_entropy, reference::expert_entropy(n), 1e-14);
  EXPECT_NEAR(m.purity_expert, reference::purity_expert(n), 1e-14);
  EXPECT_NEAR(m.purity_expert_unweighted, reference::purity_expert_unweighted(n), 1e-14);
  EXPECT_NEAR(m.domain_information, reference::domain_information(n), 1e-13);
  EXPECT_NEAR(m.nmi, reference::nmi(n), 1e-13);
  EXPECT_NEAR(m.max_violation, reference::max_violation(n), 1e-13 * static_cast<double>(experts));
  EXPECT_EQ(m.dead_experts, reference::dead_experts(n));
  if (experts % domains == 0) {
    EXPECT_NEAR(m.purity_reference, reference::purity_reference(n), 1e-14);
  } else {
    EXPECT_TRUE(std::isnan(m.purity_reference));
  }
  if (domains <= 4 && experts <= 8 && experts % domains == 0) {
    EXPECT_NEAR(m.purity_reference, reference::best_matching_by_enumeration(n) / n.all(), 1e-14);
  }
}

TEST(Testbed, AgreesWithTheOracleOnRandomCounts) {
  std::mt19937_64 generator(2604);
  for (auto [domains, experts] : std::vector<std::pair<std::int64_t, std::int64_t>>{
           {1, 1}, {1, 5}, {2, 2}, {2, 8}, {3, 6}, {3, 7}, {4, 8}, {5, 3}, {8, 8}, {8, 32}, {8, 64}, {7, 256}, {16, 128}}) {
    for (std::int64_t highest : {1, 2, 40, 1000000}) {
      SCOPED_TRACE(std::to_string(domains) + " domains, " + std::to_string(experts) + " experts, up to " + std::to_string(highest));
      std::vector<std::int64_t> values;
      std::uniform_int_distribution<std::int64_t> draw(0, highest);
      for (std::int64_t i = 0; i < domains * experts; ++i) values.push_back(draw(generator));
      values[0] += 1;
      expect_as_oracle(domains, experts, values);
      // Sparse: most experts unused, as after a collapse.
      for (auto& value : values) value = draw(generator) % 7 == 0 ? value : 0;
      values.back() += 1;
      expect_as_oracle(domains, experts, values);
    }
  }
}

TEST(Testbed, AgreesWithTheOracleOnAdversarialCounts) {
  expect_as_oracle(2, 4, {1, 0, 0, 0, 0, 0, 0, 0});                                                   // one slot in all
  expect_as_oracle(2, 4, {3, 3, 3, 3, 3, 3, 3, 3});                                                   // all equal: any matching is best
  expect_as_oracle(2, 2, {10, 9, 9, 0});                                                              // the greedy matching is not the best
  expect_as_oracle(3, 3, {0, 0, 0, 0, 0, 0, 4, 5, 6});                                                // two domains never seen
  expect_as_oracle(2, 4, {0, 5, 0, 0, 0, 5, 0, 0});                                                   // all on one expert
  expect_as_oracle(4, 4, {0, 7, 0, 0, 0, 0, 7, 0, 0, 0, 0, 7, 7, 0, 0, 0});                           // a permutation
  expect_as_oracle(2, 2, {std::int64_t{1} << 50, 1, 1, std::int64_t{1} << 50});                       // large counts
  expect_as_oracle(3, 6, {9, 8, 8, 8, 0, 0, 8, 9, 8, 0, 8, 0, 9, 9, 9, 0, 0, 8});                     // chains of moves
  expect_as_oracle(2, 6, {0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6});                                       // one domain wants every expert
  expect_as_oracle(4, 8, std::vector<std::int64_t>{4, 4, 0, 0, 0, 0, 0, 0, 4, 4, 0, 0, 0, 0, 0, 0,    // pairs of domains that
                                                   0, 0, 4, 4, 0, 0, 0, 0, 0, 0, 4, 4, 0, 0, 0, 0});  // want the same experts
}

TEST(Testbed, ReferenceRouterIsOneEverywhere) {
  for (auto [domains, share] : std::vector<std::pair<std::int64_t, std::int64_t>>{{8, 4}, {2, 1}, {3, 5}, {16, 8}}) {
    Counts counts{domains, domains * share, std::vector<std::int64_t>(static_cast<std::size_t>(domains * domains * share), 0)};
    // Experts are handed out in turns, so the matching must find them: expert e belongs to domain e % D.
    for (std::int64_t e = 0; e < counts.experts; ++e) counts.values[static_cast<std::size_t>(e % domains * counts.experts + e)] = 1234;
    const TestbedMetrics m = testbed_metrics(counts);
    for (double one : {m.utilisation, m.expert_entropy, m.purity_expert, m.purity_expert_unweighted, m.purity_reference, m.domain_information})
      EXPECT_NEAR(one, 1, 1e-14);
    EXPECT_NEAR(m.nmi, std::sqrt(std::log(static_cast<double>(domains)) / std::log(static_cast<double>(counts.experts))), 1e-14);
    EXPECT_EQ(m.max_violation, 0);
    EXPECT_EQ(m.dead_experts, 0);
  }
}

TEST(Testbed, RandomRoutingIsNearChance) {
  std::mt19937_64 generator(8);
  std::uniform_int_distribution<std::int64_t> expert(0, 31);
  Counts counts{8, 32, std::vector<std::int64_t>(8 * 32, 0)};
  for (std::int64_t i = 0; i < 400000; ++i) counts.values[static_cast<std::size_t>(i % 8 * 32 + expert(generator))] += 1;
  const TestbedMetrics m = testbed_metrics(counts);
  EXPECT_GT(m.purity_expert, 1.0 / 8);  // above chance by the noise of finite counts
  EXPECT_LT(m.purity_expert, 0.135);
  EXPECT_NEAR(m.purity_reference, 1.0 / 8, 0.01);
  EXPECT_LT(m.domain_information, 1e-3);
  EXPECT_GT(m.utilisation, 0.98);
}

TEST(Testbed, KnownValues) {
  const TestbedMetrics m = testbed_metrics({2, 4, {6, 0, 0, 0, 2, 2, 0, 2}});
  EXPECT_NEAR(m.utilisation, 0.25 + 2.0 / 12 + 2.0 / 12, 1e-15);
  EXPECT_NEAR(m.expert_entropy, (2.0 / 3 * std::log(1.5) + 2.0 / 6 * std::log(6.0)) / std::log(4.0), 1e-15);
  EXPECT_NEAR(m.purity_expert, 10.0 / 12, 1e-15);
  EXPECT_NEAR(m.purity_expert_unweighted, (0.75 + 1 + 1) / 3, 1e-15);
  EXPECT_NEAR(m.purity_reference, 10.0 / 12, 1e-15);
  EXPECT_NEAR(m.max_violation, (8.0 - 3) / 3, 1e-15);
  EXPECT_EQ(m.dead_experts, 1);
}

TEST(Testbed, SingleDomainAndSingleExpert) {
  const TestbedMetrics one_domain = testbed_metrics({1, 4, {1, 2, 3, 4}});
  EXPECT_EQ(one_domain.purity_expert, 1);
  EXPECT_EQ(one_domain.purity_reference, 1);
  EXPECT_EQ(one_domain.domain_information, 0);
  EXPECT_EQ(one_domain.nmi, 0);
  const TestbedMetrics one_expert = testbed_metrics({3, 1, {4, 2, 2}});
  EXPECT_EQ(one_expert.expert_entropy, 1);
  EXPECT_EQ(one_expert.utilisation, 1);
  EXPECT_EQ(one_expert.purity_expert, 0.5);
  EXPECT_EQ(one_expert.nmi, 0);
  EXPECT_TRUE(std::isnan(one_expert.purity_reference));
}

TEST(Testbed, RelabellingDomainsOrExpertsChangesNothing) {
  std::mt19937_64 generator(5);
  std::uniform_int_distribution<std::int64_t> draw(0, 99);
  std::vector<std::int64_t> domain(4), expert(8);
  std::iota(domain.begin(), domain.end(), 0);
  std::iota(expert.begin(), expert.end(), 0);
  Counts counts{4, 8, std::vector<std::int64_t>(32)};
  for (auto& value : counts.values) value = draw(generator);
  const TestbedMetrics before = testbed_metrics(counts);
  for (int repeat = 0; repeat < 10; ++repeat) {
    std::shuffle(domain.begin(), domain.end(), generator);
    std::shuffle(expert.begin(), expert.end(), generator);
    Counts turned = counts;
    for (std::int64_t d = 0; d < 4; ++d)
      for (std::int64_t e = 0; e < 8; ++e)
        turned.values[static_cast<std::size_t>(domain[static_cast<std::size_t>(d)] * 8 + expert[static_cast<std::size_t>(e)])] = counts.at(d, e);
    const TestbedMetrics after = testbed_metrics(turned);
    for (const MetricInfo& info : testbed_metric_list()) EXPECT_NEAR(after.*info.value, before.*info.value, 1e-13) << info.name;
  }
}

TEST(Testbed, MetricListNamesEachValueOnce) {
  std::set<std::string> names;
  for (const MetricInfo& info : testbed_metric_list()) {
    EXPECT_TRUE(names.insert(info.name).second) << info.name << " is there twice";
    EXPECT_FALSE(info.description.empty()) << info.name;
  }
  TestbedMetrics m;
  m.utilisation = 1, m.expert_entropy = 2, m.purity_expert = 3, m.purity_expert_unweighted = 4;
  m.purity_reference = 5, m.domain_information = 6, m.nmi = 7, m.max_violation = 8;
  const std::map<std::string, double> expected{
      {"utilisation", 1},      {"expert_entropy", 2},     {"purity_expert", 3}, {"purity_expert_unweighted", 4},
      {"purity_reference", 5}, {"domain_information", 6}, {"nmi", 7},           {"max_violation", 8}};
  std::map<std::string, double> listed;
  for (const MetricInfo& info : testbed_metric_list()) listed[info.name] = m.*info.value;
  EXPECT_EQ(listed, expected);
}

TEST(Testbed, BadCountsAreDataErrors) {
  const std::vector<std::pair<const char*, Counts>> table{
      {"no domains", {0, 4, {}}}, {"no experts", {2, 0, {}}}, {"no slot at all", {2, 2, {0, 0, 0, 0}}}, {"a negative count", {2, 2, {1, -1, 2, 3}}}};
  for (const auto& [what, counts] : table) {
    try {
      testbed_metrics(counts);
      ADD_FAILURE() << what << " was accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::data) << what;
      EXPECT_FALSE(error.message().empty()) << what;
    }
  }
  EXPECT_THROW(testbed_metrics({2, 2, {1, 2, 3}}), Error);  // fewer values than domains x experts
}

TEST(Testbed, GapsAreAboveZeroWhereTheTrialIsWorse) {
  const std::map<std::string, double> trial{{"loss", 2.5}, {"purity_expert", 0.4}, {"utilisation", 0.75}, {"purity_reference", 0.25}};
  const std::map<std::string, double> reference{{"loss", 2.0}, {"purity_expert", 1.0}, {"utilisation", 1.0}, {"purity_reference", 1.0}};
  const auto gaps = gaps_to_reference(trial, reference);
  EXPECT_DOUBLE_EQ(gaps.at("gap_to_reference.loss"), 0.5);
  EXPECT_DOUBLE_EQ(gaps.at("gap_to_reference.purity_expert"), 0.6);
  EXPECT_DOUBLE_EQ(gaps.at("gap_to_reference.purity_reference"), 0.75);
  EXPECT_DOUBLE_EQ(gaps.at("gap_to_reference.utilisation"), 0.25);
  for (const auto& [name, gap] : gaps_to_reference(reference, reference)) EXPECT_EQ(gap, 0) << name;
  // What one of the two lacks has no gap.
  const auto partial = gaps_to_reference({{"loss", 2.5}}, reference);
  EXPECT_EQ(partial.count("gap_to_reference.purity_expert"), 0U);
  EXPECT_DOUBLE_EQ(partial.at("gap_to_reference.loss"), 0.5);
  EXPECT_TRUE(gaps_to_reference(trial, {}).empty());
}

}  // namespace
}  // namespace moesweep::diagnose
