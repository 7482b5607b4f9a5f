// Balanced assignment of tokens to experts by an auction. See include/moesweep/routing/parts.hpp.
#include <ATen/ATen.h>
#include <ATen/Dispatch.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels.hpp"
#include "moesweep/core/error.hpp"
#include "moesweep/routing/parts.hpp"

namespace moesweep::routing {

namespace {

/// net = value - price, and its k best.
template <class Real>
MOESWEEP_INLINE void net_top_k(const Real* value, const Real* price, std::int64_t experts, std::int64_t k, Real* net, std::int64_t* order,
                               std::int32_t* candidates) {
#pragma omp simd
  for (std::int64_t e = 0; e < experts; ++e) net[e] = value[e] - price[e];
  top_k_row(net, experts, k, order, candidates);
}

/// The auction of Bertsekas and Castanon (1989) for many seats of one kind: tokens bid for k different experts, an expert keeps the highest
/// bids that it has room for, and once full its price is the lowest of them. A token bids for its best free choices so much that they are
/// worth to it what the best that it leaves is worth, less epsilon. Everybody seated, no token gains more than epsilon a slot by moving:
/// the sum is within T k epsilon of the best. Epsilon falls from phase to phase, prices stay.
template <class Real>
class Auction {
 public:
  Auction(const at::Tensor& logits, std::int64_t k)
      : tokens_(logits.size(0)),
        experts_(logits.size(1)),
        k_(k),
        logits_(logits.const_data_ptr<Real>()),
        value_(static_cast<std::size_t>(tokens_ * experts_)),
        open_(value_.size()),
        price_(static_cast<std::size_t>(experts_), Real(0)),
        room_(static_cast<std::size_t>(experts_)),
        bids_(static_cast<std::size_t>(experts_)),
        held_(static_cast<std::size_t>(tokens_ * k_)),
        seats_(static_cast<std::size_t>(tokens_)),
        net_(static_cast<std::size_t>(experts_)),
        candidates_(net_.size()) {
    for (std::int64_t e = 0; e < experts_; ++e) {
      const std::int64_t room = tokens_ * k_ / experts_ + (e < tokens_ * k_ % experts_ ? 1 : 0);
      room_[static_cast<std::size_t>(e)] = room;
      bids_[static_cast<std::size_t>(e)].reserve(static_cast<std::size_t>(room));
    }
    centre(logits);
  }

  AssignmentResult solve() {
    AssignmentResult result;
    std::vector<std::int64_t> last;  // what the last finished phase gave
    const Real finest = kGridsPerEpsilon * grid_;
    Real epsilon = finest;
    while (epsilon < std::max(spread_, wide_spread_) * kFirst) epsilon *= kFactor;
    std::int64_t left = kBidsPerSlot * tokens_ * k_ + 1024;
    for (;;) {
      if (!phase(epsilon, left)) break;
      last = held_;
      result.epsilon = static_cast<double>(epsilon + grid_);
      if (epsilon <= finest) break;
      epsilon /= kFactor;
    }
    if (last.empty()) {
      complete();
      result.completed = true;
      result.epsilon = static_cast<double>(epsilon);
    } else {
      held_ = std::move(last);
    }
    result.expert = by_falling_logit();
    return result;
  }

 private:
  // Of the spreads of the values: about the epsilon of the first phase, and the least one; in between it falls by a factor.
  static constexpr Real kFirst = Real(0.05), kFactor = Real(8), kFinest = Real(1e-3), kGridsPerEpsilon = Real(16);
  static constexpr std::int64_t kBidsPerSlot = 64, kFew = 32;
  static constexpr Real kNever = -std::numeric_limits<Real>::infinity();

  struct Bid {
    Real amount;
    std::int32_t token;
  };
  /// The lowest bid is on top of a heap; of equal ones that of the later token.
  static bool above(const Bid& a, const Bid& b) { return a.amount > b.amount || (a.amount == b.amount && a.token < b.token); }

