package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"limpet/e2e/proc"
)

const restoreBump = 1_000_000_000

// dialPlain is a client of a server without TLS.
func dialPlain(t *testing.T, s *proc.Server) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{s.Client}, DialTimeout: 10 * time.Second, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// run runs a program that is to end well.
func run(t *testing.T, path string, args ...string) {
	t.Helper()
	if res := (proc.Command{Path: path, Args: args}).Run(t); res.Code != 0 {
		t.Fatalf("%s %s ends with %d:\n%s%s", path, strings.Join(args, " "), res.Code, res.Stdout, res.Stderr)
	}
}

// TestRestoredBesideEtcd: an informer that was connected before is told the same by a restored etcd
// and a restored limpet, whichever revisions it has seen.
func TestRestoredBesideEtcd(t *testing.T) {
	t.Parallel()
	var told []string
	for _, kind := range []proc.Kind{proc.Etcd, proc.Limpet} {
		told = append(told, restoredTells(t, kind))
	}
	if told[0] != told[1] {
		t.Errorf("etcd tells\n%s\nand limpet\n%s", told[0], told[1])
	}
	t.Log(told[0])
}

// restoredTells restores a server of kind from a snapshot, and asks it for revisions before and after.
func restoredTells(t *testing.T, kind proc.Kind) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "saved.db")
	before := proc.Start(t, kind)
	client := dialPlain(t, before)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	lease, err := client.Grant(ctx, 600)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		if _, err := client.Put(ctx, fmt.Sprint("k", i%3), fmt.Sprint(i), clientv3.WithLease(lease.ID)); err != nil {
			t.Fatal(err)
		}
	}
	run(t, proc.Binary(t, proc.Etcdctl), "--endpoints", before.Client, "snapshot", "save", file)
	last, err := client.Put(ctx, "k0", "after the snapshot")
	if err != nil {
		t.Fatal(err)
	}
	before.Kill()

	after := proc.New(t, kind)
	if kind == proc.Etcd {
		run(t, proc.Binary(t, proc.Etcdutl), "snapshot", "restore", file, "--data-dir", after.DataDir, "--name", after.Name,
			"--initial-cluster", after.Name+"="+after.PeerURL(), "--initial-advertise-peer-urls", after.PeerURL(),
			"--bump-revision", fmt.Sprint(restoreBump), "--mark-compacted")
	} else {
		run(t, proc.Binary(t, proc.Limpet), "snapshot", "restore", "--data-dir", after.DataDir, "--name", after.Name,
			"--initial-cluster", after.Name+"="+after.PeerURL(), file)
	}
	after.Run()
	return askRestored(ctx, t, dialPlain(t, after), last.Header.Revision)
}

