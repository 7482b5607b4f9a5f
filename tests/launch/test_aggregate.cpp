// The aggregate: a row for every planned trial, gaps to the reference router, and the same bytes whatever the number of ranks.
#include "moesweep/launch/aggregate.hpp"

#include <gtest/gtest.h>

#include "fake.hpp"
#include "moesweep/launch/status.hpp"

namespace moesweep::launch {
namespace {

using namespace testing;  // NOLINT: the fakes of this folder

/// Seeds 1 and 2, each with the reference router, with balancing, and with one that fails.
spec::Sweep study() {
  spec::Sweep sweep;
  sweep.name = "study";
  sweep.resolved = {{"sweep", "study"}};
  for (const std::int64_t seed : {1, 2})
    for (const int kind : {0, 1, 2}) {
      spec::Trial trial;
      trial.config.seed = seed;
      trial.config.data.domains = {"a"};
      if (kind == 0) trial.config.routing.select = "reference";
      if (kind == 2) trial.config.routing.top_k = 2;
      trial.id = train::id_of(trial.config);
      sweep.trials.push_back(trial);
    }
  return sweep;
}

TEST(Aggregate, RowsAxesMetricsGapsAndOneDigest) {
  const auto world = comm::Communicator::world();
  const SharedFolder shared(world);
  const fs::path folder = shared.path() / "sweep";
  const auto sweep = study();
  run_sweep(sweep, options_for(folder),
            fake_runner(shared.path() / "marks",
                        [](const auto& config, const auto&, const auto&, auto& record) {
                          if (config.routing.top_k == 2) throw Error(ErrorKind::internal, "the gate fell off");
                          if (config.routing.select == "reference") {
                            const std::vector<double> loss{9.0, 2.0}, purity{1.0, 1.0, 1.0, 1.0};
                            record.arrays[1] = store::make_array("evaluations/loss", {2}, loss, "nats per token", "validation loss", true);
                            record.arrays[2] = store::make_array("evaluations/purity_expert", {2, 2}, purity, "1", "purity", true);
                          }
                        }),
            world);
  world.barrier("run");
  const Aggregation made = aggregate(world, folder);
  EXPECT_EQ(made.file, folder / "sweep.h5");
  EXPECT_EQ(made.rows, 6);
  EXPECT_EQ(made.done, 4);
  // Each rank by itself makes the same file.
  const auto self = comm::Communicator::self();
  const fs::path alone = shared.path() / ("alone" + std::to_string(world.rank()) + ".h5");
  aggregate(self, folder, alone);
  const auto verified = store::verify(made.file);
  EXPECT_TRUE(verified.problems.empty());
  EXPECT_EQ(verified.digest, store::verify(alone).digest);

  const store::SweepFile file(made.file);
  ASSERT_EQ(file.rows().size(), 6U);
  for (const store::SweepRow& row : file.rows()) {
    const Json config = Json::parse(row.config);
    const double seed = config["seed"].get<double>();
    EXPECT_EQ(row.axes.at("seed"), std::to_string(config["seed"].get<int>()));
    EXPECT_EQ(row.axes.at("routing.select"), config["routing"]["select"].get<std::string>());
    if (row.axes.at("routing.top_k") == "2") {
      EXPECT_EQ(row.state, "failed");
      EXPECT_EQ(row.reason, "the gate fell off");
      const auto loss = row.metrics.find("loss");
      EXPECT_TRUE(loss == row.metrics.end() || std::isnan(loss->second));
      continue;
    }
    EXPECT_EQ(row.state, "done");
    EXPECT_EQ(Json::parse(row.provenance)["seed"].get<double>(), seed);
    if (row.axes.at("routing.select") == "reference") {
      EXPECT_DOUBLE_EQ(row.metrics.at("gap_to_reference.loss"), 0.0);
    } else {
      const double purity = (0.25 + 0.75 / seed) / 2;
      EXPECT_DOUBLE_EQ(row.metrics.at("loss"), 3.0 + seed);
      EXPECT_DOUBLE_EQ(row.metrics.at("purity_expert"), purity);
      EXPECT_DOUBLE_EQ(row.metrics.at("gap_to_reference.loss"), 1.0 + seed);
      EXPECT_DOUBLE_EQ(row.metrics.at("gap_to_reference.purity_expert"), 1.0 - purity);
    }
  }
  world.barrier("the test has looked");
}

TEST(Aggregate, TrialsThatNeverRanAreRowsToo) {
  const auto world = comm::Communicator::world();
  const SharedFolder shared(world);
  const fs::path folder = shared.path() / "sweep";
  world.agree(
      [&] {
        if (world.rank() == 0) prepare_folder(folder, study(), Json::object(), [](const data::DataConfig&) { return "d1"; });
      },
      "plan");
  EXPECT_EQ(aggregate(world, folder).rows, 6);
  const store::SweepFile file(folder / "sweep.h5");
  for (const store::SweepRow& row : file.rows()) EXPECT_EQ(row.state, "pending");
  world.barrier("the test has looked");
}

TEST(Aggregate, RemovedTrialsSayItAndThoseThatNeverStartedAreLeftOut) {
  const auto world = comm::Communicator::world();
  const SharedFolder shared(world);
  const fs::path folder = shared.path() / "sweep", marks = shared.path() / "marks";
  const auto plan_only = [&](const spec::Sweep& sweep) {
    world.agree(
        [&] {
          if (world.rank() == 0) prepare_folder(folder, sweep, Json::object(), [](const data::DataConfig&) { return "d1"; });
        },
        "plan");
  };
  run_sweep(sweep_of(2), options_for(folder), fake_runner(marks), world);
  plan_only(sweep_of(4));
  plan_only(sweep_of(1));
  EXPECT_EQ(standings_of(folder, read_plan(folder)).counts, (std::map<std::string, std::int64_t>{{"done", 2}}));
  EXPECT_EQ(aggregate(world, folder).rows, 2);
  const store::SweepFile file(folder / "sweep.h5");
  const std::string first = sweep_of(1).trials[0].id;
  for (const store::SweepRow& row : file.rows()) {
    EXPECT_EQ(row.state, "done");
    EXPECT_EQ(row.reason, row.id == first ? "" : "not in the sweep file any more");
  }
  world.barrier("the test has looked");
}

TEST(Aggregate, ASecondOneReadsOnlyWhatIsNew) {
  const auto world = comm::Communicator::world();
  const SharedFolder shared(world);
  const fs::path folder = shared.path() / "sweep", marks = shared.path() / "marks";
  const auto same_as_scratch = [&](const std::string& name) {
    const fs::path scratch = shared.path() / (name + ".h5");
    aggregate(world, folder, scratch);
    EXPECT_EQ(store::verify(folder / "sweep.h5").digest, store::verify(scratch).digest) << name;
    world.barrier("compared");
  };
  // The gate of a trial with top_k 2 falls off: its file, if any, is one of a failed trial.
  const auto fail = [](const auto& config, const auto&, const auto&, auto&) {
    if (config.routing.top_k == 2) throw Error(ErrorKind::internal, "the gate fell off");
  };
  run_sweep(study(), options_for(folder), fake_runner(marks, fail), world);
  world.barrier("run");
  const Aggregation first = aggregate(world, folder), second = aggregate(world, folder);
  EXPECT_GT(first.files_read, 0);
  EXPECT_EQ(first.rows_kept, 0);
  EXPECT_EQ(second.rows_kept + second.files_read, first.files_read);
  EXPECT_GE(second.rows_kept, 4);
  same_as_scratch("again");
  // Trials come, others are no longer in the sweep file: their rows say so, also those that are taken from the earlier aggregate.
  auto more = study();
  more.trials.erase(more.trials.begin(), more.trials.begin() + 2);
  spec::Trial added = more.trials.back();
  added.config.seed = 7;
  added.config.routing.top_k = 4;
  added.id = train::id_of(added.config);
  more.trials.push_back(added);
  run_sweep(more, options_for(folder), fake_runner(marks, fail), world);
  world.barrier("run");
  const Aggregation third = aggregate(world, folder);
  EXPECT_EQ(third.rows, 7);
  EXPECT_EQ(third.files_read, second.files_read + 1);
  same_as_scratch("changed");
  // And back again.
  run_sweep(study(), options_for(folder), fake_runner(marks, fail), world);
  world.barrier("run");
  aggregate(world, folder);
  same_as_scratch("back");
  const store::SweepFile made(folder / "sweep.h5");
  for (const store::SweepRow& row : made.rows())
    EXPECT_EQ(row.reason.starts_with("not in the sweep file any more"), row.id == added.id) << row.reason;
  world.barrier("the test has looked");
}

TEST(Aggregate, DamagedTrialFileIsNamedOnEveryRank) {
  const auto world = comm::Communicator::world();
  const SharedFolder shared(world);
  const fs::path folder = shared.path() / "sweep";
  const auto sweep = study();
  run_sweep(sweep, options_for(folder), fake_runner(shared.path() / "marks"), world);
  const fs::path victim = trial_file(folder, sweep.trials[3].id);
  if (world.rank() == 0) std::ofstream(victim, std::ios::trunc) << "torn";
  world.barrier("damage done");
  try {
    aggregate(world, folder);
    ADD_FAILURE() << "a damaged file was taken";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::corrupt);
    EXPECT_NE(std::string(error.what()).find(victim.string()), std::string::npos) << error.what();
  }
  EXPECT_FALSE(fs::exists(folder / "sweep.h5"));
  world.barrier("the test has looked");
}

/// Aggregates on every rank alike and gives the error; fails the test when there is none.
Error error_of_aggregate(const comm::Communicator& world, const fs::path& folder) {
  try {
    aggregate(world, folder);
  } catch (const Error& error) {
    return error;
  }
  ADD_FAILURE() << "it was taken";
  return {ErrorKind::internal, ""};
}

TEST(Aggregate, TrialFileThatCannotBeReadEndsItByItsNameAndTheEarlierAggregateStays) {
  const auto world = comm::Communicator::world();
  const SharedFolder shared(world);
  const fs::path folder = shared.path() / "sweep";
  const auto sweep = sweep_of(3);
  run_sweep(sweep, options_for(folder), fake_runner(shared.path() / "marks"), world);
  aggregate(world, folder);
  const std::string before = store::verify(folder / "sweep.h5").digest;
  const fs::path victim = trial_file(folder, sweep.trials[1].id);
  world.barrier("aggregated");
  if (world.rank() == 0) {
    fs::remove(victim);
    fs::create_symlink("trial.h5", victim);  // to itself: nobody can open it
  }
  world.barrier("it cannot be read");
  const Error error = error_of_aggregate(world, folder);
  EXPECT_EQ(error.kind(), ErrorKind::io);
  EXPECT_NE(std::string(error.what()).find(victim.string()), std::string::npos) << error.what();
  EXPECT_EQ(store::verify(folder / "sweep.h5").digest, before);
  world.barrier("the test has looked");
}

TEST(Aggregate, WarningsOfATrialAreInItsRow) {
  const auto world = comm::Communicator::world();
  const SharedFolder shared(world);
  const fs::path folder = shared.path() / "sweep";
  const auto sweep = sweep_of(4);  // losses 4 to 7; a uniform guess of 256 tokens has 5.545
  run_sweep(sweep, options_for(folder), fake_runner(shared.path() / "marks"), world);
  world.barrier("run");
  for (const char* round : {"first", "from the earlier one"}) {
    aggregate(world, folder);
    std::map<std::string, std::string> warnings;
    const store::SweepFile made(folder / "sweep.h5");
    for (const store::SweepRow& row : made.rows()) warnings[row.id] = row.warnings;
    for (std::size_t i = 0; i < 4; ++i) EXPECT_EQ(warnings[sweep.trials[i].id], i < 2 ? "" : "no_better_than_uniform") << round;
    world.barrier("compared");
  }
}

TEST(Aggregate, TextsOfATrialThatAreNoJsonAreNamedOnEveryRank) {
  const auto world = comm::Communicator::world();
  const SharedFolder shared(world);
  const fs::path folder = shared.path() / "sweep";
  const auto sweep = sweep_of(3);
  run_sweep(sweep, options_for(folder), fake_runner(shared.path() / "marks"), world);
  const fs::path victim = trial_file(folder, sweep.trials[1].id);
  const store::TrialRecord good = store::read_trial(victim);
  world.barrier("read");
  const std::string deep = std::string(100000, '[') + std::string(100000, ']');
  for (const std::string& text : {deep, std::string("{\"a\": \"\xff\"}"), std::string("{"), std::string("[1]")})
    for (const bool in_config : {false, true}) {
      if (in_config && text == "[1]") continue;
      if (world.rank() == 0) {
        store::TrialRecord record = good;
        (in_config ? record.config : record.provenance) = text;
        store::write_trial(victim, record);
      }
      world.barrier("written");
      const Error error = error_of_aggregate(world, folder);
      EXPECT_EQ(error.kind(), ErrorKind::corrupt) << error.what();
      EXPECT_NE(std::string(error.what()).find(victim.string()), std::string::npos) << error.what();
      EXPECT_NE(std::string(error.what()).find(in_config ? "config" : "provenance"), std::string::npos) << error.what();
      world.barrier("compared");
    }
}

TEST(Aggregate, TwoMetricsOfOneLastNameAreNamedWithTheirFile) {
  const auto world = comm::Communicator::world();
  const SharedFolder shared(world);
  const fs::path folder = shared.path() / "sweep";
  const auto sweep = sweep_of(2);
  run_sweep(sweep, options_for(folder), fake_runner(shared.path() / "marks"), world);
  const fs::path victim = trial_file(folder, sweep.trials[1].id);
  world.barrier("run");
  if (world.rank() == 0) {
    store::TrialRecord record = store::read_trial(victim);
    const std::vector<double> one{1.0};
    record.arrays.push_back(store::make_array("summary/loss", {1}, one, "1", "", true));
    store::write_trial(victim, record);
  }
  world.barrier("written");
  const Error error = error_of_aggregate(world, folder);
  EXPECT_EQ(error.kind(), ErrorKind::corrupt);
  for (const std::string& named : {victim.string(), std::string("evaluations/loss"), std::string("summary/loss")})
    EXPECT_NE(std::string(error.what()).find(named), std::string::npos) << error.what();
  world.barrier("the test has looked");
}

TEST(Metrics, MeanOfTheLastRowByTheNameAfterTheFolder) {
  store::TrialRecord record;
  const std::vector<double> values{1, 2, 3, 5}, none;
  record.arrays.push_back(store::make_array("evaluations/greedy.nmi", {2, 2}, values, "1", "", true));
  record.arrays.push_back(store::make_array("steps/loss", {4}, values, "1", "", false));
  record.arrays.push_back(store::make_array("evaluations/empty", {0, 2}, none, "1", "", true));
  EXPECT_EQ(metrics_of(record), (std::map<std::string, double>{{"greedy.nmi", 4.0}}));
}

TEST(ComparisonKey, RoutingDoesNotCountSeedAndModelDo) {
  train::TrialConfig one, two;
  two.routing.select = "reference";
  two.parallel.data = 4;
  EXPECT_EQ(comparison_key(one), comparison_key(two));
  two.seed = 9;
  EXPECT_NE(comparison_key(one), comparison_key(two));
}

}  // namespace
}  // namespace moesweep::launch
