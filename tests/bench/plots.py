"""plots.py - what a forward pass and a probe cost against tokens, threads, rank and size of the model, as a picture.

Used by tests/bench/run --plots.  Every point of a picture is measured once a round, the rounds one after the other: a
machine that drifts bends no curve.  A point is the median, its whisker the least and the most.
"""

import json
import math
import os
import statistics
import sys
import tempfile
import time

import shape
from peer import OURS, Peer
from svg import mark, page, text

TOKENS = (64, 128, 256, 512, 1024, 2048)
RANKS = (1, 2, 4, 8, 16, 32)
AT_TOKENS, AT_RANK = 256, 8  # where something else varies
STEPS = ("forward", "probe")


def threads_of(cores):
    return sorted({1 << k for k in range(cores.bit_length())} | {cores})


class Point:
    """One setting of one engine, and where it stands in the picture."""

    def __init__(self, plot, x, name, tokens=AT_TOKENS, rank=AT_RANK):
        self.plot, self.x, self.name, self.tokens, self.rank = plot, x, name, tokens, rank
        self.times = {s: [] for s in STEPS}  # (wall, processor) of each round

    def per_token(self, step, clock):
        """Milliseconds a token: median, least, most."""
        ms = [t[clock] * 1e3 / self.tokens for t in self.times[step]]
        return statistics.median(ms), min(ms), max(ms)

    def facts(self):
        return {"plot": self.plot, "x": self.x, "model": self.name, "tokens": self.tokens, "rank": self.rank,
                **{s: {"wall_s": [t[0] for t in r], "processor_s": [t[1] for t in r]} for s, r in self.times.items()}}


class Engine:
    """A model at a number of threads, and the points that it measures."""

    def __init__(self, program, path, compute, threads, points):
        self.points = points
        settings = [f"{p.tokens}:{p.rank}" for p in points]
        self.peer = Peer("cost", [program, path, compute, str(threads), *settings], OURS)

    def round(self):
        self.peer.round()
        for p, got in zip(self.points, self.peer.rounds[-1]):
            for s in STEPS:
                p.times[s].append(got[s])


def short(path):
    return os.path.basename(path).removesuffix(".gguf")


def open_engines(program, a, sizes):
    """sizes: (name, path) of the models of the last plot; a.model is of the others."""
    name = short(a.model)
    mine = [Point("tokens", t, name, tokens=t) for t in TOKENS] + [Point("rank", r, name, rank=r) for r in RANKS]
    engines = [Engine(program, a.model, a.compute or "auto", a.threads, mine)]
    for n in threads_of(a.threads):
        engines.append(Engine(program, a.model, a.compute or "auto", n, [Point("threads", n, name)]))
    for name, path in sizes:
        e = Engine(program, path, a.compute or "auto", a.threads, [Point("size", 0, name)])
        e.points[0].x = e.peer.about["params"]
        engines.append(e)
        print(f"{name}: {e.points[0].x / 1e6:.0f} M weights", file=sys.stderr)
    return engines


def made_models(folder, layers):
    for n in layers:
        path = f"{folder}/TinyLlama-{n}-layers.gguf"
        shape.write(path, n)
        yield short(path), path


# ---- picture ----

PLOTS = (  # key, title, x is drawn as its logarithm and so is y
    ("tokens", "tokens in the batch", False),
    ("threads", "threads", False),
    ("rank", "rank of the adapter", False),
    ("size", "weights of the model", True),
)
LIGHT = "  .s0 { stroke: #1f6fb2; fill: none } .s1 { stroke: #b35900; fill: none } .w { stroke-dasharray: 4 4 }\n"
DARK = "    .s0 { stroke: #58a6ff } .s1 { stroke: #f0883e }\n"
PANEL_W, PANEL_H = 360, 220


def human(x):
    return f"{x / 1e9:.1f} B" if x >= 1e9 else f"{x / 1e6:.0f} M" if x >= 1e6 else f"{x:,}"


def ticks(low, high, log):
    if log:
        return [10.0**k for k in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]
    step = 10 ** math.floor(math.log10(high))
    step = next(s for s in (step / 5, step / 2, step, 2 * step) if high / s <= 5)
    return [k * step for k in range(math.ceil(high / step) + 1)]


def curve(series, i, at_x, at_y, dashed):
    cls = f"s{i}" + (" w" if dashed else "")
    path = " ".join(f"{'L' if k else 'M'}{at_x(x):.1f} {at_y(y[0]):.1f}" for k, (x, y) in enumerate(series))
    out = [f'<path class="{cls}" stroke-width="1.6" d="{path}"/>']
    for x, (_, low, high) in series:
        out.append(f'<path class="{cls}" d="M{at_x(x):.1f} {at_y(low):.1f} V{at_y(high):.1f}"/>')
    return out + ([] if dashed else [mark(i, at_x(x), at_y(y[0])) for x, y in series])


