"""The build contexts that are timed. Each is made once: a mark beside it says by which recipe and for which base image."""

import hashlib
import inspect
import os
import random
import shutil
import subprocess

FIXED_TIME = 1704067200  # so that two generations of a context give the same layers


def _seven(path):
    os.mkdir(path + "/src")
    for i in range(1, 21):
        with open(path + "/src/f%d.txt" % i, "w") as f:
            f.writelines("line %d of file %d\n" % (j, i) for j in range(i * 5))


def _gibibyte(path):
    # The key stream of a fixed key: nothing can compress it, and it is the same each time.
    with open(path + "/big.bin", "wb") as f:
        zeros = subprocess.Popen(["head", "-c", str(1 << 30), "/dev/zero"], stdout=subprocess.PIPE)
        subprocess.run(["openssl", "enc", "-aes-128-ctr", "-nosalt", "-K", "0" * 31 + "1", "-iv", "0" * 32], stdin=zeros.stdout, stdout=f, check=True)
        zeros.wait()


def many_files(path, count):
    """`count` files of 1 to 8 KiB of words, a hundred to a directory."""
    r = random.Random(42)
    text = " ".join("%x" % r.getrandbits(24) for _ in range(400000)).encode()
    for i in range(count):
        directory = os.path.join(path, "tree", "d%03d" % (i // 2500), "s%02d" % (i // 100 % 25))
        if i % 100 == 0:
            os.makedirs(directory)
        size = r.randint(1024, 8192)
        at = r.randrange(len(text) - size)
        with open(os.path.join(directory, "f%03d" % (i % 100)), "wb") as f:
            f.write(text[at:at + size])


def _real_files(path):
    """Whole files of /usr/lib in name order, none over 64 MB, up to 500 MB."""
    total = 0
    for top, dirs, files in os.walk("/usr/lib"):
        dirs.sort()
        for name in sorted(files):
            source = os.path.join(top, name)
            if os.path.islink(source) or not os.path.isfile(source):
                continue
            size = os.path.getsize(source)
            if size > 64_000_000 or total + size > 500_000_000:
                continue
            total += size
            target = os.path.join(path, "tree", os.path.relpath(source, "/usr/lib"))
            os.makedirs(os.path.dirname(target), exist_ok=True)
            shutil.copy(source, target)


SEVEN = """FROM BASE
WORKDIR /app
COPY src /app/src
RUN echo hi > /app/hi && id && head -1 /etc/os-release
ENV LANG=C.UTF-8
EXPOSE 8080
CMD ["cat","/app/hi"]
"""
STAGES = "".join("FROM BASE AS %s\nRUN sleep 1 && dd if=/dev/urandom of=/x bs=1M count=50 && echo %s\n" % (s, s) for s in "abcd")

# name → (Dockerfile, what fills the context)
CONTEXTS = {
    "seven": (SEVEN, _seven),
    "runs50": ("FROM BASE\n" + "".join("RUN echo %d > /tmp/%d\n" % (i, i) for i in range(1, 51)), None),
    "bigcopy": ("FROM BASE\nCOPY big.bin /data/big.bin\n", _gibibyte),
    "manyfiles": ("FROM BASE\nCOPY tree /data/tree\n", lambda path: many_files(path, 50000)),
    "pull": ("FROM BASE\nRUN true\n", None),  # unpacked too, because the RUN needs the files
    "push": ("FROM BASE\nCOPY tree /data/tree\n", _real_files),
    "apt": ("FROM BASE\nRUN apt-get update && apt-get install -y --no-install-recommends python3\n", None),
    "parallel": (STAGES + "FROM BASE\n" + "".join("COPY --from=%s /x /x%s\n" % (s, s) for s in "abcd"), None),
    "base": ("FROM BASE\nRUN true\n", None),  # prepares a store
}


def make(directory, name, base):
    path = os.path.join(directory, name)
    mark = os.path.join(directory, "." + name + ".done")
    dockerfile, fill = CONTEXTS[name]
    recipe = base + dockerfile + (inspect.getsource(fill) + inspect.getsource(many_files) if fill else "")
    made = base + " " + hashlib.sha256(recipe.encode()).hexdigest()
    if os.path.exists(mark) and open(mark).read().strip() == made:
        return path
    shutil.rmtree(path, ignore_errors=True)
    os.makedirs(path)
    with open(os.path.join(path, "Dockerfile"), "w") as f:
        f.write(dockerfile.replace("BASE", base))
    if fill:
        fill(path)
    for top, dirs, files in os.walk(path, topdown=False):
        for n in files + ["."]:
            os.utime(os.path.join(top, n), (FIXED_TIME, FIXED_TIME))
    with open(mark, "w") as f:
        f.write(made + "\n")
    return path
