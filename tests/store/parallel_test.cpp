// The files that ranks write together: aggregate and checkpoint, on any number of ranks.
#include <gtest/gtest.h>
#include <hdf5.h>
#include <sys/resource.h>

#include <cmath>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <memory>

#include "moesweep/comm/mpi.hpp"
#include "moesweep/core/error.hpp"
#include "moesweep/core/json.hpp"
#include "moesweep/core/publish.hpp"
#include "moesweep/store/aggregate.hpp"
#include "moesweep/store/checkpoint.hpp"
#include "seal.hpp"
#include "shared.hpp"
#include "store/collective.hpp"

namespace moesweep::store {
namespace {

using namespace samples;

void expect_rows(const SweepFile& sweep, const std::vector<SweepRow>& rows) {
  EXPECT_EQ(sweep.rows().size(), rows.size());
  if (sweep.rows().size() != rows.size()) return;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const auto& row = sweep.rows()[i];
    EXPECT_EQ(row.id, rows[i].id);
    EXPECT_EQ(row.state, rows[i].state);
    EXPECT_EQ(row.reason, rows[i].reason);
    EXPECT_EQ(row.axes, rows[i].axes);
    EXPECT_EQ(row.metrics, rows[i].metrics);
    EXPECT_EQ(row.config, rows[i].config);
    EXPECT_EQ(row.provenance, rows[i].provenance);
    EXPECT_TRUE(row.trial_file.empty());
  }
}

void expect_arrays(const SweepFile& sweep, const std::vector<SweepRow>& rows) {
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const auto record = trial(static_cast<int>(i));
    for (const auto& path : sweep.array_paths()) {
      const Array got = sweep.array(i, path);
      const Array* want = rows[i].trial_file.empty() ? nullptr : record.find(path);
      if (!want) {
        EXPECT_EQ(got.elements(), 0) << path;
        EXPECT_TRUE(got.shape.empty()) << path;
        continue;
      }
      EXPECT_EQ(got.shape, want->shape) << path;
      EXPECT_EQ(got.type, want->type) << path;
      EXPECT_TRUE(got.bytes == want->bytes) << path << " of " << i;
      EXPECT_EQ(got.unit, want->unit) << path;
    }
  }
}

class Sweep : public testing::TestWithParam<int> {};

TEST_P(Sweep, HoldsEveryTrial) {
  const Shared shared;
  const auto rows = make_rows(shared, GetParam());
  const auto before = collective_statistics();
  write_sweep(shared.world, shared / "sweep.h5", kHeader, rows);
  const auto after = collective_statistics();
  EXPECT_GT(after.writes, before.writes);
  EXPECT_EQ(after.independent, before.independent);
  const SweepFile sweep(shared / "sweep.h5");
  EXPECT_EQ(sweep.header().name, kHeader.name);
  EXPECT_EQ(sweep.header().resolved, kHeader.resolved);
  EXPECT_EQ(sweep.header().provenance, kHeader.provenance);
  expect_rows(sweep, rows);
  expect_arrays(sweep, rows);
  expect_sound(shared / "sweep.h5", rows.size());
  EXPECT_EQ(sweep.array(0, "no/such").elements(), 0);
  shared.world.barrier("read");
  for (const auto& name : shared.names()) EXPECT_EQ(name.find(".tmp"), std::string::npos) << name;
}

// 0, fewer than ranks, one batch, several batches with growing datasets.
INSTANTIATE_TEST_SUITE_P(Sizes, Sweep, testing::Values(1, 2, 5, 16, 41, 130));

TEST(SweepDigest, IsTheSameForAnyNumberOfRanks) {
  const Shared shared;
  const auto rows = make_rows(shared, 60);
  std::string digest;
  for (int ranks = 1; ranks <= shared.world.size(); ++ranks) {
    const auto part = shared.world.split(shared.world.rank() < ranks ? std::optional<int>(0) : std::nullopt);
    const auto path = shared / ("sweep" + std::to_string(ranks) + ".h5");
    if (part) write_sweep(*part, path, kHeader, rows);
    shared.world.barrier("written");
    const auto here = verify(path).digest;
    if (digest.empty()) digest = here;
    EXPECT_EQ(here, digest) << ranks;
  }
  // The digest of one more rank count is compared by the reference script; print it for eyes.
  if (shared.world.rank() == 0) std::printf("digest of 60 trials: %s\n", digest.c_str());
}

