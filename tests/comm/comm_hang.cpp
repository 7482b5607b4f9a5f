// Rank 1 sleeps in place of joining a collective: with the watchdog at one second nobody waits for it.
#include <chrono>
#include <cstdio>
#include <thread>

#include "moesweep/comm/mpi.hpp"
#include "moesweep/comm/watchdog.hpp"
#include "moesweep/core/error.hpp"

int main() {
  using namespace moesweep;
  try {
    const comm::Environment environment;
    comm::watchdog::set_timeout(1.0);
    const auto world = comm::Communicator::world();
    if (world.rank() == 1) std::this_thread::sleep_for(std::chrono::seconds(60));
    world.barrier("the test's barrier");
  } catch (const Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return static_cast<int>(exit_code_of(error.kind()));
  }
  return 0;
}
