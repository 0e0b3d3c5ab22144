#!/usr/bin/env python3
"""Golden vectors for chain.h and manifest.h: heads, seals, run id.  Standard library only.

  C_0     = H("peerd.log.v1" | run 32 | key 32 | incarnation LE32 | stream 1)              H = BLAKE2b-256
  C_{j+1} = H("peerd.chunk.v1" | C_j | j LE64 | H(bytes[1024 j .. 1024 j + 1023]))
  Head(n) = H("peerd.head.v1" | C_j | n LE64 | bytes[1024 j .. n-1])
  seal(n) = Ed25519("peerd.seal.v1" | run | key | incarnation LE32 | stream | n LE64 | Head(n))      (RFC 8032)
  log byte i = (i * i + 7 i + (i >> 8)) mod 251
"""
import hashlib, struct, sys

# --- Ed25519, after the reference code of RFC 8032 section 6 ---
p = 2**255 - 19
q = 2**252 + 27742317777372353535851937790883648493
d = -121665 * pow(121666, p - 2, p) % p
root = pow(2, (p - 1) // 4, p)


def add(P, Q):
    A, B = (P[1] - P[0]) * (Q[1] - Q[0]) % p, (P[1] + P[0]) * (Q[1] + Q[0]) % p
    C, D = 2 * P[3] * Q[3] * d % p, 2 * P[2] * Q[2] % p
    E, F, G, H = B - A, D - C, D + C, B + A
    return (E * F % p, G * H % p, F * G % p, E * H % p)


def mul(s, P):
    Q = (0, 1, 1, 0)
    while s:
        if s & 1:
            Q = add(Q, P)
        P, s = add(P, P), s >> 1
    return Q


def compress(P):
    z = pow(P[2], p - 2, p)
    x, y = P[0] * z % p, P[1] * z % p
    return int.to_bytes(y | (x & 1) << 255, 32, "little")


gy = 4 * pow(5, p - 2, p) % p
x2 = (gy * gy - 1) * pow(d * gy * gy + 1, p - 2, p) % p
gx = pow(x2, (p + 3) // 8, p)
if (gx * gx - x2) % p:
    gx = gx * root % p
if gx & 1:
    gx = p - gx
G = (gx, gy, 1, gx * gy % p)


def expand(seed):
    h = hashlib.sha512(seed).digest()
    return int.from_bytes(h[:32], "little") & (1 << 254) - 8 | 1 << 254, h[32:]


def public(seed):
    return compress(mul(expand(seed)[0], G))


def sign(seed, message):
    a, prefix = expand(seed)
    number = lambda b: int.from_bytes(hashlib.sha512(b).digest(), "little") % q
    r = number(prefix + message)
    R = compress(mul(r, G))
    return R + int.to_bytes((r + number(R + public(seed) + message) * a) % q, 32, "little")


# --- ours ---
def H(b):
    return hashlib.blake2b(b, digest_size=32).digest()


def head(run, key, inc, stream, log):
    c = H(b"peerd.log.v1" + run + key + struct.pack("<IB", inc, stream))
    j = 0
    while (j + 1) * 1024 <= len(log):
        c = H(b"peerd.chunk.v1" + c + struct.pack("<Q", j) + H(log[1024 * j : 1024 * j + 1024]))
        j += 1
    return H(b"peerd.head.v1" + c + struct.pack("<Q", len(log)) + log[1024 * j :])


if __name__ == "__main__":
    seed = bytes(range(32))
    assert public(bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")).hex() == (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")  # RFC 8032, 7.1, test 1
    key, run = public(seed), H(b"a run")
    print("key", seed.hex(), key.hex())
    print("run", run.hex())
    for n, inc, stream in ((0, 0, 0), (1, 0, 0), (1023, 0, 1), (1024, 3, 0), (1025, 3, 0), (5000, 15, 1), (8192, 0, 0)):
        log = bytes((i * i + 7 * i + (i >> 8)) % 251 for i in range(n))
        h = head(run, key, inc, stream, log)
        m = b"peerd.seal.v1" + run + key + struct.pack("<IBQ", inc, stream, n) + h
        print("seal", n, inc, stream, h.hex(), sign(seed, m).hex())
