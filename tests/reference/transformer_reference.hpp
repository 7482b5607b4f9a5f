// Oracle for the model: a naive forward pass of the decoder-only MoE transformer in plain loops over doubles.
// Written from the architecture's description alone; it shares no code with src/model.
#pragma once

#include <cmath>
#include <cstdint>
#include <functional>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "reference/routing_reference.hpp"

namespace moesweep::reference {

struct TransformerShape {
  std::int64_t vocabulary = 0, width = 0, layers = 0, heads = 1;
  std::int64_t experts = 1, expert_width = 0, top_k = 1;
  std::int64_t shared_experts = 0;                 ///< merged into one of shared_experts x expert_width
  std::int64_t dense_layers = 0, dense_width = 0;  ///< the first dense_layers layers have a dense SwiGLU in place of experts
  bool tied_embeddings = false;                    ///< the head is the embedding
  double rotary_base = 10000.0, norm_epsilon = 1e-6;
  Score score = Score::softmax;
  double weight_scale = 1.0;
};

/// By name, row-major: `embedding` [V, d], `head` [V, d], `final_norm` [d]; in `layers.N.`: `attention_norm` [d], `qkv` [3d, d] (rows of q, k,
/// v), `attention_output` [d, d], `moe_norm` [d], `router` [E, d], `experts.I.gate_up` [d, 2f] (gate columns first), `experts.I.down` [f, d],
/// `shared.gate_up`, `shared.down`, `dense.gate_up`, `dense.down`.
using Parameters = std::map<std::string, Vector>;

/// Chooses experts at an MoE layer from its router logits; token t is position t % length of sequence t / length.
using Router = std::function<Choice(std::int64_t layer, const Input& scores)>;

struct Forward {
  Vector logits;                          ///< [sequences, length, V]
  double loss = 0;                        ///< mean cross-entropy over all positions, nats
  Vector token_loss;                      ///< [sequences, length], nats
  std::map<std::int64_t, Input> router;   ///< by layer: router logits [T, E] with the sequence of each token
  std::map<std::int64_t, Choice> choice;  ///< by layer: what was chosen
};

inline const Vector& parameter(const Parameters& parameters, const std::string& name, std::int64_t size) {
  const auto found = parameters.find(name);
  if (found == parameters.end()) throw std::invalid_argument("no parameter " + name);
  if (static_cast<std::int64_t>(found->second.size()) != size)
    throw std::invalid_argument("parameter " + name + " has " + std::to_string(found->second.size()) + " values, not " + std::to_string(size));
  return found->second;
}

/// y = W x with W [out, in].
inline Vector matrix_times(const Vector& W, const Vector& x, std::int64_t out, std::int64_t first_row = 0) {
  const std::size_t in = x.size();
  Vector y(static_cast<std::size_t>(out), 0.0);
  for (std::size_t o = 0; o < y.size(); ++o)
    for (std::size_t i = 0; i < in; ++i) y[o] += W.at((static_cast<std::size_t>(first_row) + o) * in + i) * x[i];
  return y;
}

/// y = x W with W [in, out].
inline Vector times_matrix(const Vector& x, const Vector& W, std::int64_t out) {
  Vector y(static_cast<std::size_t>(out), 0.0);
  for (std::size_t o = 0; o < y.size(); ++o)
    for (std::size_t i = 0; i < x.size(); ++i) y[o] += x[i] * W.at(i * y.size() + o);
  return y;
}

/// x / sqrt(mean(x^2) + eps) * g.
inline Vector rms_norm(const Vector& x, const Vector& g, double eps) {
  double mean = 0;
  for (double v : x) mean += v * v / static_cast<double>(x.size());
  Vector y;
  for (std::size_t i = 0; i < x.size(); ++i) y.push_back(x[i] / std::sqrt(mean + eps) * g.at(i));
  return y;
}

/// W2 (silu(Wg x) * (Wu x)), weights used as row vector times matrix; gate_up holds the columns of Wg, then those of Wu.
inline Vector swiglu(const Vector& x, const Vector& gate_up, const Vector& down, std::int64_t width) {
  const Vector both = times_matrix(x, gate_up, 2 * width);
  Vector inner;
  for (std::int64_t i = 0; i < width; ++i) {
    const double gate = both[static_cast<std::size_t>(i)];
    inner.push_back(gate * sigmoid(gate) * both[static_cast<std::size_t>(width + i)]);
  }
  return times_matrix(inner, down, static_cast<std::int64_t>(x.size()));
}

/// Turns each head's pairs (i, i + head_dim/2) by position * base^(-2 i / head_dim).
inline void rotate(Vector& x, std::int64_t position, std::int64_t heads, double base) {
  const std::size_t size = x.size() / static_cast<std::size_t>(heads), half = size / 2;
  for (std::size_t h = 0; h < static_cast<std::size_t>(heads); ++h) {
    for (std::size_t i = 0; i < half; ++i) {
      const double angle = static_cast<double>(position) * std::pow(base, -2.0 * static_cast<double>(i) / static_cast<double>(size));
      const double x1 = x[h * size + i], x2 = x[h * size + half + i];
      x[h * size + i] = x1 * std::cos(angle) - x2 * std::sin(angle);
      x[h * size + half + i] = x2 * std::cos(angle) + x1 * std::sin(angle);
    }
  }
}

/// Causal attention over one sequence of normed inputs, output projection included.
inline std::vector<Vector> attention(const std::vector<Vector>& inputs, const Vector& qkv, const Vector& output, std::int64_t heads, double base) {
  const auto d = static_cast<std::int64_t>(inputs.at(0).size());
  const std::size_t size = static_cast<std::size_t>(d / heads);
  std::vector<Vector> q, k, v, out;
  for (std::size_t t = 0; t < inputs.size(); ++t) {
    q.push_back(matrix_times(qkv, inputs[t], d, 0));
    k.push_back(matrix_times(qkv, inputs[t], d, d));
    v.push_back(matrix_times(qkv, inputs[t], d, 2 * d));
    rotate(q[t], static_cast<std::int64_t>(t), heads, base);
    rotate(k[t], static_cast<std::int64_t>(t), heads, base);
  }
  for (std::size_t t = 0; t < inputs.size(); ++t) {
    Vector mixed(static_cast<std::size_t>(d), 0.0);
    for (std::size_t h = 0; h < static_cast<std::size_t>(heads); ++h) {
      Vector affinity;
      for (std::size_t u = 0; u <= t; ++u) {
        double dot = 0;
        for (std::size_t i = h * size; i < (h + 1) * size; ++i) dot += q[t][i] * k[u][i];
        affinity.push_back(dot / std::sqrt(static_cast<double>(size)));
      }
      const Vector share = softmax(affinity);
      for (std::size_t u = 0; u <= t; ++u)
        for (std::size_t i = h * size; i < (h + 1) * size; ++i) mixed[i] += share[u] * v[u][i];
    }
    out.push_back(matrix_times(output, mixed, d));
  }
  return out;
}

/// The whole forward pass. `tokens` and `targets` are [sequences, length]; positions count from 0 in each sequence. `router` is asked at each
/// MoE layer; when empty it is plain top-k with the shape's score and scale.
inline Forward forward(const TransformerShape& shape, const Parameters& parameters, const Integers& tokens, const Integers& targets,
                       std::int64_t sequences, std::int64_t length, const Router& router = {}) {
  const std::int64_t d = shape.width, f = shape.expert_width, T = sequences * length;
  if (static_cast<std::int64_t>(tokens.size()) != T || static_cast<std::int64_t>(targets.size()) != T)
    throw std::invalid_argument("tokens and targets are [sequences, length]");
  const Vector& embedding = parameter(parameters, "embedding", shape.vocabulary * d);
  const Vector& head = shape.tied_embeddings ? embedding : parameter(parameters, "head", shape.vocabulary * d);
  Forward result;
  std::vector<Vector> x;
  for (std::int64_t token : tokens) {
    if (token < 0 || token >= shape.vocabulary) throw std::invalid_argument("a token outside the vocabulary");
    x.emplace_back(embedding.begin() + token * d, embedding.begin() + (token + 1) * d);
  }

  for (std::int64_t layer = 0; layer < shape.layers; ++layer) {
    const std::string at = "layers." + std::to_string(layer) + ".";
    for (std::int64_t sequence = 0; sequence < sequences; ++sequence) {
      std::vector<Vector> inputs;
      for (std::int64_t i = sequence * length; i < (sequence + 1) * length; ++i)
        inputs.push_back(rms_norm(x[static_cast<std::size_t>(i)], parameter(parameters, at + "attention_norm", d), shape.norm_epsilon));
      const auto mixed = attention(inputs, parameter(parameters, at + "qkv", 3 * d * d), parameter(parameters, at + "attention_output", d * d),
                                   shape.heads, shape.rotary_base);
      for (std::int64_t i = 0; i < length; ++i)
        for (std::size_t j = 0; j < static_cast<std::size_t>(d); ++j)
          x[static_cast<std::size_t>(sequence * length + i)][j] += mixed[static_cast<std::size_t>(i)][j];
    }

    std::vector<Vector> h;
    for (const Vector& v : x) h.push_back(rms_norm(v, parameter(parameters, at + "moe_norm", d), shape.norm_epsilon));
    const auto add = [&](std::int64_t t, const Vector& y, double weight) {
      for (std::size_t j = 0; j < y.size(); ++j) x[static_cast<std::size_t>(t)][j] += weight * y[j];
    };
    if (layer < shape.dense_layers) {
      const Vector& gate_up = parameter(parameters, at + "dense.gate_up", d * 2 * shape.dense_width);
      const Vector& down = parameter(parameters, at + "dense.down", shape.dense_width * d);
      for (std::int64_t t = 0; t < T; ++t) add(t, swiglu(h[static_cast<std::size_t>(t)], gate_up, down, shape.dense_width), 1.0);
      continue;
    }
    Input in;
    in.T = T;
    in.E = shape.experts;
    in.k = shape.top_k;
    const Vector& router_rows = parameter(parameters, at + "router", shape.experts * d);
    for (std::int64_t t = 0; t < T; ++t) {
      for (double logit : matrix_times(router_rows, h[static_cast<std::size_t>(t)], shape.experts)) in.logits.push_back(logit);
      in.sequence.push_back(t / length);
    }
    const Choice choice = router ? router(layer, in) : route_top_k(in, shape.score, shape.weight_scale);
    for (std::int64_t t = 0; t < T; ++t) {
      const auto& chosen = choice.experts.at(static_cast<std::size_t>(t));
      for (std::size_t i = 0; i < chosen.size(); ++i) {
        const std::string expert = at + "experts." + std::to_string(chosen[i]) + ".";
        const Vector y = swiglu(h[static_cast<std::size_t>(t)], parameter(parameters, expert + "gate_up", d * 2 * f),
                                parameter(parameters, expert + "down", f * d), f);
        add(t, y, choice.weights.at(static_cast<std::size_t>(t)).at(i));
      }
      if (shape.shared_experts > 0) {
        const std::int64_t wide = shape.shared_experts * f;
        add(t,
            swiglu(h[static_cast<std::size_t>(t)], parameter(parameters, at + "shared.gate_up", d * 2 * wide),
                   parameter(parameters, at + "shared.down", wide * d), wide),
            1.0);
      }
    }
    result.router[layer] = in;
    result.choice[layer] = choice;
  }

  for (std::int64_t t = 0; t < T; ++t) {
    const Vector logits =
        matrix_times(head, rms_norm(x[static_cast<std::size_t>(t)], parameter(parameters, "final_norm", d), shape.norm_epsilon), shape.vocabulary);
    const double loss = log_sum_exp(logits) - logits.at(static_cast<std::size_t>(targets[static_cast<std::size_t>(t)]));
    result.token_loss.push_back(loss);
    result.loss += loss / static_cast<double>(T);
    result.logits.insert(result.logits.end(), logits.begin(), logits.end());
  }
  return result;
}

/// Names and sizes of all parameters of a shape.
inline std::map<std::string, std::int64_t> parameter_sizes(const TransformerShape& shape) {
  const std::int64_t d = shape.width, f = shape.expert_width;
  std::map<std::string, std::int64_t> sizes{{"embedding", shape.vocabulary * d}, {"final_norm", d}};
  if (!shape.tied_embeddings) sizes["head"] = shape.vocabulary * d;
  for (std::int64_t layer = 0; layer < shape.layers; ++layer) {
    const std::string at = "layers." + std::to_string(layer) + ".";
    sizes[at + "attention_norm"] = d;
    sizes[at + "qkv"] = 3 * d * d;
    sizes[at + "attention_output"] = d * d;
    sizes[at + "moe_norm"] = d;
    if (layer < shape.dense_layers) {
      sizes[at + "dense.gate_up"] = d * 2 * shape.dense_width;
      sizes[at + "dense.down"] = shape.dense_width * d;
      continue;
    }
    sizes[at + "router"] = shape.experts * d;
    for (std::int64_t e = 0; e < shape.experts; ++e) {
      sizes[at + "experts." + std::to_string(e) + ".gate_up"] = d * 2 * f;
      sizes[at + "experts." + std::to_string(e) + ".down"] = f * d;
    }
    if (shape.shared_experts > 0) {
      sizes[at + "shared.gate_up"] = d * 2 * f * shape.shared_experts;
      sizes[at + "shared.down"] = f * shape.shared_experts * d;
    }
  }
  return sizes;
}

}  // namespace moesweep::reference
