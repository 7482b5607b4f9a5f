// See assignment.hpp.
#include "assignment.hpp"

#include <limits>

namespace moesweep::diagnose {

std::vector<std::int64_t> largest_assignment(std::span<const double> gain, std::int64_t n) {
  const auto size = static_cast<std::size_t>(n);
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  constexpr std::size_t kNone = std::numeric_limits<std::size_t>::max();
  const auto cost = [&](std::size_t row, std::size_t column) { return -gain[row * size + column]; };

  std::vector<double> row_price(size, 0), column_price(size, 0);
  std::vector<std::size_t> row_of(size, kNone);
  for (std::size_t start = 0; start < size; ++start) {
    // Dijkstra over columns from the free row `start`, in reduced costs.
    std::vector<double> distance(size, kInfinity);
    std::vector<std::size_t> previous(size, kNone);
    std::vector<bool> done(size, false);
    std::size_t row = start, column = kNone, last = kNone;
    double reached = 0;
    do {
      double nearest = kInfinity;
      std::size_t next = kNone;
      for (std::size_t j = 0; j < size; ++j) {
        if (done[j]) continue;
        const double through = reached + cost(row, j) - row_price[row] - column_price[j];
        if (through < distance[j]) {
          distance[j] = through;
          previous[j] = last;
        }
        if (distance[j] < nearest) {
          nearest = distance[j];
          next = j;
        }
      }
      column = next;
      reached = nearest;
      done[column] = true;
      last = column;
      row = row_of[column];
    } while (row != kNone);
    // Prices stay feasible; the path is flipped.
    row_price[start] += reached;
    for (std::size_t j = 0; j < size; ++j)
      if (done[j] && j != column) {
        row_price[row_of[j]] += reached - distance[j];
        column_price[j] -= reached - distance[j];
      }
    for (std::size_t j = column; j != kNone;) {
      const std::size_t before = previous[j];
      row_of[j] = before == kNone ? start : row_of[before];
      j = before;
    }
  }
  std::vector<std::int64_t> column_of(size);
  for (std::size_t j = 0; j < size; ++j) column_of[row_of[j]] = static_cast<std::int64_t>(j);
  return column_of;
}

}  // namespace moesweep::diagnose
