package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Sizes of the list row.
const (
	listKeys  = 10_000
	listValue = 1 << 10
	listPage  = 500
	listLeast = 3 // lists of each kind, however long one takes
)

// lister reads every key of a keyspace once and returns how many there were.
type lister func(ctx context.Context, kv pb.KVClient, prefix string) (int, error)

// listWays are the three ways to list, by the name in their metrics.
var listWays = []struct {
	name, title string
	list        lister
}{
	{"paged", "paged by 500", listPaged},
	{"whole", "whole", listWhole},
	{"stream", "RangeStream", listStream},
}

// listRow measures how often one client can list 10 000 keys of 1 KiB, in each of three ways.
func listRow() *row {
	r := &row{name: "list"}
	for _, way := range listWays {
		title := "10 000 keys of 1 KiB listed, " + way.title
		r.metrics = append(r.metrics,
			metric{id: "list." + way.name, title: title, unit: "/s", floor: 1, aim: 1.5},
			metric{id: "list." + way.name + ".cpu", title: "server CPU per list, " + way.title, unit: "ms", less: true, beside: true},
			metric{id: "list." + way.name + ".own", title: "load generator's CPU per list, " + way.title,
				unit: "ms", less: true, beside: true})
	}
	r.run = func(ctx context.Context, b *bench, r *row) error {
		return b.alternating(ctx, r, func(ctx context.Context, s *side, round int) (sample, error) {
			return b.measureLists(ctx, s, round)
		})
	}
	return r
}

func (b *bench) measureLists(ctx context.Context, s *side, round int) (got sample, err error) {
	c, err := b.fresh(ctx, s, 1)
	if err != nil {
		return nil, err
	}
	defer func() { err = b.discard(c, err) }()
	p, err := newPool(ctx, s, c.addresses(), maxConns)
	if err != nil {
		return nil, err
	}
	defer p.close()
	ks := newKeyspace("/registry/configmaps/default/", listKeys)
	if err := p.fill(ctx, ks, listValue, 1); err != nil {
		return nil, err
	}
	conn, err := dial(c.address())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	got = sample{}
	for _, way := range listWays {
		err := b.measureListing(ctx, c, round, way.name, got, func() error {
			n, err := way.list(ctx, pb.NewKVClient(conn), ks.prefix)
			if err == nil && n != listKeys {
				err = fmt.Errorf("%d of %d keys", n, listKeys)
			}
			return err
		})
		if status.Code(err) == codes.Unimplemented {
			b.rec.remark(fmt.Sprintf("list: %s has no %s.", s.name, way.title))
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", way.name, err)
		}
	}
	return got, nil
}

// measureListing lists once to warm up, then for half a window and at least listLeast times, one list after another,
// and adds the figures of the way called name to got.
func (b *bench) measureListing(ctx context.Context, c *cluster, round int, name string, got sample, list func() error) error {
	if err := list(); err != nil {
		return err
	}
	window := b.config.duration / 2
	m, err := b.meter(c, "list-"+name, round, window)
	if err != nil {
		return err
	}
	began, n := time.Now(), 0
	for ; n < listLeast || time.Since(began) < window; n++ {
		if err := list(); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	took := time.Since(began)
	cost, own, err := m.sinceOpen()
	got["list."+name] = float64(n) / took.Seconds()
	got["list."+name+".cpu"] = millis(cost.cpu) / float64(n)
	got["list."+name+".own"] = millis(own) / float64(n)
	return err
}

// listPaged reads page after page at the revision of the first, as an API server's client does.
func listPaged(ctx context.Context, kv pb.KVClient, prefix string) (int, error) {
	req := &pb.RangeRequest{Key: []byte(prefix), RangeEnd: []byte(clientv3.GetPrefixRangeEnd(prefix)), Limit: listPage}
	n := 0
	for {
		resp, err := kv.Range(ctx, req)
		if err != nil {
			return n, err
		}
		n += len(resp.Kvs)
		if !resp.More || len(resp.Kvs) == 0 {
			return n, nil
		}
		if req.Revision == 0 {
			req.Revision = resp.Header.Revision
		}
		req.Key = append(resp.Kvs[len(resp.Kvs)-1].Key, 0)
	}
}

// listWhole reads all in one response.
func listWhole(ctx context.Context, kv pb.KVClient, prefix string) (int, error) {
	resp, err := kv.Range(ctx, &pb.RangeRequest{Key: []byte(prefix), RangeEnd: []byte(clientv3.GetPrefixRangeEnd(prefix))})
	if err != nil {
		return 0, err
	}
	return len(resp.Kvs), nil
}

// listStream reads all as a stream of chunks, etcd 3.7's RangeStream.
func listStream(ctx context.Context, kv pb.KVClient, prefix string) (int, error) {
	stream, err := kv.RangeStream(ctx, &pb.RangeRequest{
		Key: []byte(prefix), RangeEnd: []byte(clientv3.GetPrefixRangeEnd(prefix))})
	if err != nil {
		return 0, err
	}
	n := 0
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
		n += len(resp.RangeResponse.Kvs)
	}
}
