package main

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
)

const (
	// knockEvery is the time between two puts, and so the finest outage that can be seen.
	knockEvery = 5 * time.Millisecond
	// knockPatience ends a put that is not answered: one sent to a member that forwards it to a dead leader is lost.
	// It bounds the puts under way to knockPatience/knockEvery.
	knockPatience = time.Second
)

// knocker finds out when a cluster takes writes: it sends puts to some of its members in turn, on and on, and never
// waits for one before it sends the next. A client that waited would measure its own timeout.
type knocker struct {
	conns []*grpc.ClientConn
	stop  context.CancelFunc
	wg    sync.WaitGroup

	mu    sync.Mutex // guards what follows
	acked []time.Time
	more  chan struct{} // closed and replaced by each answer
}

// startKnocker begins to knock at the addresses; close ends it.
func startKnocker(ctx context.Context, addresses []string) (*knocker, error) {
	k := &knocker{more: make(chan struct{})}
	ctx, k.stop = context.WithCancel(ctx)
	for _, a := range addresses {
		conn, err := dial(a)
		if err != nil {
			k.close()
			return nil, err
		}
		k.conns = append(k.conns, conn)
	}
	k.wg.Go(func() { k.run(ctx) }) // ends with close
	return k, nil
}

// close ends all puts and waits for them.
func (k *knocker) close() {
	k.stop()
	k.wg.Wait()
	for _, c := range k.conns {
		c.Close()
	}
}

func (k *knocker) run(ctx context.Context) {
	tick := time.NewTicker(knockEvery)
	defer tick.Stop()
	value := []byte(values(valueSize)[0])
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		kv := pb.NewKVClient(k.conns[n%len(k.conns)])
		k.wg.Go(func() { k.knock(ctx, kv, value) }) // ends after knockPatience at the latest
	}
}

// knock sends one put. That it fails is what the row is about.
func (k *knocker) knock(ctx context.Context, kv pb.KVClient, value []byte) {
	ctx, cancel := context.WithTimeout(ctx, knockPatience)
	defer cancel()
	if _, err := kv.Put(ctx, &pb.PutRequest{Key: []byte("/registry/bench/knock"), Value: value}); err != nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.acked = append(k.acked, time.Now())
	close(k.more)
	k.more = make(chan struct{})
}

// await returns once a write has been answered after the moment.
func (k *knocker) await(ctx context.Context, moment time.Time) error {
	for {
		k.mu.Lock()
		more, n := k.more, len(k.acked)
		found := n > 0 && k.acked[n-1].After(moment)
		k.mu.Unlock()
		if found {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(errors.New("no write was answered"), context.Cause(ctx))
		case <-more:
		}
	}
}

// longestGap is the longest time from a moment on in which no write was answered.
func (k *knocker) longestGap(from time.Time) time.Duration {
	k.mu.Lock()
	defer k.mu.Unlock()
	return longestGap(from, k.acked)
}

// longestGap is the longest time between two neighbours of from and those moments that are after it, in any order.
func longestGap(from time.Time, moments []time.Time) time.Duration {
	after := slices.DeleteFunc(slices.Clone(moments), func(m time.Time) bool { return !m.After(from) })
	slices.SortFunc(after, time.Time.Compare)
	var longest time.Duration
	for _, m := range after {
		longest = max(longest, m.Sub(from))
		from = m
	}
	return longest
}
