package lease

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// MaxTTL is etcd's longest lease, in seconds.
const maxTTL = 9_000_000_000

// cluster is a Lessor with the cluster's part played by the test: a revocation
// comes back as Revoked, unless fail says otherwise.
type cluster struct {
	*Lessor
	t      *testing.T
	began  time.Time
	fail   func(id int64) error // set before the first lease ends
	cancel context.CancelFunc
	ended  chan struct{}

	mu      sync.Mutex // guards the fields below
	revoked []string   // "id at time since the start", in order
	tries   int
}

// run begins a Lessor within a synctest bubble.
func run(t *testing.T, extend time.Duration) *cluster {
	c := &cluster{t: t, began: time.Now(), ended: make(chan struct{})}
	c.Lessor = New(Config{Extend: extend, Revoke: func(ctx context.Context, id int64) error {
		c.mu.Lock()
		c.tries++
		c.mu.Unlock()
		if c.fail != nil {
			if err := c.fail(id); err != nil {
				return err
			}
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.revoked = append(c.revoked, fmt.Sprintf("%d at %v", id, time.Since(c.began)))
		c.Revoked(id)
		return nil
	}})
	ctx, cancel := context.WithCancel(t.Context())
	c.cancel = cancel
	// Owner: this test; ends when stop cancels ctx.
	go func() { c.Run(ctx); close(c.ended) }()
	return c
}

func (c *cluster) stop() {
	c.cancel()
	<-c.ended
}

// sleep lets time pass and waits until everything due then has happened.
func (c *cluster) sleep(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (c *cluster) tried() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.tries
}

func (c *cluster) want(revoked ...string) {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if !slices.Equal(c.revoked, revoked) {
		c.t.Errorf("after %v revoked %q, want %q", time.Since(c.began), c.revoked, revoked)
	}
}

func TestExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := run(t, 0)
		defer c.stop()
		c.Lead()
		c.Granted(1, 10)
		c.Granted(2, 5)
		c.Granted(3, 7)
		c.sleep(4999 * time.Millisecond)
		c.want()
		c.sleep(time.Millisecond)
		c.want("2 at 5s")
		c.sleep(time.Hour)
		c.want("2 at 5s", "3 at 7s", "1 at 10s")
		// Later grants are found however long the Lessor slept.
		c.Granted(4, 1)
		c.sleep(time.Hour)
		c.want("2 at 5s", "3 at 7s", "1 at 10s", "4 at 1h0m6s")
	})
}

func TestRenew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := run(t, 0)
		defer c.stop()
		c.Lead()
		c.Granted(1, 10)
		for range 5 {
			c.sleep(9 * time.Second)
			if ttl, err := c.Renew(1); ttl != 10 || err != nil {
				t.Fatalf("Renew = %d, %v; want 10", ttl, err)
			}
		}
		c.sleep(10 * time.Second)
		c.want("1 at 55s")
		for _, id := range []int64{1, 99} {
			if _, err := c.Renew(id); !errors.Is(err, ErrNotFound) {
				t.Errorf("Renew(%d) = %v, want ErrNotFound", id, err)
			}
		}
	})
}

// TestNoRenewalAfterTheEnd: a lease whose time is up cannot be saved while its
// revocation is under way or has failed.
func TestNoRenewalAfterTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := run(t, 0)
		defer c.stop()
		c.fail = func(int64) error { return errors.New("no leader") }
		c.Lead()
		c.Granted(1, 10)
		c.sleep(10 * time.Second)
		if n := c.tried(); n != 1 {
			t.Fatalf("%d tries to revoke, want 1", n)
		}
		if _, err := c.Renew(1); !errors.Is(err, ErrNotFound) {
			t.Errorf("Renew = %v, want ErrNotFound", err)
		}
		if _, _, err := c.TimeToLive(1); !errors.Is(err, ErrNotFound) {
			t.Errorf("TimeToLive = %v, want ErrNotFound", err)
		}
		if got := c.Leases(); !slices.Equal(got, []int64{1}) {
			t.Errorf("Leases = %v, want [1]: it still holds its keys", got)
		}
	})
}

