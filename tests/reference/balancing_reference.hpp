// Oracle for balancing and regularisation: slow, literal transcriptions of FORMULAS 3 (the project's notes) in plain loops over doubles.
// Written from the formulas alone, like routing_reference.hpp, which it builds upon. What the notes leave open is marked "reading:".
#pragma once

#include <array>

#include "reference/routing_reference.hpp"

namespace moesweep::reference {

/// Something per unit, by unit number.
template <class Value>
using ByUnit = std::map<std::int64_t, Value>;

// ------------------------------------------------------------------------------------------------------------------ units

/// [T], the number of the unit of each token. Other scopes (group, running) are such vectors that a test writes down itself.
inline Integers units_of(const Input& in, Scope scope) {
  Integers units;
  for (std::int64_t t = 0; t < in.T; ++t) units.push_back(in.unit_of(t, scope));
  return units;
}

/// The counted tokens of each unit in rising order; a unit without one is left out.
inline ByUnit<Integers> tokens_by_unit(const Input& in, const Integers& units) {
  ByUnit<Integers> tokens;
  for (std::int64_t t = 0; t < in.T; ++t)
    if (in.counts(t)) tokens[units.at(static_cast<std::size_t>(t))].push_back(t);
  return tokens;
}

/// (token, slot) pairs by expert in each unit. `first_choice`: of the first slots alone.
inline ByUnit<Vector> unit_counts(const Input& in, const Choice& choice, const Integers& units, bool first_choice = false) {
  ByUnit<Vector> counts;
  for (const auto& [unit, tokens] : tokens_by_unit(in, units)) {
    Vector& c = counts.try_emplace(unit, Vector(static_cast<std::size_t>(in.E), 0.0)).first->second;
    for (std::int64_t t : tokens) {
      const Integers& chosen = choice.experts.at(static_cast<std::size_t>(t));
      for (std::size_t slot = 0; slot < chosen.size(); ++slot)
        if (slot == 0 || !first_choice) c.at(static_cast<std::size_t>(chosen[slot])) += 1;
    }
  }
  return counts;
}

/// f = c / sum c.
inline Vector fractions(Vector c) {
  const double sum = std::accumulate(c.begin(), c.end(), 0.0);
  for (double& v : c) v /= sum;
  return c;
}

/// The unit means of p, P[e] = mean_t p[t,e].
inline Vector mean_probabilities(const Input& in, const Integers& tokens, Score score) {
  Vector P(static_cast<std::size_t>(in.E), 0.0);
  for (std::int64_t t : tokens) {
    const Vector p = probabilities(row(in, t), score);
    for (std::size_t e = 0; e < P.size(); ++e) P[e] += p[e] / static_cast<double>(tokens.size());
  }
  return P;
}

/// d loss / d x of one token from d loss / d p: p_j (u_j - sum_e u_e p_e), times 1 - sigmoid(x_j) where p = s / sum s, s = sigmoid(x).
inline Vector through_probabilities(const Vector& x, Score score, const Vector& upstream) {
  const Vector p = probabilities(x, score);
  double inner = 0;
  for (std::size_t e = 0; e < p.size(); ++e) inner += upstream.at(e) * p[e];
  Vector gradient;
  for (std::size_t j = 0; j < p.size(); ++j) gradient.push_back(p[j] * (upstream[j] - inner) * (score == Score::sigmoid ? sigmoid(-x[j]) : 1.0));
  return gradient;
}

/// The same from d loss / d s, s the full-E score that need not sum to 1.
inline Vector through_scores(const Vector& x, Score score, const Vector& upstream) {
  if (score != Score::sigmoid) return through_probabilities(x, score, upstream);
  Vector gradient;
  for (std::size_t j = 0; j < x.size(); ++j) gradient.push_back(upstream.at(j) * sigmoid(x[j]) * sigmoid(-x[j]));
  return gradient;
}

inline void add_row(Vector& gradient, std::int64_t t, const Vector& values) {
  for (std::size_t e = 0; e < values.size(); ++e) gradient.at(static_cast<std::size_t>(t) * values.size() + e) += values[e];
}

/// A loss on the unit's P, averaged over the units by tokens; `of` gives the loss of one unit and fills d loss / d P.
inline Loss loss_of_mean_probabilities(const Input& in, Score score, const Integers& units,
                                       const std::function<double(std::int64_t unit, const Vector& P, Vector& upstream)>& of) {
  Loss loss;
  loss.gradient.assign(in.logits.size(), 0.0);
  const auto all = static_cast<double>(in.tokens());
  for (const auto& [unit, tokens] : tokens_by_unit(in, units)) {
    const auto n = static_cast<double>(tokens.size());
    Vector upstream(static_cast<std::size_t>(in.E), 0.0);
    loss.value += n / all * of(unit, mean_probabilities(in, tokens, score), upstream);
    for (double& u : upstream) u *= n / all / n;  // the unit's weight, and 1 / n of P
    for (std::int64_t t : tokens) add_row(loss.gradient, t, through_probabilities(row(in, t), score, upstream));
  }
  return loss;
}

// --------------------------------------------------------------------------------------------------------------- aux loss

/// a E sum_e f[e] P[e] in each unit with f as given (a constant); units averaged by tokens.
inline Loss aux_loss_given(const Input& in, Score score, const Integers& units, const ByUnit<Vector>& f, double weight) {
  return loss_of_mean_probabilities(in, score, units, [&](std::int64_t unit, const Vector& P, Vector& upstream) {
    double value = 0;
    for (std::size_t e = 0; e < P.size(); ++e) {
      upstream[e] = weight * static_cast<double>(in.E) * f.at(unit).at(e);
      value += upstream[e] * P[e];
    }
    return value;
  });
}

/// `running`: entry j holds the sums of entries 0 .. j, the present unit included. `counts` in the order of the step.
inline std::vector<Vector> running_counts(const std::vector<Vector>& counts) {
  std::vector<Vector> sums;
  for (std::size_t j = 0; j < counts.size(); ++j) {
    Vector sum(counts[j].size(), 0.0);
    for (std::size_t i = 0; i <= j; ++i)
      for (std::size_t e = 0; e < sum.size(); ++e) sum[e] += counts[i].at(e);
    sums.push_back(sum);
  }
  return sums;
}

/// `history`: f <- decay f + (1 - decay) f(step), used from the next step.
/// reading: the first step, which routes as global_batch, leaves f(step) itself; a step without tokens changes nothing.
inline Vector updated_history(const Vector& history, const Vector& step_counts, double decay = 0.9) {
  if (std::accumulate(step_counts.begin(), step_counts.end(), 0.0) == 0) return history;
  const Vector step = fractions(step_counts);
  if (history.empty()) return step;
  Vector f;
  for (std::size_t e = 0; e < step.size(); ++e) f.push_back(decay * history.at(e) + (1 - decay) * step[e]);
  return f;
}

enum class AuxVariant { ours, gshard, transformers, megablocks };

/// A loss over several layers with its gradient per layer.
struct LayersLoss {
  double value = 0;
  std::vector<Vector> gradients;
};

/// ours: summed over layers. gshard: f from the first choice only. megablocks: the mean over layers. transformers: k times ours, the tokens
/// of all layers concatenated (within their unit) before the product.
inline LayersLoss aux_loss_variant(const std::vector<Input>& layers, Score score, Scope scope, double weight, AuxVariant variant) {
  LayersLoss loss;
  if (layers.empty()) return loss;
  const auto depth = static_cast<double>(layers.size());
  if (variant != AuxVariant::transformers) {
    for (const Input& in : layers) {
      ByUnit<Vector> f = unit_counts(in, route_top_k(in, score), units_of(in, scope), variant == AuxVariant::gshard);
      for (auto& [unit, c] : f) c = fractions(c);
      Loss one = aux_loss_given(in, score, units_of(in, scope), f, variant == AuxVariant::megablocks ? weight / depth : weight);
      loss.value += one.value;
      loss.gradients.push_back(std::move(one.gradient));
    }
    return loss;
  }
  Input joined;
  joined.E = layers[0].E;
  joined.k = layers[0].k;
  Integers units;
  for (const Input& in : layers) {
    joined.T += in.T;
    joined.logits.insert(joined.logits.end(), in.logits.begin(), in.logits.end());
    for (std::int64_t t = 0; t < in.T; ++t) {
      joined.mask.push_back(in.counts(t) ? 1 : 0);
      units.push_back(in.unit_of(t, scope));
    }
  }
  ByUnit<Vector> f = unit_counts(joined, route_top_k(joined, score), units);
  for (auto& [unit, c] : f) c = fractions(c);
  const Loss whole = aux_loss_given(joined, score, units, f, weight * static_cast<double>(joined.k));
  loss.value = whole.value;
  auto next = whole.gradient.begin();
  for (const Input& in : layers) {
    const auto end = next + static_cast<std::ptrdiff_t>(in.logits.size());
    loss.gradients.emplace_back(next, end);
    next = end;
  }
  return loss;
}

// ---------------------------------------------------------------------------------------------------- importance and load

/// Population variance / mean^2.
inline double squared_variation(const Vector& v) {
  const auto n = static_cast<double>(v.size());
  const double mean = std::accumulate(v.begin(), v.end(), 0.0) / n;
  double variance = 0;
  for (double a : v) variance += (a - mean) * (a - mean) / n;
  return variance / (mean * mean);
}

/// Its gradient: with S the sum and Q the sum of squares, CV^2 = n Q / S^2 - 1.
inline Vector squared_variation_gradient(const Vector& v) {
  const auto n = static_cast<double>(v.size());
  double S = 0, Q = 0;
  for (double a : v) {
    S += a;
    Q += a * a;
  }
  Vector gradient;
  for (double a : v) gradient.push_back(2 * n * a / (S * S) - 2 * n * Q / (S * S * S));
  return gradient;
}

inline double normal_cdf(double z) { return std::erfc(-z / std::sqrt(2.0)) / 2; }
inline double normal_density(double z) { return std::exp(-z * z / 2) / std::sqrt(2 * std::acos(-1.0)); }
/// softplus.
inline double smooth_relu(double x) { return std::max(x, 0.0) + std::log1p(std::exp(-std::abs(x))); }

/// Noisy top-k: h = x + n sigma, sigma = softplus(x_noise) + 1e-2; all [T, E] row-major. Empty: no noise.
struct LoadNoise {
  Vector noise_logits;  ///< x_noise
  Vector noisy;         ///< h; the n that made it is recovered from it and held fixed in gradients
};

/// h from x, x_noise and the draws n.
inline LoadNoise load_noise(const Input& in, const Vector& noise_logits, const Vector& draws) {
  LoadNoise noise{noise_logits, {}};
  for (std::size_t i = 0; i < in.logits.size(); ++i) noise.noisy.push_back(in.logits[i] + draws.at(i) * (smooth_relu(noise_logits.at(i)) + 1e-2));
  return noise;
}

struct ImportanceLoad {
  double value = 0;
  Vector gradient;        ///< [T, E], with respect to x
  Vector noise_gradient;  ///< [T, E], with respect to x_noise; empty without noise
  ByUnit<Vector> importance;
  ByUnit<Vector> load;
};

/// w CV^2(sum_t G[t,e]) + w CV^2(load[e]) in each unit, units averaged by tokens. G: the weights of the k best of h (of x without noise),
/// 0 elsewhere; `tutel`: p of the clean x in its place. load: sum_t Phi((x - kth_excluding) / sigma), kth_excluding the (k+1)-th largest h
/// where e is chosen, else the k-th; plain counts, without a gradient, when there is no noise or k = E.
/// reading: the gradient of the load flows through x, sigma and the threshold h alike; `tutel` leaves the load term as it is; no epsilon beside
/// mean^2.
inline ImportanceLoad importance_load(const Input& in, Score score, const Integers& units, double weight, const LoadNoise& noise = {},
                                      bool tutel = false) {
  ImportanceLoad loss;
  const bool noisy = !noise.noisy.empty();
  const auto experts = static_cast<std::size_t>(in.E), k = static_cast<std::size_t>(in.k);
  loss.gradient.assign(in.logits.size(), 0.0);
  Vector to_h(in.logits.size(), 0.0), to_sigma(in.logits.size(), 0.0);  // d loss / d h and d loss / d sigma at fixed h
  Input seen = in;                                                      // what the gate sees
  if (noisy) seen.logits = noise.noisy;
  const Choice choice = route_top_k(seen, score);
  const auto sigma = [&](std::size_t i) { return smooth_relu(noise.noise_logits.at(i)) + 1e-2; };
  // The threshold that expert e of token t must pass, as an index into h.
  const auto threshold = [&](std::int64_t t, std::int64_t e) {
    const Integers order = top_k(row(seen, t), in.k + 1);
    const bool chosen = std::find(order.begin(), order.end() - 1, e) != order.end() - 1;
    return static_cast<std::size_t>(t * in.E + (chosen ? order.at(k) : order.at(k - 1)));
  };
  const bool smooth = noisy && in.k < in.E;
  const auto all = static_cast<double>(in.tokens());
  std::vector<Vector> upstream(static_cast<std::size_t>(in.T));
  for (const auto& [unit, tokens] : tokens_by_unit(in, units)) {
    const double share = weight * static_cast<double>(tokens.size()) / all;
    Vector importance(experts, 0.0), load(experts, 0.0);
    for (std::int64_t t : tokens) {
      const auto& chosen = choice.experts[static_cast<std::size_t>(t)];
      const Vector p = probabilities(row(in, t), score);
      for (std::size_t e = 0; tutel && e < experts; ++e) importance[e] += p[e];
      for (std::size_t slot = 0; slot < chosen.size(); ++slot) {
        if (!tutel) importance[static_cast<std::size_t>(chosen[slot])] += choice.weights[static_cast<std::size_t>(t)][slot];
        if (!smooth) load[static_cast<std::size_t>(chosen[slot])] += 1;
      }
      for (std::int64_t e = 0; smooth && e < in.E; ++e) {
        const auto i = static_cast<std::size_t>(t * in.E + e);
        load[static_cast<std::size_t>(e)] += normal_cdf((in.logits[i] - noise.noisy[threshold(t, e)]) / sigma(i));
      }
    }
    loss.value += share * (squared_variation(importance) + squared_variation(load));
    Vector to_importance = squared_variation_gradient(importance), to_load = squared_variation_gradient(load);
    for (double& g : to_importance) g *= share;
    for (std::int64_t t : tokens) {
      if (tutel) add_row(loss.gradient, t, through_probabilities(row(in, t), score, to_importance));
      else
        for (std::int64_t e : choice.experts[static_cast<std::size_t>(t)])
          upstream[static_cast<std::size_t>(t)].push_back(to_importance[static_cast<std::size_t>(e)]);
      for (std::int64_t e = 0; smooth && e < in.E; ++e) {
        const auto i = static_cast<std::size_t>(t * in.E + e), at = threshold(t, e);
        const double z = (in.logits[i] - noise.noisy[at]) / sigma(i);
        const double slope = share * to_load[static_cast<std::size_t>(e)] * normal_density(z) / sigma(i);
        loss.gradient[i] += slope;
        to_h[at] -= slope;
        to_sigma[i] -= slope * z;
      }
    }
    loss.importance[unit] = importance;
    loss.load[unit] = load;
  }
  if (!tutel) {
    const Vector through_gates = weights_gradient(seen, choice, upstream, score);
    for (std::size_t i = 0; i < to_h.size(); ++i) to_h[i] += through_gates[i];
  }
  for (std::size_t i = 0; i < to_h.size(); ++i) {
    loss.gradient[i] += to_h[i];  // dh / dx = 1
    if (!noisy) continue;
    const double n = (noise.noisy[i] - in.logits[i]) / sigma(i);
    loss.noise_gradient.push_back((to_sigma[i] + n * to_h[i]) * sigmoid(noise.noise_logits[i]));
  }
  return loss;
}

// ----------------------------------------------------------------------------------------------------- persistent biases

/// Zero experts (2509.01322): the first `ffn` experts share `share` of the slots; the bias of the others is left alone.
struct Budget {
  std::int64_t ffn = 0;
  double share = 1;
};

/// The mean over the non-empty units of change((target - c) / target), [number of steered experts]; empty when no unit holds a token.
/// target: the mean count, or with a budget share sum(c) / ffn.
inline Vector mean_deviation(const std::vector<Vector>& counts, const Budget* budget, const std::function<double(double)>& change) {
  Vector mean;
  double units = 0;
  for (const Vector& c : counts) {
    const double sum = std::accumulate(c.begin(), c.end(), 0.0);
    if (sum == 0) continue;
    const std::size_t steered = budget ? static_cast<std::size_t>(budget->ffn) : c.size();
    const double target = (budget ? budget->share : 1.0) * sum / static_cast<double>(steered);
    units += 1;
    mean.resize(steered, 0.0);
    for (std::size_t e = 0; e < steered; ++e) mean[e] += change((target - c.at(e)) / target);
  }
  for (double& v : mean) v /= units;
  return mean;
}

/// The plain expert bias with a budget: b += (u/M) sum_j sign(target - c_j), or (target - c_j) / target when proportional, on FFN experts.
/// LongCat's own step, mu (share / ffn - c / sum c), is the proportional one with u = mu share / ffn.
inline Vector updated_bias_budget(Vector bias, const std::vector<Vector>& counts, double rate, const Budget& budget, BiasRule rule = BiasRule::sign) {
  const Vector d = mean_deviation(counts, &budget, [&](double v) { return rule == BiasRule::proportional ? v : v > 0 ? 1.0 : v < 0 ? -1.0 : 0.0; });
  for (std::size_t e = 0; e < d.size(); ++e) bias.at(e) += rate * d[e];
  return bias;
}

struct MomentumBias {
  Vector bias;
  Vector momentum;
};

struct MomentumRates {
  double kappa = 1, lambda = 0, beta = 0;
  bool centred = true;  ///< takes the mean over the steered experts off d; with a budget that would hold their common level, so set it false
};

/// SMEBU: d = tanh(kappa (target - c) / target), averaged over the non-empty units, centred; m <- beta m + (1 - beta) lambda d; b += m.
/// Without a non-empty unit neither changes. reading: tanh is taken in each unit, before the average.
inline MomentumBias updated_momentum_bias(MomentumBias state, const std::vector<Vector>& counts, const MomentumRates& rates,
                                          const Budget* budget = nullptr) {
  Vector d = mean_deviation(counts, budget, [&](double v) { return std::tanh(rates.kappa * v); });
  if (d.empty()) return state;
  const double centre = rates.centred ? std::accumulate(d.begin(), d.end(), 0.0) / static_cast<double>(d.size()) : 0.0;
  for (std::size_t e = 0; e < d.size(); ++e) {
    state.momentum.at(e) = rates.beta * state.momentum.at(e) + (1 - rates.beta) * rates.lambda * (d[e] - centre);
    state.bias.at(e) += state.momentum[e];
  }
  return state;
}

// ------------------------------------------------------------------------------------------------- balanced within a unit

/// A selection made unit by unit: the slots of the tokens (weights: see the function), and what was solved for in each unit.
struct Solved {
  Choice choice;
  ByUnit<Vector> duals;  ///< bias [E]
};

inline Choice no_choice(const Input& in) {
  return {std::vector<Integers>(static_cast<std::size_t>(in.T)), std::vector<Vector>(static_cast<std::size_t>(in.T))};
}

/// s of the chosen experts as it is, not renormalised: the weights of Sinkhorn and assignment.
/// reading: "the chosen score" is s over all E whatever the strategy's score; Megatron has softmax for k > 1 and sigmoid for k = 1.
inline Vector chosen_scores(const Vector& x, const Integers& chosen, Score score) {
  const Vector s = scores(x, score);
  Vector weights;
  for (std::int64_t e : chosen) weights.push_back(s.at(static_cast<std::size_t>(e)));
  return weights;
}

inline Score megatron_sinkhorn_score(std::int64_t k) { return k == 1 ? Score::sigmoid : Score::softmax; }

/// The k best of x + b for each of the tokens; weights: the ordinary gate on the clean x.
inline void choose_biased(const Input& in, const Integers& tokens, const Vector& bias, Score score, Choice& choice) {
  for (std::int64_t t : tokens) {
    Vector key = row(in, t);
    for (std::size_t e = 0; e < key.size(); ++e) key[e] += bias.at(e);
    choice.experts.at(static_cast<std::size_t>(t)) = top_k(key, in.k);
    choice.weights.at(static_cast<std::size_t>(t)) = weights_of(row(in, t), choice.experts[static_cast<std::size_t>(t)], score);
  }
}

/// expert_bias_solved: in each unit, from zero, b += .6 sd(x) / (1 + i/4) clamp((T k/E - c) / (T k/E), -1, 1) on the top-k of x + b,
/// i = 0 .. iterations - 1, sd the population deviation of the unit's T E logits; then the top-k of x + b.
inline Solved route_solved_bias(const Input& in, Score score, const Integers& units, int iterations = 10) {
  Solved solved{no_choice(in), {}};
  for (const auto& [unit, tokens] : tokens_by_unit(in, units)) {
    const auto n = static_cast<double>(tokens.size()) * static_cast<double>(in.E);
    double mean = 0, variance = 0;
    for (std::int64_t t : tokens)
      for (double x : row(in, t)) mean += x / n;
    for (std::int64_t t : tokens)
      for (double x : row(in, t)) variance += (x - mean) * (x - mean) / n;
    const double target = static_cast<double>(tokens.size()) * static_cast<double>(in.k) / static_cast<double>(in.E);
    Vector b(static_cast<std::size_t>(in.E), 0.0);
    for (int i = 0; i < iterations; ++i) {
      Choice trial = no_choice(in);
      choose_biased(in, tokens, b, score, trial);
      Vector c(b.size(), 0.0);
      for (const Integers& chosen : trial.experts)
        for (std::int64_t e : chosen) c[static_cast<std::size_t>(e)] += 1;
      for (std::size_t e = 0; e < b.size(); ++e)
        b[e] += 0.6 * std::sqrt(variance) / (1 + static_cast<double>(i) / 4) * std::clamp((target - c[e]) / target, -1.0, 1.0);
    }
    choose_biased(in, tokens, b, score, solved.choice);
    solved.duals[unit] = b;
  }
  return solved;
}

// --------------------------------------------------------------------------------------------------------------- Sinkhorn

struct Sinkhorn {
  Vector d0;                      ///< [counted tokens]
  Vector d1;                      ///< [E]
  int iterations = 0;             ///< done
  std::vector<Integers> experts;  ///< the k best of d0 C d1, per counted token
};

/// C = exp(x - rowmax), d0 = d1 = 1; d0 = (1/T) / (C d1 + eps), d1 = (1/E) / (C^T d0 + eps) until mean |change of d1| <= tolerance or `most`
/// iterations. `tokens`: the counted tokens of one unit.
inline Sinkhorn sinkhorn(const Input& in, const Integers& tokens, double tolerance = 1e-4, int most = 100, double eps = 1e-8) {
  const auto T = tokens.size(), E = static_cast<std::size_t>(in.E);
  std::vector<Vector> C;
  for (std::int64_t t : tokens) {
    Vector x = row(in, t);
    const double highest = *std::max_element(x.begin(), x.end());
    for (double& v : x) v = std::exp(v - highest);
    C.push_back(x);
  }
  Sinkhorn result{Vector(T, 1.0), Vector(E, 1.0), 0, {}};
  double change = std::numeric_limits<double>::infinity();
  while (change > tolerance && result.iterations < most) {
    for (std::size_t t = 0; t < T; ++t) {
      double sum = 0;
      for (std::size_t e = 0; e < E; ++e) sum += C[t][e] * result.d1[e];
      result.d0[t] = 1 / static_cast<double>(T) / (sum + eps);
    }
    change = 0;
    for (std::size_t e = 0; e < E; ++e) {
      double sum = 0;
      for (std::size_t t = 0; t < T; ++t) sum += C[t][e] * result.d0[t];
      const double next = 1 / static_cast<double>(E) / (sum + eps);
      change += std::abs(next - result.d1[e]) / static_cast<double>(E);
      result.d1[e] = next;
    }
    ++result.iterations;
  }
  for (std::size_t t = 0; t < T; ++t) {
    Vector plan;
    for (std::size_t e = 0; e < E; ++e) plan.push_back(result.d0[t] * C[t][e] * result.d1[e]);
    result.experts.push_back(top_k(plan, in.k));
  }
  return result;
}

/// Sinkhorn unit by unit; weights: the chosen score, not renormalised.
inline Choice route_sinkhorn(const Input& in, Score score, const Integers& units, double tolerance = 1e-4, int most = 100) {
  Choice choice = no_choice(in);
  for (const auto& [unit, tokens] : tokens_by_unit(in, units)) {
    const Sinkhorn plan = sinkhorn(in, tokens, tolerance, most);
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      const auto t = static_cast<std::size_t>(tokens[i]);
      choice.experts[t] = plan.experts[i];
      choice.weights[t] = chosen_scores(row(in, tokens[i]), plan.experts[i], score);
    }
  }
  return choice;
}

