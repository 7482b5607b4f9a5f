// Sequences out of a token store on disk.
#pragma once

#include <memory>

#include "moesweep/data/source.hpp"

namespace moesweep::data {

std::unique_ptr<Source> open_token_store(const DataConfig& config, DigestCheck check);

}  // namespace moesweep::data
