// Job scripts: quoting that no letter gets through, text, and what Slurm's answers mean.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "launch/script.hpp"
#include "launch/slurm.hpp"
#include "moesweep/core/error.hpp"
#include "moesweep/launch/submit.hpp"

namespace moesweep::launch {
namespace {

namespace fs = std::filesystem;

const std::vector<std::string> kHostile{"plain",
                                        "two words",
                                        "",
                                        "it's",
                                        "\"quoted\"",
                                        "$(touch OWNED)",
                                        "`touch OWNED`",
                                        "a;touch OWNED",
                                        "a\nb\ntouch X",
                                        "*",
                                        "~",
                                        "..",
                                        "%a %A",
                                        "-n",
                                        "\\",
                                        "\\'",
                                        "!history",
                                        "naïve é 語",
                                        "a\tb",
                                        "${HOME}",
                                        "#comment",
                                        "a|b>c<d&",
                                        "'",
                                        "''$(x)''",
                                        "[a-z]*?",
                                        "{1,2}",
                                        "--only=x=y",
                                        "\x7f\x01\x1b"};

class Script : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "moesweep-script-XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    folder_ = name;
  }
  void TearDown() override { fs::remove_all(folder_); }

  Scripts scripts() const {
    Scripts made;
    made.sweep = "study";
    made.origin = "by a test";
    made.program = "/opt/moesweep";
    made.folder = folder_ / "runs";
    made.working_folder = folder_;
    made.report_program = "/opt/moesweep-report";
    made.shards = 8;
    made.ranks = 4;
    made.time = "01:00:00";
    return made;
  }

  fs::path folder_;
};

TEST_F(Script, EveryWordReachesAProgramUnchanged) {
  for (const std::string& word : kHostile) {
    std::ofstream(folder_ / "script.sh") << "cd -- " << shell_quoted(folder_.string()) << " || exit 1\nprintf '%s\\0' " << shell_quoted(word) << " "
                                         << shell_word(word) << "\n";
    const CommandResult result = run_command({"bash", (folder_ / "script.sh").string()}, 20);
    EXPECT_EQ(result.output, word + std::string(1, '\0') + word + std::string(1, '\0')) << word;
    EXPECT_EQ(result.error, "") << word;
  }
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), {}), 1) << "only the script is there";
  EXPECT_EQ(shell_quoted(std::vector<std::string>{"a b", "c"}), "'a b' 'c'");
  EXPECT_EQ(shell_word("runs/quick-start_1"), "runs/quick-start_1");
}

TEST_F(Script, SbatchLinesQuoteAsSbatchReadsThem) {
  // As sbatch 22.05 was seen to read them: quotes keep blanks and '#', a backslash escapes inside and outside of them.
  EXPECT_EQ(sbatch_quoted("/runs/a%%b-1"), "/runs/a%%b-1");
  EXPECT_EQ(sbatch_quoted("a b"), "'a b'");
  EXPECT_EQ(sbatch_quoted("a'b"), "'a'\\''b'");
  EXPECT_EQ(sbatch_quoted("a#b"), "'a#b'");
  EXPECT_EQ(sbatch_quoted("$(x)"), "'$(x)'");
  EXPECT_EQ(output_pattern("/a%b/%j"), "/a%%b/%%j");
}

TEST_F(Script, NamesOfJobsArePlain) {
  EXPECT_EQ(plain_name("scale35x"), "scale35x");
  EXPECT_EQ(plain_name("a b;c$(d)\n../é"), "a_b_c_d_.._");
  EXPECT_EQ(plain_name(""), "sweep");
  EXPECT_EQ(plain_name(std::string(100, 'x')).size(), 40U);
}

TEST_F(Script, PathsThatSlurmCannotTakeAreRefused) {
  for (const char* path : {"/a\nb", "/a\\b", "/a\tb", "/\xff"}) EXPECT_THROW(require_slurm_path(path), Error) << path;
  for (const char* path : {"/a b", "/a;'\"$(x)`%#", "/語"}) EXPECT_NO_THROW(require_slurm_path(path)) << path;
}

