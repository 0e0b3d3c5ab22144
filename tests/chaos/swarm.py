"""Real nodes in namespaces of their own, lines between them that can be spoilt, and the last question:
do all hold the same records and the same digest?

Everything here runs inside a mount and a PID namespace that `run` makes: whatever is mounted or
started goes with it, however it ends.
"""

import concurrent.futures
import ctypes
import glob
import json
import os
import random
import re
import resource
import shutil
import signal
import socket
import subprocess
import time

import micro

PORT = 7433
LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNET = 0x40000000
MS_REMOUNT = 32
MESH_MOST = 16    # members up to which all are linked with all; above, ...
VIEW_LEAST = 4    # ... the least number of links that a node keeps
JOINS = 6         # at a time: a join is mostly waiting


class Failed(Exception):
    """A property that had to hold does not."""


class Skipped(Exception):
    """This machine lacks what the test needs."""


def check(holds, why):
    if not holds:
        raise Failed(why)


def mount(kind, target, options, flags=0):
    if LIBC.mount(kind.encode(), target.encode(), kind.encode(), flags, options.encode()) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), target)


def socket_in(namespace, *kind):
    """A socket that lives in a namespace; the process itself stays where it is."""
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    there = os.open("/run/netns/" + namespace, os.O_RDONLY)
    try:
        check(LIBC.setns(there, CLONE_NEWNET) == 0, "cannot enter namespace %s" % namespace)
        return socket.socket(*kind)
    finally:
        LIBC.setns(home, CLONE_NEWNET)
        os.close(home)
        os.close(there)


STARTED = []  # every process that may still run


def end_all():
    """End what runs; the processor time that all of it and this process have used, in seconds."""
    for p in STARTED:
        if p.poll() is None:
            p.kill()
        p.wait()
    return round(sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))


