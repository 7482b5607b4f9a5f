// Whole trials: equality over ranks and passes, exact resume, divergence, stopping, init_from. Runs on 1, 2 and 3 ranks.
#include <gtest/gtest.h>

#include <ATen/ATen.h>

#include <iostream>

#include "moesweep/core/error.hpp"
#include "moesweep/store/checkpoint.hpp"
#include "moesweep/store/record.hpp"
#include "moesweep/train/trial.hpp"
#include "support/scratch.hpp"
#include "train/trainer.hpp"

namespace moesweep::train {
namespace {

namespace fs = std::filesystem;

TrialConfig tiny(const std::string& method, routing::ScopeKind scope, Precision precision = Precision::fp64) {
  TrialConfig config;
  config.model.width = 16;
  config.model.heads = 2;
  config.model.experts = 8;
  config.model.expert_width = 12;
  config.data.domains = {"a", "b", "c", "d"};
  config.data.vocabulary = 64;
  config.data.sequence_length = 16;
  config.routing.top_k = 2;
  config.routing.score = routing::Score::sigmoid;
  config.routing.balance.method = method;
  config.routing.balance.scope = scope;
  config.routing.balance.weight = 0.1;
  config.routing.balance.rate = 0.02;
  config.train.steps = 20;
  config.train.warmup_steps = 4;
  config.train.batch_sequences = 16;
  config.train.micro_batch_sequences = 2;
  config.train.dtype = precision;
  config.evaluation.every_steps = 10;
  config.evaluation.tokens = 16 * 16;
  config.comm.timeout_seconds = 60;
  return config;
}

/// What a run leaves: its record, and the choices of the last step in the order of the global batch (rank 0's share first).
struct Outcome {
  std::vector<double> losses, balance, validation;
  std::vector<std::int64_t> choices;
};

Outcome train(TrialConfig config, const comm::Communicator& gang, std::int64_t per_pass) {
  config.parallel.data = gang.size();
  config.train.sequences_per_pass = per_pass;
  const auto source = data::open_source(config.data);
  Trainer trainer(config, *source, gang);
  while (trainer.step() < trainer.steps()) {
    trainer.train_step();
    if (trainer.evaluation_due()) trainer.evaluate();
  }
  const auto record = trainer.record("done", "");
  Outcome run{store::as_doubles(*record.find("steps/loss")),
              store::as_doubles(*record.find("steps/balance_loss")),
              store::as_doubles(*record.find("evaluations/loss")),
              {}};
  std::vector<std::int64_t> mine;
  for (const auto& pass : trainer.last_decisions()) {
    const at::Tensor ids = pass.back().slots.expert.contiguous();
    mine.insert(mine.end(), ids.const_data_ptr<std::int64_t>(), ids.const_data_ptr<std::int64_t>() + ids.numel());
  }
  for (const auto& part : comm::make_transport(gang)->all_gather(std::as_bytes(std::span(mine)), "choices")) {
    const auto* ids = reinterpret_cast<const std::int64_t*>(part.data());
    run.choices.insert(run.choices.end(), ids, ids + part.size() / sizeof(std::int64_t));
  }
  return run;
}

double worst(const std::vector<double>& a, const std::vector<double>& b) {
  EXPECT_EQ(a.size(), b.size());
  double largest = 0;
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i) largest = std::max(largest, std::abs(a[i] - b[i]) / std::max(1e-12, std::abs(a[i])));
  return largest;
}

std::int64_t flips(const Outcome& a, const Outcome& b) {
  EXPECT_EQ(a.choices.size(), b.choices.size());
  std::int64_t different = 0;
  for (std::size_t i = 0; i < std::min(a.choices.size(), b.choices.size()); ++i) different += a.choices[i] != b.choices[i] ? 1 : 0;
  return different;
}

constexpr routing::ScopeKind kScopes[] = {routing::ScopeKind::sequence, routing::ScopeKind::micro_batch, routing::ScopeKind::global_batch};

TEST(Equality, LossesDependOnNeitherRanksNorPasses) {
  const auto world = comm::Communicator::world();
  const auto self = comm::Communicator::self();
  for (const std::string method : {"aux_loss", "expert_bias"})
    for (const auto scope : kScopes) {
      const auto config = tiny(method, scope);
      const Outcome alone = train(config, self, 0);
      EXPECT_LT(alone.losses.back(), alone.losses.front());
      for (const std::int64_t per_pass : {0, 2, 4, 6}) {
        const Outcome run = train(config, world, per_pass);
        EXPECT_LT(worst(alone.losses, run.losses), 1e-10) << "passes of " << per_pass;
        EXPECT_LT(worst(alone.validation, run.validation), 1e-10) << "passes of " << per_pass;
        EXPECT_EQ(flips(alone, run), 0) << "passes of " << per_pass;
        if (method == "aux_loss") {
          EXPECT_LT(worst(alone.balance, run.balance), 1e-10) << "passes of " << per_pass;
        }
      }
    }
}

TEST(Equality, SinglePrecisionStaysWithinRounding) {
  const auto world = comm::Communicator::world();
  const auto self = comm::Communicator::self();
  for (const auto scope : kScopes) {
    const auto config = tiny("aux_loss", scope, Precision::fp32);
    const Outcome alone = train(config, self, 0);
    for (const std::int64_t per_pass : {0, 4}) {
      const Outcome run = train(config, world, per_pass);
      EXPECT_LT(worst(alone.losses, run.losses), 1e-4);
      // Two experts almost tied may swap; of 512 choices in the last step next to none does.
      const auto flipped = flips(alone, run);
      if (world.rank() == 0)
        std::cout << "flipped choices, fp32, " << EnumNames<routing::ScopeKind>::names[static_cast<std::size_t>(scope)] << ", passes of " << per_pass
                  << ": " << flipped << " of " << alone.choices.size() << "\n";
      EXPECT_LE(flipped, 5);
    }
  }
}

TEST(Equality, TheSameLayoutIsBitwiseTheSame) {
  const auto world = comm::Communicator::world();
  for (const auto precision : {Precision::fp32, Precision::bf16}) {
    const auto config = tiny("expert_bias", routing::ScopeKind::micro_batch, precision);
    EXPECT_EQ(train(config, world, 4).losses, train(config, world, 4).losses);
  }
}

TEST(Equality, MoreRanksThanMicroBatchesTrainAndEvaluateTheSame) {
  const auto world = comm::Communicator::world();
  auto config = tiny("aux_loss", routing::ScopeKind::global_batch);
  config.train.batch_sequences = 4;
  config.train.micro_batch_sequences = 4;
  const Outcome alone = train(config, comm::Communicator::self(), 0), run = train(config, world, 0);
  EXPECT_LT(worst(alone.losses, run.losses), 1e-10);
  EXPECT_LT(worst(alone.validation, run.validation), 1e-10);
}

TEST(Reduction, BucketsDoNotChangeTheSum) {
  const auto world = comm::Communicator::world();
  auto config = tiny("aux_loss", routing::ScopeKind::global_batch);
  const Outcome whole = train(config, world, 0);
  config.comm.bucket_mebibytes = 0.001;
  EXPECT_LT(worst(whole.losses, train(config, world, 0).losses), 1e-12);
}

/// A folder of this test's own, the same on every rank, gone at the end.
class Folder {
 public:
  explicit Folder(const comm::Communicator& world) : world_(world) {
    path_ = world.broadcast(world.rank() == 0 ? testing_support::make_scratch("moesweep-train").string() : "", 0, "folder");
  }
  ~Folder() {
    world_.barrier("folder used");
    if (world_.rank() == 0) fs::remove_all(path_);
  }
  const fs::path& path() const { return path_; }

