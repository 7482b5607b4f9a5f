// Trials on several layouts side by side: what a run leaves, how far two runs are apart, and the table of it.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "moesweep/comm/mpi.hpp"
#include "train/trainer.hpp"

namespace moesweep::train::parity {

/// EP x DP.
struct Layout {
  int expert = 1, data = 1;
  int ranks() const { return expert * data; }
  std::string name() const { return std::to_string(expert) + "x" + std::to_string(data); }
};
inline constexpr Layout kLayouts[] = {{1, 1}, {2, 1}, {1, 2}, {2, 2}, {4, 1}, {1, 4}};

/// A run, or a stretch of one, on some of the world's ranks.
struct Job {
  TrialConfig config;  ///< but for its layout
  Layout layout;
  std::int64_t until_step = 0;                 ///< 0: to the end
  std::filesystem::path from = {};             ///< a checkpoint to go on from
  std::filesystem::path to = {};               ///< where to leave one
  std::function<void(Trainer&)> prepare = {};  ///< before the first step; may be empty
};

/// What a run leaves, by name:
/// `record/PATH` and `shape/PATH` of each recorded array, `parameters/CLASS` and `gradients/CLASS` (of the last step) whole, experts gathered over
/// ranks, `state` of the routers, `choices` (sorted keys of each step, layer, token, expert and whether it was dropped), `replicas` (largest
/// difference between ranks that hold the same parameters, which is 0), and, if it threw, `error: MESSAGE`.
using Outcome = std::map<std::string, std::vector<double>>;

/// Collective over the world: runs the jobs, those that fit beside each other at the same time, and gives every rank all outcomes.
std::vector<Outcome> run(const comm::Communicator& world, const std::vector<Job>& jobs);

/// The message of the run's error; empty when there was none.
std::string error_of(const Outcome& outcome);

inline constexpr const char* kClasses[] = {"dense", "embedding", "router", "experts"};

/// True for times and what else an outcome holds of the layout alone.
bool depends_on_layout(const std::string& name);

/// Largest relative difference, value by value; infinite where the numbers of values differ or one alone is not a number.
double by_value(const Outcome& a, const Outcome& b, const std::string& name);
/// Largest difference over the largest value.
double by_size(const Outcome& a, const Outcome& b, const std::string& name);
/// Share of a's choices that b made otherwise.
double flips(const Outcome& a, const Outcome& b);

/// A small model on synthetic text in four domains.
TrialConfig small(const routing::RoutingConfig& routing, Precision precision);

/// True in a full run of the tests: long proofs are then whole, else about a tenth of them.
bool full();

/// A row of the table that is printed after all tests. Rows of one name, layout and type are shown as one, of the largest of each.
struct Row {
  std::string what, layout, dtype;
  double loss = 0;
  std::map<std::string, double> parameters = {};
  double flipped = 0;
};
void add_row(Row row);
/// A line under the table.
void add_note(const std::string& note);

/// A folder of this test's own, the same on every rank, gone at the end. Making it and leaving it are collective.
class Folder {
 public:
  explicit Folder(const comm::Communicator& world);
  ~Folder();
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }

 private:
  const comm::Communicator& world_;
  std::filesystem::path path_;
};

}  // namespace moesweep::train::parity
