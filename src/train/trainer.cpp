// See trainer.hpp.
#include "trainer.hpp"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <chrono>
#include <limits>
#include <map>
#include <numbers>
#include <string_view>

#include "assignments.hpp"
#include "moesweep/comm/nccl.hpp"
#include "moesweep/core/error.hpp"
#include "moesweep/core/foreign_json.hpp"
#include "moesweep/diagnose/testbed.hpp"
#include "moesweep/model/costs.hpp"
#include "moesweep/model/device.hpp"
#include "moesweep/store/checkpoint.hpp"
#include "moesweep/train/named_files.hpp"
#include "optimiser.hpp"

namespace moesweep::train {

namespace {

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

at::ScalarType compute_type(Precision precision) {
  switch (precision) {
    case Precision::fp32: return at::kFloat;
    case Precision::bf16: return at::kBFloat16;
    case Precision::fp64: return at::kDouble;
  }
  return at::kFloat;
}

DType dtype_of(const at::Tensor& tensor) { return tensor.scalar_type() == at::kDouble ? DType::f64 : DType::f32; }

/// The step that stands for validation in counter-based random numbers: no training step reaches it.
constexpr std::int64_t kValidationStep = 0x7fffffff;

/// What a step took, by rank.
constexpr struct {
  const char *name, *unit, *description;
} kTaken[] = {{"seconds_dispatch", "s", "sorting rows of routed tokens and starting their exchange, by rank"},
              {"seconds_wait", "s", "waiting for rows of other ranks, by rank"},
              {"seconds_compute", "s", "products of the routed experts, by rank"},
              {"seconds_gradients", "s", "summing gradients over ranks, waiting included, by rank"},
              {"exchanged_bytes", "byte", "rows of routed tokens and their gradients, sent to other ranks, by rank"}};
constexpr auto kTakenCount = static_cast<std::int64_t>(std::size(kTaken));

/// Losses that balance the load; others regularise.
bool balances(const std::string& loss) {
  for (const char* other :
       {"z_loss", "batch_entropy", "token_entropy", "score_variance", "router_orthogonality", "output_orthogonality", "expert_router_coupling"})
    if (loss == other) return false;
  return true;
}

/// Occurrences of each token id in a fixed sample of the training split, the same for every layout and trial of the same data.
std::vector<double> token_frequency_of(const data::Source& source) {
  constexpr std::int64_t kBatches = 16, kSequencesOfDomain = 8;
  std::vector<double> frequency(static_cast<std::size_t>(source.vocabulary()), 0.0);
  const std::int64_t sequences = source.domains() * kSequencesOfDomain;
  for (std::int64_t batch = 0; batch < kBatches; ++batch)
    for (const std::int32_t token : source.training(0, batch, sequences, 0, sequences).tokens) frequency[static_cast<std::size_t>(token)] += 1;
  return frequency;
}

/// Whether training or the greedy reading chooses that way.
bool selects(const routing::RoutingConfig& routing, const std::string& select) {
  return routing.select == select || routing.evaluation.select == select;
}

/// Whether some MoE layer's strategy has that property.
template <class Property>
bool any_layer(const TrialConfig& config, Property&& property) {
  for (std::int64_t layer = 0; layer < config.model.layers - config.model.dense_layers; ++layer)
    if (property(config.routing.of_layer(layer))) return true;
  return false;
}

/// Collective, as parallel.device asks. A `config` error, on every rank alike, where some rank has no GPU and one is asked for.
c10::Device device_of(const TrialConfig& config, const comm::Communicator& gang) {
  if (config.parallel.device == Device::cpu) return c10::kCPU;
  if (gang.minimum(model::has_gpu() ? 1 : 0, "looking for GPUs") > 0) return model::current_gpu();
  if (config.parallel.device == Device::automatic) return c10::kCPU;
  throw Error(ErrorKind::config, "parallel.device = cuda: a rank of this gang has no GPU, or this build has no CUDA", "",
              "moesweep doctor tells which; parallel.device=cpu computes on the CPU")
      .thrown_on_every_rank();
}

/// What comm.transport asks for, as far as the device allows.
comm::MakeTransport transport_of(const TrialConfig& config, c10::Device device) {
  const TransportKind asked = config.comm.transport;
  const auto refuse = [](const char* reason, const char* mend) { throw Error(ErrorKind::config, reason, "", mend).thrown_on_every_rank(); };
  if (device.is_cuda() && asked == TransportKind::mpi)
    refuse("comm.transport = mpi reaches host memory alone", "set comm.transport=nccl, or parallel.device=cpu");
  if (device.is_cpu() && asked == TransportKind::nccl)
    refuse("comm.transport = nccl reaches GPU memory alone", "set comm.transport=mpi, or parallel.device=cuda");
  if (device.is_cpu()) return comm::make_transport;
  return [](const comm::Communicator& ranks) {
    return ranks.size() == 1 ? comm::make_local_transport() : comm::make_nccl_transport(ranks, {model::current_stream, false});
  };
}

/// Ranks that share the experts; refused before a grid is made of a number that does not fit.
int grid_width(const TrialConfig& config) {
  if (const auto reason = refusal(config); !reason.empty()) throw Error(ErrorKind::config, reason).thrown_on_every_rank();
  return static_cast<int>(config.parallel.expert);
}

}  // namespace

Share share_of(std::int64_t sequences, std::int64_t micro_batch_sequences, int rank, int ranks) {
  const std::int64_t micro_batches = (sequences + micro_batch_sequences - 1) / micro_batch_sequences;
  const std::int64_t begin = micro_batches * rank / ranks * micro_batch_sequences;
  const std::int64_t end = micro_batches * (rank + 1) / ranks * micro_batch_sequences;
  return {std::min(begin, sequences), std::min(end, sequences) - std::min(begin, sequences)};
}

Trainer::Trainer(const TrialConfig& config, const data::Source& source, const comm::Communicator& gang, const std::atomic<bool>* stop, bool resumes,
                 const comm::MakeTransport& make)
    : config_(config),
      source_(source),
      gang_(gang),
      stop_(stop),
      device_(device_of(config, gang)),
      grid_(gang, grid_width(config), make ? make : transport_of(config, device_)),
      transport_(&grid_.host()),
      steps_(config.steps()) {
  model::MoeModelOptions options;
  options.compute = compute_type(config.train.dtype);
  options.seed = config.seed;
  options.device = device_;
  options.recompute = config.parallel.recompute;
  options.shard_moments = config.parallel.shard_moments;
  if (any_layer(config, [](const auto& layer) { return selects(layer, "hash") && layer.hash_table == routing::HashTable::balanced; }))
    gang.agree([&] { options.token_frequency = token_frequency_of(source); }, "token frequencies");
  options.recording = read_replayed();
  options.stop = stop;
  // What one rank meets alone (a strategy that throws, memory) all must hear of, before the next collective.
  gang.agree([&] { model_ = std::make_unique<model::MoeModel>(config.model, config.routing, source.vocabulary(), source.domains(), grid_, options); },
             "making of the model");
  ready_ = gang.minimum(model_->complete() ? 1 : 0, "end of making the model") == 1;
  if (ready_ && !resumes) import_routers();
  losses_ = model_->loss_names();
  any_layer(config, [&](const auto& layer) {
    if (layer.granularity == routing::Granularity::sequence && layer.pool.by == routing::Pooling::prefix)
      prefix_tokens_ = std::max(prefix_tokens_, layer.pool.prefix_tokens);
    return false;
  });
  declare_series();
}

namespace {

/// A logical array of a checkpoint. Version 1 has each expert's matrix for itself: `layers.0.experts.3.down` in place of `layers.0.experts.down`.
class StoredArray {
 public:
  StoredArray(const store::CheckpointReader& reader, const std::string& name, std::string path) : reader_(reader), path_(std::move(path)) {
    const auto cut = name.find(".experts.");
    if (reader.has(name) || cut == std::string::npos) {
      names_ = {name};
      return;
    }
    const auto of_expert = [&](std::size_t e) { return name.substr(0, cut) + ".experts." + std::to_string(e) + name.substr(name.rfind('.')); };
    while (reader.has(of_expert(names_.size()))) names_.push_back(of_expert(names_.size()));
    stacked_ = !names_.empty();
    if (!stacked_) names_ = {name};  // which the reader then misses by name
  }

