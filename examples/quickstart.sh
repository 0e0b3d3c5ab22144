#!/bin/sh
# quickstart.sh - three sites fine-tune one language model together, exchanging one byte a gradient.
#
#   examples/quickstart.sh [--model smollm2|house] [--probes N] [--seed S] [--keep DIR]
#
#   --model smollm2   SmolLM2-135M-Instruct; sites: shop reviews, film reviews, tweets; task: sentiment (the default)
#   --model house     the small model in this tree; sites: Debian maintainers; task: a package's section; offline
#   --probes N        gradient bytes a site makes (default 100, fewer where the processor is slow: ten minutes in all)
#   --seed S          draws the data, the run and the sites' probes (default 1)
#   --keep DIR        where everything lies afterwards (default ./quickstart-out)
#
# Installs what it needs (scripts/install-deps.sh), builds, makes the data, then: a founder calibrates on 32 public
# texts, two sites join by ticket, all three train on their own data, one is killed half-way and comes back.  Compared
# with: the model before, after calibration, each site alone, and first-order training on everybody's data in one place.
# Ends with a table, DIR/result.svg and DIR/summary.json.
set -eu
top=$(cd "$(dirname "$0")/.." && pwd)
model=smollm2 probes= seed=1 out=./quickstart-out

misuse() { echo "quickstart: $1 (see $0 --help)" >&2 && exit 2; }
while [ $# -gt 0 ]; do
    case $1 in
    -h | --help) sed -n '2,/^set/s/^# \{0,1\}//p' "$0" && exit 0 ;;
    --model | --probes | --seed | --keep)
        [ $# -ge 2 ] || misuse "$1 needs a value"
        case $1 in --model) model=$2 ;; --probes) probes=$2 ;; --seed) seed=$2 ;; *) out=$2 ;; esac
        shift 2
        ;;
    *) misuse "no option $1" ;;
    esac
done
case $model in smollm2 | house) ;; *) misuse "no model $model: smollm2 or house" ;; esac
case ${probes:-100}$seed in *[!0-9]*) misuse "--probes and --seed are numbers" ;; esac
[ "${probes:-100}" -ge 2 ] || misuse "--probes is at least 2"

began=$(date +%s)
say() { printf '%4ds  %s\n' $(($(date +%s) - began)) "$1"; }
fail() { echo "quickstart: $1" >&2 && exit 1; }

# --- set-up ------------------------------------------------------------------------------------------------------
"$top/scripts/install-deps.sh"
say "building"
build=$top/build-quickstart
mkdir -p "$build"
{ [ -f "$build/build.ninja" ] || CC=gcc meson setup "$build" "$top" -Dtests=false --buildtype=release; } \
    >"$build/log" 2>&1 && ninja -C "$build" >>"$build/log" 2>&1 ||
    { tail -n 30 "$build/log" >&2 && fail "the build failed; the whole of it is in $build/log"; }
PATH=$build/src/node:$build/peerctl:$PATH

# A folder that this script made may be made anew; any other is left alone.
[ ! -e "$out" ] || [ -f "$out/.quickstart" ] || fail "$out exists and is not mine: choose another with --keep"
rm -rf "$out"
mkdir -p "$out/results" "$out/logs"
touch "$out/.quickstart"
out=$(cd "$out" && pwd)
results=$out/results data=$out/data

say "making the data"
if [ "$model" = smollm2 ]; then
    gguf=$(python3 "$top/examples/fetch.py" smollm2)
    python3 "$top/examples/four_desks.py" "$data" --seed "$seed"
    sites='shop film tweets' title='Three sites fine-tune SmolLM2-135M together: sentiment' steps=20
else
    gguf=$top/examples/models/house-2m.gguf
    python3 "$top/examples/fed_debian.py" "$data" --seed "$seed"
    sites='site-1 site-2 site-3' title='Three sites fine-tune house-2m together: section of a package' steps=20
fi
# shellcheck disable=SC2086
set -- $sites
first=$1 second=$2 third=$3

# --- nodes -------------------------------------------------------------------------------------------------------
pids=''
cleanup() {
    # shellcheck disable=SC2086
    [ -z "$pids" ] || kill $pids 2>/dev/null || true
}
trap cleanup EXIT
trap 'exit 1' INT TERM HUP

# Two cores, three nodes: one thread each is faster than three that fight.
start() {  # start NAME ARGUMENT...   `peerd run` in the background; its process is then $pid_NAME
    name=$1
    shift
    peerd run "$out/$name" --batch 16 --threads 1 "$@" >>"$out/logs/$name.log" 2>&1 &
    eval "pid_$(echo "$name" | tr - _)=$!"
    pids="$pids $!"
}
pid_of() { eval "echo \$pid_$(echo "$1" | tr - _)"; }
stop() {  # stop NAME...   politely: seal, persist, say goodbye
    for name; do kill "$(pid_of "$name")"; done
    for name; do wait "$(pid_of "$name")" || fail "node $name ended badly: $(tail -n 1 "$out/logs/$name.log")"; done
}
status() { peerctl -d "$out/$1" status --json 2>/dev/null || true; }
ask() { status "$1" | python3 -c 'import json, sys; s = json.load(sys.stdin); print(eval(sys.argv[1]))' "$2" 2>/dev/null || true; }
wait_until() {  # wait_until NAME CONDITION   of its status s; a node that died, or too long a time, ends it
    waited=0
    until [ "$(ask "$1" "$2")" = True ]; do
        kill -0 "$(pid_of "$1")" 2>/dev/null || fail "node $1 stopped: $(tail -n 1 "$out/logs/$1.log")"
        [ $((waited += 1)) -le 1200 ] || fail "node $1 does not get on (see peerctl -d $out/$1 status)"
        sleep 0.5
    done
}
# A node whose held-out loss rises for long stops speaking by itself: it has made its bytes, too.
made='s["state"] in ("done", "silenced")'
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
evaluate() {  # evaluate ROW MODEL_OR_DIR   on each site's test text, which no node has seen
    for site in $sites; do
        peerd eval "$2" --data "$data/$site/test.jsonl" --json >"$results/$1.$site.json"
    done
}

