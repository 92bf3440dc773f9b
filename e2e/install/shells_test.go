//go:build linux

package install

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"limpet/e2e/hosts"
)

// scripts are install.sh, and those that limpet writes when it is installed.
func scripts(t *testing.T) (paths []string) {
	t.Helper()
	paths = append(paths, filepath.Join(repository, "install.sh"))
	limpet := binary(t, older)
	for _, kind := range []string{"uninstall", "killall", "openrc"} {
		text, err := exec.Command(limpet, "service", "--name", "limpet-b", "--bin", "/opt/bin/limpet", kind).Output()
		if err != nil {
			t.Fatalf("limpet service %s: %v", kind, err)
		}
		path := filepath.Join(t.TempDir(), kind)
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		paths = append(paths, path)
	}
	return paths
}

// TestShellcheck has the scripts read as POSIX sh, whose parsers are dash's and busybox's, too.
func TestShellcheck(t *testing.T) {
	t.Parallel()
	needs(t, "shellcheck", "dash", "busybox")
	for _, path := range scripts(t) {
		check := []string{"--shell=sh", "--severity=style", path}
		if filepath.Base(path) == "openrc" { // openrc-run reads its variables, and sets RC_SVCNAME
			check = append([]string{"--exclude=SC2034,SC2154"}, check...)
		}
		for _, command := range [][]string{
			append([]string{"shellcheck"}, check...), {"dash", "-n", path}, {"busybox", "ash", "-n", path},
		} {
			if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
				t.Errorf("%s: %v\n%s", strings.Join(command, " "), err, out)
			}
		}
	}
}

// TestShells: whole installations beside the program, by other shells than the machine's, once with no
// program but busybox's own, those of systemd, and useradd.
func TestShells(t *testing.T) {
	t.Parallel()
	_, all := machines(t, 1)
	m := all[0]
	m.beside()
	m.Must("mkdir -p /opt/busybox && busybox --install -s /opt/busybox && ln -s $(command -v systemctl) $(command -v journalctl) $(command -v timedatectl) $(command -v useradd) $(command -v userdel) /opt/busybox/")
	before := m.names()
	for name, as := range map[string]string{
		"dash":         "dash",
		"busybox ash":  "busybox ash",
		"only busybox": "export PATH=/opt/busybox:/usr/local/bin; exec /opt/busybox/ash",
		"bash, as sh":  "bash --posix",
	} {
		o := m.Start(name, as+" /root/here/install.sh --max-txn-ops 200", tokenOption)
		if text := o.Succeeds(); !strings.Contains(text, "taking /root/here/limpet") {
			t.Errorf("%s: install.sh did not take the program beside it:\n%s", name, text)
		}
		m.runs("limpet", older)
		m.hasSettings("max-txn-ops: 200", "token-file: /etc/limpet/token")
		m.Must("etcdctl put a 1")
		again := m.Start(name, as+" /root/here/install.sh", tokenOption).Succeeds()
		if !strings.Contains(again, "no change") {
			t.Errorf("%s: install.sh, again, did not say %q:\n%s", name, "no change", again)
		}
		m.Start(name, as+" /usr/local/bin/limpet-killall.sh").Succeeds()
		m.Start(name, as+" /usr/local/bin/limpet-uninstall.sh --force").Succeeds() // it does not run
		m.nothingLeft(before)
	}
}

// beside puts install.sh and the older program into a folder of the machine.
func (m *Machine) beside() {
	m.t.Helper()
	script, err := os.ReadFile(filepath.Join(repository, "install.sh"))
	if err != nil {
		m.t.Fatal(err)
	}
	m.Write("/root/here/install.sh", string(script), 0o644)
	program, err := os.ReadFile(binary(m.t, older))
	if err != nil {
		m.t.Fatal(err)
	}
	m.Write("/root/here/limpet", string(program), 0o755)
}

// TestCheckout: from a checkout, with Go, the program is built.
func TestCheckout(t *testing.T) {
	t.Parallel()
	repo, err := filepath.Abs(repository)
	if err != nil {
		t.Fatal(err)
	}
	env := strings.Fields(output(t, "go", "env", "GOROOT", "GOMODCACHE", "GOCACHE"))
	_, all := machines(t, 1, "--bind-ro="+repo+":/root/limpet", "--bind-ro="+env[0]+":/usr/local/go", "--bind-ro="+env[1]+":/root/mod", "--bind="+env[2]+":/root/cache")
	m := all[0]
	text := m.Start("install.sh", "PATH=$PATH:/usr/local/go/bin sh /root/limpet/install.sh", "GOMODCACHE=/root/mod", "GOCACHE=/root/cache", "GOTOOLCHAIN=local").Succeeds()
	if !strings.Contains(text, "building limpet") {
		t.Errorf("install.sh did not build:\n%s", text)
	}
	m.Must("etcdctl put a 1")
}

