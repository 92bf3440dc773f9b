package e2e

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"limpet/e2e/proc"
)

// refusal is one way to start limpet that must fail.
type refusal struct {
	name string
	// prepare gives the whole command line after "server", given a folder for the row's files.
	prepare func(t *testing.T, dir string) []string
	// says is part of the sentence: what was wrong with what.
	says []string
	// code is the exit code; 0 stands for 1.
	code int
	// setup changes the command, for rows about rights.
	setup func(*exec.Cmd)
}

// usual is a command line that works, with more behind it.
func usual(t *testing.T, dir string, more ...string) []string {
	client, peer := "http://"+proc.FreeAddr(t), "http://"+proc.FreeAddr(t)
	return append([]string{
		"--name=m1", "--data-dir=" + filepath.Join(dir, "data"),
		"--listen-client-urls=" + client, "--advertise-client-urls=" + client,
		"--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer, "--initial-cluster=m1=" + peer,
	}, more...)
}

func with(more ...string) func(*testing.T, string) []string {
	return func(t *testing.T, dir string) []string { return usual(t, dir, more...) }
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestRefusals starts limpet wrongly: exit code 1, or 2 if the command line cannot be read, one clear sentence on stderr, nothing on stdout,
// and no file changed.
func TestRefusals(t *testing.T) {
	needsLimpet(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	port := taken.Addr().String()[strings.LastIndex(taken.Addr().String(), ":")+1:]

	rows := []refusal{
		{name: "unknown flag", code: 2, prepare: with("--no-such-flag=1"), says: []string{"no-such-flag"}},
		{name: "unknown flag without value", code: 2, prepare: with("--frobnicate"), says: []string{"frobnicate"}},
		{name: "stray argument", prepare: with("stray"), says: []string{"stray"}},
		{name: "flag without value", code: 2, prepare: with("--data-dir"), says: []string{"data-dir"}},
		{name: "not a number", code: 2, prepare: with("--max-txn-ops=many"), says: []string{"many", "max-txn-ops"}},
		{name: "not a duration", code: 2, prepare: with("--watch-progress-notify-interval=soon"), says: []string{"soon"}},
		{name: "not a boolean", code: 2, prepare: with("--enable-pprof=perhaps"), says: []string{"perhaps"}},
		{name: "not a log level", prepare: with("--log-level=loud"), says: []string{"loud", "log-level"}},
		{name: "URL without scheme", prepare: with("--listen-client-urls=127.0.0.1:2379"), says: []string{"127.0.0.1:2379"}},
		{name: "nonsense for a URL", prepare: with("--listen-client-urls=nonsense"), says: []string{"nonsense"}},
		{name: "URL with a foreign scheme", prepare: with("--listen-client-urls=ftp://127.0.0.1:2379"), says: []string{"ftp"}},
		{name: "URL without port", prepare: with("--listen-client-urls=http://127.0.0.1"), says: []string{"http://127.0.0.1"}},
		{name: "URL with a path", prepare: with("--listen-client-urls=http://127.0.0.1:2379/x"), says: []string{"/x"}},
		{name: "URL with a host name to listen on", prepare: with("--listen-client-urls=http://example.org:2379"), says: []string{"example.org"}},
		{name: "bad peer URL", prepare: with("--listen-peer-urls=nonsense"), says: []string{"nonsense"}},
		{name: "bad advertised URL", prepare: with("--advertise-client-urls=nonsense"), says: []string{"nonsense"}},
		{name: "bad compaction mode", prepare: with("--auto-compaction-mode=sometimes"), says: []string{"sometimes", "auto-compaction-mode"}},
		{name: "bad compaction retention", prepare: with("--auto-compaction-mode=revision", "--auto-compaction-retention=x"), says: []string{"auto-compaction-retention"}},
		{name: "election faster than heartbeats allow", prepare: with("--heartbeat-interval=1000", "--election-timeout=1500"), says: []string{"election-timeout", "heartbeat-interval"}},
		{name: "name not in the cluster", prepare: with("--name=other"), says: []string{"other"}},
		{name: "client port in use", prepare: with("--listen-client-urls=http://127.0.0.1:" + port), says: []string{port, "in use"}},
		{name: "TLS without a certificate", prepare: with("--listen-client-urls=https://127.0.0.1:0"), says: []string{"--cert-file", "--key-file", "--auto-tls"}},
		{name: "metrics with TLS without a certificate", prepare: with("--listen-metrics-urls=https://127.0.0.1:0"), says: []string{"--cert-file", "--key-file"}},
		{name: "certificate without a key", prepare: with("--cert-file=x"), says: []string{"--cert-file", "--key-file"}},
		{name: "certificate that is not there", prepare: with("--listen-client-urls=https://127.0.0.1:0", "--cert-file=none", "--key-file=none"), says: []string{"none", "no such file"}},
		{name: "automatic TLS of members without a token", prepare: with("--listen-peer-urls=https://127.0.0.1:0", "--peer-auto-tls"), says: []string{"--peer-auto-tls", "--token-file"}},
		{name: "members with TLS and no certificates", prepare: with("--listen-peer-urls=https://127.0.0.1:0"), says: []string{"--token-file", "--peer-cert-file"}},
		{name: "not a TLS version", prepare: with("--tls-min-version=TLS1.1"), says: []string{"TLS1.1", "TLS1.2", "tls-min-version"}},
		{name: "TLS versions the wrong way round", prepare: with("--tls-min-version=TLS1.3", "--tls-max-version=TLS1.2"), says: []string{"TLS1.3", "TLS1.2"}},
		{name: "not a cipher suite", prepare: with("--cipher-suites=ROT13"), says: []string{"ROT13", "cipher-suites"}},
		{name: "socket file in use", prepare: func(t *testing.T, dir string) []string {
			file := filepath.Join(t.TempDir(), "s")
			l, err := net.Listen("unix", file)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
			return usual(t, dir, "--listen-client-urls=unix://"+file)
		}, says: []string{"in use"}},
		{name: "config file that is not there", prepare: with("--config-file=no/such/file"), says: []string{"no/such/file"}},
		{name: "config file that is not YAML", prepare: func(t *testing.T, dir string) []string {
			write(t, filepath.Join(dir, "conf"), "name: [")
			return []string{"--config-file=" + filepath.Join(dir, "conf")}
		}, says: []string{"conf"}},
		{name: "config file with a bad value", prepare: func(t *testing.T, dir string) []string {
			write(t, filepath.Join(dir, "conf"), "max-txn-ops: many\ndata-dir: "+filepath.Join(dir, "data")+"\n")
			return []string{"--config-file=" + filepath.Join(dir, "conf")}
		}, says: []string{"max-txn-ops", "many"}},
		{name: "data directory of another program", prepare: func(t *testing.T, dir string) []string {
			write(t, filepath.Join(dir, "data", "PG_VERSION"), "16\n")
			write(t, filepath.Join(dir, "data", "base", "1", "1259"), "rows")
			return usual(t, dir)
		}, says: []string{"data"}},
		{name: "data directory of etcd", prepare: func(t *testing.T, dir string) []string {
			write(t, filepath.Join(dir, "data", "member", "snap", "db"), "bolt")
			write(t, filepath.Join(dir, "data", "member", "wal", "0000000000000000-0000000000000000.wal"), "wal")
			return usual(t, dir)
		}, says: []string{"data"}},
		{name: "data directory is a file", prepare: func(t *testing.T, dir string) []string {
			write(t, filepath.Join(dir, "data"), "I am a file")
			return usual(t, dir)
		}, says: []string{"data"}},
		{name: "data directory below a file", prepare: func(t *testing.T, dir string) []string {
			write(t, filepath.Join(dir, "file"), "I am a file")
			return usual(t, dir, "--data-dir="+filepath.Join(dir, "file", "data"))
		}, says: []string{"file"}},
		{name: "data directory not writable", prepare: readOnly, says: []string{"data"}, setup: asNobody},
		{name: "data directory cannot be made", prepare: func(t *testing.T, dir string) []string {
			return append(readOnly(t, dir), "--data-dir="+filepath.Join(dir, "data", "deeper"))
		}, says: []string{"data"}, setup: asNobody},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) { row.run(t) })
	}
}