  /// Of the whole. A `corrupt` error, on every rank, where experts of a layer differ.
  std::vector<std::int64_t> shape() const {
    auto shape = reader_.shape(names_.front());
    for (const std::string& name : names_)
      if (reader_.shape(name) != shape)
        throw Error(ErrorKind::corrupt, "dataset " + name + ": its shape is another one than that of " + names_.front(), path_)
            .thrown_on_every_rank();
    if (stacked_) shape.insert(shape.begin(), static_cast<std::int64_t>(names_.size()));
    return shape;
  }
  DType type() const { return reader_.type(names_.front()); }

  /// Collective. Elements [first, first + values) of the whole.
  void read(std::int64_t first, const at::Tensor& values) const {
    const DType type = dtype_of(values);
    if (!stacked_) return reader_.read(names_.front(), type, first, values.numel(), values.data_ptr());
    std::int64_t origin = 0;
    for (const std::string& name : names_) {
      std::int64_t count = 1;
      for (const auto extent : reader_.shape(name)) count *= extent;
      const std::int64_t begin = std::clamp(first, origin, origin + count), end = std::clamp(first + values.numel(), origin, origin + count);
      // A rank whose elements are elsewhere reads none, with the others.
      auto* data = begin < end ? values.narrow(0, begin - first, end - begin).data_ptr() : nullptr;
      reader_.read(name, type, begin - origin, end - begin, data);
      origin += count;
    }
  }

 private:
  const store::CheckpointReader& reader_;
  std::string path_;
  std::vector<std::string> names_;
  bool stacked_ = false;
};

/// Runs `read`, which reads a file that a key of the config names. A file that is missing, damaged, of another format or cannot be read becomes a
/// `data` error with key and file: it is this trial's misfortune alone, and not the disk's on which the sweep lives.
template <class Read>
auto read_named(const std::string& key, const std::string& path, Read&& read) {
  try {
    return read();
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::io && error.kind() != ErrorKind::corrupt && error.kind() != ErrorKind::data) throw;
    const bool knows_better = error.kind() == ErrorKind::data && !error.hint().empty();
    Error mine(ErrorKind::data, key + " names a file that cannot be used: " + error.message(), path,
               knows_better ? error.hint() : "name another file in " + key + ", or make this one again");
    if (error.on_every_rank()) mine.thrown_on_every_rank();
    throw mine;
  }
}

/// Collective. A `data` error, on every rank, when rank 0 finds that the file which `key` names is none that can be of use.
void require_named(const comm::Communicator& gang, const std::string& key, const std::string& path) {
  const std::string problem = gang.broadcast(gang.rank() == 0 ? problem_of({key, path}) : "", 0, "look for a file that the trial names");
  if (!problem.empty())
    throw Error(ErrorKind::data, key + " names a file that " + problem, path, "name another file in " + key + ", or make this one again")
        .thrown_on_every_rank();
}

/// This rank's elements of a parameter of another trial, whatever type it was stored in; `key` names the option that asked for it.
void read_parameter(const store::CheckpointReader& reader, model::Parameters& parameters, const model::Parameters::Logical& array,
                    const std::string& key, const std::string& path) {
  const StoredArray from(reader, "parameters/" + array.name, path);
  if (from.shape() != array.shape)
    throw Error(ErrorKind::config, key + ": " + array.name + " has another shape there than in this model", path).thrown_on_every_rank();
  const at::Tensor value = parameters.buffers(array.parameter_class).value.narrow(0, array.offset, array.count);
  const DType stored = from.type();
  const at::Tensor buffer =
      value.is_cpu() && stored == dtype_of(value) ? value : at::empty(value.sizes(), stored == DType::f64 ? at::kDouble : at::kFloat);
  from.read(array.first, buffer);
  if (!buffer.is_same(value)) value.copy_(buffer);
}

}  // namespace

