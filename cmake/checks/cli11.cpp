#include <CLI/CLI.hpp>
int main() { return CLI::App("check").get_name().empty() ? 0 : 1; }
