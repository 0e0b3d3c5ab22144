#!/usr/bin/env python3
"""report.py - what the quickstart measured, as a table, a picture and a file for programs.

    report.py OUT        reads OUT/results/, prints the table, writes OUT/result.svg and OUT/summary.json

OUT/results holds what the programs printed: ROW.SITE.json from `peerd eval` and `peerd fit`, status.SITE.json from
`peerctl status --json`, and run.json with what the script itself knows.  Exit 1 if the digests differ.
Standard library only.
"""

import json
import os
import sys

from svg import mark, page, text

# row in the files' names: what people read
ROWS = {
    "before": "before",
    "calibrated": "after calibration",
    "alone": "{} alone",  # one for each site
    "together": "together",
    "ceiling": "first-order, pooled",
}


def load(path):
    with open(path, encoding="utf-8") as f:
        return json.load(f)


def loss_of(result):
    return result["loss"] if "loss" in result else result["nll"]


def gather(folder, sites):
    """[{name, kind, loss, accuracy, sites: {site: {loss, accuracy}}}], rows in order; sites weigh the same."""
    keys = []
    for key in ROWS:
        keys += [f"alone-{s}" for s in sites] if key == "alone" else [key]
    rows = []
    for key in keys:
        per = {}
        for site in sites:
            path = f"{folder}/{key}.{site}.json"
            if os.path.exists(path):
                got = load(path)
                per[site] = {"loss": loss_of(got), "accuracy": got.get("accuracy")}
        if len(per) < len(sites):
            continue
        kind = key.partition("-")[0]
        accuracies = [r["accuracy"] for r in per.values()]
        rows.append(
            {
                "name": ROWS[kind].format(key.partition("-")[2]),
                "kind": kind,
                "loss": sum(r["loss"] for r in per.values()) / len(per),
                "accuracy": None if None in accuracies else sum(accuracies) / len(per),
                "sites": per,
            }
        )
    return rows


def table(rows, sites):
    """The rows as text, 80 columns: loss, and accuracy in per cent where the task has one."""
    def cell(r):
        if r["accuracy"] is None:
            return f"{r['loss']:.3f}"
        return f"{r['loss']:.3f} {100 * r['accuracy']:5.1f}%"

    head = ["all sites", *sites]
    lines = [f"{'held-out loss, accuracy':24}" + "".join(f"{h:>14}" for h in head)]
    for r in rows:
        cells = [cell(r)] + [cell(r["sites"][s]) for s in sites]
        lines.append(f"{r['name']:24}" + "".join(f"{c:>14}" for c in cells))
    return "\n".join(lines)


LIGHT = """
  .base { fill: #c3c9d0 } .alone { fill: #8fb3d9 } .together { fill: #1f6fb2 } .ceiling { fill: #dfe3e8 }
"""
DARK = """
    .base { fill: #4a525c } .alone { fill: #3d5f85 } .together { fill: #58a6ff } .ceiling { fill: #2d333b }
"""
FILL = {"before": "base", "calibrated": "base", "alone": "alone", "together": "together", "ceiling": "ceiling"}


def panel(rows, sites, key, title, top, x0, width, show):
    """Bars of one figure over the rows: the bar is the mean over the sites, the marks are the sites."""
    out = [text(x0, top - 14, title, "strong")]
    values = [r["sites"][s][key] for r in rows for s in sites]
    high = max(values) * 1.04 or 1.0
    for i, r in enumerate(rows):
        y = top + i * 34
        out.append(
            f'<rect class="{FILL[r["kind"]]}" x="{x0}" y="{y}" width="{r[key] / high * width:.1f}" height="20" rx="3"/>'
        )
        out += [mark(k, x0 + r["sites"][s][key] / high * width, y + 10) for k, s in enumerate(sites)]
        bold = " strong" if r["kind"] == "together" else ""
        out.append(text(x0 + width + 12, y + 15, show(r[key]), "num" + bold))
    bottom = top + len(rows) * 34 - 8
    out.append(f'<line class="line" x1="{x0}" y1="{top - 6}" x2="{x0}" y2="{bottom}"/>')
    return out


def picture(rows, sites, title, notes):
    """The SVG as text: bars of loss and, where the task has one, of accuracy; colours for light and dark pages."""
    both = rows[0]["accuracy"] is not None
    width, top = (920 if both else 560), 116
    height = top + len(rows) * 34 + 30 + 20 * len(notes)
    out, x = [], 24.0
    for k, s in enumerate(sites):
        out += [mark(k, x + 5, 60), text(x + 15, 64, s, "dim")]
        x += 32 + 7.2 * len(s)
    out.append(text(x, 64, "bar: mean of the sites' held-out text", "dim"))
    for i, r in enumerate(rows):
        bold = "strong" if r["kind"] == "together" else ""
        out.append(text(162, top + i * 34 + 15, r["name"], bold, "end"))
    out += panel(rows, sites, "loss", "loss (lower is better)", top, 174, 290, lambda v: f"{v:.3f}")
    if both:
        out += panel(
            rows, sites, "accuracy", "accuracy (higher is better)", top, 544, 290, lambda v: f"{100 * v:.1f} %"
        )
    for i, note in enumerate(notes):
        out.append(text(24, top + len(rows) * 34 + 22 + 20 * i, note, "dim"))
    return page(width, height, title, out, LIGHT, DARK)


def main(out):
    run = load(f"{out}/results/run.json")
    sites = run["sites"]
    rows = gather(f"{out}/results", sites)
    status = {s: load(f"{out}/results/status.{s}.json") for s in sites}
    digests = {s: status[s]["digest"] for s in sites}
    equal = len(set(digests.values())) == 1
    records = max(status[s]["records"] for s in sites)
    # A node counts from its own start: the one that was killed said before that what it had sent.
    wire = sum(status[s]["bytes_out"] for s in sites) + run.get("bytes_before_kill", 0)
    summary = {
        **run,
        "rows": rows,
        "records": records,
        "gradient_bytes": records,
        "wire_bytes": wire,
        "digests": digests,
        "digests_equal": equal,
    }
    with open(f"{out}/summary.json", "w", encoding="utf-8") as f:
        json.dump(summary, f, indent=1)
        f.write("\n")
    notes = [
        f"{records} records = {records} gradient bytes; {wire:,} bytes between the nodes in all, seals and hellos included",
        f"{len(sites)} digests " + ("equal: " + next(iter(digests.values())) if equal else "DIFFER"),
        "first-order, pooled: Adam on all sites' data in one place, in the same space: the ceiling",
    ]
    with open(f"{out}/result.svg", "w", encoding="utf-8") as f:
        f.write(picture(rows, sites, run["title"], notes))
    print(table(rows, sites))
    print()
    print("\n".join(notes[:2]))
    return 0 if equal else 1


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: report.py OUT")
    sys.exit(main(sys.argv[1]))