std::shared_ptr<const routing::Recording> Trainer::read_replayed() const {
  std::shared_ptr<const routing::Recording> recording;
  for (std::int64_t layer = 0; layer < config_.model.layers - config_.model.dense_layers; ++layer) {
    const auto routing = config_.routing.of_layer(layer);
    if (!selects(routing, "replay")) continue;
    if (!recording) {
      require_named(gang_, "routing.replay_from", routing.replay_from);
      read_named("routing.replay_from", routing.replay_from,
                 [&] { gang_.agree([&] { recording = read_assignments(routing.replay_from); }, "recorded assignments"); });
    }
    // Every rank holds the whole record: what it lacks, all miss alike, before anything is trained.
    const auto need = [&](std::int64_t record, std::int64_t sequences, const std::string& what) {
      if (!recording->covers(record, layer, sequences))
        throw Error(ErrorKind::data, "the recorded assignments hold nothing for all sequences of " + what + ", MoE layer " + std::to_string(layer),
                    routing.replay_from, "record them by a trial of the same batches, steps and evaluations with routing.record=true")
            .thrown_on_every_rank();
    };
    if (routing.select == "replay")
      for (std::int64_t step = 0; step < steps_; ++step) need(step, config_.train.batch_sequences, "step " + std::to_string(step));
    const std::int64_t every = config_.evaluation.every_steps, validation = source_.validation_sequences(config_.evaluation.tokens);
    for (std::int64_t step = 1; step <= steps_; ++step)
      if (step == steps_ || (every > 0 && step % every == 0)) need(-1 - step, validation, "the validation after step " + std::to_string(step));
  }
  return recording;
}

void Trainer::import_routers() {
  std::map<std::string, std::vector<model::Parameters::Logical>> by_path;
  for (const auto& array : model_->parameters().logical())
    if (!array.imported_from.empty()) by_path[array.imported_from].push_back(array);
  for (const auto& [path, arrays] : by_path) {
    require_named(gang_, "routing.import_from", path);
    read_named("routing.import_from", path, [&] {
      const store::CheckpointReader reader(gang_, path);
      for (const auto& array : arrays) read_parameter(reader, model_->parameters(), array, "routing.import_from", path);
    });
  }
}

void Trainer::declare_series() {
  const std::int64_t layers = model_->moe_layers(), domains = source_.domains(), experts = model_->routed_experts();
  recorder_.declare("steps/step", {}, "step", "steps done, this one included", false, true);
  recorder_.declare("steps/loss", {}, "nats per token", "training loss of the language model");
  recorder_.declare("steps/balance_loss", {}, "nats per token", "balancing losses as added to the loss, summed over layers");
  recorder_.declare("steps/z_loss", {}, "nats per token", "router z-loss as added to the loss, summed over layers");
  for (const std::string& name : losses_)
    recorder_.declare("steps/losses." + name, {}, "nats per token", "loss " + name + " as added to the loss, summed over layers");
  recorder_.declare("steps/drop_rate", {layers}, "1", "share of the step's (token, slot) pairs that capacity dropped");
  recorder_.declare("steps/learning_rate", {}, "1", "learning rate of the step");
  recorder_.declare("steps/gradient_norm", {}, "1", "global gradient norm before clipping");
  recorder_.declare("steps/seconds", {}, "s", "wall time of the step");
  recorder_.declare("steps/tokens_per_second", {}, "tokens per second", "tokens of the step over its wall time");
  for (const auto& taken : kTaken) recorder_.declare_by_rank(std::string("steps/") + taken.name, transport_->size(), taken.unit, taken.description);
  recorder_.declare("steps/max_violation_micro_batch", {layers}, "1", "mean over micro-batches of (max load - mean load) / mean load");
  recorder_.declare("steps/max_violation_global_batch", {layers}, "1", "(max load - mean load) / mean load over the global batch");
  recorder_.declare("evaluations/step", {}, "step", "steps done at the evaluation", false, true);
  for (const std::string reading : {"", "greedy."}) {
    const std::string prefix = "evaluations/" + reading, which = reading.empty() ? " (training reading)" : " (greedy reading)";
    recorder_.declare(prefix + "loss", {}, "nats per token", "validation loss over all domains" + which, true);
    recorder_.declare(prefix + "bits_per_byte", {}, "bits per byte", "validation loss per byte of text" + which, true);
    if (prefix_tokens_ > 0) {
      recorder_.declare(prefix + "loss_prefix", {}, "nats per token", "validation loss of the tokens that decide for their sequence" + which, true);
      recorder_.declare(prefix + "loss_behind_prefix", {}, "nats per token", "validation loss of the tokens behind them" + which, true);
    }
    recorder_.declare(prefix + "loss_by_domain", {domains}, "nats per token", "validation loss of each domain" + which);
    recorder_.declare(prefix + "bits_per_byte_by_domain", {domains}, "bits per byte", "validation loss per byte of each domain" + which);
    recorder_.declare(prefix + "counts", {layers, domains, experts}, "slots", "kept (token, slot) pairs by MoE layer, domain and expert" + which,
                      false, true);
    recorder_.declare(prefix + "loss_by_expert", {layers, experts}, "nats per token",
                      "validation loss of the tokens of each expert, by gate weight; 0 where it had none" + which);
    recorder_.declare(prefix + "drop_rate", {layers}, "1", "share of (token, slot) pairs that capacity dropped" + which, true);
    if (any_layer(config_, [](const auto& layer) { return layer.has_capacity() || layer.evaluation.capacity_factor; })) {
      recorder_.declare(prefix + "counts_before_dropping", {layers, domains, experts}, "slots",
                        "(token, slot) pairs by MoE layer, domain and expert, dropped ones included" + which, false, true);
      recorder_.declare(prefix + "drop_rate_by_expert", {layers, experts}, "1", "share of an expert's (token, slot) pairs that it dropped" + which);
      recorder_.declare(prefix + "overflow_rate", {layers}, "1", "share of the experts that dropped any" + which, true);
    }
    for (const auto& metric : diagnose::testbed_metric_list())
      recorder_.declare(prefix + metric.name, {layers}, metric.unit, metric.description + which, true);
    recorder_.declare(prefix + "dead_experts", {layers}, "experts", "experts without a slot" + which, true, true);
  }
  recorder_.declare("summary/parameters_total", {}, "1", "parameters of the model", true, true);
  recorder_.declare("summary/parameters_active", {}, "1", "parameters that a token uses", true, true);
  recorder_.declare("summary/training_tokens", {}, "tokens", "tokens trained on", true, true);
  recorder_.declare("summary/causal", {}, "1", "1 when no token's routing could depend on later tokens in training, else 0", true, true);
  recorder_.declare("summary/greedy.causal", {}, "1", "1 when none can in the greedy reading, else 0", true, true);
  recorder_.declare("summary/training_seconds", {}, "s", "wall time of all training steps", true);
}

