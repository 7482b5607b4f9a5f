// The nccl transport over the double of NCCL: the contract of transports, and what only NCCL brings.
#include <gtest/gtest.h>

#include <cstdlib>

#include "comm/nccl_double/nccl_double.hpp"
#include "moesweep/comm/nccl.hpp"
#include "moesweep/core/error.hpp"
#include "transport_contract.hpp"

namespace moesweep::comm {

namespace {
/// Host memory that is reached only behind everything that is under way, as a copy from or to a device is.
Memory behind_the_stream() {
  Memory memory = host_memory();
  memory.write = memory.read = [](void* to, const void* from, std::size_t bytes) {
    nccl_double::synchronise();
    copy_bytes(to, from, bytes);
  };
  memory.write = copy_bytes;  // into fresh memory, which nothing under way knows of
  memory.release = [](void* data) {
    nccl_double::synchronise();
    ::operator delete(data);
  };
  return memory;
}
}  // namespace

std::vector<Implementation> implementations() {
  return {{"nccl_for_the_host", nccl_double::make_transport, host_memory()},
          {"nccl", [](const Communicator& c) { return nccl_double::make_stream_ordered_transport(c); }, behind_the_stream()},
          {"nccl_on_a_stream", [](const Communicator& c) { return nccl_double::make_stream_ordered_transport(c, true); }, behind_the_stream()}};
}

namespace {

class NcclTransports : public testing::Test {
 protected:
  Communicator world = Communicator::world();
  int rank = world.rank(), size = world.size();
};

TEST_F(NcclTransports, WaitDoesNotSynchroniseUnlessAsked) {
  std::vector<double> data(100, 1.0);
  {
    const auto transport = nccl_double::make_stream_ordered_transport(world);
    transport->start_all_reduce_sum(data.data(), data.size(), DType::f64, "sum").wait();
    EXPECT_NE(data[0], data[0]) << "the sum was there without a synchronisation, or its buffer was not";
    nccl_double::synchronise();
    EXPECT_EQ(data[0], size);
  }
  data.assign(100, 1.0);
  nccl_double::make_transport(world)->start_all_reduce_sum(data.data(), data.size(), DType::f64, "sum").wait();
  EXPECT_EQ(data[0], size);
}

TEST_F(NcclTransports, WorkGoesToTheStreamThatTheCallerNames) {
  std::vector<double> data(100, 1.0), more(100);
  const auto ranks = static_cast<std::size_t>(size), me = static_cast<std::size_t>(rank);
  for (const bool other : {false, true}) {
    const auto transport = nccl_double::make_stream_ordered_transport(world, other);
    Pending sum = transport->start_all_reduce_sum(data.data(), data.size(), DType::f64, "sum");
    EXPECT_TRUE(nccl_double::is_idle(!other));
    EXPECT_FALSE(nccl_double::is_idle(other));
    sum.wait();
    transport->barrier("end of the sum");
    EXPECT_TRUE(nccl_double::is_idle(other));
    std::vector<Part> send(ranks), receive(ranks);
    send[me] = {data.data(), 800};
    receive[me] = {more.data(), 800};
    Pending own = transport->start_exchange(send, receive, "own part");
    EXPECT_TRUE(nccl_double::is_idle(!other));
    EXPECT_FALSE(nccl_double::is_idle(other));
    own.wait();
    transport->barrier("end of the copy");
  }
}

TEST_F(NcclTransports, TheEndOfATransportFlushesIt) {
  std::vector<double> data(100, 1.0);
  {
    const auto transport = nccl_double::make_stream_ordered_transport(world);
    transport->start_all_reduce_sum(data.data(), data.size(), DType::f64, "sum").wait();
  }
  nccl_double::synchronise();
  EXPECT_EQ(data[0], size);
}

TEST_F(NcclTransports, OneGroupPerExchangeAndOnlyRemoteBytesTravel) {
  const auto transport = nccl_double::make_transport(world);
  const auto ranks = static_cast<std::size_t>(size);
  std::vector<double> mine(ranks * 8), theirs(ranks * 8);
  std::vector<Part> send, receive;
  for (std::size_t r = 0; r < ranks; ++r) {
    send.push_back({mine.data() + 8 * r, 64});
    receive.push_back({theirs.data() + 8 * r, 64});
  }
  const auto before = nccl_double::traffic();
  transport->start_exchange(send, receive, "exchange").wait();
  const auto after = nccl_double::traffic();
  EXPECT_EQ(after.groups - before.groups, size > 1 ? 1 : 0);
  EXPECT_EQ(after.sent_bytes - before.sent_bytes, 64 * (size - 1));
}

TEST_F(NcclTransports, UnwindingAbortsAndLeavesNobodyWaiting) {
  // Every rank throws with a sum under way that no rank completes; new transports then work.
  std::vector<double> data(100, 1.0);
  try {
    const auto transport = nccl_double::make_stream_ordered_transport(world);
    nccl_double::set_fault(nccl_double::Fault::hang);
    Pending pending = transport->start_all_reduce_sum(data.data(), data.size(), DType::f64, "sum");
    throw Error(ErrorKind::data, "something else went wrong");
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::data);
  }
  nccl_double::set_fault(nccl_double::Fault::none);
  data.assign(100, 1.0);
  nccl_double::make_transport(world)->all_reduce_sum(data.data(), data.size(), DType::f64, "sum");
  EXPECT_EQ(data[99], size);
}

TEST_F(NcclTransports, ARefusedCallIsAnErrorWithItsNameReasonAndCollective) {
  std::vector<double> data(10, 1.0), more(10);
  for (const bool exchange : {false, true}) {
    if (exchange && size == 1) continue;
    try {
      const auto transport = nccl_double::make_transport(world);
      nccl_double::set_fault(nccl_double::Fault::call_error);
      if (!exchange) transport->all_reduce_sum(data.data(), data.size(), DType::f64, "refused collective");
      std::vector<Part> send(static_cast<std::size_t>(size)), receive(send);
      send[static_cast<std::size_t>((rank + 1) % size)] = {data.data(), 8};
      receive[static_cast<std::size_t>((rank + size - 1) % size)] = {more.data(), 8};
      transport->start_exchange(send, receive, "refused collective").wait();
      ADD_FAILURE() << "nothing was thrown";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::mpi);
      EXPECT_EQ(error.message(), std::string(exchange ? "ncclGroupEnd" : "ncclAllReduce") +
                                     " failed in the collective 'refused collective': invalid argument (an error on demand)");
    }
  }
  nccl_double::set_fault(nccl_double::Fault::none);
}

