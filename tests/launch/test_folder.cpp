// The sweep folder: its plan survives a round trip, names cannot leave the folder.
#include "moesweep/launch/folder.hpp"

#include <gtest/gtest.h>

#include "fake.hpp"
#include "moesweep/core/publish.hpp"
#include "moesweep/launch/provenance.hpp"

namespace moesweep::launch {
namespace {

using namespace testing;  // NOLINT: the fakes of this folder

class Folder : public ::testing::Test {
 protected:
  comm::Communicator self = comm::Communicator::self();
  SharedFolder shared{self};
  fs::path folder = shared.path() / "sweep";
  SweepPlan prepare(const spec::Sweep& sweep, bool layout_given = false) {
    return prepare_folder(
        folder, sweep, {{"host", "here"}}, [](const data::DataConfig&) { return "d1"; }, layout_given);
  }
};

TEST_F(Folder, PlanSurvivesARoundTrip) {
  auto sweep = sweep_of(2);
  sweep.trials[1].config.routing.balance.also.resize(1);
  sweep.trials[1].config.routing.balance.also[0].weight = 0.125;
  sweep.trials[1].config.train.tokens = 4096;
  sweep.trials[1].id = train::id_of(sweep.trials[1].config);
  const SweepPlan made = prepare(sweep), read = read_plan(folder);
  EXPECT_EQ(read.json(), made.json());
  for (std::size_t i = 0; i < 2; ++i) EXPECT_EQ(train::id_of(read.trials[i].config), sweep.trials[i].id);
  EXPECT_EQ(read.trials[1].config.ranks(), 1);
}

TEST_F(Folder, NothingIsWrittenWhenNothingChanges) {
  prepare(sweep_of(2));
  const auto before = fs::last_write_time(folder / "plan.json");
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  prepare(sweep_of(2));
  EXPECT_EQ(fs::last_write_time(folder / "plan.json"), before);
}

TEST_F(Folder, CostsStayAsTheyWerePlannedUntilTheConfigChanges) {
  prepare(sweep_of(2));
  Json json = Json::parse(read_text(folder / "plan.json"));
  const double seconds = json["trials"][0]["cost"]["seconds"];
  for (Json& trial : json["trials"]) trial["cost"]["seconds"] = 1234.5;  // as another machine estimated them
  publish_text(folder / "plan.json", json.dump());
  EXPECT_EQ(read_plan(folder).trials[0].cost.seconds, 1234.5);
  prepare(sweep_of(3));
  EXPECT_EQ(read_plan(folder).trials[0].cost.seconds, 1234.5);
  EXPECT_EQ(read_plan(folder).trials[2].cost.seconds, seconds) << "a new one is estimated here";
  prepare(sweep_of(3, {4}), true);
  EXPECT_NE(read_plan(folder).trials[0].cost.seconds, 1234.5) << "a new layout has a new cost";
}

TEST_F(Folder, LayoutStaysUnlessItIsGivenAnewWhichIsRecorded) {
  prepare(sweep_of(2, {2}), true);
  prepare(sweep_of(3));
  SweepPlan plan = read_plan(folder);
  EXPECT_EQ(plan.trials[0].config.ranks(), 2);
  EXPECT_EQ(plan.trials[0].cost.ranks, 2);
  EXPECT_TRUE(plan.trials[0].earlier_layouts.empty());
  EXPECT_EQ(plan.trials[2].config.ranks(), 1) << "a new trial has what the file says";
  prepare(sweep_of(3, {4}), true);
  plan = read_plan(folder);
  EXPECT_EQ(plan.trials[0].config.ranks(), 4);
  ASSERT_EQ(plan.trials[0].earlier_layouts.size(), 1U);
  EXPECT_EQ(plan.trials[0].earlier_layouts[0]["data"], 2);
}

TEST_F(Folder, SweepFileIsYamlWhoseTextsCannotBeMistaken) {
  auto sweep = sweep_of(1);
  sweep.resolved = {{"sweep", "no"}, {"base", {{"on", "a: b # c\n"}, {"factor", nullptr}}}, {"seeds", {1, 2}}, {"empty", Json::object()}};
  prepare(sweep);
  const std::string yaml = read_text(folder / "sweep.yaml");
  EXPECT_NE(yaml.find("sweep: \"no\"\nbase:\n  \"on\": \"a: b # c\\n\"\n  factor: none\nseeds: [1, 2]\nempty: {}\n"), std::string::npos) << yaml;
}

TEST_F(Folder, OtherFoldersAndDamagedPlansAreNamed) {
  try {
    read_plan(folder);
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::io);
    EXPECT_EQ(error.where(), folder.string());
  }
  fs::create_directories(folder);
  for (const char* text : {"{", "[]", "{\"format\": \"x\"}", "{\"format\": \"moesweep-plan\", \"version\": 99}"}) {
    publish_text(folder / "plan.json", text);
    try {
      read_plan(folder);
      ADD_FAILURE() << text;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::corrupt) << text;
      EXPECT_TRUE(error.where().starts_with((folder / "plan.json").string())) << error.where();
    }
  }
}

