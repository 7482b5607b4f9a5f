// Training on a GPU against the CPU: losses, a checkpoint that goes from one to the other, tokens a second. Skipped where there is no GPU.
#include <gtest/gtest.h>

#include <cstdio>
#include <filesystem>

#include "moesweep/comm/nccl.hpp"
#include "moesweep/model/device.hpp"
#include "moesweep/spec/presets.hpp"
#include "moesweep/store/record.hpp"
#include "support/scratch.hpp"
#include "train/trainer.hpp"

namespace moesweep::train {
namespace {

TrialConfig small(const std::string& preset, Precision precision, Device device) {
  TrialConfig config = spec::load_router_trial(preset, {});
  config.model.width = 64;
  config.model.heads = 4;
  config.model.experts = 32;
  config.model.expert_width = 32;
  config.data.domains = {"a", "b", "c", "d", "e", "f", "g", "h"};
  config.data.vocabulary = 256;
  config.data.sequence_length = 64;
  config.train.steps = 20;
  config.train.warmup_steps = 4;
  config.train.batch_sequences = 32;
  config.train.micro_batch_sequences = 4;
  config.train.dtype = precision;
  config.evaluation.tokens = 64 * 32;
  config.parallel.device = device;
  return config;
}

struct Ran {
  std::vector<double> losses, validation;
  double tokens_per_second = 0;
};

/// `steps` further steps, behind those of a checkpoint when one is given.
Ran train(const TrialConfig& config, std::int64_t steps, const std::filesystem::path& from = {}, const std::filesystem::path& to = {}) {
  const auto self = comm::Communicator::self();
  const auto source = data::open_source(config.data);
  Trainer trainer(config, *source, self, nullptr, !from.empty());
  if (!from.empty()) trainer.read_checkpoint(from);
  Ran run;
  for (std::int64_t i = 0; i < steps; ++i) run.losses.push_back(trainer.train_step().loss);
  if (!to.empty()) trainer.write_checkpoint(to);
  trainer.evaluate();
  const auto record = trainer.record("done", "");
  run.validation = store::as_doubles(*record.find("evaluations/loss"));
  const auto speeds = store::as_doubles(*record.find("steps/tokens_per_second"));
  run.tokens_per_second = speeds.back();
  return run;
}

bool skipped() {
  if (model::has_gpu()) return false;
  std::printf("skipped: training on a GPU: %s\n",
              comm::nccl_is_built() ? "this machine has none" : "this build has no CUDA (bash jobs/setup.sh cuda)");
  return true;
}

TEST(GpuTrial, LossesAreThoseOfTheCpu) {
  if (skipped()) return;
  for (const std::string preset : {"mixtral", "deepseek_v3", "expert_choice", "sinkhorn", "moepp", "erc", "cosine", "noisy_top_k"})
    for (const auto precision : {Precision::fp64, Precision::fp32}) {
      const Ran cpu = train(small(preset, precision, Device::cpu), 10), gpu = train(small(preset, precision, Device::cuda), 10);
      const double bound = precision == Precision::fp64 ? 1e-9 : 1e-3;
      for (std::size_t i = 0; i < cpu.losses.size(); ++i) EXPECT_NEAR(gpu.losses[i], cpu.losses[i], bound * cpu.losses[i]) << preset << " step " << i;
      EXPECT_NEAR(gpu.validation.back(), cpu.validation.back(), bound * cpu.validation.back()) << preset;
      std::printf("%s, %s: %.0f tokens/s on the GPU, %.0f on the CPU\n", preset.c_str(), precision == Precision::fp64 ? "fp64" : "fp32",
                  gpu.tokens_per_second, cpu.tokens_per_second);
    }
}

TEST(GpuTrial, ACheckpointGoesOnWhereverItIsRead) {
  if (skipped()) return;
  const testing_support::Scratch scratch("moesweep-gpu");
  const auto file = scratch.path() / "checkpoint.h5";
  const auto on_gpu = small("deepseek_v3", Precision::fp64, Device::cuda), on_cpu = small("deepseek_v3", Precision::fp64, Device::cpu);
  const Ran whole = train(on_cpu, 10);
  train(on_gpu, 5, {}, file);
  for (const auto& config : {on_cpu, on_gpu}) {
    const Ran rest = train(config, 5, file);
    for (std::size_t i = 0; i < 5; ++i) EXPECT_NEAR(rest.losses[i], whole.losses[5 + i], 1e-9 * whole.losses[5 + i]);
  }
}

}  // namespace
}  // namespace moesweep::train
