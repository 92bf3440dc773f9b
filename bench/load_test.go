package main

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"
)

func nothing() error { return nil }

func TestLoadCountsWhatTheWindowSaw(t *testing.T) {
	var asked atomic.Int64
	l := load{
		workers: 3, window: 20 * time.Millisecond, opened: nothing, closed: nothing,
		op: func(context.Context, int, int) error {
			asked.Add(1)
			time.Sleep(time.Millisecond) // a request takes its time
			return nil
		},
	}
	r, err := l.run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if r.ops == 0 || len(r.latencies) != r.ops || int64(r.ops+r.late) > asked.Load() || r.late > l.workers {
		t.Errorf("%d ops, %d latencies, %d late of %d asked by %d workers", r.ops, len(r.latencies), r.late, asked.Load(), l.workers)
	}
	if r.window < l.window {
		t.Errorf("window of %v, want at least %v", r.window, l.window)
	}
}

func TestLoadEndsWithTheFirstFailure(t *testing.T) {
	broken := errors.New("broken")
	l := load{
		workers: 4, window: time.Hour, opened: nothing, closed: nothing,
		op: func(ctx context.Context, worker, n int) error {
			if worker == 2 && n == 3 {
				return broken
			}
			return sleep(ctx, time.Microsecond)
		},
	}
	if _, err := l.run(t.Context()); !errors.Is(err, broken) {
		t.Errorf("run = %v, want %v", err, broken)
	}
}

func TestLoadReportsAFailedReading(t *testing.T) {
	gone := errors.New("the server is gone")
	l := load{workers: 2, window: time.Millisecond, opened: nothing, closed: func() error { return gone },
		op: func(ctx context.Context, _, _ int) error { return sleep(ctx, time.Microsecond) }}
	if _, err := l.run(t.Context()); !errors.Is(err, gone) {
		t.Errorf("run = %v, want %v", err, gone)
	}
}
