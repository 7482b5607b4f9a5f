// See include/moesweep/diagnose/testbed.hpp.
#include "moesweep/diagnose/testbed.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "assignment.hpp"
#include "moesweep/core/error.hpp"

namespace moesweep::diagnose {

namespace {

double entropy(std::span<const double> shares) {
  double sum = 0;
  for (const double share : shares)
    if (share > 0) sum -= share * std::log(share);
  return sum;
}

/// Share of slots that go to the token's domain's experts, after the matching of experts to domains (E/D each) that makes it largest.
double purity_reference(const Counts& counts, double total) {
  if (counts.experts % counts.domains != 0) return std::numeric_limits<double>::quiet_NaN();
  const std::int64_t per_domain = counts.experts / counts.domains;
  // Expert e takes one of E seats, seat s belonging to domain s / (E/D).
  std::vector<double> gain(static_cast<std::size_t>(counts.experts * counts.experts));
  for (std::int64_t e = 0; e < counts.experts; ++e)
    for (std::int64_t seat = 0; seat < counts.experts; ++seat)
      gain[static_cast<std::size_t>(e * counts.experts + seat)] = static_cast<double>(counts.at(seat / per_domain, e));
  const auto seats = largest_assignment(gain, counts.experts);
  double right = 0;
  for (std::int64_t e = 0; e < counts.experts; ++e) right += static_cast<double>(counts.at(seats[static_cast<std::size_t>(e)] / per_domain, e));
  return right / total;
}

}  // namespace

TestbedMetrics testbed_metrics(const Counts& counts) {
  if (counts.domains < 1 || counts.experts < 1 || counts.values.size() != static_cast<std::size_t>(counts.domains * counts.experts))
    throw Error(ErrorKind::data, "routing counts must be [domains, experts] with at least one of each");
  if (std::ranges::any_of(counts.values, [](std::int64_t n) { return n < 0; })) throw Error(ErrorKind::data, "routing counts must not be negative");
  const auto experts = static_cast<std::size_t>(counts.experts);
  const auto domains = static_cast<std::size_t>(counts.domains);
  const auto total = static_cast<double>(std::accumulate(counts.values.begin(), counts.values.end(), std::int64_t{0}));
  if (total <= 0) throw Error(ErrorKind::data, "routing counts are all zero: no token was routed");

  std::vector<double> by_expert(experts), by_domain(domains), joint(domains * experts);
  for (std::size_t d = 0; d < domains; ++d)
    for (std::size_t e = 0; e < experts; ++e) {
      const double share = static_cast<double>(counts.values[d * experts + e]) / total;
      joint[d * experts + e] = share;
      by_expert[e] += share;
      by_domain[d] += share;
    }

  TestbedMetrics metrics;
  double purest = 0, purity_sum = 0, used = 0;
  for (std::size_t e = 0; e < experts; ++e) {
    metrics.utilisation += std::min(by_expert[e], 1.0 / static_cast<double>(experts));
    double largest = 0;
    for (std::size_t d = 0; d < domains; ++d) largest = std::max(largest, joint[d * experts + e]);
    purest += largest;  // f[e] * (largest / f[e])
    if (by_expert[e] > 0) {
      purity_sum += largest / by_expert[e];
      ++used;
    } else ++metrics.dead_experts;
  }
  metrics.purity_expert = purest;
  metrics.purity_expert_unweighted = purity_sum / used;
  metrics.purity_reference = purity_reference(counts, total);

  const double expert_entropy = entropy(by_expert), domain_entropy = entropy(by_domain);
  const double information = std::max(0.0, expert_entropy + domain_entropy - entropy(joint));
  metrics.expert_entropy = experts == 1 ? 1.0 : expert_entropy / std::log(static_cast<double>(experts));
  metrics.domain_information = domain_entropy > 0 ? information / domain_entropy : 0.0;
  metrics.nmi = domain_entropy > 0 && expert_entropy > 0 ? information / std::sqrt(domain_entropy * expert_entropy) : 0.0;
  metrics.max_violation = *std::ranges::max_element(by_expert) * static_cast<double>(experts) - 1.0;
  return metrics;
}

const std::vector<MetricInfo>& testbed_metric_list() {
  static const std::vector<MetricInfo> list = {
      {"utilisation", "1", "sum over experts of min(load share, 1/E): 1 when every expert carries the same", &TestbedMetrics::utilisation},
      {"expert_entropy", "1", "entropy of the load shares over log E", &TestbedMetrics::expert_entropy},
      {"purity_expert", "1", "share of slots that come from their expert's main domain", &TestbedMetrics::purity_expert},
      {"purity_expert_unweighted", "1", "mean over used experts of the main domain's share", &TestbedMetrics::purity_expert_unweighted},
      {"purity_reference", "1", "share of slots at their domain's experts after the best matching", &TestbedMetrics::purity_reference},
      {"domain_information", "1", "mutual information of domain and expert over the entropy of domains", &TestbedMetrics::domain_information},
      {"nmi", "1", "mutual information of domain and expert over the geometric mean of their entropies", &TestbedMetrics::nmi},
      {"max_violation", "1", "(largest load - mean load) / mean load", &TestbedMetrics::max_violation},
  };
  return list;
}

std::map<std::string, double> gaps_to_reference(const std::map<std::string, double>& trial, const std::map<std::string, double>& reference) {
  std::map<std::string, double> gaps;
  const auto add = [&](const std::string& name, double sign) {
    const auto mine = trial.find(name), theirs = reference.find(name);
    if (mine != trial.end() && theirs != reference.end()) gaps["gap_to_reference." + name] = sign * (mine->second - theirs->second);
  };
  for (const std::string reading : {"", "greedy."}) {
    add(reading + "loss", 1.0);
    for (const std::string name : {"purity_expert", "purity_reference", "utilisation"}) add(reading + name, -1.0);
  }
  return gaps;
}

}  // namespace moesweep::diagnose
