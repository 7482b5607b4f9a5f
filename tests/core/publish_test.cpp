// Publishing of files: whole or not at all, and no temporary file left behind.
#include "moesweep/core/publish.hpp"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <fstream>
#include <iterator>

#include "moesweep/core/error.hpp"

namespace fs = std::filesystem;

namespace moesweep {

class Publish : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "moesweep-publish-XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    folder_ = name;
  }
  void TearDown() override { fs::remove_all(folder_); }
  std::size_t files() const { return static_cast<std::size_t>(std::distance(fs::directory_iterator(folder_), fs::directory_iterator{})); }

  fs::path folder_;
};

TEST_F(Publish, ReplacesTheOldFileAndLeavesNothingElse) {
  const fs::path path = folder_ / "a.txt";
  publish_text(path, "one");
  EXPECT_EQ(read_text(path), "one");
  const std::string bytes("two\n\0three", 10);
  publish_text(path, bytes);
  EXPECT_EQ(read_text(path), bytes);
  EXPECT_EQ(files(), 1u);
}

TEST_F(Publish, TemporaryNamesDifferAndLieBesideTheFile) {
  const fs::path path = folder_ / "a.txt", one = temporary_beside(path), two = temporary_beside(path);
  EXPECT_NE(one, two);
  EXPECT_EQ(one.parent_path(), folder_);
  EXPECT_EQ(one.filename().string().front(), '.');
}

TEST_F(Publish, AnErrorNamesTheFileAndKeepsTheOld) {
  const fs::path path = folder_ / "missing" / "a.txt";
  try {
    publish_text(path, "x");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::io);
    EXPECT_EQ(error.where(), path.string());
  }
  publish_text(folder_ / "b.txt", "old");
  EXPECT_THROW(publish(folder_ / "none.tmp", folder_ / "b.txt"), Error);
  EXPECT_EQ(read_text(folder_ / "b.txt"), "old");
  fs::create_directory(folder_ / "taken");
  EXPECT_THROW(publish_text(folder_ / "taken", "x"), Error);  // a folder of that name
  EXPECT_EQ(files(), 2u) << "no temporary file is left";
  EXPECT_THROW(read_text(folder_ / "none.txt"), Error);
  EXPECT_THROW(read_text(folder_ / "taken"), Error);  // opens, but cannot be read
}

TEST_F(Publish, AReaderSeesTheOldOrTheNewWholeFileWhileAWriterIsKilled) {
  const fs::path path = folder_ / "a.txt";
  publish_text(path, std::string(100'000, 'a'));
  for (int round = 0; round < 20; ++round) {
    const pid_t child = fork();
    if (child == 0) {
      for (char c = 'a';; c = c == 'z' ? 'a' : static_cast<char>(c + 1)) publish_text(path, std::string(100'000, c));
    }
    usleep(static_cast<useconds_t>(500 + 700 * round));
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
    const std::string text = read_text(path);
    ASSERT_EQ(text.size(), 100'000u);
    ASSERT_TRUE(std::ranges::all_of(text, [&](char c) { return c == text[0]; }));
  }
}

TEST_F(Publish, NothingButARegularFileIsReplacedAndNothingIsWrittenThroughALink) {
  publish_text(folder_ / "target.txt", "mine");
  fs::create_symlink(folder_ / "target.txt", folder_ / "link.txt");
  fs::create_symlink(folder_ / "nowhere", folder_ / "dangling.txt");
  ASSERT_EQ(mkfifo((folder_ / "pipe").c_str(), 0600), 0);
  for (const char* name : {"link.txt", "dangling.txt", "pipe"}) EXPECT_THROW(publish_text(folder_ / name, "x"), Error) << name;
  EXPECT_THROW(publish_text("/dev/null", "x"), Error);
  EXPECT_TRUE(fs::is_character_file("/dev/null"));
  EXPECT_EQ(read_text(folder_ / "target.txt"), "mine");
  EXPECT_TRUE(fs::is_symlink(folder_ / "link.txt"));
  EXPECT_FALSE(fs::exists(folder_ / "nowhere"));
  EXPECT_THROW(create_exclusively(folder_ / "dangling.txt", folder_ / "shown"), Error);
  EXPECT_FALSE(fs::exists(folder_ / "nowhere"));
  EXPECT_THROW(open_to_append(folder_ / "link.txt"), Error);
  EXPECT_EQ(files(), 4u) << "no temporary file is left";
}

TEST_F(Publish, APipeOrADeviceIsNeverWaitedForAndLongFilesAreRefused) {
  ASSERT_EQ(mkfifo((folder_ / "pipe").c_str(), 0600), 0);
  EXPECT_THROW(read_text(folder_ / "pipe"), Error);
  EXPECT_THROW(read_text("/dev/zero"), Error);
  EXPECT_THROW(open_to_append(folder_ / "pipe"), Error);
  publish_text(folder_ / "a.txt", std::string(1000, 'a'));
  EXPECT_EQ(read_text(folder_ / "a.txt", 1000).size(), 1000u);
  EXPECT_THROW(read_text(folder_ / "a.txt", 999), Error);
}

TEST_F(Publish, FilesKeepTheUmask) {
  const mode_t before = umask(027);
  publish_text(folder_ / "a.txt", "x");
  publish_text(folder_ / "program", "x", 0777);
  umask(before);
  EXPECT_EQ(static_cast<unsigned>(fs::status(folder_ / "program").permissions()), 0750u);
  EXPECT_EQ(fs::status(folder_ / "a.txt").permissions(), fs::perms::owner_read | fs::perms::owner_write | fs::perms::group_read);
}

}  // namespace moesweep
