#!/bin/sh
# Sets up, builds and tests. The unit tests run under the sanitizers; the end-to-end tests (which, as root, also run as
# users made for the purpose) under the address sanitizer or, where other people's programs take most of the time, plain.
# The last line is ctest's summary.
set -eu
cd "$(dirname "$0")/.."

scripts/setup.sh --tests
export CMAKE_CXX_COMPILER_LAUNCHER=ccache
for preset in tsan asan dev; do cmake --preset "$preset" >/dev/null; done
cmake --build --preset tsan --target unit_tests
ctest --test-dir build/tsan -L unit --output-on-failure
cmake --build --preset asan
# The end-to-end tests start servers, users and signals: on a machine with other work one may fail for want of time, and
# is tried once more; ctest prints both.
ctest --test-dir build/asan --repeat until-pass:2 -R '^(unit[.]|e2e[.]root$)' --output-on-failure
cmake --build --preset dev --target build
ctest --test-dir build/dev --repeat until-pass:2 -L e2e -E '^e2e[.]root$' --output-on-failure
