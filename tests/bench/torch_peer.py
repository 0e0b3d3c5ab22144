"""torch_peer.py SHAPE COMPUTE THREADS - the same steps in PyTorch, for tests/bench/run.

SHAPE is the line of JSON that `engine ... -` prints first.  The model is transformers' LlamaForCausalLM of that shape with
random weights: what a step costs does not depend on them.  Then as engine does: a round for each line read, answered by one
line with the seconds of each step, wall and processor.

  forward     loss of all tokens, no gradient
  mezo_lora   MeZO (Malladi et al. 2023, arXiv 2305.17333, algorithm 1) on LoRA of rank 8 on all seven matrices
  lora        forward, backward and AdamW on the same LoRA
  mezo_full   MeZO on all parameters
"""

import json
import math
import sys
import time

import torch
from transformers import LlamaConfig, LlamaForCausalLM

RANK, EPS, LR = 8, 1e-3, 1e-6


class Lora(torch.nn.Module):
    def __init__(self, base):
        super().__init__()
        self.base = base
        self.down = torch.nn.Parameter(torch.randn(RANK, base.in_features, dtype=base.weight.dtype) / math.sqrt(base.in_features))
        self.up = torch.nn.Parameter(torch.zeros(base.out_features, RANK, dtype=base.weight.dtype))

    def forward(self, x):
        return self.base(x) + (x @ self.down.t()) @ self.up.t()


def add_lora(model):
    """LoRA on every projection of every layer; their parameters."""
    made = []
    for layer in model.model.layers:
        for part in (layer.self_attn, layer.mlp):
            for name, child in list(part.named_children()):
                if isinstance(child, torch.nn.Linear):
                    made.append(Lora(child))
                    setattr(part, name, made[-1])
    return [p for m in made for p in (m.down, m.up)]


def mezo(loss, parameters, seed):
    """One step: the noise is made anew from its seed each time, as MeZO does to save memory."""
    def perturb(scale):
        g = torch.Generator().manual_seed(seed)
        for p in parameters:
            p.add_(torch.randn(p.shape, generator=g, dtype=p.dtype), alpha=scale)

    with torch.no_grad():
        perturb(EPS)
        plus = loss()
        perturb(-2 * EPS)
        minus = loss()
        perturb(EPS)
        perturb(-LR * float(plus - minus) / (2 * EPS))


def main():
    shape, compute, threads = json.loads(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    torch.set_num_threads(threads)
    torch.manual_seed(1)
    config = LlamaConfig(
        hidden_size=shape["width"], intermediate_size=shape["ff"], num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"], num_key_value_heads=shape["kv_heads"], head_dim=shape["head_width"],
        vocab_size=shape["vocab"], tie_word_embeddings=shape["tied"], max_position_embeddings=2048)
    dtype = torch.bfloat16 if compute == "bf16" else torch.float32

    def make():
        model = LlamaForCausalLM(config).to(dtype).eval()
        model.requires_grad_(False)
        return model

    bare, adapted = make(), make()
    whole, lora = list(bare.parameters()), add_lora(adapted)
    adam = torch.optim.AdamW(lora, lr=LR)
    ids = torch.randint(shape["vocab"], (shape["tokens"] // shape["sequence"], shape["sequence"]))

    def loss(model):
        return model(input_ids=ids, labels=ids, use_cache=False).loss

    def forward():
        with torch.no_grad():
            loss(bare)

    def first_order():
        adam.zero_grad()
        loss(adapted).backward()
        adam.step()

    steps = {
        "forward": forward,
        "mezo_lora": lambda: mezo(lambda: loss(adapted), lora, 3),
        "lora": first_order,
        "mezo_full": lambda: mezo(lambda: loss(bare), whole, 2),
    }
    for step in steps.values():  # what happens only the first time is not counted
        step()
    print(json.dumps({"torch": torch.__version__}), flush=True)
    for _ in sys.stdin:
        out = {}
        for name, step in steps.items():
            wall, cpu = time.perf_counter(), time.process_time()
            step()
            out[name] = [time.perf_counter() - wall, time.process_time() - cpu]
        print(json.dumps(out), flush=True)


if __name__ == "__main__":
    main()
