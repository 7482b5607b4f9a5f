// Logits to scores, probabilities and gate weights. See include/moesweep/routing/router.hpp.
#include "moesweep/routing/router.hpp"

namespace moesweep::routing {

at::Tensor scores_of(const at::Tensor& logits, Score score) { return score == Score::sigmoid ? at::sigmoid(logits) : at::softmax(logits, -1); }

at::Tensor probabilities_of(const at::Tensor& logits, Score score) {
  // s / sum s through log s: exact also where every sigmoid underflows.
  return at::softmax(score == Score::sigmoid ? at::log_sigmoid(logits) : logits, -1);
}

at::Tensor gate_weights(const at::Tensor& logits, const at::Tensor& expert, Score score, double scale) {
  at::Tensor weight;
  switch (score) {
    case Score::softmax: weight = at::softmax(logits, -1).gather(1, expert); break;
    case Score::softmax_selected: weight = at::softmax(logits.gather(1, expert), -1); break;
    case Score::sigmoid:
      weight = at::sigmoid(logits.gather(1, expert));
      if (expert.size(1) > 1) weight = weight / (weight.sum(-1, true) + 1e-20);
      break;
  }
  return scale == 1.0 ? weight : weight * scale;
}

}  // namespace moesweep::routing
