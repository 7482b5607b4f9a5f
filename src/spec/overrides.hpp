// Command-line overrides, applied to the merged document before it is expanded.
#pragma once

#include <string>
#include <vector>

#include "document.hpp"

namespace moesweep::spec {

/// `key=value` replaces the key wherever the file gives it, `key=[a,b]` makes it an axis of every block, `+key=value` adds, `~key` removes.
/// A trial (no blocks) takes no axes.
void apply_overrides(Document& document, const std::vector<std::string>& overrides, FileKind kind);

}  // namespace moesweep::spec
