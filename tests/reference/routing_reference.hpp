// Oracle for routing and balancing: literal, slow transcriptions of FORMULAS 1 to 3 (the project's notes) in plain loops over doubles.
// Written from the formulas alone; it shares no code with src/routing, so that an error is not made twice.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <numeric>
#include <stdexcept>
#include <tuple>
#include <utility>
#include <vector>

namespace moesweep::reference {

using Vector = std::vector<double>;
using Integers = std::vector<std::int64_t>;

enum class Score { softmax, softmax_selected, sigmoid };
enum class Scope { sequence, micro_batch, global_batch };
enum class BiasRule { sign, proportional };

/// The tokens of one optimizer step at one layer. Vectors per token may be left empty: domain, sequence and micro_batch are then 0
/// for every token, and every token counts.
struct Input {
  std::int64_t T = 0, E = 0, k = 1;
  Vector logits;          ///< [T, E], row-major
  Integers domain;        ///< [T]
  Integers sequence;      ///< [T]
  Integers micro_batch;   ///< [T]
  std::vector<int> mask;  ///< [T], 1 = counts

  double x(std::int64_t t, std::int64_t e) const { return logits.at(static_cast<std::size_t>(t * E + e)); }
  bool counts(std::int64_t t) const { return mask.empty() || mask.at(static_cast<std::size_t>(t)) != 0; }
  std::int64_t domain_of(std::int64_t t) const { return domain.empty() ? 0 : domain.at(static_cast<std::size_t>(t)); }

