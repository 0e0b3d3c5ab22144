#!/usr/bin/env python3
"""peft_eval.py - the loss of an exported adapter or model in another engine: Hugging Face, in float32.

    peft_eval.py MODEL --data FILE [--adapter DIR] [--tokenizer MODEL]

MODEL is the GGUF file that the run was made on, or a Hugging Face folder of the same weights; DIR is what
`peerctl export --format peft DIR` wrote.  Or MODEL is what `peerctl export --format merged-gguf` or `merged-safetensors`
wrote, alone: the second has no tokenizer, which --tokenizer takes from the base.
FILE holds records with a prompt and choices, or a prompt and a completion.
Prints the mean loss and the accuracy, to be compared with what `peerd eval` says of the node's folder.

Needs `pip install torch transformers accelerate peft gguf` (some gigabytes); nothing else in this tree does.
"""

import argparse
import json
import os

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def where(path):
    if path.endswith(".gguf"):
        return dict(pretrained_model_name_or_path=os.path.dirname(os.path.abspath(path)), gguf_file=os.path.basename(path))
    return dict(pretrained_model_name_or_path=path)


def load(path, adapter, tokenizer):
    tokenizer = AutoTokenizer.from_pretrained(**where(tokenizer or path))
    model = AutoModelForCausalLM.from_pretrained(**where(path), dtype=torch.float32)
    if adapter:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter)
    return tokenizer, model.eval()


def log_probability(model, prompt, more):
    """Sum of the log-probabilities of the tokens `more` after the tokens `prompt`, and how many they are."""
    logits = model(torch.tensor([prompt + more])).logits[0, len(prompt) - 1 : -1]
    return torch.log_softmax(logits, -1)[torch.arange(len(more)), torch.tensor(more)].sum().item(), len(more)


@torch.no_grad()
def main():
    p = argparse.ArgumentParser(description="Evaluate an exported adapter, or merged model, with Hugging Face's engine.")
    p.add_argument("model")
    p.add_argument("--data", required=True)
    p.add_argument("--adapter")
    p.add_argument("--tokenizer", metavar="MODEL", help="where the tokenizer is, if not with the model")
    a = p.parse_args()
    tokenizer, model = load(a.model, a.adapter, a.tokenizer)

    def ids(text):
        return tokenizer(text, add_special_tokens=False).input_ids

    loss = units = correct = choices = 0
    with open(a.data, encoding="utf-8") as f:
        for record in map(json.loads, f):
            prompt = ids(record["prompt"])
            if "completion" in record:
                got, n = log_probability(model, prompt, ids(record["completion"]))
                loss, units = loss - got, units + n
                continue
            each = torch.tensor([log_probability(model, prompt, ids(c))[0] for c in record["choices"]])
            loss -= torch.log_softmax(each, -1)[record["answer"]].item()
            units, choices = units + 1, choices + 1
            correct += int(each.argmax()) == record["answer"]
    print(json.dumps({"nll": loss / units, "accuracy": correct / choices if choices else None, "units": units}))


if __name__ == "__main__":
    main()
