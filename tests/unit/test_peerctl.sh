#!/bin/sh
# test_peerctl.sh PEERCTL - what a person meets before any node runs: every misuse is one line that
# names the way out, with the exit status of its kind (1 failed, 2 misused).
set -u
peerctl=$(readlink -f "$1") # before the folder changes
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work" && mkdir node bin && touch node/node.json
unset PEERD_DIR
ran=0 failed=0

# STATUS TEXT ARGS...: run peerctl ARGS, expect the status and one line that holds the text.
expect() {
    status=$1 text=$2
    shift 2
    out=$(PATH="$work/bin:$PATH" "$peerctl" "$@" 2>&1 </dev/null)
    got=$?
    lines=$(printf '%s\n' "$out" | wc -l)
    ran=$((ran + 1))
    case $out in *"$text"*) ok=yes ;; *) ok=no ;; esac
    [ "$status" = 0 ] || [ "$lines" -eq 1 ] || ok=no
    [ $ok = yes ] && [ "$got" -eq "$status" ] && return
    failed=$((failed + 1))
    printf 'peerctl %s: status %d, said: %s\n  expected %d and: %s\n' "$*" $got "$out" "$status" "$text"
}

expect 0 'usage: peerctl' --help
expect 0 'usage: peerctl' help
expect 0 'peerctl 0.' --version
for c in status members log journal doctor invite join leave ban rotate pause resume verify backup export; do
    expect 0 'example: peerctl' $c --help
    expect 0 'example: peerctl' help $c
done
expect 2 "unknown command 'dance'" dance
expect 2 'unknown flag --shout' --shout status
expect 2 'no folder stands after' -d
for c in status members log journal doctor invite leave rotate pause resume verify; do
    expect 2 'unknown flag --shout' -d node $c --shout
    expect 2 'one argument too many' -d node $c extra
    expect 2 'name one with -d DIR' $c
    expect 1 'absent is not a node' -d absent $c
done
for c in status members log journal invite leave rotate pause resume; do
    expect 1 'start it with: peerd run node' -d node $c
    expect 1 'start it with: peerd run node' $c -d node
done
expect 2 'an argument is missing' -d node ban
expect 2 '--from takes' -d node ban --from -1 site-c
expect 1 'start it with: peerd run node' -d node ban site-c
expect 2 'not a duration' -d node invite --expires soon
expect 2 '--reusable takes 1 to 1000' -d node invite --reusable 0
expect 2 'no ticket is given' -d node join
expect 1 'cut short' -d node join peerd1aebagba
expect 2 'an argument is missing' -d node export
expect 2 'takes peft, gguf, merged-gguf or merged-safetensors' -d node export --format zip out
expect 2 'an argument is missing' -d node backup
expect 2 'one argument too many' -d node backup one two
expect 2 'name one with -d DIR' backup out
expect 1 'absent is not a node' -d absent backup out
expect 1 'start it with: peerd run node' -d node backup out
expect 2 '--from takes a whole number' -d node log --from x
expect 2 '--limit takes 1 to 1' -d node log --limit 0

# On a stopped node verify and export, and join where there is none, become peerd.
printf '#!/bin/sh\necho "became: $*"\n' >bin/peerd && chmod +x bin/peerd
if [ ! -e "$(dirname "$(readlink -f "$peerctl")")/peerd" ]; then
    ticket=peerd1agvkvkvkvkvkvkvkvkvkvkvkvkvacaqdaqcqmbyibefawdanbyhraeiscmkbkfqxdamrugy4dupb6icvkvkvkvkvkvkvkvkvkvkvkvkvaecacaibaeer2ahrkns454ky4i
    expect 0 'became: verify node' -d node verify
    expect 0 "became: export node --format gguf $work/out.gguf" -d node export --format gguf out.gguf
    expect 0 "became: join fresh $ticket --model m --data d" -d fresh join $ticket --model m --data d
    expect 2 'holds a node already' -d node join $ticket --model m
fi

echo "$ran command lines, $failed wrong"
[ $failed -eq 0 ]
