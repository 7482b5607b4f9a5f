// A whole trial whose routed rows and gradients travel by the nccl transport, over the double of NCCL's calls: the losses of the mpi transport.
#include <gtest/gtest.h>

#include "comm/nccl_double/nccl_double.hpp"
#include "moesweep/core/error.hpp"
#include "moesweep/spec/presets.hpp"
#include "moesweep/store/record.hpp"
#include "train/trainer.hpp"

namespace moesweep::train {
namespace {

std::map<std::string, std::vector<double>> series_of(const TrialConfig& config, const comm::Communicator& gang, const comm::MakeTransport& make) {
  const auto source = data::open_source(config.data);
  Trainer trainer(config, *source, gang, nullptr, false, make);
  while (trainer.step() < trainer.steps()) {
    trainer.train_step();
    if (trainer.evaluation_due()) trainer.evaluate();
  }
  std::map<std::string, std::vector<double>> found;
  for (const auto& array : trainer.record("done", "").arrays)
    if (array.path.find("seconds") == std::string::npos && array.path.find("_per_second") == std::string::npos)
      found[array.path] = store::as_doubles(array);
  return found;
}

TEST(NcclTrial, LossesAreThoseOfTheMpiTransport) {
  const auto world = comm::Communicator::world();
  for (const std::string preset : {"mixtral", "deepseek_v3", "expert_choice", "erc"}) {
    TrialConfig config = spec::load_router_trial(preset, {});
    config.model.width = 32;
    config.model.heads = 2;
    config.model.experts = 32;
    config.model.expert_width = 8;
    config.data.domains = {"a", "b", "c", "d", "e", "f", "g", "h"};
    config.data.vocabulary = 64;
    config.data.sequence_length = 16;
    config.train.steps = 6;
    config.train.warmup_steps = 2;
    config.train.batch_sequences = 16;
    config.train.micro_batch_sequences = 4;
    config.train.dtype = Precision::fp64;
    config.evaluation.tokens = 16 * 16;
    config.comm.timeout_seconds = 60;
    for (const bool spread : {true, false}) {  // experts over all ranks, then sequences alone
      config.parallel.expert = spread ? world.size() : 1;
      config.parallel.data = world.size() / config.parallel.expert;
      config.parallel.shard_moments = !spread;
      config.parallel.recompute = spread;
      const auto by_mpi = series_of(config, world, comm::make_transport);
      const auto by_nccl = series_of(config, world, comm::nccl_double::make_transport);
      ASSERT_EQ(by_mpi.size(), by_nccl.size());
      EXPECT_LT(by_mpi.at("steps/loss").back(), by_mpi.at("steps/loss").front());
      for (const auto& [path, values] : by_mpi)
        for (std::size_t i = 0; i < values.size(); ++i)
          EXPECT_NEAR(by_nccl.at(path).at(i), values[i], 1e-10 * std::max(1e-3, std::abs(values[i]))) << preset << " " << path << "[" << i << "]";
    }
  }
}

TEST(NcclTrial, IsRefusedOverHostMemory) {
  TrialConfig config = spec::load_router_trial("mixtral", {});
  config.data.domains = {"a", "b"};
  config.comm.transport = TransportKind::nccl;
  config.parallel.device = Device::cpu;
  config.parallel.data = comm::Communicator::world().size();
  const auto source = data::open_source(config.data);
  try {
    Trainer(config, *source, comm::Communicator::world());
    ADD_FAILURE() << "it was accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::config);
    EXPECT_NE(error.message().find("comm.transport = nccl"), std::string::npos) << error.message();
  }
}

}  // namespace
}  // namespace moesweep::train
