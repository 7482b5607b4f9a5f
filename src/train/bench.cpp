// See include/moesweep/train/bench.hpp.
#include "moesweep/train/bench.hpp"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <c10/util/ThreadLocalDebugInfo.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <map>
#include <memory>

#include "moesweep/comm/transport.hpp"
#include "moesweep/routing/parts.hpp"
#include "moesweep/routing/router.hpp"

namespace moesweep::train {

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::int64_t kDomains = 2, kVocabulary = 4096, kLongestSequence = 512, kMicroBatchSequences = 4;
constexpr std::int64_t kFirstStep = 1000;  // warm-ups are over
constexpr double kSecondsOfStrategy = 20;  // from then on it is not repeated any more
constexpr double kNanoseconds = 1e9;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::ranges::nth_element(values, middle);
  return *middle;
}

/// Follows the memory of tensors that are made while it is watched.
class TensorMemory : public c10::MemoryReportingInfoBase {
 public:
  void reportMemoryUsage(void*, std::int64_t bytes, std::size_t, std::size_t, c10::Device) override {
    held_ += bytes;
    most_ = std::max(most_, held_);
  }
  bool memoryProfilingEnabled() const override { return true; }
  std::int64_t most() const { return most_; }

 private:
  std::int64_t held_ = 0, most_ = 0;
};

/// Slots ordered by expert, then by token: the numbers of the slots, by a counting sort.
at::Tensor sort_slots_by_expert(const routing::Slots& slots, const at::Tensor& counts) {
  const std::int64_t experts = counts.size(0);
  std::vector<std::int64_t> next(static_cast<std::size_t>(experts), 0);
  const auto* count = counts.const_data_ptr<std::int64_t>();
  for (std::int64_t e = 1; e < experts; ++e) next[static_cast<std::size_t>(e)] = next[static_cast<std::size_t>(e - 1)] + count[e - 1];
  at::Tensor order = at::empty({slots.expert.numel()}, at::kLong);
  auto* out = order.mutable_data_ptr<std::int64_t>();
  const auto* expert = slots.expert.const_data_ptr<std::int64_t>();
  for (std::int64_t slot = 0; slot < slots.expert.numel(); ++slot) out[next[static_cast<std::size_t>(expert[slot])]++] = slot;
  return order;
}

/// The largest divisor of `tokens` up to the longest sequence.
std::int64_t sequence_length(std::int64_t tokens) {
  for (std::int64_t length = std::min(tokens, kLongestSequence);; --length)
    if (tokens % length == 0) return length;
}

routing::TokenLayout layout_of(std::int64_t tokens) {
  routing::TokenLayout layout;
  layout.length = sequence_length(tokens);
  layout.sequences = tokens / layout.length;
  layout.micro_batch_sequences = std::min(kMicroBatchSequences, layout.sequences);
  for (std::int64_t s = 0; s < layout.sequences; ++s) {
    layout.index.push_back(s);
    layout.domain.push_back(s % kDomains);
  }
  layout.ids = at::randint(kVocabulary, {tokens}, at::kLong);
  layout.step_tokens = tokens;
  return layout;
}

/// A strategy over logits [T, E].
class Case {
 public:
  Case(const routing::RoutingConfig& config, const at::Tensor& logits, routing::TokenLayout layout)
      : layout_(std::move(layout)), gang_(comm::make_local_transport()), router_(config, place_of(config, logits, layout_), *gang_) {
    logits_ = logits.detach();
    if (config.select == "relu") {
      const double share = static_cast<double>(config.top_k) / static_cast<double>(logits.size(1));
      logits_ = logits_ - std::sqrt(2.0) * at::erfinv(at::full({}, 1 - 2 * std::min(share, 1 - 1e-6))).item<double>();
    }
    logits_.requires_grad_();
    if (config.noise.learned) noise_logits_ = at::randn_like(logits_).requires_grad_();
  }

