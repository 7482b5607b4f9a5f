// Communicators and the contract of transports, on 1, 2 and 3 ranks.
#include <gtest/gtest.h>

#include <numeric>

#include "moesweep/comm/grid.hpp"
#include "moesweep/comm/mpi.hpp"
#include "moesweep/comm/transport.hpp"
#include "moesweep/core/error.hpp"

namespace moesweep::comm {
namespace {

class TransportContract : public testing::Test {
 protected:
  Communicator world = Communicator::world();
  std::unique_ptr<Transport> transport = make_transport(world);
  int rank = world.rank(), size = world.size();
};

TEST_F(TransportContract, SumsEveryTypeInPlace) {
  std::vector<double> f64(1000);
  std::vector<float> f32(1000);
  std::vector<std::int64_t> i64(1000);
  for (std::size_t i = 0; i < 1000; ++i) {
    f64[i] = static_cast<double>(rank + 1) * static_cast<double>(i);
    f32[i] = static_cast<float>(rank + 1);
    i64[i] = static_cast<std::int64_t>(i) << 40;
  }
  transport->all_reduce_sum(f64.data(), f64.size(), DType::f64, "f64");
  transport->all_reduce_sum(f32.data(), f32.size(), DType::f32, "f32");
  transport->all_reduce_sum(i64.data(), i64.size(), DType::i64, "i64");
  const double triangle = size * (size + 1) / 2.0;
  for (std::size_t i = 0; i < 1000; ++i) {
    EXPECT_EQ(f64[i], triangle * static_cast<double>(i));
    EXPECT_EQ(f32[i], static_cast<float>(triangle));
    EXPECT_EQ(i64[i], static_cast<std::int64_t>(i) * size << 40);
  }
}

TEST_F(TransportContract, StartedSumsArriveInAnyOrderOfWaiting) {
  std::vector<double> a(5, rank), b(7, 1.0);
  Pending first = transport->start_all_reduce_sum(a.data(), a.size(), DType::f64, "a");
  Pending second = transport->start_all_reduce_sum(b.data(), b.size(), DType::f64, "b");
  second.wait();
  first.wait();
  EXPECT_EQ(a[4], size * (size - 1) / 2.0);
  EXPECT_EQ(b[6], size);
}

TEST_F(TransportContract, NothingToSumIsFine) {
  transport->all_reduce_sum(nullptr, 0, DType::f64, "nothing");
  transport->start_all_reduce_sum(nullptr, 0, DType::f32, "nothing").wait();
}

TEST_F(TransportContract, SumsAreBitwiseEqualOnEveryRank) {
  std::vector<double> values(257);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = 0.1 * (rank + 1) + 1e-17 * static_cast<double>(i);
  transport->all_reduce_sum(values.data(), values.size(), DType::f64, "values");
  const auto all = transport->all_gather(std::as_bytes(std::span(values)), "comparison");
  for (const auto& other : all) EXPECT_EQ(other, all[0]);
}

TEST_F(TransportContract, GathersDifferentSizesInRankOrder) {
  const std::vector<std::byte> mine(static_cast<std::size_t>(rank) * 3, std::byte{7});
  const auto all = transport->all_gather(mine, "gather");
  ASSERT_EQ(all.size(), static_cast<std::size_t>(size));
  for (std::size_t r = 0; r < all.size(); ++r) EXPECT_EQ(all[r].size(), r * 3);
}

TEST_F(TransportContract, AnyIsTrueWhenOneRankSaysSo) {
  EXPECT_TRUE(transport->any(rank == size - 1, "any"));
  EXPECT_FALSE(transport->any(false, "any"));
}

/// What rank `from` sends to rank `to`: (from + to) % 3 kilobytes of a byte that tells both.
std::vector<std::byte> message(int from, int to) {
  return std::vector<std::byte>(static_cast<std::size_t>((from + to) % 3) * 1000, static_cast<std::byte>(16 * from + to));
}

TEST_F(TransportContract, AnExchangeBringsEachPartToItsRank) {
  std::vector<std::vector<std::byte>> mine, theirs;
  std::vector<Part> send, receive;
  for (int r = 0; r < size; ++r) {
    mine.push_back(message(rank, r));
    theirs.emplace_back(message(r, rank).size());
  }
  for (std::size_t r = 0; r < mine.size(); ++r) {
    send.push_back({mine[r].data(), mine[r].size()});
    receive.push_back({theirs[r].data(), theirs[r].size()});
  }
  Pending pending = transport->start_exchange(send, receive, "exchange");
  send.clear();
  pending.wait();
  for (int r = 0; r < size; ++r) EXPECT_EQ(theirs[static_cast<std::size_t>(r)], message(r, rank)) << r;
}

TEST_F(TransportContract, ExchangesUnderWayDoNotMix) {
  const auto ranks = static_cast<std::size_t>(size);
  constexpr int kExchanges = 5;
  std::vector<std::vector<double>> mine(kExchanges), theirs(kExchanges);
  std::vector<Pending> pending;
  for (int i = 0; i < kExchanges; ++i) {
    const std::size_t each = i % 2 == 0 ? 100000 : 1;  // large and small ones take different ways
    mine[i].assign(each * ranks, 100.0 * i + rank);
    theirs[i].assign(each * ranks, -1.0);
    std::vector<Part> send, receive;
    for (std::size_t r = 0; r < ranks; ++r) {
      send.push_back({mine[i].data() + r * each, each * sizeof(double)});
      receive.push_back({theirs[i].data() + r * each, each * sizeof(double)});
    }
    pending.push_back(transport->start_exchange(send, receive, "exchange"));
  }
  for (int i = kExchanges - 1; i >= 0; --i) {
    pending[static_cast<std::size_t>(i)].wait();
    const std::size_t each = theirs[i].size() / ranks;
    for (std::size_t e = 0; e < theirs[i].size(); ++e) EXPECT_EQ(theirs[i][e], 100.0 * i + static_cast<double>(e / each));
  }
}

TEST_F(TransportContract, NothingToExchangeIsFine) {
  const std::vector<Part> nothing(static_cast<std::size_t>(size));
  transport->start_exchange(nothing, nothing, "nothing").wait();
}

TEST_F(TransportContract, CountsForEachRankArriveByRank) {
  std::vector<std::int64_t> counts;
  for (int r = 0; r < size; ++r) counts.insert(counts.end(), {10 * rank + r, -1});
  const auto received = transport->exchange_counts(counts, "counts");
  ASSERT_EQ(received.size(), counts.size());
  for (int r = 0; r < size; ++r) {
    EXPECT_EQ(received[static_cast<std::size_t>(2 * r)], 10 * r + rank);
    EXPECT_EQ(received[static_cast<std::size_t>(2 * r) + 1], -1);
  }
}

TEST_F(TransportContract, APartOfAnotherSizeIsAnError) {
  if (size != 2) return;
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
