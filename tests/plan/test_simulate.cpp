// The simulator against a plain event simulation that knows no scheduler, its bookkeeping under failures, crashes and deadlines, and the makespans
// of a stated mix of trials on 128, 1,024 and 10,000 ranks.
#include "moesweep/plan/simulate.hpp"

#include <fmt/core.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <random>

#include "moesweep/core/error.hpp"
#include "moesweep/core/random.hpp"

namespace moesweep::plan {
namespace {

/// The mix: gangs of 1, 2, 4 and 8 ranks for 40, 30, 20 and 10 % of the trials; log-normal seconds with a median of half an hour and this sigma.
/// With 0.5, nine of ten trials take between 13 and 69 minutes; with 0.8, between 8 minutes and 1.9 hours.
std::vector<Job> mix(std::size_t count, double sigma, std::uint64_t seed) {
  std::vector<Job> jobs;
  for (std::size_t i = 0; i < count; ++i) {
    const auto words = random_words(seed, Purpose::test, {0, 0, 0, static_cast<std::uint32_t>(i)});
    const double share = to_uniform(words[0], words[1]);
    const double normal = to_normals(random_words(seed, Purpose::test, {1, 0, 0, static_cast<std::uint32_t>(i)}))[0];
    jobs.push_back({std::to_string(i), share < 0.4 ? 1 : share < 0.7 ? 2 : share < 0.9 ? 4 : 8, 1800 * std::exp(sigma * normal), true});
  }
  return jobs;
}

SimulationOptions on_ranks(std::int64_t ranks) {
  SimulationOptions options;
  options.ranks = ranks;
  return options;
}

std::size_t ended(const Simulation& result) { return result.jobs_run + result.jobs_crashed + result.jobs_skipped; }

// ------------------------------------------------------------------------------------------------------------- small cases

TEST(Simulation, OneRankTakesTheSum) {
  const std::vector<Job> jobs{{"a", 1, 3}, {"b", 1, 4}};
  const auto result = simulate(jobs, 1);
  EXPECT_DOUBLE_EQ(result.makespan_seconds, 7);
  EXPECT_DOUBLE_EQ(result.lower_bound_seconds, 7);
  EXPECT_DOUBLE_EQ(result.idle_share, 0);
}

TEST(Simulation, GangsOfTwoSizesShareAWorld) {
  // Ranks 0-1 run the pair for 4 s; rank 2 runs both singles meanwhile.
  const std::vector<Job> jobs{{"pair", 2, 4}, {"x", 1, 2}, {"y", 1, 2}};
  const auto result = simulate(jobs, 3);
  EXPECT_DOUBLE_EQ(result.makespan_seconds, 4);
  EXPECT_DOUBLE_EQ(result.idle_share, 0);
}

TEST(Simulation, NothingToDoTakesNoTime) {
  const auto result = simulate({}, 4);
  EXPECT_EQ(result.makespan_seconds, 0);
  EXPECT_EQ(result.claims, 0U);
  const std::vector<Job> jobs{{"a", 8, 3}};
  EXPECT_EQ(simulate(jobs, 4).jobs_skipped, 1U);
}

TEST(Simulation, TrialLongerThanTheWalltimeGoesOnInFurtherAllocations) {
  const std::vector<Job> jobs{{"a", 1, 250}};
  SimulationOptions options = on_ranks(1);
  options.walltime_seconds = 100;
  options.restart_seconds = 10;
  const auto result = simulate(jobs, options);
  EXPECT_EQ(result.allocations, 3U);
  EXPECT_DOUBLE_EQ(result.makespan_seconds, 100 + 10 + 100 + 10 + 50);
  EXPECT_DOUBLE_EQ(result.lost_share, 0) << "a deadline checkpoints";
}

TEST(Simulation, NothingIsBegunThatTheDeadlineWouldCut) {
  // After 70 s of the first allocation, 30 are left: the second waits for the next one.
  const std::vector<Job> jobs{{"a", 1, 70}, {"b", 1, 60}};
  SimulationOptions options = on_ranks(1);
  options.walltime_seconds = 100;
  options.restart_seconds = 10;
  const auto result = simulate(jobs, options);
  EXPECT_EQ(result.allocations, 2U);
  EXPECT_DOUBLE_EQ(result.makespan_seconds, 70 + 10 + 60);
}

TEST(Simulation, CrashAloneCountsAndTheBudgetEndsIt) {
  const std::vector<Job> jobs{{"a", 1, 100}};
  SimulationOptions options = on_ranks(1);
  options.crash_probability = 1;
  const auto result = simulate(jobs, options);
  EXPECT_EQ(result.crashes, 2U);
  EXPECT_EQ(result.jobs_crashed, 1U);
  EXPECT_EQ(result.jobs_run, 0U);
}

TEST(Simulation, CrashAmongOthersMakesSuspectsOfAllAndCostsNoneOfThemItsBudget) {
  const std::vector<Job> jobs{{"a", 1, 100}, {"b", 1, 100}, {"c", 1, 100}};
  SimulationOptions options = on_ranks(3);
  options.crash_probability = 1;
  const auto result = simulate(jobs, options);
  EXPECT_EQ(result.jobs_crashed, 3U);
  EXPECT_EQ(result.crashes, 1U + 3 * 2) << "one together, then each twice alone";
}

TEST(Simulation, OptionsOutOfRangeAndSweepsThatGetNowhereAreErrors) {
  const std::vector<Job> jobs{{"a", 1, 1e6}};
  SimulationOptions options = on_ranks(1);
  options.worlds = 2;
  EXPECT_THROW(simulate(jobs, options), Error);
  options = on_ranks(1);
  options.crash_probability = 1.5;
  EXPECT_THROW(simulate(jobs, options), Error);
  options = on_ranks(1);
  options.failures_per_rank_hour = 3600;  // one a second, checkpoints every ten minutes
  EXPECT_THROW(simulate(jobs, options), Error);
}

// ------------------------------------------------------------------------------------------------- an oracle for tiny cases

/// How many blocks of each size the first split makes: the smallest time is searched in steps for which they suffice (scheduler.hpp).
std::map<std::int64_t, std::int64_t, std::greater<>> shape_of(const std::map<std::int64_t, std::vector<double>, std::greater<>>& open,
                                                              std::int64_t ranks) {
  double work = 0, longest = 0;
  for (const auto& [size, seconds] : open)
    for (const double s : seconds) {
      work += s * static_cast<double>(size);
      longest = std::max(longest, s);
    }
  for (double time = std::max(work / static_cast<double>(ranks), longest);; time *= 1 + 1e-5) {
    std::map<std::int64_t, std::int64_t, std::greater<>> blocks;
    double spare = 0;
    std::int64_t free = ranks;
    for (const auto& [size, seconds] : open) {
      double needed = -spare;
      std::int64_t halves = 0;
      for (const double s : seconds) {
        needed += s * static_cast<double>(size);
        halves += s > time / 2 ? 1 : 0;
      }
      std::int64_t count = halves;
      while (static_cast<double>(count * size) * time < needed) ++count;
      spare = static_cast<double>(count * size) * time - needed;
      free -= count * size;
      blocks[size] = count;
    }
    if (free < 0) continue;
    for (const auto& [size, seconds] : open)
      while (blocks[size] < static_cast<std::int64_t>(seconds.size()) && free >= size) {
        ++blocks[size];
        free -= size;
      }
    return blocks;
  }
}

/// The makespan by a plain event simulation: a list of blocks, each with the time at which it is free; no Scheduler.
double plain_makespan(const std::vector<Job>& jobs, std::int64_t ranks) {
  std::map<std::int64_t, std::vector<double>, std::greater<>> open;  // by size, largest first in each
  for (const Job& job : jobs)
    if (job.ranks <= ranks) open[job.ranks].push_back(job.seconds);
  for (auto& [size, seconds] : open) std::ranges::sort(seconds, std::greater<>());
  double start = 0, end = 0;
  if (const auto whole = open.find(ranks); whole != open.end()) {
    for (const double s : whole->second) start += s;
    open.erase(whole);
  }
  struct Part {
    std::int64_t ranks;
    double free;
  };
  const auto cut = [](std::vector<Part>& into, const Part& part, std::int64_t size) {
    std::int64_t left = part.ranks;
    for (; left >= size; left -= size) into.push_back({size, part.free});
    if (left > 0) into.push_back({left, part.free});
  };
  std::vector<Part> parts{{ranks, start}};
  end = start;
  const auto take = [&](Part& part) {
    std::vector<double>& seconds = open[part.ranks];
    part.free += seconds.front();
    end = std::max(end, part.free);
    seconds.erase(seconds.begin());
  };
  std::vector<Part> busy;
  for (const auto& [size, count] : shape_of(open, ranks)) {
    std::vector<Part> pieces, rest;
    for (const Part& part : parts) cut(pieces, part, size);
    std::int64_t given = 0;
    for (Part& part : pieces) {
      if (part.ranks == size && given < count) {
        ++given;
        take(part);
        busy.push_back(part);
      } else {
        rest.push_back(part);
      }
    }
    parts = rest;
  }
  busy.insert(busy.end(), parts.begin(), parts.end());  // none was meant for these
  while (!busy.empty()) {
    const auto earliest = std::ranges::min_element(busy, {}, &Part::free);
    Part part = *earliest;
    busy.erase(earliest);
    if (const auto own = open.find(part.ranks); own != open.end() && !own->second.empty()) {
      take(part);
      busy.push_back(part);
      continue;
    }
    for (const auto& [size, seconds] : open)
      if (size < part.ranks && !seconds.empty()) {
        cut(busy, part, size);
        break;
      }
  }
  return end;
}

TEST(Simulation, AgreesWithAPlainEventSimulation) {
  std::mt19937 random(3);
  std::uniform_real_distribution<double> seconds(1, 10);
  for (int round = 0; round < 1000; ++round) {
    std::vector<Job> jobs;
    const int count = 1 + static_cast<int>(random() % 14), sizes = 1 + static_cast<int>(random() % 4);
    for (int i = 0; i < count; ++i) {
      const auto kind = static_cast<std::int64_t>(random() % static_cast<unsigned>(sizes));
      jobs.push_back({std::to_string(i), std::int64_t{1} << kind, seconds(random), true});
    }
    const auto ranks = 1 + static_cast<std::int64_t>(random() % 12);
    EXPECT_NEAR(simulate(jobs, ranks).makespan_seconds, plain_makespan(jobs, ranks), 1e-9) << "round " << round;
  }
}

/// The best of all orders and all starting moments, ranks taken as interchangeable: no schedule is shorter.
double optimum(const std::vector<Job>& jobs, std::int64_t ranks) {
  std::vector<std::size_t> order(jobs.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  double best = std::numeric_limits<double>::infinity();
  do {
    std::vector<double> free(static_cast<std::size_t>(ranks), 0.0);
    double end = 0;
    for (const std::size_t i : order) {
      std::ranges::sort(free);
      const auto needed = static_cast<std::size_t>(jobs[i].ranks);
      const double until = free[needed - 1] + jobs[i].seconds;
      std::fill_n(free.begin(), needed, until);
      end = std::max(end, until);
    }
    best = std::min(best, end);
  } while (std::ranges::next_permutation(order).found);
  return best;
}

TEST(Simulation, IsNeverBetterThanTheBestOfAllSchedulesAndNeverTwiceAsLong) {
  std::mt19937 random(4);
  std::uniform_real_distribution<double> seconds(1, 10);
  double sum = 0;
  constexpr int kRounds = 120;
  for (int round = 0; round < kRounds; ++round) {
    std::vector<Job> jobs;
    for (int i = 0; i < 6; ++i) jobs.push_back({std::to_string(i), std::int64_t{1} << (random() % 3), seconds(random), true});
    const double best = optimum(jobs, 4), taken = simulate(jobs, 4).makespan_seconds;
    EXPECT_GE(taken, best - 1e-9);
    EXPECT_LE(taken, 2 * best);
    sum += taken / best;
  }
  fmt::print("six trials on four ranks: {:.3f} times the optimum on average\n", sum / kRounds);
}

// --------------------------------------------------------------------------------------------------------- the mix

void show(const std::string& what, const Simulation& result) {
  fmt::print(
      "{:44} makespan {:8.0f} s = {:.3f} x bound, idle {:4.1f} %, {} run, {} crashed, claims a trial {:.3f}, collisions {}, peak {:.0f}/s, mean "
      "{:.2f}/s\n",
      what, result.makespan_seconds, result.makespan_seconds / result.lower_bound_seconds, 100 * result.idle_share, result.jobs_run,
      result.jobs_crashed, result.claims_per_trial(), result.collisions, result.peak_claims_per_second, result.average_claims_per_second);
}

TEST(Mix, ThousandTrialsWithinATenthOfTheLowerBound) {
  for (const double sigma : {0.5, 0.8})
    for (const std::int64_t ranks : {128, 1024, 10000})
      for (std::uint64_t seed = 1; seed <= 10; ++seed) {
        const auto jobs = mix(1000, sigma, seed);
        SimulationOptions options = on_ranks(ranks);
        options.claim_seconds = 0.05;
        const auto result = simulate(jobs, options);
        EXPECT_EQ(result.jobs_run, 1000U);
        EXPECT_LE(result.makespan_seconds, 1.1 * result.lower_bound_seconds) << ranks << " ranks, seed " << seed;
        EXPECT_LE(result.claims_per_trial(), 1.05) << "hardly a trial is tried twice";
        if (seed == 1) show(fmt::format("{} ranks, sigma {}:", ranks, sigma), result);
      }
}

TEST(Mix, NoiseInTheTimesKeepsTheMakespanNearTheBound) {
  for (const std::int64_t ranks : {128, 1024, 10000})
    for (std::uint64_t seed = 1; seed <= 10; ++seed) {
      SimulationOptions options = on_ranks(ranks);
      options.noise = 0.3;
      options.claim_seconds = 0.05;
      options.seed = seed;
      const auto result = simulate(mix(1000, 0.5, seed), options);
      EXPECT_LE(result.makespan_seconds, 1.25 * result.lower_bound_seconds) << ranks << " ranks, seed " << seed;
      if (seed == 1) show(fmt::format("{} ranks, noise 0.3:", ranks), result);
    }
}

TEST(Mix, EveryTrialEndsOnceUnderFailuresCrashesAndDeadlines) {
  const auto jobs = mix(1000, 0.5, 1);
  for (const std::int64_t ranks : {128, 1024, 10000})
    for (const std::int64_t worlds : {1, 16}) {
      SimulationOptions options = on_ranks(ranks);
      options.worlds = worlds;
      options.noise = 0.3;
      options.claim_seconds = 0.05;
      options.failures_per_rank_hour = 1e-4;
      const auto failing = simulate(jobs, options);
      show(fmt::format("{} ranks in {} worlds, failures:", ranks, worlds), failing);
      EXPECT_EQ(ended(failing), jobs.size());
      EXPECT_EQ(failing.jobs_run, jobs.size());
      EXPECT_GE(failing.makespan_seconds, failing.lower_bound_seconds);
      options.crash_probability = 0.005;
      options.named_share = 0.9;
      options.walltime_seconds = 4 * 3600;
      const auto all = simulate(jobs, options);
      show(fmt::format("{} ranks in {} worlds, all of it:", ranks, worlds), all);
      EXPECT_EQ(ended(all), jobs.size());
      EXPECT_EQ(all.jobs_skipped, 0U);
      EXPECT_GT(all.crashes, 0U);
      const auto again = simulate(jobs, options);
      EXPECT_EQ(all.json(), again.json()) << "the same for the same seed";
      options.seed = 2;
      EXPECT_NE(simulate(jobs, options).json(), all.json());
    }
}

TEST(Mix, HundredThousandTrialsOnTenThousandRanks) {
  const auto jobs = mix(100000, 0.8, 1);
  SimulationOptions options = on_ranks(10000);
  options.noise = 0.3;
  options.claim_seconds = 0.05;
  const auto result = simulate(jobs, options);
  show("100,000 trials on 10,000 ranks:", result);
  EXPECT_EQ(result.jobs_run, jobs.size());
  EXPECT_LE(result.makespan_seconds, 1.1 * result.lower_bound_seconds);
  EXPECT_LE(result.claims_per_trial(), 1.3) << "blocks that ask at the same moment part";
}

TEST(Mix, RandomOnesConserveTheirJobs) {
  std::mt19937 random(5);
  for (int round = 0; round < 300; ++round) {
    std::vector<Job> jobs;
    const int count = static_cast<int>(random() % 60);
    for (int i = 0; i < count; ++i)
      jobs.push_back({std::to_string(i), 1 + static_cast<std::int64_t>(random() % 9), 1.0 + static_cast<double>(random() % 1000), true});
    SimulationOptions options = on_ranks(1 + static_cast<std::int64_t>(random() % 16));
    options.worlds = 1 + static_cast<std::int64_t>(random() % static_cast<unsigned>(options.ranks));
    options.noise = round % 2 == 0 ? 0.5 : 0;
    options.failures_per_rank_hour = round % 3 == 0 ? 0.1 : 0;
    options.crash_probability = round % 5 == 0 ? 0.1 : 0;
    options.walltime_seconds = round % 7 == 0 ? 500 : std::numeric_limits<double>::infinity();
    options.claim_seconds = round % 2 == 0 ? 1 : 0;
    options.checkpoint_seconds = 100;
    options.seed = static_cast<std::uint64_t>(round);
    const auto result = simulate(jobs, options);
    EXPECT_EQ(ended(result), jobs.size()) << "round " << round;
    EXPECT_GE(result.makespan_seconds, result.jobs_crashed > 0 ? 0 : result.lower_bound_seconds - 1e-9) << "round " << round;
    EXPECT_EQ(result.jobs_skipped, too_large(jobs, (options.ranks + options.worlds - 1) / options.worlds).size());
  }
  // Singles only: list scheduling is within (2 - 1/ranks) of the optimum (Graham 1966).
  std::vector<Job> jobs;
  for (int i = 0; i < 100; ++i) jobs.push_back({std::to_string(i), 1, 1.0 + static_cast<double>(random() % 100)});
  const auto result = simulate(jobs, 7);
  EXPECT_LE(result.makespan_seconds, (2.0 - 1.0 / 7) * result.lower_bound_seconds);
}

}  // namespace
}  // namespace moesweep::plan
