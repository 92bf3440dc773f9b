package sqlstore

import (
	"context"
	"errors"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
)

// TestWaitApplied: a wait ends with its index, its context or the store, and
// leaves nothing behind.
func TestWaitApplied(t *testing.T) {
	path := filepath.Join(t.TempDir(), "limpet.db")
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t, Config{Path: path})
		wait := func(ctx context.Context, index uint64) <-chan error {
			woken := make(chan error, 1)
			// Owner: this test; ends as the case says.
			go func() { woken <- s.WaitApplied(ctx, index) }()
			synctest.Wait()
			return woken
		}
		still := func(woken <-chan error, what string) {
			t.Helper()
			synctest.Wait()
			select {
			case err := <-woken:
				t.Errorf("the wait for %s has ended: %v", what, err)
			default:
			}
		}
		if err := s.WaitApplied(t.Context(), 0); err != nil {
			t.Errorf("WaitApplied(0): %v", err)
		}
		two, twoAgain, five := wait(t.Context(), 2), wait(t.Context(), 2), wait(t.Context(), 5)
		ctx, cancel := context.WithCancel(t.Context())
		impatient := wait(ctx, 1)
		cancel()
		if err := <-impatient; !errors.Is(err, context.Canceled) {
			t.Errorf("a canceled wait: %v, want canceled", err)
		}
		put(s, "a", "1")
		still(two, "2 at 1")
		put(s, "a", "2")
		if err := errors.Join(<-two, <-twoAgain); err != nil {
			t.Errorf("the waits for 2 at 2: %v", err)
		}
		still(five, "5 at 2")
		s.Writer().Publish(9) // jumps over it
		if err := <-five; err != nil {
			t.Errorf("the wait for 5 at 9: %v", err)
		}
		if n, next := len(s.arrivals.waits), s.arrivals.next.Load(); n != 0 || next != nobodyWaits {
			t.Errorf("%d waits are left, the next for %d", n, next)
		}
		ten := wait(t.Context(), 10)
		s.Interrupt()
		still(ten, "10 after Interrupt")
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if err := <-ten; !errors.Is(err, ErrClosed) {
			t.Errorf("the wait for 10 at Close: %v, want ErrClosed", err)
		}
	})
}

// TestWaitAppliedMissesNothing: many wait for each index while it is being
// published, and some give up.
func TestWaitAppliedMissesNothing(t *testing.T) {
	const last = 3000
	s := newStore(t, Config{})
	var wg sync.WaitGroup
	for waiter := range uint64(8) {
		// Owner: this test; ends with the last index.
		wg.Go(func() {
			r := rand.New(rand.NewPCG(waiter, 1))
			canceled, cancel := context.WithCancel(t.Context())
			cancel()
			for index := uint64(1); index <= last; index = s.Applied() + 1 + r.Uint64N(3) {
				if r.IntN(4) == 0 {
					_ = s.WaitApplied(canceled, index)
					continue
				}
				index = min(index, last)
				if err := s.WaitApplied(t.Context(), index); err != nil || s.Applied() < index {
					t.Errorf("WaitApplied(%d): %v at %d", index, err, s.Applied())
				}
			}
		})
	}
	for index := uint64(1); index <= last; index++ {
		s.Writer().Publish(index)
	}
	wg.Wait()
	if n, next := len(s.arrivals.waits), s.arrivals.next.Load(); n != 0 || next != nobodyWaits {
		t.Errorf("%d waits are left, the next for %d", n, next)
	}
}