TEST(SweepDigest, SeesAChangedValue) {
  const Shared shared;
  auto rows = make_rows(shared, 4);
  write_sweep(shared.world, shared / "a.h5", kHeader, rows);
  rows[1].metrics["loss"] += 1e-12;
  write_sweep(shared.world, shared / "b.h5", kHeader, rows);
  EXPECT_NE(verify(shared / "a.h5").digest, verify(shared / "b.h5").digest);
}

TEST(SweepEdges, NoTrials) {
  const Shared shared;
  write_sweep(shared.world, shared / "sweep.h5", kHeader, std::vector<SweepRow>{});
  const SweepFile sweep(shared / "sweep.h5");
  EXPECT_TRUE(sweep.rows().empty());
  EXPECT_TRUE(sweep.array_paths().empty());
  expect_sound(shared / "sweep.h5", 0);
}

TEST(SweepEdges, LongReasonsAreCut) {
  const Shared shared;
  auto rows = make_rows(shared, 3);
  rows[1].reason = std::string(10000, 'x');
  write_sweep(shared.world, shared / "sweep.h5", kHeader, rows);
  EXPECT_EQ(SweepFile(shared / "sweep.h5").rows()[1].reason.size(), 4000U);
}

TEST(SweepErrors, ADamagedInputIsNamedOnEveryRankAndTheOldFileStays) {
  const Shared shared;
  const auto rows = make_rows(shared, 12);
  const auto path = shared / "sweep.h5";
  write_sweep(shared.world, path, kHeader, rows);
  const auto old = slurp(path);
  for (const int bad : {0, 5, 11}) {
    const auto file = shared / ("trial" + std::to_string(bad) + ".h5");
    const auto good = slurp(file);
    shared.world.barrier("read");
    // The bytes of a number, looked for by its value, are damaged on disk.
    shared.on_first([&] {
      const auto record = trial(bad);
      const auto& bytes = record.find("steps/loss")->bytes;
      const auto at = good.find(std::string(reinterpret_cast<const char*>(bytes.data()), 16));
      ASSERT_NE(at, std::string::npos);
      auto damaged = good;
      damaged[at + 3] = static_cast<char>(damaged[at + 3] ^ 1);
      spill(file, damaged);
    });
    const auto text = failure([&] { write_sweep(shared.world, path, kHeader, rows); }, ErrorKind::corrupt);
    EXPECT_NE(text.find("trial" + std::to_string(bad) + ".h5"), std::string::npos) << text;
    EXPECT_NE(text.find("steps/loss"), std::string::npos) << text;
    EXPECT_TRUE(slurp(path) == old);
    shared.world.barrier("compared");
    shared.on_first([&] { spill(file, good); });
  }
  for (const auto& name : shared.names()) EXPECT_EQ(name.find(".tmp"), std::string::npos) << name;
}

TEST(SweepErrors, WrongTrialsAndShapesAreNamed) {
  const Shared shared;
  auto rows = make_rows(shared, 4);
  auto other = rows;
  other[2].trial_file = rows[1].trial_file;
  EXPECT_NE(
      failure([&] { write_sweep(shared.world, shared / "sweep.h5", kHeader, other); }, ErrorKind::corrupt).find("holds the trial id001, not id002"),
      std::string::npos);
  shared.world.barrier("failed");
  shared.on_first([&] {
    auto record = trial(3);
    record.arrays[0] = numbers("steps/loss", DType::f32, {2, 2}, 1);
    write_trial(rows[3].trial_file, record);
  });
  const auto text = failure([&] { write_sweep(shared.world, shared / "sweep.h5", kHeader, rows); }, ErrorKind::data);
  EXPECT_NE(text.find("trial3.h5"), std::string::npos) << text;
  EXPECT_NE(text.find("dataset steps/loss: 2 dimensions of f32, but 1 of f64"), std::string::npos) << text;
  std::swap(rows[0], rows[1]);
  EXPECT_NE(failure([&] { write_sweep(shared.world, shared / "sweep.h5", kHeader, rows); }, ErrorKind::internal).find("order"), std::string::npos);
}

