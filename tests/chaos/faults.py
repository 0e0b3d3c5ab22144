"""Tests of what befalls a node: its process, disk, clock, files and what is sent to it.  Each makes its
swarm, makes trouble, settles and compares; what it returns are its figures for the table.
"""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import time

from swarm import (Failed, Node, Swarm, check, copy, edit, faketime_library, mount, socket_in, MS_REMOUNT, PORT,
                   STARTED)
from table import test, within


# ---- processes ----


def raise_dead(s):
    """Start those again that ended by themselves."""
    dead = [n for n in s.nodes if n.process is not None and n.doomed and n.process.poll() is not None]
    for n in dead:
        n.kill()
        n.start()
    return len(dead)


@test(nodes=30, seconds=700, short=0.1)
def kill(o):
    """kill -9 every 3 s, of one node after another; every second one dies inside a write or a flush."""
    s = Swarm(o, o.nodes, rate=2)
    library = os.path.join(o.build, "tests/chaos/crash_at.so")
    s.assemble()
    end, kills, inside = time.monotonic() + 600 * o.scale, 0, 0
    while time.monotonic() < end:
        s.witness()
        inside += raise_dead(s)
        node = s.rng.choice([n for n in s.nodes if not n.doomed])
        node.kill()
        kills += 1
        time.sleep(s.rng.uniform(0, 0.5))
        if kills % 2:
            node.start()
        else:
            node.start(environ={"LD_PRELOAD": library, "PEERD_CRASH_AT": str(s.rng.randrange(1, 60))}, doomed=True)
        time.sleep(3)
    s.say("%d killed, %d of them inside a call" % (kills + inside, inside))
    for node in s.nodes:
        if node.doomed:
            node.kill()
            node.start()
    took = within(o, s.settle(120), 60, "equal")
    s.no_fork()
    return "%d kills, and %d at a call that writes or flushes; equal %.1f s after the last; %d records" % (
        kills, inside, took, s.compare())


@test(nodes=5, seconds=730)
def stop(o):
    """SIGSTOP for 5 s, 60 s and 10 min: a process that hangs while its sockets stay open."""
    s = Swarm(o, o.nodes)
    s.assemble()
    node, back = s.nodes[1], []
    for seconds in (5, 60, 600):
        node.signal(signal.SIGSTOP)
        time.sleep(seconds * o.scale)
        node.signal(signal.SIGCONT)
        back.append(within(o, s.wait_links(180), 5, "all linked again"))
        s.say("stopped for %d s, all linked again after %.1f s" % (seconds * o.scale, back[-1]))
    took = s.settle(60)
    s.no_fork()
    for n in s.nodes:
        check(n.status()["banned"] == 0 and n.said("is refused for") == 0, "%s punished who was stopped" % n.name)
    return "all linked again %.1f, %.1f and %.1f s after going on; equal after %.1f s, %d records" % (
        *back, took, s.compare())


def any_ticket(s):
    """Of a member drawn by lot; who is four invitations away from the founder refuses."""
    while True:
        try:
            return s.ticket(s.rng.choice([n for n in s.running() if n.status()]))
        except Failed as e:
            if "invitations away from the founder" not in str(e):
                raise


def exchange(s, left):
    """One leaves for good, another joins."""
    leaver = s.rng.choice(s.nodes[1:])
    s.wait(lambda: (leaver.status() or {}).get("state") == "speaking", 120, "%s speaks" % leaver.name)
    leaver.peerctl("leave")
    leaver.ended(0)
    left.append(leaver)
    s.nodes.remove(leaver)
    node = s.add_node()
    s.join(node, any_ticket(s))
    node.start()
    s.say("%s left, %s joined" % (leaver.name, node.name))


