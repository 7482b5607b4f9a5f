// Files that lie, and trials that end before they begin: the same error on every rank, with the file's name, and nobody hangs. Runs on 1 and 2 ranks.
#include <gtest/gtest.h>
#include <unistd.h>

#include <ATen/ATen.h>

#include <cstring>
#include <fstream>
#include <functional>
#include <iterator>
#include <limits>
#include <new>

#include "moesweep/core/error.hpp"
#include "moesweep/core/publish.hpp"
#include "moesweep/routing/strategy.hpp"
#include "moesweep/store/checkpoint.hpp"
#include "moesweep/store/record.hpp"
#include "moesweep/train/trial.hpp"
#include "support/scratch.hpp"
#include "train/trainer.hpp"

namespace moesweep::train {
namespace {

namespace fs = std::filesystem;

TrialConfig tiny() {
  TrialConfig config;
  config.model.width = 16;
  config.model.heads = 2;
  config.model.experts = 8;
  config.model.expert_width = 12;
  config.data.domains = {"a", "b"};
  config.data.vocabulary = 64;
  config.data.sequence_length = 8;
  config.routing.top_k = 2;
  config.routing.score = routing::Score::sigmoid;
  config.routing.balance.method = "expert_bias";
  config.routing.record = true;
  config.train.steps = 6;
  config.train.warmup_steps = 1;
  config.train.batch_sequences = 4;
  config.train.micro_batch_sequences = 2;
  config.train.dtype = Precision::fp64;
  config.evaluation.every_steps = 2;
  config.evaluation.tokens = 4 * 8;
  config.checkpoint.keep = Keep::final_only;
  config.comm.timeout_seconds = 60;
  return config;
}

class Files : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = world_.broadcast(world_.rank() == 0 ? testing_support::make_scratch("moesweep-files").string() : "", 0, "folder");
    config_ = tiny();
    config_.parallel.data = world_.size();
  }
  void TearDown() override {
    world_.barrier("folder used");
    if (world_.rank() == 0) fs::remove_all(folder_);
  }

  /// On rank 0, the others wait.
  void once(const std::function<void()>& work) {
    if (world_.rank() == 0) work();
    world_.barrier("done once");
  }

  /// Every rank throws that error alike: kind, place, and words of the message.
  void expect_error(const std::function<void()>& call, ErrorKind kind, const std::string& says, const fs::path& where, const std::string& what) {
    bool thrown = false;
    try {
      call();
    } catch (const Error& error) {
      thrown = true;
      EXPECT_EQ(name_of(error.kind()), std::string(name_of(kind))) << what << ": " << error.what();
      EXPECT_EQ(error.where(), where.string()) << what << ": " << error.what();
      EXPECT_NE(error.message().find(says), std::string::npos) << what << ": " << error.what();
      EXPECT_TRUE(error.on_every_rank()) << what << ": " << error.what();
    } catch (const std::exception& error) {
      thrown = true;
      ADD_FAILURE() << what << ": " << error.what();
    }
    EXPECT_TRUE(thrown) << what << ": nothing was thrown";
    world_.barrier("thrown");
  }

  comm::Communicator world_ = comm::Communicator::world();
  fs::path folder_;
  TrialConfig config_;
};

/// A checkpoint's parts, to be changed and written anew with a digest that is right.
struct Parts {
  struct Array {
    std::string name;
    DType type;
    std::vector<std::int64_t> shape;
    std::vector<std::byte> bytes;
  };
  std::string header;
  std::vector<Array> arrays;
  store::TrialRecord record;

  Array& array(const std::string& name) { return *std::ranges::find(arrays, name, &Array::name); }
  /// An array of the record.
  store::Array& series(const std::string& path) { return *std::ranges::find(record.arrays, path, &store::Array::path); }
  Json json() const { return Json::parse(header); }
  void set(const std::string& key, const Json& value) {
    Json changed = json();
    changed[key] = value;
    header = changed.dump();
  }
};

Parts parts_of(const comm::Communicator& world, const fs::path& path) {
  const store::CheckpointReader reader(world, path);
  Parts parts{reader.header(), {}, reader.record()};
  for (const std::string& name : reader.names()) {
    Parts::Array array{name, reader.type(name), reader.shape(name), {}};
    std::int64_t count = 1;
    for (const auto extent : array.shape) count *= extent;
    array.bytes.resize(static_cast<std::size_t>(count) * size_of(array.type));
    reader.read(name, array.type, 0, count, array.bytes.data());
    parts.arrays.push_back(std::move(array));
  }
  return parts;
}

