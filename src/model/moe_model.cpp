// See include/moesweep/model/moe_model.hpp.
#include "moesweep/model/moe_model.hpp"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <utility>

#include "experts.hpp"
#include "extra_experts.hpp"
#include "head_loss.hpp"
#include "moesweep/core/error.hpp"
#include "recompute.hpp"
#include "regularisers.hpp"
#include "router_inputs.hpp"
#include "router_parameters.hpp"

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

void add_loss(std::map<std::string, at::Tensor>& losses, const std::string& name, const at::Tensor& loss) {
  auto [place, fresh] = losses.try_emplace(name, loss);
  if (!fresh) place->second = place->second + loss;
}

/// Terms whose layers are averaged before the product: factor * sum over units and experts of mean load times mean probability, where layers
/// whose units or factors differ are averaged apart.
void add_pooled(std::map<std::string, at::Tensor>& losses, const std::vector<routing::Assignment::Pooled>& terms, at::ScalarType type) {
  std::map<std::tuple<std::string, double, std::int64_t>, std::vector<const routing::Assignment::Pooled*>> groups;
  for (const auto& term : terms) groups[{term.loss, term.factor, term.load.size(0)}].push_back(&term);
  for (const auto& [key, group] : groups) {
    at::Tensor load = group.front()->load, probabilities = group.front()->probabilities;
    for (std::size_t i = 1; i < group.size(); ++i) {
      load = load + group[i]->load;
      probabilities = probabilities + group[i]->probabilities;
    }
    const auto layers = static_cast<double>(group.size());
    add_loss(losses, std::get<0>(key), ((load * probabilities).sum() * (std::get<1>(key) / (layers * layers))).to(type));
  }
}

Part part_of(comm::Transport& ranks) { return {ranks.rank(), ranks.size()}; }

Holdings holdings_of(comm::Grid& grid, bool shard_moments) {
  Holdings holdings;
  holdings.experts = part_of(grid.experts());
  if (shard_moments) {
    holdings.dense_moments = part_of(grid.all());
    holdings.expert_moments = part_of(grid.copies());
  }
  return holdings;
}

/// The decision of a layer that takes another one's: its slots and counts, no statistics of its own.
routing::Decision replayed(const routing::Decision& decision) { return {decision.slots, {}, decision.counts, {}}; }

}  // namespace

MoeModel::MoeModel(const ModelConfig& config, const routing::RoutingConfig& routing, std::int64_t vocabulary, std::int64_t domains, comm::Grid& grid,
                   const MoeModelOptions& options)
    : config_(config),
      routing_(routing),
      grid_(&grid),
      parameters_(config, vocabulary, master_type(options.compute), options.seed, routing, holdings_of(grid, options.shard_moments), options.device,
                  options.stop),
      compute_(options.compute),
      device_(options.device),
      recompute_(options.recompute),
      complete_(parameters_.complete()) {
  routing::RouterPlace place;
  place.layers = routing.depth == routing::Depth::shared_decision ? std::min<std::int64_t>(1, moe_layers()) : moe_layers();
  place.experts = routed_experts();
  place.ffn_experts = config.experts;
  place.domains = domains;
  place.seed = options.seed;
  place.vocabulary = vocabulary;
  place.token_frequency = options.token_frequency;
  place.recording = options.recording;
  for (place.layer = 0; complete_ && place.layer < place.layers; ++place.layer) {
    complete_ = options.stop == nullptr || !options.stop->load();  // hash tables of a large vocabulary take long
    if (complete_) routers_.emplace_back(routing.of_layer(place.layer), place, grid.host());
  }
}

bool MoeModel::needs_whole_step(routing::Mode mode) const {
  return std::ranges::any_of(routers_, [&](const routing::LayerRouter& router) { return router.needs_whole_step(mode); });
}

bool MoeModel::readings_differ() const { return std::ranges::any_of(routers_, &routing::LayerRouter::readings_differ); }

bool MoeModel::causal(routing::Mode mode) const {
  return std::ranges::all_of(routers_, [&](const routing::LayerRouter& router) { return router.causal(mode); });
}

std::vector<std::string> MoeModel::loss_names() const {
  std::vector<std::string> names;
  for (const auto& router : routers_)
    for (const std::string& name : router.loss_names())
      if (std::ranges::find(names, name) == names.end()) names.push_back(name);
  return names;
}

