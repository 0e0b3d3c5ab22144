"""test_examples.py - the scripts under examples/: what they make is what their heads promise.  No network."""

import collections
import contextlib
import io
import json
import os
import random
import subprocess
import sys
import tarfile
import tempfile
import unittest
import xml.etree.ElementTree as ET

EXAMPLES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../examples")
sys.path.insert(0, EXAMPLES)

import fed_debian  # noqa: E402
import fetch  # noqa: E402
import four_desks  # noqa: E402
import report  # noqa: E402


def lines(path):
    with open(path, encoding="utf-8") as f:
        return [json.loads(line) for line in f]


class FourDesks(unittest.TestCase):
    def read(self, text):
        """What four_desks reads from an archive with this one file."""
        with tempfile.TemporaryDirectory() as folder:
            path = folder + "/a.tar.gz"
            with tarfile.open(path, "w:gz") as t:
                info = tarfile.TarInfo("x/ratings.txt")
                info.size = len(text.encode())
                t.addfile(info, io.BytesIO(text.encode()))
            return four_desks.read(path, "ratings.txt")

    def test_filter(self):
        """The recipe decides which figures can be compared: words, rating, entities, repeats."""
        good, bad, passed = self.read(
            "1\t1.0\tthree good words\r\n2\t-1.0\tA &amp; B &lt;3 it\r\n3\t0.99\tnot sure of it\r\n"
            "4\t3\ttoo short\r\n5\t2\t" + "w " * 41 + "\r\n6\t2\t" + "w " * 40 + "\r\n7\t2\tthree good words\r\n"
        )
        self.assertEqual(good, ["three good words", ("w " * 40).strip()])
        self.assertEqual(bad, ["A & B <3 it"])
        self.assertEqual(passed, 4)

    def test_split(self):
        """A text on both sides of a split would be a test that was trained on."""
        made = [
            four_desks.split([f"g{i}" for i in range(40)], [f"b{i}" for i in range(30)], [20, 10, 6], random.Random(s))
            for s in (1, 1, 2)
        ]
        self.assertEqual(made[0], made[1])
        self.assertNotEqual(made[0], made[2])
        prompts = [r["prompt"] for part in made[0] for r in part]
        self.assertEqual(len(prompts), len(set(prompts)))
        for part, n in zip(made[0], (20, 10, 6)):
            self.assertEqual(collections.Counter(r["answer"] for r in part), {0: n // 2, 1: n // 2})
            for r in part:
                self.assertEqual(r["prompt"][0], "gb"[r["answer"]])


class FedDebian(unittest.TestCase):
    def test_stanzas(self):
        got = list(fed_debian.stanzas("Package: a\nTag: x,\n y\nSection: games\n\n\nPackage: b\n"))
        self.assertEqual(got, [{"Package": "a", "Tag": "x,\n y", "Section": "games"}, {"Package": "b"}])

    def test_deal(self):
        """No maintainer at two sites, sites of like size, the same for the same seed."""
        found = [(f"m{i % 40}", 0, {}) for i in range(400)]
        where = fed_debian.deal(found, 3, None, random.Random(1))
        self.assertEqual(where, fed_debian.deal(found, 3, None, random.Random(1)))
        self.assertEqual(collections.Counter(where.values()), {"site-1": 10, "site-2": 10, "site-3": 10, "public": 10})

    def test_named_sites(self):
        """`med` is a word of a name, not the middle of `Multimedia`."""
        found = [("Debian Med Team", 0, {}), ("Debian Multimedia", 0, {}), ("Someone", 0, {})]
        where = fed_debian.deal(found, 3, ["med", "multimedia"], random.Random(1))
        self.assertEqual(list(where.values()), ["med", "multimedia", "public"])
        with self.assertRaises(fed_debian.Failure):
            fed_debian.deal(found, 3, ["nobody"], random.Random(1))

    def test_real_lists(self):
        """On a machine with package lists: whole files, disjoint, balanced calibration, reproducible."""
        try:
            big_enough = len(fed_debian.command("apt-cache", "dumpavail")) > 10_000_000
        except fed_debian.Failure:
            big_enough = False
        if not big_enough:
            self.skipTest("no package lists on this machine")
        with tempfile.TemporaryDirectory() as folder:
            for name in ("a", "b"):
                subprocess.run(
                    [sys.executable, EXAMPLES + "/fed_debian.py", f"{folder}/{name}", "--seed", "3"],
                    check=True,
                    stdout=subprocess.DEVNULL,
                )
            self.assertEqual(lines(f"{folder}/a/test.jsonl"), lines(f"{folder}/b/test.jsonl"))
            calibrate = lines(f"{folder}/a/calibrate.jsonl")
            prompts = [r["prompt"] for r in calibrate]
            for site in ("site-1", "site-2", "site-3"):
                for part in ("train", "heldout", "test"):
                    prompts += [r["prompt"] for r in lines(f"{folder}/a/{site}/{part}.jsonl")]
            self.assertEqual(len(prompts), len(set(prompts)))
            of = collections.Counter(r["answer"] for r in calibrate)
            self.assertLessEqual(max(of.values()) - min(of.values()), 1)
            self.assertEqual(sum(of.values()), 32)


class Fetch(unittest.TestCase):
    def test_cache(self):
        """A file in the cache is used only if its digest is right; what pip cannot give is one line."""
        with tempfile.TemporaryDirectory() as folder:
            wanted = fetch.WANTED["four-desks"]
            os.makedirs(folder + "/peerd")
            with open(f"{folder}/peerd/{wanted[5]}", "wb") as f:
                f.write(b"not it")
            env = {**os.environ, "XDG_CACHE_HOME": folder, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": folder}
            got = subprocess.run(
                [sys.executable, EXAMPLES + "/fetch.py", "four-desks"], env=env, capture_output=True, text=True
            )
            self.assertEqual(got.returncode, 1)
            self.assertIn("fetch: pip could not fetch vaderSentiment==3.3.2", got.stderr)
            self.assertEqual(os.listdir(folder + "/peerd"), [wanted[5]])


class Report(unittest.TestCase):
    def write(self, folder, digests, with_accuracy=True):
        os.makedirs(folder + "/results")

        def put(name, what):
            with open(f"{folder}/results/{name}.json", "w", encoding="utf-8") as f:
                json.dump(what, f)

        sites = ["shop", "film", "<tweets>"]
        for i, row in enumerate(["before", "calibrated", *(f"alone-{s}" for s in sites), "together", "ceiling"]):
            for site in sites:
                put(f"{row}.{site}", {"nll": 1 - i / 10, **({"accuracy": 0.5 + i / 20} if with_accuracy else {})})
        for site, digest in zip(sites, digests):
            put(f"status.{site}", {"digest": digest, "records": 30, "bytes_out": 1000})
        put("run", {"title": "A & B", "sites": sites, "seed": 1})

    def run_report(self, digests, with_accuracy=True):
        with tempfile.TemporaryDirectory() as folder:
            self.write(folder, digests, with_accuracy)
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                rc = report.main(folder)
            with open(folder + "/summary.json", encoding="utf-8") as f:
                summary = json.load(f)
            ET.parse(folder + "/result.svg")  # well-formed, whatever the names hold
            return rc, out.getvalue(), summary

    def test_report(self):
        rc, out, summary = self.run_report(["aa"] * 3)
        self.assertEqual(rc, 0)
        self.assertEqual([r["kind"] for r in summary["rows"]], ["before", "calibrated", *["alone"] * 3, "together", "ceiling"])
        self.assertAlmostEqual(summary["rows"][5]["loss"], 0.5)
        self.assertEqual((summary["records"], summary["wire_bytes"]), (30, 3000))
        self.assertTrue(all(len(line) <= 80 for line in out.splitlines()[:8]))

    def test_unequal_digests_fail(self):
        rc, out, summary = self.run_report(["aa", "aa", "bb"])
        self.assertEqual((rc, summary["digests_equal"]), (1, False))
        self.assertIn("DIFFER", out)

    def test_without_accuracy(self):
        self.assertEqual(self.run_report(["aa"] * 3, with_accuracy=False)[0], 0)


class Quickstart(unittest.TestCase):
    def test_misuse(self):
        """One line and exit 2, before anything is installed, built or fetched."""
        for words in (["--flag"], ["--probes"], ["--probes", "x"], ["--model", "gpt"], ["--probes", "1"]):
            got = subprocess.run([EXAMPLES + "/quickstart.sh", *words], capture_output=True, text=True)
            self.assertEqual((got.returncode, got.stdout, got.stderr.count("\n")), (2, "", 1), words)


if __name__ == "__main__":
    unittest.main(verbosity=0)
