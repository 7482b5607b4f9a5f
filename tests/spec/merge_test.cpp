// Merging, precedence and overrides: a test for each sentence of "A sweep file" in the design.
#include <algorithm>
#include <set>

#include "spec/support.hpp"

namespace moesweep::spec {

namespace {

const char* const kData = "data.domains: [a, b]\n";

template <class Get>
auto each(const Sweep& sweep, Get get) {
  std::vector<decltype(get(sweep.trials.front().config))> values;
  for (const Trial& trial : sweep.trials) values.push_back(get(trial.config));
  return values;
}

const auto kSeed = [](const train::TrialConfig& c) { return c.seed; };
const auto kWidth = [](const train::TrialConfig& c) { return c.model.width; };
const auto kTopK = [](const train::TrialConfig& c) { return c.routing.top_k; };
using Numbers = std::vector<std::int64_t>;

}  // namespace

class Merge : public InFolder {
 protected:
  void SetUp() override {
    InFolder::SetUp();
    write("router.yaml", "top_k: 2\nbalance: {method: aux_loss}\n");
    write("other.yaml", "select: random\n");
  }
  static Sweep with_data(const std::string& text, const std::vector<std::string>& overrides = {}) { return sweep(kData + text, overrides); }
  static train::TrialConfig only(const Sweep& sweep) {
    EXPECT_EQ(sweep.trials.size(), 1u);
    return sweep.trials.front().config;
  }
};

TEST_F(Merge, AFileIsLookedUpBesideTheNamingFileBeforeTheConfigFolders) {
  write("models/testbed-tiny.yaml", "model.width: 48\n");
  EXPECT_EQ(only(with_data("base: models/testbed-tiny.yaml")).model.width, 48);
  std::filesystem::remove("models/testbed-tiny.yaml");
  EXPECT_EQ(only(with_data("base: models/testbed-tiny.yaml")).model.width, 64);
  // Beside the naming file, not beside the process.
  write("below/inner.yaml", "base: deeper/model.yaml\n");
  write("below/deeper/model.yaml", "model.width: 96\n");
  EXPECT_EQ(only(with_data("base: below/inner.yaml")).model.width, 96);
}

TEST_F(Merge, MoesweepConfigsComesBeforeTheSourceTree) {
  write("mine/routers/random.yaml", "top_k: 1\n");
  setenv("MOESWEEP_CONFIGS", (std::filesystem::current_path() / "mine").c_str(), 1);
  const Sweep found = with_data("routing: routers/random.yaml");
  unsetenv("MOESWEEP_CONFIGS");
  EXPECT_EQ(only(found).routing.top_k, 1);
  EXPECT_EQ(only(with_data("routing: routers/random.yaml")).routing.select, "random");
}

TEST_F(Merge, BaseMergesKeyByKeyAndListsReplace) {
  write("base.yaml", "seed: 5\nmodel: {width: 32, heads: 2}\ndata: {domains: [x, y, z, w], vocabulary: 512}\n");
  const auto config = only(sweep("base: base.yaml\nmodel.heads: 4\ndata: {domains: [a, b]}\n"));
  EXPECT_EQ(config.seed, 5);
  EXPECT_EQ(config.model.width, 32);
  EXPECT_EQ(config.model.heads, 4);
  EXPECT_EQ(config.data.vocabulary, 512);
  EXPECT_EQ(config.data.domains, (std::vector<std::string>{"a", "b"}));
}

TEST_F(Merge, OfSeveralBasesTheLaterWins) {
  write("one.yaml", "seed: 1\nmodel.width: 32\n");
  write("two.yaml", "seed: 2\n");
  const auto config = only(with_data("base: [one.yaml, two.yaml]"));
  EXPECT_EQ(config.seed, 2);
  EXPECT_EQ(config.model.width, 32);
}

TEST_F(Merge, ASweepCanBeABase) {
  write("study.yaml",
        std::string(kData) + "sweep: study\nsets: {scale: {x1: {}, x2: {model.width: 128}}}\ngrid: {seed: [1, 2, 3], scale: [x1, x2]}\n");
  const Sweep smaller = sweep("sweep: study.smoke\nbase: study.yaml\nsets: {scale: {x2: {model.width: 32}}}\ngrid: {seed: [7]}\n");
  EXPECT_EQ(smaller.name, "study.smoke");
  EXPECT_EQ(each(smaller, kSeed), (Numbers{7, 7}));
  EXPECT_EQ(each(smaller, kWidth), (Numbers{64, 32}));
  // blocks replace the base's grid, and a grid replaces the base's blocks
  EXPECT_EQ(each(sweep("base: study.yaml\nblocks: [{points: [{seed: 9}]}]\n"), kSeed), (Numbers{9}));
  write("blocks.yaml", std::string(kData) + "blocks: [{grid: {seed: [1, 2]}}]\n");
  EXPECT_EQ(each(sweep("base: blocks.yaml\ngrid: {seed: [4]}\n"), kSeed), (Numbers{4}));
}

TEST_F(Merge, AFileNamedAsAValueIsTheWholeSection) {
  write("base.yaml", "routing: {top_k: 3, weight_scale: 2, balance: {method: aux_loss, weight: 0.5}}\n");
  const auto config = only(with_data("base: base.yaml\nrouting: router.yaml\n"));
  EXPECT_EQ(config.routing.top_k, 2);
  EXPECT_EQ(config.routing.weight_scale, 1.0);     // not the base's
  EXPECT_EQ(config.routing.balance.weight, 0.01);  // its default
  EXPECT_EQ(config.routing.balance.method, "aux_loss");
  // a mapping merges instead
  EXPECT_EQ(only(with_data("base: base.yaml\nrouting: {top_k: 2}\n")).routing.weight_scale, 2.0);
  // a key beside the file goes over it, whatever the order
  EXPECT_EQ(only(with_data("routing.top_k: 1\nrouting: router.yaml\n")).routing.top_k, 1);
  // a section below a section, and a section file with a base of its own
  write("balance.yaml", "method: aux_loss\nscope: sequence\n");
  write("derived.yaml", "base: router.yaml\nweight_scale: 3\n");
  EXPECT_EQ(only(with_data("routing: {balance: balance.yaml}\n")).routing.balance.scope, routing::ScopeKind::sequence);
  const auto derived = only(with_data("routing: derived.yaml\n")).routing;
  EXPECT_EQ(derived.top_k, 2);
  EXPECT_EQ(derived.weight_scale, 3.0);
}

TEST_F(Merge, LaterWinsFromDefaultsToTheCommandLine) {
  write("base.yaml", "model.width: 128\n");
  const std::string file = "base: base.yaml\n", key = "model.width: 256\n", sets = "sets: {size: {big: {model.width: 512}}}\nsize: big\n",
                    axis = "grid: {model.width: [1024]}\n";
  EXPECT_EQ(only(with_data("")).model.width, 64);
  EXPECT_EQ(only(with_data(file)).model.width, 128);
  EXPECT_EQ(only(with_data(file + key)).model.width, 256);
  EXPECT_EQ(only(with_data(file + key + sets)).model.width, 512);
  EXPECT_EQ(only(with_data(file + key + sets + axis)).model.width, 1024);
  EXPECT_EQ(only(with_data(file + key + sets + axis, {"model.width=2048"})).model.width, 2048);
}

TEST_F(Merge, SetsAreAnAxis) {
  const std::string sets = "sets: {scale: {x1: {}, x35: {model: {width: 256}, train.steps: 80}}}\n";
  EXPECT_EQ(each(with_data(sets + "grid: {scale: [x1, x35], seed: [1, 2]}\n"), kWidth), (Numbers{64, 64, 256, 256}));
  EXPECT_EQ(each(with_data(sets + "points: [{scale: x35}, {}]\n"), kWidth), (Numbers{256, 64}));
  EXPECT_EQ(each(with_data(sets + "zip: {scale: [x35, x1], seed: [1, 2]}\n"), kWidth), (Numbers{256, 64}));
  EXPECT_EQ(each(with_data(sets + "scale: x35\ngrid: {seed: [1, 2]}\n"), kWidth), (Numbers{256, 256}));
  EXPECT_EQ(each(with_data(sets + "grid: {scale: [x1, x35]}\n", {"scale=x35"}), kWidth), (Numbers{256}));
  EXPECT_EQ(each(with_data(sets + "seed: 1\n", {"scale=[x35,x1]"}), kWidth), (Numbers{256, 64}));
  // of two groups that give one key the later in the file wins
  EXPECT_EQ(only(with_data("sets: {a: {s: {seed: 1}}, b: {s: {seed: 2}}}\npoints: [{b: s, a: s}]\n")).seed, 2);
}

TEST_F(Merge, BlocksFollowOneAnotherAndInsideABlockAxesMultiply) {
  const Sweep both = with_data(
      "blocks:\n"
      "  - points: [{routing.top_k: 1}, {routing.top_k: 2}]\n"
      "    zip: {model.width: [32, 64], model.experts: [8, 16]}\n"
      "    grid: {seed: [1, 2]}\n"
      "  - grid: {seed: [9]}\n");
  EXPECT_EQ(each(both, kTopK), (Numbers{1, 1, 1, 1, 2, 2, 2, 2, 4}));
  EXPECT_EQ(each(both, kWidth), (Numbers{32, 32, 64, 64, 32, 32, 64, 64, 64}));
  EXPECT_EQ(each(both, [](const auto& c) { return c.model.experts; }), (Numbers{8, 8, 16, 16, 8, 8, 16, 16, 32}));
  EXPECT_EQ(each(both, kSeed), (Numbers{1, 2, 1, 2, 1, 2, 1, 2, 9}));
}

TEST_F(Merge, GridZipAndPointsAtTheTopAreOneBlock) {
  const std::string block = "points: [{routing.top_k: 1}, {routing.top_k: 2}]\nzip: {model.width: [32, 64]}\ngrid: {seed: [1, 2]}\n";
  std::string indented = "blocks:\n  - " + block;
  indented.replace(indented.find("\nzip"), 1, "\n    ").replace(indented.find("\ngrid"), 1, "\n    ");
  std::vector<std::string> top, inner;
  for (const Trial& trial : with_data(block).trials) top.push_back(trial.id);
  for (const Trial& trial : with_data(indented).trials) inner.push_back(trial.id);
  EXPECT_EQ(top.size(), 8u);
  EXPECT_EQ(top, inner);
}

TEST_F(Merge, AnAxisCanBeASection) {
  const Sweep routers = with_data("grid: {routing: [router.yaml, other.yaml, {top_k: 3}], seed: [1]}\n");
  EXPECT_EQ(each(routers, kTopK), (Numbers{2, 4, 3}));
  // a single key of another axis goes over a file, whatever stands first
  EXPECT_EQ(each(with_data("points: [{routing: router.yaml}]\ngrid: {routing.top_k: [1, 3]}\n"), kTopK), (Numbers{1, 3}));
  EXPECT_EQ(each(with_data("points: [{routing.top_k: 1}]\ngrid: {routing: [router.yaml]}\n"), kTopK), (Numbers{1}));
}

TEST_F(Merge, NoneIsAnAbsentValue) {
  write("base.yaml", "train.tokens: 8192\n");
  EXPECT_EQ(only(with_data("base: base.yaml\n")).train.tokens, 8192);
  EXPECT_EQ(only(with_data("base: base.yaml\ntrain.tokens: none\n")).train.tokens, std::nullopt);
  EXPECT_EQ(with_data("grid: {train.tokens: [none, 4096]}\n").trials[1].config.train.tokens, 4096);
}

TEST_F(Merge, NumbersAreReadAsWritten) {
  const auto config =
      only(with_data("train: {learning_rate: 1e-3, clip_norm: 2, loss_limit: +7.5, weight_decay: -0.0, epsilon: .5}\nseed: 9007199254740993\n"));
  EXPECT_EQ(config.train.learning_rate, 1e-3);
  EXPECT_EQ(config.train.clip_norm, 2.0);
  EXPECT_EQ(config.train.loss_limit, 7.5);
  EXPECT_FALSE(std::signbit(config.train.weight_decay));
  EXPECT_EQ(config.train.epsilon, 0.5);
  EXPECT_EQ(config.seed, 9007199254740993);  // above 2^53: never through a double
}

TEST_F(Merge, AnchorsAndAliasesWork) { EXPECT_EQ(each(with_data("model: {width: &w 32}\ngrid: {seed: [*w, 1]}\n"), kSeed), (Numbers{32, 1})); }

TEST_F(Merge, AliasBombsStop) {
  std::string bomb = "points: [&a {seed: 1}]\n";
  std::string items = "x0: &x0 [1,1,1,1,1,1,1,1,1,1]\n";
  for (int i = 1; i < 9; ++i) {
    items += "x" + std::to_string(i) + ": &x" + std::to_string(i) + " [";
    for (int j = 0; j < 10; ++j) items += (j ? ", *x" : "*x") + std::to_string(i - 1);
    items += "]\n";
  }
  EXPECT_NE(message_of([&] { sweep(items); }).find("more than 2000000 values, with what anchors and aliases repeat"), std::string::npos);
}

// --- the command line ---

TEST_F(Merge, KeyValueReplacesTheKeyWhereverTheFileGivesIt) {
  const std::string file =
      "seed: 1\nsets: {s: {a: {model.width: 32, seed: 4}}}\ns: a\n"
      "blocks:\n  - {grid: {seed: [1, 2], routing.top_k: [1, 2]}}\n  - {zip: {seed: [3, 4], model.experts: [8, 16]}}\n  - {points: [{seed: 5}, "
      "{seed: 6}]}\n";
  const Sweep one = with_data(file, {"seed=7"});
  EXPECT_EQ(each(one, kSeed), (Numbers{7, 7, 7, 7, 7}));  // grid: two top_k; zip: two experts; points: one left of two
  EXPECT_EQ(one.duplicates_dropped, 1);
  EXPECT_EQ(each(with_data(file, {"model.width=96"}), kWidth), (Numbers(8, 96)));
  // inside a file named in points too
  EXPECT_EQ(each(with_data("points: [{routing: router.yaml}, {routing: other.yaml}]\n", {"routing.top_k=1"}), kTopK), (Numbers{1, 1}));
  EXPECT_EQ(each(with_data("grid: {routing: [router.yaml, other.yaml]}\n", {"routing.top_k=1"}), kTopK), (Numbers{1, 1}));
  EXPECT_EQ(only(with_data("points: [{routing: other.yaml}]\n", {"routing.balance.weight=0.5"})).routing.balance.weight, 0.5);
}

TEST_F(Merge, KeyListMakesAnAxisOfEveryBlockInPlaceOfOneOfThatName) {
  const std::string file = "blocks:\n  - {grid: {seed: [1, 2], routing.top_k: [1, 2]}}\n  - {points: [{seed: 5}]}\n";
  const Sweep axis = with_data(file, {"seed=[7,8,9]"});
  EXPECT_EQ(each(axis, kSeed), (Numbers{7, 7, 8, 8, 9, 9, 7, 8, 9}));
  EXPECT_EQ(each(axis, kTopK), (Numbers{1, 2, 1, 2, 1, 2, 4, 4, 4}));
  EXPECT_EQ(each(with_data(file, {"model.width=[32,64]"}), kWidth), (Numbers{32, 64, 32, 64, 32, 64, 32, 64, 32, 64}));
  EXPECT_EQ(each(with_data("", {"seed=[1,2]"}), kSeed), (Numbers{1, 2}));
  EXPECT_EQ(each(with_data("zip: {seed: [1, 2], routing.top_k: [1, 2]}\n", {"seed=[5]"}), kTopK), (Numbers{1, 2}));
}

TEST_F(Merge, AListFieldTakesAListAsItsValue) {
  EXPECT_EQ(only(with_data("", {"data.domains=[x, y, z, w]"})).data.domains.size(), 4u);
  EXPECT_EQ(with_data("", {"data.domains=[[x, y], [x]]"}).trials.size(), 2u);
  EXPECT_EQ(only(with_data("routing.score: sigmoid\n", {"routing.balance.also=[{method: aux_loss, scope: sequence}]"})).routing.balance.also.size(),
            1u);
}

TEST_F(Merge, AnEmptyListIsAValueToAddToAnAxisOfLists) {
  const std::string file = "grid: {routing.balance.also: [[{method: aux_loss}], [{method: aux_loss, scope: sequence}]]}\n";
  const Sweep longer = with_data(file, {"+routing.balance.also=[]"});
  ASSERT_EQ(longer.trials.size(), 3u);
  EXPECT_TRUE(longer.trials[2].config.routing.balance.also.empty());
}

TEST_F(Merge, ASectionOnTheCommandLineDropsWhatTheFileSetsBelowIt) {
  const std::string file =
      "routing.weight_scale: 2\nsets: {s: {a: {routing.z_loss_weight: 1}}}\ns: a\n"
      "points: [{routing.top_k: 1}, {routing: {balance.method: aux_loss}}, {routing: other.yaml}]\n";
  const Sweep one = with_data(file, {"routing=router.yaml"});
  const auto config = only(one);
  EXPECT_EQ(one.duplicates_dropped, 2);
  EXPECT_EQ(config.routing.top_k, 2);
  EXPECT_EQ(config.routing.weight_scale, 1.0);
  EXPECT_EQ(config.routing.z_loss_weight, 0.0);
  // a key of the command line itself stays, in either order
  for (const std::vector<std::string>& order :
       {std::vector<std::string>{"routing=router.yaml", "routing.top_k=3"}, {"routing.top_k=3", "routing=router.yaml"}})
    EXPECT_EQ(only(with_data(file, order)).routing.top_k, 3);
  EXPECT_EQ(each(with_data(file, {"routing=[router.yaml,other.yaml]"}), kTopK), (Numbers{2, 4}));
}

TEST_F(Merge, OfTwoOverridesOfOneKeyTheLaterWins) {
  EXPECT_EQ(each(with_data("", {"seed=2", "seed=3"}), kSeed), (Numbers{3}));
  EXPECT_EQ(each(with_data("", {"seed=[2,4]", "seed=3"}), kSeed), (Numbers{3}));
  EXPECT_EQ(each(with_data("", {"seed=2", "seed=[3,5]"}), kSeed), (Numbers{3, 5}));
}

TEST_F(Merge, PlusAddsAndTildeRemoves) {
  EXPECT_EQ(each(with_data("grid: {seed: [1, 2]}\n", {"+seed=3"}), kSeed), (Numbers{1, 2, 3}));
  EXPECT_EQ(each(with_data("grid: {seed: [1, 2]}\n", {"+seed=[3,4]"}), kSeed), (Numbers{1, 2, 3, 4}));
  EXPECT_EQ(each(with_data("grid: {seed: [1, 2]}\n", {"+model.width=32"}), kWidth), (Numbers{32, 32}));
  EXPECT_EQ(only(with_data("", {"+data.domains=[c, d]"})).data.domains.size(), 4u);
  EXPECT_EQ(each(with_data("seed: 4\ngrid: {model.width: [32, 64]}\n", {"~model.width"}), kWidth), (Numbers{64}));
  EXPECT_EQ(each(with_data("seed: 4\n", {"~seed"}), kSeed), (Numbers{1}));
  EXPECT_EQ(each(with_data("routing: router.yaml\n", {"~routing.top_k"}), kTopK), (Numbers{4}));
  EXPECT_EQ(each(with_data("routing: router.yaml\n", {"~routing"}), kTopK), (Numbers{4}));
  EXPECT_EQ(with_data("grid: {seed: [1, 2]}\nexclude: seed == 1\n", {"~exclude"}).trials.size(), 2u);
}

TEST_F(Merge, TrialsThatBecomeEqualAreDroppedAndCounted) {
  const Sweep twice = with_data("blocks: [{grid: {seed: [1, 2, 2]}}, {points: [{seed: 1}, {parallel.threads: 2}]}]\n");
  EXPECT_EQ(each(twice, kSeed), (Numbers{1, 2}));
  EXPECT_EQ(twice.duplicates_dropped, 3);  // 2 again, 1 again, and threads, which change no result
}

// --- conditions ---

TEST_F(Merge, ExcludeLeavesTrialsOut) {
  const std::string grid = "grid: {seed: [1, 2, 3], routing.top_k: [1, 2]}\n";
  const auto left = [&](const std::string& condition) {
    const Sweep some = with_data(grid + "exclude: ['" + condition + "']\n");
    EXPECT_EQ(some.excluded + static_cast<std::int64_t>(some.trials.size()), 6) << condition;
    Numbers numbers;
    for (const Trial& trial : some.trials) numbers.push_back(10 * trial.config.seed + trial.config.routing.top_k);
    return numbers;
  };
  EXPECT_EQ(left("seed == 2"), (Numbers{11, 12, 31, 32}));
  EXPECT_EQ(left("seed != 2 and routing.top_k == 1"), (Numbers{12, 21, 22, 32}));
  EXPECT_EQ(left("seed < 2 or seed > 2 and routing.top_k >= 2"), (Numbers{21, 22, 31}));  // and binds tighter
  EXPECT_EQ(left("not (seed < 2 or seed > 2)"), (Numbers{11, 12, 31, 32}));
  EXPECT_EQ(left("seed in [1, 3]"), (Numbers{21, 22}));
  EXPECT_EQ(left("seed not in [1, 3]"), (Numbers{11, 12, 31, 32}));
  EXPECT_EQ(left("seed == routing.top_k"), (Numbers{12, 21, 31, 32}));
  EXPECT_EQ(left("seed <= 1.5"), (Numbers{21, 22, 31, 32}));
  EXPECT_EQ(left("model.tied_embeddings or train.tokens != none or routing.score == sigmoid"), (Numbers{11, 12, 21, 22, 31, 32}));
  EXPECT_EQ(left("train.tokens < 5 or train.tokens >= 5"), (Numbers{11, 12, 21, 22, 31, 32}));  // an absent value has no order
}

TEST_F(Merge, ConditionsSeeSetsAndTheCommandLine) {
  const std::string sets = "sets: {scale: {x1: {}, x2: {model.width: 128}}}\n";
  EXPECT_EQ(each(with_data(sets + "grid: {scale: [x1, x2], seed: [1, 2]}\nexclude: scale == x2 and seed == 2\n"), kWidth), (Numbers{64, 64, 128}));
  EXPECT_EQ(with_data("grid: {seed: [1, 2]}\nexclude: model.width == 32\n", {"model.width=64"}).trials.size(), 2u);
  EXPECT_NE(message_of([&] { with_data("grid: {seed: [1, 2]}\nexclude: model.width == 32\n", {"model.width=32"}); }).find("exclude drops all 2"),
            std::string::npos);
  // at the top of the file, for every block
  EXPECT_EQ(each(with_data("blocks: [{grid: {seed: [1, 2]}}, {grid: {seed: [3, 4]}}]\nexclude: [seed == 2, seed == 3]\n"), kSeed), (Numbers{1, 4}));
  // an excluded combination may be one that makes no sense
  EXPECT_EQ(each(with_data("grid: {model.heads: [4, 7]}\nexclude: model.heads == 7\n"), kWidth), (Numbers{64}));
}

TEST_F(Merge, WhenFalseTheAxisFallsBackToItsBaseValue) {
  const Sweep some = with_data(
      "routing: {weight_scale: 3, balance.method: aux_loss}\n"
      "grid: {routing.balance.scope: [sequence, micro_batch], routing.weight_scale: [1, 2]}\n"
      "when: {routing.weight_scale: routing.balance.scope == micro_batch}\n");
  EXPECT_EQ(each(some, [](const auto& c) { return c.routing.weight_scale; }), (std::vector<double>{3, 1, 2}));
  EXPECT_EQ(some.duplicates_dropped, 1);
}

TEST_F(Merge, TheExampleOfTheDesignReadsInItsShape) {
  const Sweep study = sweep(
      "sweep: scope-study\n"
      "base: models/testbed-tiny.yaml\n"
      "data: data/languages8.yaml\n"
      "sets:\n"
      "  scale: {x1: {}, x35: {model.width: 256, model.layers: 6, model.heads: 8, model.expert_width: 120, train.batch_sequences: 32, "
      "train.micro_batch_sequences: 2, train.learning_rate: 3e-3, train.steps: 80}}\n"
      "blocks:\n"
      "  - grid:\n"
      "      routing.balance.scope:  [sequence, micro_batch, global_batch]\n"
      "      train.tokens: [none, 8192]\n"
      "      scale: [x1, x35]\n"
      "      seed: [1, 2, 3]\n"
      "    points:\n"
      "      - {routing.balance.method: aux_loss}\n"
      "      - {routing.balance.method: expert_bias, routing.score: sigmoid}      # the sign rule needs sigmoid scores\n"
      "    exclude: [\"routing.balance.method == expert_bias and routing.balance.scope == sequence\"]\n"
      "    when: {train.tokens: \"routing.balance.scope == micro_batch\"}\n"
      "  - points: [{routing: routers/reference.yaml}, {routing: routers/random.yaml}]\n"
      "    grid: {scale: [x1, x35], seed: [1, 2, 3]}\n");
  // aux loss: sequence 6, micro_batch 12, global_batch 6; bias: 12 + 6; routers: 12
  EXPECT_EQ(study.trials.size(), 6u + 12 + 6 + 12 + 6 + 12);
  EXPECT_EQ(study.excluded, 12);
  EXPECT_EQ(study.duplicates_dropped, 6 + 6 + 6);
}

}  // namespace moesweep::spec
