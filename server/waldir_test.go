package server

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The raft log is where --wal-dir said at the first start, and nowhere else.
func TestWALDir(t *testing.T) {
	cfg := newConfig(t)
	cfg.WALDir = filepath.Join(cfg.DataDir, "wal") // as the manifest of etcd's documentation has it
	if err := os.MkdirAll(filepath.Join(cfg.WALDir, "lost+found"), 0o700); err != nil {
		t.Fatal(err)
	}
	m := start(t, cfg)
	m.put("a", "1")
	m.stop()
	logs, err := filepath.Glob(filepath.Join(cfg.WALDir, "raft-*", "*.wal"))
	if err != nil || len(logs) == 0 {
		t.Fatalf("segments below %s: got %v, %v, want some", cfg.WALDir, logs, err)
	}
	if exists(filepath.Join(cfg.DataDir, raftDirName)) {
		t.Error("there is a raft log in the data directory, too")
	}

	// Later starts need no flag, and another folder is too late.
	cfg.WALDir = ""
	m = start(t, cfg)
	m.wantValue("a", "1")
	m.stop()
	cfg.WALDir = t.TempDir()
	m = start(t, cfg)
	m.wantValue("a", "1")
	m.stop()
	if left, _ := os.ReadDir(cfg.WALDir); len(left) != 0 {
		t.Errorf("another --wal-dir: got %v in it, want nothing", left)
	}

	// A disk that is not mounted is no reason to vote anew.
	at := filepath.Dir(logs[0])
	if err := os.Rename(at, at+"-away"); err != nil {
		t.Fatal(err)
	}
	_, err = Start(t.Context(), cfg, slog.New(slog.DiscardHandler))
	wantSentence(t, "a start without the log", err, "the raft log of this member is in "+at+", which cannot be read (no such file or directory): mount that disk, or restore the folder")
}

// A member that began without the flag keeps its log where it is, and says so.
func TestWALDirComesTooLate(t *testing.T) {
	cfg := newConfig(t)
	m := start(t, cfg)
	m.put("a", "1")
	m.stop()
	cfg.WALDir = t.TempDir()
	var said strings.Builder
	s, err := Start(t.Context(), cfg, slog.New(slog.NewTextHandler(&said, nil)))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Stop(); err != nil {
		t.Error(err)
	}
	if !strings.Contains(said.String(), "--wal-dir has no effect") {
		t.Errorf("the log says nothing of --wal-dir:\n%s", said.String())
	}
	if left, _ := os.ReadDir(cfg.WALDir); len(left) != 0 {
		t.Errorf("in --wal-dir: got %v, want nothing", left)
	}
}

// A recovery finds the log without the flag.
func TestRecoveryFindsTheWALDir(t *testing.T) {
	cfg := newConfig(t)
	cfg.WALDir = t.TempDir()
	m := start(t, cfg)
	m.put("a", "1")
	m.stop()
	r, err := OpenRecovery(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.Run(); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if exists(filepath.Join(cfg.DataDir, raftDirName)) {
		t.Error("the recovery made another log in the data directory")
	}
	start(t, cfg).wantValue("a", "1")
}
