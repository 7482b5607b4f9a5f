// See parity.hpp.
#include "parity.hpp"

#include <ATen/ATen.h>
#include <fmt/core.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <optional>

#include "moesweep/store/record.hpp"
#include "support/scratch.hpp"

namespace moesweep::train::parity {

namespace fs = std::filesystem;

namespace {

constexpr const char* kError = "error: ";

std::string pack(const Outcome& outcome) {
  std::string bytes;
  for (const auto& [name, values] : outcome) {
    const std::uint64_t sizes[] = {name.size(), values.size()};
    bytes.append(reinterpret_cast<const char*>(sizes), sizeof sizes);
    bytes += name;
    bytes.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(double));
  }
  return bytes;
}

Outcome unpack(const std::string& bytes) {
  Outcome outcome;
  for (std::size_t at = 0; at < bytes.size();) {
    std::uint64_t sizes[2];
    std::memcpy(sizes, bytes.data() + at, sizeof sizes);
    at += sizeof sizes;
    auto& values = outcome[bytes.substr(at, sizes[0])];
    at += sizes[0];
    values.resize(sizes[1]);
    std::memcpy(values.data(), bytes.data() + at, sizes[1] * sizeof(double));
    at += sizes[1] * sizeof(double);
  }
  return outcome;
}

/// Every rank's values, in rank order. Collective.
std::vector<std::vector<double>> gather(const comm::Communicator& gang, const at::Tensor& mine) {
  const at::Tensor values = mine.to(at::kDouble).contiguous().view(-1);
  const auto* data = values.const_data_ptr<double>();
  const auto parts = comm::make_transport(gang)->all_gather(std::as_bytes(std::span(data, static_cast<std::size_t>(values.numel()))), "gather");
  std::vector<std::vector<double>> all;
  for (const auto& part : parts) {
    all.emplace_back(part.size() / sizeof(double));
    std::memcpy(all.back().data(), part.data(), part.size());
  }
  return all;
}

double largest_difference(const std::vector<double>& a, const std::vector<double>& b) {
  if (a.size() != b.size()) return std::numeric_limits<double>::infinity();
  double largest = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (std::isnan(a[i]) && std::isnan(b[i])) continue;
    const double difference = std::abs(a[i] - b[i]);
    largest = std::max(largest, std::isnan(difference) ? std::numeric_limits<double>::infinity() : difference);
  }
  return largest;
}

void append(std::vector<double>& to, const std::vector<double>& values) { to.insert(to.end(), values.begin(), values.end()); }

/// The parameters, or their gradients, by class.
void take_classes(Outcome& outcome, const std::string& prefix, Trainer& trainer, const comm::Communicator& gang, int expert_ranks,
                  at::Tensor model::Buffers::*member) {
  auto& parameters = trainer.model().parameters();
  auto& replicas = outcome["replicas"];
  replicas.resize(1);
  for (const auto& array : parameters.logical()) {
    const at::Tensor mine = (parameters.buffers(array.parameter_class).*member).narrow(0, array.offset, array.count);
    const auto parts = gather(gang, mine);
    const bool dense = array.parameter_class == model::ParameterClass::dense;
    const std::size_t holders = dense ? 1 : static_cast<std::size_t>(expert_ranks);
    for (std::size_t r = holders; r < parts.size(); ++r) replicas[0] = std::max(replicas[0], largest_difference(parts[r % holders], parts[r]));
    const char* name = !dense                                            ? "experts"
                       : array.name == "embedding"                       ? "embedding"
                       : array.name.find(".router") != std::string::npos ? "router"
                                                                         : "dense";
    for (std::size_t r = 0; r < holders; ++r) append(outcome[prefix + name], parts[r]);
  }
}

