// Every part of a strategy against its literal transcription in tests/reference, on random and adversarial logits; gradients by finite
// differences; what must not change with threads, order or place. Prints the comparisons with the oracles and their worst error by part.
#include <gtest/gtest.h>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/autograd.h>

#include <cstdio>
#include <map>
#include <numeric>
#include <set>
#include <string>

#include "moesweep/core/random.hpp"
#include "moesweep/routing/parts.hpp"
#include "reference/balancing_reference.hpp"
#include "reference/selection_reference.hpp"

namespace moesweep::routing {
namespace {

using reference::Gate;
using reference::Integers;
using reference::Vector;

constexpr Score kScores[] = {Score::softmax, Score::softmax_selected, Score::sigmoid, Score::sqrt_softplus, Score::relu};

// ------------------------------------------------------------------------------------------------------------- comparisons

struct Tally {
  std::int64_t comparisons = 0;
  double worst = 0;
};
std::map<std::string, Tally>& tallies() {
  static std::map<std::string, Tally> all;
  return all;
}

class PrintTallies : public testing::Environment {
 public:
  void TearDown() override {
    for (const auto& [name, tally] : tallies())
      std::printf("oracle %s: %lld comparisons, worst relative error %.1e\n", name.c_str(), static_cast<long long>(tally.comparisons), tally.worst);
  }
};
[[maybe_unused]] const testing::Environment* const kPrint = testing::AddGlobalTestEnvironment(new PrintTallies);

/// Numbers against the oracle's, relative to the largest of them.
void same(const std::string& part, const Vector& actual, const Vector& expected, double tolerance, const std::string& where) {
  ASSERT_EQ(actual.size(), expected.size()) << part << ": " << where;
  double scale = 0;
  for (const double v : expected) scale = std::max(scale, std::abs(v));
  Tally& tally = tallies()[part];
  for (std::size_t i = 0; i < actual.size(); ++i) {
    ++tally.comparisons;
    const double gap = std::abs(actual[i] - expected[i]), error = gap == 0 ? 0 : scale == 0 ? gap : gap / scale;
    ASSERT_LE(error, tolerance) << part << ": " << where << " at " << i << ": " << actual[i] << ", not " << expected[i];
    tally.worst = std::max(tally.worst, error);
  }
}

void same(const std::string& part, const Integers& actual, const Integers& expected, const std::string& where) {
  ASSERT_EQ(actual, expected) << part << ": " << where;
  tallies()[part].comparisons += static_cast<std::int64_t>(expected.size());
}

template <class Number>
std::vector<Number> values_of(const at::Tensor& tensor) {
  const at::Tensor flat = tensor.detach().to(std::is_same_v<Number, double> ? at::kDouble : at::kLong).contiguous();
  const auto* data = flat.const_data_ptr<Number>();
  return {data, data + flat.numel()};
}
Vector numbers(const at::Tensor& tensor) { return values_of<double>(tensor); }
Integers integers(const at::Tensor& tensor) { return values_of<std::int64_t>(tensor); }

at::Tensor tensor_of(const Vector& values, at::IntArrayRef shape) { return at::tensor(values, at::kDouble).reshape(shape); }

Integers flat(const std::vector<Integers>& lists) {
  Integers all;
  for (const auto& list : lists) all.insert(all.end(), list.begin(), list.end());
  return all;
}
Vector flat(const std::vector<Vector>& lists) {
  Vector all;
  for (const auto& list : lists) all.insert(all.end(), list.begin(), list.end());
  return all;
}

at::Tensor gradient_of(const at::Tensor& output, const at::Tensor& input, const at::Tensor& upstream = {}) {
  return torch::autograd::grad({output}, {input}, upstream.defined() ? std::vector<at::Tensor>{upstream} : std::vector<at::Tensor>{},
                               /*retain_graph=*/true)[0];
}

// ------------------------------------------------------------------------------------------------------------------ inputs

at::Tensor normals(std::uint64_t seed, std::int64_t rows, std::int64_t columns) {
  at::Tensor values = at::empty({rows, columns}, at::kDouble);
  auto* out = values.mutable_data_ptr<double>();
  for (std::int64_t i = 0; i < rows * columns; ++i)
    out[i] = to_normals(random_words(seed, Purpose::test, Place{7, 0, 0, static_cast<std::uint32_t>(i)}))[0];
  return values;
}

struct Case {
  std::string name;
  at::Tensor logits;  ///< [T, E] fp64
  reference::Input in;
};

Case make_case(const std::string& name, const at::Tensor& logits, std::int64_t k) {
  Case made{name + " T" + std::to_string(logits.size(0)) + " E" + std::to_string(logits.size(1)) + " k" + std::to_string(k), logits.contiguous(), {}};
  made.in.T = logits.size(0);
  made.in.E = logits.size(1);
  made.in.k = k;
  made.in.logits = numbers(logits);
  return made;
}

/// Random and adversarial logits of one shape.
std::vector<Case> cases_of(std::int64_t tokens, std::int64_t experts, std::int64_t k) {
  const at::Tensor x = normals(static_cast<std::uint64_t>(tokens * 1000 + experts * 10 + k), tokens, experts);
  at::Tensor unwanted = x.clone();
  unwanted.select(1, experts - 1).fill_(-1e4);
  return {make_case("normal", x, k),
          make_case("steep", x * 30, k),
          make_case("ties", (x * 2).round() / 2, k),
          make_case("equal", at::full_like(x, 0.25), k),
          make_case("huge", x.sign() * 1e4, k),
          make_case("hugely spread", x * 1e4, k),
          make_case("nobody wants one", unwanted, k),
          make_case("all but one far below", at::where(at::arange(experts).view({1, -1}) == 0, x, x - 1e4), k)};
}

std::vector<Case> all_cases() {
  std::vector<Case> all;
  for (const auto& [tokens, experts, k] :
       {std::array<std::int64_t, 3>{24, 8, 2}, {12, 6, 1}, {1, 8, 3}, {3, 16, 4}, {20, 5, 5}, {1, 1, 1}, {0, 4, 2}, {18, 36, 4}, {9, 64, 6}})
    for (Case& made : cases_of(tokens, experts, k)) all.push_back(std::move(made));
  return all;
}

std::string name_of(Score score) { return EnumNames<Score>::names[static_cast<std::size_t>(score)]; }
Gate gate_of(Score score) { return static_cast<Gate>(score); }

/// [T][k] of a choice of k experts a token.
reference::Experts lists_of(const at::Tensor& expert) {
  reference::Experts lists;
  for (std::int64_t t = 0; t < expert.size(0); ++t) lists.push_back(integers(expert[t]));
  return lists;
}

/// A varying number of slots a token, some without any; and the oracle's lists.
std::pair<Slots, reference::Experts> varying_slots(const Case& c) {
  const at::Tensor chosen = normals(91, c.in.T, c.in.E) > 0.4;
  at::Tensor mask = at::ones({c.in.T}, at::kBool);
  for (std::int64_t t = 2; t < c.in.T; t += 5) mask[t] = false;
  reference::Experts lists(static_cast<std::size_t>(c.in.T));
  for (std::int64_t t = 0; t < c.in.T; ++t)
    for (std::int64_t e = 0; e < c.in.E; ++e)
      if (mask[t].item<bool>() && chosen[t][e].item<bool>()) lists[static_cast<std::size_t>(t)].push_back(e);
  return {slots_of_flags(chosen, mask), lists};
}

/// Whole sequences of `length` tokens; of `masked`, the last s mod 3 tokens of sequence s do not count.
TokenLayout layout_of(std::int64_t sequences, std::int64_t length, bool masked = false) {
  TokenLayout layout;
  layout.sequences = sequences;
  layout.length = length;
  layout.micro_batch_sequences = 2;
  layout.seed = 11;
  layout.step = 4;
  layout.domain.assign(static_cast<std::size_t>(sequences), 0);
  for (std::int64_t s = 0; s < sequences; ++s) layout.index.push_back(s);
  if (masked) {
    layout.mask = at::ones({sequences * length}, at::kBool);
    for (std::int64_t s = 0; s < sequences; ++s)
      for (std::int64_t t = length - s % 3; t < length; ++t) layout.mask[s * length + t] = false;
  }
  return layout;
}

/// The oracle's view of a layout.
void place(reference::Input& in, const TokenLayout& layout) {
  for (std::int64_t s = 0; s < layout.sequences; ++s)
    for (std::int64_t t = layout.begin_of(s); t < layout.begin_of(s + 1); ++t) {
      in.sequence.push_back(layout.index[static_cast<std::size_t>(s)]);
      in.micro_batch.push_back(layout.index[static_cast<std::size_t>(s)] / layout.micro_batch_sequences);
      in.mask.push_back(!layout.mask.defined() || layout.mask[t].item<bool>() ? 1 : 0);
    }
}

// ------------------------------------------------------------------------------------------------------------------ scores

TEST(PartScores, ScoresAndProbabilitiesFollowTheFormulas) {
  for (const Case& c : all_cases())
    for (const Score score : kScores) {
      const at::Tensor s = scores_of(c.logits, score), p = probabilities_of(c.logits, score);
      for (std::int64_t t = 0; t < c.in.T; ++t) {
        const std::string where = c.name + " " + name_of(score) + " token " + std::to_string(t);
        same("scores", numbers(s[t]), reference::scores(reference::row(c.in, t), gate_of(score)), 1e-11, where);
        same("probabilities", numbers(p[t]), reference::probabilities(reference::row(c.in, t), gate_of(score)), 1e-11, where);
      }
    }
}

TEST(PartScores, ProbabilityGradientsFollowTheFormulas) {
  for (const Case& c : all_cases())
    for (const Score score : kScores) {
      if (c.in.T == 0) continue;
      const at::Tensor x = c.logits.clone().requires_grad_(true), upstream = normals(3, c.in.T, c.in.E);
      const at::Tensor gradient = gradient_of(probabilities_of(x, score), x, upstream);
      for (std::int64_t t = 0; t < c.in.T; ++t) {
        Vector expected = reference::probabilities_slope(reference::row(c.in, t), numbers(upstream[t]), gate_of(score));
        // Of a row of nearly one hot p the gradient is what cancellation leaves: errors are taken relative to 1.
        Vector actual = numbers(gradient[t]);
        expected.push_back(1);
        actual.push_back(1);
        same("probabilities, gradient", actual, expected, 1e-11, c.name + " " + name_of(score));
      }
    }
}

TEST(PartScores, GateWeightsAndTheirGradientsFollowTheFormulas) {
  for (const Case& c : all_cases())
    for (const Score score : kScores) {
      const at::Tensor expert = top_k_indices(c.logits, c.in.k);
      for (const bool fixed : {true, false})
        for (const bool normalise : {true, false}) {
          auto [slots, lists] = fixed ? std::pair{slots_of(expert), lists_of(expert)} : varying_slots(c);
          const std::string where = c.name + " " + name_of(score) + (fixed ? " fixed" : " varying") + (normalise ? "" : " raw");
          const at::Tensor x = c.logits.clone().requires_grad_(true);
          const at::Tensor weight = gate_weights(x, slots, score, 2.5, normalise);
          std::vector<Vector> weights, upstreams;
          for (std::size_t t = 0; t < lists.size(); ++t) {
            weights.push_back(
                reference::weights_of(reference::row(c.in, static_cast<std::int64_t>(t)), lists[t], gate_of(score), 2.5, normalise ? 0 : 1));
            Vector up;
            for (std::size_t i = 0; i < lists[t].size(); ++i) up.push_back(0.3 * static_cast<double>(i + 1) - 0.1 * static_cast<double>(t % 7));
            upstreams.push_back(up);
          }
          same("gate weights", numbers(weight), flat(weights), 1e-11, where);
          EXPECT_FALSE(gate_weights(c.logits, slots, score, 2.5, normalise).requires_grad());
          if (slots.expert.numel() == 0) continue;
          const at::Tensor gradient = gradient_of(weight, x, tensor_of(flat(upstreams), {slots.expert.numel()}));
          for (std::int64_t t = 0; t < c.in.T; ++t) {
            const auto i = static_cast<std::size_t>(t);
            Vector expected = reference::weights_slope(reference::row(c.in, t), lists[i], upstreams[i], gate_of(score), 2.5, normalise ? 0 : 1);
            Vector actual = numbers(gradient[t]);
            if (lists[i].empty()) {
              EXPECT_EQ(Vector(expected.size(), 0.0), actual);
            }
            expected.push_back(1);
            actual.push_back(1);
            same("gate weights, gradient", actual, expected, 1e-11, where);
          }
        }
    }
}

TEST(PartScores, GateGradientsAreFiniteDifferences) {
  const Case c = make_case("normal", normals(17, 6, 7), 3);
  const at::Tensor expert = top_k_indices(c.logits, 3);
  for (const Score score : kScores)
    for (const bool fixed : {true, false}) {
      const Slots slots = fixed ? slots_of(expert) : varying_slots(c).first;
      const at::Tensor upstream = normals(5, 1, slots.expert.numel()).view({-1});
      const auto loss = [&](const Vector& logits) {
        return (gate_weights(tensor_of(logits, {6, 7}), slots, score, 1.5) * upstream).sum().item<double>();
      };
      const at::Tensor x = c.logits.clone().requires_grad_(true);
      same("gate weights, finite differences", numbers(gradient_of(gate_weights(x, slots, score, 1.5), x, upstream)),
           reference::finite_differences(loss, c.in.logits), 1e-7, name_of(score));
    }
}

TEST(PartScores, SinglePrecisionIsThatOfDoubles) {
  for (const Case& c : all_cases())
    for (const Score score : kScores) {
      if (c.in.T == 0) continue;
      const at::Tensor narrow = c.logits.to(at::kFloat), wide = narrow.to(at::kDouble);
      const at::Tensor expert = top_k_indices(narrow, c.in.k);
      EXPECT_TRUE(at::equal(expert, top_k_indices(wide, c.in.k))) << c.name;
      const Slots slots = slots_of(expert);
      const at::Tensor x = narrow.clone().requires_grad_(true), y = wide.clone().requires_grad_(true);
      const at::Tensor w = gate_weights(x, slots, score, 1.0), v = gate_weights(y, slots, score, 1.0);
      const at::Tensor up = normals(2, 1, w.numel()).view({-1});
      EXPECT_TRUE(at::allclose(w.to(at::kDouble), v, 1e-5, 1e-7)) << c.name << name_of(score);
      EXPECT_TRUE(at::allclose(gradient_of(w, x, up.to(at::kFloat)).to(at::kDouble), gradient_of(v, y, up), 1e-4, 1e-6)) << c.name << name_of(score);
    }
}

// --------------------------------------------------------------------------------------------------------------- selection

TEST(PartSelection, TopKOfManyShapes) {
  for (const std::int64_t experts : {1, 2, 7, 8, 15, 16, 17, 31, 32, 33, 48, 64, 100, 256})
    for (const std::int64_t k : {1, 2, 3, 5, 8, 16, 17, 40}) {
      if (k > experts) continue;
      for (const Case& c : cases_of(16, experts, k))
        for (const auto type : {at::kDouble, at::kFloat}) {
          const at::Tensor keys = c.logits.to(type);
          const reference::Input in = make_case("", keys.to(at::kDouble), k).in;
          same("top_k", integers(top_k_indices(keys, k)), flat(reference::select_top_k(in, Gate::softmax)), c.name);
          EXPECT_TRUE(at::equal(top_k_indices(keys, k), std::get<1>(at::sort(keys, true, 1, true)).narrow(1, 0, k)));
        }
    }
}

TEST(PartSelection, NotANumberStillGivesDistinctExperts) {
  for (const std::int64_t experts : {6, 40}) {
    at::Tensor keys = normals(8, 3, experts);
    keys[0].fill_(std::numeric_limits<double>::quiet_NaN());
    keys[1][2] = std::numeric_limits<double>::quiet_NaN();
    const at::Tensor chosen = top_k_indices(keys, 4);
    for (std::int64_t t = 0; t < 3; ++t) {
      const Integers row = integers(chosen[t]);
      EXPECT_EQ(std::set<std::int64_t>(row.begin(), row.end()).size(), 4U);
      EXPECT_GE(*std::min_element(row.begin(), row.end()), 0);
      EXPECT_LT(*std::max_element(row.begin(), row.end()), experts);
    }
  }
}

TEST(PartSelection, Groups) {
  for (const auto& [experts, groups, keep, k] : {std::array<std::int64_t, 4>{16, 4, 2, 4}, {8, 8, 4, 3}, {64, 8, 4, 8}, {12, 3, 3, 6}, {6, 1, 1, 2}})
    for (const Case& c : cases_of(15, experts, k))
      for (const GroupScore rule : {GroupScore::top2_sum, GroupScore::max, GroupScore::megatron}) {
        if (rule == GroupScore::megatron && k / keep < 1) continue;
        const at::Tensor s = tensor_of(c.in.logits, {15, experts}).sigmoid();
        GroupConfig config;
        config.count = groups;
        config.keep = keep;
        config.score = rule;
        reference::Input in = c.in;
        in.logits = numbers(s);
        // The oracle scores by itself: relu leaves scores of 0 .. 1 as they are.
        same("group_top_k", integers(top_k_indices(group_limited(s, config, k), k)),
             flat(reference::select_group_top_k(in, Gate::relu, groups, keep, static_cast<reference::GroupScore>(rule))), c.name);
      }
  for (const auto& [experts, groups, k] : {std::array<std::int64_t, 3>{16, 4, 8}, {64, 2, 4}, {8, 8, 8}, {64, 1, 3}})
    for (const Case& c : cases_of(15, experts, k)) {
      reference::Input in = c.in;
      const at::Tensor s = c.logits.sigmoid();
      in.logits = numbers(s);
      same("grouped_top_k", integers(grouped_top_k_indices(s, groups, k)), flat(reference::select_grouped_top_k(in, Gate::relu, groups)), c.name);
    }
}

TEST(PartSelection, TopP) {
  for (Case& c : all_cases())
    for (const double share : {0.0, 0.3, 0.9, 1.0})
      for (const std::int64_t most : {std::int64_t{1}, std::min<std::int64_t>(3, c.in.E), c.in.E}) {
        c.in.mask.assign(static_cast<std::size_t>(c.in.T), 1);
        at::Tensor mask = at::ones({c.in.T}, at::kBool);
        if (c.in.T > 4) {
          c.in.mask[3] = 0;
          mask[3] = false;
        }
        // p of the oracle's, so that sums next to the share fall on the same side.
        std::vector<Vector> p;
        for (std::int64_t t = 0; t < c.in.T; ++t) p.push_back(reference::probabilities(reference::row(c.in, t), Gate::softmax));
        const Slots slots = top_p_slots(tensor_of(flat(p), {c.in.T, c.in.E}), share, most, mask);
        same("top_p", integers(slots.expert), flat(reference::select_top_p(c.in, Gate::softmax, share, most)), c.name);
        EXPECT_EQ(slots.offsets[c.in.T].item<std::int64_t>(), slots.token.numel());
      }
}

TEST(PartSelection, ExpertChoiceAndQuantiles) {
  for (const Case& c : all_cases())
    for (const double factor : {0.5, 1.0, 2.0}) {
      if (c.in.T == 0) continue;
      std::vector<Vector> p;
      for (std::int64_t t = 0; t < c.in.T; ++t) p.push_back(reference::softmax(reference::row(c.in, t)));
      const std::int64_t count = reference::expert_choice_capacity(c.in.T, c.in.k, c.in.E, factor);
      const Slots slots = slots_of_flags(expert_choice_unit(tensor_of(flat(p), {c.in.T, c.in.E}), count));
      same("expert_choice", integers(slots.expert), flat(reference::select_expert_choice(c.in, reference::Scope::global_batch, factor)), c.name);
      const std::int64_t rank = reference::threshold_rank(c.in.T, c.in.k, c.in.E);
      same("threshold quantile", numbers(column_quantile(c.logits, rank)), reference::threshold_quantiles(c.in, reference::Scope::global_batch), 0,
           c.name);
    }
  EXPECT_EQ(column_quantile(at::empty({0, 3}, at::kDouble), 2).sizes(), at::IntArrayRef({3}));
  EXPECT_EQ(column_quantile(at::ones({2, 3}), 9)[0].item<double>(), 1);
  EXPECT_EQ(expert_choice_unit(at::empty({0, 3}), 2).numel(), 0);
}

TEST(PartSelection, RandomExpertsAreDrawnByPlace) {
  const TokenLayout all = layout_of(5, 6);
  const at::Tensor chosen = random_experts(all, 3, 9, 4);
  for (std::int64_t t = 0; t < 30; ++t) {  // the shuffle as it has always been
    Integers pool(9);
    std::iota(pool.begin(), pool.end(), 0);
    for (std::uint32_t slot = 0; slot < 4; ++slot) {
      const auto words =
          random_words(11, Purpose::random_router, Place{3, 4, static_cast<std::uint32_t>(t / 6), static_cast<std::uint32_t>(t % 6)}, slot);
      std::swap(pool[slot], pool[slot + static_cast<std::size_t>(to_uniform(words[0], words[1]) * (9 - slot))]);
    }
    pool.resize(4);
    same("random", integers(chosen[t]), pool, std::to_string(t));
  }
  TokenLayout part = layout_of(2, 6);
  part.index = {3, 4};
  EXPECT_TRUE(at::equal(random_experts(part, 3, 9, 4), chosen.narrow(0, 18, 12)));
}

TEST(PartSelection, HashTables) {
  const at::Tensor table = hash_table(HashTable::random, 5, 2, 400, 8, 3, {});
  at::Tensor counts = at::zeros({8}, at::kLong);
  for (std::int64_t id = 0; id < 400; ++id) {
    const Integers row = integers(table[id]);
    EXPECT_EQ(std::set<std::int64_t>(row.begin(), row.end()).size(), 3U);
    for (const std::int64_t e : row) counts[e] += 1;
  }
  EXPECT_GT(counts.min().item<std::int64_t>(), 100);  // 150 expected, standard deviation 10
  EXPECT_TRUE(at::equal(table.narrow(0, 0, 100), hash_table(HashTable::random, 5, 2, 100, 8, 3, {})));
  EXPECT_FALSE(at::equal(table, hash_table(HashTable::random, 5, 1, 400, 8, 3, {})));

  // By hand: 9 -> {0, 1}; 5 -> {2, 0 or 1: loads 9, 9, 0}: {2, 0}; 5 (id 3) -> loads 14, 9, 5: {2, 1}; 0 -> loads 14, 14, 10: {2, 0}.
  EXPECT_EQ(integers(hash_table(HashTable::balanced, 0, 0, 4, 3, 2, {5, 0, 9, 5})), (Integers{2, 0, 2, 0, 0, 1, 2, 1}));
  Vector frequency;
  for (int id = 0; id < 500; ++id) frequency.push_back(1000.0 / (1 + (id * 37) % 500));
  const Integers balanced = integers(hash_table(HashTable::balanced, 0, 0, 500, 8, 2, frequency));
  Integers order(500), expected(1000);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](std::int64_t a, std::int64_t b) { return frequency[static_cast<std::size_t>(a)] > frequency[static_cast<std::size_t>(b)]; });
  Vector load(8, 0.0);
  for (const std::int64_t id : order) {
    Vector least;
    for (const double l : load) least.push_back(-l);
    const Integers bins = reference::top_k(least, 2);
    for (std::size_t slot = 0; slot < 2; ++slot) {
      expected[static_cast<std::size_t>(2 * id) + slot] = bins[slot];
      load[static_cast<std::size_t>(bins[slot])] += frequency[static_cast<std::size_t>(id)];
    }
  }
  same("hash balanced", balanced, expected, "500 ids");
}

