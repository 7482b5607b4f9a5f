// checkpoint.h5 that was changed by the HDF5 API: its collective reader, on one rank, and verify.
#include "moesweep/store/checkpoint.hpp"

#include <numeric>

#include "changed_file.hpp"
#include "moesweep/comm/mpi.hpp"
#include "moesweep/core/checked.hpp"
#include "moesweep/store/aggregate.hpp"
#include "reading.hpp"

using namespace moesweep;         // NOLINT
using namespace moesweep::fuzz;   // NOLINT
using namespace moesweep::store;  // NOLINT

namespace {

std::string make_base(const comm::Communicator& self) {
  const std::vector<std::byte> bytes(4096);
  std::vector<Piece> pieces;
  const auto add = [&](const char* name, DType type, std::vector<std::int64_t> shape) {
    const std::int64_t elements = checked_product(shape);
    pieces.push_back({name, type, std::move(shape), 0, elements, bytes.data()});
  };
  add("parameters/router", DType::f32, {8, 3});
  add("parameters/embedding", DType::bf16, {10, 7});
  add("moments/first/embedding", DType::f64, {31});
  add("state/step", DType::i64, {});
  add("state/empty", DType::i32, {0, 3});
  add("state/bytes", DType::u8, {5});
  write_checkpoint(self, scratch() / "base.h5", "{\"step\": 3}", pieces, sample_trial(0));
  return slurp(scratch() / "base.h5");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  begin();
  static const auto self = comm::Communicator::self();
  static const std::vector<std::string> bases{make_base(self)};
  const auto path = scratch() / "checkpoint.h5";
  const Changed changed = write_changed(path, bases, {data, size});

  Verification verification;
  const auto broken = refusal([&] { verification = verify(path); });
  const bool sound = !broken && verification.problems.empty();
  const auto refused = refusal([&] {
    const CheckpointReader reader(self, path);
    require_no_secret(reader.record());
    require_no_secret(std::as_bytes(std::span(reader.header())), "the header");
    for (const auto& name : reader.names()) {
      const std::int64_t elements = checked_product(reader.shape(name));
      require(reader.has(name) && elements >= 0 && elements < (std::int64_t{1} << 24), name + " has an impossible shape");
      std::vector<std::byte> bytes(static_cast<std::size_t>(elements) * size_of(reader.type(name)));
      const auto unread = refusal([&] { reader.read(name, reader.type(name), 0, elements, bytes.data()); });
      require(!unread || !sound, "verify calls sound what cannot be read: " + unread.value_or(""));
      if (!unread) require_no_secret(bytes, name);
      if (elements > 1) refusal([&] { reader.read(name, reader.type(name), 1, elements - 1, bytes.data()); });
    }
    require(refusal([&] { static_cast<void>(reader.shape("parameters/none")); }).has_value(), "there is an array of no name");
  });
  require(!sound || !refused, "verify calls sound what cannot be opened: " + refused.value_or(""));
  require(!changed.as_it_was || sound, "a file that nobody changed is not sound: " + (broken ? *broken : refused.value_or("a problem")));
  require(open_identifiers() == 0, "a reader leaves something open");
  return 0;
}
