// See include/moesweep/model/config.hpp.
#include "moesweep/model/config.hpp"

namespace moesweep::model {

void ModelConfig::list(FieldList& fields) {
  fields.add("width", width, "width of the residual stream").at_least(2).at_most(65536);
  fields.add("layers", layers, "transformer layers, leading dense ones included").at_least(1).at_most(1024);
  fields.add("heads", heads, "attention heads; width / heads must be even").at_least(1).at_most(32768);
  fields.add("experts", experts, "routed experts in each MoE layer").at_least(1).at_most(65536);
  fields.add("expert_width", expert_width, "inner width of a SwiGLU expert").at_least(1).at_most(262144);
  fields.add("shared_experts", shared_experts, "experts that every token visits, beside the routed ones").at_least(0).at_most(1024);
  fields.add("dense_layers", dense_layers, "leading layers with a dense SwiGLU block in place of experts").at_least(0).at_most(1023);
  fields.add("dense_width", dense_width, "inner width of the dense block of leading dense layers").at_least(1).at_most(1048576);
  fields.add("tied_embeddings", tied_embeddings, "the output head is the embedding matrix");
  fields.add("rotary_base", rotary_base, "base of the rotary position frequencies").more_than(1);
  fields.add("norm_epsilon", norm_epsilon, "added to the mean square in RMSNorm").more_than(0);
  fields.add("router_init_deviation", router_init_deviation, "standard deviation of the initial router weights").at_least(0);
  fields.add("head_init_deviation", head_init_deviation, "standard deviation of the initial output head (untied)").at_least(0);
}

}  // namespace moesweep::model
