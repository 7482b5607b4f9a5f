// Element types of the buffers that cross rooms (transports, records, checkpoints).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace moesweep {

enum class DType { f64, f32, bf16, i64, i32, u8 };

constexpr std::size_t size_of(DType type) {
  switch (type) {
    case DType::f64:
    case DType::i64: return 8;
    case DType::f32:
    case DType::i32: return 4;
    case DType::bf16: return 2;
    case DType::u8: return 1;
  }
  return 0;
}

constexpr std::string_view name_of(DType type) {
  switch (type) {
    case DType::f64: return "f64";
    case DType::f32: return "f32";
    case DType::bf16: return "bf16";
    case DType::i64: return "i64";
    case DType::i32: return "i32";
    case DType::u8: return "u8";
  }
  return "";
}

}  // namespace moesweep
