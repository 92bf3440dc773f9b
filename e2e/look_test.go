package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"limpet/e2e/proc"
	"limpet/e2e/side"
)

// lookAt runs limpet against a member; the words of line are its arguments.
func lookAt(t *testing.T, s *proc.Server, args ...string) proc.Result {
	t.Helper()
	return proc.Command{Path: proc.Binary(t, proc.Limpet), Args: args, Env: []string{"LIMPET_ENDPOINTS=" + s.ClientURL()}}.Run(t)
}

// looked runs limpet, which must succeed, and returns what it prints.
func looked(t *testing.T, s *proc.Server, args ...string) string {
	t.Helper()
	res := lookAt(t, s, args...)
	if res.Code != 0 {
		t.Fatalf("limpet %q ended with %d: %s", args, res.Code, res.Stderr)
	}
	return res.Stdout
}

// lookRefused runs limpet, which must fail with code and say want.
func lookRefused(t *testing.T, s *proc.Server, code int, want string, args ...string) {
	t.Helper()
	if res := lookAt(t, s, args...); res.Code != code || !strings.Contains(res.Stderr, want) {
		t.Errorf("limpet %q: got %d, %q, %q, want %d and %q", args, res.Code, res.Stdout, res.Stderr, code, want)
	}
}

// TestHistoryOnThree: three members tell the same of a key that was created, put,
// deleted and created again, from memory and after a restart from disk, before and
// after a compaction.
func TestHistoryOnThree(t *testing.T) {
	needsLimpet(t)
	c := side.Found(t, proc.Limpet, 3)
	at := func(n int) *proc.Server { return c.Member(n).Server }
	etcdctl(t, at(1), "put", "k", "one")   // 2
	etcdctl(t, at(2), "put", "k", "twice") // 3
	etcdctl(t, at(3), "del", "k")          // 4
	etcdctl(t, at(1), "put", "k2", "x")    // 5
	etcdctl(t, at(2), "put", "k", "again") // 6
	same := func(what string, args ...string) []string {
		t.Helper()
		first := looked(t, at(1), args...)
		for n := 2; n <= 3; n++ {
			if got := looked(t, at(n), args...); got != first {
				t.Errorf("%s: members 1 and %d tell\n%s\n%s", what, n, first, got)
			}
		}
		return strings.Split(strings.TrimSpace(first), "\n")
	}
	lines := same("history", "history", "k", "-o", "json", "--values")
	for i, want := range []string{`"create".*"value":"one"`, `"put".*"size_before_bytes":3,"value":"twice"`, `"delete".*"size_before_bytes":5`, `"create".*"value":"again"`} {
		if len(lines) != 4 || !regexp.MustCompile(want).MatchString(lines[i]) {
			t.Fatalf("history: got\n%s\nwant %s in line %d", strings.Join(lines, "\n"), want, i)
		}
	}
	var second struct{ Time string }
	if err := json.Unmarshal([]byte(lines[1]), &second); err != nil {
		t.Fatal(err)
	}
	if got := same("as of a time", "get", "k", "--at", second.Time); got[0] != "twice" {
		t.Errorf("at %s: got %q, want twice", second.Time, got)
	}
	if got := same("a difference", "diff", "3", "now", "-o", "json"); len(got) != 2 || !strings.Contains(got[0], `"changed","key":"k"`) || !strings.Contains(got[1], `"added","key":"k2"`) {
		t.Errorf("diff 3 now: got %q", got)
	}
	at(2).Terminate(30 * time.Second)
	at(2).Run()
	if again := same("after a restart", "history", "k", "-o", "json", "--values"); strings.Join(again, "\n") != strings.Join(lines, "\n") {
		t.Errorf("after a restart: got\n%s\nwant\n%s", strings.Join(again, "\n"), strings.Join(lines, "\n"))
	}
	etcdctl(t, at(1), "compact", "3")
	if rest := same("compacted", "history", "k", "-o", "json", "--values"); len(rest) != 3 || !strings.Contains(rest[0], `"twice"`) {
		t.Errorf("compacted: got %q", rest)
	}
	lookRefused(t, at(3), 1, "revision 2 is compacted; history begins with revision 3 of ", "get", "k", "--rev", "2")
	lookRefused(t, at(3), 1, "history begins with revision 3 of ", "get", "k", "--at", "5d")
	lookRefused(t, at(3), 2, "revision 2 is compacted", "diff", "2", "now", "--exit-code")
	lookRefused(t, at(3), 1, "", "diff", "3", "now", "--exit-code")
	same("nothing differs", "diff", "now", "now", "--exit-code")
}

