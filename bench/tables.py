"""The rows of bench/run as lines while it goes on, and as one markdown table at its end."""

PEAK_ROWS = (4, 6, 8, 9)  # of row 13


def _peers(medians):
    return [who for who in medians if not who.startswith("lamina") and who != "chroot"]


def ratio_of(medians, who):
    return medians[who]["wall"] / medians["lamina"]["wall"]


def peaks(results):
    """Row 13: our largest resident size in each of its rows beside the smallest of a peer. None where a row lacks."""
    out = []
    for number in PEAK_ROWS:
        medians = next((r["medians"] for r in results if r["row"] == number), {})
        peers = _peers(medians)
        if "lamina" in medians and peers:
            least = min(peers, key=lambda who: medians[who]["peak"])
            ours = medians["lamina"]["peak"]
            out.append({"row": number, "ours": ours, "peer": least, "theirs": medians[least]["peak"], "reached": ours < medians[least]["peak"]})
    return {"row": 13, "name": "peak memory of rows 4, 6, 8 and 9 below every peer", "peaks": out,
            "missing": [n for n in PEAK_ROWS if n not in [p["row"] for p in out]]} if out else None


def print_peaks(result):
    print("\n13. %s" % result["name"])
    for p in result["peaks"]:
        print("   row %d  %7.0f MiB   least of a peer %7.0f MiB (%s): %s" % (
            p["row"], p["ours"], p["theirs"], p["peer"], "reached" if p["reached"] else "NOT reached"))
    if result["missing"]:
        print("   not measured beside a peer in this run: rows " + ", ".join(map(str, result["missing"])))


def print_row(row, result):
    """One line for each builder; the first is ours."""
    _, name, targets, floor, _, _ = row
    print("\n%d. %s   (floor %s; load %.1f)" % (result["row"], name, floor, result["load"]))
    medians = result["medians"]
    for who, m in medians.items():
        line = "   %-16s %8.3f s  %8.3f s CPU  %7.0f MiB" % (who, m["wall"], m["cpu"], m["peak"])
        if "lamina" in medians and not who.startswith("lamina"):
            line += "   %6.1f x wall  %6.1f x CPU" % (ratio_of(medians, who), m["cpu"] / max(medians["lamina"]["cpu"], 1e-9))
            if who in targets:
                line += "   wanted %.3g x: %s" % (targets[who], "reached" if ratio_of(medians, who) >= targets[who] else "NOT reached")
        elif who == "lamina" and "seconds" in targets:
            line += "   wanted %.3f s: %s" % (targets["seconds"], "reached" if m["wall"] <= targets["seconds"] else "NOT reached")
        if who in result["blobs"]:
            line += "   blob %.1f MB" % (result["blobs"][who] / 1e6)
        print(line)
    for who in result["failed"]:
        print("   %-16s failed, see above" % who)


def _cost(result, who):
    if who in result["failed"]:
        return "failed"
    m = result["medians"].get(who)
    if m is None:
        return "-"
    blob = result["blobs"].get(who)
    return "%.3f / %.3f / %.0f" % (m["wall"], m["cpu"], m["peak"]) + (", blob %.1f MB" % (blob / 1e6) if blob else "")


def _verdict(ratio, wanted):
    if wanted is None:
        return "%.3g" % ratio
    text = "%.3g of %.3g" % (ratio, wanted)
    return text if ratio >= wanted else "**%s**" % text


def markdown(rows, results):
    """Columns: ours, floor, and for each peer its cost and how many times ours that is, of how many are wanted. What is
    not reached is bold."""
    measured = {r["row"]: r for r in results}
    columns = []
    for r in results:
        columns += [who for who in list(r.get("medians", {})) + r.get("failed", []) if who not in columns]
    ours = [who for who in columns if who.startswith("lamina")]
    peers = [who for who in columns if who not in ours]
    titles = ["#", "row", "floor"] + ours + [t for who in peers for t in (who, "times")] + ["load"]
    out = ["Each cost: wall seconds / CPU seconds / peak MiB (medians). \"times\": the builder's wall time over Lamina's, of the ratio wanted.\n",
           "| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    for number, name, targets, floor, _, _ in rows:
        if number not in measured:
            continue
        r = measured[number]
        cells = [str(number), name, floor]
        for who in ours:
            cell = _cost(r, who)
            if who == "lamina" and "seconds" in targets and who in r["medians"]:
                seconds = r["medians"][who]["wall"]
                cell += (", of %.3f s" if seconds <= targets["seconds"] else ", **not %.3f s**") % targets["seconds"]
            cells.append(cell)
        for who in peers:
            known = who in r["medians"] and "lamina" in r["medians"]
            cells += [_cost(r, who), _verdict(ratio_of(r["medians"], who), targets.get(who)) if known else "-"]
        out.append("| " + " | ".join(cells + ["%.1f" % r["load"]]) + " |")
    if 13 in measured:
        r = measured[13]
        found = ["row %d: %.0f MiB against %.0f (%s)" % (p["row"], p["ours"], p["theirs"], p["peer"]) for p in r["peaks"]]
        found = [text if p["reached"] else "**%s**" % text for text, p in zip(found, r["peaks"])]
        found += ["row %d: not measured" % n for n in r["missing"]]
        out.append("| 13 | %s | - | %s |" % (r["name"], "; ".join(found)) + " |" * (len(titles) - 4))
    return "\n".join(out) + "\n"
