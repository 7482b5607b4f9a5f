// What costs.cpp counts and memory.cpp needs.
#pragma once

#include <vector>

#include "moesweep/model/costs.hpp"

namespace moesweep::model {

struct ParameterCounts {
  double dense = 0, experts = 0;  ///< parameters that every rank holds, and those of all FFN experts
  std::vector<double> visited;    ///< FFN experts that a token visits, by MoE layer
};

Memory memory_of(const CostInput& input, const ParameterCounts& counts);

}  // namespace moesweep::model
