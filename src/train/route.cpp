// See include/moesweep/train/route.hpp.
#include "moesweep/train/route.hpp"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <fmt/core.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <map>
#include <memory>
#include <set>

#include "moesweep/comm/transport.hpp"
#include "moesweep/core/error.hpp"
#include "moesweep/routing/parts.hpp"
#include "moesweep/routing/router.hpp"

namespace moesweep::train {

namespace {

routing::Mode mode_of(RouteMode mode) {
  switch (mode) {
    case RouteMode::train: return routing::Mode::train;
    case RouteMode::evaluate: return routing::Mode::evaluate;
    case RouteMode::greedy: return routing::Mode::greedy;
  }
  return routing::Mode::train;
}

std::string shape_in_words(const std::vector<std::int64_t>& shape) {
  std::string text;
  for (const auto size : shape) text += (text.empty() ? "" : ", ") + std::to_string(size);
  return "[" + text + "]";
}

/// The request's arrays by name, as tensors and as checked integers.
class Inputs {
 public:
  explicit Inputs(const RouteRequest& request) : request_(request) {}

  const store::Array* find(const std::string& name) const {
    const auto found = std::ranges::find(request_.inputs, name, &store::Array::path);
    return found == request_.inputs.end() ? nullptr : &*found;
  }
  [[noreturn]] void wrong(const std::string& name, const std::string& what, const std::string& hint = "") const {
    throw Error(ErrorKind::data, "dataset " + name + ": " + what, request_.source, hint);
  }
  [[noreturn]] void missing(const std::string& why, const std::string& name, const std::string& what) const {
    throw Error(ErrorKind::data, why, request_.source, fmt::format("add the dataset {}: {}", name, what));
  }

  /// The array as it is: i64, f32 or f64.
  at::Tensor tensor(const store::Array& array) const {
    const at::ScalarType type = array.type == DType::i64 ? at::kLong : array.type == DType::f32 ? at::kFloat : at::kDouble;
    MOESWEEP_ASSERT(type != at::kDouble || array.type == DType::f64, "inputs are i64, f32 or f64");
    at::Tensor tensor = at::empty(array.shape, type);
    if (!array.bytes.empty()) std::memcpy(tensor.data_ptr(), array.bytes.data(), array.bytes.size());
    return tensor;
  }
  /// Finite numbers as floating-point numbers of that type.
  at::Tensor numbers(const store::Array& array, at::ScalarType type) const {
    at::Tensor values = tensor(array).to(type);
    if (!values.isfinite().all().item<bool>()) wrong(array.path, "an infinite or missing number");
    return values;
  }
  /// One integer in [least, most] for each token; nothing when the dataset is not there.
  std::optional<std::vector<std::int64_t>> integers(const std::string& name, std::int64_t tokens, std::int64_t least,
                                                    std::int64_t most = std::numeric_limits<std::int64_t>::max()) const {
    const store::Array* array = find(name);
    if (array == nullptr) return {};
    if (array->shape != std::vector<std::int64_t>{tokens})
      wrong(name, fmt::format("its shape is {}, not [{}], one for each row of logits", shape_in_words(array->shape), tokens));
    return integers_of(*array, least, most);
  }
  std::vector<std::int64_t> integers_of(const store::Array& array, std::int64_t least, std::int64_t most) const {
    const at::Tensor given = tensor(array);
    constexpr double kLargestWhole = 9007199254740992.0;  // 2^53: doubles hold every integer up to here
    if (given.is_floating_point() && given.abs().gt(kLargestWhole).any().item<bool>()) wrong(array.path, "a number beyond 2^53, which is no count");
    const at::Tensor whole = given.to(at::kLong).contiguous();
    if (!at::equal(whole.to(given.scalar_type()), given)) wrong(array.path, "it must hold whole numbers");
    if (whole.numel() > 0 && whole.min().item<std::int64_t>() < least)
      wrong(array.path, fmt::format("it holds {}, and the least is {}", whole.min().item<std::int64_t>(), least));
    if (whole.numel() > 0 && whole.max().item<std::int64_t>() > most)
      wrong(array.path, fmt::format("it holds {}, and the most is {}", whole.max().item<std::int64_t>(), most));
    const auto* data = whole.const_data_ptr<std::int64_t>();
    return {data, data + whole.numel()};
  }

