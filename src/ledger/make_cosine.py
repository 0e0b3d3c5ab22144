#!/usr/bin/env python3
"""Make cosine.h: T[k] = round(2^30 * (1 + cos(pi k / 256)) / 2), k = 0..256.  Standard library only.

Usage: python3 make_cosine.py > cosine.h    (the result is committed: a schedule must not depend on anybody's libm)
"""
from decimal import Decimal, getcontext

getcontext().prec = 60
PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494")


def cos(x):
    term = total = Decimal(1)
    n = 0
    while abs(term) > Decimal(10) ** -50:
        n += 2
        term = -term * x * x / (n * (n - 1))
        total += term
    return total


table = [int((Decimal(2) ** 29 * (1 + cos(PI * k / 256))).to_integral_value()) for k in range(257)]
print("/* cosine.h - made by make_cosine.py: T[k] = round(2^30 * (1 + cos(pi k / 256)) / 2). */")
print("static const uint32_t cosine[257] = {")
for i in range(0, 257, 8):
    print("    " + ", ".join(str(t) for t in table[i : i + 8]) + ",")
print("};")
