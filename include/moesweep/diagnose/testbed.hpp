// The testbed's metrics (arXiv 2604.07030; FORMULAS 4 in the project's notes), from routing counts; torch-free.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

namespace moesweep::diagnose {

/// (token, slot) pairs by domain and expert of one layer, row-major [domains, experts].
struct Counts {
  std::int64_t domains = 0, experts = 0;
  std::vector<std::int64_t> values;

  std::int64_t at(std::int64_t domain, std::int64_t expert) const { return values[static_cast<std::size_t>(domain * experts + expert)]; }
};

/// Metrics of one layer; all are in [0, 1] but max_violation (>= 0).
struct TestbedMetrics {
  double utilisation = 0;               ///< sum_e min(f[e], 1/E)
  double expert_entropy = 0;            ///< -sum f log f / log E; 1 for E = 1
  double purity_expert = 0;             ///< sum_e f[e] max_d n[d,e] / sum_d n[d,e]
  double purity_expert_unweighted = 0;  ///< mean over used experts of max_d n[d,e] / sum_d n[d,e]
  double purity_reference =
      0;  ///< share of slots at the token's domain's experts after the best matching with E/D experts a domain; NaN when D does not divide E
  double domain_information = 0;  ///< I(d;e) / H(d)
  double nmi = 0;                 ///< I(d;e) / sqrt(H(d) H(e)); 0 when either entropy is 0
  double max_violation = 0;       ///< (max_e c - mean c) / mean c
  std::int64_t dead_experts = 0;  ///< experts without a slot
};

/// `data` error when the counts are empty or negative.
TestbedMetrics testbed_metrics(const Counts& counts);

/// Names, units, descriptions in a fixed order, as used in records and reports.
struct MetricInfo {
  /// dead_experts is an integer and stands apart.
  std::string name, unit, description;
  double TestbedMetrics::*value;
};
const std::vector<MetricInfo>& testbed_metric_list();

/// What a trial lacks against the reference router of equal other config and seed: reference - trial for purity and utilisation,
/// trial - reference for loss, so that a gap above 0 always means worse than the reference. Keys `gap_to_reference.NAME`.
std::map<std::string, double> gaps_to_reference(const std::map<std::string, double>& trial, const std::map<std::string, double>& reference);

}  // namespace moesweep::diagnose
