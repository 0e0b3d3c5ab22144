#!/usr/bin/env python3
"""Blocks of ggml's types and what they dequantise to, by the `gguf` package (an implementation that is not ours).

usage: make_quant.py > quant.txt          needs: gguf, numpy

Each line: type number, its bytes in hex, the float32 values as big-endian hex words.  The bits are random, with the
scales drawn over all finite halves and then set to zero, subnormal and the largest ones.
"""
import numpy as np
from gguf import GGMLQuantizationType as T
from gguf.quants import dequantize

rng = np.random.default_rng(20261122)
HALVES = {T.Q4_0: (18, [0]), T.Q4_1: (20, [0, 2]), T.Q5_0: (22, [0]), T.Q5_1: (24, [0, 2]), T.Q8_0: (34, [0]),
          T.Q6_K: (210, [208])}
CORNERS = [0x0000, 0x8000, 0x0001, 0x83ff, 0x03ff, 0x0400, 0x7bff, 0xfbff]


def finite_half():
    while True:
        h = int(rng.integers(0, 65536))
        if h >> 10 & 31 != 31:
            return h


def show(kind, data):
    with np.errstate(over="ignore"):
        out = dequantize(data, kind).astype(np.float32).reshape(-1)
    print(int(kind), data.tobytes().hex(), "".join("%08x" % w for w in out.view(np.uint32)))


for kind, (size, at) in HALVES.items():
    n = 6 if kind == T.Q6_K else 16
    for i in range(n):
        b = rng.integers(0, 256, size, dtype=np.uint8)
        for k, o in enumerate(at):
            h = CORNERS[(i // 2 + k) % len(CORNERS)] if i % 2 else finite_half()
            b[o], b[o + 1] = h & 255, h >> 8
        show(kind, b.reshape(1, size))
halves = np.array(CORNERS + [0x7c00, 0xfc00, 0x3c00, 0x3555] + [finite_half() for _ in range(20)], dtype="<u2")
show(T.F16, halves.view(np.float16).reshape(1, -1))
brain = np.array([0, 0x8000, 1, 0x7f, 0x80, 0x3f80, 0xbf80, 0x7f7f, 0x7f80, 0xff80] + list(rng.integers(0, 0x7f80, 20)), dtype="<u2")
show(T.BF16, brain.view(np.uint8).reshape(1, -1))
floats = rng.standard_normal(8).astype("<f4")
show(T.F32, floats.reshape(1, -1))
