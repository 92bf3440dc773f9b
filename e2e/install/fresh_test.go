//go:build linux

package install

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// one is a machine and a mirror.
func one(t *testing.T) (*Machine, *Mirror) {
	t.Helper()
	n, all := machines(t, 1)
	return all[0], mirror(t, n)
}

// runs checks that a service serves, by a program of this version.
func (m *Machine) runs(service, version string) {
	m.t.Helper()
	for property, want := range map[string]string{"ActiveState": "active", "SubState": "running", "UnitFileState": "enabled", "StatusText": "serving"} {
		if got := m.Unit(service, property); got != want {
			m.t.Errorf("%s of %s on %s is %q, want %q", property, service, m.Name(), got, want)
		}
	}
	exe := m.Path("/proc/" + m.pid(service) + "/exe")
	for _, v := range []string{older, newer} {
		if got := sameFile(m.t, exe, binary(m.t, v)); got != (v == version) {
			m.t.Errorf("%s on %s runs %s: %v, want it to run %s", service, m.Name(), v, got, version)
		}
	}
}

func (m *Machine) pid(service string) string {
	m.t.Helper()
	return m.Unit(service, "MainPID")
}

func sameFile(t testing.TB, a, b string) bool {
	t.Helper()
	x, err := os.ReadFile(a)
	if err != nil {
		t.Fatal(err)
	}
	y, err := os.ReadFile(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(x) == string(y)
}

// where installations leave something. Programs of the machine write to none of these by themselves.
const installed = "/etc /home /opt /root /srv /usr /var/lib /var/log /var/spool /tmp /run/limpet"

// files lists what is there, with modes, owners and times. What every start of a service leaves is
// left out, and times of folders: in some, a file is made and removed to find out whether that can be.
// A member that runs writes its data when it likes.
func (m *Machine) files() string {
	m.t.Helper()
	return m.Must("find " + installed + ` \( -path /var/log/journal -o -path '/tmp/systemd-private-*' -o -path '/tmp/namespace-*' \) -prune` +
		` -o \( -type d -o -path '/var/lib/limpet*' \) -printf '%p %M %u:%g\n' -o -printf '%p %M %u:%g %s %T@ %l\n' 2>/dev/null | sort; true`)
}

// names is files by name alone.
func (m *Machine) names() string {
	m.t.Helper()
	return regexp.MustCompile(`(?m) .*$`).ReplaceAllString(m.files(), "")
}

// differ lists the lines that only one of two texts has.
func differ(a, b string) []string {
	inA, inB := map[string]bool{}, map[string]bool{}
	for line := range strings.Lines(a) {
		inA[line] = true
	}
	var diff []string
	for line := range strings.Lines(b) {
		if inB[line] = true; !inA[line] {
			diff = append(diff, "+ "+strings.TrimSpace(line))
		}
	}
	for line := range strings.Lines(a) {
		if !inB[line] {
			diff = append(diff, "- "+strings.TrimSpace(line))
		}
	}
	return diff
}

// TestFresh: one line on a new machine, and it serves; what is there belongs to whom it should.
func TestFresh(t *testing.T) {
	t.Parallel()
	m, from := one(t)
	text := m.Install(from, "", "LIMPET_TOKEN="+token).Succeeds()
	for _, want := range []string{"downloading limpet " + older, "making the user limpet", "limpet serves"} {
		if !strings.Contains(text, want) {
			t.Errorf("install.sh did not say %q:\n%s", want, text)
		}
	}
	m.runs("limpet", older)
	if got := m.Must("ps -o user= -p " + m.pid("limpet")); got != "limpet" {
		t.Errorf("the service runs as %s, want limpet", got)
	}
	m.Must("limpet status")
	m.Must("etcdctl put greeting hello")
	if got := m.Must("etcdctl get greeting --print-value-only"); got != "hello" {
		t.Errorf("greeting is %q, want hello", got)
	}
	for path, want := range map[string]string{
		"/usr/local/bin/limpet":              "-rwxr-xr-x root:root",
		"/usr/local/bin/limpet-uninstall.sh": "-rwxr-xr-x root:root",
		"/usr/local/bin/limpet-killall.sh":   "-rwxr-xr-x root:root",
		"/usr/local/bin/etcdctl":             "lrwxrwxrwx root:root",
		"/etc/systemd/system/limpet.service": "-rw-r--r-- root:root",
		"/etc/limpet":                        "drwxr-xr-x root:root",
		"/etc/limpet/config.yaml":            "-rw-r--r-- root:root",
		"/etc/limpet/token":                  "-rw------- limpet:limpet",
		"/var/lib/limpet":                    "drwx------ limpet:limpet",
		"/run/limpet":                        "drwxr-xr-x limpet:limpet",
	} {
		if got := m.Must("stat -c '%A %U:%G' " + path); got != want {
			t.Errorf("%s is %s, want %s", path, got, want)
		}
	}
	if got := m.Must("find /var/lib/limpet -perm /077 ! -type l; find / -xdev -name 'limpet-install.*'; find / -xdev -name '*.new' -path '*limpet*'"); got != "" {
		t.Errorf("readable for others, or left over: %s", got)
	}
	if got := strings.TrimSpace(m.Read("/etc/limpet/token")); got != token {
		t.Errorf("the token is %q, want the one that was given", got)
	}
	if text := m.Read("/etc/limpet/config.yaml"); strings.Contains(text, token) || !strings.Contains(text, "token-file:") {
		t.Errorf("the token is to be in a file of its own, config.yaml has:\n%s", text)
	}
	m.isShut("limpet", 2)
}

// isShut checks how much the sandbox of a service leaves open: 10 is everything.
func (m *Machine) isShut(service string, bound float64) {
	m.t.Helper()
	text := m.Must("systemd-analyze security --no-pager " + service + ".service | tail -n 1")
	figure := regexp.MustCompile(`[0-9]+\.[0-9]+`).FindString(text)
	got, err := strconv.ParseFloat(figure, 64)
	if err != nil || got > bound {
		m.t.Errorf("systemd-analyze security: %q (%v), want at most %v", text, err, bound)
	}
	m.t.Logf("systemd-analyze security: %s", text)
}

// TestAgain: what is asked again is not done again, and what is asked anew is.
func TestAgain(t *testing.T) {
	t.Parallel()
	m, from := one(t)
	m.Install(from, "--quota-backend-bytes 1073741824", "LIMPET_TOKEN="+token, "LIMPET_MAX_TXN_OPS=256").Succeeds()
	pid := m.pid("limpet")
	before := m.files()

	for _, flags := range []string{"", "--quota-backend-bytes 1073741824"} {
		if text := m.Install(from, flags).Succeeds(); !strings.Contains(text, "no change") {
			t.Errorf("install.sh %s, again, did not say %q:\n%s", flags, "no change", text)
		}
	}
	if got := m.pid("limpet"); got != pid {
		t.Errorf("the service was restarted: process %s, was %s", got, pid)
	}
	if diff := differ(before, m.files()); len(diff) > 0 {
		t.Errorf("files changed:\n%s", strings.Join(diff, "\n"))
	}
	if got := from.Asked(program(older)); got != 1 {
		t.Errorf("the program was downloaded %d times, want once", got)
	}

	m.Install(from, "--quota-backend-bytes 2147483648").Succeeds()
	again := m.pid("limpet")
	if again == pid {
		t.Error("another flag did not restart the service")
	}
	m.runs("limpet", older)
	m.hasSettings("quota-backend-bytes: 2147483648", "max-txn-ops: 256")
	if got := m.Must("limpet status --output json"); !strings.Contains(got, "2147483648") {
		t.Errorf("the member does not know of its quota: %s", got)
	}

	m.Install(from, "", "INSTALL_LIMPET_FORCE_RESTART=true").Succeeds()
	if got := m.pid("limpet"); got == again {
		t.Error("INSTALL_LIMPET_FORCE_RESTART did not restart the service")
	}

	// What a member could not start with is not taken over.
	before, pid = m.files(), m.pid("limpet")
	m.Install(from, "--no-such-flag 7").Refuses("no-such-flag")
	m.Install(from, "--quota-backend-bytes much").Refuses("quota-backend-bytes")
	m.Install(from, "", "INSTALL_LIMPET_SKIP_START=perhaps").Refuses("INSTALL_LIMPET_SKIP_START")
	if diff := differ(before, m.files()); len(diff) > 0 {
		t.Errorf("a refused installation changed:\n%s", strings.Join(diff, "\n"))
	}
	if got := m.pid("limpet"); got != pid {
		t.Error("a refused installation restarted the service")
	}
}

func (m *Machine) hasSettings(lines ...string) {
	m.t.Helper()
	text := m.Read("/etc/limpet/config.yaml")
	for _, want := range lines {
		if !strings.Contains(text, want+"\n") {
			m.t.Errorf("config.yaml has no line %q:\n%s", want, text)
		}
	}
}

// TestDoesNotStart: a member that ends again and again is told of at once, with its own words.
func TestDoesNotStart(t *testing.T) {
	t.Parallel()
	m, from := one(t)
	const elsewhere = "http://192.0.2.1:2379" // an address of no machine here
	text := m.Install(from, "--listen-client-urls "+elsewhere+" --advertise-client-urls "+elsewhere).Refuses("limpet does not start")
	if !strings.Contains(text, "192.0.2.1:2379 cannot be listened on") {
		t.Errorf("install.sh did not say why:\n%s", text)
	}
	m.Install(from, m.reachable()).Succeeds()
	m.runs("limpet", older)
}

// TestBadDownloads: what is not whole, or not what it should be, leaves no trace on a new machine, and
// an installation as it was.
func TestBadDownloads(t *testing.T) {
	t.Parallel()
	m, from := one(t)
	refuses := func() {
		t.Helper()
		before := m.files()
		for _, c := range []struct {
			how  harm
			path string
			why  string
		}{
			{altered, program(newer), "is not what it should be"},
			{cutOff, program(newer), "cannot be fetched"},
			{altered, program(newer) + ".sha256", "is not what it should be"},
			{cutOff, program(newer) + ".sha256", "cannot be fetched"},
			{cutOff, "/install.sh", ""}, // half a script
		} {
			from.Harm(c.path, c.how)
			o := m.Install(from, "", "INSTALL_LIMPET_VERSION="+newer)
			if c.why == "" {
				o.Code()
			} else {
				o.Refuses(c.why)
			}
			from.Harm(c.path, 0)
			if diff := differ(before, m.files()); len(diff) > 0 {
				t.Errorf("with %s harmed (%d):\n%s", c.path, c.how, strings.Join(diff, "\n"))
			}
		}
		m.Install(from, "", "INSTALL_LIMPET_VERSION=v9.9.9").Refuses("cannot be fetched")
		m.Install(from, "", "INSTALL_LIMPET_CHANNEL=none").Refuses("cannot be fetched")
		if diff := differ(before, m.files()); len(diff) > 0 {
			t.Errorf("with a version that is not there:\n%s", strings.Join(diff, "\n"))
		}
	}
	refuses()
	m.Install(from, "").Succeeds()
	pid := m.pid("limpet")
	refuses()
	if got := m.pid("limpet"); got != pid {
		t.Errorf("the service runs as process %s, was %s", got, pid)
	}
	m.runs("limpet", older)
}

// TestCutShort: an upgrade that is killed when the new program is in place is finished by the next run,
// which finds nothing to change.
func TestCutShort(t *testing.T) {
	t.Parallel()
	m, from := one(t)
	m.Install(from, "").Succeeds()
	m.Must("etcdctl put before upgrade")
	m.Write("/opt/cut/systemctl", "#!/bin/sh\ncase $1 in enable) kill -9 $PPID ;; esac\nexec /usr/bin/systemctl \"$@\"\n", 0o755)
	from.Offer(newer)
	m.Start("install.sh", "curl -sfL "+from.URL+"/install.sh >/root/install.sh; export PATH=/opt/cut:$PATH; sh /root/install.sh", "INSTALL_LIMPET_MIRROR="+from.URL).Refuses("upgrading")
	if got := m.Must("limpet version"); !strings.Contains(got, newer) {
		t.Fatalf("it was killed too early: limpet says %s, want %s", got, newer)
	}
	m.runs("limpet", older)
	m.Install(from, "").Succeeds()
	m.runs("limpet", newer)
	m.has("before", "upgrade")
	pid := m.pid("limpet")
	if text := m.Install(from, "").Succeeds(); !strings.Contains(text, "no change") || m.pid("limpet") != pid {
		t.Errorf("install.sh, once more, did not say %q, or restarted the service:\n%s", "no change", text)
	}
}

// TestLater: an image may be prepared without a service that starts.
func TestLater(t *testing.T) {
	t.Parallel()
	m, from := one(t)
	m.Install(from, "", "INSTALL_LIMPET_SKIP_START=true", "INSTALL_LIMPET_SKIP_ENABLE=true", "INSTALL_LIMPET_SYMLINK=skip", "INSTALL_LIMPET_BIN_DIR=/opt/limpet/bin", "INSTALL_LIMPET_VERSION="+newer).Succeeds()
	if got := m.Unit("limpet", "ActiveState") + " " + m.Unit("limpet", "UnitFileState"); got != "inactive disabled" {
		t.Errorf("limpet.service is %s, want inactive disabled", got)
	}
	if m.Exists("/opt/limpet/bin/etcdctl") || m.Exists("/usr/local/bin/limpet") {
		t.Error("a link etcdctl was made, or /usr/local/bin was used")
	}
	reboot(m)
	if got := m.Unit("limpet", "ActiveState"); got != "inactive" {
		t.Errorf("after a reboot limpet.service is %s, want inactive", got)
	}
	// The program is there already: nothing is downloaded, and now it starts.
	before := from.Asked(program(newer))
	m.Must("ln -s /bin/true /usr/bin/etcdctl") // the machine has its own
	m.Install(from, "", "INSTALL_LIMPET_SKIP_DOWNLOAD=true", "INSTALL_LIMPET_BIN_DIR=/opt/limpet/bin").Succeeds()
	m.runs("limpet", newer)
	if m.Exists("/opt/limpet/bin/etcdctl") {
		t.Error("a link etcdctl was made although there is an etcdctl")
	}
	if got := from.Asked(program(newer)); got != before {
		t.Error("INSTALL_LIMPET_SKIP_DOWNLOAD downloaded")
	}
	m.Must("/opt/limpet/bin/limpet-uninstall.sh")
	if got := m.Must("ls -A /opt/limpet/bin"); got != "" {
		t.Errorf("after uninstalling, /opt/limpet/bin has %s", fmt.Sprintf("%q", got))
	}
	m.Install(from, "", "INSTALL_LIMPET_SKIP_DOWNLOAD=true").Refuses("/usr/local/bin/limpet is not there")
}
