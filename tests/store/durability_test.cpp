// What a full disk, exhausted file handles and foreign files do to each kind of file: a clear error, and the old file intact.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <hdf5.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>

#include "moesweep/core/json.hpp"
#include "moesweep/store/journal.hpp"
#include "seal.hpp"
#include "shared.hpp"

namespace moesweep::store {
namespace {

using namespace samples;

/// A file system of few bytes at `path`, on every rank; gone at the end.
class SmallDisk {
 public:
  SmallDisk(const Shared& shared, std::filesystem::path path, std::size_t bytes) : shared_(shared), path_(std::move(path)) {
    std::string why;
    shared.on_first([&] {
      std::filesystem::create_directories(path_);
      if (::mount("tmpfs", path_.c_str(), "tmpfs", 0, ("size=" + std::to_string(bytes)).c_str()) != 0) why = std::strerror(errno);
    });
    why_not_ = shared.world.broadcast(why, 0, "mounting");
  }
  ~SmallDisk() {
    shared_.world.barrier("end of the disk");
    if (shared_.world.rank() == 0 && why_not_.empty()) ::umount2(path_.c_str(), MNT_DETACH);
  }
  SmallDisk(const SmallDisk&) = delete;
  const std::string& why_not() const { return why_not_; }
  /// Takes all room but so many bytes.
  void leave(std::size_t bytes) const {
    shared_.on_first([&] {
      const auto space = std::filesystem::space(path_);
      if (space.available <= bytes) return;
      const int file = ::open((path_ / "filler").c_str(), O_WRONLY | O_CREAT, 0666);
      EXPECT_EQ(::fallocate(file, 0, 0, static_cast<off_t>(std::filesystem::file_size(path_ / "filler") + space.available - bytes)), 0);
      ::close(file);
    });
  }

 private:
  const Shared& shared_;
  std::filesystem::path path_;
  std::string why_not_;
};

/// A limit of this process, for a while.
class Limit {
 public:
  Limit(__rlimit_resource resource, rlim_t value) : resource_(resource), handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    ::getrlimit(resource_, &before_);
    const rlimit tight{std::min(value, before_.rlim_max), before_.rlim_max};
    ::setrlimit(resource_, &tight);
  }
  ~Limit() {
    ::setrlimit(resource_, &before_);
    std::signal(SIGXFSZ, handler_);
  }
  Limit(const Limit&) = delete;

 private:
  __rlimit_resource resource_;
  rlimit before_{};
  void (*handler_)(int);
};

/// Writers of each kind of file into one folder: small ones first, later such as need more room.
struct Writers {
  Writers(const Shared& shared, std::filesystem::path where)
      : world(shared.world), folder(std::move(where)), few(make_rows(shared, 3)), many(make_rows(shared, 200)), arrays(logical_arrays()) {
    small = big = trial(2);
    big.arrays.push_back(numbers("steps/big", DType::f64, {100000}, 1));
  }
  void write_small() const {
    if (world.rank() == 0) write_trial(folder / "trial.h5", small);
    std::vector<Piece> pieces;
    write_checkpoint(world, folder / "checkpoint.h5", "{}", pieces, small);
    write_sweep(world, folder / "sweep.h5", kHeader, few);
  }
  /// Tries each kind; each must fail as an io error that names its file, with `reason` in it.
  void expect_failures(const std::string& reason) const {
    const auto expect = [&](const std::string& name, bool collective, const std::function<void()>& work) {
      const auto text = failure(work, ErrorKind::io, collective);
      EXPECT_NE(text.find("/" + name + ": "), std::string::npos) << text;
      EXPECT_NE(text.find("cannot write: " + reason), std::string::npos) << text;
      EXPECT_NE(text.find("free space"), std::string::npos) << text;
      world.barrier("failed");
    };
    if (world.rank() == 0) {
      const auto text = failure([&] { write_trial(folder / "trial.h5", big); }, ErrorKind::io, false);
      EXPECT_NE(text.find("/trial.h5: cannot write: " + reason), std::string::npos) << text;
    }
    world.barrier("trial.h5");
    const auto pieces = pieces_of(arrays, world.rank(), world.size());
    expect("checkpoint.h5", true, [&] { write_checkpoint(world, folder / "checkpoint.h5", "{}", pieces, small); });
    expect("sweep.h5", true, [&] { write_sweep(world, folder / "sweep.h5", kHeader, many); });
  }
  void expect_old_files(const std::vector<std::string>& old) const {
    EXPECT_TRUE(contents() == old);
    for (const char* name : {"trial.h5", "checkpoint.h5", "sweep.h5"}) EXPECT_TRUE(verify(folder / name).problems.empty()) << name;
    for (const auto& name : names_in(folder)) EXPECT_EQ(name.find(".tmp"), std::string::npos) << name;
    world.barrier("compared");
  }
  std::vector<std::string> contents() const {
    std::vector<std::string> all;
    for (const char* name : {"trial.h5", "checkpoint.h5", "sweep.h5"}) all.push_back(slurp(folder / name));
    world.barrier("read");
    return all;
  }

