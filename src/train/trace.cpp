// See trace.hpp.
#include "trace.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <span>
#include <utility>

#include "moesweep/core/error.hpp"

namespace moesweep::train {

namespace {

/// Where numbers of a token's row stand.
enum Place : std::size_t { kSequence, kPosition, kToken, kTarget, kPredicted, kDomain, kLoss, kFirstLayer };

at::Tensor doubles(const at::Tensor& tensor) { return tensor.detach().to(at::kCPU, at::kDouble).contiguous(); }

template <class Number>
store::Array array_of(std::string path, DType type, std::vector<std::int64_t> shape, const std::vector<Number>& values, std::string unit,
                      std::string description) {
  const auto bytes = std::as_bytes(std::span(values));
  return {std::move(path), type, std::move(shape), {bytes.begin(), bytes.end()}, std::move(unit), std::move(description), false};
}

}  // namespace

void Trace::add(const model::PassInput& pass, const model::PassResult& result, const model::MoeModel& model) {
  const auto& layout = pass.layout;
  std::vector<std::pair<std::int64_t, std::int64_t>> wanted;  // (token of the pass, its position)
  for (std::int64_t s = 0; s < layout.sequences; ++s) {
    const std::int64_t left = tokens_ - layout.index[static_cast<std::size_t>(s)] * layout.length;
    for (std::int64_t p = 0; p < std::min(left, layout.length); ++p) wanted.emplace_back(s * layout.length + p, p);
  }
  layers_ = model.moe_layers();
  experts_ = result.router_logits.front().size(1);
  if (wanted.empty()) return;
  std::vector<std::int64_t> numbers;
  for (const auto& [t, p] : wanted) numbers.push_back(t);
  const at::Tensor rows = at::tensor(numbers, at::kLong);
  const at::Tensor predicted = doubles(model.head_logits(result.hidden.index_select(0, rows.to(result.hidden.device()))).argmax(1));
  const at::Tensor token = doubles(pass.tokens), target = doubles(pass.targets), loss = doubles(result.token_loss);
  const at::TensorAccessor<double, 1> tokens = token.accessor<double, 1>(), targets = target.accessor<double, 1>(),
                                      losses = loss.accessor<double, 1>(), predictions = predicted.accessor<double, 1>();
  struct Layer {
    at::Tensor offsets, expert, weight, dropped, logits;
  };
  std::vector<Layer> layers;
  for (std::int64_t l = 0; l < layers_; ++l) {
    const auto i = static_cast<std::size_t>(l);
    const routing::Slots& slots = result.decisions[i].slots;
    layers.push_back({slots.offsets.to(at::kCPU).contiguous(), doubles(slots.expert), doubles(result.weights[i]),
                      slots.dropped.defined() ? doubles(slots.dropped) : at::zeros({slots.expert.numel()}, at::kDouble),
                      logits_ ? doubles(result.router_logits[i]) : at::Tensor()});
  }
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    const auto [t, position] = wanted[i];
    const auto sequence = static_cast<std::size_t>(t / layout.length);
    rows_.insert(rows_.end(), {static_cast<double>(layout.index[sequence]), static_cast<double>(position), tokens[t], targets[t],
                               predictions[static_cast<std::int64_t>(i)], static_cast<double>(layout.domain[sequence]), losses[t]});
    for (const Layer& layer : layers) {
      const auto* offsets = layer.offsets.const_data_ptr<std::int64_t>();
      rows_.push_back(static_cast<double>(offsets[t + 1] - offsets[t]));
      for (std::int64_t slot = offsets[t]; slot < offsets[t + 1]; ++slot)
        for (const at::Tensor* value : {&layer.expert, &layer.weight, &layer.dropped}) rows_.push_back(value->const_data_ptr<double>()[slot]);
      if (!logits_) continue;
      const auto* logits = layer.logits.const_data_ptr<double>() + t * experts_;
      rows_.insert(rows_.end(), logits, logits + experts_);
    }
  }
}

