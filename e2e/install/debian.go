//go:build linux

package install

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	suite          = "bookworm"
	archive        = "http://deb.debian.org/debian" // debootstrap's default
	debianDeadline = 20 * time.Minute               // to fetch and unpack it
)

// flavour is a kind of Debian, by the packages it has beside the smallest.
type flavour struct {
	packages []string
	without  string // a package that is in OpenRC's way
	init     string // what the machine boots; empty: what the packages make /sbin/init
}

var (
	withSystemd = flavour{packages: []string{"systemd", "systemd-sysv", "dbus", "iproute2", "procps", "curl", "wget", "busybox", "ca-certificates", "make", "strace", "sudo"}}
	withOpenRC  = flavour{packages: []string{"openrc", "iproute2", "procps", "curl", "busybox", "ca-certificates"}, without: "sysv-rc", init: "/sbin/openrc-init"}
)

// needs skips a test that lacks root or a program.
func needs(t testing.TB, programs ...string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("machines with a service manager of their own need root")
	}
	from := map[string]string{"systemd-nspawn": "systemd-container", "unshare": "util-linux", "nsenter": "util-linux"}
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			name := from[p]
			if name == "" {
				name = p
			}
			t.Skipf("there is no %s here: install the Debian package %s", p, name)
		}
	}
}

// debian is the folder of a root file system, which nobody may write to. Making it takes minutes,
// once.
func debian(t testing.TB, f flavour) string {
	t.Helper()
	needs(t, "debootstrap", "unshare")
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(cache, "limpet-e2e")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	lock, err := os.OpenFile(filepath.Join(folder, "debian.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close() // gives the lock back
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(folder, f.key())
	if _, err := os.Stat(root); err == nil {
		return root
	}
	if err := reachable(); err != nil {
		t.Skipf("there is no Debian to boot yet, and its packages cannot be fetched: %v", err)
	}
	if err := debootstrap(f, root+".new"); err != nil {
		t.Fatalf("make a Debian for machines to start from: %v", err)
	}
	if err := os.Rename(root+".new", root); err != nil {
		t.Fatal(err)
	}
	return root
}

// reachable asks for the list of Debian's packages.
func reachable() error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, archive+"/dists/"+suite+"/Release", nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer http.DefaultClient.CloseIdleConnections()
	if err := resp.Body.Close(); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", req.URL, resp.Status)
	}
	return nil
}

// key names what the root file system is made of.
func (f flavour) key() string {
	sum := sha256.Sum256([]byte(strings.Join(slices.Sorted(slices.Values(f.packages)), ",")))
	return fmt.Sprintf("debian-%s-%x", suite, sum[:6])
}

// debootstrap fills folder and has it reach the disk. It mounts things there: in a namespace of its
// own, so that they end with it.
func debootstrap(f flavour, folder string) error {
	if err := os.RemoveAll(folder); err != nil { // what one that was interrupted has left
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), debianDeadline)
	defer cancel()
	args := []string{"--mount", "--pid", "--fork", "--kill-child", "--mount-proc",
		"debootstrap", "--variant=minbase", "--include=" + strings.Join(f.packages, ",")}
	if f.without != "" {
		args = append(args, "--exclude="+f.without)
	}
	cmd := exec.CommandContext(ctx, "unshare", append(args, suite, folder, archive)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", cmd, err, lastLines(string(out), 20))
	}
	// The name, the resolver and the identity are each machine's own.
	for _, path := range []string{"etc/hostname", "etc/resolv.conf", "var/cache/apt/archives"} {
		if err := os.RemoveAll(filepath.Join(folder, path)); err != nil {
			return err
		}
	}
	for path, text := range map[string]string{"etc/machine-id": "", "etc/hosts": "127.0.0.1 localhost\n::1 localhost\n"} {
		if err := os.WriteFile(filepath.Join(folder, path), []byte(text), 0o644); err != nil {
			return err
		}
	}
	if f.init != "" {
		if err := os.Symlink(f.init, filepath.Join(folder, "sbin/init")); err != nil {
			return err
		}
	}
	dir, err := os.Open(folder)
	if err != nil {
		return err
	}
	defer dir.Close()
	return unix.Syncfs(int(dir.Fd()))
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
