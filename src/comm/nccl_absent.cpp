// See include/moesweep/comm/nccl.hpp. What a build without NCCL has in place of nccl.cpp.
#include "moesweep/comm/nccl.hpp"
#include "moesweep/core/error.hpp"

namespace moesweep::comm {

namespace {
[[noreturn]] void refuse(const char* what) {
  throw Error(ErrorKind::config, std::string(what) + " needs NCCL, and this moesweep is built without it", "",
              "build with it: bash jobs/setup.sh cuda (or cmake --preset cuda where CUDA, its LibTorch and NCCL are installed)")
      .thrown_on_every_rank();
}
}  // namespace

bool nccl_is_built() { return false; }
std::unique_ptr<Transport> make_nccl_transport(const Communicator&, NcclOptions) { refuse("a transport over GPU memory"); }
int choose_device(const Communicator&) { refuse("the choice of a GPU"); }
std::vector<std::string> describe_nccl() { return {"built without NCCL and CUDA (MOESWEEP_CUDA=OFF)"}; }

}  // namespace moesweep::comm
