"""Tests of who comes late, or from another version: catching up by replay or by a checkpoint.
"""

import concurrent.futures
import json
import os
import re
import time

from swarm import Swarm, check, MESH_MOST
from table import test, within


@test(nodes=3, seconds=190)
def newcomer(o):
    """A node that joins over 64 kbit/s when a million records are there."""
    wanted = int(1000000 * min(1, o.scale))
    s = Swarm(o, o.nodes, rate=1000000)
    s.found()
    first, late = s.nodes[0], s.nodes[-1]
    s.run_flags = ["--seal-records", "4096"]
    authors = s.nodes[:-1]
    first.start("--records", "1")
    s.wait(lambda: (first.status() or {}).get("state") in ("speaking", "done"), 60, "the founder speaks")
    for node in authors[1:]:
        s.join(node, s.ticket(first))
    first.stop()
    for node in authors:
        node.start("--records", str(wanted // len(authors)))
    s.wait(lambda: all((n.status() or {}).get("step", 0) >= wanted // len(authors) for n in authors), 300,
           "%d records are made" % wanted, every=2)
    s.settle(300, "the records are made")
    s.emulator.tell("set %d rate 64000 queue 16000 delay 150 jitter 10" % late.number)
    s.thin = True
    before, cpu, began = s.counts()[late.number]["delivered_bytes"], 0, time.monotonic()
    s.join(late, s.ticket(first), seconds=600)
    joined = time.monotonic() - began
    late.start("--records", "0")
    s.wait(lambda: (late.status() or {}).get("records", 0) >= wanted, 600, "the newcomer holds them", every=2)
    took, cpu = time.monotonic() - began, late.cpu_seconds()
    down = s.counts()[late.number]["delivered_bytes"] - before
    twice = late.status()["duplicate_bytes"]
    s.settle(120)
    records = s.compare()
    most = 1.2 * 1.04 * records / 6900 + cpu
    within(o, took, max(most, 30), "the newcomer holds all")  # a few records cost what a join costs
    return "%d records in %.0f s (%.1f s to join), %d bytes came down, %.2f a record, %d of them records twice; " \
           "1.2 x bytes / 6.9 kB/s and %.1f s of processor are %.0f s" % (records, took, joined, down, down / records,
                                                                         twice, cpu, most)


def manifest_number(node, name):
    with open(os.path.join(node.dir, "manifest"), encoding="utf-8") as f:
        return int(re.search(r"^%s\W+(\d+)" % re.escape(name), f.read(), re.MULTILINE).group(1))


def attests(node, digest="checkpoint"):
    """Any checkpoint, or the one of this model."""
    return digest in node.peerctl("log", "--author", node.name, "--control")


def join_and_kill(s, late, what, size, ckpt):
    """`late` joins by a checkpoint; whoever has sent it half of `what`, `size` bytes long, is killed.
    Gives that node, the bytes that each had sent by then, those of each after it, and what had come by then."""
    before = [c["sent_bytes"] for c in s.counts()]

    def sent():
        return [c["sent_bytes"] - b for c, b in zip(s.counts()[:late.number], before)]

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        joined = pool.submit(s.join, late, s.ticket(s.nodes[0]), "--catch-up", "checkpoint", seconds=300)
        s.wait(lambda: joined.done() or max(sent()) > size // 2, 120, "half of the %s has come" % what, every=0.1)
        check(not joined.done(), "the %s of %d bytes came before anybody could be killed" % (what, size))
        killed = s.nodes[max(range(late.number), key=sent().__getitem__)]
        killed.kill()
        at_kill, half = sent(), came(s, late)
        s.say("%s is killed, which had sent %d bytes of a %s of %d" % (killed.name, max(at_kill), what, size))
        said = joined.result()
    check("beginning with a checkpoint of %d records" % ckpt["records"] in said, "no checkpoint: " + said.strip())
    return killed, at_kill, [a - b for a, b in zip(sent(), at_kill)], half


def came(s, node):
    return s.counts()[node.number]["delivered_bytes"]


@test(nodes=18, seconds=120)
def pieces(o):
    """Basis and checkpoint come to a newcomer of more than 16; whoever serves the basis is killed in the middle."""
    s = Swarm(o, max(o.nodes, MESH_MOST + 2), spare=1, width=128, rank=16)
    s.assemble()
    s.pass_time(20)
    s.settle(60)  # what a node sends from now on is for the newcomer
    first, size = s.nodes[0], manifest_number(s.nodes[0], "space.basis_bytes")
    ckpt = json.loads(first.peerctl("checkpoint", "--json"))
    s.wait(lambda: sum(attests(n) for n in s.nodes) >= 4, 60, "enough attest the checkpoint")  # not all need to
    late = s.add_node()
    s.emulator.tell("set %d rate 32000 queue 8000 delay 50" % late.number)
    killed, at_kill, after, _ = join_and_kill(s, late, "basis", size, ckpt)
    down = came(s, late)
    check(max(after) > size // 10, "nobody else served the rest: %s" % after)
    check(down < 2 * size + ckpt["bytes"], "%d bytes came for a basis of %d: it began again" % (down, size))
    late.start()
    killed.start()
    s.emulator.tell("set %d rate 0 delay 0" % late.number)
    s.wait_links(180)
    s.resume()
    s.pass_time(20)
    took = s.settle(120)
    s.wait(lambda: late.status()["checkpoint"]["audit"] == "equal", 120, "the checkpoint is replayed and equal")
    s.no_fork()
    return "%s killed after %d bytes of a basis of %d, %s sent %d more; %d came down; equal %.1f s after the last of " \
           "%d records" % (killed.name, max(at_kill), size, s.nodes[after.index(max(after))].name, max(after), down, took,
                           s.compare())


@test(nodes=5, seconds=120)  # a sixth would not need to attest: ckpts.c
def ckptline(o):
    """A checkpoint comes to a newcomer over 64 kbit/s; whoever serves it is killed in the middle of the file."""
    s = Swarm(o, o.nodes, spare=1, rate=60, width=128, lora=24)  # 43,008 coordinates, and no basis before them
    s.assemble()
    s.wait(lambda: all((n.status() or {}).get("step", 0) >= 1100 for n in s.nodes), 120, "a whole chunk of each")
    s.settle(60)  # what a node sends from now on is for the newcomer
    first = s.nodes[0]
    ckpt = json.loads(first.peerctl("checkpoint", "--json"))
    size = ckpt["bytes"]
    s.wait(lambda: all(attests(n) for n in s.nodes), 90, "all attest the checkpoint")
    late = s.add_node()
    s.emulator.tell("set %d rate 64000 queue 16000 delay 150 jitter 10" % late.number)
    began = time.monotonic()
    killed, at_kill, after, half = join_and_kill(s, late, "checkpoint", size, ckpt)
    took, rest = time.monotonic() - began, came(s, late) - half
    check(max(after) > size // 4, "nobody else served the rest: %s" % after)
    check(rest < 0.8 * size, "%d bytes came after half of %d: it began again" % (rest, size))
    most = 1.2 * (half + rest) / 6900 + 15  # to be admitted, and to lose a member
    within(o, took, most, "the newcomer has the checkpoint")
    late.start()
    killed.start()
    s.wait_links()
    audit = s.wait(lambda: late.status()["checkpoint"]["audit"] == "equal", 120, "the checkpoint is replayed and equal")
    check(late.status()["checkpoint"]["lacking_bytes"] == 0, "audited without what lies before it")
    s.resume()
    s.pass_time(10)
    settled = s.settle(120)
    s.no_fork()
    return "%s killed after %d bytes of a checkpoint of %d, %s sent %d more; %d came down in %.0f s, %.0f were allowed; " \
           "what lies before it was there and equal %.1f s later; equal %.1f s after the last of %d records" % (
               killed.name, max(at_kill), size, s.nodes[after.index(max(after))].name, max(after), half + rest, took, most,
               audit, settled, s.compare())


def joins(s, late, inviter, wanted):
    """It asks for a checkpoint, and this is what it says of that."""
    said = s.join(late, s.ticket(inviter), "--catch-up", "checkpoint", seconds=300)
    check(wanted in said, "%s: not said: %s: %s" % (late.name, wanted, said.strip()))
    late.start()


@test(nodes=5, seconds=140)
def liar(o):
    """A member attests a wrong checkpoint, and nobody else does; then it sends other bytes than those attested."""
    s = Swarm(o, o.nodes, spare=3)
    s.assemble()
    liar, honest = s.nodes[-1], s.nodes[:-1]
    first = honest[0]

    def restart(lie):
        liar.stop()
        liar.program = os.path.join(o.build, "tests/chaos/peerd_liar")
        liar.start(environ={"PEERD_LIE": lie})
        s.wait_links()

    def make(node):
        s.pass_time(10)
        s.settle(60)
        made = json.loads(node.peerctl("checkpoint", "--json"))
        s.resume()
        return made

    restart("coordinates")
    false = make(liar)  # as long as there is no other, the records are replayed
    s.wait(lambda: all(n.status()["checkpoint"]["wrong"] == 1 for n in honest), 90, "all find that it is wrong")
    check(not any(attests(n) for n in honest), "somebody attests what its own records do not give")
    alone = s.add_node()
    joins(s, alone, liar, "no checkpoint to begin with: the records are replayed")

    true = make(first)
    s.wait(lambda: sum(attests(n, true["digest"]) for n in s.nodes) >= 4, 60, "enough attest the right one")
    newest = make(liar)  # of more records, but on one member's word
    s.wait(lambda: all(n.status()["checkpoint"]["wrong"] == 2 for n in honest), 90, "all find that it is wrong, too")
    other = s.add_node()
    joins(s, other, liar, "beginning with a checkpoint of %d records" % true["records"])

    restart("bytes")
    cut = s.add_node()  # from it alone
    honest_numbers = [n.number for n in s.nodes if n not in (liar, cut)]
    for i in honest_numbers:
        s.emulator.tell("block %d %d" % (i, cut.number))
    joins(s, cut, liar, "no checkpoint to begin with, the records are replayed: the checkpoint that the members send is "
                        "not the one that was asked for")
    s.emulator.tell("heal")
    s.wait_links(180)
    s.pass_time(10)
    took = s.settle(120)
    s.wait(lambda: other.status()["checkpoint"]["audit"] == "equal", 120, "the right checkpoint is replayed and equal")
    for n in (alone, cut):
        check(n.status()["checkpoint"]["audit"] == "none", "%s began with a checkpoint" % n.name)
    for n in honest:
        check(n.said("its coordinates are not what its records give") == 2, "%s did not say what is wrong" % n.name)
    s.no_fork()
    return "wrong ones of %d and %d records attested by one, found wrong by %d; replayed instead, then begun with the " \
           "right one of %d, then replayed for its bytes were others; equal after %.1f s, %d records" % (
               false["records"], newest["records"], len(honest), true["records"], took, s.compare())


@test(nodes=4, seconds=130)
def versions(o):
    """A node of another protocol, then of another frame version among these: refused and said, never half."""
    s = Swarm(o, o.nodes)
    s.assemble()
    node, took, said = s.nodes[1], [], []
    for program, words in (("peerd_next_proto", "another protocol version"), ("peerd_next_frame", "another frame version")):
        s.pass_time(10)
        node.stop()
        s.settle(60, "without n1")
        held = s.nodes[0].status()["records"]
        node.program = os.path.join(o.build, "tests/chaos", program)
        node.start()
        s.resume()
        s.pass_time(30)
        other = node.status()
        heard = other["records"] - other["step"], held - s.own_records(s.nodes[0], node)
        check(other["links"] == 0 and heard[0] <= heard[1] and other["missing"] == 0, "%s: half a conversation" % program)
        said.append(sum(n.said(words) for n in s.nodes))
        check(said[-1] > 0, "%s: nobody says why there is no link" % program)
        check(s.nodes[0].status()["links"] == o.nodes - 2, "%s: the others lost each other" % program)
        node.stop()
        node.program = s.peerd
        node.start()
        s.resume()
        took.append(s.settle(300, "%s is gone" % program))
    s.no_fork()
    return "no link and no record across versions; said %d and %d times; equal %.1f and %.1f s after going back, " \
           "%d records" % (*said, *took, s.compare())
