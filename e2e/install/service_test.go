//go:build linux

package install

import (
	"fmt"
	"strings"
	"testing"
)

// dropIn is where an administrator changes a unit.
const dropIn = "/etc/systemd/system/limpet.service.d/local.conf"

// TestHungProcess: a process that does nothing any more is killed by the watchdog, and started again.
func TestHungProcess(t *testing.T) {
	t.Parallel()
	m, from := one(t)
	m.Install(from, "").Succeeds()
	if got := m.Unit("limpet", "WatchdogUSec"); got != "2min" {
		t.Errorf("the watchdog waits %s, want 2min", got)
	}
	m.Must("etcdctl put before hanging")
	// Two minutes are long for a test. Of SIGABRT, which comes first, a stopped process hears nothing.
	m.Write(dropIn, "[Service]\nWatchdogSec=6s\nTimeoutAbortSec=1s\n", 0o644)
	m.Must("systemctl daemon-reload && systemctl restart limpet")
	pid := m.pid("limpet")
	if got := m.Unit("limpet", "NRestarts"); got != "0" {
		t.Fatalf("before it hangs, the service was restarted %s times", got)
	}
	m.Must("kill -STOP " + pid)
	m.Eventually("the watchdog restarts a hung process", func() error {
		if n, p := m.Unit("limpet", "NRestarts"), m.pid("limpet"); n == "0" || p == pid || p == "0" {
			return fmt.Errorf("restarted %s times, process %s, was %s", n, p, pid)
		}
		return nil
	})
	m.has("before", "hanging")
	if text := m.Journal("limpet"); !strings.Contains(strings.ToLower(text), "watchdog timeout") {
		t.Errorf("the journal says nothing of the watchdog:\n%s", text)
	}
	// One that is idle, and not hung, is left alone: several times what the watchdog waits for.
	pid, fed := m.pid("limpet"), m.Unit("limpet", "WatchdogTimestampMonotonic")
	for range 4 {
		m.Eventually("the watchdog is fed", func() error {
			if now := m.Unit("limpet", "WatchdogTimestampMonotonic"); now == fed {
				return fmt.Errorf("fed last at %s us", now)
			}
			return nil
		})
		fed = m.Unit("limpet", "WatchdogTimestampMonotonic")
	}
	if got := m.pid("limpet"); got != pid {
		t.Errorf("an idle member was restarted: process %s, was %s", got, pid)
	}
}

// TestReload: the level of the log is read again, and nothing stops for it.
func TestReload(t *testing.T) {
	t.Parallel()
	m, from := one(t)
	m.Install(from, "--log-level warn").Succeeds()
	pid := m.pid("limpet")
	// compact does what is told of on level info.
	compact := func(value string) (told int) {
		t.Helper()
		m.Must("etcdctl put a " + value)
		m.Must("etcdctl compaction --physical $(etcdctl get a --write-out fields | sed -n 's/.*Revision. : //p' | head -n 1)")
		m.Must("journalctl --sync")
		return strings.Count(m.Journal("limpet"), "finished scheduled compaction")
	}
	if got := compact("1"); got != 0 {
		t.Errorf("with level warn, the journal tells of %d compactions, want none", got)
	}
	m.Must("limpet config set --file /etc/limpet/config.yaml --log-level info")
	m.Must("systemctl reload limpet")
	m.Eventually("the journal tells of compactions", func() error {
		if compact("2") == 0 {
			return fmt.Errorf("the journal ends with:\n%s", lastLines(m.Journal("limpet"), 5))
		}
		return nil
	})
	if got := m.pid("limpet"); got != pid {
		t.Errorf("a reload restarted the service: process %s, was %s", got, pid)
	}
	// A file that nobody can read changes nothing.
	m.Write("/etc/limpet/config.yaml", "log-level: [", 0o644)
	m.Run("systemctl reload limpet")
	m.has("a", "2")
	if got := m.pid("limpet"); got != pid {
		t.Errorf("a reload of a bad file restarted the service: process %s, was %s", got, pid)
	}
}

// otherPorts are for a second member on one machine.
const otherPorts = "--listen-client-urls http://127.0.0.1:3379 --advertise-client-urls http://127.0.0.1:3379 --listen-peer-urls http://127.0.0.1:3380 --initial-advertise-peer-urls http://127.0.0.1:3380"

