package server

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestErase: what limpet has made goes, its raft log elsewhere included; what others
// have made stays.
func TestErase(t *testing.T) {
	cfg := newConfig(t)
	cfg.WALDir = t.TempDir()
	m := start(t, cfg)
	m.put("k", "v")
	if _, err := EraseDataDir(cfg.DataDir); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("erase a member that runs: got %v, want it refused", err)
	}
	m.wantValue("k", "v")
	m.stop()
	foreign := filepath.Join(cfg.DataDir, "photo.jpg")
	if err := os.WriteFile(foreign, []byte("dear"), 0o600); err != nil {
		t.Fatal(err)
	}
	left, err := EraseDataDir(cfg.DataDir)
	if err != nil || !slices.Equal(left, []string{"photo.jpg"}) {
		t.Errorf("erase: left %v, %v; want the photo alone", left, err)
	}
	if names, _ := filepath.Glob(filepath.Join(cfg.WALDir, "*")); len(names) > 0 {
		t.Errorf("in --wal-dir there is still %v", names)
	}
	// Now it is a stranger's.
	if _, err := EraseDataDir(cfg.DataDir); err == nil || !strings.Contains(err.Error(), "another program") {
		t.Errorf("erase a stranger's folder: got %v, want it refused", err)
	}
	if text, err := os.ReadFile(foreign); err != nil || string(text) != "dear" {
		t.Errorf("the photo: %q, %v", text, err)
	}
	if err := os.Remove(foreign); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if left, err := EraseDataDir(cfg.DataDir); err != nil || len(left) > 0 {
			t.Errorf("erase an empty folder: left %v, %v", left, err)
		}
		if _, err := os.Stat(cfg.DataDir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the folder itself: %v, want it gone", err)
		}
	}
}

// TestEraseCutShort: what a crash leaves of an erased member is not started, and goes
// with the next call.
func TestEraseCutShort(t *testing.T) {
	cfg := newConfig(t)
	m := start(t, cfg)
	m.put("k", "v")
	m.stop()
	open := filepath.Join(cfg.DataDir, raftDirName, "not-empty")
	id, err := readIdentity(cfg.DataDir)
	if err != nil {
		t.Fatal(err)
	}
	id.Removed = true // and then the power went
	if err := errors.Join(writeIdentity(cfg.DataDir, id), os.WriteFile(open, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if s, err := Start(t.Context(), cfg, slog.New(slog.DiscardHandler)); err == nil {
		_ = s.Stop()
		t.Error("a half-erased member starts")
	}
	if left, err := EraseDataDir(cfg.DataDir); err != nil || len(left) > 0 {
		t.Errorf("erase again: left %v, %v", left, err)
	}
	if _, err := os.Stat(cfg.DataDir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder: %v, want it gone", err)
	}
}
