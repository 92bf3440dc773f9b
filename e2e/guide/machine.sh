# Makes a machine of a namespace, and becomes its shell. Arguments: the program, a
# folder that is /run/guide here, the machine's name, lines for /etc/hosts.
set -e
limpet=$1 out=$2 name=$3 others=$4
mount --make-rprivate /
mount -t proc proc /proc
hostname "$name"
fresh() { mount -t tmpfs tmpfs "$1"; }
fresh /usr/local && mkdir -p /usr/local/bin && touch /usr/local/bin/limpet
mount --bind "$limpet" /usr/local/bin/limpet
fresh /run && mkdir /run/guide && mount --bind "$out" /run/guide
cp /etc/passwd /etc/group /run && fresh /etc && mv /run/passwd /run/group /etc
printf '127.0.0.1 localhost\n%s\n' "$others" >/etc/hosts
for d in /var/lib /root /srv /mnt; do fresh $d; done
mkdir -p /etc/limpet /var/lib/limpet

# As root here; the unit has a user of its own.
cat >/usr/local/bin/sudo <<'END'
#!/bin/sh
[ "$1" = -u ] && shift 2
exec "$@"
END
cat >/usr/local/bin/journalctl <<'END'
#!/bin/sh
cat /run/guide/service.log
END
cat >/usr/local/bin/systemctl <<'END'
#!/bin/sh
# systemctl start|stop|restart|status limpet
alive() { [ -f /run/limpet.pid ] && kill -0 "$(cat /run/limpet.pid)" 2>/dev/null; }
stop() {
	alive || return 0
	kill "$(cat /run/limpet.pid)"
	while alive; do sleep 0.05; done
}
start() {
	alive && return 0
	setsid limpet server --config-file /etc/limpet/config.yaml >>/run/guide/service.log 2>&1 &
	echo $! >/run/limpet.pid
}
[ "$2" = limpet ] || { echo "there is no unit $2" >&2; exit 5; }
case $1 in
start) start ;;
stop) stop ;;
restart) stop && start ;;
is-active) alive && echo active || { echo inactive; exit 3; } ;;
*) echo "the stand-in for systemctl knows no $1" >&2; exit 1 ;;
esac
END
chmod +x /usr/local/bin/*
cd /root
fresh /tmp
exec bash --norc --noprofile