TEST(SweepErrors, RanksThatDisagreeAreTold) {
  const Shared shared;
  if (shared.world.size() == 1) GTEST_SKIP() << "needs two ranks";
  auto rows = make_rows(shared, 4);
  if (shared.world.rank() == 1) rows[2].reason = "another";
  EXPECT_NE(failure([&] { write_sweep(shared.world, shared / "sweep.h5", kHeader, rows); }, ErrorKind::internal).find("differ between the ranks"),
            std::string::npos);
}

TEST(SweepErrors, AMissingFolderIsAnIoError) {
  const Shared shared;
  const auto rows = make_rows(shared, 2);
  failure([&] { write_sweep(shared.world, shared / "none/sweep.h5", kHeader, rows); }, ErrorKind::io);
}

TEST(Growing, DatasetThatStartsEmptyHasChunksOfManyRows) {
  const Shared shared;
  const auto path = shared / "growing.h5";
  {
    shared.on_first([&] { create_exclusively(path, path); });
    CollectiveFile file(shared.world, path, path);
    file.add({"long", {DType::f64, 0}, {0}, "1", "starts empty", {}, {}}, true, 0);
    file.close();
  }
  const hid_t file = H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT), dataset = H5Dopen2(file, "long", H5P_DEFAULT);
  const hid_t creation = H5Dget_create_plist(dataset);
  hsize_t rows = 0;
  EXPECT_EQ(H5Pget_chunk(creation, 1, &rows), 1);
  EXPECT_EQ(rows, 1024u);
  H5Pclose(creation);
  H5Dclose(dataset);
  H5Fclose(file);
}

TEST(Verify, NamesWhatIsWrong) {
  const Shared shared;
  const auto rows = make_rows(shared, 6);
  write_sweep(shared.world, shared / "sweep.h5", kHeader, rows);
  const auto path = shared / "sweep.h5";
  shared.on_first([&] {
    const auto bytes = slurp(path);
    const auto problems_after = [&](const std::function<void(hid_t)>& change, bool sealed = true) {
      spill(path, bytes);
      const hid_t file = H5Fopen(path.c_str(), H5F_ACC_RDWR, H5P_DEFAULT);
      EXPECT_GE(file, 0);
      change(file);
      H5Fclose(file);
      if (sealed) seal(path);
      std::string text;
      for (const auto& problem : verify(path).problems) text += problem + "\n";
      return text;
    };
    EXPECT_EQ(problems_after([](hid_t) {}), "");
    auto text = problems_after([](hid_t file) {
      std::vector<std::int64_t> offsets{0, 9, 2, 3, 4, 5, 6};
      const hid_t dataset = H5Dopen2(file, "arrays/steps/loss/offsets", H5P_DEFAULT);
      EXPECT_GE(H5Dwrite(dataset, H5T_NATIVE_INT64, H5S_ALL, H5S_ALL, H5P_DEFAULT, offsets.data()), 0);
      H5Dclose(dataset);
    });
    EXPECT_NE(text.find("sweep.h5: dataset arrays/steps/loss/offsets: the offsets do not run"), std::string::npos) << text;
    text = problems_after([](hid_t file) { H5Ldelete(file, "trials/whole", H5P_DEFAULT); }, false);
    EXPECT_NE(text.find("sweep.h5: the digest does not fit"), std::string::npos) << text;
    text = problems_after([](hid_t file) { H5Ldelete(file, "trials/state", H5P_DEFAULT); });
    EXPECT_NE(text.find("dataset trials/state: it is missing"), std::string::npos) << text;
    text = problems_after([](hid_t file) {
      const hsize_t one = 1;
      const hid_t space = H5Screate_simple(1, &one, nullptr);
      const double value = 1;
      const hid_t properties = H5Pcreate(H5P_DATASET_CREATE);
      const hid_t plain = H5Dcreate2(file, "metrics/foreign", H5T_NATIVE_DOUBLE, space, H5P_DEFAULT, properties, H5P_DEFAULT);
      H5Pset_chunk(properties, 1, &one);
      H5Pset_fletcher32(properties);
      const hid_t short_one = H5Dcreate2(file, "metrics/short", H5T_NATIVE_DOUBLE, space, H5P_DEFAULT, properties, H5P_DEFAULT);
      for (const hid_t dataset : {plain, short_one}) {
        H5Dwrite(dataset, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, &value);
        H5Dclose(dataset);
      }
      H5Pclose(properties);
      H5Sclose(space);
    });
    EXPECT_NE(text.find("dataset metrics/foreign: it has no checksum"), std::string::npos) << text;
    EXPECT_NE(text.find("dataset metrics/short: it does not have one value per trial"), std::string::npos) << text;
    text = problems_after([](hid_t file) {
      const std::int64_t version = 9;
      const hid_t attribute = H5Aopen(file, "version", H5P_DEFAULT);
      H5Awrite(attribute, H5T_NATIVE_INT64, &version);
      H5Aclose(attribute);
    });
    EXPECT_NE(text.find("moesweep-sweep version 9 is newer"), std::string::npos) << text;
    EXPECT_NE(failure([&] { SweepFile again(path); }, ErrorKind::corrupt, false).find("moesweep-sweep version 9 is newer"), std::string::npos);
    spill(path, bytes.substr(0, bytes.size() / 2));
    EXPECT_NE(failure([&] { SweepFile again(path); }, ErrorKind::corrupt, false).find("truncated file"), std::string::npos);
    spill(path, "");
    EXPECT_EQ(verify(path).problems.size(), 1U);
    expect_sound(rows[0].trial_file, 1);
    failure([&] { SweepFile again(rows[0].trial_file); }, ErrorKind::corrupt, false);
    failure([&] { verify(shared / "none.h5"); }, ErrorKind::io, false);
  });
}

