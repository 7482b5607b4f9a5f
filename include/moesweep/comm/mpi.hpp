// Checked MPI: the environment, and thin move-only communicators. Every call is checked; an MPI error is an `Error` of kind `mpi`.
#pragma once

#include <mpi.h>

#include <cstddef>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace moesweep::comm {

/// Throws an `mpi` error that names the call when `code` is not MPI_SUCCESS.
void check(int code, const char* call);

/// Initialises MPI (funneled) for the life of the object. Refuses a world of one rank inside a Slurm step of several tasks,
/// which means that the launcher and this MPI do not know each other.
class Environment {
 public:
  Environment();
  ~Environment();
  Environment(const Environment&) = delete;
  Environment& operator=(const Environment&) = delete;
};

/// True between Environment's construction and its end.
bool initialised();

class Communicator {
 public:
  static Communicator world();
  static Communicator self();
  Communicator(Communicator&& other) noexcept;
  Communicator& operator=(Communicator&& other) noexcept;
  ~Communicator();

  int rank() const { return rank_; }
  int size() const { return size_; }
  MPI_Comm native() const { return comm_; }

  /// Collective. Ranks of one colour form a group, ordered by their rank here; a rank without colour gets none.
  std::optional<Communicator> split(std::optional<int> colour) const;
  /// Collective. A communicator of the same ranks for traffic of its own.
  Communicator duplicate() const;

  // Collective conveniences.
  void barrier(const char* what) const;
  /// `text` of rank `root` on every rank.
  std::string broadcast(const std::string& text, int root, const char* what) const;
  /// Every rank's text, in rank order, on every rank.
  std::vector<std::string> all_gather(const std::string& text, const char* what) const;
  std::int64_t sum(std::int64_t value, const char* what) const;
  std::int64_t maximum(std::int64_t value, const char* what) const;
  std::int64_t minimum(std::int64_t value, const char* what) const;

  /// Collective agreement after rank-local work that may fail: runs `work`, and when it threw on any rank, throws on every rank
  /// the error of the lowest failing rank, its message prefixed by `[Rank r/n]` and marked `on_every_rank()`.
  void agree(const std::function<void()>& work, const char* what) const;

 private:
  Communicator(MPI_Comm comm, bool owned);
  MPI_Comm comm_ = MPI_COMM_NULL;
  int rank_ = 0, size_ = 1;
  bool owned_ = false;
};

/// Ends all ranks of the job at once with that exit code; for a failure that other ranks cannot be told of.
[[noreturn]] void abort_world(int exit_code, const std::string& reason);

}  // namespace moesweep::comm