  Real* row(std::vector<Real>& matrix, std::int64_t t) { return matrix.data() + t * experts_; }

  /// Values are logits less the mean of their row, and prices start at the means of the columns: neither changes what is best.
  void centre(const at::Tensor& logits) {
    const auto* x = logits.const_data_ptr<Real>();
    std::vector<double> column(static_cast<std::size_t>(experts_), 0.0);
    for (std::int64_t t = 0; t < tokens_; ++t) {
      double sum = 0;
      for (std::int64_t e = 0; e < experts_; ++e) sum += static_cast<double>(x[t * experts_ + e]);
      const double mean = sum / static_cast<double>(experts_);
      Real* v = row(value_, t);
      for (std::int64_t e = 0; e < experts_; ++e) {
        v[e] = static_cast<Real>(static_cast<double>(x[t * experts_ + e]) - mean);
        column[static_cast<std::size_t>(e)] += static_cast<double>(v[e]);
      }
    }
    for (std::int64_t e = 0; e < experts_; ++e) {
      const auto i = static_cast<std::size_t>(e);
      price_[i] = static_cast<Real>(column[i] / static_cast<double>(tokens_));
    }
    double gaps = 0, squares = 0;
    for (std::int64_t t = 0; t < tokens_; ++t)
      for (std::int64_t e = 0; e < experts_; ++e) {
        const double gap = static_cast<double>(row(value_, t)[e] - price_[static_cast<std::size_t>(e)]);
        gaps += std::abs(gap);
        squares += gap * gap;
      }
    const auto count = static_cast<double>(tokens_ * experts_);
    spread_ = static_cast<Real>(gaps / count);
    wide_spread_ = static_cast<Real>(std::sqrt(squares / count));
    Real most = 0;
    for (const Real v : value_) most = std::max(most, std::abs(v));
    // Below what the type can tell apart every assignment is as good.
    spread_ = std::max(spread_, std::max(most, Real(1)) * std::numeric_limits<Real>::epsilon() * 4096);
    // On a grid of powers of two bids are exact sums: they tie or differ the same way whatever rounding the logits carry.
    grid_ = std::exp2(std::floor(std::log2(spread_ * kFinest / kGridsPerEpsilon)));
    for (Real& v : value_) v = std::nearbyint(v / grid_) * grid_;
    for (Real& p : price_) p = std::nearbyint(p / grid_) * grid_;
    for (std::int64_t e = 0; e < experts_; ++e)
      if (room_[static_cast<std::size_t>(e)] == 0) price_[static_cast<std::size_t>(e)] = std::numeric_limits<Real>::infinity();
  }

  /// Seats everybody at the present prices; false when the bids run out before.
  bool phase(Real epsilon, std::int64_t& left) {
    open_ = value_;
    for (auto& taken : bids_) taken.clear();
    std::fill(seats_.begin(), seats_.end(), 0);
    waiting_.clear();
    for (std::int64_t t = 0; t < tokens_; ++t) {
      bid(t, k_, epsilon);
      left -= k_;
      while (!waiting_.empty()) {
        if (left <= 0) return false;
        const std::int64_t next = waiting_.back();
        waiting_.pop_back();
        const std::int64_t free = k_ - seats_[static_cast<std::size_t>(next)];
        if (free == 0) continue;
        bid(next, free, epsilon);
        left -= free;
      }
    }
    return true;
  }

  /// Token t bids for its `wanted` best open experts.
  void bid(std::int64_t t, std::int64_t wanted, Real epsilon) {
    const Real* mine = row(open_, t);
    const std::int64_t ranked = std::min(wanted + 1, experts_);
    order_.resize(static_cast<std::size_t>(ranked));
    if (wanted == 1 && experts_ <= kFew) {
      best_two(mine);
    } else {
      with_wide_vectors<&net_top_k<Real>>(experts_, mine, static_cast<const Real*>(price_.data()), experts_, ranked, net_.data(), order_.data(),
                                          candidates_.data());
    }
    const Real next = ranked > wanted ? net_[static_cast<std::size_t>(order_[static_cast<std::size_t>(wanted)])] : kNever;
    for (std::int64_t i = 0; i < wanted; ++i) {
      const std::int64_t e = order_[static_cast<std::size_t>(i)];
      seat(t, e, mine[e] - next + epsilon);
    }
  }

