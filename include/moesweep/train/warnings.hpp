// What is suspicious about a trial that did end well; no torch, MPI or HDF5 here.
#pragma once

#include <string>
#include <vector>

#include "moesweep/train/config.hpp"

namespace moesweep::train {

/// A finite validation loss from ln(vocabulary) less this margin, in nats per token, is no better than guessing each token alike.
inline constexpr double kUniformMargin = 0.01;

/// Words for a trial whose last validation loss (nats per token) is `validation_loss`; none for one that has no such loss (NaN).
/// `no_better_than_uniform`: the loss is finite and at least ln(data.vocabulary) - 0.01.
std::vector<std::string> warnings_of(const TrialConfig& config, double validation_loss);

}  // namespace moesweep::train
