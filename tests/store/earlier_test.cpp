// Aggregates made with the help of an earlier one: the same as from scratch, and only what is new is read.
#include <gtest/gtest.h>
#include <hdf5.h>

#include <cstdio>
#include <random>

#include "shared.hpp"

namespace moesweep::store {
namespace {

using namespace samples;

/// A sweep whose trials come, change and go; rank 0 writes the files, all ranks know what was done.
class Study {
 public:
  explicit Study(const Shared& shared) : shared_(shared) {}

  /// Gives trial `number` a file with the content of trial(index), under its own id.
  void put(int number, int index) {
    TrialRecord record = trial(index);
    record.id = trial(number).id;
    records_[number] = record;
    std::string told;
    shared_.on_first([&] {
      const Published made = write_trial(file(number), record);
      told = made.sha256 + made.digest + std::to_string(made.bytes);
    });
    told = shared_.world.broadcast(told, 0, "what was published");
    published_[number] = {told.substr(0, 64), told.substr(64, 64), std::stoll(told.substr(128))};
  }
  void remove_file(int number) { records_[number].reset(); }
  void remove(int number) { records_.erase(number); }
  bool has(int number) const { return records_.contains(number); }

  SweepMaking aggregate(const comm::Communicator& communicator, const std::filesystem::path& path, const std::filesystem::path& earlier = {}) const {
    SweepSource source;
    std::vector<int> numbers;
    for (const auto& [number, record] : records_) {
      source.trials.push_back({trial(number).id, record ? file(number) : std::filesystem::path(), record ? published_.at(number) : Published{}});
      numbers.push_back(number);
    }
    source.row = [&](std::size_t i, const TrialRecord* record) {
      SweepRow row{trial(numbers[i]).id, "pending", "not begun", {{"number", std::to_string(numbers[i])}}, {}, "{\"n\": 1}", "{}", {}};
      if (!record) return row;
      const auto& expected = records_.at(numbers[i]);
      EXPECT_TRUE(expected) << row.id;
      EXPECT_EQ(record->id, expected->id);
      EXPECT_EQ(record->state, expected->state);
      EXPECT_EQ(record->reason, expected->reason);
      EXPECT_EQ(record->provenance, expected->provenance);
      EXPECT_EQ(record->arrays.size(), expected->arrays.size());
      for (const auto& array : expected->arrays) {
        const Array* got = record->find(array.path);
        EXPECT_NE(got, nullptr) << array.path;
        if (got) expect_equal(array, *got);
        if (got && got->metric && got->elements() > 0) row.metrics[array.path.substr(array.path.find('/') + 1)] = as_doubles(*got).back();
      }
      row.state = record->state;
      row.reason = record->reason;
      row.provenance = record->provenance;
      return row;
    };
    source.more_metrics = [](std::size_t, const std::map<std::string, double>& metrics) {
      return std::map<std::string, double>{{"count_of_metrics", static_cast<double>(metrics.size())}};
    };
    return write_sweep(communicator, path, kHeader, source, earlier);
  }
  std::int64_t files() const {
    return std::count_if(records_.begin(), records_.end(), [](const auto& entry) { return entry.second.has_value(); });
  }