TEST_F(NcclTransports, AFailedStartIsAnError) {
  for (const auto fault : {nccl_double::Fault::init_error, nccl_double::Fault::init_later_error}) {
    nccl_double::set_fault(fault);
    try {
      nccl_double::make_transport(world);
      ADD_FAILURE() << "nothing was thrown";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::mpi);
      EXPECT_NE(error.message().find("ncclCommInitRankConfig failed in the collective 'start of NCCL': unhandled system error"), std::string::npos)
          << error.message();
    }
  }
  nccl_double::set_fault(nccl_double::Fault::none);
}

TEST_F(NcclTransports, GpusAreChosenByTheRankOnTheNode) {
  EXPECT_EQ(choose_device(world), rank % 8);
  nccl_double::set_device_count(2);
  EXPECT_EQ(choose_device(world), rank % 2);
  // One rank sees none: all ranks hear of it.
  if (rank == size - 1) nccl_double::set_device_count(0);
  try {
    choose_device(world);
    ADD_FAILURE() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::config);
    EXPECT_TRUE(error.on_every_rank());
    EXPECT_NE(error.message().find("sees no GPU: no CUDA-capable device is detected"), std::string::npos) << error.message();
    EXPECT_FALSE(error.hint().empty());
  }
  nccl_double::set_device_count(8);
  choose_device(world);
}

TEST_F(NcclTransports, VersionsAndDevicesAreDescribed) {
  EXPECT_TRUE(nccl_is_built());
  nccl_double::set_device_count(1);
  EXPECT_EQ(describe_nccl(),
            (std::vector<std::string>{"NCCL 2.27.7 (built with 2.27.7)", "GPU 0: double of a GPU, 1.0 GiB, compute capability 9.0"}));
  nccl_double::set_device_count(0);
  EXPECT_EQ(describe_nccl()[1], "no GPU: no CUDA-capable device is detected");
  nccl_double::set_device_count(8);
}

TEST_F(NcclTransports, MoreThanTwoGibibytesTravelAtOnce) {
  const char* full = std::getenv("MOESWEEP_FULL");
  if (full == nullptr || std::string(full) != "1" || size > 2) GTEST_SKIP() << "takes 9 GB of memory: only with --full, on 1 and 2 ranks";
  // One way only: rank 0 sends, the last rank receives (itself, when it is alone).
  constexpr std::size_t kBytes = (std::size_t{1} << 31) + 24;
  const auto transport = nccl_double::make_transport(world);
  std::vector<std::uint8_t> from(rank == 0 ? kBytes : 0, 3), to(rank == size - 1 ? kBytes : 0);
  std::vector<Part> send(static_cast<std::size_t>(size)), receive(send);
  if (rank == 0) {
    from[kBytes - 1] = 5;
    send[static_cast<std::size_t>(size - 1)] = {from.data(), kBytes};
  }
  if (rank == size - 1) receive[0] = {to.data(), kBytes};
  transport->start_exchange(send, receive, "large exchange").wait();
  if (rank != size - 1) return;
  EXPECT_EQ(to[0], 3);
  EXPECT_EQ(to[kBytes - 2], 3);
  EXPECT_EQ(to[kBytes - 1], 5);
}

}  // namespace
}  // namespace moesweep::comm
