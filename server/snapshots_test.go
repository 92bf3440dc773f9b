package server

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

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
