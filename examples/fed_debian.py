#!/usr/bin/env python3
"""fed_debian.py - a task with as many sites as wanted, made offline from this machine's package lists.

    fed_debian.py DIR [--task section|summary] [--sites N | --maintainer WORD ...] [--sections A=word,B=word,...]
                      [--train N] [--heldout N] [--test N] [--calibrate N] [--seed N]

Debian's package lists (`apt-cache dumpavail`: 63,666 packages of 2,246 maintainers in Debian 12) are text written by
many hands about many subjects.  A site here is a set of maintainers, and no maintainer is at two sites.

    --task section   which section is the package in, from its one-line description:
                     {"prompt": "{description}. This software is for", "choices": [" games", " science", ...], "answer"}
    --task summary   the one-line description from the long one:
                     {"prompt": "{long description}\\nIn short:", "completion": " {description}"}
                     The long ones are a list of their own, which slim installations leave out; to have it:
                     apt-get update -o Acquire::Languages=en

    --sites 3            maintainers are dealt to three sites, each to the site that has least (the default)
    --maintainer games   one site a name, holding every maintainer with that word in the name; repeat it

Written, drawn and shuffled by the seed, each description once:

    DIR/{site}/train.jsonl heldout.jsonl test.jsonl     the site's own; test is what no node ever sees
    DIR/test.jsonl                                      the sites' tests together
    DIR/calibrate.jsonl                                 from maintainers of no site; section: the same number a class

Sites differ as their maintainers do: a site of the Games Team alone knows one class, and such sites pull apart.
Standard library only.
"""

import argparse
import collections
import json
import os
import random
import re
import subprocess
import sys

SECTIONS = "games=games,science=science,sound=music"
PUBLIC = "public"  # whom the calibration text is taken from; never a site


class Failure(Exception):
    """What went wrong and what to do, in one line."""


def stanzas(text):
    """The stanzas of a package list as dictionaries; continuation lines keep their newline and leading space."""
    for block in text.split("\n\n"):
        fields, name = {}, None
        for line in block.split("\n"):
            if line[:1] in (" ", "\t"):
                if name:
                    fields[name] += "\n" + line
            elif ":" in line:
                name, _, value = line.partition(":")
                fields[name] = value.strip()
        if fields:
            yield fields


def command(*words):
    try:
        got = subprocess.run(words, capture_output=True, check=True)
    except FileNotFoundError:
        raise Failure(f"{words[0]} is not here: this needs a Debian machine") from None
    except subprocess.CalledProcessError as why:
        raise Failure(f"{words[0]} failed: {why.stderr.decode(errors='replace').strip()}") from None
    return got.stdout.decode("utf-8", "replace")


def long_descriptions():
    """{Description-md5: long description as one paragraph} from the lists of English descriptions, if they are here."""
    found = {}
    for path in command("apt-get", "indextargets", "--format", "$(FILENAME)", "Created-By: Translations").split():
        if not path.endswith("Translation-en") or not os.path.exists(path):
            continue
        for s in stanzas(command("/usr/lib/apt/apt-helper", "cat-file", path)):
            _, _, rest = s.get("Description-en", "").partition("\n")
            lines = [line.strip() for line in rest.split("\n")]
            found[s.get("Description-md5")] = " ".join(line for line in lines if line not in ("", "."))
    if not found:
        raise Failure("no long descriptions here; to have them: apt-get update -o Acquire::Languages=en")
    return found


def records(task, words):
    """[(maintainer, answer or None, record)], in the order of the package names, each description once."""
    packages = sorted(stanzas(command("apt-cache", "dumpavail")), key=lambda s: s.get("Package", ""))
    if not packages:
        raise Failure("apt has no package lists here; to have them: apt-get update")
    longer = long_descriptions() if task == "summary" else {}
    sections = list(words)
    choices = [" " + words[s] for s in sections]
    seen, out = set(), []
    for s in packages:
        text = s.get("Description", "").split("\n")[0].strip()
        maintainer = s.get("Maintainer", "").partition("<")[0].strip()
        if not text or not maintainer or text in seen:
            continue
        if task == "section":
            section = s.get("Section", "").rpartition("/")[2]
            if section not in words:
                continue
            answer = sections.index(section)
            record = {"prompt": text.rstrip(".") + ". This software is for", "choices": choices, "answer": answer}
        else:
            body = longer.get(s.get("Description-md5"), "")
            if not 20 <= len(body.split()) <= 120:
                continue
            answer, record = None, {"prompt": body + "\nIn short:", "completion": " " + text}
        seen.add(text)
        out.append((maintainer, answer, record))
    return out


