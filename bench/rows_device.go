package main

import (
	"context"
	"errors"
)

// deviceRow measures what puts at three members make reach the devices, each member on an ext4 image of its own: from
// the first put until after a clean stop, so that writing put off until then is counted.
func deviceRow(name string, clients int) *row {
	who := putShape{clients: clients, members: trio}.who()
	r := &row{name: name, members: trio, metrics: []metric{
		{id: name + ".bytes", title: "bytes reaching the devices per put, " + who, unit: "B", less: true},
		{id: name + ".flushes", title: "device flushes per put, " + who, unit: "1", less: true},
		{id: name + ".writes", title: "device write requests per put, " + who, unit: "1", less: true, beside: true},
	}}
	r.run = func(ctx context.Context, b *bench, r *row) error {
		b.remarkNoDevice(r)
		return b.alternating(ctx, r, func(ctx context.Context, s *side, _ int) (sample, error) {
			return b.measureDevices(ctx, s, r, clients)
		})
	}
	return r
}

func (b *bench) measureDevices(ctx context.Context, s *side, r *row, clients int) (got sample, err error) {
	c, d, err := b.freshOnDisks(ctx, s, r)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(b.discard(c, err), d.close()) }()
	p, err := newPool(ctx, s, c.addresses(), clients)
	if err != nil {
		return nil, err
	}
	defer p.close()
	from, err := wearReading(d, c)
	if err != nil {
		return nil, err
	}
	ks, vals := newKeyspace("/registry/bench/", putKeys), values(valueSize)
	result, err := load{
		workers: clients, window: b.config.duration,
		op: func(ctx context.Context, worker, n int) error {
			return p.put(ctx, worker, ks, (worker+n*clients)%putKeys, vals[n%len(vals)])
		},
		opened: func() error { return nil }, closed: func() error { return nil },
	}.run(ctx)
	if err != nil {
		return nil, err
	}
	p.close()
	if err := c.stop(); err != nil {
		return nil, err
	}
	block, err := d.read()
	if err != nil {
		return nil, err
	}
	puts := float64(result.ops + result.late)
	if len(d) == 0 {
		return sample{r.name + ".bytes": float64(c.final().minus(from.cost).written) / puts}, nil
	}
	return sample{
		r.name + ".bytes":   float64(block.sectors-from.block.sectors) * sectorSize / puts,
		r.name + ".flushes": float64(block.flushes-from.block.flushes) / puts,
		r.name + ".writes":  float64(block.writes-from.block.writes) / puts,
	}, nil
}