// ---- checkpoints ----------------------------------------------------------------------------------------------------------------------

void expect_checkpoint(const comm::Communicator& communicator, const std::filesystem::path& path, const std::vector<Logical>& arrays) {
  CheckpointReader reader(communicator, path);
  EXPECT_EQ(reader.header(), "{\"step\": 7}");
  expect_equal(trial(2), reader.record());
  EXPECT_EQ(reader.names().size(), arrays.size());
  for (const auto& array : arrays) {
    EXPECT_EQ(reader.shape(array.name), array.shape) << array.name;
    const std::size_t width = size_of(array.values.type);
    const auto elements = static_cast<std::int64_t>(array.values.bytes.size() / width);
    // Overlapping thirds, so that every rank reads something else.
    const std::int64_t first = elements * communicator.rank() / (communicator.size() + 1), count = (elements - first + 1) / 2;
    std::vector<std::byte> part(static_cast<std::size_t>(count) * width);
    reader.read(array.name, array.values.type, first, count, part.data());
    EXPECT_TRUE(
        std::equal(part.begin(), part.end(), array.values.bytes.begin() + static_cast<std::ptrdiff_t>(static_cast<std::size_t>(first) * width)))
        << array.name;
    std::vector<std::byte> whole(array.values.bytes.size());
    reader.read(array.name, array.values.type, 0, elements, whole.data());
    EXPECT_TRUE(whole == array.values.bytes) << array.name;
  }
}

TEST(Checkpoint, AnyNumberOfRanksReadsWhatAnyOtherWrote) {
  const Shared shared;
  const auto arrays = logical_arrays();
  std::string digest;
  for (int writers = 1; writers <= shared.world.size(); ++writers) {
    const auto path = shared / ("checkpoint" + std::to_string(writers) + ".h5");
    const auto part = shared.world.split(shared.world.rank() < writers ? std::optional<int>(0) : std::nullopt);
    if (part) {
      const auto before = collective_statistics();
      // Only rank 0's record counts.
      write_checkpoint(*part, path, "{\"step\": 7}", pieces_of(arrays, part->rank(), part->size()), part->rank() == 0 ? trial(2) : TrialRecord{});
      EXPECT_EQ(collective_statistics().independent, before.independent);
      EXPECT_GT(collective_statistics().writes, before.writes);
    }
    shared.world.barrier("written");
    expect_sound(path, 1);
    if (digest.empty()) digest = verify(path).digest;
    EXPECT_EQ(verify(path).digest, digest);
    for (int readers = 1; readers <= shared.world.size(); ++readers) {
      const auto group = shared.world.split(shared.world.rank() < readers ? std::optional<int>(0) : std::nullopt);
      if (group) expect_checkpoint(*group, path, arrays);
    }
  }
}

