// run_sweep on 1, 2 and 3 ranks with trials of no content: each once, failures as rows, resume, gangs, shards.
#include "moesweep/launch/run.hpp"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <atomic>

#include "fake.hpp"
#include "moesweep/core/hash.hpp"
#include "moesweep/core/publish.hpp"
#include "moesweep/launch/retry.hpp"
#include "moesweep/launch/status.hpp"
#include "moesweep/store/journal.hpp"

namespace moesweep::launch {
namespace {

using namespace testing;  // NOLINT: the fakes of this folder

class Run : public ::testing::Test {
 protected:
  comm::Communicator world = comm::Communicator::world();
  SharedFolder shared{world};
  fs::path folder = shared.path() / "sweep", marks = shared.path() / "marks";

  Outcome run(const spec::Sweep& sweep, const Runner& runner, const std::atomic<bool>* stop = nullptr) {
    RunOptions options = options_for(folder);
    options.stop = stop;
    const Outcome outcome = run_sweep(sweep, options, runner, world);
    world.barrier("before the test looks");
    return outcome;
  }
  std::map<std::string, store::TrialStatus> states() { return store::fold(store::read_journal(folder)); }
  void done_looking() { world.barrier("the test has looked"); }
};

TEST_F(Run, EveryTrialRunsOnceAndIsDone) {
  const auto sweep = sweep_of(12);
  const Outcome outcome = run(sweep, fake_runner(marks));
  EXPECT_EQ(outcome.ran, 12);
  EXPECT_EQ(outcome.states, (std::map<std::string, std::int64_t>{{"done", 12}}));
  EXPECT_FALSE(any_failed(outcome.states));
  const auto seen = read_marks(marks);
  EXPECT_EQ(seen.size(), 12U);
  for (const auto& [id, lines] : seen) EXPECT_EQ(lines.size(), 1U) << id;
  for (const auto& trial : sweep.trials) {
    EXPECT_TRUE(store::find_trial(trial_file(folder, trial.id), trial.id).valid());
    EXPECT_TRUE(fs::exists(trial_folder(folder, trial.id) / "log.txt"));
    EXPECT_EQ(train::id_of(spec::load_trial((trial_folder(folder, trial.id) / "config.yaml").string())), trial.id);
  }
  const Json facts = Json::parse(store::read_trial(trial_file(folder, sweep.trials[0].id)).provenance);
  EXPECT_EQ(facts["data_digest"], "d1");
  EXPECT_EQ(facts["command_line"][1], "run");
  EXPECT_EQ(facts["ranks"], 1);
  ASSERT_EQ(facts["hosts"].size(), 1U);
  EXPECT_EQ(facts["hosts"][0]["host"], facts["host"]);
  EXPECT_EQ(facts["hosts"][0]["ranks"], 1);
  EXPECT_EQ(facts["attempt"], 1);
  EXPECT_EQ(facts["seed"], 1);
  EXPECT_EQ(facts["seeds"]["trial"], 1);
  EXPECT_EQ(facts["seeds"]["data"], 0);
  for (const char* key : {"launch", "start", "end", "git", "system", "folder"}) EXPECT_FALSE(facts[key].get<std::string>().empty()) << key;
  const Json made_by = read_plan(folder).provenance;
  EXPECT_EQ(made_by["hosts"][0]["ranks"], world.size());
  EXPECT_FALSE(made_by["start"].get<std::string>().empty());
  done_looking();
}

TEST_F(Run, TrialsPassedOverArePlannedAndRunAnotherTime) {
  auto sweep = sweep_of(4);
  sweep.passed_over = {sweep.trials[1].id, sweep.trials[2].id};
  EXPECT_EQ(run(sweep, fake_runner(marks)).states, (std::map<std::string, std::int64_t>{{"done", 2}}));
  const SweepPlan plan = read_plan(folder);
  ASSERT_EQ(plan.trials.size(), 4U);
  for (const PlannedTrial& trial : plan.trials) {
    EXPECT_FALSE(trial.removed);
    EXPECT_EQ(fs::exists(trial_file(folder, trial.id)), !sweep.passed_over.contains(trial.id));
  }
  done_looking();
  sweep.passed_over.clear();
  const Outcome rest = run(sweep, fake_runner(marks));
  EXPECT_EQ(rest.ran, 2);
  EXPECT_EQ(rest.states, (std::map<std::string, std::int64_t>{{"done", 4}}));
  done_looking();
}

TEST_F(Run, HalfWrittenFilesOfAKilledAttemptGo) {
  const auto sweep = sweep_of(1);
  const fs::path trial = trial_folder(folder, sweep.trials[0].id);
  if (world.rank() == 0) {
    fs::create_directories(trial);
    for (const char* name : {".checkpoint.h5.node.17.0.tmp", ".trial.h5.node.17.1.tmp", "mine.tmp"}) publish_text(trial / name, "half");
  }
  world.barrier("half-written files");
  run(sweep, fake_runner(marks));
  EXPECT_FALSE(fs::exists(trial / ".checkpoint.h5.node.17.0.tmp"));
  EXPECT_FALSE(fs::exists(trial / ".trial.h5.node.17.1.tmp"));
  EXPECT_TRUE(fs::exists(trial / "mine.tmp"));
  done_looking();
}

TEST_F(Run, FinishedSweepDoesNothing) {
  const auto sweep = sweep_of(5);
  run(sweep, fake_runner(marks));
  const Outcome again = run(sweep, fake_runner(marks));
  EXPECT_EQ(again.ran, 0);
  EXPECT_EQ(again.states, (std::map<std::string, std::int64_t>{{"done", 5}}));
  for (const auto& [id, lines] : read_marks(marks)) EXPECT_EQ(lines.size(), 1U) << id;
  done_looking();
}

TEST_F(Run, NewTrialsOfAChangedSweepAreAdded) {
  run(sweep_of(3), fake_runner(marks));
  const Outcome more = run(sweep_of(5), fake_runner(marks));
  EXPECT_EQ(more.ran, 2);
  run(sweep_of(1), fake_runner(marks));
  const SweepPlan plan = read_plan(folder);
  EXPECT_EQ(plan.trials.size(), 5U) << "removed trials are kept";
  EXPECT_EQ(std::ranges::count(plan.trials, true, &PlannedTrial::removed), 4);
  done_looking();
}

TEST_F(Run, FailingTrialIsARowWithItsReasonAndIsNotRunAgain) {
  const auto sweep = sweep_of(6);
  const auto runner = fake_runner(marks, [](const auto& config, const auto&, const auto&, auto&) {
    if (config.seed == 2) throw Error(ErrorKind::internal, "the gate fell off");
    if (config.seed == 3) throw std::bad_alloc();
    if (config.seed == 4) throw std::runtime_error("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes");
  });
  const Outcome outcome = run(sweep, runner);
  EXPECT_TRUE(any_failed(outcome.states));
  EXPECT_EQ(outcome.states, (std::map<std::string, std::int64_t>{{"done", 3}, {"failed", 1}, {"out_of_memory", 2}}));
  auto known = states();
  EXPECT_EQ(known[sweep.trials[1].id].state, "failed");
  EXPECT_EQ(known[sweep.trials[1].id].reason, "the gate fell off");
  EXPECT_EQ(known[sweep.trials[2].id].state, "out_of_memory");
  const Outcome again = run(sweep, runner);
  EXPECT_EQ(again.ran, 0);
  EXPECT_TRUE(any_failed(again.states));
  for (const auto& [id, lines] : read_marks(marks)) EXPECT_EQ(lines.size(), 1U) << id;
  done_looking();
}

TEST_F(Run, FullDiskIsNoTrialsStateAndTheSameCommandGoesOn) {
  if (world.size() > 1) GTEST_SKIP() << "it ends a world of several ranks";
  const auto sweep = sweep_of(3);
  const auto full = fake_runner(marks, [](const auto& config, const auto&, const auto&, auto&) {
    if (config.seed == 2) throw Error(ErrorKind::io, "cannot write: No space left on device", "checkpoint.h5");
  });
  try {
    run(sweep, full);
    ADD_FAILURE() << "the launch went on";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::io);
    EXPECT_NE(error.hint().find("run the same command again"), std::string::npos) << error.hint();
  }
  EXPECT_EQ(states()[sweep.trials[1].id].state, "running") << "nothing was written of its end";
  const fs::path attempt = trial_folder(folder, sweep.trials[1].id) / "attempt-1";
  EXPECT_FALSE(fs::exists(attempt / "claim.json")) << "its claim was given back, which needs no space";
  EXPECT_TRUE(fs::exists(attempt / "claim.given-back.json"));
  EXPECT_EQ(run(sweep, fake_runner(marks)).states, (std::map<std::string, std::int64_t>{{"done", 3}}));
  EXPECT_TRUE(states()[sweep.trials[1].id].charges.empty());
}

TEST_F(Run, CrashIsTriedAgainWithinItsBudget) {
  const auto sweep = sweep_of(3);
  const auto crashing = [&](const std::string& id, int times) {
    return fake_runner(marks, [=, this](const auto& config, const auto&, const auto&, auto&) {
      if (train::id_of(config) == id && read_marks(marks)[id].size() <= static_cast<std::size_t>(times))
        throw Error(ErrorKind::mpi, "MPI_Allreduce failed: a link is down");
    });
  };
  const std::string once = sweep.trials[1].id;
  EXPECT_EQ(run(sweep, crashing(once, 2)).states, (std::map<std::string, std::int64_t>{{"done", 3}}));
  EXPECT_EQ(read_marks(marks)[once].size(), 3U) << "two crashes cost two further attempts";
  done_looking();
}

TEST_F(Run, CrashAboveItsBudgetIsARowAndRetryForgivesIt) {
  const auto sweep = sweep_of(3);
  const std::string id = sweep.trials[1].id;
  const auto crashing = fake_runner(marks, [&](const auto& config, const auto&, const auto&, auto&) {
    if (config.seed == 2) throw Error(ErrorKind::mpi, "MPI_Allreduce failed: a link is down");
  });
  const std::map<std::string, std::int64_t> expected{{"crashed", 1}, {"done", 2}};
  EXPECT_EQ(run(sweep, crashing).states, expected);
  EXPECT_EQ(read_marks(marks)[id].size(), 3U);
  EXPECT_TRUE(standings_of(folder, read_plan(folder)).all_ended());
  EXPECT_EQ(run(sweep, crashing).ran, 0) << "its budget is spent";
  done_looking();
  if (world.rank() == 0) {
    EXPECT_THROW(retry_trials(folder, {"done"}), Error);
    EXPECT_THROW(retry_trials(folder, {"crashed"}, {"zz"}), Error);
    EXPECT_EQ(retry_trials(folder, {"failed"}), std::vector<std::string>{});
    EXPECT_EQ(retry_trials(folder, {"crashed"}), std::vector<std::string>{id});
    EXPECT_EQ(states()[id].state, "pending");
  }
  world.barrier("forgiven");
  EXPECT_EQ(run(sweep, fake_runner(marks)).states, (std::map<std::string, std::int64_t>{{"done", 3}}));
  EXPECT_EQ(states()[id].attempts, 4);
  done_looking();
}

TEST_F(Run, DivergedTrialCanBeTriedAgain) {
  const auto sweep = sweep_of(1);
  run(sweep, fake_runner(marks, [](const auto&, const auto&, const auto&, auto& record) { record.state = "diverged"; }));
  if (world.rank() == 0) {
    EXPECT_EQ(retry_trials(folder, {"diverged"}).size(), 1U);
  }
  world.barrier("forgiven");
  EXPECT_EQ(run(sweep, fake_runner(marks)).states, (std::map<std::string, std::int64_t>{{"done", 1}}));
  EXPECT_TRUE(fs::exists(trial_file(folder, sweep.trials[0].id).string() + ".retried"));
  done_looking();
}

TEST_F(Run, BudgetsAreByCause) {
  const auto sweep = sweep_of(1);
  RunOptions options = options_for(folder);
  options.limits.retries = parse_retries("failed=1,crashed=0");
  const auto failing =
      fake_runner(marks, [](const auto&, const auto&, const auto&, auto&) { throw Error(ErrorKind::internal, "the gate fell off"); });
  EXPECT_EQ(run_sweep(sweep, options, failing, world).states, (std::map<std::string, std::int64_t>{{"failed", 1}}));
  world.barrier("before the test looks");
  EXPECT_EQ(read_marks(marks)[sweep.trials[0].id].size(), 2U);
  done_looking();
  for (const char* wrong : {"failed", "failed=", "failed=-1", "failed=1x", "done=1", "=1", "failed=1,,crashed=2"})
    EXPECT_THROW(parse_retries(wrong), Error) << wrong;
}

TEST_F(Run, TooManyFailuresEndTheLaunch) {
  const auto sweep = sweep_of(24);
  RunOptions options = options_for(folder);
  options.limits.max_failures = 2;
  const auto failing = fake_runner(marks, [](const auto&, const auto&, const auto&, auto&) { throw Error(ErrorKind::internal, "no"); });
  const Outcome outcome = run_sweep(sweep, options, failing, world);
  world.barrier("before the test looks");
  EXPECT_TRUE(outcome.gave_up);
  EXPECT_GE(outcome.ran, 3);
  EXPECT_LE(outcome.ran, 2 + world.size()) << "each rank may have begun one more";
  done_looking();
  const Outcome next = run_sweep(sweep, options, fake_runner(marks), world);
  EXPECT_FALSE(next.gave_up) << "failures of earlier launches do not count";
  world.barrier("second");
  done_looking();
}

TEST_F(Run, FirstFailureStopsTheOthersWhenAskedTo) {
  if (world.size() < 2) GTEST_SKIP() << "needs a trial beside the failing one";
  const auto sweep = sweep_of(world.size());
  RunOptions options = options_for(folder);
  options.limits.fail_fast = true;
  const auto runner = fake_runner(marks, [](const auto& config, const auto&, const auto& run, auto& record) {
    if (config.seed == 1) throw Error(ErrorKind::internal, "no");
    while (!run.stop->load()) std::this_thread::sleep_for(std::chrono::milliseconds(5));
    record.state = "preempted";
  });
  const Outcome outcome = run_sweep(sweep, options, runner, world);
  EXPECT_TRUE(outcome.gave_up || outcome.stopped);
  EXPECT_EQ(outcome.states, (std::map<std::string, std::int64_t>{{"failed", 1}, {"preempted", world.size() - 1}}));
  world.barrier("before the folder goes");
}

TEST_F(Run, TrialLongerThanItsTimeoutIsTimedOut) {
  const auto sweep = sweep_of(2);
  RunOptions options = options_for(folder);
  options.limits.trial_timeout_seconds = 0.3;
  const auto runner = fake_runner(marks, [](const auto& config, const auto&, const auto& run, auto& record) {
    if (config.seed != 1) return;
    while (!run.stop->load()) std::this_thread::sleep_for(std::chrono::milliseconds(5));
    record.state = "preempted";
  });
  const Outcome outcome = run_sweep(sweep, options, runner, world);
  world.barrier("before the test looks");
  EXPECT_FALSE(outcome.stopped);
  EXPECT_EQ(outcome.states, (std::map<std::string, std::int64_t>{{"done", 1}, {"timed_out", 1}}));
  EXPECT_NE(states()[sweep.trials[0].id].reason.find("--trial-timeout"), std::string::npos);
  done_looking();
}

TEST_F(Run, DeadlineStopsWhatRunsAndStartsNothingThatCannotEnd) {
  const auto sweep = sweep_of(3 * world.size());
  RunOptions options = options_for(folder);
  options.limits.deadline_seconds = 3;  // a launch of several ranks on a busy machine has begun by then
  const auto waiting = fake_runner(marks, [](const auto&, const auto&, const auto& run, auto& record) {
    while (!run.stop->load()) std::this_thread::sleep_for(std::chrono::milliseconds(5));
    record.state = "preempted";
  });
  const Outcome outcome = run_sweep(sweep, options, waiting, world);
  world.barrier("before the test looks");
  EXPECT_TRUE(outcome.stopped);
  EXPECT_EQ(outcome.ran, world.size());
  EXPECT_FALSE(any_failed(outcome.states));
  done_looking();
  options.limits.deadline_seconds = 1e-9;  // every trial takes longer, so each may begin: but not with nothing left
  EXPECT_EQ(run_sweep(sweep, options, fake_runner(marks), world).ran, 0);
  world.barrier("second");
}

TEST_F(Run, DispatchIsCounted) {
  const auto sweep = sweep_of(40);
  const Outcome outcome = run(sweep, fake_runner(marks));
  EXPECT_EQ(outcome.dispatch.claims_made, 40);
  EXPECT_GE(outcome.dispatch.claims_tried, 40);
  EXPECT_GT(outcome.dispatch.seconds, 0.0);
  if (world.rank() == 0)
    std::printf("dispatch on %d ranks: %.3f ms and %.2f claims tried a trial\n", world.size(), 1e3 * outcome.dispatch.seconds_per_claim(),
                outcome.dispatch.tried_per_claim());
  done_looking();
}

TEST_F(Run, DamagedCheckpointIsSetAsideAndTheTrialStartsAfresh) {
  if (world.size() == 3) GTEST_SKIP() << "gangs of one and of two show it";
  const auto sweep = sweep_of(1, {world.size()});
  const fs::path checkpoint = trial_folder(folder, sweep.trials[0].id) / "checkpoint.h5";
  if (world.rank() == 0) {
    fs::create_directories(checkpoint.parent_path());
    publish_text(checkpoint, "torn");
  }
  world.barrier("damage done");
  const Outcome outcome = run(sweep, fake_runner(marks, [](const auto&, const auto& gang, const auto& options, auto&) {
                                gang.agree(
                                    [&] {
                                      const fs::path file = options.folder / "checkpoint.h5";
                                      if (fs::exists(file)) throw Error(ErrorKind::corrupt, "not an HDF5 file", file.string());
                                    },
                                    "opening of a checkpoint");
                              }));
  EXPECT_EQ(outcome.states, (std::map<std::string, std::int64_t>{{"done", 1}}));
  EXPECT_EQ(read_text(checkpoint.string() + ".damaged"), "torn");
  EXPECT_NE(read_text(checkpoint.parent_path() / "log.txt").find("the trial starts from its beginning"), std::string::npos);
  done_looking();
}

TEST_F(Run, ARankThatOpensItsDataForLongHoldsTheOthersBackNoLongerThanThat) {
  auto sweep = sweep_of(2, {world.size()});
  for (spec::Trial& trial : sweep.trials) trial.config.comm.timeout_seconds = 1;
  Runner runner = fake_runner(marks, [](const auto&, const auto& gang, const auto&, auto&) { gang.sum(1, "a step"); });
  if (world.rank() != 0)
    runner.open_data = [](const data::DataConfig&) {
      std::this_thread::sleep_for(std::chrono::seconds(3));
      return std::make_unique<FakeSource>("d1");
    };
  const Outcome outcome = run(sweep, runner);
  EXPECT_EQ(outcome.states, (std::map<std::string, std::int64_t>{{"done", 2}}));
  done_looking();
}

TEST_F(Run, DataThatOneRankCannotOpenFailsTheTrialAlone) {
  if (world.size() == 1) GTEST_SKIP() << "needs a rank that does not lead";
  auto sweep = sweep_of(2, {world.size()});
  sweep.trials[1].config.data.domains = {"other"};
  sweep.trials[1].id = train::id_of(sweep.trials[1].config);
  Runner runner = fake_runner(marks, [](const auto&, const auto& gang, const auto&, auto&) { gang.sum(1, "a step"); });
  if (world.rank() != 0)
    runner.open_data = [](const data::DataConfig& config) {
      if (config.domains.front() == "other") throw Error(ErrorKind::corrupt, "has another digest than the manifest says", "a.u16");
      return std::make_unique<FakeSource>("d1");
    };
  const Outcome outcome = run(sweep, runner);
  EXPECT_EQ(outcome.states, (std::map<std::string, std::int64_t>{{"done", 1}, {"failed", 1}}));
  EXPECT_NE(states()[sweep.trials[1].id].reason.find("has another digest than the manifest says"), std::string::npos);
  done_looking();
}

TEST_F(Run, GangsHaveTheRanksOfTheirTrialAndTooLargeOnesAreSkippedWithAReason) {
  const auto sweep = sweep_of(8, {1, 2});
  std::atomic<int> wrong{0};
  const Outcome outcome = run(sweep, fake_runner(marks, [&](const auto& config, const auto& gang, const auto&, auto&) {
                                if (gang.size() != config.ranks()) ++wrong;
                                if (gang.sum(1, "count of the gang") != config.ranks()) ++wrong;
                              }));
  EXPECT_EQ(wrong, 0);
  if (world.size() == 1) {
    EXPECT_EQ(outcome.states, (std::map<std::string, std::int64_t>{{"done", 4}, {"skipped", 4}}));
    EXPECT_EQ(states()[sweep.trials[1].id].reason, "needs 2 ranks (parallel.expert * parallel.data), this world has 1");
  } else {
    EXPECT_EQ(outcome.states, (std::map<std::string, std::int64_t>{{"done", 8}}));
  }
  done_looking();
}

TEST_F(Run, TrialsKeepTheGangThatTheyWerePlannedWith) {
  if (world.size() < 2) GTEST_SKIP() << "needs a gang of two";
  const auto runs_of = [&](const spec::Sweep& sweep, bool layout_given) {
    RunOptions options = options_for(folder);
    options.layout_given = layout_given;
    run_sweep(sweep, options, fake_runner(marks, [](const auto&, const auto&, const auto&, auto& record) { record.state = "preempted"; }), world);
    world.barrier("before the test looks");
  };
  runs_of(sweep_of(1, {2}), false);
  runs_of(sweep_of(1), false);
  runs_of(sweep_of(1), true);
  EXPECT_EQ(read_marks(marks).begin()->second, (std::vector<std::string>{"2", "2", "1"}));
  done_looking();
}

TEST_F(Run, FailureThatAGangAgreesOnIsARow) {
  if (world.size() < 2) GTEST_SKIP() << "needs a gang of two";
  const auto sweep = sweep_of(4, {2});
  const Outcome outcome = run(sweep, fake_runner(marks, [](const auto& config, const auto& gang, const auto&, auto&) {
                                gang.agree(
                                    [&] {
                                      if (config.seed == 2 && gang.rank() == 1) throw Error(ErrorKind::data, "a page is torn");
                                    },
                                    "agreement of the test");
                              }));
  EXPECT_EQ(outcome.states, (std::map<std::string, std::int64_t>{{"done", 3}, {"failed", 1}}));
  EXPECT_EQ(states()[sweep.trials[1].id].reason, "[Rank 1/2] a page is torn");
  done_looking();
}

TEST_F(Run, DivergedTrialLeavesItsFile) {
  const auto sweep = sweep_of(2);
  const auto runner = fake_runner(marks, [](const auto& config, const auto&, const auto&, auto& record) {
    if (config.seed == 1) {
      record.state = "diverged";
      record.reason = "loss 120 at step 3 is above train.loss_limit = 100";
    }
  });
  EXPECT_TRUE(any_failed(run(sweep, runner).states));
  EXPECT_EQ(store::read_trial(trial_file(folder, sweep.trials[0].id)).state, "diverged");
  EXPECT_EQ(run(sweep, runner).ran, 0);
  done_looking();
}

TEST_F(Run, DamagedTrialFileIsMadeAgain) {
  const auto sweep = sweep_of(3);
  run(sweep, fake_runner(marks));
  if (world.rank() == 0) publish_text(trial_file(folder, sweep.trials[1].id), "torn");
  world.barrier("damage done");
  const Outcome again = run(sweep, fake_runner(marks));
  EXPECT_EQ(again.ran, 1);
  EXPECT_EQ(read_text(trial_file(folder, sweep.trials[1].id).string() + ".damaged"), "torn");
  EXPECT_TRUE(again.unreadable.empty());
  EXPECT_TRUE(store::find_trial(trial_file(folder, sweep.trials[1].id), sweep.trials[1].id).valid());
  EXPECT_EQ(states()[sweep.trials[1].id].attempts, 2);
  done_looking();
}

TEST_F(Run, TrialFileThatCannotBeReadIsLeftAloneAndTheOthersRun) {
  const auto sweep = sweep_of(4);
  auto fewer = sweep;
  fewer.trials.resize(3);
  run(fewer, fake_runner(marks));
  const std::string id = sweep.trials[1].id;
  const fs::path file = trial_file(folder, id), kept = shared.path() / "kept.h5";
  const auto lines_of = [&] {
    const auto events = store::read_journal(folder).events;
    return std::ranges::count_if(events, [&](const Json& event) { return event.value("trial", "") == id; });
  };
  const auto lines = lines_of();
  done_looking();
  if (world.rank() == 0) {
    fs::rename(file, kept);
    fs::create_symlink("trial.h5", file);  // to itself: nobody can open it
  }
  world.barrier("it cannot be read");
  const Outcome outcome = run(sweep, fake_runner(marks));
  EXPECT_EQ(outcome.ran, 1);
  EXPECT_EQ(outcome.states, (std::map<std::string, std::int64_t>{{"done", 3}, {"unreadable", 1}}));
  ASSERT_EQ(outcome.unreadable.size(), 1U) << "on every rank";
  EXPECT_NE(outcome.unreadable.at(id).find(file.string()), std::string::npos) << outcome.unreadable.at(id);
  EXPECT_TRUE(fs::is_symlink(file)) << "it is neither replaced nor renamed";
  EXPECT_EQ(lines_of(), lines) << "the journal says what it said";
  EXPECT_EQ(run(sweep, fake_runner(marks)).unreadable.size(), 1U) << "with nothing to do too";
  if (world.rank() == 0) {
    fs::remove(file);
    fs::rename(kept, file);
  }
  world.barrier("it can be read again");
  const Outcome after = run(sweep, fake_runner(marks));
  EXPECT_EQ(after.ran, 0);
  EXPECT_EQ(after.states, (std::map<std::string, std::int64_t>{{"done", 4}}));
  done_looking();
}

TEST_F(Run, CheckpointThatCannotBeReadIsNoDamagedOne) {
  const auto sweep = sweep_of(3);
  const fs::path checkpoint = trial_folder(folder, sweep.trials[1].id) / "checkpoint.h5";
  if (world.rank() == 0) {
    fs::create_directories(checkpoint.parent_path());
    fs::create_symlink("checkpoint.h5", checkpoint);
  }
  world.barrier("it cannot be read");
  const Outcome outcome = run(sweep, fake_runner(marks));
  EXPECT_EQ(outcome.states, (std::map<std::string, std::int64_t>{{"done", 2}, {"unreadable", 1}}));
  ASSERT_TRUE(outcome.unreadable.contains(sweep.trials[1].id));
  EXPECT_NE(outcome.unreadable.at(sweep.trials[1].id).find(checkpoint.string()), std::string::npos);
  EXPECT_TRUE(fs::is_symlink(checkpoint));
  EXPECT_FALSE(fs::exists(checkpoint.parent_path() / "attempt-1"));
  done_looking();
}

TEST_F(Run, CheckpointThatFailsWhileItIsReadLeavesTheTrialOpen) {
  if (world.size() == 3) GTEST_SKIP() << "gangs of one and of two show it";
  const auto sweep = sweep_of(2, {world.size()});
  const fs::path trial = trial_folder(folder, sweep.trials[0].id);
  if (world.rank() == 0) {
    fs::create_directories(trial);
    publish_text(trial / "checkpoint.h5", "whole");
  }
  world.barrier("a checkpoint");
  const auto failing = fake_runner(marks, [](const auto& config, const auto& gang, const auto& options, auto&) {
    gang.agree(
        [&] {
          if (config.seed == 1) throw Error(ErrorKind::io, "cannot read: Stale file handle", (options.folder / "checkpoint.h5").string());
        },
        "opening of a checkpoint");
  });
  const Outcome outcome = run(sweep, failing);
  EXPECT_EQ(outcome.states, (std::map<std::string, std::int64_t>{{"done", 1}, {"unreadable", 1}}));
  const auto status = states()[sweep.trials[0].id];
  EXPECT_EQ(status.state, "preempted");
  EXPECT_NE(status.reason.find("Stale file handle"), std::string::npos);
  EXPECT_TRUE(status.charges.empty());
  EXPECT_EQ(read_text(trial / "checkpoint.h5"), "whole");
  done_looking();
  EXPECT_EQ(run(sweep, fake_runner(marks)).states, (std::map<std::string, std::int64_t>{{"done", 2}}));
  done_looking();
}

TEST_F(Run, InputThatATrialNamesIsTheTrialsOwnFailureAndTheOthersGoOn) {
  if (world.size() == 3) GTEST_SKIP() << "gangs of one and of two show it";
  const auto sweep = sweep_of(4, {world.size()});
  const auto failing = fake_runner(marks, [](const auto& config, const auto& gang, const auto&, auto&) {
    gang.agree(
        [&] {
          if (config.seed == 1) throw Error(ErrorKind::io, "cannot read: No such file or directory", "/elsewhere/runs/init.h5");
          if (config.seed == 2) throw Error(ErrorKind::data, "it is not there", "/elsewhere/import.h5");
          if (config.seed == 3) throw Error(ErrorKind::corrupt, "not an HDF5 file", "/elsewhere/replay.h5");
        },
        "opening of what the trial names");
  });
  EXPECT_EQ(run(sweep, failing).states, (std::map<std::string, std::int64_t>{{"done", 1}, {"failed", 3}}));
  EXPECT_NE(states()[sweep.trials[0].id].reason.find("/elsewhere/runs/init.h5: "), std::string::npos) << states()[sweep.trials[0].id].reason;
  EXPECT_NE(states()[sweep.trials[0].id].reason.find("No such file or directory"), std::string::npos);
  EXPECT_TRUE(states()[sweep.trials[0].id].final);
  EXPECT_EQ(run(sweep, failing).ran, 0);
  done_looking();
}

TEST_F(Run, DiskThatFailsInTheFolderEndsTheLaunchByWhateverPath) {
  if (world.size() > 1) GTEST_SKIP() << "it ends a world of several ranks";
  const auto sweep = sweep_of(1);
  const fs::path link = shared.path() / "link";
  for (const int way : {0, 1, 2, 3}) {
    const auto failing = fake_runner(marks, [&](const auto&, const auto&, const auto& options, auto&) {
      const fs::path file = options.folder / "checkpoint.h5";
      if (way == 0) throw Error(ErrorKind::io, "cannot write: No space left on device", file.string());
      if (way == 1) throw Error(ErrorKind::io, "cannot write: No space left on device", (link / "sweep.h5").string());
      if (way == 2) throw Error(ErrorKind::io, "cannot write: No space left on device");
      throw fs::filesystem_error("rename", file, std::make_error_code(std::errc::io_error));
    });
    if (way == 1) fs::create_directory_symlink(folder, link);
    try {
      run(sweep, failing);
      ADD_FAILURE() << "the launch went on, " << way;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::io) << way;
    }
    EXPECT_TRUE(states()[sweep.trials[0].id].charges.empty()) << way;
  }
  EXPECT_EQ(run(sweep, fake_runner(marks)).states, (std::map<std::string, std::int64_t>{{"done", 1}}));
}