  const comm::Communicator& world;
  std::filesystem::path folder;
  std::vector<SweepRow> few, many;
  std::vector<Logical> arrays;
  TrialRecord small, big;
};

TEST(FullDisk, ASmallFileSystem) {
  const Shared shared;
  const SmallDisk disk(shared, shared / "disk", std::size_t{3} << 20);
  if (!disk.why_not().empty()) GTEST_SKIP() << "a small tmpfs cannot be mounted here: " << disk.why_not();
  const Writers writers(shared, shared / "disk");
  writers.write_small();
  shared.world.barrier("written");
  const auto old = writers.contents();
  for (const std::size_t room : {std::size_t{200000}, std::size_t{65536}, std::size_t{4096}, std::size_t{0}}) {
    disk.leave(room);
    writers.expect_failures("No space left on device");
    writers.expect_old_files(old);
  }
  // A journal: what fits stays whole lines, the line that does not is not there.
  std::unique_ptr<JournalWriter> journal;
  shared.on_first([&] {
    std::filesystem::resize_file(shared / "disk/filler", std::filesystem::file_size(shared / "disk/filler") - 16384);
    const std::string kId = "0123456789abcdef";
    journal = std::make_unique<JournalWriter>(shared / "disk", "l", "w");
    int lines = 0;
    std::string text;
    while (text.empty() && lines < 10000) try {
        journal->write("progress", {{"trial", kId}, {"attempt", 1}, {"step", lines}});
        ++lines;
      } catch (const Error& error) {
        EXPECT_EQ(error.kind(), ErrorKind::io);
        text = error.what();
      }
    EXPECT_NE(text.find("l-w.jsonl: cannot write: No space left on device"), std::string::npos) << text;
    EXPECT_GT(lines, 0);
    const auto read = read_journal(shared / "disk");
    EXPECT_EQ(read.events.size(), static_cast<std::size_t>(lines));
    EXPECT_TRUE(read.problems.empty());
    std::filesystem::remove(shared / "disk/filler");
    journal->write("ended", {{"trial", kId}, {"attempt", 1}, {"state", "done"}});
    EXPECT_EQ(fold(read_journal(shared / "disk")).at(kId).state, "done");
    std::filesystem::remove_all(shared / "disk/journal");
  });
  // With room again, everything can be written.
  writers.write_small();
  shared.world.barrier("written");
  writers.expect_old_files(old);
}

TEST(FullDisk, ALimitOfFileSizes) {
  const Shared shared;
  std::filesystem::create_directories(shared / "limited");
  shared.world.barrier("made");
  const Writers writers(shared, shared / "limited");
  writers.write_small();
  shared.world.barrier("written");
  const auto old = writers.contents();
  for (const rlim_t bytes : {rlim_t{200000}, rlim_t{65536}, rlim_t{3000}}) {
    const Limit limit(RLIMIT_FSIZE, bytes);
    writers.expect_failures("File too large");
    writers.expect_old_files(old);
  }
}

TEST(FewHandles, AnAggregateNeedsFewFilesAtATime) {
  const Shared shared;
  const auto rows = make_rows(shared, 60);
  const auto path = shared / "sweep.h5";
  write_sweep(shared.world, path, kHeader, rows);
  const auto digest = verify(path).digest;
  const auto old = slurp(path);
  // MPI holds some, of which none are counted: the limit is on what comes beside them.
  rlim_t open = 0;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd"))
    open = std::max(open, static_cast<rlim_t>(std::stoul(entry.path().filename())) + 1);
  shared.world.barrier("read");
  {
    const Limit limit(RLIMIT_NOFILE, open + 20);
    write_sweep(shared.world, path, kHeader, rows);
    write_sweep(shared.world, path, kHeader, rows, path);
  }
  EXPECT_EQ(verify(path).digest, digest);
  shared.world.barrier("compared");
  // With ever fewer: either the same file or an error, never a file that lacks rows.
  int failures = 0, successes = 0;
  for (rlim_t handles = 12; handles-- > 0;) {
    std::string text;
    {
      const Limit limit(RLIMIT_NOFILE, open - std::min<rlim_t>(open, 8) + handles);
      try {
        write_sweep(shared.world, path, kHeader, rows);
      } catch (const Error& error) {
        text = error.what();
        EXPECT_TRUE(error.on_every_rank());
        EXPECT_EQ(name_of(error.kind()), name_of(ErrorKind::io)) << text;
        EXPECT_NE(text.find(".h5"), std::string::npos) << text;
      }
    }
    EXPECT_EQ(shared.world.maximum(text.empty() ? 0 : 1, "failed"), text.empty() ? 0 : 1);
    text.empty() ? ++successes : ++failures;
    const auto verification = verify(path);
    EXPECT_TRUE(verification.problems.empty());
    EXPECT_EQ(verification.digest, digest);
    for (const auto& name : shared.names()) EXPECT_EQ(name.find(".tmp"), std::string::npos) << name;
    shared.world.barrier("compared");
  }
  EXPECT_GT(failures, 0);
  if (shared.world.rank() == 0) std::printf("few handles: %d aggregates failed, %d were whole\n", failures, successes);
}

/// Files that are not what they should be, each with what its error must say beside its name.
TEST(Foreign, EveryKindIsNamedByAggregateAndVerify) {
  const Shared shared;
  const auto rows = make_rows(shared, 6);
  const auto path = shared / "sweep.h5", victim = rows[4].trial_file;
  write_sweep(shared.world, path, kHeader, rows);
  write_checkpoint(shared.world, shared / "checkpoint.h5", "{}", {}, trial(4));
  const auto old = slurp(path), good = slurp(victim);
  shared.world.barrier("read");
  const auto plain = [&](const std::function<void(hid_t)>& fill) {
    const hid_t file = H5Fcreate(victim.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    EXPECT_GE(file, 0);
    fill(file);
    H5Fclose(file);
  };
  const auto attribute = [&](const char* name, std::int64_t value) {
    const hid_t file = H5Fopen(victim.c_str(), H5F_ACC_RDWR, H5P_DEFAULT);
    const hid_t place = H5Aopen(file, name, H5P_DEFAULT);
    EXPECT_GE(H5Awrite(place, H5T_NATIVE_INT64, &value), 0);
    H5Aclose(place);
    H5Fclose(file);
  };
  struct Case {
    std::string what, says;
    std::function<void()> make;
    bool sound = false;  ///< by itself: only the aggregate sees that it is in the wrong place
  };
  const std::vector<Case> cases{
      {"truncated", "truncated file", [&] { spill(victim, good.substr(0, good.size() / 3)); }},
      {"short of one byte", "truncated file", [&] { spill(victim, good.substr(0, good.size() - 1)); }},
      {"empty", "the file is empty", [&] { spill(victim, ""); }},
      {"text", "not an HDF5 file", [&] { spill(victim, "{\"a\": 1}\n"); }},
      {"foreign HDF5", "not a file of moesweep", [&] { plain([](hid_t) {}); }},
      {"a sweep", "this is a moesweep-sweep file, not a moesweep-trial file", [&] { spill(victim, old); }, true},
      {"a checkpoint", "this is a moesweep-checkpoint file", [&] { spill(victim, slurp(shared / "checkpoint.h5")); }, true},
      {"renamed", "it holds the trial id002, not id004", [&] { std::filesystem::rename(rows[2].trial_file, victim); }, true},
      {"duplicated", "it holds the trial id001, not id004",
       [&] {
         std::filesystem::remove(victim);
         std::filesystem::copy_file(rows[1].trial_file, victim);
       },
       true},
      {"newer", "moesweep-trial version 2 is newer than the version 1 that this build reads", [&] { attribute("version", 2); }},
      {"without a version", "no valid format version", [&] { attribute("version", 0); }},
  };
  for (const auto& each : cases) {
    const auto third = slurp(rows[2].trial_file);
    shared.world.barrier("read");
    shared.on_first([&] {
      spill(victim, good);
      each.make();
    });
    auto now = rows;
    if (each.what == "renamed") now[2].trial_file.clear();
    for (const auto& earlier : {std::filesystem::path(), path}) {
      const auto text = failure([&] { write_sweep(shared.world, path, kHeader, now, earlier); }, ErrorKind::corrupt);
      EXPECT_NE(text.find(victim.filename().string()), std::string::npos) << each.what << ": " << text;
      EXPECT_NE(text.find(each.says), std::string::npos) << each.what << ": " << text;
      EXPECT_TRUE(slurp(path) == old) << each.what;
      shared.world.barrier("compared");
    }
    const auto verification = verify(victim);
    EXPECT_EQ(verification.problems.empty(), each.sound) << each.what;
    for (const auto& problem : verification.problems) EXPECT_NE(problem.find(victim.filename().string()), std::string::npos) << problem;
    shared.world.barrier("compared");
    shared.on_first([&] { spill(rows[2].trial_file, third); });
  }
}

TEST(Foreign, TwoTrialsOfOneIdAreRefused) {
  const Shared shared;
  auto rows = make_rows(shared, 4);
  rows[2] = rows[1];
  failure([&] { write_sweep(shared.world, shared / "sweep.h5", kHeader, rows); }, ErrorKind::internal);
  EXPECT_FALSE(std::filesystem::exists(shared / "sweep.h5"));
}

/// A file of the first format is what this build writes but for what was added later: it is read, and verified.
TEST(Versions, AnEarlierLayoutIsRead) {
  const Shared shared;
  const auto rows = make_rows(shared, 8);
  const auto path = shared / "sweep.h5";
  write_sweep(shared.world, path, kHeader, rows);
  shared.on_first([&] {
    const auto earlier = [](hid_t file) {
      for (const char* later : {"trials/digest", "trials/whole", "trials/warnings"}) EXPECT_GE(H5Ldelete(file, later, H5P_DEFAULT), 0);
    };
    change_and_seal(path, earlier, /*older=*/true);
    const SweepFile sweep(path);
    EXPECT_EQ(sweep.rows().size(), rows.size());
    for (std::size_t i = 0; i < rows.size(); ++i) EXPECT_EQ(sweep.rows()[i].metrics, rows[i].metrics);
    EXPECT_EQ(verify(path).problems, std::vector<std::string>());
  });
}

}  // namespace
}  // namespace moesweep::store
