#!/bin/sh
# Three boards in three network namespaces become one cluster by themselves; then
# the story that every etcd tutorial tells: a key, a dead leader, a new one, the
# key on every member, the dead one back. Needs root and iproute2. Nothing is
# left behind: the namespaces and the data end with the script.
set -eu

limpet=${LIMPET:-./limpet}
work=$(mktemp -d)
token=$("$limpet" token generate)
boards="1 2 3"

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
show() { printf '$ %s\n' "$*"; }
on() { board=$1; shift; ip netns exec "limpet-demo-$board" "$@"; }
pid() { cat "$work/$1.pid"; }

cleanup() {
	for b in $boards; do
		[ -f "$work/$b.pid" ] && kill -9 "$(pid "$b")" 2>/dev/null
		ip netns del "limpet-demo-$b" 2>/dev/null
	done
	ip netns del limpet-demo-hub 2>/dev/null
	rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 1' INT TERM

# The same command on every board: no names, no addresses, no order.
start() {
	LIMPET_TOKEN=$token ip netns exec "limpet-demo-$1" "$limpet" server --bootstrap-expect 3 --name "board$1" \
		--data-dir "$work/board$1" --log-format text \
		--listen-client-urls http://0.0.0.0:2379 --advertise-client-urls "http://10.99.0.$1:2379" \
		>>"$work/board$1.log" 2>&1 &
	echo $! >"$work/$1.pid"
}

# until CONDITION WORDS…: waits, and gives up after a minute.
until_true() {
	n=0
	until "$@" >/dev/null 2>&1; do
		n=$((n + 1))
		if [ $n -gt 120 ]; then
			echo "in vain: $*" >&2
			tail -n 20 "$work"/*.log >&2
			exit 1
		fi
		sleep 0.5
	done
}

ask() { on "$1" "$limpet" "$2" --endpoints 127.0.0.1:2379; }
ctl() { b=$1; shift; on "$b" "$limpet" etcdctl --endpoints 127.0.0.1:2379 "$@"; }
voters() { ctl "$1" member list | grep -c ', started, .*, false$' | grep -qx 3; }
leader() {
	for b in $boards; do
		if ctl "$b" endpoint status 2>/dev/null | cut -d, -f9 | grep -q true; then echo "$b"; fi
	done
}
has_leader() { [ -n "$(leader)" ]; }

say "Three boards on one network"
ip netns add limpet-demo-hub
ip -n limpet-demo-hub link add br0 type bridge
ip -n limpet-demo-hub link set br0 up
for b in $boards; do
	ip netns add "limpet-demo-$b"
	ip -n "limpet-demo-$b" link add eth0 type veth peer name "port$b" netns limpet-demo-hub
	ip -n limpet-demo-hub link set "port$b" master br0 up
	ip -n "limpet-demo-$b" addr add "10.99.0.$b/24" dev eth0
	ip -n "limpet-demo-$b" link set lo up
	ip -n "limpet-demo-$b" link set eth0 up
	echo "board$b has 10.99.0.$b"
done

say "On each of them, in any order"
show "LIMPET_TOKEN=… limpet server --bootstrap-expect 3"
for b in $boards; do start "$b"; done
for b in $boards; do until_true voters "$b"; done
show "limpet status"
ask 1 status

say "A key"
show "limpet etcdctl put message 'hello from board 1'"
ctl 1 put message 'hello from board 1'
until_true has_leader
dead=$(leader)
for b in $boards; do [ "$b" != "$dead" ] && alive=$b; done

say "The leader is board$dead; the power goes there"
show "kill -9"
kill -9 "$(pid "$dead")"
show "limpet etcdctl put message 'still here'        # on board$alive"
until_true ctl "$alive" put message 'still here'
noticed() { ask "$alive" status | grep -q away; }
until_true noticed
ask "$alive" status

say "The key on every member that is left"
for b in $boards; do
	[ "$b" = "$dead" ] && continue
	show "limpet etcdctl get message                     # on board$b"
	ctl "$b" get message
done

say "board$dead comes back"
start "$dead"
until_true ctl "$dead" get message
show "limpet etcdctl get message                     # on board$dead"
ctl "$dead" get message
well() { ! ask "$dead" status | grep -q away; }
until_true well
ask "$dead" status
