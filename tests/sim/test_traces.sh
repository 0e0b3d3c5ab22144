#!/bin/sh
# test_traces.sh PEERSIM - one seed, one trace: whatever compiler and level of optimisation made the simulator and the core.
#
# Builds both again with every compiler there is, unoptimised and optimised, and compares the trace of
# all runs of some seeds.  A difference is undefined behaviour, an order of evaluation that C leaves
# open, or a number that depends on the machine: any of them would part replicas.
set -eu
peersim=$1
case $peersim in /*) ;; *) peersim=$PWD/$peersim ;; esac
cd "$(dirname "$0")/../.."
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
seeds=1..12
want=$("$peersim" --hash --seeds "$seeds")
echo "as built: $want"
sources='tests/sim/*.c tests/net/ckpt_file.c src/gossip/*.c src/ledger/*.c src/base/*.c'
flags='-std=c11 -D_GNU_SOURCE -DPD_VERSION="trace" -fno-strict-aliasing -ffp-contract=off -Iinclude -Isrc/gossip'
status=0 compared=0
for compiler in gcc clang; do
    command -v "$compiler" >/dev/null || continue
    for level in -O0 -O3; do
        # shellcheck disable=SC2086 # lists of words
        "$compiler" $flags $level $sources -o "$dir/peersim" -lsodium -lxxhash -lm -pthread
        got=$("$dir/peersim" --hash --seeds "$seeds")
        echo "$compiler $level: $got"
        [ "$got" = "$want" ] || status=1
        compared=$((compared + 1))
    done
done
[ "$compared" -gt 0 ] || echo "skipped: no compiler by the name of gcc or clang"
exit $status
