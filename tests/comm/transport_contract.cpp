// The contract of transports: include/moesweep/comm/transport.hpp.
#include "transport_contract.hpp"

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>

#include "moesweep/core/error.hpp"

namespace moesweep::comm {
namespace {

/// Values in the transport's memory.
template <typename T>
class Buffer {
 public:
  Buffer(const Memory& memory, const std::vector<T>& values) : memory_(&memory), count_(values.size()), data_(memory.allocate(bytes())) {
    memory.write(data_, values.data(), bytes());
  }
  Buffer(const Memory& memory, std::size_t count, T value) : Buffer(memory, std::vector<T>(count, value)) {}
  Buffer(Buffer&& other) noexcept : memory_(other.memory_), count_(other.count_), data_(std::exchange(other.data_, nullptr)) {}
  ~Buffer() {
    if (data_ != nullptr) memory_->release(data_);
  }
  T* data() const { return static_cast<T*>(data_); }
  std::size_t size() const { return count_; }
  std::size_t bytes() const { return count_ * sizeof(T); }
  std::vector<T> values() const {
    std::vector<T> result(count_);
    memory_->read(result.data(), data_, bytes());
    return result;
  }
  /// A part of `count` values from `first` on.
  Part part(std::size_t first, std::size_t count) const { return {data() + first, count * sizeof(T)}; }
  Part part() const { return {data_, bytes()}; }

 private:
  const Memory* memory_;
  std::size_t count_;
  void* data_;
};

class TransportContract : public testing::TestWithParam<Implementation> {
 protected:
  const Memory& memory = GetParam().memory;
  Communicator world = Communicator::world();
  std::unique_ptr<Transport> transport = GetParam().make(world);
  int rank = transport->rank(), size = transport->size();
  std::size_t me = static_cast<std::size_t>(rank), ranks = static_cast<std::size_t>(size);

  template <typename T>
  Buffer<T> buffer(const std::vector<T>& values) {
    return {memory, values};
  }
  template <typename T>
  Buffer<T> buffer(std::size_t count, T value) {
    return {memory, count, value};
  }