func (r refusal) run(t *testing.T) {
	dir := t.TempDir()
	args := append([]string{"server"}, r.prepare(t, dir)...)
	before := proc.TreeOf(t, dir)
	res := proc.Command{Path: proc.Binary(t, proc.Limpet), Args: args, Dir: dir, Setup: r.setup}.Run(t)
	refused(t, res, max(r.code, 1), r.says...)
	if after := proc.TreeOf(t, dir); !reflect.DeepEqual(before, after) {
		t.Errorf("the folder was touched:\n got %v\nwant %v", after, before)
	}
}

// refused checks the form of a refusal, and its exit code.
func refused(t *testing.T, res proc.Result, code int, says ...string) {
	t.Helper()
	if strings.Contains(res.Stderr, "goroutine ") {
		t.Errorf("exit code %d and a panic: %.400s", res.Code, res.Stderr)
		return
	}
	if res.Code != code {
		t.Errorf("exit code is %d, want %d", res.Code, code)
	}
	if res.Stdout != "" {
		t.Errorf("stdout is %q, want nothing", res.Stdout)
	}
	sentence := strings.TrimSuffix(res.Stderr, "\n")
	if sentence == "" || strings.Contains(sentence, "\n") {
		t.Errorf("stderr is %q, want one line", res.Stderr)
	}
	for _, word := range says {
		if !strings.Contains(sentence, word) {
			t.Errorf("stderr is %q, want it to name %q", res.Stderr, word)
		}
	}
	for _, noise := range []string{"panic", "0x", "%!"} {
		if strings.Contains(sentence, noise) {
			t.Errorf("stderr is %q, want no %q in a sentence", res.Stderr, noise)
		}
	}
}