model::PassInput Trainer::pass_of(const data::Batch& batch, std::int64_t step, std::int64_t step_tokens) const {
  model::PassInput pass;
  const std::int64_t sequences = batch.sequences(), length = config_.data.sequence_length;
  const at::Tensor rows = at::from_blob(const_cast<std::int32_t*>(batch.tokens.data()), {sequences, length + 1}, at::kInt).to(at::kLong);
  pass.tokens = rows.narrow(1, 0, length).reshape({-1});
  pass.targets = rows.narrow(1, 1, length).reshape({-1});
  pass.layout.sequences = sequences;
  pass.layout.length = length;
  pass.layout.micro_batch_sequences = config_.train.micro_batch_sequences;
  pass.layout.index = batch.index;
  pass.layout.domain.assign(batch.domains.begin(), batch.domains.end());
  pass.layout.ids = pass.tokens;
  pass.layout.seed = config_.seed;
  pass.layout.step = step;
  pass.layout.record = step == kValidationStep ? -1 - step_ : step;
  pass.layout.step_tokens = step_tokens;
  return pass;
}

template <class Fetch>
std::vector<model::PassInput> Trainer::passes_of(std::int64_t sequences, std::int64_t step, Fetch&& fetch) const {
  const auto share = [&](int rank) { return share_of(sequences, config_.train.micro_batch_sequences, rank, transport_->size()); };
  std::int64_t largest = 0;
  for (int rank = 0; rank < transport_->size(); ++rank) largest = std::max(largest, share(rank).count);
  const Share mine = share(transport_->rank());
  const std::int64_t per_pass = config_.train.sequences_per_pass > 0 ? config_.train.sequences_per_pass : std::max<std::int64_t>(1, largest);
  std::vector<model::PassInput> passes;
  for (std::int64_t first = 0; first < largest; first += per_pass) {
    const std::int64_t begin = std::min(first, mine.count), count = std::min(per_pass, mine.count - begin);
    passes.push_back(pass_of(fetch(mine.first + begin, count), step, sequences * config_.data.sequence_length));
  }
  return passes;
}

StepResult Trainer::train_step() {
  const auto start = Clock::now();
  const auto& train = config_.train;
  const std::int64_t step_tokens = config_.step_tokens(), layers = model_->moe_layers(), experts = model_->routed_experts();
  const auto passes = passes_of(train.batch_sequences, step_, [&](std::int64_t first, std::int64_t count) {
    return source_.training(config_.seed, step_, train.batch_sequences, first, count);
  });

  const model::ExpertWork before = model_->expert_work();
  auto& parameters = model_->parameters();
  parameters.zero_gradients();
  model_->begin_step(step_, /*training=*/true);
  const auto given = model_->decide_step(passes, routing::Mode::train);

  // Sums over the gang: loss, stop, each further loss, then per layer the micro-batches' violations, their number, dropped pairs, and the experts'
  // counts; then per rank what it took.
  const std::int64_t per_layer = 3 + experts, first_layer = 2 + static_cast<std::int64_t>(losses_.size()), ranks = transport_->size();
  const std::int64_t first_taken = first_layer + layers * per_layer;
  at::Tensor sums = at::zeros({first_taken + kTakenCount * ranks}, at::kDouble);
  auto* sum = sums.mutable_data_ptr<double>();
  decisions_.clear();
  for (std::size_t p = 0; p < passes.size(); ++p) {
    model::PassResult result = model_->forward(passes[p], given.empty() ? nullptr : &given[p], routing::Mode::train);
    at::Tensor loss = result.token_loss.sum() / static_cast<double>(step_tokens);
    sum[0] += loss.item<double>();
    for (const auto& [name, part] : result.losses) {
      const auto place = std::ranges::find(losses_, name);
      MOESWEEP_ASSERT(place != losses_.end(), "a loss that no series records: " + name);
      sum[2 + std::distance(losses_.begin(), place)] += part.item<double>();
      loss = loss + part.to(loss.options());
    }
    loss.backward();
    for (std::int64_t layer = 0; layer < layers; ++layer) {
      const routing::Decision& decision = result.decisions[static_cast<std::size_t>(layer)];
      at::Tensor here = sums.narrow(0, first_layer + layer * per_layer, per_layer);
      here[0] += routing::max_violation(decision.counts).sum();
      here[1] += decision.counts.size(0);
      if (decision.slots.dropped.defined()) here[2] += decision.slots.dropped.sum();
      here.narrow(0, 3, experts) += decision.counts.sum(0);
      if (config_.routing.record) recording_.add(passes[p].layout, layer, decision.slots);
    }
    decisions_.push_back(std::move(result.decisions));
  }
  const auto reduction = Clock::now();
  reduce_gradients();
  sum[1] = asked_to_stop() ? 1 : 0;
  const model::ExpertWork& now = model_->expert_work();
  const double taken[kTakenCount] = {now.dispatch - before.dispatch, now.wait - before.wait, now.compute - before.compute, seconds_since(reduction),
                                     static_cast<double>(now.bytes_sent - before.bytes_sent)};
  for (std::int64_t i = 0; i < kTakenCount; ++i) sum[first_taken + i * ranks + transport_->rank()] = taken[i];
  transport_->all_reduce_sum(sum, static_cast<std::size_t>(sums.numel()), DType::f64, "sums of a training step");

  StepResult result;
  result.loss = sum[0];
  result.stop = sum[1] > 0;
  for (std::size_t i = 0; i < losses_.size(); ++i)
    if (balances(losses_[i])) result.balance_loss += sum[2 + i];
  result.gradient_norm = gradient_norm(parameters, grid_.experts());
  const double rate = learning_rate_at(train, step_, steps_);
  // A step that is not a number leaves the parameters as they were: the caller ends the trial.
  if (std::isfinite(result.loss) && std::isfinite(result.gradient_norm)) {
    clip_gradients(parameters, result.gradient_norm, train.clip_norm);
    adamw_step(parameters, train, step_, rate);
    share_updated_values();
  }
  model_->end_step();
  ++step_;

  const double seconds = seconds_since(start);
  seconds_ += seconds;
  std::vector<double> micro, global, dropped;
  for (std::int64_t layer = 0; layer < layers; ++layer) {
    const double* here = sum + first_layer + layer * per_layer;
    const at::Tensor counts = sums.narrow(0, first_layer + layer * per_layer + 3, experts);
    micro.push_back(here[0] / std::max(1.0, here[1]));
    global.push_back(routing::max_violation(counts).item<double>());
    dropped.push_back(here[2] / std::max(1.0, counts.sum().item<double>()));
  }
  recorder_.append("steps/step", static_cast<double>(step_));
  recorder_.append("steps/loss", result.loss);
  recorder_.append("steps/balance_loss", result.balance_loss);
  double z_loss = 0;
  for (std::size_t i = 0; i < losses_.size(); ++i) {
    recorder_.append("steps/losses." + losses_[i], sum[2 + i]);
    if (losses_[i] == "z_loss") z_loss = sum[2 + i];
  }
  recorder_.append("steps/z_loss", z_loss);
  recorder_.append("steps/drop_rate", dropped);
  recorder_.append("steps/learning_rate", rate);
  recorder_.append("steps/gradient_norm", result.gradient_norm);
  recorder_.append("steps/seconds", seconds);
  recorder_.append("steps/tokens_per_second", static_cast<double>(step_tokens) / seconds);
  for (std::int64_t i = 0; i < kTakenCount; ++i) {
    const double* row = sum + first_taken + i * ranks;
    recorder_.append(std::string("steps/") + kTaken[i].name, std::vector<double>(row, row + ranks));
  }
  recorder_.append("steps/max_violation_micro_batch", micro);
  recorder_.append("steps/max_violation_global_batch", global);
  return result;
}