 private:
  const RouteRequest& request_;
};

/// Entries of a hash table, 8 bytes each.
constexpr std::int64_t kMostTableEntries = std::int64_t{1} << 28;

/// Tokens as one pass: runs of one `sequence` id are sequences.
struct Batch {
  routing::TokenLayout layout;
  std::int64_t domains = 0, vocabulary = 0;
  std::vector<double> token_frequency;
  bool even = true;  ///< all tokens count, and all sequences are of one length in whole micro-batches
};

Batch batch_of(const RouteRequest& request, const Inputs& inputs, std::int64_t tokens) {
  Batch batch;
  routing::TokenLayout& layout = batch.layout;
  const auto sequence = inputs.integers("sequence", tokens, std::numeric_limits<std::int64_t>::min());
  std::set<std::int64_t> seen;
  for (std::int64_t t = 0; t < tokens; ++t) {
    const auto at = static_cast<std::size_t>(t);
    if (t > 0 && (!sequence || (*sequence)[at] == (*sequence)[at - 1])) continue;
    if (sequence && !seen.insert((*sequence)[at]).second)
      inputs.wrong("sequence", fmt::format("sequence {} goes on at token {} after another one", (*sequence)[at], t),
                   "tokens of a sequence lie together, in their order");
    layout.index.push_back(static_cast<std::int64_t>(layout.start.size()));
    layout.start.push_back(t);
  }
  layout.sequences = static_cast<std::int64_t>(layout.start.size());
  layout.start.push_back(tokens);
  layout.length = layout.start[1];
  for (std::int64_t s = 0; s < layout.sequences; ++s) batch.even &= layout.begin_of(s + 1) - layout.begin_of(s) == layout.length;
  if (batch.even) layout.start.clear();
  layout.micro_batch_sequences = request.micro_batch_sequences;
  batch.even &= layout.sequences % layout.micro_batch_sequences == 0;
  layout.seed = request.seed;
  layout.step = layout.record = request.step;

  layout.step_tokens = tokens;
  const auto mask = inputs.integers("mask", tokens, 0);
  if (mask) {
    const auto other = std::ranges::find_if(*mask, [](std::int64_t flag) { return flag > 1; });
    if (other != mask->end()) inputs.wrong("mask", fmt::format("it holds {}: 1 counts, 0 does not", *other));
    layout.mask = at::tensor(*mask, at::kLong).to(at::kBool);
    layout.step_tokens = layout.mask.sum().item<std::int64_t>();
    if (layout.step_tokens == 0) inputs.wrong("mask", "no token counts");
    if (layout.step_tokens == tokens) layout.mask = at::Tensor();
    batch.even &= layout.step_tokens == tokens;
  }

  layout.domain.assign(static_cast<std::size_t>(layout.sequences), 0);
  const auto domain = inputs.integers("domain", tokens, 0, kMostDomains - 1);
  batch.domains = request.domains;
  for (std::int64_t s = 0; domain && s < layout.sequences; ++s) {
    const std::int64_t begin = layout.begin_of(s), own = (*domain)[static_cast<std::size_t>(begin)];
    for (std::int64_t t = begin; t < layout.begin_of(s + 1); ++t)
      if ((*domain)[static_cast<std::size_t>(t)] != own)
        inputs.wrong("domain", fmt::format("token {} has another domain than the rest of its sequence", t), "a sequence is of one domain");
    if (request.domains > 0 && own >= request.domains)
      inputs.wrong("domain", fmt::format("it holds {}, and data.domains names {}", own, request.domains), "domains are numbered from 0");
    layout.domain[static_cast<std::size_t>(s)] = own;
    batch.domains = std::max(batch.domains, own + 1);
  }

  if (const auto ids = inputs.integers("token", tokens, 0, kMostTokenIds - 1)) {
    batch.vocabulary = request.vocabulary > 0 ? request.vocabulary : *std::ranges::max_element(*ids) + 1;
    if (const auto beyond = std::ranges::find_if(*ids, [&](std::int64_t id) { return id >= batch.vocabulary; }); beyond != ids->end())
      inputs.wrong("token", fmt::format("token {} is not below data.vocabulary = {}", *beyond, batch.vocabulary));
    batch.token_frequency.assign(static_cast<std::size_t>(batch.vocabulary), 0.0);
    for (std::size_t t = 0; t < ids->size(); ++t)
      if (!mask || (*mask)[t] != 0) batch.token_frequency[static_cast<std::size_t>((*ids)[t])] += 1;
    layout.ids = at::tensor(*ids, at::kLong);
  }
  return batch;
}

/// The choices to replay: -1 is none.
std::shared_ptr<const routing::Recording> recording_of(const RouteRequest& request, const Inputs& inputs, const routing::TokenLayout& layout,
                                                       std::int64_t experts) {
  const store::Array* array = inputs.find("replay/expert");
  if (array == nullptr) inputs.missing("routing.select = replay needs the choices to replay", "replay/expert", "[T, k], the experts of each token");
  const std::int64_t tokens = layout.tokens();
  if (array->shape.size() != 2 || array->shape[0] != tokens)
    inputs.wrong("replay/expert", fmt::format("its shape is {}, not [{}, k]", shape_in_words(array->shape), tokens));
  const std::int64_t k = array->shape[1];
  if (k > experts)
    inputs.wrong("replay/expert", fmt::format("its shape is {}, more choices than the {} experts", shape_in_words(array->shape), experts));
  const auto chosen = inputs.integers_of(*array, -1, std::numeric_limits<std::int64_t>::max());
  routing::Recording::Flat flat;
  for (std::int64_t s = 0; s < layout.sequences; ++s)
    flat.key.insert(flat.key.end(),
                    {layout.record, request.layer, layout.index[static_cast<std::size_t>(s)], layout.begin_of(s + 1) - layout.begin_of(s)});
  for (std::int64_t t = 0; t < tokens; ++t) {
    std::set<std::int64_t> own;
    for (std::int64_t slot = t * k; slot < (t + 1) * k; ++slot) {
      const std::int64_t expert = chosen[static_cast<std::size_t>(slot)];
      if (expert < 0) continue;
      if (expert >= experts) inputs.wrong("replay/expert", fmt::format("token {} goes to expert {} of {}", t, expert, experts));
      if (!own.insert(expert).second) inputs.wrong("replay/expert", fmt::format("token {} goes to expert {} twice", t, expert));
      flat.expert.push_back(expert);
    }
    flat.slots.push_back(static_cast<std::int64_t>(own.size()));
  }
  auto recording = std::make_shared<routing::Recording>();
  recording->take(flat);
  return recording;
}

/// `upstream`, one number for each slot: [N].
at::Tensor upstream_of(const Inputs& inputs, const store::Array& array, const routing::Slots& slots, at::ScalarType type) {
  const at::Tensor given = inputs.numbers(array, type);
  const std::int64_t count = slots.expert.numel(), tokens = slots.offsets.numel() - 1;
  if (given.dim() == 1 && given.size(0) == count) return given;
  const std::int64_t most = tokens == 0 ? 0 : slots.offsets.diff().max().item<std::int64_t>();
  if (given.dim() == 2 && given.size(0) == tokens && given.size(1) == most)
    return given.reshape({-1}).index_select(0, slots.token * most + at::arange(count, at::kLong) - slots.offsets.index_select(0, slots.token));
  inputs.wrong(array.path,
               fmt::format("its shape is {}, not [{}], one for each slot, nor [{}, {}]", shape_in_words(array.shape), count, tokens, most));
}

/// Copies `state/NAME` into the router's state of that name.
void restore_state(const Inputs& inputs, const RouteRequest& request, routing::LayerRouter& router) {
  const auto state = router.state();
  std::string known;
  for (const auto& [name, tensor] : state) known += fmt::format("{}state/{} [{}]", known.empty() ? "" : ", ", name, tensor.numel());
  const std::string hint = known.empty() ? "this strategy has no state" : "this strategy has " + known;
  for (const store::Array& array : request.inputs) {
    if (!array.path.starts_with("state/")) continue;
    const auto own = std::ranges::find(state, array.path.substr(6), [](const auto& entry) { return entry.first; });
    if (own == state.end()) inputs.wrong(array.path, "no state of this strategy has that name", hint);
    const at::Tensor values = inputs.numbers(array, at::kDouble);
    if (values.numel() != own->second.numel())
      inputs.wrong(array.path, fmt::format("it holds {} numbers, not {}", values.numel(), own->second.numel()), hint);
    at::Tensor(own->second).copy_(values.view(own->second.sizes()));
  }
  // Shares alone stand for one step before this one, of top_k slots a token.
  for (const auto& [name, tensor] : state)
    if (name == "history_past" && inputs.find("state/history") != nullptr && inputs.find("state/history_past") == nullptr)
      tensor.copy_(at::tensor({1.0, static_cast<double>(router.now().top_k)}, at::kDouble));
}

/// Collects what is given back.
class Outputs {
 public:
  void add(std::string name, const at::Tensor& values, const std::string& description, const std::string& unit = "1") {
    at::Tensor plain = values.detach().contiguous();
    if (plain.dim() == 0) plain = plain.view({1});
    store::Array array;
    array.path = std::move(name);
    switch (plain.scalar_type()) {
      case at::kFloat: array.type = DType::f32; break;
      case at::kDouble: array.type = DType::f64; break;
      case at::kLong: array.type = DType::i64; break;
      default: array.type = DType::u8; plain = plain.to(at::kByte);
    }
    array.shape = plain.sizes().vec();
    array.bytes.resize(static_cast<std::size_t>(plain.nbytes()));
    if (!array.bytes.empty()) std::memcpy(array.bytes.data(), plain.const_data_ptr(), array.bytes.size());
    array.unit = unit;
    array.description = description;
    arrays.push_back(std::move(array));
  }
  std::vector<store::Array> arrays;
};

/// The gradients of a scalar with respect to the leaves; zeros where it does not depend on one.
std::vector<at::Tensor> gradients_of(const at::Tensor& value, const std::vector<at::Tensor>& leaves) {
  std::vector<at::Tensor> gradients(leaves.size());
  if (value.requires_grad())
    gradients = torch::autograd::grad({value}, leaves, {}, /*retain_graph=*/true, /*create_graph=*/false, /*allow_unused=*/true);
  for (std::size_t i = 0; i < leaves.size(); ++i)
    if (!gradients[i].defined()) gradients[i] = at::zeros_like(leaves[i]);
  return gradients;
}

/// The losses by name; a term that other layers would be averaged into has this layer alone.
std::map<std::string, at::Tensor> losses_of(const routing::Assignment& assignment) {
  auto losses = assignment.losses;
  for (const auto& term : assignment.pooled) {
    const at::Tensor loss = (term.load.to(term.probabilities.scalar_type()) * term.probabilities).sum() * term.factor;
    const auto [place, fresh] = losses.emplace(term.loss, loss);
    if (!fresh) place->second = place->second + loss;
  }
  return losses;
}

bool is_scheduled(const routing::RoutingConfig& config, const std::string& key) {
  return std::ranges::find(config.schedules, key, &routing::ScheduleConfig::key) != config.schedules.end();
}

std::vector<std::string> notes_on(const routing::RoutingConfig& config) {
  std::vector<std::string> notes;
  const auto& regularise = config.regularise;
  for (const auto& [name, weight] :
       {std::pair{"router_orthogonality", regularise.router_orthogonality}, std::pair{"output_orthogonality", regularise.output_orthogonality},
        std::pair{"expert_router_coupling", regularise.expert_router_coupling}})
    if (weight > 0 || is_scheduled(config, std::string("regularise.") + name))
      notes.push_back(
          fmt::format("routing.regularise.{} needs weights of the router or the experts, which a file of logits has not: its loss is absent", name));
  if (config.perturb == routing::Perturb::jitter)
    notes.emplace_back("routing.perturb = jitter acts on the router's input, which a file of logits has not: none is applied");
  return notes;
}

}  // namespace

const std::vector<RouteDataset>& route_datasets() {
  static const std::vector<RouteDataset> datasets{
      {"logits", 2, "[T, E], the router's logits; f32 is routed in fp32, f64 in fp64"},
      {"upstream", {}, "[N] or [T, k], gradients of the slots' weights"},
      {"domain", 1, "[T], the domain of each token, from 0; one for a sequence"},
      {"sequence", 1, "[T], any number for each sequence; its tokens lie together"},
      {"token", 1, "[T], token ids"},
      {"mask", 1, "[T], 1 where the token counts"},
      {"noise_logits", 2, "[T, E], logits of the learned noise scale"},
      {"replay/expert", 2, "[T, k], the choices to replay; -1 is none"},
      {"state/", {}, "state of the strategy before the step, such as state/bias [E]"},
  };
  return datasets;
}

Routed route(const RouteRequest& request) {
  const routing::RoutingConfig& config = request.routing;
  const Inputs inputs(request);
  const store::Array* given = inputs.find("logits");
  if (given == nullptr) inputs.missing("there are no logits", "logits", "[T, E]");
  if (given->shape.size() != 2 || given->shape[0] < 1 || given->shape[1] < 1)
    inputs.wrong("logits", fmt::format("its shape is {}, not [T, E]", shape_in_words(given->shape)));
  const std::int64_t tokens = given->shape[0], experts = given->shape[1], ffn_experts = experts - config.extra_experts.routed();
  if (experts > kMostExperts)
    inputs.wrong("logits", fmt::format("its shape is {}, and a model has at most {} experts", shape_in_words(given->shape), kMostExperts));
  if (ffn_experts < 1)
    throw Error(ErrorKind::config,
                fmt::format("routing.extra_experts takes {} of the {} experts of logits: none is left", config.extra_experts.routed(), experts));

  const Batch batch = batch_of(request, inputs, tokens);
  const routing::TokenLayout& layout = batch.layout;
  const auto selects = [&](const char* name) { return config.select == name || config.evaluation.select == name; };
  if (selects("hash") && !layout.ids.defined()) inputs.missing("routing.select = hash decides by token ids", "token", "[T], token ids");
  if (selects("hash") && batch.vocabulary > kMostTableEntries / config.top_k)
    throw Error(ErrorKind::config,
                fmt::format("routing.select = hash needs a table of {} token ids times routing.top_k = {}, and the most is {} entries",
                            batch.vocabulary, config.top_k, kMostTableEntries),
                request.source);
  if (selects("reference") && inputs.find("domain") == nullptr)
    inputs.missing("routing.select = reference decides by domain", "domain", "[T], the domain of each token, from 0");
  // Where units differ in size, the methods that need whole ones look for themselves.
  const routing::RoutedModel routed{ffn_experts, batch.domains, 1, 0, batch.even ? layout.length : 0, layout.micro_batch_sequences, layout.sequences};
  if (const auto reason = routing::refusal(config, routed); !reason.empty()) throw Error(ErrorKind::config, reason, request.source);

  const at::AutoGradMode with_gradient(true);
  const at::ScalarType type = given->type == DType::f32 ? at::kFloat : at::kDouble;
  const at::Tensor logits = inputs.numbers(*given, type).requires_grad_();
  std::vector<at::Tensor> leaves{logits};
  const bool noisy = request.mode == RouteMode::train && config.perturb == routing::Perturb::gaussian && config.noise.learned;
  if (noisy) {
    const store::Array* noise = inputs.find("noise_logits");
    if (noise == nullptr) inputs.missing("routing.noise.learned scales noise by logits of its own", "noise_logits", "[T, E]");
    if (noise->shape != given->shape)
      inputs.wrong("noise_logits",
                   fmt::format("its shape is {}, not that of logits, {}", shape_in_words(noise->shape), shape_in_words(given->shape)));
    leaves.push_back(inputs.numbers(*noise, type).requires_grad_());
  }

  routing::RouterPlace place;
  place.layer = request.layer;
  place.experts = experts;
  place.ffn_experts = ffn_experts;
  place.domains = batch.domains;
  place.seed = request.seed;
  place.vocabulary = batch.vocabulary;
  place.token_frequency = batch.token_frequency;
  if (selects("replay")) place.recording = recording_of(request, inputs, layout, experts);
  const auto alone = comm::make_local_transport();
  routing::LayerRouter router(config, place, *alone);
  restore_state(inputs, request, router);
  router.begin_step(request.step);

  const routing::Mode mode = mode_of(request.mode);
  routing::Scores scores{routing::pool_rows(logits, layout, config.granularity, config.pool), request.layer, &layout, {}};
  if (noisy) scores.noise_logits = routing::pool_rows(leaves[1], layout, config.granularity, config.pool);
  const routing::Decision decision = router.decide({&scores, 1}, mode).front();
  const routing::Assignment assignment = router.apply(scores, decision, mode);
  const routing::Slots& slots = assignment.slots;
  const at::Tensor dropped = slots.dropped.defined() ? slots.dropped : at::zeros({slots.expert.numel()}, at::kBool);

  Outputs out;
  out.add("token", slots.token, "[N] token of each slot, ascending");
  out.add("expert", slots.expert, "[N] expert of each slot, a token's in its order of preference (ascending where the selection has none)");
  out.add("weight", assignment.weight, "[N] gate weight of each slot, dropped or not");
  out.add("dropped", dropped, "[N] 1 where capacity drops the slot");
  out.add("offsets", slots.offsets, "[T + 1] token t has the slots from offsets[t] to offsets[t + 1]");
  out.add("counts", decision.counts.sum(0), "[E] slots of each expert before dropping");
  out.add("counts_micro_batch", decision.counts, "[micro-batches, E] the same in each micro-batch");
  out.add("kept_counts", routing::count_kept_slots(slots, at::zeros({tokens}, at::kLong), 1, experts, layout.mask).view({experts}),
          "[E] slots of each expert that were kept");

  const auto add_gradients = [&](const std::string& name, const at::Tensor& value, const std::string& of) {
    const auto gradients = gradients_of(value, leaves);
    out.add("gradients/" + name, gradients[0], "[T, E] gradient of " + of + " with respect to logits");
    if (noisy) out.add("noise_gradients/" + name, gradients[1], "[T, E] gradient of " + of + " with respect to noise_logits");
  };
  if (const store::Array* array = inputs.find("upstream")) {
    const at::Tensor upstream = upstream_of(inputs, *array, slots, assignment.weight.scalar_type());
    add_gradients("weights", (assignment.weight * upstream).masked_fill(dropped, 0).sum(), "sum(upstream * weight) over kept slots");
  }
  at::Tensor total;
  for (const auto& [name, loss] : losses_of(assignment)) {
    out.add("losses/" + name, loss, "[1] weighted loss " + name);
    add_gradients(name, loss, "losses/" + name);
    total = total.defined() ? total + loss : loss;
  }
  if (total.defined()) out.add("losses/total", total, "[1] sum of the weighted losses");

  if (request.mode == RouteMode::train) router.end_step();
  for (const auto& [name, tensor] : router.state())
    out.add("state/" + name, tensor, fmt::format("[{}] state {}", tensor.numel(), request.mode == RouteMode::train ? "after the step" : "as given"));

  Routed result;
  result.arrays = std::move(out.arrays);
  result.causal_training = router.causal(routing::Mode::train);
  result.causal_greedy = router.causal(routing::Mode::greedy);
  result.notes = notes_on(config);
  return result;
}

}  // namespace moesweep::train
