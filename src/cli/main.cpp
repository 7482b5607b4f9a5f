// The program `moesweep`: reads the command line, runs one subcommand, turns errors into messages and exit codes.
#include <fmt/core.h>

#include <algorithm>

#include "cli.hpp"
#include "moesweep/core/text.hpp"
#include "moesweep/core/version.hpp"

int main(int argc, char** argv) {
  using namespace moesweep;
  CLI::App app("Sweeps of Mixture-of-Experts routing on one machine or a cluster: one YAML file to a report.", "moesweep");
  app.set_version_flag("--version", fmt::format("moesweep {} ({})", version(), git_version()));
  app.footer(
      "Example:\n"
      "  moesweep plan quickstart && mpirun -n 2 moesweep run quickstart && mpirun -n 2 moesweep aggregate runs/quickstart\n"
      "Exit codes: 0 ok, 1 some trials failed, 2 usage, 3 config, 4 io, 5 corrupt, 6 mpi, 7 data, 70 internal, 75 stopped: start it again");
  app.require_subcommand(1);
  cli::Invocation invocation;
  for (int i = 0; i < argc; ++i) invocation.command_line.push_back(as_utf8(argv[i]));  // it goes into JSON
  cli::add_doctor(app, invocation);
  cli::add_schema(app, invocation);
  cli::add_routers(app, invocation);
  cli::add_plan(app, invocation);
  cli::add_run(app, invocation);
  cli::add_train(app, invocation);
  cli::add_route(app, invocation);
  cli::add_bench(app, invocation);
  cli::add_submit(app, invocation);
  cli::add_cancel(app, invocation);
  cli::add_status(app, invocation);
  cli::add_retry(app, invocation);
  cli::add_aggregate(app, invocation);
  cli::add_results(app, invocation);
  cli::add_diff(app, invocation);
  cli::add_verify(app, invocation);
  try {
    const auto known = app.get_subcommands(std::function<bool(CLI::App*)>());
    if (argc > 1 && argv[1][0] != '-' && std::ranges::find(known, argv[1], &CLI::App::get_name) == known.end())
      throw Error(ErrorKind::usage, fmt::format("there is no subcommand '{}'", argv[1]), "", "`moesweep --help` lists them");
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help and --version
    const auto chosen = app.get_subcommands();
    std::string command = "moesweep";
    if (!chosen.empty()) command += " " + chosen.front()->get_name();
    cli::report(Error(ErrorKind::usage, error.what(), "", fmt::format("`{} --help` shows what it takes, with an example", command)));
    return static_cast<int>(ExitCode::usage);
  } catch (const std::exception& exception) {
    const Error error = error_of(exception);
    cli::report(error);
    return static_cast<int>(exit_code_of(error.kind()));
  }
  return static_cast<int>(invocation.exit_code);
}
