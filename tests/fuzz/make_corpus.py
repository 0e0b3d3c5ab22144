#!/usr/bin/env python3
"""make_corpus.py - the inputs each fuzz target starts from, made anew: sound ones, as their headers draw them.

    make_corpus.py [FOLDER]             write them; into corpus/ beside this file by default
    make_corpus.py --check [FOLDER]     say what a folder holds that is not one of them, and what it lacks; 1 if anything

What a search found worth keeping lies beside them under libFuzzer's own name for it, the SHA-1 of its bytes.  Every
other file is made here, so that it can be made again when a format changes.
"""

import base64
import hashlib
import json
import math
import os
import struct
import sys


def ticket(addrs, expiry=0):
    body = b"\x01" + bytes(range(16)) + bytes(range(32)) + bytes(16) + bytes([len(addrs)]) + b"".join(addrs)
    body += struct.pack("<I", expiry)
    body += hashlib.blake2b(b"peerd.ticket" + body, digest_size=32).digest()[:4]
    return b"peerd1" + base64.b32encode(body).rstrip(b"=").lower()


def address4(port):
    return b"\x04\x0a\x00\x00\x01" + struct.pack("<H", port)


def address6(port):
    return b"\x06\xfd" + bytes(15) + struct.pack("<H", port)


def manifest(kind, parent=False, first_layer=0):
    fields = {
        "base.arch": "llama", "base.digest": "11" * 32, "base.name": "house-2m", "base.tokenizer": "22" * 32,
        "format": "1", "founder": "33" * 32, "nonce": "44" * 16, "policy.invites": "3", "policy.rate": "100",
        "policy.seal_bytes_per_s": "1000", "probe.eps_u40": str(1 << 33), "probe.scale_u40": str(1 << 40),
        "rule": "sum", "schedule.kind": "constant", "schedule.lr_min_u40": "0", "schedule.lr_u40": str(1 << 30),
        "schedule.records": "0", "space.coords": "64", "space.kind": kind, "space.rank": "1", "space.targets": "q",
        "space.unit_bits": "26",
    }
    if kind == "aligned":
        fields.update({"space.basis": "55" * 32, "space.basis_bytes": "1000"})
    elif kind == "lora":
        fields.update({"space.alpha": "1", "space.seed": "66" * 32})
    else:
        fields["space.rank"] = "0"
    if parent:
        fields.update({"format": "2", "parent.digest": "77" * 16, "parent.records": "300", "parent.run": "88" * 32})
    if first_layer:
        fields.update({"format": "3", "space.first_layer": str(first_layer)})
    return "".join(f"{k} = {v}\n" for k, v in sorted(fields.items())).encode()


def text(s):
    return struct.pack("<Q", len(s)) + s


# Block types that quant.h draws: number, elements and bytes of a block.
QUANTS = {
    "q4_0": (2, 32, 18), "q4_1": (3, 32, 20), "q5_0": (6, 32, 22), "q5_1": (7, 32, 24), "q8_0": (8, 32, 34),
    "q2_k": (10, 256, 84), "q3_k": (11, 256, 110), "q4_k": (12, 256, 144), "q5_k": (13, 256, 176),
    "q6_k": (14, 256, 210), "iq2_xxs": (16, 256, 66), "iq2_xs": (17, 256, 74), "iq3_xxs": (18, 256, 98),
    "iq1_s": (19, 256, 50), "iq4_nl": (20, 32, 18), "iq3_s": (21, 256, 110), "iq2_s": (22, 256, 82),
    "iq4_xs": (23, 256, 136), "iq1_m": (29, 256, 56), "tq1_0": (34, 256, 54), "tq2_0": (35, 256, 66),
    "mxfp4": (39, 32, 17),
}


def gguf(keys, tensors, version=3):
    out = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(keys))
    for name, kind, value in keys:
        out += text(name) + struct.pack("<I", kind) + value
    data = b""
    for name, kind, dims, content in tensors:
        data += bytes(-len(data) % 32)
        out += text(name) + struct.pack("<I", len(dims)) + b"".join(struct.pack("<Q", d) for d in dims)
        out += struct.pack("<IQ", kind, len(data))
        data += content
    return out + bytes(-len(out) % 32) + data


