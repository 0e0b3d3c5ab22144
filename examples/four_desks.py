#!/usr/bin/env python3
"""four_desks.py - the quickstart's task: does a sentence speak well or ill?  Three sites and a public text.

    four_desks.py DIR [--seed N] [--archive FILE]

Source: the rated sentences that accompany VADER [1] (MIT), as published in the Python package vaderSentiment 3.3.2:
product reviews (site `shop`), film review snippets (`film`), tweets (`tweets`) and newspaper editorials, the public
text to calibrate on.  Each has the mean of about twenty people's ratings, -4 (very negative) to 4.  fetch.py brings the
archive and checks it; --archive names one that is here already.

Kept: texts of 3 to 40 words with |rating| >= 1, HTML entities decoded, each text once.  A record is

    {"prompt": "{text} It was", "choices": [" great", " terrible"], "answer": 0 or 1}

Written, every file half good and half bad, drawn and shuffled by the seed:

    DIR/{shop,film,tweets}/train.jsonl      1,200 a site
    DIR/{shop,film,tweets}/heldout.jsonl    100 a site: what the node watches while it trains
    DIR/{shop,film,tweets}/test.jsonl       150 a site that no node ever sees
    DIR/test.jsonl                          the three of them, 450
    DIR/calibrate.jsonl                     32 editorials

Standard library only.  The texts belong to their authors: make them, use them, do not commit them.

[1] Hutto and Gilbert 2014, VADER: a parsimonious rule-based model for sentiment analysis of social media text, ICWSM
"""

import argparse
import hashlib
import html
import json
import os
import random
import sys
import tarfile

import fetch

SOURCES = {
    "shop": "amazonReviewSnippets_GroundTruth.txt",
    "film": "movieReviewSnippets_GroundTruth.txt",
    "tweets": "tweets_GroundTruth.txt",
    "news": "nytEditorialSnippets_GroundTruth.txt",
}
SITES = ("shop", "film", "tweets")
FOUND = {"shop": 2305, "film": 9008, "tweets": 2638, "news": 1513}  # texts that pass the filter in that release
TRAIN, HELDOUT, TEST, CALIBRATE = 1200, 100, 150, 32
WORDS, RATING = range(3, 41), 1.0


def read(archive, name):
    """The file's texts that pass the filter: [good], [bad], in its order, each text once; and how many passed."""
    good, bad, seen, passed = [], [], set(), 0
    with tarfile.open(archive) as t:
        member = next(m for m in t.getmembers() if m.name.endswith("/" + name))
        for line in t.extractfile(member).read().decode("utf-8").splitlines():
            _, rating, text = line.split("\t", 2)
            text = html.unescape(text).strip()
            if len(text.split()) not in WORDS or abs(float(rating)) < RATING:
                continue
            passed += 1
            if text not in seen:
                seen.add(text)
                (good if float(rating) > 0 else bad).append(text)
    return good, bad, passed


def split(good, bad, sizes, rng):
    """Disjoint lists of records of the sizes given, each half good and half bad."""
    rng.shuffle(good)
    rng.shuffle(bad)
    parts, at = [], 0
    for n in sizes:
        part = [(text, 0) for text in good[at : at + n // 2]] + [(text, 1) for text in bad[at : at + n // 2]]
        rng.shuffle(part)
        parts.append([{"prompt": t + " It was", "choices": [" great", " terrible"], "answer": a} for t, a in part])
        at += n // 2
    return parts


def write(path, records):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as f:
        for record in records:
            f.write(json.dumps(record, ensure_ascii=False) + "\n")


def main():
    p = argparse.ArgumentParser(description="Make the four-desks data: sentiment at three sites.")
    p.add_argument("dir", help="folder to write to")
    p.add_argument("--seed", type=int, default=1, help="draws which texts go where (default 1)")
    p.add_argument("--archive", help="hutto_ICWSM_2014.tar.gz, if it is here already")
    a = p.parse_args()
    archive = a.archive or fetch.fetch("four-desks")
    if fetch.sha256(archive) != fetch.WANTED["four-desks"][4]:
        raise fetch.Failure(f"{archive} is not the archive of vaderSentiment 3.3.2 (its SHA-256 differs)")

    everything = []
    for site, name in SOURCES.items():
        good, bad, passed = read(archive, name)
        if passed != FOUND[site]:
            raise fetch.Failure(f"{name} gives {passed} texts, expected {FOUND[site]}: the filter has changed")
        # A seed of its own for each source, so that one source's size cannot move another's draw.
        rng = random.Random(hashlib.sha256(f"four-desks {a.seed} {site}".encode()).digest())
        if site == "news":
            (calibrate,) = split(good, bad, [CALIBRATE], rng)
            write(f"{a.dir}/calibrate.jsonl", calibrate)
            print(f"news: {passed} rated texts, {CALIBRATE} of them to calibrate on")
            continue
        train, heldout, test = split(good, bad, [TRAIN, HELDOUT, TEST], rng)
        write(f"{a.dir}/{site}/train.jsonl", train)
        write(f"{a.dir}/{site}/heldout.jsonl", heldout)
        write(f"{a.dir}/{site}/test.jsonl", test)
        everything += test
        print(f"{site}: {passed} rated texts, {len(train)} to train on, {len(heldout)} held out, {len(test)} to test")
    write(f"{a.dir}/test.jsonl", everything)


if __name__ == "__main__":
    try:
        main()
    except (fetch.Failure, OSError) as why:
        sys.exit(f"four_desks: {why}")