@test(nodes=30, seconds=820)
def churn(o):
    """20 % a minute leave for good and as many join, 10 min; then all are killed and started at once."""
    pause = 60 / (0.2 * o.nodes)  # seconds between two
    joins = max(1, round(600 * o.scale / pause))
    s = Swarm(o, o.nodes, spare=joins)
    s.assemble()
    left, began = [], time.monotonic()
    for i in range(joins):
        while time.monotonic() < began + i * pause:
            s.witness()
            time.sleep(1)
        exchange(s, left)
    per_minute = 60 * joins / (time.monotonic() - began)
    settled = s.settle(120)
    s.resume()
    for node in s.nodes:
        node.kill()
    left[0].start()  # and one that had left comes back with the others
    s.nodes.append(left[0])
    for node in s.nodes[:-1]:
        node.start()
    began = time.monotonic()
    linked = s.wait_links(180)
    s.settle(120)
    took = within(o, time.monotonic() - began, 120, "equal")
    s.no_fork()
    return "%d left and joined, %.1f a minute, equal after %.1f s; all killed and started: linked after %.1f s, " \
           "equal after %.1f s; %d records" % (joins, per_minute, settled, linked, took, s.compare())


# ---- disks ----


@test(nodes=4, seconds=80, short=0.3)
def full(o):
    """A disk that fills up under a node, and grows again."""
    s = Swarm(o, o.nodes)
    disk = os.path.join(s.work, "disk")
    os.makedirs(disk)
    mount("tmpfs", disk, "size=4m")
    node = s.nodes[1]
    node.dir = os.path.join(disk, "n1")
    s.assemble()
    filler = os.open(os.path.join(disk, "filler"), os.O_CREAT | os.O_WRONLY)
    try:
        while True:
            os.write(filler, bytes(4096))
    except OSError:
        os.close(filler)
    s.say("the disk of n1 is full")
    s.wait(lambda: node.said("not stored") + node.said("could not be stored") + node.said("wait to be stored"), 120,
           "n1 says that its disk is full")
    s.pass_time(30)
    check(node.alive(), "n1 did not survive a full disk")
    held = node.status()["records"]
    others = s.nodes[0].status()["records"]
    mount("tmpfs", disk, "size=64m", MS_REMOUNT)
    s.say("the disk grew; n1 held %d records of %d" % (held, others))
    took = s.settle(180)
    own = node.status()["step"]
    s.no_fork()
    records = s.compare()
    node.stop()  # what it says that it holds is on the disk, too
    node.start()
    s.wait(lambda: (node.status() or {}).get("records") == records, 60, "n1 reads its records again")
    check(node.status()["step"] >= own, "n1 forgot own records that it had told of")
    return "alive; equal %.1f s after the disk grew, %d records" % (took, s.compare())


def flip_in_chunk(node, key, own):
    """One byte of a record on the disk becomes another: of its own log, or of somebody else's."""
    path = os.path.join(node.dir, "ledger.db")
    db = sqlite3.connect(path)
    rows = db.execute("SELECT key, b FROM chunk JOIN author ON author.id = chunk.author WHERE stream = 0").fetchall()
    db.close()
    chunk = max((b for k, b in rows if (k == key) == own), key=len, default=None)
    check(chunk, "%s: no chunk to damage" % node.name)
    with open(path, "r+b") as f:
        at = f.read().find(chunk)
        check(at >= 0, "%s: a chunk is not where it should be" % node.name)
        at += len(chunk) // 2
        f.seek(at)
        byte = f.read(1)[0]
        f.seek(at)
        f.write(bytes([byte ^ 1]))


