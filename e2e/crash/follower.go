package crash

import (
	"context"
	"fmt"
	"sync"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Follower watches everything from revision 2 on, across crashes.
type Follower struct {
	client *clientv3.Client
	every  int // responses after which it gives its watch up and resumes with a new one; 0 for never
	cancel context.CancelFunc
	done   chan struct{}

	mu      sync.Mutex // guards the fields below
	history *History
	grown   chan struct{}
}

// Follow starts a Follower. One that never resumes leaves that to the client library.
func Follow(client *clientv3.Client, resumeEvery int) *Follower {
	ctx, cancel := context.WithCancel(context.Background())
	f := &Follower{
		client:  client,
		every:   resumeEvery,
		cancel:  cancel,
		done:    make(chan struct{}),
		history: NewHistory(2),
		grown:   make(chan struct{}),
	}
	// Owned by the Follower; ends when Stop cancels ctx.
	go f.run(ctx)
	return f
}

func (f *Follower) run(ctx context.Context) {
	defer close(f.done)
	for ctx.Err() == nil {
		f.watch(ctx)
	}
}

// watch reads one watch to its end, or for so many responses.
func (f *Follower) watch(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	next := f.Seen() + 1
	responses := f.client.Watch(ctx, "\x00", clientv3.WithFromKey(), clientv3.WithRev(next), clientv3.WithFragment())
	for n := 1; ; n++ {
		resp, ok := <-responses
		if !ok {
			return
		}
		f.take(resp)
		if f.every > 0 && n%f.every == 0 {
			return
		}
	}
}

func (f *Follower) take(resp clientv3.WatchResponse) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if resp.CompactRevision != 0 {
		f.history.wrong = append(f.history.wrong, fmt.Sprintf("compacted at %d with %d seen", resp.CompactRevision, f.history.last))
	}
	f.history.Add(resp.Events)
	close(f.grown)
	f.grown = make(chan struct{})
}

// Seen is the last revision the Follower was told of.
func (f *Follower) Seen() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.history.last
}

// WaitSeen returns once revision rev was seen.
func (f *Follower) WaitSeen(ctx context.Context, rev int64) error {
	for {
		f.mu.Lock()
		last, grown := f.history.last, f.grown
		f.mu.Unlock()
		if last >= rev {
			return nil
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return fmt.Errorf("follower saw revision %d, want %d: %w", last, rev, ctx.Err())
		}
	}
}

// Stop ends the Follower and gives what it saw.
func (f *Follower) Stop() *History {
	f.cancel()
	<-f.done
	return f.history
}
