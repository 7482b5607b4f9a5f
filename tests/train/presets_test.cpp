// Every router preset in whole trials: 50 steps with falling loss and an exact resume, options that matter, the causality flag, one result on
// every layout. Runs on 1, 2 and 4 ranks (the layouts) and by itself (the rest).
#include <gtest/gtest.h>

#include <ATen/ATen.h>

#include <iostream>

#include "moesweep/core/error.hpp"
#include "moesweep/spec/presets.hpp"
#include "moesweep/store/record.hpp"
#include "moesweep/train/trial.hpp"
#include "support/scratch.hpp"
#include "train/trainer.hpp"

namespace moesweep::train {
namespace {

namespace fs = std::filesystem;

/// The testbed's experts and domains in a small model on synthetic text.
TrialConfig small(const routing::RoutingConfig& routing, Precision precision = Precision::fp32) {
  TrialConfig config;
  config.routing = routing;
  config.model.width = 32;
  config.model.heads = 2;
  config.model.experts = 32;
  config.model.expert_width = 8;
  config.data.domains = {"a", "b", "c", "d", "e", "f", "g", "h"};
  config.data.vocabulary = 64;
  config.data.sequence_length = 16;
  config.train.steps = 50;
  config.train.warmup_steps = 5;
  config.train.batch_sequences = 16;
  config.train.micro_batch_sequences = 4;
  config.train.dtype = precision;
  config.evaluation.every_steps = 20;
  config.evaluation.tokens = 16 * 64;
  config.comm.timeout_seconds = 60;
  return config;
}

/// A folder that outlives the tests, with a trial whose checkpoint and assignments `imported` and `replay` take.
class Presets : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    const auto world = comm::Communicator::world();
    folder_ = world.broadcast(world.rank() == 0 ? testing_support::make_scratch("moesweep-presets").string() : "", 0, "folder");
    auto config = small(spec::load_router("top_k"));
    config.seed = 7;
    config.parallel.data = world.size();
    config.routing.record = true;
    config.evaluation.every_steps = 1;  // a validation after every step, for whoever replays
    config.checkpoint.keep = Keep::final_only;
    const auto source = data::open_source(config.data);
    const auto record = run_trial(config, *source, world, {folder_, nullptr, nullptr});
    if (world.rank() == 0) {
      store::write_trial(folder_ / "trial.h5", record);
      fs::rename(folder_ / "checkpoint.h5", folder_ / "other.h5");
    }
    world.barrier("trial written");
  }
  static void TearDownTestSuite() {
    const auto world = comm::Communicator::world();
    world.barrier("folder used");
    if (world.rank() == 0) fs::remove_all(folder_);
  }

  static routing::RoutingConfig load(const spec::Preset& preset) {
    auto routing = preset.load();
    if (!routing.import_from.empty()) routing.import_from = folder_ / "other.h5";
    if (!routing.replay_from.empty()) routing.replay_from = folder_ / "trial.h5";
    return routing;
  }

  static fs::path folder_;
};
fs::path Presets::folder_;

struct StopAfter : Observer {
  std::atomic<bool>* stop = nullptr;
  std::int64_t step = 0;
  void on_step(const StepReport& report) override {
    if (report.step == step) stop->store(true);
  }
};

double mean(const std::vector<double>& values, std::size_t first, std::size_t count) {
  double sum = 0;
  for (std::size_t i = first; i < first + count; ++i) sum += values.at(i);
  return sum / static_cast<double>(count);
}

/// All presets, or the one that MOESWEEP_PRESET names.
std::vector<spec::Preset> presets() {
  if (const char* name = std::getenv("MOESWEEP_PRESET")) return {spec::find_router(name)};
  return spec::router_presets();
}

class PresetTrials : public Presets {};