// TestUndelete: a value comes back once, only if nobody was faster, and without its
// lease.
func TestUndelete(t *testing.T) {
	needsLimpet(t)
	s := proc.Start(t, proc.Limpet)
	lease := strings.Fields(etcdctl(t, s, "lease", "grant", "600"))[1]
	etcdctl(t, s, "put", "--lease="+lease, "k", "leased") // 2
	etcdctl(t, s, "del", "k")                             // 3
	if got := looked(t, s, "undelete", "k"); !strings.Contains(got, "as revision 4") || !strings.Contains(got, "without the lease "+lease) {
		t.Errorf("undelete: got %q", got)
	}
	etcdctl(t, s, "lease", "revoke", lease)
	if got := looked(t, s, "get", "k"); got != "leased\n" {
		t.Errorf("without its lease: got %q", got)
	}
	lookRefused(t, s, 1, "--force", "undelete", "k")
	etcdctl(t, s, "put", "k", "newer") // 5
	if got := looked(t, s, "undelete", "k@2", "--force", "-o", "json"); !strings.Contains(got, `"from_revision":2,"revision":6`) {
		t.Errorf("by force: got %q", got)
	}
	lookRefused(t, s, 1, "was never deleted", "undelete", "k2")
	lookRefused(t, s, 1, "was not there at revision 1", "undelete", "k@1", "--force")
	etcdctl(t, s, "put", "a@7", "odd")
	etcdctl(t, s, "del", "a@7")
	looked(t, s, "undelete", "a@7", "--rev", "7")
	if got := looked(t, s, "get", "a@7"); got != "odd\n" {
		t.Errorf("an odd key: got %q", got)
	}
	etcdctl(t, s, "del", "k") // 10
	etcdctl(t, s, "compact", "10")
	lookRefused(t, s, 1, "revision 9 is compacted", "undelete", "k")
}

// TestLookRights: users see the history of what they may read, and undelete what
// they may write.
func TestLookRights(t *testing.T) {
	needsLimpet(t)
	s := proc.Start(t, proc.Limpet)
	etcdctl(t, s, "put", "open/a", "1")
	etcdctl(t, s, "put", "secret/a", "hidden")
	etcdctl(t, s, "del", "open/a")
	for _, line := range []string{
		"user add root:pw", "user grant-role root root", "user add ann:pw", "role add reader",
		"role grant-permission reader read --prefix=true open/", "user grant-role ann reader", "auth enable",
	} {
		etcdctl(t, s, strings.Fields(line)...)
	}
	lookRefused(t, s, 1, "authentication is enabled", "history", "open/a")
	lookRefused(t, s, 1, "authentication is enabled", "history", "secret/a", "--local")
	lookRefused(t, s, 1, "authentication is enabled", "diff", "1h", "now")
	if got := looked(t, s, "history", "open/a", "--user", "ann:pw", "-o", "json"); strings.Count(got, "\n") != 2 {
		t.Errorf("her own: got %q", got)
	}
	for _, args := range [][]string{{"history", "secret/a"}, {"history", "", "--prefix"}, {"get", "secret/a", "--rev", "3"}, {"diff", "1", "now"}, {"undelete", "open/a"}} {
		res := lookAt(t, s, append(args, "--user", "ann:pw")...)
		if res.Code != 1 || !strings.Contains(res.Stderr, "permission denied") || strings.Contains(res.Stdout+res.Stderr, "hidden") {
			t.Errorf("limpet %q as ann: got %+v", args, res)
		}
	}
	looked(t, s, "undelete", "open/a", "--user", "root:pw")
	lookRefused(t, s, 1, "invalid user", "history", "open/a", "--user", "ann:guess")
}

// fill puts values of 64 KiB until enough says so.
func fill(t *testing.T, kv pb.KVClient, enough func() bool) (puts int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	value := bytes.Repeat([]byte("x"), 64<<10)
	for ; !enough(); puts++ {
		if _, err := kv.Put(ctx, &pb.PutRequest{Key: fmt.Appendf(nil, "fill/%d", puts%50), Value: value}); err != nil {
			t.Fatalf("after %d puts: %v", puts, err)
		}
	}
	return puts
}