// --------------------------------------------------------------------------------------------------- balanced assignment

/// Tokens an expert must take: T k / E, the larger ones (where that is no whole number) to the lower experts.
inline Integers assignment_loads(std::int64_t tokens, std::int64_t k, std::int64_t E) {
  Integers loads;
  for (std::int64_t e = 0; e < E; ++e) loads.push_back(tokens * k / E + (e < tokens * k % E ? 1 : 0));
  return loads;
}

/// The best balanced assignment: its summed logits, and the experts of each of the given tokens in rising order.
struct Assignment {
  double score = -std::numeric_limits<double>::infinity();
  std::vector<Integers> experts;
};

/// The summed logits of any choice.
inline double assignment_score(const Input& in, const Integers& tokens, const std::vector<Integers>& experts) {
  double score = 0;
  for (std::size_t i = 0; i < tokens.size(); ++i)
    for (std::int64_t e : experts.at(i)) score += in.x(tokens[i], e);
  return score;
}

/// Whether each token has k distinct experts and each expert exactly its prescribed load.
inline bool is_balanced_assignment(const Input& in, const std::vector<Integers>& experts) {
  Integers loads(static_cast<std::size_t>(in.E), 0);
  for (Integers chosen : experts) {
    std::sort(chosen.begin(), chosen.end());
    if (static_cast<std::int64_t>(chosen.size()) != in.k || std::adjacent_find(chosen.begin(), chosen.end()) != chosen.end()) return false;
    for (std::int64_t e : chosen) loads.at(static_cast<std::size_t>(e)) += 1;
  }
  return loads == assignment_loads(static_cast<std::int64_t>(experts.size()), in.k, in.E);
}

