// Text for people and errors; see cli.hpp.
#include <fmt/core.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>

#include "cli.hpp"
#include "moesweep/core/publish.hpp"
#include "moesweep/core/text.hpp"

namespace moesweep::cli {

CLI::App* subcommand(CLI::App& app, const std::string& name, const std::string& what, const std::string& example) {
  CLI::App* sub = app.add_subcommand(name, what);
  sub->footer("Example:\n  " + example);
  return sub;
}

bool names_layout(const std::string& text) {
  const std::string key = text.substr(text.starts_with('+') || text.starts_with('~') ? 1 : 0);
  return key.starts_with("parallel.") || key.starts_with("parallel=") || key == "parallel";
}

void report(const Error& error) {
  std::string text = error.message();
  // What every rank was told of a failure on rank 0, which reads sweep file and folder for all, needs no rank.
  if (error.on_every_rank() && text.starts_with("[Rank 0/"))
    if (const auto end = text.find("] "); end != std::string::npos) text = text.substr(end + 2);
  if (!error.where().empty()) text = printable_line(error.where()) + ": " + text;
  if (!error.hint().empty()) text += "\n  hint: " + error.hint();
  std::fputs(printable(fmt::format("moesweep: {} error: {}\n", name_of(error.kind()), text)).c_str(), stderr);
}

ExitCode with_mpi(const std::function<ExitCode(const comm::Communicator& world)>& body) {
  const comm::Environment environment;
  const auto world = comm::Communicator::world();
  const auto alone = [&](ExitCode code, const std::string& what) {
    comm::abort_world(static_cast<int>(code), fmt::format("[Rank {}/{}] {}", world.rank(), world.size(), what));
  };
  try {
    return body(world);
  } catch (const std::exception& exception) {
    const Error error = error_of(exception);
    if (world.size() > 1 && !error.on_every_rank()) alone(exit_code_of(error.kind()), error.what());
    if (world.rank() == 0) report(error);
    return exit_code_of(error.kind());
  }
}

std::string count_in_words(double count) {
  if (count < 1e3) return fmt::format("{:.0f}", count);
  if (count < 1e6) return fmt::format("{:.0f} k", count / 1e3);
  if (count < 1e9) return fmt::format("{:.2f} M", count / 1e6);
  if (count < 1e12) return fmt::format("{:.2f} G", count / 1e9);
  return fmt::format("{:.2f} T", count / 1e12);
}

std::string bytes_in_words(double bytes) {
  constexpr double kKibi = 1024;
  if (bytes < kKibi * kKibi) return fmt::format("{:.0f} KiB", bytes / kKibi);
  if (bytes < kKibi * kKibi * kKibi) return fmt::format("{:.1f} MiB", bytes / (kKibi * kKibi));
  return fmt::format("{:.1f} GiB", bytes / (kKibi * kKibi * kKibi));
}

std::string table(const std::vector<std::vector<std::string>>& raw) {
  std::vector<std::vector<std::string>> rows = raw;
  for (auto& row : rows)
    for (std::string& cell : row) cell = printable_line(cell);
  std::vector<std::size_t> widths;
  for (const auto& row : rows)
    for (std::size_t i = 0; i < row.size(); ++i) {
      if (i == widths.size()) widths.push_back(0);
      widths[i] = std::max(widths[i], row[i].size());
    }
  std::string text;
  for (const auto& row : rows) {
    std::string line;
    for (std::size_t i = 0; i < row.size(); ++i) {
      const bool number = !row[i].empty() && (std::isdigit(static_cast<unsigned char>(row[i][0])) != 0 || row[i][0] == '-') && i > 0;
      line += number ? fmt::format("{:>{}}  ", row[i], widths[i]) : fmt::format("{:<{}}  ", row[i], widths[i]);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + "\n";
  }
  return text;
}

void write_to_stdout(const std::string& text) {
  const bool written = std::fwrite(text.data(), 1, text.size(), stdout) == text.size();
  if (!written || std::fflush(stdout) != 0) throw_io("writing failed", "standard output", errno);
}

void print(const std::string& text) { write_to_stdout(printable(text)); }

void print_json(const Json& value, int indent) { write_to_stdout(json_text(value, indent) + "\n"); }

}  // namespace moesweep::cli