/// By one process.
void write(const fs::path& path, const Parts& parts) {
  std::vector<store::Piece> pieces;
  for (const auto& array : parts.arrays) {
    const auto count = static_cast<std::int64_t>(array.bytes.size() / size_of(array.type));
    pieces.push_back({array.name, array.type, array.shape, 0, count, array.bytes.data()});
  }
  store::write_checkpoint(comm::Communicator::self(), path, parts.header, pieces, parts.record);
}

/// Other numbers of the same or another type in an array of a record.
template <class Value>
void put(store::Array& array, DType type, std::vector<std::int64_t> shape, const std::vector<Value>& values) {
  array.type = type;
  array.shape = std::move(shape);
  const auto bytes = std::as_bytes(std::span(values));
  array.bytes.assign(bytes.begin(), bytes.end());
}
/// One number of an array in place.
template <class Value>
void put_at(std::vector<std::byte>& bytes, std::size_t element, Value value) {
  std::memcpy(bytes.data() + element * sizeof value, &value, sizeof value);
}

constexpr std::int64_t kLeast32 = std::numeric_limits<std::int32_t>::min();

TEST_F(Files, CheckpointsWhoseDigestIsRightAndWhichLieAreCorrupt) {
  const auto source = data::open_source(config_.data);
  const fs::path good = folder_ / "good.h5", bad = folder_ / "bad.h5";
  {
    Trainer trainer(config_, *source, world_);
    for (int i = 0; i < 3; ++i) {
      trainer.train_step();
      if (trainer.evaluation_due()) trainer.evaluate();
    }
    trainer.write_checkpoint(good);
  }
  const Parts sound = parts_of(world_, good);
  // The copy is read, so that what is refused below is what was changed.
  once([&] { write(bad, sound); });
  Trainer resumed(config_, *source, world_, nullptr, true);
  resumed.read_checkpoint(bad);
  EXPECT_EQ(resumed.step(), 3);
  EXPECT_EQ(resumed.record("running", "").find("assignments/slots")->shape, sound.record.find("assignments/slots")->shape);

  const std::string bias = "state/layers.0.bias", qkv = "parameters/layers.0.qkv";
  constexpr double kNan = std::numeric_limits<double>::quiet_NaN(), kInf = std::numeric_limits<double>::infinity();
  const struct {
    const char* name;
    std::function<void(Parts&)> damage;
    const char* says;
  } table[] = {
      {"no JSON", [](Parts& p) { p.header = "{\"trial\""; }, "header/checkpoint:1:9: this is no JSON"},
      {"no object", [](Parts& p) { p.header = "[1]"; }, "expected an object but found an array"},
      {"JSON without an end", [](Parts& p) { p.header = std::string(100000, '['); }, "nested deeper"},
      {"no UTF-8", [](Parts& p) { p.header = "{\"trial\": \"\xff\"}"; }, "this is not UTF-8"},
      {"no trial", [](Parts& p) { p.set("trial", nullptr); }, "trial is missing"},
      {"a trial that is a number", [](Parts& p) { p.set("trial", 7); }, "trial: expected a text but found 7"},
      {"a trial that is a path", [](Parts& p) { p.set("trial", "../../other"); }, "trial: expected a trial's id"},
      {"another trial", [](Parts& p) { p.set("trial", "0123456789abcdef"); }, "the checkpoint is of trial 0123456789abcdef, not of"},
      {"no step", [](Parts& p) { p.set("step", nullptr); }, "step is missing"},
      {"an endless step", [](Parts& p) { p.set("step", 100000000000000000); }, "step: expected an integer from 0 to 6 but found 100000000000000000"},
      {"a step beyond 64 bits", [](Parts& p) { p.set("step", 18446744073709551615ULL); }, "step: expected an integer from 0 to 6"},
      {"a negative step", [](Parts& p) { p.set("step", -1); }, "step: expected an integer from 0 to 6 but found -1"},
      {"half a step", [](Parts& p) { p.set("step", 2.5); }, "step: expected an integer from 0 to 6 but found 2.5"},
      {"a step that is a text", [](Parts& p) { p.set("step", "3"); }, "step: expected an integer from 0 to 6 but found \"3\""},
      {"a step that the record has not", [](Parts& p) { p.set("step", 6); }, "record/steps/step: it has 3 rows at step 6"},
      {"a step before the record's", [](Parts& p) { p.set("step", 2); }, "record/steps/step: it has 3 rows at step 2"},
      {"negative seconds", [](Parts& p) { p.set("seconds", -1e-9); }, "seconds: expected a number of seconds, at least 0"},
      {"seconds that are a text", [](Parts& p) { p.set("seconds", "long"); }, "seconds: expected a number but found \"long\""},
      {"seconds beyond double", [](Parts& p) { p.header = "{\"trial\": \"0123456789abcdef\", \"step\": 3, \"seconds\": 1e999}"; },
       "number that is too large"},

      {"a state of another shape",
       [&](Parts& p) {
         p.array(bias).shape = {2, 4};
       },
       "state/layers.0.bias: its shape is another one"},
      {"a state that is too short", [&](Parts& p) { p.array(bias).shape = {7}, p.array(bias).bytes.resize(7 * 8); },
       "state/layers.0.bias: its shape is"},
      {"a state that is too long", [&](Parts& p) { p.array(bias).shape = {9}, p.array(bias).bytes.resize(9 * 8); },
       "state/layers.0.bias: its shape is"},
      {"a state of another type", [&](Parts& p) { p.array(bias).type = DType::f32, p.array(bias).bytes.resize(8 * 4); },
       "state/layers.0.bias: it holds f32"},
      {"a state that is no number", [&](Parts& p) { put_at(p.array(bias).bytes, 7, kNan); },
       "state/layers.0.bias: it holds what is no finite number"},
      {"a state that is infinite", [&](Parts& p) { put_at(p.array(bias).bytes, 0, -kInf); },
       "state/layers.0.bias: it holds what is no finite number"},
      {"a state that is missing", [&](Parts& p) { p.array(bias).name = "state/other"; }, "state/layers.0.bias: there is none"},
      {"a parameter of another shape",
       [&](Parts& p) {
         p.array(qkv).shape = {16, 48};
       },
       "parameters/layers.0.qkv: its shape is another one"},
      {"a parameter that is too short",
       [&](Parts& p) {
         p.array(qkv).shape = {2, 16}, p.array(qkv).bytes.resize(2 * 16 * 8);
       },
       "its shape is another one"},
      {"a parameter of another type", [&](Parts& p) { p.array(qkv).type = DType::i64; }, "parameters/layers.0.qkv: it holds i64"},
      {"a moment that is missing", [](Parts& p) { p.array("moments/first/layers.0.experts.down").name = "moments/other"; },
       "moments/first/layers.0.experts.down: there is none"},

      {"a record without steps", [](Parts& p) { p.series("steps/step").path = "steps/other"; }, "record/steps/step: it is missing"},
      {"steps of another type", [](Parts& p) { p.series("steps/step").type = DType::f64; }, "record/steps/step: it holds f64, not i64"},
      {"steps of two dimensions",
       [](Parts& p) {
         p.series("steps/step").shape = {3, 1};
       },
       "record/steps/step: its shape is [3, 1], not [rows]"},
      {"a step that is left out",
       [](Parts& p) {
         put<std::int64_t>(p.series("steps/step"), DType::i64, {3}, {1, 2, 4});
       },
       "record/steps/step: row 2 is not step 3"},
      {"a step beyond 2^53",
       [](Parts& p) {
         put<std::int64_t>(p.series("steps/step"), DType::i64, {3}, {1, 2, std::int64_t{1} << 60});
       },
       "record/steps/step: it holds an integer beyond 2^53"},
      {"losses of another type",
       [](Parts& p) {
         put<float>(p.series("steps/loss"), DType::f32, {3}, {1, 2, 3});
       },
       "record/steps/loss: it holds f32, not f64"},
      {"losses of fewer steps",
       [](Parts& p) {
         put<double>(p.series("steps/loss"), DType::f64, {2}, {1, 2});
       },
       "record/steps/loss: its shape is [2], not [3]"},
      {"losses without a dimension's size",
       [](Parts& p) {
         put<double>(p.series("steps/loss"), DType::f64, {3, 0}, {});
       },
       "record/steps/loss: its shape is [3, 0]"},
      {"times of no rank",
       [](Parts& p) {
         put<double>(p.series("steps/seconds_wait"), DType::f64, {3, 0}, {});
       },
       "record/steps/seconds_wait: its shape is [3, 0]"},
      {"times of one dimension",
       [](Parts& p) {
         put<double>(p.series("steps/seconds_wait"), DType::f64, {3}, {1, 2, 3});
       },
       "record/steps/seconds_wait: its shape is [3]"},
      {"counts of another model",
       [](Parts& p) {
         put<std::int64_t>(p.series("evaluations/counts"), DType::i64, {1, 2, 2, 4}, std::vector<std::int64_t>(16));
       },
       "record/evaluations/counts: its shape is [1, 2, 2, 4], not [1, 2, 2, 8]"},
      {"an evaluation of a later step", [](Parts& p) { put<std::int64_t>(p.series("evaluations/step"), DType::i64, {1}, {4}); },
       "record/evaluations/step: row 0 is out of order, or behind step 3"},
      {"an evaluation of a negative step", [](Parts& p) { put<std::int64_t>(p.series("evaluations/step"), DType::i64, {1}, {-2}); },
       "record/evaluations/step: row 0"},

      {"assignments without slots", [](Parts& p) { p.series("assignments/slots").path = "assignments/other"; },
       "record/assignments/slots: it is missing"},
      {"assignments that are no integers",
       [](Parts& p) {
         put<double>(p.series("assignments/expert"), DType::f64, {2}, {kNan, kInf});
       },
       "record/assignments/expert: it holds f64, not i32"},
      {"keys of three columns",
       [](Parts& p) {
         put<std::int32_t>(p.series("assignments/key"), DType::i32, {1, 3}, {0, 0, 0});
       },
       "record/assignments/key: its shape is not [n, 4]"},
      {"slots of two dimensions",
       [](Parts& p) {
         put<std::int32_t>(p.series("assignments/slots"), DType::i32, {1, 1}, {0});
       },
       "record/assignments/slots: it has not one dimension"},
      {"negative slots", [](Parts& p) { put_at<std::int32_t>(p.series("assignments/slots").bytes, 5, -1); },
       "record/assignments/slots[5]: the number of experts"},
      {"assignments of a later step", [](Parts& p) { put_at<std::int32_t>(p.series("assignments/key").bytes, 0, -5); },
       "record/assignments/key[0]: the record is -5, not from -4 to 2"},
      {"assignments of a layer that is none", [](Parts& p) { put_at<std::int32_t>(p.series("assignments/key").bytes, 1, 2); },
       "record/assignments/key[1]: the MoE layer is 2"},
      {"an expert that is none", [](Parts& p) { put_at<std::int32_t>(p.series("assignments/expert").bytes, 3, 8); },
       "record/assignments/expert[3]: an expert"},
      {"a dropped expert that is none", [](Parts& p) { put_at<std::int32_t>(p.series("assignments/expert").bytes, 3, -9); },
       "record/assignments/expert[3]: an expert"},
  };
  for (const auto& [name, damage, says] : table) {
    Parts parts = sound;
    damage(parts);
    once([&] { write(bad, parts); });
    Trainer trainer(config_, *source, world_, nullptr, true);
    expect_error([&] { trainer.read_checkpoint(bad); }, ErrorKind::corrupt, says, bad, name);
  }
}

