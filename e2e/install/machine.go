//go:build linux

package install

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"limpet/e2e/hosts"
	"limpet/e2e/proc"
)

const (
	patience = 2 * time.Minute        // for what must happen at last
	pause    = 100 * time.Millisecond // between two looks at a condition
)

// power is what a machine runs in. All it mounts is in its own namespace. nspawn, as it is called
// here, ends with 133 when the machine is to boot again.
const power = `set -eu
root=$1 groups=$2
shift 2
for g in $groups; do echo $$ >$g/cgroup.procs; done
exec unshare --mount --propagation private --pid --fork --kill-child --mount-proc sh -c '
set -eu
root=$1
shift
mount -t tmpfs -o mode=0755 tmpfs /run
mkdir -p /run/machine/upper /run/machine/work /run/machine/root
mount -t overlay -o lowerdir="$root",upperdir=/run/machine/upper,workdir=/run/machine/work overlay /run/machine/root
code=133
while [ "$code" = 133 ]; do
	code=0
	"$@" || code=$?
done
exit "$code"' power "$root" "$@"`

// Machine is a Debian that was booted. Its methods belong to the test's goroutine.
type Machine struct {
	*hosts.Host

	t      testing.TB
	power  *hosts.Process
	orders int
}

// boot boots a Debian on each host, with these binds of nspawn. The machines are gone with the test.
func boot(t testing.TB, f flavour, on []*hosts.Host, binds ...string) []*Machine {
	t.Helper()
	needs(t, "systemd-nspawn", "nsenter")
	root := debian(t, f)
	var machines []*Machine
	for _, h := range on {
		machines = append(machines, turnOn(t, h, f, root, binds))
	}
	for _, m := range machines {
		m.booted()
	}
	return machines
}

// machines makes so many hosts with systemd.
func machines(t testing.TB, count int, binds ...string) (*hosts.Net, []*Machine) {
	t.Helper()
	needs(t, "debootstrap", "systemd-nspawn", "nsenter", "unshare")
	n := hosts.New(t, count)
	return n, boot(t, withSystemd, n.Hosts(), binds...)
}

func turnOn(t testing.TB, h *hosts.Host, f flavour, root string, binds []string) *Machine {
	t.Helper()
	groups, err := newGroups()
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.EROFS) {
		t.Skipf("machines need control groups of their own, which cannot be made here: %v", err)
	} else if err != nil {
		t.Fatalf("make control groups for %s: %v", h.Name(), err)
	}
	m := &Machine{Host: h, t: t}
	t.Cleanup(func() {
		for _, g := range groups {
			if err := m.eventually(func() error { return removeGroup(g) }); err != nil {
				t.Error(err)
			}
		}
	})
	args := []string{"-c", power, "power", root, strings.Join(groups, " "), "systemd-nspawn", "--quiet",
		"--directory=/run/machine/root", "--machine=" + h.Name(), "--network-namespace-path=/proc/self/ns/net",
		"--register=no", "--keep-unit", "--link-journal=no", "--resolv-conf=off", "--timezone=off", "--console=read-only", "--boot"}
	args = append(args, binds...)
	m.power = h.Start("machine", "/bin/sh", args...)
	return m
}

// booted waits until the machine has started whatever it starts.
func (m *Machine) booted() {
	m.t.Helper()
	m.Eventually("boot "+m.Name(), func() error {
		if !m.power.Alive() {
			m.t.Fatalf("%s is off: %+v", m.Name(), m.power.WaitExit(time.Now(), pause))
		}
		if _, err := m.init(); err != nil {
			return err
		}
		got := m.Run("if command -v systemctl >/dev/null; then systemctl is-system-running; else rc-status --runlevel; fi")
		if !slices.Contains([]string{"running", "degraded", "default"}, strings.TrimSpace(got.Stdout)) {
			return fmt.Errorf("%s is %s", m.Name(), got.Stdout+got.Stderr)
		}
		return nil
	})
}

// errOff says that a machine has no first process.
var errOff = errors.New("the machine is off")

// init is the id of the machine's first process: the child of nspawn that is another program.
func (m *Machine) init() (int, error) {
	if !m.power.Alive() {
		return 0, errOff
	}
	for pid, inside := m.power.PID(), false; ; {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		if err != nil {
			return 0, errOff
		}
		comm := strings.TrimSpace(string(text))
		if nspawn := comm == "systemd-nspawn"; inside && !nspawn && !strings.HasPrefix(comm, "(") {
			return pid, nil
		} else if nspawn {
			inside = true
		}
		text, err = os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
		fields := strings.Fields(string(text))
		if err != nil || len(fields) == 0 {
			return 0, errOff
		}
		if pid, err = strconv.Atoi(fields[len(fields)-1]); err != nil {
			return 0, err
		}
	}
}

// Path is where the test finds a file of the machine.
func (m *Machine) Path(path string) string {
	m.t.Helper()
	pid, err := m.init()
	if err != nil {
		m.t.Fatalf("%s on %s: %v", path, m.Name(), err)
	}
	return filepath.Join(fmt.Sprintf("/proc/%d/root", pid), path)
}

