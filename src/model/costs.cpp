// See include/moesweep/model/costs.hpp. model_test compares the counts with the built module.
#include "moesweep/model/costs.hpp"

#include <algorithm>
#include <cmath>

#include "costs_parts.hpp"
#include "router_parameters.hpp"

namespace moesweep::model {

namespace {
/// FFN experts that a token visits in one layer, on average: of expert choice and of methods that steer to top_k, top_k; where slots may go to
/// zero, copy and constant experts, their share of them.
double visited_experts(const ModelConfig& model, const routing::RoutingConfig& routing) {
  const auto ffn = static_cast<double>(model.experts), all = ffn + static_cast<double>(routing.extra_experts.routed());
  if (routing.select == "dense") return ffn;
  double share = ffn / all;
  for (const auto& term : routing.terms())
    if (term.ffn_share && routing.extra_experts.routed() > 0) share = *term.ffn_share;
  return std::min(ffn, std::min(all, static_cast<double>(routing.top_k)) * share);
}

std::int64_t count_of(const std::vector<RouterParameter>& parameters) {
  std::int64_t count = 0;
  for (const auto& parameter : parameters) {
    std::int64_t product = 1;
    for (const auto extent : parameter.shape) product *= extent;
    count += product;
  }
  return count;
}
}  // namespace

Costs costs_of(const CostInput& input) {
  const auto& m = input.model;
  const std::int64_t d = m.width, f = m.expert_width, moe_layers = m.layers - m.dense_layers;
  const std::int64_t shared_experts = m.shared_experts + input.routing.extra_experts.shared;
  const std::int64_t attention = 4 * d * d, expert = 3 * d * f, shared = shared_experts * expert, dense = 3 * d * m.dense_width, norms = 2 * d,
                     constants = 3 * d * input.routing.extra_experts.constant;
  const std::int64_t embedding = input.vocabulary * d, head = m.tied_embeddings ? 0 : embedding;
  // Over the MoE layers: router parameters, router products of a token, visited FFN experts.
  std::int64_t router = 0, routed = 0;
  double visited = 0;
  ParameterCounts counts;
  for (std::int64_t layer = 0; layer < moe_layers; ++layer) {
    const routing::RoutingConfig own = input.routing.of_layer(layer);
    router += count_of(router_parameters(m, input.routing, layer));
    // A layer that shares its router's matrix multiplies by it all the same; one that takes another's decision has no logits.
    if (own.depth != routing::Depth::shared_decision || layer == 0)
      routed += count_of(router_parameters(m, input.routing, router_owner(input.routing, layer)));
    const double here = visited_experts(m, own);
    visited += here;
    counts.visited.push_back(here);
  }

  Costs costs;
  costs.parameters_total = embedding + head + d + m.layers * (attention + norms) + m.dense_layers * dense + router +
                           moe_layers * (m.experts * expert + shared + constants);
  const double unvisited = static_cast<double>(moe_layers * m.experts) - visited;
  costs.parameters_active = costs.parameters_total - std::llround(unvisited * static_cast<double>(expert));

  const std::int64_t multiplied = embedding /* the head's product */ + m.layers * attention + m.dense_layers * dense + routed + moe_layers * shared;
  const double attention_square = 4.0 * static_cast<double>(input.sequence_length * d * m.layers);
  costs.forward_flops_per_token = 2.0 * (static_cast<double>(multiplied) + visited * static_cast<double>(expert)) + attention_square;
  costs.training_flops_per_token = 3.0 * costs.forward_flops_per_token;

  const auto pass_tokens = static_cast<double>(input.tokens_per_pass), length = static_cast<double>(input.sequence_length);
  const auto width = static_cast<double>(d), inner = static_cast<double>(f), layers = static_cast<double>(m.layers);
  const auto add = [&](double count, double of_rows, double from, double to) {
    if (count > 0) costs.products.push_back({2 * count * from * to, of_rows, from, to});
  };
  add(layers, pass_tokens, width, 3 * width);
  add(layers, pass_tokens, width, width);
  add(2 * layers * static_cast<double>(m.heads), length, width / static_cast<double>(m.heads), length);  // the square, for each head
  add(1, pass_tokens, width, static_cast<double>(input.vocabulary));
  if (routed > 0) add(static_cast<double>(routed) / static_cast<double>(d * m.experts), pass_tokens, width, static_cast<double>(m.experts));
  const auto swiglu = [&](double count, double of_rows, double to) {
    add(count, of_rows, width, 2 * to);
    add(count, of_rows, to, width);
  };
  swiglu(static_cast<double>(m.dense_layers), pass_tokens, static_cast<double>(m.dense_width));
  if (shared_experts > 0) swiglu(static_cast<double>(moe_layers), pass_tokens, inner * static_cast<double>(shared_experts));
  // An expert has the rows of all ranks that share it.
  swiglu(visited, pass_tokens * visited / static_cast<double>(moe_layers * m.experts) * static_cast<double>(input.expert_parallel), inner);

  if (input.expert_parallel > 1) {
    const double remote = 1.0 - 1.0 / static_cast<double>(input.expert_parallel);
    const double rows = visited * remote * static_cast<double>(d * input.compute_bytes);
    const std::int64_t forwards = input.recompute ? 2 : 1;
    costs.forward_exchange_bytes_per_token = 2.0 * rows;
    costs.training_exchange_bytes_per_token = 2.0 * rows * static_cast<double>(forwards + 1);
    costs.forward_exchanges_per_pass = 3 * moe_layers;
    costs.training_exchanges_per_pass = (3 * forwards + 2) * moe_layers;
  }

  counts.experts = static_cast<double>(moe_layers * m.experts * expert);
  counts.dense = static_cast<double>(costs.parameters_total) - counts.experts;
  costs.memory = memory_of(input, counts);
  return costs;
}

}  // namespace moesweep::model
