// Files that were made to harm: whatever a file says of itself, a reader gives an error that names it, and neither crashes, nor hangs, nor takes
// memory that the file does not account for, nor shows another file's content.
#include <gtest/gtest.h>
#include <hdf5.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <csignal>
#include <fstream>
#include <functional>
#include <limits>
#include <sstream>
#include <thread>

#include "moesweep/core/error.hpp"
#include "moesweep/store/aggregate.hpp"
#include "moesweep/store/checkpoint.hpp"
#include "moesweep/store/record.hpp"
#include "moesweep/store/tensors.hpp"
#include "samples.hpp"
#include "seal.hpp"

namespace moesweep::store {
namespace {

using namespace samples;

/// Opens the file with plain HDF5, changes it, and closes it.
void change(const std::filesystem::path& path, const std::function<void(hid_t)>& work) {
  const hid_t file = H5Fopen(path.c_str(), H5F_ACC_RDWR, H5P_DEFAULT);
  ASSERT_GE(file, 0);
  work(file);
  ASSERT_EQ(H5Fget_obj_count(file, H5F_OBJ_ALL), 1);
  ASSERT_GE(H5Fclose(file), 0);
}

/// A creation property list with chunks of `chunk` elements and fletcher32, as ours have.
hid_t ours(hsize_t chunk) {
  const hid_t properties = H5Pcreate(H5P_DATASET_CREATE);
  H5Pset_chunk(properties, 1, &chunk);
  H5Pset_fletcher32(properties);
  return properties;
}

void text_attribute(hid_t object, const char* name, const std::string& text) {
  const hid_t type = H5Tcopy(H5T_C_S1), space = H5Screate(H5S_SCALAR);
  H5Tset_size(type, std::max<std::size_t>(1, text.size()));
  const hid_t attribute = H5Acreate2(object, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
  EXPECT_GE(H5Awrite(attribute, type, text.c_str()), 0);
  H5Aclose(attribute);
  H5Sclose(space);
  H5Tclose(type);
}

/// Makes a dataset of doubles, writes `values` when there are any, and describes it as ours are.
void make(hid_t file, const char* name, std::vector<hsize_t> shape, hid_t properties, const std::vector<double>& values = {}) {
  const hid_t space = H5Screate_simple(static_cast<int>(shape.size()), shape.data(), nullptr);
  const hid_t dataset = H5Dcreate2(file, name, H5T_IEEE_F64LE, space, H5P_DEFAULT, properties, H5P_DEFAULT);
  ASSERT_GE(dataset, 0);
  text_attribute(dataset, "unit", "1");
  text_attribute(dataset, "description", "made to harm");
  if (!values.empty()) {
    EXPECT_GE(H5Dwrite(dataset, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()), 0);
  }
  H5Dclose(dataset);
  H5Sclose(space);
}

struct Case {
  const char* name;
  const char* expected;  ///< part of the message
  std::function<void(hid_t)> harm;
  bool foreign_too = true;  ///< the rule holds for files of others as well
};

/// What may stand at `steps/bad` of an otherwise sound file. `secret` is another file, whose content must not be shown.
std::vector<Case> cases(const std::filesystem::path& secret) {
  const auto with = [](hid_t properties, std::vector<hsize_t> shape, std::vector<double> values = {}) {
    return [=](hid_t file) { make(file, "steps/bad", shape, properties, values); };
  };
  const auto filtered = [](auto&& add) {
    const hid_t properties = H5Pcreate(H5P_DATASET_CREATE);
    const hsize_t chunk = 4;
    H5Pset_chunk(properties, 1, &chunk);
    add(properties);
    H5Pset_fletcher32(properties);
    return properties;
  };
  const auto square = [] {
    const hid_t properties = H5Pcreate(H5P_DATASET_CREATE);
    const hsize_t chunk[2] = {1024, 1024};
    H5Pset_chunk(properties, 2, chunk);
    H5Pset_fletcher32(properties);
    return properties;
  };
  const auto layout = [](H5D_layout_t kind) {
    const hid_t properties = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_layout(properties, kind);
    return properties;
  };
  const auto deflated = [] {
    const hid_t properties = H5Pcreate(H5P_DATASET_CREATE);
    const hsize_t chunk = hsize_t{1} << 28;  // 2 GiB
    H5Pset_chunk(properties, 1, &chunk);
    H5Pset_deflate(properties, 1);
    H5Pset_fletcher32(properties);
    return properties;
  };
  return {
      {"declared, huge and empty", "chunks", with(ours(1 << 20), {hsize_t{1} << 40})},
      {"declared, and empty", "chunks", with(ours(4), {8})},
      {"a product that overflows", "", with(square(), {hsize_t{1} << 33, hsize_t{1} << 33})},
      {"a product that overflows to a small number", "", with(square(), {hsize_t{1} << 32, (hsize_t{1} << 32) + 1})},
      {"a chunk far larger than what is stored", "chunks", with(deflated(), {hsize_t{1} << 28})},
      {"contiguous and never written", "", with(layout(H5D_CONTIGUOUS), {hsize_t{1} << 36})},
      {"contiguous", "checksum", with(layout(H5D_CONTIGUOUS), {4}, {1, 2, 3, 4}), false},
      {"compact", "checksum", with(layout(H5D_COMPACT), {4}, {1, 2, 3, 4}), false},
      {"no checksum", "checksum",
       with(
           [] {
             const hid_t properties = H5Pcreate(H5P_DATASET_CREATE);
             const hsize_t chunk = 4;
             H5Pset_chunk(properties, 1, &chunk);
             return properties;
           }(),
           {4}, {1, 2, 3, 4}),
       false},
      {"shuffled", "filter 2", with(filtered([](hid_t p) { H5Pset_shuffle(p); }), {4}, {1, 2, 3, 4}), false},
      {"another filter", "filter 6", with(filtered([](hid_t p) { H5Pset_scaleoffset(p, H5Z_SO_FLOAT_DSCALE, 2); }), {4}, {1, 2, 3, 4})},
      {"external", "other files",
       with(
           [&] {
             const hid_t properties = H5Pcreate(H5P_DATASET_CREATE);
             H5Pset_external(properties, secret.c_str(), 0, 32);
             return properties;
           }(),
           {4})},
      {"virtual", "virtual",
       [secret](hid_t file) {
         const hid_t properties = H5Pcreate(H5P_DATASET_CREATE);
         const hsize_t size = 4;
         const hid_t space = H5Screate_simple(1, &size, nullptr);
         H5Pset_virtual(properties, space, secret.c_str(), "secret", space);
         make(file, "steps/bad", {4}, properties);
         H5Sclose(space);
         H5Pclose(properties);
       }},
      {"a soft link", "link", [](hid_t file) { H5Lcreate_soft("/steps/loss", file, "steps/bad", H5P_DEFAULT, H5P_DEFAULT); }},
      {"a dangling link", "link", [](hid_t file) { H5Lcreate_soft("/nowhere", file, "steps/bad", H5P_DEFAULT, H5P_DEFAULT); }},
      {"an external link", "link",
       [secret](hid_t file) { H5Lcreate_external(secret.c_str(), "secret", file, "steps/bad", H5P_DEFAULT, H5P_DEFAULT); }},
      {"two names of one array", "names", [](hid_t file) { H5Lcreate_hard(file, "steps/loss", file, "steps/bad", H5P_DEFAULT, H5P_DEFAULT); }},
      {"a group inside itself", "names", [](hid_t file) { H5Lcreate_hard(file, "steps", file, "steps/bad", H5P_DEFAULT, H5P_DEFAULT); }},
      {"a named type", "neither",
       [](hid_t file) {
         const hid_t type = H5Tcopy(H5T_NATIVE_INT);
         H5Tcommit2(file, "steps/bad", type, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
         H5Tclose(type);
       }},
      {"groups inside groups", "deep",
       [](hid_t file) {
         std::string path = "steps/bad";
         for (int i = 0; i < 100; ++i) {
           H5Gclose(H5Gcreate2(file, path.c_str(), H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
           path += "/g";
         }
       }},
      {"texts of varying length", "",
       [](hid_t file) {
         const hid_t type = H5Tcopy(H5T_C_S1), properties = H5Pcreate(H5P_DATASET_CREATE);
         H5Tset_size(type, H5T_VARIABLE);
         const hsize_t one = 1;
         H5Pset_chunk(properties, 1, &one);
         const hid_t space = H5Screate_simple(1, &one, nullptr);
         const hid_t dataset = H5Dcreate2(file, "steps/bad", type, space, H5P_DEFAULT, properties, H5P_DEFAULT);
         const char* text = "x";
         EXPECT_GE(H5Dwrite(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, &text), 0);
         H5Dclose(dataset);
         H5Sclose(space);
         H5Tclose(type);
         H5Pclose(properties);
       },
       false},
  };
}

std::filesystem::path make_secret(const Folder& folder) {
  const auto path = folder / "secret.h5";
  const hid_t file = H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
  make(file, "secret", {4}, H5P_DEFAULT, {42, 42, 42, 42});
  H5Fclose(file);
  return path;
}

/// Runs `work`, which must throw a `corrupt` error about `path`, in memory that the small files of this test account for.
std::string refusal(const std::filesystem::path& path, const std::function<void()>& work) {
  rlimit before{};
  getrlimit(RLIMIT_DATA, &before);
  const rlimit tight{rlim_t{1} << 30, before.rlim_max};
#ifndef __SANITIZE_ADDRESS__
  setrlimit(RLIMIT_DATA, &tight);
#endif
  std::string text;
  try {
    work();
    ADD_FAILURE() << "no error was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(name_of(error.kind()), std::string("corrupt")) << error.what();
    text = error.what();
    EXPECT_NE(text.find(path.filename().string()), std::string::npos) << text;
  } catch (const std::exception& error) {
    ADD_FAILURE() << error.what();
  }
  setrlimit(RLIMIT_DATA, &before);
  return text;
}

TEST(Hostile, TrialsAndAggregatesAreRefused) {
  const Folder folder;
  const auto secret = make_secret(folder);
  for (const Case& harm : cases(secret)) {
    SCOPED_TRACE(harm.name);
    const auto path = folder / "trial.h5";
    write_trial(path, trial(1));
    change(path, harm.harm);
    EXPECT_NE(refusal(path, [&] { read_trial(path); }).find(harm.expected), std::string::npos) << harm.name;
    const auto verification = verify(path);
    std::string problems;
    for (const auto& problem : verification.problems) problems += problem + "\n";
    EXPECT_NE(problems.find(harm.expected), std::string::npos) << problems;
    EXPECT_FALSE(problems.empty());
    EXPECT_EQ(find_trial(path, trial(1).id).kind, TrialFinding::Kind::damaged);

    const auto sweep = folder / "sweep.h5";
    write_sweep(comm::Communicator::self(), sweep, {"s", "{}", "{}"}, std::vector<SweepRow>());
    change(sweep, [&](hid_t file) {
      H5Gclose(H5Gcreate2(file, "steps", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
      make(file, "steps/loss", {1}, ours(1), {1});
      harm.harm(file);
    });
    refusal(sweep, [&] { const SweepFile file(sweep); });
    EXPECT_FALSE(verify(sweep).problems.empty());
  }
}

TEST(Hostile, InputsOfOthersAreRefusedToo) {
  const Folder folder;
  const auto secret = make_secret(folder);
  for (const Case& harm : cases(secret)) {
    SCOPED_TRACE(harm.name);
    const auto path = folder / "input.h5";
    const hid_t file = H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    H5Gclose(H5Gcreate2(file, "steps", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
    make(file, "steps/loss", {2}, H5P_DEFAULT, {1, 2});
    harm.harm(file);
    H5Fclose(file);
    if (harm.foreign_too) refusal(path, [&] { read_tensors(path); });
    else EXPECT_GE(read_tensors(path).size(), 1u);
  }
}

/// Writes other numbers into a dataset of an aggregate, and seals it: every digest is right afterwards.
void overwrite(const std::filesystem::path& path, const char* name, std::vector<std::int64_t> values) {
  change_and_seal(path, [&](hid_t file) {
    const hid_t dataset = H5Dopen2(file, name, H5P_DEFAULT);
    ASSERT_GE(dataset, 0);
    EXPECT_GE(H5Dwrite(dataset, H5T_NATIVE_INT64, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()), 0);
    H5Dclose(dataset);
  });
}

/// Puts a column of numbers where texts belong.
void numbers_for_texts(hid_t file, const char* name, hsize_t rows) {
  H5Ldelete(file, name, H5P_DEFAULT);
  const hid_t properties = ours(rows);
  make(file, name, {rows}, properties, std::vector<double>(rows, 1.0));
  H5Pclose(properties);
}

TEST(Hostile, AggregatesWithRightDigestsAreNotBelieved) {
  const Folder folder;
  const auto self = comm::Communicator::self();
  std::vector<SweepRow> rows;
  for (int i = 0; i < 3; ++i) {
    const auto file = folder / ("trial" + std::to_string(i) + ".h5");
    const TrialRecord record = trial(7);
    SweepRow row{"0" + std::to_string(i), record.state, record.reason, {{"seed", std::to_string(i)}}, {{"loss", 1.0}}, "{}", "{}", file};
    TrialRecord own = record;
    own.id = row.id;
    row.published = write_trial(file, own);
    rows.push_back(std::move(row));
  }
  const auto path = folder / "sweep.h5";
  write_sweep(self, path, {"s", "{}", "{}"}, rows);
  const auto sound = slurp(path);
  const auto digest = verify(path).digest;
  const std::int64_t each = trial(7).find("steps/loss")->elements();
  constexpr auto kMost = std::numeric_limits<std::int64_t>::max();

  const auto refused = [&](const char* what, const std::function<void()>& harm, const std::function<void(const SweepFile&)>& read = nullptr) {
    SCOPED_TRACE(what);
    spill(path, sound);
    harm();
    EXPECT_FALSE(verify(path).problems.empty()) << what;
    refusal(path, [&] {
      const SweepFile file(path);
      if (read) read(file);
    });
    // As an earlier aggregate: nothing of it is taken, or nothing wrong.
    const SweepMaking made = write_sweep(self, folder / "next.h5", {"s", "{}", "{}"}, rows, path);
    EXPECT_EQ(verify(folder / "next.h5").digest, digest) << what;
    EXPECT_EQ(made.rows_kept + made.files_read, 3);
  };
  const auto loss = [](const SweepFile& file) {
    for (std::size_t row = 0; row < 3; ++row) static_cast<void>(file.array(row, "steps/loss"));
  };
  const char* offsets = "arrays/steps/loss/offsets";
  refused(
      "offsets beyond the data",
      [&] {
        overwrite(path, offsets, {0, each, 1'000'000, 3 * each});
      },
      loss);
  refused(
      "offsets that fall",
      [&] {
        overwrite(path, offsets, {0, 2 * each, each, 3 * each});
      },
      loss);
  refused(
      "negative offsets",
      [&] {
        overwrite(path, offsets, {0, -kMost, kMost, 3 * each});
      },
      loss);
  refused(
      "shapes that say more",
      [&] {
        overwrite(path, "arrays/steps/loss/shapes", {each, 1'000'000'000, each});
      },
      loss);
  refused(
      "negative shapes",
      [&] {
        overwrite(path, "arrays/steps/loss/shapes", {each, -each, each});
      },
      loss);
  refused("texts beyond their data", [&] { overwrite(path, "texts/provenance/offsets", {0, 2, kMost, 6}); });
  refused("states that are numbers", [&] { change_and_seal(path, [](hid_t file) { numbers_for_texts(file, "trials/state", 3); }); });
  refused("axes that are numbers", [&] { change_and_seal(path, [](hid_t file) { numbers_for_texts(file, "axes/seed", 3); }); });
  refused("a state that is none", [&] {
    change_and_seal(path, [](hid_t file) {
      const hid_t dataset = H5Dopen2(file, "trials/state", H5P_DEFAULT), type = H5Dget_type(dataset);
      std::string other(3 * H5Tget_size(type), '\0');
      for (std::size_t i = 0; i < 3; ++i) other.replace(i * H5Tget_size(type), 2, "ok");
      EXPECT_GE(H5Dwrite(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, other.data()), 0);
      H5Tclose(type);
      H5Dclose(dataset);
    });
  });
  refused("too few reasons", [&] { change_and_seal(path, [](hid_t file) { numbers_for_texts(file, "trials/reason", 2); }); });
}

/// Children of this process that run moesweep-check.
std::vector<pid_t> checkers() {
  std::vector<pid_t> found;
  std::ifstream list("/proc/self/task/" + std::to_string(::getpid()) + "/children");
  for (pid_t process; list >> process;) {
    std::string name;
    std::getline(std::ifstream("/proc/" + std::to_string(process) + "/comm"), name);
    if (name == "moesweep-check") found.push_back(process);
  }
  return found;
}

/// What a reader refuses, verify does not call sound: files with right digests, and one dataset that has no place in them.
TEST(Hostile, VerifyNamesWhatReadersRefuse) {
  const Folder folder;
  const auto path = folder / "file.h5";
  const auto words = [](hid_t file, const std::string& name) { write_dataset(file, {name, {DType::u8, 4}, {2}, "1", "words", {}, {}}, "one two "); };
  const auto expect_named = [&](const std::string& name, const std::function<void()>& read) {
    const auto verification = verify(path);
    ASSERT_EQ(verification.problems.size(), 1U) << name;
    EXPECT_NE(verification.problems[0].find("dataset " + name + ": "), std::string::npos) << verification.problems[0];
    EXPECT_NE(refusal(path, read).find("dataset " + name + ": "), std::string::npos) << name;
  };

  write_trial(path, trial(1));
  change_and_seal(path, [&](hid_t file) { words(file, "steps/words"); });
  expect_named("steps/words", [&] { static_cast<void>(read_trial(path)); });

  const std::vector<float> values(6);
  const auto self = comm::Communicator::self();
  const auto checkpoint = [&](const std::string& name, const std::function<void(hid_t)>& harm) {
    write_checkpoint(self, path, "{}", {{"parameters/router", DType::f32, {2, 3}, 0, 6, values.data()}}, trial(1));
    change_and_seal(path, harm);
    expect_named(name, [&] { static_cast<void>(CheckpointReader(self, path)); });
  };
  checkpoint("header/more", [](hid_t file) {
    write_dataset(file, {"header/more", {DType::f32, 0}, {6}, "1", "more", {}, {}}, std::array<float, 6>{}.data());
  });
  checkpoint("state/words", [&](hid_t file) { words(file, "state/words"); });
  checkpoint("record/steps/words", [&](hid_t file) { words(file, "record/steps/words"); });
}

TEST(Hostile, WhatEndsTheCheckingProcessIsDamageAndWhatIsKilledFromOutsideIsNot) {
  const Folder folder;
  const auto path = folder / "input.h5";
  {
    const hid_t file = H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT), properties = H5Pcreate(H5P_DATASET_CREATE);
    const hsize_t chunk = 1 << 20;
    H5Pset_chunk(properties, 1, &chunk);
    H5Pset_deflate(properties, 1);
    make(file, "long", {hsize_t{1} << 26}, properties, std::vector<double>(std::size_t{1} << 26));
    H5Pclose(properties);
    H5Fclose(file);
  }
  for (const auto& [signal, kind, words] : {std::tuple{SIGSEGV, ErrorKind::corrupt, "Segmentation fault"},
                                            {SIGABRT, ErrorKind::corrupt, "Aborted"},
                                            {SIGXCPU, ErrorKind::corrupt, "too long"},
                                            {SIGKILL, ErrorKind::io, "killed"}}) {
    std::jthread killer([signal = signal](const std::stop_token& stop) {
      while (!stop.stop_requested()) {
        // A moment after it began: the file takes it some tenths of a second.
        const auto there = checkers();
        std::this_thread::sleep_for(std::chrono::milliseconds(there.empty() ? 1 : 50));
        for (const pid_t process : there) ::kill(process, signal);
      }
    });
    try {
      tensor_names(path);
      ADD_FAILURE() << "no error was thrown";
    } catch (const Error& error) {
      EXPECT_EQ(name_of(error.kind()), std::string(name_of(kind))) << error.what();
      EXPECT_NE(std::string(error.what()).find(words), std::string::npos) << error.what();
      EXPECT_NE(std::string(error.what()).find("input.h5"), std::string::npos) << error.what();
    }
  }
  EXPECT_EQ(tensor_names(path), std::vector<std::string>{"long"});
}

TEST(Hostile, DevicesAndPipesAreRefusedAndNotWaitedFor) {
  const Folder folder;
  ASSERT_EQ(::mkfifo((folder / "pipe").c_str(), 0600), 0);
  for (const std::filesystem::path& path : {folder / "pipe", std::filesystem::path("/dev/zero"), folder.path()}) {
    EXPECT_THROW(read_trial(path), Error) << path;
    EXPECT_THROW(verify(path), Error) << path;
    EXPECT_THROW(tensor_names(path), Error) << path;
    EXPECT_THROW(SweepFile{path}, Error) << path;
  }
  std::filesystem::create_symlink(folder / "elsewhere.h5", folder / "link.h5");
  for (const std::filesystem::path& path : {folder / "pipe", folder / "link.h5", std::filesystem::path("/dev/full")}) {
    EXPECT_THROW(write_trial(path, trial(1)), Error) << path;
    EXPECT_THROW(write_sweep(comm::Communicator::self(), path, {"s", "{}", "{}"}, std::vector<SweepRow>()), Error) << path;
  }
  EXPECT_TRUE(std::filesystem::is_character_file("/dev/full"));
  EXPECT_FALSE(std::filesystem::exists(folder / "elsewhere.h5"));
  EXPECT_EQ(names_in(folder.path()), (std::vector<std::string>{"link.h5", "pipe"}));
}

}  // namespace
}  // namespace moesweep::store
