// moesweep-check: reads HDF5 files of others, so that no other program of moesweep meets what crashes. Started by them; see file_check.hpp.
#include <unistd.h>

#include <cstdio>

#include "file_check.hpp"

int main(int count, char**) {
  if (count != 1 || ::isatty(STDIN_FILENO) != 0) {
    std::fputs("moesweep-check is started by moesweep, to read files before it does\n", stderr);
    return 2;
  }
  moesweep::store::serve_checks(STDIN_FILENO);
  return 0;
}
