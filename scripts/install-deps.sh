#!/bin/sh
# install-deps.sh - put the Debian packages that peerd is built from onto this machine.
#
#   scripts/install-deps.sh [PACKAGE ...]     the packages named are wanted besides the usual ones
#
# Asks dpkg first, so a machine that has everything is left alone at once: no network, no root.  Works as root or
# through sudo.  Debian 12 is what it is tried on; newer Debians and Ubuntus have the same package names.
set -eu

# Compiler and build, the libraries of meson.build, and what the examples fetch their model and data with.
wanted="gcc libc6-dev meson ninja-build pkg-config
        libzmq3-dev libsodium-dev libsqlite3-dev libxxhash-dev libdnnl-dev libpcre2-dev libutf8proc-dev libcjson-dev check
        python3 python3-pip $*"

die() {
    echo "install-deps: $1" >&2
    exit 1
}

installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

command -v dpkg-query >/dev/null || die "this is not a Debian (no dpkg here): install by hand: $(echo $wanted)"
missing=
for p in $wanted; do
    installed "$p" || missing="$missing $p"
done
[ -n "$missing" ] || exit 0

as_root=
if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || die "run me as root (no sudo here); missing:$missing"
    as_root=sudo
fi
echo "install-deps: installing$missing" >&2
log=$(mktemp)
trap 'rm -f "$log"' EXIT
apt() { $as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 "$@" >>"$log" 2>&1; }
# Lists that are there may do, and when they are too old for the mirror, fresh ones will.
apt install --no-install-recommends -y $missing && exit 0
apt update && apt install --no-install-recommends -y $missing && exit 0
die "apt-get failed: $(grep '^E:' "$log" | tail -n 1 || true) (missing:$missing)"
