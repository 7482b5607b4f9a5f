// Noise of the router, drawn by place. See include/moesweep/routing/parts.hpp.
#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>

#include <bit>
#include <numbers>
#include <vector>

#include "kernels.hpp"
#include "moesweep/core/random.hpp"
#include "moesweep/routing/parts.hpp"

namespace moesweep::routing {

namespace {

// Functions of doubles without branches, calls or tables, for vector code; right to about 1e-15.

constexpr std::uint64_t kTwo52 = 0x4330000000000000;  // the bits of 2^52, whose last digit is worth 1

MOESWEEP_INLINE double number_of(std::uint64_t below_two_52) { return std::bit_cast<double>(below_two_52 | kTwo52) - 0x1p52; }

/// A uniform in (0, 1) of one word.
MOESWEEP_INLINE double uniform_of(std::uint32_t word) { return (number_of(word) + 0.5) * 0x1p-32; }

/// log x of a positive normal number: x = 2^n m with m around 1, log m = 2 artanh((m - 1) / (m + 1)).
MOESWEEP_INLINE double log_of(double x) {
  constexpr std::uint64_t kHalfRoot = 0x3fe6a09e667f3bcd, kOne = 0x3ff0000000000000;  // the bits of sqrt(1/2) and of 1
  const std::uint64_t bits = std::bit_cast<std::uint64_t>(x);
  const std::uint64_t power = (bits - kHalfRoot + kOne) >> 52U;  // n + 1023
  const double m = std::bit_cast<double>(bits - (power << 52U) + kOne);
  const double s = (m - 1) / (m + 1), z = s * s;
  double series = 1.0 / 19;
  series = series * z + 1.0 / 17;
  series = series * z + 1.0 / 15;
  series = series * z + 1.0 / 13;
  series = series * z + 1.0 / 11;
  series = series * z + 1.0 / 9;
  series = series * z + 1.0 / 7;
  series = series * z + 1.0 / 5;
  series = series * z + 1.0 / 3;
  series = series * z + 1.0;
  return (number_of(power) - 1023) * std::numbers::ln2 + 2 * s * series;
}

/// sqrt x of a positive normal number, through Newton's steps for 1 / sqrt x.
MOESWEEP_INLINE double root_of(double x) {
  double y = std::bit_cast<double>(0x5fe6eb50c7b537a9 - (std::bit_cast<std::uint64_t>(x) >> 1U));
  y = y * (1.5 - 0.5 * x * y * y);
  y = y * (1.5 - 0.5 * x * y * y);
  y = y * (1.5 - 0.5 * x * y * y);
  y = y * (1.5 - 0.5 * x * y * y);
  return x * y;
}

struct Turn {
  double cosine, sine;
};

/// cos and sin of 2 pi u for u in [0, 1]: by quarter turns, and series within an eighth of one.
MOESWEEP_INLINE Turn turn_of(double u) {
  constexpr double kRound = 0x1.8p52;
  const double shifted = 4 * u + kRound;
  const std::uint64_t quarter = std::bit_cast<std::uint64_t>(shifted);
  const double a = (4 * u - (shifted - kRound)) * (std::numbers::pi / 2), z = a * a;
  double sine = -1.0 / 1307674368000;
  sine = sine * z + 1.0 / 6227020800;
  sine = sine * z - 1.0 / 39916800;
  sine = sine * z + 1.0 / 362880;
  sine = sine * z - 1.0 / 5040;
  sine = sine * z + 1.0 / 120;
  sine = sine * z - 1.0 / 6;
  sine = sine * z * a + a;
  double cosine = 1.0 / 20922789888000;
  cosine = cosine * z - 1.0 / 87178291200;
  cosine = cosine * z + 1.0 / 479001600;
  cosine = cosine * z - 1.0 / 3628800;
  cosine = cosine * z + 1.0 / 40320;
  cosine = cosine * z - 1.0 / 720;
  cosine = cosine * z + 1.0 / 24;
  cosine = cosine * z - 0.5;
  cosine = cosine * z + 1;
  const std::uint64_t odd = ~((quarter & 1U) - 1), s = std::bit_cast<std::uint64_t>(sine), c = std::bit_cast<std::uint64_t>(cosine);
  return {std::bit_cast<double>(((c & ~odd) | (s & odd)) ^ (((quarter + 1) & 2U) << 62U)),
          std::bit_cast<double>(((s & ~odd) | (c & odd)) ^ ((quarter & 2U) << 62U))};
}

// A row of numbers from a row of words, two to two.

template <class Real>
MOESWEEP_INLINE void normals_of(const std::uint32_t* even, const std::uint32_t* odd, std::int64_t pairs, double, Real* out) {
#pragma omp simd
  for (std::int64_t i = 0; i < pairs; ++i) {  // Box-Muller
    const double radius = root_of(-2 * log_of(uniform_of(even[i])));
    const Turn turn = turn_of(uniform_of(odd[i]));
    out[2 * i] = static_cast<Real>(radius * turn.cosine);
    out[2 * i + 1] = static_cast<Real>(radius * turn.sine);
  }
}

template <class Real>
MOESWEEP_INLINE void gumbels_of(const std::uint32_t* even, const std::uint32_t* odd, std::int64_t pairs, double, Real* out) {
#pragma omp simd
  for (std::int64_t i = 0; i < pairs; ++i) {
    out[2 * i] = static_cast<Real>(-log_of(-log_of(uniform_of(even[i]))));
    out[2 * i + 1] = static_cast<Real>(-log_of(-log_of(uniform_of(odd[i]))));
  }
}

template <class Real>
MOESWEEP_INLINE void factors_of(const std::uint32_t* even, const std::uint32_t* odd, std::int64_t pairs, double epsilon, Real* out) {
#pragma omp simd
  for (std::int64_t i = 0; i < pairs; ++i) {
    out[2 * i] = static_cast<Real>(1 + epsilon * (2 * uniform_of(even[i]) - 1));
    out[2 * i + 1] = static_cast<Real>(1 + epsilon * (2 * uniform_of(odd[i]) - 1));
  }
}

/// [T, width]: `make` turns the words of a place, four for every four columns, into its row.
template <class Real, auto make>
at::Tensor drawn(const TokenLayout& tokens, Purpose purpose, std::int64_t layer, std::int64_t width, double parameter) {
  at::Tensor result = at::empty({tokens.tokens(), width}, c10::CppTypeToScalarType<Real>::value);
  const std::vector<std::int64_t> index = tokens.index_of_token(), position = tokens.position_of_token();
  auto* out = result.mutable_data_ptr<Real>();
  const std::int64_t blocks = (width + 3) / 4;
  at::parallel_for(0, tokens.tokens(), 64, [&](std::int64_t begin, std::int64_t end) {
    // Rounded up to whole vectors, so that every number comes from the same code wherever it stands in a row.
    const std::int64_t pairs = (2 * blocks + 7) / 8 * 8;
    std::vector<std::uint32_t> even(static_cast<std::size_t>(pairs)), odd(static_cast<std::size_t>(pairs));
    std::vector<Real> row(static_cast<std::size_t>(2 * pairs));
    for (std::int64_t t = begin; t < end; ++t) {
      for (std::int64_t block = 0; block < blocks; ++block) {
        // A place has 1,024 lanes; wider rows go on in the position's high bits.
        const Place place{static_cast<std::uint32_t>(layer), static_cast<std::uint32_t>(tokens.step),
                          static_cast<std::uint32_t>(index[static_cast<std::size_t>(t)]),
                          static_cast<std::uint32_t>(position[static_cast<std::size_t>(t)]) ^ (static_cast<std::uint32_t>(block / 1024) << 26U)};
        const auto words = random_words(static_cast<std::uint64_t>(tokens.seed), purpose, place, static_cast<std::uint32_t>(block % 1024));
        const auto i = static_cast<std::size_t>(2 * block);
        even[i] = words[0];
        odd[i] = words[1];
        even[i + 1] = words[2];
        odd[i + 1] = words[3];
      }
      with_wide_vectors<make>(0, static_cast<const std::uint32_t*>(even.data()), static_cast<const std::uint32_t*>(odd.data()), pairs, parameter,
                              row.data());
      std::copy_n(row.data(), width, out + t * width);
    }
  });
  return result;
}

}  // namespace

at::Tensor gaussian_noise(const TokenLayout& tokens, std::int64_t layer, std::int64_t experts, at::ScalarType type) {
  return AT_DISPATCH_FLOATING_TYPES(type, "gaussian_noise",
                                    [&] { return drawn<scalar_t, &normals_of<scalar_t>>(tokens, Purpose::router_noise, layer, experts, 0); });
}

at::Tensor gumbel_noise(const TokenLayout& tokens, std::int64_t layer, std::int64_t experts, at::ScalarType type) {
  return AT_DISPATCH_FLOATING_TYPES(type, "gumbel_noise",
                                    [&] { return drawn<scalar_t, &gumbels_of<scalar_t>>(tokens, Purpose::router_noise, layer, experts, 0); });
}

at::Tensor jitter_factors(const TokenLayout& tokens, std::int64_t layer, std::int64_t width, double epsilon, at::ScalarType type) {
  return AT_DISPATCH_FLOATING_TYPES(type, "jitter_factors",
                                    [&] { return drawn<scalar_t, &factors_of<scalar_t>>(tokens, Purpose::router_jitter, layer, width, epsilon); });
}

}  // namespace moesweep::routing