void Trainer::reduce_gradients() {
  std::vector<comm::Pending> pending;
  for (const auto c : {model::ParameterClass::dense, model::ParameterClass::expert}) {
    comm::Transport& ranks = holders_of(c);
    if (ranks.size() == 1) continue;
    const at::Tensor& gradient = model_->parameters().buffers(c).gradient;
    const DType type = dtype_of(gradient);
    const auto count = static_cast<std::size_t>(gradient.numel());
    const auto bucket = std::max<std::size_t>(1, static_cast<std::size_t>(config_.comm.bucket_mebibytes * 1048576.0) / size_of(type));
    auto* data = static_cast<std::byte*>(gradient.data_ptr());
    const char* what = c == model::ParameterClass::dense ? "gradients of dense parameters" : "gradients of experts";
    for (std::size_t first = 0; first < count; first += bucket)
      pending.push_back(ranks.start_all_reduce_sum(data + first * size_of(type), std::min(bucket, count - first), type, what));
  }
  for (auto& reduction : pending) reduction.wait();
}

void Trainer::share_updated_values() {
  if (!config_.parallel.shard_moments) return;
  std::vector<comm::Pending> pending;
  for (const auto c : {model::ParameterClass::dense, model::ParameterClass::expert}) {
    comm::Transport& ranks = holders_of(c);
    const model::Buffers& buffers = model_->parameters().buffers(c);
    const std::size_t element = size_of(dtype_of(buffers.value));
    auto* data = static_cast<std::byte*>(buffers.value.data_ptr());
    const auto part_of = [&](int rank) {
      const model::Part part{rank, ranks.size()};
      const std::int64_t begin = part.begin(buffers.value.numel()), end = part.end(buffers.value.numel());
      return comm::Part{data + static_cast<std::size_t>(begin) * element, static_cast<std::size_t>(end - begin) * element};
    };
    std::vector<comm::Part> receive;
    for (int rank = 0; rank < ranks.size(); ++rank) receive.push_back(part_of(rank));
    const std::vector<comm::Part> send(receive.size(), part_of(ranks.rank()));
    pending.push_back(ranks.start_exchange(send, receive, "updated parameters"));
  }
  for (auto& exchange : pending) exchange.wait();
}

bool Trainer::asked_to_stop() const {
  if (pulse_ != nullptr) pulse_->fetch_add(1);
  return stop_ != nullptr && stop_->load();
}

void Trainer::spoil() { model_->parameters().buffers(model::ParameterClass::dense).value.fill_(std::numeric_limits<double>::quiet_NaN()); }

bool Trainer::evaluation_due() const {
  const bool scheduled = step_ == steps_ || (config_.evaluation.every_steps > 0 && step_ > 0 && step_ % config_.evaluation.every_steps == 0);
  return scheduled && recorder_.last("evaluations/step") != static_cast<double>(step_);
}

