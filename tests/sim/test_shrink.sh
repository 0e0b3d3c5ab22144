#!/bin/sh
# test_shrink.sh PEERSIM_PLANTED - a failing run becomes a smaller one, and the one command it prints repeats that: the
# same exit status, the same words.
#
# Whoever gets a failure from a night's soak has nothing else to go by.
set -u
planted=$1
case $planted in /*) ;; *) planted=$PWD/$planted ;; esac
out=$(mktemp)
trap 'rm -f "$out"' EXIT
ran=0 failed=0

wrong() {
    failed=$((failed + 1))
    echo "$*"
    tail -n 3 "$out"
}

# STATUS LAW ARGS...: the run fails so, and what it prints fails so, too.
expect() {
    status=$1 law=$2
    shift 2
    ran=$((ran + 1))
    "$planted" "$@" >"$out" 2>&1
    got=$?
    [ "$got" -eq "$status" ] || { wrong "$*: status $got, not $status" && return; }
    grep -q "^[0-9]* of [0-9]* faults are left" "$out" || { wrong "$*: not made smaller" && return; }
    [ "$(grep -c '^to repeat: ' "$out")" -eq 1 ] || { wrong "$*: not one command" && return; }
    again=$(sed -n 's/^to repeat: peersim_planted //p' "$out")
    said=$(sed -n "s/^seed [0-9]*: //p" "$out")
    case $said in "$law"[\ ,:]*) ;; *) wrong "$*: said: $said" && return ;; esac
    # shellcheck disable=SC2086 # a list of words
    "$planted" $again >"$out" 2>&1
    got=$?
    [ "$got" -eq "$status" ] || { wrong "$again: status $got, not $status" && return; }
    grep -q "^seed [0-9]*: $law[ ,:]" "$out" || wrong "$again: not by $law"
}

expect 10 S4 --seed 1 --plant send-before-stored
expect 10 S1 --seed 3 --plant restart-without-listening
expect 10 S15 --seed 10 --plant checkpoint-unattested
expect 11 L1 --seed 1 --broken store --until 60
expect 13 'the run ended in a crash' --seed 1 --broken process
expect 14 S14 --seed 1 --broken entropy --twice
expect 10 S4 --seed 1 --plant send-before-stored --real-keys

echo "$ran failing runs, $failed wrong"
[ $failed -eq 0 ]
