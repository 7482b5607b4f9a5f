// See script.hpp.
#include "script.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <cctype>

#include "moesweep/core/error.hpp"
#include "moesweep/core/json.hpp"
#include "moesweep/launch/submit.hpp"

namespace moesweep::launch {

std::string shell_quoted(std::string_view text) {
  std::string quoted = "'";
  for (const char c : text) {
    if (c == '\'') quoted += "'\\''";
    else quoted += c;
  }
  return quoted + "'";
}

std::string shell_quoted(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : " ") + shell_quoted(word);
  return text;
}

std::string shell_word(std::string_view text) {
  const auto plain = [](unsigned char c) {
    return std::isalnum(c) != 0 || std::string_view("_-./=:,+@%").find(static_cast<char>(c)) != std::string_view::npos;
  };
  return !text.empty() && std::ranges::all_of(text, plain) ? std::string(text) : shell_quoted(text);
}

std::string sbatch_quoted(std::string_view text) {
  const auto plain = [](unsigned char c) {
    return std::isalnum(c) != 0 || c >= 0x80 || std::string_view("_-./=:,+@%^[]").find(static_cast<char>(c)) != std::string_view::npos;
  };
  if (std::ranges::all_of(text, plain)) return std::string(text);
  std::string quoted = "'";
  for (const char c : text) {
    if (c == '\'' || c == '\\') quoted += std::string("'\\") + c + "'";
    else quoted += c;
  }
  return quoted + "'";
}

