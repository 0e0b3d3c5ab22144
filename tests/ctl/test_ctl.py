"""test_ctl.py PEERD PEERCTL LIAR [CLASS] - what people see of a node: two real ones, read through peerctl and their own logs.

Each test says what would mislead a person if it broke.  The nodes are alpha, which founds the run, and beta.
"""

import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import tempfile
import time
import unittest

PEERD, PEERCTL, LIAR = sys.argv[1:4]
MODEL = os.environ["PD_SOURCE_ROOT"] + "/examples/models/house-2m.gguf"
PATIENCE_S = 120  # a limit for what must come, however busy the machine is


def run(*words, ok=(0,)):
    """A command's output; its status must be one of `ok`."""
    got = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE_S)
    if got.returncode not in ok:
        raise AssertionError(f"{words}: {got.returncode}\n{got.stdout}{got.stderr}")
    return got.stdout


def wait_for(what, fn):
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        got = fn()
        if got:
            return got
        time.sleep(0.1)
    raise AssertionError("never: " + what)


class Node:
    """A node's folder, and its process while it runs."""

    def __init__(self, dir):
        self.dir, self.proc, self.log = dir, None, dir + ".log"

    def start(self, *flags, program=PEERD, lie=""):
        with open(self.log, "a") as out:
            self.proc = subprocess.Popen([program, "run", self.dir, "--quiet", *flags], stdout=out, stderr=out,
                                         env={**os.environ, "PEERD_LIE": lie})
        wait_for("an answer of " + self.dir, lambda: self.answers())

    def answers(self):
        if self.proc.poll() is not None:
            raise AssertionError(f"{self.dir} ended\n{self.said()}")
        got = subprocess.run([PEERCTL, "-d", self.dir, "status", "--json"], capture_output=True, text=True)
        return got.returncode == 0

    def stop(self, how=signal.SIGTERM):
        if self.proc and self.proc.poll() is None:
            self.proc.send_signal(how)
        try:
            status = self.proc.wait(PATIENCE_S) if self.proc else 0
        except subprocess.TimeoutExpired:
            self.proc.kill()  # nothing is left running
            status = self.proc.wait()
        self.proc = None
        if how == signal.SIGTERM and status:
            raise AssertionError(f"{self.dir} ended with {status}\n{self.said()}")

    def ctl(self, *words, ok=(0,)):
        return run(PEERCTL, "-d", self.dir, *words, ok=ok)

    def attests(self, author, *digests):
        """Does this node hold that author's word for a checkpoint, or for these?  It may not know the author yet."""
        said = self.ctl("log", "--author", author, "--control", ok=(0, 1))
        return all(d in said for d in digests or ("checkpoint",))

    def verified(self):
        """What verify says, asked again while the node answers another long question, its own of a checkpoint say."""
        return wait_for("an answer", lambda: self.ctl("verify", ok=(0, 1))).strip()

    def status(self):
        return json.loads(self.ctl("status", "--json"))

    def said(self):
        with open(self.log) as f:
            return f.read()

    def wait_said(self, text, times=1):
        return wait_for(f"{self.dir} says: {text}", lambda: len(re.findall(text, self.said())) >= times)

    def steps(self, author):
        """The bytes of one author as this node holds them."""
        lines = self.ctl("log", "--author", author).splitlines()
        return [(line.split()[2], line.split()[3]) for line in lines]

    def ask(self, request):
        """One request on the control socket, raw."""
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(os.path.relpath(self.dir + "/control.sock"))
            s.sendall(json.dumps(request).encode() + b"\n")
            return json.loads(s.makefile().readline())


def spoil_file(node, digest):
    """A stopped node's file as the disk has cut it; how many there were."""
    db = sqlite3.connect(node.dir + "/ledger.db")
    with db:
        rows = db.execute("UPDATE file SET bytes = substr(bytes, 1, 100) WHERE digest = ?", (digest,)).rowcount
    db.close()
    return rows


