// See include/moesweep/comm/mpi.hpp.
#include "moesweep/comm/mpi.hpp"

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <utility>

#include "moesweep/comm/watchdog.hpp"
#include "moesweep/core/error.hpp"
#include "moesweep/core/json.hpp"
#include "moesweep/core/text.hpp"

namespace moesweep::comm {

void check(int code, const char* call) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = {};
  int length = 0;
  MPI_Error_string(code, text, &length);
  throw Error(ErrorKind::mpi, std::string(call) + " failed: " + text);
}

bool initialised() {
  int started = 0, ended = 0;
  MPI_Initialized(&started);
  MPI_Finalized(&ended);
  return started != 0 && ended == 0;
}

Environment::Environment() {
  int provided = 0;
  check(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided), "MPI_Init_thread");
  const Communicator world = Communicator::world();
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  watchdog::set_rank(world.rank(), world.size());
  const char* tasks = std::getenv("SLURM_STEP_NUM_TASKS");
  if (world.size() == 1 && tasks != nullptr && std::atoi(tasks) > 1) {
    MPI_Finalize();
    throw Error(ErrorKind::mpi,
                std::string("Slurm started ") + tasks + " tasks, but MPI sees a world of one rank: launcher and MPI do not know each other", "",
                "start the program with `srun --mpi=pmix` (or with mpirun inside the allocation)");
  }
}

Environment::~Environment() {
  // While an exception unwinds the other ranks may be elsewhere: MPI_Finalize would wait for them.
  if (std::uncaught_exceptions() == 0) MPI_Finalize();
}

Communicator::Communicator(MPI_Comm comm, bool owned) : comm_(comm), owned_(owned) {
  check(MPI_Comm_rank(comm_, &rank_), "MPI_Comm_rank");
  check(MPI_Comm_size(comm_, &size_), "MPI_Comm_size");
}

Communicator Communicator::world() { return {MPI_COMM_WORLD, false}; }
Communicator Communicator::self() { return {MPI_COMM_SELF, false}; }

Communicator::Communicator(Communicator&& other) noexcept
    : comm_(std::exchange(other.comm_, MPI_COMM_NULL)), rank_(other.rank_), size_(other.size_), owned_(std::exchange(other.owned_, false)) {}

Communicator& Communicator::operator=(Communicator&& other) noexcept {
  std::swap(comm_, other.comm_);
  std::swap(rank_, other.rank_);
  std::swap(size_, other.size_);
  std::swap(owned_, other.owned_);
  return *this;
}

Communicator::~Communicator() {
  // Freeing is collective: while an exception unwinds the handle is left to the end of the process.
  if (owned_ && comm_ != MPI_COMM_NULL && std::uncaught_exceptions() == 0 && initialised()) MPI_Comm_free(&comm_);
}

std::optional<Communicator> Communicator::split(std::optional<int> colour) const {
  const watchdog::Guard guard("split of a communicator");
  MPI_Comm made = MPI_COMM_NULL;
  check(MPI_Comm_split(comm_, colour.value_or(MPI_UNDEFINED), rank_, &made), "MPI_Comm_split");
  if (made == MPI_COMM_NULL) return std::nullopt;
  return Communicator(made, true);
}

Communicator Communicator::duplicate() const {
  const watchdog::Guard guard("duplication of a communicator");
  MPI_Comm made = MPI_COMM_NULL;
  check(MPI_Comm_dup(comm_, &made), "MPI_Comm_dup");
  return {made, true};
}

void Communicator::barrier(const char* what) const {
  const watchdog::Guard guard(what);
  check(MPI_Barrier(comm_), "MPI_Barrier");
}