@test(nodes=5, seconds=150)
def corrupt(o):
    """Bytes flipped, files cut short or gone while a node is stopped: it heals, or refuses and says why."""
    s = Swarm(o, o.nodes)
    node, seen = s.nodes[1], []
    node.model = os.path.join(s.work, "n1.gguf")
    shutil.copy(s.model, node.model)
    s.assemble()
    s.pass_time(20)
    key = bytes.fromhex(node.status()["key"])

    node.stop()
    good = os.path.join(s.work, "good")
    copy(node.dir, good)
    flip_in_chunk(node, key, own=False)
    node.start()
    s.wait(lambda: node.said("is damaged on this disk: asking for it again"), 60, "the damage is found")
    s.settle(120, "a byte of another's log flipped")
    s.compare()
    s.no_fork()
    s.resume()
    seen.append("other's byte")

    s.pass_time(10)
    node.kill()
    os.remove(os.path.join(node.dir, "ledger.db-wal"))
    node.start()
    s.settle(180, "the write-ahead log gone")
    s.compare()
    s.no_fork()
    s.resume()
    seen.append("-wal gone")

    for name, cut in (("ledger.db", 0.5), ("manifest", 0.5), ("node.json", 0.5), ("key", 0.5), ("n1.gguf", 0.5)):
        s.pass_time(5)
        node.stop()
        path = node.model if name == "n1.gguf" else os.path.join(node.dir, name)
        with open(path, "rb") as f:
            whole = f.read()
        with open(path, "r+b") as f:
            f.truncate(int(len(whole) * cut))
        node.start()
        node.ended(1)
        check("peerd run:" in node.last_line(), "%s cut: no reason given: %s" % (name, node.last_line()))
        s.say("%s cut: %s" % (name, node.last_line()))
        if name == "ledger.db":
            copy(good, node.dir)  # the backup that it asks for
        else:
            with open(path, "wb") as f:
                f.write(whole)
        node.start()
        s.settle(400, "%s cut and put back" % name)
        s.compare()
        s.no_fork()
        s.resume()
        seen.append(name)

    s.pass_time(5)
    node.stop()
    flip_in_chunk(node, key, own=True)
    node.start()
    s.settle(400, "a byte of its own log flipped")
    records = s.compare()
    check(node.said("it goes on as incarnation 1") == 1, "n1 went on with a log that it could not trust")
    return "healed or refused, and equal each time: %s, own byte (incarnation 1); %d records" % (
        ", ".join(seen), records)


@test(nodes=4, seconds=200)
def restore(o):
    """A folder put back as it was some time ago: with peers it adopts its own newer log."""
    s = Swarm(o, o.nodes)
    s.assemble()
    node, backup = s.nodes[1], os.path.join(s.work, "backup")
    s.pass_time(10)
    node.stop()
    copy(node.dir, backup)
    node.start()
    s.pass_time(60)
    s.settle(60)
    newer = node.status()["step"]
    s.resume()
    node.kill()
    copy(backup, node.dir)
    node.start()
    s.wait(lambda: node.said("peers hold more of this node's own log"), 120, "n1 takes its own records from its peers")
    s.wait(lambda: (node.status() or {}).get("state") == "speaking", 400, "n1 speaks again")
    check(node.status()["step"] >= newer, "n1 goes on at step %d, but had made %d" % (node.status()["step"], newer))
    took = s.settle(60)
    s.no_fork()
    adopted = s.compare()
    s.resume()

    node.stop()
    copy(node.dir, backup)
    node.start()
    s.pass_time(20)
    s.settle(60, "before the second restore")
    newer = node.status()["step"]
    s.resume()
    node.kill()
    copy(backup, node.dir)
    node.start("--solo")  # nobody can tell it what it has said: it says it anew
    s.wait(lambda: (node.status() or {}).get("step", 0) > newer, 180, "n1 speaks alone")
    node.stop()
    node.start()
    key = node.status()["key"] if s.wait(lambda: node.status() is not None, 60, "n1 answers") >= 0 else ""
    s.forked(key)
    others = [n for n in s.nodes if n is not node]
    s.wait(lambda: all((n.status() or {}).get("forks", 0) == 1 for n in s.nodes), 180, "all know of the fork")
    s.wait(lambda: node.said("going on as incarnation 1") == 1, 60, "n1 goes on as another incarnation")
    s.pass_time(10)
    forked = s.settle(120)
    s.no_fork(node)
    check(sum(n.said("signed two logs") for n in others) >= 1, "nobody has made evidence")
    void = others[0].status()["void_records"]
    return "adopted its own log up to step %d, equal after %.1f s, %d records; restored and run alone: forked, " \
           "proven, %d records void, incarnation 1, equal after %.1f s, %d records" % (
               newer, took, adopted, void, forked, s.compare())