TEST_F(Run, DataThatCannotBeReadJustNowLeavesItsTrialOpen) {
  if (world.size() > 1) GTEST_SKIP() << "of a gang that does not agree on it the world ends, as for a disk";
  class BrokenSource final : public data::Source {
   public:
    std::int64_t vocabulary() const override { return 2; }
    std::int64_t domains() const override { return 1; }
    std::string digest() const override { return "d1"; }
    double bytes_per_token(std::int64_t) const override { return 1; }
    data::Batch training(std::int64_t, std::int64_t, std::int64_t, std::int64_t, std::int64_t) const override {
      throw Error(ErrorKind::io, "cannot read: Stale file handle", "/elsewhere/store/tokens.bin");
    }
    data::Batch validation(std::int64_t, std::int64_t) const override { return {}; }
    std::int64_t validation_sequences(std::int64_t) const override { return 0; }
  };
  const auto sweep = sweep_of(3);
  Runner runner = fake_runner(marks);
  runner.open_data = [](const data::DataConfig&) { return std::make_unique<BrokenSource>(); };
  runner.run_trial = [](const train::TrialConfig& config, const data::Source& source, const comm::Communicator&, const train::RunOptions&) {
    if (config.seed == 2) (void)source.training(1, 1, 1, 0, 1);
    return record_of(config);
  };
  const Outcome outcome = run(sweep, runner);
  EXPECT_EQ(outcome.states, (std::map<std::string, std::int64_t>{{"done", 2}, {"unreadable", 1}}));
  EXPECT_TRUE(states()[sweep.trials[1].id].charges.empty());
  EXPECT_EQ(run(sweep, fake_runner(marks)).states, (std::map<std::string, std::int64_t>{{"done", 3}}));
}