TEST(Checkpoint, ErrorsAreTheSameOnEveryRank) {
  const Shared shared;
  const auto arrays = logical_arrays();
  const auto path = shared / "checkpoint.h5";
  const int rank = shared.world.rank(), ranks = shared.world.size();
  const auto write = [&](const std::vector<Piece>& pieces) { write_checkpoint(shared.world, path, "{\"step\": 7}", pieces, trial(2)); };
  write(pieces_of(arrays, rank, ranks));
  const auto old = slurp(path);
  auto pieces = pieces_of(arrays, rank, ranks);
  if (rank == ranks - 1) --pieces[1].count;
  EXPECT_NE(failure([&] { write(pieces); }, ErrorKind::internal).find("do not tile"), std::string::npos);
  pieces = pieces_of(arrays, rank, ranks);
  if (rank == ranks - 1) pieces[3].count += 1000;
  EXPECT_NE(failure([&] { write(pieces); }, ErrorKind::internal).find("moments/first/embedding"), std::string::npos);
  if (ranks > 1) {
    pieces = pieces_of(arrays, rank, ranks);
    if (rank == 1) std::swap(pieces[0], pieces[3]);
    EXPECT_NE(failure([&] { write(pieces); }, ErrorKind::internal).find("differ between the ranks"), std::string::npos);
    pieces = pieces_of(arrays, rank, ranks);
    if (rank == 1 && pieces[1].count > 0) {
      --pieces[1].first;  // an overlap
      ++pieces[1].count;
      pieces[1].data = arrays[1].values.bytes.data();
    }
    EXPECT_NE(failure([&] { write(pieces); }, ErrorKind::internal).find("do not tile"), std::string::npos);
  }
  EXPECT_TRUE(slurp(path) == old);
  CheckpointReader reader(shared.world, path);
  std::vector<std::byte> bytes(8);
  EXPECT_NE(failure([&] { reader.read("none", DType::f32, 0, 1, bytes.data()); }, ErrorKind::corrupt).find("dataset none"), std::string::npos);
  EXPECT_NE(failure([&] { reader.read("state/step", DType::f32, 0, 1, bytes.data()); }, ErrorKind::corrupt).find("holds i64, not f32"),
            std::string::npos);
  failure([&] { reader.read("state/step", DType::i64, 0, 2, bytes.data()); }, ErrorKind::internal);
  if (rank == 0) {
    failure([&] { reader.shape("none"); }, ErrorKind::corrupt);
  }
  failure([&] { CheckpointReader none(shared.world, shared / "none.h5"); }, ErrorKind::io);
  shared.on_first([&] { write_trial(shared / "trial.h5", trial(1)); });
  EXPECT_NE(failure([&] { CheckpointReader none(shared.world, shared / "trial.h5"); }, ErrorKind::corrupt)
                .find("moesweep-trial file, not a moesweep-checkpoint"),
            std::string::npos);
}

TEST(Checkpoint, DamageIsSeen) {
  const Shared shared;
  const auto arrays = logical_arrays();
  const auto path = shared / "checkpoint.h5";
  write_checkpoint(shared.world, path, "{}", pieces_of(arrays, shared.world.rank(), shared.world.size()), trial(2));
  const auto bytes = slurp(path);
  int detected = 0, harmless = 0;
  for (std::size_t i = 11; i < bytes.size(); i += bytes.size() / 40) {
    shared.world.barrier("read");
    shared.on_first([&] {
      auto damaged = bytes;
      damaged[i] = static_cast<char>(damaged[i] ^ 4);
      spill(path, damaged);
    });
    try {
      const CheckpointReader reader(shared.world, path);
      ++harmless;
      for (const auto& array : arrays) {
        std::vector<std::byte> whole(array.values.bytes.size());
        reader.read(array.name, array.values.type, 0, static_cast<std::int64_t>(whole.size() / size_of(array.values.type)), whole.data());
        EXPECT_TRUE(whole == array.values.bytes) << array.name;
      }
    } catch (const Error& error) {
      ++detected;
      EXPECT_NE(std::string(error.what()).find("checkpoint.h5"), std::string::npos) << error.what();
    }
  }
  EXPECT_GT(detected, harmless);
}

