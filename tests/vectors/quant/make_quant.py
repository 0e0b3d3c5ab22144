#!/usr/bin/env python3
"""Blocks of ggml's types and what they dequantise to, by the `gguf` package (an implementation that is not ours).

usage: make_quant.py [FOLDER]                   needs: gguf, numpy; the files of the folder (this one) are made anew

quant.txt: type number, bytes in hex, the float32 values as big-endian hex words.  The bits are random, with the scales
drawn over all finite halves and then set to zero, subnormal and the largest ones; a few blocks a type, so that a
difference shows itself.

blocks.txt: type number, offsets within a block (or -), BLAKE2b-256 of the values of BLOCKS blocks, little-endian.
Their bytes are those of splitmix64, seeded with the type number and taken lowest byte first; bit 6 of each byte at the
offsets is cleared, so that the half-precision scale that ends there is finite.  So many that each scale, each minimum
and each vector of a grid is met.
"""
import hashlib
import os
import sys

import numpy as np
from gguf import GGMLQuantizationType as T
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize

BLOCKS = 512
rng = np.random.default_rng(20261122)
HALVES = {T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q8_0: [0], T.Q6_K: [208],
          T.Q2_K: [80, 82], T.Q3_K: [108], T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.IQ2_XXS: [0], T.IQ2_XS: [0],
          T.IQ3_XXS: [0], T.IQ1_S: [0], T.IQ4_NL: [0], T.IQ3_S: [0], T.IQ2_S: [0], T.IQ4_XS: [0], T.IQ1_M: [54],
          T.TQ1_0: [52], T.TQ2_0: [64], T.MXFP4: []}
OLD = list(HALVES)[:6]  # their lines in quant.txt came first, and stay
CORNERS = [0x0000, 0x8000, 0x0001, 0x83ff, 0x03ff, 0x0400, 0x7bff, 0xfbff]


def finite_half():
    while True:
        h = int(rng.integers(0, 65536))
        if h >> 10 & 31 != 31:
            return h


def values(kind, data):
    with np.errstate(over="ignore"):
        return dequantize(data, kind).astype(np.float32).reshape(-1)


def show(f, kind, data):
    print(int(kind), data.tobytes().hex(), "".join("%08x" % w for w in values(kind, data).view(np.uint32)), file=f)


def show_blocks(f, kind, n):
    size = GGML_QUANT_SIZES[kind][1]
    for i in range(n):
        b = rng.integers(0, 256, size, dtype=np.uint8)
        if kind == T.IQ1_M:
            b[55] &= 0xBF  # its scale is in pieces: no corners
        else:
            for k, o in enumerate(HALVES[kind]):
                h = CORNERS[(i // 2 + k) % len(CORNERS)] if i % 2 else finite_half()
                b[o], b[o + 1] = h & 255, h >> 8
        show(f, kind, b.reshape(1, size))


def splitmix64(seed, n):
    out = bytearray()
    while len(out) < n:
        seed = (seed + 0x9E3779B97F4A7C15) % 2**64
        z = seed
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
        out += (z ^ z >> 31).to_bytes(8, "little")
    return np.frombuffer(bytes(out[:n]), dtype=np.uint8).copy()


def show_digest(f, kind):
    size = GGML_QUANT_SIZES[kind][1]
    data = splitmix64(int(kind), BLOCKS * size).reshape(BLOCKS, size)
    ends = [o + 1 for o in HALVES[kind]]
    data[:, ends] &= 0xBF
    digest = hashlib.blake2b(values(kind, data).astype("<f4").tobytes(), digest_size=32).hexdigest()
    print(int(kind), ",".join(map(str, ends)) or "-", digest, file=f)


def main():
    folder = sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(os.path.abspath(__file__))
    with open(folder + "/quant.txt", "w", encoding="ascii") as f:
        for kind in OLD:
            show_blocks(f, kind, 6 if kind == T.Q6_K else 16)
        halves = np.array(CORNERS + [0x7C00, 0xFC00, 0x3C00, 0x3555] + [finite_half() for _ in range(20)], dtype="<u2")
        show(f, T.F16, halves.view(np.float16).reshape(1, -1))
        brain = np.array([0, 0x8000, 1, 0x7F, 0x80, 0x3F80, 0xBF80, 0x7F7F, 0x7F80, 0xFF80]
                         + list(rng.integers(0, 0x7F80, 20)), dtype="<u2")
        show(f, T.BF16, brain.view(np.uint8).reshape(1, -1))
        show(f, T.F32, rng.standard_normal(8).astype("<f4").reshape(1, -1))
        for kind in HALVES:
            if kind not in OLD:
                show_blocks(f, kind, 2 if GGML_QUANT_SIZES[kind][0] == 32 else 1)
    with open(folder + "/blocks.txt", "w", encoding="ascii") as f:
        for kind in HALVES:
            show_digest(f, kind)


if __name__ == "__main__":
    main()