 private:
  const comm::Communicator& world_;
  fs::path path_;
};

/// Asks for a stop after some step.
struct StopAfter : Observer {
  std::atomic<bool>* stop = nullptr;
  std::int64_t step = 0;
  void on_step(const StepReport& report) override {
    if (report.step == step) stop->store(true);
  }
};

TEST(Resume, IsBitwiseTheUninterruptedRun) {
  const auto world = comm::Communicator::world();
  const Folder folder(world);
  for (const auto precision : {Precision::fp32, Precision::fp64})
    for (const std::string method : {"aux_loss", "expert_bias"}) {
      auto config = tiny(method, routing::ScopeKind::micro_batch, precision);
      config.parallel.data = world.size();
      const auto source = data::open_source(config.data);
      const auto whole = run_trial(config, *source, world, {});
      ASSERT_EQ(whole.state, "done");

      // Stopped twice: in the midst, and just when an evaluation is due.
      std::string state;
      int interruptions = 0;
      store::TrialRecord record;
      for (const std::int64_t at : {std::int64_t{7}, std::int64_t{9}, std::int64_t{1000}}) {
        std::atomic<bool> stop{false};
        StopAfter observer;
        observer.stop = &stop;
        observer.step = at;
        RunOptions options{folder.path(), &stop, &observer};
        record = run_trial(config, *source, world, options);
        interruptions += record.state == "preempted" ? 1 : 0;
      }
      EXPECT_EQ(interruptions, 2);
      ASSERT_EQ(record.state, "done");
      for (const std::string path : {"steps/step", "steps/loss", "steps/balance_loss", "steps/gradient_norm", "steps/max_violation_micro_batch",
                                     "evaluations/step", "evaluations/loss", "evaluations/counts", "evaluations/greedy.purity_expert"}) {
        const auto *expected = whole.find(path), *found = record.find(path);
        ASSERT_TRUE(expected != nullptr && found != nullptr) << path;
        EXPECT_EQ(expected->shape, found->shape) << path;
        EXPECT_EQ(expected->bytes, found->bytes) << path;
      }
      world.barrier("before the checkpoint goes");
      if (world.rank() == 0) fs::remove(folder.path() / "checkpoint.h5");
      world.barrier("after the checkpoint went");
    }
}

TEST(Resume, ACheckpointOfAnotherTrialIsRefused) {
  const auto world = comm::Communicator::world();
  const Folder folder(world);
  auto config = tiny("none", routing::ScopeKind::global_batch);
  config.train.steps = 2;
  config.parallel.data = world.size();
  config.checkpoint.keep = Keep::final_only;
  const auto source = data::open_source(config.data);
  run_trial(config, *source, world, {folder.path(), nullptr, nullptr});
  config.seed = 2;
  try {
    run_trial(config, *source, world, {folder.path(), nullptr, nullptr});
    ADD_FAILURE() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::corrupt);
    EXPECT_NE(error.message().find("the checkpoint is of trial"), std::string::npos);
  }
}

