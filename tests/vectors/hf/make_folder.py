#!/usr/bin/env python3
"""make_folder.py - a GGUF file of the llama architecture as a Hugging Face folder, to see that both give the same losses.

    make_folder.py MODEL.gguf FOLDER [--dtype F32|F16|BF16] [--shards N]      needs: gguf, numpy

Writes config.json, tokenizer.json, tokenizer_config.json and the weights.  Quantised tensors are dequantised; rows of q and
k are put from GGUF's order (pairs that RoPE turns stand together) into Hugging Face's (halves).  The tokenizer has to be
byte-level BPE with the pre-tokenizer gpt-2 or smollm, or SentencePiece's, whose merges are made from the scores as
transformers' converter makes them.
"""

import argparse
import json
import os
import struct

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize

NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
LAYER = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
         "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
         "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = 1, 2, 3, 4, 5, 6


def value(reader, key, default=None):
    field = reader.fields.get(key)
    return default if field is None else field.contents()


def hf_name(name):
    parts = name.split(".")
    if parts[0] == "blk":
        return f"model.layers.{parts[1]}.{LAYER[parts[2]]}.{parts[3]}"
    return NAMES[parts[0]] + "." + parts[1]


def halves(w, heads):
    """Rows 2i and 2i + 1 of a head to i and i + half."""
    return w.reshape(heads, w.shape[0] // heads // 2, 2, -1).swapaxes(1, 2).reshape(w.shape)


def weights(reader, heads, kv):
    for t in reader.tensors:
        shape = [int(n) for n in t.shape[::-1]]
        w = np.asarray(dequantize(t.data, t.tensor_type), dtype=np.float32).reshape(shape)
        if ".attn_q." in t.name or ".attn_k." in t.name:
            w = halves(w, heads if ".attn_q." in t.name else kv)
        yield hf_name(t.name), w


def encoded(w, dtype):
    if dtype == "F16":
        return w.astype("<f2").tobytes()
    if dtype == "BF16":  # to the nearest, ties to even
        bits = w.astype("<f4").view("<u4").astype(np.uint64)
        return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype("<u2").tobytes()
    return w.astype("<f4").tobytes()


def save(path, tensors):
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, dtype, shape, data in tensors:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + b"".join(data for *_, data in tensors))


def save_all(folder, tensors, shards):
    if shards == 1:
        save(os.path.join(folder, "model.safetensors"), tensors)
        return
    where = {}
    for k in range(shards):
        name = f"model-{k + 1:05}-of-{shards:05}.safetensors"
        part = tensors[k * len(tensors) // shards:(k + 1) * len(tensors) // shards]
        save(os.path.join(folder, name), part)
        where.update({t[0]: name for t in part})
    index = {"metadata": {"total_size": sum(len(t[3]) for t in tensors)}, "weight_map": where}
    with open(os.path.join(folder, "model.safetensors.index.json"), "w") as f:
        json.dump(index, f, indent=1)


def merges_of_scores(tokens, scores):
    """Every way to cut a token into two tokens, best token first, as transformers' converter of SentencePiece does."""
    ids = {t: i for i, t in enumerate(tokens)}
    made = []
    for i, t in enumerate(tokens):
        cuts = [(t[:k], t[k:]) for k in range(1, len(t)) if t[:k] in ids and t[k:] in ids]
        made += [(-scores[i], ids[a], ids[b], a, b) for a, b in cuts]
    return [[a, b] for *_, a, b in sorted(made)]


def pipeline(kind, pre):
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    if kind == "llama":
        space = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
        return {"normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, space]}}
    if pre == "gpt-2":
        return {"pre_tokenizer": level}
    if pre == "smollm":
        digits = {"type": "Digits", "individual_digits": True}
        return {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [digits, level]}}
    raise SystemExit(f"pre-tokenizer {pre} has no tokenizer.json of ours")


def tokenizer(reader):
    kind = value(reader, "tokenizer.ggml.model")
    tokens, types = value(reader, "tokenizer.ggml.tokens"), value(reader, "tokenizer.ggml.token_type")
    unknown = value(reader, "tokenizer.ggml.unknown_token_id")
    added = [{"id": i, "content": t, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
              "special": types[i] != USER} for i, t in enumerate(tokens) if types[i] in (UNKNOWN, CONTROL, USER)]
    merges = value(reader, "tokenizer.ggml.merges") if kind == "gpt2" else \
        merges_of_scores(tokens, value(reader, "tokenizer.ggml.scores"))
    model = {"type": "BPE", "dropout": None, "unk_token": tokens[unknown] if unknown is not None and kind == "llama" else None,
             "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": kind == "llama",
             "byte_fallback": kind == "llama", "ignore_merges": False, "vocab": {t: i for i, t in enumerate(tokens)},
             "merges": merges}
    parts = {"normalizer": None, "pre_tokenizer": None, **pipeline(kind, value(reader, "tokenizer.ggml.pre", "default"))}
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, **parts, "post_processor": None,
            "decoder": None, "model": model}


def settings(reader):
    tokens = value(reader, "tokenizer.ggml.tokens")
    out = {"add_bos_token": bool(value(reader, "tokenizer.ggml.add_bos_token", value(reader, "tokenizer.ggml.model") == "llama"))}
    for key in ("bos", "eos"):
        i = value(reader, f"tokenizer.ggml.{key}_token_id")
        if i is not None:
            out[key + "_token"] = tokens[i]
    template = value(reader, "tokenizer.chat_template")
    return {**out, "chat_template": template} if template else out


def config(reader, tied, vocab, dtype):
    get = lambda key, default=None: value(reader, "llama." + key, default)
    heads, width = get("attention.head_count"), get("embedding_length")
    return {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": width, "hidden_act": "silu",
            "num_hidden_layers": get("block_count"), "num_attention_heads": heads,
            "num_key_value_heads": get("attention.head_count_kv", heads), "intermediate_size": get("feed_forward_length"),
            "head_dim": get("attention.key_length", width // heads), "max_position_embeddings": get("context_length"),
            "rms_norm_eps": float(get("attention.layer_norm_rms_epsilon")), "rope_theta": get("rope.freq_base", 10000.0),
            "tie_word_embeddings": tied, "vocab_size": vocab,
            "torch_dtype": {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}[dtype]}


def main():
    args = argparse.ArgumentParser()
    args.add_argument("model")
    args.add_argument("folder")
    args.add_argument("--dtype", choices=["F32", "F16", "BF16"], default="F32")
    args.add_argument("--shards", type=int, default=1)
    args = args.parse_args()
    reader = GGUFReader(args.model)
    heads = value(reader, "llama.attention.head_count")
    named = dict(weights(reader, heads, value(reader, "llama.attention.head_count_kv", heads)))
    os.makedirs(args.folder, exist_ok=True)
    save_all(args.folder, [(n, args.dtype, list(w.shape), encoded(w, args.dtype)) for n, w in named.items()], args.shards)
    vocab = named["model.embed_tokens.weight"].shape[0]
    for name, content in (("config", config(reader, "lm_head.weight" not in named, vocab, args.dtype)),
                          ("tokenizer", tokenizer(reader)), ("tokenizer_config", settings(reader))):
        with open(os.path.join(args.folder, name + ".json"), "w", encoding="utf-8") as f:
            json.dump(content, f, ensure_ascii=False)


if __name__ == "__main__":
    main()
