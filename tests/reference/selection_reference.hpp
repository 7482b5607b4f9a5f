// Oracle for everything between logits and kept slots: scores, noise, selection, weights, capacity, pooling and schedules, as literal, slow
// transcriptions of FORMULAS 1 and 2 and of Capacity in 3 (the project's notes) in plain loops over doubles.
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
#include <vector>

#include "reference/routing_reference.hpp"

namespace moesweep::reference {

enum class Gate { softmax, softmax_selected, sigmoid, sqrt_softplus, relu };
enum class Noise { none, gaussian, gumbel };
enum class GroupScore { top2_sum, max, megatron };
enum class DropPolicy { probability, position, gshard, random };
enum class Schedule { constant, linear, cosine, step };

/// The chosen experts of every token, [T][slots]; a masked token has no slots.
using Experts = std::vector<Integers>;
/// A number for every slot of a choice, [T][slots].
using Slots = std::vector<Vector>;

constexpr std::size_t index(std::int64_t i) { return static_cast<std::size_t>(i); }

// ---------------------------------------------------------------------------------------------------------------- scores

/// log(1 + e^x).
inline double softplus(double x) { return std::max(x, 0.0) + std::log1p(std::exp(-std::abs(x))); }

/// log softplus(x); where e^x underflows softplus(x) is e^x to the last digit.
inline double log_softplus(double x) { return x < -700 ? x : std::log(softplus(x)); }

/// s over all E experts; for softmax_selected that is the softmax over all E.
inline Vector scores(const Vector& x, Gate gate) {
  if (gate == Gate::softmax || gate == Gate::softmax_selected) return softmax(x);
  Vector s;
  for (double v : x) {
    if (gate == Gate::sigmoid) s.push_back(sigmoid(v));
    if (gate == Gate::sqrt_softplus) s.push_back(std::sqrt(softplus(v)));
    if (gate == Gate::relu) s.push_back(std::max(v, 0.0));
  }
  return s;
}

/// p: the scores normalised to sum 1 over E, formed from logarithms where they can underflow. A row of relu without an active expert is 0.
inline Vector probabilities(const Vector& x, Gate gate) {
  if (gate == Gate::softmax || gate == Gate::softmax_selected) return softmax(x);
  if (gate == Gate::relu) {
    Vector p = scores(x, gate);
    const double sum = std::accumulate(p.begin(), p.end(), 0.0);
    if (sum > 0)
      for (double& v : p) v /= sum;
    return p;
  }
  Vector logs;
  for (double v : x) logs.push_back(gate == Gate::sigmoid ? log_sigmoid(v) : log_softplus(v) / 2);
  return softmax(logs);
}

/// Weights of any list of chosen experts, in its order: softmax p as it is; softmax_selected the softmax of the chosen logits; sigmoid and
/// sqrt_softplus divided by the chosen sum + 1e-20 if k > 1, as they are if k = 1; relu as it is. Then times `scale`.
/// `k` is the configured top_k; 0 takes the length of the list.
inline Vector weights_of(const Vector& x, const Integers& chosen, Gate gate, double scale = 1.0, std::int64_t k = 0) {
  if (chosen.empty()) return {};
  Vector weights;
  if (gate == Gate::softmax_selected) {
    Vector kept;
    for (std::int64_t e : chosen) kept.push_back(x.at(index(e)));
    weights = softmax(kept);
  } else {
    const Vector s = scores(x, gate);
    for (std::int64_t e : chosen) weights.push_back(s.at(index(e)));
  }
  if (k == 0) k = static_cast<std::int64_t>(chosen.size());
  if ((gate == Gate::sigmoid || gate == Gate::sqrt_softplus) && k > 1) {
    const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
    for (double& w : weights) w /= sum + 1e-20;
  }
  for (double& w : weights) w *= scale;
  return weights;
}

/// The weights of chosen experts as a choice: live gate on given ids. This is also replay (ids from a record) and random routing (ids drawn
/// elsewhere, softmax_selected weights).
inline Choice weighed(const Input& in, const Experts& experts, Gate gate, double scale = 1.0, std::int64_t k = 0) {
  Choice choice;
  for (std::int64_t t = 0; t < in.T; ++t) {
    choice.experts.push_back(in.counts(t) ? experts.at(index(t)) : Integers{});
    choice.weights.push_back(weights_of(row(in, t), choice.experts.back(), gate, scale, k));
  }
  return choice;
}

// ----------------------------------------------------------------------------------------------------------- perturbation

/// The logits that select and the logits that weigh.
struct Perturbed {
  Input select, weigh;
};

/// h = x / tau + noise. Selection by h; weights from h with gaussian noise, from the clean x / tau with gumbel. `noise` [T, E], empty for none.
inline Perturbed perturbed(const Input& in, double temperature, Noise kind = Noise::none, const Vector& noise = {}) {
  Perturbed out{in, in};
  for (std::size_t i = 0; i < in.logits.size(); ++i) {
    const double clean = in.logits[i] / temperature;
    const double h = kind == Noise::none ? clean : clean + noise.at(i);
    out.select.logits[i] = h;
    out.weigh.logits[i] = kind == Noise::gumbel ? clean : h;
  }
  return out;
}

/// Noisy top-k (Shazeer 2017): h = x + n (softplus(x_noise) + 1e-2), all [T, E]. Top-k of h, weights the softmax over the kept k of h.
inline Input noisy_logits(const Input& in, const Vector& noise_logits, const Vector& normals) {
  Input h = in;
  for (std::size_t i = 0; i < in.logits.size(); ++i) h.logits[i] = in.logits[i] + normals.at(i) * (softplus(noise_logits.at(i)) + 1e-2);
  return h;
}

// ------------------------------------------------------------------------------------------------- selection token by token

/// `choose(x)` for the logits x of every token that counts.
inline Experts select_rows(const Input& in, const std::function<Integers(const Vector&)>& choose) {
  Experts experts;
  for (std::int64_t t = 0; t < in.T; ++t) experts.push_back(in.counts(t) ? choose(row(in, t)) : Integers{});
  return experts;
}

/// s + b; an empty bias is 0.
inline Vector biased_scores(const Vector& x, Gate gate, const Vector& bias) {
  Vector key = scores(x, gate);
  for (std::size_t e = 0; e < key.size() && !bias.empty(); ++e) key[e] += bias.at(e);
  return key;
}

/// Top-k by the logits without a bias, of s + b with one; best first.
inline Experts select_top_k(const Input& in, Gate gate, const Vector& bias = {}) {
  return select_rows(in, [&](const Vector& x) { return top_k(bias.empty() ? x : biased_scores(x, gate, bias), in.k); });
}

/// All k of E experts, in their order.
inline Experts select_dense(const Input& in) {
  return select_rows(in, [&](const Vector&) { return all_experts(in.E); });
}

/// Active iff > 0, in the order of the experts.
inline Experts select_relu(const Input& in) {
  return select_rows(in, [](const Vector& x) {
    Integers chosen;
    for (std::size_t e = 0; e < x.size(); ++e)
      if (x[e] > 0) chosen.push_back(static_cast<std::int64_t>(e));
    return chosen;
  });
}

/// The score of the group of experts [first, first + size): the sum of its best two (of its only one), its best, or the sum of its best k / kept.
inline double group_score(const Vector& key, std::int64_t first, std::int64_t size, GroupScore rule, std::int64_t k, std::int64_t kept) {
  Vector sorted(key.begin() + first, key.begin() + first + size);
  std::sort(sorted.begin(), sorted.end(), std::greater<>());
  std::int64_t best = 1;
  if (rule == GroupScore::top2_sum) best = std::min<std::int64_t>(2, size);
  if (rule == GroupScore::megatron) best = k / kept;
  if (best < 1) throw std::invalid_argument("group_top_k: fewer experts a token than groups kept");
  return std::accumulate(sorted.begin(), sorted.begin() + best, 0.0);
}

/// Keep the best `kept` of `groups` groups by s + b (equal ones: the lower group), the others at -inf, then top-k of s + b.
inline Experts select_group_top_k(const Input& in, Gate gate, std::int64_t groups, std::int64_t kept, GroupScore rule, const Vector& bias = {}) {
  if (groups < 1 || in.E % groups != 0) throw std::invalid_argument("group_top_k: the experts do not divide over the groups");
  const std::int64_t size = in.E / groups;
  if (kept < 1 || kept > groups || kept * size < in.k) throw std::invalid_argument("group_top_k: the groups kept hold fewer experts than top_k");
  return select_rows(in, [&](const Vector& x) {
    Vector key = biased_scores(x, gate, bias);
    Vector of_group;
    for (std::int64_t g = 0; g < groups; ++g) of_group.push_back(group_score(key, g * size, size, rule, in.k, kept));
    const Integers best = top_k(of_group, kept);
    for (std::int64_t e = 0; e < in.E; ++e)
      if (std::find(best.begin(), best.end(), e / size) == best.end()) key[index(e)] = -std::numeric_limits<double>::infinity();
    return top_k(key, in.k);
  });
}

/// The best k / G by s + b of every one of `groups` groups; all of them together best first.
inline Experts select_grouped_top_k(const Input& in, Gate gate, std::int64_t groups, const Vector& bias = {}) {
  if (groups < 1 || in.E % groups != 0 || in.k % groups != 0) throw std::invalid_argument("grouped_top_k: E or k does not divide over the groups");
  const std::int64_t size = in.E / groups;
  return select_rows(in, [&](const Vector& x) {
    const Vector key = biased_scores(x, gate, bias);
    Integers chosen;
    for (std::int64_t g = 0; g < groups; ++g) {
      Integers members(index(size));
      std::iota(members.begin(), members.end(), g * size);
      for (std::int64_t e : top_k(key, in.k / groups, members)) chosen.push_back(e);
    }
    return top_k(key, in.k, chosen);
  });
}

/// The smallest prefix of the sorted p whose sum is >= p0, at least 1 and at most k_max experts.
inline Experts select_top_p(const Input& in, Gate gate, double p0, std::int64_t k_max) {
  return select_rows(in, [&](const Vector& x) {
    const Vector p = probabilities(x, gate);
    Integers chosen;
    double sum = 0;
    for (std::int64_t e : top_k(p, in.E)) {
      chosen.push_back(e);
      sum += p[index(e)];
      if (sum >= p0 || static_cast<std::int64_t>(chosen.size()) == k_max) break;
    }
    return chosen;
  });
}

/// Hash routing: row `token` of a fixed table of `in.k` distinct experts each, weight 1 / k times `scale`.
inline Choice route_hash(const Input& in, const Integers& token, const Experts& table, double scale = 1.0) {
  Choice choice;
  for (std::int64_t t = 0; t < in.T; ++t) {
    choice.experts.push_back(in.counts(t) ? table.at(index(token.at(index(t)))) : Integers{});
    choice.weights.emplace_back(choice.experts.back().size(), scale / static_cast<double>(in.k));
  }
  return choice;
}

// ---------------------------------------------------------------------------------------------------- selection unit by unit

/// The tokens that count, unit by unit, in their order.
inline std::map<std::int64_t, Integers> tokens_by_unit(const Input& in, Scope scope) {
  std::map<std::int64_t, Integers> units;
  for (std::int64_t t = 0; t < in.T; ++t)
    if (in.counts(t)) units[in.unit_of(t, scope)].push_back(t);
  return units;
}

/// C = min(T, floor(cf k T / E + 1/2)): tokens an expert takes in a unit of T.
inline std::int64_t expert_choice_capacity(std::int64_t T, std::int64_t k, std::int64_t E, double cf) {
  const double share = cf * static_cast<double>(k) * static_cast<double>(T) / static_cast<double>(E);
  return std::min(T, static_cast<std::int64_t>(std::floor(share + 0.5)));
}

/// Expert choice (2202.09368): in each unit every expert takes its C best tokens by the softmax p[:, e], of equal ones the lowest token; the
/// weight is p. Experts of a token in rising order.
inline Experts select_expert_choice(const Input& in, Scope scope, double cf) {
  Experts experts(index(in.T));
  for (const auto& [unit, tokens] : tokens_by_unit(in, scope)) {
    const std::int64_t C = expert_choice_capacity(static_cast<std::int64_t>(tokens.size()), in.k, in.E, cf);
    for (std::int64_t e = 0; e < in.E; ++e) {
      const auto p = [&](std::int64_t t) { return softmax(row(in, t))[index(e)]; };
      Integers sorted = tokens;
      std::stable_sort(sorted.begin(), sorted.end(), [&](std::int64_t a, std::int64_t b) { return p(a) > p(b); });
      for (std::int64_t i = 0; i < C; ++i) experts[index(sorted[index(i)])].push_back(e);
    }
  }
  return experts;
}

/// m = max(1, floor(T k / E + 1/2)).
inline std::int64_t threshold_rank(std::int64_t T, std::int64_t k, std::int64_t E) {
  const double share = static_cast<double>(T) * static_cast<double>(k) / static_cast<double>(E);
  return std::max<std::int64_t>(1, static_cast<std::int64_t>(std::floor(share + 0.5)));
}

/// Expert threshold (2603.11535): q[e] = the m-th largest of r[:, e] in each unit, the units averaged by their tokens. 0 without tokens.
inline Vector threshold_quantiles(const Input& in, Scope scope) {
  Vector q(index(in.E), 0.0);
  for (const auto& [unit, tokens] : tokens_by_unit(in, scope)) {
    const auto T = static_cast<std::int64_t>(tokens.size());
    for (std::int64_t e = 0; e < in.E; ++e) {
      Vector r;
      for (std::int64_t t : tokens) r.push_back(in.x(t, e));
      std::sort(r.begin(), r.end(), std::greater<>());
      q[index(e)] += static_cast<double>(T) / static_cast<double>(in.tokens()) * r[index(threshold_rank(T, in.k, in.E) - 1)];
    }
  }
  return q;
}

struct ThresholdState {
  Vector raw;  ///< [E], zero at the start
  std::int64_t updates = 0;
};

/// raw <- b raw + (1 - b) q, once a step.
inline ThresholdState updated_threshold(ThresholdState state, const Vector& q, double decay = 0.999) {
  if (state.raw.empty()) state.raw.assign(q.size(), 0.0);
  for (std::size_t e = 0; e < q.size(); ++e) state.raw[e] = decay * state.raw[e] + (1 - decay) * q[e];
  state.updates += 1;
  return state;
}

/// cut = raw / (1 - b^n) after n >= 1 updates.
inline Vector threshold_cut(const ThresholdState& state, double decay = 0.999) {
  if (state.updates < 1) throw std::invalid_argument("threshold: no cut before the first update");
  Vector cut = state.raw;
  for (double& c : cut) c /= 1 - std::pow(decay, static_cast<double>(state.updates));
  return cut;
}

/// z = 1[r > cut], weight sigmoid(r) times `scale`; experts of a token in rising order.
inline Choice route_threshold(const Input& in, const Vector& cut, double scale = 1.0) {
  Choice choice;
  for (std::int64_t t = 0; t < in.T; ++t) {
    choice.experts.emplace_back();
    choice.weights.emplace_back();
    for (std::int64_t e = 0; e < in.E && in.counts(t); ++e) {
      if (!(in.x(t, e) > cut.at(index(e)))) continue;
      choice.experts.back().push_back(e);
      choice.weights.back().push_back(scale * sigmoid(in.x(t, e)));
    }
  }
  return choice;
}

/// ReMoE (2412.14711): L1 = lambda E / (k T^2) sum_e c[e] sum_t R[t, e] in each unit, R = relu(x), c the active pairs and without gradient;
/// units averaged, weighted by their tokens.
inline Loss relu_l1(const Input& in, Scope scope, double lambda) {
  Loss loss;
  loss.gradient.assign(in.logits.size(), 0.0);
  for (const auto& [unit, tokens] : tokens_by_unit(in, scope)) {
    const auto T = static_cast<double>(tokens.size());
    const double share = T / static_cast<double>(in.tokens());
    const double factor = share * lambda * static_cast<double>(in.E) / (static_cast<double>(in.k) * T * T);
    for (std::int64_t e = 0; e < in.E; ++e) {
      double c = 0, sum = 0;
      for (std::int64_t t : tokens) {
        if (in.x(t, e) > 0) c += 1;
        sum += std::max(in.x(t, e), 0.0);
      }
      loss.value += factor * c * sum;
      for (std::int64_t t : tokens)
        if (in.x(t, e) > 0) loss.gradient[index(t * in.E + e)] = factor * c;
    }
  }
  return loss;
}

/// lambda times 1.2 when the mean sparsity 1 - active / (tokens E) is below 1 - k / E, divided when above, unchanged when equal. In whole
/// numbers: when `active`, the (token, expert) pairs in use, is above tokens k, below, equal. Of several layers both are sums over layers.
inline double updated_l1_weight(double lambda, std::int64_t active, std::int64_t tokens, std::int64_t k, double factor = 1.2) {
  if (active > tokens * k) return lambda * factor;
  if (active < tokens * k) return lambda / factor;
  return lambda;
}

// --------------------------------------------------------------------------------------------------------------- capacity

/// C = min(T, ceil(T k cf / E - 1e-9)) for a unit of T tokens; k is the configured top_k, however many slots a token has.
inline std::int64_t capacity(std::int64_t T, std::int64_t k, std::int64_t E, double cf) {
  const double share = static_cast<double>(T) * static_cast<double>(k) * cf / static_cast<double>(E);
  return std::min(T, static_cast<std::int64_t>(std::ceil(share - 1e-9)));
}

/// 1 for every slot that its expert does not keep. In each unit an expert keeps C of its slots: `probability` those of the largest final
/// weight, `position` those of the earliest tokens, `gshard` all first choices by token before all second ones, `random` those of the highest
/// `priority`, given per (token, slot). Equal ones: the lower token, then the earlier slot. The weights kept stay as they are.
inline Experts dropped(const Input& in, const Choice& choice, Scope scope, double cf, DropPolicy policy, const Slots& priority = {}) {
  struct Claim {
    std::int64_t token;
    std::size_t slot;
    double rank;  // the lowest is kept first
  };
  Experts flags;
  for (const Integers& slots : choice.experts) flags.emplace_back(slots.size(), 0);
  for (const auto& [unit, tokens] : tokens_by_unit(in, scope)) {
    const std::int64_t C = capacity(static_cast<std::int64_t>(tokens.size()), in.k, in.E, cf);
    for (std::int64_t e = 0; e < in.E; ++e) {
      std::vector<Claim> claims;
      for (std::int64_t t : tokens) {
        const Integers& slots = choice.experts.at(index(t));
        for (std::size_t i = 0; i < slots.size(); ++i) {
          if (slots[i] != e) continue;
          double rank = 0;
          if (policy == DropPolicy::probability) rank = -choice.weights.at(index(t)).at(i);
          if (policy == DropPolicy::position) rank = static_cast<double>(t);
          if (policy == DropPolicy::gshard) rank = static_cast<double>(i);
          if (policy == DropPolicy::random) rank = -priority.at(index(t)).at(i);
          claims.push_back({t, i, rank});
        }
      }
      std::stable_sort(claims.begin(), claims.end(), [](const Claim& a, const Claim& b) { return a.rank < b.rank; });
      for (std::size_t i = index(C); i < claims.size(); ++i) flags[index(claims[i].token)][claims[i].slot] = 1;
    }
  }
  return flags;
}

// ---------------------------------------------------------------------------------------------------------------- pooling

/// One decision a unit: every token has the mean logits of the unit's tokens (with a linear router, those of its mean hidden state).
inline Input pooled(const Input& in, Scope scope) {
  Input out = in;
  for (const auto& [unit, tokens] : tokens_by_unit(in, scope)) {
    for (std::int64_t e = 0; e < in.E; ++e) {
      double mean = 0;
      for (std::int64_t t : tokens) mean += in.x(t, e) / static_cast<double>(tokens.size());
      for (std::int64_t t : tokens) out.logits[index(t * in.E + e)] = mean;
    }
  }
  return out;
}

/// The first n tokens of a sequence that count keep their logits; the others have the mean of those n.
inline Input pooled_prefix(const Input& in, std::int64_t n) {
  Input out = in;
  for (const auto& [sequence, tokens] : tokens_by_unit(in, Scope::sequence)) {
    for (std::int64_t e = 0; e < in.E; ++e) {
      double mean = 0;
      for (std::size_t i = 0; i < tokens.size() && i < index(n); ++i) mean += in.x(tokens[i], e) / static_cast<double>(n);
      for (std::size_t i = index(n); i < tokens.size(); ++i) out.logits[index(tokens[i] * in.E + e)] = mean;
    }
  }
  return out;
}

/// d loss / d logits from d loss / d pooled logits, both [T, E].
inline Vector pooled_gradient(const Input& in, Scope scope, const Vector& upstream) {
  Vector gradient(in.logits.size(), 0.0);
  for (const auto& [unit, tokens] : tokens_by_unit(in, scope)) {
    for (std::int64_t e = 0; e < in.E; ++e)
      for (std::int64_t from : tokens)
        for (std::int64_t to : tokens) gradient[index(to * in.E + e)] += upstream.at(index(from * in.E + e)) / static_cast<double>(tokens.size());
  }
  return gradient;
}

/// The same for pooled_prefix.
inline Vector pooled_prefix_gradient(const Input& in, std::int64_t n, const Vector& upstream) {
  Vector gradient(in.logits.size(), 0.0);
  for (const auto& [sequence, tokens] : tokens_by_unit(in, Scope::sequence)) {
    for (std::int64_t e = 0; e < in.E; ++e) {
      for (std::size_t i = 0; i < tokens.size(); ++i) {
        const double g = upstream.at(index(tokens[i] * in.E + e));
        if (i < index(n)) gradient[index(tokens[i] * in.E + e)] += g;
        for (std::size_t j = 0; j < index(n) && i >= index(n); ++j) gradient[index(tokens[j] * in.E + e)] += g / static_cast<double>(n);
      }
    }
  }
  return gradient;
}

// -------------------------------------------------------------------------------------------------------------- schedules

/// `start` before `from`, `end` from `to` on, between them linear or half a cosine; a step jumps at `from`; a constant is `start`.
inline double scheduled(Schedule kind, double start, double end, std::int64_t from, std::int64_t to, std::int64_t step) {
  if (kind == Schedule::constant || step < from) return start;
  if (kind == Schedule::step || step >= to) return end;
  const double done = static_cast<double>(step - from) / static_cast<double>(to - from);
  if (kind == Schedule::linear) return start + (end - start) * done;
  return start + (end - start) * (1 - std::cos(std::acos(-1.0) * done)) / 2;
}

// -------------------------------------------------------------------------------------------------------------- gradients

/// d log s / d x of a sigmoid or sqrt_softplus score.
inline double log_slope(double x, Gate gate) {
  if (gate == Gate::sigmoid) return sigmoid(-x);
  return x < -700 ? 0.5 : sigmoid(x) / (2 * softplus(x));
}

/// d loss / d x [E] from d loss / d weights [slots] of one token, the chosen experts held fixed.
inline Vector weights_slope(const Vector& x, const Integers& chosen, const Vector& upstream, Gate gate, double scale = 1.0, std::int64_t k = 0) {
  Vector gradient(x.size(), 0.0);
  const Vector s = scores(x, gate), w = weights_of(x, chosen, gate, 1.0, k);
  if (k == 0) k = static_cast<std::int64_t>(chosen.size());
  double sum = 0;
  for (std::int64_t e : chosen) sum += s[index(e)];
  for (std::size_t i = 0; i < chosen.size(); ++i) {
    const double g = scale * upstream.at(i);
    if (gate == Gate::softmax) {  // dp_i / dx_j = p_i (delta_ij - p_j), for every j
      for (std::size_t j = 0; j < x.size(); ++j) gradient[j] += g * w[i] * ((index(chosen[i]) == j ? 1.0 : 0.0) - s[j]);
    } else if (gate == Gate::relu) {
      if (x[index(chosen[i])] > 0) gradient[index(chosen[i])] += g;
    } else {
      for (std::size_t j = 0; j < chosen.size(); ++j) {
        const double same = i == j ? 1.0 : 0.0, xj = x[index(chosen[j])], sj = s[index(chosen[j])];
        double slope = 0;
        if (gate == Gate::softmax_selected) slope = w[i] * (same - w[j]);       // the softmax among the chosen alone
        else if (k == 1) slope = same * sj * log_slope(xj, gate);               // w_i = s_i
        else slope = (same - w[i]) * sj * log_slope(xj, gate) / (sum + 1e-20);  // w_i = s_i / (sum s + 1e-20)
        gradient[index(chosen[j])] += g * slope;
      }
    }
  }
  return gradient;
}

/// d loss / d x [T, E] from d loss / d weights [T][slots], choice and noise held fixed; `weigh` holds the logits that weigh, x / temperature
/// plus what noise there is.
inline Vector weights_gradient(const Input& weigh, const Experts& experts, const Slots& upstream, Gate gate, double scale = 1.0,
                               double temperature = 1.0, std::int64_t k = 0) {
  Vector gradient(weigh.logits.size(), 0.0);
  for (std::int64_t t = 0; t < weigh.T; ++t) {
    if (!weigh.counts(t)) continue;
    const Vector slope = weights_slope(row(weigh, t), experts.at(index(t)), upstream.at(index(t)), gate, scale, k);
    for (std::int64_t e = 0; e < weigh.E; ++e) gradient[index(t * weigh.E + e)] = slope[index(e)] / temperature;
  }
  return gradient;
}

/// The same for the weights sigmoid(r) of the expert threshold, which are never normalised.
inline Vector threshold_weights_gradient(const Input& in, const Experts& experts, const Slots& upstream, double scale = 1.0) {
  return weights_gradient(in, experts, upstream, Gate::sigmoid, scale, 1.0, 1);
}

struct NoisyGradient {
  Vector logits, noise_logits;  ///< [T, E] each
};

/// d loss / d x and d loss / d x_noise of the noisy top-k gate.
inline NoisyGradient noisy_gradient(const Input& in, const Vector& noise_logits, const Vector& normals, const Experts& experts, const Slots& upstream,
                                    double scale = 1.0) {
  NoisyGradient out;
  out.logits = weights_gradient(noisy_logits(in, noise_logits, normals), experts, upstream, Gate::softmax_selected, scale);
  for (std::size_t i = 0; i < out.logits.size(); ++i) out.noise_logits.push_back(out.logits[i] * normals.at(i) * sigmoid(noise_logits.at(i)));
  return out;
}

/// d loss / d x [E] from d loss / d p [E] of one token, p the scores normalised over all E.
inline Vector probabilities_slope(const Vector& x, const Vector& upstream, Gate gate) {
  const Vector s = scores(x, gate), p = probabilities(x, gate);
  const double sum = std::accumulate(s.begin(), s.end(), 0.0);
  Vector gradient(x.size(), 0.0);
  for (std::size_t i = 0; i < x.size(); ++i) {
    for (std::size_t j = 0; j < x.size(); ++j) {
      const double same = i == j ? 1.0 : 0.0;
      if (gate == Gate::relu) gradient[j] += x[j] > 0 ? upstream.at(i) * (same - p[i]) / sum : 0.0;
      else if (gate == Gate::sigmoid || gate == Gate::sqrt_softplus) gradient[j] += upstream.at(i) * (same - p[i]) * p[j] * log_slope(x[j], gate);
      else gradient[j] += upstream.at(i) * (same - p[i]) * p[j];
    }
  }
  return gradient;
}

/// d loss / d logits by central differences, for loss = sum of upstream times weights and weights = `weights(input)`, [T][slots].
inline Vector weights_differences(const Input& in, const Slots& upstream, const std::function<Slots(const Input&)>& weights, double step = 1e-6) {
  const auto loss = [&](const Vector& logits) {
    Input moved = in;
    moved.logits = logits;
    const Slots w = weights(moved);
    double sum = 0;
    for (std::size_t t = 0; t < w.size(); ++t)
      for (std::size_t i = 0; i < w[t].size(); ++i) sum += upstream.at(t).at(i) * w[t][i];
    return sum;
  };
  return finite_differences(loss, in.logits, step);
}

}  // namespace moesweep::reference
