#!/usr/bin/env python3
"""make_tokenizers.py - small tokenizers of each family's pipeline, and the ids that the `tokenizers` package gives.

    make_tokenizers.py [FOLDER]        beside this file by default; needs: tokenizers (0.20 or newer)

NAME.json is a tokenizer.json as that package writes it, trained on TRAIN below; NAME.jsonl has one line a text:
{"text", "ids": special tokens not looked for, "ids_special": special tokens looked for}, no BOS added.
The expressions are those of the families' published tokenizer.json files.
"""

import json
import os
import sys

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
          r"\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")

TRAIN = [
    "the camera is very easy to use, and the pictures are great. it's what we'll keep; they've said so, I'm sure.",
    "once upon a time there was a little house by the sea, and the house was all that there was in the year 1984.",
    "for (int i = 0; i < 100; i++) {\n    total += values[i];\n}\n\treturn total;\n",
    "Zażółć gęślą jaźń, naïve café, Привет мир, 你好 世界, 12345 67890 3.14159",
] * 3

TEXTS = [
    "", "a", " ", "  ", "\n", " a", "a ", "  leading,\ttabs\t and   runs\n\n\nof lines \r\n end  ",
    "the camera was very easy to use in 1984.", "It's we'll THEY'VE I'm you'd he'S DON'T 'ſ",
    "1 12 123 1234 12345 ½ ² Ⅳ ٣٤٥ 3.14159 x=42;", "naïve café — “quotes” … Zażółć gęślą jaźń",
    "e\u0301 cafe\u0301 \u1100\u1161\u11a8 \u212b ﬁ",
    "你好,世界! Привет мир 🙂🚀 \U0001f468\u200d\U0001f469\u200d\U0001f467",
    "\u00a0\u2003x\u0085y\u180ez\u200b \u3000w", "int main(void)\n{\n    return 1 << 3;\n}\n",
    "▁under▁ ▁▁scores_ <0x41> Ġġ", "<s>the <|end|>house</s> </s>", "<|end|><|end|>x<|endx",
    "<tool>the</tool> <tool>  <|en",
    "<|end|> the house", "to<tool>to", "aaaaaaaaaaaaaaaaaaaaaaaa", "\u0001\u007f\ufffd\uffff",
    "?!?!...###\r\n\r\n$%&\n", "the\n\n  house", "x\n \n y", "caf\u00e9\u0301\u0323", "   the", "the    house",
]


def token(text, special=True, normalized=False):
    return AddedToken(text, special=special, normalized=normalized)


def trained(pre, size, normalizer=None, alphabet=(), model=None, added=()):
    t = Tokenizer(models.BPE(**(model or {})))
    t.pre_tokenizer = pre
    if normalizer:
        t.normalizer = normalizer
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=list(alphabet), show_progress=False)
    t.train_from_iterator(TRAIN, trainer)
    for one in added:
        t.add_special_tokens([one]) if one.special else t.add_tokens([one])
    return t


def bos(text):
    return lambda t: processors.TemplateProcessing(single=text + " $A", special_tokens=[(text, t.token_to_id(text))])


def bytes_of(*before, prefix=False, regex=True):
    last = pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=regex)
    return pre_tokenizers.Sequence([*before, last]) if before else last


def split(regex, behavior="isolated", invert=False):
    return pre_tokenizers.Split(Regex(regex), behavior, invert)


END, TOOL = token("<|end|>"), token("<tool>", special=False)
BYTES = pre_tokenizers.ByteLevel.alphabet()


def sentencepiece(pre, normalizer, **model):
    """Byte tokens and spaces as U+2581, as conversions from SentencePiece have them."""
    words = pre_tokenizers.Metaspace(prepend_scheme="always")
    t = trained(words, 120)
    j = json.loads(t.to_str())
    vocab = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)] if model.get("byte_fallback") else \
        ["<unk>", "<s>", "</s>"]
    vocab += [w for w, _ in sorted(j["model"]["vocab"].items(), key=lambda x: x[1])]
    merges = [tuple(m) for m in j["model"]["merges"]]
    vocab += [w for w in ("▁▁", "▁▁▁▁") if w not in vocab]
    merges += [("▁", "▁"), ("▁▁", "▁▁")]
    t = Tokenizer(models.BPE(vocab={w: i for i, w in enumerate(vocab)}, merges=merges, unk_token="<unk>", **model))
    if normalizer:
        t.normalizer = normalizer
    if pre:
        t.pre_tokenizer = pre
    t.add_special_tokens([token("<unk>"), token("<s>"), token("</s>"), END])
    t.add_tokens([TOOL])
    t.post_processor = bos("<s>")(t)
    return t


def tokenizers():
    digits = pre_tokenizers.Digits(individual_digits=True)
    spelled = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    runs = [token(" " * n, special=False, normalized=True) for n in (4, 3, 2)]
    yield "gpt2", trained(bytes_of(), 330, alphabet=BYTES, added=[END, TOOL])
    yield "prefix", trained(bytes_of(prefix=True), 300, alphabet=BYTES, added=[END, token("</tool>", special=False)])
    yield "smollm", trained(bytes_of(digits), 330, alphabet=BYTES, added=[END, TOOL, token("<|end")])
    yield "neox", trained(bytes_of(), 330, normalizers.NFC(), alphabet=BYTES, added=[END, TOOL, *runs])
    yield "qwen2", trained(bytes_of(split(QWEN2), regex=False), 330, normalizers.NFC(), alphabet=BYTES,
                           added=[END, TOOL])
    t = trained(bytes_of(split(LLAMA3), regex=False), 330, alphabet=BYTES, model={"ignore_merges": True},
                added=[token("<s>"), END])
    t.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), bos("<s>")(t)])
    j = json.loads(t.to_str())  # words that are tokens but that no merge makes
    n = max(j["model"]["vocab"].values()) + 9
    j["model"]["vocab"].update({"Ġhouse": n, "THEY": n + 1})
    yield "llama3", Tokenizer.from_str(json.dumps(j))
    yield "removed", trained(bytes_of(split(r"\p{L}+| ?[^\s\p{L}]{1,2}", "removed", True), regex=False), 290,
                             alphabet=BYTES, added=[END])
    yield "llama2", sentencepiece(None, spelled, fuse_unk=True, byte_fallback=True)
    yield "mistral", sentencepiece(pre_tokenizers.Metaspace(prepend_scheme="first", split=False), None, fuse_unk=True,
                                   byte_fallback=True)
    yield "metaspace", sentencepiece(pre_tokenizers.Metaspace(prepend_scheme="always", split=True), None, fuse_unk=True)
    yield "unfused", sentencepiece(pre_tokenizers.Metaspace(prepend_scheme="never", split=False), normalizers.NFC())


def main(folder):
    for name, t in tokenizers():
        j = json.loads(t.to_str())
        with open(os.path.join(folder, name + ".json"), "w", encoding="utf-8") as f:
            json.dump(j, f, ensure_ascii=False, separators=(",", ":"))
        t = Tokenizer.from_str(json.dumps(j))
        with open(os.path.join(folder, name + ".jsonl"), "w", encoding="utf-8") as f:
            for text in TEXTS:
                t.encode_special_tokens = True
                plain = t.encode(text, add_special_tokens=False).ids
                t.encode_special_tokens = False
                special = t.encode(text, add_special_tokens=False).ids
                line = {"text": text, "ids": plain, "ids_special": special}
                f.write(json.dumps(line, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(os.path.abspath(__file__)))