  struct Times {
    double forward = 0, backward = 0;
  };
  /// One step; `permutes`: the slots' order by expert is part of it.
  Times run(bool permutes) {
    layout_.step = layout_.record = ++step_;
    const auto begin = Clock::now();
    routing::Scores scores{logits_, 0, &layout_, noise_logits_};
    const auto& config = router_.config();
    scores.logits = routing::pool_rows(logits_, layout_, config.granularity, config.pool);
    router_.begin_step(step_);
    const routing::Decision decision = router_.decide({&scores, 1}, routing::Mode::train).front();
    const routing::Assignment assignment = router_.apply(scores, decision, routing::Mode::train);
    if (permutes) order_ = sort_slots_by_expert(assignment.slots, decision.counts.sum(0));
    Times times;
    times.forward = seconds_since(begin);

    std::vector<at::Tensor> outputs, upstream;
    const auto add = [&](const at::Tensor& output, const at::Tensor& gradient) {
      if (!output.requires_grad()) return;
      outputs.push_back(output);
      upstream.push_back(gradient);
    };
    add(assignment.weight, at::randn(assignment.weight.sizes(), assignment.weight.options()));
    for (const auto& [name, loss] : assignment.losses) add(loss, at::ones_like(loss));
    for (const auto& term : assignment.pooled) add(term.probabilities, (term.load * term.factor).to(term.probabilities.scalar_type()));
    std::vector<at::Tensor> leaves{logits_};
    if (noise_logits_.defined()) leaves.push_back(noise_logits_);
    const auto middle = Clock::now();
    if (!outputs.empty()) torch::autograd::grad(outputs, leaves, upstream, /*retain_graph=*/false, /*create_graph=*/false, /*allow_unused=*/true);
    times.backward = seconds_since(middle);
    router_.end_step();
    return times;
  }
  /// The most bytes of tensors that a step holds at once beside the logits.
  std::int64_t peak_bytes() {
    const auto memory = std::make_shared<TensorMemory>();
    {
      const c10::DebugInfoGuard watched(c10::DebugInfoKind::PROFILER_STATE, memory);
      run(false);
    }
    return memory->most();
  }

 private:
  static routing::RouterPlace place_of(const routing::RoutingConfig& config, const at::Tensor& logits, const routing::TokenLayout& layout) {
    routing::RouterPlace place;
    place.experts = logits.size(1);
    place.ffn_experts = place.experts - config.extra_experts.routed();
    place.domains = kDomains;
    place.vocabulary = kVocabulary;
    place.token_frequency.assign(kVocabulary, 0.0);
    const auto* id = layout.ids.const_data_ptr<std::int64_t>();
    for (std::int64_t t = 0; t < layout.tokens(); ++t) place.token_frequency[static_cast<std::size_t>(id[t])] += 1;
    return place;
  }

  routing::TokenLayout layout_;
  std::unique_ptr<comm::Transport> gang_;
  routing::LayerRouter router_;
  at::Tensor logits_, noise_logits_, order_;
  std::int64_t step_ = kFirstStep;
};

/// The same as plain top-k, in eager operators: the k best probabilities renormalised, or the softmax of the k best logits (which is the same),
/// the slots' order by expert and its counts; and back.
double run_eager(const at::Tensor& logits, std::int64_t k, bool of_logits) {
  const auto begin = Clock::now();
  const auto [best, expert] = at::topk(of_logits ? logits : at::softmax(logits, 1), k, 1);
  const at::Tensor weight = of_logits ? at::softmax(best, 1) : best / best.sum(1, true);
  const at::Tensor flat = expert.view({-1});
  const at::Tensor order = at::argsort(flat, /*stable=*/true, 0, false), counts = at::bincount(flat, {}, logits.size(1));
  double seconds = seconds_since(begin);
  const at::Tensor upstream = at::randn(weight.sizes(), weight.options());
  const auto middle = Clock::now();
  torch::autograd::grad({weight}, {logits}, {upstream});
  return seconds + seconds_since(middle);
}

routing::RoutingConfig plain_top_k(std::int64_t k) {
  routing::RoutingConfig config;
  config.score = routing::Score::softmax_selected;
  config.top_k = k;
  return config;
}

/// One strategy at one number of experts while it is measured.
struct Measured {
  std::string router;
  routing::RoutingConfig config;
  std::unique_ptr<Case> own;
  std::vector<double> forward, backward, both;
  double spent = 0;
};

/// Why a strategy cannot be measured on logits of these experts; empty when it can.
std::string unsuited(const routing::RoutingConfig& config, const routing::TokenLayout& layout, std::int64_t experts) {
  if (config.select == "replay") return "routing.select = replay needs recorded choices";
  const std::int64_t ffn_experts = experts - config.extra_experts.routed();
  if (ffn_experts < 1) return "routing.extra_experts leaves none of the " + std::to_string(experts) + " experts";
  return routing::refusal(config, {ffn_experts, kDomains, 1, 0, layout.length, layout.micro_batch_sequences, layout.sequences});
}

}  // namespace

