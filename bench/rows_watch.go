package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
)

// Shape of the watch row: 1 000 watchers of one key.
const (
	watchConns   = 10
	watchStreams = 10                    // on each connection
	watchEach    = 10                    // watchers on each stream
	watchPause   = 20 * time.Millisecond // between one event's last delivery and the next put
	watchKey     = "/registry/bench/watched"
	// watchWithin bounds one event's way to all watchers.
	watchWithin = 30 * time.Second
)

// watchRow measures the time from sending a put to its event's arrival at each of 1 000 watchers.
func watchRow() *row {
	r := &row{name: "watch", metrics: []metric{
		{id: "watch.p99", title: "one event to 1 000 watchers, p99 of all deliveries", unit: "ms", less: true, floor: 1, aim: 0.7},
		{id: "watch.p50", title: "one event to 1 000 watchers, p50 of all deliveries", unit: "ms", less: true, beside: true},
		{id: "watch.last50", title: "one event to the last of 1 000 watchers, p50", unit: "ms", less: true, beside: true},
		{id: "watch.last99", title: "one event to the last of 1 000 watchers, p99", unit: "ms", less: true, beside: true},
		{id: "watch.cpu", title: "server CPU per event to 1 000 watchers", unit: "ms", less: true, beside: true},
	}}
	r.run = func(ctx context.Context, b *bench, r *row) error {
		return b.alternating(ctx, r, func(ctx context.Context, s *side, round int) (sample, error) {
			return b.measureWatch(ctx, s, round)
		})
	}
	return r
}

func (b *bench) measureWatch(ctx context.Context, s *side, round int) (got sample, err error) {
	c, err := b.fresh(ctx, s, 1)
	if err != nil {
		return nil, err
	}
	defer func() { err = b.discard(c, err) }()
	a := &audience{streams: watchStreams, each: watchEach}
	for range watchConns {
		a.addresses = append(a.addresses, c.address())
	}
	var each, last []time.Duration
	cost, err := b.perform(ctx, c, a, "watch", round, func(shown *showing) {
		each = append(each, shown.late...)
		last = append(last, slices.Max(shown.late))
	})
	if err != nil {
		return nil, err
	}
	return sample{
		"watch.p99":    millis(percentile(each, 99)),
		"watch.p50":    millis(percentile(each, 50)),
		"watch.last50": millis(percentile(last, 50)),
		"watch.last99": millis(percentile(last, 99)),
		"watch.cpu":    millis(cost.cpu) / float64(len(last)),
	}, nil
}

// perform puts one event after the other at the leader for a window, lets note see each when all watchers have it, and
// returns what that cost the cluster.
func (b *bench) perform(ctx context.Context, c *cluster, a *audience, name string, round int, note func(*showing)) (usage, error) {
	p, err := newPool(ctx, c.side, []string{c.address()}, 1)
	if err != nil {
		return usage{}, err
	}
	defer p.close()
	defer a.close()
	if err := a.open(ctx); err != nil {
		return usage{}, err
	}
	// The first puts, on all sides, open whatever is opened late; they are not counted.
	ks := newKeyspace(watchKey, 1)
	for range 5 {
		if _, err := a.show(ctx, p, ks); err != nil {
			return usage{}, err
		}
	}
	m, err := b.meter(c, name, round, b.config.duration)
	if err != nil {
		return usage{}, err
	}
	for began := time.Now(); time.Since(began) < b.config.duration; {
		shown, err := a.show(ctx, p, ks)
		if err != nil {
			return usage{}, err
		}
		note(shown)
		if err := sleep(ctx, watchPause); err != nil {
			return usage{}, err
		}
	}
	cost, _, err := m.sinceOpen()
	return cost, err
}

// audience is the watchers, by bare streams: one receiving goroutine for all watchers of a stream keeps the client's own
// share of the two ends' work small.
type audience struct {
	addresses []string // where to watch, one connection each
	streams   int      // on each connection
	each      int      // watchers on each stream

	conns  []*grpc.ClientConn
	shown  uint64 // events put so far
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu   sync.Mutex // guards what follows
	now  *showing
	fail error
}

