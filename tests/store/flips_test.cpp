// One bit of every third byte of a file is flipped: what is then read is right, or an error that names the file. By default a tenth of the flips.
#include <gtest/gtest.h>

#include <cstdio>

#include "shared.hpp"
#include "store/trial.hpp"

namespace moesweep::store {
namespace {

using namespace samples;

enum class Outcome { detected, harmless, wrong };

/// Counts the outcomes of `read` over the flips of `bytes`, and prints them. `read` gives whether all it read is right.
void flip_all(const std::string& name, const std::filesystem::path& path, const std::string& bytes, std::size_t step,
              const std::function<bool()>& read) {
  int detected = 0, harmless = 0, wrong = 0;
  for (std::size_t i = 0; i < bytes.size(); i += step) {
    auto damaged = bytes;
    damaged[i] = static_cast<char>(damaged[i] ^ static_cast<char>(1 << (i % 8)));
    spill(path, damaged);
    try {
      const bool right = read();
      EXPECT_TRUE(right) << name << ": byte " << i;
      right ? ++harmless : ++wrong;
    } catch (const Error& error) {
      ++detected;
      EXPECT_EQ(name_of(error.kind()), name_of(ErrorKind::corrupt)) << error.what();
      EXPECT_NE(std::string(error.what()).find(path.filename().string()), std::string::npos) << error.what();
    }
  }
  spill(path, bytes);
  std::printf("flips of %s (every %zuth of %zu bytes): detected %d, harmless %d, silently wrong %d\n", name.c_str(), step, bytes.size(), detected,
              harmless, wrong);
  EXPECT_EQ(wrong, 0);
  EXPECT_GT(detected, 0);
}

std::size_t step() { return full() ? 3 : 30; }

/// `verify` as a reading: problems are an error.
void verify_or_throw(const std::filesystem::path& path, const std::string& digest) {
  const auto verification = verify(path);
  if (!verification.problems.empty()) throw Error(ErrorKind::corrupt, verification.problems.front());
  EXPECT_EQ(verification.digest, digest);
}

TEST(Flips, Trial) {
  const Folder folder;
  const auto path = folder / "trial.h5";
  const auto record = trial(5);
  write_trial(path, record);
  const auto bytes = slurp(path);
  const auto digest = verify(path).digest;
  flip_all("trial.h5, read", path, bytes, step(), [&] { return equal(record, read_trial(path)); });
  // A reader that knows the descriptions of such files takes no short cut past damage.
  TrialReader reader;
  flip_all("trial.h5, read after others", path, bytes, step(), [&] {
    const Published sound = write_trial(folder / "sound.h5", record);
    reader.read(folder / "sound.h5", sound);
    Published of_file;
    const bool right = equal(record, reader.read(path, sound, &of_file));
    return right && of_file.digest == digest;
  });
  flip_all("trial.h5, verified", path, bytes, step(), [&] {
    verify_or_throw(path, digest);
    return equal(record, read_trial(path));
  });
}

TEST(Flips, Checkpoint) {
  const Folder folder;
  const auto path = folder / "checkpoint.h5";
  const auto self = comm::Communicator::self();
  auto arrays = logical_arrays();
  std::erase_if(arrays, [](const Logical& array) { return array.values.bytes.size() > 4000; });
  write_checkpoint(self, path, "{}", pieces_of(arrays, 0, 1), trial(2));
  const auto digest = verify(path).digest;
  flip_all("checkpoint.h5, read", path, slurp(path), step(), [&] {
    const CheckpointReader reader(self, path);
    bool right = reader.header() == "{}" && equal(trial(2), reader.record());
    for (const auto& array : arrays) {
      std::vector<std::byte> whole(array.values.bytes.size());
      reader.read(array.name, array.values.type, 0, static_cast<std::int64_t>(whole.size() / size_of(array.values.type)), whole.data());
      right = right && whole == array.values.bytes && reader.shape(array.name) == array.shape;
    }
    return right;
  });
  flip_all("checkpoint.h5, verified", path, slurp(path), step(), [&] {
    verify_or_throw(path, digest);
    return true;
  });
}

TEST(Flips, Sweep) {
  const Shared shared;
  const auto rows = make_rows(shared, 9);
  const auto path = shared / "sweep.h5";
  write_sweep(shared.world, path, kHeader, rows);
  const auto bytes = slurp(path);
  const auto digest = verify(path).digest;
  flip_all("sweep.h5, read", path, bytes, step(), [&] {
    const SweepFile sweep(path);
    const auto& read = sweep.rows();
    bool same = read.size() == rows.size() && sweep.header().name == kHeader.name && sweep.header().resolved == kHeader.resolved &&
                sweep.header().provenance == kHeader.provenance;
    for (std::size_t r = 0; same && r < rows.size(); ++r) {
      same = read[r].id == rows[r].id && read[r].state == rows[r].state && read[r].reason == rows[r].reason && read[r].axes == rows[r].axes &&
             read[r].metrics == rows[r].metrics && read[r].config == rows[r].config && read[r].provenance == rows[r].provenance;
      const auto record = trial(static_cast<int>(r));
      for (const auto& array : rows[r].trial_file.empty() ? std::vector<Array>{} : record.arrays) {
        const auto got = sweep.array(r, array.path);
        same = same && got.bytes == array.bytes && (got.shape == array.shape || (got.elements() == 0 && array.elements() == 0));
      }
    }
    return same;
  });
  flip_all("sweep.h5, verified", path, bytes, step(), [&] {
    verify_or_throw(path, digest);
    return true;
  });
  // As a source of the next aggregate a damaged one is refused, and every trial file read.
  int refused = 0, used = 0;
  const auto next = shared / "next.h5";
  for (std::size_t i = 0; i < bytes.size(); i += 20 * step()) {
    auto damaged = bytes;
    damaged[i] = static_cast<char>(damaged[i] ^ static_cast<char>(1 << (i % 8)));
    spill(path, damaged);
    const auto making = write_sweep(shared.world, next, kHeader, rows, path);
    making.earlier_refused.empty() ? ++used : ++refused;
    EXPECT_EQ(verify(next).digest, digest) << "byte " << i;
  }
  std::printf("flips of sweep.h5 before it is used again: refused %d, used %d, silently wrong 0\n", refused, used);
}

}  // namespace
}  // namespace moesweep::store