// ------------------------------------------------------------------------------------------------------------ unit methods

Integers everyone(const reference::Input& in) {
  Integers tokens(static_cast<std::size_t>(in.T));
  std::iota(tokens.begin(), tokens.end(), 0);
  return tokens;
}

TEST(PartUnits, Sinkhorn) {
  for (const Case& c : all_cases())
    for (const std::int64_t most : {1, 3, 100}) {
      const SinkhornResult result = sinkhorn_unit(c.logits, most, 1e-4);
      if (c.in.T == 0) {
        EXPECT_EQ(result.keys.numel(), 0);
        continue;
      }
      const reference::Sinkhorn oracle = reference::sinkhorn(c.in, everyone(c.in), 1e-4, static_cast<int>(most));
      EXPECT_EQ(result.iterations, oracle.iterations) << c.name;
      Vector plan;
      for (std::int64_t t = 0; t < c.in.T; ++t) {
        const Vector x = reference::row(c.in, t);
        const double highest = *std::max_element(x.begin(), x.end());
        for (std::size_t e = 0; e < x.size(); ++e) plan.push_back(oracle.d0[static_cast<std::size_t>(t)] * std::exp(x[e] - highest) * oracle.d1[e]);
      }
      same("sinkhorn", numbers(result.keys), plan, 1e-11, c.name);
      EXPECT_TRUE(at::isfinite(sinkhorn_unit(c.logits.to(at::kFloat), most, 1e-4).keys).all().item<bool>()) << c.name;
    }
  const SinkhornResult result = sinkhorn_unit(normals(1, 600, 12), 100, 1e-6);  // below, its epsilon moves d1
  EXPECT_TRUE(result.converged);
  EXPECT_TRUE(at::allclose(result.keys.sum(0), at::full({12}, 1.0 / 12, at::kDouble), 1e-6));
  EXPECT_TRUE(at::allclose(result.keys.sum(1), at::full({600}, 1.0 / 600, at::kDouble), 1e-5));
  EXPECT_FALSE(sinkhorn_unit(normals(1, 600, 12), 1, 1e-6).converged);
}