/// By trying everything: for a handful of tokens and experts.
inline Assignment assignment_brute_force(const Input& in, const Integers& tokens) {
  Assignment best;
  Integers room = assignment_loads(static_cast<std::int64_t>(tokens.size()), in.k, in.E);
  std::vector<Integers> experts(tokens.size());
  const std::function<void(std::size_t, std::int64_t, double)> extend = [&](std::size_t i, std::int64_t first, double score) {
    if (i == tokens.size()) {
      if (score > best.score) best = {score, experts};
    } else if (static_cast<std::int64_t>(experts[i].size()) == in.k) {
      extend(i + 1, 0, score);
    } else {
      for (std::int64_t e = first; e < in.E; ++e) {
        auto& left = room[static_cast<std::size_t>(e)];
        if (left == 0) continue;
        --left;
        experts[i].push_back(e);
        extend(i, e + 1, score + in.x(tokens[i], e));
        experts[i].pop_back();
        ++left;
      }
    }
  };
  extend(0, 0, 0);
  return best;
}

/// The same as a minimum-cost flow by successive shortest paths (Bellman-Ford): source -> token (k) -> expert (1, cost -x) -> sink (load).
inline Assignment assignment_flow(const Input& in, const Integers& tokens) {
  struct Edge {
    std::size_t from, to;
    std::int64_t room;
    double cost;
  };
  const std::size_t T = tokens.size(), E = static_cast<std::size_t>(in.E), source = T + E, sink = source + 1;
  const Integers loads = assignment_loads(static_cast<std::int64_t>(T), in.k, in.E);
  std::vector<Edge> edges;  // an edge's reverse is its number with the last bit turned
  const auto connect = [&](std::size_t from, std::size_t to, std::int64_t room, double cost) {
    edges.push_back({from, to, room, cost});
    edges.push_back({to, from, 0, -cost});
  };
  for (std::size_t t = 0; t < T; ++t)
    for (std::size_t e = 0; e < E; ++e) connect(t, T + e, 1, -in.x(tokens[t], static_cast<std::int64_t>(e)));
  for (std::size_t t = 0; t < T; ++t) connect(source, t, in.k, 0);
  for (std::size_t e = 0; e < E; ++e) connect(T + e, sink, loads[e], 0);
  for (std::int64_t unit = 0; unit < static_cast<std::int64_t>(T) * in.k; ++unit) {
    Vector distance(sink + 1, std::numeric_limits<double>::infinity());
    std::vector<std::size_t> via(sink + 1, 0);
    distance[source] = 0;
    bool changed = true;
    for (std::size_t round = 0; changed && round <= sink; ++round) {
      changed = false;
      for (std::size_t i = 0; i < edges.size(); ++i) {
        const Edge& edge = edges[i];
        if (edge.room == 0 || distance[edge.from] + edge.cost >= distance[edge.to] - 1e-12) continue;
        distance[edge.to] = distance[edge.from] + edge.cost;
        via[edge.to] = i;
        changed = true;
      }
    }
    if (!std::isfinite(distance[sink])) throw std::logic_error("assignment: no balanced assignment");
    for (std::size_t node = sink; node != source; node = edges[via[node]].from) {
      edges[via[node]].room -= 1;
      edges[via[node] ^ 1U].room += 1;
    }
  }
  Assignment best{0, std::vector<Integers>(T)};
  for (std::size_t i = 0; i < T * E; ++i)
    if (edges[2 * i].room == 0) best.experts[i / E].push_back(static_cast<std::int64_t>(i % E));
  best.score = assignment_score(in, tokens, best.experts);
  return best;
}

