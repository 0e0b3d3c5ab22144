#!/usr/bin/env python3
"""Tiny random models of every family, and what Hugging Face transformers computes with them.

usage: make_families.py [FAMILY...]        (into tests/vectors/families beside this script)
needs: torch, transformers, gguf, safetensors (PyPI; the numbers here are of torch 2.15 and transformers 5.24)

For each family:
  NAME/                config.json, model.safetensors, as save_pretrained writes them (bfloat16)
  NAME.gguf            the same weights under llama.cpp's names (gguf-py/gguf/constants.py), where GGUF has the family
  NAME.json            {"sequences": [[id]], "nll": [[-log p(ids[t] | ids[<t]), t = 1..n-1]],
                        "gradients": {"layer.target": {"norm", "at": [[row, column, dL/dW]]}},
                        "divisors": of the rotary frequencies, where scaled}
The loss L is the mean over all predicted tokens of all sequences.  Weights are exactly bfloat16, the arithmetic is
float64 (transformers' RMS norms go through float32).  Rows of gradients are those of the GGUF file; of the folder
("rows": "folder") where there is none.
"""
import copy, json, math, pathlib, shutil, sys
import numpy as np, torch, gguf
from transformers import AutoConfig, AutoModelForCausalLM

HERE = pathlib.Path(__file__).resolve().parent / "families"
VOCAB, CONTEXT, LAYERS, PROBES = 288, 320, 2, 10
LLAMA = dict(vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=LAYERS, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=CONTEXT, bos_token_id=1, eos_token_id=2, pad_token_id=None)
FAMILIES = {  # name: (transformers' model type, its configuration, GGUF architecture or None)
    "llama": ("llama", dict(LLAMA, rms_norm_eps=1e-5, tie_word_embeddings=False), "llama"),
    "llama-linear": ("llama", dict(LLAMA, tie_word_embeddings=True, rope_parameters={
        "rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}), "llama"),
    "llama3": ("llama", dict(LLAMA, num_attention_heads=2, num_key_value_heads=1, head_dim=16,
                             tie_word_embeddings=True, rope_parameters={
        "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64}), "llama"),
    "mistral": ("mistral", dict(LLAMA, sliding_window=24, head_dim=8, tie_word_embeddings=False), "llama"),
    "qwen2": ("qwen2", dict(LLAMA, rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
                            tie_word_embeddings=True, use_sliding_window=False), "qwen2"),
    "qwen3": ("qwen3", dict(LLAMA, head_dim=16, rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
                            tie_word_embeddings=True, use_sliding_window=False), "qwen3"),
    "gpt2": ("gpt2", dict(vocab_size=VOCAB, n_positions=CONTEXT, n_embd=32, n_layer=LAYERS, n_head=4,
                          bos_token_id=1, eos_token_id=2), "gpt2"),
    "gptneox": ("gpt_neox", dict(vocab_size=VOCAB, hidden_size=32, num_hidden_layers=LAYERS, num_attention_heads=2,
                                 intermediate_size=64, max_position_embeddings=CONTEXT, hidden_act="gelu",
                                 rope_parameters={"rope_type": "default", "rope_theta": 10000.0,
                                                  "partial_rotary_factor": 0.25},
                                 use_parallel_residual=True, tie_word_embeddings=False, bos_token_id=1,
                                 eos_token_id=2), "gptneox"),
    "opt": ("opt", dict(vocab_size=VOCAB, hidden_size=32, word_embed_proj_dim=32, num_hidden_layers=LAYERS, ffn_dim=64,
                        num_attention_heads=4, max_position_embeddings=CONTEXT, bos_token_id=2, eos_token_id=2,
                        pad_token_id=1, tie_word_embeddings=True), None),
}
NORMS = ("norm", "layernorm", "layer_norm", "ln_1", "ln_2", "ln_f")

def make_model(kind, config, seed):
    """A model whose every parameter is random (no norm of ones, no bias of zeros) and exactly bfloat16."""
    torch.manual_seed(seed)
    m = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **config), attn_implementation="eager").eval()
    with torch.no_grad():
        for name, p in m.named_parameters():
            owner = name.rsplit(".", 2)[-2]
            r = torch.randn(p.shape)
            if p.dim() == 2:
                r *= 1.0 / math.sqrt(config.get("hidden_size", config.get("n_embd")))
            else:
                r = r * 0.2 + (1.0 if owner.endswith(NORMS) and name.endswith("weight") else 0.0)
            p.copy_(r.to(torch.bfloat16))
    return m

def pairs(heads):
    """Order of a q or k matrix's rows in a GGUF file of the llama architecture: RoPE's pairs side by side."""
    return lambda w: w.reshape(heads, 2, -1, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)

def split_neox(heads):
    """The folder's (head, q|k|v, row) to (q|k|v, head, row)."""
    return lambda w: w.reshape(heads, 3, -1, *w.shape[1:]).swapaxes(0, 1).reshape(w.shape)

same, turned = lambda w: w, lambda w: w.T

def names_of(kind, config, arch):
    """(GGUF name, folder's name, how its rows are laid) of each tensor; {} is the layer."""
    heads, kv = config.get("num_attention_heads"), config.get("num_key_value_heads")
    if kind == "gpt2":
        yield from [("token_embd", "transformer.wte", same), ("position_embd", "transformer.wpe", same),
                    ("output_norm", "transformer.ln_f", same)]
        blocks = [("attn_norm", "ln_1", same), ("attn_qkv", "attn.c_attn", turned), ("attn_output", "attn.c_proj", turned),
                  ("ffn_norm", "ln_2", same), ("ffn_up", "mlp.c_fc", turned), ("ffn_down", "mlp.c_proj", turned)]
        root = "transformer.h.{}."
    elif kind == "gpt_neox":
        yield from [("token_embd", "gpt_neox.embed_in", same), ("output_norm", "gpt_neox.final_layer_norm", same),
                    ("output", "lm_head", same)]
        blocks = [("attn_norm", "input_layernorm", same), ("attn_qkv", "attention.query_key_value", split_neox(heads)),
                  ("attn_output", "attention.dense", same), ("ffn_norm", "post_attention_layernorm", same),
                  ("ffn_up", "mlp.dense_h_to_4h", same), ("ffn_down", "mlp.dense_4h_to_h", same)]
        root = "gpt_neox.layers.{}."
    elif kind == "opt":
        yield from [("token_embd", "model.decoder.embed_tokens", same), ("output_norm", "model.decoder.final_layer_norm", same)]
        blocks = [("attn_q", "self_attn.q_proj", same), ("attn_k", "self_attn.k_proj", same),
                  ("attn_v", "self_attn.v_proj", same), ("attn_output", "self_attn.out_proj", same),
                  ("ffn_up", "fc1", same), ("ffn_down", "fc2", same)]
        root = "model.decoder.layers.{}."
    else:
        q, k = (pairs(heads), pairs(kv)) if arch == "llama" else (same, same)
        yield from [("token_embd", "model.embed_tokens", same), ("output_norm", "model.norm", same),
                    ("output", "lm_head", same)]
        blocks = [("attn_norm", "input_layernorm", same), ("attn_q", "self_attn.q_proj", q), ("attn_k", "self_attn.k_proj", k),
                  ("attn_v", "self_attn.v_proj", same), ("attn_output", "self_attn.o_proj", same),
                  ("attn_q_norm", "self_attn.q_norm", same), ("attn_k_norm", "self_attn.k_norm", same),
                  ("ffn_norm", "post_attention_layernorm", same), ("ffn_gate", "mlp.gate_proj", same),
                  ("ffn_up", "mlp.up_proj", same), ("ffn_down", "mlp.down_proj", same)]
        root = "model.layers.{}."
    for l in range(LAYERS):
        yield from [(f"blk.{l}.{a}", root.format(l) + b, lay) for a, b, lay in blocks]

def tensors_of(m, kind, config, arch, grad=False):
    """GGUF name -> array in the GGUF file's layout, of the weights or of their gradients."""
    have, out = dict(m.named_parameters()), {}
    for ours, theirs, lay in names_of(kind, config, arch):
        for end in ("weight", "bias"):
            p = have.get(f"{theirs}.{end}")
            if p is not None:
                out[f"{ours}.{end}"] = np.ascontiguousarray(lay((p.grad if grad else p).detach().numpy()))
                del have[f"{theirs}.{end}"]
    assert not have or arch is None, f"no name for {list(have)}"
    return out

def divisors_of(m):
    """By how much the model's rotary frequencies are scaled down."""
    e, p = m.model.rotary_emb, m.config.rope_parameters
    n = e.inv_freq.numel()
    return (p["rope_theta"] ** (-torch.arange(n, dtype=torch.float64) / n) / e.inv_freq.double()).tolist()

def write_gguf(path, name, m, kind, config, arch, divisors):
    w, c = gguf.GGUFWriter(path, arch), m.config
    w.add_name(name)
    w.add_block_count(LAYERS)
    w.add_embedding_length(c.hidden_size)
    w.add_context_length(CONTEXT)
    w.add_head_count(c.num_attention_heads)
    if kind == "gpt2":
        w.add_feed_forward_length(4 * c.hidden_size)
        w.add_layer_norm_eps(c.layer_norm_epsilon)
    elif kind == "gpt_neox":
        w.add_feed_forward_length(c.intermediate_size)
        w.add_layer_norm_eps(c.layer_norm_eps)
        w.add_parallel_residual(c.use_parallel_residual)
        w.add_rope_dimension_count(int(c.hidden_size // c.num_attention_heads * c.rope_parameters["partial_rotary_factor"]))
    else:
        width = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
        w.add_feed_forward_length(c.intermediate_size)
        w.add_layer_norm_rms_eps(c.rms_norm_eps)
        w.add_head_count_kv(c.num_key_value_heads)
        w.add_key_length(width)
        w.add_value_length(width)
        w.add_rope_dimension_count(width)
        w.add_rope_freq_base(c.rope_parameters["rope_theta"])
        if c.rope_parameters["rope_type"] == "linear":
            w.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
            w.add_rope_scaling_factor(c.rope_parameters["factor"])
        if c.rope_parameters["rope_type"] == "llama3":
            w.add_tensor("rope_freqs.weight", np.array(divisors, dtype=np.float32))
        if kind == "mistral":
            w.add_sliding_window(c.sliding_window)
    for tensor, a in tensors_of(m, kind, config, arch).items():
        if a.ndim == 1:
            w.add_tensor(tensor, a.astype(np.float32))
        else:
            bits = (a.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
            w.add_tensor(tensor, bits.view(np.uint8), raw_shape=(a.shape[0], a.shape[1] * 2),
                         raw_dtype=gguf.GGMLQuantizationType.BF16)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()

TARGETS = {"attn_q": "q", "attn_k": "k", "attn_v": "v", "attn_output": "o", "ffn_gate": "gate", "ffn_up": "up", "ffn_down": "down"}

def gradients_of(m, kind, config, arch):
    rng, out = np.random.default_rng(5), {}
    for name, g in tensors_of(m, kind, config, arch, grad=True).items():
        parts = name.split(".")
        if parts[0] != "blk" or parts[3] != "weight":
            continue
        split = {"attn_qkv": ["attn_q", "attn_k", "attn_v"]}.get(parts[2], [parts[2]])
        for which, part in zip(split, np.split(g, len(split))):
            if which not in TARGETS:
                continue
            at = [(int(rng.integers(part.shape[0])), int(rng.integers(part.shape[1]))) for _ in range(PROBES)]
            out[f"{parts[1]}.{TARGETS[which]}"] = {
                "norm": float(np.linalg.norm(part)), "at": [[r, c, float(part[r, c])] for r, c in at]}
    return out

def make(name, seed):
    kind, config, arch = FAMILIES[name]
    m = make_model(kind, config, seed)
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    copy.deepcopy(m).to(torch.bfloat16).save_pretrained(folder)  # of a copy: rotary frequencies are not to be rounded
    (folder / "generation_config.json").unlink(missing_ok=True)
    m = m.double()
    rope = getattr(m.config, "rope_parameters", None) or {}
    if rope.get("rope_type") in ("linear", "llama3"):
        m.model.rotary_emb.to(torch.float64)
    divisors = divisors_of(m) if rope.get("rope_type") in ("linear", "llama3") else None
    rng = np.random.default_rng(seed)
    sequences = [rng.integers(3, VOCAB, n).tolist() for n in (40, 300)]
    nll = []
    for ids in sequences:
        t = torch.tensor(ids)
        logits = m(t[None]).logits[0, :-1]
        nll.append(torch.nn.functional.cross_entropy(logits, t[1:], reduction="none"))
    loss = torch.cat(nll).mean()
    loss.backward()
    out = {"sequences": sequences, "nll": [[round(v, 6) for v in s.tolist()] for s in nll],
           "gradients": gradients_of(m, kind, config, arch)}
    if divisors:
        out["divisors"] = divisors
    (HERE / f"{name}.json").write_text(json.dumps(out) + "\n")
    if arch:
        write_gguf(HERE / f"{name}.gguf", name, m, kind, config, arch, divisors)
    print(name, f"loss {loss.item():.4f}", *(p.stat().st_size for p in sorted(folder.iterdir())))

if __name__ == "__main__":
    HERE.mkdir(exist_ok=True)
    for i, name in enumerate(FAMILIES):
        if len(sys.argv) < 2 or name in sys.argv[1:]:
            make(name, 100 + i)