void MoeModel::begin_step(std::int64_t step, bool training) {
  for (auto& router : routers_) router.begin_step(step);
  if (training) parameters_.resample(step);
}

at::Tensor MoeModel::product(const at::Tensor& x, const at::Tensor& w) const {
  if (compute_ == x.scalar_type()) return at::matmul(x, w);
  return at::matmul(x.to(compute_), w.to(compute_)).to(x.scalar_type());
}

at::Tensor MoeModel::norm(const at::Tensor& x, const std::string& gain) const {
  return at::rms_norm(x, {config_.width}, parameters_[gain], config_.norm_epsilon);
}

at::Tensor MoeModel::attention(std::int64_t layer, const at::Tensor& h, const routing::TokenLayout& layout) const {
  MOESWEEP_ASSERT(layout.tokens() == layout.sequences * layout.length, "attention needs sequences of one length");
  const std::int64_t batch = layout.sequences, length = layout.length, heads = config_.heads, size = config_.width / heads;
  const at::Tensor qkv = product(h, parameters_[layer_name(layer, "qkv")].t()).view({batch, length, 3, heads, size}).permute({2, 0, 3, 1, 4});
  const auto doubles = h.options().dtype(at::kDouble);
  const at::Tensor frequency = at::pow(config_.rotary_base, at::arange(size / 2, doubles) * (-2.0 / static_cast<double>(size)));
  const at::Tensor angle = at::arange(length, doubles).view({-1, 1}) * frequency;
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

RouterWeights MoeModel::router_weights(std::int64_t moe_layer) const {
  const routing::RoutingConfig& config = routers_[static_cast<std::size_t>(moe_layer)].config();
  const std::int64_t owner = config_.dense_layers + router_owner(routing_, moe_layer);
  RouterWeights weights;
  weights.rows = parameters_[layer_name(owner, "router")];
  if (config.logits == routing::Logits::cosine) {
    weights.projection = parameters_[layer_name(owner, "router_projection")];
    weights.temperature = parameters_[layer_name(owner, "router_temperature")];
  }
  if (config.noise.learned) weights.noise = parameters_[layer_name(owner, "router_noise")];
  return weights;
}

MoeModel::Before MoeModel::before_experts(std::int64_t layer, const at::Tensor& x, const routing::TokenLayout& layout, routing::Mode mode) const {
  Before before;
  before.residual = x + attention(layer, norm(x, layer_name(layer, "attention_norm")), layout);
  before.input = norm(before.residual, layer_name(layer, "moe_norm"));
  if (is_dense(layer) || !decides(layer)) return before;
  before.scores = router_scores(before.input, router_weights(moe_layer(layer)), routers_[static_cast<std::size_t>(moe_layer(layer))], layout, mode);
  return before;
}

at::Tensor MoeModel::after_experts(std::int64_t layer, const Before& before, const routing::Assignment& assignment, Losses* losses) const {
  const bool records = at::GradMode::is_enabled();
  at::Tensor shared;
  const auto while_rows_travel = [&] {
    const at::AutoGradMode recording(records);
    if (config_.shared_experts + routing_.extra_experts.shared > 0) shared = swiglu(before.input, layer_name(layer, "shared."));
  };
  const ExpertOutputs outputs = expert_outputs(before.input, assignment, parameters_.stack(layer, "gate_up"), parameters_.stack(layer, "down"),
                                               compute_, grid_->experts(), work_, while_rows_travel);
  at::Tensor x = before.residual + outputs.combined;
  if (routing_.extra_experts.routed() > 0) {
    std::vector<ConstantExpert> constants;
    for (std::int64_t k = 0; k < routing_.extra_experts.constant; ++k) {
      const std::string prefix = layer_name(layer, "constant." + std::to_string(k) + ".");
      constants.push_back({parameters_[prefix + "mix"], parameters_[prefix + "vector"]});
    }
    x = x + extra_experts(before.input, assignment, config_.experts, routing_.extra_experts, constants);
  }
  if (shared.defined()) x = x + shared;
  if (losses != nullptr) regularise(layer, outputs, assignment.slots, *before.scores.tokens, *losses);
  return x;
}

void MoeModel::regularise(std::int64_t layer, const ExpertOutputs& outputs, const routing::Slots& slots, const routing::TokenLayout& layout,
                          Losses& losses) const {
  const std::int64_t moe = moe_layer(layer);
  const routing::RegulariseConfig& now = routers_[static_cast<std::size_t>(moe)].now().regularise;
  if (now.output_orthogonality > 0)
    add_loss(losses, "output_orthogonality", output_orthogonality(outputs, slots, layout.step_tokens) * now.output_orthogonality);
  if (now.router_orthogonality <= 0 && now.expert_router_coupling <= 0) return;
  // What does not depend on tokens counts once a step: passes and ranks share it by their tokens.
  const std::int64_t tokens = layout.mask.defined() ? layout.mask.sum().item<std::int64_t>() : layout.tokens();
  const double share = static_cast<double>(tokens) / static_cast<double>(std::max<std::int64_t>(1, layout.step_tokens));
  const at::Tensor rows = router_weights(moe).rows;
  if (now.router_orthogonality > 0 && router_owner(routing_, moe) == moe)
    add_loss(losses, "router_orthogonality", routing::router_orthogonality(rows) * (now.router_orthogonality * share));
  if (now.expert_router_coupling > 0) {
    const at::Tensor proxies = noisy_proxies(rows.narrow(0, 0, config_.experts), layout.seed, layout.step, moe);
    const at::Tensor activations = gate_activations(proxies, parameters_.stack(layer, "gate_up"), grid_->experts());
    add_loss(losses, "expert_router_coupling",
             routing::expert_router_coupling(activations, now.coupling_margin) * (now.expert_router_coupling * share));
  }
}

std::vector<PassDecisions> MoeModel::decide_step(std::span<const PassInput> passes, routing::Mode mode) {
  if (passes.size() < 2 || !needs_whole_step(mode)) return {};
  const at::NoGradGuard no_gradient;
  std::vector<PassDecisions> decisions(passes.size());
  std::vector<routing::Assignment> assignments(passes.size());
  std::vector<at::Tensor> x;
  for (const auto& pass : passes) x.push_back(parameters_["embedding"].index_select(0, pass.tokens.to(device_)));
  for (std::int64_t layer = 0; layer < config_.layers; ++layer) {
    std::vector<Before> before;
    for (std::size_t p = 0; p < passes.size(); ++p) before.push_back(before_experts(layer, x[p], passes[p].layout, mode));
    if (is_dense(layer)) {
      for (std::size_t p = 0; p < passes.size(); ++p) x[p] = before[p].residual + swiglu(before[p].input, layer_name(layer, "dense."));
      continue;
    }
    std::vector<routing::Decision> decided;
    std::vector<routing::Scores> scores;
    for (const Before& b : before) scores.push_back(b.scores);
    if (decides(layer)) decided = routers_[static_cast<std::size_t>(moe_layer(layer))].decide(scores, mode);
    for (std::size_t p = 0; p < passes.size(); ++p) {
      // The last layer's output is nobody's input in this phase.
      const bool last = layer + 1 == config_.layers;
      if (!last && decides(layer)) assignments[p] = routers_[static_cast<std::size_t>(moe_layer(layer))].weigh(scores[p], decided[p], mode);
      if (!last) x[p] = after_experts(layer, before[p], assignments[p], nullptr);
      decisions[p].push_back(decides(layer) ? std::move(decided[p]) : replayed(decisions[p].front()));
    }
  }
  return decisions;
}

MoeModel::LayerOutput MoeModel::layer_output(std::int64_t layer, const at::Tensor& x, const PassInput& pass, const routing::Assignment& earlier,
                                             routing::Decision& decision, routing::Mode mode) {
  LayerOutput output;
  const Before before = before_experts(layer, x, pass.layout, mode);
  if (is_dense(layer)) {
    output.x = before.residual + swiglu(before.input, layer_name(layer, "dense."));
    return output;
  }
  if (!decides(layer)) {
    output.assignment = {earlier.slots, earlier.weight, {}, {}};
    output.x = after_experts(layer, before, output.assignment, nullptr);
    return output;
  }
  routing::LayerRouter& router = routers_[static_cast<std::size_t>(moe_layer(layer))];
  if (!decision.slots.offsets.defined()) decision = std::move(router.decide({&before.scores, 1}, mode)[0]);
  output.assignment = router.apply(before.scores, decision, mode);
  output.logits = before.scores.logits;
  output.x = after_experts(layer, before, output.assignment, mode == routing::Mode::train ? &output.assignment.losses : nullptr);
  return output;
}

MoeModel::LayerOutput MoeModel::recomputed_layer_output(std::int64_t layer, const at::Tensor& x, const std::shared_ptr<const PassInput>& pass,
                                                        const routing::Assignment& earlier, routing::Decision& decision) {
  // Shared with the second run, which replays the decision of the first: nothing is decided or counted twice.
  struct Shared {
    routing::Decision decision;
    LayerOutput first;
  };
  const auto shared = std::make_shared<Shared>();
  shared->decision = decision;
  const bool takes_weights = !is_dense(layer) && !decides(layer);
  const auto stretch = [this, layer, pass, shared, slots = earlier.slots, takes_weights](const std::vector<at::Tensor>& inputs) {
    routing::Assignment taken{slots, takes_weights ? inputs[1] : at::Tensor(), {}, {}};
    LayerOutput output = layer_output(layer, inputs[0], *pass, taken, shared->decision, routing::Mode::train);
    std::vector<at::Tensor> flat{output.x};
    if (!takes_weights && output.assignment.weight.defined()) flat.push_back(output.assignment.weight);
    for (const auto& [name, loss] : output.assignment.losses) flat.push_back(loss);
    for (const auto& term : output.assignment.pooled) flat.push_back(term.probabilities);
    if (!shared->first.x.defined()) shared->first = std::move(output);
    return flat;
  };
  std::vector<at::Tensor> inputs{x};
  if (takes_weights) inputs.push_back(earlier.weight);
  const std::vector<at::Tensor> flat = recomputed(stretch, inputs);
  // The first run's outputs in their places, as autograd has them.
  LayerOutput output = std::exchange(shared->first, LayerOutput{at::empty({0}), {}, {}});
  auto next = flat.begin();
  output.x = *next++;
  if (takes_weights) output.assignment.weight = earlier.weight;
  else if (output.assignment.weight.defined()) output.assignment.weight = *next++;
  for (auto& [name, loss] : output.assignment.losses) loss = *next++;
  for (auto& term : output.assignment.pooled) term.probabilities = *next++;
  decision = shared->decision;
  shared->decision.noise = at::Tensor();  // the second run draws it again
  return output;
}

PassResult MoeModel::forward(const PassInput& pass, const PassDecisions* given, routing::Mode mode) {
  PassResult result;
  const bool recomputes = recompute_ && mode == routing::Mode::train && at::GradMode::is_enabled();
  const auto kept = recomputes ? std::make_shared<const PassInput>(pass) : nullptr;
  at::Tensor x = parameters_["embedding"].index_select(0, pass.tokens.to(device_));
  routing::Assignment assignment;  // the last decided one: layers that do not decide take it
  at::Tensor logits;
  std::vector<routing::Assignment::Pooled> pooled;
  for (std::int64_t layer = 0; layer < config_.layers; ++layer) {
    routing::Decision decision;
    if (given != nullptr && !is_dense(layer) && decides(layer)) decision = (*given)[static_cast<std::size_t>(moe_layer(layer))];
    LayerOutput output =
        recomputes ? recomputed_layer_output(layer, x, kept, assignment, decision) : layer_output(layer, x, pass, assignment, decision, mode);
    x = output.x;
    if (is_dense(layer)) continue;
    if (decides(layer)) {
      decision.noise = at::Tensor();  // nobody draws for this pass again
      result.decisions.push_back(std::move(decision));
      assignment = std::move(output.assignment);
      logits = output.logits;
      for (const auto& [name, loss] : assignment.losses) add_loss(result.losses, name, loss);
      pooled.insert(pooled.end(), assignment.pooled.begin(), assignment.pooled.end());
    } else {
      result.decisions.push_back(replayed(result.decisions.front()));
    }
    if (mode == routing::Mode::train) continue;
    result.weights.push_back(assignment.weight);
    result.router_logits.push_back(logits);
  }
  add_pooled(result.losses, pooled, x.scalar_type());
  const at::Tensor hidden = norm(x, "final_norm");
  result.token_loss = head_loss(hidden, parameters_[head_name()], pass.targets.to(device_), compute_);
  if (mode != routing::Mode::train) result.hidden = hidden;
  return result;
}

at::Tensor MoeModel::head_logits(const at::Tensor& hidden) const { return product(hidden, parameters_[head_name()].t()); }

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
