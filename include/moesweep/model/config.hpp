// What a model is made of; no torch here.
#pragma once

#include <cstdint>

#include "moesweep/core/fields.hpp"

namespace moesweep::model {

struct ModelConfig {
  std::int64_t width = 64;
  std::int64_t layers = 2;
  std::int64_t heads = 4;
  std::int64_t experts = 32;
  std::int64_t expert_width = 32;
  std::int64_t shared_experts = 0;
  std::int64_t dense_layers = 0;
  std::int64_t dense_width = 256;
  bool tied_embeddings = false;
  double rotary_base = 10000.0;
  double norm_epsilon = 1e-6;
  double router_init_deviation = 0.02;
  double head_init_deviation = 0.02;

  void list(FieldList& fields);
};

}  // namespace moesweep::model
