// GoogleTest under MPI: every rank runs the same tests; failures of all ranks are gathered and reported by rank 0 as `[Rank r/n] ...`.
#include <gtest/gtest.h>
#include <mpi.h>

#include <string>
#include <vector>

namespace {

/// Collects this rank's failures; at a test's end rank 0 reports the other ranks' as its own.
class GatherFailures : public testing::EmptyTestEventListener {
 public:
  void OnTestStart(const testing::TestInfo&) override { mine_.clear(); }

  void OnTestPartResult(const testing::TestPartResult& result) override {
    if (!result.failed() || reporting_) return;
    mine_ += std::string(result.file_name() ? result.file_name() : "unknown") + ":" + std::to_string(result.line_number()) + "\n" + result.message() +
             "\n";
  }

  void OnTestEnd(const testing::TestInfo&) override {
    int rank = 0, size = 1;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    int length = static_cast<int>(mine_.size());
    std::vector<int> lengths(static_cast<std::size_t>(size)), starts(static_cast<std::size_t>(size));
    MPI_Gather(&length, 1, MPI_INT, lengths.data(), 1, MPI_INT, 0, MPI_COMM_WORLD);
    int total = 0;
    for (std::size_t i = 0; i < lengths.size(); ++i) {
      starts[i] = total;
      total += lengths[i];
    }
    std::string all(static_cast<std::size_t>(total), ' ');
    MPI_Gatherv(mine_.data(), length, MPI_CHAR, all.data(), lengths.data(), starts.data(), MPI_CHAR, 0, MPI_COMM_WORLD);
    if (rank != 0) return;
    reporting_ = true;
    for (int r = 1; r < size; ++r) {
      const auto i = static_cast<std::size_t>(r);
      if (lengths[i] > 0)
        ADD_FAILURE() << "[Rank " << r << "/" << size << "] "
                      << all.substr(static_cast<std::size_t>(starts[i]), static_cast<std::size_t>(lengths[i]));
    }
    reporting_ = false;
  }

 private:
  std::string mine_;
  bool reporting_ = false;
};

}  // namespace

int main(int argc, char** argv) {
  int provided = 0;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  testing::InitGoogleTest(&argc, argv);
  auto& listeners = testing::UnitTest::GetInstance()->listeners();
  auto* printer = listeners.Release(listeners.default_result_printer());
  // OnTestEnd runs in reverse order of Append: the gatherer must come last so that the printer, on rank 0 only, sees its failures.
  if (rank == 0) listeners.Append(printer);
  else delete printer;
  listeners.Append(new GatherFailures);
  int failed = RUN_ALL_TESTS();
  int any = 0;
  MPI_Allreduce(&failed, &any, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
  MPI_Finalize();
  return any;
}