Outcome run_one(const Job& job, const comm::Communicator& gang) {
  TrialConfig config = job.config;
  config.parallel.expert = job.layout.expert;
  config.parallel.data = job.layout.data;
  const auto source = data::open_source(config.data);
  Trainer trainer(config, *source, gang, nullptr, /*resumes=*/!job.from.empty());
  if (!job.from.empty()) trainer.read_checkpoint(job.from);
  if (job.prepare) job.prepare(trainer);

  const auto& train = config.train;
  const std::int64_t layers = trainer.model().moe_layers(), experts = trainer.model().routed_experts();
  const std::int64_t first = share_of(train.batch_sequences, train.micro_batch_sequences, gang.rank(), gang.size()).first;
  std::vector<double> mine;
  while (trainer.step() < (job.until_step > 0 ? job.until_step : trainer.steps())) {
    const std::int64_t step = trainer.step();
    trainer.train_step();
    if (trainer.evaluation_due()) trainer.evaluate();
    std::int64_t token = first * config.data.sequence_length;
    for (const auto& pass : trainer.last_decisions()) {
      for (std::size_t layer = 0; layer < pass.size(); ++layer) {
        const auto& slots = pass[layer].slots;
        const at::Tensor dropped = slots.dropped.defined() ? slots.dropped.to(at::kLong) : at::zeros_like(slots.token);
        const at::Tensor place = slots.token + token + (step * layers + static_cast<std::int64_t>(layer)) * config.step_tokens();
        const at::Tensor key = ((place * experts + slots.expert) * 2 + dropped).to(at::kDouble);
        mine.insert(mine.end(), key.const_data_ptr<double>(), key.const_data_ptr<double>() + key.numel());
      }
      token += pass.front().slots.offsets.numel() - 1;
    }
  }

  Outcome outcome;
  for (const auto& part : gather(gang, at::tensor(mine, at::kDouble))) append(outcome["choices"], part);
  std::ranges::sort(outcome["choices"]);
  take_classes(outcome, "parameters/", trainer, gang, job.layout.expert, &model::Buffers::value);
  take_classes(outcome, "gradients/", trainer, gang, job.layout.expert, &model::Buffers::gradient);
  outcome["state"];
  for (const auto& [name, tensor] : trainer.model().state()) {
    const auto parts = gather(gang, tensor);
    for (const auto& part : parts) outcome["replicas"][0] = std::max(outcome["replicas"][0], largest_difference(parts[0], part));
    append(outcome["state"], parts[0]);
  }
  for (const auto& array : trainer.record("running", "").arrays) {
    outcome["record/" + array.path] = store::as_doubles(array);
    outcome["shape/" + array.path] = std::vector<double>(array.shape.begin(), array.shape.end());
  }
  if (!job.to.empty()) trainer.write_checkpoint(job.to);
  return outcome;
}

}  // namespace

std::vector<Outcome> run(const comm::Communicator& world, const std::vector<Job>& jobs) {
  std::vector<Outcome> outcomes(jobs.size());
  for (const int ranks : {4, 2, 1}) {
    std::vector<std::size_t> these;
    for (std::size_t i = 0; i < jobs.size(); ++i)
      if (jobs[i].layout.ranks() == ranks) these.push_back(i);
    if (these.empty()) continue;
    const auto gang = world.split(world.rank() / ranks);
    const auto beside = static_cast<std::size_t>(world.size() / ranks);
    for (std::size_t first = 0; first < these.size(); first += beside) {
      const std::size_t mine = first + static_cast<std::size_t>(world.rank() / ranks);
      Outcome outcome;
      if (mine < these.size()) {
        try {
          outcome = run_one(jobs[these[mine]], *gang);
        } catch (const std::exception& error) {
          outcome = {{kError + std::string(error.what()), {}}};
        }
      }
      for (std::size_t i = first; i < std::min(first + beside, these.size()); ++i)
        outcomes[these[i]] = unpack(world.broadcast(pack(outcome), static_cast<int>(i - first) * ranks, "outcome of a run"));
    }
  }
  return outcomes;
}

std::string error_of(const Outcome& outcome) {
  for (const auto& [name, values] : outcome)
    if (name.starts_with(kError)) return name;
  return "";
}

bool depends_on_layout(const std::string& name) {
  return name.find("second") != std::string::npos || name.find("exchanged_bytes") != std::string::npos;
}

