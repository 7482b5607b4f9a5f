// What spreading a trial over ranks costs: see bench.hpp.
#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <numeric>

#include "moesweep/comm/transport.hpp"
#include "moesweep/core/error.hpp"
#include "moesweep/data/source.hpp"
#include "moesweep/model/costs.hpp"
#include "moesweep/store/record.hpp"
#include "moesweep/train/bench.hpp"
#include "trainer.hpp"

namespace moesweep::train {

namespace {

using Clock = std::chrono::steady_clock;

double median(std::vector<double> values) {
  std::ranges::sort(values);
  const std::size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

/// Seconds of one exchange in which every rank sends every other one so many bytes: the slowest rank's, least of many.
double exchange_seconds(comm::Transport& ranks, std::int64_t bytes) {
  constexpr int kWarm = 3, kTimes = 20;
  const auto others = static_cast<std::size_t>(ranks.size());
  std::vector<std::byte> sent(others * static_cast<std::size_t>(bytes)), received(sent.size());
  std::vector<comm::Part> send, receive;
  for (std::size_t r = 0; r < others; ++r) {
    const std::size_t size = static_cast<int>(r) == ranks.rank() ? 0 : static_cast<std::size_t>(bytes);
    send.push_back({sent.data() + r * size, size});
    receive.push_back({received.data() + r * size, size});
  }
  double least = std::numeric_limits<double>::infinity();
  for (int i = 0; i < kWarm + kTimes; ++i) {
    ranks.barrier("bench: before an exchange");
    const auto start = Clock::now();
    ranks.start_exchange(send, receive, "bench: exchange").wait();
    const double mine = std::chrono::duration<double>(Clock::now() - start).count();
    double slowest = mine;
    for (const auto& other : ranks.all_gather(std::as_bytes(std::span(&mine, 1)), "bench: seconds")) {
      double theirs = 0;
      std::copy(other.begin(), other.end(), reinterpret_cast<std::byte*>(&theirs));
      slowest = std::max(slowest, theirs);
    }
    if (i >= kWarm) least = std::min(least, slowest);
  }
  return least;
}

/// seconds = latency + bytes sent / bytes_per_second, by least squares of relative errors.
void fit(CommBench& bench, int ranks) {
  double w = 0, wx = 0, wy = 0, wxx = 0, wxy = 0;
  for (const auto& exchange : bench.exchanges) {
    const double x = static_cast<double>(exchange.bytes) * (ranks - 1), y = exchange.seconds, weight = 1 / (y * y);
    w += weight;
    wx += weight * x;
    wy += weight * y;
    wxx += weight * x * x;
    wxy += weight * x * y;
  }
  const double slope = (w * wxy - wx * wy) / (w * wxx - wx * wx);
  bench.bytes_per_second = slope > 0 ? 1 / slope : 0;
  bench.latency = std::max(0.0, (wy - slope * wx) / w);
}

/// One run: means over the steps behind the first two.
CommBench::Layout run(TrialConfig config, const data::Source& source, const comm::Communicator& world, std::int64_t steps) {
  constexpr std::int64_t kWarm = 2;
  config.train.tokens.reset();
  config.train.steps = steps + kWarm;
  Trainer trainer(config, source, world);
  while (trainer.step() < trainer.steps()) trainer.train_step();
  const auto record = trainer.record("done", "");
  const auto mean = [&](const std::string& name) {
    const auto* array = record.find("steps/" + name);
    MOESWEEP_ASSERT(array != nullptr, "a series of that name");
    const auto values = store::as_doubles(*array);
    const auto width = static_cast<std::int64_t>(values.size()) / array->shape[0];
    return std::accumulate(values.begin() + kWarm * width, values.end(), 0.0) / static_cast<double>(steps * width);
  };
  CommBench::Layout layout;
  layout.expert = config.parallel.expert;
  layout.data = config.parallel.data;
  layout.step = mean("seconds");
  layout.tokens_per_second = static_cast<double>(config.step_tokens()) / layout.step;
  layout.dispatch = mean("seconds_dispatch");
  layout.wait = mean("seconds_wait");
  layout.compute = mean("seconds_compute");
  layout.gradients = mean("seconds_gradients");
  layout.sent = mean("exchanged_bytes");
  return layout;
}

}  // namespace

CommBench bench_exchange(const comm::Communicator& world) {
  CommBench bench;
  if (world.size() == 1) return bench;
  const auto ranks = comm::make_transport(world);
  for (std::int64_t bytes = 1024; bytes <= std::int64_t{16} << 20; bytes *= 4) bench.exchanges.push_back({bytes, exchange_seconds(*ranks, bytes)});
  fit(bench, world.size());
  return bench;
}

CommBench bench_comm(const CommBenchOptions& options, const comm::Communicator& world) {
  CommBench bench = bench_exchange(world);
  std::vector<TrialConfig> configs(2, options.config);
  configs[0].parallel.expert = configs[1].parallel.data = world.size();
  configs[0].parallel.data = configs[1].parallel.expert = 1;
  for (const TrialConfig& config : configs)
    if (const auto reason = refusal(config); !reason.empty()) throw Error(ErrorKind::config, reason).thrown_on_every_rank();
  std::unique_ptr<data::Source> source;
  world.agree([&] { source = data::open_source(options.config.data); }, "bench: data");

  std::vector<std::vector<CommBench::Layout>> runs(configs.size());
  for (std::int64_t repeat = 0; repeat < options.repeats; ++repeat)
    for (std::size_t c = 0; c < configs.size(); ++c) {
      if (options.progress)
        options.progress(fmt::format("repeat {} of {}: {}", repeat + 1, options.repeats, c == 0 ? "experts over all ranks" : "sequences alone"));
      runs[c].push_back(run(configs[c], *source, world, options.steps));
    }
  std::vector<double> ratios;
  for (std::size_t i = 0; i < runs[0].size(); ++i) ratios.push_back(runs[0][i].tokens_per_second / runs[1][i].tokens_per_second);
  bench.ratio = median(ratios);
  for (std::size_t c = 0; c < configs.size(); ++c) {
    const auto of = [&](double CommBench::Layout::*member) {
      std::vector<double> values;
      for (const auto& layout : runs[c]) values.push_back(layout.*member);
      return median(values);
    };
    CommBench::Layout layout = runs[c].front();
    for (const auto member : {&CommBench::Layout::tokens_per_second, &CommBench::Layout::step, &CommBench::Layout::dispatch, &CommBench::Layout::wait,
                              &CommBench::Layout::compute, &CommBench::Layout::gradients, &CommBench::Layout::sent})
      layout.*member = of(member);
    if (layout.expert > 1) {
      model::CostInput input;
      input.model = configs[c].model;
      input.routing = configs[c].routing;
      input.vocabulary = source->vocabulary();
      input.sequence_length = configs[c].data.sequence_length;
      input.compute_bytes = configs[c].train.dtype == Precision::bf16 ? 2 : configs[c].train.dtype == Precision::fp64 ? 8 : 4;
      input.expert_parallel = layout.expert;
      input.recompute = configs[c].parallel.recompute;
      const model::Costs costs = model::costs_of(input);
      const std::int64_t per_pass = configs[c].train.sequences_per_pass,
                         share = share_of(configs[c].train.batch_sequences, configs[c].train.micro_batch_sequences, 0, world.size()).count;
      const std::int64_t passes = per_pass > 0 ? (share + per_pass - 1) / per_pass : 1;
      layout.predicted_sent =
          costs.training_exchange_bytes_per_token * static_cast<double>(configs[c].step_tokens()) / static_cast<double>(world.size());
      layout.predicted_exchange =
          layout.predicted_sent / bench.bytes_per_second + static_cast<double>(passes * costs.training_exchanges_per_pass) * bench.latency;
    }
    bench.layouts.push_back(layout);
  }
  // Sorting by expert is work of both; what the exchange adds to it is its own.
  if (world.size() > 1) bench.layouts[0].exchange = bench.layouts[0].wait + std::max(0.0, bench.layouts[0].dispatch - bench.layouts[1].dispatch);
  return bench;
}

Json CommBench::json() const {
  Json all = {{"latency_seconds", latency},
              {"bytes_per_second", bytes_per_second},
              {"tokens_per_second_of_experts_over_sequences", ratio},
              {"exchanges", Json::array()},
              {"layouts", Json::array()}};
  for (const Exchange& e : exchanges) all["exchanges"].push_back({{"bytes", e.bytes}, {"seconds", e.seconds}});
  for (const Layout& l : layouts)
    all["layouts"].push_back({{"expert", l.expert},
                              {"data", l.data},
                              {"tokens_per_second", l.tokens_per_second},
                              {"step_seconds", l.step},
                              {"dispatch_seconds", l.dispatch},
                              {"wait_seconds", l.wait},
                              {"compute_seconds", l.compute},
                              {"gradients_seconds", l.gradients},
                              {"sent_bytes", l.sent},
                              {"predicted_sent_bytes", l.predicted_sent},
                              {"exchange_seconds", l.exchange},
                              {"predicted_exchange_seconds", l.predicted_exchange}});
  return all;
}

}  // namespace moesweep::train
