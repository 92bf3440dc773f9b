package move

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"limpet/e2e/proc"
)

// full fills a server with what an import has to take.
func full(t *testing.T, c *clientv3.Client) {
	t.Helper()
	ctx := timeout(t)
	work(t, c, 500, false)
	for i, ttl := range []int64{600, 30_000} {
		lease, err := c.Grant(ctx, ttl)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Put(ctx, fmt.Sprint("/registry/events/", i), "e", clientv3.WithLease(lease.ID)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Put(ctx, "/registry/huge", strings.Repeat("huge", 350_000)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Compact(ctx, 200, clientv3.WithCompactPhysical()); err != nil {
		t.Fatal(err)
	}
}

// hashOf is HashKV of all up to a revision.
func hashOf(t *testing.T, c *clientv3.Client, rev int64) string {
	t.Helper()
	resp, err := c.HashKV(timeout(t), c.Endpoints()[0], rev)
	if err != nil {
		t.Fatalf("HashKV at %d: %v", rev, err)
	}
	return fmt.Sprintf("%08x compacted at %d", resp.Hash, resp.CompactRevision)
}

// TestEtcd: from a running etcd, a snapshot, and the file of a stopped one, the same history comes, with etcd's own
// hash.
func TestEtcd(t *testing.T) {
	etcd := proc.Start(t, proc.Etcd)
	c := clientOf(t, etcd.ClientURL())
	full(t, c)
	_, now := keysAt(t, c, 0)
	resp, err := c.Get(timeout(t), "x")
	if err != nil {
		t.Fatal(err)
	}
	last := resp.Header.Revision
	hashes := map[int64]string{}
	for _, rev := range []int64{last, last - 50, 250, 201} {
		hashes[rev] = hashOf(t, c, rev)
	}
	events := eventsFrom(t, c, 200, last)
	snapshot := filepath.Join(t.TempDir(), "snapshot.db")
	save(t, c, snapshot)

	live, file, stopped := newDir(t), newDir(t), newDir(t)
	var sum summary
	limpet(t, &sum, "import", "etcd", "--data-dir", live, "--endpoints", etcd.ClientURL(), "-o", "json")
	if sum.Keys != int64(len(now)) || sum.Revision != last || sum.Compacted != 200 || sum.Leases != 2 {
		t.Errorf("summary %+v; etcd had %d keys at revision %d, compacted at 200", sum, len(now), last)
	}
	limpet(t, &sum, "import", "etcd", "--data-dir", file, "-o", "json", snapshot)
	db := filepath.Join(etcd.DataDir, "member", "snap", "db")
	if text := refused(t, "import", "etcd", "--data-dir", stopped, db); !strings.Contains(text, "an etcd runs on") {
		t.Errorf("while etcd runs: %s", text)
	}
	if exit := etcd.Terminate(patience); !exit.Clean(proc.Etcd) {
		t.Fatalf("etcd ended with %+v", exit)
	}
	limpet(t, &sum, "import", "etcd", "--data-dir", stopped, "-o", "json", db)

	for what, dir := range map[string]string{"a running etcd": live, "a snapshot": file, "a stopped etcd": stopped} {
		t.Run(what, func(t *testing.T) {
			s := onImport(t, dir)
			c := clientOf(t, s.ClientURL())
			if _, got := keysAt(t, c, 0); !slices.Equal(got, now) {
				t.Errorf("keys differ: got %d, want %d", len(got), len(now))
			}
			for rev, want := range hashes {
				if got := hashOf(t, c, rev); got != want {
					t.Errorf("hash at %d: got %s, etcd had %s", rev, got, want)
				}
			}
			if got := eventsFrom(t, c, 200, last); !slices.Equal(got, events) {
				t.Errorf("%d events, etcd had %d", len(got), len(events))
			}
			leases, err := c.Leases(timeout(t))
			if err != nil || len(leases.Leases) != 2 {
				t.Errorf("leases %+v, %v", leases, err)
			}
		})
	}
}

func save(t *testing.T, c *clientv3.Client, file string) {
	t.Helper()
	in, err := c.Snapshot(timeout(t))
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestEtcdBumped: an etcd that was restored with higher revisions has a row of nothing at the revision that they
// were raised to, which etcd's HashKV counts in, and limpet's does not.
func TestEtcdBumped(t *testing.T) {
	before := proc.Start(t, proc.Etcd)
	c := clientOf(t, before.ClientURL())
	work(t, c, 100, false)
	saved := filepath.Join(t.TempDir(), "snapshot.db")
	save(t, c, saved)
	before.Kill()

	etcd := proc.New(t, proc.Etcd)
	res := proc.Command{Path: proc.Binary(t, proc.Etcdutl), Args: []string{
		"snapshot", "restore", saved, "--data-dir", etcd.DataDir, "--name", etcd.Name,
		"--initial-cluster", etcd.Name + "=" + etcd.PeerURL(), "--initial-advertise-peer-urls", etcd.PeerURL(),
		"--bump-revision", "1000000", "--mark-compacted",
	}}.Run(t)
	if res.Code != 0 {
		t.Fatalf("etcdutl ended with %d: %s", res.Code, res.Stderr)
	}
	db, copied := filepath.Join(etcd.DataDir, "member", "snap", "db"), newDir(t)
	var sum summary
	limpet(t, &sum, "import", "etcd", "--data-dir", copied, "-o", "json", db) // before etcd has seen it
	bumped := sum.Revision
	if bumped < 1_000_000 || sum.Compacted != bumped {
		t.Errorf("summary %+v; want its revision compacted, and above a million", sum)
	}

	etcd.Run()
	c = clientOf(t, etcd.ClientURL())
	raised, now := keysAt(t, c, 0)
	t.Run("the file before the start", func(t *testing.T) {
		c := clientOf(t, onImport(t, copied).ClientURL())
		if _, got := keysAt(t, c, 0); !slices.Equal(got, now) {
			t.Errorf("keys differ: got %d, want %d", len(got), len(now))
		}
		if put, err := c.Put(timeout(t), "/new", "1"); err != nil || put.Header.Revision != bumped+1 {
			t.Errorf("the first write: %+v, %v; want revision %d", put, err, bumped+1)
		}
	})
	for _, kv := range raised[:3] {
		if _, err := c.Put(timeout(t), string(kv.Key), "since"); err != nil {
			t.Fatal(err)
		}
	}
	last := bumped + 3
	_, now = keysAt(t, c, 0)
	_, past := keysAt(t, c, bumped)
	snapshot := filepath.Join(t.TempDir(), "snapshot.db")
	save(t, c, snapshot)
	for what, args := range map[string][]string{"a running etcd": {"--endpoints", etcd.ClientURL()}, "a snapshot": {snapshot}} {
		t.Run(what, func(t *testing.T) {
			dir := newDir(t)
			limpet(t, &sum, append([]string{"import", "etcd", "--data-dir", dir, "-o", "json"}, args...)...)
			if sum.Keys != int64(len(now)) || sum.Revision != last || sum.Compacted != bumped {
				t.Errorf("summary %+v; etcd had %d keys at revision %d, compacted at %d", sum, len(now), last, bumped)
			}
			c := clientOf(t, onImport(t, dir).ClientURL())
			if _, got := keysAt(t, c, 0); !slices.Equal(got, now) {
				t.Errorf("keys differ: got %d, want %d", len(got), len(now))
			}
			if _, got := keysAt(t, c, bumped); !slices.Equal(got, past) {
				t.Errorf("keys at %d differ: got %d, want %d", bumped, len(got), len(past))
			}
			if _, err := c.Get(timeout(t), "/", clientv3.WithPrefix(), clientv3.WithRev(bumped-1)); !errors.Is(err, rpctypes.ErrCompacted) {
				t.Errorf("read at %d: %v, want it compacted", bumped-1, err)
			}
		})
	}
}

// TestEtcdKilled: the file of an etcd that was killed lacks what its log has, and is not taken.
func TestEtcdKilled(t *testing.T) {
	etcd := proc.Start(t, proc.Etcd, proc.Flags("--backend-batch-interval=1h"))
	c := clientOf(t, etcd.ClientURL())
	work(t, c, 50, false)
	save(t, c, filepath.Join(t.TempDir(), "snapshot.db")) // etcd writes its file for that, and not again
	if _, err := c.Put(timeout(t), "/last", "1"); err != nil {
		t.Fatal(err)
	}
	etcd.Kill()
	text := refused(t, "import", "etcd", "--data-dir", newDir(t), filepath.Join(etcd.DataDir, "member", "snap", "db"))
	if !strings.Contains(text, "1 entries that") || !strings.Contains(text, "etcdctl snapshot save") {
		t.Errorf("said %s", text)
	}
}

// TestEtcdGoesSilent: an etcd that stands still amid its snapshot ends the import, which leaves nothing, and can be
// run again.
func TestEtcdGoesSilent(t *testing.T) {
	etcd := proc.Start(t, proc.Etcd)
	c := clientOf(t, etcd.ClientURL())
	for i := range 40 {
		if _, err := c.Put(timeout(t), fmt.Sprint("/", i), strings.Repeat("v", 1_000_000)); err != nil {
			t.Fatal(err)
		}
	}
	dir := newDir(t)
	link := newLink(t, etcd.Client)
	link.onBytes(10_000_000, etcd.Pause)
	text := refused(t, "import", "etcd", "--data-dir", dir, "--endpoints", "http://"+link.at, "--timeout", "2s")
	if !strings.Contains(text, link.at+" does not answer any more") || !strings.Contains(text, "run it again") {
		t.Errorf("said %s", text)
	}
	if left, _ := filepath.Glob(dir + "*"); len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
	etcd.Continue()
	var sum summary
	limpet(t, &sum, "import", "etcd", "--data-dir", dir, "--endpoints", etcd.ClientURL(), "-o", "json")
	if sum.Keys != 40 {
		t.Errorf("summary %+v", sum)
	}
}

// TestEtcdUsers: users and roles come along, and go on being asked for.
func TestEtcdUsers(t *testing.T) {
	etcd := proc.Start(t, proc.Etcd)
	c := clientOf(t, etcd.ClientURL())
	ctx := timeout(t)
	for _, err := range []error{
		second(c.UserAdd(ctx, "root", "secret")), second(c.UserGrantRole(ctx, "root", "root")),
		second(c.RoleAdd(ctx, "reader")), second(c.RoleGrantPermission(ctx, "reader", "/a", "/b", clientv3.PermissionType(clientv3.PermRead))),
		second(c.UserAdd(ctx, "anna", "hers")), second(c.UserGrantRole(ctx, "anna", "reader")),
		second(c.Put(ctx, "/a", "1")), second(c.Put(ctx, "/z", "1")), second(c.AuthEnable(ctx)),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	dir := newDir(t)
	if text := refused(t, "import", "etcd", "--data-dir", dir, "--endpoints", etcd.ClientURL()); !strings.Contains(text, "user") {
		t.Errorf("without a user: %s", text)
	}
	if text := refused(t, "import", "etcd", "--data-dir", dir, "--endpoints", etcd.ClientURL(), "--user", "anna:hers"); !strings.Contains(text, "only root may take a snapshot") {
		t.Errorf("as anna: %s", text)
	}
	var sum summary
	limpet(t, &sum, "import", "etcd", "--data-dir", dir, "--endpoints", etcd.ClientURL(), "--user", "root:secret", "-o", "json")
	if sum.Users != 2 || !sum.Auth {
		t.Errorf("summary %+v", sum)
	}
	s := onImport(t, dir)
	anna := clientOf(t, s.ClientURL(), "anna", "hers")
	if got, err := anna.Get(ctx, "/a"); err != nil || len(got.Kvs) != 1 {
		t.Errorf("anna reads /a: %+v, %v", got, err)
	}
	if _, err := anna.Get(ctx, "/z"); err == nil {
		t.Error("anna may read /z")
	}
	if _, err := clientOf(t, s.ClientURL()).Get(ctx, "/a"); err == nil {
		t.Error("nobody may read /a")
	}
}

func second[T any](_ T, err error) error { return err }

// TestLimpetIsNoEtcd: a snapshot of limpet's own has another way in.
func TestLimpetIsNoEtcd(t *testing.T) {
	s := proc.Start(t, proc.Limpet)
	if text := refused(t, "import", "etcd", "--data-dir", newDir(t), "--endpoints", s.ClientURL()); !strings.Contains(text, "limpet snapshot restore") {
		t.Errorf("said %s", text)
	}
}

// TestExport: keys, leases and what is left of their time come to an etcd; a second run goes on.
func TestExport(t *testing.T) {
	s := proc.Start(t, proc.Limpet)
	c := clientOf(t, s.ClientURL())
	full(t, c)
	all, _ := keysAt(t, c, 0)
	etcd := proc.Start(t, proc.Etcd)
	to := clientOf(t, etcd.ClientURL())
	var out exported
	limpet(t, &out, "export", "--endpoints", s.ClientURL(), "--to", etcd.ClientURL(), "-o", "json")
	if out.Keys != int64(len(all)) || out.Written != out.Keys || out.Leases != 2 || out.Expired+out.Extra != 0 {
		t.Errorf("exported %+v of %d keys", out, len(all))
	}
	there, _ := keysAt(t, to, 0)
	for i, kv := range all {
		if i >= len(there) || string(there[i].Key) != string(kv.Key) || string(there[i].Value) != string(kv.Value) || there[i].Lease != kv.Lease {
			t.Fatalf("key %d, %s, is not the same in etcd", i, kv.Key)
		}
	}
	sameLeases(t, timeout(t), c, to)

	if text := refused(t, "export", "--endpoints", s.ClientURL(), "--to", etcd.ClientURL()); !strings.Contains(text, "--force") {
		t.Errorf("onto keys: %s", text)
	}
	if text := refused(t, "export", "--endpoints", s.ClientURL(), "--to", s.ClientURL(), "--force"); !strings.Contains(text, "the same cluster") {
		t.Errorf("onto itself: %s", text)
	}
	// As if it had been cut short, and somebody else had written there.
	ctx := timeout(t)
	for _, err := range []error{
		second(to.Delete(ctx, string(all[3].Key))), second(to.Put(ctx, string(all[5].Key), "other")), second(to.Put(ctx, "/extra", "1")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	limpet(t, &out, "export", "--endpoints", s.ClientURL(), "--to", etcd.ClientURL(), "--force", "-o", "json")
	if out.Keys != int64(len(all)) || out.Written != 2 || out.Extra != 1 {
		t.Errorf("exported again %+v of %d keys, of which one was gone and one changed", out, len(all))
	}
	// And to a file.
	file := filepath.Join(t.TempDir(), "keys.jsonl")
	var dumped struct{ Keys, Revision int64 }
	limpet(t, &dumped, "export", "--endpoints", s.ClientURL(), "--prefix", "/registry/", "--out", file, "-o", "json")
	data, err := os.ReadFile(file)
	if err != nil || int64(strings.Count(string(data), "\n")) != dumped.Keys || dumped.Keys == 0 || dumped.Keys >= int64(len(all)) {
		t.Errorf("%d keys in a file of %d lines, %v", dumped.Keys, strings.Count(string(data), "\n"), err)
	}
}

func sameLeases(t *testing.T, ctx context.Context, a, b *clientv3.Client) {
	t.Helper()
	want, err := a.Leases(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range want.Leases {
		x, errX := a.TimeToLive(ctx, l.ID, clientv3.WithAttachedKeys())
		y, errY := b.TimeToLive(ctx, l.ID, clientv3.WithAttachedKeys())
		if errX != nil || errY != nil || y.TTL > x.TTL+1 || y.TTL < x.TTL-int64(patience.Seconds()) || fmt.Sprintf("%q", x.Keys) != fmt.Sprintf("%q", y.Keys) {
			t.Errorf("lease %x: %+v, %v; in etcd %+v, %v", l.ID, x, errX, y, errY)
		}
	}
}
