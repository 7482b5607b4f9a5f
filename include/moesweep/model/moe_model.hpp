// The decoder-only MoE transformer with its routers: forward passes of a training step, in flight or in two phases.
//
// x = embedding; per layer x += Attention(RMSNorm(x)), x += MoE(RMSNorm(x)) (SwiGLU block in leading dense layers); RMSNorm; head.
#pragma once

#include <ATen/core/Tensor.h>

#include <atomic>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "moesweep/comm/grid.hpp"
#include "moesweep/model/config.hpp"
#include "moesweep/model/parameters.hpp"
#include "moesweep/routing/config.hpp"
#include "moesweep/routing/recording.hpp"
#include "moesweep/routing/router.hpp"

namespace moesweep::model {

struct ExpertOutputs;
struct RouterWeights;

/// What routed experts took on this rank, summed over layers and passes.
struct ExpertWork {
  double dispatch = 0;          ///< s: sorting rows, starting exchanges, putting rows in place
  double wait = 0;              ///< s: waiting for rows of other ranks
  double compute = 0;           ///< s: the experts' products
  std::int64_t bytes_sent = 0;  ///< of rows, to other ranks
};

/// One pass of one rank.
struct PassInput {
  at::Tensor tokens;   ///< [T] i64
  at::Tensor targets;  ///< [T] i64
  routing::TokenLayout layout;
};

/// Decisions of one pass, one per MoE layer.
using PassDecisions = std::vector<routing::Decision>;

struct PassResult {
  at::Tensor token_loss;                     ///< [T] nats, in the graph when training
  std::map<std::string, at::Tensor> losses;  ///< by name (`MoeModel::loss_names`), weighted, summed over layers, in the graph; training only
  PassDecisions decisions;
  // Outside training, for those who record: per MoE layer the weights of the decision's slots [N] and the router's logits [T, E] (of the layer
  // whose decision is taken), and what the output head is given, [T, d].
  std::vector<at::Tensor> weights, router_logits;
  at::Tensor hidden;
};

struct MoeModelOptions {
  /// Arithmetic of the matrix products (fp32, bf16, fp64); the residual stream, norms, router and loss are fp32 at least.
  at::ScalarType compute = at::kFloat;
  std::int64_t seed = 1;
  c10::Device device = c10::kCPU;                            ///< of parameters and products; routing decides on the host
  std::vector<double> token_frequency = {};                  ///< [vocabulary], for balanced hash tables
  std::shared_ptr<const routing::Recording> recording = {};  ///< for replay
  bool recompute = false;                                    ///< layers keep their inputs alone and run again in backward
  bool shard_moments = false;                                ///< each rank keeps, and updates by, its part of the moments alone
  const std::atomic<bool>* stop = nullptr;                   ///< once it is set, the model is not made to its end (`complete`); may be null
};

class MoeModel {
 public:
  /// The experts are spread over `grid.experts()`, whose size must divide their number. `grid` must outlive the model.
  MoeModel(const ModelConfig& config, const routing::RoutingConfig& routing, std::int64_t vocabulary, std::int64_t domains, comm::Grid& grid,
           const MoeModelOptions& options);

  /// False when `MoeModelOptions::stop` was set before the model was made: then it can only be thrown away.
  bool complete() const { return complete_; }

  Parameters& parameters() { return parameters_; }
  std::int64_t moe_layers() const { return config_.layers - config_.dense_layers; }
  /// Experts that a router chooses among: FFN experts first, then zero, copy and constant ones.
  std::int64_t routed_experts() const { return config_.experts + routing_.extra_experts.routed(); }
  /// One per MoE layer that decides: with depth shared_decision the first alone.
  std::vector<routing::LayerRouter>& routers() { return routers_; }
  /// Several passes must run in two phases: some router needs them all at once.
  bool needs_whole_step(routing::Mode mode) const;
  bool readings_differ() const;
  /// Logits up to a position cannot depend on later tokens in this mode, at this step.
  bool causal(routing::Mode mode) const;
  /// The names of the losses that a pass may give, in a fixed order.
  std::vector<std::string> loss_names() const;