func output(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).Output()
	if err != nil {
		t.Fatalf("%s %v: %v", name, args, err)
	}
	return string(out)
}

// TestOpenRC: the same on a machine whose service manager is OpenRC.
func TestOpenRC(t *testing.T) {
	t.Parallel()
	needs(t, "debootstrap", "systemd-nspawn", "nsenter", "unshare")
	n := hosts.New(t, 1)
	m := boot(t, withOpenRC, n.Hosts())[0]
	from := mirror(t, n)
	before := m.names()
	text := m.Install(from, "--max-txn-ops 200", tokenOption).Succeeds()
	if !strings.Contains(text, "starting limpet") {
		t.Errorf("install.sh did not start the service:\n%s", text)
	}
	m.serves("1")
	pid := m.Must("pgrep -x limpet")
	if got := m.Must("ps -o user= -p " + pid); got != "limpet" {
		t.Errorf("the service runs as %s, want limpet", got)
	}
	for path, want := range map[string]string{
		"/etc/init.d/limpet":      "-rwxr-xr-x root:root",
		"/etc/limpet/config.yaml": "-rw-r--r-- root:root",
		"/etc/limpet/token":       "-rw------- limpet:limpet",
		"/var/lib/limpet":         "drwx------ limpet:limpet",
		"/run/limpet":             "drwxr-xr-x limpet:limpet",
		"/var/log/limpet.log":     "-rw-r----- limpet:limpet",
	} {
		if got := m.Must("stat -c '%A %U:%G' " + path); got != want {
			t.Errorf("%s is %s, want %s", path, got, want)
		}
	}
	if text := m.Install(from, "").Succeeds(); !strings.Contains(text, "no change") || m.Must("pgrep -x limpet") != pid {
		t.Errorf("install.sh, again, restarted the service, or did not say %q:\n%s", "no change", text)
	}
	m.Must("rc-service limpet reload")
	m.Eventually("the log tells of the reload", func() error {
		if text := m.Read("/var/log/limpet.log"); !strings.Contains(text, "read again") {
			return fmt.Errorf("%s", lastLines(text, 5))
		}
		return nil
	})
	m.Must("kill -9 " + pid)
	m.serves("2") // supervise-daemon has started it again
	reboot(m)
	m.serves("3")
	from.Offer(newer)
	m.Install(from, "").Succeeds()
	m.serves("4")
	if got := m.Must("limpet version"); !strings.Contains(got, newer) {
		t.Errorf("after an upgrade limpet says %s, want %s", got, newer)
	}
	m.Must("limpet-uninstall.sh")
	for _, line := range differ(before, m.names()) {
		if name := strings.TrimLeft(line, "+- "); !strings.HasSuffix(name, "-") && !slices.Contains([]string{"/etc/.pwd.lock"}, name) {
			t.Errorf("after uninstalling: %s", line)
		}
	}
	if got := m.Run("pgrep -x limpet; pgrep supervise-daemon; getent passwd limpet; ls /etc/runlevels/default"); got.Stdout != "" {
		t.Errorf("after uninstalling there are still: %s", got.Stdout)
	}
}

// serves waits until the member takes a write, and has what was written before.
func (m *Machine) serves(count string) {
	m.t.Helper()
	m.Eventually("write "+count, func() error {
		if got := m.Run("etcdctl put written/" + count + " " + count); got.Code != 0 {
			return fmt.Errorf("%s", got.Stderr)
		}
		return nil
	})
	if got := m.Must("etcdctl get --prefix written/ --count-only --write-out fields | sed -n 's/.*Count. : //p'"); got != count {
		m.t.Errorf("the member has %q of %s written keys", got, count)
	}
}

// TestWget: machines without curl, with GNU's wget, and with busybox's.
func TestWget(t *testing.T) {
	t.Parallel()
	m, from := one(t)
	m.beside()
	m.Must("rm /root/here/limpet /usr/bin/curl && mkdir -p /opt/busybox && busybox --install -s /opt/busybox && ln -s $(command -v systemctl) $(command -v journalctl) $(command -v useradd) $(command -v userdel) /opt/busybox/")
	before := m.names()
	for name, as := range map[string]string{"GNU": "sh", "busybox": "export PATH=/opt/busybox:/usr/local/bin; exec ash"} {
		install := func() *Order {
			t.Helper()
			return m.Start(name, as+" /root/here/install.sh", "INSTALL_LIMPET_MIRROR="+from.URL)
		}
		for how, why := range map[harm]string{cutOff: "cannot be fetched", altered: "is not what it should be"} {
			from.Harm(program(older), how)
			install().Refuses(why)
			from.Harm(program(older), 0)
			m.nothingLeft(before)
		}
		install().Succeeds()
		m.runs("limpet", older)
		m.Must("limpet-uninstall.sh")
		m.nothingLeft(before)
	}
}
