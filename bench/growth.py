"""How the cost of Lamina grows with steps, files, layers, stages and images: tables and a plot."""

import json
import os
import shutil

import workloads

# Each point is built once without records and once more with them; a curve stops at the size that fails.
CURVES = {
    "steps": ("RUN steps", (10, 30, 100, 300, 1000)),
    "files": ("files in the context", (1000, 10000, 50000, 200000)),
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


def files(b, place, base, n):
    _write(place, "FROM BASE\nCOPY tree /tree\n", base)
    workloads.many_files(place, n)
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


def points(b, place, base):
    curves = {}
    for name, (label, sizes) in CURVES.items():
        curves[name] = []
        for n in sizes:
            b.clean()
            path = os.path.join(place, "%s-%d" % (name, n))
            try:
                context = globals()[name](b, path, base, n)
                if name != "layers":
                    b.build(make_base(place, base))
                cold, again = b.build(context), min((b.build(context) for _ in range(3)), key=lambda c: c.cpu)
            except Exception as e:  # what fails ends the curve, visibly
                print("%s %d: %s" % (name, n, e), flush=True)
                curves[name].append({"n": n, "failed": str(e)[-300:]})
                break
            finally:
                shutil.rmtree(path, ignore_errors=True)
            curves[name].append({"n": n, "cold": vars(cold), "again": vars(again)})
            print("%-8s %8d   first %8.3f s %8.3f s CPU %6.0f MiB   again %7.3f s %7.3f s CPU %6.0f MiB" % (
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
        out.append("| %s | first build, s CPU | µs each | again, s CPU | µs each | peak MiB |\n|---:|---:|---:|---:|---:|---:|" % label)
        for p in curves[name]:
            if "failed" in p:
                out.append("| %d | failed | | | | |" % p["n"])
                continue
            out.append("| %s | %.3f | %.0f | %.3f | %.1f | %.0f |" % (
                format(p["n"], ","), p["cold"]["cpu"], p["cold"]["cpu"] / p["n"] * 1e6, p["again"]["cpu"], p["again"]["cpu"] / p["n"] * 1e6, p["cold"]["peak"]))
        out.append("")
    return "\n".join(out)


def plot(curves):
    """Small multiples with logarithmic axes: CPU seconds over size; a dashed line shows what linear is."""
    import math
    width, height, gap = 250, 190, 60
    out = ['<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="11">' % (
        (width + gap) * len(CURVES) + gap, height + 2 * gap), '<rect width="100%" height="100%" fill="white"/>']
    for column, (name, (label, _)) in enumerate(CURVES.items()):
        ps = [p for p in curves[name] if "failed" not in p]
        if len(ps) < 2:
            continue
        left, top = gap + column * (width + gap), gap / 2
        values = [max(p[k]["cpu"], 0.001) for p in ps for k in ("cold", "again")]
        x0, x1 = math.log10(ps[0]["n"]), math.log10(ps[-1]["n"])
        y0, y1 = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)) + 0.01)

        def place(n, seconds):
            y = min(max(math.log10(max(seconds, 0.001)), y0), y1)
            return "%.1f,%.1f" % (left + (math.log10(n) - x0) / (x1 - x0) * width, top + height - (y - y0) / (y1 - y0) * height)

        out.append('<rect x="%.0f" y="%.0f" width="%d" height="%d" fill="none" stroke="#999"/>' % (left, top, width, height))
        for decade in range(y0, y1 + 1):
            at = top + height - (decade - y0) / (y1 - y0) * height
            out.append('<line x1="%.0f" x2="%.0f" y1="%.1f" y2="%.1f" stroke="#ddd"/>' % (left, left + width, at, at))
            out.append('<text x="%.0f" y="%.1f" text-anchor="end">%g s</text>' % (left - 4, at + 4, 10.0 ** decade))
        for p in ps:
            x = float(place(p["n"], 1).split(",")[0])
            out.append('<text x="%.0f" y="%.0f" text-anchor="middle">%s</text>' % (x, top + height + 14, format(p["n"], ",")))
        for kind, color in (("cold", "#c33"), ("again", "#36c")):
            line = " ".join(place(p["n"], p[kind]["cpu"]) for p in ps)
            out.append('<polyline points="%s" fill="none" stroke="%s" stroke-width="2"/>' % (line, color))
            out += ['<circle cx="%s" cy="%s" r="3" fill="%s"/>' % (*at.split(","), color) for at in line.split()]
        last = ps[-1]
        linear = " ".join(place(p["n"], last["cold"]["cpu"] * p["n"] / last["n"]) for p in ps)
        out.append('<polyline points="%s" fill="none" stroke="#999" stroke-dasharray="4 3"/>' % linear)
        out.append('<text x="%.0f" y="%.0f" text-anchor="middle" font-weight="bold">%s</text>' % (left + width / 2, top + height + 32, label))
    out.append('<text x="%d" y="%d" fill="#c33">first build, CPU seconds</text>' % (gap, height + 2 * gap - 14))
    out.append('<text x="%d" y="%d" fill="#36c">again, nothing changed</text>' % (gap + 180, height + 2 * gap - 14))
    out.append('<text x="%d" y="%d" fill="#999">dashed: linear through the last point of the first build</text></svg>' % (gap + 350, height + 2 * gap - 14))
    return "\n".join(out) + "\n"


def run(lamina, place, base, out):
    os.makedirs(place)
    curves = points(lamina, place, base)
    print("\n" + table(curves))
    if not out:
        return
    os.makedirs(out, exist_ok=True)
    with open(os.path.join(out, "growth.json"), "w") as f:
        json.dump(curves, f, indent=1)
    with open(os.path.join(out, "growth.md"), "w") as f:
        f.write(table(curves))
    with open(os.path.join(out, "growth.svg"), "w") as f:
        f.write(plot(curves))
