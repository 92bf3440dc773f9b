package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// blows is how often a round hits a leader; its figure is the median. Elections hang on random timers.
	blows = 3
	// outageRest lets the members be a cluster again before the next blow; etcd hands leadership only to a member that
	// it has been connected with for a while.
	outageRest = 2 * time.Second
)

// blow is what happens to a leader.
type blow struct {
	name, title string
	signal      unix.Signal
	ends        bool // the process ends by it; otherwise it only stands still until SIGCONT
	floor, aim  float64
}

var (
	killed     = blow{name: "kill", title: "kill -9 of the leader", signal: unix.SIGKILL, ends: true, floor: 1, aim: 0.7}
	terminated = blow{name: "term", title: "SIGTERM to the leader", signal: unix.SIGTERM, ends: true}
	frozen     = blow{name: "freeze", title: "SIGSTOP of the leader", signal: unix.SIGSTOP}
)

// outageRow measures how long a cluster of three takes no writes when something happens to its leader: the longest time
// without an answered write that clients of the two other members see, from the blow until there is a new leader and
// the old one, if it is to, has ended.
func outageRow(w blow) *row {
	r := &row{name: w.name, members: trio, metrics: []metric{
		{id: w.name + ".gap", title: "time without writes after " + w.title + ", 3 members", unit: "ms", less: true,
			floor: w.floor, aim: w.aim},
		{id: w.name + ".worst", title: "longest of a round's times without writes after " + w.title, unit: "ms", less: true,
			beside: true},
	}}
	if w.ends {
		r.metrics = append(r.metrics, metric{id: w.name + ".back", less: true, beside: true, unit: "ms",
			title: "restart of a former leader, until it answers a linearizable get, after " + w.title})
	}
	r.run = func(ctx context.Context, b *bench, r *row) error {
		return b.alternating(ctx, r, func(ctx context.Context, s *side, _ int) (sample, error) {
			return b.measureOutages(ctx, s, w)
		})
	}
	return r
}

func (b *bench) measureOutages(ctx context.Context, s *side, w blow) (got sample, err error) {
	c, err := b.fresh(ctx, s, trio)
	if err != nil {
		return nil, err
	}
	defer func() { err = b.discard(c, err) }()
	var gaps, backs []time.Duration
	for range blows {
		if err := sleep(ctx, outageRest); err != nil {
			return nil, err
		}
		if err := c.order(ctx); err != nil {
			return nil, err
		}
		gap, err := c.suffer(ctx, w)
		if err != nil {
			return nil, fmt.Errorf("after %s: %w", w.title, err)
		}
		if err := c.heal(ctx, w); err != nil {
			return nil, fmt.Errorf("recovery from %s: %w", w.title, err)
		}
		gaps, backs = append(gaps, gap), append(backs, c.members[0].ready)
	}
	got = sample{w.name + ".gap": millis(percentile(gaps, 50)), w.name + ".worst": millis(slices.Max(gaps))}
	if w.ends {
		got[w.name+".back"] = millis(percentile(backs, 50))
	}
	return got, nil
}

// suffer strikes the leader and returns the longest time without an answered write.
func (c *cluster) suffer(ctx context.Context, w blow) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	k, err := startKnocker(ctx, c.addresses()[1:])
	if err != nil {
		return 0, err
	}
	defer k.close()
	if err := k.await(ctx, time.Now()); err != nil { // the connections are up, and the first write is paid for
		return 0, err
	}
	leader, others := c.members[0], c.members[1:]
	struck := time.Now()
	if err := leader.strike(w); err != nil {
		return 0, err
	}
	if _, err := awaitLeader(ctx, others); err != nil {
		return 0, err
	}
	if w.ends {
		select {
		case <-leader.exit:
		case <-time.After(stopWithin):
			return 0, fmt.Errorf("%s did not end within %v", c.side.name, stopWithin)
		}
	}
	if err := k.await(ctx, time.Now()); err != nil {
		return 0, err
	}
	return k.longestGap(struck), nil
}

// strike sends the blow's signal.
func (v *server) strike(w blow) error {
	if err := v.exited(); err != nil {
		return err
	}
	v.ended = w.ends
	return unix.Kill(v.pid, w.signal)
}

// heal brings the former leader, members[0], back and waits until all members agree about a leader.
func (c *cluster) heal(ctx context.Context, w blow) error {
	if w.ends {
		v, err := c.side.start(ctx, c.members[0].place)
		if err != nil {
			return err
		}
		c.members[0] = v
	} else if err := unix.Kill(c.members[0].pid, unix.SIGCONT); err != nil {
		return err
	}
	_, err := awaitLeader(ctx, c.members)
	return err
}
