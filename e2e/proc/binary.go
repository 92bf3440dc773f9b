package proc

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Kind names a program under test.
type Kind string

// The two programs that tests judge, etcd's own client for the command line, and what restores its
// snapshots. The 3.5 ones are the
// last that speak the v2 API.
const (
	Etcd      Kind = "etcd"
	Limpet    Kind = "limpet"
	Etcdctl   Kind = "etcdctl"
	Etcdutl   Kind = "etcdutl"
	Etcd35    Kind = "etcd-3.5"
	Etcdctl35 Kind = "etcdctl-3.5"
	Kine      Kind = "kine" // the release that bench measures, without cgo
)

const buildDeadline = 15 * time.Minute

// built remembers per Kind what Binary found, so that a test process builds once.
var built struct {
	sync.Mutex
	paths map[Kind]string
}

// Binary gives the path of kind's executable, building it at first use. LIMPET_BIN names a limpet
// built elsewhere, LIMPET_E2E_BIN the folder in which built ones are kept.
func Binary(t testing.TB, kind Kind) string {
	t.Helper()
	built.Lock()
	defer built.Unlock()
	if path := built.paths[kind]; path != "" {
		return path
	}
	path, err := build(kind)
	if err != nil {
		t.Fatalf("build %s: %v", kind, err)
	}
	if built.paths == nil {
		built.paths = map[Kind]string{}
	}
	built.paths[kind] = path
	return path
}

func build(kind Kind) (string, error) {
	if path := os.Getenv("LIMPET_BIN"); kind == Limpet && path != "" {
		return filepath.Abs(path)
	}
	module, err := moduleDir()
	if err != nil {
		return "", err
	}
	repo := filepath.Dir(module)
	folder := os.Getenv("LIMPET_E2E_BIN")
	if folder == "" {
		folder = filepath.Join(repo, ".cache", "bin")
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return "", err
	}
	unlock, err := lockFolder(folder)
	if err != nil {
		return "", err
	}
	defer unlock()

	path := filepath.Join(folder, string(kind))
	ctx, cancel := context.WithTimeout(context.Background(), buildDeadline)
	defer cancel()
	what, dir := ".", repo
	switch kind {
	case Etcd:
		what, dir = "go.etcd.io/etcd/server/v3", module
	case Etcdutl:
		what, dir = "go.etcd.io/etcd/etcdutl/v3", module
	case Etcdctl: // the release that limpet has built in
		what = "go.etcd.io/etcd/etcdctl/v3"
	case Etcd35:
		what, dir = "go.etcd.io/etcd/server/v3", filepath.Join(module, "etcd35")
	case Kine:
		what, dir = "github.com/k3s-io/kine", filepath.Join(repo, "bench", "kine")
	case Etcdctl35:
		what, dir = "go.etcd.io/etcd/etcdctl/v3", filepath.Join(module, "etcd35")
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-o", path, what)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%s: %w\n%s", cmd, err, out)
	}
	return path, nil
}

// moduleDir finds this module's folder through the go command, which knows it from the working
// directory; the source path of a file may be trimmed away.
func moduleDir() (string, error) {
	out, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("go env GOMOD: %w", err)
	}
	return filepath.Dir(strings.TrimSpace(string(out))), nil
}

// lockFolder keeps two test processes from building into one folder at the same time.
func lockFolder(folder string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(folder, ".lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return func() { f.Close() }, nil
}
