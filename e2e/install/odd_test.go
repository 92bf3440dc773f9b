//go:build linux

package install

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestUninstallIsCareful: files of others in the data directory stay; a member that cannot leave its
// cluster keeps its data; one that was removed stays down, and goes without a word.
func TestUninstallIsCareful(t *testing.T) {
	t.Parallel()
	n, all := machines(t, 2)
	from := mirror(t, n)
	a, b := all[0], all[1]
	b.Must("mkdir -p /mnt/ssd && echo dear >/mnt/ssd/photo.jpg")
	b.Install(from, "--data-dir /mnt/ssd").Refuses("limpet does not start")
	b.Must("limpet-uninstall.sh")
	if got := b.Must("cat /mnt/ssd/photo.jpg"); got != "dear" {
		t.Fatalf("after uninstalling, the photo is %q", got)
	}

	a.Install(from, a.reachable(), tokenOption).Succeeds()
	b.Install(from, b.reachable()+" --data-dir /srv/n1/n2/limpet --wal-dir /srv/wal", tokenOption, "LIMPET_JOIN="+a.IP().String()).Succeeds()
	a.hasMembers(2)
	a.Must("systemctl stop limpet")
	b.Must("systemctl restart --no-block limpet")
	b.Eventually("the member waits", func() error {
		if got := b.Unit("limpet", "StatusText"); !strings.HasPrefix(got, "waiting:") {
			return fmt.Errorf("its status is %q", got)
		}
		return nil
	})
	refuses := func(why string) {
		t.Helper()
		b.Start("uninstall", "limpet-uninstall.sh").Refuses(why)
		if !b.Exists("/srv/n1/n2/limpet/limpet.db") || !b.Exists("/usr/local/bin/limpet") {
			t.Fatal("data or program of a member that could not leave are gone")
		}
	}
	refuses("cannot leave its cluster now")
	b.Must("systemctl stop limpet")
	refuses("does not run, so it cannot leave")

	a.Must("systemctl start --no-block limpet")
	b.Must("systemctl start limpet")
	a.hasMembers(2)
	a.Eventually("remove the other member", func() error { // which has come back only now
		if got := a.Run("limpet member remove " + b.Name()); got.Code != 0 {
			return fmt.Errorf("%s", got.Stderr)
		}
		return nil
	})
	down := func(when string) {
		t.Helper()
		b.Eventually(when+" the member is down", func() error {
			if got := b.Unit("limpet", "ActiveState") + " " + b.Unit("limpet", "NRestarts"); got != "inactive 0" && got != "failed 0" {
				return fmt.Errorf("it is %s", got)
			}
			return nil
		})
	}
	down("removed,")
	b.Run("systemctl start limpet") // fails
	down("started again,")
	b.Must("limpet-uninstall.sh")
	if got := b.Must("ls -A /srv/wal /srv/n1/n2; ls -d /var/lib/limpet* /etc/limpet* 2>/dev/null; true"); strings.Contains(got, "limpet") || strings.Contains(got, "raft") {
		t.Errorf("after uninstalling there is still:\n%s", got)
	}
}

// TestOddMachines: a strict and a loose umask, a group and a folder that are there already, settings
// that somebody has written in another way, no /etc/hosts, and the program beside a script that knows
// a mirror.
func TestOddMachines(t *testing.T) {
	t.Parallel()
	m, from := one(t)
	m.beside()
	script := strings.Replace(m.Read("/root/here/install.sh"), "MIRROR=${INSTALL_LIMPET_MIRROR:-}", "MIRROR=${INSTALL_LIMPET_MIRROR:-http://192.0.2.1}", 1)
	m.Write("/root/here/install.sh", script, 0o644)
	before := m.names()

	m.Must("mv /etc/hosts /etc/hosts.away; groupadd limpet")
	for mask, want := range map[string]string{"077": "drwxr-xr-x root:root", "000": "drwxr-xr-x root:root"} {
		m.Start("umask "+mask, "umask "+mask+"; sh /root/here/install.sh", tokenOption).Succeeds()
		m.runs("limpet", older)
		if got := m.Must("stat -c '%A %U:%G' /etc/limpet"); got != want {
			t.Errorf("with umask %s, /etc/limpet is %s, want %s", mask, got, want)
		}
	}
	// A user that was there stays, whatever its group.
	m.Must("limpet-uninstall.sh && ! id limpet && mv /etc/hosts.away /etc/hosts")
	m.nothingLeft(before)
	m.Must("groupadd other && useradd -g other -m limpet && mkdir -m 700 /srv/lim && mkdir -p /etc/limpet")
	for _, text := range []string{"data-dir: /srv/lim # on the ssd\n", "{\"data-dir\": \"/srv/lim\"}\n", "\"data-dir\": /srv/lim\n"} {
		m.Write("/etc/limpet/config.yaml", text, 0o644)
		m.Start("install.sh", "sh /root/here/install.sh --max-txn-ops 300", tokenOption).Succeeds()
		m.runs("limpet", older)
		m.Must("etcdctl put a 1")
		if m.Exists("/var/lib/limpet/limpet.db") || !m.Exists("/srv/lim/limpet.db") {
			t.Errorf("with %q the data is not in /srv/lim", text)
		}
	}
	// A token's file that others could read is mended, and so is one that root has written anew.
	m.Must("chmod 644 /etc/limpet/token && chown root: /etc/limpet/token")
	m.Start("install.sh", "sh /root/here/install.sh", tokenOption).Succeeds()
	if got := m.Must("stat -c '%a %U' /etc/limpet/token"); got != "600 limpet" {
		t.Errorf("the token's file is %s, want 600 limpet", got)
	}
	m.Must("limpet-uninstall.sh && id limpet")
	_ = from
}

// TestTwoAtOnce: of two runs at the same time one waits for nobody, and the other says so.
func TestTwoAtOnce(t *testing.T) {
	t.Parallel()
	m, from := one(t)
	var runs []*Order
	for range 4 {
		runs = append(runs, m.Install(from, ""))
	}
	good := 0
	for _, o := range runs {
		if code, text := o.Code(), o.Log.Text(); code == 0 {
			good++
		} else if !strings.Contains(text, "another run of install.sh is under way") {
			t.Errorf("a run at the same time as others ended with %d:\n%s", code, text)
		}
	}
	if good == 0 {
		t.Error("none of four runs has installed anything")
	}
	m.runs("limpet", older)
	// One that was killed is in nobody's way.
	m.Must("mkdir /run/limpet-install && echo 999999 >/run/limpet-install/pid")
	m.Install(from, "").Succeeds()
	if found, _ := filepath.Glob(m.Path("/run/limpet-install*")); len(found) > 0 {
		t.Errorf("there is still %v", found)
	}
	if _, err := os.Stat(m.Path("/run/limpet.changed")); err == nil {
		t.Error("a run that is done has left the mark of one that is not")
	}
}
