// What every transport must do, as one suite: transport_contract.cpp is compiled into the test of each implementation.
#pragma once

#include <cstddef>
#include <cstring>
#include <functional>
#include <ostream>
#include <string>
#include <vector>

#include "moesweep/comm/grid.hpp"

namespace moesweep::comm {

/// The memory that a transport's pointers point into, and how the host gets there once a collective was waited for.
struct Memory {
  std::function<void*(std::size_t)> allocate;
  std::function<void(void*)> release;
  std::function<void(void* device, const void* host, std::size_t bytes)> write;
  std::function<void(void* host, const void* device, std::size_t bytes)> read;
};

inline void copy_bytes(void* to, const void* from, std::size_t bytes) {
  if (bytes > 0) std::memcpy(to, from, bytes);
}
inline Memory host_memory() {
  return {[](std::size_t bytes) { return ::operator new(bytes); }, [](void* data) { ::operator delete(data); }, copy_bytes, copy_bytes};
}

struct Implementation {
  std::string name;
  MakeTransport make;
  Memory memory;
};

inline void PrintTo(const Implementation& implementation, std::ostream* out) { *out << implementation.name; }

/// Those that this test program runs the suite for.
std::vector<Implementation> implementations();

}  // namespace moesweep::comm
