package main

import (
	"context"
	"time"
)

// Shape of the memory row.
const (
	rssKeys    = 100_000
	rssClients = 200
	rssTick    = 100 * time.Millisecond // between two looks at a server under load
)

// rssMoments are when memory is looked at, by the name in their metrics.
var rssMoments = []struct{ name, title string }{
	{"idle", "idle"},
	{"keys", "with 100 k keys"},
	{"load", "under load"},
}

// rssRow measures a server's memory: some seconds after its start, some seconds after 100 000 keys of 256 bytes were
// written, and the most that was seen while 200 clients put.
func rssRow() *row {
	r := &row{name: "rss"}
	for _, at := range rssMoments {
		r.metrics = append(r.metrics,
			metric{id: "rss." + at.name, title: "RSS " + at.title, unit: "MiB", less: true, floor: 0.7, aim: 0.5},
			metric{id: "rss." + at.name + ".anon", title: "RssAnon " + at.title, unit: "MiB", less: true, beside: true})
	}
	r.metrics = append(r.metrics,
		metric{id: "rss.peak", title: "VmHWM at the end", unit: "MiB", less: true, beside: true})
	r.run = func(ctx context.Context, b *bench, r *row) error {
		return b.alternating(ctx, r, func(ctx context.Context, s *side, _ int) (sample, error) {
			return b.measureMemory(ctx, s)
		})
	}
	return r
}

func (b *bench) measureMemory(ctx context.Context, s *side) (got sample, err error) {
	c, err := b.fresh(ctx, s, 1)
	if err != nil {
		return nil, err
	}
	defer func() { err = b.discard(c, err) }()
	got = sample{}
	note := func(moment string, u usage) {
		got["rss."+moment] = max(got["rss."+moment], mib(u.rss))
		got["rss."+moment+".anon"] = max(got["rss."+moment+".anon"], mib(u.anon))
		got["rss.peak"] = mib(u.peak)
	}
	look := func(moment string) error {
		u, err := c.memory()
		if err == nil {
			note(moment, u)
		}
		return err
	}

	if err := sleep(ctx, b.config.settle); err != nil {
		return nil, err
	}
	if err := look("idle"); err != nil {
		return nil, err
	}
	p, err := newPool(ctx, s, c.addresses(), rssClients)
	if err != nil {
		return nil, err
	}
	defer p.close()
	ks := newKeyspace("/registry/bench/", rssKeys)
	if err := p.fill(ctx, ks, valueSize, 1); err != nil {
		return nil, err
	}
	if err := sleep(ctx, b.config.settle); err != nil {
		return nil, err
	}
	if err := look("keys"); err != nil {
		return nil, err
	}

	stop, watched := make(chan struct{}), make(chan error, 1)
	go func() { watched <- every(rssTick, stop, func() error { return look("load") }) }() // ends with stop
	vals := values(valueSize)
	_, err = load{
		workers: rssClients, window: b.config.duration,
		op: func(ctx context.Context, worker, n int) error {
			return p.put(ctx, worker, ks, (worker+n*rssClients)%rssKeys, vals[n%len(vals)])
		},
		opened: func() error { return nil }, closed: func() error { return nil },
	}.run(ctx)
	close(stop)
	if lookErr := <-watched; err == nil {
		err = lookErr
	}
	return got, err
}

// every calls look at an interval until stop is closed or look fails.
func every(interval time.Duration, stop <-chan struct{}, look func() error) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return nil
		case <-tick.C:
			if err := look(); err != nil {
				return err
			}
		}
	}
}

// sizeRow measures binaries: the server's and, where it does not have an etcdctl inside, etcdctl's.
func sizeRow() *row {
	r := &row{name: "size", metrics: []metric{{
		id: "size.bytes", title: "binary, stripped, its etcdctl included", unit: "MB", less: true,
		floor: 35, aim: 30, absolute: true}}}
	r.run = func(_ context.Context, b *bench, r *row) error {
		for _, s := range b.sides {
			bytes, err := s.binarySize()
			b.record(r, s, sample{"size.bytes": float64(bytes) / 1e6}, err, "1/1")
		}
		return nil
	}
	return r
}

func mib(bytes int64) float64 { return float64(bytes) / (1 << 20) }
