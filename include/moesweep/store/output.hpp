// What a command may replace when a person names a file to write.
#pragma once

#include <filesystem>
#include <string>

namespace moesweep::store {

/// An `io` error unless `path` is absent, or an HDF5 file that moesweep wrote for the same purpose: its root has the text attribute `attribute`,
/// with this `value` where one is given. So a mistyped name replaces nobody's file.
void require_own_output(const std::filesystem::path& path, const std::string& attribute, const std::string& value = {});

}  // namespace moesweep::store
