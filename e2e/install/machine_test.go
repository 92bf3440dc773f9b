//go:build linux

package install

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The machines themselves: what the other tests stand on.
func TestMachines(t *testing.T) {
	t.Parallel()
	_, all := machines(t, 2)
	a, b := all[0], all[1]
	for _, m := range all {
		if got := m.Must("hostname"); got != m.Name() {
			t.Errorf("%s calls itself %q", m.Name(), got)
		}
		if got := m.Must("systemctl --failed --no-legend"); got != "" {
			t.Errorf("on %s failed: %s", m.Name(), got)
		}
	}
	a.Write("/etc/systemd/system/nap.service", "[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n", 0o644)
	a.Must("systemctl enable --now nap.service")
	first := a.Unit("nap.service", "MainPID")
	reboot(a)
	if got := a.Unit("nap.service", "ActiveState"); got != "active" {
		t.Errorf("nap.service is %s after a reboot, started as %s before, want active", got, first)
	}
	if b.Exists("/etc/systemd/system/nap.service") {
		t.Error("a file of one machine is on another")
	}
	b.Poweroff()
	if lower := filepath.Join(debian(t, withSystemd), "etc/systemd/system/nap.service"); fileExists(lower) {
		t.Errorf("a machine wrote %s", lower)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(mounts), "/run/machine") {
		t.Errorf("a machine's mounts are to be seen outside (%v)", err)
	}
}

func fileExists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
