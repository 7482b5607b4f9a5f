// trial.h5: round trips, damage of every kind, full disks, a writer that dies.
#include <gtest/gtest.h>
#include <hdf5.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <csignal>
#include <cstdio>

#include "moesweep/core/error.hpp"
#include "moesweep/store/aggregate.hpp"
#include "moesweep/store/record.hpp"
#include "samples.hpp"
#include "store/layout.hpp"
#include "store/trial.hpp"

namespace moesweep::store {
namespace {

using namespace samples;

template <class Work>
std::string message_of(Work&& work, ErrorKind kind) {
  try {
    work();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "no error was thrown";
  return {};
}

/// Opens the file with plain HDF5, changes it, and closes it.
template <class Change>
void change(const std::filesystem::path& path, Change&& work) {
  const hid_t file = H5Fopen(path.c_str(), H5F_ACC_RDWR, H5P_DEFAULT);
  ASSERT_GE(file, 0);
  work(file);
  H5Fclose(file);
}

TEST(Record, RoundTripOfEveryTypeAndShape) {
  const Folder folder;
  TrialRecord record = trial(1);
  for (const DType type : {DType::f64, DType::f32, DType::bf16, DType::i64, DType::i32, DType::u8})
    for (const auto& shape :
         std::vector<std::vector<std::int64_t>>{{1}, {5}, {0}, {3, 0, 2}, {0, 4}, {2, 3, 4}, {1, 1, 1, 1, 7}, {70000}, {3, 300000}})
      record.arrays.push_back(numbers("all/" + std::string(name_of(type)) + "." + std::to_string(record.arrays.size()), type, shape,
                                      static_cast<int>(record.arrays.size())));
  write_trial(folder / "trial.h5", record);
  expect_equal(record, read_trial(folder / "trial.h5"));
  EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{"trial.h5"});
}

TEST(Record, EmptyTextsAndNoArrays) {
  const Folder folder;
  TrialRecord record;
  record.id = "x";
  write_trial(folder / "trial.h5", record);
  expect_equal(record, read_trial(folder / "trial.h5"));
}

TEST(Record, SameContentGivesTheSameBytes) {
  const Folder folder;
  auto record = trial(7);
  write_trial(folder / "a.h5", record);
  std::reverse(record.arrays.begin(), record.arrays.end());
  write_trial(folder / "b.h5", record);
  EXPECT_TRUE(slurp(folder / "a.h5") == slurp(folder / "b.h5"));
}

TEST(Record, LongReasonIsCutAtACharacter) {
  const Folder folder;
  auto record = trial(3);
  record.reason.clear();
  for (int i = 0; i < 20000; ++i) record.reason += "ä";
  write_trial(folder / "trial.h5", record);
  const auto reason = read_trial(folder / "trial.h5").reason;
  EXPECT_EQ(reason.size(), 16000U);
  EXPECT_EQ(reason.substr(reason.size() - 6), "ä ...");
}

TEST(Record, Values) {
  const std::vector<double> values{1.5, -2.0};
  EXPECT_EQ(as_doubles(make_array("a", {2, 1}, values, "1", "")), values);
  EXPECT_EQ(as_doubles(make_array("a", {2}, std::vector<std::int64_t>{3, -4}, "1", "")), (std::vector<double>{3, -4}));
  EXPECT_EQ(as_doubles(Array{"a", DType::bf16, {2}, {std::byte{0x80}, std::byte{0x3f}, std::byte{0x00}, std::byte{0xc0}}, "", "", false}),
            (std::vector<double>{1.0, -2.0}));
  EXPECT_EQ(Array{}.elements(), 0);
  EXPECT_THROW(make_array("a", {3}, values, "1", ""), Error);
}

TEST(Record, BadNamesAreRefused) {
  const Folder folder;
  for (const auto& names : std::vector<std::vector<std::string>>{
           {"a", "a"}, {"a", "a/b"}, {"a//b"}, {"/a"}, {"a/"}, {""}, {"./a"}, {"header/config"}, {"a", "a.b", "a/b"}}) {
    TrialRecord record = trial(0);
    record.arrays.clear();
    for (const auto& name : names) record.arrays.push_back(numbers(name, DType::f64, {2}, 1));
    message_of([&] { write_trial(folder / "trial.h5", record); }, ErrorKind::internal);
  }
  auto record = trial(0);
  record.arrays[0].bytes.pop_back();
  EXPECT_NE(message_of([&] { write_trial(folder / "trial.h5", record); }, ErrorKind::internal).find("steps/loss"), std::string::npos);
  EXPECT_TRUE(names_in(folder.path()).empty());
}

using Kind = TrialFinding::Kind;

TEST(FindTrial, TellsWholeFilesFromDamagedOnesAndFromThoseThatCannotBeRead) {
  const Folder folder;
  const auto path = folder / "trial.h5";
  const Published published = write_trial(path, trial(4));
  for (const Published& known : {Published{}, published, Published{std::string(64, '0'), published.digest, published.bytes}}) {
    const auto found = find_trial(path, "id004", known);
    EXPECT_EQ(found.kind, Kind::valid) << found.why;
    EXPECT_EQ(found.record.state, trial(4).state);
    EXPECT_EQ(found.published.sha256, published.sha256);
    EXPECT_EQ(found.published.digest, published.digest);
    EXPECT_EQ(found.published.bytes, published.bytes);
  }
  EXPECT_EQ(find_trial(path, "id005").kind, Kind::damaged);
  EXPECT_EQ(find_trial(folder / "none.h5", "id004").kind, Kind::absent);
  EXPECT_EQ(find_trial(path / "inside", "id004").kind, Kind::absent);
  const auto bytes = slurp(path);
  spill(folder / "half.h5", bytes.substr(0, bytes.size() / 2));
  EXPECT_EQ(find_trial(folder / "half.h5", "id004", published).kind, Kind::damaged);
  spill(folder / "empty.h5", "");
  EXPECT_EQ(find_trial(folder / "empty.h5", "id004").kind, Kind::damaged);
  // What is no file of moesweep at all is left alone.
  EXPECT_EQ(find_trial(folder.path(), "id004").kind, Kind::unreadable);
  ASSERT_EQ(::mkfifo((folder / "pipe").c_str(), 0600), 0);
  EXPECT_EQ(find_trial(folder / "pipe", "id004").kind, Kind::unreadable);
  change(path, [](hid_t file) {
    const std::int64_t version = 7;
    const hid_t attribute = H5Aopen(file, "version", H5P_DEFAULT);
    H5Awrite(attribute, H5T_NATIVE_INT64, &version);
    H5Aclose(attribute);
  });
  EXPECT_EQ(find_trial(path, "id004").kind, Kind::unreadable) << "a file of a newer moesweep is no damaged one";
}

TEST(FindTrial, AFileThatCannotBeReadJustNowIsNotDamaged) {
  const Folder folder;
  const auto path = folder / "trial.h5";
  const Published published = write_trial(path, trial(4));
  const auto with_limit = [&](int resource, rlim_t limit) {
    rlimit before{};
    getrlimit(static_cast<__rlimit_resource>(resource), &before);
    const rlimit tight{limit, before.rlim_max};
    setrlimit(static_cast<__rlimit_resource>(resource), &tight);
    const auto found = find_trial(path, "id004", published);
    setrlimit(static_cast<__rlimit_resource>(resource), &before);
    return found;
  };
  const auto full = with_limit(RLIMIT_NOFILE, 3);
  EXPECT_EQ(full.kind, Kind::unreadable);
  EXPECT_NE(full.why.find("Too many open files"), std::string::npos) << full.why;
  // A file far longer than memory: sparse, so that it takes no disk.
  spill(folder / "long.h5", slurp(path));
  std::filesystem::resize_file(folder / "long.h5", std::uintmax_t{1} << 42);
  EXPECT_EQ(find_trial(folder / "long.h5", "id004").kind, Kind::unreadable);
  EXPECT_EQ(find_trial(path, "id004", published).kind, Kind::valid);
}

TEST(Record, DamagedFilesAreNamed) {
  const Folder folder;
  const auto path = folder / "trial.h5";
  const auto read = [&] { read_trial(path); };
  EXPECT_NE(message_of(read, ErrorKind::io).find("No such file"), std::string::npos);
  spill(path, "");
  EXPECT_NE(message_of(read, ErrorKind::corrupt).find("trial.h5: the file is empty"), std::string::npos);
  spill(path, "x");
  EXPECT_NE(message_of(read, ErrorKind::corrupt).find("not an HDF5 file"), std::string::npos);
  spill(path, std::string(5000, 'x'));
  EXPECT_NE(message_of(read, ErrorKind::corrupt).find("trial.h5: not an HDF5 file"), std::string::npos);
  write_trial(path, trial(2));
  const auto bytes = slurp(path);
  for (std::size_t keep = 1; keep < bytes.size(); keep += 211) {
    spill(path, bytes.substr(0, keep));
    EXPECT_NE(message_of(read, ErrorKind::corrupt).find("trial.h5"), std::string::npos);
  }
}

TEST(Record, ForeignAndNewerFilesAreRefusedByName) {
  const Folder folder;
  const auto path = folder / "trial.h5";
  const hid_t plain = H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
  H5Fclose(plain);
  EXPECT_NE(message_of([&] { read_trial(path); }, ErrorKind::corrupt).find("not a file of moesweep"), std::string::npos);
  write_trial(path, trial(2));
  change(path, [](hid_t file) {
    const std::int64_t version = 7;
    const hid_t attribute = H5Aopen(file, "version", H5P_DEFAULT);
    H5Awrite(attribute, H5T_NATIVE_INT64, &version);
    H5Aclose(attribute);
  });
  EXPECT_NE(message_of([&] { read_trial(path); }, ErrorKind::corrupt).find("moesweep-trial version 7 is newer than the version 1"),
            std::string::npos);
}

TEST(Record, ChangesBehindTheChecksumsAreSeenByTheDigest) {
  const Folder folder;
  const auto path = folder / "trial.h5";
  write_trial(path, trial(2));
  change(path, [](hid_t file) {  // a well-formed HDF5 write: every checksum fits afterwards
    const double values[7] = {1, 2, 3, 4, 5, 6, 7};
    const hid_t dataset = H5Dopen2(file, "steps/loss", H5P_DEFAULT);
    EXPECT_GE(H5Dwrite(dataset, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, values), 0);
    H5Dclose(dataset);
  });
  EXPECT_NE(message_of([&] { read_trial(path); }, ErrorKind::corrupt).find("digest"), std::string::npos);
  write_trial(path, trial(2));
  change(path, [](hid_t file) { H5Ldelete(file, "steps/loss", H5P_DEFAULT); });
  EXPECT_NE(message_of([&] { read_trial(path); }, ErrorKind::corrupt).find("digest"), std::string::npos);
  write_trial(path, trial(2));
  change(path, [](hid_t file) { H5Ldelete(file, "header/config", H5P_DEFAULT); });
  EXPECT_NE(message_of([&] { read_trial(path); }, ErrorKind::corrupt).find("digest"), std::string::npos);
}

TEST(Record, OneReaderOfFilesThatNameTheirArraysDifferently) {
  const Folder folder;
  TrialRecord flat = trial(1), deep = trial(2), few = trial(3);
  flat.arrays.push_back(numbers("more/a", DType::f64, {3}, 1));
  deep.arrays.push_back(numbers("more/a/b/c", DType::i32, {2, 2}, 2));  // where the first has an array, this one has a group
  few.arrays.clear();
  const std::vector<const TrialRecord*> records{&flat, &deep, &few, &deep, &flat, &flat};
  TrialReader reader;
  for (std::size_t i = 0; i < records.size(); ++i) {
    const auto path = folder / (std::to_string(i) + ".h5");
    const Published published = write_trial(path, *records[i]);
    expect_equal(*records[i], reader.read(path, published));
    expect_equal(*records[i], reader.read(path));  // as a file of others
  }
}

TEST(Record, FilesWithoutTheDigestOfEachContentAreReadAndOnesThatHaveSomeAreNot) {
  const Folder folder;
  const auto path = folder / "trial.h5";
  write_trial(path, trial(1));
  std::vector<std::string> names;
  change(path, [&](hid_t file) {
    names = h5::dataset_paths(file);
    for (const auto& name : names) {
      const hid_t dataset = H5Dopen2(file, name.c_str(), H5P_DEFAULT);
      EXPECT_GE(H5Adelete(dataset, "content"), 0) << name;
      H5Dclose(dataset);
    }
  });
  expect_equal(trial(1), read_trial(path));
  EXPECT_TRUE(verify(path).problems.empty());
  write_trial(path, trial(1));
  change(path, [&](hid_t file) {
    const hid_t dataset = H5Dopen2(file, names.back().c_str(), H5P_DEFAULT);
    EXPECT_GE(H5Adelete(dataset, "content"), 0);
    H5Dclose(dataset);
  });
  EXPECT_NE(message_of([&] { read_trial(path); }, ErrorKind::corrupt).find(names.back() + ": it has no attribute content"), std::string::npos);
  EXPECT_FALSE(verify(path).problems.empty());
}

TEST(Record, AFullDiskLeavesTheOldFile) {
  const Folder folder;
  const auto path = folder / "trial.h5";
  write_trial(path, trial(2));
  const auto old = slurp(path);
  auto big = trial(3);
  big.arrays.push_back(numbers("steps/big", DType::f64, {100000}, 1));
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  const rlimit tight{100000, before.rlim_max};
  setrlimit(RLIMIT_FSIZE, &tight);
  const auto text = message_of([&] { write_trial(path, big); }, ErrorKind::io);
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  EXPECT_NE(text.find("trial.h5: cannot write: File too large"), std::string::npos) << text;
  EXPECT_NE(text.find("free space"), std::string::npos) << text;
  EXPECT_TRUE(slurp(path) == old);
  EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{"trial.h5"});
}

TEST(Record, AMissingFolderIsAnIoError) {
  const Folder folder;
  EXPECT_NE(message_of([&] { write_trial(folder / "none/trial.h5", trial(2)); }, ErrorKind::io).find("No such file"), std::string::npos);
}

TEST(Record, AKilledWriterLeavesTheOldOrTheNewFile) {
  const Folder folder;
  const auto path = folder / "trial.h5";
  auto first = trial(2), second = trial(2);
  first.arrays.push_back(numbers("steps/big", DType::f64, {200000}, 1));
  second.arrays.push_back(numbers("steps/big", DType::f64, {200000}, 2));
  write_trial(path, first);
  int olds = 0, news = 0;
  for (int i = 0; i < 20; ++i) {
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      for (int n = 0;; ++n) write_trial(path, n % 2 == 0 ? second : first);
    }
    ::usleep(static_cast<useconds_t>(3000 + 2317 * i));
    ::kill(child, SIGKILL);
    int status = 0;
    ::waitpid(child, &status, 0);
    const auto record = read_trial(path);
    const bool is_old = equal(record, first), is_new = equal(record, second);
    EXPECT_TRUE(is_old || is_new);
    olds += is_old;
    news += is_new;
  }
  std::printf("20 kills: the file was the first one %d times, the second one %d times\n", olds, news);
}

}  // namespace
}  // namespace moesweep::store