TEST_F(Run, JournalTellsOfThePublishedFileAndOfWarnings) {
  const auto sweep = sweep_of(4);  // losses 4 to 7; a uniform guess of 256 tokens has 5.545
  run(sweep, fake_runner(marks));
  const auto known = states();
  const auto standings = standings_of(folder, read_plan(folder));
  for (std::size_t i = 0; i < 4; ++i) {
    const std::string& id = sweep.trials[i].id;
    const auto bytes = read_text(trial_file(folder, id));
    EXPECT_EQ(known.at(id).published.sha256, sha256_hex(bytes));
    EXPECT_EQ(known.at(id).published.bytes, static_cast<std::int64_t>(bytes.size()));
    EXPECT_EQ(known.at(id).warnings, i < 2 ? std::vector<std::string>{} : std::vector<std::string>{"no_better_than_uniform"}) << i;
    EXPECT_EQ(standings.trials[i].status.warnings, known.at(id).warnings);
  }
  done_looking();
}

TEST_F(Run, FileWhoseWriterDiedBeforeTheJournalIsToldWithItsDigestAndWarnings) {
  const auto sweep = sweep_of(4);
  run(sweep, fake_runner(marks));
  done_looking();
  if (world.rank() == 0)
    for (const auto& entry : fs::directory_iterator(folder / "journal"))
      if (entry.path().extension() == ".jsonl") fs::remove(entry.path());
  world.barrier("as if no line had been written");
  EXPECT_EQ(run(sweep, fake_runner(marks)).ran, 0);
  const auto status = states().at(sweep.trials[3].id);
  EXPECT_EQ(status.state, "done");
  EXPECT_EQ(status.published.sha256, sha256_hex(read_text(trial_file(folder, sweep.trials[3].id))));
  EXPECT_EQ(status.warnings, std::vector<std::string>{"no_better_than_uniform"});
  done_looking();
}