// showing is one event on its way. late and ended are guarded by its audience's mu until show returns it.
type showing struct {
	number uint64
	sent   time.Time
	acked  time.Duration   // from sent until the put was answered
	late   []time.Duration // one for each delivery so far
	done   chan struct{}   // closed by the last delivery, or by a failed stream
	ended  bool            // done is closed
}

func (s *showing) end() {
	if !s.ended {
		s.ended = true
		close(s.done)
	}
}

// size is the number of watchers.
func (a *audience) size() int { return len(a.addresses) * a.streams * a.each }

// open creates all watchers and returns once each has been confirmed.
func (a *audience) open(ctx context.Context) error {
	ctx, a.cancel = context.WithCancel(ctx)
	for _, address := range a.addresses {
		conn, err := dial(address)
		if err != nil {
			return err
		}
		a.conns = append(a.conns, conn)
		for range a.streams {
			stream, err := pb.NewWatchClient(conn).Watch(ctx)
			if err != nil {
				return err
			}
			if err := a.subscribe(stream); err != nil {
				return err
			}
			a.wg.Go(func() { a.receive(stream) }) // ends when close cancels the streams, or with the server
		}
	}
	return nil
}

// subscribe creates one stream's watchers.
func (a *audience) subscribe(stream pb.Watch_WatchClient) error {
	for range a.each {
		create := &pb.WatchCreateRequest{Key: []byte(watchKey + "00000000"), PrevKv: true}
		if err := stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}}); err != nil {
			return err
		}
		for created := false; !created; { // a progress report may come in between
			resp, err := stream.Recv()
			if err != nil {
				return err
			}
			if resp.Canceled {
				return fmt.Errorf("watch not created: %s", resp.CancelReason)
			}
			created = resp.Created
		}
	}
	return nil
}

// receive notes the moment of every event's arrival.
func (a *audience) receive(stream pb.Watch_WatchClient) {
	for {
		resp, err := stream.Recv()
		now := time.Now()
		if err != nil {
			a.broken(err)
			return
		}
		for _, e := range resp.Events {
			if len(e.Kv.Value) >= 8 {
				a.arrived(binary.BigEndian.Uint64(e.Kv.Value), now)
			}
		}
	}
}

func (a *audience) arrived(number uint64, at time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.now
	if s == nil || s.number != number {
		return
	}
	s.late = append(s.late, at.Sub(s.sent))
	if len(s.late) == a.size() {
		s.end()
	}
}

// broken ends the showing with an error.
func (a *audience) broken(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.fail == nil {
		a.fail = err
	}
	if a.now != nil {
		a.now.end()
	}
}

// show puts one event and returns it once every watcher has it.
func (a *audience) show(ctx context.Context, p *pool, ks *keyspace) (*showing, error) {
	a.shown++
	value := make([]byte, valueSize)
	binary.BigEndian.PutUint64(value, a.shown)
	s := &showing{number: a.shown, done: make(chan struct{}), late: make([]time.Duration, 0, a.size()), sent: time.Now()}
	a.mu.Lock()
	a.now = s
	a.mu.Unlock()
	if err := p.put(ctx, 0, ks, 0, string(value)); err != nil {
		return nil, err
	}
	s.acked = time.Since(s.sent)
	select {
	case <-s.done:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-time.After(watchWithin):
		a.mu.Lock()
		defer a.mu.Unlock()
		return nil, fmt.Errorf("event %d reached %d of %d watchers in %v", s.number, len(s.late), a.size(), watchWithin)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.fail != nil {
		return nil, errors.Join(errors.New("watch stream broke"), a.fail)
	}
	if len(s.late) > a.size() {
		return nil, fmt.Errorf("event %d was delivered %d times to %d watchers", s.number, len(s.late), a.size())
	}
	return s, nil
}

// close ends every stream and waits for its receiver.
func (a *audience) close() {
	if a.cancel != nil {
		a.cancel()
	}
	for _, c := range a.conns {
		c.Close()
	}
	a.wg.Wait()
}
