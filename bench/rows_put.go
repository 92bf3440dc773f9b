package main

import (
	"context"
	"fmt"
	"time"
)

// putKeys is how many keys the puts go round.
const putKeys = 100_000

// valueSize of puts and gets, in bytes.
const valueSize = 256

// putShape is who puts where.
type putShape struct {
	name    string
	clients int
	members int
	leader  bool // all clients talk to the leader; otherwise each to all members in turn
	// floor and aim of the rate (DESIGN §11).
	floor, aim float64
}

// who says it in a title.
func (p putShape) who() string {
	who := fmt.Sprintf("%d clients", p.clients)
	if p.clients == 1 {
		who = "1 client in sequence"
	}
	if p.leader {
		who += " at the leader"
	}
	return who + ofMembers(p.members)
}

// ofMembers ends a title.
func ofMembers(n int) string {
	if n == 1 {
		return ""
	}
	return fmt.Sprintf(", %d members", n)
}

// putRow measures puts by a number of clients on an empty store: client c writes keys c, c+clients, c+2·clients …
// of 100 000, so that together they go through the keys in order, as etcd's benchmark does with --sequential-keys.
func putRow(shape putShape) *row {
	name, who := shape.name, shape.who()
	r := &row{name: name, members: shape.members, metrics: []metric{
		{id: name + ".rate", title: "puts/s, " + who, unit: "/s", floor: shape.floor, aim: shape.aim},
		{id: name + ".cpu", title: "server CPU per put, " + who, unit: "µs", less: true, floor: 0.7, aim: 0.5},
		{id: name + ".p50", title: "put latency p50, " + who, unit: "ms", less: true, beside: true},
		{id: name + ".p99", title: "put latency p99, " + who, unit: "ms", less: true, beside: true},
		{id: name + ".bytes", title: "written per put (write_bytes), " + who, unit: "B", less: true, beside: true},
		{id: name + ".own", title: "load generator's CPU per put, " + who, unit: "µs", less: true, beside: true},
	}}
	r.run = func(ctx context.Context, b *bench, r *row) error {
		return b.alternating(ctx, r, func(ctx context.Context, s *side, round int) (sample, error) {
			return b.measurePuts(ctx, s, shape, round)
		})
	}
	return r
}

func (b *bench) measurePuts(ctx context.Context, s *side, shape putShape, round int) (got sample, err error) {
	c, err := b.fresh(ctx, s, shape.members)
	if err != nil {
		return nil, err
	}
	defer func() { err = b.discard(c, err) }()
	at := c.addresses()
	if shape.leader {
		at = at[:1]
	}
	p, err := newPool(ctx, s, at, shape.clients)
	if err != nil {
		return nil, err
	}
	defer p.close()

	var (
		name = shape.name
		m    *meter
		own  time.Duration
		ks   = newKeyspace("/registry/bench/", putKeys)
		vals = values(valueSize)
	)
	result, err := load{
		workers: shape.clients, warm: warm(b.config.duration), window: b.config.duration,
		op: func(ctx context.Context, worker, n int) error {
			return p.put(ctx, worker, ks, (worker+n*shape.clients)%putKeys, vals[n%len(vals)])
		},
		opened: func() (err error) { m, err = b.meter(c, name, round, b.config.duration); return err },
		closed: func() (err error) { _, own, err = m.sinceOpen(); return err },
	}.run(ctx)
	if err != nil {
		return nil, err
	}
	if err := b.sameLeader(ctx, c, name); err != nil {
		return nil, err
	}
	p.close()
	cost, err := m.afterStop()
	if err != nil {
		return nil, err
	}
	paid := float64(result.ops + result.late)
	return sample{
		name + ".rate":  result.rate(),
		name + ".cpu":   micros(cost.cpu) / paid,
		name + ".p50":   millis(percentile(result.latencies, 50)),
		name + ".p99":   millis(percentile(result.latencies, 99)),
		name + ".bytes": float64(cost.written) / paid,
		name + ".own":   micros(own) / float64(result.ops),
	}, nil
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
