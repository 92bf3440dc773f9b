package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// getKeys is how many keys gets choose from.
const getKeys = 10_000

// getRow measures gets of single keys, chosen evenly at random from 10 000.
func getRow(name string, clients, members int, serializable bool) *row {
	kind, rate := "linearizable", metric{floor: 1.3, aim: 2}
	if serializable {
		kind, rate = "serializable", metric{}
	}
	rate.id, rate.title, rate.unit = name+".rate", fmt.Sprintf("%s gets/s, %d clients%s", kind, clients, ofMembers(members)), "/s"
	r := &row{name: name, members: members, metrics: []metric{
		rate,
		{id: name + ".cpu", title: "server CPU per " + kind + " get" + ofMembers(members), unit: "µs", less: true, beside: true},
		{id: name + ".p99", title: kind + " get latency p99" + ofMembers(members), unit: "ms", less: true, beside: true},
		{id: name + ".own", title: "load generator's CPU per " + kind + " get" + ofMembers(members), unit: "µs", less: true,
			beside: true},
	}}
	r.run = func(ctx context.Context, b *bench, r *row) error {
		return b.alternating(ctx, r, func(ctx context.Context, s *side, round int) (sample, error) {
			if serializable && s.kubernetes {
				return nil, fmt.Errorf("%w: it takes no serializable reads", errRefused)
			}
			return b.measureGets(ctx, s, r, clients, serializable, round)
		})
	}
	return r
}

func (b *bench) measureGets(ctx context.Context, s *side, r *row, clients int, serializable bool, round int) (got sample, err error) {
	c, err := b.fresh(ctx, s, r.members)
	if err != nil {
		return nil, err
	}
	defer func() { err = b.discard(c, err) }()
	p, err := newPool(ctx, s, c.addresses(), clients)
	if err != nil {
		return nil, err
	}
	defer p.close()
	ks := newKeyspace("/registry/bench/", getKeys)
	if err := p.fill(ctx, ks, valueSize, 1); err != nil {
		return nil, err
	}
	var opts []clientv3.OpOption
	if serializable {
		opts = append(opts, clientv3.WithSerializable())
	}
	var (
		name = r.name
		m    *meter
		cost usage
		own  time.Duration
	)
	result, err := load{
		workers: clients, warm: warm(b.config.duration), window: b.config.duration,
		op: func(ctx context.Context, worker, _ int) error {
			key := ks.key(rand.IntN(getKeys))
			resp, err := p.conn(worker).Get(ctx, key, opts...)
			if err == nil && len(resp.Kvs) != 1 {
				err = fmt.Errorf("get %s: %d keys", key, len(resp.Kvs))
			}
			return err
		},
		opened: func() (err error) { m, err = b.meter(c, name, round, b.config.duration); return err },
		closed: func() (err error) { cost, own, err = m.sinceOpen(); return err },
	}.run(ctx)
	if err != nil {
		return nil, err
	}
	if err := b.sameLeader(ctx, c, name); err != nil {
		return nil, err
	}
	return sample{
		name + ".rate": result.rate(),
		name + ".cpu":  micros(cost.cpu) / float64(result.ops),
		name + ".p99":  millis(percentile(result.latencies, 99)),
		name + ".own":  micros(own) / float64(result.ops),
	}, nil
}
