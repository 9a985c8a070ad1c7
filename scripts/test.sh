#!/bin/sh
# Sets up, builds and tests: the unit tests plain and under sanitizers, then the end-to-end tests (as root these also
# run as users made for the purpose). The last line is ctest's summary.
set -eu
cd "$(dirname "$0")/.."

scripts/setup.sh --tests
export CMAKE_CXX_COMPILER_LAUNCHER=ccache
for preset in dev asan tsan; do
  cmake --preset "$preset" >/dev/null
  cmake --build --preset "$preset"
done
ctest --test-dir build/tsan -L unit --output-on-failure
ctest --test-dir build/asan --output-on-failure
ctest --test-dir build/dev --output-on-failure