TEST_F(Run, JournalOfOthersIsWarnedOfAndStopsNothing) {
  const auto sweep = sweep_of(2);
  if (world.rank() == 0) {
    fs::create_directories(folder / "journal");
    std::ofstream foreign(folder / "journal" / "foreign.jsonl");
    for (const auto& trial : sweep.trials)
      foreign << Json{{"event", "started"}, {"trial", trial.id}, {"attempt", 1}, {"owner", {{"process", "x"}}}}.dump() << "\n"
              << Json{{"event", "ended"}, {"trial", trial.id}, {"attempt", 2147483648}, {"state", "preempted"}}.dump() << "\n";
    foreign.close();
    ASSERT_EQ(::mkfifo((folder / "journal" / "pipe.jsonl").c_str(), 0666), 0);
  }
  world.barrier("foreign lines");
  EXPECT_EQ(run(sweep, fake_runner(marks)).states, (std::map<std::string, std::int64_t>{{"done", 2}}));
  EXPECT_EQ(store::read_journal(folder).problems.size(), 5U);
  done_looking();
}

TEST_F(Run, TwoMetricsOfOneNameAreTheTrialsOwnFailure) {
  const auto sweep = sweep_of(2);
  const Outcome outcome = run(sweep, fake_runner(marks, [](const auto& config, const auto&, const auto&, auto& record) {
                                const std::vector<double> one{1.0};
                                if (config.seed == 1) record.arrays.push_back(store::make_array("summary/loss", {1}, one, "1", "", true));
                              }));
  EXPECT_EQ(outcome.states, (std::map<std::string, std::int64_t>{{"done", 1}, {"failed", 1}}));
  const std::string reason = states()[sweep.trials[0].id].reason;
  EXPECT_NE(reason.find("evaluations/loss"), std::string::npos) << reason;
  EXPECT_NE(reason.find("summary/loss"), std::string::npos) << reason;
  done_looking();
}