bool Trainer::evaluate_reading(routing::Mode mode, Evaluation& result, Trace* trace) {
  const at::NoGradGuard no_gradient;
  const std::int64_t layers = model_->moe_layers(), domains = source_.domains(), experts = model_->routed_experts();
  const std::int64_t all = source_.validation_sequences(config_.evaluation.tokens), batch = config_.train.batch_sequences;
  const std::int64_t cells = layers * domains * experts, first_weight = 2 * domains + 2 * cells;
  // Losses, tokens, kept pairs, pairs before dropping, losses by gate weight, gate weights, prefix.
  at::Tensor sums = at::zeros({first_weight + 2 * layers * experts + 2}, at::kDouble);
  for (std::int64_t first = 0; first < all; first += batch) {
    const auto passes = passes_of(std::min(batch, all - first), kValidationStep,
                                  [&](std::int64_t begin, std::int64_t count) { return source_.validation(first + begin, count); });
    const auto given = model_->decide_step(passes, mode);
    for (std::size_t p = 0; p < passes.size(); ++p) {
      const auto& layout = passes[p].layout;
      const auto forward = model_->forward(passes[p], given.empty() ? nullptr : &given[p], mode);
      const at::Tensor domain = at::tensor(layout.domain, at::kLong);
      const at::Tensor token_loss = forward.token_loss.to(at::kCPU, at::kDouble);
      const at::Tensor per_sequence = token_loss.view({layout.sequences, layout.length}).sum(1);
      sums.narrow(0, 0, domains).index_add_(0, domain, per_sequence);
      sums.narrow(0, domains, domains).index_add_(0, domain, at::full({layout.sequences}, static_cast<double>(layout.length), at::kDouble));
      if (prefix_tokens_ > 0) {
        const std::int64_t tokens = std::min(prefix_tokens_, layout.length);
        sums[sums.numel() - 2] += token_loss.view({layout.sequences, layout.length}).narrow(1, 0, tokens).sum();
        sums[sums.numel() - 1] += static_cast<double>(layout.sequences * tokens);
      }
      const at::Tensor domain_of_token = domain.repeat_interleave(layout.length);
      for (std::int64_t layer = 0; layer < layers; ++layer) {
        const routing::Slots& slots = forward.decisions[static_cast<std::size_t>(layer)].slots;
        const std::int64_t first_cell = 2 * domains + layer * domains * experts;
        sums.narrow(0, first_cell, domains * experts) += routing::count_kept_slots(slots, domain_of_token, domains, experts, at::Tensor()).view(-1);
        sums.narrow(0, first_cell + cells, domains * experts) +=
            routing::count_slots(slots, domain_of_token, domains, experts, at::Tensor()).view(-1);
        if (config_.routing.record && mode == routing::Mode::evaluate) recording_.add(layout, layer, slots);
        at::Tensor weight = forward.weights[static_cast<std::size_t>(layer)].to(at::kDouble);
        if (slots.dropped.defined()) weight = weight.masked_fill(slots.dropped, 0.0);
        const at::Tensor loss = token_loss.index_select(0, slots.token);
        sums.narrow(0, first_weight + layer * experts, experts).index_add_(0, slots.expert, weight * loss);
        sums.narrow(0, first_weight + (layers + layer) * experts, experts).index_add_(0, slots.expert, weight);
      }
      if (trace != nullptr) trace->add(passes[p], forward, *model_);
    }
    if (transport_->any(asked_to_stop(), "stop between evaluation batches")) return false;
  }
  transport_->all_reduce_sum(sums.data_ptr(), static_cast<std::size_t>(sums.numel()), DType::f64, "sums of an evaluation");
  const auto* values = sums.const_data_ptr<double>();
  result.loss_sum.assign(values, values + domains);
  result.tokens.assign(values + domains, values + 2 * domains);
  result.counts.assign(values + 2 * domains, values + 2 * domains + cells);
  result.counts_before.assign(values + 2 * domains + cells, values + first_weight);
  result.weighted_loss.assign(values + first_weight, values + first_weight + layers * experts);
  result.weight.assign(values + first_weight + layers * experts, values + first_weight + 2 * layers * experts);
  result.prefix_loss_sum = values[sums.numel() - 2];
  result.prefix_tokens = values[sums.numel() - 1];
  return true;
}

void Trainer::record_evaluation(const Evaluation& evaluation, const std::string& prefix) {
  const std::int64_t layers = model_->moe_layers(), domains = source_.domains(), experts = model_->routed_experts();
  std::vector<double> loss, bits;
  double nats = 0, tokens = 0, bytes = 0;
  for (std::int64_t d = 0; d < domains; ++d) {
    const auto i = static_cast<std::size_t>(d);
    const double per_token = source_.bytes_per_token(d);
    loss.push_back(evaluation.loss_sum[i] / evaluation.tokens[i]);
    bits.push_back(loss.back() / std::numbers::ln2 / per_token);
    nats += evaluation.loss_sum[i];
    tokens += evaluation.tokens[i];
    bytes += evaluation.tokens[i] * per_token;
  }
  if (prefix == "evaluations/") validation_loss_ = nats / tokens;
  if (prefix_tokens_ > 0) {
    recorder_.append(prefix + "loss_prefix", evaluation.prefix_loss_sum / evaluation.prefix_tokens);
    recorder_.append(prefix + "loss_behind_prefix", (nats - evaluation.prefix_loss_sum) / std::max(1.0, tokens - evaluation.prefix_tokens));
  }
  recorder_.append(prefix + "loss", nats / tokens);
  recorder_.append(prefix + "bits_per_byte", nats / std::numbers::ln2 / bytes);
  recorder_.append(prefix + "loss_by_domain", loss);
  recorder_.append(prefix + "bits_per_byte_by_domain", bits);
  recorder_.append(prefix + "counts", evaluation.counts);
  std::vector<double> by_expert;
  for (std::size_t i = 0; i < evaluation.weight.size(); ++i)
    by_expert.push_back(evaluation.weight[i] > 0 ? evaluation.weighted_loss[i] / evaluation.weight[i] : 0.0);
  recorder_.append(prefix + "loss_by_expert", by_expert);
  record_drops(evaluation, prefix);
  std::vector<diagnose::TestbedMetrics> metrics;
  for (std::int64_t layer = 0; layer < layers; ++layer) {
    diagnose::Counts counts{domains, experts, {}};
    const auto first = evaluation.counts.begin() + layer * domains * experts;
    for (auto n = first; n != first + domains * experts; ++n) counts.values.push_back(std::llround(*n));
    metrics.push_back(diagnose::testbed_metrics(counts));
  }
  for (const auto& info : diagnose::testbed_metric_list()) {
    std::vector<double> row;
    for (const auto& m : metrics) row.push_back(m.*info.value);
    recorder_.append(prefix + info.name, row);
  }
  std::vector<double> dead;
  for (const auto& m : metrics) dead.push_back(static_cast<double>(m.dead_experts));
  recorder_.append(prefix + "dead_experts", dead);
}