// TestRetry: a failed revocation is repeated until it works.
func TestRetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := run(t, 0)
		defer c.stop()
		c.fail = func(int64) error {
			if c.tried() <= 3 {
				return errors.New("no leader")
			}
			return nil
		}
		c.Lead()
		c.Granted(1, 10)
		c.sleep(10 * time.Second)
		c.sleep(10 * time.Second)
		c.want("1 at 11.5s")
		if n := c.tried(); n != 4 {
			t.Errorf("%d tries, want 4", n)
		}
	})
}

// TestLeaderChange: nobody but the leader counts, and a new leader starts every
// lease afresh with its full time and the extension.
func TestLeaderChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := run(t, time.Second)
		defer c.stop()
		c.Granted(1, 10)
		c.sleep(time.Hour) // following: no clock runs
		c.want()
		if _, err := c.Renew(1); !errors.Is(err, ErrNotLeader) {
			t.Errorf("Renew on a follower = %v, want ErrNotLeader", err)
		}
		if _, _, err := c.TimeToLive(1); !errors.Is(err, ErrNotLeader) {
			t.Errorf("TimeToLive on a follower = %v, want ErrNotLeader", err)
		}
		if _, _, err := c.TimeToLive(99); !errors.Is(err, ErrNotFound) {
			t.Errorf("TimeToLive of no lease = %v, want ErrNotFound", err)
		}
		c.Lead()
		if left, granted, err := c.TimeToLive(1); left != 11 || granted != 10 || err != nil {
			t.Errorf("TimeToLive = %d, %d, %v; want 11, 10", left, granted, err)
		}
		c.sleep(9 * time.Second)
		c.Follow()
		c.sleep(time.Hour)
		c.want()
		c.Lead()
		c.sleep(11*time.Second - 1)
		c.want()
		c.sleep(1)
		c.want("1 at 2h0m20s")
	})
}

// TestOldLeaderDoesNotRevoke: a revocation that fails because leadership was
// lost is not repeated by the old leader, and not counted twice by a new one.
func TestOldLeaderDoesNotRevoke(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := run(t, 0)
		defer c.stop()
		entered, lost := make(chan struct{}), make(chan struct{})
		c.fail = func(int64) error {
			if c.tried() == 1 {
				close(entered)
				<-lost
				return errors.New("leadership lost")
			}
			return nil
		}
		c.Lead()
		c.Granted(1, 10)
		<-entered
		c.Follow()
		close(lost)
		c.sleep(time.Hour)
		if n := c.tried(); n != 1 {
			t.Errorf("%d tries by one that follows, want the 1 that was under way", n)
		}
		c.Lead()
		c.sleep(time.Hour)
		c.want("1 at 1h0m20s")
		if n := c.tried(); n != 2 {
			t.Errorf("%d tries, want 2", n)
		}
	})
}

func TestOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := run(t, 0)
		defer c.stop()
		for id, ttl := range map[int64]int64{5: 100, -3: 30, 9: 200, 2: 30} {
			c.Granted(id, ttl)
		}
		check := func(want ...int64) {
			t.Helper()
			if got := c.Leases(); !slices.Equal(got, want) {
				t.Errorf("Leases = %v, want %v", got, want)
			}
		}
		check(-3, 2, 5, 9) // following: by id
		c.Lead()
		check(-3, 2, 5, 9)
		c.sleep(20 * time.Second)
		if _, err := c.Renew(-3); err != nil {
			t.Fatal(err)
		}
		check(2, -3, 5, 9)
		c.Revoked(5)
		c.Revoked(77)
		check(2, -3, 9)
	})
}

// TestTimeToLive: whole seconds left, cut off as etcd does.
func TestTimeToLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := run(t, 0)
		defer c.stop()
		c.Lead()
		c.Granted(1, 10)
		c.sleep(100 * time.Millisecond)
		if left, granted, err := c.TimeToLive(1); left != 9 || granted != 10 || err != nil {
			t.Errorf("TimeToLive = %d, %d, %v; want 9, 10", left, granted, err)
		}
	})
}

