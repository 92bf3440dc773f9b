package main

import (
	"context"
	"time"
)

// restRow measures three members that nobody asks anything: memory, CPU and writing, summed over the three.
func restRow() *row {
	r := &row{name: "rest", members: trio, metrics: []metric{
		{id: "rest.rss", title: "RSS idle, 3 members together", unit: "MiB", less: true, floor: 0.7, aim: 0.5},
		{id: "rest.cpu", title: "CPU idle, 3 members together", unit: "s/min", less: true},
		{id: "rest.anon", title: "RssAnon idle, 3 members together", unit: "MiB", less: true, beside: true},
		{id: "rest.pages", title: "written (write_bytes) idle, 3 members together", unit: "KiB/min", less: true, beside: true},
	}}
	r.run = func(ctx context.Context, b *bench, r *row) error {
		return b.alternating(ctx, r, func(ctx context.Context, s *side, round int) (sample, error) {
			return b.measureRest(ctx, s, r, round)
		})
	}
	return r
}

func (b *bench) measureRest(ctx context.Context, s *side, r *row, round int) (got sample, err error) {
	c, err := b.fresh(ctx, s, r.members)
	if err != nil {
		return nil, err
	}
	defer func() { err = b.discard(c, err) }()
	if err := sleep(ctx, b.config.settle); err != nil {
		return nil, err
	}
	began := time.Now()
	from, err := c.runtime()
	if err != nil {
		return nil, err
	}
	m, err := b.meter(c, r.name, round, b.config.duration)
	if err != nil {
		return nil, err
	}
	if err := sleep(ctx, b.config.duration); err != nil {
		return nil, err
	}
	to, err := c.runtime()
	if err != nil {
		return nil, err
	}
	minutes := time.Since(began).Minutes()
	cost, _, err := m.sinceOpen()
	if err != nil {
		return nil, err
	}
	mem, err := c.memory()
	if err != nil {
		return nil, err
	}
	if err := b.sameLeader(ctx, c, r.name); err != nil {
		return nil, err
	}
	return sample{
		"rest.rss":   mib(mem.rss),
		"rest.anon":  mib(mem.anon),
		"rest.cpu":   to.minus(from).cpu.Seconds() / minutes,
		"rest.pages": float64(cost.written) / 1024 / minutes,
	}, nil
}