TEST_F(Run, NothingInATrialsFolderIsTouchedThroughALink) {
  const auto sweep = sweep_of(2);
  const fs::path elsewhere = shared.path() / "elsewhere", trial = trial_folder(folder, sweep.trials[0].id);
  if (world.rank() == 0) {
    fs::create_directories(elsewhere);
    publish_text(elsewhere / ".trial.h5.node.17.0.tmp", "precious");
    publish_text(elsewhere / "checkpoint.h5", "precious");
    fs::create_directories(trial.parent_path());
    fs::create_directory_symlink(elsewhere, trial);
  }
  world.barrier("a link in place of a folder");
  const Outcome outcome = run(sweep, fake_runner(marks));
  EXPECT_EQ(outcome.states, (std::map<std::string, std::int64_t>{{"done", 1}, {"unreadable", 1}}));
  EXPECT_EQ(std::distance(fs::directory_iterator(elsewhere), {}), 2);
  EXPECT_EQ(read_text(elsewhere / "checkpoint.h5"), "precious");
  done_looking();
}

TEST_F(Run, LogThatIsAPipeIsNotWaitedFor) {
  const auto sweep = sweep_of(1);
  const fs::path trial = trial_folder(folder, sweep.trials[0].id);
  if (world.rank() == 0) {
    fs::create_directories(trial);
    ASSERT_EQ(::mkfifo((trial / "log.txt").c_str(), 0666), 0);
  }
  world.barrier("a pipe in place of a log");
  EXPECT_EQ(run(sweep, fake_runner(marks)).states, (std::map<std::string, std::int64_t>{{"done", 1}}));
  EXPECT_TRUE(fs::is_fifo(trial / "log.txt"));
  done_looking();
}