TEST_F(PresetTrials, EachTrainsFiftyStepsAndSurvivesACheckpointBitwise) {
  const auto world = comm::Communicator::world();
  for (const auto& preset : presets()) {
    auto config = small(load(preset));
    config.parallel.data = world.size();
    ASSERT_EQ(refusal(config), "") << preset.name;
    const auto source = data::open_source(config.data);
    const auto whole = run_trial(config, *source, world, {});
    ASSERT_EQ(whole.state, "done") << preset.name << ": " << whole.reason;
    const auto losses = store::as_doubles(*whole.find("steps/loss"));
    ASSERT_EQ(losses.size(), 50u) << preset.name;
    EXPECT_LT(mean(losses, 45, 5), mean(losses, 0, 5) - 0.05) << preset.name;
    for (const auto& array : whole.arrays)
      for (const double value : store::as_doubles(array)) ASSERT_TRUE(std::isfinite(value)) << preset.name << " " << array.path;

    const fs::path folder = folder_ / preset.name;
    if (world.rank() == 0) fs::create_directories(folder);
    world.barrier("folder made");
    std::atomic<bool> stop{false};
    StopAfter observer;
    observer.stop = &stop;
    observer.step = 25;
    ASSERT_EQ(run_trial(config, *source, world, {folder, &stop, &observer}).state, "preempted") << preset.name;
    const auto resumed = run_trial(config, *source, world, {folder, nullptr, nullptr});
    for (const auto& array : whole.arrays) {
      if (array.path.find("seconds") != std::string::npos || array.path.find("per_second") != std::string::npos) continue;
      const auto* found = resumed.find(array.path);
      ASSERT_NE(found, nullptr) << preset.name << " " << array.path;
      EXPECT_EQ(array.bytes, found->bytes) << preset.name << " " << array.path;
    }
  }
}

/// Everything that a few steps leave behind: losses, gradients' norms, choices, counts, state, both readings.
std::map<std::string, std::vector<double>> fingerprint(TrialConfig config) {
  const auto self = comm::Communicator::self();
  const auto source = data::open_source(config.data);
  Trainer trainer(config, *source, self);
  std::vector<double> choices;
  while (trainer.step() < trainer.steps()) {
    trainer.train_step();
    for (const auto& pass : trainer.last_decisions())
      for (const auto& decision : pass)
        for (const at::Tensor& part : {decision.slots.expert, decision.slots.dropped})
          if (part.defined()) choices.push_back((part.to(at::kDouble) * at::arange(1, part.numel() + 1, at::kDouble).sin()).sum().item<double>());
    if (trainer.evaluation_due()) trainer.evaluate();
  }
  std::map<std::string, std::vector<double>> prints{{"choices", choices}};
  for (const auto& array : trainer.record("done", "").arrays)
    if (array.path.find("second") == std::string::npos && !array.path.starts_with("assignments/")) prints[array.path] = store::as_doubles(array);
  for (const auto& [name, tensor] : trainer.model().state())
    prints["state " + name] = {tensor.sum().item<double>(), tensor.square().sum().item<double>()};
  return prints;
}

TEST_F(PresetTrials, APrefixesLossIsReportedApart) {
  auto config = small(spec::load_router("sequence_prefix"));
  config.train.steps = 2;
  const auto self = comm::Communicator::self();
  const auto source = data::open_source(config.data);
  const auto record = run_trial(config, *source, self, {});
  const auto value = [&](const std::string& name) { return store::as_doubles(*record.find("evaluations/" + name)).back(); };
  // 8 of a sequence's 16 tokens.
  EXPECT_NEAR(value("loss"), (value("loss_prefix") + value("loss_behind_prefix")) / 2, 1e-6);
  EXPECT_NE(value("loss_prefix"), value("loss_behind_prefix"));
}

TEST_F(PresetTrials, EveryOptionThatAPresetSetsMatters) {
  std::size_t options = 0, refused = 0;
  for (const auto& preset : presets()) {
    const auto routing = load(preset);
    auto config = small(routing);
    config.train.steps = 4;
    config.train.learning_rate = 2e-2;
    config.evaluation.every_steps = 2;
    config.evaluation.tokens = 16 * 16;
    config.model.router_init_deviation = 2.0;
    if (routing.depth_block > 0) config.model.layers = routing.depth_block + 1;
    const auto as_it_is = fingerprint(config);
    auto mine = routing;
    routing::RoutingConfig defaults;
    const auto leaves = leaves_of(fields_of(mine)), plain = leaves_of(fields_of(defaults));
    for (std::size_t i = 0; i < leaves.size(); ++i) {
      if (leaves[i].field.get() == plain[i].field.get()) continue;
      // It names the weights that these two always have, and is kept because the ids of the first studies hold it.
      if (leaves[i].path == "score" && (preset.name == "random" || preset.name == "reference")) continue;
      ++options;
      auto without = config;
      const auto fields = leaves_of(fields_of(without.routing));
      if (fields[i].field.resize) fields[i].field.resize(0);
      else if (fields[i].field.rename) fields[i].field.rename({});
      else fields[i].field.set(plain[i].field.get());
      if (!refusal(without).empty()) {
        ++refused;  // the preset makes no sense without it
        continue;
      }
      EXPECT_TRUE(fingerprint(without) != as_it_is) << preset.name << " without " << leaves[i].path;
    }
  }
  std::cout << "options of presets: " << options << " taken out one by one, " << refused << " of them refused without\n";
}

