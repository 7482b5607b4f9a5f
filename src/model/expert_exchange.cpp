// See expert_exchange.hpp.
#include "expert_exchange.hpp"

#include <ATen/ATen.h>

#include <chrono>
#include <cstring>
#include <numeric>

#include "moesweep/core/error.hpp"

namespace moesweep::model {

namespace {

using Clock = std::chrono::steady_clock;

/// Adds the time since its last call, or since it was made.
class Lap {
 public:
  void add_to(double& seconds) {
    const auto now = Clock::now();
    seconds += std::chrono::duration<double>(now - last_).count();
    last_ = now;
  }

 private:
  Clock::time_point last_ = Clock::now();
};

std::int64_t sum(const std::vector<std::int64_t>& values) { return std::accumulate(values.begin(), values.end(), std::int64_t{0}); }

/// Rows [from_row, from_row + count) of one contiguous matrix to those at to_row of another.
void copy_rows(const at::Tensor& from, std::int64_t from_row, const at::Tensor& to, std::int64_t to_row, std::int64_t count) {
  if (count == 0) return;
  if (!from.is_cpu()) {
    to.narrow(0, to_row, count).copy_(from.narrow(0, from_row, count), /*non_blocking=*/true);
    return;
  }
  const std::size_t row = static_cast<std::size_t>(from.size(1)) * from.element_size();
  std::memcpy(static_cast<std::byte*>(to.data_ptr()) + static_cast<std::size_t>(to_row) * row,
              static_cast<const std::byte*>(from.const_data_ptr()) + static_cast<std::size_t>(from_row) * row, static_cast<std::size_t>(count) * row);
}

}  // namespace

ExpertExchange::ExpertExchange(comm::Transport& transport, const std::vector<std::int64_t>& start, ExpertWork* work)
    : transport_(&transport),
      work_(work),
      ranks_(static_cast<std::size_t>(transport.size())),
      me_(static_cast<std::size_t>(transport.rank())),
      mine_((start.size() - 1) / ranks_) {
  const std::size_t experts = start.size() - 1;
  MOESWEEP_ASSERT(mine_ * ranks_ == experts, "each rank holds as many experts");
  if (ranks_ == 1) {
    start_ = start;
    return;
  }
  Lap lap;
  std::vector<std::int64_t> counts(experts);
  for (std::size_t e = 0; e < experts; ++e) counts[e] = start[e + 1] - start[e];
  count_ = transport.exchange_counts(counts, "rows for each expert");
  lap.add_to(work_->wait);
  for (std::size_t r = 0; r < ranks_; ++r) {
    sent_.push_back(start[(r + 1) * mine_] - start[r * mine_]);
    received_.push_back(std::accumulate(count_.begin() + static_cast<std::ptrdiff_t>(r * mine_),
                                        count_.begin() + static_cast<std::ptrdiff_t>((r + 1) * mine_), std::int64_t{0}));
  }
  own_first_ = start[me_ * mine_];
  place_.resize(experts);
  start_.assign(1, 0);
  for (std::size_t e = 0; e < mine_; ++e) {
    std::int64_t next = start_.back();
    for (std::size_t r = 0; r < ranks_; ++r) {
      place_[r * mine_ + e] = next;
      next += count_[r * mine_ + e];
    }
    start_.push_back(next);
  }
}

template <class Copy>
void ExpertExchange::for_each_piece(std::size_t rank, Copy&& copy) const {
  for (std::size_t e = 0; e < mine_; ++e) copy(place_[rank * mine_ + e], count_[rank * mine_ + e]);
}

comm::Pending ExpertExchange::begin(const at::Tensor& from, const std::vector<std::int64_t>& send, const at::Tensor& to,
                                    const std::vector<std::int64_t>& receive, const char* what) const {
  const auto row_bytes = static_cast<std::size_t>(from.size(1)) * from.element_size();
  // One rank's rows behind the other's; this rank's own do not travel.
  const auto parts = [&](const at::Tensor& buffer, const std::vector<std::int64_t>& counts) {
    const bool with_own = buffer.size(0) == sum(counts);
    std::vector<comm::Part> all;
    auto* data = static_cast<std::byte*>(buffer.data_ptr());
    for (std::size_t r = 0; r < ranks_; ++r) {
      const std::size_t bytes = static_cast<std::size_t>(counts[r]) * row_bytes;
      all.push_back({data, r == me_ ? 0 : bytes});
      if (r != me_ || with_own) data += bytes;
    }
    return all;
  };
  work_->bytes_sent += (sum(send) - send[me_]) * static_cast<std::int64_t>(row_bytes);
  return transport_->start_exchange(parts(from, send), parts(to, receive), what);
}

void ExpertExchange::wait(comm::Pending& pending) const {
  Lap lap;
  pending.wait();
  lap.add_to(work_->wait);
}

at::Tensor ExpertExchange::to_experts(const at::Tensor& rows, const std::function<void()>& meanwhile) const {
  if (ranks_ == 1) {
    if (meanwhile) meanwhile();
    return rows;
  }
  MOESWEEP_ASSERT(rows.dim() == 2 && rows.is_contiguous() && rows.size(0) == sum(sent_), "rows [N, w] as announced");
  Lap lap;
  at::Tensor sorted = at::empty({start_.back(), rows.size(1)}, rows.options());
  // With one expert a rank, by rank is by expert: rows arrive in their places.
  const at::Tensor arriving = mine_ == 1 ? sorted : at::empty({start_.back() - received_[me_], rows.size(1)}, rows.options());
  comm::Pending pending = begin(rows, sent_, arriving, received_, "rows to their experts");
  std::int64_t own = own_first_;
  for_each_piece(me_, [&](std::int64_t place, std::int64_t count) {
    copy_rows(rows, own, sorted, place, count);
    own += count;
  });
  lap.add_to(work_->dispatch);
  if (meanwhile) meanwhile();
  wait(pending);
  if (mine_ == 1) return sorted;
  lap = Lap();
  std::int64_t next = 0;
  for (std::size_t r = 0; r < ranks_; ++r) {
    if (r == me_) continue;
    for_each_piece(r, [&](std::int64_t place, std::int64_t count) {
      copy_rows(arriving, next, sorted, place, count);
      next += count;
    });
  }
  lap.add_to(work_->dispatch);
  return sorted;
}

at::Tensor ExpertExchange::from_experts(const at::Tensor& rows) const {
  if (ranks_ == 1) return rows;
  MOESWEEP_ASSERT(rows.dim() == 2 && rows.is_contiguous() && rows.size(0) == start_.back(), "rows [M, w] of this rank's experts");
  Lap lap;
  const at::Tensor leaving = mine_ == 1 ? rows : at::empty({start_.back() - received_[me_], rows.size(1)}, rows.options());
  std::int64_t next = 0;
  for (std::size_t r = 0; mine_ > 1 && r < ranks_; ++r) {
    if (r == me_) continue;
    for_each_piece(r, [&](std::int64_t place, std::int64_t count) {
      copy_rows(rows, place, leaving, next, count);
      next += count;
    });
  }
  at::Tensor returned = at::empty({sum(sent_), rows.size(1)}, rows.options());
  comm::Pending pending = begin(leaving, received_, returned, sent_, "rows back to their tokens");
  std::int64_t own = own_first_;
  for_each_piece(me_, [&](std::int64_t place, std::int64_t count) {
    copy_rows(rows, place, returned, own, count);
    own += count;
  });
  lap.add_to(work_->dispatch);
  wait(pending);
  return returned;
}

}  // namespace moesweep::model
