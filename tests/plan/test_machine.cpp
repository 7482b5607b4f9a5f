// The machine's file: its round trip, where it lies, what is refused; speeds between measured sizes; the fit.
#include "moesweep/plan/machine.hpp"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

#include "moesweep/core/error.hpp"
#include "moesweep/core/publish.hpp"
#include "moesweep/plan/cost.hpp"
#include "support/scratch.hpp"

namespace moesweep::plan {
namespace {

namespace fs = std::filesystem;

/// A folder of its own, and the environment variables as they were.
class Machine : public testing::Test {
 protected:
  void SetUp() override {
    for (const char* name : {"MOESWEEP_MACHINE", "XDG_CONFIG_HOME", "HOME"}) unsetenv(name);
  }

  static MachineSpeed measured() {
    MachineSpeed machine;
    machine.fp32.products = {{16, 32, 1e9}, {16, 128, 4e9}, {64, 32, 4e9}, {64, 128, 16e9}};
    machine.fp32.seconds_per_kept_byte = 1e-10;
    machine.fp32.seconds_per_parameter_byte = 2e-10;
    machine.fp32.seconds_per_layer = 3e-4;
    machine.fp32.seconds_per_step = 5e-3;
    machine.fp32.evaluation_share = 0.4;
    machine.bf16 = machine.fp32;
    machine.exchange = {7e-6, 3e9};
    machine.exchange_measured = true;
    machine.cpu = "A CPU";
    machine.date = "2026-01-02T03:04:05Z";
    machine.version = "moesweep 0";
    return machine;
  }

  testing_support::Scratch scratch{"moesweep-machine"};
  const fs::path& folder = scratch.path();
};

TEST_F(Machine, SpeedsBetweenMeasuredSizesAreMixedByPowers) {
  const StepSpeed speed = measured().fp32;
  EXPECT_NEAR(speed.flops_per_second(16, 32), 1e9, 1);
  EXPECT_NEAR(speed.flops_per_second(32, 32), 2e9, 1) << "half the way from 16 to 64 rows, by powers";
  EXPECT_NEAR(speed.flops_per_second(32, 64), 4e9, 1);
  EXPECT_NEAR(speed.flops_per_second(1, 1), 1e9, 1) << "beyond the sizes: the nearest";
  EXPECT_NEAR(speed.flops_per_second(1e6, 1e6), 16e9, 10);
  EXPECT_EQ(StepSpeed().flops_per_second(1, 1), kDefaultFlopsPerSecond);
}

TEST_F(Machine, FileSurvivesARoundTrip) {
  const fs::path file = folder / "new" / "machine.json";
  write_machine(file, measured());
  const MachineSpeed read = read_machine(file);
  EXPECT_EQ(read.json(), measured().json());
  EXPECT_EQ(read.in_words(), "time by " + file.string() + ", measured on A CPU");
  EXPECT_EQ(read.fp32.flops_per_second(32, 64), measured().fp32.flops_per_second(32, 64));
}

TEST_F(Machine, LiesWhereTheEnvironmentSays) {
  EXPECT_EQ(machine_file(), fs::path());
  EXPECT_FALSE(machine_speed().measured());
  setenv("HOME", "/home/me", 1);
  EXPECT_EQ(machine_file(), "/home/me/.config/moesweep/machine.json");
  setenv("XDG_CONFIG_HOME", folder.c_str(), 1);
  EXPECT_EQ(machine_file(), folder / "moesweep" / "machine.json");
  EXPECT_FALSE(machine_speed().measured()) << "no file there: plain defaults";
  write_machine(machine_file(), measured());
  EXPECT_TRUE(machine_speed().measured());
  setenv("MOESWEEP_MACHINE", (folder / "other.json").c_str(), 1);
  try {
    machine_speed();
    ADD_FAILURE() << "a file that is named must be there";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::io);
    EXPECT_EQ(error.where(), (folder / "other.json").string());
    EXPECT_NE(error.hint().find("moesweep bench calibrate --out"), std::string::npos);
  }
}

TEST_F(Machine, DamagedFilesAreNamedWithTheMend) {
  const fs::path file = folder / "machine.json";
  const Json good = measured().json();
  const auto with = [&](const char* pointer, const Json& value) {
    Json bad = good;
    bad[Json::json_pointer(pointer)] = value;
    return bad.dump();
  };
  Json gap = good;
  gap["fp32"]["products"].erase(1);
  Json missing = good;
  missing["fp32"].erase("seconds_per_layer");
  for (const std::string& text :
       {std::string("{"), std::string("[]"), with("/format", "x"), with("/version", 99), with("/fp32/products/0/flops_per_second", 0),
        with("/fp32/products/0/rows", "many"), with("/fp32/seconds_per_step", -1), with("/exchange/bytes_per_second", 0),
        with("/fp32/products", Json::array()), gap.dump(), missing.dump()}) {
    publish_text(file, text);
    try {
      read_machine(file);
      ADD_FAILURE() << text << " was taken";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::corrupt) << text;
      EXPECT_EQ(error.where(), file.string());
      EXPECT_NE(error.hint().find("moesweep bench calibrate"), std::string::npos);
    }
  }
}