TEST(PartUnits, SolvedBias) {
  for (const Case& c : all_cases()) {
    if (c.in.T == 0) {
      EXPECT_EQ(solved_bias_unit(c.logits, c.in.k).abs().sum().item<double>(), 0);
      continue;
    }
    const Integers units(static_cast<std::size_t>(c.in.T), 0);
    // Equal scores of biased experts would hang on the last digit of the deviation.
    if (c.name.starts_with("huge ") || c.name.starts_with("ties")) continue;
    // Relative to 1 at least: of equal logits the deviation is what rounding left.
    Vector actual = numbers(solved_bias_unit(c.logits, c.in.k)),
           expected = reference::route_solved_bias(c.in, reference::Score::softmax, units).duals.at(0);
    actual.push_back(1);
    expected.push_back(1);
    same("solved bias", actual, expected, 1e-11, c.name);
  }
  const at::Tensor x = normals(4, 2048, 16) + normals(5, 1, 16);
  const at::Tensor counts = at::bincount(top_k_indices(x + solved_bias_unit(x, 2), 2).view({-1}), {}, 16);
  EXPECT_LT(max_violation(counts).item<double>(), 0.1);
}

TEST(PartUnits, Quantile) {
  for (const Case& c : all_cases()) {
    if (c.in.T == 0 || c.in.k >= c.in.E) {
      EXPECT_EQ(quantile_unit(c.logits, at::zeros({c.in.E}, at::kDouble), c.in.k).abs().sum().item<double>(), 0);
      continue;
    }
    if (c.in.T * c.in.k % c.in.E != 0) continue;
    const at::Tensor beta = normals(6, 1, c.in.E).view({-1}) * 0.3;
    const Vector alpha = reference::quantile_alpha(c.in, everyone(c.in), numbers(beta)),
                 expected = reference::quantile_q(c.in, everyone(c.in), alpha);
    const at::Tensor q = quantile_unit(c.logits, beta, c.in.k);
    same("quantile", numbers(q), expected, 1e-14, c.name);
    for (const auto& [above, not_below] : reference::quantile_counts(c.in, everyone(c.in), alpha, numbers(q))) {
      EXPECT_LE(above, c.in.T * c.in.k / c.in.E) << c.name;
      EXPECT_GT(not_below, c.in.T * c.in.k / c.in.E) << c.name;
    }
  }
}