TEST_F(Script, AnArrayTellsSlurmWhatItNeeds) {
  Scripts made = scripts();
  made.nodes = 2;
  made.throttle = 3;
  made.threads = 2;
  made.signal_seconds = 120;
  made.profile.partition = "main";
  made.profile.account = "a b";
  made.profile.gpus = "a100:4";
  made.profile.ranks_per_node = 2;
  made.profile.srun = {"--cpu-bind=cores", "x y"};
  made.profile.sbatch = {"--mem-per-cpu=2G"};
  made.profile.setup = {"ulimit -c 0"};
  made.profile.modules = {"gcc/12", "o'pen"};
  made.profile.environment = {{"UCX_TLS", "self $(x)"}};
  made.run_options = {"--only=seed == 1 and routing.top_k == '2'"};
  const std::string text = array_script(made, "moesweep-study-1", {4, 7});
  for (const char* line : {"#SBATCH --job-name=moesweep-study-1\n",
                           "#SBATCH --partition=main\n",
                           "#SBATCH --account='a b'\n",
                           "#SBATCH --array=0-3%3\n",
                           "#SBATCH --ntasks=4\n",
                           "#SBATCH --nodes=2\n",
                           "#SBATCH --ntasks-per-node=2\n",
                           "#SBATCH --cpus-per-task=2\n",
                           "#SBATCH --gres=gpu:a100:4\n",
                           "#SBATCH --time=01:00:00\n",
                           "#SBATCH --signal=USR2@120\n",
                           "#SBATCH --requeue\n",
                           "#SBATCH --open-mode=append\n",
                           "/runs/slurm/logs/array-%A_%a.log\n",
                           "#SBATCH --mem-per-cpu=2G\n",
                           "module load 'gcc/12' ||",
                           "module load 'o'\\''pen' ||",
                           "export UCX_TLS='self $(x)'\n",
                           "\nulimit -c 0\n",
                           "first=4 shards=8 ",
                           "srun --mpi=pmix",
                           "--cpus-per-task=2 '--cpu-bind=cores' 'x y' \"$program\" run",
                           "'--only=seed == 1 and routing.top_k == '\\''2'\\''' --shard \"$((first + SLURM_ARRAY_TASK_ID))/$shards\"",
                           "scontrol requeue \"$element\""})
    EXPECT_NE(text.find(line), std::string::npos) << line << "\nnot in\n" << text;
  EXPECT_EQ(text.find("#SBATCH", text.find("\n\n")), std::string::npos) << "sbatch reads directives up to the first command";
  // Without a profile nothing is asked for that was not given.
  const std::string bare = array_script(scripts(), "n", {0, 7});
  for (const char* option : {"--partition", "--account", "--qos", "--constraint", "--gres", "--nodes", "--ntasks-per-node", "%3", "module"})
    EXPECT_EQ(bare.find(option), std::string::npos) << option;
}

TEST_F(Script, ScriptsHoldTheNamesOfWhatTheyInheritAlone) {
  Scripts made = scripts();
  made.profile.inherit = {"MOESWEEP_TEST_TOKEN"};
  ::setenv("MOESWEEP_TEST_TOKEN", "s3cret", 1);
  for (const std::string& text : {array_script(made, "n", {0, 1}), aggregate_script(made, "n"), report_script(made, "n")}) {
    EXPECT_EQ(text.find("s3cret"), std::string::npos) << text;
    const auto guard = text.find("\n[[ -v MOESWEEP_TEST_TOKEN ]] || { echo 'MOESWEEP_TEST_TOKEN is not set in this job");
    EXPECT_NE(guard, std::string::npos) << text;
    EXPECT_NE(text.find("\nexport SLURM_EXPORT_ENV=ALL\n"), std::string::npos) << "srun hands on all that the script has";
    EXPECT_EQ(text.find("umask"), std::string::npos);
  }
  ::unsetenv("MOESWEEP_TEST_TOKEN");
}