// --------------------------------------------------------------------------------------------------------------- quantile

/// The n-th largest, n from 1.
inline double nth_largest(Vector values, std::int64_t n) {
  std::sort(values.begin(), values.end(), std::greater<>());
  return values.at(static_cast<std::size_t>(n - 1));
}

/// alpha[t] = (k+1)-th largest over e of x - beta, for the given tokens.
inline Vector quantile_alpha(const Input& in, const Integers& tokens, const Vector& beta) {
  if (in.k >= in.E) throw std::invalid_argument("quantile: needs k < E");
  Vector alpha;
  for (std::int64_t t : tokens) {
    Vector moved = row(in, t);
    for (std::size_t e = 0; e < moved.size(); ++e) moved[e] -= beta.at(e);
    alpha.push_back(nth_largest(moved, in.k + 1));
  }
  return alpha;
}

/// q[e] = (T k/E + 1)-th largest over t of x - alpha; T k must divide by E.
inline Vector quantile_q(const Input& in, const Integers& tokens, const Vector& alpha) {
  const std::int64_t slots = static_cast<std::int64_t>(tokens.size()) * in.k;
  if (slots % in.E != 0) throw std::invalid_argument("quantile: T k does not divide by E");
  Vector q;
  for (std::int64_t e = 0; e < in.E; ++e) {
    Vector moved;
    for (std::size_t i = 0; i < tokens.size(); ++i) moved.push_back(in.x(tokens[i], e) - alpha.at(i));
    q.push_back(nth_largest(moved, slots / in.E + 1));
  }
  return q;
}

