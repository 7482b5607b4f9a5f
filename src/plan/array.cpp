// See include/moesweep/plan/array.hpp.
#include "moesweep/plan/array.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <functional>
#include <set>

#include "moesweep/core/error.hpp"
#include "moesweep/core/text.hpp"
#include "moesweep/plan/cost.hpp"
#include "moesweep/plan/shard.hpp"
#include "moesweep/plan/simulate.hpp"

namespace moesweep::plan {

namespace {

constexpr double kMinute = 60.0, kHour = 3600.0, kDay = 86400.0;

/// The jobs of each shard, in their order.
std::vector<std::vector<Job>> dealt(std::span<const Job> jobs, std::int64_t shards) {
  std::vector<std::vector<Job>> of(static_cast<std::size_t>(shards));
  const auto shard = shards_of(jobs, shards);
  for (std::size_t i = 0; i < jobs.size(); ++i) {
    of[static_cast<std::size_t>(shard[i])].push_back(jobs[i]);
    of[static_cast<std::size_t>(shard[i])].back().preferred = true;
  }
  return of;
}

}  // namespace

ArrayPlan plan_array(std::span<const Job> jobs, const ArrayOptions& options) {
  if (options.max_array_size < 2)
    throw Error(ErrorKind::usage, fmt::format("MaxArraySize {} allows no job array", options.max_array_size), "",
                "give --max-array-size of at least 2");
  if (options.shards < 0 || options.ranks < 0 || options.max_jobs < 0 || !(options.limit_seconds > 0) || !(options.margin >= 1) ||
      !(options.startup_seconds >= 0) || !(options.target_seconds > 0))
    throw Error(ErrorKind::usage, "an option of the array is out of its range", "",
                "give counts of at least 0, times above 0 and a margin of at least 1");
  ArrayPlan plan;
  std::set<std::int64_t, std::greater<>> gangs;
  for (const Job& job : jobs) gangs.insert(job.ranks);
  plan.gangs.assign(gangs.begin(), gangs.end());
  plan.ranks = options.ranks > 0 ? options.ranks : gangs.empty() ? 1 : *gangs.begin();

  std::vector<Job> fitting;
  double longest = 0.0;
  for (const Job& job : jobs) {
    if (job.ranks > plan.ranks) continue;
    fitting.push_back(job);
    longest = std::max(longest, job.seconds);
    plan.rank_seconds += job.seconds * static_cast<double>(job.ranks);
  }
  plan.jobs = fitting.size();
  plan.skipped = jobs.size() - fitting.size();

  if (options.shards > 0) {
    plan.shards = options.shards;
    plan.reason = "as given";
  } else {
    // Shards that take about the target each, or what fits the limit; never shorter than the longest trial makes them anyway.
    const double room = (options.limit_seconds - options.startup_seconds) / options.margin;
    const double time = std::max(room > 0 ? std::min(options.target_seconds, room) : options.target_seconds, longest);
    const double wanted = std::ceil(plan.rank_seconds / (time * static_cast<double>(plan.ranks)));
    plan.shards = std::clamp<std::int64_t>(static_cast<std::int64_t>(wanted), 1, std::max<std::int64_t>(static_cast<std::int64_t>(plan.jobs), 1));
    plan.reason = fmt::format("chosen: {:.1f} rank-hours in shards of {} rank{} and about {}", plan.rank_seconds / kHour, plan.ranks,
                              plan.ranks == 1 ? "" : "s", seconds_in_words(time));
  }
  if (options.max_jobs > 0 && plan.shards > options.max_jobs) {
    plan.reason += fmt::format("; {} would be more than the {} jobs that a user may have", plan.shards, options.max_jobs);
    plan.shards = options.max_jobs;
  }

  const std::int64_t most = options.max_array_size - 1;
  for (std::int64_t first = 0; first < plan.shards; first += most) plan.chunks.push_back({first, std::min(first + most, plan.shards) - 1});
  double slowest = 0.0;
  for (const auto& shard : dealt(fitting, plan.shards)) {
    plan.shard_seconds.push_back(simulate(shard, plan.ranks).makespan_seconds);
    slowest = std::max(slowest, plan.shard_seconds.back());
  }
  const double needed = std::ceil((slowest * options.margin + options.startup_seconds) / kMinute) * kMinute;
  plan.requeues = needed > options.limit_seconds;
  plan.walltime_seconds = plan.requeues ? std::max(std::floor(options.limit_seconds / kMinute), 1.0) * kMinute : needed;
  return plan;
}

std::string ArrayChunk::indices() const { return fmt::format("0-{}", last - first); }

std::string ArrayPlan::chunks_in_words() const {
  std::string text;
  for (const ArrayChunk& chunk : chunks) text += fmt::format("{}{}-{}", text.empty() ? "" : " + ", chunk.first, chunk.last);
  return text;
}

std::string ArrayPlan::walltime() const { return slurm_time(walltime_seconds); }

Json ArrayPlan::json() const {
  Json list = Json::array();
  for (const ArrayChunk& chunk : chunks) list.push_back({{"first", chunk.first}, {"last", chunk.last}, {"indices", chunk.indices()}});
  return {{"shards", shards},
          {"ranks", ranks},
          {"chunks", std::move(list)},
          {"walltime", walltime()},
          {"walltime_seconds", walltime_seconds},
          {"requeues", requeues},
          {"longest_shard_seconds", shard_seconds.empty() ? 0.0 : *std::ranges::max_element(shard_seconds)},
          {"rank_seconds", rank_seconds},
          {"jobs", jobs},
          {"skipped", skipped},
          {"gangs", gangs},
          {"reason", reason}};
}

std::string slurm_time(double seconds) {
  const auto whole = static_cast<std::int64_t>(std::ceil(seconds));
  const std::int64_t days = whole / 86400, hours = whole / 3600 % 24, minutes = whole / 60 % 60;
  const std::string clock = fmt::format("{:02}:{:02}:{:02}", hours, minutes, whole % 60);
  return days > 0 ? fmt::format("{}-{}", days, clock) : clock;
}

double parse_time(const std::string& text) {
  const auto refuse = [&]() -> double {
    throw Error(
        ErrorKind::usage, fmt::format("'{}' is no time", text), "",
        fmt::format("give minutes, HH:MM:SS, D-HH:MM:SS as Slurm takes them, or 90s, 30min, 4h, 2d; above 0 and at most {:.0f} s, or UNLIMITED",
                    kMostSeconds));
  };
  const auto number = [&](std::string_view part) {
    double value = -1;
    const auto read = std::from_chars(part.data(), part.data() + part.size(), value, std::chars_format::fixed);
    return read.ec == std::errc() && read.ptr == part.data() + part.size() && value >= 0 && std::isfinite(value) ? value : refuse();
  };
  const auto whole = [&](std::string_view part) {
    constexpr std::size_t kMostDigits = 9;
    if (part.empty() || part.size() > kMostDigits || !std::ranges::all_of(part, [](char c) { return c >= '0' && c <= '9'; })) return refuse();
    return number(part);
  };
  if (text == "UNLIMITED" || text == "infinite" || text == "INFINITE") return std::numeric_limits<double>::infinity();
  double seconds = 0.0;
  if (const auto unit = text.find_first_not_of("0123456789.");
      unit != std::string::npos && unit > 0 && text.find_first_of(":-") == std::string::npos) {
    const std::string name = text.substr(unit);
    const double factor = name == "s" ? 1 : name == "min" || name == "m" ? kMinute : name == "h" ? kHour : name == "d" ? kDay : refuse();
    seconds = number(std::string_view(text).substr(0, unit)) * factor;
  } else {
    std::string_view rest = text;
    const auto dash = rest.find('-');
    const bool days = dash != std::string_view::npos;
    if (days) {
      seconds = whole(rest.substr(0, dash)) * kDay;
      rest.remove_prefix(dash + 1);
    }
    std::vector<double> parts;
    for (;;) {
      const auto colon = rest.find(':');
      parts.push_back(whole(rest.substr(0, colon)));
      if (colon == std::string_view::npos) break;
      rest.remove_prefix(colon + 1);
    }
    if (parts.size() > 3) return refuse();
    // With days: hours first. Without: minutes, minutes and seconds, or hours, minutes and seconds.
    double factor = days || parts.size() == 3 ? kHour : kMinute;
    for (const double part : parts) {
      seconds += part * factor;
      factor /= kMinute;
    }
  }
  return seconds > 0 && seconds <= kMostSeconds ? seconds : refuse();
}

std::optional<Gang> suggest_gang(const train::TrialConfig& config, double memory_limit_bytes, std::int64_t max_expert_ranks) {
  // Ranks take whole micro-batches; further ones only hold experts.
  const std::int64_t micro_batches = config.train.batch_sequences / config.train.micro_batch_sequences;
  std::vector<Gang> gangs;
  for (std::int64_t expert = 1; expert <= std::min(max_expert_ranks, config.model.experts); ++expert) {
    if (config.model.experts % expert != 0) continue;
    for (std::int64_t data = 1; data == 1 || expert * data <= micro_batches; data *= 2) gangs.push_back({expert, data, 0.0});
  }
  std::ranges::sort(gangs, {}, [](const Gang& gang) { return std::pair(gang.expert * gang.data, gang.data); });
  for (Gang& gang : gangs) {
    train::TrialConfig tried = config;
    tried.parallel.expert = gang.expert;
    tried.parallel.data = gang.data;
    if (!train::refusal(tried).empty()) continue;
    gang.memory_bytes = cost_of(tried).memory_bytes;
    if (gang.memory_bytes <= memory_limit_bytes) return gang;
  }
  return std::nullopt;
}

}  // namespace moesweep::plan