TEST_F(Run, RetryKeepsEarlierFilesAndFollowsNoLink) {
  if (world.size() > 1) GTEST_SKIP() << "one rank shows it";
  const auto sweep = sweep_of(2);
  const auto diverging = fake_runner(marks, [](const auto&, const auto&, const auto&, auto& record) { record.state = "diverged"; });
  run(sweep, diverging);
  const fs::path file = trial_file(folder, sweep.trials[0].id), other = trial_file(folder, sweep.trials[1].id);
  publish_text(file.string() + ".retried", "of an earlier retry");
  const fs::path elsewhere = shared.path() / "elsewhere.h5";
  fs::rename(other, elsewhere);
  fs::create_symlink(elsewhere, other);
  EXPECT_THROW(retry_trials(folder, {"diverged"}), Error) << "one of them is a link";
  EXPECT_EQ(read_text(file.string() + ".retried"), "of an earlier retry");
  EXPECT_TRUE(fs::exists(file.string() + ".retried.2")) << "the other is forgiven all the same";
  EXPECT_EQ(states()[sweep.trials[0].id].state, "pending");
  EXPECT_EQ(states()[sweep.trials[1].id].state, "diverged");
  EXPECT_TRUE(fs::is_symlink(other) && fs::exists(elsewhere));
}

