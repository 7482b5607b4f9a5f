// JSON values (nlohmann-json); objects keep the order in which keys were added.
#pragma once

#include <nlohmann/json.hpp>

namespace moesweep {

using Json = nlohmann::ordered_json;

}  // namespace moesweep