TEST_F(PresetTrials, NoPresetIsAnAliasOfAnother) {
  std::map<std::string, std::map<std::string, std::vector<double>>> prints;
  for (const auto& preset : presets()) {
    auto config = small(load(preset));
    config.train.steps = 3;
    config.evaluation.every_steps = 0;
    config.evaluation.tokens = 16 * 16;
    prints[preset.name] = fingerprint(config);
  }
  for (auto a = prints.begin(); a != prints.end(); ++a)
    for (auto b = std::next(a); b != prints.end(); ++b) EXPECT_TRUE(a->second != b->second) << a->first << " and " << b->first;
}

/// Whether what comes after a position changes losses up to it: 16 tries, each with other text behind another position of another sequence.
bool leaks(model::MoeModel& model, const TrialConfig& config, routing::Mode mode) {
  const at::NoGradGuard no_gradient;
  const std::int64_t sequences = config.train.batch_sequences, length = config.data.sequence_length;
  model::PassInput pass;
  pass.tokens = at::arange(sequences * length, at::kLong).mul(37).remainder(config.data.vocabulary);
  pass.targets = pass.tokens.roll(-1);
  auto& layout = pass.layout;
  layout.sequences = sequences;
  layout.length = length;
  layout.micro_batch_sequences = config.train.micro_batch_sequences;
  for (std::int64_t s = 0; s < sequences; ++s) {
    layout.index.push_back(s);
    layout.domain.push_back(s % 8);
  }
  layout.ids = pass.tokens;
  layout.seed = config.seed;
  layout.step_tokens = sequences * length;
  const at::Tensor before = model.forward(pass, nullptr, mode).token_loss.clone();
  for (std::int64_t n = 0; n < 16; ++n) {
    const std::int64_t s = (n * 5) % sequences, t = 1 + (n * 3) % (length - 2), first = s * length;
    model::PassInput changed = pass;
    changed.tokens = pass.tokens.clone();
    at::Tensor tail = changed.tokens.narrow(0, first + t + 1, length - t - 1);
    tail.add_(11 + n).remainder_(config.data.vocabulary);
    changed.layout.ids = changed.tokens;
    const at::Tensor after = model.forward(changed, nullptr, mode).token_loss;
    if (!at::allclose(after.narrow(0, first, t + 1), before.narrow(0, first, t + 1), 0, 1e-12)) return true;
  }
  return false;
}

TEST_F(PresetTrials, TheCausalityFlagIsWhatIsFound) {
  std::cout << "causality: preset, in training at the first step, after 25 steps, greedily (found = declared)\n";
  comm::Grid alone;
  for (const auto& preset : presets()) {
    auto config = small(load(preset), Precision::fp64);
    config.model.router_init_deviation = 1.0;
    if (config.routing.select == "threshold") config.routing.threshold.warmup_steps = 20;
    model::MoeModelOptions options;
    options.compute = at::kDouble;
    options.token_frequency.assign(64, 1.0);
    if (config.routing.select == "replay") {
      auto recording = std::make_shared<routing::Recording>();
      routing::TokenLayout layout;
      layout.sequences = 1;
      layout.length = config.data.sequence_length;
      for (std::int64_t layer = 0; layer < config.model.layers; ++layer)
        for (std::int64_t s = 0; s < config.train.batch_sequences; ++s) {
          layout.index = {s};
          recording->add(layout, layer, routing::slots_of(at::arange(layout.length * 4, at::kLong).add(s).remainder(32).view({-1, 4})));
        }
      options.recording = recording;
    }
    model::MoeModel model(config.model, config.routing, config.data.vocabulary, 8, alone, options);
    std::string row = preset.name;
    for (const std::int64_t step : {0, 25}) {
      model.begin_step(step, true);
      if (step > 0) model.end_step();  // a threshold has cut-offs by then: the forward passes of the first step made them
      const bool declared = model.causal(routing::Mode::train);
      EXPECT_EQ(!leaks(model, config, routing::Mode::train), declared) << preset.name << " in training at step " << step;
      row += declared ? ", yes" : ", no";
    }
    const bool greedily = model.causal(routing::Mode::greedy);
    EXPECT_EQ(!leaks(model, config, routing::Mode::greedy), greedily) << preset.name << " greedily";
    std::cout << row << (greedily ? ", yes\n" : ", no\n");
  }
}