TEST_F(Run, RetryLeavesTheFolderForNoId) {
  if (world.size() > 1) GTEST_SKIP() << "one rank shows it";
  const auto sweep = sweep_of(1);
  run(sweep, fake_runner(marks, [](const auto&, const auto&, const auto&, auto& record) { record.state = "diverged"; }));
  const fs::path outside = shared.path() / "x";
  fs::create_directories(outside);
  publish_text(outside / "trial.h5", "precious");
  const std::string id = "../../../x";
  Json plan = Json::parse(read_text(folder / "plan.json"));
  plan["trials"][0]["id"] = id;
  publish_text(folder / "plan.json", plan.dump());
  fs::create_directories(folder / "trials" / "..");
  store::JournalWriter(folder, "l", "w").write("ended", {{"trial", id}, {"attempt", 1}, {"state", "diverged"}});
  try {
    retry_trials(folder, {"diverged"});
    ADD_FAILURE() << "such an id was taken";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::corrupt);
    EXPECT_NE(error.message().find("trials[0].id"), std::string::npos) << error.message();
  }
  EXPECT_EQ(read_text(outside / "trial.h5"), "precious");
}

TEST_F(Run, StopPreemptsAndTheNextLaunchGoesOn) {
  const auto sweep = sweep_of(6);
  std::atomic<bool> stop{false};
  const auto stopping = fake_runner(marks, [&](const auto&, const auto&, const auto& options, auto& record) {
    stop = true;  // the signal comes while the trial runs
    while (!options.stop->load()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    record.state = "preempted";
  });
  const Outcome first = run(sweep, stopping, &stop);
  EXPECT_TRUE(first.stopped);
  EXPECT_EQ(first.ran, world.size());
  EXPECT_FALSE(any_failed(first.states));
  EXPECT_FALSE(fs::exists(trial_file(folder, sweep.trials[0].id)));
  const Outcome second = run(sweep, fake_runner(marks));
  EXPECT_FALSE(second.stopped);
  EXPECT_EQ(second.states, (std::map<std::string, std::int64_t>{{"done", 6}}));
  int twice = 0;
  for (const auto& [id, status] : states()) twice += status.attempts == 2 ? 1 : 0;
  EXPECT_EQ(twice, world.size());
  done_looking();
}

TEST_F(Run, StopThatComesAfterTheLastTrialIsNone) {
  if (world.size() > 1) GTEST_SKIP() << "of several ranks one may come to its first trial after the stop";
  std::atomic<bool> stop{false};
  const Outcome outcome = run(sweep_of(1), fake_runner(marks, [&](const auto&, const auto&, const auto&, auto&) { stop = true; }), &stop);
  EXPECT_FALSE(outcome.stopped);
  EXPECT_EQ(outcome.states, (std::map<std::string, std::int64_t>{{"done", 1}}));
}

TEST_F(Run, CheckpointOfAFinishedTrialGoesUnlessItIsKept) {
  auto sweep = sweep_of(2);
  sweep.trials[1].config.checkpoint.keep = train::Keep::final_only;
  run(sweep, fake_runner(marks));
  const auto checkpoint = [&](std::size_t i) { return trial_folder(folder, sweep.trials[i].id) / "checkpoint.h5"; };
  if (world.rank() == 0)
    for (const std::size_t i : {0, 1}) publish_text(checkpoint(i), "left behind");
  world.barrier("as after a death between trial.h5 and the removal");
  run(sweep, fake_runner(marks));
  EXPECT_FALSE(fs::exists(checkpoint(0)));
  EXPECT_TRUE(fs::exists(checkpoint(1)));
  done_looking();
}

TEST_F(Run, OwnShardGoesFirstThenWhatNobodyClaimed) {
  if (world.size() > 1) GTEST_SKIP() << "one rank shows the order";
  const auto sweep = sweep_of(6);
  std::vector<std::string> order;
  RunOptions options = options_for(folder);
  options.shard = {1, 3};
  run_sweep(sweep, options, fake_runner(marks, [&](const auto& config, const auto&, const auto&, auto&) { order.push_back(train::id_of(config)); }),
            world);
  std::vector<std::string> ids;
  for (const auto& trial : sweep.trials) ids.push_back(trial.id);
  std::ranges::sort(ids);  // equal costs are dealt by id
  ASSERT_EQ(order.size(), 6U);
  EXPECT_EQ(order[0], ids[1]);
  EXPECT_EQ(order[1], ids[4]);
}

TEST_F(Run, FolderMadeWithOtherDataIsRefusedOnEveryRank) {
  run(sweep_of(2), fake_runner(marks));
  try {
    run(sweep_of(2), fake_runner(marks, nullptr, "d2"));
    ADD_FAILURE() << "another digest was taken";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::data);
    EXPECT_NE(error.message().find("has digest d2, but this folder was made with d1"), std::string::npos) << error.message();
    EXPECT_NE(error.hint().find("--out"), std::string::npos);
  }
  done_looking();
}

TEST_F(Run, ProgressIsJournaled) {
  const auto sweep = sweep_of(1);
  RunOptions options = options_for(folder);
  options.progress_seconds = 0.0;
  run_sweep(sweep, options,
            fake_runner(marks,
                        [](const auto&, const auto& gang, const auto& run, auto&) {
                          if (gang.rank() == 0) run.observer->on_step({7, 200, 4.5, 1000.0});
                          throw Error(ErrorKind::internal, "enough");
                        }),
            world);
  world.barrier("run");
  const auto status = states()[sweep.trials[0].id];
  EXPECT_EQ(status.step, 7);
  EXPECT_DOUBLE_EQ(status.loss, 4.5);
  EXPECT_EQ(standings_of(folder, read_plan(folder)).trials[0].steps, 200);
  done_looking();
}

}  // namespace
}  // namespace moesweep::launch
