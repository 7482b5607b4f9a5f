// What a rank's memory holds, part by part; see Memory in include/moesweep/model/costs.hpp. Each term names what the code of this room keeps: the
// comments say which file to change it with.
#include <algorithm>
#include <cmath>

#include "costs_parts.hpp"
#include "moesweep/model/costs.hpp"

namespace moesweep::model {

namespace {

constexpr double kIndexBytes = 8, kMebibyte = 1048576;

/// Bytes per token that the attention of a layer keeps for backward (moe_model.cpp), its two norms and the residual stream included.
double attention_kept(const CostInput& in) {
  const auto d = static_cast<double>(in.model.width), heads = static_cast<double>(in.model.heads), length = static_cast<double>(in.sequence_length);
  const auto v = static_cast<double>(in.value_bytes), c = static_cast<double>(in.compute_bytes);
  const bool narrow = c < v;
  // Of each norm: its input and the input over its root mean square; of the second one also what it gives, to the router.
  const double norms = 5 * d * v;
  const bool plain = in.value_bytes > 4 || in.sequence_length <= (narrow ? 512 : 96);
  // What enters the first product; q, k, v; what enters the last one.
  if (plain) return norms + d * c + 3 * d * c + d * c + heads * length * (v + (narrow ? c : 0));
  // The fused kernel keeps q and k, v inside the product of all three (apart in bf16), the result and a sum for each head.
  return norms + d * c + (narrow ? 3 : 5) * d * c + d * c + heads * v + (narrow ? d * c : 0);
}

/// Bytes per token of a SwiGLU that every token meets (shared experts, dense layers): both halves, the gate behind silu, and their product.
double swiglu_kept(const CostInput& in, double inner) {
  return inner * (3 * static_cast<double>(in.value_bytes) + static_cast<double>(in.compute_bytes));
}

/// Bytes per token that routing keeps: logits, probabilities, those of losses over units; the slots' experts, tokens, rows and weights.
double routing_kept(const CostInput& in, double visited) {
  const auto experts = static_cast<double>(in.model.experts + in.routing.extra_experts.routed());
  double matrices = 1;
  for (const auto& term : in.routing.terms()) {
    matrices += 1;
    if (term.scope == routing::ScopeKind::sequence || term.scope == routing::ScopeKind::micro_batch) matrices += 1;
  }
  return matrices * experts * static_cast<double>(in.value_bytes) + visited * (5 * kIndexBytes + static_cast<double>(in.value_bytes));
}

}  // namespace

Memory memory_of(const CostInput& in, const ParameterCounts& counts) {
  const auto& m = in.model;
  const auto d = static_cast<double>(m.width), f = static_cast<double>(m.expert_width), vocabulary = static_cast<double>(in.vocabulary);
  const auto v = static_cast<double>(in.value_bytes), c = static_cast<double>(in.compute_bytes), tokens = static_cast<double>(in.tokens_per_pass);
  const bool narrow = c < v;
  const std::int64_t moe_layers = m.layers - m.dense_layers, shared = m.shared_experts + in.routing.extra_experts.shared;
  const auto copies = static_cast<double>(in.data_parallel), groups = static_cast<double>(in.expert_parallel), ranks = copies * groups;
  const double dense = counts.dense, experts = counts.experts / groups;

  Memory memory;
  memory.parameters = memory.gradients = v * (dense + experts);
  memory.moments = 2 * v * (in.shard_moments ? dense / ranks + experts / copies : dense + experts);

  // What layers keep for backward (moe_model.cpp, experts.cpp): in bf16 also narrow copies of the matrices.
  double all_layers = 0, largest_layer = 0, most_visited = 0;
  for (std::int64_t layer = 0; layer < m.layers; ++layer) {
    double of_token = attention_kept(in), matrices = narrow ? c * 4 * d * d : 0;
    if (layer < m.dense_layers) {
      of_token += swiglu_kept(in, static_cast<double>(m.dense_width));
      matrices += narrow ? c * 3 * d * static_cast<double>(m.dense_width) : 0;
    } else {
      const double visited = counts.visited[static_cast<std::size_t>(layer - m.dense_layers)];
      most_visited = std::max(most_visited, visited);
      // A routed row: what enters its expert, both halves, the product behind silu, and what comes out.
      of_token += routing_kept(in, visited) + visited * (c * (d + 3 * f) + v * d) + swiglu_kept(in, static_cast<double>(shared) * f);
      matrices += narrow ? c * (static_cast<double>(m.experts) / groups + static_cast<double>(shared)) * 3 * d * f : 0;
    }
    const double kept = tokens * of_token + matrices;
    all_layers += in.recompute ? tokens * (d * v + 4 * most_visited * kIndexBytes) : kept;
    largest_layer = std::max(largest_layer, kept);
  }
  if (in.recompute) all_layers += largest_layer;
  // Token ids and targets of all passes, and the decisions that wait for the step's end.
  const double step_tokens = static_cast<double>(in.passes) * tokens;
  memory.activations = all_layers + step_tokens * (4 + static_cast<double>(moe_layers) * 2 * most_visited) * kIndexBytes;

  // While the head's gradient is made (head_loss.cpp): the final norm's tensors, log-probabilities and their gradient, the matrix and its gradient.
  memory.loss = tokens * (vocabulary * (2 * v + (narrow ? c : 0)) + 4 * d * v + (narrow ? d * c : 0)) + vocabulary * d * (v + (narrow ? 2 * c : 0));
  // While the last layer's experts go backward (experts.cpp): gradients of rows, of both halves and of what enters; upstream ones of the layer.
  const double rows = tokens * most_visited;
  memory.experts = rows * c * (d + 3 * f + std::max(d, f)) + (narrow ? rows * v * d : 0) + 3 * tokens * d * v;
  if (in.expert_parallel > 1) {
    const double remote = 1 - 1 / groups;
    const double inside = rows * c * std::max(3 * d + 3 * f, 2 * d + 4 * f), behind = rows * c * d * (4 + remote);
    memory.exchange = std::max(inside, behind) - rows * c * (d + 3 * f + std::max(d, f));
  }
  // MPI sums what several ranks hold in a buffer of its own of the same size.
  if (ranks > 1) memory.reduction = v * (dense + (in.data_parallel > 1 ? experts : 0));
  // Without gradients: one layer at work, then the logits and their exponentials.
  const double layer_at_work = tokens * 8 * d * v + rows * c * (2 * d + 3 * f) + (in.expert_parallel > 1 ? 2 * rows * c * d : 0);
  memory.evaluation = std::max(layer_at_work, tokens * (vocabulary * 2 * v + 3 * d * v)) +
                      tokens * static_cast<double>(moe_layers) * (most_visited * 7 * kIndexBytes + static_cast<double>(m.experts) * v);
  // The first phase of a step that must know all passes before it trains one: hidden states, inputs and logits of each, then a layer at work.
  if (in.passes > 1) {
    const double waiting =
        step_tokens * (3 * d * v + static_cast<double>(m.experts) * v + static_cast<double>(moe_layers) * 4 * most_visited * kIndexBytes);
    memory.decisions = waiting + layer_at_work;
  }

  // Code pages that come in with the first step, work space of the matrix library, the record.
  memory.framework = 40 * kMebibyte;
  if (narrow) {
    // oneDNN compiles a product for every number of rows and keeps the last 1,024 of them; six products an expert and step.
    constexpr double kKeptProducts = 1024, kBytesOfProduct = 0.55 * kMebibyte;
    const double made = 6 * static_cast<double>(in.steps * moe_layers * m.experts) / groups;
    memory.kernels = kBytesOfProduct * std::min(kKeptProducts, made);
  }
  // Freed memory between what is still held: measured 0.20 to 0.31 of what comes and goes in fp32; compiled products lie scattered in it.
  memory.holes = (narrow ? 0.5 : 0.28) * (memory.largest_phase() + memory.kernels);
  return memory;
}

double Memory::largest_phase() const { return std::max({activations + std::max(loss, experts + exchange), reduction, evaluation, decisions}); }

double Memory::peak() const { return parameters + gradients + moments + largest_phase() + framework + kernels + holes; }

}  // namespace moesweep::model