std::vector<store::Array> Trace::arrays(comm::Transport& gang, const std::string& prefix) const {
  std::vector<double> all;
  for (const auto& part : gang.all_gather(std::as_bytes(std::span(rows_)), "trace of validation tokens")) {
    const std::size_t first = all.size();
    all.resize(first + part.size() / sizeof(double));
    if (!part.empty()) std::memcpy(all.data() + first, part.data(), part.size());
  }
  // Where each token's row begins, in order of (sequence, position), and the most slots of a token.
  std::map<std::pair<double, double>, std::size_t> order;
  std::size_t most = 1;
  for (std::size_t at = 0; at < all.size();) {
    order[{all[at + kSequence], all[at + kPosition]}] = at;
    at += kFirstLayer;
    for (std::int64_t l = 0; l < layers_; ++l) {
      const auto slots = static_cast<std::size_t>(all[at]);
      most = std::max(most, slots);
      at += 1 + 3 * slots + (logits_ ? static_cast<std::size_t>(experts_) : 0);
    }
  }
  const std::size_t tokens = order.size(), layers = static_cast<std::size_t>(layers_);
  std::array<std::vector<std::int32_t>, kLoss> numbers;
  std::vector<std::int32_t> experts(layers * tokens * most, -1);
  std::vector<double> loss;
  std::vector<float> weights(layers * tokens * most, 0.0F), logits;
  if (logits_) logits.resize(layers * tokens * static_cast<std::size_t>(experts_));
  std::vector<std::uint8_t> dropped(layers * tokens * most, 0);
  std::size_t t = 0;
  for (const auto& [key, begin] : order) {
    for (std::size_t i = 0; i < kLoss; ++i) numbers[i].push_back(static_cast<std::int32_t>(all[begin + i]));
    loss.push_back(all[begin + kLoss]);
    std::size_t at = begin + kFirstLayer;
    for (std::size_t l = 0; l < layers; ++l) {
      const auto slots = static_cast<std::size_t>(all[at++]);
      for (std::size_t slot = 0; slot < slots; ++slot, at += 3) {
        const std::size_t cell = (l * tokens + t) * most + slot;
        experts[cell] = static_cast<std::int32_t>(all[at]);
        weights[cell] = static_cast<float>(all[at + 1]);
        dropped[cell] = all[at + 2] != 0 ? 1 : 0;
      }
      if (!logits_) continue;
      for (std::int64_t e = 0; e < experts_; ++e)
        logits[(l * tokens + t) * static_cast<std::size_t>(experts_) + static_cast<std::size_t>(e)] = static_cast<float>(all[at++]);
    }
    ++t;
  }
  const auto n = static_cast<std::int64_t>(tokens), k = static_cast<std::int64_t>(most);
  std::vector<store::Array> arrays;
  const auto add = [&](const char* name, Place place, const char* unit, const char* description) {
    arrays.push_back(array_of(prefix + name, DType::i32, {n}, numbers[place], unit, description));
  };
  add("sequence", kSequence, "1", "number of the token's sequence in the validation set");
  add("position", kPosition, "1", "place of the token in its sequence, from 0");
  add("token", kToken, "1", "token id");
  add("target", kTarget, "1", "id of the next token");
  add("predicted", kPredicted, "1", "id that the model holds most likely to be next");
  add("domain", kDomain, "1", "number of the sequence's domain");
  arrays.push_back(array_of(prefix + "loss", DType::f64, {n}, loss, "nats per token", "loss of predicting target"));
  arrays.push_back(
      array_of(prefix + "expert", DType::i32, {layers_, n, k}, experts, "1", "expert of each slot, by MoE layer and token; -1: no slot"));
  arrays.push_back(array_of(prefix + "weight", DType::f32, {layers_, n, k}, weights, "1", "gate weight of each slot; 0 where there is none"));
  arrays.push_back(array_of(prefix + "dropped", DType::u8, {layers_, n, k}, dropped, "1", "1 where capacity dropped the slot"));
  if (logits_)
    arrays.push_back(array_of(prefix + "logits", DType::f32, {layers_, n, experts_}, logits, "1", "router logits, by MoE layer, token and expert"));
  return arrays;
}

}  // namespace moesweep::train