TEST(PartUnits, AssignmentIsBalancedAndWithinItsBoundOfTheOptimum) {
  for (const auto& [tokens, experts, k] : {std::array<std::int64_t, 3>{4, 4, 1},
                                           {5, 3, 2},
                                           {6, 4, 2},
                                           {7, 3, 1},
                                           {1, 5, 2},
                                           {3, 7, 2},
                                           {2, 6, 5},
                                           {5, 5, 5},
                                           {24, 8, 2},
                                           {40, 6, 3},
                                           {33, 7, 3},
                                           {96, 12, 2},
                                           {61, 5, 1}})
    for (const Case& c : cases_of(tokens, experts, k))
      for (const auto type : {at::kDouble, at::kFloat}) {
        const reference::Input in = make_case("", c.logits.to(type).to(at::kDouble), k).in;
        const AssignmentResult result = assignment_unit(c.logits.to(type), k);
        const reference::Experts lists = lists_of(result.expert);
        ASSERT_TRUE(reference::is_balanced_assignment(in, lists)) << c.name;
        for (std::int64_t t = 0; t < tokens; ++t)
          EXPECT_EQ(lists[static_cast<std::size_t>(t)], reference::top_k(reference::row(in, t), k,
                                                                         [&] {
                                                                           Integers sorted = lists[static_cast<std::size_t>(t)];
                                                                           std::sort(sorted.begin(), sorted.end());
                                                                           return sorted;
                                                                         }()))
              << c.name;
        const reference::Assignment best =
            tokens <= 7 ? reference::assignment_brute_force(in, everyone(in)) : reference::assignment_flow(in, everyone(in));
        const double score = reference::assignment_score(in, everyone(in), lists),
                     rounding = 1e-6 * (1 + std::abs(best.score)) * (type == at::kFloat ? 1 : 1e-4);
        Tally& tally = tallies()["assignment"];
        ++tally.comparisons;
        tally.worst = std::max(tally.worst, (best.score - score) / (std::abs(best.score) + 1));
        EXPECT_FALSE(result.completed) << c.name;
        EXPECT_GE(score, best.score - static_cast<double>(tokens * k) * result.epsilon - rounding) << c.name;
        EXPECT_LE(score, best.score + rounding) << c.name;
      }
  EXPECT_EQ(assignment_unit(at::empty({0, 4}), 2).expert.sizes(), at::IntArrayRef({0, 2}));
}

