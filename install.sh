#!/bin/sh
# Installs limpet as a service, or upgrades it. POSIX sh.
#
#   curl -sfL ADDRESS/install.sh | sh -s - [flags of limpet server]
#   sh install.sh [flags of limpet server]
#
# The program comes from, in this order: BIN_DIR, if INSTALL_LIMPET_SKIP_DOWNLOAD
# says so; the checkout that this script lies in, built with Go; a file named limpet
# beside this script; a mirror.
#
# Flags and LIMPET_* variables are written into /etc/limpet/config.yaml and stay
# there: a later run changes what it is given, and nothing else. The token goes into
# /etc/limpet/token, which only the service can read.
#
#   INSTALL_LIMPET_VERSION        version to install (default: what the channel has)
#   INSTALL_LIMPET_CHANNEL        stable, or another that the mirror has
#   INSTALL_LIMPET_MIRROR         address of a folder that make release has made
#   INSTALL_LIMPET_BIN_DIR        /usr/local/bin, or /opt/bin where that is read-only
#   INSTALL_LIMPET_SYSTEMD_DIR    /etc/systemd/system
#   INSTALL_LIMPET_EXEC           flags of limpet server, before those of the command line
#   INSTALL_LIMPET_NAME           a second member on this machine: service limpet-NAME
#   INSTALL_LIMPET_SKIP_DOWNLOAD  true: the program is in BIN_DIR already
#   INSTALL_LIMPET_SKIP_ENABLE    true: do not start the service when the machine starts
#   INSTALL_LIMPET_SKIP_START     true: do not start it now
#   INSTALL_LIMPET_FORCE_RESTART  true: restart it although nothing has changed
#   INSTALL_LIMPET_SYMLINK        skip: no link named etcdctl; force: also over another
set -eu
set -f # no word here is a pattern of files
umask 022 # what is secret says so where it is made

# make release writes here where its files are to be found.
MIRROR=${INSTALL_LIMPET_MIRROR:-}

info() { echo "[INFO]  $*"; }
warn() { echo "[WARN]  $*" >&2; }
fatal() {
	echo "[ERROR] $*" >&2
	exit 1
}

is_true() {
	case "${1:-}" in
	true | yes | 1) return 0 ;;
	'' | false | no | 0) return 1 ;;
	*) fatal "$2 is \"$1\", want true or false" ;;
	esac
}

# as_root runs a command as root.
as_root() {
	if [ "$(id -u)" -eq 0 ]; then
		"$@"
	else
		sudo "$@"
	fi
}

# --- what there is --------------------------------------------------------------

find_init() {
	if command -v systemctl >/dev/null 2>&1 && [ -d /run/systemd/system ]; then
		INIT=systemd
	elif [ -x /sbin/openrc-run ]; then
		INIT=openrc
	elif command -v systemctl >/dev/null 2>&1; then
		INIT=systemd # an image that is made for later
	else
		fatal "neither systemd nor OpenRC is here: run limpet server by what starts programs on this machine"
	fi
}

find_arch() {
	machine=${INSTALL_LIMPET_ARCH:-$(uname -m)}
	case "$machine" in
	amd64 | x86_64) ARCH=amd64 ;;
	arm64 | aarch64) ARCH=arm64 ;;
	armv7 | armv7l | armv8l) ARCH=armv7 ;;
	riscv64) ARCH=riscv64 ;;
	*) fatal "there is no limpet for $machine; it can be built from source with Go" ;;
	esac
}

# find_source names the checkout that this script lies in, or the folder with a
# binary beside it. Through a pipe it lies nowhere.
find_source() {
	CHECKOUT='' BESIDE=''
	case "$0" in
	*install.sh) ;;
	*) return 0 ;;
	esac
	[ -f "$0" ] || return 0
	here=$(cd "$(dirname "$0")" && pwd)
	if [ -f "$here/go.mod" ] && grep -q '^module limpet$' "$here/go.mod" && command -v go >/dev/null 2>&1; then
		CHECKOUT=$here
	elif [ -f "$here/limpet" ]; then
		BESIDE=$here/limpet
	elif [ -f "$here/limpet-linux-$ARCH" ]; then
		BESIDE=$here/limpet-linux-$ARCH
	fi
}

