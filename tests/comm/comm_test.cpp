// Communicators and grids, and the transports over host memory, which keep the contract of transport_contract.cpp.
#include <gtest/gtest.h>

#include "moesweep/comm/grid.hpp"
#include "moesweep/comm/mpi.hpp"
#include "moesweep/comm/nccl.hpp"
#include "moesweep/comm/transport.hpp"
#include "moesweep/core/error.hpp"
#include "transport_contract.hpp"

namespace moesweep::comm {

std::vector<Implementation> implementations() {
  return {{"local", [](const Communicator&) { return make_local_transport(); }, host_memory()}, {"mpi", make_mpi_transport, host_memory()}};
}

namespace {

TEST(MpiTransports, APartOfAnotherSizeIsAnError) {
  const auto world = Communicator::world();
  const int rank = world.rank();
  if (world.size() != 2) return;
  const auto transport = make_mpi_transport(world);
  std::vector<double> mine(8), theirs(8);
  // Rank 1 sends less than rank 0 expects.
  const std::size_t sent = rank == 0 ? 2 : 1;
  std::vector<Part> send(2), receive(2);
  send[static_cast<std::size_t>(1 - rank)] = {mine.data(), sent * sizeof(double)};
  receive[static_cast<std::size_t>(1 - rank)] = {theirs.data(), 2 * sizeof(double)};
  Pending pending = transport->start_exchange(send, receive, "uneven exchange");
  if (rank == 1) return pending.wait();
  try {
    pending.wait();
    ADD_FAILURE() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::mpi);
    EXPECT_NE(error.message().find("uneven exchange: rank 1"), std::string::npos) << error.message();
  }
}

TEST(Nccl, ABuildWithoutItSaysHowToGetIt) {
  if (nccl_is_built()) return;
  const auto world = Communicator::world();
  for (const auto& use : std::vector<std::function<void()>>{[&] { make_nccl_transport(world); }, [&] { choose_device(world); }}) {
    try {
      use();
      ADD_FAILURE() << "nothing was thrown";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::config);
      EXPECT_TRUE(error.on_every_rank());
      EXPECT_NE(error.hint().find("setup.sh cuda"), std::string::npos) << error.hint();
    }
  }
  EXPECT_EQ(describe_nccl().size(), 1U);
}

TEST(Grids, NeighboursShareExperts) {
  const auto world = Communicator::world();
  for (int experts = 1; experts <= world.size(); ++experts) {
    if (world.size() % experts != 0) continue;
    Grid grid(world, experts);
    EXPECT_EQ(grid.all().size(), world.size());
    EXPECT_EQ(grid.experts().size(), experts);
    EXPECT_EQ(grid.experts().rank(), world.rank() % experts);
    EXPECT_EQ(grid.copies().size(), world.size() / experts);
    EXPECT_EQ(grid.copies().rank(), world.rank() / experts);
    // The sum over both groups is the sum over all.
    const double sum = grid.copies().all_reduce_sum(grid.experts().all_reduce_sum(world.rank() + 1.0, "experts"), "copies");
    EXPECT_EQ(sum, world.size() * (world.size() + 1) / 2.0);
  }
}

TEST(Communicators, SplitByColour) {
  const auto world = Communicator::world();
  const auto group = world.split(world.rank() % 2 == 0 ? std::optional<int>(0) : std::nullopt);
  EXPECT_EQ(group.has_value(), world.rank() % 2 == 0);
  if (group) {
    EXPECT_EQ(group->size(), (world.size() + 1) / 2);
    EXPECT_EQ(group->rank(), world.rank() / 2);
  }
}

TEST(Communicators, TextsTravelWhole) {
  const auto world = Communicator::world();
  const std::string text(100000, 'x');
  EXPECT_EQ(world.broadcast(world.rank() == 0 ? text : "", 0, "text"), text);
  EXPECT_EQ(world.broadcast("", 0, "empty text"), "");
  const auto all = world.all_gather(std::string(static_cast<std::size_t>(world.rank()), 'y'), "texts");
  for (std::size_t r = 0; r < all.size(); ++r) EXPECT_EQ(all[r].size(), r);
}

TEST(Communicators, ReductionsOfWholeNumbers) {
  const auto world = Communicator::world();
  EXPECT_EQ(world.maximum(world.rank(), "maximum"), world.size() - 1);
  EXPECT_EQ(world.minimum(world.rank() + 5, "minimum"), 5);
  EXPECT_EQ(world.sum(2, "sum"), 2 * world.size());
}

TEST(Agreement, EveryRankThrowsWhatOneRankThrew) {
  const auto world = Communicator::world();
  const int culprit = world.size() - 1;
  try {
    world.agree(
        [&] {
          if (world.rank() == culprit) throw Error(ErrorKind::corrupt, "bad dataset", "trial.h5", "remove it");
        },
        "agreement");
    ADD_FAILURE() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::corrupt);
    EXPECT_EQ(error.where(), "trial.h5");
    EXPECT_EQ(error.hint(), "remove it");
    EXPECT_TRUE(error.on_every_rank());
    const std::string prefix = world.size() > 1 ? "[Rank " + std::to_string(culprit) + "/" + std::to_string(world.size()) + "] " : "";
    EXPECT_EQ(error.message(), prefix + "bad dataset");
  }
  world.agree([] {}, "nothing wrong");  // and the communicator still works
}

}  // namespace
}  // namespace moesweep::comm
