#!/usr/bin/env python3
"""Make grids.h: the vectors that ggml's IQ1, IQ2 and IQ3 types choose from, as the `gguf` package has them.

Usage: python3 make_grids.py > grids.h          needs: gguf, numpy

The vectors are part of the file format; no rule makes them.  Here a vector is a word of 16 bits: for each of its 8
elements (IQ3: 4) 2 bits (IQ3: 4), the place among the few values that the type has, the first element lowest.
"""
import numpy as np
from gguf import quants

GRIDS = [("iq2_xxs", quants.IQ2_XXS), ("iq2_xs", quants.IQ2_XS), ("iq2_s", quants.IQ2_S), ("iq3_xxs", quants.IQ3_XXS),
         ("iq3_s", quants.IQ3_S), ("iq1", quants.IQ1_S)]

print("/* grids.h - made by make_grids.py: the vectors of ggml's IQ types, a word each; see quant_grid.c.\n *\n"
      " * The choice of vectors is ggml's (MIT licence, copyright the ggml authors).\n */")
for name, kind in GRIDS:
    kind.init_grid()
    rows, width = kind.grid_shape
    grid = kind.grid.reshape(rows, width)
    bits = 16 // width
    words = [sum(kind.grid_map.index(int(v)) << bits * i for i, v in enumerate(row)) for row in grid]
    print(f"static const uint16_t {name}_grid[{rows}] = {{")
    for i in range(0, rows, 12):
        print("    " + ", ".join(f"0x{w:04x}" for w in words[i : i + 12]) + ",")
    print("};")
