// Oracle for the testbed's metrics (FORMULAS 4 in the project's notes): literal sums over counts, and two ways of their own to the best matching.
// Written from the formulas alone; it shares no code with src/diagnose.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <vector>

namespace moesweep::reference {

/// (token, slot) pairs n[d, e], row-major [D, E].
struct DomainCounts {
  std::int64_t D = 0, E = 0;
  std::vector<std::int64_t> n;

  double at(std::int64_t d, std::int64_t e) const { return static_cast<double>(n.at(static_cast<std::size_t>(d * E + e))); }
  double of_expert(std::int64_t e) const {
    double sum = 0;
    for (std::int64_t d = 0; d < D; ++d) sum += at(d, e);
    return sum;
  }
  double of_domain(std::int64_t d) const {
    double sum = 0;
    for (std::int64_t e = 0; e < E; ++e) sum += at(d, e);
    return sum;
  }
  double all() const {
    double sum = 0;
    for (std::int64_t e = 0; e < E; ++e) sum += of_expert(e);
    return sum;
  }
};

/// sum_e min(f[e], 1/E).
inline double utilisation(const DomainCounts& n) {
  double sum = 0;
  for (std::int64_t e = 0; e < n.E; ++e) sum += std::min(n.of_expert(e) / n.all(), 1.0 / static_cast<double>(n.E));
  return sum;
}

/// -f log f, with its limit 0 at f = 0. Information and entropies are summed in long double: where one cell holds nearly everything they are
/// small differences of large terms.
inline long double minus_f_log_f(long double f) { return f > 0 ? -f * std::log(f) : 0.0L; }

/// H(e) in nats.
inline long double entropy_of_experts(const DomainCounts& n) {
  long double h = 0;
  for (std::int64_t e = 0; e < n.E; ++e) h += minus_f_log_f(static_cast<long double>(n.of_expert(e)) / n.all());
  return h;
}

/// H(d) in nats.
inline long double entropy_of_domains(const DomainCounts& n) {
  long double h = 0;
  for (std::int64_t d = 0; d < n.D; ++d) h += minus_f_log_f(static_cast<long double>(n.of_domain(d)) / n.all());
  return h;
}

/// H(e) / log E; 1 for the only expert.
inline double expert_entropy(const DomainCounts& n) {
  return n.E == 1 ? 1.0 : static_cast<double>(entropy_of_experts(n) / std::log(static_cast<long double>(n.E)));
}

/// max_d n[d,e] / sum_d n[d,e] of a used expert.
inline double purity_of(const DomainCounts& n, std::int64_t e) {
  double most = 0;
  for (std::int64_t d = 0; d < n.D; ++d) most = std::max(most, n.at(d, e));
  return most / n.of_expert(e);
}

/// sum_e f[e] max_d n[d,e] / sum_d n[d,e]; an unused expert has f = 0.
inline double purity_expert(const DomainCounts& n) {
  double sum = 0;
  for (std::int64_t e = 0; e < n.E; ++e)
    if (n.of_expert(e) > 0) sum += n.of_expert(e) / n.all() * purity_of(n, e);
  return sum;
}

/// Mean of max_d n[d,e] / sum_d n[d,e] over the used experts.
inline double purity_expert_unweighted(const DomainCounts& n) {
  double sum = 0, used = 0;
  for (std::int64_t e = 0; e < n.E; ++e) {
    if (n.of_expert(e) == 0) continue;
    sum += purity_of(n, e);
    used += 1;
  }
  return sum / used;
}

/// I(d;e) = sum n/N log(n N / (n_d n_e)), in nats.
inline long double mutual_information(const DomainCounts& n) {
  long double sum = 0;
  for (std::int64_t d = 0; d < n.D; ++d) {
    for (std::int64_t e = 0; e < n.E; ++e) {
      const long double cell = n.at(d, e), all = n.all(), of_domain = n.of_domain(d), of_expert = n.of_expert(e);
      if (cell > 0) sum += cell / all * std::log(cell * all / (of_domain * of_expert));
    }
  }
  return sum;
}

/// I(d;e) / H(d); 0 when there is one domain only.
inline double domain_information(const DomainCounts& n) {
  const long double h = entropy_of_domains(n);
  return h > 0 ? static_cast<double>(mutual_information(n) / h) : 0.0;
}

/// I(d;e) / sqrt(H(d) H(e)); 0 when either entropy is 0.
inline double nmi(const DomainCounts& n) {
  const long double product = entropy_of_domains(n) * entropy_of_experts(n);
  return product > 0 ? static_cast<double>(mutual_information(n) / std::sqrt(product)) : 0.0;
}

/// Slots on the experts of their own domain, under the best of all matchings that give every domain E/D experts; tries all of them.
inline double best_matching_by_enumeration(const DomainCounts& n) {
  if (n.E % n.D != 0) return std::numeric_limits<double>::quiet_NaN();
  std::vector<std::int64_t> room(static_cast<std::size_t>(n.D), n.E / n.D);
  struct Walk {
    const DomainCounts& n;
    std::vector<std::int64_t>& room;
    double best(std::int64_t e) {
      if (e == n.E) return 0;
      double highest = -1;
      for (std::int64_t d = 0; d < n.D; ++d) {
        auto& left = room[static_cast<std::size_t>(d)];
        if (left == 0) continue;
        --left;
        highest = std::max(highest, n.at(d, e) + best(e + 1));
        ++left;
      }
      return highest;
    }
  };
  return Walk{n, room}.best(0);
}

/// The same optimum for larger sizes, as a transport problem solved by successive longest paths (Bellman-Ford): each expert in turn takes a
/// domain, moving earlier experts to other domains along the path that gains most, until the path ends at a domain with room.
inline double best_matching_by_paths(const DomainCounts& n) {
  if (n.E % n.D != 0) return std::numeric_limits<double>::quiet_NaN();
  constexpr double kUnreached = -std::numeric_limits<double>::infinity();
  std::vector<std::int64_t> owner(static_cast<std::size_t>(n.E), -1);
  for (std::int64_t first = 0; first < n.E; ++first) {
    // gain[d]: the most that is won when `first` enters, ending with one expert more at d; reached by moving expert via[d] from from[d] to d.
    std::vector<double> gain(static_cast<std::size_t>(n.D), kUnreached);
    std::vector<std::int64_t> via(static_cast<std::size_t>(n.D), first), from(static_cast<std::size_t>(n.D), -1);
    for (std::int64_t d = 0; d < n.D; ++d) gain[static_cast<std::size_t>(d)] = n.at(d, first);
    for (bool moved = true; moved;) {
      moved = false;
      for (std::int64_t e = 0; e < first; ++e) {
        const std::int64_t at = owner[static_cast<std::size_t>(e)];
        for (std::int64_t d = 0; d < n.D; ++d) {
          const double value = gain[static_cast<std::size_t>(at)] - n.at(at, e) + n.at(d, e);
          if (d == at || value <= gain[static_cast<std::size_t>(d)]) continue;
          gain[static_cast<std::size_t>(d)] = value;
          via[static_cast<std::size_t>(d)] = e;
          from[static_cast<std::size_t>(d)] = at;
          moved = true;
        }
      }
    }
    std::int64_t end = -1;
    for (std::int64_t d = 0; d < n.D; ++d) {
      const auto held = std::count(owner.begin(), owner.end(), d);
      if (held < n.E / n.D && (end < 0 || gain[static_cast<std::size_t>(d)] > gain[static_cast<std::size_t>(end)])) end = d;
    }
    while (end >= 0) {
      owner[static_cast<std::size_t>(via[static_cast<std::size_t>(end)])] = end;
      end = from[static_cast<std::size_t>(end)];
    }
  }
  double sum = 0;
  for (std::int64_t e = 0; e < n.E; ++e) sum += n.at(owner[static_cast<std::size_t>(e)], e);
  return sum;
}

/// Share of slots on their domain's experts under the best matching; NaN when D does not divide E.
inline double purity_reference(const DomainCounts& n) { return best_matching_by_paths(n) / n.all(); }

/// MaxVio = (max c - mean c) / mean c of the experts' counts.
inline double max_violation(const DomainCounts& n) {
  const double mean = n.all() / static_cast<double>(n.E);
  double highest = 0;
  for (std::int64_t e = 0; e < n.E; ++e) highest = std::max(highest, n.of_expert(e));
  return (highest - mean) / mean;
}

inline std::int64_t dead_experts(const DomainCounts& n) {
  std::int64_t dead = 0;
  for (std::int64_t e = 0; e < n.E; ++e) dead += n.of_expert(e) == 0 ? 1 : 0;
  return dead;
}

}  // namespace moesweep::reference
