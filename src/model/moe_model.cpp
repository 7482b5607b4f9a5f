// See include/moesweep/model/moe_model.hpp.
#include "moesweep/model/moe_model.hpp"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>

#include "experts.hpp"
#include "head_loss.hpp"
#include "moesweep/core/error.hpp"

namespace moesweep::model {

namespace {

at::ScalarType master_type(at::ScalarType compute) { return compute == at::kDouble ? at::kDouble : at::kFloat; }

std::string layer_name(std::int64_t layer, const std::string& rest) { return "layers." + std::to_string(layer) + "." + rest; }

/// Rotary positions on x [B, H, S, D]: pairs (i, i + D/2) turn by position * base^(-2i/D).
at::Tensor rotate(const at::Tensor& x, const at::Tensor& cosine, const at::Tensor& sine) {
  const std::int64_t half = x.size(3) / 2;
  const at::Tensor first = x.narrow(3, 0, half), second = x.narrow(3, half, half);
  return at::cat({first * cosine - second * sine, second * cosine + first * sine}, 3);
}

}  // namespace

MoeModel::MoeModel(const ModelConfig& config, const routing::RoutingConfig& routing, std::int64_t vocabulary, std::int64_t domains,
                   comm::Transport& gang, const MoeModelOptions& options)
    : config_(config), parameters_(config, vocabulary, master_type(options.compute), options.seed), compute_(options.compute) {
  for (std::int64_t layer = 0; layer < moe_layers(); ++layer) routers_.emplace_back(routing, layer, config.experts, domains, gang);
}

bool MoeModel::needs_whole_step(routing::Mode mode) const {
  return std::ranges::any_of(routers_, [&](const routing::LayerRouter& router) { return router.needs_whole_step(mode); });
}

bool MoeModel::readings_differ() const { return std::ranges::any_of(routers_, &routing::LayerRouter::readings_differ); }

at::Tensor MoeModel::product(const at::Tensor& x, const at::Tensor& w) const {
  if (compute_ == x.scalar_type()) return at::matmul(x, w);
  return at::matmul(x.to(compute_), w.to(compute_)).to(x.scalar_type());
}

at::Tensor MoeModel::norm(const at::Tensor& x, const std::string& gain) const {
  return at::rms_norm(x, {config_.width}, parameters_[gain], config_.norm_epsilon);
}

at::Tensor MoeModel::attention(std::int64_t layer, const at::Tensor& h, const routing::TokenLayout& layout) const {
  const std::int64_t batch = layout.sequences, length = layout.length, heads = config_.heads, size = config_.width / heads;
  const at::Tensor qkv = product(h, parameters_[layer_name(layer, "qkv")].t()).view({batch, length, 3, heads, size}).permute({2, 0, 3, 1, 4});
  const at::Tensor frequency = at::pow(config_.rotary_base, at::arange(size / 2, at::kDouble) * (-2.0 / static_cast<double>(size)));
  const at::Tensor angle = at::arange(length, at::kDouble).view({-1, 1}) * frequency;
  const at::Tensor cosine = angle.cos().to(h.scalar_type()), sine = angle.sin().to(h.scalar_type());
  const at::Tensor q = rotate(qkv[0], cosine, sine), k = rotate(qkv[1], cosine, sine);
  const double scale = 1.0 / std::sqrt(static_cast<double>(size));
  at::Tensor mixed;
  // Plain products beat the fused kernel at short lengths and in bf16; the fused one saves memory at long ones.
  if (compute_ == at::kDouble || length <= (compute_ == at::kBFloat16 ? 512 : 96)) {
    const at::Tensor future = at::full({length, length}, -std::numeric_limits<double>::infinity(), h.options()).triu(1);
    const at::Tensor weights = at::softmax(product(q * scale, k.transpose(2, 3)) + future, -1);
    mixed = product(weights, qkv[2]);
  } else {
    mixed =
        at::scaled_dot_product_attention(q.to(compute_), k.to(compute_), qkv[2].to(compute_), {}, 0.0, /*is_causal=*/true, scale).to(h.scalar_type());
  }
  const at::Tensor flat = mixed.transpose(1, 2).reshape({batch * length, config_.width});
  return product(flat, parameters_[layer_name(layer, "attention_output")].t());
}

at::Tensor MoeModel::swiglu(const at::Tensor& h, const std::string& prefix) const {
  const auto halves = product(h, parameters_[prefix + "gate_up"]).chunk(2, -1);
  return product(at::silu(halves[0]) * halves[1], parameters_[prefix + "down"]);
}

MoeModel::Before MoeModel::before_experts(std::int64_t layer, const at::Tensor& x, const routing::TokenLayout& layout) const {
  Before before;
  before.residual = x + attention(layer, norm(x, layer_name(layer, "attention_norm")), layout);
  before.input = norm(before.residual, layer_name(layer, "moe_norm"));
  if (!is_dense(layer)) before.logits = at::matmul(before.input, parameters_[layer_name(layer, "router")].t());
  return before;
}

at::Tensor MoeModel::after_experts(std::int64_t layer, const Before& before, const routing::Assignment& assignment) const {
  at::Tensor x =
      before.residual + routed_experts(before.input, assignment, parameters_.stack(layer, "gate_up"), parameters_.stack(layer, "down"), compute_);
  if (config_.shared_experts > 0) x = x + swiglu(before.input, layer_name(layer, "shared."));
  return x;
}

std::vector<PassDecisions> MoeModel::decide_step(std::span<const PassInput> passes, routing::Mode mode) {
  if (passes.size() < 2 || !needs_whole_step(mode)) return {};
  const at::NoGradGuard no_gradient;
  std::vector<PassDecisions> decisions(passes.size());
  std::vector<at::Tensor> x;
  for (const auto& pass : passes) x.push_back(parameters_["embedding"].index_select(0, pass.tokens));
  for (std::int64_t layer = 0; layer < config_.layers; ++layer) {
    std::vector<Before> before;
    for (std::size_t p = 0; p < passes.size(); ++p) before.push_back(before_experts(layer, x[p], passes[p].layout));
    if (is_dense(layer)) {
      for (std::size_t p = 0; p < passes.size(); ++p) x[p] = before[p].residual + swiglu(before[p].input, layer_name(layer, "dense."));
      continue;
    }
    routing::LayerRouter& router = routers_[static_cast<std::size_t>(layer - config_.dense_layers)];
    std::vector<routing::Scores> scores;
    for (std::size_t p = 0; p < passes.size(); ++p) scores.push_back({before[p].logits, layer - config_.dense_layers, &passes[p].layout});
    auto decided = router.decide(scores, mode);
    for (std::size_t p = 0; p < passes.size(); ++p) {
      // The last layer's output is nobody's input in this phase.
      if (layer + 1 < config_.layers) x[p] = after_experts(layer, before[p], router.apply(scores[p], decided[p]));
      decisions[p].push_back(std::move(decided[p]));
    }
  }
  return decisions;
}

PassResult MoeModel::forward(const PassInput& pass, const PassDecisions* given, routing::Mode mode) {
  PassResult result;
  at::Tensor x = parameters_["embedding"].index_select(0, pass.tokens);
  for (std::int64_t layer = 0; layer < config_.layers; ++layer) {
    const Before before = before_experts(layer, x, pass.layout);
    if (is_dense(layer)) {
      x = before.residual + swiglu(before.input, layer_name(layer, "dense."));
      continue;
    }
    const auto index = static_cast<std::size_t>(layer - config_.dense_layers);
    const routing::Scores scores{before.logits, layer - config_.dense_layers, &pass.layout};
    if (given != nullptr) result.decisions.push_back((*given)[index]);
    else result.decisions.push_back(std::move(routers_[index].decide({&scores, 1}, mode)[0]));
    const routing::Assignment assignment = routers_[index].apply(scores, result.decisions.back());
    x = after_experts(layer, before, assignment);
    for (const auto& [name, loss] : assignment.losses) {
      auto [place, fresh] = result.losses.try_emplace(name, loss);
      if (!fresh) place->second = place->second + loss;
    }
  }
  const at::Tensor& head = parameters_[config_.tied_embeddings ? "embedding" : "head"];
  result.token_loss = head_loss(norm(x, "final_norm"), head, pass.targets, compute_);
  return result;
}

void MoeModel::end_step() {
  for (auto& router : routers_) router.end_step();
}

std::vector<std::pair<std::string, at::Tensor>> MoeModel::state() {
  std::vector<std::pair<std::string, at::Tensor>> all;
  for (std::size_t layer = 0; layer < routers_.size(); ++layer)
    for (auto& [name, tensor] : routers_[layer].state()) all.emplace_back("layers." + std::to_string(layer) + "." + name, tensor);
  return all;
}

}  // namespace moesweep::model
