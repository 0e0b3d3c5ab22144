"""shape.py - a model file of a given size with random weights: what a step costs does not depend on them.

GGUF, version 3, little-endian: "GGUF" version:u32 tensors:u64 keys:u64 | keys | directory | tensors, each at a multiple of 32
bytes.  Matrices are Q8_0: blocks of 32 weights, an f16 scale and 32 signed bytes.  There is no tokenizer: it is for the
engine alone.
"""

import os
import struct

F32, Q8_0, U32, FLOAT, STRING = 0, 8, 4, 6, 8  # types of tensors, then of keys
ALIGN = 32
WIDTH, FF, HEADS, KV_HEADS, VOCAB = 2048, 5632, 32, 4, 32000  # of TinyLlama


def text(s):
    return struct.pack("<Q", len(s)) + s.encode()


def keys(layers):
    numbers = {"block_count": layers, "embedding_length": WIDTH, "feed_forward_length": FF, "context_length": 2048,
               "attention.head_count": HEADS, "attention.head_count_kv": KV_HEADS, "vocab_size": VOCAB}
    out = [text("general.architecture") + struct.pack("<I", STRING) + text("llama"),
           text("llama.attention.layer_norm_rms_epsilon") + struct.pack("<If", FLOAT, 1e-5)]
    return out + [text("llama." + k) + struct.pack("<II", U32, v) for k, v in numbers.items()]


def tensors(layers):
    """(name, rows, columns); 0 rows: a vector."""
    kv = WIDTH * KV_HEADS // HEADS
    yield from (("token_embd.weight", VOCAB, WIDTH), ("output.weight", VOCAB, WIDTH), ("output_norm.weight", 0, WIDTH))
    for i in range(layers):
        parts = (("attn_norm", 0, WIDTH), ("ffn_norm", 0, WIDTH), ("attn_q", WIDTH, WIDTH), ("attn_k", kv, WIDTH),
                 ("attn_v", kv, WIDTH), ("attn_output", WIDTH, WIDTH), ("ffn_gate", FF, WIDTH), ("ffn_up", FF, WIDTH),
                 ("ffn_down", WIDTH, FF))
        yield from ((f"blk.{i}.{name}.weight", rows, cols) for name, rows, cols in parts)


def size(rows, cols):
    return rows * cols // 32 * 34 if rows else 4 * cols


def write(path, layers):
    """A model of TinyLlama's width: 131 M weights, and 44 M a layer."""
    listed, at = [], 0
    for name, rows, cols in tensors(layers):
        dims = (cols, rows) if rows else (cols,)
        listed.append(text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, Q8_0 if rows else F32, at))
        at += -(-size(rows, cols) // ALIGN) * ALIGN
    head = b"GGUF" + struct.pack("<IQQ", 3, len(listed), len(keys(layers))) + b"".join(keys(layers) + listed)
    block = b"".join(struct.pack("<e", 2e-4) + os.urandom(32) for _ in range(4096))
    with open(path, "wb") as f:
        f.write(head + bytes(-len(head) % ALIGN))
        for _, rows, cols in tensors(layers):
            n = size(rows, cols)
            data = struct.pack("<f", 1.0) * cols if not rows else block
            for _ in range(n // len(data)):
                f.write(data)
            f.write(data[: n % len(data)] + bytes(-n % ALIGN))
