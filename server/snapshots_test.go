package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"limpet/backup"
)

// TestSnapshotsOfMember: what a member keeps by itself is what a member can be
// restored of, and is counted.
func TestSnapshotsOfMember(t *testing.T) {
	cfg := newConfig(t)
	cfg.Name = "board 1"
	m := start(t, cfg)
	m.put("k", "v")
	keeper, release, err := m.snapshotKeeper()
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	for range 2 { // the second time nothing has changed
		if err := keeper.Once(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	all, err := backup.Dir{Path: filepath.Join(cfg.DataDir, SnapshotsName)}.List(t.Context())
	series := fmt.Sprintf("scheduled-board_1-%016x", m.clusterID())
	if err != nil || len(all) != 1 || all[0].Series != series || !all[0].Compressed {
		t.Fatalf("snapshots %+v, %v; want one, compressed, of %s", all, err, series)
	}
	_, body := httpGet(t, cfg.ListenClientURLs[0]+"/metrics")
	for _, want := range []string{"\nlimpet_snapshot_failures_total 0\n", "\nlimpet_snapshot_last_success_timestamp_seconds 1", "\nlimpet_snapshot_size_bytes "} {
		if !strings.Contains(body, want) {
			t.Errorf("the metrics lack %q", want)
		}
	}
	m.stop()
	start(t, cfg).stop() // the folder is no reason not to start

	_, d, err := backup.Open(t.Context(), all[0].Location, t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	other := newConfig(t)
	restore(t, other, Restoring{Database: d.Path, Tail: d.Tail, Bump: RestoreBump, MarkCompacted: true})
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	start(t, other).wantValue("k", "v")
}

func TestSnapshotsOff(t *testing.T) {
	for _, off := range []string{"", "off"} {
		cfg := newConfig(t)
		cfg.Snapshots.Schedule = off
		cfg.Snapshots.Retention = 0 // which then does not matter
		if err := cfg.Validate(); err != nil {
			t.Error(err)
		}
		m := start(t, cfg)
		if keeper, _, err := m.snapshotKeeper(); keeper != nil || err != nil {
			t.Errorf("with %q: %v, %v; want none", off, keeper, err)
		}
	}
}

// TestSnapshotsRefused: what would fail in the night is said at once.
func TestSnapshotsRefused(t *testing.T) {
	for what, c := range map[string]struct {
		change func(*Snapshots)
		says   string
	}{
		"schedule":   {func(s *Snapshots) { s.Schedule = "sometimes" }, "--snapshot-schedule"},
		"retention":  {func(s *Snapshots) { s.Retention = 0 }, "--snapshot-retention"},
		"name":       {func(s *Snapshots) { s.Name = "a/b" }, "--snapshot-name"},
		"no bucket":  {func(s *Snapshots) { s.S3.AccessKey = "x" }, "--s3-bucket is missing"},
		"half a key": {func(s *Snapshots) { s.S3.Bucket, s.S3.AccessKey = "b", "x" }, "belong together"},
		"two secrets": {func(s *Snapshots) {
			s.S3.Bucket, s.S3.AccessKey, s.S3.SecretKey, s.S3.SecretKeyFile = "b", "x", "y", "z"
		}, "give one"},
		"no such file": {func(s *Snapshots) {
			s.S3.Bucket, s.S3.AccessKey, s.S3.SecretKeyFile = "b", "x", "/nowhere/secret"
		}, "--s3-secret-key-file"},
		"no such authority": {func(s *Snapshots) { s.S3.Bucket, s.S3.CAFile = "b", "/nowhere/ca" }, "--s3-endpoint-ca"},
		"endpoint":          {func(s *Snapshots) { s.S3.Bucket, s.S3.Endpoint = "b", "ftp://x" }, "--s3-endpoint"},
		"http and https":    {func(s *Snapshots) { s.S3.Bucket, s.S3.Endpoint, s.S3.Insecure = "b", "https://x", true }, "--s3-insecure"},
		"timeout":           {func(s *Snapshots) { s.S3.Bucket, s.S3.Timeout = "b", 0 }, "--s3-timeout"},
	} {
		cfg := newConfig(t)
		c.change(&cfg.Snapshots)
		if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", what, err, c.says)
		}
	}
}

// TestPruneThreeUnderLoad: three members that share a folder and are written to all the
// time take snapshots and remove older ones at the same time. Each removes its own, and
// the newest ones of each are whole and hold what was acknowledged before.
func TestPruneThreeUnderLoad(t *testing.T) {
	const keep, runs = 2, 5
	folder := backup.Dir{Path: filepath.Join(t.TempDir(), "shared")}
	cfgs := threeFounders(t)
	for i := range cfgs {
		cfgs[i].Snapshots.Dir, cfgs[i].Snapshots.Retention = folder.Path, keep
	}
	members := startAll(t, cfgs...)
	stop, answered := load(t, members)
	// Another cluster's, of before, and of a member that is no more.
	foreign := []string{backup.Series("scheduled", "m1", 7) + "-100", "scheduled-m1-100", backup.Series("scheduled", "m4", members[0].clusterID()) + "-100"}
	if err := folder.Open(); err != nil {
		t.Fatal(err)
	}
	for _, name := range foreign {
		if err := os.WriteFile(folder.File(name), []byte("not to be touched"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var keepers sync.WaitGroup
	var before [3]int64 // of the writes of a member, acknowledged before its last snapshot
	for i, m := range members {
		keeper, release, err := m.snapshotKeeper()
		if err != nil {
			t.Fatal(err)
		}
		defer release()
		// Owner: this test; ends after its runs.
		keepers.Go(func() {
			for range runs {
				// Something has changed, however slow the writers are.
				_, err := m.kv.Put(t.Context(), &pb.PutRequest{Key: []byte("change")})
				before[i] = answered[i].Load()
				if err = errors.Join(err, keeper.Once(t.Context())); err != nil {
					t.Errorf("m%d: %v", i+1, err)
				}
			}
		})
	}
	keepers.Wait()
	stop()
	for _, m := range members {
		m.stop()
	}

	all, err := folder.List(t.Context())
	if err != nil || len(all) != 3*keep+len(foreign) {
		t.Fatalf("the folder has %+v, %v; want %d of each member, and %v", all, err, keep, foreign)
	}
	for _, name := range foreign {
		if !slices.ContainsFunc(all, func(s backup.Snapshot) bool { return s.Name == name }) {
			t.Errorf("%s is gone", name)
		}
	}
	for i := range members {
		wantNewest(t, folder, cfgs[i].Name, fmt.Sprintf("writer-%d/", i), keep, before[i])
	}
}

// wantNewest: a member has so many whole snapshots in a folder, and one that is restored
// of the newest has as many keys of a prefix, or more.
func wantNewest(t *testing.T, folder backup.Dir, member, prefix string, keep int, keys int64) {
	t.Helper()
	all, err := folder.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	mine := slices.DeleteFunc(all, func(s backup.Snapshot) bool {
		return s.Created.Unix() == 100 || !strings.HasPrefix(s.Series, "scheduled-"+member+"-")
	})
	if len(mine) != keep {
		t.Fatalf("%s has %+v, want %d", member, mine, keep)
	}
	revision := int64(0)
	for i, s := range mine {
		c, d, err := backup.Open(t.Context(), s.Location, t.TempDir(), nil)
		if err != nil || !c.Hashed || c.Revision <= revision {
			t.Fatalf("%s: %+v, %v; want it whole, and above revision %d", s.Name, c, err, revision)
		}
		revision = c.Revision
		if i == keep-1 {
			cfg := newConfig(t)
			restore(t, cfg, Restoring{Database: d.Path, Tail: d.Tail, Bump: RestoreBump, MarkCompacted: true})
			m := start(t, cfg)
			resp, err := m.kv.Range(t.Context(), &pb.RangeRequest{Key: []byte(prefix), RangeEnd: []byte(prefix + "~"), CountOnly: true})
			if err != nil || resp.Count < keys || keys == 0 {
				t.Errorf("restored of %s: of %d writes that were acknowledged before, %v are there (%v)", s.Name, keys, resp.GetCount(), err)
			}
			m.stop()
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}
}

// load has one writer at each member put keys, until stop, and counts what is
// acknowledged. The keys are writer-N/ and a number that goes up.
func load(t *testing.T, members []*member) (stop func(), answered []atomic.Int64) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	answered = make([]atomic.Int64, len(members))
	var writers sync.WaitGroup
	for i, m := range members {
		// Owner: this test; ends with stop.
		writers.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				key := fmt.Appendf(nil, "writer-%d/%06d", i, n)
				if _, err := m.kv.Put(ctx, &pb.PutRequest{Key: key, Value: key}); err == nil {
					answered[i].Store(int64(n + 1))
				} else if ctx.Err() == nil {
					t.Errorf("put %s: %v", key, err)
					return
				}
			}
		})
	}
	stop = func() {
		cancel()
		writers.Wait()
	}
	t.Cleanup(stop)
	for i := range answered {
		eventually(t, "writes at each member", func() bool { return answered[i].Load() > 0 })
	}
	return stop, answered
}