// ---- for reference.py ---------------------------------------------------------------------------------------------------------------------

TEST(Reference, WritesAFolderForTheIndependentReader) {
  const char* folder = std::getenv("MOESWEEP_REFERENCE_FOLDER");
  if (!folder) GTEST_SKIP() << "reference.py gives the folder";
  const Shared shared;
  const int trials = std::atoi(std::getenv("MOESWEEP_REFERENCE_TRIALS"));
  const auto rows = make_rows(shared, trials);
  write_sweep(shared.world, std::filesystem::path(folder) / "sweep.h5", kHeader, rows);
  const auto arrays = logical_arrays();
  write_checkpoint(shared.world, std::filesystem::path(folder) / "checkpoint.h5", "{\"step\": 7}",
                   pieces_of(arrays, shared.world.rank(), shared.world.size()), trial(2));
  shared.on_first([&] {
    Json all = Json::array();
    for (const auto& row : rows) {
      const auto name = row.trial_file.filename().string();
      if (!name.empty()) std::filesystem::copy_file(row.trial_file, std::filesystem::path(folder) / name);
      all.push_back({{"id", row.id},
                     {"state", row.state},
                     {"reason", row.reason},
                     {"axes", row.axes},
                     {"metrics", row.metrics},
                     {"config", row.config},
                     {"provenance", row.provenance},
                     {"file", name}});
    }
    spill(std::filesystem::path(folder) / "rows.json", all.dump());
  });
}

// ---- full disks -------------------------------------------------------------------------------------------------------------------------

TEST(FullDisk, SharedFilesFailAlikeAndTheOldOneStays) {
  const Shared shared;
  const auto rows = make_rows(shared, 200);
  const auto arrays = logical_arrays();
  const auto pieces = pieces_of(arrays, shared.world.rank(), shared.world.size());
  write_sweep(shared.world, shared / "sweep.h5", kHeader, rows);
  write_checkpoint(shared.world, shared / "checkpoint.h5", "{}", pieces, trial(2));
  const auto sweep = slurp(shared / "sweep.h5"), checkpoint = slurp(shared / "checkpoint.h5");
  shared.world.barrier("read");
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  int failures = 0;
  for (std::size_t size = 2000; size < checkpoint.size(); size += size / 2) {
    const rlimit tight{size, before.rlim_max};
    const auto write = [&](const std::string& name, std::size_t whole, const std::function<void()>& work) {
      if (size >= whole) return;
      setrlimit(RLIMIT_FSIZE, &tight);
      const auto text = failure(work, ErrorKind::io);
      setrlimit(RLIMIT_FSIZE, &before);
      EXPECT_NE(text.find("/" + name + ": "), std::string::npos) << text;
      EXPECT_NE(text.find("cannot write: File too large"), std::string::npos) << text;
      ++failures;
      shared.world.barrier("failed");
    };
    write("sweep.h5", sweep.size(), [&] { write_sweep(shared.world, shared / "sweep.h5", kHeader, rows); });
    write("checkpoint.h5", checkpoint.size(), [&] { write_checkpoint(shared.world, shared / "checkpoint.h5", "{}", pieces, trial(2)); });
  }
  if (shared.world.rank() == 0) std::printf("full disk: %d failures, files of %zu and %zu bytes\n", failures, sweep.size(), checkpoint.size());
  std::signal(SIGXFSZ, handler);
  EXPECT_TRUE(slurp(shared / "sweep.h5") == sweep);
  EXPECT_TRUE(slurp(shared / "checkpoint.h5") == checkpoint);
  for (const auto& name : shared.names()) EXPECT_EQ(name.find(".tmp"), std::string::npos) << name;
  // And the next writing works.
  write_sweep(shared.world, shared / "sweep.h5", kHeader, rows);
  expect_sound(shared / "sweep.h5", rows.size());
}

}  // namespace
}  // namespace moesweep::store
