"""peer.py - a program that is measured in turn with others: it makes a round for each line that it reads."""

import ctypes
import json
import os
import subprocess
import sys


def fail(text):
    sys.exit("tests/bench/run: " + text)


# As peerd runs: idle threads that spin would count as processor time.
OURS = {"OMP_WAIT_POLICY": "passive"}


PR_SET_THP_DISABLE = 41  # prctl(2); stays so across execve


def small_pages():
    """For a process about to become another program: no huge pages, whatever it wishes."""
    ctypes.CDLL(None).prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)


class Peer:
    """Its first line says what it is, every other one what a round took."""

    def __init__(self, name, command, env=None, before=None):
        self.name, self.rounds = name, []
        self.proc = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                     env=os.environ | (env or {}), preexec_fn=before)
        self.about = self.line()

    def line(self):
        text = self.proc.stdout.readline()
        if not text:
            fail(f"{self.name} ended with status {self.proc.wait()}")
        return json.loads(text)

    def round(self):
        self.proc.stdin.write("go\n")
        self.proc.stdin.flush()
        self.rounds.append(self.line())

    def end(self):
        self.proc.stdin.close()
        self.proc.wait()