/// Does the trial with files at the three places; `path` stands for the one of `key`.
TrialConfig naming(TrialConfig config, const std::string& key, const fs::path& path) {
  if (key == "train.init_from") config.train.init_from = path;
  if (key == "routing.import_from") {
    config.routing.learning = routing::Learning::imported;
    config.routing.import_from = path;
  }
  if (key == "routing.replay_from") {
    config.routing.select = "replay";
    config.routing.replay_from = path;
    config.routing.balance = {};
  }
  return config;
}

TEST_F(Files, OfOtherTrialsThatCannotBeUsedAreDataErrorsOfTheTrialThatNamesThem) {
  const auto source = data::open_source(config_.data);
  const auto record = run_trial(config_, *source, world_, {folder_, nullptr, nullptr});
  ASSERT_EQ(record.state, "done");
  const fs::path checkpoint = folder_ / "checkpoint.h5", trial = folder_ / "trial.h5", damaged = folder_ / "damaged.h5", lies = folder_ / "lies.h5";
  once([&] {
    store::write_trial(trial, record);
    std::ofstream(folder_ / "empty.h5");
    std::ofstream(folder_ / "text.h5") << "no HDF5 at all";
    fs::create_directories(folder_ / "folder.h5");
    auto bytes = read_text(checkpoint);
    bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 0x10);
    std::ofstream(damaged, std::ios::binary) << bytes;
    std::ofstream(folder_ / "half.h5", std::ios::binary) << bytes.substr(0, bytes.size() / 2);
  });
  const auto run = [&](const std::string& key, const fs::path& path) {
    auto config = naming(config_, key, path);
    config.checkpoint.keep = Keep::none;
    ASSERT_EQ(refusal(config), "");
    run_trial(config, *source, world_, {});
  };
  for (const std::string key : {"train.init_from", "routing.import_from", "routing.replay_from"}) {
    const auto expect = [&](const std::string& file, const std::string& says) {
      expect_error([&] { run(key, folder_ / file); }, ErrorKind::data, key + " names a file that " + says, folder_ / file, key + ", " + file);
    };
    expect("missing.h5", "is not there");
    expect("folder.h5", "is a folder");
    expect("empty.h5", "is empty");
    expect("text.h5", "is no HDF5 file");
    expect("damaged.h5", "cannot be used: ");
    expect("half.h5", "cannot be used: ");
    expect(key == "routing.replay_from" ? "checkpoint.h5" : "trial.h5", "cannot be used: ");  // of another format
    run(key, key == "routing.replay_from" ? trial : checkpoint);                              // and the right one is of use
  }
  // Another model's is a matter of the config.
  auto wider = naming(config_, "train.init_from", checkpoint);
  wider.model.expert_width = 16;
  expect_error([&] { run_trial(wider, *source, world_, {}); }, ErrorKind::config, "has another shape there", checkpoint, "another shape");

  const struct {
    const char* name;
    std::function<void(store::TrialRecord&)> damage;
    const char* says;
  } table[] = {
      {"negative slots", [](auto& r) { put_at<std::int32_t>(r.arrays[1].bytes, 0, -3); },
       "dataset assignments/slots[0]: the number of experts of a token is -3"},
      {"experts that are no numbers",
       [](auto& r) { put<double>(r.arrays[2], DType::f64, r.arrays[2].shape, std::vector<double>(r.arrays[2].bytes.size() / 4, std::nan(""))); },
       "dataset assignments/expert: it holds f64, not i32"},
      {"the least expert of 32 bits", [](auto& r) { put_at<std::int32_t>(r.arrays[2].bytes, 0, static_cast<std::int32_t>(kLeast32)); },
       "dataset assignments/expert[0]"},
      {"an expert of another model", [](auto& r) { put_at<std::int32_t>(r.arrays[2].bytes, 0, 8); },
       "are of a model with 9 experts or more, this one has 8"},
      {"a dropped expert of another model", [](auto& r) { put_at<std::int32_t>(r.arrays[2].bytes, 0, -1000); },
       "are of a model with 1000 experts or more"},
      {"a key that comes twice", [](auto& r) { std::memcpy(r.arrays[0].bytes.data() + 16, r.arrays[0].bytes.data(), 16); }, "are there twice"},
      {"a sequence that is none", [](auto& r) { put_at<std::int32_t>(r.arrays[0].bytes, 2, -1); }, "dataset assignments/key[2]: the sequence is -1"},
      {"endless tokens", [](auto& r) { put_at<std::int32_t>(r.arrays[0].bytes, 3, 0x7fffffff); },
       "dataset assignments/key[3]: it names 2147483647 tokens"},
      {"no keys", [](auto& r) { r.arrays.erase(r.arrays.begin()); }, "dataset assignments/key: it is missing"},
      {"no assignments", [](auto& r) { r.arrays.clear(); }, "the trial recorded no assignments"},
  };
  for (const auto& [name, damage, says] : table) {
    store::TrialRecord changed = record;
    changed.arrays.clear();
    for (const char* path : {"assignments/key", "assignments/slots", "assignments/expert"}) changed.arrays.push_back(*record.find(path));
    damage(changed);
    once([&] { store::write_trial(lies, changed); });
    expect_error([&] { run("routing.replay_from", lies); }, ErrorKind::data, says, lies, name);
  }
}

