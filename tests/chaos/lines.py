"""Tests of the network: the emulator itself, thin lines, and a swarm that is cut in two.
"""

import struct
import time

from swarm import Swarm, check, socket_in
from table import test, within


def send_and_take(a, b, n, size, gap_s, wait_s):
    """n datagrams from a to b: their numbers and seconds under way as they came, and how many were changed."""
    took, changed, sent, target = [], 0, 0, b.getsockname()
    next_s = last_s = time.monotonic()
    b.settimeout(0.001)
    while sent < n or time.monotonic() - last_s < wait_s:
        if sent < n and time.monotonic() >= next_s:
            head = struct.pack("<Id", sent, time.monotonic())
            a.sendto(head + bytes(size - len(head)), target)
            sent, next_s, last_s = sent + 1, next_s + gap_s, time.monotonic()
        try:
            p = b.recv(2048)
        except (TimeoutError, BlockingIOError):
            continue
        last_s = time.monotonic()
        if any(p[12:]):
            changed += 1
        else:
            took.append((struct.unpack("<Id", p[:12])[0], last_s - struct.unpack("<Id", p[:12])[1], last_s))
    return took, changed


@test(nodes=2, seconds=45, short=1)
def lines(o):
    """The emulator itself, measured with datagrams: delay, rate, loss, doubles, order, flips, cuts."""
    s = Swarm(o, 2)
    a, b = socket_in("n0", 2, 2), socket_in("n1", 2, 2)  # AF_INET, SOCK_DGRAM
    b.bind((s.nodes[1].address, 9))

    s.emulator.tell("set 0 delay 150 jitter 10")
    took, _ = send_and_take(a, b, 200, 100, 0.005, 1)
    delays = sorted(t for _, t, _ in took)
    check(len(took) == 200 and delays[0] >= 0.139, "a packet took %.1f ms" % (1000 * delays[0]))
    check([n for n, _, _ in took] == list(range(200)), "jitter changed the order")

    s.emulator.tell("set 0 delay 0 jitter 0 rate 64000")
    took, _ = send_and_take(a, b, 40, 972, 0, 1)
    rate = 40 * 8 * 1000 / (took[-1][2] - took[0][2] + took[0][1])  # 28 bytes of headers
    check(len(took) == 40 and rate <= 64001, "64 kbit/s carried %.0f bit/s" % rate)

    s.emulator.tell("set 0 rate 0 loss 5 double 2")
    took, _ = send_and_take(a, b, 4000, 100, 0.0002, 1)
    lost, doubled = 4000 - len({n for n, _, _ in took}), len(took) - len({n for n, _, _ in took})
    check(abs(lost - 200) < 83 and abs(doubled - 76) < 52, "of 4000 packets %d were lost, %d doubled" % (lost, doubled))

    s.emulator.tell("set 0 loss 0 double 0 delay 20 overtake 10")
    took, _ = send_and_take(a, b, 500, 100, 0.001, 1)
    order = [n for n, _, _ in took]
    overtook = sum(x > y for x, y in zip(order, order[1:]))
    check(sorted(order) == list(range(500)) and overtook > 0, "no packet overtook another")

    s.emulator.tell("set 0 overtake 0 delay 0 flip 50")
    took, changed = send_and_take(a, b, 200, 1000, 0.001, 1)
    flipped = s.counts()[0]["flipped"]
    check(len(took) + changed == 200 and 0 < changed <= flipped, "%d of %d flips were taken" % (changed, flipped))

    s.emulator.tell("set 0 flip 0")
    s.emulator.tell("block 0 1")
    cut, _ = send_and_take(a, b, 20, 100, 0, 0.5)
    s.emulator.tell("heal")
    healed, _ = send_and_take(a, b, 20, 100, 0, 0.5)
    check(not cut and len(healed) == 20, "%d packets passed a cut, %d after it" % (len(cut), len(healed)))
    return "150 +- 10 ms: %.0f to %.0f, median %.0f ms; 64 kbit/s: %.1f; of 4,000 packets %d lost (5 %%) and %d " \
           "doubled (2 %%); of 500 %d overtook (10 %%); %d of 200 flipped, %d seen by the reader" % (
               1000 * delays[0], 1000 * delays[-1], 1000 * delays[100], rate / 1000, lost, doubled, overtook, flipped,
               changed)