 private:
  std::filesystem::path file(int number) const { return shared_ / ("trial" + std::to_string(number) + ".h5"); }
  const Shared& shared_;
  std::map<int, std::optional<TrialRecord>> records_;
  std::map<int, Published> published_;
};

/// As scratch, by all ranks, and the same by the first rank alone.
void expect_as_from_scratch(const Shared& shared, const Study& study, const std::filesystem::path& path, const std::string& what) {
  expect_sound(path, SweepFile(path).rows().size());
  const auto digest = verify(path).digest;
  study.aggregate(shared.world, shared / "scratch.h5");
  EXPECT_EQ(verify(shared / "scratch.h5").digest, digest) << what;
  shared.world.barrier("compared");
  const auto alone = shared.world.split(shared.world.rank() == 0 ? std::optional<int>(0) : std::nullopt);
  if (alone) {
    study.aggregate(*alone, shared / "alone.h5", path);
    EXPECT_EQ(verify(shared / "alone.h5").digest, digest) << what << ", by one rank from that of all";
  }
  shared.world.barrier("compared");
}

TEST(Earlier, NothingNewReadsNothing) {
  const Shared shared;
  Study study(shared);
  for (int i = 0; i < 90; ++i) study.put(i, 7);  // alike but for their ids
  const auto path = shared / "sweep.h5";
  auto making = study.aggregate(shared.world, path, path);
  EXPECT_EQ(making.files_read, 90);
  EXPECT_EQ(making.rows_kept, 0);
  EXPECT_EQ(making.earlier_refused, "");
  const auto digest = verify(path).digest;
  making = study.aggregate(shared.world, path, path);
  EXPECT_EQ(making.files_read, 0);
  EXPECT_EQ(making.rows_kept, 90);
  EXPECT_EQ(verify(path).digest, digest);
  shared.world.barrier("compared");
  // One changes, one comes, one loses its file: two are read.
  study.put(4, 11);
  study.put(95, 12);
  study.remove_file(30);
  making = study.aggregate(shared.world, path, path);
  EXPECT_EQ(making.files_read, 2);
  EXPECT_EQ(making.rows_kept, 88);
  expect_as_from_scratch(shared, study, path, "three changes");
}

TEST(Earlier, RandomHistoriesGiveWhatScratchGives) {
  const Shared shared;
  std::int64_t read = 0, kept = 0;
  for (unsigned seed = 1; seed <= (full() ? 8U : 1U); ++seed) {
    std::mt19937 random(seed);
    const auto below = [&](int n) { return static_cast<int>(random() % static_cast<unsigned>(n)); };
    Study study(shared);
    const auto path = shared / ("sweep" + std::to_string(seed) + ".h5");
    for (int round = 0; round < 5; ++round) {
      for (int i = round == 0 ? 60 : 12; i > 0; --i) {
        const int number = below(80), kind = below(6);
        if (kind == 0) study.remove(number);
        else if (kind == 1 && study.has(number)) study.remove_file(number);
        else study.put(number, below(40));  // its shapes, its set of arrays and whether they are metrics differ
      }
      const auto making = study.aggregate(shared.world, path, path);
      EXPECT_EQ(making.files_read + making.rows_kept, study.files());
      EXPECT_EQ(making.earlier_refused, "");
      read += making.files_read;
      kept += making.rows_kept;
      expect_as_from_scratch(shared, study, path, "seed " + std::to_string(seed) + " round " + std::to_string(round));
    }
  }
  EXPECT_GT(kept, 0);
  if (shared.world.rank() == 0)
    std::printf("random changes: %lld files read, %lld rows kept\n", static_cast<long long>(read), static_cast<long long>(kept));
}

TEST(Earlier, AnUnsoundOneGivesNothing) {
  const Shared shared;
  Study study(shared);
  for (int i = 0; i < 10; ++i) study.put(i, 7);
  const auto path = shared / "sweep.h5";
  study.aggregate(shared.world, path);
  const auto good = slurp(path), digest = verify(path).digest;
  shared.world.barrier("read");
  const auto refused_after = [&](const std::function<void()>& damage) {
    shared.on_first([&] {
      spill(path, good);
      damage();
    });
    const auto making = study.aggregate(shared.world, path, path);
    EXPECT_EQ(making.files_read, 10);
    EXPECT_EQ(verify(path).digest, digest);
    shared.world.barrier("compared");
    return making.earlier_refused;
  };
  const auto change = [&](const std::function<void(hid_t)>& work) {
    const hid_t file = H5Fopen(path.c_str(), H5F_ACC_RDWR, H5P_DEFAULT);
    EXPECT_GE(file, 0);
    work(file);
    H5Fclose(file);
  };
  const auto version = [&](std::int64_t value) {
    change([&](hid_t file) {
      const hid_t attribute = H5Aopen(file, "version", H5P_DEFAULT);
      H5Awrite(attribute, H5T_NATIVE_INT64, &value);
      H5Aclose(attribute);
    });
  };
  EXPECT_NE(refused_after([&] { spill(path, ""); }).find("empty"), std::string::npos);
  EXPECT_NE(refused_after([&] { spill(path, good.substr(0, good.size() / 2)); }).find("truncated"), std::string::npos);
  EXPECT_NE(refused_after([&] { write_trial(path, trial(1)); }).find("moesweep-trial file"), std::string::npos);
  EXPECT_NE(refused_after([&] { version(9); }).find("version 9 is newer"), std::string::npos);
  EXPECT_NE(refused_after([&] {
              change([](hid_t file) {  // a well-formed write: only the digest sees it
                const std::vector<double> values(70, 1.0);
                const hid_t dataset = H5Dopen2(file, "arrays/steps/loss/data", H5P_DEFAULT);
                EXPECT_GE(H5Dwrite(dataset, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()), 0);
                H5Dclose(dataset);
              });
            }).find("digest"),
            std::string::npos);
  // As moesweep wrote them before it noted digests.
  EXPECT_NE(refused_after([&] { change([](hid_t file) { H5Ldelete(file, "trials/digest", H5P_DEFAULT); }); }).find("which trial files"),
            std::string::npos);
}

TEST(Earlier, AChangedAndDamagedFileIsNamed) {
  const Shared shared;
  Study study(shared);
  for (int i = 0; i < 10; ++i) study.put(i, 7);
  const auto path = shared / "sweep.h5";
  study.aggregate(shared.world, path);
  const auto old = slurp(path);
  const auto file = shared / "trial3.h5";
  const auto good = slurp(file);
  shared.world.barrier("read");
  for (const auto& bytes : {std::string(), good.substr(0, good.size() - 100), std::string(5000, 'x')}) {
    shared.on_first([&] { spill(file, bytes); });
    const auto text = failure([&] { study.aggregate(shared.world, path, path); }, ErrorKind::corrupt);
    EXPECT_NE(text.find("trial3.h5"), std::string::npos) << text;
    EXPECT_TRUE(slurp(path) == old);
    shared.world.barrier("compared");
  }
}

}  // namespace
}  // namespace moesweep::store