set_up() {
	if [ "$(id -u)" -ne 0 ] && ! command -v sudo >/dev/null 2>&1; then
		fatal "this must run as root, or as somebody who may use sudo"
	fi
	find_init
	find_arch
	find_source
	NAME=limpet
	if [ -n "${INSTALL_LIMPET_NAME:-}" ]; then
		case "$INSTALL_LIMPET_NAME" in
		*[!A-Za-z0-9_-]*) fatal "INSTALL_LIMPET_NAME is \"$INSTALL_LIMPET_NAME\": use letters, digits, _ and -" ;;
		esac
		NAME=limpet-$INSTALL_LIMPET_NAME
	fi
	SERVICE_USER=limpet
	CONFIG=/etc/$NAME/config.yaml
	DATA=/var/lib/$NAME
	UNIT_DIR=${INSTALL_LIMPET_SYSTEMD_DIR:-/etc/systemd/system}
	BIN_DIR=${INSTALL_LIMPET_BIN_DIR:-}
	if [ -z "$BIN_DIR" ]; then
		BIN_DIR=/usr/local/bin
		if ! as_root sh -c "mkdir -p $BIN_DIR && touch $BIN_DIR/.limpet && rm -f $BIN_DIR/.limpet" 2>/dev/null; then
			BIN_DIR=/opt/bin # read-only roots have that
		fi
	fi
	case "$BIN_DIR$UNIT_DIR" in
	*[!A-Za-z0-9/._@:+-]*) fatal "folders for the program and for units can have letters, digits and /._@:+- alone: $BIN_DIR, $UNIT_DIR" ;;
	esac
	case "$BIN_DIR" in /*) ;; *) fatal "INSTALL_LIMPET_BIN_DIR is \"$BIN_DIR\", want a whole path" ;; esac
	case "$UNIT_DIR" in /*) ;; *) fatal "INSTALL_LIMPET_SYSTEMD_DIR is \"$UNIT_DIR\", want a whole path" ;; esac
	BIN=$BIN_DIR/limpet
	case "${INSTALL_LIMPET_SYMLINK:-}" in '' | skip | force) ;; *) fatal "INSTALL_LIMPET_SYMLINK is \"$INSTALL_LIMPET_SYMLINK\", want skip or force" ;; esac
	# In a folder of its own, so that nothing half-made has a name that counts.
	TMP=$(mktemp -d "${TMPDIR:-/tmp}/limpet-install.XXXXXXXXXX")
	LOCK=''
	# Files are changed, and the service was not started from them yet: a run that is
	# cut short tells the next one.
	CHANGED=/run/$NAME.changed BEFORE='' PENDING=''
	trap 'rm -rf "$TMP"; [ -z "$LOCK" ] || [ ! -e "$BIN.new" ] || as_root rm -f "$BIN.new"; forget; unlock' EXIT
	trap 'exit 129' HUP
	trap 'exit 130' INT
	trap 'exit 143' TERM
	lock
	[ ! -e "$CHANGED" ] || PENDING=true
}

# lock: two runs at once would take each other's files. A run that was killed leaves
# the folder; its process is gone.
lock() {
	other=/run/limpet-install
	n=0
	until as_root mkdir "$other" 2>/dev/null; do
		pid=$(cat "$other/pid" 2>/dev/null || true)
		if [ -n "$pid" ] && [ -d "/proc/$pid" ]; then
			fatal "another run of install.sh is under way (process $pid): wait for its end"
		fi
		n=$((n + 1))
		[ $n -lt 5 ] || as_root rm -rf "$other" # and not before it has had time to say who it is
		[ $n -lt 10 ] || fatal "$other cannot be made: is /run there, and writable?"
		sleep 1
	done
	LOCK=$other
	as_root sh -c "echo $$ >$other/pid"
}

unlock() { [ -z "$LOCK" ] || as_root rm -rf "$LOCK"; }

# --- the program ----------------------------------------------------------------

# fetch gets an address as a file.
fetch() {
	if command -v curl >/dev/null 2>&1; then
		curl -sfL --retry 2 --connect-timeout 15 --speed-limit 1 --speed-time 60 -o "$2" "$1"
	elif command -v wget >/dev/null 2>&1; then
		# Some busyboxes are built without -T, and crash when they see it.
		limit=''
		! wget --help 2>&1 | grep -q -e '-T' || limit='-T 60'
		# shellcheck disable=SC2086 # two words, or none
		wget -q -t 3 $limit -O "$2" "$1"
	else
		fatal "neither curl nor wget is here"
	fi || fatal "$1 cannot be fetched"
}

hash_of() { sha256sum "$1" | cut -d ' ' -f 1; }

# download gets the version that is asked for into $TMP/limpet, unless it is
# installed already.
download() {
	[ -n "$MIRROR" ] || fatal "it is not known where limpet's releases are: give INSTALL_LIMPET_MIRROR, or run this script from a checkout (with Go) or beside the program"
	version=${INSTALL_LIMPET_VERSION:-}
	if [ -z "$version" ]; then
		fetch "$MIRROR/channels/${INSTALL_LIMPET_CHANNEL:-stable}" "$TMP/channel"
		version=$(head -n 1 "$TMP/channel")
		[ -n "$version" ] || fatal "$MIRROR/channels/${INSTALL_LIMPET_CHANNEL:-stable} names no version"
	fi
	case "$version" in *[!A-Za-z0-9._+-]*) fatal "\"$version\" is no version" ;; esac
	fetch "$MIRROR/$version/limpet-linux-$ARCH.sha256" "$TMP/sum"
	want=$(cut -d ' ' -f 1 "$TMP/sum")
	if [ -f "$BIN" ] && [ "$(hash_of "$BIN")" = "$want" ]; then
		info "limpet $version is in $BIN_DIR already"
		return 0
	fi
	info "downloading limpet $version for $ARCH"
	fetch "$MIRROR/$version/limpet-linux-$ARCH" "$TMP/limpet"
	got=$(hash_of "$TMP/limpet")
	[ "$got" = "$want" ] || fatal "what came from $MIRROR/$version/limpet-linux-$ARCH is not what it should be: its SHA-256 is $got, not $want"
}

get_program() {
	NEW=''
	if is_true "${INSTALL_LIMPET_SKIP_DOWNLOAD:-}" INSTALL_LIMPET_SKIP_DOWNLOAD; then
		[ -x "$BIN" ] || fatal "INSTALL_LIMPET_SKIP_DOWNLOAD is given, but $BIN is not there"
		return 0
	fi
	if [ -n "${INSTALL_LIMPET_MIRROR:-}${INSTALL_LIMPET_VERSION:-}" ]; then
		download
	elif [ -n "$CHECKOUT" ]; then
		info "building limpet in $CHECKOUT"
		command -v make >/dev/null 2>&1 || fatal "a checkout is built with make, which is not here"
		make -s -C "$CHECKOUT" build BINARY="$TMP/limpet" || fatal "limpet could not be built in $CHECKOUT"
	elif [ -n "$BESIDE" ]; then
		info "taking $BESIDE"
		cp "$BESIDE" "$TMP/limpet"
	else
		download
	fi
	if [ ! -f "$TMP/limpet" ] || { [ -f "$BIN" ] && [ "$(hash_of "$BIN")" = "$(hash_of "$TMP/limpet")" ]; }; then
		return 0
	fi
	# Tried where it will be, since a folder for temporary files may run nothing.
	NEW=$BIN.new
	as_root mkdir -p "$BIN_DIR"
	as_root cp "$TMP/limpet" "$NEW"
	as_root chown root:root "$NEW"
	as_root chmod 755 "$NEW"
	"$NEW" version >"$TMP/version" 2>&1 || fatal "the new program does not run on this machine: $(head -n 1 "$TMP/version")"
}

# version_of is a program's own version, without v in front.
version_of() { "$1" version 2>/dev/null | sed -n 's/^limpet Version: v\{0,1\}//p'; }

refuse_downgrade() {
	[ -n "$NEW" ] && [ -x "$BIN" ] || return 0
	have=$(version_of "$BIN") get=$(version_of "$NEW")
	# By the one that is installed: it knows how versions are ordered.
	if [ "$("$BIN" version --newer-than "$get" 2>/dev/null)" = newer ]; then
		fatal "limpet $have is installed, and $get is older: what a newer version has written an older one may not read. Nothing was changed"
	fi
	info "upgrading limpet ${have:-?} to ${get:-?}"
}

# durable: a file that gets its name must be whole after a power cut.
durable() { as_root sync "$1" 2>/dev/null || as_root sync; }

put_program() {
	[ -n "$NEW" ] || return 0
	# Renamed in its own folder: whoever runs the old one goes on with that.
	durable "$NEW"
	as_root mv -f "$NEW" "$BIN"
	NEW=''
	if command -v restorecon >/dev/null 2>&1; then
		as_root restorecon "$BIN" >/dev/null 2>&1 || true
	fi
}

put_link() {
	link=$BIN_DIR/etcdctl
	[ "${INSTALL_LIMPET_SYMLINK:-}" != skip ] || return 0
	if [ "${INSTALL_LIMPET_SYMLINK:-}" != force ] && { [ -e "$link" ] || [ -L "$link" ] || command -v etcdctl >/dev/null 2>&1; }; then
		return 0 # the name is taken
	fi
	as_root ln -sf "$BIN" "$link"
	info "etcdctl is limpet's: $link"
}

# --- settings -------------------------------------------------------------------

# make_user makes what is missing of the user and its group. By the comment the
# uninstallation knows that it may remove it.
make_user() {
	group=--user-group
	! grep -q "^$SERVICE_USER:" /etc/group || group="-g $SERVICE_USER"
	if id "$SERVICE_USER" >/dev/null 2>&1; then
		[ "$group" = --user-group ] || return 0
		info "making the group $SERVICE_USER"
		if command -v groupadd >/dev/null 2>&1; then as_root groupadd --system "$SERVICE_USER"; else as_root addgroup -S "$SERVICE_USER"; fi ||
			fatal "the group $SERVICE_USER cannot be made"
		return 0
	fi
	info "making the user $SERVICE_USER"
	if command -v useradd >/dev/null 2>&1; then
		# shellcheck disable=SC2086 # one word, or two
		as_root useradd --system $group --comment 'limpet service' --no-create-home --home-dir "$DATA" --shell /usr/sbin/nologin "$SERVICE_USER"
	else
		as_root addgroup -S "$SERVICE_USER" 2>/dev/null || true
		as_root adduser -S -D -H -g 'limpet service' -h "$DATA" -s /sbin/nologin -G "$SERVICE_USER" "$SERVICE_USER"
	fi || fatal "the user $SERVICE_USER cannot be made"
}

# quoted is a word as sh reads it.
quoted() { printf "'%s'" "$(printf %s "$1" | sed "s/'/'\\\\''/g")"; }

# variables prints those of limpet, as sh reads them.
variables() {
	value=''
	for var in $(env | sed -n 's/^\(LIMPET_[A-Z0-9_]*\)=.*/\1/p'); do
		eval "value=\${$var-}; [ -n \"\${$var+set}\" ]" || continue # a line of another one's value
		printf '%s=%s\nexport %s\n' "$var" "$(quoted "$value")" "$var"
	done
}