TEST(Resume, ACheckpointOfVersionOneGoesOn) {
  // Version 1 has each expert's matrix for itself.
  const auto world = comm::Communicator::world();
  const Folder folder(world);
  auto config = tiny("expert_bias", routing::ScopeKind::global_batch);
  config.train.steps = 6;
  if (world.size() != 3) config.parallel.expert = world.size();  // 8 experts
  else config.parallel.data = world.size();
  const auto source = data::open_source(config.data);
  Trainer whole(config, *source, world);
  for (int i = 0; i < 3; ++i) whole.train_step();
  whole.write_checkpoint(folder.path() / "two.h5");
  {
    const store::CheckpointReader reader(world, folder.path() / "two.h5");
    std::vector<std::vector<std::byte>> values;
    std::vector<store::Piece> pieces;
    for (const std::string& name : reader.names()) {
      auto shape = reader.shape(name);
      std::int64_t parts = 1, count = 1;
      for (const auto extent : shape) count *= extent;
      values.emplace_back(static_cast<std::size_t>(count) * size_of(reader.type(name)));
      reader.read(name, reader.type(name), 0, count, values.back().data());
      const auto stack = name.find(".experts.");
      if (stack != std::string::npos) {
        parts = shape.front();
        shape.erase(shape.begin());
      }
      for (std::int64_t e = 0; e < parts; ++e) {
        const std::string part = stack == std::string::npos ? name : name.substr(0, stack + 9) + std::to_string(e) + name.substr(stack + 8);
        const auto each = count / parts;
        pieces.push_back({part, reader.type(name), shape, 0, world.rank() == 0 ? each : 0,
                          values.back().data() + static_cast<std::size_t>(e * each) * size_of(reader.type(name))});
      }
    }
    store::write_checkpoint(world, folder.path() / "one.h5", reader.header(), pieces, reader.record());
  }
  for (const bool sharded : {false, true}) {
    auto again = config;
    again.parallel.shard_moments = sharded;
    Trainer resumed(again, *source, world, nullptr, true);
    resumed.read_checkpoint(folder.path() / "one.h5");
    EXPECT_EQ(resumed.step(), 3);
    Trainer same(again, *source, world, nullptr, true);
    same.read_checkpoint(folder.path() / "two.h5");
    for (int i = 0; i < 3; ++i) EXPECT_EQ(resumed.train_step().loss, same.train_step().loss);
  }
}