/// #(x - alpha > q) and #(x - alpha >= q) per expert: T k / E lies in [first, second).
inline std::vector<std::array<std::int64_t, 2>> quantile_counts(const Input& in, const Integers& tokens, const Vector& alpha, const Vector& q) {
  std::vector<std::array<std::int64_t, 2>> counts(static_cast<std::size_t>(in.E), {0, 0});
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    for (std::size_t e = 0; e < counts.size(); ++e) {
      const double moved = in.x(tokens[i], static_cast<std::int64_t>(e)) - alpha.at(i);
      counts[e][0] += moved > q.at(e) ? 1 : 0;
      counts[e][1] += moved >= q[e] ? 1 : 0;
    }
  }
  return counts;
}

/// q of the step: the units' q, averaged. reading: weighted by their tokens, as losses are.
inline Vector quantile_step(const Input& in, const Integers& units, const Vector& beta) {
  Vector mean(static_cast<std::size_t>(in.E), 0.0);
  for (const auto& [unit, tokens] : tokens_by_unit(in, units)) {
    const Vector q = quantile_q(in, tokens, quantile_alpha(in, tokens, beta));
    for (std::size_t e = 0; e < q.size(); ++e) mean[e] += static_cast<double>(tokens.size()) / static_cast<double>(in.tokens()) * q[e];
  }
  return mean;
}