class Nodes(unittest.TestCase):
    def setUp(self):
        self.work = tempfile.mkdtemp(prefix="pd-ctl-")
        self.addCleanup(shutil.rmtree, self.work)  # last, after the nodes have ended
        self.data = self.work + "/data.jsonl"
        with open(self.data, "w") as f:
            for i in range(30):
                f.write(json.dumps({"prompt": f"{i} plus 1 is", "choices": [" odd", " even"], "answer": i % 2}) + "\n")
        self.model = self.work + "/model.gguf"
        shutil.copy(MODEL, self.model)
        self.local = ["--model", self.model, "--data", self.data, "--listen", "127.0.0.1:0", "--batch", "1"]
        self.local += ["--threads", "1", "--compute", "f32"]
        space = ["--space", "lora", "--rank", "1", "--targets", "q", "--eps", "0.01", "--lr", "1e-4", "--clip", "1"]
        self.alpha, self.beta = Node(self.work + "/alpha"), Node(self.work + "/beta")
        for node in (self.alpha, self.beta):
            self.addCleanup(node.stop)
        self.init = [PEERD, "init", self.alpha.dir, *self.local, *space]
        run(*self.init)

    def start_alpha(self, *flags):
        self.alpha.start("--seal-ms", "300", *flags)

    def start_both(self):
        self.start_alpha()
        wait_for("alpha speaks", lambda: self.alpha.status()["state"] == "speaking")
        ticket = self.alpha.ctl("invite").split()[0]
        run(PEERD, "join", self.beta.dir, ticket, *self.local)
        self.beta.start("--seal-ms", "300")
        wait_for("a link, and records of both", lambda: self.both_spoke())

    def both_spoke(self):
        a, b = self.alpha.status(), self.beta.status()
        return a["links"] == b["links"] == 1 and min(p["records"] for p in a["peers"] + b["peers"]) >= 10

    def settle(self):
        """Pause both; equal sets of records, all of them replayed."""
        for node in (self.alpha, self.beta):
            node.ctl("pause")

        def equal():
            a, b = self.alpha.status(), self.beta.status()
            done = all(s["unsealed"] == 0 and s["digest_records"] == s["records"] for s in (a, b))
            return a if done and a["records"] == b["records"] else None

        a = wait_for("equal ledgers", equal)
        self.assertEqual(a["digest"], self.beta.status()["digest"])
        return a

    def refused(self, status, *words):
        """What a command that must fail says: one line."""
        got = subprocess.run([PEERD, *words], capture_output=True, text=True, timeout=PATIENCE_S)
        self.assertEqual(got.returncode, status, got.stderr)
        return got.stderr.strip().splitlines()[-1]


