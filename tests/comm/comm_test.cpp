// Communicators and the contract of transports, on 1, 2 and 3 ranks.
#include <gtest/gtest.h>

#include <numeric>

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
