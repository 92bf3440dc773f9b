#!/bin/sh
# Takes {{.Name}} off this machine: the member leaves its cluster first, then
# service, settings and data go. With --keep-data it stays a member, as one that is
# switched off, and settings and data stay: install.sh brings it back.
# Written by install.sh.
set -u

name={{.Name}}
bin={{.Bin}}
config={{.Config}}
data={{.Data}}
user={{.User}}
bin_dir=${bin%/*}
unit_dir={{.UnitDir}}

say() { echo "[INFO]  $*"; }
warn() { echo "[WARN]  $*" >&2; }
fatal() {
	echo "[ERROR] $*" >&2
	exit 1
}

keep='' force=''
for arg; do
	case "$arg" in
	--keep-data) keep=1 ;;
	--force) force=1 ;;
	*)
		echo "usage: $0 [--keep-data] [--force]
  --keep-data  settings and data stay, and the member stays one
  --force      go on although the member cannot leave its cluster" >&2
		exit 2
		;;
	esac
done
if [ "$(id -u)" -ne 0 ]; then
	exec sudo "$0" "$@"
fi

systemd() { [ -d /run/systemd/system ]; }
openrc() { command -v rc-service >/dev/null 2>&1; }

running() {
	if systemd; then
		systemctl is-active --quiet "$name"
	elif openrc; then
		rc-service "$name" status >/dev/null 2>&1
	else
		return 1
	fi
}

# A member that goes for good is taken out first, so that the others do not wait for
# it. One that is all there is takes the data with it.
leave() {
	if ! running; then
		warn "$name does not run, so it cannot leave its cluster: if it has others, take it out there with: limpet member remove"
		return
	fi
	say "leaving the cluster"
	n=0
	until "$bin" member leave --data-dir "$data" --unless-only; do
		n=$((n + 1))
		if [ $n -ge 5 ]; then
			[ -n "$force" ] || fatal "$name cannot leave its cluster now; try again, or give --force and take it out with limpet member remove on another member"
			return
		fi
		sleep 2
	done
}
[ -n "$keep" ] || leave

say "removing the service $name"
if systemd; then
	systemctl disable --now "$name" >/dev/null 2>&1
	systemctl reset-failed "$name" >/dev/null 2>&1
elif openrc; then
	rc-service "$name" stop >/dev/null 2>&1
	rc-update delete "$name" default >/dev/null 2>&1
fi
rm -rf "$unit_dir/$name.service" "$unit_dir/$name.service.d"
rm -f "/etc/init.d/$name"
rm -rf "/run/$name" # OpenRC leaves it
if systemd; then
	systemctl daemon-reload
fi

if [ -z "$keep" ]; then
	say "removing settings and data"
	rm -rf "${config%/*}"
	# What is mounted stays, empty.
	rm -rf "$data" 2>/dev/null || find "$data" -mindepth 1 -delete 2>/dev/null
	rm -f "/var/log/$name.log"
fi

others() {
	for file in "$unit_dir"/limpet.service "$unit_dir"/limpet-*.service /etc/init.d/limpet /etc/init.d/limpet-*; do
		[ -e "$file" ] && return 0
	done
	return 1
}
script=$0
if others; then
	say "another limpet is installed: its program stays"
else
	if [ "$(readlink "$bin_dir/etcdctl" 2>/dev/null)" = "$bin" ]; then
		rm -f "$bin_dir/etcdctl"
	fi
	rm -f "$bin" "$bin_dir/limpet-killall.sh"
	if [ -z "$keep" ] && [ "$user" = limpet ] && id limpet >/dev/null 2>&1; then
		if command -v userdel >/dev/null 2>&1; then userdel limpet; else deluser limpet; fi >/dev/null 2>&1
	fi
fi
rm -f "$script" "/run/$name.changed"
say "$name is gone"
if [ -n "$keep" ]; then
	say "its settings are in ${config%/*}, its data in $data"
fi