@test(nodes=4, seconds=70, short=0.5)
def clone(o):
    """Two processes on two copies of one folder: one of them ends with status 75."""
    s = Swarm(o, o.nodes, spare=1)
    s.assemble()
    s.pass_time(10)
    node = s.nodes[1]
    s.forked(node.status()["key"])
    node.stop()
    twin = s.add_node()
    s.nodes.remove(twin)
    copy(node.dir, twin.dir)
    edit(os.path.join(twin.dir, "node.json"), r'"listen":\s*"[^"]*"', '"listen": "%s:%d"' % (twin.address, PORT))
    node.start()
    twin.start()
    began = time.monotonic()
    s.wait(lambda: not node.alive() or not twin.alive(), 180, "one of the two ends")
    took = time.monotonic() - began
    ended, lives = (node, twin) if not node.alive() else (twin, node)
    ended.ended(75)
    s.say("%s ended with 75: %s" % (ended.name, ended.last_line()))
    s.nodes = [n for n in s.nodes if n is not node] + [lives]
    time.sleep(20 * o.scale)
    check(lives.alive(), "both copies ended: nobody is left to go on under this name")
    settled = s.settle(180)
    return "one ended with 75 after %.1f s; equal after %.1f s, %d records" % (took, settled, s.compare())


# ---- clocks, descriptors, garbage ----


@test(nodes=5, seconds=130)
def clock(o):
    """Wall clocks a year ahead, an hour behind, in 1970, and one that jumps while its node runs."""
    library = faketime_library()
    s = Swarm(o, o.nodes)
    moves = ["+1y", "-1h", "@1970-01-02 00:00:00"]
    rc = os.path.join(s.work, "clock")
    s.found()
    for i, node in enumerate(s.nodes):
        environ = {"LD_PRELOAD": library, "FAKETIME_DONT_FAKE_MONOTONIC": "1", "FAKETIME_NO_CACHE": "1"}
        if i == 0:
            with open(rc, "w", encoding="ascii") as f:
                f.write("+0\n")
            environ["FAKETIME_TIMESTAMP_FILE"] = rc
        elif i <= len(moves):
            environ["FAKETIME"] = moves[i - 1]
        else:
            environ = {}
        if i > 0:
            s.join(node, s.ticket(s.nodes[i - 1]), environ=environ)
        node.start(environ=environ, wrap=["nice", "-n", "19"])  # under libfaketime two threads turn without a rest
        s.wait(lambda node=node: (node.status() or {}).get("state") == "speaking", 120, "%s speaks" % node.name)
    s.wait_links()
    s.pass_time(20)
    for jump in ("-1h", "+400d", "-20d"):
        with open(rc, "w", encoding="ascii") as f:
            f.write(jump + "\n")
        s.pass_time(15)
        check(s.linked(), "a jump of the clock by %s cost links" % jump)
    took = s.settle(60)
    s.no_fork()
    return "joined each by the one before, no link lost at three jumps; equal after %.1f s, %d records" % (
        took, s.compare())


