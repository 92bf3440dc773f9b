package move

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"limpet/e2e/proc"
)

// kine is a real one on a SQLite file.
type kine struct {
	process *proc.Process
	file    string
	client  *clientv3.Client
}

func startKine(t *testing.T) *kine {
	t.Helper()
	k := &kine{process: proc.NewProcess(t, "kine", proc.Binary(t, proc.Kine)), file: filepath.Join(t.TempDir(), "state.db")}
	addr := proc.FreeAddr(t)
	k.process.Launch("--endpoint=sqlite://"+k.file+"?_journal=WAL&cache=shared&_busy_timeout=30000&_txlock=immediate",
		"--listen-address=tcp://"+addr, "--metrics-bind-address=0", "--compact-interval=0", "--compact-min-retain=5")
	k.client = clientOf(t, "http://"+addr)
	ctx := timeout(t)
	err := proc.Eventually(ctx, 100*time.Millisecond, func() error {
		_, err := k.client.Get(ctx, "/registry/health")
		return err
	})
	if err != nil {
		t.Fatalf("kine does not answer: %v\n%s", err, k.process.Log.Tail(20))
	}
	return k
}

// TestKine: what kine told its clients, limpet tells them, under the same revisions, and goes on.
func TestKine(t *testing.T) {
	k := startKine(t)
	work(t, k.client, 400, true)
	ctx := timeout(t)
	lease, err := k.client.Grant(ctx, 3600)
	if err != nil {
		t.Fatal(err)
	}
	created, err := k.client.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision("/registry/events/1"), "=", 0)).
		Then(clientv3.OpPut("/registry/events/1", "happened", clientv3.WithLease(lease.ID))).Commit()
	if err != nil || !created.Succeeded {
		t.Fatalf("%+v, %v", created, err)
	}
	last := created.Header.Revision
	_, now := keysAt(t, k.client, 0)
	_, before := keysAt(t, k.client, last-100)
	events := eventsFrom(t, k.client, last-200, last)

	dir := newDir(t)
	if text := refused(t, "import", "kine", "--data-dir", dir, k.file); !strings.Contains(text, "stop k3s first") {
		t.Errorf("while kine runs: %s", text)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("an import that was refused left a data directory: %v", err)
	}
	k.process.Kill() // its WAL is left to be read
	var dry, sum summary
	limpet(t, &dry, "import", "kine", k.file, "--data-dir", dir, "--dry-run", "-o", "json")
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("--dry-run left a data directory: %v", err)
	}
	limpet(t, &sum, "import", "kine", "--data-dir", dir, "--output", "json", k.file)
	if sum.Keys != int64(len(now)) || sum.Revision != last || sum.Leases != 1 || dry.Keys != sum.Keys || dry.Rows != sum.Rows {
		t.Errorf("dry %+v, then %+v; kine had %d keys at revision %d", dry, sum, len(now), last)
	}
	if left, _ := filepath.Glob(dir + ".import*"); len(left) > 0 {
		t.Errorf("the import left %v", left)
	}
	if text := refused(t, "import", "kine", "--data-dir", dir, k.file); !strings.Contains(text, "there is a member in") {
		t.Errorf("a second time: %s", text)
	}

	c := clientOf(t, onImport(t, dir).ClientURL())
	if _, got := keysAt(t, c, 0); !slices.Equal(got, now) {
		t.Errorf("keys of limpet:\n%s\nof kine:\n%s", strings.Join(got, "\n"), strings.Join(now, "\n"))
	}
	if _, got := keysAt(t, c, last-100); !slices.Equal(got, before) {
		t.Errorf("keys of limpet a hundred revisions ago:\n%s\nof kine:\n%s", strings.Join(got, "\n"), strings.Join(before, "\n"))
	}
	if got := eventsFrom(t, c, last-200, last); !slices.Equal(got, events) {
		t.Errorf("events of limpet:\n%s\nof kine:\n%s", strings.Join(got, "\n"), strings.Join(events, "\n"))
	}
	ttl, err := c.TimeToLive(ctx, lease.ID, clientv3.WithAttachedKeys())
	if err != nil || ttl.GrantedTTL != 3600 || len(ttl.Keys) != 1 {
		t.Errorf("the lease: %+v, %v", ttl, err)
	}
	put, err := c.Put(ctx, "/registry/new", "1")
	if err != nil || put.Header.Revision != last+1 {
		t.Errorf("the first write of limpet: %+v, %v; want revision %d", put, err, last+1)
	}
}

// TestImportIsKilled: whenever the power goes, there is no data directory that a member would start with,
// or a whole one; and the import can be run again.
func TestImportIsKilled(t *testing.T) {
	k := startKine(t)
	work(t, k.client, 400, true)
	_, now := keysAt(t, k.client, 0)
	k.process.Kill()
	whole, half := 0, 0
	for round := range 12 {
		dir := newDir(t)
		p := proc.NewProcess(t, "limpet import", proc.Binary(t, proc.Limpet))
		p.Launch("import", "kine", "--data-dir", dir, k.file)
		select {
		case <-p.Ended():
		case <-time.After(time.Duration(round*round) * 8 * time.Millisecond):
			p.Kill()
		}
		if _, err := os.Stat(filepath.Join(dir, "limpet.json")); err == nil {
			half++
		}
		status := proc.Command{Path: proc.Binary(t, proc.Limpet), Args: []string{"import", "kine", "--data-dir", dir, k.file}}.Run(t)
		switch {
		case status.Code == 0: // nothing was there, or half of it
		case strings.Contains(status.Stderr, "there is a member in"):
			whole++
		default:
			t.Fatalf("round %d: the second import says %s", round, status.Stderr)
		}
		if left, _ := filepath.Glob(dir + ".import/limpet.db*"); len(left) > 0 && status.Code == 0 {
			t.Errorf("round %d: left over %v", round, left)
		}
		if round%4 != 3 {
			continue
		}
		s := onImport(t, dir)
		if _, got := keysAt(t, clientOf(t, s.ClientURL()), 0); !slices.Equal(got, now) {
			t.Errorf("round %d: %d keys, kine had %d", round, len(got), len(now))
		}
		s.Kill()
	}
	t.Logf("of 12 imports %d had come to their end, and %d to making the data directory", whole, half-whole)
}
