package side

import (
	"math"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

const (
	maxStreams   = 4  // open at a time, the recorder's aside
	maxWatchers  = 6  // on one stream
	syncInterval = 60 // steps between two comparisons of events
)

// watchPlan is what the generator knows of the open streams.
type watchPlan struct {
	streams []*streamPlan
	handles int
	since   int // steps since the last sync
	history *history
	record  func(rev int64) // brings history up to a revision
}

// streamPlan is one open stream. Watchers that start in the future have streams of their own:
// while one waits, the server answers no progress request, and nothing else tells a test that a
// watcher of the past has caught up.
type streamPlan struct {
	handle     int
	future     bool
	halfClosed bool
	watchers   []*watcherPlan
	ids        map[int64]int // generations seen of each ID
	behind     bool          // a watcher of the past was created since the last progress answer
}

// watcherPlan is one live watcher.
type watcherPlan struct {
	name    Watcher
	request *pb.WatchCreateRequest
	start   int64
}

func newWatchPlan() watchPlan {
	p := watchPlan{history: &history{}}
	p.forget(2) // the first write makes revision 2
	return p
}

// forget starts over after a restart, with only the recorder, reading from revision rev.
func (p *watchPlan) forget(rev int64) {
	p.streams = []*streamPlan{{
		handle:   recorderHandle,
		watchers: []*watcherPlan{{request: recorderRequest(rev), start: rev}},
		ids:      map[int64]int{0: 1},
	}}
	p.history.offset, p.history.floor = len(p.history.events), rev-1
}

func (p *watchPlan) tick(g *Generator) {
	if p.since++; p.since >= syncInterval {
		p.sync(g)
	}
}

// sync queues the comparison of all events up to now.
func (p *watchPlan) sync(g *Generator) {
	p.since = 0
	g.later(func() planned {
		p.record(g.rev)
		var s WatchSync
		for _, stream := range p.streams {
			for _, w := range stream.watchers {
				s.Expect = append(s.Expect, Expectation{stream.handle, w.name, p.history.matching(w.request, w.start)})
			}
		}
		return planned{s, nil}
	})
}

// settle queues what makes sure that every watcher has caught up.
func (p *watchPlan) settle(g *Generator) {
	p.sync(g)
	for _, s := range p.streams {
		if s.behind && !s.halfClosed && len(s.watchers) > 0 {
			s.behind = false
			g.later(func() planned { return planned{WatchProgress{s.handle, true, g.rev}, nil} })
		}
	}
}

// usable picks a stream that takes requests, the recorder's aside.
func (p *watchPlan) usable(g *Generator) *streamPlan {
	var open []*streamPlan
	for _, s := range p.streams {
		if s.handle != recorderHandle && !s.halfClosed {
			open = append(open, s)
		}
	}
	if len(open) == 0 {
		return nil
	}
	return pick(g, open...)
}

func (g *Generator) planWatch() {
	p := &g.watches
	s := p.usable(g)
	if s == nil || len(p.streams) <= maxStreams && g.chance(10) {
		p.handles++
		s = &streamPlan{handle: p.handles, future: g.chance(25), ids: map[int64]int{}}
		p.streams = append(p.streams, s)
		g.add(WatchOpen{s.handle}, nil)
	}
	switch n := g.rng.IntN(100); {
	case n < 50 && len(s.watchers) < maxWatchers:
		g.planWatchCreate(s)
	case n < 75:
		g.planWatchCancel(s)
	case n < 90:
		g.later(func() planned { return planned{WatchProgress{s.handle, g.willAnswer(s), g.rev}, nil} })
	case n < 93:
		g.add(WatchEmpty{s.handle}, nil)
	case n < 96:
		p.settle(g)
		s.halfClosed = true
		g.add(WatchHalfClose{s.handle}, nil)
	default:
		g.planWatchClose()
	}
}

// planWatchClose closes any stream, also a half-closed one.
func (g *Generator) planWatchClose() {
	p := &g.watches
	if len(p.streams) < 2 {
		return
	}
	s := p.streams[1+g.rng.IntN(len(p.streams)-1)]
	p.sync(g)
	g.later(func() planned {
		p.streams = slices.DeleteFunc(p.streams, func(o *streamPlan) bool { return o == s })
		return planned{WatchClose{s.handle}, nil}
	})
	s.halfClosed = true // takes no more requests
}

// willAnswer: progress is answered if there is a watcher and none waits for the future.
func (g *Generator) willAnswer(s *streamPlan) bool {
	for _, w := range s.watchers {
		if w.start > g.rev && w.request.StartRevision != 0 {
			return false
		}
	}
	return len(s.watchers) > 0
}

func (g *Generator) watchRequest(s *streamPlan) *pb.WatchCreateRequest {
	r := &pb.WatchCreateRequest{
		PrevKv:         g.chance(50),
		ProgressNotify: g.chance(20),
		Fragment:       g.chance(30),
	}
	r.Key, r.RangeEnd = g.span()
	if g.chance(20) {
		r.Filters = append(r.Filters, pb.WatchCreateRequest_FilterType(g.rng.IntN(2)))
	}
	if g.chance(3) {
		r.Filters = append(r.Filters, pick[pb.WatchCreateRequest_FilterType](g, 0, 1, 2, -1))
	}
	if g.chance(30) {
		r.WatchId = pick[int64](g, 1, 2, 3, 5, 100, -5, math.MaxInt64)
	}
	switch {
	case g.chance(2):
		r.StartRevision = pick[int64](g, -1, math.MinInt64)
	case s.future:
		r.StartRevision = pick(g, g.rev+1, g.rev+2, g.rev+10, g.rev+50)
	case g.chance(30):
		r.StartRevision = g.pastRevision()
	case g.chance(12):
		r.StartRevision = pick(g, 1, g.compacted-1, g.compacted, g.rev)
	}
	return r
}

func (g *Generator) planWatchCreate(s *streamPlan) {
	g.later(func() planned {
		r := g.watchRequest(s)
		compacted := r.StartRevision > 0 && r.StartRevision < g.compacted && !refused(s, r)
		return planned{WatchCreate{s.handle, r, compacted}, func(a Answer) {
			if len(a.Messages) > 0 {
				g.watchCreated(s, r, compacted, a.Messages[0].(*pb.WatchResponse))
			}
		}}
	})
}

// refused tells whether the request is answered by a failed creation.
func refused(s *streamPlan, r *pb.WatchCreateRequest) bool {
	key := r.Key
	if len(key) == 0 {
		key = []byte{0}
	}
	open := len(r.RangeEnd) == 0 || len(r.RangeEnd) == 1 && r.RangeEnd[0] == 0
	if !open && string(key) >= string(r.RangeEnd) {
		return true
	}
	return r.WatchId != 0 && slices.ContainsFunc(s.watchers, func(w *watcherPlan) bool { return w.name.ID == r.WatchId })
}

func (g *Generator) watchCreated(s *streamPlan, r *pb.WatchCreateRequest, compacted bool, created *pb.WatchResponse) {
	if created.Canceled {
		return
	}
	id := created.WatchId
	w := &watcherPlan{name: Watcher{id, s.ids[id]}, request: r, start: r.StartRevision}
	s.ids[id]++
	if compacted { // its ID is taken until the client cancels it too
		g.add(WatchCancel{s.handle, id, true}, nil)
		return
	}
	if w.start == 0 {
		w.start = created.Header.Revision + 1
	} else if w.start <= created.Header.Revision {
		s.behind = true
	}
	s.watchers = append(s.watchers, w)
}

// planWatchCancel cancels a watcher that exists, after its events were compared: what the server
// had not yet sent when the request arrived is lost or not, as it happens.
func (g *Generator) planWatchCancel(s *streamPlan) {
	if len(s.watchers) == 0 || g.chance(15) {
		g.add(WatchCancel{s.handle, pick[int64](g, 77, -1, math.MaxInt64-1), false}, nil)
		return
	}
	g.watches.sync(g)
	g.later(func() planned {
		i := g.rng.IntN(len(s.watchers))
		id := s.watchers[i].name.ID
		s.watchers = slices.Delete(s.watchers, i, i+1)
		return planned{WatchCancel{s.handle, id, true}, nil}
	})
}
