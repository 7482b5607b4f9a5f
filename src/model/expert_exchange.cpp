// See expert_exchange.hpp.
#include "expert_exchange.hpp"

#include <ATen/ATen.h>

#include <chrono>
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

}  // namespace

ExpertExchange::ExpertExchange(comm::Transport& transport, const std::vector<std::int64_t>& start, ExpertSeconds* seconds)
    : transport_(&transport), seconds_(seconds) {
  const auto ranks = static_cast<std::size_t>(transport.size()), experts = start.size() - 1, mine = experts / ranks;
  MOESWEEP_ASSERT(mine * ranks == experts, "each rank holds as many experts");
  if (ranks == 1) {
    start_ = start;
    return;
  }
  Lap lap;
  std::vector<std::int64_t> counts(experts);
  for (std::size_t e = 0; e < experts; ++e) counts[e] = start[e + 1] - start[e];
  const std::vector<std::int64_t> arriving = transport.exchange_counts(counts, "rows for each expert");
  lap.add_to(seconds_->wait);
  sent_.assign(ranks, 0);
  received_.assign(ranks, 0);
  start_.assign(mine + 1, 0);
  for (std::size_t r = 0; r < ranks; ++r)
    for (std::size_t e = 0; e < mine; ++e) {
      sent_[r] += counts[r * mine + e];
      received_[r] += arriving[r * mine + e];
      start_[e + 1] += arriving[r * mine + e];
    }
  for (std::size_t e = 0; e < mine; ++e) start_[e + 1] += start_[e];
  if (mine == 1) return;  // by rank is by expert
  place_ = at::empty({start_.back()}, at::kLong);
  inverse_ = at::empty({start_.back()}, at::kLong);
  auto* place = place_.mutable_data_ptr<std::int64_t>();
  auto* inverse = inverse_.mutable_data_ptr<std::int64_t>();
  std::vector<std::int64_t> next(start_.begin(), start_.end() - 1);
  std::int64_t row = 0;
  for (std::size_t r = 0; r < ranks; ++r)
    for (std::size_t e = 0; e < mine; ++e)
      for (std::int64_t i = 0; i < arriving[r * mine + e]; ++i, ++row) {
        inverse[row] = next[e];
        place[next[e]++] = row;
      }
}

at::Tensor ExpertExchange::exchange(const at::Tensor& rows, const std::vector<std::int64_t>& sent, const std::vector<std::int64_t>& received,
                                    const char* what, const std::function<void()>& meanwhile) const {
  MOESWEEP_ASSERT(rows.dim() == 2 && rows.is_contiguous() && rows.size(0) == sum(sent), "rows [N, w] as announced");
  Lap lap;
  const auto row_bytes = static_cast<std::size_t>(rows.size(1)) * rows.element_size();
  at::Tensor arrived = at::empty({sum(received), rows.size(1)}, rows.options());
  const auto parts = [row_bytes](const at::Tensor& buffer, const std::vector<std::int64_t>& counts) {
    std::vector<comm::Part> all;
    auto* data = static_cast<std::byte*>(buffer.data_ptr());
    for (const std::int64_t count : counts) {
      const std::size_t bytes = static_cast<std::size_t>(count) * row_bytes;
      all.push_back({data, bytes});
      data += bytes;
    }
    return all;
  };
  comm::Pending pending = transport_->start_exchange(parts(rows, sent), parts(arrived, received), what);
  lap.add_to(seconds_->dispatch);
  if (meanwhile) meanwhile();
  lap = Lap();
  pending.wait();
  lap.add_to(seconds_->wait);
  return arrived;
}

at::Tensor ExpertExchange::to_experts(const at::Tensor& rows, const std::function<void()>& meanwhile) const {
  if (transport_->size() == 1) {
    if (meanwhile) meanwhile();
    return rows;
  }
  const at::Tensor arrived = exchange(rows, sent_, received_, "rows to their experts", meanwhile);
  if (!place_.defined()) return arrived;
  Lap lap;
  at::Tensor sorted = arrived.index_select(0, place_.to(arrived.device()));
  lap.add_to(seconds_->dispatch);
  return sorted;
}

at::Tensor ExpertExchange::from_experts(const at::Tensor& rows) const {
  if (transport_->size() == 1) return rows;
  Lap lap;
  const at::Tensor by_rank = inverse_.defined() ? rows.index_select(0, inverse_.to(rows.device())) : rows;
  lap.add_to(seconds_->dispatch);
  return exchange(by_rank, received_, sent_, "rows back to their tokens", {});
}

}  // namespace moesweep::model
