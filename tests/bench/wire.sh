#!/bin/sh
# wire.sh - what one gradient costs on the wire, as the kernel counts it.
#
#   tests/bench/wire.sh [--seals "60 600"] [--records N] [--build DIR] [--model FILE]
#
#   --seals LIST    records a signature covers (default "60 600")
#   --records N     gradients a node makes, a multiple of each (default 1200)
#   --build DIR     where peerd and peerctl were built (default build)
#   --model FILE    default: the small model in the tree
#
# Two nodes, each in a network namespace of its own, joined by a veth pair; /sys/class/net counts.  Counted from the
# moment both are linked until both hold every sealed record of both: data, signatures, frames, CURVE, TCP/IP and its
# acknowledgements, pings and summaries, but not the join and the basis.  Ethernet headers (14 bytes a packet) are
# counted by the kernel and taken off here.  Segmentation offload is off, or headers would go uncounted.
#
# Needs root and iproute2; exit 77 without.
set -eu
top=$(cd "$(dirname "$0")/../.." && pwd)
seals='60 600' records=1200 build=$top/build model=$top/examples/models/house-2m.gguf
while [ $# -gt 0 ]; do
    case $1 in
    --seals) seals=$2 ;; --records) records=$2 ;; --build) build=$2 ;; --model) model=$2 ;;
    *) sed -n '2,/^set/s/^# \{0,1\}//p' "$0" && exit 2 ;;
    esac
    shift 2
done
[ "$(id -u)" = 0 ] && command -v ip >/dev/null || { echo "wire: needs root and iproute2: skipped" && exit 77; }
build=$(cd "$build" && pwd)
PATH=$build/src/node:$build/peerctl:$PATH

work=$(mktemp -d) a=pdwa$$ b=pdwb$$ pids=''
clean() {
    for p in $pids; do kill "$p" 2>/dev/null || :; done
    wait
    ip netns del $a 2>/dev/null || :
    ip netns del $b 2>/dev/null || :
    rm -rf "$work"
}
trap clean EXIT
trap 'exit 1' INT TERM

ip netns add $a && ip netns add $b || { echo "wire: no network namespaces here: skipped" && exit 77; }
for n in $a $b; do
    ip netns exec $n sh -c 'echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6' 2>/dev/null || :
done
ip link add v netns $a type veth peer name v netns $b
for n in $a $b; do
    ip -n $n link set v gso_max_segs 1 up
    ip -n $n link set lo up
done
ip -n $a addr add 10.77.0.1/24 dev v
ip -n $b addr add 10.77.0.2/24 dev v

# What crossed the pair, both ways: bytes and packets.
counters() {
    ip netns exec $a sh -c 'cd /sys/class/net/v/statistics && echo $(($(cat rx_bytes) + $(cat tx_bytes))) $(($(cat rx_packets) + $(cat tx_packets)))'
}
# One field of a node's status.
field() { peerctl -d "$1" status --json 2>/dev/null | sed -n "s/^[[:space:]]*\"$2\":[[:space:]]*\"*\([a-z0-9.]*\)\"*,*$/\1/p" | head -n 1; }
# Wait until a node's field has a value, or fail after some seconds.
await() {
    i=0
    until [ "$(field "$1" "$2")" = "$3" ]; do
        i=$((i + 1))
        [ $i -lt $(($4 * 10)) ] || { echo "wire: $1: $2 is $(field "$1" "$2"), not $3, after $4 s" >&2 && tail -n 5 "$work"/*.log >&2 && exit 1; }
        sleep 0.1
    done
}

# A node that does not train until it is told to.
start() {
    sed -i 's/"paused":[[:space:]]*false/"paused": true/' "$2/node.json"
    ip netns exec "$1" peerd run "$2" --records "$records" --seal-records "$3" --seal-ms 900000 --quiet \
        >"$2.log" 2>&1 &
    last=$!
    pids="$pids $last"
}

i=0
while [ $i -lt 64 ]; do
    echo "{\"prompt\": \"$i plus 1 is\", \"choices\": [\" odd\", \" even\"], \"answer\": $(((i + 1) % 2 == 0))}"
    i=$((i + 1))
done >"$work/data.jsonl"

for k in $seals; do
    rm -rf "$work/a" "$work/b"
    peerd init "$work/a" --model "$model" --data "$work/data.jsonl" --calibrate "$work/data.jsonl" --warm-steps 0 \
        --listen 10.77.0.1:7433 --name a --batch 1 >"$work/log.init" 2>&1 || { cat "$work/log.init" >&2 && exit 1; }
    start $a "$work/a" "$k"
    pa=$last
    await "$work/a" members 0 60
    ticket=$(peerctl -d "$work/a" invite 2>/dev/null)
    ip netns exec $b peerd join "$work/b" "$ticket" --model "$model" --data "$work/data.jsonl" \
        --listen 10.77.0.2:7433 --name b --batch 1 >"$work/log.join" 2>&1 || { cat "$work/log.join" >&2 && exit 1; }
    start $b "$work/b" "$k"
    pb=$last
    await "$work/a" links 1 60
    await "$work/b" links 1 60
    sleep 2 # what a new link says to itself
    set -- $(counters)
    bytes=$1 packets=$2 began=$(date +%s)
    peerctl -d "$work/a" resume >/dev/null
    peerctl -d "$work/b" resume >/dev/null
    await "$work/a" state done 1200
    await "$work/b" state done 1200
    sleep 1 # the last seals arrive; a rest that makes no whole seal is nobody's record yet
    n=$(field "$work/a" records)
    await "$work/b" records "$n" 60
    set -- $(counters)
    kill $pa $pb
    wait $pa $pb || :
    pids=''
    awk -v k="$k" -v n="$n" -v b=$(($1 - bytes)) -v p=$(($2 - packets)) -v s=$(($(date +%s) - began)) 'BEGIN {
        printf "seals of %d records: %.3f bytes a gradient (%d gradients, %d bytes in %d packets, %d s)\n", k, (b - 14 * p) / n, n, b - 14 * p, p, s }'
done