TEST_F(Script, ExportNamesVariablesAndHoldsNoValue) {
  EXPECT_EQ(export_list({"A", "B"}, {}, ""), "ALL");
  EXPECT_EQ(export_list({"A"}, {"--mem=2G", "--export=ALL"}, ""), "ALL");
  EXPECT_EQ(export_list({"A"}, {"--export=all,B"}, ""), "all,B,A");
  EXPECT_EQ(export_list({"A", "B"}, {"--export=NONE"}, ""), "A,B");
  EXPECT_EQ(export_list({"A"}, {"--mem=2G --export 'B,C' --nice"}, ""), "B,C,A");
  EXPECT_EQ(export_list({"A"}, {"--export-file=x", "--comment=no--export=NONE"}, ""), "ALL");
  EXPECT_THROW(export_list({"A"}, {"--export=ALL,B=value"}, ""), Error);
  EXPECT_EQ(export_list({"A"}, {"--export=ALL"}, "NONE"), "A") << "it goes before what the script says";
  EXPECT_THROW(export_list({"A"}, {}, "B=value"), Error);
}

TEST_F(Script, EveryScriptIsBashWhateverItsNames) {
  for (const std::string& word : kHostile) {
    if (word.empty()) continue;
    Scripts made = scripts();
    made.sweep = word;
    made.program = "/opt/" + word;
    // Of the folder the #SBATCH lines tell: a path that would break out of its line is refused before.
    try {
      require_slurm_path(folder_ / word);
      made.folder = folder_ / word;
    } catch (const Error&) {
      EXPECT_NE(word.find_first_of("\n\t\\\x7f"), std::string::npos) << word;
    }
    made.working_folder = folder_ / word;
    made.report_program = word;
    made.run_options = {word};
    made.environment = {{"MOESWEEP_DATA", word}};
    made.profile.srun = {word};
    made.profile.modules = {word};
    for (const std::string& text :
         {array_script(made, plain_name(word), {0, 0}), aggregate_script(made, plain_name(word)), report_script(made, plain_name(word))}) {
      std::ofstream(folder_ / "script.sh") << text;
      const CommandResult result = run_command({"bash", "-n", (folder_ / "script.sh").string()}, 20);
      EXPECT_TRUE(result.ok()) << word << "\n" << result.error << text;
    }
  }
}