std::string Communicator::broadcast(const std::string& text, int root, const char* what) const {
  const watchdog::Guard guard(what);
  std::uint64_t size = text.size();
  check(MPI_Bcast(&size, 1, MPI_UINT64_T, root, comm_), "MPI_Bcast");
  std::string result = rank_ == root ? text : std::string(size, '\0');
  constexpr std::uint64_t kPart = 1ULL << 30;
  for (std::uint64_t first = 0; first < size; first += kPart)
    check(MPI_Bcast(result.data() + first, static_cast<int>(std::min(kPart, size - first)), MPI_CHAR, root, comm_), "MPI_Bcast");
  return result;
}

std::vector<std::string> Communicator::all_gather(const std::string& text, const char* what) const {
  const watchdog::Guard guard(what);
  std::vector<int> lengths(static_cast<std::size_t>(size_)), starts(lengths);
  const int length = static_cast<int>(text.size());
  check(MPI_Allgather(&length, 1, MPI_INT, lengths.data(), 1, MPI_INT, comm_), "MPI_Allgather");
  std::int64_t total = 0;
  for (std::size_t i = 0; i < lengths.size(); ++i) {
    starts[i] = static_cast<int>(total);
    total += lengths[i];
  }
  if (total > (1LL << 31) - 1) throw Error(ErrorKind::mpi, std::string(what) + ": more than 2 GiB to gather at once");
  std::string all(static_cast<std::size_t>(total), '\0');
  check(MPI_Allgatherv(text.data(), length, MPI_CHAR, all.data(), lengths.data(), starts.data(), MPI_CHAR, comm_), "MPI_Allgatherv");
  std::vector<std::string> parts;
  for (std::size_t i = 0; i < lengths.size(); ++i)
    parts.push_back(all.substr(static_cast<std::size_t>(starts[i]), static_cast<std::size_t>(lengths[i])));
  return parts;
}

namespace {
std::int64_t reduce(MPI_Comm comm, std::int64_t value, MPI_Op op, const char* what) {
  const watchdog::Guard guard(what);
  std::int64_t result = 0;
  check(MPI_Allreduce(&value, &result, 1, MPI_INT64_T, op, comm), "MPI_Allreduce");
  return result;
}
}  // namespace

std::int64_t Communicator::sum(std::int64_t value, const char* what) const { return reduce(comm_, value, MPI_SUM, what); }
std::int64_t Communicator::maximum(std::int64_t value, const char* what) const { return reduce(comm_, value, MPI_MAX, what); }
std::int64_t Communicator::minimum(std::int64_t value, const char* what) const { return reduce(comm_, value, MPI_MIN, what); }

void Communicator::agree(const std::function<void()>& work, const char* what) const {
  Json mine;
  try {
    work();
  } catch (const std::exception& exception) {
    const Error error = error_of(exception);
    mine = {{"kind", static_cast<int>(error.kind())}, {"message", error.message()}, {"where", error.where()}, {"hint", error.hint()}};
  }
  // The usual case costs one small reduction; texts travel only when somebody failed.
  if (sum(mine.is_null() ? 0 : 1, what) == 0) return;
  const auto all = all_gather(mine.is_null() ? "" : mine.dump(-1, ' ', false, Json::error_handler_t::replace), what);
  for (std::size_t r = 0; r < all.size(); ++r) {
    if (all[r].empty()) continue;
    const Json failure = Json::parse(all[r]);
    const std::string prefix = size_ > 1 ? "[Rank " + std::to_string(r) + "/" + std::to_string(size_) + "] " : "";
    throw Error(static_cast<ErrorKind>(failure["kind"].get<int>()), prefix + failure["message"].get<std::string>(),
                failure["where"].get<std::string>(), failure["hint"].get<std::string>())
        .thrown_on_every_rank();
  }
}

void abort_world(int exit_code, const std::string& reason) {
  std::fprintf(stderr, "%s\n", printable(reason).c_str());
  std::fflush(stderr);
  if (initialised()) MPI_Abort(MPI_COMM_WORLD, exit_code);
  std::_Exit(exit_code);
}

}  // namespace moesweep::comm
