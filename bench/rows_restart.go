package main

import (
	"context"
	"fmt"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// What is written before the restarts: each key so often.
const (
	restartPasses = 10
	restartPrefix = "/registry/bench/"
)

// restartRow measures a start on existing data: from exec until a linearizable get is answered. The data is made once
// for each side, which then is stopped cleanly and started and stopped in turn with the others.
func restartRow() *row {
	r := &row{name: "restart", metrics: []metric{
		{id: "restart.ready", title: "restart with 1 M revisions", unit: "s", less: true, floor: 1, aim: 0.5},
		{id: "restart.cpu", title: "server CPU of the restart", unit: "s", less: true, beside: true},
		{id: "restart.rss", title: "RSS after the restart", unit: "MiB", less: true, beside: true},
		{id: "restart.anon", title: "RssAnon after the restart", unit: "MiB", less: true, beside: true},
		{id: "restart.disk", title: "data folder before the restart", unit: "MiB", less: true, beside: true},
		{id: "restart.fill", title: "time to write the revisions", unit: "s", less: true, beside: true},
	}}
	r.run = measureRestarts
	return r
}

func measureRestarts(ctx context.Context, b *bench, r *row) error {
	if b.config.revisions != defaultRevisions {
		r.metrics[0].title = fmt.Sprintf("restart with %s revisions", number(float64(b.config.revisions)))
	}
	type made struct {
		place place
		facts sample
	}
	data := map[*side]made{}
	defer func() {
		for _, d := range data {
			d.place.remove()
		}
	}()
	return b.alternating(ctx, r, func(ctx context.Context, s *side, _ int) (got sample, err error) {
		if _, ok := data[s]; !ok {
			at, facts, err := b.makeRevisions(ctx, s)
			if at.dir != "" {
				data[s] = made{at, facts}
			}
			if err != nil {
				return nil, err
			}
		}
		d := data[s]
		v, err := s.start(ctx, d.place)
		if err != nil {
			return nil, err
		}
		defer func() { err = v.end(err) }()
		cost, err := v.cost()
		if err != nil {
			return nil, err
		}
		mem, err := v.memory()
		if err != nil {
			return nil, err
		}
		got = sample{"restart.ready": v.ready.Seconds(), "restart.cpu": cost.cpu.Seconds(),
			"restart.rss": mib(mem.rss), "restart.anon": mib(mem.anon)}
		if err := b.checkRestarted(ctx, v); err != nil {
			return nil, err
		}
		for id, value := range d.facts {
			got[id] = value
		}
		return got, v.stop()
	})
}

// makeRevisions writes the data of a restart and stops the server.
func (b *bench) makeRevisions(ctx context.Context, s *side) (at place, facts sample, err error) {
	c, err := b.fresh(ctx, s, 1)
	if err != nil {
		return place{}, nil, err
	}
	v := c.members[0]
	defer func() { err = v.end(err) }()
	p, err := newPool(ctx, s, c.addresses(), maxConns)
	if err != nil {
		return v.place, nil, err
	}
	defer p.close()
	began := time.Now()
	ks := newKeyspace(restartPrefix, b.config.revisions/restartPasses)
	if err := p.fill(ctx, ks, valueSize, restartPasses); err != nil {
		return v.place, nil, err
	}
	took := time.Since(began)
	p.close()
	if err := v.stop(); err != nil {
		return v.place, nil, err
	}
	if err := syncFolder(v.place.dir); err != nil { // what the page cache still holds must not meet the first restart
		return v.place, nil, err
	}
	disk, err := folderSize(v.place.dir)
	b.say("restart: %s wrote %d revisions in %.0f s", s.name, b.config.revisions, took.Seconds())
	return v.place, sample{"restart.disk": mib(disk), "restart.fill": took.Seconds()}, err
}

// checkRestarted makes sure that a server which answers has its data back: every key and every revision. Not timed.
func (b *bench) checkRestarted(ctx context.Context, v *server) error {
	conn, err := dial(v.address())
	if err != nil {
		return err
	}
	defer conn.Close()
	resp, err := pb.NewKVClient(conn).Range(ctx, &pb.RangeRequest{CountOnly: true, Key: []byte(restartPrefix),
		RangeEnd: []byte(clientv3.GetPrefixRangeEnd(restartPrefix))})
	if err != nil {
		return err
	}
	if want := int64(b.config.revisions / restartPasses); resp.Count != want || resp.Header.Revision < int64(b.config.revisions) {
		return fmt.Errorf("after the restart %d keys at revision %d, want %d at %d or more",
			resp.Count, resp.Header.Revision, want, b.config.revisions)
	}
	return nil
}