// TestSQLUnderLoad: while a question is answered the member takes writes, and its
// WAL grows; when it is over, the WAL is used again from its beginning.
func TestSQLUnderLoad(t *testing.T) {
	needsLimpet(t)
	s := proc.Start(t, proc.Limpet)
	kv := pb.NewKVClient(side.NewTarget(t, "limpet", s).Conn)
	wal := func() int64 {
		info, err := os.Stat(filepath.Join(s.DataDir, "limpet.db-wal"))
		if err != nil {
			return 0
		}
		return info.Size()
	}
	fill(t, kv, func() bool { return wal() > 1<<20 })
	const bound = 12 << 20 // of a WAL that nobody holds back: a checkpoint after 4 MiB, and what comes meanwhile
	ended := make(chan proc.Result, 1)
	long := exec.Command(proc.Binary(t, proc.Limpet), "sql", "--data-dir", s.DataDir, "--timeout", "20s",
		"SELECT count(*) FROM revisions a, revisions b, revisions c, revisions d, revisions e, revisions f")
	var stderr bytes.Buffer
	long.Stderr = &stderr
	if err := long.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = long.Process.Kill() })
	// Ends with the question, which has a bound of its own.
	go func() {
		_ = long.Wait()
		ended <- proc.Result{Code: long.ProcessState.ExitCode(), Stderr: stderr.String()}
	}()
	fill(t, kv, func() bool {
		select {
		case res := <-ended:
			t.Fatalf("the question ended while the WAL had %d bytes: %+v", wal(), res)
		default:
		}
		return wal() > bound
	})
	for range 20 {
		if got := looked(t, s, "sql", "--data-dir", s.DataDir, "-o", "csv", "SELECT max(revision) - (SELECT value FROM meta WHERE name = 'revision') FROM revisions"); !strings.HasSuffix(got, "\n0\n") {
			t.Errorf("revisions and meta do not fit together: %q", got)
		}
	}
	if res := <-ended; res.Code != 1 || !strings.Contains(res.Stderr, "takes longer than 20s") {
		t.Errorf("the long question: got %+v", res)
	}
	fill(t, kv, func() bool { return wal() <= 4<<20 })
	if got := looked(t, s, "get", "fill/1"); len(got) != 64<<10+1 {
		t.Errorf("a value of %d bytes, want 64 KiB", len(got))
	}
}

// TestSQLAsRoot: root asks a member that runs as another user, also one that was
// killed or has stopped; whatever is left beside the database is that user's, and the
// member starts again.
func TestSQLAsRoot(t *testing.T) {
	needsLimpet(t)
	if os.Geteuid() != 0 {
		t.Skip("only root can run a member as somebody else")
	}
	const nobody = 65534
	base, err := os.MkdirTemp("", "limpet-e2e-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(base) })
	dir := filepath.Join(base, "data")
	if err := os.Chmod(base, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(dir, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(base, "limpet")
	if data, err := os.ReadFile(proc.Binary(t, proc.Limpet)); err != nil {
		t.Fatal(err)
	} else if err := os.WriteFile(program, data, 0o755); err != nil {
		t.Fatal(err)
	}
	as := func(uid uint32) func(*exec.Cmd) {
		return func(cmd *exec.Cmd) { cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uid, Gid: uid} }
	}
	client, peer := "http://"+proc.FreeAddr(t), "http://"+proc.FreeAddr(t)
	member := func() *exec.Cmd {
		t.Helper()
		cmd := exec.Command(program, "server", "--data-dir", dir, "--listen-client-urls", client, "--advertise-client-urls", client,
			"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "default="+peer)
		cmd.Dir = base
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		as(nobody)(cmd)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		err := proc.Eventually(ctx, 50*time.Millisecond, func() error {
			res := proc.Command{Path: program, Args: []string{"etcdctl", "--endpoints", client, "--command-timeout=1s", "put", "k", "v"}}.Run(t)
			if res.Code != 0 {
				return fmt.Errorf("put: %s", res.Stderr)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	ask := func(uid uint32) proc.Result {
		return proc.Command{Path: program, Args: []string{"sql", "--data-dir", dir, "-o", "csv", "SELECT count(*) > 0, CAST(value AS TEXT) FROM revisions"}, Setup: as(uid)}.Run(t)
	}
	wantAnswer := func(when string) {
		t.Helper()
		for _, uid := range []uint32{0, nobody} {
			if res := ask(uid); res.Code != 0 || !strings.HasSuffix(res.Stdout, "\n1,v\n") {
				t.Errorf("%s, as user %d: got %+v", when, uid, res)
			}
		}
		if res := ask(1); res.Code == 0 || res.Stdout != "" {
			t.Errorf("%s, as a stranger: got %+v", when, res)
		}
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			if st := info.Sys().(*syscall.Stat_t); st.Uid != nobody || info.Mode().Perm()&0o077 != 0 {
				t.Errorf("%s: %s belongs to user %d, with mode %v", when, path, st.Uid, info.Mode())
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
	first := member()
	wantAnswer("while it runs")
	_ = first.Process.Kill()
	_ = first.Wait()
	wantAnswer("after a kill")
	second := member()
	_ = second.Process.Signal(syscall.SIGTERM)
	_ = second.Wait()
	for _, suffix := range []string{"-wal", "-shm"} { // as a start that follows may remove them, too
		if err := os.Remove(filepath.Join(dir, "limpet.db"+suffix)); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
	}
	wantAnswer("after it has stopped")
	member()
	wantAnswer("when it runs again")
}
