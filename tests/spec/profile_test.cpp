// Site profiles: the example with every key, and errors at their place with the nearest key.
#include "moesweep/spec/profile.hpp"

#include <cstdlib>

#include "spec/support.hpp"

namespace moesweep::spec {
namespace {

class Profile : public InFolder {
 protected:
  static SiteProfile profile(const std::string& text) {
    write("site.yaml", text);
    return load_profile("site.yaml");
  }
  static std::string message(const std::string& text) {
    return message_of([&] { profile(text); });
  }
};

TEST_F(Profile, TheExampleShowsEveryKey) {
  SiteProfile example = load_profile("example");
  EXPECT_EQ(example.file.filename(), "example.yaml");
  EXPECT_EQ(example.partition, "main");
  EXPECT_EQ(example.time, "04:00:00");
  EXPECT_EQ(example.signal_seconds, 300);
  EXPECT_EQ(example.ranks_per_node, 16);
  EXPECT_EQ(example.modules, (std::vector<std::string>{"gcc/12", "openmpi/4.1"}));
  EXPECT_EQ(example.environment.at("UCX_TLS"), "self,sm,rc");
  EXPECT_EQ(example.sbatch.front(), "--mem-per-cpu=2G");
  std::ifstream file(example.file);
  const std::string text((std::istreambuf_iterator<char>(file)), {});
  const FieldList keys = fields_of(example);
  for (const Field& field : keys.fields()) EXPECT_NE(text.find("\n" + field.name + ":"), std::string::npos) << field.name;
  EXPECT_NE(text.find("\nenvironment:"), std::string::npos);
}

TEST_F(Profile, AnEmptyOneAsksForNothing) {
  const SiteProfile empty = profile("# nothing\n");
  EXPECT_EQ(empty.partition + empty.account + empty.time + empty.gpus, "");
  EXPECT_EQ(empty.report, "auto");
  EXPECT_FALSE(empty.signal_seconds);
}

TEST_F(Profile, ErrorsNameThePlaceAndTheNearestKey) {
  EXPECT_TRUE(
      message("account: a\npartitoin: main\n").starts_with("site.yaml:2:1: unknown key 'partitoin' in a profile: did you mean 'partition'?\n  a p"))
      << message("account: a\npartitoin: main\n");
  EXPECT_NE(message("signal_seconds: soon\n").find("site.yaml:1:17: signal_seconds: expected integer"), std::string::npos)
      << message("signal_seconds: soon\n");
  EXPECT_NE(message("ranks_per_node: 0\n").find("site.yaml:1:17: ranks_per_node"), std::string::npos);
  EXPECT_NE(message("modules: gcc\n").find("site.yaml:1:10: modules: expected"), std::string::npos) << message("modules: gcc\n");
  EXPECT_NE(message("environment: {1A: x}\n").find("is no name of a variable"), std::string::npos);
  EXPECT_NE(message("environment: {'A;touch X': x}\n").find("is no name of a variable"), std::string::npos);
  EXPECT_NE(message("environment: [A]\n").find("site.yaml:1:14: environment: expected a mapping"), std::string::npos);
  EXPECT_NE(message("partition: \"a\\n#SBATCH --uid=0\"\n").find("a line break"), std::string::npos);
  EXPECT_NE(message("sbatch: [\"--x\\ny\"]\n").find("site.yaml:1:10"), std::string::npos) << message("sbatch: [\"--x\\ny\"]\n");
  EXPECT_NE(message("- a\n").find("site.yaml:1:1"), std::string::npos) << message("- a\n");
  EXPECT_NE(message("account: a\naccount: b\n").find("site.yaml:2:1"), std::string::npos);
  EXPECT_NE(message_of([] { load_profile("exmaple"); }).find("did you mean 'example'?"), std::string::npos);
}

TEST_F(Profile, NamesAreLookedUpInTheFoldersGiven) {
  write("first/site.yaml", "account: one\n");
  write("second/other.yaml", "account: two\n");
  ::setenv("MOESWEEP_PROFILES", "first:second", 1);
  EXPECT_EQ(load_profile("site").account, "one");
  EXPECT_EQ(load_profile("other").account, "two");
  EXPECT_EQ(load_profile("second/other.yaml").account, "two");
  EXPECT_EQ(load_profile("example").account, "moe");
  ::unsetenv("MOESWEEP_PROFILES");
}

}  // namespace
}  // namespace moesweep::spec