/// beta <- rho beta + (1 - rho) q, minus its mean.
inline Vector updated_beta(Vector beta, const Vector& q, double rho = 0) {
  for (std::size_t e = 0; e < beta.size(); ++e) beta[e] = rho * beta[e] + (1 - rho) * q.at(e);
  const double mean = std::accumulate(beta.begin(), beta.end(), 0.0) / static_cast<double>(beta.size());
  for (double& b : beta) b -= mean;
  return beta;
}

/// The k best of x - beta; weights: the ordinary gate on x.
inline Choice route_quantile(const Input& in, Score score, const Vector& beta) {
  Choice choice = no_choice(in);
  Vector bias = beta;
  for (double& b : bias) b = -b;
  for (const auto& [unit, tokens] : tokens_by_unit(in, Integers(static_cast<std::size_t>(in.T), 0))) choose_biased(in, tokens, bias, score, choice);
  return choice;
}

// --------------------------------------------------------------------------------------- entropy, bandpass, score variance

/// w sum_e relu(lo - P_e) + relu(P_e - hi) in each unit (2509.14255).
inline Loss bandpass(const Input& in, Score score, const Integers& units, double lo, double hi, double weight) {
  return loss_of_mean_probabilities(in, score, units, [&](std::int64_t, const Vector& P, Vector& upstream) {
    double value = 0;
    for (std::size_t e = 0; e < P.size(); ++e) {
      value += weight * (std::max(lo - P[e], 0.0) + std::max(P[e] - hi, 0.0));
      upstream[e] = weight * ((P[e] > hi ? 1.0 : 0.0) - (P[e] < lo ? 1.0 : 0.0));
    }
    return value;
  });
}