# setting prints what the configuration says of a key; nothing: it does not say it.
setting() { as_root "${NEW:-$BIN}" config get --file "$CONFIG" "$1" 2>/dev/null || true; }

# put_settings has limpet write what it was told into its configuration file. The
# variables go there through a pipe: sudo drops them, a command line would show the
# token, and a file could stay.
put_settings() {
	as_root mkdir -p "/etc/$NAME"
	as_root chmod 755 "/etc/$NAME"
	[ "${1:-}" != server ] || shift
	set -- --file "$CONFIG" --token-owner "$SERVICE_USER" "$@"
	if [ -z "$(setting data-dir)" ]; then
		case " $* ${LIMPET_DATA_DIR:+--data-dir}" in
		*' --data-dir'* | *' -data-dir'*) ;;
		*) set -- "$@" --data-dir "$DATA" ;;
		esac
	fi
	# shellcheck disable=SC2016 # for the other shell
	variables | as_root sh -c 'eval "$(cat)"; exec "$@"' sh "${NEW:-$BIN}" config set "$@" >"$TMP/settings" ||
		fatal "the settings are not such as a member could start with; the service is as it was"
	if ! grep -q ': no change$' "$TMP/settings"; then
		info "settings in $CONFIG:"
		sed 's/^/          /' "$TMP/settings"
	fi
}

