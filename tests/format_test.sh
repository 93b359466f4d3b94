#!/usr/bin/env bash
# Every C, C++ and CUDA file is as clang-format 14 with .clang-format writes it. usage: format_test.sh SOURCE_DIR
set -euo pipefail
cd "$1"
git ls-files -z '*.c' '*.cc' '*.cu' '*.cuh' '*.h' | xargs -0 clang-format --dry-run -Werror
