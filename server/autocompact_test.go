package server

import (
	"context"
	"errors"
	"log/slog"
	"reflect"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// clockwork is a member whose revision is the number of minutes since the
// start, plus one, and which notes what it is asked to compact.
type clockwork struct {
	mu      sync.Mutex // guards all: the race detector does not see fake time
	began   time.Time
	asked   []compaction
	fail    int  // the next requests that fail
	follows bool // another member leads
}

func (c *clockwork) lead() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.follows = false
}

func (c *clockwork) leads() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.follows
}

type compaction struct {
	minute int64
	rev    int64
}

func (c *clockwork) minute() int64 { return int64(time.Since(c.began) / time.Minute) }

// run lets a compactor work for a while of fake time.
func (c *clockwork) run(t *testing.T, keep retention, for_ time.Duration, events ...func()) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c.began = time.Now()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			(&compactor{
				keep: keep, rev: func() int64 { return c.minute() + 1 }, leading: c.leads,
				compact: c.compact, log: slog.New(slog.DiscardHandler),
			}).run(ctx)
		}()
		// Half a second beside the compactor's ticks, so that the order is clear.
		step := for_ / time.Duration(len(events)+1)
		time.Sleep(500 * time.Millisecond)
		for _, event := range events {
			time.Sleep(step)
			synctest.Wait()
			event()
		}
		time.Sleep(for_ - time.Duration(len(events))*step)
		synctest.Wait()
		cancel()
		<-done
	})
}

func (c *clockwork) compact(_ context.Context, rev int64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked = append(c.asked, compaction{c.minute(), rev})
	if c.fail > 0 {
		c.fail--
		return errors.New("no leader")
	}
	return nil
}

func (c *clockwork) want(t *testing.T, want ...compaction) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if !reflect.DeepEqual(c.asked, want) {
		t.Errorf("compactions, as {minute revision}:\n got %v\nwant %v", c.asked, want)
	}
}

// wantPeriodic checks that compactions were asked for at these minutes, each
// to what was current one period before: no younger, or history that was to be
// kept is gone, and at most one sample older.
func (c *clockwork) wantPeriodic(t *testing.T, period, sample int64, minutes ...int64) {
	t.Helper()
	if len(c.asked) != len(minutes) {
		t.Fatalf("compactions, as {minute revision}: got %v, want them at the minutes %v", c.asked, minutes)
	}
	for i, got := range c.asked {
		if got.minute != minutes[i] {
			t.Errorf("compaction %d: at minute %d, want %d", i, got.minute, minutes[i])
		}
		ago := got.minute - period
		if youngest, oldest := ago+1, max(0, ago-sample)+1; got.rev > youngest || got.rev < oldest {
			t.Errorf("compaction at minute %d: to revision %d, of %d minutes ago; want %d to %d", got.minute, got.rev, got.minute-got.rev+1, oldest, youngest)
		}
	}
}

func TestPeriodicNothingBeforeOnePeriod(t *testing.T) {
	var c clockwork
	c.run(t, retention{period: 10 * time.Minute}, 10*time.Minute-time.Second)
	c.want(t)
}

func TestPeriodicCompactsToOnePeriodAgo(t *testing.T) {
	var c clockwork
	c.run(t, retention{period: 10 * time.Minute}, 35*time.Minute)
	c.wantPeriodic(t, 10, 1, 10, 20, 30)
}

// Periods above an hour are sampled, and compacted, as if each hour were one.
func TestPeriodicLongPeriods(t *testing.T) {
	var c clockwork
	c.run(t, retention{period: 3 * time.Hour}, 5*time.Hour+time.Minute)
	c.wantPeriodic(t, 180, 6, 180, 240, 300)
}

func TestPeriodicWithoutChangesCompactsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		(&compactor{
			keep: retention{period: time.Minute}, rev: func() int64 { return 5 }, leading: func() bool { return true },
			compact: func(context.Context, int64) error { asked++; return nil }, log: slog.New(slog.DiscardHandler),
		}).run(ctx)
		if asked != 1 {
			t.Errorf("compactions to an unchanged revision: got %d, want 1", asked)
		}
	})
}

// A member that does not lead watches the revisions all the same: when it
// comes to lead, at the next sample it compacts to what was current one period
// ago (etcd's Periodic.Run, which is paused on followers).
func TestPeriodicOnlyOnTheLeader(t *testing.T) {
	c := clockwork{follows: true}
	c.run(t, retention{period: 10 * time.Minute}, 50*time.Minute, func() { c.want(t); c.lead() })
	c.wantPeriodic(t, 10, 1, 26, 36, 46)
}

// What failed is tried again at the next sample, a tenth of the period later,
// not a whole period later (etcd's Periodic.Run).
func TestPeriodicRetriesAtTheNextSample(t *testing.T) {
	c := clockwork{fail: 2}
	c.run(t, retention{period: 10 * time.Minute}, 23*time.Minute)
	c.wantPeriodic(t, 10, 1, 10, 11, 12, 22)
}

func TestRevisionMode(t *testing.T) {
	var c clockwork
	c.run(t, retention{revisions: 10}, 21*time.Minute)
	// At minute 5 there are six revisions, fewer than are to be kept; at
	// minute 10 eleven.
	c.want(t, compaction{10, 1}, compaction{15, 6}, compaction{20, 11})
}

func TestRevisionModeOnlyOnTheLeader(t *testing.T) {
	c := clockwork{follows: true}
	c.run(t, retention{revisions: 10}, 24*time.Minute, func() { c.want(t); c.lead() })
	c.want(t, compaction{15, 6}, compaction{20, 11})
}

func TestRevisionModeRetries(t *testing.T) {
	c := clockwork{fail: 2}
	c.run(t, retention{revisions: 1}, 16*time.Minute)
	c.want(t, compaction{5, 5}, compaction{10, 10}, compaction{15, 15})
}

// A revision whose compaction failed is asked for again even if nothing has
// changed since.
func TestFailedCompactionIsNotForgotten(t *testing.T) {
	for _, keep := range []retention{{period: 5 * time.Minute}, {revisions: 2}} {
		synctest.Test(t, func(t *testing.T) {
			var asked []int64
			ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
			defer cancel()
			(&compactor{
				keep: keep, rev: func() int64 { return 5 }, leading: func() bool { return true },
				compact: func(_ context.Context, rev int64) error {
					if asked = append(asked, rev); len(asked) < 3 {
						return errors.New("no leader")
					}
					return nil
				},
				log: slog.New(slog.DiscardHandler),
			}).run(ctx)
			if len(asked) != 3 || asked[0] != asked[2] {
				t.Errorf("keep %+v: asked for %v, want the same revision three times, the last with success", keep, asked)
			}
		})
	}
}

func TestCompactionOff(t *testing.T) {
	var c clockwork
	c.run(t, retention{}, 48*time.Hour)
	c.want(t)
}

// Any duration is a valid period.
func TestPeriodicWithATinyPeriod(t *testing.T) {
	keep, err := parseRetention("periodic", "9ns")
	if err != nil {
		return // refused is as good
	}
	synctest.Test(t, func(t *testing.T) {
		defer func() {
			if r := recover(); r != nil {
				t.Errorf("period %v, which was accepted: panic: %v", keep.period, r)
			}
		}()
		ctx, cancel := context.WithTimeout(t.Context(), time.Microsecond)
		defer cancel()
		(&compactor{
			keep: keep, rev: func() int64 { return 5 }, leading: func() bool { return true },
			compact: func(context.Context, int64) error { return nil }, log: slog.New(slog.DiscardHandler),
		}).run(ctx)
	})
}
