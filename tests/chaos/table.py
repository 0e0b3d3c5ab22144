"""The table of tests: one function a row, in the order in which the files enter them (`run`).
"""

import dataclasses
import typing

from swarm import check

TESTS = {}


@dataclasses.dataclass
class Test:
    run: typing.Callable
    what: str
    nodes: int
    seconds: int   # what it takes on a quiet machine
    short: float   # its scale in the short run; 0: not one of that


def test(nodes, seconds, short=0.0):
    """Enter a function into the table, under its name and the first line of its text."""
    def enter(run):
        TESTS[run.__name__] = Test(run, run.__doc__.splitlines()[0], nodes, seconds, short)
        return run
    return enter


def within(o, seconds, limit_s, what):
    check(seconds <= limit_s * o.patience, "%s after %.1f s, not %.0f" % (what, seconds, limit_s * o.patience))
    return seconds
