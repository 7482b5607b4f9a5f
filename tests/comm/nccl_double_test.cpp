// The double itself: what it must notice, it notices.
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>
#include <nccl.h>

#include "comm/nccl_double/nccl_double.hpp"

namespace moesweep::comm::nccl_double {
namespace {

class NcclDouble : public testing::Test {
 protected:
  Communicator world = Communicator::world();
  ncclComm_t comm = start();
  std::vector<double> data = std::vector<double>(100, 1.0), more = std::vector<double>(100, 2.0);

  NcclDouble() { collect_violations(); }
  ~NcclDouble() override { ncclCommAbort(comm); }

  ncclComm_t start() {
    prepare(world);
    ncclUniqueId id{};
    ncclGetUniqueId(&id);
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    ncclComm_t made = nullptr;
    EXPECT_EQ(ncclCommInitRankConfig(&made, world.size(), id, world.rank(), &config), ncclInProgress);
    settle(made);
    return made;
  }

  /// Polls until the last call is done; gives what it came to.
  static ncclResult_t settle(ncclComm_t of) {
    ncclResult_t state = ncclInProgress;
    while (state == ncclInProgress) ncclCommGetAsyncError(of, &state);
    return state;
  }

  ncclResult_t sum() { return ncclAllReduce(data.data(), data.data(), data.size(), ncclFloat64, ncclSum, comm, nullptr); }

  /// The one violation since the last look.
  static std::string noticed() {
    const auto texts = take_violations();
    return texts.empty() ? "nothing" : texts[0];
  }
};

TEST_F(NcclDouble, NothingIsNoticedWhereNothingIsWrong) {
  sum();
  EXPECT_EQ(settle(comm), ncclSuccess);
  synchronise();
  EXPECT_EQ(data[5], world.size());
  EXPECT_EQ(noticed(), "nothing");
}

TEST_F(NcclDouble, ACallBeforeTheLastOneIsDone) {
  EXPECT_EQ(sum(), ncclInProgress);
  EXPECT_EQ(sum(), ncclInvalidUsage);
  EXPECT_EQ(noticed(), "ncclAllReduce while the communicator's last call is in progress");
}

TEST_F(NcclDouble, AnEventRecordedBeforeTheCallHasReachedItsStream) {
  EXPECT_EQ(sum(), ncclInProgress);
  cudaEvent_t event = nullptr;
  cudaEventCreateWithFlags(&event, cudaEventDisableTiming);
  cudaEventRecord(event, nullptr);
  cudaEventDestroy(event);
  EXPECT_EQ(noticed(), "cudaEventRecord while a call of NCCL is in progress");
}

TEST_F(NcclDouble, ABufferOfASumTouchedUnderWay) {
  sum();
  settle(comm);
  EXPECT_NE(data[5], data[5]) << "a host that reads too early sees NaN";
  data[5] = 0.0;
  synchronise();
  EXPECT_EQ(noticed(), "a buffer was written to while its sum was under way");
}

TEST_F(NcclDouble, ASourceOrTargetOfACopyTouchedUnderWay) {
  cudaMemcpyAsync(data.data(), more.data(), 80, cudaMemcpyDeviceToDevice, nullptr);
  more[1] = 7.0;
  synchronise();
  EXPECT_EQ(noticed(), "the source of a copy was changed while it was under way");
  cudaMemcpyAsync(data.data(), more.data(), 80, cudaMemcpyDeviceToDevice, nullptr);
  data[1] = 7.0;
  synchronise();
  EXPECT_EQ(noticed(), "the target of a copy was written to while it was under way");
}

TEST_F(NcclDouble, BuffersOfAnExchangeTouchedUnderWay) {
  if (world.size() != 2) return;
  const int other = 1 - world.rank();
  for (double* touched : {data.data(), more.data()}) {
    ncclGroupStart();
    ncclSend(data.data(), 10, ncclFloat64, other, comm, nullptr);
    ncclRecv(more.data(), 10, ncclFloat64, other, comm, nullptr);
    ncclGroupEnd();
    settle(comm);
    touched[3] = 9.0;
    synchronise();
    EXPECT_EQ(noticed(), touched == data.data() ? "what is sent was changed while its exchange was under way"
                                                : "a receive buffer was written to while its exchange was under way");
  }
}

TEST_F(NcclDouble, MessagesTravelOnlyInBalancedGroups) {
  if (world.size() != 2) return;
  const int other = 1 - world.rank();
  ncclSend(data.data(), 1, ncclUint8, other, comm, nullptr);
  EXPECT_EQ(noticed(), "ncclSend outside of a group");
  EXPECT_EQ(ncclGroupEnd(), ncclInvalidUsage);
  EXPECT_EQ(noticed(), "ncclGroupEnd without ncclGroupStart");
  ncclGroupStart();
  EXPECT_EQ(ncclSend(data.data(), 1, ncclUint8, 2, comm, nullptr), ncclInvalidArgument);
  ncclSend(data.data(), 1, ncclUint8, world.rank(), comm, nullptr);
  EXPECT_EQ(noticed(), "ncclSend with the rank itself");
  ncclRecv(data.data(), 0, ncclUint8, other, comm, nullptr);
  EXPECT_EQ(noticed(), "ncclRecv of nothing");
  ncclResult_t state = ncclSuccess;
  EXPECT_EQ(ncclCommGetAsyncError(comm, &state), ncclInvalidUsage);
  EXPECT_EQ(noticed(), "ncclCommGetAsyncError in an open group");
  cudaStreamQuery(nullptr);
  EXPECT_EQ(noticed(), "cudaStreamQuery in an open group");
  EXPECT_EQ(ncclGroupEnd(), ncclSuccess);
}

TEST_F(NcclDouble, AnEndBeforeItsTime) {
  EXPECT_EQ(ncclCommDestroy(comm), ncclInvalidUsage);
  EXPECT_EQ(noticed(), "ncclCommDestroy before ncclCommFinalize is done");
  ncclCommFinalize(comm);
  settle(comm);
  sum();
  EXPECT_EQ(noticed(), "ncclAllReduce after ncclCommFinalize");
}

TEST_F(NcclDouble, RanksThatDoDifferentThings) {
  if (world.size() != 2) return;
  const auto reported = [&] {
    ncclResult_t state = ncclSuccess;
    while (state == ncclSuccess) {
      cudaStreamQuery(nullptr);
      ncclCommGetAsyncError(comm, &state);
    }
    return std::string(ncclGetLastError(comm));
  };
  // Rank 0 adds 100 numbers, rank 1 sends 40.
  if (world.rank() == 0) {
    sum();
    settle(comm);
    EXPECT_EQ(reported(), "rank 1 comes with a message of 40 elements of type 8, the 1-th; this rank with a sum of 100 elements of type 8, the 1-th");
  } else {
    ncclGroupStart();
    ncclSend(data.data(), 40, ncclFloat64, 0, comm, nullptr);
    ncclGroupEnd();
    settle(comm);
    for (int i = 0; i < 20; ++i) cudaStreamQuery(nullptr);
  }
  world.barrier("end of the test");
}

}  // namespace
}  // namespace moesweep::comm::nccl_double