# make_folders: systemd makes those that it knows; others the service could not. One
# that is there is given to the service if it is root's and empty.
make_folders() {
	dir=$(setting data-dir)
	DATA=${dir:-$DATA}
	for dir in "$DATA" "$(setting wal-dir)"; do
		[ -n "$dir" ] || continue
		if ! as_root test -d "$dir"; then
			as_root mkdir -p "$(dirname "$dir")"
			as_root mkdir -m 0700 "$dir"
		elif [ "$(as_root ls -ndL "$dir" | awk '{ print $3 }')" != 0 ] || as_root ls -A "$dir" | grep -q -v -x 'lost+found'; then
			continue
		fi
		as_root chmod 700 "$dir"
		as_root chown "$SERVICE_USER:$SERVICE_USER" "$dir"
	done
}

# --- the service ----------------------------------------------------------------

# service_file prints one of the files that belong to the program's version.
service_file() {
	"$BIN" service --name "$NAME" --bin "$BIN" --config-file "$CONFIG" --user "$SERVICE_USER" --systemd-dir "$UNIT_DIR" "$1"
}

# put_file writes a file of the service if it is another than the one there.
put_file() {
	kind=$1 path=$2 mode=$3
	service_file "$kind" >"$TMP/$kind" || fatal "the file $path could not be made"
	if as_root cmp -s "$TMP/$kind" "$path"; then
		return 0
	fi
	as_root mkdir -p "${path%/*}"
	as_root cp "$TMP/$kind" "$path.new"
	as_root chmod "$mode" "$path.new"
	durable "$path.new"
	as_root mv -f "$path.new" "$path"
}

