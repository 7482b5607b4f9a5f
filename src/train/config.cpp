// See include/moesweep/train/config.hpp.
#include "moesweep/train/config.hpp"

#include <fmt/core.h>

#include "moesweep/core/hash.hpp"

namespace moesweep::train {

void TrainConfig::list(FieldList& fields) {
  fields.add("steps", steps, "optimizer steps").at_least(1).at_most(1e9).in_unit("steps");
  fields.add("tokens", tokens, "length in tokens, rounded up to whole steps; when given it replaces train.steps")
      .at_least(1)
      .at_most(1e15)
      .in_unit("tokens");
  fields.add("dtype", dtype, "arithmetic of the model; the router runs in fp32 at least, master weights are fp32 (fp64 with fp64)");
  fields.add("learning_rate", learning_rate, "peak learning rate of AdamW").more_than(0);
  fields.add("final_learning_rate_share", final_learning_rate_share, "the cosine ends at this share of the peak").at_least(0).at_most(1);
  fields.add("warmup_steps", warmup_steps, "linear warm-up").at_least(0).at_most(1e9).in_unit("steps");
  fields.add("beta1", beta1, "AdamW, decay of the first moment").at_least(0).at_most(0.9999999);
  fields.add("beta2", beta2, "AdamW, decay of the second moment").at_least(0).at_most(0.9999999);
  fields.add("epsilon", epsilon, "AdamW, added to the root of the second moment").more_than(0);
  fields.add("weight_decay", weight_decay, "AdamW, decoupled weight decay").at_least(0);
  fields.add("clip_norm", clip_norm, "gradients are scaled down to this global norm; 0 leaves them").at_least(0);
  fields.add("batch_sequences", batch_sequences, "sequences of a global batch (one optimizer step)")
      .at_least(1)
      .at_most(16777216)
      .in_unit("sequences");
  fields.add("micro_batch_sequences", micro_batch_sequences, "sequences of a micro-batch, a unit of balancing statistics")
      .at_least(1)
      .at_most(16777216)
      .in_unit("sequences");
  fields.add("sequences_per_pass", sequences_per_pass, "sequences that go through a rank at once (whole micro-batches); 0 = all of its share")
      .at_least(0)
      .at_most(16777216)
      .in_unit("sequences")
      .execution();
  fields.add("loss_limit", loss_limit, "a training loss above it ends the trial as diverged").more_than(0).in_unit("nats per token");
  fields.add("init_from", init_from, "checkpoint whose parameters the trial starts from; empty = fresh weights");
}

void EvaluationConfig::list(FieldList& fields) {
  fields.add("every_steps", every_steps, "steps between evaluations; the last step always evaluates; 0 = only then")
      .at_least(0)
      .in_unit("steps")
      .execution();
  fields.add("tokens", tokens, "validation tokens, equal shares of each domain").at_least(1).at_most(1e12).in_unit("tokens");
  fields
      .add("trace_tokens", trace_tokens,
           "the last evaluation writes the routing of so many first validation tokens, one by one, to trace.h5; 0 = none")
      .at_least(0)
      .at_most(1e9)
      .in_unit("tokens")
      .execution();
  fields.add("trace_logits", trace_logits, "router logits of those tokens too").execution();
}

void ParallelConfig::list(FieldList& fields) {
  fields.add("expert", expert, "ranks over which a trial's experts are spread (EP)").at_least(1).at_most(65536).execution();
  fields.add("data", data, "ranks over which a trial's sequences are spread beside EP (DP)").at_least(1).at_most(1048576).execution();
  fields.add("recompute", recompute, "layers keep their inputs alone for the backward pass and run again in it: less memory, about a third more work")
      .execution();
  fields
      .add("shard_moments", shard_moments,
           "each rank keeps the optimiser's moments of its part of the parameters alone, updates that part and gives it to the others (ZeRO-1)")
      .execution();
  fields.add("threads", threads, "threads of a rank").at_least(1).at_most(4096).execution();
  fields
      .add("device", device,
           "where the model computes; auto = on a GPU where the build and every rank of the gang have one; routing decides on the host")
      .execution();
}

void CheckpointConfig::list(FieldList& fields) {
  fields.add("every_steps", every_steps, "steps between checkpoints; 0 = only when a signal asks for one").at_least(0).in_unit("steps").execution();
  fields.add("keep", keep, "whether the last checkpoint stays when the trial is done").execution();
}

void CommConfig::list(FieldList& fields) {
  fields.add("timeout_seconds", timeout_seconds, "a collective that waits longer ends the process")
      .more_than(0)
      .at_most(1e8)
      .in_unit("seconds")
      .execution();
  fields.add("transport", transport, "what routed rows and gradients travel by; auto = nccl on GPUs, mpi on CPUs").execution();
  fields.add("bucket_mebibytes", bucket_mebibytes, "gradients are reduced in buckets of this size")
      .more_than(0)
      .at_most(1e6)
      .in_unit("MiB")
      .execution();
}

void TrialConfig::list(FieldList& fields) {
  fields.add("seed", seed, "seed of weights, batches and noise").at_least(0);
  fields.add_section("model", model, "the transformer");
  fields.add_section("routing", routing, "how tokens are routed to experts");
  fields.add_section("data", data, "where tokens come from");
  fields.add_section("train", train, "optimiser and batches");
  fields.add_section("evaluation", evaluation, "validation");
  fields.add_section("parallel", parallel, "ranks and threads of one trial");
  fields.add_section("checkpoint", checkpoint, "checkpoints");
  fields.add_section("comm", comm, "communication between ranks");
}

std::int64_t TrialConfig::steps() const { return train.tokens ? (*train.tokens + step_tokens() - 1) / step_tokens() : train.steps; }

Json identity_of(const TrialConfig& config) {
  TrialConfig mine = config, defaults;
  return fields_of(mine).identity(fields_of(defaults));
}

std::string id_of(const TrialConfig& config) { return sha256_hex(canonical(identity_of(config))).substr(0, 16); }

std::string refusal(const TrialConfig& config) {
  const auto& train = config.train;
  if (auto reason = data::refusal(config.data); !reason.empty()) return reason;
  if (config.model.width % config.model.heads != 0 || (config.model.width / config.model.heads) % 2 != 0)
    return fmt::format("model.width = {} over model.heads = {} must be an even whole number (rotary positions turn pairs)", config.model.width,
                       config.model.heads);
  if (config.model.dense_layers >= config.model.layers)
    return fmt::format("model.dense_layers = {} leaves no MoE layer of model.layers = {}", config.model.dense_layers, config.model.layers);
  const auto domains = static_cast<std::int64_t>(config.data.domains.size());
  const routing::RoutedModel routed{config.model.experts,
                                    domains,
                                    config.model.layers - config.model.dense_layers,
                                    config.model.width,
                                    config.data.sequence_length,
                                    train.micro_batch_sequences,
                                    train.batch_sequences};
  if (auto reason = routing::refusal(config.routing, routed); !reason.empty()) return reason;
  if (train.batch_sequences % train.micro_batch_sequences != 0)
    return fmt::format("train.batch_sequences = {} must be whole micro-batches of train.micro_batch_sequences = {}", train.batch_sequences,
                       train.micro_batch_sequences);
  if (train.batch_sequences % domains != 0)
    return fmt::format("train.batch_sequences = {} must give each of the {} domains the same share", train.batch_sequences, domains);
  if (train.sequences_per_pass % train.micro_batch_sequences != 0)
    return fmt::format("train.sequences_per_pass = {} must be whole micro-batches of train.micro_batch_sequences = {}", train.sequences_per_pass,
                       train.micro_batch_sequences);
  if (config.model.experts % config.parallel.expert != 0)
    return fmt::format("parallel.expert = {} must divide model.experts = {}", config.parallel.expert, config.model.experts);
  return "";
}

}  // namespace moesweep::train