TEST_F(PresetTrials, ReplayOfItsOwnAssignmentsIsTheSameTrial) {
  const auto self = comm::Communicator::self();
  for (const std::string name : {"top_k", "dropping", "top_p", "expert_choice"}) {  // numbers of experts that vary, too
    auto config = small(spec::load_router(name == "dropping" ? "top_k" : name));
    if (name == "dropping") config.routing.capacity.factor = 0.8;
    config.routing.balance = {};
    config.routing.regularise = {};
    config.train.steps = 6;
    config.evaluation.every_steps = 3;
    config.routing.record = true;
    const auto source = data::open_source(config.data);
    const auto first = run_trial(config, *source, self, {});
    const fs::path path = folder_ / (name + ".h5");
    store::write_trial(path, first);
    auto again = config;
    again.routing.select = "replay";
    again.routing.replay_from = path;
    again.routing.capacity.factor.reset();
    again.routing.record = false;
    const auto second = run_trial(again, *source, self, {});
    EXPECT_EQ(store::as_doubles(*first.find("steps/loss")), store::as_doubles(*second.find("steps/loss"))) << name;
    EXPECT_EQ(store::as_doubles(*first.find("evaluations/loss")), store::as_doubles(*second.find("evaluations/loss"))) << name;
    again.train.steps = 7;
    EXPECT_THROW(run_trial(again, *source, self, {}), Error) << name;  // a step that nobody recorded
  }
}

class PresetLayouts : public Presets {};

/// Losses of a few steps in fp64 over a gang, and this rank's share of the last step's choices.
std::map<std::string, std::vector<double>> losses_of(TrialConfig config, const comm::Communicator& gang, std::int64_t expert_ranks,
                                                     std::int64_t per_pass) {
  config.parallel.expert = expert_ranks;
  config.parallel.data = gang.size() / expert_ranks;
  config.train.sequences_per_pass = per_pass;
  config.parallel.recompute = config.parallel.shard_moments = per_pass > 0;
  const auto source = data::open_source(config.data);
  Trainer trainer(config, *source, gang);
  while (trainer.step() < trainer.steps()) {
    trainer.train_step();
    if (trainer.evaluation_due()) trainer.evaluate();
  }
  std::map<std::string, std::vector<double>> found;
  for (const auto& array : trainer.record("done", "").arrays)
    if (array.path.starts_with("steps/lo") || array.path == "steps/gradient_norm" || array.path.ends_with("/loss") ||
        array.path.ends_with("/greedy.loss") || array.path.ends_with("drop_rate"))
      found[array.path] = store::as_doubles(array);
  return found;
}

TEST_F(PresetLayouts, LossesAndGradientsAreThoseOfOneRankAtTheGlobalBatch) {
  const auto world = comm::Communicator::world();
  const auto self = comm::Communicator::self();
  double worst = 0;
  for (const auto& preset : presets()) {
    auto config = small(load(preset), Precision::fp64);
    config.train.steps = 4;
    config.evaluation.every_steps = 0;
    config.evaluation.tokens = 16 * 16;
    const auto alone = losses_of(config, self, 1, 0);
    // Experts on every rank, on half of the ranks, spread over all; in one pass, and in several with layers that run again and sharded moments.
    for (std::int64_t expert_ranks = 1; expert_ranks <= world.size(); expert_ranks *= 2)
      for (const std::int64_t per_pass : {0, 4}) {
        const auto found = losses_of(config, world, expert_ranks, per_pass);
        ASSERT_EQ(alone.size(), found.size());
        for (const auto& [path, values] : alone)
          for (std::size_t i = 0; i < values.size(); ++i) {
            const double error = std::abs(found.at(path).at(i) - values[i]) / std::max(1e-3, std::abs(values[i]));
            worst = std::max(worst, error);
            EXPECT_LT(error, 1e-10) << preset.name << " " << path << "[" << i << "], expert ranks " << expert_ranks << ", passes of " << per_pass;
          }
      }
  }
  if (world.rank() == 0) std::cout << "presets on " << world.size() << " ranks: worst relative difference " << worst << "\n";
}

}  // namespace
}  // namespace moesweep::train
