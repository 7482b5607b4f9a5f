// How fast this machine is: see Calibration in bench.hpp.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <fmt/core.h>

#include <algorithm>
#include <ctime>
#include <limits>

#include "moesweep/core/error.hpp"
#include "moesweep/data/source.hpp"
#include "moesweep/train/bench.hpp"
#include "trainer.hpp"

namespace moesweep::train {

namespace {

/// Processor time of this process, which has one thread at work: what others run on the machine counts little.
double processor_seconds() {
  timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

/// As experts.cpp does it for one expert after the other: output, gradient of what enters, gradient of the matrix.
double product_flops_per_second(Precision dtype, std::int64_t rows, std::int64_t width, double least_seconds) {
  const at::NoGradGuard no_gradient;
  const auto options = at::device(at::kCPU).dtype(dtype == Precision::bf16 ? at::kBFloat16 : at::kFloat);
  // As many matrices as leave the caches, as those of a layer's experts do.
  const std::int64_t matrices = std::clamp<std::int64_t>((std::int64_t{1} << 22) / (width * width), 4, 32);
  const at::Tensor matrix = at::ones({matrices, width, width}, options), gradient = at::zeros({matrices, width, width}, at::kFloat);
  const at::Tensor input = at::ones({rows, width}, options), upstream = at::ones({rows, width}, options);
  at::Tensor output = at::empty({rows, width}, options);
  const auto once = [&](std::int64_t m) {
    at::mm_out(output, input, matrix[m]);
    at::mm_out(output, upstream, matrix[m].t());
    if (dtype == Precision::bf16) gradient[m].add_(at::mm(input.t(), upstream));
    else gradient[m].addmm_(input.t(), upstream);
  };
  for (std::int64_t m = 0; m < 2; ++m) once(m);
  constexpr int kRounds = 3;
  double best = 0;
  for (int round = 0; round < kRounds; ++round) {
    const double start = processor_seconds();
    std::int64_t times = 0;
    do once(times++ % matrices);
    while (times < 2 || processor_seconds() - start < least_seconds / kRounds);
    best = std::max(best, 6.0 * static_cast<double>(times * rows * width * width) / (processor_seconds() - start));
  }
  return best;
}

struct Shape {
  std::int64_t width, layers, heads, experts, expert_width, vocabulary, length, sequences;
};

TrialConfig trial_of(const Shape& shape, Precision dtype) {
  TrialConfig config;
  config.model.width = shape.width;
  config.model.layers = shape.layers;
  config.model.heads = shape.heads;
  config.model.experts = shape.experts;
  config.model.expert_width = shape.expert_width;
  config.routing.score = routing::Score::softmax_selected;
  config.routing.balance.method = "aux_loss";
  config.routing.balance.weight = 0.1;
  config.routing.balance.scope = routing::ScopeKind::global_batch;
  config.data.kind = data::DataKind::synthetic;
  config.data.domains = {"a", "b"};
  config.data.vocabulary = shape.vocabulary;
  config.data.sequence_length = shape.length;
  config.train.dtype = dtype;
  config.train.batch_sequences = shape.sequences;
  config.train.micro_batch_sequences = 2;
  config.evaluation.tokens = config.step_tokens();
  config.parallel.device = Device::cpu;
  return config;
}

Calibration::Trial measured(TrialConfig config, std::int64_t steps) {
  constexpr std::int64_t kWarm = 2;
  const auto source = data::open_source(config.data);
  config.evaluation.tokens = source->validation_sequences(config.evaluation.tokens) * config.data.sequence_length;
  config.train.tokens.reset();
  config.train.steps = steps + kWarm;
  const comm::Communicator alone = comm::Communicator::self();
  Trainer trainer(config, *source, alone);
  Calibration::Trial trial{config, std::numeric_limits<double>::infinity(), std::numeric_limits<double>::infinity()};
  const auto least = [](double& seconds, auto&& work) {
    const double start = processor_seconds();
    work();
    seconds = std::min(seconds, processor_seconds() - start);
  };
  for (std::int64_t i = 0; i < kWarm; ++i) trainer.train_step();
  for (std::int64_t i = 0; i < steps; ++i) least(trial.step_seconds, [&] { trainer.train_step(); });
  constexpr int kEvaluations = 3;
  for (int i = 0; i < kEvaluations; ++i) least(trial.evaluation_seconds, [&] { trainer.evaluate(); });
  return trial;
}

}  // namespace

Calibration calibrate(const CalibrationOptions& options, const comm::Communicator& world) {
  at::set_num_threads(1);
  const auto tell = [&](const std::string& what) {
    if (options.progress && world.rank() == 0) options.progress(what);
  };
  const std::vector<std::int64_t> all_rows = options.small ? std::vector<std::int64_t>{16, 64} : std::vector<std::int64_t>{16, 64, 256, 1024, 4096};
  const std::vector<std::int64_t> widths = options.small ? std::vector<std::int64_t>{32, 64} : std::vector<std::int64_t>{32, 64, 128, 256, 512, 1024};
  // Sizes that tell apart what a step costs by tokens, by parameters, by layers and at all.
  const std::vector<Shape> shapes =
      options.small ? std::vector<Shape>{{32, 1, 2, 4, 16, 256, 32, 4}, {32, 2, 2, 4, 16, 256, 32, 8}}
                    : std::vector<Shape>{{64, 2, 4, 32, 32, 1024, 64, 64},   {64, 2, 4, 32, 32, 1024, 64, 4},    {64, 8, 4, 8, 32, 256, 64, 4},
                                         {256, 3, 8, 32, 120, 1024, 64, 32}, {512, 1, 8, 32, 512, 4096, 256, 2}, {512, 1, 8, 8, 256, 8192, 128, 8}};
  Calibration calibration;
  world.agree(
      [&] {
        for (const Precision dtype : {Precision::fp32, Precision::bf16}) {
          const char* name = dtype == Precision::fp32 ? "fp32" : "bf16";
          tell(fmt::format("{}: products", name));
          for (const std::int64_t rows : all_rows)
            for (const std::int64_t width : widths)
              calibration.products.push_back({dtype, rows, width, product_flops_per_second(dtype, rows, width, options.seconds_of_product)});
          for (std::size_t i = 0; i < shapes.size(); ++i) {
            tell(fmt::format("{}: trial {} of {}", name, i + 1, shapes.size()));
            calibration.trials.push_back(measured(trial_of(shapes[i], dtype), options.steps));
          }
        }
      },
      "measuring of this machine");
  if (world.size() > 1) tell("exchanges");
  calibration.exchange = bench_exchange(world);
  return calibration;
}

}  // namespace moesweep::train