TEST(Queue, LinesOfSqueue) {
  const auto jobs = queue_of_text(
      "12_3|RUNNING|2026-01-31T12:00:00|moesweep-a|None\n"
      "12_4|PENDING|N/A|moesweep-a|JobArrayTaskLimit\n"
      "13|PENDING|2026-02-01T00:00:00|moesweep-b|Nodes required for job are DOWN, DRAINED | reserved\n"
      "slurm_load_jobs error\n|||\n\nx|y|z|w|v\n");
  ASSERT_EQ(jobs.size(), 3U);
  EXPECT_EQ(jobs[0].job, "12");
  EXPECT_EQ(jobs[0].element, "3");
  EXPECT_FALSE(jobs[0].is_pending());
  EXPECT_TRUE(jobs[0].is_active());
  EXPECT_EQ(jobs[1].start, "");
  EXPECT_EQ(jobs[1].reason, "JobArrayTaskLimit");
  EXPECT_EQ(jobs[2].element, "");
  EXPECT_EQ(jobs[2].reason, "Nodes required for job are DOWN, DRAINED | reserved");
  for (const char* over : {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", ""}) {
    QueuedJob job;
    job.state = over;
    EXPECT_FALSE(job.is_active()) << over;
  }
}

TEST(Queue, BusyIsToldFromRefused) {
  for (const char* words :
       {"sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)",
        "squeue: error: slurm_receive_msg: Socket timed out on send/recv operation", "slurm_load_jobs error: Zero Bytes were transmitted or received",
        "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying", "Resource temporarily unavailable"})
    EXPECT_TRUE(is_busy(words)) << words;
  for (const char* words :
       {"sbatch: error: invalid partition specified: x", "sbatch: error: Batch job submission failed: Requested node configuration is not available",
        "sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified", ""})
    EXPECT_FALSE(is_busy(words)) << words;
}

/// Records of submissions that somebody else wrote into a sweep folder: what of them reaches squeue.
TEST_F(Script, RecordsOfSubmissionsThatAreNoneReachNoCommand) {
  const fs::path place = folder_ / "sweep" / "slurm", programs = folder_ / "bin";
  fs::create_directories(place);
  fs::create_directories(programs);
  std::ofstream(programs / "squeue") << "#!/bin/sh\nprintf '%s\\n' \"$@\" >> " << (folder_ / "asked").string() << "\n";
  fs::permissions(programs / "squeue", fs::perms::owner_all);
  const std::string path = std::getenv("PATH");
  ::setenv("PATH", (programs.string() + ":" + path).c_str(), 1);
  const auto line = [](const std::string& name, const std::string& script, const std::string& kind = "array") {
    return R"({"event":"submission","token":"0a1b2c3d","jobs":[{"kind":")" + kind + R"(","name":")" + name + R"(","array":"0-3","script":")" +
           script + "\"}]}\n";
  };
  std::ofstream(place / "submissions.jsonl") << line("moesweep-good-1", "/old/place/slurm/array.sbatch") << line("--all,x", "/x/array.sbatch")
                                             << line("a b", "/x/array.sbatch") << line("moesweep-bad-2", "/etc/passwd")
                                             << line("moesweep-bad-3", "/x/array.sbatch", "other") << "[1]\n{\"event\":7}\n"
                                             << R"({"event":"submitted","name":"moesweep-good-1","job":"--me"})"
                                             << "\n"
                                             << R"({"event":"submission","token":[],"jobs":[]})"
                                             << "\n"
                                             << std::string(200, '[') << std::string(200, ']') << "\n"
                                             << R"({"event":"submission","token":"x","jobs":[)";
  const auto entries = queue_of(folder_ / "sweep", 20);
  ::setenv("PATH", path.c_str(), 1);
  ASSERT_TRUE(entries);
  std::ifstream asked(folder_ / "asked");
  std::string names, word;
  while (std::getline(asked, word))
    if (word.starts_with("--name=")) names = word;
  EXPECT_EQ(names, "--name=moesweep-good-1");
  // A pipe is not waited for.
  fs::remove(place / "submissions.jsonl");
  ASSERT_EQ(::mkfifo((place / "submissions.jsonl").c_str(), 0666), 0);
  EXPECT_THROW(queue_of(folder_ / "sweep", 20), Error);
}

TEST(Command, TellsHowItEnded) {
  const CommandResult fine = run_command({"bash", "-c", "echo out; echo err >&2"}, 20);
  EXPECT_TRUE(fine.ok());
  EXPECT_EQ(fine.output, "out\n");
  EXPECT_EQ(fine.error, "err\n");
  EXPECT_EQ(run_command({"bash", "-c", "exit 3"}, 20).exit_code, 3);
  EXPECT_EQ(run_command({"bash", "-c", "kill -9 $$"}, 20).exit_code, 137);
  EXPECT_FALSE(run_command({"/no/such/program"}, 20).started);
  // A child that holds the pipe goes too.
  const CommandResult late = run_command({"bash", "-c", "echo begun; sleep 100 & sleep 100"}, 1);
  EXPECT_TRUE(late.timed_out);
  EXPECT_FALSE(late.ok());
  EXPECT_EQ(late.output, "begun\n");
  // More than a pipe holds, on both.
  const CommandResult much = run_command({"bash", "-c", "head -c 300000 /dev/zero; head -c 300000 /dev/zero >&2"}, 20);
  EXPECT_EQ(much.output.size(), 300000U);
  EXPECT_EQ(much.error.size(), 300000U);
}

}  // namespace
}  // namespace moesweep::launch
