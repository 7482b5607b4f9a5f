// Strategies from outside the library (toy_strategy.cpp) in sweep files, trial ids, schema and training.
#include <gtest/gtest.h>

#include <fstream>

#include "moesweep/comm/mpi.hpp"
#include "moesweep/core/error.hpp"
#include "moesweep/spec/sweep.hpp"
#include "support/scratch.hpp"
#include "train/trainer.hpp"

namespace moesweep::train {
namespace {

namespace fs = std::filesystem;

/// The preset of the toy as a file, and a trial that names it.
TrialConfig load(const std::vector<std::string>& overrides = {}) {
  const testing_support::Scratch scratch("moesweep-toy");
  const fs::path& folder = scratch.path();
  std::ofstream(folder / "neighbours.yaml") << "# Neighbouring experts.\nselect: neighbours\nscore: softmax_selected\ntop_k: 2\n"
                                               "neighbours: {stride: 3}\nbalance: {method: level, scope: global_batch, level.strength: 0.5}\n";
  std::ofstream(folder / "trial.yaml") << "routing: neighbours.yaml\nmodel: {width: 16, heads: 2, experts: 8, expert_width: 8}\n"
                                          "data: {domains: [a, b, c, d], vocabulary: 32, sequence_length: 8}\n"
                                          "train: {steps: 6, batch_sequences: 8, micro_batch_sequences: 2, dtype: fp64}\n"
                                          "evaluation: {tokens: 256}\n";
  return spec::load_trial((folder / "trial.yaml").string(), overrides);
}

TEST(ToyStrategy, ItsOptionsAreKeysLikeAnyOther) {
  EXPECT_EQ(load().routing.select, "neighbours");
  EXPECT_NE(id_of(load()), id_of(load({"routing.neighbours.stride=2"})));
  EXPECT_NE(id_of(load()), id_of(load({"routing.balance.level.strength=0.25"})));
  EXPECT_THROW(load({"routing.neighbours.stride=0"}), Error);
  EXPECT_NE(spec::json_schema().dump().find("distance from one chosen expert to the next"), std::string::npos);
  EXPECT_NE(spec::reference_markdown().find("`routing.neighbours.stride`"), std::string::npos);
}

TEST(ToyStrategy, ItsOptionsCanBeSwept) {
  const testing_support::Scratch scratch("moesweep-toy-sweep");
  const fs::path& folder = scratch.path();
  std::ofstream(folder / "sweep.yaml") << "model: {width: 16, heads: 2, experts: 8, expert_width: 8}\n"
                                          "data: {domains: [a, b, c, d], vocabulary: 32, sequence_length: 8}\n"
                                          "train: {batch_sequences: 8, micro_batch_sequences: 2}\nrouting.select: neighbours\nrouting.top_k: 2\n"
                                          "grid: {routing.neighbours.stride: [1, 2, 3], seed: [1, 2]}\n";
  const auto sweep = spec::load_sweep((folder / "sweep.yaml").string());
  ASSERT_EQ(sweep.trials.size(), 6u);
  std::vector<std::int64_t> strides;
  for (const auto& axes : spec::axes_of(sweep.trials)) strides.push_back(axes.at("routing.neighbours.stride").get<std::int64_t>());
  EXPECT_EQ(strides, (std::vector<std::int64_t>{1, 1, 2, 2, 3, 3}));
}

TEST(ToyStrategy, TrainsAndRoutesAsItSays) {
  const auto self = comm::Communicator::self();
  const auto config = load();
  const auto source = data::open_source(config.data);
  Trainer trainer(config, *source, self);
  std::vector<double> level;
  for (int n = 0; n < 6; ++n) trainer.train_step();
  for (const auto& decision : trainer.last_decisions().front()) {
    const at::Tensor experts = decision.slots.by_token();
    EXPECT_TRUE(at::equal((experts.select(1, 0) + 3).remainder(8), experts.select(1, 1)));
  }
  const auto record = trainer.record("done", "");
  ASSERT_NE(record.find("steps/losses.level"), nullptr);
  for (const double value : store::as_doubles(*record.find("steps/losses.level"))) EXPECT_GT(value, 0.0);
}

TEST(ToyStrategy, IsExactOverPassesLikeABuiltInOne) {
  const auto self = comm::Communicator::self();
  auto config = load();
  std::vector<std::vector<double>> losses;
  for (const std::int64_t per_pass : {0, 2}) {
    config.train.sequences_per_pass = per_pass;
    const auto source = data::open_source(config.data);
    Trainer trainer(config, *source, self);
    for (int n = 0; n < 6; ++n) trainer.train_step();
    losses.push_back(store::as_doubles(*trainer.record("done", "").find("steps/losses.level")));
  }
  for (std::size_t i = 0; i < losses[0].size(); ++i) EXPECT_NEAR(losses[0][i], losses[1][i], 1e-10 * losses[0][i]);
}

}  // namespace
}  // namespace moesweep::train
