// What can be said of a trial's config without running it: the files that it names, and warnings.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>

#include "moesweep/train/named_files.hpp"
#include "moesweep/train/warnings.hpp"
#include "support/scratch.hpp"

namespace moesweep::train {
namespace {

namespace fs = std::filesystem;

TEST(Warnings, BeginAtALossOfUniformGuessesLessAMargin) {
  for (const std::int64_t vocabulary : {2, 64, 256, 4194304}) {
    TrialConfig config;
    config.data.vocabulary = vocabulary;
    const double border = std::log(static_cast<double>(vocabulary)) - 0.01;
    const std::vector<std::string> none, one{"no_better_than_uniform"};
    EXPECT_EQ(warnings_of(config, border), one) << vocabulary;
    EXPECT_EQ(warnings_of(config, std::nextafter(border, 0.0)), none) << vocabulary;
    EXPECT_EQ(warnings_of(config, std::nextafter(border, 100.0)), one) << vocabulary;
    EXPECT_EQ(warnings_of(config, 1e9), one) << vocabulary;
    EXPECT_EQ(warnings_of(config, 0.0), none) << vocabulary;
    EXPECT_EQ(warnings_of(config, std::numeric_limits<double>::infinity()), none) << vocabulary;
    EXPECT_EQ(warnings_of(config, std::numeric_limits<double>::quiet_NaN()), none) << vocabulary;
  }
}

class NamedFilesTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = testing_support::make_scratch("moesweep-named");
    fs::create_directories(folder_ / "folder");
    std::ofstream(folder_ / "empty.h5");
    std::ofstream(folder_ / "text.h5") << "no HDF5 at all";
    std::ofstream(folder_ / "short.h5") << "\x89HDF";
    std::ofstream(folder_ / "signed.h5", std::ios::binary) << "\x89HDF\r\n\x1a\n and more";
    ASSERT_EQ(::mkfifo((folder_ / "pipe.h5").c_str(), 0600), 0);
    fs::create_symlink("nowhere", folder_ / "dangling.h5");
    fs::create_symlink("signed.h5", folder_ / "link.h5");
  }
  void TearDown() override { fs::remove_all(folder_); }
  std::string at(const std::string& name) const { return folder_ / name; }
  std::string problem(const std::string& name) const { return problem_of({"train.init_from", at(name)}); }

  fs::path folder_;
};

TEST_F(NamedFilesTest, AreLookedAt) {
  EXPECT_EQ(problem("signed.h5"), "");
  EXPECT_EQ(problem("link.h5"), "");  // a link of the user's own is followed for reading
  EXPECT_EQ(problem("missing.h5"), "is not there");
  EXPECT_EQ(problem("dangling.h5"), "is not there");
  EXPECT_EQ(problem("signed.h5/below"), "is not there");
  EXPECT_EQ(problem("folder"), "is a folder");
  EXPECT_EQ(problem("pipe.h5"), "is no regular file");
  EXPECT_EQ(problem_of({"train.init_from", "/dev/zero"}), "is no regular file");
  EXPECT_EQ(problem("empty.h5"), "is empty");
  EXPECT_EQ(problem("text.h5"), "is no HDF5 file");
  EXPECT_EQ(problem("short.h5"), "is no HDF5 file");
  if (::geteuid() != 0) {
    fs::permissions(at("signed.h5"), fs::perms::none);
    EXPECT_EQ(problem("signed.h5"), "cannot be read: Permission denied");
  }
}

TEST_F(NamedFilesTest, OfAConfigAreThoseThatItReads) {
  TrialConfig config;
  EXPECT_TRUE(named_files_of(config).empty());
  config.train.init_from = "a.h5";
  config.routing.import_from = "b.h5";
  config.routing.replay_from = "c.h5";
  EXPECT_EQ(named_files_of(config), (std::vector<NamedFile>{{"train.init_from", "a.h5"}}));  // nothing is imported or replayed
  config.routing.learning = routing::Learning::imported;
  config.routing.evaluation.select = "replay";
  EXPECT_EQ(named_files_of(config),
            (std::vector<NamedFile>{{"routing.import_from", "b.h5"}, {"routing.replay_from", "c.h5"}, {"train.init_from", "a.h5"}}));
  // Layers of their own; those beyond the model's are read by nobody.
  TrialConfig layered;
  layered.model.layers = 3;
  routing::RoutingConfig own;
  own.learning = routing::Learning::imported;
  own.import_from = "own.h5";
  layered.routing.layers["1"] = own;
  EXPECT_EQ(named_files_of(layered), (std::vector<NamedFile>{{"routing.import_from", "own.h5"}}));
}

TEST_F(NamedFilesTest, ThatCannotBeUsedAreNamedWithTheirTrials) {
  TrialConfig sound, missing, text;
  sound.train.init_from = at("signed.h5");
  missing.train.init_from = at("missing.h5");
  text = missing;
  text.routing.select = "replay";
  text.routing.replay_from = at("text.h5");
  EXPECT_TRUE(problems_of_named_files(sound).empty());
  EXPECT_EQ(problems_of_named_files(text), (std::vector<std::string>{"routing.replay_from names a file that is no HDF5 file: " + at("text.h5"),
                                                                     "train.init_from names a file that is not there: " + at("missing.h5")}));
  NamedFiles files;
  files.see("one", sound);
  for (int i = 0; i < 25; ++i) files.see("m" + std::to_string(i), missing);
  files.see("t", text);
  const auto problems = files.problems();
  ASSERT_EQ(problems.size(), 2u);
  EXPECT_EQ(problems[0].sentence(), "routing.replay_from names a file that is no HDF5 file: " + at("text.h5") + " (1 trial: t)");
  EXPECT_EQ(problems[1].trials, 26u);
  EXPECT_EQ(problems[1].ids.size(), NamedFiles::kListed);
  EXPECT_TRUE(problems[1].sentence().ends_with("m19 and 6 more)")) << problems[1].sentence();
}

}  // namespace
}  // namespace moesweep::train
