package main

import (
	"context"
	"time"
)

// followRow measures how soon followers tell: one watcher at each of two followers, puts at the leader one after the
// other with a pause between, so that no later entry carries the news of an earlier one's commit.
func followRow() *row {
	const who = "one event to a follower's watcher, 3 members, "
	r := &row{name: "follow", members: trio, metrics: []metric{
		{id: "follow.acked50", title: who + "p50 after the put's answer at the leader", unit: "ms", less: true},
		{id: "follow.acked99", title: who + "p99 after the put's answer at the leader", unit: "ms", less: true},
		{id: "follow.sent50", title: who + "p50 after the put was sent", unit: "ms", less: true, beside: true},
		{id: "follow.sent99", title: who + "p99 after the put was sent", unit: "ms", less: true, beside: true},
		{id: "follow.cpu", title: "server CPU per put and its two events, 3 members", unit: "µs", less: true, beside: true},
	}}
	r.run = func(ctx context.Context, b *bench, r *row) error {
		return b.alternating(ctx, r, func(ctx context.Context, s *side, round int) (sample, error) {
			return b.measureFollowing(ctx, s, r, round)
		})
	}
	return r
}

func (b *bench) measureFollowing(ctx context.Context, s *side, r *row, round int) (got sample, err error) {
	c, err := b.fresh(ctx, s, r.members)
	if err != nil {
		return nil, err
	}
	defer func() { err = b.discard(c, err) }()
	a := &audience{addresses: c.addresses()[1:], streams: 1, each: 1}
	var acked, sent []time.Duration
	events := 0
	cost, err := b.perform(ctx, c, a, r.name, round, func(shown *showing) {
		events++
		for _, late := range shown.late {
			acked = append(acked, max(0, late-shown.acked)) // 0: it was there before the answer
			sent = append(sent, late)
		}
	})
	if err != nil {
		return nil, err
	}
	if err := b.sameLeader(ctx, c, r.name); err != nil {
		return nil, err
	}
	return sample{
		"follow.acked50": millis(percentile(acked, 50)),
		"follow.acked99": millis(percentile(acked, 99)),
		"follow.sent50":  millis(percentile(sent, 50)),
		"follow.sent99":  millis(percentile(sent, 99)),
		"follow.cpu":     micros(cost.cpu) / float64(events),
	}, nil
}
