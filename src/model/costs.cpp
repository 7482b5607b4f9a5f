// See include/moesweep/model/costs.hpp. model_test compares the counts with the built module.
#include "moesweep/model/costs.hpp"

#include <algorithm>

namespace moesweep::model {

namespace {
/// The largest models that a config admits overflow 64 bits of bytes: then the largest number of bytes stands for them.
std::int64_t to_bytes(double bytes) { return static_cast<std::int64_t>(std::min(bytes, 9e18)); }
}  // namespace

Costs costs_of(const CostInput& input) {
  const auto& m = input.model;
  const std::int64_t d = m.width, f = m.expert_width, moe_layers = m.layers - m.dense_layers;
  const std::int64_t attention = 4 * d * d, expert = 3 * d * f, shared = m.shared_experts * expert, router = m.experts * d,
                     dense = 3 * d * m.dense_width, norms = 2 * d;
  const std::int64_t embedding = input.vocabulary * d, head = m.tied_embeddings ? 0 : embedding;

  Costs costs;
  costs.parameters_total =
      embedding + head + d + m.layers * (attention + norms) + m.dense_layers * dense + moe_layers * (router + m.experts * expert + shared);
  costs.parameters_active = costs.parameters_total - moe_layers * (m.experts - std::min(input.top_k, m.experts)) * expert;

  const std::int64_t multiplied =
      embedding /* the head's product */ + m.layers * attention + m.dense_layers * dense + moe_layers * (router + input.top_k * expert + shared);
  const double attention_square = 4.0 * static_cast<double>(input.sequence_length * d * m.layers);
  costs.forward_flops_per_token = 2.0 * static_cast<double>(multiplied) + attention_square;
  costs.training_flops_per_token = 3.0 * costs.forward_flops_per_token;

  const std::int64_t expert_parameters = moe_layers * m.experts * expert;
  const std::int64_t local_parameters =
      costs.parameters_total - expert_parameters + expert_parameters / std::max<std::int64_t>(1, input.expert_parallel);
  costs.parameter_bytes = to_bytes(4.0 * static_cast<double>(input.value_bytes) * static_cast<double>(local_parameters));

  // Values that backward needs, per token: norms, projections, attention probabilities, expert inputs, inner activations and outputs.
  const std::int64_t attention_kept = 10 * d + 2 * m.heads * input.sequence_length;
  const std::int64_t moe_kept = 3 * d + 4 * m.experts + input.top_k * (3 * d + 2 * f) + 2 * m.shared_experts * 3 * f;
  const std::int64_t dense_kept = 3 * d + 3 * m.dense_width;
  const std::int64_t kept = m.layers * attention_kept + moe_layers * moe_kept + m.dense_layers * dense_kept + 3 * d + 2 * input.vocabulary;
  const std::int64_t working = input.vocabulary + input.top_k * (3 * d + 4 * f);
  costs.activation_bytes =
      to_bytes(static_cast<double>(input.tokens_per_pass) * static_cast<double>(kept + working) * static_cast<double>(input.value_bytes));
  return costs;
}

}  // namespace moesweep::model
