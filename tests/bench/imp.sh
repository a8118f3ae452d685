#!/usr/bin/env bash
# imp.sh start|stop: one imp node (or IMP_BENCH_NODES of them) with the accounts that the load generator expects: user0 ...
# and pr0 ... pr499, password "secret", domain localhost. Prints PID, HOSTS, TLSHOSTS, DOMAIN as shell assignments. Data
# and accounts are kept in $IMP_BENCH_DIR (default /tmp/imp-bench) for the next run. IMP_BENCH_PORT: the clients' port
# (default 5722); direct TLS is the one after it, the cluster's is 2148 after it. IMP_BENCH_ARCHIVE: archive.default (never).
# IMP_BENCH_SPREAD=across: user I is at home on the node where the load generator connects it.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
dir=${IMP_BENCH_DIR:-/tmp/imp-bench}
bin=${IMP_BUILD:-$root/build/release}
nodes=${IMP_BENCH_NODES:-1}
users=${IMP_BENCH_USERS:-2000}
port=${IMP_BENCH_PORT:-5722}
node=$bin/node/impnode
cli() { "$bin/cli/impcli" --data "$dir/n1" "$@"; }
say() { echo "imp.sh: $*" >&2; }
retry() { # seconds command...
    local end=$((SECONDS + $1))
    shift
    until "$@" > /dev/null 2>&1; do
        [ $SECONDS -lt $end ] || { say "gave up on: $*"; "$@" >&2 || exit 1; }
        sleep 0.2
    done
}
stop() {
    local p i
    for p in "$dir"/*.pid; do
        [ -s "$p" ] || continue
        i=$(cat "$p")
        if { tr '\0' ' ' < "/proc/$i/cmdline"; } 2>/dev/null | grep -q impnode; then
            kill "$i"
            while [ -d "/proc/$i" ]; do sleep 0.1; done
        fi
        rm -f "$p"
    done
}
run() { # index
    setsid "$node" run --data "$dir/n$1" --log-level warning > "$dir/n$1.log" 2>&1 < /dev/null &
    echo $! > "$dir/n$1.pid"
}
running() { cli --json dbreplication runtimestate "n$1" | grep -q '"services":"running"'; }

case ${1:-} in
stop) stop; exit 0 ;;
start) ;;
*) sed -n '2,7s/^# //p' "$0"; exit 2 ;;
esac
stop
mkdir -p "$dir"
ulimit -n "$(ulimit -Hn)" 2>/dev/null || true
ports=(--listen-xmpp "$port" --listen-xmpps $((port + 1)) --listen-cluster $((port + 2148)) --listen-https off)
if [ ! -d "$dir/n1" ]; then
    "$node" init --data "$dir/n1" --name n1 --address 127.0.0.1 --domain localhost "${ports[@]}" >&2
fi
run 1
retry 20 cli node list
for ((i = 2; i <= nodes; i++)); do
    if [ ! -d "$dir/n$i" ]; then
        "$node" join "127.0.0.1:$((port + 2148))" --token "$(cli node token)" --data "$dir/n$i" --name "n$i" --address "127.0.0.$i" \
            "${ports[@]}" >&2
    fi
    run "$i"
done
for ((i = 1; i <= nodes; i++)); do retry 60 running "$i"; done
# as the peers are set up: clear text allowed, no limits in the way
cli settings set xmpp.require_tls false > /dev/null
cli settings set xmpp.plain_without_tls true > /dev/null
cli settings set limits.connections_per_address 1000000 > /dev/null
cli settings set limits.unauthenticated 100000 > /dev/null
cli settings set archive.default "${IMP_BENCH_ARCHIVE:-never}" > /dev/null
have=$(cat "$dir/users" 2>/dev/null || echo 0)
if [ "$have" -lt "$users" ]; then
    say "adding accounts $have to $((users - 1))"
    {
        for ((i = have; i < users; i++)); do echo "user$i,secret"; done
        [ "$have" -gt 0 ] || for ((i = 0; i < 500; i++)); do echo "pr$i,secret"; done
    } | cli user import - >&2
    if [ "${IMP_BENCH_SPREAD:-}" = across ]; then
        for ((i = have; i < users; i++)); do echo "user$i,n$((i % nodes + 1))"; done > "$dir/homes.csv"
        cli user assign --file "$dir/homes.csv" >&2
    fi
    echo "$users" > "$dir/users"
fi
pid= hosts= tls=
for ((i = 1; i <= nodes; i++)); do
    pid=$pid${pid:+,}$(cat "$dir/n$i/worker.pid")
    hosts=$hosts${hosts:+,}127.0.0.$i:$port
    tls=$tls${tls:+,}127.0.0.$i:$((port + 1))
done
echo "PID=$pid HOSTS=$hosts TLSHOSTS=$tls DOMAIN=localhost"