TEST(PartUnits, AssignmentOfManyKindsStaysBalanced) {
  const at::Tensor x = normals(77, 500, 16);
  at::Tensor outlier = x.clone();
  outlier[3][5] = 1e6;
  for (const at::Tensor& logits : {x.pow(9), outlier, normals(2, 3, 16).index_select(0, at::arange(500).remainder(3)),
                                   normals(3, 1, 16).expand({500, 16}), x + 1e6, x * 1e-30, at::where(x > 2, x * 1e4, x)})
    for (const std::int64_t k : {1, 3, 15})
      for (const auto type : {at::kDouble, at::kFloat}) {
        const AssignmentResult result = assignment_unit(logits.to(type), k);
        EXPECT_TRUE(reference::is_balanced_assignment(make_case("", logits, k).in, lists_of(result.expert)));
      }
}

// ---------------------------------------------------------------------------------------------------------------- capacity

TEST(PartCapacity, DropsFollowTheFormulas) {
  for (const Case& c : all_cases()) {
    if (c.in.T == 0) continue;
    const at::Tensor expert = top_k_indices(c.logits, c.in.k);
    TokenLayout layout = layout_of(1, c.in.T);
    for (const bool fixed : {true, false}) {
      const auto [slots, lists] = fixed ? std::pair{slots_of(expert), lists_of(expert)} : varying_slots(c);
      const Vector priority = numbers(capacity_priorities(layout, 2, slots)), weight = numbers(gate_weights(c.logits, slots, Score::softmax, 1.0));
      const Integers token = integers(slots.token), ids = integers(slots.expert), offsets = integers(slots.offsets);
      reference::Choice choice{lists, {}};
      reference::Slots priorities;
      for (std::size_t t = 0; t < lists.size(); ++t) {
        choice.weights.emplace_back(weight.begin() + offsets[t], weight.begin() + offsets[t + 1]);
        priorities.emplace_back(priority.begin() + offsets[t], priority.begin() + offsets[t + 1]);
      }
      for (const double factor : {0.3, 1.0, 1.25, 100.0})
        for (const auto policy : {CapacityPolicy::probability, CapacityPolicy::position, CapacityPolicy::gshard, CapacityPolicy::random}) {
          std::vector<CapacityRow> rows;
          for (std::size_t i = 0; i < ids.size(); ++i)
            rows.push_back({token[i], ids[i], static_cast<std::int64_t>(i) - offsets[static_cast<std::size_t>(token[i])],
                            policy == CapacityPolicy::random ? priority[i] : weight[i]});
          const std::int64_t most = capacity_of(c.in.T, c.in.k, c.in.E, factor);
          EXPECT_EQ(most, reference::capacity(c.in.T, c.in.k, c.in.E, factor));
          Integers actual;
          for (const bool d : dropped_over_capacity(rows, c.in.E, most, policy)) actual.push_back(d ? 1 : 0);
          same("capacity", actual,
               flat(reference::dropped(c.in, choice, reference::Scope::global_batch, factor, static_cast<reference::DropPolicy>(policy), priorities)),
               c.name);
        }
    }
  }
}

// ---------------------------------------------------------------------------------------------------- layouts and counting

TEST(PartSlots, LayoutsOfOneAndOfManyLengths) {
  TokenLayout even = layout_of(3, 4), ragged = layout_of(3, 0);
  ragged.start = {0, 4, 4, 7};
  ragged.index = {5, 6, 9};
  EXPECT_EQ(integers(even.sequence_of_token()), (Integers{0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2}));
  EXPECT_EQ(ragged.tokens(), 7);
  EXPECT_EQ(integers(ragged.sequence_of_token()), (Integers{0, 0, 0, 0, 2, 2, 2}));
  EXPECT_EQ(ragged.index_of_token(), (Integers{5, 5, 5, 5, 9, 9, 9}));
  EXPECT_EQ(ragged.position_of_token(), (Integers{0, 1, 2, 3, 0, 1, 2}));
  EXPECT_EQ(integers(ragged.spread(at::tensor({10, 20, 30}, at::kLong))), (Integers{10, 10, 10, 10, 30, 30, 30}));
  EXPECT_EQ(even.spread(normals(1, 3, 2)).sizes(), at::IntArrayRef({12, 2}));
}

