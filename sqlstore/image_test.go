package sqlstore

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// blockedWriter takes nothing until it is released.
type blockedWriter chan struct{}

func (w blockedWriter) Write(p []byte) (int, error) {
	<-w
	return len(p), nil
}

// TestImageStalls: a reader that has stopped reading does not hold SQLite's
// WAL for ever.
func TestImageStalls(t *testing.T) {
	path := filepath.Join(t.TempDir(), "limpet.db")
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t, Config{Path: path})
		for i := range 2 * imageAhead {
			put(s, fmt.Sprint("key", i), strings.Repeat("x", pageSize))
		}
		w := make(blockedWriter)
		result := make(chan error, 1)
		// Owner: this test; ends when w is released.
		go func() {
			result <- s.Image(context.Background(), func(int64) error { return nil }, w)
		}()
		time.Sleep(imagePatience + time.Second)
		synctest.Wait()
		close(w)
		if err := <-result; !errors.Is(err, ErrStalled) {
			t.Fatalf("Image: got %v, want %v", err, ErrStalled)
		}
	})
}

// TestOwner: a database that belongs to another member's log is refused.
func TestOwner(t *testing.T) {
	path := filepath.Join(t.TempDir(), "limpet.db")
	s := newStore(t, Config{Path: path, Owner: 1})
	put(s, "a", "1")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if other, err := Open(Config{Path: path, Owner: 2}); err == nil || !strings.Contains(err.Error(), "belongs to member 1") {
		if err == nil {
			_ = other.Close()
		}
		t.Fatalf("Open as member 2: got %v, want a sentence that names member 1", err)
	}
	again := newStore(t, Config{Path: path, Owner: 1})
	if v, ok := get(t, again, "a", again.Rev()); !ok || v != "1" {
		t.Fatalf("a = %q, %v; want 1", v, ok)
	}
}

// TestInterrupt: a member that stops does not wait for a disk that another
// program holds.
func TestInterrupt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "limpet.db")
	s, err := Open(Config{Path: path, MaxPending: 1000})
	if err != nil {
		t.Fatal(err)
	}
	other, err := openConn(path, []string{"busy_timeout = 5000"})
	if err != nil {
		t.Fatal(err)
	}
	if err := other.exec("BEGIN IMMEDIATE"); err != nil {
		t.Fatal(err)
	}
	published := make(chan struct{})
	// Owner: this test; ends with Interrupt.
	go func() {
		put(s, "a", strings.Repeat("x", 5000))
		close(published)
	}()
	for s.Stats().Pending < 1000 { // until Publish waits
		select {
		case <-published:
			t.Fatal("Publish did not wait for the disk")
		case <-time.After(time.Millisecond):
		}
	}
	s.Interrupt()
	select {
	case <-published:
	case <-time.After(time.Minute):
		t.Fatal("Publish still waits a minute after Interrupt")
	}
	if err := s.Close(); err == nil {
		t.Error("Close said nothing of a flush that could not be")
	}
	if err := errors.Join(other.exec("ROLLBACK"), other.close()); err != nil {
		t.Fatal(err)
	}
}
