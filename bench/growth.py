"""How the cost of Lamina grows with steps, files, layers, stages and images: tables and a plot."""

import json
import math
import os

# Each point is built once without records and once more with them; a curve stops at the size that fails.
CURVES = {
    "steps": ("RUN steps", (10, 30, 100, 300, 1000)),
    "files": ("files in the context", (1000, 10000, 100000, 1000000)),
    "directory": ("files in one directory", (1000, 10000, 100000, 1000000)),
    "layers": ("layers of the base image", (1, 10, 100, 250, 500)),
    "stages": ("stages", (1, 4, 16, 64)),
    "images": ("images in the store", (10, 100, 1000, 10000)),
}


def _write(path, dockerfile, base):
    os.makedirs(path, exist_ok=True)
    with open(os.path.join(path, "Dockerfile"), "w") as f:
        f.write(dockerfile.replace("BASE", base))


def steps(b, place, base, n):
    _write(place, "FROM BASE\n" + "".join("RUN echo %d > /f%d\n" % (i, i) for i in range(n)), base)
    return place


def small_files(path, count, each):
    """`count` files of 100 bytes, none like another, `each` to a directory."""
    for first in range(0, count, each):
        directory = os.path.join(path, "d%04d" % (first // each))
        os.makedirs(directory)
        at = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        for i in range(first, min(first + each, count)):
            f = os.open("f%07d" % i, os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=at)
            os.write(f, b"%099d\n" % i)
            os.close(f)
        os.close(at)


def files(b, place, base, n):
    _write(place, "FROM BASE\nCOPY tree /tree\n", base)
    small_files(os.path.join(place, "tree"), n, 1000)
    return place


def directory(b, place, base, n):
    _write(place, "FROM BASE\nCOPY tree /tree\n", base)
    small_files(os.path.join(place, "tree"), n, n)
    return place


def layers(b, place, base, n):
    """The base is built of COPYs first, and pushed, so that its layers come as those of a stranger do."""
    registry = base.split("/")[0]
    name = "%s/bench/layers:%d" % (registry, n)
    _write(place + "-base", "FROM scratch\nCOPY --from=BASE / /\n" + "".join("COPY Dockerfile /d/%d\n" % i for i in range(n - 1)), base)
    b.build_and_push(place + "-base", name)
    b.clean()
    _write(place, "FROM %s\nRUN echo on top > /top\n" % name, base)
    return place


def stages(b, place, base, n):
    text = "".join("FROM BASE AS s%d\nRUN echo %d > /x\n" % (i, i) for i in range(n))
    _write(place, text + "FROM BASE\n" + "".join("COPY --from=s%d /x /x%d\n" % (i, i) for i in range(n)), base)
    return place


def images(b, place, base, n):
    _write(place + "-many", "FROM scratch\nLABEL a=b\n", base)
    for at in range(0, n, 500):
        tags = [t for i in range(at, min(n, at + 500)) for t in ("-t", "image%d:v" % i)]
        b.call("build", "-q", *tags, place + "-many")
    _write(place, "FROM BASE\nWORKDIR /app\nCOPY Dockerfile .\nRUN ls -l > list\n", base)
    return place


def chosen(only, most):
    """Curve → sizes. `only` names curves, or is None or empty for all; `most` bounds the sizes if not None."""
    for name in only or []:
        if name not in CURVES:
            raise SystemExit("bench/run: no growth curve is named %s; there are %s" % (name, ", ".join(CURVES)))
    return {name: [n for n in sizes if most is None or n <= most] for name, (_, sizes) in CURVES.items() if not only or name in only}


def points(b, place, base, wanted):
    curves = {}
    for name, sizes in wanted.items():
        curves[name] = []
        for n in sizes:
            b.clean()
            path = os.path.join(place, "%s-%d" % (name, n))
            try:
                context = globals()[name](b, path, base, n)
                if name != "layers":
                    b.build(make_base(place, base))
                os.sync()  # the writing back of what was just made is not the build's
                cold, again = b.build(context), min((b.build(context) for _ in range(3)), key=lambda c: c.cpu)
            except Exception as e:  # what fails ends the curve, visibly
                print("%s %d: %s" % (name, n, e), flush=True)
                curves[name].append({"n": n, "failed": str(e)[-300:]})
                break
            finally:
                b.move_aside(path)  # not removed: see Builder.clean
            curves[name].append({"n": n, "cold": vars(cold), "again": vars(again)})
            print("%-9s %9d   first %8.3f s %8.3f s CPU %6.0f MiB   again %7.3f s %7.3f s CPU %6.0f MiB" % (
                name, n, cold.wall, cold.cpu, cold.peak, again.wall, again.cpu, again.peak), flush=True)
    b.clean()
    return curves


def make_base(place, base):
    path = os.path.join(place, "base")
    _write(path, "FROM BASE\nRUN true\n", base)
    return path


def table(curves):
    out = []
    for name, (label, _) in CURVES.items():
        if name not in curves:
            continue
        out.append("| %s | first build: wall s | CPU s | CPU µs each | peak MiB | again: wall s | CPU s | CPU µs each | peak MiB |\n|---:|---:|---:|---:|---:|---:|---:|---:|---:|" % label)
        for p in curves[name]:
            if "failed" in p:
                out.append("| %s | failed | | | | | | | |" % format(p["n"], ","))
                continue
            cells = [format(p["n"], ",")]
            for c in (p["cold"], p["again"]):
                cells += ["%.3f" % c["wall"], "%.3f" % c["cpu"], "%.1f" % (c["cpu"] / p["n"] * 1e6), "%.0f" % c["peak"]]
            out.append("| " + " | ".join(cells) + " |")
        out.append("")
    return "\n".join(out)


WIDTH, HEIGHT, GAP, COLUMNS = 250, 170, 60, 3  # of one small plot, between them, and how many side by side


def panel(ps, label, left, top):
    """One curve: CPU seconds over size, both logarithmic."""
    values = [max(p[k]["cpu"], 0.001) for p in ps for k in ("cold", "again")]
    x0, x1 = math.log10(ps[0]["n"]), math.log10(ps[-1]["n"])
    y0, y1 = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)) + 0.01)

    def place(n, seconds):
        y = min(max(math.log10(max(seconds, 0.001)), y0), y1)
        return "%.1f,%.1f" % (left + (math.log10(n) - x0) / (x1 - x0) * WIDTH, top + HEIGHT - (y - y0) / (y1 - y0) * HEIGHT)

    out = ['<rect x="%.0f" y="%.0f" width="%d" height="%d" fill="none" stroke="#999"/>' % (left, top, WIDTH, HEIGHT)]
    for decade in range(y0, y1 + 1):
        at = top + HEIGHT - (decade - y0) / (y1 - y0) * HEIGHT
        out.append('<line x1="%.0f" x2="%.0f" y1="%.1f" y2="%.1f" stroke="#ddd"/>' % (left, left + WIDTH, at, at))
        out.append('<text x="%.0f" y="%.1f" text-anchor="end">%g s</text>' % (left - 4, at + 4, 10.0 ** decade))
    for p in ps:
        x = float(place(p["n"], 1).split(",")[0])
        out.append('<text x="%.0f" y="%.0f" text-anchor="middle">%s</text>' % (x, top + HEIGHT + 14, format(p["n"], ",")))
    for kind, color in (("cold", "#c33"), ("again", "#36c")):
        line = " ".join(place(p["n"], p[kind]["cpu"]) for p in ps)
        out.append('<polyline points="%s" fill="none" stroke="%s" stroke-width="2"/>' % (line, color))
        out += ['<circle cx="%s" cy="%s" r="3" fill="%s"/>' % (*at.split(","), color) for at in line.split()]
    last = ps[-1]
    linear = " ".join(place(p["n"], last["cold"]["cpu"] * p["n"] / last["n"]) for p in ps)
    out.append('<polyline points="%s" fill="none" stroke="#999" stroke-dasharray="4 3"/>' % linear)
    out.append('<text x="%.0f" y="%.0f" text-anchor="middle" font-weight="bold">%s</text>' % (left + WIDTH / 2, top + HEIGHT + 32, label))
    return out


