// See include/moesweep/model/parameters.hpp.
#include "moesweep/model/parameters.hpp"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>

#include "moesweep/core/error.hpp"
#include "router_parameters.hpp"

namespace moesweep::model {

std::int64_t Span::count() const {
  std::int64_t product = 1;
  for (const auto extent : shape) product *= extent;
  return product;
}

namespace {

bool is_set(const std::atomic<bool>* stop) { return stop != nullptr && stop->load(std::memory_order_relaxed); }

/// A span's values: each element's normal number is a function of (seed, purpose, name, step). False when `stop` was set before all were made.
template <class Real>
bool fill_normal(Real* out, const Span& span, std::uint64_t seed, Purpose purpose, std::int64_t step, const std::atomic<bool>* stop) {
  constexpr std::int64_t kPairsBetweenLooks = 4096;
  const std::int64_t count = span.count();
  const std::uint64_t stream = stable_number(span.name);
  std::atomic<bool> stopped = false;
  at::parallel_for(0, (count + 1) / 2, 4096, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t pair = begin; pair < end; ++pair) {
      if ((pair - begin) % kPairsBetweenLooks == 0 && is_set(stop)) {
        stopped = true;
        return;
      }
      const Place place{static_cast<std::uint32_t>(step), static_cast<std::uint32_t>(stream), static_cast<std::uint32_t>(stream >> 32),
                        static_cast<std::uint32_t>(pair)};
      const auto normals = to_normals(random_words(seed, purpose, place));
      out[2 * pair] = static_cast<Real>(span.mean + normals[0] * span.deviation);
      if (2 * pair + 1 < count) out[2 * pair + 1] = static_cast<Real>(span.mean + normals[1] * span.deviation);
    }
  });
  return !stopped;
}

/// Zeros in a buffer, part by part: touching the memory of a large one takes long too. False when `stop` was set before it was through.
bool fill_zeros(const at::Tensor& buffer, const std::atomic<bool>* stop) {
  constexpr std::int64_t kElementsBetweenLooks = std::int64_t{1} << 24;
  for (std::int64_t first = 0; first < buffer.numel(); first += kElementsBetweenLooks) {
    if (is_set(stop)) return false;
    buffer.narrow(0, first, std::min(kElementsBetweenLooks, buffer.numel() - first)).zero_();
  }
  return true;
}

}  // namespace

Parameters::Parameters(const ModelConfig& config, std::int64_t vocabulary, at::ScalarType dtype, std::int64_t seed,
                       const routing::RoutingConfig& routing, const Holdings& holdings, c10::Device device, const std::atomic<bool>* stop)
    : seed_(seed), experts_(config.experts), first_expert_(holdings.experts.begin(config.experts)) {
  MOESWEEP_ASSERT(config.experts % holdings.experts.parts == 0, "each rank holds as many experts");
  const std::int64_t d = config.width, f = config.expert_width;
  const double into_residual = 1.0 / std::sqrt(2.0 * static_cast<double>(config.layers));
  const auto fan_in = [](std::int64_t inputs) { return 1.0 / std::sqrt(static_cast<double>(inputs)); };
  const auto dense = [&](std::string name, std::vector<std::int64_t> shape, double deviation) {
    const bool matrix = shape.size() == 2;
    append({std::move(name), ParameterClass::dense, 0, std::move(shape), matrix, deviation});
  };
  const auto gain = [&](std::string name) { append({std::move(name), ParameterClass::dense, 0, {d}, false, 0.0, 1.0}); };
  const std::int64_t shared = config.shared_experts + routing.extra_experts.shared;
  dense("embedding", {vocabulary, d}, fan_in(d));
  if (!config.tied_embeddings) dense("head", {vocabulary, d}, config.head_init_deviation);
  gain("final_norm");
  for (std::int64_t layer = 0; layer < config.layers; ++layer) {
    const std::string prefix = "layers." + std::to_string(layer) + ".";
    gain(prefix + "attention_norm");
    dense(prefix + "qkv", {3 * d, d}, fan_in(d));
    dense(prefix + "attention_output", {d, d}, fan_in(d) * into_residual);
    gain(prefix + "moe_norm");
    if (layer < config.dense_layers) {
      dense(prefix + "dense.gate_up", {d, 2 * config.dense_width}, fan_in(d));
      dense(prefix + "dense.down", {config.dense_width, d}, fan_in(config.dense_width) * into_residual);
      continue;
    }
    const std::int64_t moe_layer = layer - config.dense_layers;
    const routing::RoutingConfig own = routing.of_layer(moe_layer);
    for (const RouterParameter& p : router_parameters(config, routing, moe_layer))
      append({prefix + p.name, ParameterClass::dense, 0, p.shape, p.shape.size() == 2, p.deviation, p.mean,
              own.learning != routing::Learning::learned, own.learning == routing::Learning::resampled, own.import_from});
    if (shared > 0) {
      dense(prefix + "shared.gate_up", {d, 2 * f * shared}, fan_in(d));
      dense(prefix + "shared.down", {f * shared, d}, fan_in(f * shared) * into_residual);
    }
    for (std::int64_t k = 0; k < routing.extra_experts.constant; ++k) {  // MoE++'s: vectors start as N(0, 1)
      const std::string constant = prefix + "constant." + std::to_string(k) + ".";
      dense(constant + "mix", {2, d}, fan_in(d));
      dense(constant + "vector", {d}, 1.0);
    }
    // One matrix of all experts, then the other: a stack lies in one piece.
    const std::int64_t end_expert = holdings.experts.end(config.experts);
    for (const bool up : {true, false}) {
      const std::string which = up ? "gate_up" : "down";
      stack_offsets_[{layer, which}] = sizes_[static_cast<std::size_t>(ParameterClass::expert)];
      for (std::int64_t e = first_expert_; e < end_expert; ++e)
        append({prefix + "experts." + std::to_string(e) + "." + which, ParameterClass::expert, 0, up ? std::vector{d, 2 * f} : std::vector{f, d},
                true, up ? fan_in(d) : fan_in(f) * into_residual});
    }
  }

  for (const auto c : {ParameterClass::dense, ParameterClass::expert}) {
    Buffers& b = buffers(c);
    const std::int64_t size = sizes_[static_cast<std::size_t>(c)];
    const Part& updated = c == ParameterClass::dense ? holdings.dense_moments : holdings.expert_moments;
    b.first_updated = updated.begin(size);
    for (at::Tensor* buffer : {&b.value, &b.gradient}) *buffer = at::empty({size}, at::device(device).dtype(dtype));
    for (at::Tensor* buffer : {&b.first_moment, &b.second_moment})
      *buffer = at::empty({updated.end(size) - b.first_updated}, at::device(device).dtype(dtype));
    for (const at::Tensor* buffer : {&b.value, &b.gradient, &b.first_moment, &b.second_moment}) complete_ = complete_ && fill_zeros(*buffer, stop);
  }

  for (const Span& span : spans_) {
    complete_ = complete_ && draw(span, Purpose::init, 0, stop);
    if (span.parameter_class == ParameterClass::expert) continue;
    at::Tensor leaf = buffers(span.parameter_class).value.narrow(0, span.offset, span.count()).view(span.shape).detach();
    if (!span.frozen) {
      leaf.set_requires_grad(true);
      leaf.mutable_grad() = buffers(span.parameter_class).gradient.narrow(0, span.offset, span.count()).view(span.shape);
    }
    leaves_.emplace(span.name, leaf);
  }

  const Buffers& expert = buffers(ParameterClass::expert);
  const std::int64_t mine = holdings.experts.end(config.experts) - first_expert_;
  for (const auto& [key, offset] : stack_offsets_) {
    const bool up = key.second == "gate_up";
    const std::vector<std::int64_t> shape{mine, up ? d : f, up ? 2 * f : d};
    const std::int64_t count = mine * shape[1] * shape[2];
    stacks_[key] = {expert.value.narrow(0, offset, count).view(shape), expert.gradient.narrow(0, offset, count).view(shape)};
  }
}