TEST(PartSlots, MasksLeaveTokensWithoutSlots) {
  const at::Tensor expert = at::tensor({3, 1, 0, 2, 1, 0}, at::kLong).view({3, 2}), mask = at::tensor({1, 0, 1}, at::kLong).to(at::kBool);
  const Slots whole = slots_of(expert), part = slots_of(expert, mask), full = slots_of(expert, at::ones({3}, at::kBool));
  EXPECT_EQ(whole.fixed_k, 2);
  EXPECT_EQ(integers(whole.token), (Integers{0, 0, 1, 1, 2, 2}));
  EXPECT_EQ(integers(whole.offsets), (Integers{0, 2, 4, 6}));
  EXPECT_EQ(full.fixed_k, 2);
  EXPECT_EQ(part.fixed_k, 0);
  EXPECT_EQ(integers(part.token), (Integers{0, 0, 2, 2}));
  EXPECT_EQ(integers(part.expert), (Integers{3, 1, 1, 0}));
  EXPECT_EQ(integers(part.offsets), (Integers{0, 2, 2, 4}));
  const Slots empty = slots_of(at::empty({0, 2}, at::kLong));
  EXPECT_EQ(integers(empty.offsets), (Integers{0}));
}

TEST(PartSlots, Counts) {
  Slots slots = slots_of(at::tensor({3, 1, 0, 3, 1, 0}, at::kLong).view({3, 2}));
  slots.dropped = at::tensor({0, 1, 0, 0, 0, 1}, at::kLong).to(at::kBool);
  const at::Tensor group = at::tensor({0, 1, 1}, at::kLong), mask = at::tensor({1, 0, 1}, at::kLong).to(at::kBool);
  EXPECT_EQ(integers(count_slots(slots, group, 2, 4, {})), (Integers{0, 1, 0, 1, 2, 1, 0, 1}));
  EXPECT_EQ(integers(count_slots(slots, group, 2, 4, mask)), (Integers{0, 1, 0, 1, 1, 1, 0, 0}));
  EXPECT_EQ(integers(count_kept_slots(slots, group, 2, 4, mask)), (Integers{0, 0, 0, 1, 0, 1, 0, 0}));
  for (const Case& c : all_cases()) {
    if (c.in.T == 0) continue;
    const at::Tensor counts = count_slots(slots_of(top_k_indices(c.logits, c.in.k)), at::zeros({c.in.T}, at::kLong), 1, c.in.E, {});
    const auto oracle =
        reference::unit_counts(c.in, reference::route_top_k(c.in, reference::Score::softmax), Integers(static_cast<std::size_t>(c.in.T), 0));
    same("counts", numbers(counts), oracle.at(0), 0, c.name);
    same("max violation", numbers(max_violation(counts)), {reference::max_violation(oracle.at(0))}, 1e-15, c.name);
  }
  EXPECT_EQ(max_violation(at::zeros({2, 4}, at::kLong)).sum().item<double>(), 0);
}

// ----------------------------------------------------------------------------------------------------------------- pooling

TEST(PartPooling, RowsAndGradientsFollowTheFormulas) {
  for (const bool masked : {false, true})
    for (const auto granularity : {Granularity::token, Granularity::sequence, Granularity::batch})
      for (const auto by : {Pooling::mean, Pooling::prefix, Pooling::domain}) {
        const TokenLayout layout = layout_of(6, 5, masked);
        Case c = make_case("pool", normals(12, 30, 4), 2);
        place(c.in, layout);
        PoolConfig pool;
        pool.by = by;
        pool.prefix_tokens = 3;
        at::Tensor x = c.logits.clone();
        const at::Tensor upstream = layout.mask.defined() ? normals(13, 30, 4) * layout.mask.to(at::kDouble).view({-1, 1}) : normals(13, 30, 4);
        if (masked) x.masked_fill_(layout.mask.logical_not().view({-1, 1}), std::numeric_limits<double>::quiet_NaN());
        x.requires_grad_(true);
        const at::Tensor rows = pool_rows(x, layout, granularity, pool);
        const at::Tensor gradient = gradient_of(rows, x, upstream);
        Vector expected = c.in.logits, slope = numbers(upstream);
        if (granularity == Granularity::batch) {
          expected = reference::pooled(c.in, reference::Scope::micro_batch).logits;
          slope = reference::pooled_gradient(c.in, reference::Scope::micro_batch, slope);
        } else if (granularity == Granularity::sequence && by == Pooling::mean) {
          expected = reference::pooled(c.in, reference::Scope::sequence).logits;
          slope = reference::pooled_gradient(c.in, reference::Scope::sequence, slope);
        } else if (granularity == Granularity::sequence && by == Pooling::prefix) {
          expected = reference::pooled_prefix(c.in, 3).logits;
          slope = reference::pooled_prefix_gradient(c.in, 3, slope);
        }
        Vector actual = numbers(rows);
        for (std::int64_t t = 0; t < 30; ++t)
          for (std::int64_t e = 0; e < 4 && !c.in.counts(t); ++e)
            actual[static_cast<std::size_t>(t * 4 + e)] = expected[static_cast<std::size_t>(t * 4 + e)] = 0;
        same("pooling", actual, expected, 1e-14, "rows");
        same("pooling, gradient", numbers(gradient), slope, 1e-14, "gradient");
      }
}

TEST(PartPooling, TokensOfOneDecisionDrawAtOnePlace) {
  const TokenLayout layout = layout_of(4, 5);
  PoolConfig pool;
  pool.prefix_tokens = 2;
  EXPECT_EQ(decision_layout(layout, Granularity::token, pool).position_of_token(), layout.position_of_token());
  const TokenLayout sequence = decision_layout(layout, Granularity::sequence, pool);
  EXPECT_EQ(sequence.position_of_token(), Integers(20, 0));
  EXPECT_EQ(sequence.index_of_token(), layout.index_of_token());
  pool.by = Pooling::prefix;
  EXPECT_EQ(decision_layout(layout, Granularity::sequence, pool).position_of_token(),
            (Integers{0, 1, 2, 2, 2, 0, 1, 2, 2, 2, 0, 1, 2, 2, 2, 0, 1, 2, 2, 2}));
  const TokenLayout batch = decision_layout(layout, Granularity::batch, pool);
  EXPECT_EQ(batch.position_of_token(), Integers(20, 0));
  EXPECT_EQ(batch.index_of_token(), (Integers{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2}));
  const at::Tensor noise = gaussian_noise(batch, 0, 4, at::kDouble);
  EXPECT_TRUE(at::equal(noise[0], noise[9]));
  EXPECT_FALSE(at::equal(noise[0], noise[10]));
}

// ------------------------------------------------------------------------------------------------------------------ losses