// Read gives what a file of the machine holds.
func (m *Machine) Read(path string) string {
	m.t.Helper()
	text, err := os.ReadFile(m.Path(path))
	if err != nil {
		m.t.Fatalf("on %s: %v", m.Name(), err)
	}
	return string(text)
}

// Write makes or replaces a file of the machine.
func (m *Machine) Write(path, text string, mode os.FileMode) {
	m.t.Helper()
	to := m.Path(path)
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(to, []byte(text), mode); err != nil {
		m.t.Fatalf("on %s: %v", m.Name(), err)
	}
}

// Exists tells whether the machine has a file, whatever it is; links are not followed.
func (m *Machine) Exists(path string) bool {
	m.t.Helper()
	_, err := os.Lstat(m.Path(path))
	return err == nil
}

// shell is the command that runs a script as the machine's root.
func (m *Machine) shell(env []string, script string) (path string, args []string) {
	m.t.Helper()
	pid, err := m.init()
	if err != nil {
		m.t.Fatalf("%q on %s: %v", script, m.Name(), err)
	}
	args = []string{"--target", strconv.Itoa(pid), "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup",
		"--", "env", "-i", "--chdir=/",
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C"}
	args = append(args, env...)
	return "nsenter", append(args, "sh", "-c", script)
}

// Run runs a short script on the machine to its end.
func (m *Machine) Run(script string) proc.Result {
	m.t.Helper()
	path, args := m.shell(nil, script)
	return proc.Command{Path: path, Args: args}.Run(m.t)
}

// Must is Run of a script that must succeed; it gives what the script wrote, without the last newline.
func (m *Machine) Must(script string) string {
	m.t.Helper()
	got := m.Run(script)
	if got.Code != 0 {
		m.t.Fatalf("%s: %q ended with %d:\n%s%s", m.Name(), script, got.Code, got.Stdout, got.Stderr)
	}
	return strings.TrimRight(got.Stdout, "\n")
}

// Order is a script that takes its time, with what it wrote in Log.
type Order struct {
	*proc.Process
	m *Machine
}

// Start starts a script with these variables NAME=value, and does not wait for it.
func (m *Machine) Start(name, script string, env ...string) *Order {
	m.t.Helper()
	m.orders++
	path, args := m.shell(env, script)
	o := &Order{proc.NewProcess(m.t, fmt.Sprintf("%s (%d) on %s", name, m.orders, m.Name()), path), m}
	o.Launch(args...)
	return o
}

// Code waits for the script's end.
func (o *Order) Code() int {
	o.m.t.Helper()
	return o.WaitExit(time.Now(), patience).Code
}

// Succeeds waits for the script's end, and gives what it wrote; it must have gone well.
func (o *Order) Succeeds() string {
	o.m.t.Helper()
	if code := o.Code(); code != 0 {
		o.m.t.Fatalf("%s ended with %d:\n%s", o.Name, code, o.Log.Text())
	}
	return o.Log.Text()
}

// Refuses waits for the script's end, and gives what it wrote; it must have failed and told why.
func (o *Order) Refuses(why string) string {
	o.m.t.Helper()
	code, text := o.Code(), o.Log.Text()
	if code == 0 || !strings.Contains(text, why) {
		o.m.t.Errorf("%s ended with %d, want another than 0, and %q in:\n%s", o.Name, code, why, text)
	}
	return text
}

// Eventually waits until check returns nil; the test fails if it does not.
func (m *Machine) Eventually(what string, check func() error) {
	m.t.Helper()
	if err := m.eventually(check); err != nil {
		m.t.Fatalf("%s: %v", what, err)
	}
}

func (m *Machine) eventually(check func() error) error {
	ctx, cancel := context.WithTimeoutCause(context.Background(), patience, errors.New("deadline"))
	defer cancel()
	return proc.Eventually(ctx, pause, check)
}

// reboot has machines restart at the same time, as their owner would, and returns when they have come
// back.
func reboot(all ...*Machine) {
	before := map[*Machine]int{}
	for _, m := range all {
		m.t.Helper()
		pid, err := m.init()
		if err != nil {
			m.t.Fatal(err)
		}
		before[m] = pid
	}
	for _, m := range all {
		m.Must("if command -v systemctl >/dev/null; then systemctl reboot --no-block; else openrc-shutdown --reboot now; fi")
	}
	// Until then nothing may run there: nsenter stays stopped when a shutdown stops what it has started.
	for _, m := range all {
		m.Eventually("reboot "+m.Name(), func() error {
			if now, err := m.init(); err != nil || now == before[m] {
				return fmt.Errorf("still process %d, %v", now, err)
			}
			return nil
		})
	}
	for _, m := range all {
		m.booted()
	}
}

// Poweroff turns the machine off for good.
func (m *Machine) Poweroff() {
	m.t.Helper()
	m.Must("systemctl poweroff --no-block")
	m.power.WaitExit(time.Now(), patience)
}

// Unit gives a property of a unit.
func (m *Machine) Unit(unit, property string) string {
	m.t.Helper()
	return m.Must("systemctl show --value -p " + property + " " + unit)
}

// Journal is what a unit's programs and the service manager have said of it.
func (m *Machine) Journal(unit string) string {
	m.t.Helper()
	return m.Must("journalctl --no-pager -o cat -u " + unit)
}
