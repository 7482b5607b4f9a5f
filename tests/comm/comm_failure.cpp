// comm_failure mpi|nccl HOW: two ranks, of which rank 1 fails as HOW says; with the timeout at one second nobody is left waiting.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>

#include "comm/nccl_double/nccl_double.hpp"
#include "moesweep/comm/watchdog.hpp"
#include "moesweep/core/error.hpp"

namespace moesweep::comm {
namespace {

void sleep_long() { std::this_thread::sleep_for(std::chrono::seconds(60)); }

void run(const std::string& kind, const std::string& how) {
  watchdog::set_timeout(1.0);
  watchdog::on_timeout([](const std::string& text) { std::fprintf(stderr, "told: %s\n", text.c_str()); });
  const auto world = Communicator::world();
  const bool culprit = world.rank() == 1;
  // A host that is busy elsewhere while the device waits.
  const bool busy_host = how == "busy_host";
  const auto transport = kind == "mpi" ? make_mpi_transport(world)
                         : busy_host   ? nccl_double::make_stream_ordered_transport(world)
                                       : nccl_double::make_transport(world);
  std::vector<double> data(1000, 1.0);
  transport->all_reduce_sum(data.data(), data.size(), DType::f64, "healthy sum");
  transport->barrier("healthy barrier");
  if (culprit && (how == "hang" || busy_host)) sleep_long();
  if (culprit && how == "error") throw Error(ErrorKind::mpi, "rank 1 met an error of its own");
  if (culprit && how == "abort") std::abort();
  std::vector<Part> send(2), receive(2);
  send[world.rank() == 0 ? 1 : 0] = {data.data(), culprit && how == "uneven" ? 40U : 80U};
  std::vector<double> more(10);
  receive[world.rank() == 0 ? 1 : 0] = {more.data(), 80};
  transport->start_exchange(send, receive, "the test's exchange").wait();
  if (busy_host) sleep_long();
  transport->all_reduce_sum(data.data(), data.size(), DType::f64, "the test's sum");
  transport->barrier("the test's barrier");
}

}  // namespace
}  // namespace moesweep::comm

int main(int, char** arguments) {
  using namespace moesweep;
  try {
    const comm::Environment environment;
    comm::run(arguments[1], arguments[2]);
  } catch (const Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return static_cast<int>(exit_code_of(error.kind()));
  }
  return 0;
}
