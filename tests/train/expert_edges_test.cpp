// Layouts of expert and data ranks at their edges: ranks without tokens, all tokens on one rank's experts, shares of unequal size, sequences of one
// token, experts that do not divide; and what must not change anything: layers that run again, sharded moments, running it twice. On 4 ranks.
#include <fmt/core.h>
#include <gtest/gtest.h>

#include "moesweep/core/error.hpp"
#include "moesweep/spec/presets.hpp"
#include "parity.hpp"

namespace moesweep::train::parity {
namespace {

class Edges : public testing::Test {
 protected:
  comm::Communicator world_ = comm::Communicator::world();

  /// A few steps on one rank and on every other layout, in one pass and in several; collective.
  void expect_equal(const std::string& name, TrialConfig config, const std::function<void(Trainer&)>& prepare = {},
                    const std::function<void(const Outcome&)>& check = {}) {
    config.train.steps = full() ? 6 : 3;
    config.evaluation.every_steps = 3;
    std::vector<Job> jobs;
    for (const auto& layout : kLayouts) {
      jobs.push_back({config, layout});
      jobs.back().prepare = prepare;
      if (layout.ranks() == 4) {
        jobs.push_back(jobs.back());
        jobs.back().config.train.sequences_per_pass = config.train.micro_batch_sequences;
        jobs.back().config.parallel.recompute = jobs.back().config.parallel.shard_moments = true;
      }
    }
    const auto outcomes = run(world_, jobs);
    if (world_.rank() != 0) return;
    for (std::size_t i = 0; i < jobs.size(); ++i) {
      const std::string what = name + " on " + jobs[i].layout.name();
      ASSERT_EQ(error_of(outcomes[i]), "") << what;
      for (const std::string path : {"steps/loss", "steps/balance_loss", "steps/gradient_norm", "evaluations/loss"})
        EXPECT_LT(by_value(outcomes[0], outcomes[i], "record/" + path), 1e-10) << what << " " << path;
      for (const std::string path : {"evaluations/counts", "steps/drop_rate"})
        EXPECT_EQ(outcomes[0].at("record/" + path), outcomes[i].at("record/" + path)) << what << " " << path;
      for (const std::string each : kClasses) EXPECT_LT(by_size(outcomes[0], outcomes[i], "parameters/" + each), 1e-10) << what << " " << each;
      EXPECT_LT(by_size(outcomes[0], outcomes[i], "state"), 1e-10) << what;
      EXPECT_EQ(flips(outcomes[0], outcomes[i]), 0) << what;
      EXPECT_EQ(outcomes[i].at("replicas")[0], 0) << what;
      if (check) check(outcomes[i]);
    }
  }
};

/// Routers whose statistics span ranks, lie in a micro-batch, and that move whole units.
std::vector<std::string> some_routers() {
  if (full()) return {"aux_loss", "deepseek_v3", "sinkhorn", "expert_choice", "quantile", "remoe", "base_assignment", "expert_threshold", "mixtral"};
  return {"deepseek_v3"};
}

TEST_F(Edges, RanksWithoutTokens) {
  for (const auto& router : some_routers()) {
    auto config = small(spec::load_router(router), Precision::fp64);
    config.train.batch_sequences = config.train.micro_batch_sequences = 4;  // one micro-batch
    expect_equal(router + ", one micro-batch", config);
    if (!full()) continue;
    config.train.batch_sequences = 8;
    expect_equal(router + ", two micro-batches", config);
  }
}

TEST_F(Edges, SharesOfUnequalSize) {
  for (const auto& router : some_routers()) {
    auto config = small(spec::load_router(router), Precision::fp64);
    config.train.micro_batch_sequences = 4;
    config.train.batch_sequences = 12;  // three micro-batches over two and four ranks
    expect_equal(router + ", three micro-batches", config);
    if (!full()) continue;
    config.train.batch_sequences = 28;
    expect_equal(router + ", seven micro-batches", config);
  }
}

TEST_F(Edges, OneSequenceAndOneToken) {
  for (const auto& router : some_routers()) {
    auto config = small(spec::load_router(router), Precision::fp64);
    config.data.domains = {"a"};
    config.train.batch_sequences = config.train.micro_batch_sequences = 1;
    expect_equal(router + ", one sequence", config);
  }
  auto config = small(spec::load_router("aux_loss"), Precision::fp64);
  config.data.sequence_length = 1;
  config.evaluation.tokens = 32;
  expect_equal("sequences of one token", config);
  config.data.domains = {"a"};
  config.train.batch_sequences = config.train.micro_batch_sequences = 1;
  expect_equal("one token a step", config);
}

TEST_F(Edges, AllTokensOnOneRanksExperts) {
  for (const std::int64_t first : {0, 12}) {
    auto routing = spec::load_router("expert_bias");
    routing.balance.rate = 0;
    const auto config = small(routing, Precision::fp64);
    expect_equal(
        "all on experts from " + std::to_string(first), config,
        [first](Trainer& trainer) {
          for (auto& [name, bias] : trainer.model().state())
            if (name.ends_with("bias")) bias.narrow(0, first, 4).fill_(100.0);
        },
        [first](const Outcome& outcome) {
          const auto& counts = outcome.at("record/evaluations/counts");
          for (std::size_t i = 0; i < counts.size(); ++i) {
            const auto expert = static_cast<std::int64_t>(i % 16);
            EXPECT_EQ(counts[i] > 0, expert >= first && expert < first + 4) << "expert " << expert;
          }
        });
  }
}

TEST_F(Edges, ExpertsThatRanksDoNotDivideAreRefusedByName) {
  auto config = small(spec::load_router("top_k"), Precision::fp32);
  config.model.experts = 18;
  config.parallel.expert = 4;
  const std::string reason = refusal(config);
  EXPECT_NE(reason.find("parallel.expert = 4"), std::string::npos) << reason;
  EXPECT_NE(reason.find("model.experts = 18"), std::string::npos) << reason;
  // A trainer says the same, on every rank.
  const auto source = data::open_source(config.data);
  try {
    Trainer trainer(config, *source, world_);
    ADD_FAILURE() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::config);
    EXPECT_TRUE(error.on_every_rank());
    EXPECT_EQ(error.message(), reason);
  }
}

class Invariance : public testing::Test {
 protected:
  comm::Communicator world_ = comm::Communicator::world();
};

TEST_F(Invariance, RunningLayersAgainChangesNothingAndShardingNothingBeyondRounding) {
  std::vector<std::string> presets{"deepseek_v3"};
  if (full()) presets = {"mixtral", "deepseek_v3", "sinkhorn", "base_assignment", "expert_choice", "quantile", "remoe", "hash_random", "moepp"};
  for (const auto& preset : presets)
    for (const Layout layout : {Layout{2, 1}, Layout{1, 2}, Layout{2, 2}, Layout{4, 1}}) {
      if (!full() && layout.expert != 2) continue;
      Job plain{small(spec::load_router(preset), Precision::fp64), layout};
      plain.config.train.steps = 10;
      if (preset != "expert_choice") plain.config.routing.capacity.factor = 0.9;
      Job again = plain, sharded = plain, both = plain;
      again.config.parallel.recompute = both.config.parallel.recompute = true;
      sharded.config.parallel.shard_moments = both.config.parallel.shard_moments = true;
      const auto outcomes = run(world_, {plain, again, sharded, both});
      if (world_.rank() != 0) continue;
      const std::string what = preset + " on " + layout.name();
      for (const auto& outcome : outcomes) EXPECT_EQ(error_of(outcome), "") << what;
      if (!error_of(outcomes[0]).empty() || !error_of(outcomes[1]).empty()) continue;
      for (const auto& [key, values] : outcomes[0])
        if (!depends_on_layout(key)) {
          EXPECT_EQ(values, outcomes[1].at(key)) << what << " run again: " << key;
        }
      for (std::size_t i = 2; i < outcomes.size(); ++i) {
        if (!error_of(outcomes[i]).empty()) continue;
        EXPECT_LT(by_value(outcomes[0], outcomes[i], "record/steps/loss"), 1e-10) << what;
        for (const std::string name : kClasses) EXPECT_LT(by_size(outcomes[0], outcomes[i], "parameters/" + name), 1e-10) << what << " " << name;
        for (const std::string key : {"choices", "record/evaluations/counts", "record/steps/drop_rate", "record/evaluations/drop_rate"})
          EXPECT_EQ(outcomes[0].at(key), outcomes[i].at(key)) << what << " sharded: " << key;
        EXPECT_EQ(outcomes[i].at("replicas")[0], 0) << what;
      }
    }
}

TEST_F(Invariance, TheSameLayoutTwiceIsBitwiseTheSame) {
  for (const auto precision : {Precision::fp32, Precision::bf16})
    for (const Layout layout : {Layout{2, 1}, Layout{2, 2}}) {
      if (!full() && layout.ranks() == 4) continue;
      const Job job{small(spec::load_router("deepseek_v3"), precision), layout};
      const auto outcomes = run(world_, {job, job});
      if (world_.rank() != 0) continue;
      EXPECT_EQ(error_of(outcomes[0]), "");
      for (const auto& [key, values] : outcomes[0])
        if (!depends_on_layout(key)) {
          EXPECT_EQ(values, outcomes[1].at(key)) << layout.name() << " " << key;
        }
    }
}

}  // namespace
}  // namespace moesweep::train::parity
