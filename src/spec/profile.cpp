// See include/moesweep/spec/profile.hpp.
#include "moesweep/spec/profile.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <set>
#include <sstream>

#include "files.hpp"
#include "keys.hpp"
#include "moesweep/core/publish.hpp"
#include "node.hpp"

namespace fs = std::filesystem;

namespace moesweep::spec {

void SiteProfile::list(FieldList& fields) {
  fields.add("partition", partition, "partition of every job");
  fields.add("account", account, "account that is charged");
  fields.add("qos", qos, "quality of service");
  fields.add("constraint", constraint, "features that nodes must have");
  fields.add("gpus", gpus, "GPUs of each node: a number, or a kind and a number (a100:4); every rank sees all of its node");
  fields.add("time", time, "time limit of an array element, as sbatch takes it (04:00:00)");
  fields.add("signal_seconds", signal_seconds, "USR2 comes so long before the time limit, for checkpoints")
      .at_least(1)
      .at_most(65535)
      .in_unit("seconds");
  fields.add("ranks_per_node", ranks_per_node, "at most so many ranks on a node").at_least(1);
  fields.add("modules", modules, "loaded in this order");
  fields.add("setup", setup, "shell lines before the first step, as they are");
  fields.add("srun", srun, "further arguments of srun");
  fields.add("sbatch", sbatch, "further #SBATCH options, as they are (--mem-per-cpu=2G)");
  fields.add("inherit", inherit, "names of variables whose values jobs take from the environment of submit; no file holds them");
  fields.add("report", report, "path of moesweep-report; auto = where it is found, none = no report job");
}

namespace {

bool is_variable(const std::string& name) {
  const auto fits = [](unsigned char c) { return std::isalnum(c) != 0 || c == '_'; };
  return !name.empty() && std::isdigit(static_cast<unsigned char>(name[0])) == 0 && std::ranges::all_of(name, fits);
}

std::map<std::string, std::string> environment_of(const Node& node) {
  if (!node.is_map()) fail(node.mark, fmt::format("environment: expected a mapping of names to texts but found {}", node.in_words()));
  std::map<std::string, std::string> values;
  for (const Entry& entry : node.entries) {
    if (!is_variable(entry.key)) fail(entry.mark, fmt::format("environment: '{}' is no name of a variable", entry.key), "letters, digits and _");
    if (!entry.value.is_scalar())
      fail(entry.value.mark, fmt::format("environment.{}: expected text but found {}", entry.key, entry.value.in_words()));
    values[entry.key] = entry.value.text;
  }
  return values;
}

/// What `inherit` names: each once, a variable, none that `environment` sets too.
void check_inherit(const Node& list, const std::map<std::string, std::string>& environment) {
  std::set<std::string> seen;
  for (const Node& item : list.items) {
    const std::string& name = item.text;
    if (!is_variable(name))  // of NAME=value the name alone is shown
      fail(item.mark, fmt::format("inherit: '{}' is no name of a variable", name.substr(0, name.find('='))),
           "letters, digits and _, without a value: that is taken from the environment of `moesweep submit`");
    if (!seen.insert(name).second) fail(item.mark, fmt::format("inherit: {} is named twice", name));
    if (environment.contains(name))
      fail(item.mark, fmt::format("inherit: {} is in environment too, which gives it another value", name), "leave it out of one of the two");
    std::string upper = name;
    std::ranges::transform(upper, upper.begin(), [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
    if (upper == "ALL" || upper == "NONE" || upper == "NIL")
      fail(item.mark, fmt::format("inherit: {} is a word of sbatch's own in --export, no variable there", name), "give the variable another name");
  }
}

fs::path file_of(const std::string& name) {
  const char* given = std::getenv("MOESWEEP_PROFILES");
  std::error_code none;
  if (given != nullptr && !name.empty() && !fs::is_regular_file(name, none)) {
    std::istringstream folders(given);
    for (std::string folder; std::getline(folders, folder, ':');)
      for (const fs::path& path : {fs::path(folder) / name, fs::path(folder) / (name + ".yaml")})
        if (!folder.empty() && fs::is_regular_file(path, none)) return path;
  }
  return find_named(name, "profiles");
}

}  // namespace

SiteProfile load_profile(const std::string& name) {
  SiteProfile profile;
  profile.file = file_of(name);
  const Node root = parse_yaml(read_text(profile.file), shown(profile.file));
  if (!root.is_map()) fail(root.mark, fmt::format("a profile is a mapping, this is {}", root.in_words()));
  const FieldList fields = fields_of(profile);
  const Node* inherit = nullptr;
  for (const Entry& entry : root.entries) {
    if (entry.key == "environment") {
      profile.environment = environment_of(entry.value);
      continue;
    }
    const Field* field = fields.find(entry.key);
    if (field == nullptr) {
      std::vector<std::string> names = names_of(fields);
      names.emplace_back("environment");
      std::string known;
      for (const std::string& each : names) known += (known.empty() ? "" : ", ") + each;
      fail(entry.mark, fmt::format("unknown key '{}' in a profile{}", entry.key, did_you_mean(entry.key, names)), "a profile takes " + known);
    }
    const Json value = convert(*field, entry.value, entry.key);
    const auto refuse_control = [&](const std::string& text, const Mark& mark) {
      if (std::ranges::any_of(text, [](unsigned char c) { return c < 0x20 || c == 0x7f; }))
        fail(mark, fmt::format("{}: a line break or another control character reaches no job script", entry.key));
    };
    if (value.is_string()) refuse_control(value.get_ref<const std::string&>(), entry.value.mark);
    for (std::size_t i = 0; value.is_array() && i < value.size(); ++i)
      refuse_control(value[i].get_ref<const std::string&>(), entry.value.items[i].mark);
    field->set(value);
    if (entry.key == "inherit") inherit = &entry.value;
  }
  if (inherit != nullptr) check_inherit(*inherit, profile.environment);
  return profile;
}

}  // namespace moesweep::spec