// askRestored tells what a client hears that has seen revision seen, which is gone.
func askRestored(ctx context.Context, t *testing.T, client *clientv3.Client, seen int64) string {
	t.Helper()
	var b strings.Builder
	all, err := client.Get(ctx, "k", clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(&b, "revision %d\n", all.Header.Revision)
	for _, kv := range all.Kvs {
		fmt.Fprintf(&b, "%s = %s, created %d, modified %d, version %d, leased %v\n", kv.Key, kv.Value, kv.CreateRevision, kv.ModRevision, kv.Version, kv.Lease != 0)
	}
	now := all.Header.Revision
	for _, rev := range []int64{2, seen - 1, seen, seen + 1, now - 1, now, now + 1} {
		_, err := client.Get(ctx, "k0", clientv3.WithRev(rev))
		fmt.Fprintf(&b, "get at %d: %v\n", rev, err)
	}
	for _, rev := range []int64{2, seen, seen + 1, now - 1, now} {
		fmt.Fprintf(&b, "watch from %d: %s\n", rev, firstOfWatch(ctx, client, rev))
	}
	put, err := client.Put(ctx, "k0", "new")
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(&b, "put: revision %d\n", put.Header.Revision)
	leases, err := client.Leases(ctx)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(&b, "leases: %d\n", len(leases.Leases))
	_, err = client.Compact(ctx, seen)
	fmt.Fprintf(&b, "compact at %d: %v\n", seen, err)
	return b.String()
}

// firstOfWatch is what a watch from a revision hears first, while somebody puts a key.
func firstOfWatch(ctx context.Context, client *clientv3.Client, rev int64) string {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for r := range client.Watch(ctx, "k", clientv3.WithPrefix(), clientv3.WithRev(rev), clientv3.WithCreatedNotify()) {
		switch {
		case errors.Is(r.Err(), rpctypes.ErrCompacted):
			return fmt.Sprintf("compacted at %d", r.CompactRevision)
		case r.Err() != nil:
			return r.Err().Error()
		case r.Created:
			if _, err := client.Put(ctx, "k9", "x"); err != nil {
				return err.Error()
			}
		case len(r.Events) > 0:
			return fmt.Sprintf("%s %s at %d", r.Events[0].Type, r.Events[0].Kv.Key, r.Events[0].Kv.ModRevision)
		}
	}
	return "the watch ended"
}

// TestRestoreKilled: wherever a restore is killed, the directory does not start and says what to do; and
// running it again makes it whole.
func TestRestoreKilled(t *testing.T) {
	t.Parallel()
	limpet := proc.Binary(t, proc.Limpet)
	before := proc.Start(t, proc.Limpet)
	client := dialPlain(t, before)
	value := strings.Repeat("x", 1<<19)
	for i := range 20 {
		if _, err := client.Put(t.Context(), fmt.Sprint("k", i), value); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(t.TempDir(), "saved.db")
	run(t, limpet, "snapshot", "save", "--endpoints", before.Client, file)
	before.Kill()
	half := 0
	for _, sign := range []string{"lock", "limpet.json", "restoring.db", "limpet.db.next", "limpet.db", "limpet.db-wal", "raft", "raft/wal-meta.db", "raft/manifest.json.tmp", "raft/manifest.json"} {
		after := proc.New(t, proc.Limpet)
		again := []string{"snapshot", "restore", "--data-dir", after.DataDir, "--name", after.Name, "--initial-cluster", after.Name + "=" + after.PeerURL(), file}
		killAt(t, exec.Command(limpet, again...), filepath.Join(after.DataDir, sign))
		data, err := os.ReadFile(filepath.Join(after.DataDir, "limpet.json"))
		if strings.Contains(string(data), `"restoring"`) {
			half++
			res := proc.Command{Path: limpet, Args: after.Flags()}.Run(t)
			if res.Code == 0 || !strings.Contains(res.Stderr, "limpet snapshot restore, or limpet import, did not finish on "+after.DataDir+": run it again") {
				t.Errorf("killed at %s, a start ends with %d and\n%s", sign, res.Code, res.Stderr)
			}
		}
		if err != nil || strings.Contains(string(data), `"restoring"`) {
			run(t, limpet, again...)
		}
		after.Run()
		got, err := dialPlain(t, after).Get(t.Context(), "k19")
		if err != nil || len(got.Kvs) != 1 || string(got.Kvs[0].Value) != value || got.Header.Revision != restoreBump+21 {
			t.Errorf("killed at %s: %v", sign, err)
		}
		after.Kill()
	}
	if half < 5 {
		t.Errorf("%d of 10 were killed half-way: the test has tried little", half)
	}
}

// killAt kills a command as soon as there is a file; it may have ended before.
func killAt(t *testing.T, cmd *exec.Cmd, sign string) {
	t.Helper()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	// Owner: this call; ends with the command.
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
	for {
		select {
		case <-ended:
			return
		case <-time.After(200 * time.Microsecond):
		}
		if _, err := os.Lstat(sign); err == nil {
			_ = cmd.Process.Kill()
			<-ended
			return
		}
	}
}
