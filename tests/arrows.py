#!/usr/bin/env python3
"""Fails on an #include against the arrows between the rooms (ARCHITECTURE.md): arrows.py SOURCE_DIRECTORY."""

import pathlib
import re
import sys

BELOW = {
    "base": set(),
    "net": {"base"},
    "oci": {"base"},
    "parser": {"base"},
    "layers": {"oci", "base"},
    "registry": {"net", "oci", "base"},
    "builder": {"parser", "layers", "registry", "net", "oci", "base"},
    "cli": {"builder", "parser", "layers", "registry", "net", "oci", "base"},
}
root = pathlib.Path(sys.argv[1])
wrong, seen = [], 0
for room, below in BELOW.items():
    for path in sorted([*(root / room).rglob("*.cc"), *(root / room).rglob("*.h")]):
        seen += 1
        for number, line in enumerate(path.read_text().splitlines(), 1):
            match = re.match(r'#include "(\w+)/(internal/)?', line)
            if not match or match[1] == room:
                continue
            where = "%s:%d" % (path.relative_to(root), number)
            if match[1] not in below:
                wrong.append("%s: %s may not include %s" % (where, room, match[1]))
            elif match[2]:
                wrong.append("%s: the private headers of %s are not for %s" % (where, match[1], room))
print("\n".join(wrong) or "%d files follow the arrows" % seen)
sys.exit(1 if wrong or seen < 50 else 0)
