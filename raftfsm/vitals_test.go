package raftfsm

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"
)

// Whoever watches over a member sees raft's loop turn, hang while the log is being
// written, and turn again.
func TestTurns(t *testing.T) {
	var hangs atomic.Bool
	entered, release := make(chan struct{}), make(chan struct{})
	m := start(t, t.TempDir(), func(c *Config) {
		c.Observe.Sync = func(time.Duration, int) { // in raft's loop
			if hangs.CompareAndSwap(true, false) {
				close(entered)
				<-release
			}
		}
	})
	if err := m.Turns(t.Context()); err != nil {
		t.Fatalf("a member that is well: %v", err)
	}
	hangs.Store(true)
	put := make(chan error, 1)
	// Owner: this test; ends when the put is answered.
	go func() {
		_, err := m.tryPut(context.Background(), "k", "v")
		put <- err
	}()
	<-entered
	for range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		if err := m.Turns(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("while the log hangs: got %v, want that the loop does not turn", err)
		}
		cancel()
	}
	close(release)
	if err := <-put; err != nil {
		t.Errorf("the put: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	if err := m.Turns(ctx); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

func TestVitals(t *testing.T) {
	m := start(t, t.TempDir(), nil)
	before := m.Vitals()
	m.put("k", "v")
	now := m.Vitals()
	if now.Applied <= before.Applied || now.Committed < now.Applied {
		t.Errorf("a put: got %+v after %+v, want it committed and applied", now, before)
	}
	if now.Durable >= now.Applied {
		t.Errorf("got %+v, want what is not flushed yet not to be durable", now)
	}
	if err := m.store.WaitDurable(t.Context(), now.Applied); err != nil {
		t.Fatal(err)
	}
	if got := m.Vitals(); got.Durable < now.Applied {
		t.Errorf("flushed: got %+v, want %d durable", got, now.Applied)
	}
}