@test(nodes=4, seconds=90)
def fds(o):
    """500 idle connections to a node, and another one that may open only 120 files."""
    s = Swarm(o, o.nodes)
    s.assemble()
    few = s.nodes[2]
    few.stop()
    few.start(wrap=("prlimit", "--nofile=120:120"))
    s.wait_links()
    target, idle = s.nodes[1], []
    cpu, began, records = target.cpu_seconds(), time.monotonic(), s.nodes[0].status()["records"]
    few_cpu = few.cpu_seconds()
    while time.monotonic() - began < 60 * o.scale:
        for n in (target, few):
            for _ in range(500 - len(idle) if n is target else 20):
                c = socket_in("n0", 2, 1)  # AF_INET, SOCK_STREAM
                c.setblocking(False)
                c.connect_ex((n.address, PORT))
                idle.append(c)
        time.sleep(2)
        idle = [c for c in idle if still_open(c)]
        s.witness()
    seconds = time.monotonic() - began
    cpu, few_cpu = target.cpu_seconds() - cpu, few.cpu_seconds() - few_cpu
    check(max(cpu, few_cpu) < 0.2 * seconds, "%.1f and %.1f s of processor in %.0f s" % (cpu, few_cpu, seconds))
    made = s.nodes[0].status()["records"] - records
    check(made > 0, "nothing came through while the connections stood")
    for c in idle:
        c.close()
    took = s.settle(120)
    s.wait_links(180)
    return "%.1f %% of a core under 500 connections, %.1f %% with 120 files; %d records meanwhile, equal after " \
           "%.1f s, %d records" % (100 * cpu / seconds, 100 * few_cpu / seconds, made, took, s.compare())


def still_open(c):
    try:
        return c.recv(1 << 16) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


def play_malice(s, seconds):
    """A member that means harm, for so long: what it did."""
    member = Node(s, s.made)
    victims = ["%s@%s:%d" % (n.status()["key"], n.address, PORT) for n in s.nodes]
    corpus = os.path.join(os.path.dirname(os.path.realpath(__file__)), "../fuzz/corpus/frame")
    with open(member.log, "ab") as log:
        p = subprocess.Popen(["ip", "netns", "exec", member.name, os.path.join(s.build, "tests/chaos/malice"),
                              str(s.seed), str(seconds), corpus, s.ticket(s.nodes[0]), *victims],
                             stdout=subprocess.PIPE, stderr=log, text=True)
    STARTED.append(p)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        s.witness()
        time.sleep(1)
    said = p.communicate(timeout=60)[0]
    check(p.returncode == 0, "malice ended with %d: %s" % (p.returncode, member.last_line()))
    return json.loads(said)


@test(nodes=5, seconds=220, short=0.2)
def garbage(o):
    """Bytes flipped so that TCP takes them, rubbish to every port, and a member of the run that means harm."""
    s = Swarm(o, o.nodes, spare=1)
    s.assemble()
    s.emulator.tell("set all flip 5")
    end, rubbish = time.monotonic() + 90 * o.scale, 0
    while time.monotonic() < end:
        for n in s.nodes:
            c = socket_in("n%d" % s.rng.randrange(o.nodes), 2, 1)
            c.settimeout(1)
            try:
                c.connect((n.address, PORT))
                c.send(s.rng.choice([b"", b"\xff" + bytes(8) + b"\x7f\x03\x00CURVE" + bytes(45)]) +
                       s.rng.randbytes(s.rng.randrange(1, 400)))
                rubbish += 1
            except OSError:
                pass
            c.close()
        s.witness()
        time.sleep(0.5)
    flipped = sum(c["flipped"] for c in s.counts())
    s.emulator.tell("set all flip 0")
    took = s.settle(180)
    bad = [n.status()["bad_seals"] for n in s.nodes]
    check(sum(bad) == 0, "damaged bytes came through CURVE: %s bad seals" % bad)
    s.resume()
    evil = play_malice(s, 90 * o.scale)
    s.say("malice: %s" % evil)
    for n in s.nodes:
        check(n.alive() and n.said("is refused for") > 0, "%s took all of it" % n.name)
    check(s.linked(), "a liar cost links between others")
    after = s.settle(180)
    s.no_fork()
    return "%d packets flipped, %d times rubbish: equal after %.1f s; a malicious member said %d frames (%d KB) in %d " \
           "sessions, and was refused by all: equal after %.1f s, %d records" % (
               flipped, rubbish, took, evil["frames"], evil["bytes"] // 1000, evil["sessions"], after, s.compare())
