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
  EXPECT_TRUE(example.inherit.empty()) << "it can be tried as it is";
  EXPECT_EQ(profile("inherit: [SITE_TOKEN, B]\n").inherit, (std::vector<std::string>{"SITE_TOKEN", "B"}));
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
  EXPECT_NE(message("inherit: [TOKEN, 1A]\n").find("site.yaml:1:18: inherit: '1A' is no name of a variable"), std::string::npos)
      << message("inherit: [TOKEN, 1A]\n");
  EXPECT_NE(message("inherit: ['A;touch X']\n").find("is no name of a variable"), std::string::npos);
  const std::string with_value = message("inherit: [TOKEN=s3cret]\n");
  EXPECT_NE(with_value.find("'TOKEN' is no name of a variable"), std::string::npos) << with_value;
  EXPECT_NE(message("inherit: TOKEN\n").find("site.yaml:1:10: inherit: expected"), std::string::npos) << message("inherit: TOKEN\n");
  EXPECT_NE(message("inherit: [A, B, A]\n").find("site.yaml:1:17: inherit: A is named twice"), std::string::npos);
  EXPECT_NE(message("inherit: [none]\n").find("site.yaml:1:11: inherit: none is a word of sbatch's own"), std::string::npos)
      << message("inherit: [none]\n");
  // In whichever order they stand.
  EXPECT_NE(message("inherit: [A]\nenvironment: {A: x}\n").find("site.yaml:1:11: inherit: A is in environment too"), std::string::npos);
  EXPECT_NE(message("environment: {A: x}\ninherit: [B, A]\n").find("site.yaml:2:14: inherit: A is in environment too"), std::string::npos);
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
