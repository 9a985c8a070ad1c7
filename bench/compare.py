#!/usr/bin/env python3
"""Times Lamina and Debian's buildah side by side and prints a table of medians and ratios. Never fails by time.

    bench/compare.py [--runs N] [--only NAME]… BUILD

BUILD is the program. Root is needed, and what scripts/setup.sh --tests installs. Runs alternate between the two."""

import argparse
import os
import random
import shutil
import statistics
import subprocess
import sys
import time

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--runs", type=int, default=3)
parser.add_argument("--only", action="append")
parser.add_argument("build")
options = parser.parse_args()
os.environ["LAMINA_BUILD"] = os.path.abspath(options.build)
os.environ["LAMINA_TEST_AS"] = "root"
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../tests/e2e"))
import harness  # noqa: E402

PLACE = os.path.join(harness.WORK, "bench")
REGISTRY = harness.registry()
BASE = REGISTRY.host + "/debian:bookworm"
harness.push_layout(harness.debian_layout(), BASE)
CONF = os.path.join(harness.WORK, "containers.conf")
with open(CONF, "w") as f:
    f.write('[containers]\ndefault_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]\n[engine]\ncgroup_manager = "cgroupfs"\n')


def context(name, dockerfile, fill=None):
    path = os.path.join(PLACE, name)
    os.makedirs(path)
    with open(os.path.join(path, "Dockerfile"), "w") as f:
        f.write(dockerfile.replace("BASE", BASE))
    if fill:
        fill(path)
    return path


def twenty_files(path):
    os.mkdir(path + "/src")
    for i in range(1, 21):
        with open(path + "/src/f%d.txt" % i, "w") as f:
            f.writelines("line %d of file %d\n" % (j, i) for j in range(i * 5))


def one_gigabyte(path):
    subprocess.run("openssl enc -aes-128-ctr -nosalt -K 00112233445566778899aabbccddeeff -iv 00000000000000000000000000000000 -in /dev/zero 2>/dev/null | head -c 1073741824 > %s/big" % path, shell=True, check=True)


