// Shards: parsing, and that dealing is complete, balanced and independent of order.
#include "moesweep/plan/shard.hpp"

#include <gtest/gtest.h>

#include <algorithm>

#include "moesweep/core/error.hpp"

namespace moesweep::plan {
namespace {

TEST(Shard, ParsesIndexAndCount) {
  const Shard shard = parse_shard("3/16");
  EXPECT_EQ(shard.index, 3);
  EXPECT_EQ(shard.count, 16);
}

TEST(Shard, RefusesWhatIsNone) {
  for (const char* text :
       {"", "1", "/", "1/", "/2", "2/2", "-1/2", "0/0", "1/2x", " 1/2", "a/b", "0/2/3", "99999999999999999999/3", "0/100001", "0/100000000000"}) {
    try {
      parse_shard(text);
      ADD_FAILURE() << "'" << text << "' was taken";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::usage) << text;
      EXPECT_NE(error.hint().find("i from 0 to n-1"), std::string::npos);
    }
  }
}

TEST(Shard, DealsLargestFirstInTurnWhateverTheOrder) {
  std::vector<Job> jobs{{"a", 1, 1}, {"b", 2, 3}, {"c", 1, 5}, {"d", 1, 5}};  // b costs 6 rank-seconds
  EXPECT_EQ(shards_of(jobs, 2), (std::vector<std::int64_t>{1, 0, 1, 0}));
  std::ranges::reverse(jobs);
  EXPECT_EQ(shards_of(jobs, 2), (std::vector<std::int64_t>{0, 1, 0, 1}));
  EXPECT_EQ(shards_of(jobs, 1), (std::vector<std::int64_t>(4, 0)));
}

TEST(Shard, MoreShardsThanJobsLeavesSomeEmpty) {
  const std::vector<Job> jobs{{"a", 1, 1}};
  EXPECT_EQ(shards_of(jobs, 3), (std::vector<std::int64_t>{0}));
}

}  // namespace
}  // namespace moesweep::plan