class Asked(Nodes):
    """One pair, asked everything, for starting nodes is what takes time; and one that hears and says nothing."""

    def test_asking(self):
        self.start_both()
        self.alpha_key, self.beta_key = self.alpha.status()["key"], self.beta.status()["key"]
        self.check_status()
        self.check_members()
        self.check_backup()
        self.check_doctor()
        self.check_log()
        self.check_journal()

    def test_observing(self):
        """A thin member that makes nothing still gets everything, says what it is, and is not asked for records."""
        self.start_alpha()
        wait_for("alpha speaks", lambda: self.alpha.status()["state"] == "speaking")
        ticket = self.alpha.ctl("invite").split()[0]
        run(PEERD, "join", self.beta.dir, ticket, *self.local, "--observer", "--thin")
        refused = subprocess.run([PEERD, "run", self.beta.dir, "--records", "5"], capture_output=True, text=True)
        self.assertEqual(refused.returncode, 2)
        self.assertIn("is an observer", refused.stderr)
        self.beta.start()
        wait_for("it observes", lambda: self.beta.status()["state"] == "observing")
        wait_for("the other's records", lambda: self.beta.status()["peers"][0]["records"] >= 10)
        self.assertIn("an observer: it makes no records", self.beta.said())
        text = self.beta.ctl("status")
        self.assertRegex(text, r"(?s)on a thin\s+line.*state     observing .*makes no\s+records")
        b = self.beta.status()
        self.assertEqual((b["observer"], b["thin"], b["step"], b["records_wanted"]), (True, True, 0, 0))

    def test_full_space(self):
        """Where every weight is a coordinate two nodes agree on all of them, and a merged file is the model they have."""
        shutil.rmtree(self.alpha.dir)
        space = ["--space", "full", "--targets", "q,v,down", "--eps", "0.001", "--lr", "1e-5", "--clip", "100"]
        self.assertIn("every entry of the matrices q,v,down", run(PEERD, "init", self.alpha.dir, *self.local, *space))
        self.start_both()
        records = self.settle()["records"]
        status = self.alpha.status()
        self.assertEqual((status["space"]["kind"], status["space"]["rank"]), ("full", 0))
        self.assertTrue(json.loads(self.beta.ctl("verify", "--json"))["equal"])
        adapter = self.alpha.ctl("export", self.work + "/peft", ok=(1,))
        self.assertFalse(os.path.exists(self.work + "/peft"), adapter)
        self.beta.ctl("export", self.work + "/merged.gguf", "--format", "merged-gguf", "--type", "f32")
        for node in (self.alpha, self.beta):
            node.stop()
        run(PEERD, "verify", self.alpha.dir)
        losses = [json.loads(run(PEERD, "eval", model, "--data", self.data, "--json"))["nll"]
                  for model in (self.alpha.dir, self.work + "/merged.gguf", self.model)]
        self.assertAlmostEqual(losses[0], losses[1], places=5)
        self.assertGreater(abs(losses[0] - losses[2]), 1e-4, f"{records} records changed nothing")

    def check_status(self):
        """A terminal has 80 columns; a peer's line has a column for each head."""
        lines = self.alpha.ctl("status").splitlines()
        self.assertEqual([line for line in lines if len(line) > 80], [])
        head = next(i for i, line in enumerate(lines) if line.startswith("peer "))
        self.assertRegex(lines[head + 1], r"^%s beta +up +(in|out) +\d+ +\d+ +\d+ +\d+ +(\d+|-) +\d+$" % self.beta_key[:8])
        text = "\n".join(lines)
        for row in ("state     speaking at step", "sealing   every 300 ms", "members   N = 2; linked to 1 of 1", "behind "):
            self.assertIn(row, text)
        self.assertRegex(text, r"wire      \d+\.\d bytes a record; 1\.\d\d copies")
        s = self.alpha.status()
        self.assertEqual((s["counted"], s["links"], s["store_error"]), (2, 1, ""))
        self.assertEqual((s["peers"][0]["link"], s["peers"][0]["link_why"]), ("up", ""))
        self.assertGreaterEqual(s["copies"], 1)

    def check_members(self):
        """Whom to ask when a member misbehaves: who invited it, and where it is."""
        both = {m["key"]: m for m in json.loads(self.alpha.ctl("members", "--json"))["members"]}
        self.assertEqual(set(both), {self.alpha_key, self.beta_key})
        alpha, beta = both[self.alpha_key], both[self.beta_key]
        self.assertTrue(alpha["self"] and not beta["self"])
        self.assertEqual((alpha["inviter"], beta["inviter"]), (None, self.alpha_key))
        self.assertEqual((beta["name"], beta["member"], beta["link"], beta["incarnation"]), ("beta", "here", "up", 0))
        self.assertEqual(beta["addr"], self.beta.status()["listen"])
        self.assertLess(beta["quiet_ms"], PATIENCE_S * 1000)
        lines = self.beta.ctl("members").splitlines()
        self.assertEqual(len(lines), 3)
        self.assertRegex(lines[1], r"^%s beta +here +\d+ +0 this node +alpha " % self.beta_key[:8])
        self.assertRegex(lines[2], r"^%s alpha +here +\d+ +0 .* founder " % self.alpha_key[:8])

    def check_backup(self):
        """A copy that is torn, or that others can read, is worse than none."""
        out, before = self.work + "/copy.db", self.alpha.status()["step"]
        self.alpha.ctl("backup", out)
        self.assertEqual(stat.S_IMODE(os.stat(out).st_mode), 0o600)
        with open(out, "rb") as f:
            copied = f.read()
        db = sqlite3.connect(f"file:{out}?mode=ro&immutable=1", uri=True)
        self.assertEqual(db.execute("PRAGMA integrity_check").fetchall(), [("ok",)])
        self.assertGreater(db.execute("SELECT sum(n) FROM log WHERE stream = 0").fetchone()[0], 10)
        self.assertEqual(db.execute("SELECT count(*) FROM meta WHERE k = 'instance'").fetchone(), (0,))
        db.close()
        got = subprocess.run([PEERCTL, "-d", self.alpha.dir, "backup", out], capture_output=True, text=True)
        self.assertEqual((got.returncode, got.stderr.count("\n")), (1, 1))
        self.assertIn("is there already", got.stderr)
        with open(out, "rb") as f:
            self.assertEqual(f.read(), copied)
        self.assertRegex(self.alpha.ctl("backup", "/no/such/x", ok=(1,)), "^$")
        self.assertEqual(self.alpha.ask({"cmd": "backup", "out": "x"})["code"], "usage")
        wait_for("training goes on", lambda: self.alpha.status()["step"] > before)

    def doctor(self, status=0):
        found = json.loads(self.alpha.ctl("doctor", "--json", ok=(status,)))
        self.assertEqual(found["level"] == "bad", status == 1)
        return {c["name"]: c for c in found["checks"]}

    def check_doctor(self):
        """A doctor that finds nothing wrong with a changed model file lets the next start fail."""
        self.assertEqual([n for n, c in self.doctor().items() if c["level"] == "bad"], [])
        self.assertEqual(self.doctor()["links"]["level"], "ok")
        self.assertEqual([line for line in self.alpha.ctl("doctor").splitlines() if len(line) > 80], [])
        with open(self.model, "r+b") as f:
            f.seek(-5, os.SEEK_END)
            was = f.read(1)
            f.seek(-5, os.SEEK_END)
            f.write(bytes([was[0] ^ 1]))
        self.assertIn("not the run's model", self.doctor(status=1)["model"]["text"])
        self.assertEqual(json.loads(self.alpha.ctl("doctor", "--json", "--quick"))["checks"][9]["level"], "ok")
        shutil.copy(MODEL, self.model)
        with open(self.alpha.dir + "/instance") as f:
            token = f.read()
        with open(self.alpha.dir + "/instance", "w") as f:
            f.write("0" * 32 + " open\n")
        ledger = self.doctor(status=1)["ledger"]
        self.assertIn("another process uses it", ledger["text"])
        self.assertIn("peerctl backup --help", ledger["mend"])
        with open(self.alpha.dir + "/instance", "w") as f:
            f.write(token)
        self.doctor()

    def check_log(self):
        """A record shown twice or left out between two pages."""
        total = self.settle()["records"]
        lines = self.alpha.ctl("log").splitlines()
        self.assertEqual((len(lines), len(set(lines))), (total, total))
        self.assertEqual(sorted(lines), sorted(self.beta.ctl("log").splitlines()))
        pages, where, more = [], (0, 0), True
        while more:
            r = self.alpha.ask({"cmd": "log", "limit": 7, "after_author": where[0], "after_step": where[1]})
            self.assertLessEqual(len(r["records"]), 7)
            pages += r["records"]
            where, more = (r["after_author"], r["after_step"]), r["more"]
        self.assertEqual(pages, [json.loads(line) for line in self.alpha.ctl("log", "--json").splitlines()])
        for r in pages:
            self.assertEqual(r["value"] < 0, r["byte"] >= 128)
            self.assertLess(abs(r["value"]), 1 << 12)
        few = [json.loads(x) for x in self.alpha.ctl("log", "--author", "beta", "--from", "5", "--limit", "2", "--json").splitlines()]
        self.assertEqual([(r["author"], r["step"]) for r in few], [(self.beta_key, 5), (self.beta_key, 6)])
        by_key = self.alpha.ctl("log", "--author", self.beta_key[:10], "--from", "5", "--limit", "2")
        self.assertEqual(by_key, self.alpha.ctl("log", "--author", "beta", "--from", "5", "--limit", "2"))
        control = [line for line in self.alpha.ctl("log", "--control").splitlines() if " control " in line]
        self.assertTrue(any(re.search(r" control member +%s beta$" % self.beta_key, line) for line in control), control)
        got = subprocess.run([PEERCTL, "-d", self.alpha.dir, "log", "--author", "nobody"], capture_output=True, text=True)
        self.assertEqual((got.returncode, got.stderr.count("\n")), (1, 1))
        self.assertIn("see: peerctl members", got.stderr)

    def check_journal(self):
        """Each change of state is one line with its reason; without it people guess."""
        self.beta.stop(signal.SIGKILL)
        self.alpha.wait_said(r"info link to beta is down: the (peer's end closed|connection is lost)")
        wait_for("status says why", lambda: self.alpha.status()["peers"][0]["link_why"])
        self.beta.start("--seal-ms", "300")
        self.alpha.wait_said(r"info link to beta is up \((we|it) dialled\)", times=2)
        self.beta.wait_said(r"info speaking, after comparing with 1 of 1 members", times=2)
        old = self.beta.status()["key"]
        self.beta.ctl("rotate")
        self.assertEqual(self.beta.proc.wait(PATIENCE_S), 0)
        self.alpha.wait_said(r"info beta has passed its place on to its next key, ")
        self.beta.start("--seal-ms", "300")
        self.beta.wait_said(r"info speaking, after comparing with 1 of 1 members", times=3)
        self.assertNotEqual(self.beta.status()["key"], old)
        self.beta.ctl("leave")
        self.alpha.wait_said(r"info link to beta is down: it stops")
        self.alpha.wait_said(r"info beta has left the run: it said goodbye for good")
        self.alpha.ctl("resume")
        said = self.alpha.said()
        for line in ("speaking: nobody else is in the run yet", r"beta [0-9a-f]{8} is a member now",
                     "paused: a person asked for it", "resumed: a person asked for it"):
            self.assertRegex(said, "info " + line)
        self.assertRegex(self.beta.said(), "info listening: no member reached yet: it listens before it speaks")
        self.assertTrue(self.alpha.ctl("journal").startswith(said))
        self.assertEqual(self.alpha.status()["counted"], 1)
        # Where both had dialled, the second session may be up for as long as its own goodbye takes.
        wait_for("beta is only counted", lambda: "2 more are gone, have left or have no link" in self.alpha.ctl("status"))


