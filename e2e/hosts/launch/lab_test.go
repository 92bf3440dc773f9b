//go:build linux

package launch

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"limpet/e2e/hosts"
	"limpet/e2e/pki"
	"limpet/e2e/proc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is for what must happen.
const patience = 60 * time.Second

// container is what an image and a kubelet, or a machine, would be to the program: a host, and a
// root folder of its own with limpet in etcd's place.
type container struct {
	*hosts.Process
	t    *testing.T
	host *hosts.Host
	root string
}

// newContainer gets ready to run on the host. Containers of one test share a file for the program.
func newContainer(t *testing.T, name string, host *hosts.Host, env ...string) *container {
	t.Helper()
	chroot, err := exec.LookPath("chroot")
	if err != nil {
		t.Skip("there is no chroot here: install the Debian package coreutils")
	}
	// Not t.TempDir, whose name is too long for the path of a socket.
	root, err := os.MkdirTemp("", "launch")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(root); err != nil {
			t.Error(err)
		}
	})
	c := &container{Process: host.NewProcess(name, chroot), t: t, host: host, root: root}
	// Registered after the folder's removal, and so ended before it.
	c.Env = append(env, "PATH=/usr/local/bin:/usr/bin")
	program, err := os.ReadFile(proc.Binary(t, proc.Limpet))
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []string{"usr/local/bin/etcd", "usr/bin/etcd"} {
		c.write(at, string(program), 0o755)
	}
	c.write("etc/hosts", "127.0.0.1 localhost\n", 0o644)
	return c
}

// write puts a file into the container.
func (c *container) write(path, text string, mode os.FileMode) {
	c.t.Helper()
	at := filepath.Join(c.root, path)
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		c.t.Fatal(err)
	}
	if err := os.WriteFile(at, []byte(text), mode); err != nil {
		c.t.Fatal(err)
	}
}

// certify puts certificates of the authority where the program looks for them: each name stands for
// a .crt and a .key, ca for the authority alone.
func (c *container) certify(ca *pki.CA, folder, authority string, names ...string) {
	c.t.Helper()
	c.copy(ca.File, filepath.Join(folder, authority+".crt"))
	for _, name := range names {
		pair := ca.Issue(pki.Leaf{CN: name, Names: []string{"localhost", "127.0.0.1", c.host.IP().String()}})
		c.copy(pair.CertFile, filepath.Join(folder, name+".crt"))
		c.copy(pair.KeyFile, filepath.Join(folder, name+".key"))
	}
}

func (c *container) copy(from, to string) {
	c.t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		c.t.Fatal(err)
	}
	c.write(to, string(data), 0o600)
}

// names has the container find others by name, as a cluster's DNS would.
func (c *container) names(of map[string]*hosts.Host) {
	c.t.Helper()
	text := "127.0.0.1 localhost\n"
	for name, h := range of {
		text += fmt.Sprintf("%s %s\n", h.IP(), name)
	}
	c.write("etc/hosts", text, 0o644)
}

// run starts the program with a command line as it stands in a manifest.
func (c *container) run(argv ...string) {
	c.t.Helper()
	c.Launch(append([]string{c.root}, argv...)...)
}

// ready waits until the member serves, and looks for complaints.
func (c *container) ready() {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	if err := c.Log.Wait(ctx, "ready to serve client requests"); err != nil {
		c.t.Fatalf("%s: %v", c.Name, err)
	}
	for line := range strings.Lines(c.Log.Text()) {
		if strings.Contains(line, `"level":"error"`) {
			c.t.Errorf("%s complains: %s", c.Name, line)
		}
	}
}

// idle wants the log to say once of each flag, and of no other, that it has no effect.
func (c *container) idle(flags ...string) {
	c.t.Helper()
	text := c.Log.Text()
	for _, f := range flags {
		if n := strings.Count(text, `"flag":"--`+f+`"`); n != 1 {
			c.t.Errorf("%s says %d times that --%s has no effect, want once", c.Name, n, f)
		}
	}
	if n := strings.Count(text, "this flag has no effect in limpet"); n != len(flags) {
		c.t.Errorf("%s says of %d flags that they have no effect, want %d: %q", c.Name, n, len(flags), flags)
	}
}

// etcdctl runs a command of etcd's client on the container's host and returns what it prints.
func (c *container) etcdctl(args ...string) string {
	c.t.Helper()
	r := c.host.Exec(proc.Binary(c.t, proc.Limpet), append([]string{"etcdctl"}, args...)...)
	if r.Code != 0 {
		c.t.Fatalf("etcdctl %s at %s: %s", strings.Join(args, " "), c.Name, r.Stderr)
	}
	return strings.TrimSpace(r.Stdout)
}

// probe is a GET as a kubelet does it, from the container's host.
func (c *container) probe(url string) {
	c.t.Helper()
	client := &http.Client{Transport: &http.Transport{DialContext: c.host.DialContext, DisableKeepAlives: true}, Timeout: patience}
	resp, err := client.Get(url)
	if err != nil {
		c.t.Fatalf("probe of %s: %v", c.Name, err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		c.t.Errorf("%s of %s: got %s, want 200", url, c.Name, resp.Status)
	}
}

// notified is systemd's end of the socket on which a unit of type notify is waited for.
func (c *container) notified() *net.UnixConn {
	c.t.Helper()
	c.write("run/systemd/.keep", "", 0o644)
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(c.root, "run/systemd/notify"), Net: "unixgram"})
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = l.Close() })
	c.Env = append(c.Env, "NOTIFY_SOCKET=/run/systemd/notify")
	return l
}

// hears waits until systemd is told something, which may stand among other lines.
func (c *container) hears(l *net.UnixConn, want string) {
	c.t.Helper()
	if err := l.SetReadDeadline(time.Now().Add(patience)); err != nil {
		c.t.Fatal(err)
	}
	buf := make([]byte, 4096)
	for {
		n, err := l.Read(buf)
		if err != nil {
			c.t.Fatalf("systemd does not hear %s of %s: %v", want, c.Name, err)
		}
		if slices.Contains(strings.Split(string(buf[:n]), "\n"), want) {
			return
		}
	}
}