/// Set on the ranks where a part of the model cannot be made.
enum class Trouble { none, exception, memory } trouble = Trouble::none;

class Nothing final : public routing::Selection {
 public:
  routing::Slots choose(const routing::PassView& pass, const at::Tensor& keys) const override {
    return routing::slots_of(std::get<1>(keys.topk(pass.config->top_k, 1)), pass.tokens().mask);
  }
};

[[maybe_unused]] const bool kRegistered =
    routing::register_selection("troubled", [](const routing::StrategyContext&) -> std::unique_ptr<routing::Selection> {
      if (trouble == Trouble::exception) throw std::runtime_error("this strategy cannot be made");
      if (trouble == Trouble::memory) throw std::bad_alloc();
      return std::make_unique<Nothing>();
    });

TEST_F(Files, AModelThatOneRankAloneCannotMakeIsAnErrorOnEveryRank) {
  config_.routing.balance = {};
  config_.routing.select = "troubled";
  const auto source = data::open_source(config_.data);
  for (const auto& [what, kind, says, where] : {std::tuple{Trouble::exception, ErrorKind::internal, "this strategy cannot be made", ""},
                                                std::tuple{Trouble::memory, ErrorKind::io, "memory ran out", ""}}) {
    trouble = world_.rank() == world_.size() - 1 ? what : Trouble::none;
    expect_error([&] { run_trial(config_, *source, world_, {}); }, kind, says, where, says);
  }
  trouble = Trouble::none;
}