/// sum_e p log p, 0 where p is; `slope`: its gradient, left 0 there.
inline double negative_entropy(const Vector& p, Vector& slope) {
  double sum = 0;
  slope.assign(p.size(), 0.0);
  for (std::size_t e = 0; e < p.size(); ++e) {
    if (p[e] <= 0) continue;
    sum += p[e] * std::log(p[e]);
    slope[e] = std::log(p[e]) + 1;
  }
  return sum;
}

/// -w H(mean_t p) in each unit.
inline Loss batch_entropy(const Input& in, Score score, const Integers& units, double weight) {
  return loss_of_mean_probabilities(in, score, units, [&](std::int64_t, const Vector& P, Vector& upstream) {
    const double value = weight * negative_entropy(P, upstream);
    for (double& u : upstream) u *= weight;
    return value;
  });
}

/// +w mean_t H(p_t) over the counted tokens.
inline Loss token_entropy(const Input& in, Score score, double weight) {
  Loss loss;
  loss.gradient.assign(in.logits.size(), 0.0);
  const auto all = static_cast<double>(in.tokens());
  for (std::int64_t t = 0; t < in.T; ++t) {
    if (!in.counts(t)) continue;
    Vector upstream;
    loss.value -= weight * negative_entropy(probabilities(row(in, t), score), upstream) / all;
    for (double& u : upstream) u *= -weight / all;
    add_row(loss.gradient, t, through_probabilities(row(in, t), score, upstream));
  }
  return loss;
}

