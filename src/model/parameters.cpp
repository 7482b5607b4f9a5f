// See include/moesweep/model/parameters.hpp.
#include "moesweep/model/parameters.hpp"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "moesweep/core/error.hpp"
#include "moesweep/core/random.hpp"

namespace moesweep::model {

std::int64_t Span::count() const {
  std::int64_t product = 1;
  for (const auto extent : shape) product *= extent;
  return product;
}

namespace {

template <class Real>
void fill_normal(Real* out, std::int64_t count, double deviation, std::uint64_t seed, std::uint64_t stream) {
  at::parallel_for(0, (count + 1) / 2, 4096, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t pair = begin; pair < end; ++pair) {
      const Place place{0, static_cast<std::uint32_t>(stream), static_cast<std::uint32_t>(stream >> 32), static_cast<std::uint32_t>(pair)};
      const auto normals = to_normals(random_words(seed, Purpose::init, place));
      out[2 * pair] = static_cast<Real>(normals[0] * deviation);
      if (2 * pair + 1 < count) out[2 * pair + 1] = static_cast<Real>(normals[1] * deviation);
    }
  });
}

}  // namespace

Parameters::Parameters(const ModelConfig& config, std::int64_t vocabulary, at::ScalarType dtype, std::int64_t seed) : config_(config) {
  const std::int64_t d = config.width, f = config.expert_width;
  const double into_residual = 1.0 / std::sqrt(2.0 * static_cast<double>(config.layers));
  const auto fan_in = [](std::int64_t inputs) { return 1.0 / std::sqrt(static_cast<double>(inputs)); };
  const auto dense = [&](std::string name, std::vector<std::int64_t> shape, double deviation) {
    append({std::move(name), ParameterClass::dense, 0, std::move(shape), true, false, deviation});
  };
  const auto gain = [&](std::string name) { append({std::move(name), ParameterClass::dense, 0, {d}, false, true, 0.0}); };
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
    dense(prefix + "router", {config.experts, d}, config.router_init_deviation);
    if (config.shared_experts > 0) {
      dense(prefix + "shared.gate_up", {d, 2 * f * config.shared_experts}, fan_in(d));
      dense(prefix + "shared.down", {f * config.shared_experts, d}, fan_in(f * config.shared_experts) * into_residual);
    }
    for (std::int64_t e = 0; e < config.experts; ++e) {
      const std::string expert = prefix + "experts." + std::to_string(e) + ".";
      append({expert + "gate_up", ParameterClass::expert, 0, {d, 2 * f}, true, false, fan_in(d)});
      append({expert + "down", ParameterClass::expert, 0, {f, d}, true, false, fan_in(f) * into_residual});
    }
  }

  for (std::size_t c = 0; c < 2; ++c)
    for (at::Tensor* buffer : {&buffers_[c].value, &buffers_[c].gradient, &buffers_[c].first_moment, &buffers_[c].second_moment})
      *buffer = at::zeros({sizes_[c]}, dtype);

  for (const Span& span : spans_) {
    at::Tensor value = buffers(span.parameter_class).value.narrow(0, span.offset, span.count());
    if (span.starts_at_one) value.fill_(1.0);
    else if (dtype == at::kDouble)
      fill_normal(value.mutable_data_ptr<double>(), span.count(), span.deviation, static_cast<std::uint64_t>(seed), stable_number(span.name));
    else fill_normal(value.mutable_data_ptr<float>(), span.count(), span.deviation, static_cast<std::uint64_t>(seed), stable_number(span.name));
    if (span.parameter_class == ParameterClass::expert) continue;
    at::Tensor leaf = value.view(span.shape).detach();
    leaf.set_requires_grad(true);
    leaf.mutable_grad() = buffers(span.parameter_class).gradient.narrow(0, span.offset, span.count()).view(span.shape);
    leaves_.emplace(span.name, leaf);
  }

  // A layer's experts lie one behind the other, gate_up before down: stacks are strided views.
  const std::int64_t stride = 3 * d * f;
  for (std::int64_t layer = config.dense_layers; layer < config.layers; ++layer) {
    const std::int64_t first = (layer - config.dense_layers) * config.experts * stride;
    auto& expert = buffers(ParameterClass::expert);
    for (const std::string which : {"gate_up", "down"}) {
      const bool up = which == "gate_up";
      const std::vector<std::int64_t> shape{config.experts, up ? d : f, up ? 2 * f : d}, strides{stride, up ? 2 * f : d, 1};
      const std::int64_t offset = first + (up ? 0 : 2 * d * f);
      stacks_[{layer, which}] = {expert.value.as_strided(shape, strides, offset), expert.gradient.as_strided(shape, strides, offset)};
    }
  }
}

std::int64_t Parameters::append(Span span) {
  auto& size = sizes_[static_cast<std::size_t>(span.parameter_class)];
  span.offset = size;
  size += span.count();
  spans_.push_back(std::move(span));
  return spans_.back().offset;
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
