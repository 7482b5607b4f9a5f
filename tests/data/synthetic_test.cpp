// Synthetic domains: the entropy rate in closed form against the explicit matrix and against generated text.
#include "data/synthetic.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <numeric>
#include <set>
#include <string>

#include "moesweep/core/error.hpp"

namespace moesweep::data {
namespace {

DataConfig example() {
  DataConfig config;
  config.domains = {"a", "b", "c", "d"};
  config.vocabulary = 128;
  config.sequence_length = 32;
  config.synthetic.entropy = 1.7;
  config.synthetic.seed = 11;
  return config;
}

TEST(Synthetic, RowsAndColumnsOfTheMatrixSumToOne) {
  const MarkovChain chain(example(), 2);
  ASSERT_EQ(chain.states(), 24 + 32);
  for (std::int64_t i = 0; i < chain.states(); ++i) {
    double row = 0, column = 0;
    for (std::int64_t j = 0; j < chain.states(); ++j) {
      row += chain.transition(i, j);
      column += chain.transition(j, i);
    }
    EXPECT_NEAR(row, 1, 1e-12);
    EXPECT_NEAR(column, 1, 1e-12);
  }
}

TEST(Synthetic, EntropyRateOfTheExplicitMatrixIsTheOneAskedFor) {
  for (const double entropy : {0.05, 0.7, 1.7, 3.9}) {
    auto config = example();
    config.synthetic.entropy = entropy;
    const MarkovChain chain(config, 1);
    const auto n = static_cast<std::size_t>(chain.states());
    // Stationary distribution by power iteration, from a corner; then the entropies of the rows, weighted by it.
    std::vector<double> stationary(n, 0.0), moved(n);
    stationary[0] = 1;
    for (int iteration = 0; iteration < 20000; ++iteration) {
      std::fill(moved.begin(), moved.end(), 0.0);
      for (std::size_t i = 0; i < n; ++i)
        for (std::size_t j = 0; j < n; ++j) moved[j] += stationary[i] * chain.transition(static_cast<std::int64_t>(i), static_cast<std::int64_t>(j));
      double change = 0;
      for (std::size_t j = 0; j < n; ++j) change += std::abs(moved[j] - stationary[j]);
      stationary.swap(moved);
      if (change < 1e-14) break;
    }
    double rate = 0;
    for (std::size_t i = 0; i < n; ++i)
      for (std::size_t j = 0; j < n; ++j) {
        const double p = chain.transition(static_cast<std::int64_t>(i), static_cast<std::int64_t>(j));
        if (p > 0) rate -= stationary[i] * p * std::log(p);
      }
    EXPECT_NEAR(rate, entropy, 1e-9);
    EXPECT_NEAR(synthetic_entropy_rate(config, 1), entropy, 1e-12);
  }
}

TEST(Synthetic, TextHasTheEntropyOfItsChain) {
  const auto config = example();
  const auto source = open_source(config);
  std::vector<std::map<std::int32_t, std::int64_t>> state_of(4);
  std::vector<MarkovChain> chains;
  for (std::int64_t d = 0; d < 4; ++d) {
    chains.emplace_back(config, d);
    for (std::int64_t s = 0; s < chains.back().states(); ++s) state_of[static_cast<std::size_t>(d)][chains.back().token(s)] = s;
  }
  double nats = 0, squares = 0;
  std::int64_t tokens = 0;
  for (std::int64_t step = 0; step < 100; ++step) {
    const auto batch = source->training(3, step, 64, 0, 64);
    for (std::int64_t s = 0; s < batch.sequences(); ++s) {
      const auto d = static_cast<std::size_t>(batch.domains[static_cast<std::size_t>(s)]);
      const std::int32_t* row = batch.tokens.data() + s * (batch.length + 1);
      for (std::int64_t t = 0; t < batch.length; ++t, ++tokens) {
        const double loss = -std::log(chains[d].transition(state_of[d].at(row[t]), state_of[d].at(row[t + 1])));
        nats += loss;
        squares += loss * loss;
      }
    }
  }
  const double mean = nats / static_cast<double>(tokens);
  const double error = std::sqrt((squares / static_cast<double>(tokens) - mean * mean) / static_cast<double>(tokens));
  EXPECT_NEAR(mean, config.synthetic.entropy, 4 * error);
  EXPECT_LT(error, 0.01);
}

TEST(Synthetic, DomainsUseTheirOwnPartAndTheSharedPartOfTheVocabulary) {
  const auto config = example();
  const auto source = open_source(config);
  const auto batch = source->training(0, 0, 400, 0, 400);
  std::vector<std::set<std::int32_t>> used(4);
  for (std::size_t i = 0; i < batch.tokens.size(); ++i) used[static_cast<std::size_t>(batch.domains[i / 33])].insert(batch.tokens[i]);
  for (std::int32_t d = 0; d < 4; ++d) {
    EXPECT_EQ(used[static_cast<std::size_t>(d)].size(), 56U);
    for (const auto token : used[static_cast<std::size_t>(d)])
      EXPECT_TRUE(token < 32 || (token >= 32 + 24 * d && token < 32 + 24 * (d + 1))) << token;
  }
}

TEST(Synthetic, ASliceIsTheSameHoweverItIsCut) {
  const auto source = open_source(example());
  const auto all = source->training(7, 12, 16, 0, 16);
  const auto part = source->training(7, 12, 16, 5, 6);
  EXPECT_EQ(part.tokens, std::vector<std::int32_t>(all.tokens.begin() + 5 * 33, all.tokens.begin() + 11 * 33));
  EXPECT_EQ(part.domains, std::vector<std::int32_t>(all.domains.begin() + 5, all.domains.begin() + 11));
  EXPECT_EQ(part.index, (std::vector<std::int64_t>{5, 6, 7, 8, 9, 10}));
  EXPECT_EQ(source->training(7, 12, 16, 9, 0).sequences(), 0);
  EXPECT_NE(all.tokens, source->training(8, 12, 16, 0, 16).tokens);
  EXPECT_NE(all.tokens, source->training(7, 13, 16, 0, 16).tokens);
  const auto validation = source->validation(0, 40);
  const auto later = source->validation(30, 10);
  EXPECT_EQ(later.tokens, std::vector<std::int32_t>(validation.tokens.begin() + 30 * 33, validation.tokens.end()));
}

TEST(Synthetic, DigestNamesTheContentOnly) {
  auto config = example();
  const auto digest = open_source(config)->digest();
  EXPECT_EQ(digest.size(), 64U);
  config.sequence_length = 64;
  EXPECT_EQ(open_source(config)->digest(), digest);
  config.synthetic.entropy = 1.8;
  EXPECT_NE(open_source(config)->digest(), digest);
}

TEST(Synthetic, RefusesWhatMakesNoSense) {
  auto config = example();
  config.synthetic.entropy = 9;
  try {
    open_source(config);
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::config);
    EXPECT_NE(error.message().find("above the most"), std::string::npos) << error.message();
  }
  config.kind = DataKind::store;
  EXPECT_THROW(synthetic_entropy_rate(config, 0), Error);
}

}  // namespace
}  // namespace moesweep::data
