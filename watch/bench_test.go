package watch

import (
	"context"
	"fmt"
	"testing"

	"limpet/sqlstore"
)

// Measured on 2026-11-22, 2 cores shared with other work, go1.26, linux/amd64:
//
//	Notify   320   µs for 1000 watchers, pulled one after the other
//	Match      0.5 µs a key

// BenchmarkNotify marks a commit at 1000 watchers of one prefix, each on its
// own stream, and pulls its event for each.
func BenchmarkNotify(b *testing.B) {
	src := newStill()
	h := NewHub(src)
	streams := make([]*Stream, 1000)
	for i := range streams {
		streams[i] = h.NewStream()
		if err := streams[i].Watch(context.Background(), Request{Span: sqlstore.Span{Key: "/a/", End: "/a0"}}); err != nil {
			b.Fatal(err)
		}
		if _, err := streams[i].Next(context.Background(), nil); err != nil {
			b.Fatal(err)
		}
	}
	ctx := context.Background()
	for i := 0; b.Loop(); i++ {
		row := sqlstore.Row{ID: sqlstore.MakeID(int64(i+2), 0), Create: int64(i + 2), Version: 1, Key: "/a/x", Value: make([]byte, 200)}
		c := &sqlstore.Commit{Rev: int64(i + 2), Rows: []sqlstore.Row{row}}
		src.mu.Lock()
		src.rev, src.commits = c.Rev, append(src.commits, c)
		src.mu.Unlock()
		h.Notify([]*sqlstore.Commit{c})
		for _, s := range streams {
			if r, err := s.Next(ctx, nil); err != nil || len(r.Events) != 1 {
				b.Fatal(r, err)
			}
		}
	}
}

// BenchmarkMatch finds the one of 10 000 single-key watchers and one prefix.
func BenchmarkMatch(b *testing.B) {
	x := newIndex()
	for i := range 10_000 {
		x.add(&watcher{req: Request{Span: sqlstore.Span{Key: fmt.Sprint("/k/", i), Single: true}}})
	}
	x.add(&watcher{req: Request{Span: sqlstore.Span{Key: "/k/", End: "/k0"}}})
	n := 0
	for i := 0; b.Loop(); i++ {
		x.match(fmt.Sprint("/k/", i%10_000), func(*watcher) { n++ })
	}
}
