// The order of batches: equal domain shares, slices that do not depend on the cut, even spread of validation windows.
#include "data/sequence_order.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <string>

#include "moesweep/core/error.hpp"

namespace moesweep::data {
namespace {

TEST(SequenceOrder, EveryGlobalBatchHoldsEqualSharesAndEachSlotOnce) {
  for (const std::int64_t domains : {1, 3, 8})
    for (const std::int64_t step : {0, 1, 77}) {
      const auto slots = training_slots(5, step, domains * 8, domains, 0, domains * 8);
      std::map<std::int64_t, std::set<std::int64_t>> numbers;
      for (const auto& slot : slots) numbers[slot.domain].insert(slot.number);
      ASSERT_EQ(std::ssize(numbers), domains);
      for (const auto& [domain, of_domain] : numbers) EXPECT_EQ(std::ssize(of_domain), 8) << "domain " << domain;
    }
}

TEST(SequenceOrder, OrderChangesWithSeedAndStep) {
  const auto domains_of = [](std::int64_t seed, std::int64_t step) {
    std::vector<std::int64_t> list;
    for (const auto& slot : training_slots(seed, step, 64, 8, 0, 64)) list.push_back(slot.domain);
    return list;
  };
  EXPECT_EQ(domains_of(1, 2), domains_of(1, 2));
  EXPECT_NE(domains_of(1, 2), domains_of(1, 3));
  EXPECT_NE(domains_of(1, 2), domains_of(2, 2));
}

TEST(SequenceOrder, MicroBatchesOfFourHoldDomainsByChanceOnly) {
  // Drawing 4 of 64 without replacement, 8 of each of 8 domains: the mean number of different domains has a closed form.
  double none = 1;
  for (int i = 0; i < 4; ++i) none *= (56.0 - i) / (64.0 - i);
  const double expected = 8 * (1 - none);
  double sum = 0;
  int groups = 0;
  for (std::int64_t step = 0; step < 500; ++step) {
    const auto slots = training_slots(3, step, 64, 8, 0, 64);
    for (std::size_t start = 0; start < 64; start += 4, ++groups) {
      std::set<std::int64_t> seen;
      for (std::size_t i = 0; i < 4; ++i) seen.insert(slots[start + i].domain);
      sum += static_cast<double>(seen.size());
    }
  }
  EXPECT_NEAR(sum / groups, expected, 0.03);  // the standard error is 0.007
}

TEST(SequenceOrder, ASliceIsTheSameHoweverItIsCut) {
  const auto all = training_slots(9, 4, 48, 3, 0, 48);
  const auto part = training_slots(9, 4, 48, 3, 13, 20);
  for (std::size_t i = 0; i < part.size(); ++i) {
    EXPECT_EQ(part[i].domain, all[i + 13].domain);
    EXPECT_EQ(part[i].number, all[i + 13].number);
  }
  const auto whole = validation_slots(3, 0, 100);
  const auto later = validation_slots(3, 41, 30);
  for (std::size_t i = 0; i < later.size(); ++i) {
    EXPECT_EQ(later[i].domain, whole[i + 41].domain);
    EXPECT_EQ(later[i].number, whole[i + 41].number);
  }
}

TEST(SequenceOrder, ValidationTakesEachDomainEquallyAndEachNumberOnce) {
  std::map<std::int64_t, std::vector<std::int64_t>> numbers;
  for (const auto& slot : validation_slots(5, 0, 5 * kValidationBlockPerDomain * 3)) numbers[slot.domain].push_back(slot.number);
  for (auto& [domain, list] : numbers) {
    std::sort(list.begin(), list.end());
    ASSERT_EQ(std::ssize(list), kValidationBlockPerDomain * 3) << "domain " << domain;
    for (std::size_t i = 0; i < list.size(); ++i) EXPECT_EQ(list[i], static_cast<std::int64_t>(i));
  }
}

TEST(SequenceOrder, ValidationCountIsRoundedUpToWholeBlocks) {
  EXPECT_EQ(validation_sequences_for(16384, 64, 8), 256);
  EXPECT_EQ(validation_sequences_for(16385, 64, 8), 320);
  EXPECT_EQ(validation_sequences_for(1, 64, 3), 24);
}

TEST(SequenceOrder, ABatchThatIsNoMultipleOfTheDomainsIsRefused) {
  try {
    training_slots(0, 0, 60, 8, 0, 60);
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::config);
    EXPECT_EQ(error.message(), "train.batch_sequences = 60 is no multiple of the 8 domains");
    EXPECT_NE(error.hint().find("take 56 or 64"), std::string::npos) << error.hint();
  }
}

TEST(SequenceOrder, SpreadWindowsArePermutationsWithEvenBeginnings) {
  for (const std::int64_t windows : {1, 2, 3, 7, 64, 100, 777}) {
    std::set<std::int64_t> seen;
    for (std::int64_t k = 0; k < windows; ++k) seen.insert(spread_window(k, windows));
    EXPECT_EQ(std::ssize(seen), windows);
    EXPECT_GE(*seen.begin(), 0);
    EXPECT_LT(*seen.rbegin(), windows);
  }
  // The first 40 of 1000 windows leave no gap wider than three times the even one.
  std::set<std::int64_t> seen;
  for (std::int64_t k = 0; k < 40; ++k) seen.insert(spread_window(k, 1000));
  std::int64_t last = *seen.begin(), widest = last + 1000 - *seen.rbegin();
  for (const auto window : seen) widest = std::max(widest, window - last), last = window;
  EXPECT_LE(widest, 75);
}

TEST(SequenceOrder, TrainingStartsAreUniform) {
  std::vector<int> counts(10);
  for (std::int64_t step = 0; step < 200; ++step)
    for (std::int64_t index = 0; index < 50; ++index) {
      const auto start = training_start(1, step, index, 10);
      ASSERT_GE(start, 0);
      ASSERT_LT(start, 10);
      ++counts[static_cast<std::size_t>(start)];
    }
  double chi_squared = 0;
  for (const int count : counts) chi_squared += std::pow(count - 1000.0, 2) / 1000.0;
  EXPECT_LT(chi_squared, 27.9);  // 9 degrees of freedom, p = 0.001
}

}  // namespace
}  // namespace moesweep::data
