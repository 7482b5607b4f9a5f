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

double trial_file_bytes(const train::TrialConfig& config) {
  const auto layers = static_cast<double>(config.model.layers - config.model.dense_layers);
  const auto domains = static_cast<double>(config.data.domains.size());
  const auto experts = static_cast<double>(config.model.experts + config.routing.extra_experts.routed());
  constexpr double kBytes = 8, kScalarsPerStep = 8, kScalarsPerEvaluation = 16, kReadings = 2, kFixed = 65536;
  return kFixed + kBytes * static_cast<double>(config.steps()) * (kScalarsPerStep + 2 * layers) +
         kBytes * kReadings * static_cast<double>(evaluations(config)) * (layers * (domains * experts + kScalarsPerEvaluation) + 2 * domains);
}

}  // namespace

TrialCost cost_of(const train::TrialConfig& config, double flops_per_second, const ExchangeSpeed& exchange) {
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
  const model::Costs model = model::costs_of(input);

  TrialCost cost;
  cost.ranks = config.ranks();
  cost.parameters_total = model.parameters_total;
  cost.parameters_active = model.parameters_active;
  cost.training_tokens = config.steps() * config.step_tokens();
  cost.flops = model.training_flops_per_token * static_cast<double>(cost.training_tokens) +
               model.forward_flops_per_token * static_cast<double>(evaluations(config)) * static_cast<double>(config.evaluation.tokens);
  const auto ranks = static_cast<double>(cost.ranks), passes = static_cast<double>(passes_of_step(config));
  const double evaluated = static_cast<double>(evaluations(config)) * static_cast<double>(config.evaluation.tokens);
  const double batches = std::ceil(static_cast<double>(config.evaluation.tokens) / static_cast<double>(config.step_tokens()));
  cost.exchanged_bytes =
      (model.training_exchange_bytes_per_token * static_cast<double>(cost.training_tokens) + model.forward_exchange_bytes_per_token * evaluated) /
      ranks;
  const double exchanges = passes * (static_cast<double>(model.training_exchanges_per_pass * config.steps()) +
                                     static_cast<double>(model.forward_exchanges_per_pass * evaluations(config)) * batches);
  cost.exchange_seconds = cost.exchanged_bytes / exchange.bytes_per_second + exchanges * exchange.latency_seconds;
  cost.seconds = cost.flops / (flops_per_second * ranks) + cost.exchange_seconds;
  cost.memory = model.memory;
  cost.memory_bytes = cost.memory.peak();
  constexpr double kValuesPerParameter = 3;  // the weight and two moments
  cost.disk_bytes = trial_file_bytes(config) + kValuesPerParameter * static_cast<double>(model.parameters_total * input.value_bytes);
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

double parameter_ratio(std::span<const TrialCost> costs) {
  if (costs.empty()) return 1.0;
  const auto [smallest, largest] = std::ranges::minmax_element(costs, {}, &TrialCost::parameters_total);
  return smallest->parameters_total > 0 ? static_cast<double>(largest->parameters_total) / static_cast<double>(smallest->parameters_total) : 1.0;
}

}  // namespace moesweep::plan