  /// The best two into order_ and net_.
  void best_two(const Real* mine) {
    const Real* price = price_.data();
    std::int64_t first = 0, second = 1;
    Real best = kNever, next = kNever;
    for (std::int64_t e = 0; e < experts_; ++e) {
      const Real v = mine[e] - price[e];
      if (v > best) {
        next = best;
        second = first;
        best = v;
        first = e;
      } else if (v > next) {
        next = v;
        second = e;
      }
    }
    order_[0] = first;
    order_[1] = second;
    net_[static_cast<std::size_t>(second)] = next;
  }

  void seat(std::int64_t t, std::int64_t e, Real amount) {
    auto& taken = bids_[static_cast<std::size_t>(e)];
    const std::size_t room = static_cast<std::size_t>(room_[static_cast<std::size_t>(e)]);
    if (taken.size() == room) {
      const std::int64_t loser = taken.front().token;
      replace_lowest(taken, {amount, static_cast<std::int32_t>(t)});
      price_[static_cast<std::size_t>(e)] = taken.front().amount;
      leave(loser, e);
      waiting_.push_back(loser);
    } else {
      taken.push_back({amount, static_cast<std::int32_t>(t)});
      if (taken.size() == room) {
        std::make_heap(taken.begin(), taken.end(), above);
        price_[static_cast<std::size_t>(e)] = std::max(price_[static_cast<std::size_t>(e)], taken.front().amount);
      }
    }
    held_[static_cast<std::size_t>(t * k_ + seats_[static_cast<std::size_t>(t)]++)] = e;
    row(open_, t)[e] = kNever;
  }

  void leave(std::int64_t t, std::int64_t e) {
    std::int64_t* mine = held_.data() + t * k_;
    std::int64_t& seats = seats_[static_cast<std::size_t>(t)];
    *std::find(mine, mine + seats, e) = mine[seats - 1];
    --seats;
    row(open_, t)[e] = row(value_, t)[e];
  }

  static void replace_lowest(std::vector<Bid>& heap, Bid bid) {
    const std::size_t size = heap.size();
    std::size_t hole = 0;
    for (;;) {
      std::size_t child = 2 * hole + 1;
      if (child >= size) break;
      if (child + 1 < size && above(heap[child], heap[child + 1])) ++child;
      if (!above(bid, heap[child])) break;
      heap[hole] = heap[child];
      hole = child;
    }
    heap[hole] = bid;
  }

