// See include/moesweep/plan/cost.hpp.
#include "moesweep/plan/cost.hpp"

#include <algorithm>
#include <cmath>

namespace moesweep::plan {

namespace {

/// Sequences that one rank sends through at once.
std::int64_t sequences_per_pass(const train::TrialConfig& config) {
  const std::int64_t share = (config.train.batch_sequences + config.ranks() - 1) / config.ranks();
  return config.train.sequences_per_pass > 0 ? std::min(config.train.sequences_per_pass, share) : share;
}

std::int64_t passes_of_step(const train::TrialConfig& config) {
  const std::int64_t share = (config.train.batch_sequences + config.ranks() - 1) / config.ranks(), pass = sequences_per_pass(config);
  return (share + pass - 1) / pass;
}

std::int64_t evaluations(const train::TrialConfig& config) {
  const std::int64_t steps = config.steps(), every = config.evaluation.every_steps;
  return every > 0 ? (steps + every - 1) / every : 1;  // the last step always evaluates
}

/// trial.h5: the series of Trainer::declare_series, and what HDF5 and the provenance take whatever the size.
double trial_file_bytes(const train::TrialConfig& config) {
  const auto layers = static_cast<double>(config.model.layers - config.model.dense_layers), steps = static_cast<double>(config.steps());
  const auto domains = static_cast<double>(config.data.domains.size()), ranks = static_cast<double>(config.ranks());
  const auto experts = static_cast<double>(config.model.experts + config.routing.extra_experts.routed());
  constexpr double kBytes = 8, kReadings = 2, kOfStep = 10, kOfStepAndLayer = 3, kOfStepAndRank = 5, kOfReadingAndLayer = 11, kFixed = 28000;
  const double step = kOfStep + kOfStepAndLayer * layers + kOfStepAndRank * ranks;
  double reading = 2 + 2 * domains + layers * (kOfReadingAndLayer + domains * experts + experts);
  if (config.routing.has_capacity() || config.routing.evaluation.capacity_factor) reading += layers * (1 + domains * experts + experts);
  double bytes = kFixed + kBytes * (steps * step + kReadings * static_cast<double>(evaluations(config)) * reading);
  if (config.routing.record) {  // four bytes for each token and slot, in every layer and pass
    const double tokens = steps * static_cast<double>(config.step_tokens()) + static_cast<double>(evaluations(config) * config.evaluation.tokens);
    bytes += 4 * tokens * layers * (1 + static_cast<double>(config.routing.top_k));
  }
  return bytes;
}

/// trace.h5, in one reading.
double trace_file_bytes(const train::TrialConfig& config) {
  const auto tokens = static_cast<double>(std::min(config.evaluation.trace_tokens, config.evaluation.tokens));
  if (tokens == 0) return 0;
  const auto layers = static_cast<double>(config.model.layers - config.model.dense_layers);
  const auto experts = static_cast<double>(config.model.experts + config.routing.extra_experts.routed());
  constexpr double kOfToken = 6 * 4 + 8, kOfSlot = 9, kFixed = 16000;
  return kFixed +
         tokens * (kOfToken + layers * (kOfSlot * static_cast<double>(config.routing.top_k) + (config.evaluation.trace_logits ? 4 * experts : 0)));
}

model::Costs model_costs(const train::TrialConfig& config) {
  model::CostInput input;
  input.model = config.model;
  input.vocabulary = config.data.vocabulary;
  input.routing = config.routing;
  input.sequence_length = config.data.sequence_length;
  input.tokens_per_pass = sequences_per_pass(config) * config.data.sequence_length;
  input.value_bytes = config.train.dtype == train::Precision::fp64 ? 8 : 4;
  input.expert_parallel = config.parallel.expert;
  input.data_parallel = config.parallel.data;
  input.passes = passes_of_step(config);
  input.steps = config.steps();
  input.compute_bytes = config.train.dtype == train::Precision::bf16 ? 2 : input.value_bytes;
  input.recompute = config.parallel.recompute;
  input.shard_moments = config.parallel.shard_moments;
  return model::costs_of(input);
}

/// Training and greedy readings of an evaluation are one where they cannot differ (LayerRouter::readings_differ).
double readings(const train::TrialConfig& config) {
  const auto& evaluation = config.routing.evaluation;
  return evaluation.select != "same" || evaluation.top_k || evaluation.temperature || evaluation.capacity_factor != config.routing.capacity.factor
             ? 2
             : 1;
}

double evaluation_batches(const train::TrialConfig& config) {
  return std::ceil(static_cast<double>(config.evaluation.tokens) / static_cast<double>(config.step_tokens()));
}

StepWork work_of(const train::TrialConfig& config, const model::Costs& model, const StepSpeed& speed) {
  const auto ranks = static_cast<double>(config.ranks()), passes = static_cast<double>(passes_of_step(config));
  double of_token = 0;
  for (const auto& product : model.products)
    of_token += product.flops_per_token / speed.flops_per_second(product.rows, std::sqrt(product.inner * product.outer));
  const double step_tokens = static_cast<double>(config.step_tokens()) / ranks, evaluated = static_cast<double>(config.evaluation.tokens) / ranks;
  const double forwards = config.parallel.recompute ? 4 : 3,
               tokens_per_pass = static_cast<double>(sequences_per_pass(config) * config.data.sequence_length);
  const double kept_of_token = (model.memory.activations + model.memory.loss + model.memory.experts) / tokens_per_pass;
  const auto layers = static_cast<double>(config.model.layers);
  StepWork work;
  work.product_seconds = forwards * step_tokens * of_token;
  work.kept_bytes = step_tokens * kept_of_token * forwards / 3;
  work.parameter_bytes = model.memory.parameters + model.memory.gradients + model.memory.moments;
  work.layers = layers * passes * forwards / 3;
  work.evaluation_product_seconds = readings(config) * evaluated * of_token;
  work.evaluation_kept_bytes = readings(config) * evaluated * kept_of_token;
  work.batches = readings(config) * evaluation_batches(config);
  work.evaluation_layers = work.batches * layers * passes;
  return work;
}

}  // namespace

StepWork work_of(const train::TrialConfig& config, const StepSpeed& speed) { return work_of(config, model_costs(config), speed); }

TrialCost cost_of(const train::TrialConfig& config, const MachineSpeed& speed) {
  const model::Costs model = model_costs(config);

  TrialCost cost;
  cost.ranks = config.ranks();
  cost.parameters_total = model.parameters_total;
  cost.parameters_active = model.parameters_active;
  cost.training_tokens = config.steps() * config.step_tokens();
  cost.flops = model.training_flops_per_token * static_cast<double>(cost.training_tokens) +
               model.forward_flops_per_token * static_cast<double>(evaluations(config)) * static_cast<double>(config.evaluation.tokens);
  const auto ranks = static_cast<double>(cost.ranks), passes = static_cast<double>(passes_of_step(config));
  const auto steps = static_cast<double>(config.steps()), evaluated_times = static_cast<double>(evaluations(config));
  const double evaluated = evaluated_times * static_cast<double>(config.evaluation.tokens);
  cost.exchanged_bytes =
      (model.training_exchange_bytes_per_token * static_cast<double>(cost.training_tokens) + model.forward_exchange_bytes_per_token * evaluated) /
      ranks;
  const double exchanges = passes * (static_cast<double>(model.training_exchanges_per_pass) * steps +
                                     static_cast<double>(model.forward_exchanges_per_pass) * evaluated_times * evaluation_batches(config));
  cost.exchange_seconds = cost.exchanged_bytes / speed.exchange.bytes_per_second + exchanges * speed.exchange.latency_seconds;
  if (speed.measured()) {
    const bool narrow = config.train.dtype == train::Precision::bf16 && !speed.bf16.products.empty();
    const StepSpeed& own = narrow ? speed.bf16 : speed.fp32;
    const StepWork work = work_of(config, model, own);
    const auto beside = [&](double bytes, double layers, double times) {
      return bytes * own.seconds_per_kept_byte + layers * own.seconds_per_layer + times * own.seconds_per_step;
    };
    const double step = work.product_seconds + beside(work.kept_bytes, work.layers, 1) + work.parameter_bytes * own.seconds_per_parameter_byte;
    const double evaluation =
        work.evaluation_product_seconds + own.evaluation_share * beside(work.evaluation_kept_bytes, work.evaluation_layers, work.batches);
    // Sums of gradients travel by a ring: nearly twice their bytes leave each rank.
    const double reduced = 2 * model.memory.reduction * (1 - 1 / ranks) / speed.exchange.bytes_per_second;
    const double slower = config.train.dtype == train::Precision::fp64 ? 2 : 1;
    cost.seconds = slower * (steps * step + evaluated_times * evaluation) + steps * reduced + cost.exchange_seconds;
  } else {
    cost.seconds = cost.flops / (kDefaultFlopsPerSecond * ranks) + cost.exchange_seconds;
  }
  cost.memory = model.memory;
  cost.memory_bytes = cost.memory.peak();
  // trial.h5 and the largest checkpoint: weights, two moments, and the record once more.
  constexpr double kValuesPerParameter = 3, kCheckpointFixed = 28000;
  cost.disk_bytes = 2 * trial_file_bytes(config) + readings(config) * trace_file_bytes(config) + kCheckpointFixed +
                    kValuesPerParameter * static_cast<double>(model.parameters_total * (config.train.dtype == train::Precision::fp64 ? 8 : 4));
  return cost;
}

namespace {

constexpr std::pair<const char*, double model::Memory::*> kMemoryParts[] = {{"parameters", &model::Memory::parameters},
                                                                            {"gradients", &model::Memory::gradients},
                                                                            {"moments", &model::Memory::moments},
                                                                            {"activations", &model::Memory::activations},
                                                                            {"loss", &model::Memory::loss},
                                                                            {"experts", &model::Memory::experts},
                                                                            {"exchange", &model::Memory::exchange},
                                                                            {"reduction", &model::Memory::reduction},
                                                                            {"evaluation", &model::Memory::evaluation},
                                                                            {"decisions", &model::Memory::decisions},
                                                                            {"framework", &model::Memory::framework},
                                                                            {"kernels", &model::Memory::kernels},
                                                                            {"holes", &model::Memory::holes}};

Json parts_of(const model::Memory& memory) {
  Json parts = Json::object();
  for (const auto& [name, part] : kMemoryParts) parts[name] = memory.*part;
  return parts;
}

}  // namespace

Json TrialCost::json() const {
  return {{"ranks", ranks},
          {"parameters_total", parameters_total},
          {"parameters_active", parameters_active},
          {"training_tokens", training_tokens},
          {"flops", flops},
          {"exchanged_bytes", exchanged_bytes},
          {"exchange_seconds", exchange_seconds},
          {"seconds", seconds},
          {"memory_bytes", memory_bytes},
          {"memory", parts_of(memory)},
          {"disk_bytes", disk_bytes}};
}

TrialCost TrialCost::of_json(const Json& json) {
  TrialCost cost;
  cost.ranks = json.at("ranks");
  cost.parameters_total = json.at("parameters_total");
  cost.parameters_active = json.at("parameters_active");
  cost.training_tokens = json.at("training_tokens");
  cost.flops = json.at("flops");
  cost.exchanged_bytes = json.value("exchanged_bytes", 0.0);
  cost.exchange_seconds = json.value("exchange_seconds", 0.0);
  cost.seconds = json.at("seconds");
  cost.memory_bytes = json.at("memory_bytes");
  cost.disk_bytes = json.at("disk_bytes");
  if (const auto parts = json.find("memory"); parts != json.end())
    for (const auto& [name, part] : kMemoryParts) cost.memory.*part = parts->value(name, 0.0);
  return cost;
}

double parameter_ratio(std::span<const TrialCost> costs) {
  if (costs.empty()) return 1.0;
  const auto [smallest, largest] = std::ranges::minmax_element(costs, {}, &TrialCost::parameters_total);
  return smallest->parameters_total > 0 ? static_cast<double>(largest->parameters_total) / static_cast<double>(smallest->parameters_total) : 1.0;
}

}  // namespace moesweep::plan
