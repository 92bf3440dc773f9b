// Package lease answers: whose time is up?
//
// It holds the deadlines of leases and lives on every member, but counts only
// on the leader. Nothing in it is replicated: which leases exist, and with what
// time to live, is the replicated state's business (txn), which tells a Lessor
// of each grant and revocation as it is applied. A new leader starts every
// lease afresh with its full time to live, so a lease may live longer than it
// was granted for, never shorter.
package lease

import (
	"container/heap"
	"context"
	"errors"
	"log/slog"
	"math"
	"slices"
	"sync"
	"time"
)

var (
	// ErrNotFound: no such lease, or its time is up.
	ErrNotFound = errors.New("lease: requested lease not found")
	// ErrNotLeader: this member does not lead, so it knows no deadlines.
	ErrNotLeader = errors.New("lease: not a primary lessor")
)

const (
	// retryAfter is when a revocation that failed is tried again.
	retryAfter = 500 * time.Millisecond
	// maxRevoking bounds the revocations under way; they share log entries.
	maxRevoking = 256
)

// Config wires a Lessor.
type Config struct {
	// Revoke removes a lease for the whole cluster. It is called from
	// goroutines of the Lessor and may block; a failed call is repeated.
	Revoke func(ctx context.Context, id int64) error
	// Extend is added to every lease when this member becomes leader, so that
	// clients find it before their leases run out.
	Extend time.Duration
	Logger *slog.Logger
}

// Lessor keeps the deadlines. All methods may be called concurrently.
type Lessor struct {
	cfg Config

	// mu guards the fields below. Never held while revoking.
	mu       sync.Mutex
	leases   map[int64]*lease
	queue    queue // those that wait for their time
	leading  bool
	revoking int

	wake chan struct{} // holds one: the earliest deadline may have changed
	wg   sync.WaitGroup
}

type lease struct {
	id       int64
	ttl      int64     // seconds, as granted
	deadline time.Time // meaningful while leading
	revoking bool
	look     time.Time // when the queue looks at it: at the deadline, or before if it was renewed
	pos      int       // in the queue, -1 if it is not there
}

// New returns a Lessor that does nothing until Run.
func New(cfg Config) *Lessor {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Lessor{cfg: cfg, leases: make(map[int64]*lease), wake: make(chan struct{}, 1)}
}

// Granted notes a lease of ttl seconds; its time starts now.
func (l *Lessor) Granted(id, ttl int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	le := &lease{id: id, ttl: ttl, pos: -1}
	l.leases[id] = le
	if l.leading {
		l.setDeadlineLocked(le, 0)
	}
}

// Revoked forgets a lease.
func (l *Lessor) Revoked(id int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if le := l.leases[id]; le != nil && le.pos >= 0 {
		heap.Remove(&l.queue, le.pos)
	}
	delete(l.leases, id)
}

// Lead starts all leases afresh: this member is the leader now.
func (l *Lessor) Lead() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.leading = true
	l.clearLocked()
	for _, le := range l.leases {
		le.revoking = false
		l.setDeadlineLocked(le, l.cfg.Extend)
	}
}

// Follow stops all clocks: another member leads, or none.
func (l *Lessor) Follow() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.leading = false
	l.clearLocked()
}

func (l *Lessor) clearLocked() {
	for _, le := range l.queue {
		le.pos = -1
	}
	l.queue = nil
}

func (l *Lessor) setDeadlineLocked(le *lease, extend time.Duration) {
	le.deadline = time.Now().Add(seconds(le.ttl) + extend)
	l.enqueueLocked(le, le.deadline)
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

func (l *Lessor) enqueueLocked(le *lease, look time.Time) {
	le.look = look
	heap.Push(&l.queue, le)
}

// seconds converts without overflowing: etcd's longest lease is 285 years,
// the longest Duration 292.
func seconds(n int64) time.Duration {
	const most = math.MaxInt64 / int64(time.Second)
	return time.Duration(min(n, most)) * time.Second
}

// Renew restarts the lease's time and returns its time to live in seconds.
func (l *Lessor) Renew(id int64) (ttl int64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.leading {
		return 0, ErrNotLeader
	}
	le := l.leases[id]
	if le == nil || le.revoking || !time.Now().Before(le.deadline) {
		return 0, ErrNotFound
	}
	// The queue keeps the old, earlier deadline and looks again then: renewing
	// costs no heap work.
	le.deadline = time.Now().Add(seconds(le.ttl))
	return le.ttl, nil
}

// TimeToLive returns the whole seconds left and the seconds granted.
func (l *Lessor) TimeToLive(id int64) (remaining, granted int64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	le := l.leases[id]
	if le == nil {
		return 0, 0, ErrNotFound
	}
	if !l.leading {
		return 0, 0, ErrNotLeader
	}
	left := time.Until(le.deadline)
	if left <= 0 {
		return 0, 0, ErrNotFound
	}
	return int64(left.Seconds()), le.ttl, nil
}

// Leases lists the ids of all leases, the one that ends first first; on a
// member that does not lead by id.
func (l *Lessor) Leases() []int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := make([]*lease, 0, len(l.leases))
	for _, le := range l.leases {
		all = append(all, le)
	}
	slices.SortFunc(all, func(a, b *lease) int {
		if l.leading {
			if c := a.deadline.Compare(b.deadline); c != 0 {
				return c
			}
		}
		if a.id < b.id {
			return -1
		}
		return 1
	})
	ids := make([]int64, len(all))
	for i, le := range all {
		ids[i] = le.id
	}
	return ids
}

// Run revokes leases whose time is up, while this member leads, until ctx
// ends; it returns when the last revocation has.
func (l *Lessor) Run(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		due, next := l.expired()
		for _, id := range due {
			// Owner: Run, which waits for all; ends with the call or ctx.
			l.wg.Go(func() { l.revoke(ctx, id) })
		}
		timer.Reset(next)
		select {
		case <-ctx.Done():
			l.wg.Wait()
			return
		case <-timer.C:
		case <-l.wake:
		}
	}
}

// expired takes the leases to revoke now and tells when to look again.
func (l *Lessor) expired() (due []int64, next time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	for l.leading && len(l.queue) > 0 {
		if wait := l.queue[0].look.Sub(now); wait > 0 {
			return due, wait
		}
		if l.revoking >= maxRevoking {
			return due, time.Hour // a finished revocation wakes the loop
		}
		le := heap.Pop(&l.queue).(*lease)
		if le.deadline.After(now) { // renewed since
			l.enqueueLocked(le, le.deadline)
			continue
		}
		le.revoking = true
		l.revoking++
		due = append(due, le.id)
	}
	return due, time.Hour
}

func (l *Lessor) revoke(ctx context.Context, id int64) {
	err := l.cfg.Revoke(ctx, id)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.revoking--
	le := l.leases[id]
	if err != nil && le != nil && le.revoking && le.pos < 0 && l.leading {
		l.cfg.Logger.Debug("an expired lease could not be revoked; trying again", "lease", id, "error", err)
		le.revoking = false
		l.enqueueLocked(le, time.Now().Add(retryAfter))
	}
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// queue is a heap by look; each lease knows its place in it.
type queue []*lease

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].look.Before(q[j].look) }
func (q queue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].pos, q[j].pos = i, j
}

func (q *queue) Push(x any) {
	le := x.(*lease)
	le.pos = len(*q)
	*q = append(*q, le)
}

func (q *queue) Pop() any {
	old := *q
	last := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	last.pos = -1
	return last
}
