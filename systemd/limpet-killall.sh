#!/bin/sh
# Stops every limpet on this machine at once, and kills what is left. Data stays;
# members that are stopped stay members. Written by install.sh.
set -u

if [ "$(id -u)" -ne 0 ]; then
	exec sudo "$0" "$@"
fi
case "${1:-}" in
'') ;;
*)
	echo "usage: $0" >&2
	exit 2
	;;
esac

if [ -d /run/systemd/system ]; then
	for unit in $(systemctl list-units --plain --no-legend --all 'limpet.service' 'limpet-*.service' | cut -d ' ' -f 1); do
		echo "stopping $unit"
		systemctl stop "$unit"
	done
elif command -v rc-service >/dev/null 2>&1; then
	for script in /etc/init.d/limpet /etc/init.d/limpet-*; do
		if [ -x "$script" ]; then
			echo "stopping ${script##*/}"
			rc-service "${script##*/}" stop
		fi
	done
fi

# Those that nobody manages: told to stop first, since that hands leadership over.
left() {
	for proc in /proc/[0-9]*; do
		case "$(readlink "$proc/exe" 2>/dev/null)" in
		"{{.Bin}}" | "{{.Bin}} (deleted)") echo "${proc#/proc/}" ;; # the latter after an upgrade
		esac
	done
}
pids=$(left)
if [ -n "$pids" ]; then
	# shellcheck disable=SC2086 # one word each
	kill -TERM $pids 2>/dev/null
	n=0
	while [ -n "$(left)" ] && [ $n -lt 5 ]; do
		sleep 1
		n=$((n + 1))
	done
	pids=$(left)
	if [ -n "$pids" ]; then
		# shellcheck disable=SC2086
		kill -KILL $pids 2>/dev/null
	fi
fi
exit 0