std::vector<Parameters::Logical> Parameters::logical() const {
  std::vector<Logical> all;
  for (const Span& span : spans_)
    if (span.parameter_class == ParameterClass::dense)
      all.push_back({span.name, ParameterClass::dense, span.shape, 0, span.count(), span.offset, span.imported_from});
  for (const auto& [key, stack] : stacks_) {
    const std::int64_t each = stack.value.size(1) * stack.value.size(2);
    all.push_back({"layers." + std::to_string(key.first) + ".experts." + key.second,
                   ParameterClass::expert,
                   {experts_, stack.value.size(1), stack.value.size(2)},
                   first_expert_ * each,
                   stack.value.numel(),
                   stack_offsets_.at(key)});
  }
  return all;
}

void Parameters::append(Span span) {
  auto& size = sizes_[static_cast<std::size_t>(span.parameter_class)];
  span.offset = size;
  size += span.count();
  spans_.push_back(std::move(span));
}

bool Parameters::draw(const Span& span, Purpose purpose, std::int64_t step, const std::atomic<bool>* stop) {
  const at::Tensor value = buffers(span.parameter_class).value.narrow(0, span.offset, span.count());
  const at::Tensor drawn = value.is_cpu() ? value : at::empty(value.sizes(), value.options().device(at::kCPU));
  const auto seed = static_cast<std::uint64_t>(seed_);
  const bool whole = drawn.scalar_type() == at::kDouble ? fill_normal(drawn.mutable_data_ptr<double>(), span, seed, purpose, step, stop)
                                                        : fill_normal(drawn.mutable_data_ptr<float>(), span, seed, purpose, step, stop);
  if (whole && !drawn.is_same(value)) value.copy_(drawn);
  return whole;
}

void Parameters::resample(std::int64_t step) {
  for (const Span& span : spans_)
    if (span.resampled) draw(span, Purpose::resampled, step);
}

const at::Tensor& Parameters::operator[](const std::string& name) const {
  const auto found = leaves_.find(name);
  MOESWEEP_ASSERT(found != leaves_.end(), "no parameter " + name);
  return found->second;
}

Parameters::Stack Parameters::stack(std::int64_t layer, const std::string& which) const {
  const auto found = stacks_.find({layer, which});
  MOESWEEP_ASSERT(found != stacks_.end(), "no experts in layer " + std::to_string(layer));
  return found->second;
}

void Parameters::zero_gradients() {
  for (auto& buffers : buffers_) buffers.gradient.zero_();
}

}  // namespace moesweep::model
