package main

import (
	"bytes"
	"context"
	"debug/buildinfo"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
)

// sideNames are the sides in the order of the table; kine-full only runs when it is asked for.
var sideNames = []string{"limpet", "etcd", "kine", "kine-full"}

// side is a program under test.
type side struct {
	name string
	// kubernetes is set when the side takes only the requests Kubernetes sends: create and update transactions, no
	// plain put worth the name, no serializable reads.
	kubernetes bool
	bin        string   // the server's binary
	also       []string // binaries that count into its size: etcd's etcdctl, which limpet has inside
	version    string
	args       func(at place) []string // command line for one instance
	pprof      []string                // more arguments that open /debug/pprof on the client port; nil if it cannot
	// conflicts counts the updates of the whole run that found a key at another revision than the last answer to its
	// only writer had named.
	conflicts atomic.Int64
}

// place is where one instance of a side lives.
type place struct {
	name         string // of the member
	dir          string
	log          string // what it prints; outside dir, where some servers refuse foreign files
	client, peer int    // TCP ports on 127.0.0.1
	initial      string // name and peer URL of every member of the cluster, as --initial-cluster wants them
}

func (p place) peerURL() string { return fmt.Sprintf("http://127.0.0.1:%d", p.peer) }

// newSide builds a side's binaries into binDir.
func newSide(ctx context.Context, name, binDir string) (*side, error) {
	switch name {
	case "limpet":
		return newLimpet(ctx, binDir)
	case "etcd":
		return newEtcd(ctx, binDir)
	case "kine", "kine-full":
		return newKine(ctx, name, binDir)
	}
	return nil, fmt.Errorf("unknown side %q; there are %s", name, strings.Join(sideNames, ", "))
}

// newLimpet builds the module in the parent folder, or takes $LIMPET_BIN.
func newLimpet(ctx context.Context, binDir string) (*side, error) {
	s := &side{name: "limpet", pprof: []string{"--enable-pprof"}}
	s.args = func(at place) []string { return append([]string{"server"}, etcdFlags(at)...) }
	if s.bin = os.Getenv("LIMPET_BIN"); s.bin != "" {
		abs, err := filepath.Abs(s.bin)
		if err != nil {
			return nil, err
		}
		s.bin, s.version = abs, "binary given by LIMPET_BIN"
		return s, nil
	}
	s.bin = filepath.Join(binDir, "limpet")
	if err := goBuild(ctx, "..", s.bin, ".", pureGo...); err != nil {
		return nil, err
	}
	s.version = sourceVersion(ctx, "..")
	return s, nil
}

// newEtcd builds etcd and etcdctl as their releases are: no cgo, trimmed, stripped.
func newEtcd(ctx context.Context, binDir string) (*side, error) {
	ctl := filepath.Join(binDir, "etcdctl")
	s := &side{name: "etcd", bin: filepath.Join(binDir, "etcd"), also: []string{ctl}, args: etcdFlags,
		pprof: []string{"--enable-pprof"}}
	if err := goBuild(ctx, ".", s.bin, "go.etcd.io/etcd/server/v3", pureGo...); err != nil {
		return nil, err
	}
	if err := goBuild(ctx, ".", ctl, "go.etcd.io/etcd/etcdctl/v3", pureGo...); err != nil {
		return nil, err
	}
	s.version = moduleVersion(s.bin)
	return s, nil
}

// newKine builds kine as its release does: with cgo and its own SQLite options when there is a C compiler, otherwise
// without. "kine" has its default durability, synchronous=NORMAL: a write is answered before it is on the disk.
// "kine-full" is the same binary made to sync every commit, as etcd and limpet do.
func newKine(ctx context.Context, name, binDir string) (*side, error) {
	params := "_journal_mode=WAL&_busy_timeout=30000&_synchronous=NORMAL&_txlock=immediate&_stmt_cache_size=20&cache=shared"
	if name == "kine-full" {
		params = strings.Replace(params, "NORMAL", "FULL", 1)
	}
	s := &side{name: name, kubernetes: true, bin: filepath.Join(binDir, "kine")}
	s.args = func(at place) []string {
		return []string{
			fmt.Sprintf("--listen-address=127.0.0.1:%d", at.client),
			"--endpoint=sqlite://" + filepath.Join(at.dir, "state.db") + "?" + params,
			"--metrics-bind-address=0",
		}
	}
	how, build := "no cgo", pureGo
	if _, err := exec.LookPath("gcc"); err == nil {
		how, build = "cgo", kineRelease
	}
	if err := goBuild(ctx, "kine", s.bin, "github.com/k3s-io/kine", build...); err != nil {
		return nil, err
	}
	s.version = fmt.Sprintf("%s, sqlite, %s", moduleVersion(s.bin), how)
	if name == "kine-full" {
		s.version += ", synchronous=FULL"
	} else {
		s.version += ", synchronous=NORMAL (its default)"
	}
	return s, nil
}

