// Loops over one row of scores that the compiler turns into vector code. Every sum has an order that the machine fixes, not the threads.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

namespace moesweep::routing {

#if defined(__x86_64__)
#define MOESWEEP_HAS_WIDE_VECTORS 1
#else
#define MOESWEEP_HAS_WIDE_VECTORS 0
#endif

/// For functions that `with_wide_vectors` compiles anew.
#define MOESWEEP_INLINE [[gnu::always_inline]] inline

#if MOESWEEP_HAS_WIDE_VECTORS
template <auto body, class... Arguments>
[[gnu::target("avx2,fma,bmi,bmi2")]] void in_wide_vectors(Arguments... arguments) {
  body(arguments...);
}
template <auto body, class... Arguments>
[[gnu::target("avx512f,avx512vl,avx512bw,avx512dq,avx2,fma,bmi,bmi2,prefer-vector-width=512")]] void in_widest_vectors(Arguments... arguments) {
  body(arguments...);
}
#endif

/// Calls `body`, a MOESWEEP_INLINE function, compiled for vectors of 256 bits where the processor has them; of 512 bits, where it has those,
/// for rows of at least 64 numbers (`row`).
template <auto body, class... Arguments>
void with_wide_vectors([[maybe_unused]] std::int64_t row, Arguments... arguments) {
#if MOESWEEP_HAS_WIDE_VECTORS
  static const bool wide = __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0 && __builtin_cpu_supports("bmi2") != 0;
  static const bool widest = wide && __builtin_cpu_supports("avx512f") != 0 && __builtin_cpu_supports("avx512vl") != 0 &&
                             __builtin_cpu_supports("avx512bw") != 0 && __builtin_cpu_supports("avx512dq") != 0;
  if (widest && row >= 64) return in_widest_vectors<body>(arguments...);
  if (wide) return in_wide_vectors<body>(arguments...);
#endif
  body(arguments...);
}

/// e^x for x <= 0, to 2 units in the last place; 0 below the smallest normal number. Without branches or tables, for vector code.
MOESWEEP_INLINE float exp_below(float x) {
  constexpr float kRound = 12582912.0F;  // 1.5 * 2^23: adding it rounds to a whole number, which is then in the low bits
  // At -88 the power comes out as 0. Negative numbers are ordered as their bits are, the other way round; a comparison of numbers would be
  // taken for a branch.
  const float bounded = std::bit_cast<float>(std::min(std::bit_cast<std::uint32_t>(x), std::bit_cast<std::uint32_t>(-88.0F)));
  const float shifted = bounded * 1.44269504F + kRound;
  const float whole = shifted - kRound;
  const float r = (bounded - whole * 0.693359375F) + whole * 2.12194440e-4F;  // ln 2 in two parts
  float p = 1.9875691500e-4F;                                                 // minimax polynomial of Cephes' expf
  p = p * r + 1.3981999507e-3F;
  p = p * r + 8.3334519073e-3F;
  p = p * r + 4.1665795894e-2F;
  p = p * r + 1.6666665459e-1F;
  p = p * r + 5.0000001201e-1F;
  p = p * (r * r) + r + 1.0F;
  const float power = std::bit_cast<float>((std::bit_cast<std::int32_t>(shifted) + 127) * (1 << 23));
  return p * power;
}
MOESWEEP_INLINE double exp_below(double x) { return std::exp(x); }

template <class Real>
MOESWEEP_INLINE Real row_maximum(const Real* row, std::int64_t size) {
  Real most = row[0];
#pragma omp simd reduction(max : most)
  for (std::int64_t e = 0; e < size; ++e) most = row[e] > most ? row[e] : most;
  return most;
}

/// The k largest of a row, largest first; of equal ones the lower place. Insertion into a sorted list.
template <class Real>
MOESWEEP_INLINE void insert_top_k(const Real* row, std::int64_t size, std::int64_t k, std::int64_t* out) {
  std::int64_t held = 0;
  for (std::int64_t e = 0; e < size; ++e) {
    const Real value = row[e];
    // Strictly greater moves ahead: of equal ones the lower expert stays first.
    if (held == k && !(value > row[out[k - 1]])) continue;
    std::int64_t place = held < k ? held++ : k - 1;
    for (; place > 0 && value > row[out[place - 1]]; --place) out[place] = out[place - 1];
    out[place] = e;
  }
}

/// The same for at most `width` values in rising order of their places: each is put where the number of those that beat it says.
template <std::int64_t width, class Real>
MOESWEEP_INLINE void rank_top_k(const Real* row, const std::int32_t* places, std::int64_t size, std::int64_t k, std::int64_t* out) {
  std::array<Real, static_cast<std::size_t>(width)> value;
  std::array<std::int32_t, static_cast<std::size_t>(width)> rank;
  std::array<std::int64_t, static_cast<std::size_t>(width)> sorted;
  for (std::int64_t l = 0; l < size; ++l) value[static_cast<std::size_t>(l)] = row[places[l]];
  for (std::int64_t l = size; l < width; ++l) value[static_cast<std::size_t>(l)] = value[0];
  rank.fill(0);
  for (std::int32_t j = 0; j < size; ++j) {
    const Real other = value[static_cast<std::size_t>(j)];
#pragma omp simd
    for (std::int32_t l = 0; l < width; ++l) {
      const Real mine = value[static_cast<std::size_t>(l)];
      rank[static_cast<std::size_t>(l)] += (other > mine ? 1 : 0) | ((other == mine ? 1 : 0) & (j < l ? 1 : 0));
    }
  }
  for (std::int64_t l = 0; l < size; ++l) sorted[static_cast<std::size_t>(rank[static_cast<std::size_t>(l)])] = places[l];
  for (std::int64_t i = 0; i < k; ++i) out[i] = sorted[static_cast<std::size_t>(i)];
}

/// Bit l of byte l, which is 0 or 1: a product gathers the bits of eight bytes.
MOESWEEP_INLINE std::uint64_t bits_of(const std::array<std::uint8_t, 64>& flags) {
  static_assert(std::endian::native == std::endian::little);
  const auto eights = std::bit_cast<std::array<std::uint64_t, 8>>(flags);
  std::uint64_t bits = 0;
  for (std::size_t i = 0; i < 8; ++i) bits |= ((eights[i] * 0x0102040810204080U) >> 56U) << (8 * i);
  return bits;
}

/// The k largest of a row, largest first; of equal ones the lower place. `candidates` needs room for the row.
/// The k-th largest of the maxima of 16 interleaved lanes bounds the k-th largest of the row from below, so that few places are left to sort.
template <class Real>
MOESWEEP_INLINE void top_k_row(const Real* row, std::int64_t size, std::int64_t k, std::int64_t* out, std::int32_t* candidates) {
  constexpr std::int64_t kLanes = 16;
  std::int64_t found = 0;
  if (size <= kLanes) {
    for (std::int64_t e = 0; e < size; ++e) {
      candidates[e] = static_cast<std::int32_t>(e);
      found += row[e] == row[e] ? 1 : 0;
    }
    if (found < size) return insert_top_k(row, size, k, out);  // NaN has no rank
  } else {
    if (k > kLanes) return insert_top_k(row, size, k, out);
    std::array<Real, kLanes> lane;
    std::array<std::int32_t, kLanes> above{};
    for (std::size_t l = 0; l < kLanes; ++l) lane[l] = row[l];
    for (std::int64_t first = kLanes; first + kLanes <= size; first += kLanes) {
#pragma omp simd
      for (std::int64_t l = 0; l < kLanes; ++l) {
        const Real value = row[first + l], held = lane[static_cast<std::size_t>(l)];
        lane[static_cast<std::size_t>(l)] = value > held ? value : held;
      }
    }
    // The k-th largest maximum: the least of those that fewer than k exceed.
    for (std::size_t i = 0; i < kLanes; ++i) {
      const Real value = lane[i];
#pragma omp simd
      for (std::size_t l = 0; l < kLanes; ++l) above[l] += value > lane[l] ? 1 : 0;
    }
    Real bound = std::numeric_limits<Real>::infinity();
#pragma omp simd reduction(min : bound)
    for (std::size_t l = 0; l < kLanes; ++l) {
      const Real value = above[l] < k ? lane[l] : std::numeric_limits<Real>::infinity();
      bound = value < bound ? value : bound;
    }
    std::int64_t e = 0;
    for (; e + 64 <= size; e += 64) {
      std::array<std::uint8_t, 64> flags;
#pragma omp simd
      for (std::size_t l = 0; l < 64; ++l) flags[l] = row[e + static_cast<std::int64_t>(l)] >= bound ? 1 : 0;
      for (std::uint64_t bits = bits_of(flags); bits != 0; bits &= bits - 1)
        candidates[found++] = static_cast<std::int32_t>(e + std::countr_zero(bits));
    }
    for (; e < size; ++e) {
      candidates[found] = static_cast<std::int32_t>(e);
      found += row[e] >= bound ? 1 : 0;
    }
    if (found < k || found > 2 * kLanes) return insert_top_k(row, size, k, out);  // NaN, or many equal ones
  }
  if (found <= 8) return rank_top_k<8>(row, candidates, found, k, out);
  if (found <= 16) return rank_top_k<16>(row, candidates, found, k, out);
  return rank_top_k<32>(row, candidates, found, k, out);
}

}  // namespace moesweep::routing