TEST_F(Folder, EachFieldOfAPlanHasATypeAndARange) {
  prepare(sweep_of(2));
  const Json good = Json::parse(read_text(folder / "plan.json"));
  struct Wrong {
    const char* pointer;
    Json value;
    const char* named;  ///< in the message
  };
  const std::vector<Wrong> table{
      {"/trials/0/id", "../../../../tmp/x", "trials[0].id"},
      {"/trials/0/id", 7, "trials[0].id"},
      {"/trials/0/id", "ABCDEF0123456789", "trials[0].id"},
      {"/trials/1/id", good["trials"][0]["id"], "trials[1].id"},
      {"/trials", 5, "trials"},
      {"/trials/0", "x", "trials[0]"},
      {"/trials/0/steps", -1, "trials[0].steps"},
      {"/trials/0/steps", "many", "trials[0].steps"},
      {"/trials/0/steps", 1e300, "trials[0].steps"},
      {"/trials/0/removed", "no", "trials[0].removed"},
      {"/trials/0/cost/seconds", -1.0, "trials[0].cost.seconds"},
      {"/trials/0/cost/seconds", "long", "trials[0].cost.seconds"},
      {"/trials/0/cost/training_tokens", 1.5, "trials[0].cost.training_tokens"},
      {"/trials/0/cost/ranks", 0, "trials[0].cost.ranks"},
      {"/trials/0/cost/memory", Json::array(), "trials[0].cost.memory"},
      {"/trials/0/cost", 3, "trials[0].cost"},
      {"/trials/0/data_digest", Json::object(), "trials[0].data_digest"},
      {"/trials/0/earlier_layouts", 3, "trials[0].earlier_layouts"},
      {"/trials/0/config", 3, "trials[0].config"},
      {"/trials/0/config/seed", "x", "trials[0].config.seed"},
      {"/trials/0/config/nothing", 1, "nothing"},
      {"/name", Json::array(), "name"},
      {"/resolved", 1, "resolved"},
      {"/provenance", "me", "provenance"},
      {"/version", "one", "version"},
      {"/version", 0, "version"},
      {"/format", 1, "format"},
  };
  for (const Wrong& wrong : table) {
    Json bad = good;
    bad[Json::json_pointer(wrong.pointer)] = wrong.value;
    publish_text(folder / "plan.json", bad.dump());
    try {
      read_plan(folder);
      ADD_FAILURE() << wrong.pointer << " " << wrong.value;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::corrupt) << wrong.pointer;
      EXPECT_TRUE(error.where().starts_with((folder / "plan.json").string())) << error.where();
      EXPECT_NE(error.message().find(wrong.named), std::string::npos) << wrong.pointer << ": " << error.message();
    }
  }
  for (const std::string& text : {std::string("\xff"), std::string(1000, '[') + std::string(1000, ']'), good.dump() + "x"}) {
    publish_text(folder / "plan.json", text);
    try {
      read_outline(folder);
      ADD_FAILURE() << text;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::corrupt);
    }
  }
  // The outline, which reads less, refuses what it reads.
  for (const char* pointer : {"/trials/0/id", "/trials/0/steps", "/trials/0/cost/seconds", "/name"}) {
    Json bad = good;
    bad[Json::json_pointer(pointer)] = Json::object();
    publish_text(folder / "plan.json", bad.dump());
    EXPECT_THROW(read_outline(folder), Error) << pointer;
  }
}