def plot(curves):
    """Small multiples; a dashed line shows what linear is."""
    drawn = [(name, ps) for name in CURVES for ps in [[p for p in curves.get(name, []) if "failed" not in p]] if len(ps) > 1]
    width = (WIDTH + GAP) * COLUMNS + GAP
    height = (HEIGHT + GAP) * math.ceil(len(drawn) / COLUMNS) + GAP
    out = ['<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="11">' % (width, height),
           '<rect width="100%" height="100%" fill="white"/>']
    for i, (name, ps) in enumerate(drawn):
        out += panel(ps, CURVES[name][0], GAP + i % COLUMNS * (WIDTH + GAP), GAP / 2 + i // COLUMNS * (HEIGHT + GAP))
    out.append('<text x="%d" y="%d" fill="#c33">first build, CPU seconds</text>' % (GAP, height - 14))
    out.append('<text x="%d" y="%d" fill="#36c">again, nothing changed</text>' % (GAP + 180, height - 14))
    out.append('<text x="%d" y="%d" fill="#999">dashed: linear through the last point of the first build</text></svg>' % (GAP + 350, height - 14))
    return "\n".join(out) + "\n"


def run(lamina, place, base, wanted, out):
    os.makedirs(place)
    curves = points(lamina, place, base, wanted)
    print("\n" + table(curves))
    if not out:
        return
    os.makedirs(out, exist_ok=True)
    kept = os.path.join(out, "growth.json")
    if os.path.exists(kept):
        with open(kept) as f:
            curves = {**json.load(f), **curves}
    with open(kept, "w") as f:
        json.dump(curves, f, indent=1)
    with open(os.path.join(out, "growth.md"), "w") as f:
        f.write(table(curves))
    with open(os.path.join(out, "growth.svg"), "w") as f:
        f.write(plot(curves))