// readOnly makes a data directory that nobody but root may write to, reachable for everybody.
func readOnly(t *testing.T, dir string) []string {
	data := filepath.Join(dir, "data")
	if err := os.Mkdir(data, 0o555); err != nil {
		t.Fatal(err)
	}
	for d := dir; d != os.TempDir() && d != "/" && d != "."; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return usual(t, dir)
}

// asNobody gives up root's rights, which know no read-only directory.
func asNobody(cmd *exec.Cmd) {
	if os.Getuid() == 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: 65534, Gid: 65534}
	}
}

// TestLocked starts a second limpet on the data of a running one.
func TestLocked(t *testing.T) {
	needsLimpet(t)
	first := proc.Start(t, proc.Limpet)
	args := append([]string{"server"}, usual(t, t.TempDir(), "--data-dir="+first.DataDir)...)
	res := proc.Command{Path: proc.Binary(t, proc.Limpet), Args: args}.Run(t)
	refused(t, res, 1, first.DataDir)
	if !first.Alive() {
		t.Fatal("the first server did not survive the second")
	}
	etcdctl(t, first, "put", "after", "1")
	first.Kill()
	first.Run()
	if got := etcdctl(t, first, "get", "after", "--print-value-only"); got != "1\n" {
		t.Errorf("after all that, got %q, want %q", got, "1\n")
	}
}

// TestPeerPortInUse is a row of its own: a member alone in its cluster need not listen to peers,
// but then it must work.
func TestPeerPortInUse(t *testing.T) {
	needsLimpet(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	s := proc.New(t, proc.Limpet)
	s.Peer = taken.Addr().String()
	s.Launch()
	if err := s.Ready(); err != nil {
		if !strings.Contains(s.Log.Text(), s.Peer[strings.LastIndex(s.Peer, ":")+1:]) {
			t.Errorf("refused without naming the port %s:\n%s", s.Peer, s.Log.Text())
		}
		return
	}
	etcdctl(t, s, "put", "a", "1")
}