// etcdFlags are the flags of a member that etcd and limpet share; all else stays at its default.
func etcdFlags(at place) []string {
	client, peer := fmt.Sprintf("http://127.0.0.1:%d", at.client), at.peerURL()
	return []string{
		"--name=" + at.name, "--data-dir=" + at.dir,
		"--listen-client-urls=" + client, "--advertise-client-urls=" + client,
		"--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer,
		"--initial-cluster=" + at.initial,
	}
}

// pureGo builds without cgo, stripped.
var pureGo = []string{"CGO_ENABLED=0", "-ldflags=-s -w"}

// kineRelease is what kine's scripts/build sets for Linux.
var kineRelease = []string{
	"CGO_ENABLED=1",
	"CGO_CFLAGS=-O2 -DSQLITE_DEFAULT_MEMSTATUS=0 -DSQLITE_DISABLE_INTRINSIC -DSQLITE_ENABLE_COLUMN_METADATA " +
		"-DSQLITE_ENABLE_DBPAGE_VTAB -DSQLITE_ENABLE_DBSTAT_VTAB -DSQLITE_ENABLE_MATH_FUNCTIONS " +
		"-DSQLITE_ENABLE_MEMORY_MANAGEMENT -DSQLITE_ENABLE_OFFSET_SQL_FUNC -DSQLITE_ENABLE_PREUPDATE_HOOK " +
		"-DSQLITE_ENABLE_RBU -DSQLITE_ENABLE_RTREE -DSQLITE_ENABLE_SESSION -DSQLITE_ENABLE_SNAPSHOT " +
		"-DSQLITE_ENABLE_STAT4 -DSQLITE_ENABLE_UNLOCK_NOTIFY -DSQLITE_LIKE_DOESNT_MATCH_BLOBS " +
		"-DSQLITE_THREADSAFE=1 -DSQLITE_WITHOUT_ZONEMALLOC",
	"-tags=nats,sqlite_unlock_notify,sqlite_vtable,sqlite_stat4,sqlite_preupdate_hook,sqlite_math_functions," +
		"sqlite_dbstat,sqlite_column_metadata",
	"-ldflags=-s -w -extldflags -static",
}

// goBuild builds pkg from the module in dir. Settings that start with a dash are flags, the others environment.
func goBuild(ctx context.Context, dir, out, pkg string, settings ...string) error {
	abs, err := filepath.Abs(out)
	if err != nil {
		return err
	}
	args, env := []string{"build", "-trimpath", "-o", abs}, os.Environ()
	for _, s := range settings {
		if strings.HasPrefix(s, "-") {
			args = append(args, s)
		} else {
			env = append(env, s)
		}
	}
	cmd := exec.CommandContext(ctx, "go", append(args, pkg)...)
	cmd.Dir, cmd.Env = dir, env
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build %s: %w: %s", pkg, err, lastLines(text, 5))
	}
	return nil
}

// moduleVersion is the release of the module a binary was built from.
func moduleVersion(bin string) string {
	info, err := buildinfo.ReadFile(bin)
	if err != nil {
		return "unknown"
	}
	return info.Main.Version
}

// sourceVersion names the commit in dir, and says so when the source differs from it.
func sourceVersion(ctx context.Context, dir string) string {
	git := func(args ...string) string {
		out, _ := exec.CommandContext(ctx, "git", append([]string{"-C", dir}, args...)...).Output()
		return strings.TrimSpace(string(out))
	}
	commit := git("rev-parse", "--short", "HEAD")
	if commit == "" {
		return "source without a commit"
	}
	if git("status", "--porcelain", "--", ".", ":!bench") != "" {
		return "commit " + commit + " with uncommitted changes"
	}
	return "commit " + commit
}

// binarySize is the bytes of the server's binary and of those it needs beside it.
func (s *side) binarySize() (int64, error) {
	var total int64
	for _, path := range append([]string{s.bin}, s.also...) {
		info, err := os.Stat(path)
		if err != nil {
			return 0, err
		}
		total += info.Size()
	}
	return total, nil
}

// lastLines is the end of a text, for error messages.
func lastLines(text []byte, n int) string {
	lines := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
	return string(bytes.Join(lines[max(0, len(lines)-n):], []byte("\n")))
}