  /// Gives out what is left: to the lowest token first its best expert with room that it does not hold.
  void complete() {
    std::vector<std::int64_t> free(room_);
    for (std::int64_t e = 0; e < experts_; ++e)
      free[static_cast<std::size_t>(e)] -= static_cast<std::int64_t>(bids_[static_cast<std::size_t>(e)].size());
    const auto take = [&](std::int64_t t, std::int64_t e) {
      held_[static_cast<std::size_t>(t * k_ + seats_[static_cast<std::size_t>(t)]++)] = e;
      row(open_, t)[e] = kNever;
    };
    const auto holds = [&](std::int64_t t, std::int64_t e) {
      const std::int64_t* mine = held_.data() + t * k_;
      return std::find(mine, mine + seats_[static_cast<std::size_t>(t)], e) != mine + seats_[static_cast<std::size_t>(t)];
    };
    for (std::int64_t t = 0; t < tokens_; ++t)
      while (seats_[static_cast<std::size_t>(t)] < k_) {
        std::int64_t best = -1;
        for (std::int64_t e = 0; e < experts_; ++e)
          if (free[static_cast<std::size_t>(e)] > 0 && !holds(t, e) && (best < 0 || row(value_, t)[e] > row(value_, t)[best])) best = e;
        if (best < 0) break;
        --free[static_cast<std::size_t>(best)];
        take(t, best);
      }
    // A token that holds every expert with room left: another one moves there from an expert that this one lacks, at the least loss.
    for (std::int64_t t = 0; t < tokens_; ++t)
      while (seats_[static_cast<std::size_t>(t)] < k_) {
        const auto roomy = std::find_if(free.begin(), free.end(), [](std::int64_t f) { return f > 0; }) - free.begin();
        std::int64_t mover = -1, from = -1;
        Real gain = kNever;
        for (std::int64_t u = 0; u < tokens_; ++u) {
          if (u == t || holds(u, roomy)) continue;
          for (std::int64_t i = 0; i < seats_[static_cast<std::size_t>(u)]; ++i) {
            const std::int64_t e = held_[static_cast<std::size_t>(u * k_ + i)];
            if (holds(t, e)) continue;
            const Real change = row(value_, u)[roomy] - row(value_, u)[e] + row(value_, t)[e];
            if (mover < 0 || change > gain) {
              mover = u;
              from = e;
              gain = change;
            }
          }
        }
        MOESWEEP_ASSERT(mover >= 0, "an assignment that nobody can complete");
        leave(mover, from);
        take(mover, roomy);
        take(t, from);
        --free[static_cast<std::size_t>(roomy)];
      }
  }

  at::Tensor by_falling_logit() {
    at::Tensor expert = at::empty({tokens_, k_}, at::kLong);
    auto* out = expert.mutable_data_ptr<std::int64_t>();
    std::copy(held_.begin(), held_.end(), out);
    for (std::int64_t t = 0; t < tokens_; ++t) {
      const Real* v = logits_ + t * experts_;
      std::sort(out + t * k_, out + (t + 1) * k_, [v](std::int64_t a, std::int64_t b) { return v[a] > v[b] || (v[a] == v[b] && a < b); });
    }
    return expert;
  }

  std::int64_t tokens_, experts_, k_;
  const Real* logits_;  ///< [T, E]
  Real grid_ = 0;       ///< values, prices and epsilons are multiples of it
  /// Mean distance of a value from its price at the start, the scale of the least epsilon; and its root mean square, which far values raise,
  /// the scale of the first.
  Real spread_ = 0, wide_spread_ = 0;
  std::vector<Real> value_, open_;      ///< [T, E]; open: -inf where the token holds the expert
  std::vector<Real> price_;             ///< [E]
  std::vector<std::int64_t> room_;      ///< [E]
  std::vector<std::vector<Bid>> bids_;  ///< [E], heaps once full
  std::vector<std::int64_t> held_;      ///< [T, k], the first seats_[t] of a row
  std::vector<std::int64_t> seats_;     ///< [T]
  std::vector<std::int64_t> waiting_;   ///< tokens that lost a seat
  std::vector<Real> net_;               ///< [E], values less prices
  std::vector<std::int64_t> order_;
  std::vector<std::int32_t> candidates_;
};

}  // namespace

AssignmentResult assignment_unit(const at::Tensor& logits, std::int64_t k) {
  MOESWEEP_ASSERT(logits.dim() == 2 && k >= 1 && k <= logits.size(1), "assignment_unit needs [T, E] logits and 1 <= k <= E");
  const at::Tensor rows = logits.detach().to(at::kCPU).contiguous();
  if (rows.size(0) == 0) return {at::empty({0, k}, at::kLong), 0, false};
  if (k == rows.size(1)) return {top_k_indices(rows, k), 0, false};  // every token takes every expert
  AssignmentResult result;
  AT_DISPATCH_FLOATING_TYPES(rows.scalar_type(), "assignment", [&] { result = Auction<scalar_t>(rows, k).solve(); });
  return result;
}

}  // namespace moesweep::routing