class Emulator:
    """tests/chaos/emulate and its standard input."""

    def __init__(self, program, seed, namespaces):
        self.process = subprocess.Popen([program, "--seed", str(seed), *namespaces], text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        STARTED.append(self.process)
        if self.process.stdout.readline() != "ready\n":
            raise Skipped("no TUN devices here")
        if os.geteuid() == 0:
            os.setpriority(os.PRIO_PROCESS, self.process.pid, -10)  # a late emulator is a slow line

    def tell(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        check(answer and not answer.startswith("error"), "emulate: %s: %s" % (line, answer.strip()))
        return answer

    def counts(self):
        return json.loads(self.tell("count"))["nodes"]


class Node:
    """One peerd: its folder, its namespace, its process."""

    def __init__(self, swarm, number, folder=None):
        self.swarm = swarm
        self.number = number
        self.name = "n%d" % number
        self.dir = folder or os.path.join(swarm.work, self.name)
        self.address = "10.77.0.%d" % (number + 1)
        self.log = os.path.join(swarm.work, self.name + ".log")
        self.process = None
        self.program = swarm.peerd
        self.model = swarm.model
        self.doomed = False  # it may end by itself, at any moment

    def command(self, *args, wrap=()):
        return ["ip", "netns", "exec", self.name, *wrap, self.program, *args]

    def start(self, *args, wrap=(), environ=None, doomed=False):
        check(self.process is None, "%s runs already" % self.name)
        self.doomed = doomed
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                self.command("run", self.dir, "--quiet", *self.swarm.run_flags, *args, wrap=wrap),
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, env={**os.environ, **(environ or {})})
        STARTED.append(self.process)

    def signal(self, number):
        self.process.send_signal(number)

    def kill(self):
        self.signal(signal.SIGKILL)
        self.process.wait()
        self.process = None

    def stop(self, seconds=60):
        self.signal(signal.SIGTERM)
        self.ended(0, seconds)

    def ended(self, status, seconds=60):
        """Wait for the process to end by itself, with this exit status."""
        try:
            got = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise Failed("%s does not end" % self.name) from None
        self.process = None
        check(got == status, "%s ended with %d, not %d: %s" % (self.name, got, status, self.last_line()))

    def alive(self):
        return self.process is not None and self.process.poll() is None

    def peerctl(self, *args, seconds=60):
        r = subprocess.run([self.swarm.peerctl, "-d", self.dir, *args], capture_output=True, text=True,
                           timeout=seconds)
        if r.returncode:
            raise Failed("%s: peerctl %s: %s" % (self.name, args[0], r.stderr.strip()))
        return r.stdout

    def ask(self, cmd, **fields):
        """One request to its control socket, as peerctl makes it, without a process for each."""
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(60)
            s.connect(os.path.join(self.dir, "control.sock"))
            s.sendall(json.dumps({"cmd": cmd, **fields}).encode() + b"\n")
            with s.makefile("rb") as f:
                answer = json.loads(f.readline())
        check(answer["ok"], "%s: %s: %s" % (self.name, cmd, answer.get("error")))
        return answer

    def status(self):
        """What it says of itself, or None while it starts or stops."""
        if self.process is not None and self.process.poll() is not None:
            if self.doomed:
                return None
            raise Failed("%s ended with %d: %s" % (self.name, self.process.returncode, self.last_line()))
        try:
            return self.ask("status")
        except (OSError, ValueError):
            return None

    def said(self, text):
        """How many lines of its log hold a text."""
        with open(self.log, encoding="utf-8", errors="replace") as f:
            return sum(text in line for line in f)

    def last_line(self):
        with open(self.log, encoding="utf-8", errors="replace") as f:
            return (f.read().strip().splitlines() or ["(no log)"])[-1]

    def cpu_seconds(self):
        with open("/proc/%d/stat" % self.process.pid, encoding="ascii") as f:
            fields = f.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Swarm:
    """Nodes 0 .. n-1 of one run; node 0 founds it."""

    def __init__(self, options, n, spare=0, rate=2, thin=False, width=micro.WIDTH, rank=1, lora=0):
        self.work = options.work
        self.seed = options.seed
        self.scale = options.scale
        self.patience = options.patience
        self.build = options.build
        self.peerd = os.path.join(options.build, "src/node/peerd")
        self.peerctl = os.path.join(options.build, "peerctl/peerctl")
        self.rng = random.Random(options.seed)
        self.rate = rate
        self.thin = thin
        self.run_flags = []
        self.began = time.monotonic()
        self.model = os.path.join(self.work, "micro.gguf")
        self.data = os.path.join(self.work, "records.jsonl")
        self.space = ["--calibrate", self.data, "--warm-steps", "0", "--rank", str(rank), "--groups", "1"]
        if lora:
            self.space = ["--space", "lora", "--rank", str(lora), "--eps", "0.01", "--lr", "1e-5", "--clip", "1"]
        self.seen = {}  # author's key: the most records of it that anybody was seen to hold
        self.forks = set()  # keys of which this cannot be said
        micro.write_model(self.model, self.seed, width)
        micro.write_records(self.data, self.seed)
        names = ["n%d" % i for i in range(n + spare)]
        self.make_namespaces(names)
        self.emulator = Emulator(os.path.join(options.build, "tests/chaos/emulate"), self.seed, names)
        self.nodes = [Node(self, i) for i in range(n)]
        self.made = n

    @staticmethod
    def make_namespaces(names):
        os.makedirs("/run/netns", exist_ok=True)
        mount("tmpfs", "/run/netns", "size=1m")
        for name in names:
            r = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
            if r.returncode:
                raise Skipped("no network namespaces here: " + r.stderr.strip())

    def say(self, text):
        print("%5d s  %s" % (time.monotonic() - self.began, text), flush=True)

    # ---- making the run ----

    def found(self, *flags):
        node = self.nodes[0]
        self.command(node.command(
            "init", node.dir, *self.local_flags(node), *self.space, "--propose", "4", "--rate-max", str(self.rate), *flags))

    def local_flags(self, node):
        flags = ["--model", node.model, "--data", self.data, "--heldout-share", "0", "--batch", "1", "--threads", "1",
                 "--listen", "%s:%d" % (node.address, PORT), "--name", node.name, "--seed", str(self.seed)]
        return flags + (["--thin"] if self.thin else [])

    @staticmethod
    def command(argv, seconds=120):
        r = subprocess.run(argv, capture_output=True, text=True, timeout=seconds)
        if r.returncode:
            raise Failed("%s: %s" % (" ".join(argv[4:7]), r.stderr.strip()))
        return r.stdout

    def ticket(self, node, uses=1):
        return node.peerctl("invite", "--reusable", str(uses)).strip()

    def join(self, node, ticket, *flags, wrap=(), environ=None, seconds=120):
        """What it prints for people."""
        argv = node.command("join", node.dir, ticket, *self.local_flags(node), *flags, wrap=wrap)
        r = subprocess.run(argv, capture_output=True, text=True, timeout=seconds, env={**os.environ, **(environ or {})})
        check(r.returncode == 0, "%s cannot join: %s" % (node.name, r.stderr.strip()))
        return r.stdout + r.stderr

    def assemble(self, *flags):
        """Found the run, let all join, run all."""
        self.found(*flags)
        first = self.nodes[0]
        first.start()
        self.wait(lambda: (first.status() or {}).get("state") == "speaking", 60, "the founder speaks")
        ticket = self.ticket(first, len(self.nodes))
        with concurrent.futures.ThreadPoolExecutor(JOINS) as pool:
            list(pool.map(lambda n: (self.join(n, ticket), n.start()), self.nodes[1:]))
        self.wait_links()
        self.say("%d nodes, all linked" % len(self.nodes))

    # ---- waiting ----

    def wait(self, condition, seconds, what, every=0.5):
        """Until it holds; how long that took."""
        began = time.monotonic()
        while not condition():
            if time.monotonic() - began > seconds * self.patience:
                raise Failed("not within %d s: %s" % (seconds * self.patience, what))
            time.sleep(every)
        return time.monotonic() - began

    def pass_time(self, seconds):
        """Let the swarm run for a while, looking at it."""
        end = time.monotonic() + seconds * self.scale
        while time.monotonic() < end:
            self.witness()
            time.sleep(min(2.0, max(0.0, end - time.monotonic())))

    def add_node(self):
        """One more node, in a namespace that was kept for it."""
        self.made += 1
        self.nodes.append(Node(self, self.made - 1))
        return self.nodes[-1]

    def running(self):
        return [n for n in self.nodes if n.process is not None]

    def linked(self):
        """Has everyone the links that a run of this size wants?"""
        n = len(self.running())
        least = n - 1 if n <= MESH_MOST else VIEW_LEAST
        return all((node.status() or {}).get("links", 0) >= least for node in self.running())

    def wait_links(self, seconds=120):
        return self.wait(self.linked, seconds, "all are linked")

    @staticmethod
    def own_records(at, of):
        """How many records of one node another holds."""
        return sum(p["records"] for p in at.status()["peers"] if p["name"] == of.name)

    # ---- what must hold ----

    def witness(self):
        """Note how much of each author anybody holds: none of it may ever be gone."""
        for node in self.running():
            s = node.status()
            for p in (s or {}).get("peers", []):
                if p["key"] not in self.forks:
                    self.seen[p["key"]] = max(self.seen.get(p["key"], 0), p["records"] + p["void_records"])

    def forked(self, key):
        """This author has signed two logs: which of their records are held where depends on who came first."""
        self.forks.add(key)
        self.seen.pop(key, None)

    def tell_all(self, command):
        for n in self.running():
            self.wait(lambda n=n: n.status() is not None, 60, "%s answers" % n.name)
            n.peerctl(command)

    def resume(self):
        self.tell_all("resume")

    def same(self):
        """The one status that all running nodes share, or None."""
        shared = None
        for n in self.running():
            s = n.status()
            if not s or s["unsealed"] or s["missing"] or s["digest_records"] != s["records"]:
                return None
            mine = (s["records"], s["digest"])
            if shared not in (None, mine):
                return None
            shared = mine
        return shared

    def settle(self, seconds=60, what="equal digests"):
        """Stop making records and wait until all hold the same; seconds it took."""
        self.witness()
        self.tell_all("pause")
        took = self.wait(lambda: self.same() is not None, seconds, what)
        self.say("%s: %d records, %s, after %.1f s" % (what, *self.same(), took))
        return round(took, 1)

    def compare(self):
        """The last question: replayed from the base, are all the same, and is nothing lost?"""
        answers = set()
        for n in self.running():
            answer = json.loads(n.peerctl("verify", "--json", seconds=600))
            check(answer["equal"], "%s: coordinates are not what its records give" % n.name)
            answers.add((answer["records"], answer["digest_replayed"]))
        check(len(answers) == 1, "digests differ: %s" % sorted(answers))
        for n in self.running():
            for p in n.status()["peers"]:
                held = p["records"] + p["void_records"]
                check(held >= self.seen.get(p["key"], 0), "records lost: %s holds %d of %s, but %d were seen" %
                      (n.name, held, p["name"], self.seen.get(p["key"], 0)))
        for n in self.nodes:
            check(n.said("assertion") + n.said("Assertion") + n.said("Sanitizer") == 0, "%s: a fault of ours" % n.name)
        return answers.pop()[0]

    def no_fork(self, *but):
        for n in self.nodes:
            check(n in but or n.said("as incarnation") == 0, "%s lost its own log" % n.name)

    def counts(self):
        return self.emulator.counts()

    def wire_bytes(self):
        return sum(c["sent_bytes"] for c in self.counts())


def copy(source, target):
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, ignore=lambda d, names: [n for n in names if n.endswith(".sock")])


def faketime_library():
    found = glob.glob("/usr/lib/*/faketime/libfaketimeMT.so.1") + glob.glob("/usr/lib/faketime/libfaketimeMT.so.1")
    if not found:
        raise Skipped("no libfaketime here (Debian's package faketime)")
    return found[0]


def edit(path, pattern, replacement):
    with open(path, encoding="utf-8") as f:
        text = f.read()
    new, n = re.subn(pattern, replacement, text)
    check(n == 1, "%s: %d places of %s" % (path, n, pattern))
    with open(path, "w", encoding="utf-8") as f:
        f.write(new)