void Trainer::record_drops(const Evaluation& evaluation, const std::string& prefix) {
  const std::int64_t layers = model_->moe_layers(), domains = source_.domains(), experts = model_->routed_experts();
  const auto by_expert = [&](const std::vector<double>& counts) { return at::tensor(counts, at::kDouble).view({layers, domains, experts}).sum(1); };
  const at::Tensor before = by_expert(evaluation.counts_before), dropped = before - by_expert(evaluation.counts);
  const auto row = [](const at::Tensor& values) {
    const at::Tensor flat = values.contiguous();
    return std::vector<double>(flat.const_data_ptr<double>(), flat.const_data_ptr<double>() + flat.numel());
  };
  recorder_.append(prefix + "drop_rate", row(dropped.sum(1) / before.sum(1).clamp_min(1)));
  if (!recorder_.has(prefix + "drop_rate_by_expert")) return;
  recorder_.append(prefix + "counts_before_dropping", evaluation.counts_before);
  recorder_.append(prefix + "drop_rate_by_expert", row(dropped / before.clamp_min(1)));
  recorder_.append(prefix + "overflow_rate", row((dropped > 0).to(at::kDouble).mean(1)));
}

bool Trainer::evaluate() {
  Evaluation training, greedy;
  model_->begin_step(step_, /*training=*/false);
  const bool traces = config_.evaluation.trace_tokens > 0 && step_ == steps_;
  Trace trace(config_.evaluation.trace_tokens, config_.evaluation.trace_logits), greedy_trace = trace;
  if (!evaluate_reading(routing::Mode::evaluate, training, traces ? &trace : nullptr)) return false;
  if (!model_->readings_differ()) greedy = training;
  else if (!evaluate_reading(routing::Mode::greedy, greedy, traces ? &greedy_trace : nullptr)) return false;
  if (traces) {
    trace_ = trace.arrays(*transport_, "trace/");
    trace_.push_back(store::make_array("trace/step", {1}, std::vector<std::int64_t>{step_}, "step", "step of the evaluation"));
    if (model_->readings_differ())
      for (auto& array : greedy_trace.arrays(*transport_, "trace/greedy.")) trace_.push_back(std::move(array));
  }
  recorder_.append("evaluations/step", static_cast<double>(step_));
  record_evaluation(training, "evaluations/");
  record_evaluation(greedy, "evaluations/greedy.");
  return true;
}

store::TrialRecord Trainer::record(const std::string& state, const std::string& reason) const {
  TrialConfig config = config_;
  Recorder recorder = recorder_;
  model::CostInput input;
  input.model = config.model;
  input.routing = config.routing;
  input.vocabulary = source_.vocabulary();
  input.sequence_length = config.data.sequence_length;
  const auto costs = model::costs_of(input);
  recorder.append("summary/parameters_total", static_cast<double>(costs.parameters_total));
  recorder.append("summary/parameters_active", static_cast<double>(costs.parameters_active));
  recorder.append("summary/training_tokens", static_cast<double>(step_ * config.step_tokens()));
  const bool causal = !any_layer(config, [](const auto& layer) { return routing::sees_future(layer, 0); });
  recorder.append("summary/causal", causal && model_->causal(routing::Mode::train) ? 1 : 0);
  recorder.append("summary/greedy.causal", model_->causal(routing::Mode::greedy) ? 1 : 0);
  recorder.append("summary/training_seconds", seconds_);
  auto arrays = recorder.arrays();
  if (config.routing.record)
    for (auto& array : assignment_arrays(recording_, *transport_)) arrays.push_back(std::move(array));
  return {id_of(config), state, reason, fields_of(config).dump().dump(), "{}", std::move(arrays)};
}

namespace {

/// Elements [first, first + count) of a logical array of a checkpoint, in a buffer of this rank.
struct Stored {
  std::string name;
  std::vector<std::int64_t> shape;  ///< of the whole
  std::int64_t first = 0;
  at::Tensor elements;  ///< [count]
};

/// What this rank has of all logical arrays: all its values and the moments that it updates. With `once`, of what several ranks have, each its part.
std::vector<Stored> stored_arrays(model::Parameters& parameters, comm::Grid& grid, bool once) {
  const std::pair<std::string, at::Tensor model::Buffers::*> kinds[] = {{"parameters/", &model::Buffers::value},
                                                                        {"moments/first/", &model::Buffers::first_moment},
                                                                        {"moments/second/", &model::Buffers::second_moment}};
  std::vector<Stored> arrays;
  for (const auto& [prefix, member] : kinds)
    for (const auto& array : parameters.logical()) {
      const model::Buffers& buffers = parameters.buffers(array.parameter_class);
      const at::Tensor& buffer = buffers.*member;
      comm::Transport& holders = array.parameter_class == model::ParameterClass::dense ? grid.all() : grid.copies();
      std::int64_t begin = array.offset, end = array.offset + array.count, origin = 0;
      if (buffer.numel() < buffers.value.numel()) {  // sharded moments: nobody else has these
        origin = buffers.first_updated;
        begin = std::max(begin, origin);
        end = std::min(end, origin + buffer.numel());
        if (begin >= end) {  // none of this array
          arrays.push_back({prefix + array.name, array.shape, array.first, buffer.narrow(0, 0, 0)});
          continue;
        }
      } else if (once) {
        const model::Part part{holders.rank(), holders.size()};
        begin = array.offset + part.begin(array.count);
        end = array.offset + part.end(array.count);
      }
      arrays.push_back({prefix + array.name, array.shape, array.first + begin - array.offset, buffer.narrow(0, begin - origin, end - begin)});
    }
  return arrays;
}

}  // namespace