def fifty_thousand_files(path):
    r = random.Random(42)
    text = " ".join("%x" % r.getrandbits(24) for _ in range(400000)).encode()
    for d in range(500):
        p = os.path.join(path, "tree/d%02d/s%02d" % (d // 25, d % 25))
        os.makedirs(p)
        for i in range(100):
            n = r.randint(1024, 8192)
            o = r.randrange(len(text) - n)
            with open(os.path.join(p, "f%03d" % i), "wb") as f:
                f.write(text[o:o + n])


def real_files(path):
    total = 0
    for top, dirs, files in os.walk("/usr/lib"):
        dirs.sort()
        for name in sorted(files):
            source = os.path.join(top, name)
            if os.path.islink(source) or not os.path.isfile(source) or os.path.getsize(source) > 64_000_000:
                continue
            total += os.path.getsize(source)
            if total > 500_000_000:
                return
            target = os.path.join(path, "tree", os.path.relpath(source, "/usr/lib"))
            os.makedirs(os.path.dirname(target), exist_ok=True)
            shutil.copy(source, target)


class Lamina:
    name = "lamina"
    store = PLACE + "-lamina"

    def run(self, *args):
        subprocess.run([os.environ["LAMINA_BUILD"], *args], check=True, capture_output=True, env=dict(os.environ, LAMINA_STORE=self.store))

    def clean(self):
        shutil.rmtree(self.store, ignore_errors=True)

    def build(self, path, *args):
        self.run("build", "-q", "-t", "bench", *args, path)

    def build_fresh(self, path):
        self.build(path, "--no-cache")

    def build_and_push(self, path, name):
        self.run("build", "-q", "-t", name, "--push", path)


class Buildah:
    name = "buildah"
    root = PLACE + "-buildah"
    args = ["buildah", "--root", root + "/r", "--runroot", root + "/rr", "--storage-driver", "overlay"]

    def run(self, *args):
        subprocess.run([*self.args, *args], check=True, capture_output=True, env=dict(os.environ, CONTAINERS_CONF=CONF))

    def clean(self):
        if os.path.isdir(self.root):
            subprocess.run([*self.args, "rmi", "-a", "-f"], capture_output=True)
            subprocess.run(["rm", "-rf", self.root], check=True)

    def build(self, path, *args):
        self.run("bud", "--layers", "--runtime", "runc", "--network", "host", "--tls-verify=false", "-q", "-t", "bench", *args, path)

    def build_fresh(self, path):
        self.build(path, "--no-cache")

    def build_and_push(self, path, name):
        self.build(path)
        self.run("push", "-q", "--tls-verify=false", "bench", name)


SEVEN = 'FROM BASE\nWORKDIR /app\nCOPY src /app/src\nRUN echo hi > /app/hi && id && head -1 /etc/os-release\nENV LANG=C.UTF-8\nEXPOSE 8080\nCMD ["cat","/app/hi"]\n'


def seconds(action):
    began = time.monotonic()
    action()
    return time.monotonic() - began


def noop():
    path = context("noop", SEVEN, twenty_files)
    return lambda b: b.build(path), lambda b: b.build(path)


def cold():
    path = context("cold", SEVEN, twenty_files)
    return lambda b: b.build(path), lambda b: b.build_fresh(path)


def fifty():
    path = context("fifty", "FROM BASE\n" + "".join("RUN echo %d > /tmp/%d\n" % (i, i) for i in range(50)))
    pull = context("fifty-base", "FROM BASE\n")
    return lambda b: b.build(pull), lambda b: b.build_fresh(path)


def big():
    path = context("big", "FROM BASE\nCOPY big /data/big\n", one_gigabyte)
    pull = context("big-base", "FROM BASE\n")
    return lambda b: b.build(pull), lambda b: b.build_fresh(path)


def many():
    path = context("many", "FROM BASE\nCOPY tree /data/tree\n", fifty_thousand_files)
    pull = context("many-base", "FROM BASE\n")
    return lambda b: b.build(pull), lambda b: b.build_fresh(path)


def pull():
    path = context("pull", "FROM BASE\nRUN true\n")
    # Into an empty store, and unpacked, because the RUN needs the files.
    return lambda b: b.clean(), lambda b: (b.clean(), b.build(path))


def push():
    path = context("push", "FROM BASE\nCOPY tree /data/tree\n", real_files)
    pull_only = context("push-base", "FROM BASE\n")
    number = [0]

    def work(b):
        number[0] += 1
        with open(path + "/tree/stamp", "w") as f:  # a layer that the registry has not seen
            f.write(str(number[0]))
        b.build_and_push(path, "%s/bench/%s:%d" % (REGISTRY.host, b.name, number[0]))

    return lambda b: b.build(pull_only), work


WORKLOADS = {"no-op rebuild": noop, "cold 7 instructions": cold, "50 x RUN": fifty, "COPY 1 GiB": big, "COPY 50,000 files": many, "pull and unpack Debian": pull, "build and push 500 MB": push}


def main():
    builders = [Lamina(), Buildah()]
    print("%-24s %10s %10s %8s" % ("", "lamina s", "buildah s", "ratio"))
    for name, make in WORKLOADS.items():
        if options.only and not any(o in name for o in options.only):
            continue
        prepare, work = make()
        times = {b.name: [] for b in builders}
        for b in builders:
            b.clean()
            prepare(b)
        for _ in range(options.runs):
            for b in builders:
                times[b.name].append(seconds(lambda: work(b)))
        ours, theirs = (statistics.median(times[b.name]) for b in builders)
        print("%-24s %10.3f %10.3f %7.1fx" % (name, ours, theirs, theirs / ours), flush=True)
        for b in builders:
            b.clean()


main()
