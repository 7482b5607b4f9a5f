// trial.h5: written by one process, from memory, and published by rename; read whole and checked against its digest.
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "file_check.hpp"
#include "layout.hpp"
#include "moesweep/core/publish.hpp"
#include "moesweep/store/record.hpp"
#include "trial.hpp"

namespace moesweep::store {

namespace {

constexpr std::size_t kReasonBytes = 16000;
/// More groups than a trial file ever has.
constexpr std::size_t kGroups = 1000;

std::map<std::string, std::string> attributes_of(const TrialRecord& record, const Format& format) {
  return {{"format", format.name},
          {"version", std::to_string(format.version)},
          {"id", shortened(record.id, 1000)},
          {"state", shortened(record.state, 1000)},
          {"reason", shortened(record.reason, kReasonBytes)}};
}

}  // namespace

void write_record_attributes(hid_t object, const TrialRecord& record) {
  h5::write_text_attribute(object, "id", shortened(record.id, 1000));
  h5::write_text_attribute(object, "state", shortened(record.state, 1000));
  h5::write_text_attribute(object, "reason", shortened(record.reason, kReasonBytes));
}

TrialRecord read_record(hid_t file, const std::vector<Description>& descriptions, const std::string& prefix) {
  TrialRecord record;
  record.id = h5::read_text_attribute(file, "id").value_or("");
  record.state = h5::read_text_attribute(file, "state").value_or("");
  record.reason = h5::read_text_attribute(file, "reason").value_or("");
  bool config = false, provenance = false;
  for (const auto& d : descriptions) {
    if (d.path.rfind(prefix, 0) != 0) continue;
    const auto path = d.path.substr(prefix.size());
    auto bytes = read_dataset(file, d);
    const auto text = [&] { return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()); };
    if (path == "header/config") {
      record.config = text();
      config = true;
    } else if (path == "header/provenance") {
      record.provenance = text();
      provenance = true;
    } else if (d.type.text_width > 0) {
      throw Error(ErrorKind::corrupt, "dataset " + d.path + ": it does not hold numbers");
    } else {
      record.arrays.push_back({path, d.type.number, d.shape, std::move(bytes), d.unit, d.description, d.metric.value_or(false)});
    }
  }
  if (!config) throw Error(ErrorKind::corrupt, "dataset " + prefix + "header/config: it is missing");
  if (!provenance) throw Error(ErrorKind::corrupt, "dataset " + prefix + "header/provenance: it is missing");
  return record;
}

namespace {

Published write_record(const std::filesystem::path& path, const TrialRecord& record, const Format& format) {
  auto parts = parts_of(record, "");
  const auto contents = parts.contents();
  const auto digest = digest_of(attributes_of(record, format), parts.descriptions, contents);
  const auto image = as_io(path, [&] {
    return h5::build_image([&](hid_t file) {
      write_format(file, format);
      write_record_attributes(file, record);
      h5::write_text_attribute(file, "digest", digest);
      for (std::size_t i = 0; i < parts.bytes.size(); ++i) {
        parts.descriptions[i].content = contents[i];
        write_dataset(file, parts.descriptions[i], parts.bytes[i].data());
      }
    });
  });
  publish_bytes(path, image);
  return {Sha256().add(image).hex(), digest, static_cast<std::int64_t>(image.size())};
}

}  // namespace

Published write_trial(const std::filesystem::path& path, const TrialRecord& record) { return write_record(path, record, kTrialFormat); }
void write_trace(const std::filesystem::path& path, const TrialRecord& record) { write_record(path, record, kTraceFormat); }

/// What lies below a group. Whether a name is a group's or a dataset's is asked once: opening it as the other fails.
void TrialReader::list(hid_t group, const std::string& prefix, std::vector<h5::Handle>& groups, std::vector<Place>& places) {
  for (auto& name : h5::links_of(group, prefix)) {
    auto path = prefix + name;
    auto known = is_group_.find(path);
    if (known == is_group_.end()) known = is_group_.emplace(path, h5::is_group(group, name)).first;
    if (known->second) {
      if (groups.size() > kGroups) throw Error(ErrorKind::corrupt, "too many groups, or some inside themselves");
      const hid_t inner = groups.emplace_back(h5::open_group(group, name)).get();
      list(inner, path + "/", groups, places);
    } else {
      places.push_back({std::move(path), std::move(name), group});
    }
  }
}