void Trainer::write_checkpoint(const std::filesystem::path& path) {
  std::vector<store::Piece> pieces;
  std::vector<at::Tensor> on_host;  // that pieces point into
  for (const auto& array : stored_arrays(model_->parameters(), grid_, /*once=*/true)) {
    on_host.push_back(array.elements.to(at::kCPU));
    pieces.push_back({array.name, dtype_of(array.elements), array.shape, array.first, array.elements.numel(), on_host.back().data_ptr()});
  }
  for (const auto& [name, tensor] : model_->state())
    pieces.push_back({"state/" + name, DType::f64, tensor.sizes().vec(), 0, gang_.rank() == 0 ? tensor.numel() : 0, tensor.data_ptr()});
  const Json header = {{"trial", id_of(config_)}, {"step", step_}, {"seconds", seconds_}, {"identity", identity_of(config_)}};
  store::write_checkpoint(gang_, path, header.dump(), pieces, record("running", ""));
}

void Trainer::read_parameters(const std::filesystem::path& path) {
  if (!ready_) return;
  require_named(gang_, "train.init_from", path.string());
  read_named("train.init_from", path.string(), [&] {
    const store::CheckpointReader reader(gang_, path);
    for (const auto& array : model_->parameters().logical()) {
      if (!array.imported_from.empty()) continue;  // routing.import_from names where it comes from
      if (!keeps_ready("stop between parameters")) return;
      read_parameter(reader, model_->parameters(), array, "train.init_from", path.string());
    }
  });
}

void Trainer::take_progress(const std::string& header, const store::TrialRecord& record, const std::string& path) {
  const auto wrong = [](const std::string& what) { throw Error(ErrorKind::corrupt, what); };
  // The record names its datasets without the group in which they are here.
  const auto of_record = [](const auto& take) {
    try {
      take();
    } catch (const Error& error) {
      constexpr std::string_view kBegin = "dataset ";
      if (!error.message().starts_with(kBegin)) throw;
      throw Error(error.kind(), "dataset record/" + error.message().substr(kBegin.size()));
    }
  };
  const std::string own = id_of(config_);
  const auto check = [&] {
    const Json json = parse_json(header, "dataset header/checkpoint");
    const JsonView view(json, "dataset header/checkpoint");
    const std::string trial = view["trial"].text(100);
    if (!is_trial_id(trial)) view["trial"].refuse("a trial's id");
    if (trial != own) wrong("the checkpoint is of trial " + trial + ", not of " + own);
    step_ = view["step"].integer(0, steps_);
    seconds_ = view["seconds"].number();
    if (seconds_ < 0) view["seconds"].refuse("a number of seconds, at least 0");
    of_record([&] { recorder_.restore(record, {"steps/", "evaluations/"}); });
    // A row for each step, and evaluations at steps that were done.
    const auto &steps = recorder_.values("steps/step"), &evaluations = recorder_.values("evaluations/step");
    if (static_cast<std::int64_t>(steps.size()) != step_)
      wrong("dataset record/steps/step: it has " + std::to_string(steps.size()) + " rows at step " + std::to_string(step_));
    for (std::size_t i = 0; i < steps.size(); ++i)
      if (steps[i] != static_cast<double>(i + 1))
        wrong("dataset record/steps/step: row " + std::to_string(i) + " is not step " + std::to_string(i + 1));
    for (std::size_t i = 0; i < evaluations.size(); ++i)
      if (evaluations[i] < (i > 0 ? evaluations[i - 1] : 0) || evaluations[i] > static_cast<double>(step_))
        wrong("dataset record/evaluations/step: row " + std::to_string(i) + " is out of order, or behind step " + std::to_string(step_));
    if (!config_.routing.record) return;
    routing::Recording::Bounds bounds;
    bounds.least_record = -1 - step_;
    bounds.most_record = step_ - 1;
    bounds.layers = model_->moe_layers();
    bounds.experts = model_->routed_experts();
    of_record([&] { take_assignments(record, recording_, bounds); });
  };
  try {
    check();
  } catch (const Error& error) {
    // Whoever looks for the checkpoint's own errors goes by the place, which is the file alone.
    const bool placed = !error.where().empty() && error.where() != path;
    throw Error(error.kind(), placed ? error.where() + ": " + error.message() : error.message(), path,
                "remove it to start the trial from its beginning");
  }
}

void Trainer::read_checkpoint(const std::filesystem::path& path) {
  if (!ready_) return;
  const store::CheckpointReader reader(gang_, path);
  const auto require_shape = [&](const std::string& name, const std::vector<std::int64_t>& found, const std::vector<std::int64_t>& expected) {
    if (found != expected)
      throw Error(ErrorKind::corrupt, "dataset " + name + ": its shape is another one than in this trial", path.string(),
                  "remove it to start the trial from its beginning")
          .thrown_on_every_rank();
  };
  gang_.agree([&] { take_progress(reader.header(), reader.record(), path.string()); }, "progress of a checkpoint");
  for (const auto& array : stored_arrays(model_->parameters(), grid_, /*once=*/false)) {
    if (!keeps_ready("stop between arrays of a checkpoint")) return;
    const StoredArray from(reader, array.name, path.string());
    require_shape(array.name, from.shape(), array.shape);
    const at::Tensor read = array.elements.is_cpu() ? array.elements : at::empty(array.elements.sizes(), array.elements.options().device(at::kCPU));
    from.read(array.first, read);
    if (!read.is_same(array.elements)) array.elements.copy_(read);
  }
  for (auto& [name, tensor] : model_->state()) {
    const std::string stored = "state/" + name;
    require_shape(stored, reader.shape(stored), tensor.sizes().vec());
    reader.read(stored, DType::f64, 0, tensor.numel(), tensor.data_ptr());
    // Every rank read the same.
    if (!tensor.isfinite().all().item<bool>())
      throw Error(ErrorKind::corrupt, "dataset " + stored + ": it holds what is no finite number", path.string(),
                  "remove it to start the trial from its beginning")
          .thrown_on_every_rank();
  }
}

bool Trainer::keeps_ready(const char* what) { return ready_ = ready_ && !transport_->any(asked_to_stop(), what); }

}  // namespace moesweep::train
