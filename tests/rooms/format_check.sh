#!/usr/bin/env bash
# Every C++ file of the tree is as clang-format-14 writes it.
command -v clang-format-14 >/dev/null || { echo "skipped: clang-format-14 is not installed"; exit 77; }
cd "$1" && find include src tests cmake -name '*.[ch]pp' -print0 | xargs -0 clang-format-14 --dry-run -Werror