TEST_F(Files, AStopBeforeTheModelIsMadeLeavesEverythingAsItWas) {
  const auto source = data::open_source(config_.data);
  const fs::path checkpoint = folder_ / "checkpoint.h5";
  std::atomic<bool> stop{world_.rank() == world_.size() - 1};  // one rank hears of it
  const auto expect_preempted = [&](const TrialConfig& config) {
    const auto record = run_trial(config, *source, world_, {folder_, &stop, nullptr});
    EXPECT_EQ(record.state, "preempted");
    EXPECT_NE(record.reason.find("before any step"), std::string::npos) << record.reason;
  };
  expect_preempted(config_);
  EXPECT_FALSE(fs::exists(checkpoint));
  world_.barrier("nothing was written");

  // A checkpoint stays, byte by byte, and is good for going on.
  stop = false;
  struct StopAt : Observer {
    std::atomic<bool>* stop = nullptr;
    void on_step(const StepReport& report) override { *stop = report.step == 3; }
  } observer;
  observer.stop = &stop;
  EXPECT_EQ(run_trial(config_, *source, world_, {folder_, &stop, &observer}).state, "preempted");
  const std::string before = read_text(checkpoint);
  stop = world_.rank() == 0;
  expect_preempted(config_);
  EXPECT_TRUE(read_text(checkpoint) == before) << "the checkpoint was written again";
  world_.barrier("nothing was written");
  stop = false;
  EXPECT_EQ(run_trial(config_, *source, world_, {folder_, &stop, nullptr}).state, "done");

  // So does what another trial left, which is not waited for either.
  stop = true;
  once([&] { fs::rename(checkpoint, folder_ / "other.h5"); });
  for (const std::string key : {"train.init_from", "routing.import_from"}) expect_preempted(naming(config_, key, folder_ / "other.h5"));
  EXPECT_FALSE(fs::exists(checkpoint));
  world_.barrier("end");
}

TEST(Model, OfAStoppedProcessIsNotComplete) {
  auto config = tiny();
  const auto source = data::open_source(config.data);
  const auto self = comm::Communicator::self();
  std::atomic<bool> stop{false};
  Trainer whole(config, *source, self, &stop);
  EXPECT_TRUE(whole.ready());
  EXPECT_TRUE(whole.model().complete());
  stop = true;
  Trainer stopped(config, *source, self, &stop);
  EXPECT_FALSE(stopped.ready());
  EXPECT_FALSE(stopped.model().complete());
}

}  // namespace
}  // namespace moesweep::train
