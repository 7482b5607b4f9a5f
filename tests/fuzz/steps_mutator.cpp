// How libFuzzer changes programs of changed_file.hpp: whole steps come, go and are exchanged, beside its own changes of bytes.
#include <algorithm>
#include <cstring>
#include <random>

#include "changed_file.hpp"

extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t most);
extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t most, unsigned int seed);

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t most, unsigned int seed) {
  using moesweep::fuzz::kHeadBytes, moesweep::fuzz::kMostSteps, moesweep::fuzz::kStepBytes;
  std::minstd_rand random(seed);
  most = std::min(most, kHeadBytes + kMostSteps * kStepBytes);
  if (most < kHeadBytes + kStepBytes) return LLVMFuzzerMutate(data, size, most);
  if (size < kHeadBytes) {
    std::memset(data, 0, kHeadBytes);
    size = kHeadBytes;
  }
  size = std::min(size - (size - kHeadBytes) % kStepBytes, kHeadBytes + kMostSteps * kStepBytes);
  size = std::min(size, most - (most - kHeadBytes) % kStepBytes);
  std::size_t steps = (size - kHeadBytes) / kStepBytes;
  const auto at = [&](std::size_t step) { return data + kHeadBytes + step * kStepBytes; };
  const auto any = [&](std::size_t below) { return static_cast<std::size_t>(random()) % below; };
  switch (any(8)) {
    case 0:  // the head
      data[any(kHeadBytes)] = static_cast<std::uint8_t>(random() >> 8);
      break;
    case 1:
    case 2:  // one more step
      if (size + kStepBytes <= most && steps < kMostSteps) {
        const std::size_t place = any(steps + 1);
        std::memmove(at(place) + kStepBytes, at(place), (steps - place) * kStepBytes);
        for (std::size_t i = 0; i < kStepBytes; ++i) at(place)[i] = static_cast<std::uint8_t>(random() >> 8);
        if (any(2) == 0) std::memset(at(place) + 9, 0, kStepBytes - 9);  // a small number
        size += kStepBytes;
        break;
      }
      [[fallthrough]];
    case 3:  // one step less
      if (steps > 1) {
        const std::size_t place = any(steps);
        std::memmove(at(place), at(place) + kStepBytes, (steps - place - 1) * kStepBytes);
        size -= kStepBytes;
        break;
      }
      [[fallthrough]];
    case 4:  // one byte of a step
      if (steps > 0) {
        at(any(steps))[any(kStepBytes)] = static_cast<std::uint8_t>(random() >> 8);
        break;
      }
      [[fallthrough]];
    case 5:  // two steps exchanged
      if (steps > 1) {
        std::swap_ranges(at(0), at(0) + kStepBytes, at(steps - 1));
        break;
      }
      [[fallthrough]];
    default:  // the bytes of one step, else of all
      if (steps > 0) static_cast<void>(LLVMFuzzerMutate(at(any(steps)), kStepBytes, kStepBytes));
      else size = LLVMFuzzerMutate(data, size, most);
  }
  return size;
}
