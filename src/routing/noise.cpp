// Noise of the router, drawn by place. See include/moesweep/routing/parts.hpp.
#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>

#include <cmath>
#include <numbers>

#include "moesweep/core/random.hpp"
#include "moesweep/routing/parts.hpp"

namespace moesweep::routing {

namespace {

/// A uniform in (0, 1) of one word.
double uniform_of(std::uint32_t word) { return (static_cast<double>(word) + 0.5) * 0x1p-32; }

/// [T, width] with four numbers from the four words of each place and four columns: `make(words, four numbers)`.
template <class Make>
at::Tensor drawn(const TokenLayout& tokens, Purpose purpose, std::int64_t layer, std::int64_t width, at::ScalarType type, const Make& make) {
  at::Tensor result = at::empty({tokens.tokens(), width}, type);
  const std::vector<std::int64_t> index = tokens.index_of_token(), position = tokens.position_of_token();
  AT_DISPATCH_FLOATING_TYPES(type, "router_noise", [&] {
    auto* out = result.mutable_data_ptr<scalar_t>();
    at::parallel_for(0, tokens.tokens(), 64, [&](std::int64_t begin, std::int64_t end) {
      std::array<double, 4> numbers{};
      for (std::int64_t t = begin; t < end; ++t)
        for (std::int64_t first = 0, block = 0; first < width; first += 4, ++block) {
          // A place has 1,024 lanes; wider rows go on in the position's high bits.
          const Place place{static_cast<std::uint32_t>(layer), static_cast<std::uint32_t>(tokens.step),
                            static_cast<std::uint32_t>(index[static_cast<std::size_t>(t)]),
                            static_cast<std::uint32_t>(position[static_cast<std::size_t>(t)]) ^ (static_cast<std::uint32_t>(block / 1024) << 26U)};
          make(random_words(static_cast<std::uint64_t>(tokens.seed), purpose, place, static_cast<std::uint32_t>(block % 1024)), numbers);
          for (std::int64_t i = 0; i < std::min<std::int64_t>(4, width - first); ++i)
            out[t * width + first + i] = static_cast<scalar_t>(numbers[static_cast<std::size_t>(i)]);
        }
    });
  });
  return result;
}

}  // namespace

at::Tensor gaussian_noise(const TokenLayout& tokens, std::int64_t layer, std::int64_t experts, at::ScalarType type) {
  return drawn(tokens, Purpose::router_noise, layer, experts, type, [](const std::array<std::uint32_t, 4>& words, std::array<double, 4>& out) {
    for (std::size_t i = 0; i < 4; i += 2) {  // Box-Muller
      const double radius = std::sqrt(-2.0 * std::log(uniform_of(words[i])));
      const double angle = 2.0 * std::numbers::pi * uniform_of(words[i + 1]);
      out[i] = radius * std::cos(angle);
      out[i + 1] = radius * std::sin(angle);
    }
  });
}

at::Tensor gumbel_noise(const TokenLayout& tokens, std::int64_t layer, std::int64_t experts, at::ScalarType type) {
  return drawn(tokens, Purpose::router_noise, layer, experts, type, [](const std::array<std::uint32_t, 4>& words, std::array<double, 4>& out) {
    for (std::size_t i = 0; i < 4; ++i) out[i] = -std::log(-std::log(uniform_of(words[i])));
  });
}

at::Tensor jitter_factors(const TokenLayout& tokens, std::int64_t layer, std::int64_t width, double epsilon, at::ScalarType type) {
  return drawn(tokens, Purpose::router_jitter, layer, width, type, [epsilon](const std::array<std::uint32_t, 4>& words, std::array<double, 4>& out) {
    for (std::size_t i = 0; i < 4; ++i) out[i] = 1.0 + epsilon * (2.0 * uniform_of(words[i]) - 1.0);
  });
}

}  // namespace moesweep::routing