say "before: the model as it comes"
evaluate before "$gguf"
# Alone and together, three sites make `probes` records each, of 16 texts on two sides: at the speed just seen these are to
# take 220 of the ten minutes (they take up to a third more: what was measured is the forward pass alone).
[ -n "$probes" ] || probes=$(python3 - "$results" <<'PY'
import glob, json, sys
runs = [json.load(open(f)) for f in glob.glob(f"{sys.argv[1]}/before.*.json")]
tokens, seconds, records = (sum(r[k] for r in runs) for k in ("tokens", "seconds", "records"))
print(max(20, min(100, int(220 / (2 * 3 * 16 * 2 * seconds / records)))))
PY
)

say "$first founds the run: calibrating on 32 public texts"
peerd init "$out/$first" --model "$gguf" --data "$data/$first/train.jsonl" --heldout "$data/$first/heldout.jsonl" \
    --calibrate "$data/calibrate.jsonl" --schedule cosine --decay "$probes" --rate-max 4 --seed "$seed" \
    --listen "127.0.0.1:$(free_port)" >"$out/logs/init.log" 2>&1 ||
    fail "peerd init failed: $(tail -n 1 "$out/logs/init.log")"
evaluate calibrated "$out/$first"

say "$second and $third join by ticket"
start "$first" --records 0
wait_until "$first" 'bool(s["listen"])'
for site in $second $third; do
    ticket=$(peerctl -d "$out/$first" invite 2>/dev/null)
    peerd join "$out/$site" "$ticket" --model "$gguf" --data "$data/$site/train.jsonl" \
        --heldout "$data/$site/heldout.jsonl" --listen "127.0.0.1:$(free_port)" >"$out/logs/join-$site.log" 2>&1 ||
        fail "peerd join failed: $(tail -n 1 "$out/logs/join-$site.log")"
done
stop "$first"

# Each site alone, from the same start, with the same number of probes: a copy of its folder that speaks to nobody.
say "each site alone, $probes gradients each"
for site in $sites; do
    cp -R "$out/$site" "$out/alone-$site"
    start "alone-$site" --solo --records "$probes"
done
for site in $sites; do
    wait_until "alone-$site" "$made"
    stop "alone-$site"
    evaluate "alone-$site" "$out/alone-$site"
done

say "together, $probes gradients each; $second will be killed half-way"
for site in $sites; do start "$site" --records "$probes"; done
wait_until "$second" "s['step'] >= $((probes / 2)) or $made"
before_kill=$(ask "$second" 's["bytes_out"]')
kill -9 "$(pid_of "$second")"
say "$second killed (SIGKILL) at $(ask "$first" 's["records"]') records of all sites; starting it again"
start "$second" --records "$probes"
all=0
for site in $sites; do
    wait_until "$site" "$made and s['unsealed'] == 0"
    all=$((all + $(ask "$site" 's["step"]')))
done
for site in $sites; do wait_until "$site" "s['digest_records'] == $all"; done
for site in $sites; do
    status "$site" >"$results/status.$site.json"
    peerctl -d "$out/$site" verify >"$out/logs/verify-$site.log" || fail "$site does not verify: see $out/logs"
done
rm -rf "$out/adapter"
peerctl -d "$out/$first" export --format peft "$out/adapter" >/dev/null
stop $sites
say "every site holds $all records and replays them to the same bits"
evaluate together "$out/$first"

say "ceiling: first-order on everybody's data in one place, $steps steps"
for site in $sites; do
    set -- "$@" --data "$data/$site/train.jsonl" --eval "$data/$site/test.jsonl"
done
shift 3
peerd fit "$out/$first" "$@" --steps "$steps" --json >"$results/fit.json"
python3 - "$results" "$sites" <<'PY'
import json, sys
folder, sites = sys.argv[1], sys.argv[2].split()
for site, result in zip(sites, json.load(open(f"{folder}/fit.json"))["files"]):
    json.dump(result, open(f"{folder}/ceiling.{site}.json", "w"))
PY

# --- what came of it -----------------------------------------------------------------------------------------------
python3 - "$results/run.json" "$title" "$sites" "$seed" "$probes" "$gguf" "$out/adapter" \
    $(($(date +%s) - began)) "${before_kill:-0}" <<'PY'
import json, sys
path, title, sites, seed, probes, model, adapter, seconds, before_kill = sys.argv[1:]
json.dump({"title": title, "sites": sites.split(), "seed": int(seed), "records_per_site": int(probes),
           "model": model, "adapter": adapter, "seconds": int(seconds), "bytes_before_kill": int(before_kill)}, open(path, "w"))
PY
echo
python3 "$top/examples/report.py" "$out"
echo "adapter   $out/adapter (PEFT)
picture   $out/result.svg
summary   $out/summary.json"
say "done"