  /// Before each step's, and each evaluation's, first pass: schedules take their values; with `training`, resampled router weights are drawn anew
  /// as a function of (seed, name, step). Evaluation keeps the last ones.
  void begin_step(std::int64_t step, bool training);

  /// Phase one, where several passes need one (`needs_whole_step`), else nothing and an empty result: all passes of the step, layer by layer, without
  /// gradient; at each MoE layer all are decided together. Keeps hidden states only. Collective where a scope spans ranks; every rank gives the same
  /// number of passes. [passes][MoE layers]
  std::vector<PassDecisions> decide_step(std::span<const PassInput> passes, routing::Mode mode);

  /// One pass. With `given` its decisions are replayed, else they are made here, for this pass alone.
  PassResult forward(const PassInput& pass, const PassDecisions* given, routing::Mode mode);

  /// Scores of the vocabulary from `PassResult::hidden`: [T, V].
  at::Tensor head_logits(const at::Tensor& hidden) const;

  /// Collective. After each optimizer step.
  void end_step();

  /// Since the model was made.
  const ExpertWork& expert_work() const { return work_; }

  /// Persistent routing state by name, `layers.N.bias`; write through the tensors to restore.
  std::vector<std::pair<std::string, at::Tensor>> state();

 private:
  /// The stream just before a layer's experts: what is added to, the normed input, and the router's scores (MoE layers that decide).
  struct Before {
    at::Tensor residual, input;
    routing::Scores scores;
  };
  using Losses = std::map<std::string, at::Tensor>;
  /// What a layer gives on: the stream, and at MoE layers the assignment, its losses among them, which later layers may take over.
  struct LayerOutput {
    at::Tensor x;
    routing::Assignment assignment;
    at::Tensor logits;
  };
  at::Tensor product(const at::Tensor& x, const at::Tensor& w) const;
  at::Tensor norm(const at::Tensor& x, const std::string& gain) const;
  at::Tensor attention(std::int64_t layer, const at::Tensor& h, const routing::TokenLayout& layout) const;
  at::Tensor swiglu(const at::Tensor& h, const std::string& prefix) const;
  Before before_experts(std::int64_t layer, const at::Tensor& x, const routing::TokenLayout& layout, routing::Mode mode) const;
  at::Tensor after_experts(std::int64_t layer, const Before& before, const routing::Assignment& assignment, Losses* losses) const;
  void regularise(std::int64_t layer, const ExpertOutputs& outputs, const routing::Slots& slots, const routing::TokenLayout& layout,
                  Losses& losses) const;
  /// One layer of one pass. A layer that decides makes `decision` where it has no slots yet, else replays it; one that does not takes `earlier`.
  LayerOutput layer_output(std::int64_t layer, const at::Tensor& x, const PassInput& pass, const routing::Assignment& earlier,
                           routing::Decision& decision, routing::Mode mode);
  /// The same, keeping nothing but x and the decision for backward.
  LayerOutput recomputed_layer_output(std::int64_t layer, const at::Tensor& x, const std::shared_ptr<const PassInput>& pass,
                                      const routing::Assignment& earlier, routing::Decision& decision);
  RouterWeights router_weights(std::int64_t moe_layer) const;
  std::string head_name() const { return config_.tied_embeddings ? "embedding" : "head"; }
  bool is_dense(std::int64_t layer) const { return layer < config_.dense_layers; }
  /// The number of a MoE layer, from 0.
  std::int64_t moe_layer(std::int64_t layer) const { return layer - config_.dense_layers; }
  /// False for a MoE layer that takes the first one's decision.
  bool decides(std::int64_t layer) const { return moe_layer(layer) < static_cast<std::int64_t>(routers_.size()); }

  ModelConfig config_;
  routing::RoutingConfig routing_;
  comm::Grid* grid_;
  mutable ExpertWork work_;
  Parameters parameters_;
  at::ScalarType compute_;
  c10::Device device_;
  bool recompute_, complete_;
  std::vector<routing::LayerRouter> routers_;
};

}  // namespace moesweep::model