std::string export_list(const std::vector<std::string>& names, const std::vector<std::string>& sbatch_options, std::string_view sbatch_export) {
  std::string base = "ALL", of;
  for (const std::string& option : sbatch_options)
    for (std::size_t at = 0; (at = option.find("--export", at)) != std::string::npos;) {
      const bool begins = at == 0 || option[at - 1] == ' ';
      at += std::string_view("--export").size();
      if (!begins || at == option.size() || (option[at] != '=' && option[at] != ' ')) continue;
      base = option.substr(at + 1, option.find(' ', at + 1) - at - 1);
      std::erase_if(base, [](char c) { return c == '\'' || c == '"'; });
      of = "`sbatch` of the site profile";
    }
  if (!sbatch_export.empty()) {
    base = sbatch_export;
    of = "$SBATCH_EXPORT";
  }
  if (base.find('=') != std::string::npos)
    throw Error(ErrorKind::config, fmt::format("{} gives --export a value, which `inherit` would put on the command line of sbatch", of), "",
                "give the name alone there; a value that everybody may read belongs under `environment` of the profile");
  std::string list, upper = base;
  std::ranges::transform(upper, upper.begin(), [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  if (upper == "ALL") return "ALL";  // what Slurm does by itself; with names beside it, it would ask the node for a login environment too
  if (upper != "NONE" && upper != "NIL") list = base;
  for (const std::string& name : names) list += (list.empty() ? "" : ",") + name;
  return list;
}

std::string output_pattern(const std::filesystem::path& path) {
  std::string pattern;
  for (const char c : path.string()) {
    pattern += c;
    if (c == '%') pattern += c;
  }
  return pattern;
}

std::string plain_name(std::string_view name) {
  constexpr std::size_t kLongest = 40;
  std::string plain;
  for (const char c : name) {
    const bool fits = std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '.' || c == '_' || c == '-';
    if (fits) plain += c;
    else if (plain.empty() || plain.back() != '_') plain += '_';
    if (plain.size() == kLongest) break;
  }
  return plain.empty() ? "sweep" : plain;
}

void require_slurm_path(const std::filesystem::path& path) {
  const std::string text = path.string();
  const bool bad = std::ranges::any_of(text, [](unsigned char c) { return c < 0x20 || c == 0x7f || c == '\\'; });
  bool utf8 = true;
  try {
    (void)Json(text).dump();
  } catch (const Json::exception&) {
    utf8 = false;
  }
  if (bad || !utf8)
    throw Error(ErrorKind::config, "Slurm cannot take this path: it holds a line break, a backslash, another control character or a broken letter",
                Json(text).dump(-1, ' ', true, Json::error_handler_t::replace), "choose another folder with --out, or another name for the sweep");
}

namespace {

void directive(std::string& text, const std::string& option) { text += "#SBATCH " + option + "\n"; }

/// What every job of the site asks for.
void site_directives(std::string& text, const Scripts& scripts) {
  const spec::SiteProfile& profile = scripts.profile;
  for (const auto& [name, value] :
       {std::pair("partition", &profile.partition), {"account", &profile.account}, {"qos", &profile.qos}, {"constraint", &profile.constraint}})
    if (!value->empty()) directive(text, fmt::format("--{}={}", name, sbatch_quoted(*value)));
}

std::string head(const std::string& what, const Scripts& scripts, const std::string& job_name) {
  std::string text = fmt::format("#!/usr/bin/env bash\n# {}\n# {}\n", what, scripts.origin);
  directive(text, "--job-name=" + sbatch_quoted(job_name));
  site_directives(text, scripts);
  return text;
}

void log_directives(std::string& text, const Scripts& scripts, const std::string& file) {
  directive(text, "--requeue");
  directive(text, "--open-mode=append");
  directive(text, "--output=" + sbatch_quoted(output_pattern(scripts.folder / "slurm" / "logs") + "/" + file));
}

/// From the #SBATCH lines to the first step.
void setup(std::string& text, const Scripts& scripts) {
  const spec::SiteProfile& profile = scripts.profile;
  for (const std::string& line : profile.sbatch) directive(text, line);
  text += "\n";
  if (!profile.modules.empty()) {
    text +=
        "if ! type module >/dev/null 2>&1; then\n"
        "  for file in /etc/profile.d/modules.sh /etc/profile.d/lmod.sh /etc/profile.d/z00_lmod.sh; do\n"
        "    if [[ -r $file ]]; then source \"$file\"; break; fi\n"
        "  done\n"
        "fi\n";
    for (const std::string& name : profile.modules) text += "module load " + shell_quoted(name) + " || exit 2\n";
  }
  // Where sbatch's --export names variables, srun would hand on these alone and nothing that this script sets.
  text += "export SLURM_EXPORT_ENV=ALL\n";
  for (const std::string& name : profile.inherit)
    text += fmt::format(
        "[[ -v {0} ]] || {{ echo '{0} is not set in this job: `moesweep submit` hands it on from the shell that calls it' >&2; exit 2; }}\n", name);
  for (const auto& [name, value] : scripts.environment) text += "export " + name + "=" + shell_quoted(value) + "\n";
  for (const auto& [name, value] : profile.environment) text += "export " + name + "=" + shell_quoted(value) + "\n";
  for (const std::string& line : profile.setup) text += line + "\n";
  text += "set -uo pipefail\n";
  text += "cd -- " + shell_quoted(scripts.working_folder.string()) + " || exit 4\n";
  text += "program=" + shell_quoted(scripts.program.string()) + "\n";
  text += "folder=" + shell_quoted(scripts.folder.string()) + "\n";
}

/// srun with everything before the program.
std::string srun_words(const Scripts& scripts) {
  // One rank that died leaves the others waiting: --wait ends them. --kill-on-bad-exit would end ranks that are about to exit with 1 or 75
  // themselves.
  std::string text = "srun --mpi=pmix --kill-on-bad-exit=0 --wait=20";
  if (scripts.threads > 1) text += fmt::format(" --cpus-per-task={}", scripts.threads);
  for (const std::string& word : scripts.profile.srun) text += " " + shell_quoted(word);
  return text;
}

constexpr const char* kStep = R"bash(
# One step. Signals are for the ranks: Slurm sends USR2 to them directly; what reaches this shell is noted, and the wait for the step goes on.
ending=0 noticed=0 code=0
trap 'noticed=1 ending=1' TERM
trap 'noticed=1' USR2 CONT
export SLURM_EXIT_ERROR=253   # of srun itself, apart from the program's codes
step() {
  local pid again
  "$@" &
  pid=$!
  code=0
  wait "$pid" || code=$?
  while [[ $noticed == 1 ]]; do
    noticed=0 again=0
    wait "$pid" || again=$?
    [[ $again == 127 ]] || code=$again
  done
}
say() { printf '[%s] %s\n' "$(date -u +%FT%TZ)" "$*" >&2; }

# Seconds that a signal ends.
pause() {
  sleep "$1" &
  wait "$!"
  [[ $ending == 0 ]]
}
)bash";

constexpr const char* kRestarts = R"bash(
# A step that died (a rank was killed, ended the world with 6, or srun could not start it) is started again here.
deaths=0
while :; do
  run_step
  [[ $code == 6 || $code -ge 128 ]] || break
  [[ $ending == 0 ]] || break
  deaths=$((deaths + 1))
  if [[ $deaths -gt 50 ]]; then say "the step died $deaths times, the last time with code $code: giving up"; break; fi
  seconds=$((deaths < 5 ? 1 << (deaths - 1) : 30))
  say "the step died with code $code; start $((deaths + 1)) of 51 in $seconds s"
  pause "$seconds" || break
done
)bash";

constexpr const char* kRequeue = R"bash(
# Stopped before everything was done (75): back into the queue, by element: the job id alone would requeue the whole array. A job that was cancelled
# stays so; one at its time limit goes on.
if [[ $code == 75 || ($ending == 1 && ($code == 6 || $code -ge 128)) ]]; then
  element=${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}
  for try in 1 2 3 4 5 6 7 8 9 10; do
    state=$(timeout 20 squeue -h -t all -j "$element" -o '%T %L' 2>&1) || { say "squeue: $state"; sleep 3; continue; }
    case $state in
      RUNNING* | 'COMPLETING 0:00' | 'COMPLETING INVALID' | TIMEOUT*) ;;
      *) say "stopped, and not put back into the queue: the element is ${state:-gone}"; exit 75 ;;
    esac
    if answer=$(timeout 20 scontrol requeue "$element" 2>&1); then
      say "stopped before everything was done: $element is back in the queue"
      sleep 60   # Slurm ends this job
      exit 75
    fi
    say "scontrol requeue $element: $answer"
    case $answer in
      *[Dd]isabled*) say "this site has requeue switched off: the same 'moesweep submit' goes on from the checkpoints"; exit 75 ;;
    esac
    sleep 3
  done
  say "it could not be put back into the queue: the same 'moesweep submit' goes on from the checkpoints"
  exit 75