// TestLongestLease: etcd's longest lease is close to the longest Duration; it
// neither overflows nor ends early.
func TestLongestLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := run(t, time.Minute)
		defer c.stop()
		c.Granted(1, maxTTL)
		c.Granted(2, 1)
		c.Lead()
		if left, granted, err := c.TimeToLive(1); left < maxTTL || granted != maxTTL || err != nil {
			t.Errorf("TimeToLive = %d, %d, %v; want at least %d", left, granted, err, int64(maxTTL))
		}
		c.sleep(100 * 365 * 24 * time.Hour)
		c.want("2 at 1m1s")
		if ttl, err := c.Renew(1); ttl != maxTTL || err != nil {
			t.Errorf("Renew = %d, %v; want %d", ttl, err, int64(maxTTL))
		}
	})
}

// TestGrantedAgain: the same id may be granted anew, with a time of its own.
func TestGrantedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := run(t, 0)
		defer c.stop()
		c.Lead()
		c.Granted(1, 10)
		c.sleep(5 * time.Second)
		c.Revoked(1)
		c.Granted(1, 10)
		c.sleep(time.Hour)
		c.want("1 at 15s")
		if n := c.tried(); n != 1 {
			t.Errorf("%d tries, want 1", n)
		}
	})
}

// TestManyAtOnce: no more than maxRevoking revocations are under way, and all
// are made.
func TestManyAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := run(t, 0)
		defer c.stop()
		const n = 3 * maxRevoking
		gate := make(chan struct{})
		c.fail = nil
		done := make(chan int64, n)
		c.cfg.Revoke = func(_ context.Context, id int64) error {
			<-gate
			c.Revoked(id)
			done <- id
			return nil
		}
		c.Lead()
		for id := int64(1); id <= n; id++ {
			c.Granted(id, 10)
		}
		c.sleep(10 * time.Second)
		c.Lessor.mu.Lock()
		under := c.revoking
		c.Lessor.mu.Unlock()
		if under != maxRevoking {
			t.Errorf("%d revocations under way, want %d", under, maxRevoking)
		}
		close(gate)
		synctest.Wait()
		if len(done) != n || len(c.Leases()) != 0 {
			t.Errorf("%d revoked and %d left, want %d and 0", len(done), len(c.Leases()), n)
		}
	})
}

// TestRunWaits: Run returns when the revocations under way have ended.
func TestRunWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := run(t, 0)
		c.cfg.Revoke = func(ctx context.Context, _ int64) error {
			<-ctx.Done()
			time.Sleep(time.Second)
			return ctx.Err()
		}
		c.Lead()
		c.Granted(1, 1)
		c.sleep(2 * time.Second)
		c.cancel()
		began := time.Now()
		<-c.ended
		if took := time.Since(began); took != time.Second {
			t.Errorf("Run ended %v after its context, want the second that the revocation took", took)
		}
	})
}

// TestRevokedLeasesLeaveTheQueue: leases that are granted and revoked long
// before their time must not pile up until then.
func TestRevokedLeasesLeaveTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := run(t, 0)
		defer c.stop()
		c.Lead()
		const n = 10_000
		for id := int64(1); id <= n; id++ {
			c.Granted(id, 365*24*3600)
			c.Revoked(id)
		}
		c.Lessor.mu.Lock()
		left := len(c.queue)
		c.Lessor.mu.Unlock()
		if left > n/10 {
			t.Errorf("no lease is left, and %d of %d deadlines are kept for a year", left, n)
		}
	})
}

// TestIdle: without leases, or following, nothing happens for a day.
func TestIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := run(t, 0)
		defer c.stop()
		for id := range int64(100) {
			c.Granted(id+1, 1)
		}
		c.sleep(24 * time.Hour)
		if n := c.tried(); n != 0 {
			t.Errorf("%d revocations by one that follows", n)
		}
	})
}

// BenchmarkRenew is a keep-alive among 10 000 leases.
func BenchmarkRenew(b *testing.B) {
	l := New(Config{})
	l.Lead()
	for id := range int64(10_000) {
		l.Granted(id, 60)
	}
	for i := int64(0); b.Loop(); i++ {
		if _, err := l.Renew(i % 10_000); err != nil {
			b.Fatal(err)
		}
	}
}
