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

# A member that waits for others runs, too, and one that is started again and again
# may have begun.
running() {
	if systemd; then
		case "$(systemctl show -p ActiveState --value "$name")" in
		active | activating | reloading) return 0 ;;
		esac
		return 1
	elif openrc; then
		rc-service "$name" status >/dev/null 2>&1
	else
		return 1
	fi
}

# A member that goes for good is taken out first, so that the others do not wait for
# it. One that is all there is takes the data with it. One that cannot leave may have
# what nobody else has any more.
leave() {
	[ -e "$data/limpet.json" ] || return 0 # there never was one
	! grep -q '"removed": *true' "$data/limpet.json" || return 0 # it has left already
	if ! running; then
		cannot "$name does not run, so it cannot leave its cluster: start it, and try again"
		return
	fi
	say "leaving the cluster"
	n=0
	until "$bin" member leave --data-dir "$data" --unless-only; do
		n=$((n + 1))
		if [ $n -ge 5 ]; then
			cannot "$name cannot leave its cluster now: try again"
			return
		fi
		sleep 2
	done
}

cannot() {
	[ -n "$force" ] || fatal "$1. --keep-data keeps its data; --force removes it, which may be the last copy, and the member is taken out with limpet member remove on another one"
	warn "$1"
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
rm -f "/etc/init.d/$name" "/etc/logrotate.d/$name"
rm -rf "/run/$name" # OpenRC leaves it
if systemd; then
	systemctl daemon-reload
fi

if [ -z "$keep" ]; then
	say "removing settings and data"
	# limpet knows which files are its own; the raft log may be on another disk.
	"$bin" member erase --data-dir "$data" --yes || warn "the data in $data was not removed, or not all of it"
	rm -rf "${config%/*}"
	rm -f "/var/log/$name.log"*
	rmdir "/var/lib/$name" 2>/dev/null # systemd makes it, wherever the data is
fi

script=$0
rm -f "$bin_dir/$name-uninstall.sh" "$script" "/run/$name.changed"
# Others are those with scripts like this one, wherever their units are.
others() {
	for file in "$bin_dir"/limpet-uninstall.sh "$bin_dir"/limpet-*-uninstall.sh; do
		[ -e "$file" ] && return 0
	done
	return 1
}
if others; then
	say "another limpet is installed: its program stays"
else
	if [ "$(readlink "$bin_dir/etcdctl" 2>/dev/null)" = "$bin" ]; then
		rm -f "$bin_dir/etcdctl"
	fi
	rm -f "$bin" "$bin_dir/limpet-killall.sh"
	# The user goes if install.sh has made it, and nobody's settings need it.
	if [ -z "$keep" ] && [ "$user" = limpet ] && grep -q '^limpet:[^:]*:[^:]*:[^:]*:limpet service' /etc/passwd &&
		[ -z "$(find /etc -maxdepth 2 -path '/etc/limpet*/config.yaml')" ]; then
		if command -v userdel >/dev/null 2>&1; then userdel limpet; else deluser limpet; fi >/dev/null 2>&1
		if command -v groupdel >/dev/null 2>&1; then groupdel limpet; else delgroup limpet; fi >/dev/null 2>&1
	fi
fi
say "$name is gone"
if [ -n "$keep" ]; then
	say "its settings are in ${config%/*}, its data in $data"
fi
