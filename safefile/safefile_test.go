package safefile

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func TestWriteReplaces(t *testing.T) {
	file := filepath.Join(t.TempDir(), "small.json")
	for _, content := range []string{"one", "two, which is longer", "3", ""} {
		if err := Write(file, []byte(content)); err != nil {
			t.Fatalf("Write(%q): %v", content, err)
		}
		wantContent(t, file, content)
		wantNoTmp(t, file)
	}
}

// A file that others could read keeps nothing of it: the secret of today must
// not depend on the mode of yesterday.
func TestWriteMakesTheFilePrivate(t *testing.T) {
	file := filepath.Join(t.TempDir(), "small.json")
	if err := os.WriteFile(file, []byte("old"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := Write(file, []byte("new")); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode().Perm(); got != 0o600 {
		t.Errorf("mode after Write: got %o, want 600", got)
	}
}

// A crash between the two names leaves a half-written file; it is written
// over, whatever its length.
func TestWriteOverALeftover(t *testing.T) {
	file := filepath.Join(t.TempDir(), "small.json")
	if err := os.WriteFile(file+".tmp", bytes.Repeat([]byte("half "), 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Write(file, []byte("whole")); err != nil {
		t.Fatal(err)
	}
	wantContent(t, file, "whole")
	wantNoTmp(t, file)
}

// In a folder that others may write, somebody may have put a file of his own, or
// a link, where the new content goes first.
func TestWriteTakesNobodysFile(t *testing.T) {
	dir := t.TempDir()
	file, target := filepath.Join(dir, "secret"), filepath.Join(dir, "target")
	if err := os.WriteFile(target, []byte("precious"), 0o644); err != nil {
		t.Fatal(err)
	}
	for what, plant := range map[string]func() error{
		"an open file": func() error { return errors.Join(os.WriteFile(file+".tmp", nil, 0o666), os.Chmod(file+".tmp", 0o666)) },
		"a link":       func() error { return os.Symlink(target, file+".tmp") },
	} {
		if err := plant(); err != nil {
			t.Fatal(err)
		}
		if err := Write(file, []byte("new")); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		info, err := os.Lstat(file)
		if err != nil || info.Mode() != 0o600 {
			t.Errorf("%s: mode %v, %v; want a file of mode 600", what, info.Mode(), err)
		}
		wantContent(t, file, "new")
		wantContent(t, target, "precious")
	}
}

func TestWriteThatFailsKeepsTheOldFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "small.json")
	if err := Write(file, []byte("old")); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(file+".tmp", "full"), 0o700); err != nil { // stands in the way
		t.Fatal(err)
	}
	if err := Write(file, []byte("new")); err == nil {
		t.Error("Write with a folder under the temporary name: got no error")
	}
	wantContent(t, file, "old")

	if err := Write(filepath.Join(t.TempDir(), "no", "such", "folder"), []byte("x")); err == nil {
		t.Error("Write into a folder that does not exist: got no error")
	}
}

func wantContent(t *testing.T, file, want string) {
	t.Helper()
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("content of %s: got %q, want %q", filepath.Base(file), got, want)
	}
}

func wantNoTmp(t *testing.T, file string) {
	t.Helper()
	if _, err := os.Lstat(file + ".tmp"); !os.IsNotExist(err) {
		t.Errorf("%s.tmp after Write: got %v, want none", filepath.Base(file), err)
	}
}

// A file has its mode whatever the umask is, and its owner, before it has its name.
func TestWriteFor(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o077))
	file := filepath.Join(t.TempDir(), "config.yaml")
	me := &Owner{UID: os.Getuid(), GID: os.Getgid()}
	if os.Getuid() == 0 {
		me = &Owner{UID: 12345, GID: 23456}
	}
	if err := WriteFor(file, []byte("a: b\n"), 0o644, me); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	st := info.Sys().(*syscall.Stat_t)
	if info.Mode().Perm() != 0o644 || int(st.Uid) != me.UID || int(st.Gid) != me.GID {
		t.Errorf("got mode %o of %d:%d, want 644 of %d:%d", info.Mode().Perm(), st.Uid, st.Gid, me.UID, me.GID)
	}
}