def panel(points, title, log, x0, y0, with_wall):
    """Milliseconds a token over x: processor time, and the wall's dashed where threads share the work."""
    points = sorted(points, key=lambda p: p.x)
    lines = [(i, clock, [(p.x, p.per_token(s, clock)) for p in points])
             for clock in ((1, 0) if with_wall else (1,)) for i, s in enumerate(STEPS)]
    values = [v for _, _, series in lines for _, y in series for v in y]
    rule = ticks(min(values), max(values), log)
    left, right = math.log2(points[0].x), math.log2(points[-1].x)

    def at_x(x):
        return x0 + 14 + (math.log2(x) - left) / ((right - left) or 1) * (PANEL_W - 28)

    def at_y(y):
        share = (math.log10(y / rule[0]) / (len(rule) - 1 or 1)) if log else y / rule[-1]
        return y0 + PANEL_H * (1 - share)

    out = [text(x0, y0 - 14, title, "strong")]
    for y in rule:
        out.append(f'<line class="line" x1="{x0}" x2="{x0 + PANEL_W}" y1="{at_y(y):.1f}" y2="{at_y(y):.1f}"/>')
        out.append(text(x0 - 8, at_y(y) + 4, f"{y:g}", "dim num", "end"))
    for p in points:
        out.append(text(at_x(p.x), y0 + PANEL_H + 18, human(p.x), "dim num", "middle"))
    for i, clock, series in lines:
        out += curve(series, i, at_x, at_y, clock == 0)
    return out


def picture(points, title, notes):
    body, x = [], 24.0
    for i, s in enumerate((*STEPS, "dashed: by the wall")):
        body += [mark(i, x + 5, 60)] * (i < 2) + [text(x + 15, 64, s, "dim")]
        x += 32 + 7.2 * len(s)
    body.append(text(x, 64, "milliseconds of processor time a token: median, least and most", "dim"))
    for k, (key, name, log) in enumerate(PLOTS):
        some = [p for p in points if p.plot == key]
        if some:
            body += panel(some, name, log, 70 + k % 2 * (PANEL_W + 80), 116 + k // 2 * (PANEL_H + 76), key == "threads")
    bottom = 116 + 2 * (PANEL_H + 76)
    body += [text(24, bottom - 10 + 20 * i, n, "dim") for i, n in enumerate(notes)]
    return page(2 * PANEL_W + 180, bottom + 20 * len(notes), title, body, LIGHT, DARK)


def table(points):
    rows = ["| against | | forward | probe |", "|---|---|---|---|"]
    for p in points:
        cells = ["%.3f (%.3f to %.3f)" % p.per_token(s, 1) for s in STEPS]
        rows.append(f"| {p.plot} | {human(p.x)} | {cells[0]} | {cells[1]} |")
    return "milliseconds of processor time a token: median (least to most)\n\n" + "\n".join(rows)


def make(program, a, known, layers, machine):
    """Measure and write DIR/cost.svg and DIR/cost.json.  known: (name, path) of models that are there."""
    os.makedirs(a.plots, exist_ok=True)
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        engines = open_engines(program, a, [*known, *made_models(folder, layers)])
    for i in range(a.rounds):
        for e in engines:
            e.round()
        print(f"round {i + 1} of {a.rounds}, {time.monotonic() - start:.0f} s", file=sys.stderr)
    for e in engines:
        e.peer.end()
    points, about = [p for e in engines for p in e.points], engines[0].peer.about
    facts = {"machine": machine, "compute": about["compute"], "kernels": about["kernels"], "threads": about["threads"],
             "rounds": a.rounds, "sequence": 64, "points": [p.facts() for p in points]}
    with open(a.plots + "/cost.json", "w", encoding="utf-8") as f:
        json.dump(facts, f, indent=1)
        f.write("\n")
    notes = [f"{machine}; {about['compute']}, {about['threads']} threads, kernels {about['kernels']}; {a.rounds} rounds",
             f"{short(a.model)}, {AT_TOKENS} tokens in sequences of 64, rank {AT_RANK}, where the axis says nothing else; "
             "probe: both sides"]
    with open(a.plots + "/cost.svg", "w", encoding="utf-8") as f:
        f.write(picture(points, "Cost of a forward pass and of a probe", notes))
    print(table(points))
    print(f"\n{a.plots}/cost.svg, {a.plots}/cost.json; {time.monotonic() - start:.0f} s")
