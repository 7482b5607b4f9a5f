// Claims: who may run a trial when an earlier attempt is there. Every rank works in a folder of its own.
#include "launch/claim.hpp"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <fstream>

#include "fake.hpp"
#include "launch/own_files.hpp"
#include "moesweep/core/publish.hpp"
#include "moesweep/launch/command.hpp"

namespace moesweep::launch {
namespace {

using namespace testing;  // NOLINT: the fakes of this folder

class ClaimsTest : public ::testing::Test {
 protected:
  comm::Communicator self = comm::Communicator::self();
  SharedFolder shared{self};
  fs::path folder = shared.path();
  spec::Sweep sweep = sweep_of(1);
  std::string id = sweep.trials[0].id;
  Owner me = this_process("launch-2", "r0");
  store::JournalWriter journal{folder, "launch-2", "r0"};

  Claims claims() { return claims(me); }
  Claims claims(const Owner& who, const Retries& retries = {}) {
    return {folder, who, retries, [this]() -> store::JournalWriter& { return journal; }};
  }
  void leave_attempt(const Owner& owner) {
    const fs::path attempt = trial_folder(folder, id) / "attempt-1";
    fs::create_directories(attempt);
    publish_text(attempt / "claim.json", owner.json().dump());
    store::JournalWriter(folder, owner.launch, "r0").write("started", {{"trial", id}, {"attempt", 1}, {"owner", owner.json()}});
  }
  Owner other() { return this_process("launch-1", "r0"); }
  Owner dead() {
    Owner owner = other();
    owner.started += 1;  // the process id is in use by another process
    return owner;
  }
};

TEST_F(ClaimsTest, FirstComesFirst) {
  EXPECT_EQ(claims().try_claim(id).result, Claim::Result::claimed);
  EXPECT_EQ(owner_of(trial_folder(folder, id), 1)->launch, "launch-2");
  EXPECT_EQ(claims(other()).try_claim(id).result, Claim::Result::taken);
  EXPECT_EQ(last_attempt(trial_folder(folder, id)), 1);
  for (const auto& entry : fs::directory_iterator(trial_folder(folder, id)))
    EXPECT_EQ(entry.path().filename(), "attempt-1") << "nothing is left over";
}

TEST_F(ClaimsTest, LivingOwnerKeepsItsTrial) {
  leave_attempt(other());
  EXPECT_EQ(claims().try_claim(id).result, Claim::Result::taken);
}

TEST_F(ClaimsTest, OwnerThatCannotBeAskedKeepsItsTrial) {
  Owner elsewhere = dead();
  elsewhere.host = "elsewhere";
  elsewhere.boot = "another machine";
  leave_attempt(elsewhere);
  EXPECT_EQ(life_of(elsewhere, me), Life::unknown);
  EXPECT_EQ(claims().try_claim(id).result, Claim::Result::taken);
}

TEST_F(ClaimsTest, DeadOwnerLosesItAndTheJournalSaysCrashed) {
  leave_attempt(dead());
  const Claim claim = claims().try_claim(id);
  EXPECT_EQ(claim.result, Claim::Result::claimed);
  EXPECT_EQ(claim.attempt, 2);
  const auto status = store::fold(store::read_journal(folder))[id];
  EXPECT_EQ(status.state, "crashed");
  EXPECT_NE(status.reason.find("is gone"), std::string::npos);
}

TEST_F(ClaimsTest, RebootedMachineLostItsProcesses) {
  Owner before = dead();
  before.machine = me.machine = "this one";
  before.boot = "an earlier boot pid:[1]";
  EXPECT_EQ(life_of(before, me), Life::gone);
}

TEST_F(ClaimsTest, AnotherMachineOfTheSameNameKeepsItsTrial) {
  Owner twin = dead();
  twin.boot = "its own boot pid:[1]";
  me.machine = "this one";
  for (const char* machine : {"another one", ""}) {
    twin.machine = machine;
    EXPECT_EQ(life_of(twin, me), Life::unknown) << machine;
  }
  leave_attempt(twin);
  EXPECT_EQ(claims().try_claim(id).result, Claim::Result::taken);
}

TEST_F(ClaimsTest, ClaimThatCannotBeReadIsSomebodys) {
  const fs::path claim_file = trial_folder(folder, id) / "attempt-1" / "claim.json";
  fs::create_directories(claim_file);  // reading a folder is an i/o error for everybody
  std::string why;
  EXPECT_FALSE(owner_of(trial_folder(folder, id), 1, &why));
  EXPECT_NE(why.find(claim_file.string()), std::string::npos) << why;
  const Claim claim = claims().try_claim(id);
  EXPECT_EQ(claim.result, Claim::Result::unreadable);
  EXPECT_NE(claim.why.find(claim_file.string()), std::string::npos) << claim.why;
  EXPECT_TRUE(store::read_journal(folder).events.empty()) << "nothing is written of it";
  fs::remove(claim_file);
  ASSERT_EQ(::mkfifo(claim_file.c_str(), 0666), 0);
  EXPECT_EQ(claims().try_claim(id).result, Claim::Result::unreadable) << "a pipe is not waited for";
}

TEST_F(ClaimsTest, ClaimThatSaysNothingIsNobodys) {
  const std::string deep = std::string(200, '[') + std::string(200, ']');
  for (const std::string& text : {std::string(), std::string("{"), std::string("[]"), std::string(R"({"launch": "l", "process": "seven"})"),
                                  std::string(R"({"launch": "l", "process": 99999999999})"), std::string(R"({"launch": 7})"), deep}) {
    fs::create_directories(trial_folder(folder, id) / "attempt-1");
    publish_text(trial_folder(folder, id) / "attempt-1" / "claim.json", text);
    ASSERT_TRUE(owner_of(trial_folder(folder, id), 1)) << text;
    EXPECT_EQ(owner_of(trial_folder(folder, id), 1)->launch, "") << text;
  }
  EXPECT_EQ(claims().try_claim(id).attempt, 2);
}

TEST_F(ClaimsTest, AttemptsOfAbsurdNumbersAreNobodys) {
  const fs::path trial = trial_folder(folder, id);
  leave_attempt(dead());
  store::write_trial(trial_file(folder, id), record_of(sweep.trials[0].config));
  for (const char* name : {"attempt-2147483647", "attempt-999999999999", "attempt--5", "attempt-007", "attempt-3x", "attempt-", "attempt-1000001"})
    fs::create_directories(trial / name);
  EXPECT_EQ(last_attempt(trial), 1);
  const Claim claim = claims().try_claim(id);
  EXPECT_EQ(claim.result, Claim::Result::ended) << "what is done stays done";
  EXPECT_EQ(claim.state, "done");
  EXPECT_TRUE(store::read_journal(folder).problems.empty());
}

TEST_F(ClaimsTest, AfterTheGreatestNumberThereIsNoFurtherAttempt) {
  fs::create_directories(trial_folder(folder, id) / "attempt-1000000");
  const Claim claim = claims().try_claim(id);
  EXPECT_EQ(claim.result, Claim::Result::unreadable);
  EXPECT_NE(claim.why.find("attempt-1000000"), std::string::npos) << claim.why;
}

TEST_F(ClaimsTest, FoldersThatAreLinksAreLeftAlone) {
  const fs::path elsewhere = folder / "elsewhere", trial = trial_folder(folder, id);
  fs::create_directories(elsewhere / "attempt-1");
  publish_text(elsewhere / "attempt-1" / "claim.json", "{}");
  fs::create_directories(trial.parent_path());
  fs::create_directory_symlink(elsewhere, trial);
  Claim claim = claims().try_claim(id);
  EXPECT_EQ(claim.result, Claim::Result::unreadable);
  EXPECT_NE(claim.why.find(trial.string() + " is a link"), std::string::npos) << claim.why;
  fs::remove(trial);
  fs::create_directories(trial);
  fs::create_directory_symlink(elsewhere / "attempt-1", trial / "attempt-1");
  claim = claims().try_claim(id);
  EXPECT_EQ(claim.result, Claim::Result::unreadable);
  give_back(trial, 1);
  EXPECT_TRUE(fs::exists(elsewhere / "attempt-1" / "claim.json")) << "nothing is renamed through a link";
  EXPECT_EQ(std::distance(fs::directory_iterator(elsewhere), {}), 1) << "and nothing made";
}

TEST_F(ClaimsTest, AFileInTheWayOfAnAttemptConcernsItsTrialAlone) {
  fs::create_directories(trial_folder(folder, id));
  publish_text(trial_folder(folder, id) / "attempt-1", "mine");
  EXPECT_EQ(claims().try_claim(id).result, Claim::Result::unreadable);
  EXPECT_EQ(read_text(trial_folder(folder, id) / "attempt-1"), "mine");
}

TEST_F(ClaimsTest, FilesThatCannotBeReadJustNowAreLeftAlone) {
  leave_attempt(dead());
  const auto events = store::read_journal(folder).events.size();
  for (const char* name : {"trial.h5", "checkpoint.h5"}) {
    const fs::path file = trial_folder(folder, id) / name;
    fs::create_symlink(name, file);  // to itself: nobody can open it
    const Claim claim = claims().try_claim(id);
    EXPECT_EQ(claim.result, Claim::Result::unreadable) << name;
    EXPECT_NE(claim.why.find(file.string()), std::string::npos) << claim.why;
    EXPECT_TRUE(fs::is_symlink(file)) << name;
    if (name == std::string("trial.h5")) {
      EXPECT_EQ(store::read_journal(folder).events.size(), events) << "the journal says what it said";
    }
    fs::remove(file);
  }
  EXPECT_EQ(last_attempt(trial_folder(folder, id)), 1);
  EXPECT_EQ(claims().try_claim(id).attempt, 2);
}

TEST_F(ClaimsTest, WhatIsSetAsideReplacesNothing) {
  const fs::path file = folder / "trial.h5";
  for (const char* text : {"first", "second", "third"}) {
    publish_text(file, text);
    set_aside(file, ".damaged");
  }
  EXPECT_EQ(read_text(folder / "trial.h5.damaged"), "first");
  EXPECT_EQ(read_text(folder / "trial.h5.damaged.2"), "second");
  EXPECT_EQ(read_text(folder / "trial.h5.damaged.3"), "third");
  EXPECT_EQ(set_aside(file, ".damaged"), fs::path()) << "there is none any more";
  fs::create_symlink(folder / "trial.h5.damaged", file);
  EXPECT_THROW(set_aside(file, ".damaged"), Error);
  EXPECT_FALSE(remove_own(file));
  EXPECT_TRUE(fs::is_symlink(file));
  fs::create_directory_symlink(folder, folder / "link");
  publish_text(folder / "mine", "mine");
  EXPECT_THROW(set_aside(folder / "link" / "mine", ".damaged"), Error);
  EXPECT_FALSE(remove_own(folder / "link" / "mine"));
  EXPECT_EQ(read_text(folder / "mine"), "mine");
}

TEST_F(ClaimsTest, ProcessThatNeverWasIsGone) {
  Owner never = dead();
  never.process = 4194304 + 1;  // above the kernel's largest process id
  EXPECT_EQ(life_of(never, me), Life::gone);
}

TEST_F(ClaimsTest, RequeuedJobLostItsEarlierRun) {
  Owner before = dead();
  before.boot = "a node";
  before.host = "node-1";
  before.slurm_job = me.slurm_job = "17";
  before.slurm_restarts = "";
  me.slurm_restarts = "1";
  EXPECT_EQ(life_of(before, me), Life::gone);
}

TEST_F(ClaimsTest, ClaimWithoutAnOwnerIsFree) {
  fs::create_directories(trial_folder(folder, id) / "attempt-1");
  EXPECT_EQ(claims().try_claim(id).attempt, 2);
}

TEST_F(ClaimsTest, ValidTrialFileMeansFinishedWhateverTheJournalSays) {
  leave_attempt(dead());
  store::write_trial(trial_file(folder, id), record_of(sweep.trials[0].config));
  const Claim claim = claims().try_claim(id);
  EXPECT_EQ(claim.result, Claim::Result::ended);
  EXPECT_EQ(claim.state, "done");
  EXPECT_EQ(store::fold(store::read_journal(folder))[id].state, "done");
}

TEST_F(ClaimsTest, FailedTrialNeedsNoFurtherAttempt) {
  leave_attempt(dead());
  store::JournalWriter(folder, "launch-1", "r0").write("ended", {{"trial", id}, {"attempt", 1}, {"state", "failed"}, {"reason", "x"}});
  const Claim claim = claims().try_claim(id);
  EXPECT_EQ(claim.result, Claim::Result::ended);
  EXPECT_EQ(claim.state, "failed");
}

TEST_F(ClaimsTest, PreemptedTrialGoesOn) {
  leave_attempt(dead());
  store::JournalWriter(folder, "launch-1", "r0").write("ended", {{"trial", id}, {"attempt", 1}, {"state", "preempted"}, {"reason", ""}});
  EXPECT_EQ(claims().try_claim(id).attempt, 2);
  EXPECT_EQ(store::fold(store::read_journal(folder))[id].state, "preempted") << "it is not called crashed";
}

TEST(Commands, OutputWithoutAShell) {
  EXPECT_EQ(output_of({"echo", "$(hostname); x"}, 10), "$(hostname); x\n");
  EXPECT_FALSE(output_of({"false"}, 10));
  EXPECT_FALSE(output_of({"no-such-command-here"}, 10));
  EXPECT_FALSE(output_of({"sleep", "20"}, 0.2)) << "the timeout ends it";
}

}  // namespace
}  // namespace moesweep::launch
