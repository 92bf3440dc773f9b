package main

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"
)

func TestLongestGap(t *testing.T) {
	blow := time.Unix(1000, 0)
	at := func(ms ...int) (out []time.Time) {
		for _, n := range ms {
			out = append(out, blow.Add(time.Duration(n)*time.Millisecond))
		}
		return out
	}
	for _, c := range []struct {
		name    string
		moments []time.Time
		want    time.Duration
	}{
		{"none", nil, 0},
		{"all before the blow", at(-30, -5, 0), 0},
		{"a dead leader: from the blow to the first answer", at(-5, 1200, 1205, 1210), 1200 * time.Millisecond},
		{"an answer that was on its way does not end it", at(-5, 2, 1200, 1205), 1198 * time.Millisecond},
		{"a leader that stops: it goes on answering before the pause", at(5, 10, 15, 115, 120), 100 * time.Millisecond},
		{"answers noted out of order", at(120, 5, 115, 15, 10), 100 * time.Millisecond},
	} {
		if got := longestGap(blow, c.moments); got != c.want {
			t.Errorf("%s: longestGap = %v, want %v", c.name, got, c.want)
		}
	}
}

// TestKnockerDoesNotWaitForTheLost: one member never answers, the other refuses at first; puts go on all the same.
func TestKnockerDoesNotWaitForTheLost(t *testing.T) {
	hang := make(chan struct{})
	var lost, refused atomic.Int64
	mute := serve(t, &speaker{put: func() error { lost.Add(1); <-hang; return nil }})
	late := serve(t, &speaker{put: func() error {
		if refused.Add(1) <= 3 {
			return errors.New("no leader yet")
		}
		return nil
	}})
	t.Cleanup(func() { close(hang) }) // before the servers stop, which wait for their handlers
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	began := time.Now()
	k, err := startKnocker(ctx, []string{mute, late})
	if err != nil {
		t.Fatal(err)
	}
	defer k.close()
	if err := k.await(ctx, began); err != nil {
		t.Fatal(err)
	}
	if lost.Load() < 2 || refused.Load() <= 3 {
		t.Errorf("%d puts at the mute member and %d at the other by the first answer, want at least 2 and 4", lost.Load(), refused.Load())
	}
	if gap := k.longestGap(began); gap <= 0 {
		t.Errorf("longest gap %v after an answer, want more than 0", gap)
	}
}

func TestKnockerGivesUpWithItsContext(t *testing.T) {
	address := serve(t, &speaker{put: func() error { return errors.New("never") }})
	k, err := startKnocker(t.Context(), []string{address})
	if err != nil {
		t.Fatal(err)
	}
	defer k.close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := k.await(ctx, time.Now()); !errors.Is(err, context.Canceled) {
		t.Errorf("await = %v, want canceled", err)
	}
}
