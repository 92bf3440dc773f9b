package v2

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"limpet/e2e/side"
)

const (
	crowdWriters = 6  // two at each member
	crowdWrites  = 40 // acknowledged ones of each
	crowdKill    = 60 // acknowledged ones of all, then the leader dies
)

// crowd is many clients at once: they queue in-order keys at every member while somebody watches there.
type crowd struct {
	walk
	acked atomic.Int64
	mu    sync.Mutex // guards keys
	keys  []string   // of acknowledged writes
}

// TestCrowd queues keys from all sides while the leader dies and comes back. No acknowledged key may be
// missing, anywhere; the watcher at each member hears of every key once, in the order of the indexes, and
// all three hear the same.
func TestCrowd(t *testing.T) {
	t.Parallel()
	c := &crowd{walk: walk{t: t, cluster: side.Found(t, subject(), 3, "--enable-v2=true")}}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var heard [3][]event
	errs := make([]error, 3+crowdWriters)
	var watchers, writers sync.WaitGroup
	for n := range heard {
		watchers.Go(func() { heard[n], errs[n] = c.follow(ctx, n+1) })
	}
	for w := range crowdWriters {
		writers.Go(func() { errs[3+w] = c.write(ctx, w) })
	}
	await(t, "enough writes", func(context.Context) error {
		if n := c.acked.Load(); n < crowdKill {
			return fmt.Errorf("%d are acknowledged", n)
		}
		return nil
	})
	dead := c.leader()
	c.cluster.Member(dead).Server.Kill()
	c.elected(dead%3+1, dead)
	c.cluster.Member(dead).Server.Launch()
	c.cluster.Await(dead)
	writers.Wait()
	c.healthy(1)
	c.curl(1, "PUT /keys/crowd/end value=end", 201, "")
	watchers.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	c.judge(heard)
}

// write queues keys at one member until enough are acknowledged.
func (c *crowd) write(ctx context.Context, w int) error {
	at := c.cluster.Member(w%3 + 1)
	for done := 0; done < crowdWrites; {
		a := parse(fmt.Sprintf("POST /keys/crowd value=%d-%d", w, done)).send(ctx, at)
		if a.status != "201 Created" {
			if err := rest(ctx); err != nil {
				return fmt.Errorf("writer %d after %d keys: %w; last answer: %s", w, done, err, a)
			}
			continue
		}
		var e event
		if err := json.Unmarshal([]byte(a.body), &e); err != nil {
			return err
		}
		c.mu.Lock()
		c.keys = append(c.keys, e.Node.Key)
		c.mu.Unlock()
		c.acked.Add(1)
		done++
	}
	return nil
}

// rest keeps a client whose member is away from asking without a pause.
func rest(ctx context.Context) error {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// follow is the loop that etcd's pages teach: wait for the event behind the last one, again and again.
func (c *crowd) follow(ctx context.Context, n int) ([]event, error) {
	var all []event
	for index := uint64(1); ; {
		line := fmt.Sprintf("GET /keys/crowd?wait=true&recursive=true&waitIndex=%d", index)
		a := parse(line).send(ctx, c.cluster.Member(n))
		var e event
		if a.status != "200 OK" || json.Unmarshal([]byte(a.body), &e) != nil || e.Node == nil {
			if err := rest(ctx); err != nil {
				return all, fmt.Errorf("watcher at member %d after %d events: %w; last answer: %s", n, len(all), err, a)
			}
			continue // it is away, or has ended the answer without an event
		}
		all = append(all, e)
		index = e.Node.ModifiedIndex + 1
		if strings.HasSuffix(e.Node.Key, "/end") {
			return all, nil
		}
	}
}

func (c *crowd) judge(heard [3][]event) {
	c.t.Helper()
	var first []string
	for n, events := range heard {
		var keys []string
		var last uint64
		for _, e := range events {
			if e.Node.ModifiedIndex <= last {
				c.t.Errorf("the watcher at member %d heard of %s with index %d after index %d", n+1, e.Node.Key, e.Node.ModifiedIndex, last)
			}
			last = e.Node.ModifiedIndex
			keys = append(keys, e.Node.Key)
		}
		if n == 0 {
			first = keys
		} else if !slices.Equal(first, keys) {
			c.t.Errorf("the watchers at members 1 and %d heard of other keys:\n%v\n%v", n+1, first, keys)
		}
	}
	for n := 1; n <= 3; n++ {
		here := parse("GET /keys/crowd?quorum=true&sorted=true").send(c.t.Context(), c.cluster.Member(n)).body
		for _, key := range c.keys {
			if !strings.Contains(here, `"key":"`+key+`"`) || !slices.Contains(first, key) {
				c.t.Errorf("%s was acknowledged; member %d or the watchers do not have it", key, n)
			}
		}
	}
	if len(slices.Compact(slices.Sorted(slices.Values(c.keys)))) != crowdWriters*crowdWrites {
		c.t.Errorf("some keys were given twice: %v", c.keys)
	}
}
