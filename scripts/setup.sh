#!/bin/sh
# Installs what Lamina needs on Debian 12: to build and run it; with --tests also what the tests use, with --fuzz what
# preset fuzz is built with. Options can be combined.
set -eu

build_packages="g++ cmake ninja-build ccache pkg-config git ca-certificates
  libcli11-dev libfmt-dev libre2-dev libdeflate-dev libisal-dev libzstd-dev libssl-dev libseccomp-dev
  libcurl4-openssl-dev libarchive-dev nlohmann-json3-dev libyaml-dev libtomlplusplus-dev doctest-dev libcap-dev uidmap busybox-static"
# The registry, the readers and the sanitizers of the tests.
test_packages="python3 curl docker-registry apache2-utils openssl skopeo umoci podman buildah runc catatonit netavark docker.io
  mmdebstrap time zstd attr acl openssh-server qemu-user-static binfmt-support"

fuzz_packages="clang libclang-rt-14-dev"

packages=$build_packages
for option in "$@"; do
  case $option in
    --tests) packages="$packages $test_packages" ;;
    --fuzz) packages="$packages $fuzz_packages" ;;
    *) echo "usage: $0 [--tests] [--fuzz]" >&2; exit 2 ;;
  esac
done

missing=
for package in $packages; do
  dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
done
[ -z "$missing" ] && exit 0

sudo=
[ "$(id -u)" -eq 0 ] || sudo=sudo
export DEBIAN_FRONTEND=noninteractive
$sudo apt-get update -qq
# The distribution's registry service is not wanted: the tests start their own.
$sudo env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y -qq --no-install-recommends $missing >/dev/null
