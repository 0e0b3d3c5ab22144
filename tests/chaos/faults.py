"""The table of faults: one function a row.  Each makes its swarm, makes trouble, settles and compares;
what it returns are its figures for the table.
"""

import dataclasses
import os
import signal
import time
import typing

from swarm import Failed, Swarm, check, copy, edit, faketime_library, mount, socket_in, MS_REMOUNT, PORT

TESTS = {}


@dataclasses.dataclass
class Test:
    run: typing.Callable
    what: str
    nodes: int
    short: bool


def test(nodes, short=False):
    """Enter a function into the table, under its name and the first line of its text."""
    def enter(run):
        TESTS[run.__name__] = Test(run, run.__doc__.splitlines()[0], nodes, short)
        return run
    return enter


# ---- lines ----


@test(nodes=10)
def thin(o):
    """64 kbit/s, 150 +- 10 ms, 5 % loss on every line, while all train and seal."""
    s = Swarm(o, o.nodes, rate=1, thin=True)
    s.assemble()
    s.emulator.tell("set all rate 64000 queue 16000 delay 150 jitter 10 loss 5")
    records, sent, began = s.nodes[0].status()["records"], s.wire_bytes(), time.monotonic()
    s.pass_time(150)
    took = s.settle(120)
    made = s.compare() - records
    wire, seconds = s.wire_bytes() - sent, time.monotonic() - began
    doubles = sum(n.status()["duplicates"] for n in s.nodes)
    s.no_fork()
    return "equal %.1f s after the last record; %d records, %.0f B/s a node, %.1f wire bytes per record and node, " \
           "%d of %d bytes came twice" % (took, made, wire / seconds / o.nodes, wire / made / o.nodes, doubles,
                                           made * (o.nodes - 1))


@test(nodes=6, short=True)
def partition(o):
    """Halves that do not hear each other; then two nodes that hear and are not heard."""
    s = Swarm(o, o.nodes)
    s.assemble()
    half = o.nodes // 2
    s.emulator.tell("block 0-%d %d-%d" % (half - 1, half, o.nodes - 1))
    s.emulator.tell("block %d-%d 0-%d" % (half, o.nodes - 1, half - 1))
    s.pass_time(120)
    apart = abs(s.nodes[0].status()["records"] - s.nodes[-1].status()["records"])
    s.emulator.tell("heal")
    s.say("healed, %d records apart" % apart)
    halves = s.settle(120)
    s.resume()
    s.emulator.tell("block 0-1 2-%d" % (o.nodes - 1))
    s.pass_time(90)
    s.emulator.tell("heal")
    oneway = s.settle(120)
    s.wait_links(300)
    s.no_fork()
    return "equal %.1f s after halves, %.1f s after the one-way cut; %d records" % (halves, oneway, s.compare())