def model(arch, **numbers):
    """A whole model of one layer, width 4, two heads, a vocabulary of 3."""
    def u32(key, n):
        return (f"{arch}.{key}".encode(), 4, struct.pack("<I", n))

    def f32(key, x):
        return (f"{arch}.{key}".encode(), 6, struct.pack("<f", x))

    def tensor(name, *shape):
        return (name.encode(), 0, list(shape[::-1]), bytes(i % 64 for i in range(4 * math.prod(shape))))

    fused = arch == "gpt2"
    counts = {"block_count": 1, "embedding_length": 4, "feed_forward_length": 6, "context_length": 8,
              "attention.head_count": 2, **numbers}
    keys = [(b"general.architecture", 8, text(arch.encode())), *(u32(k, n) for k, n in counts.items()),
            f32("attention.layer_norm_epsilon" if fused else "attention.layer_norm_rms_epsilon", 1e-5)]
    if not fused:
        keys += [(b"llama.rope.scaling.type", 8, text(b"linear")), f32("rope.scaling.factor", 2)]
        shapes = {"attn_norm": [4], "attn_q": [4, 4], "attn_k": [4, 4], "attn_v": [4, 4], "attn_output": [4, 4],
                  "ffn_norm": [4], "ffn_gate": [6, 4], "ffn_up": [6, 4], "ffn_down": [4, 6]}
        return gguf(keys, [tensor("token_embd.weight", 3, 4), tensor("output_norm.weight", 4),
                           *(tensor(f"blk.0.{name}.weight", *shape) for name, shape in shapes.items())])
    shapes = {"attn_norm": [4], "attn_qkv": [12, 4], "attn_output": [4, 4], "ffn_norm": [4], "ffn_up": [6, 4],
              "ffn_down": [4, 6]}
    return gguf(keys, [tensor("token_embd.weight", 3, 4), tensor("position_embd.weight", 8, 4),
                       tensor("output_norm.weight", 4), tensor("output_norm.bias", 4),
                       *(tensor(f"blk.0.{name}.weight", *shape) for name, shape in shapes.items()),
                       *(tensor(f"blk.0.{name}.bias", shape[0]) for name, shape in shapes.items())])


def ggufs():
    arch = (b"general.architecture", 8, text(b"llama"))
    count = (b"llama.block_count", 4, struct.pack("<I", 2))
    tokens = (b"tokenizer.ggml.tokens", 9, struct.pack("<IQ", 8, 2) + text(b"a") + text(b"bc"))
    scores = (b"tokenizer.ggml.scores", 9, struct.pack("<IQ", 6, 2) + struct.pack("<ff", 1, 2))
    types = (b"tokenizer.ggml.token_type", 9, struct.pack("<IQ", 5, 2) + struct.pack("<ii", 1, 6))
    flag = (b"a.flag", 7, b"\x01")
    f64 = (b"a.double", 12, struct.pack("<d", 1.5))
    a = (b"token_embd.weight", 0, [4, 2], struct.pack("<8f", *range(8)))
    b = (b"blk.0.attn_q.weight", 8, [32, 1], bytes(34))
    quants = {
        name: gguf([], [(b"a", kind, [n], bytes(37 * i % 256 for i in range(size)))])
        for name, (kind, n, size) in QUANTS.items()
    }
    return {
        **quants, "empty": gguf([], []), "keys": gguf([arch, count, tokens, scores, types, flag, f64], []),
        "tensors": gguf([arch], [a, b]), "both": gguf([arch, tokens], [a]), "version2": gguf([arch], [a], 2),
        "llama": model("llama"), "gpt2": model("gpt2"), "wide_head": model("llama", **{"attention.key_length": 1 << 16}),
    }


def safetensors():
    """fuzz_safetensors.c: an even byte, a header, a line feed, the data."""
    a = {"a": {"dtype": "F32", "shape": [2, 1], "data_offsets": [0, 8]}}
    b = {"b": {"dtype": "BF16", "shape": [3], "data_offsets": [8, 14]}}
    both = json.dumps({"__metadata__": {"format": "pt"}, **a, **b}).encode()
    return {
        "both": b"\0" + both + b"\n" + bytes(14), "short": b"\0" + both + b"\n" + bytes(13),
        "scalar": b'\0{"s": {"dtype": "I64", "shape": [], "data_offsets": [0, 8]}}\n' + bytes(8),
        "raw": b"\1" + struct.pack("<Q", len(both)) + both + bytes(14), "deep": b'\0{"a":' + b"[" * 1100,
    }


