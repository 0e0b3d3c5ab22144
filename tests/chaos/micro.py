"""A model of a few thousand parameters as a GGUF file, and records to train it on.

The nodes under test are real and train for real; what they learn does not matter, only that a probe
costs next to nothing, so that thirty of them fit on two cores.
"""

import random
import struct

WIDTH, HEADS, LAYERS, CONTEXT = 16, 2, 1, 64
U32, F32, TEXT, LIST, I32 = 4, 6, 8, 9, 5  # GGUF's types of values


def text(s):
    b = s.encode()
    return struct.pack("<Q", len(b)) + b


def key(name, kind, packed):
    return text(name) + struct.pack("<I", kind) + packed


def values(kind, packed, n):
    return struct.pack("<IQ", kind, n) + packed


def vocabulary():
    """A sentence-piece vocabulary: every byte, the space, and two letters that are answers."""
    pieces = [("<unk>", 2, 0.0), ("<s>", 3, 0.0), ("</s>", 3, 0.0)]
    pieces += [("<0x%02X>" % b, 6, 0.0) for b in range(256)]
    pieces += [("\u2581", 1, -9.0), ("a", 1, -8.0), ("b", 1, -7.0), ("\u2581a", 1, -2.0), ("\u2581b", 1, -1.0)]
    return pieces


def write_model(path, seed, width=WIDTH):
    rng = random.Random(seed)
    pieces = vocabulary()
    n = len(pieces)
    keys = [
        key("general.architecture", TEXT, text("llama")),
        key("general.name", TEXT, text("micro")),
        key("llama.block_count", U32, struct.pack("<I", LAYERS)),
        key("llama.embedding_length", U32, struct.pack("<I", width)),
        key("llama.feed_forward_length", U32, struct.pack("<I", width)),
        key("llama.context_length", U32, struct.pack("<I", CONTEXT)),
        key("llama.attention.head_count", U32, struct.pack("<I", HEADS)),
        key("llama.attention.layer_norm_rms_epsilon", F32, struct.pack("<f", 1e-5)),
        key("tokenizer.ggml.model", TEXT, text("llama")),
        key("tokenizer.ggml.tokens", LIST, values(TEXT, b"".join(text(p[0]) for p in pieces), n)),
        key("tokenizer.ggml.token_type", LIST, values(I32, struct.pack("<%di" % n, *(p[1] for p in pieces)), n)),
        key("tokenizer.ggml.scores", LIST, values(F32, struct.pack("<%df" % n, *(p[2] for p in pieces)), n)),
    ]
    shapes = {"token_embd.weight": (width, n), "output_norm.weight": (width,), "output.weight": (width, n)}
    for layer in range(LAYERS):
        block = "blk.%d." % layer
        for name in ("attn_norm", "ffn_norm"):
            shapes[block + name + ".weight"] = (width,)
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            shapes[block + name + ".weight"] = (width, width)
        shapes[block + "ffn_gate.weight"] = shapes[block + "ffn_up.weight"] = (width, width)
        shapes[block + "ffn_down.weight"] = (width, width)
    directory, data = [], b""
    for name, shape in shapes.items():
        count = shape[0] * (shape[1] if len(shape) > 1 else 1)
        middle, swing = (1.0, 0.3) if "norm" in name else (0.0, 0.5)
        directory.append(text(name) + struct.pack("<I%dQIQ" % len(shape), len(shape), *shape, 0, len(data)))
        data += struct.pack("<%df" % count, *(middle + rng.uniform(-swing, swing) for _ in range(count)))
        data += bytes(-len(data) % 32)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(shapes), len(keys)) + b"".join(keys) + b"".join(directory)
    with open(path, "wb") as f:
        f.write(head + bytes(-len(head) % 32) + data)


def write_records(path, seed, n=64):
    rng = random.Random(seed)
    with open(path, "w", encoding="utf-8") as f:
        for _ in range(n):
            word = "".join(rng.choice("ab") for _ in range(4))
            f.write('{"prompt": "%s", "choices": [" a", " b"], "answer": %d}\n' % (word, word.count("b") > 1))