class Kept(Nodes):
    """What lies on the disk: stores put back, checkpoints."""

    def test_restored(self):
        """A node put back from a backup that spoke at once would say two bytes for one step."""
        self.start_both()
        copy = self.work + "/copy.db"
        self.alpha.ctl("backup", copy)
        step = self.alpha.status()["step"]
        wait_for("records after the copy", lambda: self.alpha.status()["step"] >= step + 20)
        self.alpha.stop()
        known = self.beta.steps("alpha")
        self.assertGreaterEqual(len(known), step + 20)
        os.replace(copy, self.alpha.dir + "/ledger.db")
        self.start_alpha()
        self.alpha.wait_said("warn the store is older than the node")
        self.alpha.wait_said("info speaking, after comparing with 1 of 1 members")
        order = self.alpha.said()
        self.assertLess(order.index("the store is older"), order.index("speaking, after comparing"))
        wait_for("it goes on", lambda: self.alpha.status()["step"] >= len(known) + 5)
        self.settle()
        self.assertEqual(self.alpha.steps("alpha")[: len(known)], known)
        self.assertEqual(self.alpha.steps("alpha"), self.beta.steps("alpha"))
        beta = json.loads(self.beta.ctl("members", "--json"))["members"]
        self.assertEqual([m["incarnation"] for m in beta], [0, 0])

    def test_checkpoint(self):
        """A newcomer that begins with a checkpoint has the others' model at once, says on whose word until it has
        replayed it, and ends with what replay gives, bit for bit, its logs whole."""
        shutil.rmtree(self.alpha.dir)
        run(*self.init, "--rate-max", "1000")
        self.start_both()
        wait_for("a whole chunk of both", lambda: min(n.status()["step"] for n in (self.alpha, self.beta)) >= 1100)
        self.settle()
        made = json.loads(self.alpha.ctl("checkpoint", "--json"))
        self.assertEqual([made[k] for k in ("digest", "records")],
                         [self.alpha.status()[k] for k in ("digest", "records")])
        wait_for("beta attests it, too", lambda: self.beta.attests("beta"))
        gamma = Node(self.work + "/gamma")
        self.addCleanup(gamma.stop)
        ticket = self.alpha.ctl("invite").split()[0]
        said = subprocess.run([PEERD, "join", gamma.dir, ticket, *self.local, "--catch-up", "checkpoint"],
                              capture_output=True, text=True, timeout=PATIENCE_S)
        self.assertEqual(said.returncode, 0, said.stderr)
        self.assertRegex(said.stderr, r"by replay about \d+ s .*, by a checkpoint of %d records" % made["records"])
        self.assertIn("records that 2 members attest", said.stderr)
        before = run(PEERD, "verify", gamma.dir, ok=(1,))
        self.assertRegex(before, r"^not verified: %d records, on the word of 2 members" % made["records"])
        gamma.start("--records", "0")
        gamma.wait_said("is right: its %d records replayed from the base model" % made["records"])
        self.assertEqual(gamma.status()["checkpoint"]["audit"], "equal")
        wait_for("all records", lambda: gamma.status()["records"] == self.alpha.status()["records"])
        wait_for("the same model", lambda: gamma.status()["digest"] == self.alpha.status()["digest"])
        self.assertRegex(gamma.verified(), "^equal: ")
        self.assertEqual(gamma.steps("alpha"), self.alpha.steps("alpha"))
        wait_for("gamma attests it, too", lambda: self.alpha.attests("gamma"))
        gamma.stop()
        self.assertTrue(run(PEERD, "verify", gamma.dir).startswith("equal: "))
        self.check_lost_checkpoints(made)

    def check_lost_checkpoints(self, made):
        """Files of checkpoints that the disk has spoilt: one to serve is said and not served, one that was begun with is
        said and replayed instead.  Neither may stop a node, nor go on as if it were there."""
        delta = Node(self.work + "/delta")
        self.addCleanup(delta.stop)
        said = subprocess.run([PEERD, "join", delta.dir, self.alpha.ctl("invite").split()[0], *self.local, "--catch-up",
                               "checkpoint"], capture_output=True, text=True, timeout=PATIENCE_S)
        self.assertIn("records that 3 members attest", said.stderr)
        self.alpha.stop()
        for node in (self.alpha, delta):
            self.assertEqual(spoil_file(node, bytes.fromhex(made["file"])), 1)
        self.start_alpha("--records", "0")
        self.alpha.wait_said("warn a checkpoint is not served any more: .*damaged on the disk")
        delta.start("--records", "0")
        delta.wait_said("warn the checkpoint that this node began with is lost.*damaged on the disk")
        wait_for("the same model", lambda: delta.status()["digest"] == self.beta.status()["digest"])
        self.assertEqual(delta.status()["checkpoint"]["audit"], "none")
        self.assertRegex(delta.verified(), "^equal: ")

    def test_checkpoints_at_once(self):
        """Of two checkpoints that are made at the same time each node reproduces the other's, and attests both; who asks
        while a node is at one is told so."""
        self.start_both()
        words = ["checkpoint", "--json"]
        asked = [subprocess.Popen([PEERCTL, "-d", node.dir, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
                 for node in (self.alpha, self.beta)]
        made = set()
        for node, p in zip((self.alpha, self.beta), asked):
            out, err = p.communicate(timeout=PATIENCE_S)
            while p.returncode:
                self.assertIn("or at a checkpoint; try again when that is done", err)
                p = subprocess.run([PEERCTL, "-d", node.dir, *words], capture_output=True, text=True, timeout=PATIENCE_S)
                out, err = p.stdout, p.stderr
            made.add(json.loads(out)["digest"])
        for node, name in ((self.alpha, "alpha"), (self.beta, "beta")):
            wait_for(name + " attests both", lambda: node.attests(name, *made))
            self.assertEqual(node.status()["checkpoint"]["wrong"], 0)

    def test_other_bytes(self):
        """A member that sends other bytes than a checkpoint's name says spoils a try, not the checkpoint: whoever
        sends the right ones afterwards finds this node still asking."""
        self.start_both()
        self.beta.stop()
        self.beta.start("--seal-ms", "300", program=LIAR, lie="bytes")
        wait_for("beta speaks", lambda: self.beta.status()["state"] == "speaking" and self.alpha.status()["links"])
        made = json.loads(self.beta.ctl("checkpoint", "--json"))
        self.alpha.wait_said("warn the checkpoint %s that members attest: other bytes came than those it names; "
                             "tried again in" % made["file"][:16])
        self.beta.stop()
        self.beta.start("--seal-ms", "300")
        wait_for("alpha attests it", lambda: self.alpha.attests("alpha", made["digest"]))
        self.assertEqual(self.alpha.status()["checkpoint"]["wrong"], 0)


class Trained(Nodes):
    """What nodes make of their records, and what people take away."""

    def test_estimators(self):
        """A node that probes and one that projects gradients make one model and learn, also when the second is killed."""
        shutil.rmtree(self.alpha.dir)
        words = {0: ("game", "puzzle", "dungeon", "card game"), 1: ("compiler", "library", "debugger", "parser")}
        with open(self.data, "w") as f:
            for i in range(80):
                text = ("This package contains a %s", "A small %s for the desktop")[i // 8 % 2] % words[i % 2][i // 2 % 4]
                f.write(json.dumps({"prompt": text + ". It is for", "choices": [" play", " development"], "answer": i % 2}))
                f.write("\n")
        space = ["--calibrate", self.data, "--rank", "1", "--warm-steps", "0", "--propose", "8", "--rate-max", "1000"]
        run(PEERD, "init", self.alpha.dir, *self.local, *space, "--batch", "8")
        wanted = ["--seal-ms", "300", "--records"]
        self.alpha.start(*wanted, "60")
        wait_for("alpha speaks", lambda: self.alpha.status()["state"] in ("speaking", "done"))
        ticket = self.alpha.ctl("invite").split()[0]
        projects = ["--estimator", "project", "--probes", "7", "--local-steps", "2", "--batch", "8"]
        run(PEERD, "join", self.beta.dir, ticket, *self.local, *projects)
        self.beta.start(*wanted, "35")
        self.beta.wait_said("bytes from gradients, K 7, E 2: reverse mode takes")
        wait_for("half of beta's records", lambda: self.beta.status()["step"] >= 35)
        self.beta.stop(signal.SIGKILL)
        held = len(self.alpha.steps("beta"))
        self.beta.start(*wanted, "70")
        for node, steps in ((self.alpha, 60), (self.beta, 70)):
            wait_for("all records", lambda: node.status()["state"] == "done" and node.status()["step"] == steps)
        wait_for("all of both", lambda: self.alpha.status()["records"] == self.beta.status()["records"] == 130)
        self.settle()
        self.assertEqual(self.alpha.steps("beta"), self.beta.steps("beta"))
        self.assertGreaterEqual(len(self.beta.steps("beta")), max(held, 70))
        beta = json.loads(self.alpha.ctl("members", "--json"))["members"]
        self.assertEqual([m["incarnation"] for m in beta], [0, 0])
        self.beta.stop()
        start, end = (json.loads(run(PEERD, "eval", at, "--data", self.data, "--threads", "1", "--json"))["nll"]
                      for at in (self.model, self.beta.dir))
        self.assertLess(end, 0.9 * start)

    def test_stopped(self):
        """A doctor for a node that does not run says so, and the line that starts it."""
        found = json.loads(run(PEERCTL, "-d", self.alpha.dir, "doctor", "--json", ok=(1,)))
        self.assertEqual((found["level"], found["checks"][0]["mend"]), ("bad", "peerd run " + self.alpha.dir))

    def nll(self, model):
        return json.loads(run(PEERD, "eval", model, "--data", self.data, "--compute", "f32", "--json"))["nll"]

    def test_merged(self):
        """A merged model is what the node computes, on a running node and on a stopped one: else what people pass on
        is not what they trained."""
        node = Node(self.work + "/gamma")
        self.addCleanup(node.stop)
        space = ["--space", "lora", "--rank", "2", "--eps", "0.01", "--lr", "5e-3", "--clip", "1"]  # far from the base
        run(PEERD, "init", node.dir, *self.local, *space)
        node.start("--seal-ms", "300", "--solo", "--records", "40")
        wait_for("all records sealed", lambda: node.status()["digest_records"] == 40)
        merged = self.work + "/merged-"
        said = node.ctl("export", "--format", "merged-gguf", "--type", "f16", merged + "a.gguf")
        self.assertIn("the base with the adapter of 40 records", said)
        node.stop()
        run(PEERD, "export", node.dir, merged + "b.gguf", "--format", "merged-gguf", "--type", "f32")
        base, learnt = self.nll(self.model), self.nll(node.dir)
        self.assertAlmostEqual(self.nll(merged + "b.gguf"), learnt, delta=1e-5)
        self.assertAlmostEqual(self.nll(merged + "a.gguf"), learnt, delta=5e-3)  # rounded
        self.assertNotEqual(base, learnt)
        again = subprocess.run(
            [PEERD, "export", node.dir, self.model, "--format", "merged-gguf"], capture_output=True, text=True
        )
        self.assertEqual(again.returncode, 1)
        self.assertIn("is there already", again.stderr)

    def test_rebase(self):
        """A run that goes on from another one begins where that one stood, each member with a base that it made itself;
        whoever holds other records of the parent is told so, not let in with another model."""
        shutil.rmtree(self.alpha.dir)
        run(PEERD, "init", self.alpha.dir, *self.local, "--space", "lora", "--rank", "2", "--eps", "0.01", "--lr", "5e-3",
            "--clip", "1")  # far from the base
        self.start_both()
        alpha2, beta2 = self.work + "/alpha2", self.work + "/beta2"
        self.assertIn("already running", self.refused(1, "rebase", self.alpha.dir, alpha2, "--calibrate", self.data))
        self.assertFalse(os.path.exists(alpha2))
        end = self.settle()
        for node in (self.alpha, self.beta):
            node.stop()
        shutil.copytree(self.beta.dir, self.work + "/ahead")
        old = (self.alpha, self.beta)
        self.check_no_folder()

        space = ["--calibrate", self.data, "--rank", "1", "--warm-steps", "0", "--propose", "8"]
        said = run(PEERD, "rebase", self.alpha.dir, alpha2, *space)
        self.assertIn("with the adapter of its %d records" % end["records"], said)
        self.assertAlmostEqual(self.nll(alpha2), self.nll(self.alpha.dir), delta=5e-3)  # rounded
        self.assertNotEqual(self.nll(alpha2), self.nll(self.model))
        self.alpha, self.beta = Node(alpha2), Node(beta2)
        for node in (self.alpha, self.beta):
            self.addCleanup(node.stop)
        self.start_alpha()
        wait_for("alpha speaks", lambda: self.alpha.status()["state"] == "speaking")
        self.assertEqual(self.alpha.status()["parent"], {k: end[k] for k in ("run", "digest", "records")})
        self.assertIn("parent    %s, with %d records" % (end["run"][:8], end["records"]), self.alpha.ctl("status"))

        def ticket():
            return self.alpha.ctl("invite").split()[0]

        self.assertIn("not both", self.refused(2, "join", beta2, ticket(), "--parent", old[1].dir, "--model", self.model))
        run(PEERD, "join", beta2, ticket(), "--parent", old[1].dir)
        with open(alpha2 + "/base.gguf", "rb") as a, open(beta2 + "/base.gguf", "rb") as b:
            self.assertTrue(a.read() == b.read())
        self.beta.start("--seal-ms", "300")
        self.assertEqual(self.beta.status()["name"], "beta")
        wait_for("a link, and records of both", lambda: self.both_spoke())
        self.settle()
        self.check_other_parents(ticket, end)

    def change_settings(self, node, **to):
        with open(node + "/node.json") as f:
            settings = json.load(f)
        with open(node + "/node.json", "w") as f:
            json.dump({**settings, **to}, f)

    def check_no_folder(self):
        """A base that cannot be merged into is named before anything is made."""
        folder, node = self.work + "/folder", self.work + "/of-folder"
        os.mkdir(folder)
        with open(folder + "/config.json", "w") as f:
            f.write("{}")
        shutil.copytree(self.alpha.dir, node)
        self.change_settings(node, model=folder)
        self.assertIn(folder + " is a Hugging Face folder", self.refused(1, "rebase", node, self.work + "/new", "--space", "lora"))
        self.assertFalse(os.path.exists(self.work + "/new"))

    def check_other_parents(self, ticket, end):
        gamma, ahead = self.work + "/gamma", self.work + "/ahead"
        self.change_settings(ahead, paused=False)
        node = Node(ahead)
        self.addCleanup(node.stop)
        node.start("--seal-ms", "300", "--solo")
        wait_for("more records", lambda: node.status()["records"] > end["records"])
        node.stop()
        text = self.refused(1, "join", gamma, ticket(), "--parent", ahead)
        self.assertRegex(text, r"%s, holds \d+ records and digest [0-9a-f]{16}\.\.\., the run goes on from %d records and "
                         r"digest %s\.\.\.: .*--model" % (ahead, end["records"], end["digest"][:16]))
        self.assertIn("goes on from another one", self.refused(1, "join", gamma, ticket(), *self.local))
        self.beta.stop()
        self.assertIn("the run goes on from run " + end["run"][:16],
                      self.refused(1, "join", gamma, ticket(), "--parent", self.beta.dir))
        self.assertEqual([f for f in os.listdir(self.work) if f.startswith("gamma")], [])

    def test_upper_layers(self):
        """A run that leaves the lower layers alone is one run all the way: members, verify, a checkpoint, the files for
        other engines, and the run that goes on from it."""
        space = ["--calibrate", self.data, "--rank", "1", "--warm-steps", "2", "--propose", "8", "--rate-max", "1000"]
        init = [PEERD, "init", self.work + "/no", *self.local, *space, "--layers"]
        self.assertIn("this model's layers are 0 to 3", self.refused(2, *init[1:], "4-"))
        self.assertIn("from layer N on, counted from 0), not 'lower'", self.refused(2, *init[1:], "lower"))
        self.assertFalse(os.path.exists(self.work + "/no"))
        shutil.rmtree(self.alpha.dir)
        init[2] = self.alpha.dir
        run(*init, "upper", "--clip", "1", "--lr", "1e-3")
        with open(self.alpha.dir + "/manifest") as f:
            self.assertIn("\nformat = 3\n", f.read())
        self.start_both()
        self.assertEqual([n.status()["space"]["first_layer"] for n in (self.alpha, self.beta)], [2, 2])
        self.assertRegex(self.alpha.ctl("status"), r"space     aligned, rank 1, 14 coordinates from layer 2 on; rule sum")
        wait_for("a whole chunk of both", lambda: min(n.status()["step"] for n in (self.alpha, self.beta)) >= 1100)
        end = self.settle()
        self.assertRegex(self.beta.verified(), "^equal: ")
        self.check_upper_files()
        self.alpha.ctl("checkpoint")
        wait_for("beta attests it", lambda: self.beta.attests("beta"))
        gamma = Node(self.work + "/gamma")
        self.addCleanup(gamma.stop)
        run(PEERD, "join", gamma.dir, self.alpha.ctl("invite").split()[0], *self.local, "--catch-up", "checkpoint")
        gamma.start("--records", "0")
        gamma.wait_said("is right: its %d records replayed from the base model" % end["records"])
        wait_for("the same model", lambda: gamma.status()["digest"] == end["digest"])
        for node in (self.alpha, self.beta, gamma):
            node.stop()
        run(PEERD, "rebase", self.beta.dir, self.work + "/beta2", *space, "--layers", "3-")
        self.assertAlmostEqual(self.nll(self.work + "/base"), self.nll(self.beta.dir), delta=5e-3)

    def check_upper_files(self):
        """The adapter names no layer that it has not, and the merged model's lower layers are the base's."""
        self.alpha.ctl("export", "--format", "peft", self.work + "/peft")
        with open(self.work + "/peft/adapter_config.json") as f:
            self.assertEqual(json.load(f)["layers_to_transform"], [2, 3])
        with open(self.work + "/peft/adapter_model.safetensors", "rb") as f:
            header = json.loads(f.read(int.from_bytes(f.read(8), "little")))
        layers = {int(name.split(".")[4]) for name in header if name != "__metadata__"}
        self.assertEqual((layers, len(header)), ({2, 3}, 1 + 2 * 7 * 2))
        self.alpha.ctl("export", "--format", "gguf", self.work + "/adapter.gguf")
        self.alpha.ctl("export", "--format", "merged-gguf", "--type", "f32", self.work + "/base")

    def test_sealing_by_count(self):
        """Seals that come early cost bytes: people should know that they do, once and not at each."""
        self.alpha.start("--seal-ms", "900000", "--seal-records", "5", "--solo", "--records", "40")
        wait_for("all records", lambda: self.alpha.status()["state"] == "done")
        self.assertEqual(self.alpha.said().count("sealing at every 5 records"), 1)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1] + sys.argv[4:], verbosity=0)
