#!/bin/sh
# A fire drill: arms faults of the simulator one after another, and says what to look at.
# docs/how-to/fire-drill.md has the set-up and the whole list.
#
#   sh examples/fire_drill.sh                       ten faults, each for 30 s
#   PAUSE=100 sh examples/fire_drill.sh 503 hang    two of them, long enough for STALE
set -eu

CONTROL=${CONTROL:-http://127.0.0.1:8080/_control}
PAUSE=${PAUSE:-30}
# A worker whose key or plan was refused tries again once a minute.
SETTLE=${SETTLE:-65}

order() {
    curl --silent --show-error --fail --output /dev/null "$@"
}

# Leave no fault behind, however the drill ends.
trap 'order -X DELETE "$CONTROL/faults"' EXIT
trap 'exit 130' INT TERM

drill() {
    fault=$1
    parameters=$2
    look_at=$3
    settle=${4:-$((PAUSE / 3))}
    printf '\n== %s: %s\n' "$fault" "$look_at"
    order -d "{\"fault\": \"$fault\"$parameters}" "$CONTROL/faults"
    sleep "$PAUSE"
    order -X DELETE "$CONTROL/faults"
    printf '   over; wait %s s until all is well again\n' "$settle"
    sleep "$settle"
}

run() {
    case $1 in
        503) drill 503 '' 'log "a check failed: unavailable"; STALE after 90 s' ;;
        hang) drill hang '' 'log "no response within 10 s"' ;;
        firewall) drill firewall '' 'log "a check failed: intercepted"' ;;
        401) drill 401 '' 'page and /health/ready: the key is refused' "$SETTLE" ;;
        403) drill 403 '' 'page and /health/ready: the plan is refused' "$SETTLE" ;;
        freeze) drill freeze '' 'good answers, old levels: STALE (old) after 90 s' ;;
        wrong_types) drill wrong_types ', "symbols": ["BTCUSDT"]' 'gex-connector quarantine follow' ;;
        invalid) drill invalid ', "symbols": ["BTCUSDT"]' 'gex-connector watch: INVALID' ;;
        missing) drill missing ', "symbols": ["BTCUSDT"]' 'gex-connector watch: MISSING, then RESTORED' ;;
        flow_fallback) drill flow_fallback '' 'gex-connector watch: SNAPSHOT (positioning)' ;;
        *) echo "unknown: $1" >&2; exit 2 ;;
    esac
}

if [ $# -eq 0 ]; then
    set -- 503 hang firewall freeze wrong_types invalid missing flow_fallback 401 403
fi
for name in "$@"; do
    run "$name"
done
printf '\ndone; gex-connector verify proves that no event was lost or doubled\n'