  /// Number of the unit that token t belongs to.
  std::int64_t unit_of(std::int64_t t, Scope scope) const {
    const Integers& units = scope == Scope::sequence ? sequence : micro_batch;
    return scope == Scope::global_batch || units.empty() ? 0 : units.at(static_cast<std::size_t>(t));
  }
  std::int64_t tokens() const {
    std::int64_t n = 0;
    for (std::int64_t t = 0; t < T; ++t) n += counts(t) ? 1 : 0;
    return n;
  }
};

/// What each token chose, in order of choice (best first); a masked token has no slots.
struct Choice {
  std::vector<Integers> experts;  ///< [T][slots]
  std::vector<Vector> weights;    ///< [T][slots]
};

/// A loss and its gradient with respect to the logits, [T, E] row-major; zero in masked rows.
struct Loss {
  double value = 0;
  Vector gradient;
};

// ---------------------------------------------------------------------------------------------------------------- scores

inline double log_sum_exp(const Vector& x) {
  const double highest = *std::max_element(x.begin(), x.end());
  double sum = 0;
  for (double v : x) sum += std::exp(v - highest);
  return highest + std::log(sum);
}

inline Vector softmax(const Vector& x) {
  const double whole = log_sum_exp(x);
  Vector p;
  for (double v : x) p.push_back(std::exp(v - whole));
  return p;
}

inline double sigmoid(double x) { return x >= 0 ? 1 / (1 + std::exp(-x)) : std::exp(x) / (1 + std::exp(x)); }

/// log sigmoid(x), also where sigmoid(x) itself underflows.
inline double log_sigmoid(double x) { return x >= 0 ? -std::log1p(std::exp(-x)) : x - std::log1p(std::exp(x)); }

inline Vector row(const Input& in, std::int64_t t) {
  Vector x;
  for (std::int64_t e = 0; e < in.E; ++e) x.push_back(in.x(t, e));
  return x;
}

/// s over all E experts; for softmax_selected that is the softmax over all E.
inline Vector scores(const Vector& x, Score score) {
  if (score != Score::sigmoid) return softmax(x);
  Vector s;
  for (double v : x) s.push_back(sigmoid(v));
  return s;
}

/// p: the scores normalised to sum 1 over E. For sigmoid it is formed from logarithms, since s / sum s is 0 / 0 when all scores underflow.
inline Vector probabilities(const Vector& x, Score score) {
  if (score != Score::sigmoid) return softmax(x);
  Vector logs;
  for (double v : x) logs.push_back(log_sigmoid(v));
  return softmax(logs);
}

// ------------------------------------------------------------------------------------------------------------- selection

/// The k best of `allowed` by `values`, best first; of equal ones the lowest number.
inline Integers top_k(const Vector& values, std::int64_t k, const Integers& allowed) {
  if (k < 1 || k > static_cast<std::int64_t>(allowed.size())) throw std::invalid_argument("top_k: k is not within 1 .. number of experts");
  Integers chosen;
  while (static_cast<std::int64_t>(chosen.size()) < k) {
    std::int64_t best = -1;
    for (std::int64_t e : allowed) {
      if (std::find(chosen.begin(), chosen.end(), e) != chosen.end()) continue;
      const double value = values.at(static_cast<std::size_t>(e));
      if (best < 0) {
        best = e;
        continue;
      }
      const double highest = values.at(static_cast<std::size_t>(best));
      if (value > highest || (value == highest && e < best)) best = e;
    }
    chosen.push_back(best);
  }
  return chosen;
}

inline Integers all_experts(std::int64_t E) {
  Integers all(static_cast<std::size_t>(E));
  std::iota(all.begin(), all.end(), std::int64_t{0});
  return all;
}

inline Integers top_k(const Vector& values, std::int64_t k) { return top_k(values, k, all_experts(static_cast<std::int64_t>(values.size()))); }

/// Weights of the chosen experts: softmax p as it is; softmax_selected p renormalised, which is the softmax of the chosen logits;
/// sigmoid divided by the chosen sum + 1e-20 for k > 1, as it is for k = 1. Then times `scale`.
inline Vector weights_of(const Vector& x, const Integers& chosen, Score score, double scale = 1.0) {
  Vector weights;
  if (score == Score::softmax_selected) {
    Vector kept;
    for (std::int64_t e : chosen) kept.push_back(x.at(static_cast<std::size_t>(e)));
    weights = softmax(kept);
  } else {
    const Vector s = scores(x, score);
    double sum = 0;
    for (std::int64_t e : chosen) {
      weights.push_back(s.at(static_cast<std::size_t>(e)));
      sum += weights.back();
    }
    if (score == Score::sigmoid && chosen.size() > 1)
      for (double& w : weights) w /= sum + 1e-20;
  }
  for (double& w : weights) w *= scale;
  return weights;
}

/// Top-k routing. Without a bias by the logits (the order of s); with one, [E], by s + b with s over all E. Weights always from the unbiased s.
inline Choice route_top_k(const Input& in, Score score, double scale = 1.0, const Vector& bias = {}) {
  Choice choice;
  for (std::int64_t t = 0; t < in.T; ++t) {
    choice.experts.emplace_back();
    choice.weights.emplace_back();
    if (!in.counts(t)) continue;
    const Vector x = row(in, t);
    Vector key = x;
    if (!bias.empty()) {
      key = scores(x, score);
      for (std::size_t e = 0; e < key.size(); ++e) key[e] += bias.at(e);
    }
    choice.experts.back() = top_k(key, in.k);
    choice.weights.back() = weights_of(x, choice.experts.back(), score, scale);
  }
  return choice;
}

/// The reference router (2604.07030): E / D experts a domain, in order; with E = D k all of them, with more the top-k among them.
/// Weights: softmax over the chosen logits, or 1 / k each; times `scale`.
inline Choice route_reference(const Input& in, std::int64_t domains, bool uniform_weights = false, double scale = 1.0) {
  if (domains < 1 || in.E % domains != 0) throw std::invalid_argument("reference router: the experts do not divide over the domains");
  const std::int64_t share = in.E / domains;
  if (in.k > share) throw std::invalid_argument("reference router: fewer experts a domain than top_k");
  Choice choice;
  for (std::int64_t t = 0; t < in.T; ++t) {
    choice.experts.emplace_back();
    choice.weights.emplace_back();
    if (!in.counts(t)) continue;
    const std::int64_t d = in.domain_of(t);
    if (d < 0 || d >= domains) throw std::invalid_argument("reference router: a token of no domain");
    Integers allowed;
    for (std::int64_t e = d * share; e < (d + 1) * share; ++e) allowed.push_back(e);
    const Vector x = row(in, t);
    choice.experts.back() = top_k(x, in.k, allowed);
    choice.weights.back() = weights_of(x, choice.experts.back(), Score::softmax_selected, scale);
    if (uniform_weights)
      for (double& w : choice.weights.back()) w = scale / static_cast<double>(in.k);
  }
  return choice;
}

/// Slots of each token by rising expert number: for comparing choices whose slot order carries no meaning.
inline Choice by_expert(Choice choice) {
  for (std::size_t t = 0; t < choice.experts.size(); ++t) {
    std::vector<std::pair<std::int64_t, double>> slots;
    for (std::size_t i = 0; i < choice.experts[t].size(); ++i) slots.emplace_back(choice.experts[t][i], choice.weights[t][i]);
    std::sort(slots.begin(), slots.end());
    for (std::size_t i = 0; i < slots.size(); ++i) std::tie(choice.experts[t][i], choice.weights[t][i]) = slots[i];
  }
  return choice;
}

/// d loss / d logits [T, E] from d loss / d weights (per token and slot, as in `choice`), the chosen experts held fixed.
/// `uniform_weights`: weights that do not depend on the logits.
inline Vector weights_gradient(const Input& in, const Choice& choice, const std::vector<Vector>& upstream, Score score, double scale = 1.0,
                               bool uniform_weights = false) {
  Vector gradient(in.logits.size(), 0.0);
  for (std::int64_t t = 0; t < in.T && !uniform_weights; ++t) {
    const auto& chosen = choice.experts.at(static_cast<std::size_t>(t));
    const auto& g = upstream.at(static_cast<std::size_t>(t));
    if (chosen.empty()) continue;
    const Vector x = row(in, t), s = scores(x, score), w = weights_of(x, chosen, score);
    double sum = 0, inner = 0;
    for (std::size_t i = 0; i < chosen.size(); ++i) {
      sum += s[static_cast<std::size_t>(chosen[i])];
      inner += g.at(i) * w[i];
    }
    const auto slot = [&](std::int64_t e) { return static_cast<std::size_t>(t * in.E + e); };
    if (score == Score::softmax) {  // dp_i / dx_e = p_i (delta - p_e), for every e
      for (std::int64_t e = 0; e < in.E; ++e) gradient[slot(e)] -= scale * inner * s[static_cast<std::size_t>(e)];
      for (std::size_t i = 0; i < chosen.size(); ++i) gradient[slot(chosen[i])] += scale * g[i] * w[i];
    } else if (score == Score::softmax_selected) {  // the same among the chosen alone
      for (std::size_t i = 0; i < chosen.size(); ++i) gradient[slot(chosen[i])] += scale * w[i] * (g[i] - inner);
    } else {
      for (std::size_t i = 0; i < chosen.size(); ++i) {
        const double si = s[static_cast<std::size_t>(chosen[i])], slope = si * (1 - si);
        gradient[slot(chosen[i])] += scale * slope * (chosen.size() > 1 ? (g[i] - inner) / (sum + 1e-20) : g[i]);
      }
    }
  }
  return gradient;
}

// ------------------------------------------------------------------------------------------------------------------ units

/// (token, slot) pairs by expert, unit by unit in rising unit number; units without a counted token are left out.
inline std::vector<Vector> counts_by_unit(const Input& in, const Choice& choice, Scope scope) {
  std::map<std::int64_t, Vector> units;
  for (std::int64_t t = 0; t < in.T; ++t) {
    if (!in.counts(t)) continue;
    Vector& c = units.try_emplace(in.unit_of(t, scope), Vector(static_cast<std::size_t>(in.E), 0.0)).first->second;
    for (std::int64_t e : choice.experts.at(static_cast<std::size_t>(t))) c.at(static_cast<std::size_t>(e)) += 1;
  }
  std::vector<Vector> counts;
  for (auto& [unit, c] : units) counts.push_back(c);
  return counts;
}

/// (token, slot) pairs by domain and expert, [D, E] row-major.
inline Integers counts_by_domain(const Input& in, const Choice& choice, std::int64_t domains) {
  Integers n(static_cast<std::size_t>(domains * in.E), 0);
  for (std::int64_t t = 0; t < in.T; ++t) {
    if (!in.counts(t)) continue;
    for (std::int64_t e : choice.experts.at(static_cast<std::size_t>(t))) n.at(static_cast<std::size_t>(in.domain_of(t) * in.E + e)) += 1;
  }
  return n;
}

// ------------------------------------------------------------------------------------------------------------------ losses

/// L = a E sum_e f[e] P[e] in each unit, f from the plain top-k without bias and before dropping, P the token mean of p; units averaged,
/// weighted by their tokens. The gradient goes through P alone.
inline Loss aux_loss(const Input& in, Score score, Scope scope, double weight) {
  Loss loss;
  loss.gradient.assign(in.logits.size(), 0.0);
  const auto experts = static_cast<std::size_t>(in.E);
  std::map<std::int64_t, Integers> units;
  for (std::int64_t t = 0; t < in.T; ++t)
    if (in.counts(t)) units[in.unit_of(t, scope)].push_back(t);
  const auto all = static_cast<double>(in.tokens());
  for (const auto& [unit, tokens] : units) {
    Vector c(experts, 0.0), P(experts, 0.0);
    double slots = 0;
    for (std::int64_t t : tokens) {
      const Vector x = row(in, t), p = probabilities(x, score);
      for (std::int64_t e : top_k(x, in.k)) {
        c[static_cast<std::size_t>(e)] += 1;
        slots += 1;
      }
      for (std::size_t e = 0; e < experts; ++e) P[e] += p[e] / static_cast<double>(tokens.size());
    }
    const double share = static_cast<double>(tokens.size()) / all;
    for (std::size_t e = 0; e < experts; ++e) loss.value += share * weight * static_cast<double>(in.E) * c[e] / slots * P[e];
    for (std::int64_t t : tokens) {
      const Vector x = row(in, t), p = probabilities(x, score);
      for (std::size_t j = 0; j < experts; ++j) {
        // dp[e] / dx[j] = p[j] (delta_ej - p[e]), times (1 - s[j]) when p = s / sum s with s = sigmoid(x).
        double slope = 0;
        for (std::size_t e = 0; e < experts; ++e) slope += c[e] / slots * p[j] * ((e == j ? 1.0 : 0.0) - p[e]);
        if (score == Score::sigmoid) slope *= sigmoid(-x[j]);
        loss.gradient[static_cast<std::size_t>(t) * experts + j] += weight * static_cast<double>(in.E) * slope / all;
      }
    }
  }
  return loss;
}

/// w mean_t logsumexp_e(x)^2 over the counted tokens, with its gradient.
inline Loss z_loss(const Input& in, double weight) {
  Loss loss;
  loss.gradient.assign(in.logits.size(), 0.0);
  const auto all = static_cast<double>(in.tokens());
  for (std::int64_t t = 0; t < in.T; ++t) {
    if (!in.counts(t)) continue;
    const Vector x = row(in, t), p = softmax(x);
    const double z = log_sum_exp(x);
    loss.value += weight * z * z / all;
    for (std::int64_t e = 0; e < in.E; ++e)
      loss.gradient[static_cast<std::size_t>(t * in.E + e)] = weight * 2 * z * p[static_cast<std::size_t>(e)] / all;
  }
  return loss;
}

// ------------------------------------------------------------------------------------------------------------ expert bias

/// b + (u / M) sum_j sign(mean(c_j) - c_j) over the M units of `counts` that hold a token; `proportional` has (mean - c) / mean in place of
/// the sign. Mean-centred: the mean of the change over the experts is taken off it.
inline Vector updated_bias(Vector bias, const std::vector<Vector>& counts, double rate, BiasRule rule = BiasRule::sign, bool mean_centred = false) {
  Vector change(bias.size(), 0.0);
  double units = 0;
  for (const Vector& c : counts) {
    const double sum = std::accumulate(c.begin(), c.end(), 0.0), mean = sum / static_cast<double>(c.size());
    if (sum == 0) continue;
    units += 1;
    for (std::size_t e = 0; e < bias.size(); ++e) {
      const double gap = mean - c.at(e);
      if (rule == BiasRule::proportional) change[e] += gap / mean;
      else change[e] += gap > 0 ? 1.0 : gap < 0 ? -1.0 : 0.0;
    }
  }
  if (units == 0) return bias;
  double centre = 0;
  if (mean_centred) centre = std::accumulate(change.begin(), change.end(), 0.0) / static_cast<double>(change.size());
  for (std::size_t e = 0; e < bias.size(); ++e) bias[e] += rate / units * (change[e] - centre);
  return bias;
}

/// MaxVio = (max c - mean c) / mean c.
inline double max_violation(const Vector& c) {
  const double mean = std::accumulate(c.begin(), c.end(), 0.0) / static_cast<double>(c.size());
  return (*std::max_element(c.begin(), c.end()) - mean) / mean;
}

// ------------------------------------------------------------------------------------------------------ finite differences

/// Central differences of `loss` at `at`, one entry of the gradient each.
inline Vector finite_differences(const std::function<double(const Vector&)>& loss, const Vector& at, double step = 1e-6) {
  Vector gradient(at.size());
  for (std::size_t i = 0; i < at.size(); ++i) {
    Vector moved = at;
    moved[i] = at[i] + step;
    const double above = loss(moved);
    moved[i] = at[i] - step;
    gradient[i] = (above - loss(moved)) / (2 * step);
  }
  return gradient;
}

}  // namespace moesweep::reference
