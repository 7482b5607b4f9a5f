// Checkpoints across layouts of expert and data ranks: written on one, resumed on another, the trial goes on as if nothing had happened; damage is
// named on every rank. Runs on 4 ranks.
#include <fmt/core.h>
#include <gtest/gtest.h>
#include <hdf5.h>

#include <cmath>
#include <fstream>
#include <iterator>

#include "moesweep/core/error.hpp"
#include "moesweep/spec/presets.hpp"
#include "parity.hpp"

namespace moesweep::train::parity {
namespace {

namespace fs = std::filesystem;

class Checkpoints : public testing::Test {
 protected:
  comm::Communicator world_ = comm::Communicator::world();
};

/// Routers with each kind of state: biases, cut-offs, thresholds, histories, penalties; and none.
std::vector<std::pair<std::string, routing::RoutingConfig>> routers() {
  std::vector<std::pair<std::string, routing::RoutingConfig>> all;
  for (const std::string name : {"deepseek_v3", "quantile", "expert_threshold", "remoe", "mixtral"}) all.emplace_back(name, spec::load_router(name));
  auto history = spec::load_router("aux_loss");
  history.balance.scope = routing::ScopeKind::history;
  all.emplace_back("aux_loss over history", history);
  return all;
}

/// Everything that a trial leaves, but for its times, is what it left without interruption.
void expect_same(const Outcome& whole, const Outcome& found, const std::string& what) {
  ASSERT_EQ(error_of(found), "") << what;
  for (const auto& [key, values] : whole) {
    if (depends_on_layout(key) || key.starts_with("gradients/") || key == "choices") continue;
    ASSERT_TRUE(found.contains(key)) << what << " " << key;
    if (key.starts_with("shape/") || key.find("counts") != std::string::npos || key.find("drop_rate") != std::string::npos)
      EXPECT_EQ(values, found.at(key)) << what << " " << key;
    else EXPECT_LT(by_size(whole, found, key), 1e-10) << what << " " << key;
  }
  EXPECT_LT(by_value(whole, found, "record/steps/loss"), 1e-10) << what;
  EXPECT_EQ(found.at("replicas")[0], 0) << what;
}

/// The times by rank of a stretch on `before` ranks and one on `after`: as wide as the wider, the rest not a number.
void expect_widened(const Outcome& found, std::size_t steps_before, std::size_t before, std::size_t after, const std::string& what) {
  const auto& shape = found.at("shape/steps/seconds_wait");
  const std::size_t width = std::max(before, after);
  ASSERT_EQ(shape, (std::vector<double>{20, static_cast<double>(width)})) << what;
  const auto& times = found.at("record/steps/seconds_wait");
  for (std::size_t step = 0; step < 20; ++step)
    for (std::size_t rank = 0; rank < width; ++rank)
      EXPECT_EQ(std::isnan(times[step * width + rank]), rank >= (step < steps_before ? before : after))
          << what << " step " << step << " rank " << rank;
}

TEST_F(Checkpoints, OfOneLayoutGoOnOnAnother) {
  const Folder folder(world_);
  std::size_t turn = 0;
  for (const auto& [name, routing] : routers()) {
    ++turn;
    for (const bool shards : {false, true}) {
      if (!full() && (turn % 2 == 0 || shards != (turn == 1))) continue;
      auto config = small(routing, Precision::fp64);
      config.train.steps = 20;
      config.evaluation.every_steps = 5;
      config.parallel.shard_moments = shards;
      const std::vector<std::pair<Layout, Layout>> moves{{{1, 1}, {2, 2}}, {{2, 2}, {4, 1}}, {{4, 1}, {2, 2}}, {{2, 2}, {1, 1}},
                                                         {{4, 1}, {1, 1}}, {{1, 4}, {2, 1}}, {{2, 1}, {1, 2}}};
      // Layouts that write at step 10, then those that read.
      std::vector<Job> writers{{config, {1, 1}}}, readers;
      const auto path = [&](const Layout& layout) { return folder / (std::to_string(turn) + "-" + layout.name() + (shards ? "s" : "") + ".h5"); };
      for (const Layout layout : {Layout{1, 1}, Layout{2, 2}, Layout{4, 1}, Layout{1, 4}, Layout{2, 1}})
        writers.push_back({config, layout, 10, {}, path(layout)});
      for (const auto& [from, to] : moves) readers.push_back({config, to, 0, path(from)});
      const auto written = run(world_, writers);
      const auto resumed = run(world_, readers);
      // And in one go over all: 1x1, 2x2, 4x1, 2x2, 1x1, changing the sharding on the way.
      std::vector<Outcome> chain;
      fs::path last;
      const Layout over[] = {{1, 1}, {2, 2}, {4, 1}, {2, 2}, {1, 1}};
      for (std::size_t i = 0; i < std::size(over); ++i) {
        Job job{config, over[i], static_cast<std::int64_t>(4 * (i + 1)), last, folder / ("chain" + std::to_string(i) + ".h5")};
        job.config.parallel.shard_moments = i % 2 == 0;
        last = job.to;
        chain = run(world_, {job});
      }
      if (world_.rank() != 0) continue;
      for (const auto& outcome : written) EXPECT_EQ(error_of(outcome), "") << name;
      if (!error_of(written[0]).empty()) continue;
      for (std::size_t i = 0; i < readers.size(); ++i) {
        const std::string what = name + (shards ? ", sharded, " : ", ") + moves[i].first.name() + " to " + moves[i].second.name();
        expect_same(written[0], resumed[i], what);
        if (error_of(resumed[i]).empty())
          expect_widened(resumed[i], 10, static_cast<std::size_t>(moves[i].first.ranks()), static_cast<std::size_t>(moves[i].second.ranks()), what);
      }
      expect_same(written[0], chain[0], name + ", over all layouts");
    }
  }
}

/// What reading a checkpoint throws on this rank.
void expect_corrupt(const comm::Communicator& world, TrialConfig config, const fs::path& path, const std::string& says) {
  config.parallel.expert = config.parallel.data = 2;
  const auto source = data::open_source(config.data);
  Trainer trainer(config, *source, world, nullptr, true);
  bool thrown = false;
  try {
    trainer.read_checkpoint(path);
  } catch (const Error& error) {
    thrown = true;
    EXPECT_EQ(error.kind(), ErrorKind::corrupt) << error.what();
    EXPECT_TRUE(error.on_every_rank()) << error.what();
    const std::string text = error.what();
    EXPECT_NE(text.find(path.filename().string()), std::string::npos) << text;
    EXPECT_NE(text.find(says), std::string::npos) << text;
  }
  EXPECT_TRUE(thrown) << path;
  world.barrier("read");
}

TEST_F(Checkpoints, ThatAreDamagedOrForeignAreNamedOnEveryRank) {
  const Folder folder(world_);
  auto config = small(spec::load_router("deepseek_v3"), Precision::fp32);
  config.train.steps = 4;
  const fs::path path = folder / "whole.h5";
  run(world_, {{config, {4, 1}, 2, {}, path}});
  std::string bytes;
  {
    std::ifstream in(path, std::ios::binary);
    bytes.assign(std::istreambuf_iterator<char>(in), {});
  }
  EXPECT_GT(bytes.size(), 10000u);
  // A flipped byte, in each ninth of the file.
  for (std::size_t part = 1; part < 9; ++part) {
    const fs::path flipped = folder / ("flipped" + std::to_string(part) + ".h5");
    if (world_.rank() == 0) {
      std::string damaged = bytes;
      damaged[bytes.size() * part / 9] = static_cast<char>(damaged[bytes.size() * part / 9] ^ 0x10);
      std::ofstream(flipped, std::ios::binary) << damaged;
    }
    world_.barrier("damaged");
    expect_corrupt(world_, config, flipped, "");
  }
  const fs::path truncated = folder / "truncated.h5", foreign = folder / "foreign.h5", text = folder / "text.h5";
  if (world_.rank() == 0) {
    std::ofstream(truncated, std::ios::binary) << bytes.substr(0, bytes.size() * 2 / 3);
    std::ofstream(text) << "not HDF5 at all\n";
    H5Fclose(H5Fcreate(foreign.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT));
  }
  world_.barrier("damaged");
  expect_corrupt(world_, config, truncated, "");
  expect_corrupt(world_, config, foreign, "");
  expect_corrupt(world_, config, text, "");
}

}  // namespace
}  // namespace moesweep::train::parity