def count_seals(node, seconds):
    """How many seals a node makes meanwhile."""
    seals, last, end = 0, 0, time.monotonic() + seconds
    while time.monotonic() < end:
        ago = node.ask("health")["sealed_ago_ms"] or 0
        seals += ago < last
        last = ago
        time.sleep(0.5)
    return seals


def one_hop(k, loss):
    """Bytes on a line for each record of a seal of k that goes out alone, by the design: record, seal, framing of
    CURVE, ZMTP, TCP and IP, and TCP's acknowledgement of it; a lost packet goes out once more."""
    return (1 + (69 + 45 + 52 + 52) / k) / (1 - loss)


@test(nodes=10, seconds=660)
def thin(o):
    """64 kbit/s, 150 +- 10 ms, 5 % loss on every line, while all train and seal."""
    s = Swarm(o, o.nodes, rate=1, thin=True)
    s.assemble()
    s.emulator.tell("set all rate 64000 queue 16000 delay 150 jitter 10 loss 5")
    s.pass_time(20)
    first = s.nodes[0].status()["records"]
    own, sent, began = s.nodes[1].status()["step"], s.wire_bytes(), time.monotonic()
    framed = sum(n.status()["bytes_out"] for n in s.nodes)
    seals = count_seals(s.nodes[1], 600 * o.scale)
    s.witness()
    wire, seconds = s.wire_bytes() - sent, time.monotonic() - began
    k = (s.nodes[1].status()["step"] - own) / max(1, seals)
    hops = (s.nodes[0].status()["records"] - first) * (o.nodes - 1)
    framed = sum(n.status()["bytes_out"] for n in s.nodes) - framed
    took = within(o, s.settle(120), 60, "equal")
    made = s.compare()
    copies = 1 + sum(n.status()["duplicate_bytes"] for n in s.nodes) / (made * (o.nodes - 1))
    check(copies <= 1.1, "%.3f copies" % copies)
    formula = one_hop(k, 0.05)
    s.no_fork()
    return "equal %.1f s after the last record; %d records, %.3f copies; %.0f B/s a node; %.1f bytes on the line a " \
           "record and hop, %.1f of them in frames; by the formula for seals of %.1f %.1f and %.1f" % (
               took, made, copies, wire / seconds / o.nodes, wire / hops, framed / hops, k, formula, 1 + 69 / k)


@test(nodes=30, seconds=540, short=0.1)
def partition(o):
    """Halves that do not hear each other; then two nodes that hear and are not heard."""
    s = Swarm(o, o.nodes)
    s.assemble()
    half = o.nodes // 2
    s.emulator.tell("block 0-%d %d-%d" % (half - 1, half, o.nodes - 1))
    s.emulator.tell("block %d-%d 0-%d" % (half, o.nodes - 1, half - 1))
    s.pass_time(300)
    lacks = s.own_records(s.nodes[0], s.nodes[-1])
    lacks = s.nodes[-1].status()["step"] - lacks
    s.emulator.tell("heal")
    s.say("healed; n0 lacks %d records of n%d" % (lacks, o.nodes - 1))
    halves = within(o, s.settle(120), 60, "equal")
    s.resume()
    s.emulator.tell("block 0-1 2-%d" % (o.nodes - 1))
    s.pass_time(120)
    s.emulator.tell("heal")
    oneway = within(o, s.settle(120), 60, "equal")
    s.wait_links(300)
    s.no_fork()
    return "equal %.1f s after halves, %.1f s after the one-way cut; %d records" % (halves, oneway, s.compare())
