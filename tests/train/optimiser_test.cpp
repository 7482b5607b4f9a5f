// AdamW, the schedule and clipping against their definitions, and the record's series.
#include <gtest/gtest.h>

#include <ATen/ATen.h>

#include "train/optimiser.hpp"
#include "train/recorder.hpp"
#include "train/trainer.hpp"

namespace moesweep::train {
namespace {

TEST(Schedule, WarmsUpThenFollowsTheCosineToItsShare) {
  TrainConfig config;
  config.learning_rate = 2.0;
  config.warmup_steps = 4;
  EXPECT_DOUBLE_EQ(learning_rate_at(config, 0, 104), 0.5);
  EXPECT_DOUBLE_EQ(learning_rate_at(config, 3, 104), 2.0);
  EXPECT_DOUBLE_EQ(learning_rate_at(config, 4, 104), 2.0);
  EXPECT_NEAR(learning_rate_at(config, 103, 104), 0.2, 1e-12);
  EXPECT_NEAR(learning_rate_at(config, 4 + 99 / 3, 104), 0.2 + 1.8 * 0.75, 1e-12);  // a third of the way: (1 + cos 60 degrees) / 2
  config.warmup_steps = 50;                                                         // longer than the run: cut by its end
  EXPECT_DOUBLE_EQ(learning_rate_at(config, 9, 10), 2.0 * 10 / 50);
}

TEST(Optimiser, AdamWFollowsItsDefinition) {
  model::ModelConfig shape;
  shape.width = 4;
  shape.heads = 1;
  shape.layers = 1;
  shape.experts = 2;
  shape.expert_width = 3;
  for (const double decay : {0.0, 0.3}) {
    model::Parameters parameters(shape, 5, at::kDouble, 1);
    TrainConfig config;
    config.weight_decay = decay;
    auto& dense = parameters.buffers(model::ParameterClass::dense);
    const at::Tensor start = dense.value.clone();
    at::Tensor value = start.clone(), first = at::zeros_like(value), second = at::zeros_like(value), decays = at::zeros_like(value);
    for (const auto& span : parameters.spans())
      if (span.parameter_class == model::ParameterClass::dense && span.shape.size() == 2) decays.narrow(0, span.offset, span.count()).fill_(decay);
    for (std::int64_t step = 0; step < 3; ++step) {
      const at::Tensor gradient = at::arange(value.numel(), at::kDouble).add(static_cast<double>(step)).sin();
      dense.gradient.copy_(gradient);
      adamw_step(parameters, config, step, 0.01);
      value = value * (1 - 0.01 * decays);
      first = first * 0.9 + gradient * 0.1;
      second = second * 0.95 + gradient * gradient * 0.05;
      const double n = static_cast<double>(step + 1);
      value = value - 0.01 * (first / (1 - std::pow(0.9, n))) / ((second / (1 - std::pow(0.95, n))).sqrt() + 1e-8);
    }
    EXPECT_TRUE(at::allclose(dense.value, value, 1e-12, 1e-14));
    EXPECT_FALSE(at::allclose(dense.value, start));
  }
}

TEST(Optimiser, ClipsToTheGlobalNorm) {
  model::ModelConfig shape;
  model::Parameters parameters(shape, 16, at::kFloat, 1);
  for (const auto kind : {model::ParameterClass::dense, model::ParameterClass::expert}) parameters.buffers(kind).gradient.fill_(0.5);
  const double count = static_cast<double>(parameters.buffers(model::ParameterClass::dense).value.numel() +
                                           parameters.buffers(model::ParameterClass::expert).value.numel());
  const auto alone = comm::make_local_transport();
  const double norm = gradient_norm(parameters, *alone);
  EXPECT_NEAR(norm, 0.5 * std::sqrt(count), 1e-6 * norm);
  clip_gradients(parameters, norm, 2.0);
  EXPECT_NEAR(gradient_norm(parameters, *alone), 2.0, 1e-5);
  clip_gradients(parameters, gradient_norm(parameters, *alone), 0.0);  // 0 leaves them
  EXPECT_NEAR(gradient_norm(parameters, *alone), 2.0, 1e-5);
}

TEST(Shares, TileTheBatchInWholeMicroBatches) {
  for (const int ranks : {1, 2, 3, 5, 20}) {
    std::int64_t next = 0;
    for (int rank = 0; rank < ranks; ++rank) {
      const Share share = share_of(64, 4, rank, ranks);
      EXPECT_EQ(share.first, next);
      EXPECT_EQ(share.count % 4, 0);
      next += share.count;
    }
    EXPECT_EQ(next, 64);
  }
  EXPECT_EQ(share_of(10, 4, 2, 3).count, 2);  // the last micro-batch of an evaluation may be short
}

TEST(Recorders, RowsComeBackAfterRestore) {
  Recorder recorder;
  recorder.declare("steps/step", {}, "step", "steps done", false, true);
  recorder.declare("steps/loss", {}, "nats", "loss");
  recorder.declare("evaluations/counts", {2}, "1", "counts", false, true);
  recorder.append("steps/step", 1);
  recorder.append("steps/loss", 1.5);
  recorder.append("evaluations/counts", std::vector<double>{3, 4});
  store::TrialRecord record{"id", "done", "", "{}", "{}", recorder.arrays()};
  Recorder again;
  again.declare("steps/step", {}, "step", "steps done", false, true);
  again.declare("steps/loss", {}, "nats", "loss");
  again.declare("evaluations/counts", {2}, "1", "counts", false, true);
  again.restore(record, {"steps/"});
  EXPECT_EQ(again.last("steps/loss"), 1.5);
  EXPECT_TRUE(std::isnan(again.last("evaluations/counts")));
  EXPECT_EQ(recorder.arrays()[2].shape, (std::vector<std::int64_t>{1, 2}));
}

}  // namespace
}  // namespace moesweep::train