// TestSecondInstance: two members on one machine, by NAME; each is taken off alone, and killall stops
// both.
func TestSecondInstance(t *testing.T) {
	t.Parallel()
	m, from := one(t)
	before := m.names()
	m.Install(from, "").Succeeds()
	pid := m.pid("limpet")
	m.Install(from, otherPorts, "INSTALL_LIMPET_NAME=b").Succeeds()
	m.runs("limpet", older)
	m.runs("limpet-b", older)
	if got := m.pid("limpet"); got != pid {
		t.Errorf("the first was restarted for the second: process %s, was %s", got, pid)
	}
	m.isShut("limpet-b", 2)
	ask := func(port int, args string) string {
		t.Helper()
		return m.Must(fmt.Sprintf("etcdctl --endpoints 127.0.0.1:%d %s", port, args))
	}
	ask(2379, "put who first")
	ask(3379, "put who second")
	if a, b := ask(2379, "get --print-value-only who"), ask(3379, "get --print-value-only who"); a != "first" || b != "second" {
		t.Errorf("they have %q and %q, want first and second", a, b)
	}
	for path, want := range map[string]string{
		"/etc/limpet-b/config.yaml": "-rw-r--r-- root:root",
		"/var/lib/limpet-b":         "drwx------ limpet:limpet",
		"/run/limpet-b":             "drwxr-xr-x limpet:limpet",
	} {
		if got := m.Must("stat -c '%A %U:%G' " + path); got != want {
			t.Errorf("%s is %s, want %s", path, got, want)
		}
	}

	// killall stops both, and one that no service manager knows; data and membership stay.
	m.Must("nohup limpet server --data-dir /root/third --listen-client-urls http://127.0.0.1:4379 --advertise-client-urls http://127.0.0.1:4379 --listen-peer-urls http://127.0.0.1:4380 >/root/third.log 2>&1 </dev/null & echo $!")
	m.Eventually("a third member", func() error {
		if got := m.Run("etcdctl --endpoints 127.0.0.1:4379 put who third"); got.Code != 0 {
			return fmt.Errorf("%s%s", got.Stderr, m.Must("cat /root/third.log"))
		}
		return nil
	})
	m.Must("limpet-killall.sh")
	if got := m.Run("pgrep -x limpet"); got.Code == 0 {
		t.Errorf("after killall there are still processes %s", got.Stdout)
	}
	m.Must("systemctl start limpet limpet-b")
	m.has("who", "first")
	if got := ask(3379, "get --print-value-only who"); got != "second" {
		t.Errorf("after killall the second has %q, want second", got)
	}
	m.Must("rm -r /root/third /root/third.log")

	m.Must("limpet-uninstall.sh")
	if m.Exists("/etc/limpet") || m.Exists("/var/lib/limpet") || m.Exists("/etc/systemd/system/limpet.service") {
		t.Error("uninstalling the first left something of it")
	}
	m.runs("limpet-b", older)
	if got := ask(3379, "get --print-value-only who"); got != "second" {
		t.Errorf("without the first, the second has %q, want second", got)
	}
	reboot(m)
	m.runs("limpet-b", older)
	m.Must("limpet-b-uninstall.sh")
	m.nothingLeft(before)
}

// nothingLeft compares the machine's files with those before an installation.
func (m *Machine) nothingLeft(before string) {
	m.t.Helper()
	var left []string
	for _, line := range differ(before, m.names()) {
		// useradd and userdel keep copies of their files.
		if name := strings.TrimLeft(line, "+- "); !strings.HasSuffix(name, "-") && name != "/etc/.pwd.lock" {
			left = append(left, line)
		}
	}
	if len(left) > 0 {
		m.t.Errorf("after uninstalling:\n%s", strings.Join(left, "\n"))
	}
	if got := m.Run("getent passwd limpet; getent group limpet; pgrep -x limpet; pgrep -u limpet"); got.Stdout != "" {
		m.t.Errorf("after uninstalling there are still: %s", got.Stdout)
	}
	if got := m.Must("systemctl list-units --all --plain --no-legend 'limpet*'; systemctl list-unit-files --no-legend 'limpet*'; true"); got != "" {
		m.t.Errorf("systemd still knows of %s", got)
	}
}

// TestUninstall: nothing stays but the journal.
func TestUninstall(t *testing.T) {
	t.Parallel()
	m, from := one(t)
	before := m.names()
	m.Install(from, "", tokenOption).Succeeds()
	m.Must("etcdctl put a 1")
	m.Write(dropIn, "[Service]\nCPUWeight=300\n", 0o644)
	if got := m.Run("limpet-uninstall.sh --no-such-flag"); got.Code != 2 {
		t.Errorf("limpet-uninstall.sh --no-such-flag ended with %d, want 2", got.Code)
	}
	m.runs("limpet", older)
	m.Must("limpet-uninstall.sh")
	m.nothingLeft(before)
	// And again, on a machine that has been there before.
	m.Install(from, "").Succeeds()
	m.runs("limpet", older)
	if got := m.Must("etcdctl get a"); got != "" {
		t.Errorf("a new installation has %q", got)
	}
}
