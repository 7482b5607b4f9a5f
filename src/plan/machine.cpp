// See include/moesweep/plan/machine.hpp.
#include "moesweep/plan/machine.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>

#include "moesweep/core/error.hpp"
#include "moesweep/core/foreign_json.hpp"
#include "moesweep/core/publish.hpp"
#include "moesweep/plan/cost.hpp"

namespace moesweep::plan {

namespace fs = std::filesystem;

namespace {

constexpr const char* kMend = "measure again with `moesweep bench calibrate`, or remove the file";
constexpr int kVersion = 1;

/// The measured size at or below `value`, the one above it, and how far `value` is between them in powers.
struct Between {
  double low = 0, high = 0, share = 0;
};
Between between(std::vector<double> sizes, double value) {
  std::ranges::sort(sizes);
  const double inside = std::clamp(value, sizes.front(), sizes.back());
  const auto above = std::ranges::lower_bound(sizes, inside);
  const double high = *above, low = above == sizes.begin() || *above == inside ? high : *(above - 1);
  return {low, high, high > low ? std::log(inside / low) / std::log(high / low) : 0};
}

/// x >= 0 that makes sum over rows of (row . x - target)^2 least, one coordinate after the other.
template <std::size_t N>
std::array<double, N> least_squares(const std::vector<std::array<double, N>>& rows, const std::vector<double>& targets) {
  std::array<double, N> x{};
  constexpr int kRounds = 20000;
  for (int round = 0; round < kRounds; ++round)
    for (std::size_t i = 0; i < N; ++i) {
      double over = 0, under = 0;
      for (std::size_t r = 0; r < rows.size(); ++r) {
        double rest = targets[r];
        for (std::size_t j = 0; j < N; ++j)
          if (j != i) rest -= rows[r][j] * x[j];
        over += rows[r][i] * rest;
        under += rows[r][i] * rows[r][i];
      }
      x[i] = under > 0 ? std::max(0.0, over / under) : 0;
    }
  return x;
}

constexpr std::pair<const char*, double StepSpeed::*> kStepParts[] = {{"seconds_per_kept_byte", &StepSpeed::seconds_per_kept_byte},
                                                                      {"seconds_per_parameter_byte", &StepSpeed::seconds_per_parameter_byte},
                                                                      {"seconds_per_layer", &StepSpeed::seconds_per_layer},
                                                                      {"seconds_per_step", &StepSpeed::seconds_per_step},
                                                                      {"evaluation_share", &StepSpeed::evaluation_share}};

Json json_of(const StepSpeed& speed) {
  Json json = {{"products", Json::array()}};
  for (const auto& p : speed.products) json["products"].push_back({{"rows", p.rows}, {"width", p.width}, {"flops_per_second", p.flops_per_second}});
  for (const auto& [name, part] : kStepParts) json[name] = speed.*part;
  return json;
}

double number(const Json& json, const char* name, bool may_be_zero) {
  const double value = json.at(name).get<double>();
  if (!std::isfinite(value) || value < 0 || (value == 0 && !may_be_zero))
    throw Error(ErrorKind::corrupt, fmt::format("{} = {} is no speed", name, json.at(name).dump()));
  return value;
}

StepSpeed step_of(const Json& json) {
  StepSpeed speed;
  constexpr std::size_t kMostProducts = 256;  // the search for gaps below takes the third power of it
  if (json.at("products").size() > kMostProducts) throw Error(ErrorKind::corrupt, fmt::format("it names more than {} products", kMostProducts));
  for (const Json& p : json.at("products"))
    speed.products.push_back({number(p, "rows", false), number(p, "width", false), number(p, "flops_per_second", false)});
  for (const auto& [name, part] : kStepParts) speed.*part = number(json, name, true);
  // A grid without gaps: every width at every number of rows.
  for (const auto& a : speed.products)
    for (const auto& b : speed.products)
      if (std::ranges::none_of(speed.products, [&](const ProductSpeed& p) { return p.rows == a.rows && p.width == b.width; }))
        throw Error(ErrorKind::corrupt, fmt::format("products of {} rows and width {} are missing", a.rows, b.width));
  return speed;
}

}  // namespace

double StepSpeed::flops_per_second(double rows, double width) const {
  if (products.empty()) return kDefaultFlopsPerSecond;
  std::vector<double> all_rows, widths;
  for (const auto& p : products) {
    all_rows.push_back(p.rows);
    widths.push_back(p.width);
  }
  const Between r = between(all_rows, rows), w = between(widths, width);
  const auto at = [&](double of_rows, double of_width) {
    const auto found = std::ranges::find_if(products, [&](const ProductSpeed& p) { return p.rows == of_rows && p.width == of_width; });
    MOESWEEP_ASSERT(found != products.end(), "products of every pair of rows and width");
    return std::log(found->flops_per_second);
  };
  const auto mix = [](double a, double b, double share) { return a + share * (b - a); };
  return std::exp(mix(mix(at(r.low, w.low), at(r.low, w.high), w.share), mix(at(r.high, w.low), at(r.high, w.high), w.share), r.share));
}

std::string MachineSpeed::in_words() const {
  if (!measured())
    return fmt::format("time at {:.0f} GFLOP/s a rank, a plain default that was not measured on this machine: `moesweep bench calibrate` measures it",
                       kDefaultFlopsPerSecond / 1e9);
  return fmt::format("time by {}, measured on {}{}", file.empty() ? "a calibration" : file, cpu.empty() ? "an unnamed CPU" : cpu,
                     exchange_measured ? "" : "; exchanges by a plain default");
}

Json MachineSpeed::json() const {
  return {{"format", "moesweep-machine"},
          {"version", kVersion},
          {"moesweep", version},
          {"date", date},
          {"cpu_model", cpu},
          {"threads", threads},
          {"fp32", json_of(fp32)},
          {"bf16", json_of(bf16)},
          {"exchange",
           {{"measured", exchange_measured}, {"latency_seconds", exchange.latency_seconds}, {"bytes_per_second", exchange.bytes_per_second}}}};
}

void fit(StepSpeed& speed, std::span<const MeasuredTrial> trials) {
  std::vector<std::array<double, 4>> rows;
  std::vector<double> targets;
  for (const auto& trial : trials) {
    const StepWork work = work_of(trial.config, speed);
    const double scale = 1 / trial.step_seconds;
    rows.push_back({work.kept_bytes * scale, work.parameter_bytes * scale, work.layers * scale, scale});
    targets.push_back((trial.step_seconds - work.product_seconds) * scale);
  }
  const auto x = least_squares(rows, targets);
  speed.seconds_per_kept_byte = x[0];
  speed.seconds_per_parameter_byte = x[1];
  speed.seconds_per_layer = x[2];
  speed.seconds_per_step = x[3];
  std::vector<std::array<double, 1>> shares;
  std::vector<double> left;
  for (const auto& trial : trials) {
    const StepWork work = work_of(trial.config, speed);
    const double scale = 1 / trial.evaluation_seconds;
    shares.push_back({(work.evaluation_kept_bytes * x[0] + work.evaluation_layers * x[2] + work.batches * x[3]) * scale});
    left.push_back((trial.evaluation_seconds - work.evaluation_product_seconds) * scale);
  }
  speed.evaluation_share = least_squares(shares, left)[0];
}

fs::path machine_file() {
  const auto set = [](const char* name) {
    const char* value = std::getenv(name);
    return value != nullptr ? std::string(value) : std::string();
  };
  if (const auto file = set("MOESWEEP_MACHINE"); !file.empty()) return file;
  if (const auto folder = set("XDG_CONFIG_HOME"); !folder.empty()) return fs::path(folder) / "moesweep" / "machine.json";
  if (const auto home = set("HOME"); !home.empty()) return fs::path(home) / ".config" / "moesweep" / "machine.json";
  return {};
}

MachineSpeed machine_speed() {
  const fs::path file = machine_file();
  const char* named = std::getenv("MOESWEEP_MACHINE");
  std::error_code ignored;
  if (file.empty() || ((named == nullptr || *named == 0) && !fs::exists(file, ignored))) return {};
  return read_machine(file);
}

MachineSpeed read_machine(const fs::path& file) {
  if (std::error_code ignored; !fs::exists(file, ignored))
    throw Error(ErrorKind::io, "there is no such file of a machine's speed", file.string(),
                fmt::format("make it with `moesweep bench calibrate --out {}`, or unset MOESWEEP_MACHINE", file.string()));
  constexpr std::size_t kMostBytes = std::size_t{1} << 20;
  const std::string text = read_text(file, kMostBytes);
  try {
    const Json json = parse_json(text, "");
    if (json.at("format") != "moesweep-machine") throw Error(ErrorKind::corrupt, "this is no file of a machine's speed");
    if (json.at("version").get<int>() > kVersion) throw Error(ErrorKind::corrupt, "a newer moesweep made it");
    MachineSpeed machine;
    machine.version = json.at("moesweep");
    machine.date = json.at("date");
    machine.cpu = json.at("cpu_model");
    machine.threads = json.at("threads");
    machine.fp32 = step_of(json.at("fp32"));
    machine.bf16 = step_of(json.at("bf16"));
    if (machine.fp32.products.empty()) throw Error(ErrorKind::corrupt, "it names no products");
    const Json& exchange = json.at("exchange");
    machine.exchange_measured = exchange.at("measured");
    machine.exchange.latency_seconds = number(exchange, "latency_seconds", true);
    machine.exchange.bytes_per_second = number(exchange, "bytes_per_second", false);
    machine.file = file.string();
    return machine;
  } catch (const Error& error) {
    throw Error(ErrorKind::corrupt, fmt::format("the machine's speed cannot be read: {}", error.message()), file.string(), kMend);
  } catch (const Json::exception& error) {
    throw Error(ErrorKind::corrupt, fmt::format("the machine's speed cannot be read: {}", error.what()), file.string(), kMend);
  }
}

void write_machine(const fs::path& file, const MachineSpeed& machine) {
  if (std::error_code failure; file.has_parent_path() && !fs::create_directories(file.parent_path(), failure) && failure)
    throw Error(ErrorKind::io, fmt::format("cannot make the folder: {}", failure.message()), file.parent_path().string(),
                "choose another file with --out");
  publish_text(file, machine.json().dump(1) + "\n");
}

}  // namespace moesweep::plan
