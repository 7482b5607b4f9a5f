// See include/moesweep/train/warnings.hpp.
#include "moesweep/train/warnings.hpp"

#include <cmath>

namespace moesweep::train {

std::vector<std::string> warnings_of(const TrialConfig& config, double validation_loss) {
  const double uniform = std::log(static_cast<double>(config.data.vocabulary));
  if (std::isfinite(validation_loss) && validation_loss >= uniform - kUniformMargin) return {"no_better_than_uniform"};
  return {};
}

}  // namespace moesweep::train