/// -w (1/E) sum_e (1/T) sum_t (s[t,e] - mean_t s[t,e])^2 in each unit (2505.22323), s the full-E score.
/// reading: the token mean, where the paper sums over tokens; the variance runs over tokens, for each expert.
inline Loss score_variance(const Input& in, Score score, const Integers& units, double weight) {
  Loss loss;
  loss.gradient.assign(in.logits.size(), 0.0);
  const auto all = static_cast<double>(in.tokens()), experts = static_cast<double>(in.E);
  for (const auto& [unit, tokens] : tokens_by_unit(in, units)) {
    Vector mean(static_cast<std::size_t>(in.E), 0.0);
    for (std::int64_t t : tokens) {
      const Vector s = scores(row(in, t), score);
      for (std::size_t e = 0; e < mean.size(); ++e) mean[e] += s[e] / static_cast<double>(tokens.size());
    }
    for (std::int64_t t : tokens) {
      const Vector s = scores(row(in, t), score);
      Vector upstream;
      for (std::size_t e = 0; e < mean.size(); ++e) {  // 1 / T of the unit times its share T / all
        loss.value -= weight / experts / all * (s[e] - mean[e]) * (s[e] - mean[e]);
        upstream.push_back(-2 * weight / experts / all * (s[e] - mean[e]));
      }
      add_row(loss.gradient, t, through_scores(row(in, t), score, upstream));
    }
  }
  return loss;
}

// --------------------------------------------------------------------------------------------------- weights and outputs

/// SimBal (2506.14038): w sum_{e,e'} |r_e . r_e' - delta|, rows [E, width] row-major, E <= width. The gradient is with respect to the rows.
inline Loss router_orthogonality(const Vector& rows, std::int64_t E, double weight) {
  const auto experts = static_cast<std::size_t>(E), width = rows.size() / experts;
  if (experts > width) throw std::invalid_argument("router orthogonality: more experts than dimensions");
  Loss loss;
  loss.gradient.assign(rows.size(), 0.0);
  for (std::size_t a = 0; a < experts; ++a) {
    for (std::size_t b = 0; b < experts; ++b) {
      double gap = a == b ? -1 : 0;
      for (std::size_t i = 0; i < width; ++i) gap += rows[a * width + i] * rows[b * width + i];
      loss.value += weight * std::abs(gap);
      const double sign = gap > 0 ? 1.0 : gap < 0 ? -1.0 : 0.0;
      for (std::size_t i = 0; i < width; ++i) {
        loss.gradient[a * width + i] += weight * sign * rows[b * width + i];
        loss.gradient[b * width + i] += weight * sign * rows[a * width + i];
      }
    }
  }
  return loss;
}

/// ERC (2512.23447): w / E^2 sum_{i != j} relu(M_ij - a M_ii) + relu(M_ji - a M_ii), M [E, E] row-major, M_ij the norm of expert j's inner
/// activation on router row i. The gradient is with respect to M.
inline Loss expert_router_coupling(const Vector& M, std::int64_t E, double alpha, double weight) {
  const auto experts = static_cast<std::size_t>(E);
  const double share = weight / static_cast<double>(E * E);
  Loss loss;
  loss.gradient.assign(M.size(), 0.0);
  for (std::size_t i = 0; i < experts; ++i) {
    for (std::size_t j = 0; j < experts; ++j) {
      if (i == j) continue;
      for (std::size_t at : {i * experts + j, j * experts + i}) {
        const double excess = M.at(at) - alpha * M.at(i * experts + i);
        if (excess <= 0) continue;
        loss.value += share * excess;
        loss.gradient[at] += share;
        loss.gradient[i * experts + i] -= share * alpha;
      }
    }
  }
  return loss;
}

/// Output orthogonality (2505.22323): w sum_t sum_{j != k} | <o_j, o_k> / (<o_k, o_k> + eps) o_k |^2 over ordered pairs of the token's chosen
/// experts, o_j the output of expert j before its weight, outputs [tokens][slots][width]. `token_mean`: divided by the number of tokens.
/// reading: the paper sums the projections themselves, which is a vector; the squared norm is what makes it a loss.
struct OutputLoss {
  double value = 0;
  std::vector<std::vector<Vector>> gradient;  ///< as the outputs
};

inline OutputLoss output_orthogonality(const std::vector<std::vector<Vector>>& outputs, double weight, bool token_mean = false, double eps = 1e-8) {
  const auto inner = [](const Vector& a, const Vector& b) { return std::inner_product(a.begin(), a.end(), b.begin(), 0.0); };
  OutputLoss loss;
  const double share = token_mean ? weight / static_cast<double>(outputs.size()) : weight;
  for (const auto& slots : outputs) {
    std::vector<Vector> gradient;
    for (const Vector& o : slots) gradient.emplace_back(o.size(), 0.0);
    for (std::size_t j = 0; j < slots.size(); ++j) {
      for (std::size_t k = 0; k < slots.size(); ++k) {
        if (j == k) continue;
        const double a = inner(slots[j], slots[k]), b = inner(slots[k], slots[k]), c = b + eps;
        loss.value += share * a * a / (c * c) * b;
        for (std::size_t i = 0; i < slots[j].size(); ++i) {  // d/da = 2 a b / c^2, d/db = a^2 / c^2 - 2 a^2 b / c^3
          gradient[j][i] += share * 2 * a * b / (c * c) * slots[k][i];
          gradient[k][i] += share * (2 * a * b / (c * c) * slots[j][i] + 2 * (a * a / (c * c) - 2 * a * a * b / (c * c * c)) * slots[k][i]);
        }
      }
    }
    loss.gradient.push_back(std::move(gradient));
  }
  return loss;
}

}  // namespace moesweep::reference
