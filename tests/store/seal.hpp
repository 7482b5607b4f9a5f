// Gives a changed file the digests of its new content: what an attacker does, and what a test does to reach the checks behind the digest.
#pragma once

#include <filesystem>
#include <functional>

#include "moesweep/core/error.hpp"
#include "store/layout.hpp"

namespace moesweep::store {

/// Sets `content` of every dataset (of none with `older`, as files were before they had it) and `digest` of the root. What cannot be described is
/// left out: readers refuse it before they look at any digest.
inline void seal(const std::filesystem::path& path, bool older = false) {
  auto file = h5::open_file_to_change(path);
  std::vector<Description> descriptions;
  std::vector<std::string> contents, names;
  try {
    names = h5::dataset_paths(file.get());
  } catch (const std::exception&) {
  }
  for (const auto& name : names) {
    try {
      const auto dataset = h5::open_dataset(file.get(), name);
      if (H5Aexists(dataset.get(), "content") > 0) H5Adelete(dataset.get(), "content");
      auto description = describe(dataset.get(), name, kOpened);
      const auto content = content_of(block_digests(file.get(), description, 0, blocks_of(description)));
      if (!older) h5::write_text_attribute(dataset.get(), "content", content);
      descriptions.push_back(std::move(description));
      contents.push_back(content);
    } catch (const std::exception&) {
    }
  }
  if (H5Aexists(file.get(), "digest") > 0) H5Adelete(file.get(), "digest");
  h5::write_text_attribute(file.get(), "digest", digest_of(root_attributes(file.get()), descriptions, contents));
  h5::flush(file.get());
  h5::close_file(file);
}

/// Opens the file with plain HDF5, changes it, closes it, and seals it.
inline void change_and_seal(const std::filesystem::path& path, const std::function<void(hid_t)>& work, bool older = false) {
  {
    auto file = h5::open_file_to_change(path);
    work(file.get());
    h5::close_file(file);
  }
  seal(path, older);
}

}  // namespace moesweep::store