put_files() {
	put_file uninstall "$BIN_DIR/$NAME-uninstall.sh" 755
	put_file killall "$BIN_DIR/limpet-killall.sh" 755
	if [ "$INIT" = systemd ]; then
		put_file systemd "$UNIT_DIR/$NAME.service" 644
	else
		put_file openrc "/etc/init.d/$NAME" 755
		[ ! -d /etc/logrotate.d ] || put_file logrotate "/etc/logrotate.d/$NAME" 644
	fi
}

# state is what the running service was started from.
state() {
	for file in "$BIN" "$CONFIG" "/etc/$NAME/token" "$UNIT_DIR/$NAME.service" "/etc/init.d/$NAME"; do
		as_root sha256sum "$file" 2>/dev/null || true
	done
}

# forget removes the mark of changes when there are none.
forget() {
	if [ -z "$PENDING" ] && [ -e "$CHANGED" ] && [ "$BEFORE" = "$(state)" ]; then
		as_root rm -f "$CHANGED"
	fi
}

is_running() {
	if [ "$INIT" = systemd ]; then
		# One that waits for other boards runs; one that systemd starts again and again does not.
		case "$(systemctl show -p ActiveState --value "$NAME" 2>/dev/null)/$(systemctl show -p SubState --value "$NAME" 2>/dev/null)" in
		active/* | activating/start) return 0 ;;
		esac
		return 1
	else
		as_root rc-service "$NAME" status >/dev/null 2>&1
	fi
}

enable_service() {
	if is_true "${INSTALL_LIMPET_SKIP_ENABLE:-}" INSTALL_LIMPET_SKIP_ENABLE; then
		return 0
	fi
	if [ "$INIT" = systemd ]; then
		as_root systemctl enable "$UNIT_DIR/$NAME.service" >/dev/null 2>&1 || fatal "systemd cannot enable $NAME"
		[ ! -d /run/systemd/system ] || as_root systemctl daemon-reload
	else
		as_root rc-update add "$NAME" default >/dev/null
	fi
}

start_service() {
	if is_true "${INSTALL_LIMPET_SKIP_START:-}" INSTALL_LIMPET_SKIP_START; then
		return 0
	fi
	if [ -z "$PENDING" ] && [ "$BEFORE" = "$(state)" ] && is_running && ! is_true "${INSTALL_LIMPET_FORCE_RESTART:-}" INSTALL_LIMPET_FORCE_RESTART; then
		info "no change: $NAME runs as it is"
		return 0
	fi
	if [ "$INIT" = systemd ]; then
		[ -d /run/systemd/system ] || return 0 # an image that is made for later
		as_root systemctl daemon-reload
		info "starting $NAME"
		# A member may wait for others, as long as they are away; this script does not.
		as_root systemctl restart --no-block "$NAME"
		await_service
	else
		info "starting $NAME"
		as_root rc-service "$NAME" restart
		await_supervised
	fi
	as_root rm -f "$CHANGED"
}

# await_service waits until systemd has said how the start went, or the member that
# it waits for others.
await_service() {
	n=0
	while [ $n -lt 60 ]; do
		sleep 1
		n=$((n + 1))
		case "$(systemctl show -p ActiveState --value "$NAME")/$(systemctl show -p SubState --value "$NAME")" in
		active/*)
			info "$NAME serves"
			return 0
			;;
		failed/* | activating/auto-restart*) # the latter: systemd will try again, and again
			as_root journalctl -u "$NAME" -n 5 --no-pager -o cat >&2 || true
			fatal "$NAME does not start: see journalctl -u $NAME"
			;;
		esac
		status=$(systemctl show -p StatusText --value "$NAME")
		case "$status" in
		waiting:*)
			if [ $n -ge 5 ]; then
				info "$NAME runs, and serves when it need not wait any more (${status#waiting: })"
				return 0
			fi
			;;
		esac
	done
	warn "$NAME has not begun to serve yet: see systemctl status $NAME"
}

# await_supervised: OpenRC calls a service started whose process ends again and
# again. One that lasts for longer than the pause between two starts has begun.
await_supervised() {
	n=0 child=''
	while [ $n -lt 8 ]; do
		sleep 1
		n=$((n + 1))
		now=$(children "$(cat "/run/supervise-$NAME.pid" "/run/$NAME.pid" 2>/dev/null | head -n 1)")
		child=${child:-$now}
		if [ -n "$child" ] && [ "$now" != "$child" ]; then
			as_root tail -n 5 "/var/log/$NAME.log" >&2 || true
			fatal "$NAME does not start: see /var/log/$NAME.log"
		fi
	done
	info "$NAME runs"
}

# children are the processes that one has started.
children() { [ -z "$1" ] || as_root cat "/proc/$1/task/$1/children" 2>/dev/null | tr -d ' ' || true; }

# --- what may surprise ----------------------------------------------------------

warn_of_machine() {
	memory=$(sed -n 's/^MemTotal: *\([0-9]*\) kB$/\1/p' /proc/meminfo 2>/dev/null)
	if [ -n "$memory" ] && [ "$memory" -lt 262144 ]; then
		warn "this machine has $((memory / 1024)) MiB of memory; limpet wants 256 or more"
	fi
	# The disk of the data: a card, by the name of its device.
	at=$DATA
	while [ ! -d "$at" ] && [ "$at" != / ]; do at=$(dirname "$at"); done
	device=$(df -P "$at" 2>/dev/null | sed -n '2s/ .*//p')
	case "$device" in
	/dev/mmcblk*) warn "$DATA is on an SD card or eMMC ($device): see docs/operations.md, and think of a disk for it" ;;
	esac
	if [ "$INIT" = systemd ] && command -v timedatectl >/dev/null 2>&1 && [ -d /run/systemd/system ]; then
		if [ "$(timedatectl show -p NTPSynchronized --value 2>/dev/null)" = no ]; then
			warn "this machine's clock is not synchronised: limpet does without, but what its logs and history say of times will be wrong"
		fi
	fi
}

main() {
	set_up
	get_program
	refuse_downgrade
	BEFORE=$(state)
	as_root touch "$CHANGED"
	if [ -n "$NEW" ] && [ ! -e "$BIN" ]; then
		info "installing limpet $(version_of "$NEW") to $BIN_DIR"
	fi
	make_user
	# shellcheck disable=SC2086 # words, as k3s has it
	put_settings ${INSTALL_LIMPET_EXEC:-} "$@"
	put_program
	make_folders
	put_files
	put_link
	enable_service
	warn_of_machine
	start_service
}

# The last line: a script that came half does nothing.
main "$@"