def deal(found, n_sites, names, rng):
    """{maintainer: site}.  Without names: in a drawn order, each to the site, or the public, that has least."""
    sizes = collections.Counter(m for m, _, _ in found)
    if names:
        is_of = {n: re.compile(rf"\b{re.escape(n)}\b", re.I) for n in names}
        where = {m: next((n for n in names if is_of[n].search(m)), PUBLIC) for m in sizes}
        for n in names:
            if n not in where.values():
                raise Failure(f"no maintainer of such packages has `{n}` in the name")
        return where
    sites = [f"site-{i + 1}" for i in range(n_sites)] + [PUBLIC]
    held, where = dict.fromkeys(sites, 0), {}
    order = sorted(sizes)
    rng.shuffle(order)
    for m in order:
        site = min(sites, key=lambda s: held[s])
        where[m] = site
        held[site] += sizes[m]
    return where


def calibration(public, n, classes, rng):
    """n records of the public pool; of a task with classes, the same number of each."""
    rng.shuffle(public)
    if classes == 0:
        return public[:n]
    chosen = []
    for c in range(classes):
        of_class = [r for r in public if r["answer"] == c]
        chosen += of_class[: n // classes + (c < n % classes)]
    rng.shuffle(chosen)
    return chosen


def write(path, rows):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as f:
        for row in rows:
            f.write(json.dumps(row, ensure_ascii=False) + "\n")


def slug(name):
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "site"


def main():
    p = argparse.ArgumentParser(description="Make the fed-debian data from this machine's package lists.")
    p.add_argument("dir", help="folder to write to")
    p.add_argument("--task", choices=("section", "summary"), default="section")
    p.add_argument("--sites", type=int, default=3, help="number of sites maintainers are dealt to (default 3)")
    p.add_argument("--maintainer", action="append", metavar="WORD", help="a site of the maintainers with this word")
    p.add_argument("--sections", default=SECTIONS, help=f"section=word of the choices (default {SECTIONS})")
    p.add_argument("--train", type=int, default=1200, help="records to train on, at most, a site (default 1200)")
    p.add_argument("--heldout", type=int, default=100, help="records a node watches, a site (default 100)")
    p.add_argument("--test", type=int, default=150, help="records no node sees, a site (default 150)")
    p.add_argument("--calibrate", type=int, default=32, help="public records to calibrate on (default 32)")
    p.add_argument("--seed", type=int, default=1)
    a = p.parse_args()
    if not a.maintainer and a.sites < 1:
        p.error("--sites needs at least 1")
    words = dict(pair.split("=", 1) if "=" in pair else (pair, pair) for pair in a.sections.split(","))

    rng = random.Random(a.seed)
    found = records(a.task, words)
    where = deal(found, a.sites, a.maintainer, rng)
    pools = collections.defaultdict(list)
    for maintainer, _, record in found:
        pools[where[maintainer]].append(record)

    everything = []
    for site in sorted(set(where.values()) - {PUBLIC}):
        pool = pools[site]
        if len(pool) <= a.heldout + a.test:
            raise Failure(f"site {site} has {len(pool)} records: fewer sites, or a smaller --heldout and --test")
        rng.shuffle(pool)
        test, heldout = pool[: a.test], pool[a.test : a.test + a.heldout]
        train = pool[a.test + a.heldout :][: a.train]
        for name, rows in (("test", test), ("heldout", heldout), ("train", train)):
            write(f"{a.dir}/{slug(site)}/{name}.jsonl", rows)
        everything += test
        line = f"{slug(site)}: {len(train)} to train on, {len(heldout)} held out, {len(test)} to test"
        if a.task == "section":
            of = collections.Counter(r["choices"][r["answer"]].strip() for r in train)
            line += " (" + ", ".join(f"{w} {of[w]}" for w in words.values()) + ")"
        print(line)
    write(f"{a.dir}/test.jsonl", everything)
    chosen = calibration(pools[PUBLIC], a.calibrate, len(words) if a.task == "section" else 0, rng)
    if len(chosen) < a.calibrate:
        raise Failure(f"only {len(chosen)} public records to calibrate on: leave more maintainers out of the sites")
    write(f"{a.dir}/calibrate.jsonl", chosen)
    print(f"public: {len(chosen)} to calibrate on")


if __name__ == "__main__":
    try:
        main()
    except (Failure, OSError) as why:
        sys.exit(f"fed_debian: {why}")