def folder(config, shapes):
    """fuzz_folder.c: config.json, a 0 byte, the header of model.safetensors."""
    header, at = {}, 0
    for name, shape in shapes.items():
        end = at + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, end]}
        at = end
    return json.dumps(config).encode() + b"\0" + json.dumps(header).encode()


def folders():
    """One layer of width 4, two heads, a vocabulary of 3."""
    def layer(prefix, **shapes):
        return {f"{prefix}.{name.replace('__', '.')}.weight": shape for name, shape in shapes.items()}

    counts = {"hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 8,
              "vocab_size": 3}
    llama = {"architectures": ["LlamaForCausalLM"], **counts, "intermediate_size": 6, "num_key_value_heads": 1,
             "rms_norm_eps": 1e-5, "hidden_act": "silu", "rope_theta": 10000.0, "tie_word_embeddings": True}
    rope = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8}
    block = layer("model.layers.0", input_layernorm=[4], self_attn__q_proj=[4, 4], self_attn__k_proj=[2, 4],
                  self_attn__v_proj=[2, 4], self_attn__o_proj=[4, 4], post_attention_layernorm=[4],
                  mlp__gate_proj=[6, 4], mlp__up_proj=[6, 4], mlp__down_proj=[4, 6])
    ends = {"model.embed_tokens.weight": [3, 4], "model.norm.weight": [4]}
    norms = {"model.layers.0.self_attn.q_norm.weight": [2], "model.layers.0.self_attn.k_norm.weight": [2]}
    gpt2 = {"architectures": ["GPT2LMHeadModel"], "n_embd": 4, "n_layer": 1, "n_head": 2, "n_positions": 8,
            "vocab_size": 3, "activation_function": "gelu_new"}
    parts = {"ln_1": ([4], [4]), "attn.c_attn": ([4, 12], [12]), "attn.c_proj": ([4, 4], [4]), "ln_2": ([4], [4]),
             "mlp.c_fc": ([4, 16], [16]), "mlp.c_proj": ([16, 4], [4])}
    conv = {f"h.0.{name}.{end}": shape for name, both in parts.items() for end, shape in zip(["weight", "bias"], both)}
    around = {"wte.weight": [3, 4], "wpe.weight": [8, 4], "ln_f.weight": [4], "ln_f.bias": [4]}
    return {
        "llama": folder(llama, {**ends, **block}),
        "llama3": folder({**llama, "rope_scaling": rope}, {**ends, **block}),
        "qwen3": folder({**llama, "architectures": ["Qwen3ForCausalLM"], "head_dim": 2}, {**ends, **block, **norms}),
        "gpt2": folder(gpt2, {**around, **conv}), "missing": folder(llama, ends),
        "extra": folder(llama, {**ends, **block, "model.extra": [2]}),
    }


def short(s):
    return bytes([len(s)]) + s


def tokenizer(kind, tokens, merges, words):
    out = bytes([kind, len(tokens)])
    for t, s in tokens:
        out += bytes([t]) + short(s)
    return out + bytes([len(merges)]) + b"".join(short(m) for m in merges) + words


