// AdamW over the flat buffers, with warm-up, cosine and clipping by the global norm.
#pragma once

#include <cstdint>

#include "moesweep/comm/transport.hpp"
#include "moesweep/model/parameters.hpp"
#include "moesweep/train/config.hpp"

namespace moesweep::train {

/// Learning rate of step `step` (0-based) of `steps`: linear warm-up, then a cosine down to `final_learning_rate_share` of the peak at
/// the last step. A warm-up longer than the run is cut by its end.
double learning_rate_at(const TrainConfig& config, std::int64_t step, std::int64_t steps);

/// Collective over the expert group. Global L2 norm of all gradients (fp64), after they were reduced: dense ones, which all ranks have alike, count
/// once, and experts on the rank that holds them.
double gradient_norm(model::Parameters& parameters, comm::Transport& experts);

/// Scales the gradients down to `clip_norm` when `norm` is above it; 0 leaves them.
void clip_gradients(model::Parameters& parameters, double norm, double clip_norm);

/// One AdamW step with decoupled weight decay on matrices, of the elements that this rank updates; `step` is 0-based.
void adamw_step(model::Parameters& parameters, const TrainConfig& config, std::int64_t step, double learning_rate);

}  // namespace moesweep::train