double by_value(const Outcome& a, const Outcome& b, const std::string& name) {
  const auto &x = a.at(name), &y = b.at(name);
  if (x.size() != y.size()) return std::numeric_limits<double>::infinity();
  double worst = 0;
  for (std::size_t i = 0; i < x.size(); ++i)
    if (x[i] != y[i]) worst = std::max(worst, largest_difference({x[i]}, {y[i]}) / std::max(1e-12, std::abs(x[i])));
  return worst;
}

double by_size(const Outcome& a, const Outcome& b, const std::string& name) {
  if (!a.contains(name) && !b.contains(name)) return 0;
  double largest = 0;
  for (const double value : a.at(name)) largest = std::max(largest, std::abs(value));
  const double difference = largest_difference(a.at(name), b.at(name));
  return difference == 0 ? 0 : difference / std::max(1e-300, largest);
}

double flips(const Outcome& a, const Outcome& b) {
  const auto &x = a.at("choices"), &y = b.at("choices");
  std::vector<double> alone;
  std::ranges::set_difference(x, y, std::back_inserter(alone));
  return static_cast<double>(alone.size()) / static_cast<double>(std::max<std::size_t>(1, x.size()));
}

TrialConfig small(const routing::RoutingConfig& routing, Precision precision) {
  TrialConfig config;
  config.routing = routing;
  config.model.width = 16;
  config.model.heads = 2;
  config.model.experts = 16;
  config.model.expert_width = 8;
  config.data.domains = {"a", "b", "c", "d"};
  config.data.vocabulary = 64;
  config.data.sequence_length = 16;
  config.train.steps = 30;
  config.train.warmup_steps = 4;
  config.train.batch_sequences = 16;
  config.train.micro_batch_sequences = 2;
  config.train.dtype = precision;
  config.evaluation.every_steps = 10;
  config.evaluation.tokens = 16 * 32;
  config.comm.timeout_seconds = 60;
  return config;
}

bool full() {
  const char* value = std::getenv("MOESWEEP_FULL");
  return value != nullptr && std::string(value) == "1";
}

namespace {

class Table : public testing::Environment {
 public:
  void TearDown() override {
    int rank = 0;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    if (rank != 0 || (rows.empty() && notes.empty())) return;
    fmt::print("\nparity: largest difference from one rank, of the losses value by value, of each parameter class over its largest value\n");
    fmt::print("| {:15} | EPxDP | dtype | loss    | dense   | embedding | router  | experts | flipped |\n", "preset");
    for (int i = 0; i < 9; ++i) fmt::print("| --- ");
    fmt::print("|\n");
    for (auto& row : rows) {
      fmt::print("| {:15} | {:5} | {:5} | {:7.1e} |", row.what, row.layout, row.dtype, row.loss);
      for (const std::string name : kClasses) fmt::print(" {:{}.1e} |", row.parameters[name], name == "embedding" ? 9 : 7);
      fmt::print(" {:6.3f}% |\n", 100 * row.flipped);
    }
    for (const auto& note : notes) fmt::print("{}\n", note);
    std::fflush(stdout);
  }
  std::vector<Row> rows;
  std::vector<std::string> notes;
};
Table* const table = dynamic_cast<Table*>(testing::AddGlobalTestEnvironment(new Table));

}  // namespace

void add_row(Row row) {
  const auto same = [&](const Row& other) { return other.what == row.what && other.layout == row.layout && other.dtype == row.dtype; };
  const auto found = std::ranges::find_if(table->rows, same);
  if (found == table->rows.end()) {
    table->rows.push_back(std::move(row));
    return;
  }
  found->loss = std::max(found->loss, row.loss);
  found->flipped = std::max(found->flipped, row.flipped);
  for (const auto& [name, difference] : row.parameters) found->parameters[name] = std::max(found->parameters[name], difference);
}
void add_note(const std::string& note) { table->notes.push_back(note); }

Folder::Folder(const comm::Communicator& world) : world_(world) {
  path_ = world.broadcast(world.rank() == 0 ? testing_support::make_scratch("moesweep-parity").string() : "", 0, "folder");
}

Folder::~Folder() {
  world_.barrier("folder used");
  if (world_.rank() == 0) fs::remove_all(path_);
}

}  // namespace moesweep::train::parity