def tokenizer_jsons():
    """fuzz_tokenizer_json.c: the file, a 0 byte, a text."""
    def one(vocab, merges, text, added=(), **parts):
        model = {"type": "BPE", "unk_token": vocab[0], "fuse_unk": True, "vocab": {t: i for i, t in enumerate(vocab)},
                 "merges": merges, **parts.pop("model", {})}
        j = {"added_tokens": list(added), **parts, "model": model}
        return json.dumps(j, ensure_ascii=False).encode() + b"\0" + text

    def added(i, text, **flags):
        return {"id": i, "content": text, "special": True, "normalized": False, **flags}

    split = {"type": "Split", "pattern": {"Regex": "(?i:'s)|\\p{N}{1,3}|[^\\s\\p{N}]+|\\s+(?!\\S)|\\s+"},
             "behavior": "Isolated", "invert": False}
    level = {"type": "ByteLevel", "add_prefix_space": True, "use_regex": False}
    two = {"type": "Sequence", "pretokenizers": [split, {**level, "add_prefix_space": False}]}
    bos = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}],
           "special_tokens": {"<s>": {"ids": [3]}}}
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    spelled = {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Prepend", "prepend": "▁"}, replace]}
    letters = ["<unk>", "a", "aa", "<s>", "▁", "▁a"]
    return {
        "bytes": one(["<unk>", "a", "aa", "<s>", "Ġ"], ["a a"], b"aaa <s>1 b", [added(3, "<s>")], pre_tokenizer=level,
                     model={"ignore_merges": True}),
        "split": one(["a", "1", "'", "s"], [], b"a's 1111  \xc3\xa9",
                     [added(4, "  ", special=False, normalized=True)], normalizer={"type": "NFC"}, pre_tokenizer=two),
        "spelled": one(letters, [["a", "a"], ["▁", "a"]], b"aaa <s> a", [added(3, "<s>")], normalizer=spelled,
                       post_processor=bos),
        "metaspace": one(letters, ["▁ a"], b" a  aa\xff", pre_tokenizer={
            "type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": True}),
    }


def varint(n):
    out = b""
    while n > 127:
        out += bytes([n & 127 | 128])
        n >>= 7
    return out + bytes([n])


def frame(*items):
    return b"\x01\x00" + varint(0) + b"".join(items)


def key(i):
    return bytes((0x10 * (i + 1) + k) % 256 for k in range(32))


def seal(i):
    return b"S" + key(i)[:1] + bytes(62)


def says(session, f):
    return bytes([session]) + struct.pack("<H", len(f)) + f


def branch(n, chunk, sealed=bytes(64), hashes=b"", tail=b""):
    return varint(n) + chunk + hashes + tail + sealed


def evidence(author, inc, stream, *branches, chunk=0):
    return author + varint(inc) + bytes([stream]) + varint(chunk) + bytes(32) + b"".join(branches)


def evidences():
    """evidence.h; the author's key is 0, 1, 2, ..."""
    author, later = bytes(range(32)), branch(4101, bytes(1024), hashes=bytes(64), tail=b"tails")
    return {"two-bytes": evidence(author, 0, 0, branch(1, b"\x00"), branch(1, b"\x01")),
            "later-chunks": evidence(author, 3, 1, later, branch(1025, b"\x01"), chunk=1)}


def record(kind, *parts):
    body = b"".join(parts)
    return bytes([kind]) + varint(len(body)) + body


def records():
    """frame.h, control log."""
    who, shop = bytes(range(32)), short(b"shop")
    addr = record(2, b"\x01\x04\x7f\x00\x00\x01", struct.pack("<H", 7433), shop)
    return {
        "member": record(1, who, b"\x00", bytes(8), shop),
        "addr-leave-beacon": addr + record(3, b"\x01", varint(300)) + record(7),
        "ban-rotate": record(5, who, varint(0), varint(70000), varint(200)) + record(6, who, bytes(64), varint(9)),
        "evidence-unknown": record(4, evidences()["two-bytes"]) + record(99, b"later"),
        "ckpt": record(8, bytes(32), bytes(16), varint(5000), varint(300)) + record(1, who, b"\x00", bytes(8), shop),
    }


def items():
    """frame.h; every kind of item, in six frames."""
    hello = (b"\x01" + bytes(40) + varint(0) + struct.pack("<HH", 2, 0) + b"\x00" + varint(3) + bytes(16) + varint(100)
             + bytes(4) + b"\x02")
    alias = b"\x02" + varint(1) + bytes(range(32)) + varint(0)
    seg = b"\x03" + varint(0) + varint(0) + short(b"abc") + bytes(64)
    ctl = b"\x88" + varint(1) + varint(5) + short(b"xy")
    prune, pull = b"\x05" + varint(2), b"\x06" + varint(2) + varint(0) + varint(1000)
    graft = b"\x07" + varint(4) + varint(1) + varint(9)
    heads, vv = b"\x04\x02\x00\x05\x03" + varint(70000), b"\x0a\x00\x02\x02\x01\x00\x09"
    fork = b"\x10" + varint(2) + varint(900) + b"\x11" + varint(2) + varint(900) + bytes(32)
    file = b"\x15" + bytes(16) + varint(0) + varint(9) + b"\x16" + bytes(16) + varint(0) + varint(4) + short(b"ab")
    branches = (b"\x17" + varint(2) + varint(1) + varint(0)
                + b"\x18" + varint(2) + varint(1) + varint(1030) + varint(0) + varint(7) + short(b"ab"))
    prefix = (b"\x0b" + varint(4) + varint(1024) + varint(4096) + b"\x0c" + varint(4) + varint(1024) + short(b"xyz")
              + b"\x0d" + varint(4) + varint(70000))
    join = b"\x13" + key(9) + bytes(64) + b"\x04\x0a\x00\x00\x01\x09\x1d" + short(b"shop")
    welcome = b"\x14" + varint(0) + varint(900) + short(b"text")
    return {
        "hello": frame(hello, alias), "segments": frame(seg, ctl, prune, pull, graft), "heads-vv": frame(heads, vv),
        "forks-files": frame(fork, file, branches), "prefix-join": frame(prefix, b"\x0f" + bytes(5), join, welcome),
        "rest": frame(b"\x09" + bytes(16) + b"\x05\x06", b"\x0e" + bytes(5), b"\x12\x05\x02\x01\x02"),
    }


def frames_to_core():
    """fuzz_frame.c: session 0 is node 1 past its HELLO, whose aliases 0 and 1 are node 1 and node 0."""
    def hello(proto):
        return (b"\x01\x55" + bytes(31) + bytes(8) + varint(0) + struct.pack("<HH", proto, 0) + b"\x00" + varint(3)
                + bytes(16) + varint(80) + struct.pack("<I", 0) + b"\x02")

    alias2 = b"\x02" + varint(2) + key(2) + varint(0)
    seg = b"\x03" + varint(0) + varint(1) + varint(3) + b"\x05\x06\x07" + seal(1)
    more = b"\x83" + varint(0) + varint(1) + varint(2) + b"\x05\x06"
    leave = b"\x03\x02\x01\x00"
    ctl = b"\x08" + varint(0) + varint(1) + varint(len(leave)) + leave + seal(1)
    heads = b"\x04" + varint(2) + varint(0) + varint(9) + varint(1) + varint(4)
    pull = b"\x06" + varint(3) + varint(0) + varint(4096)
    summary = b"\x09" + bytes(16) + varint(80) + varint(9)
    vv = b"\x0a\x01" + varint(1) + varint(3) + varint(78)
    ping = b"\x0e\x01\x02\x03\x04\x00"
    bye = b"\x12\x01"
    join = b"\x13" + key(9) + seal(9) + b"\x00" + varint(1) + b"x"
    fileq = b"\x15" + bytes(16) + varint(0) + varint(8000)
    filea = b"\x16" + bytes(16) + varint(0) + varint(3) + varint(3) + b"abc"
    prefixq, base = b"\x0b" + varint(2) + varint(0) + varint(40), b"\x0d" + varint(2) + varint(8)
    prefixa = b"\x0c" + varint(2) + varint(0) + varint(3) + b"abc"
    forkq, forka = b"\x10" + varint(3) + varint(40), b"\x11" + varint(3) + varint(40) + bytes(range(32))
    branchq = b"\x17" + varint(3) + varint(0) + varint(0)
    part = branch(40, bytes(40), seal(0))
    brancha = (b"\x18" + varint(3) + varint(0) + varint(40) + varint(0) + varint(len(part)) + varint(len(part)) + part)
    right = record(8, bytes(range(32)), bytes(16), varint(500), varint(80))
    claim = b"\x08" + varint(0) + varint(1) + varint(len(right)) + right + seal(1)
    other = b"\x03" + varint(0) + varint(1) + varint(4) + b"\x05\x09\x09\x09" + seal(1)
    proof = record(4, evidence(key(1), 0, 0, branch(1, b"\x05", seal(1)), branch(1, b"\x06", seal(1))))
    accuse = b"\x08" + varint(0) + varint(1) + varint(len(proof)) + proof + seal(1)
    theirs = branch(4, b"\x05\x09\x09\x09", seal(1))
    fork_of = (b"\x11" + varint(0) + varint(3) + bytes(range(32)), b"\x18" + varint(0) + varint(0) + varint(4) + varint(0)
               + varint(len(theirs)) + varint(len(theirs)) + theirs)
    again = b"\x03" + varint(0) + varint(1) + varint(3) + b"\x05\x06\x07" + seal(1)
    many = b"".join(record(1, bytes([100 + i]) * 32, b"\x00", bytes(8), short(b"n")) for i in range(24))
    crowd = b"\x08" + varint(0) + varint(1) + varint(len(many)) + many + seal(1)
    tick = bytes([3 | 40 << 2])
    return {
        "crowd": says(0, frame(crowd)) + tick * 8, "gone": bytes([3 | 62 << 2]) + tick * 3, "pong": says(0, frame(b"\x0f" + bytes(5))) + tick,
        "twice": says(0, frame(seg)) + tick + says(0, frame(again)) + tick,
        "grafted": says(0, frame(b"\x07" + varint(2) + varint(0) + varint(4096))) + tick + bytes([3, 3]) + tick * 2
                   + says(0, frame(b"\x05" + varint(2))) + tick,
        "conflict": says(0, frame(seg)) + tick + says(0, frame(other)) + tick + says(0, frame(*fork_of)) + tick,
        "accused": says(0, frame(seg)) + tick + says(0, frame(accuse)) + tick + tick,
        "seg": says(0, frame(seg)) + tick, "more": says(0, frame(more)) + tick, "ctl": says(0, frame(ctl)) + tick,
        "heads": says(0, frame(heads)) + tick + tick, "pull": says(0, frame(pull)) + tick,
        "summary": says(0, frame(summary, vv)) + tick, "ping": says(0, frame(ping)) + tick,
        "bye": says(0, frame(bye)) + tick, "hello": says(1, frame(hello(1), alias2)) + tick,
        "hello3": says(1, frame(hello(3), alias2)) + tick, "prefix": says(0, frame(prefixq, base, prefixa)) + tick,
        "forks": says(0, frame(forkq, forka, branchq, brancha)) + tick + tick,
        "ckpt": says(0, frame(claim)) + tick,
        "wants": says(0, frame(vv)) + tick + b"".join(bytes([3 | what << 2]) + tick for what in range(56, 64)),
        "fetches": says(0, frame(vv)) + tick + bytes([3 | 56 << 2]) + tick + says(0, frame(filea)) + tick,
        "guest": says(2, frame(join)) + tick + tick, "files": says(0, frame(fileq, filea)) + tick,
        "speak": says(0, frame(vv)) + tick + bytes([3, 3, 3]) + tick * 4,
    }


def joins():
    """fuzz_join.c: what follows the manifest in a welcome; the founder is node 0, the newcomer node 2."""
    def log(i, *records, inc=0):
        body = b"".join(records)
        return key(i) + varint(inc) + varint(len(body)) + body + seal(i)

    def member(i):
        return record(1, key(i), b"\x00", bytes(8), short(b"n"))

    def welcome(switch, *logs):
        return bytes([switch]) + varint(len(logs)) + b"".join(logs)

    founder = log(0, member(1), member(2))
    ban = record(5, key(1), varint(0), varint(0), varint(0))
    addr = record(2, b"\x01" + address4(7), short(b"shop"))
    proof = evidence(key(1), 0, 0, branch(1, b"\x00", seal(1)), branch(1, b"\x01", seal(1)))
    own_proof = evidence(key(2), 0, 1, branch(1, b"\x00", seal(2)), branch(1, b"\x01", seal(2)))
    part = b"\x14" + varint(0) + varint(4) + short(b"\x00\x00")
    return {
        "welcome": welcome(126, founder), "pieces": welcome(0, log(1, addr), founder), "nobody": welcome(126),
        "chain": welcome(126, log(2, addr), log(1, member(2)), log(0, member(1))),
        "banned": welcome(126, log(0, member(1), member(2), ban), log(1, addr)),
        "proof": welcome(126, log(0, member(1), member(2), record(4, proof)), log(1, addr)),
        "own_proof": welcome(126, founder, log(1, record(4, own_proof)), log(2, addr)),
        "rotated": welcome(126, founder, log(1, record(6, key(3), bytes(64), varint(9))), log(3, addr)),
        "left": welcome(126, founder, log(1, addr, record(3, b"\x01", varint(3)), record(7))),
        "frames": b"\x01" + says(0, frame(b"\x0e" + bytes(5), part))[1:] + says(0, frame(b"\x12\x08\x00"))[1:],
    }


def schedules():
    """fuzz_frames.c: what goes wrong among three cores."""
    def deliver_all():
        return bytes(p << 3 for p in range(9))

    def wait(i):
        return bytes([4 | i << 3])

    linked = (wait(4) + deliver_all() * 2) * 6
    speak = bytes([5, 5 | 1 << 3, 5 | 2 << 3]) * 3 + wait(6) + bytes([6, 6 | 1 << 3, 6 | 2 << 3])
    spoken = linked + wait(7) + linked + speak + deliver_all() * 3
    return {
        "linked": linked, "spoken": spoken, "cut": spoken + b"\x07\x00\x00" + linked + speak,
        "killed": spoken + b"\x07\x41" + linked + speak + deliver_all(),
        "blocked": spoken + b"\x07\x84" + linked + speak + b"\x07\x88" + wait(7) + speak,
        "slow_store": linked + wait(7) + linked + bytes([5] * 5) + wait(6) * 3 + deliver_all(),
    }


def basis(layers, mask, r1, r2, first=0):
    """basis.h; the target's model is 2 layers of width 12, 2 heads of 4 and 1 of keys, 10 inside."""
    shapes = [(8, 12), (4, 12), (4, 12), (12, 8), (10, 12), (10, 12), (12, 10)]
    if first:
        out = b"PDBASIS2" + struct.pack("<IIIII", layers, first, mask, r1, r2)
    else:
        out = b"PDBASIS1" + struct.pack("<IIII", layers, mask, r1, r2)
    for _ in range(first, layers):
        for t, (rows, cols) in enumerate(shapes):
            if not mask >> t & 1:
                continue
            out += struct.pack("<II", rows, cols)
            for r, diagonal in ((r1, 0.5), (r2, 1.0)):
                for size in (rows, cols):
                    for i in range(r):
                        out += struct.pack("<f", 0.25) + bytes((i * 7 + k + 1) % 128 for k in range(size))
                out += b"".join(struct.pack("<f", diagonal) for _ in range(r * r))
    return out


def ckpt(logs, coords, run=b"\x55" * 32, tag=b"peerd.ckpt.v1"):
    """ckpt.h; logs: (key's first byte, incarnation, n, C_j, tail)."""
    out = tag + run + varint(len(coords)) + varint(sum(n for _, _, n, _, _ in logs)) + varint(len(logs))
    for first, inc, n, c, tail in logs:
        out += bytes([first]) + bytes(31) + varint(inc) + varint(n) + c + tail + b"S" + bytes([first]) + bytes(62)
    return b"\x01" + out + b"".join(struct.pack("<i", a) for a in coords)


def ckpts():
    def h(*parts):
        return hashlib.blake2b(b"".join(parts), digest_size=32).digest()

    def place(first, byte, n):
        """Where the target's log of this author stands after n bytes."""
        c = h(b"peerd.log.v1", b"\x55" * 32, bytes([first]) + bytes(31), bytes(4), b"\x00")
        for j in range(n // 1024):
            c = h(b"peerd.chunk.v1", c, struct.pack("<Q", j), h(bytes([byte]) * 1024))
        return (first, 0, n, c, bytes([byte]) * (n % 1024))

    logs = [place(0x10, 5, 1030), place(0x20, 6, 5), place(0x30, 7, 1024)]
    whole = ckpt(logs, range(8))
    return {
        "whole": whole, "first": ckpt(logs[:1], range(8)), "none": ckpt([], range(8)), "short": whole[:-3],
        "long": whole + b"\x00", "run": b"\x00" + whole[1:14] + bytes(32) + whole[46:], "tag": ckpt(logs, [1], tag=b"peerd.ckpt.v2"),
        "disorder": ckpt(logs[::-1], range(8)), "unknown": ckpt([place(0x40, 1, 3)], range(8)),
        "reserved": ckpt([(0x20, 0, 5, bytes(32), b"\x06\x80\x06\x06\x06")], range(8)),
    }


def change(page, offset, new):
    return bytes([page]) + struct.pack("<HB", offset, len(new) - 1) + new


def targets():
    long_line = {"messages": [{"role": "user", "content": "a b"}, {"role": "assistant", "content": "aa"}]}
    lines = [{"text": "aa b"}, {"prompt": "a", "completion": "b"}, long_line,
             {"prompt": "a", "choices": ["a", "b"], "answer": 1}]
    jsonl = "".join(json.dumps(x) + "\n" for x in lines).encode()
    ask = b'{"cmd": "echo", "text": "a \\u00e9"}\n'
    return {
        "ticket": {"one": ticket([address4(7433)]), "many": ticket([address4(1), address6(2), address4(3)], 1 << 31),
                   "spaced": b"  " + ticket([address4(9)]).upper() + b"\n"},
        "manifest": {"aligned": manifest("aligned"), "lora": manifest("lora"), "full": manifest("full"),
                     "parent": manifest("aligned", parent=True), "upper": manifest("aligned", first_layer=2)},
        "gguf": ggufs(), "safetensors": safetensors(), "folder": folders(),
        "tokenizer": {
            "gpt2": tokenizer(2 | 16, [(1, b"aa"), (1, b"aaaa"), (3, b"<|im_end|>")], [b"a a", b"aa aa"], b"aaaa b"),
            "llama": tokenizer(3, [(1, b"a"), (1, b"aa"), (3, b"</s>"), (4, b"<tool>")], [], b"aaa<tool>\xff</s>"),
            "chat": tokenizer(2 | 64, [(1, b"<|im_start|><|im_end|>")], [], b"text"),
        },
        "tokenizer_json": tokenizer_jsons(),
        "data": {"all": b"\x28" + jsonl, "llama": b"\x2a" + jsonl, "skip": b"\x29not json\n" + jsonl,
                 **{str(i): b"\x29" + (json.dumps(x) + "\n").encode() for i, x in enumerate(lines)}},
        "frame": frames_to_core(), "frames": schedules(), "items": items(), "record": records(),
        "evidence": evidences(), "join": joins(), "ckpt": ckpts(),
        "basis": {"one": basis(2, 1, 0, 1), "start": basis(2, 3, 1, 1), "all": basis(2, 0x7f, 1, 2),
                  "upper": basis(2, 0x7f, 1, 2, first=1)},
        "control": {"ask": struct.pack("<H", len(ask)) + ask,
                    "pieces": struct.pack("<H", 9) + ask[:9] + struct.pack("<H", len(ask) - 9) + ask[9:],
                    "two": struct.pack("<H", 2 * len(ask)) + ask * 2,
                    "unknown": struct.pack("<H", 13) + b'{"cmd": "x"}\n'},
        "db": {"sound": b"\x01", "log": b"\x02", "header": b"\x01" + change(0, 40, b"\xff"),
               "schema": b"\x01" + change(0, 2000, b"abcdef"), "page": b"\x01" + change(3, 0, b"\x05\x00\x01"),
               "frame": b"\x02" + change(0, 40, b"\x00\x00"), "text": b"\x00" + b"not a database\n",
               "nothing": b"\x00", "magic": b"\x00SQLite format 3\x00" + bytes(84)},
    }


def make(folder):
    for name, inputs in targets().items():
        os.makedirs(os.path.join(folder, name), exist_ok=True)
        for which, content in inputs.items():
            with open(os.path.join(folder, name, which), "wb") as f:
                f.write(content)


def differences(folder):
    made = {os.path.join(name, which): content for name, inputs in targets().items() for which, content in inputs.items()}
    for at, _, files in os.walk(folder):
        for file in files:
            name = os.path.relpath(os.path.join(at, file), folder)
            with open(os.path.join(at, file), "rb") as f:
                content = f.read()
            if name not in made and file != hashlib.sha1(content).hexdigest():
                yield f"{name}: neither made by make_corpus.py nor named by its SHA-1"
            elif made.pop(name, content) != content:
                yield f"{name}: not what make_corpus.py makes (run it again)"
    for name in made:
        yield f"{name}: missing (run make_corpus.py again)"


def check(folder):
    lines = sorted(differences(folder))
    print("\n".join(lines) or "as made")
    return len(lines) > 0


if __name__ == "__main__":
    here = os.path.join(os.path.dirname(os.path.abspath(__file__)), "corpus")
    args = sys.argv[1:]
    checks = args[:1] == ["--check"]
    sys.exit((check if checks else make)((args[checks:] or [here])[0]))