TEST_F(Folder, APlanThatCannotBeReadJustNowIsNoMissingOne) {
  prepare(sweep_of(1));
  fs::rename(folder / "plan.json", folder / "kept.json");
  fs::create_symlink("plan.json", folder / "plan.json");  // to itself: nobody can open it
  for (const bool prepares : {false, true}) {
    try {
      if (prepares) prepare(sweep_of(1));
      else read_plan(folder);
      ADD_FAILURE();
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::io);
      EXPECT_EQ(error.where(), (folder / "plan.json").string()) << error.what();
    }
  }
  EXPECT_TRUE(fs::is_symlink(folder / "plan.json"));
}

TEST_F(Folder, LocksAreOpenedThroughNoLink) {
  fs::create_directories(folder);
  fs::create_symlink(shared.path() / "elsewhere", folder / ".plan.lock");
  EXPECT_THROW(prepare(sweep_of(1)), Error);
  EXPECT_FALSE(fs::exists(shared.path() / "elsewhere"));
}

TEST_F(Folder, OnlyATrialsIdNamesAFolder) {
  EXPECT_EQ(trial_folder("runs", "0123456789abcdef"), fs::path("runs/trials/01/0123456789abcdef"));
  for (const char* id : {"", "0", "0123456789abcde", "0123456789abcdef0", "0123456789ABCDEF", "../../../../etc/x", "01234567/9abcdef"})
    EXPECT_THROW(trial_folder("runs", id), Error) << id;
}

TEST_F(Folder, NamesStayInTheRunsFolder) {
  EXPECT_EQ(default_folder("scope study"), fs::path("runs/scope study"));
  for (const char* name : {"", ".", "..", "a/b", "/etc", "../x"}) EXPECT_THROW(default_folder(name), Error) << name;
}

TEST(Provenance, HoldsWhatWasAllowedOnly) {
  ::setenv("MOESWEEP_DATA", "seen", 1);
  ::setenv("SLURM_JOB_ID", "17", 1);
  for (const char* secret : {"MY_SECRET_TOKEN", "SLURM_JWT", "MOESWEEP_TOKEN"}) ::setenv(secret, "hidden", 1);
  const Json facts = provenance({"moesweep", "run"}, 3, {{"libtorch", "2.13.0"}});
  for (const char* name : {"MOESWEEP_DATA", "SLURM_JOB_ID", "MY_SECRET_TOKEN", "SLURM_JWT", "MOESWEEP_TOKEN"}) ::unsetenv(name);
  EXPECT_EQ(facts["environment"]["MOESWEEP_DATA"], "seen");
  EXPECT_EQ(facts["slurm"]["job"], "17");
  EXPECT_EQ(facts.dump().find("hidden"), std::string::npos);
  EXPECT_EQ(facts["ranks"], 3);
  EXPECT_EQ(facts["libtorch"], "2.13.0");
  for (const char* key : {"version", "git", "compiler", "mpi", "host", "system", "cpu_model", "folder"})
    EXPECT_FALSE(facts[key].get<std::string>().empty()) << key;
}

}  // namespace
}  // namespace moesweep::launch