train::TrialConfig trial(std::int64_t layers, std::int64_t width, std::int64_t sequences) {
  train::TrialConfig config;
  config.model.layers = layers;
  config.model.width = width;
  config.train.batch_sequences = sequences;
  config.data.vocabulary = 512;
  config.data.domains = {"a", "b"};
  config.train.steps = 3;
  config.evaluation.every_steps = 0;
  config.evaluation.tokens = config.step_tokens();
  return config;
}

TEST_F(Machine, FitFindsTheSpeedsThatMadeTheTimes) {
  const MachineSpeed machine = measured();
  std::vector<MeasuredTrial> trials;
  for (const auto& [layers, width, sequences] :
       std::vector<std::array<std::int64_t, 3>>{{2, 64, 64}, {2, 64, 4}, {8, 64, 4}, {2, 256, 4}, {1, 512, 8}}) {
    auto config = trial(layers, width, sequences);
    const double with_three = cost_of(config, machine).seconds;
    config.train.steps = 4;
    const double step = cost_of(config, machine).seconds - with_three;
    trials.push_back({config, step, with_three - 3 * step});
  }
  StepSpeed fitted;
  fitted.products = machine.fp32.products;
  fit(fitted, trials);
  EXPECT_NEAR(fitted.seconds_per_kept_byte, 1e-10, 1e-14);
  EXPECT_NEAR(fitted.seconds_per_parameter_byte, 2e-10, 1e-14);
  EXPECT_NEAR(fitted.seconds_per_layer, 3e-4, 1e-7);
  EXPECT_NEAR(fitted.seconds_per_step, 5e-3, 1e-6);
  EXPECT_NEAR(fitted.evaluation_share, 0.4, 1e-4);
}

TEST_F(Machine, TimeOfATrialByHand) {
  // Every product at the same speed: FLOPs over it, and what is beside it.
  MachineSpeed machine;
  machine.fp32.products = {{16, 32, 2e9}};
  auto config = trial(2, 64, 8);
  const TrialCost plain = cost_of(config);
  EXPECT_NEAR(cost_of(config, machine).seconds, plain.flops / 2e9, 1e-9 * plain.flops / 2e9);
  const double products = cost_of(config, machine).seconds;
  machine.fp32.seconds_per_step = 0.5;
  machine.fp32.seconds_per_layer = 0.25;
  machine.fp32.evaluation_share = 0.1;
  EXPECT_NEAR(cost_of(config, machine).seconds - products, 3 * (0.5 + 2 * 0.25) + 0.1 * (0.5 + 2 * 0.25), 1e-9) << "three steps, one evaluation";
  config.train.sequences_per_pass = 4;
  EXPECT_NEAR(cost_of(config, machine).seconds - products, 3 * (0.5 + 4 * 0.25) + 0.1 * (0.5 + 4 * 0.25), 1e-9) << "two passes a step";
  config.train.dtype = train::Precision::fp64;
  EXPECT_NEAR(cost_of(config, machine).seconds, 2 * (products + 4.65), 1e-9);
}

TEST_F(Machine, ParallelTrialsWaitForSumsAndRows) {
  MachineSpeed machine = measured();
  auto config = trial(2, 64, 8);
  config.parallel.data = 2;
  const double fast = cost_of(config, machine).seconds;
  machine.exchange.bytes_per_second /= 2;
  const model::Memory memory = cost_of(config, machine).memory;
  EXPECT_NEAR(cost_of(config, machine).seconds - fast, 3 * memory.reduction / 3e9, 1e-9) << "gradients over two ranks, three steps";
}

}  // namespace
}  // namespace moesweep::plan