struct LossCase {
  TokenLayout layout = layout_of(4, 5, true);
  Case c;
  Integers units;
  LossCase(std::uint64_t seed, double spread) : c(make_case("loss", normals(seed, 20, 6) * spread, 2)) {
    place(c.in, layout);
    layout.step_tokens = c.in.tokens();
    units = reference::units_of(c.in, reference::Scope::micro_batch);
  }
};

void same_loss(const std::string& part, const at::Tensor& loss, const at::Tensor& x, const reference::Loss& oracle) {
  same(part, numbers(loss), {oracle.value}, 1e-12, "value");
  same(part + ", gradient", numbers(gradient_of(loss, x)), oracle.gradient, 1e-11, "gradient");
}

TEST(PartLosses, FollowTheFormulas) {
  for (const double spread : {0.0, 1.0, 20.0})
    for (const Score score : {Score::softmax, Score::sigmoid}) {
      const LossCase l(21, spread);
      const auto oracle_score = score == Score::sigmoid ? reference::Score::sigmoid : reference::Score::softmax;
      const at::Tensor x = l.c.logits.clone().requires_grad_(true);
      const at::Tensor p = probabilities_of(x, score);
      const at::Tensor one = at::zeros({20}, at::kLong);
      for (const auto scope : {reference::Scope::global_batch, reference::Scope::micro_batch}) {
        const Integers units = reference::units_of(l.c.in, scope);
        auto shares = reference::unit_counts(l.c.in, reference::route_top_k(l.c.in, oracle_score), units);
        std::vector<Vector> load;
        for (auto& [unit, counts] : shares) load.push_back(counts = reference::fractions(counts));
        same_loss("aux loss",
                  aux_loss(p, tensor_of(flat(load), {static_cast<std::int64_t>(load.size()), 6}), at::tensor(units, at::kLong), l.layout.mask,
                           l.layout.step_tokens),
                  x, reference::aux_loss_given(l.c.in, oracle_score, units, shares, 1.0));
      }
      same_loss("z-loss", z_loss(x, l.layout.mask, l.layout.step_tokens), x, reference::z_loss(l.c.in, 1.0));
      same_loss("token entropy", token_entropy(p, l.layout.mask, l.layout.step_tokens), x, reference::token_entropy(l.c.in, oracle_score, 1.0));
    }
  const at::Tensor rows = normals(31, 5, 9).requires_grad_(true), activations = normals(32, 6, 6).abs().requires_grad_(true);
  same_loss("router orthogonality", router_orthogonality(rows), rows, reference::router_orthogonality(numbers(rows), 5, 1.0));
  for (const double margin : {0.5, 1.0})
    same_loss("expert-router coupling", expert_router_coupling(activations, margin), activations,
              reference::expert_router_coupling(numbers(activations), 6, margin, 1.0));
}

TEST(PartLosses, GradientsAreFiniteDifferences) {
  const LossCase l(22, 1.0);
  const at::Tensor load = normals(23, 2, 6).abs(), unit = at::tensor(l.units, at::kLong);
  for (const Score score : kScores) {
    const std::vector<std::pair<std::string, std::function<at::Tensor(const at::Tensor&)>>> losses{
        {"aux", [&](const at::Tensor& x) { return aux_loss(probabilities_of(x, score), load, unit, l.layout.mask, 18); }},
        {"z", [&](const at::Tensor& x) { return z_loss(x, l.layout.mask, 18); }},
        {"entropy", [&](const at::Tensor& x) { return token_entropy(probabilities_of(x, score), l.layout.mask, 18); }},
        {"orthogonality", [&](const at::Tensor& x) { return router_orthogonality(x.narrow(0, 0, 5)); }},
        {"coupling", [&](const at::Tensor& x) { return expert_router_coupling(x.narrow(0, 0, 6), 0.7); }}};
    for (const auto& [name, loss] : losses) {
      const at::Tensor x = l.c.logits.clone().requires_grad_(true);
      const auto value = [&loss = loss](const Vector& at_point) { return loss(tensor_of(at_point, {20, 6})).template item<double>(); };
      same("losses, finite differences", numbers(gradient_of(loss(x), x)), reference::finite_differences(value, l.c.in.logits), 2e-7,
           name + " " + name_of(score));
    }
  }
}

TEST(PartLosses, MaskedRowsMayHoldAnythingAndEmptyPassesGiveNothing) {
  LossCase l(24, 1.0);
  at::Tensor x = l.c.logits.clone();
  x.masked_fill_(l.layout.mask.logical_not().view({-1, 1}), std::numeric_limits<double>::quiet_NaN());
  x.requires_grad_(true);
  const at::Tensor unit = at::tensor(l.units, at::kLong), load = at::full({2, 6}, 1.0 / 6, at::kDouble);
  const at::Tensor total = aux_loss(probabilities_of(x, Score::softmax), load, unit, l.layout.mask, 18) + z_loss(x, l.layout.mask, 18) +
                           token_entropy(probabilities_of(x, Score::softmax), l.layout.mask, 18);
  EXPECT_TRUE(std::isfinite(total.item<double>()));
  const at::Tensor none = at::empty({0, 6}, at::kDouble), no_mask = at::zeros({20}, at::kBool);
  EXPECT_EQ(aux_loss(none, load, at::empty({0}, at::kLong), {}, 18).item<double>(), 0);
  EXPECT_EQ(z_loss(none, {}, 18).item<double>(), 0);
  EXPECT_EQ(token_entropy(none, {}, 18).item<double>(), 0);
  EXPECT_EQ(z_loss(l.c.logits, no_mask, 0).item<double>(), 0);
}

TEST(PartLosses, UniformLoadGivesOne) {
  const LossCase l(25, 3.0);
  for (const Score score : {Score::softmax, Score::sigmoid, Score::sqrt_softplus})
    EXPECT_NEAR(
        aux_loss(probabilities_of(l.c.logits, score), at::full({1, 6}, 1.0 / 6, at::kDouble), {}, l.layout.mask, l.layout.step_tokens).item<double>(),
        1, 1e-14);
}

// ------------------------------------------------------------------------------------------------------------------- noise

TEST(PartNoise, IsAFunctionOfThePlace) {
  const TokenLayout all = layout_of(4, 6);
  TokenLayout part = layout_of(2, 6), later = layout_of(4, 6), other = layout_of(4, 6);
  part.index = {1, 2};
  later.step = 5;
  other.seed = 12;
  const std::vector<std::function<at::Tensor(const TokenLayout&, std::int64_t, std::int64_t, at::ScalarType)>> kinds{
      gaussian_noise, gumbel_noise, [](const TokenLayout& tokens, std::int64_t layer, std::int64_t width, at::ScalarType type) {
        return jitter_factors(tokens, layer, width, 0.3, type);
      }};
  for (const auto& noise : kinds) {
    const at::Tensor whole = noise(all, 2, 7, at::kDouble);
    EXPECT_TRUE(at::equal(noise(part, 2, 7, at::kDouble), whole.narrow(0, 6, 12)));
    EXPECT_TRUE(at::equal(noise(all, 2, 5, at::kDouble), whole.narrow(1, 0, 5)));
    EXPECT_TRUE(at::equal(noise(all, 2, 7, at::kFloat), whole.to(at::kFloat)));
    for (const at::Tensor& moved : {noise(all, 3, 7, at::kDouble), noise(later, 2, 7, at::kDouble), noise(other, 2, 7, at::kDouble)})
      EXPECT_EQ((moved == whole).sum().item<std::int64_t>(), 0);
  }
  const at::Tensor wide = jitter_factors(layout_of(1, 2), 0, 9000, 0.3, at::kDouble);  // beyond the lanes of one place
  EXPECT_EQ((wide.narrow(1, 0, 4000) == wide.narrow(1, 4096, 4000)).sum().item<std::int64_t>(), 0);
}

