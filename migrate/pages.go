package migrate

import (
	"context"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	// pageBytes is about how much one answer holds, whatever the values are.
	pageBytes = 1 << 20
	pageKeys  = 1000
	firstPage = 16
)

// pages reads keys of a server in their order, all at one revision.
type pages struct {
	client    *clientv3.Client
	from, end string
	rev       int64 // 0: the newest, of the first answer
	limit     int64
	done      bool
}

func newPages(client *clientv3.Client, prefix string, rev int64) *pages {
	p := &pages{client: client, rev: rev, limit: firstPage}
	p.from, p.end = spanOf(prefix)
	return p
}

// next returns the next keys; none: there are no more.
func (p *pages) next(ctx context.Context) ([]*mvccpb.KeyValue, error) {
	if p.done {
		return nil, nil
	}
	resp, err := p.client.Get(ctx, p.from, clientv3.WithRange(p.end), clientv3.WithLimit(p.limit), clientv3.WithRev(p.rev))
	if err != nil {
		return nil, err
	}
	if p.rev == 0 {
		p.rev = resp.Header.Revision
	}
	p.done = !resp.More
	if n := len(resp.Kvs); n > 0 {
		p.from = string(resp.Kvs[n-1].Key) + "\x00"
		size := int64(1)
		for _, kv := range resp.Kvs {
			size += int64(sizeOf(kv))
		}
		p.limit = min(max(int64(n)*pageBytes/size, 1), 4*p.limit, pageKeys)
	}
	return resp.Kvs, nil
}

// cursor goes through pages key by key.
type cursor struct {
	pages *pages
	kvs   []*mvccpb.KeyValue
}

func newCursor(p *pages) *cursor { return &cursor{pages: p} }

// peek is the key at hand; nil: there are no more.
func (c *cursor) peek(ctx context.Context) (*mvccpb.KeyValue, error) {
	if len(c.kvs) == 0 {
		var err error
		if c.kvs, err = c.pages.next(ctx); err != nil || len(c.kvs) == 0 {
			return nil, err
		}
	}
	return c.kvs[0], nil
}

func (c *cursor) step() { c.kvs = c.kvs[1:] }
