// Opens the source that a config names; see include/moesweep/data/source.hpp.
#include "moesweep/data/source.hpp"

#include "moesweep/core/error.hpp"
#include "synthetic.hpp"
#include "token_store.hpp"

namespace moesweep::data {

std::unique_ptr<Source> open_source(const DataConfig& config, DigestCheck check) {
  if (const auto why = refusal(config); !why.empty()) throw Error(ErrorKind::config, why);
  if (config.kind == DataKind::synthetic) return open_synthetic(config);
  return open_token_store(config, check);
}

}  // namespace moesweep::data