TEST(PartNoise, HasItsDistribution) {
  const TokenLayout layout = layout_of(50, 40);
  const at::Tensor normal = gaussian_noise(layout, 0, 50, at::kDouble), gumbel = gumbel_noise(layout, 0, 50, at::kDouble);
  const at::Tensor jitter = jitter_factors(layout, 0, 50, 0.1, at::kDouble);
  // 100,000 draws each: means within 5 standard errors.
  EXPECT_NEAR(normal.mean().item<double>(), 0, 0.016);
  EXPECT_NEAR(normal.square().mean().item<double>(), 1, 0.023);
  EXPECT_NEAR(normal.pow(4).mean().item<double>(), 3, 0.16);
  EXPECT_NEAR((normal.select(1, 0) * normal.select(1, 1)).mean().item<double>(), 0, 0.12);
  EXPECT_NEAR(gumbel.mean().item<double>(), 0.5772156649, 0.021);
  EXPECT_NEAR(gumbel.var().item<double>(), 1.6449340668, 0.06);
  EXPECT_NEAR(jitter.mean().item<double>(), 1, 0.001);
  EXPECT_GE(jitter.min().item<double>(), 0.9);
  EXPECT_LE(jitter.max().item<double>(), 1.1);
  EXPECT_NEAR((jitter - 1).square().mean().item<double>(), 0.01 / 3, 5e-5);
}

TEST(PartNoise, GumbelTopKSamplesWithoutReplacement) {
  const TokenLayout layout = layout_of(200, 100);
  const at::Tensor x = at::tensor({0.0, 1.0, -0.5, 0.3}, at::kDouble);
  const at::Tensor p = at::softmax(x, -1), chosen = top_k_indices(x + gumbel_noise(layout, 0, 4, at::kDouble), 2);
  for (std::int64_t a = 0; a < 4; ++a)
    for (std::int64_t b = 0; b < 4; ++b) {
      if (a == b) continue;
      const double expected = p[a].item<double>() * p[b].item<double>() / (1 - p[a].item<double>());
      const double share = ((chosen.select(1, 0) == a) & (chosen.select(1, 1) == b)).to(at::kDouble).mean().item<double>();
      EXPECT_NEAR(share, expected, 5 * std::sqrt(expected / 20000));
    }
}

// -------------------------------------------------------------------------------------------------------------- invariants

/// Everything that is computed over tokens, one tensor after the other.
std::vector<at::Tensor> everything(at::ScalarType type) {
  const at::Tensor x = normals(41, 3000, 24).to(type).requires_grad_(true), values = x.detach();
  const TokenLayout layout = layout_of(30, 100);
  std::vector<at::Tensor> all;
  const at::Tensor expert = top_k_indices(values, 3);
  for (const Score score : kScores) {
    const at::Tensor weight = gate_weights(x, slots_of(expert), score, 1.0);
    all.push_back(weight.detach());
    all.push_back(gradient_of(weight, x, normals(1, 1, weight.numel()).view({-1}).to(type)));
  }
  all.push_back(expert);
  all.push_back(group_limited(values, GroupConfig{}, 3));
  all.push_back(grouped_top_k_indices(values, 3, 3));
  all.push_back(top_p_slots(values.softmax(-1), 0.4, 8).expert);
  all.push_back(expert_choice_unit(values, 375));
  all.push_back(column_quantile(values, 375));
  all.push_back(sinkhorn_unit(values, 100, 1e-6).keys);
  all.push_back(solved_bias_unit(values, 3));
  all.push_back(quantile_unit(values, at::zeros({24}, at::kDouble), 3));
  all.push_back(assignment_unit(values, 3).expert);
  all.push_back(gaussian_noise(layout, 0, 24, type));
  all.push_back(jitter_factors(layout, 0, 24, 0.1, type));
  all.push_back(random_experts(layout, 0, 24, 3));
  all.push_back(capacity_priorities(layout, 0, slots_of(expert)));
  return all;
}

TEST(PartInvariants, ThreadsChangeNothing) {
  const int before = at::get_num_threads();
  for (const auto type : {at::kDouble, at::kFloat}) {
    at::set_num_threads(1);
    const auto one = everything(type);
    at::set_num_threads(2);
    const auto two = everything(type);
    for (std::size_t i = 0; i < one.size(); ++i) EXPECT_TRUE(at::equal(one[i], two[i])) << i;
  }
  at::set_num_threads(before);
}

TEST(PartInvariants, PermutedTokensAndExpertsPermuteTheResult) {
  const at::Tensor x = normals(51, 120, 12);
  const at::Tensor tokens = at::argsort(normals(52, 1, 120).view({-1})), experts = at::argsort(normals(53, 1, 12).view({-1}));
  const at::Tensor y = x.index_select(0, tokens).index_select(1, experts);
  const auto moved = [&](const at::Tensor& values) { return values.index_select(0, tokens).index_select(1, experts); };
  const auto chosen = [](const at::Tensor& expert) { return at::zeros({expert.size(0), 12}, at::kBool).scatter_(1, expert, true); };
  EXPECT_TRUE(at::equal(chosen(top_k_indices(y, 3)), moved(chosen(top_k_indices(x, 3)))));
  EXPECT_TRUE(at::equal(expert_choice_unit(y, 30), moved(expert_choice_unit(x, 30))));
  EXPECT_TRUE(at::allclose(sinkhorn_unit(y, 100, 1e-10).keys, moved(sinkhorn_unit(x, 100, 1e-10).keys), 1e-10));
  EXPECT_TRUE(at::allclose(solved_bias_unit(y, 3), solved_bias_unit(x, 3).index_select(0, experts), 1e-12));
  const at::Tensor zero = at::zeros({12}, at::kDouble);
  EXPECT_TRUE(at::equal(quantile_unit(y, zero, 3), quantile_unit(x, zero, 3).index_select(0, experts)));
  // The auction's choice depends on who comes first within its bound; the summed logits do not.
  const AssignmentResult a = assignment_unit(x, 3), b = assignment_unit(y, 3);
  EXPECT_NEAR(x.gather(1, a.expert).sum().item<double>(), y.gather(1, b.expert).sum().item<double>(), 360 * std::max(a.epsilon, b.epsilon));
}

}  // namespace
}  // namespace moesweep::routing
