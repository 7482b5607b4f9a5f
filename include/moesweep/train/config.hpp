// A whole trial's config, composed of the lower rooms' structs; no torch, MPI or HDF5 here.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>

#include "moesweep/core/fields.hpp"
#include "moesweep/data/config.hpp"
#include "moesweep/model/config.hpp"
#include "moesweep/routing/config.hpp"

namespace moesweep::train {

enum class Precision { fp32, bf16, fp64 };
enum class Keep { none, final_only };
enum class Device { automatic, cpu, cuda };
enum class TransportKind { automatic, mpi, nccl };

struct TrainConfig {
  std::int64_t steps = 200;
  std::optional<std::int64_t> tokens;  ///< length in tokens; when given, it replaces steps (rounded up to whole steps)
  Precision dtype = Precision::fp32;
  double learning_rate = 6e-3;
  double final_learning_rate_share = 0.1;
  std::int64_t warmup_steps = 20;
  double beta1 = 0.9;
  double beta2 = 0.95;
  double epsilon = 1e-8;
  double weight_decay = 0.0;
  double clip_norm = 1.0;
  std::int64_t batch_sequences = 64;
  std::int64_t micro_batch_sequences = 4;
  std::int64_t sequences_per_pass = 0;  ///< 0: all of a rank's sequences in one pass
  double loss_limit = 100.0;
  std::string init_from;

  void list(FieldList& fields);
};

struct EvaluationConfig {
  std::int64_t every_steps = 50;
  std::int64_t tokens = 16384;
  std::int64_t trace_tokens = 0;
  bool trace_logits = false;

  void list(FieldList& fields);
};

struct ParallelConfig {
  std::int64_t expert = 1;
  std::int64_t data = 1;
  std::int64_t threads = 1;
  Device device = Device::automatic;
  bool recompute = false;
  bool shard_moments = false;

  void list(FieldList& fields);
};

struct CheckpointConfig {
  std::int64_t every_steps = 0;
  Keep keep = Keep::none;

  void list(FieldList& fields);
};

struct CommConfig {
  double timeout_seconds = 300.0;
  double bucket_mebibytes = 16.0;
  TransportKind transport = TransportKind::automatic;

  void list(FieldList& fields);
};

struct TrialConfig {
  std::int64_t seed = 1;
  model::ModelConfig model;
  routing::RoutingConfig routing;
  data::DataConfig data;
  TrainConfig train;
  EvaluationConfig evaluation;
  ParallelConfig parallel;
  CheckpointConfig checkpoint;
  CommConfig comm;

  void list(FieldList& fields);

  /// Optimizer steps of the run: `train.steps`, or `train.tokens` over a step's tokens, rounded up.
  std::int64_t steps() const;
  std::int64_t step_tokens() const { return train.batch_sequences * data.sequence_length; }
  /// Ranks of its gang.
  std::int64_t ranks() const { return parallel.expert * parallel.data; }
};

/// Identity fields that differ from the defaults, by dotted path in sorted order (canonical JSON object).
Json identity_of(const TrialConfig& config);
/// The trial's name for ever: the first 16 hexadecimal digits of the SHA-256 of its canonical identity.
std::string id_of(const TrialConfig& config);
/// Why the combination makes no sense, in one sentence with the dotted keys concerned; empty when it does make sense.
std::string refusal(const TrialConfig& config);

}  // namespace moesweep::train

namespace moesweep {
template <>
struct EnumNames<train::Precision> {
  static constexpr std::array names{"fp32", "bf16", "fp64"};
};
template <>
struct EnumNames<train::Keep> {
  static constexpr std::array names{"none", "final"};
};
template <>
struct EnumNames<train::Device> {
  static constexpr std::array names{"auto", "cpu", "cuda"};
};
template <>
struct EnumNames<train::TransportKind> {
  static constexpr std::array names{"auto", "mpi", "nccl"};
};
}  // namespace moesweep
