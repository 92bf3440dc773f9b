package login

import (
	"context"
	"net/netip"
	"slices"
	"sync"
)

// Bounds of who waits for a turn.
const (
	maxWaiting        = 5000 // altogether
	maxSuspects       = 1000 // beyond, nobody waits from a host that has failed lately
	maxWaitingSuspect = 20   // of one such host
)

// turns lets one at a time through. Whoever comes from a host that has failed
// lately waits behind all others: a flood of guesses does not keep out those who
// know their passwords. All methods may be called concurrently.
type turns struct {
	// mu guards the rest.
	mu      sync.Mutex
	taken   bool
	waiting []*waiter // in the order in which they came
	limit   *limit    // changed by whoever has the turn
}

type waiter struct {
	host string
	turn chan struct{} // closed when it has come
}

// take waits for a turn until ctx ends; ErrTooMany if too many wait already.
func (t *turns) take(ctx context.Context, host string) error {
	w, err := t.join(host)
	if w == nil {
		return err
	}
	select {
	case <-w.turn:
		return nil
	case <-ctx.Done():
	}
	t.mu.Lock()
	i := slices.Index(t.waiting, w)
	if i >= 0 {
		t.waiting = slices.Delete(t.waiting, i, i+1)
	}
	t.mu.Unlock()
	if i < 0 { // it came at the same moment
		t.give()
	}
	return ctx.Err()
}

// join takes the turn, with a nil waiter, or a place among those who wait.
func (t *turns) join(host string) (*waiter, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.taken {
		t.taken = true
		return nil, nil
	}
	if len(t.waiting) >= maxWaiting {
		return nil, ErrTooMany
	}
	if t.limit.suspects(host) {
		same := 0
		for _, w := range t.waiting {
			if w.host == host {
				same++
			}
		}
		if same >= maxWaitingSuspect || len(t.waiting) >= maxSuspects {
			return nil, ErrTooMany
		}
	}
	w := &waiter{host, make(chan struct{})}
	t.waiting = append(t.waiting, w)
	return w, nil
}

// give passes the turn on.
func (t *turns) give() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.waiting) == 0 {
		t.taken = false
		return
	}
	i := max(0, slices.IndexFunc(t.waiting, func(w *waiter) bool { return !t.limit.suspects(w.host) }))
	next := t.waiting[i]
	t.waiting = slices.Delete(t.waiting, i, i+1)
	close(next.turn)
}

// source is whom the limit counts an address as: all of this machine's loopback
// addresses are one host, and so is a network of IPv6 that one host may have all
// of.
func source(host string) string {
	addr, err := netip.ParseAddr(host)
	switch {
	case err != nil:
		return host
	case addr.Unmap().IsLoopback():
		return "loopback"
	case addr.Unmap().Is4():
		return addr.Unmap().String()
	}
	return netip.PrefixFrom(addr.WithZone(""), 64).Masked().String()
}
