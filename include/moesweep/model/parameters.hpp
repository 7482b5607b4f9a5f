// A rank's parameters of a model in flat buffers, one set per class: dense (every rank has them all) and expert (one span per global expert that the
// rank holds).
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "moesweep/core/random.hpp"
#include "moesweep/model/config.hpp"
#include "moesweep/routing/config.hpp"

namespace moesweep::model {

enum class ParameterClass { dense, expert };

/// One logical parameter: a stretch of its class's buffers.
struct Span {
  std::string name;  ///< `layers.0.router`, `layers.0.experts.5.gate_up`, ...
  ParameterClass parameter_class = ParameterClass::dense;
  std::int64_t offset = 0;  ///< in elements of the class's buffers
  std::vector<std::int64_t> shape;
  bool decays = false;             ///< weight decay applies (matrices)
  double deviation = 0.0;          ///< initial values are normal with this standard deviation
  double mean = 0.0;               ///< and this mean: 1 for norm gains
  bool frozen = false;             ///< the optimiser leaves it alone, weight decay included; it has no gradient
  bool resampled = false;          ///< drawn anew at each training step
  std::string imported_from = {};  ///< the checkpoint that holds its values; empty: they are drawn

  std::int64_t count() const;
};

/// The flat buffers of one class: master values and gradients, all of one length, and AdamW's two moments of the elements that this rank updates,
/// [first_updated, first_updated + moments).
struct Buffers {
  at::Tensor value, gradient, first_moment, second_moment;
  std::int64_t first_updated = 0;
};

/// Part `index` of `parts` equal ones.
struct Part {
  std::int64_t index = 0, parts = 1;
  std::int64_t begin(std::int64_t count) const { return count * index / parts; }
  std::int64_t end(std::int64_t count) const { return count * (index + 1) / parts; }
};

/// What a rank holds: its part of each layer's experts, and of each class's moments.
struct Holdings {
  Part experts, dense_moments, expert_moments;
};

class Parameters {
 public:
  /// Buffers of `dtype` (fp32, or fp64), initialised as a pure function of (seed, name, element). Once `stop` is set (it may be null, and may be set
  /// by another thread or a signal) what is left of the values is not made: see `complete`.
  Parameters(const ModelConfig& config, std::int64_t vocabulary, at::ScalarType dtype, std::int64_t seed, const routing::RoutingConfig& routing = {},
             const Holdings& holdings = {}, c10::Device device = c10::kCPU, const std::atomic<bool>* stop = nullptr);

  /// False when a stop kept some values from being made: the parameters are then of no use.
  bool complete() const { return complete_; }
  Buffers& buffers(ParameterClass c) { return buffers_[static_cast<std::size_t>(c)]; }
  const std::vector<Span>& spans() const { return spans_; }
  /// A dense parameter as an autograd leaf whose gradient is a view into the buffer. [shape]
  const at::Tensor& operator[](const std::string& name) const;
  /// The matrices of this rank's experts of a layer, stacked views into value and gradient: [experts, rows, columns].
  struct Stack {
    at::Tensor value, gradient;
  };
  Stack stack(std::int64_t layer, const std::string& which) const;  ///< which: `gate_up` or `down`

  /// What a checkpoint names: a dense parameter, or one matrix of all experts of a layer, [E, rows, columns], of which this rank holds a part that
  /// lies in one piece.
  struct Logical {
    std::string name;  ///< `layers.0.router`, `layers.0.experts.gate_up`
    ParameterClass parameter_class;
    std::vector<std::int64_t> shape;    ///< of the whole
    std::int64_t first = 0, count = 0;  ///< elements of the whole that this rank holds
    std::int64_t offset = 0;            ///< of them in the class's buffers
    std::string imported_from = {};
  };
  std::vector<Logical> logical() const;
  void zero_gradients();
  /// New values for the spans that are drawn anew, a pure function of (seed, name, element, step).
  void resample(std::int64_t step);

 private:
  void append(Span span);
  /// False when `stop` was set before all values were drawn.
  bool draw(const Span& span, Purpose purpose, std::int64_t step, const std::atomic<bool>* stop = nullptr);
  std::int64_t seed_, experts_, first_expert_;
  bool complete_ = true;
  std::vector<Span> spans_;
  std::array<std::int64_t, 2> sizes_{0, 0};
  std::array<Buffers, 2> buffers_;
  std::map<std::string, at::Tensor> leaves_;
  std::map<std::pair<std::int64_t, std::string>, Stack> stacks_;
  std::map<std::pair<std::int64_t, std::string>, std::int64_t> stack_offsets_;
};

}  // namespace moesweep::model
