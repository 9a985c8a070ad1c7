#!/bin/sh
# Sets up, builds Lamina, and builds and runs the image of testdata/example. Needs no registry.
set -eu
cd "$(dirname "$0")/.."

scripts/setup.sh
cmake --preset release >/dev/null
cmake --build --preset release --target build
build=build/release/cli/build

# The base image: the machine's static busybox on an empty file system.
cp /bin/busybox testdata/example/base/busybox
"$build" -t example-base testdata/example/base
"$build" -t example:v1 testdata/example
"$build" run example:v1
echo
echo "The program is $build. Install it with: cmake --install build/release --prefix /usr/local"