bool TrialReader::read_as_known(hid_t file, TrialRecord& record, std::string& digest) {
  std::vector<h5::Handle> groups;
  std::vector<Place> places;
  list(file, "", groups, places);
  std::ranges::sort(places, {}, &Place::path);
  std::vector<Description> descriptions;
  std::vector<std::string> contents;
  bool config = false, provenance = false;
  for (const auto& [path, name, group] : places) {
    const auto dataset = h5::open_dataset(group, name);
    auto found = known_.find(path);
    if (found == known_.end()) {
      Description description = describe(dataset.get(), path, kOpened);
      description.shape.clear();
      auto type = hdf5_type(description.type);
      found = known_.emplace(path, Known{std::move(description), std::move(type)}).first;
    }
    Description d = found->second.description;
    for (const auto dimension : h5::shape_of(dataset.get(), path)) d.shape.push_back(static_cast<std::int64_t>(dimension));
    if (d.shape.empty() || d.type.text_width > 0) return false;
    h5::require_plain(dataset.get(), d.type.size(), h5::Origin::ours, path);  // who knows the bytes may have them from a stranger's journal
    std::vector<std::byte> bytes(d.bytes());
    if (!bytes.empty()) h5::read_all(dataset.get(), found->second.type.get(), bytes.data(), path);
    contents.push_back(content_of(block_digests(bytes)));
    if (path == "header/config" || path == "header/provenance") {
      (path == "header/config" ? record.config : record.provenance).assign(reinterpret_cast<const char*>(bytes.data()), bytes.size());
      (path == "header/config" ? config : provenance) = true;
    } else {
      record.arrays.push_back({path, d.type.number, d.shape, std::move(bytes), d.unit, d.description, d.metric.value_or(false)});
    }
    descriptions.push_back(std::move(d));
  }
  const auto attributes = root_attributes(file);
  const auto text = [&](const char* name) {
    const auto found = attributes.find(name);
    return found == attributes.end() ? std::string() : found->second;
  };
  record.id = text("id");
  record.state = text("state");
  record.reason = text("reason");
  digest = digest_of(attributes, descriptions, contents);
  return config && provenance && digest == h5::read_text_attribute(file, "digest");
}

TrialRecord TrialReader::read(const std::filesystem::path& path, const Published& published, Published* found) {
  return as_corrupt(path, [&] {
    const auto bytes = load_file(path);
    Published here{Sha256().add(bytes).hex(), "", static_cast<std::int64_t>(bytes.size())};
    const bool known = here.sha256 == published.sha256;
    if (!known) check_in_child(path, h5::Origin::ours);
    const auto file = h5::open_image(bytes);
    require_format(file.get(), kTrialFormat, path);
    if (known) {
      try {
        TrialRecord record;
        if (read_as_known(file.get(), record, here.digest)) {
          if (found) *found = here;
          return record;
        }
      } catch (const h5::Failure&) {  // whatever is wrong is found and named below
      } catch (const Error&) {
      }
      known_.clear();
      is_group_.clear();
    }
    const auto descriptions = describe_all(file.get());
    check_digest(file.get(), descriptions, path);
    auto record = read_record(file.get(), descriptions, "");
    here.digest = h5::read_text_attribute(file.get(), "digest").value_or("");
    if (found) *found = here;
    return record;
  });
}

TrialRecord read_trial(const std::filesystem::path& path, const Published& published) { return TrialReader().read(path, published); }

TrialFinding find_trial(const std::filesystem::path& path, const std::string& id, const Published& published) {
  TrialFinding finding;
  const auto is = [&](TrialFinding::Kind kind, const std::string& why) {
    finding.kind = kind;
    finding.why = why;
  };
  struct stat status {};
  if (::lstat(path.c_str(), &status) != 0) {
    if (errno != ENOENT && errno != ENOTDIR) is(TrialFinding::Kind::unreadable, std::strerror(errno));
    return finding;
  }
  try {
    finding.record = TrialReader().read(path, published, &finding.published);
    if (finding.record.id == id) is(TrialFinding::Kind::valid, "");
    else is(TrialFinding::Kind::damaged, "it holds the trial " + finding.record.id + ", not " + id);
  } catch (const NewerFormat& error) {
    is(TrialFinding::Kind::unreadable, error.message());
  } catch (const Error& error) {
    is(error.kind() == ErrorKind::corrupt ? TrialFinding::Kind::damaged : TrialFinding::Kind::unreadable, error.message());
  } catch (const std::exception& error) {  // memory
    is(TrialFinding::Kind::unreadable, error.what());
  }
  if (!finding.valid()) finding = {finding.kind, {}, std::move(finding.why), {}};
  return finding;
}

}  // namespace moesweep::store