RoutingBench bench_routing(const RoutingBenchOptions& options) {
  at::set_num_threads(1);
  const at::AutoGradMode with_gradient(true);
  at::manual_seed(1);
  RoutingBench bench;
  const double per_token = kNanoseconds / static_cast<double>(options.tokens);
  const routing::TokenLayout layout = layout_of(options.tokens);
  for (const std::int64_t experts : options.experts) {
    if (options.progress) options.progress(std::to_string(experts) + " experts");
    at::Tensor logits = at::randn({options.tokens, experts}, at::kFloat);

    std::vector<Measured> measured;
    std::map<std::int64_t, std::unique_ptr<Case>> plain;  // by k
    std::map<std::int64_t, std::vector<double>> plain_seconds;
    std::vector<double> permuting_seconds;
    std::array<std::vector<double>, 2> eager_seconds;
    for (const auto& [router, preset] : options.routers) {
      Measured entry{router, preset, {}, {}, {}, {}, 0};
      entry.config.layers.clear();
      entry.config.top_k = std::min(entry.config.top_k, experts);
      if (const auto reason = unsuited(entry.config, layout, experts); !reason.empty()) {
        bench.skipped.push_back({router, experts, reason});
        continue;
      }
      entry.own = std::make_unique<Case>(entry.config, logits, layout);
      entry.own->run(false);
      plain.try_emplace(entry.config.top_k);
      measured.push_back(std::move(entry));
    }
    const std::int64_t usual = std::min(routing::RoutingConfig{}.top_k, experts);
    plain.try_emplace(usual);
    for (auto& [k, own] : plain) {
      own = std::make_unique<Case>(plain_top_k(k), logits, layout);
      own->run(true);
    }
    const at::Tensor leaf = logits.clone().requires_grad_();

    // Each is run once before it is timed: what ran before it must not tell in its caches.
    for (std::int64_t repeat = 0; repeat < options.repeats; ++repeat) {
      plain.at(usual)->run(true);
      const auto permuting = plain.at(usual)->run(true);
      permuting_seconds.push_back(permuting.forward + permuting.backward);
      for (const bool of_logits : {false, true}) {
        run_eager(leaf, usual, of_logits);
        eager_seconds[of_logits ? 1 : 0].push_back(run_eager(leaf, usual, of_logits));
      }
      for (auto& [k, own] : plain) {
        own->run(false);
        const auto times = own->run(false);
        plain_seconds[k].push_back(times.forward + times.backward);
      }
      for (Measured& entry : measured) {
        if (entry.spent > kSecondsOfStrategy) continue;
        entry.own->run(false);
        const auto times = entry.own->run(false);
        entry.forward.push_back(times.forward);
        entry.backward.push_back(times.backward);
        entry.both.push_back(times.forward + times.backward);
        entry.spent += entry.both.back();
      }
    }

    const double ours = median(permuting_seconds) * per_token;
    const double eager = std::min(median(eager_seconds[0]), median(eager_seconds[1])) * per_token;  // the quicker of the two
    bench.plain_top_k.push_back({experts, usual, ours, eager, eager / ours});
    for (Measured& entry : measured) {
      const double own_plain = median(plain_seconds[entry.config.top_k]) * per_token;
      bench.strategies.push_back({entry.router, experts, entry.config.top_k, static_cast<std::int64_t>(entry.both.size()),
                                  median(entry.forward) * per_token, median(entry.backward) * per_token, own_plain,
                                  median(entry.both) * per_token / own_plain,
                                  static_cast<double>(entry.own->peak_bytes()) / static_cast<double>(options.tokens * experts)});
    }
  }
  return bench;
}

Json RoutingBench::json() const {
  Json all = {{"strategies", Json::array()}, {"plain_top_k", Json::array()}, {"skipped", Json::array()}};
  for (const Strategy& row : strategies)
    all["strategies"].push_back({{"router", row.router},
                                 {"experts", row.experts},
                                 {"top_k", row.top_k},
                                 {"repeats", row.repeats},
                                 {"forward_nanoseconds_per_token", row.forward},
                                 {"backward_nanoseconds_per_token", row.backward},
                                 {"plain_nanoseconds_per_token", row.plain},
                                 {"ratio", row.ratio},
                                 {"tensor_bytes_per_logit", row.bytes_per_logit}});
  for (const AgainstEager& row : plain_top_k)
    all["plain_top_k"].push_back({{"experts", row.experts},
                                  {"top_k", row.top_k},
                                  {"nanoseconds_per_token", row.ours},
                                  {"eager_nanoseconds_per_token", row.eager},
                                  {"speedup", row.speedup}});
  for (const Skipped& row : skipped) all["skipped"].push_back({{"router", row.router}, {"experts", row.experts}, {"reason", row.reason}});
  return all;
}

}  // namespace moesweep::train