  template <typename T>
  void expect_sum(DType type, T unit) {
    std::vector<T> mine, sum;
    for (std::size_t i = 0; i < 1000; ++i) {
      mine.push_back(static_cast<T>(unit * static_cast<T>(i % 100) * static_cast<T>(rank + 1)));
      sum.push_back(static_cast<T>(unit * static_cast<T>(i % 100) * static_cast<T>(size * (size + 1) / 2)));
    }
    const auto data = buffer(mine);
    transport->all_reduce_sum(data.data(), data.size(), type, "sum");
    EXPECT_EQ(data.values(), sum) << name_of(type);
  }
};

TEST_P(TransportContract, RanksAreThoseOfTheCommunicatorOrOne) {
  EXPECT_TRUE(size == world.size() || size == 1);
  EXPECT_EQ(rank, size == 1 ? 0 : world.rank());
  EXPECT_EQ(transport->host().rank(), rank);
  EXPECT_EQ(transport->host().size(), size);
}

TEST_P(TransportContract, SumsEveryTypeInPlace) {
  expect_sum<double>(DType::f64, 0.5);
  expect_sum<float>(DType::f32, 0.25F);
  expect_sum<std::int64_t>(DType::i64, std::int64_t{1} << 40);
  expect_sum<std::int32_t>(DType::i32, 1 << 10);
}

TEST_P(TransportContract, OtherTypesAreNotSummed) {
  if (size == 1 && GetParam().name == "local") return;  // which has nothing to add
  const auto data = buffer<std::uint8_t>(8, 0);
  EXPECT_THROW(transport->all_reduce_sum(data.data(), 4, DType::bf16, "sum"), Error);
  EXPECT_THROW(transport->all_reduce_sum(data.data(), 8, DType::u8, "sum"), Error);
}

TEST_P(TransportContract, StartedSumsArriveInAnyOrderOfWaiting) {
  const auto a = buffer<double>(5, rank), b = buffer<double>(7, 1.0);
  Pending first = transport->start_all_reduce_sum(a.data(), a.size(), DType::f64, "a");
  Pending second = transport->start_all_reduce_sum(b.data(), b.size(), DType::f64, "b");
  second.wait();
  first.wait();
  EXPECT_EQ(a.values()[4], size * (size - 1) / 2.0);
  EXPECT_EQ(b.values()[6], size);
}

TEST_P(TransportContract, NothingToSumIsFine) {
  transport->all_reduce_sum(nullptr, 0, DType::f64, "nothing");
  transport->start_all_reduce_sum(nullptr, 0, DType::f32, "nothing").wait();
}

TEST_P(TransportContract, SumsAreBitwiseEqualOnEveryRank) {
  std::vector<double> values(257);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = 0.1 * (rank + 1) + 1e-17 * static_cast<double>(i);
  const auto data = buffer(values);
  transport->all_reduce_sum(data.data(), data.size(), DType::f64, "values");
  values = data.values();
  const auto all = transport->all_gather(std::as_bytes(std::span(values)), "comparison");
  for (const auto& other : all) EXPECT_EQ(other, all[0]);
}

TEST_P(TransportContract, HostNumbersAreSummed) {
  EXPECT_EQ(transport->all_reduce_sum(rank + 0.5, "number"), size * (size - 1) / 2.0 + 0.5 * size);
  EXPECT_EQ(transport->all_reduce_sum(std::int64_t{1} << 40, "number"), (std::int64_t{1} << 40) * size);
}

TEST_P(TransportContract, GathersDifferentSizesInRankOrder) {
  const std::vector<std::byte> mine(me * 3, std::byte{7});
  const auto all = transport->all_gather(mine, "gather");
  ASSERT_EQ(all.size(), ranks);
  for (std::size_t r = 0; r < all.size(); ++r) EXPECT_EQ(all[r].size(), r * 3);
}

TEST_P(TransportContract, AnyIsTrueWhenOneRankSaysSo) {
  EXPECT_TRUE(transport->any(rank == size - 1, "any"));
  EXPECT_FALSE(transport->any(false, "any"));
}

/// What rank `from` sends to rank `to`: (from + to) % 3 kilobytes of a byte that tells both.
std::vector<std::uint8_t> message(int from, int to) {
  return std::vector<std::uint8_t>(static_cast<std::size_t>((from + to) % 3) * 1000, static_cast<std::uint8_t>(16 * from + to));
}

TEST_P(TransportContract, AnExchangeBringsEachPartToItsRank) {
  std::vector<Buffer<std::uint8_t>> mine, theirs;
  std::vector<Part> send, receive;
  for (int r = 0; r < size; ++r) {
    mine.push_back(buffer(message(rank, r)));
    theirs.push_back(buffer<std::uint8_t>(message(r, rank).size(), 1));
    send.push_back(mine.back().part());
    receive.push_back(theirs.back().part());
  }
  Pending pending = transport->start_exchange(send, receive, "exchange");
  send.clear();
  receive.clear();
  pending.wait();
  for (int r = 0; r < size; ++r) EXPECT_EQ(theirs[static_cast<std::size_t>(r)].values(), message(r, rank)) << r;
}

TEST_P(TransportContract, APartMayLieInAnyPlaceOfABuffer) {
  // One buffer, cut in unequal pieces of single bytes: rank r gives r + 1 bytes to everybody.
  const std::size_t each = me + 1;
  std::vector<std::uint8_t> values;
  for (std::size_t r = 0; r < ranks; ++r) values.insert(values.end(), each, static_cast<std::uint8_t>(10 * me + r));
  const auto mine = buffer(values);
  const auto theirs = buffer<std::uint8_t>(ranks * (ranks + 1) / 2, 0);
  std::vector<Part> send, receive;
  for (std::size_t r = 0; r < ranks; ++r) {
    send.push_back(mine.part(r * each, each));
    receive.push_back(theirs.part(r * (r + 1) / 2, r + 1));
  }
  transport->start_exchange(send, receive, "exchange").wait();
  const auto received = theirs.values();
  for (std::size_t r = 0, at = 0; r < ranks; ++r)
    for (std::size_t i = 0; i <= r; ++i) EXPECT_EQ(received[at++], 10 * r + me);
}

TEST_P(TransportContract, AllMaySendToOneRank) {
  for (std::size_t target = 0; target < ranks; ++target) {
    const auto mine = buffer<double>(300, rank + 1.0);
    const auto theirs = buffer<double>(me == target ? 300 * ranks : 0, -1.0);
    std::vector<Part> send(ranks), receive(ranks);
    send[target] = mine.part();
    if (me == target)
      for (std::size_t r = 0; r < ranks; ++r) receive[r] = theirs.part(300 * r, 300);
    transport->start_exchange(send, receive, "all to one").wait();
    const auto received = theirs.values();
    for (std::size_t i = 0; i < received.size(); ++i) EXPECT_EQ(received[i], static_cast<double>(i / 300 + 1));
  }
}

TEST_P(TransportContract, AnOwnPartMayStayInItsPlace) {
  const auto data = buffer<double>(4, rank + 1.0);
  std::vector<Part> send(ranks), receive(ranks);
  send[me] = receive[me] = data.part();
  transport->start_exchange(send, receive, "own part").wait();
  EXPECT_EQ(data.values(), std::vector<double>(4, rank + 1.0));
}

TEST_P(TransportContract, AnOwnPartOfTwoSizesIsAnError) {
  const auto mine = buffer<double>(4, 0.0), theirs = buffer<double>(4, 0.0);
  std::vector<Part> send(ranks), receive(ranks);
  send[me] = mine.part(0, 3);
  receive[me] = theirs.part();
  try {
    transport->start_exchange(send, receive, "own part").wait();
    ADD_FAILURE() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::mpi);
    EXPECT_NE(error.message().find("own part"), std::string::npos) << error.message();
  }
  transport->barrier("behind the error");
}

TEST_P(TransportContract, ExchangesUnderWayDoNotMix) {
  constexpr int kExchanges = 5;
  std::vector<Buffer<double>> mine, theirs;
  std::vector<Pending> pending;
  for (int i = 0; i < kExchanges; ++i) {
    const std::size_t each = i % 2 == 0 ? 100000 : 1;  // large and small ones take different ways
    mine.push_back(buffer<double>(each * ranks, 100.0 * i + rank));
    theirs.push_back(buffer<double>(each * ranks, -1.0));
    std::vector<Part> send, receive;
    for (std::size_t r = 0; r < ranks; ++r) {
      send.push_back(mine.back().part(r * each, each));
      receive.push_back(theirs.back().part(r * each, each));
    }
    pending.push_back(transport->start_exchange(send, receive, "exchange"));
  }
  for (int i = kExchanges - 1; i >= 0; --i) {
    pending[static_cast<std::size_t>(i)].wait();
    const auto received = theirs[static_cast<std::size_t>(i)].values();
    const std::size_t each = received.size() / ranks;
    for (std::size_t e = 0; e < received.size(); ++e) ASSERT_EQ(received[e], 100.0 * i + static_cast<double>(e / each));
  }
}

TEST_P(TransportContract, SumsAndExchangesUnderWayDoNotMix) {
  std::vector<Buffer<double>> sums, mine, theirs;
  std::vector<Pending> pending;
  for (int i = 0; i < 6; ++i) {
    sums.push_back(buffer<double>(50, i + rank));
    mine.push_back(buffer<double>(ranks, 10.0 * i + rank));
    theirs.push_back(buffer<double>(ranks, -1.0));
    pending.push_back(transport->start_all_reduce_sum(sums.back().data(), 50, DType::f64, "sum"));
    std::vector<Part> send, receive;
    for (std::size_t r = 0; r < ranks; ++r) {
      send.push_back(mine.back().part(r, 1));
      receive.push_back(theirs.back().part(r, 1));
    }
    pending.push_back(transport->start_exchange(send, receive, "exchange"));
    if (i == 3) transport->exchange_counts(std::vector<std::int64_t>(ranks, i), "counts in between");
  }
  for (Pending& one : pending) one.wait();
  for (int i = 0; i < 6; ++i) {
    EXPECT_EQ(sums[static_cast<std::size_t>(i)].values(), std::vector<double>(50, i * size + size * (size - 1) / 2.0));
    for (std::size_t r = 0; r < ranks; ++r) EXPECT_EQ(theirs[static_cast<std::size_t>(i)].values()[r], 10.0 * i + static_cast<double>(r));
  }
}

TEST_P(TransportContract, WhatComesBehindAWaitSeesTheResult) {
  // Received numbers are sent on, then summed, each behind the wait of the one before and without a look by the host.
  const auto first = buffer<double>(ranks, rank + 1.0), second = buffer<double>(ranks, -1.0), third = buffer<double>(ranks, -1.0);
  const auto exchange = [&](const Buffer<double>& from, const Buffer<double>& to) {
    std::vector<Part> send, receive;
    for (std::size_t r = 0; r < ranks; ++r) {
      send.push_back(from.part(r, 1));
      receive.push_back(to.part(r, 1));
    }
    transport->start_exchange(send, receive, "chain").wait();
  };
  exchange(first, second);  // rank r's element s is s + 1
  exchange(second, third);  // and now r + 1 again
  transport->all_reduce_sum(third.data(), ranks, DType::f64, "chain");
  EXPECT_EQ(third.values(), std::vector<double>(ranks, size * (size + 1) / 2.0));
}

TEST_P(TransportContract, NothingToExchangeIsFine) {
  const std::vector<Part> nothing(ranks);
  transport->start_exchange(nothing, nothing, "nothing").wait();
}

TEST_P(TransportContract, ABarrierMayComeAtAnyTime) {
  transport->barrier("first");
  const auto data = buffer<double>(1000, 1.0);
  Pending pending = transport->start_all_reduce_sum(data.data(), data.size(), DType::f64, "sum");
  transport->barrier("in between");
  pending.wait();
  EXPECT_EQ(data.values(), std::vector<double>(1000, size));
}

TEST_P(TransportContract, CountsForEachRankArriveByRank) {
  std::vector<std::int64_t> counts;
  for (int r = 0; r < size; ++r) counts.insert(counts.end(), {10 * rank + r, -1});
  const auto received = transport->exchange_counts(counts, "counts");
  ASSERT_EQ(received.size(), counts.size());
  for (int r = 0; r < size; ++r) {
    EXPECT_EQ(received[static_cast<std::size_t>(2 * r)], 10 * r + rank);
    EXPECT_EQ(received[static_cast<std::size_t>(2 * r) + 1], -1);
  }
}

TEST_P(TransportContract, TwoTransportsOfTheSameRanksDoNotMix) {
  const auto group = world.duplicate();
  const auto other = GetParam().make(group);
  const auto a = buffer<double>(10, 1.0), b = buffer<double>(20, 2.0);
  Pending first = transport->start_all_reduce_sum(a.data(), 10, DType::f64, "a");
  Pending second = other->start_all_reduce_sum(b.data(), 20, DType::f64, "b");
  second.wait();
  first.wait();
  EXPECT_EQ(a.values(), std::vector<double>(10, size));
  EXPECT_EQ(b.values(), std::vector<double>(20, 2.0 * size));
}

TEST_P(TransportContract, GroupsOfAGridWorkSideBySide) {
  if (size != world.size()) return;
  for (int experts = 1; experts <= size; ++experts) {
    if (size % experts != 0) continue;
    Grid grid(world, experts, GetParam().make);
    const auto value = buffer<double>(1, rank + 1.0);
    // The sum over both groups is the sum over all.
    grid.experts().all_reduce_sum(value.data(), 1, DType::f64, "experts");
    grid.copies().all_reduce_sum(value.data(), 1, DType::f64, "copies");
    grid.all().barrier("grid");
    EXPECT_EQ(value.values()[0], size * (size + 1) / 2.0) << experts;
  }
}

TEST_P(TransportContract, AnUnusedTransportEnds) { EXPECT_NE(transport, nullptr); }

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(TransportContract);  // a machine without a GPU has none to run
INSTANTIATE_TEST_SUITE_P(Transports, TransportContract, testing::ValuesIn(implementations()), [](const auto& it) { return it.param.name; });

}  // namespace
}  // namespace moesweep::comm