fi
)bash";

}  // namespace

std::string array_script(const Scripts& scripts, const std::string& job_name, const plan::ArrayChunk& chunk) {
  const spec::SiteProfile& profile = scripts.profile;
  std::string text =
      head(fmt::format("Trials of the sweep {}: an element works its own shard first, then what nobody has claimed.", plain_name(scripts.sweep)),
           scripts, job_name);
  directive(text, fmt::format("--array={}{}", chunk.indices(), scripts.throttle > 0 ? fmt::format("%{}", scripts.throttle) : ""));
  directive(text, fmt::format("--ntasks={}", scripts.ranks));
  if (scripts.nodes > 0) directive(text, fmt::format("--nodes={}", scripts.nodes));
  if (profile.ranks_per_node && scripts.ranks > 1)
    directive(text, fmt::format("--ntasks-per-node={}", std::min(scripts.ranks, *profile.ranks_per_node)));
  directive(text, fmt::format("--cpus-per-task={}", scripts.threads));
  if (!profile.gpus.empty() && profile.gpus != "none" && profile.gpus != "0") directive(text, "--gres=gpu:" + sbatch_quoted(profile.gpus));
  directive(text, "--time=" + scripts.time);
  directive(text, fmt::format("--signal=USR2@{}", scripts.signal_seconds));
  log_directives(text, scripts, "array-%A_%a.log");
  setup(text, scripts);
  text += fmt::format("first={} shards={}   # this array's first shard, and how many there are in all\n", chunk.first, scripts.shards);
  text += kStep;
  text += "\nrun_step() {\n  step " + srun_words(scripts) + " \"$program\" run \"$folder/sweep.yaml\" --out \"$folder\" \\\n    ";
  if (!scripts.run_options.empty()) text += shell_quoted(scripts.run_options) + " ";
  text += "--shard \"$((first + SLURM_ARRAY_TASK_ID))/$shards\"\n}\n";
  text += kRestarts;
  text += kRequeue;
  text += "exit \"$code\"\n";
  return text;
}

std::string aggregate_script(const Scripts& scripts, const std::string& job_name) {
  std::string text = head(fmt::format("The aggregate of the sweep {}, after any ending of its arrays: what did not finish is a row with its state.",
                                      plain_name(scripts.sweep)),
                          scripts, job_name);
  directive(text, fmt::format("--ntasks={}", std::min<std::int64_t>(scripts.ranks, 2)));
  directive(text, "--cpus-per-task=1");
  directive(text, "--time=" + scripts.aggregate_time);
  log_directives(text, scripts, "aggregate-%j.log");
  setup(text, scripts);
  text += kStep;
  Scripts one_thread = scripts;
  one_thread.threads = 1;
  text += "\nrun_step() { step " + srun_words(one_thread) + " \"$program\" aggregate \"$folder\"; }\n";
  text += kRestarts;
  text += "[[ $code == 0 || $code == 1 ]] || exit \"$code\"\n\"$program\" verify \"$folder/sweep.h5\"\n";
  return text;
}

std::string report_script(const Scripts& scripts, const std::string& job_name) {
  std::string text = head(fmt::format("The report of the sweep {}, after its aggregate.", plain_name(scripts.sweep)), scripts, job_name);
  directive(text, "--ntasks=1");
  directive(text, "--cpus-per-task=1");
  directive(text, "--time=" + scripts.aggregate_time);
  log_directives(text, scripts, "report-%j.log");
  setup(text, scripts);
  text += "report=" + shell_quoted(scripts.report_program) + "\nexec \"$report\" html \"$folder/sweep.h5\"\n";
  return text;
}

}  // namespace moesweep::launch