TEST(InitFrom, StartsWhereTheOtherTrialEnded) {
  const auto world = comm::Communicator::world();
  const Folder folder(world);
  auto config = tiny("none", routing::ScopeKind::global_batch);
  config.parallel.data = world.size();
  config.checkpoint.keep = Keep::final_only;
  const auto source = data::open_source(config.data);
  const auto first = run_trial(config, *source, world, {folder.path(), nullptr, nullptr});
  auto second = config;
  second.train.init_from = (folder.path() / "checkpoint.h5").string();
  second.train.steps = 1;
  second.train.learning_rate = 1e-12;
  second.checkpoint.keep = Keep::none;
  const auto record = run_trial(second, *source, world, {});
  EXPECT_NEAR(store::as_doubles(*record.find("evaluations/loss")).back(), store::as_doubles(*first.find("evaluations/loss")).back(), 1e-8);
}

TEST(Divergence, EndsTheTrialWithAReason) {
  const auto world = comm::Communicator::world();
  auto config = tiny("none", routing::ScopeKind::global_batch);
  config.parallel.data = world.size();
  config.train.loss_limit = 1.0;  // below the loss of an untrained model
  const auto source = data::open_source(config.data);
  const auto record = run_trial(config, *source, world, {});
  EXPECT_EQ(record.state, "diverged");
  EXPECT_NE(record.reason.find("above train.loss_limit at step 1"), std::string::npos);
  EXPECT_EQ(record.find("steps/loss")->shape[0], 1);
}

TEST(Length, InTokensIsRoundedUpToSteps) {
  auto config = tiny("none", routing::ScopeKind::global_batch);
  config.train.tokens = 3 * config.step_tokens() + 1;
  EXPECT_EQ(config.steps(), 4);
}

TEST(ReferenceRouter, HasMetricsOfExactlyOne) {
  const auto world = comm::Communicator::world();
  auto config = tiny("none", routing::ScopeKind::global_batch, Precision::fp32);
  config.routing.select = "reference";  // E = D k
  config.train.steps = 2;
  config.parallel.data = world.size();
  const auto source = data::open_source(config.data);
  const auto record = run_trial(config, *source, world, {});
  for (const std::string name : {"utilisation", "purity_expert", "purity_expert_unweighted", "purity_reference", "domain_information"})
    for (const double value : store::as_doubles(*record.find("evaluations/" + name))) EXPECT_NEAR(value, 1.0, 1e-12) << name;
  for (const double value : store::as_doubles(*record.find("evaluations/nmi"))) EXPECT_NEAR(value, std::sqrt(std::log(4.0) / std::log(8.0)), 1e-12);
}

}  // namespace
}  // namespace moesweep::train
