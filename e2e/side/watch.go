package side

import (
	"context"
	"errors"
	"fmt"
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// watchStream reads one watch stream of one server and sorts what comes by watcher.
type watchStream struct {
	client pb.Watch_WatchClient
	cancel context.CancelFunc
	names  *Names
	done   chan struct{} // closed once the reader has ended

	mu       sync.Mutex // guards all fields below
	grown    chan struct{}
	created  []*pb.WatchResponse     // answers to create requests, in order
	canceled []*pb.WatchResponse     // cancellations after a creation, in order
	asked    int                     // progress requests sent
	progress []*pb.WatchResponse     // answers to them: watch_id -1
	watchers map[int64]*watcherLog   // by ID, the latest holder of it
	logs     map[Watcher]*watcherLog // all of them
	broken   []string
	err      error
}

// Watcher names the n-th holder of an ID on a stream.
type Watcher struct {
	ID         int64
	Generation int
}

// watcherLog is what one watcher was sent.
type watcherLog struct {
	name     Watcher
	created  *pb.WatchResponse
	events   []*mvccpb.Event // not yet taken by a sync step
	taken    int
	notified []int64 // header revisions of progress notifications
	lastRev  int64   // of the last event
	open     bool    // the last part said that a further fragment follows

	promised    int64 // progress answered so far
	askedBefore int   // progress requests sent on the stream before the watcher began
}

// openWatch opens a stream that outlives caller, a step's context, and has its metadata.
func openWatch(caller context.Context, t *Target) (*watchStream, error) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(caller))
	client, err := pb.NewWatchClient(t.Conn).Watch(ctx)
	if err != nil {
		cancel()
		return nil, err
	}
	s := &watchStream{
		client:   client,
		cancel:   cancel,
		names:    t.Names,
		done:     make(chan struct{}),
		grown:    make(chan struct{}),
		watchers: map[int64]*watcherLog{},
		logs:     map[Watcher]*watcherLog{},
	}
	// Owned by the stream; ends when close cancels its context.
	go s.read()
	return s, nil
}

func (s *watchStream) close() {
	s.cancel()
	<-s.done
}

func (s *watchStream) read() {
	defer close(s.done)
	for {
		resp, err := s.client.Recv()
		s.mu.Lock()
		if err != nil {
			s.err = err
		} else {
			s.names.ToNeutral(resp)
			s.take(resp)
		}
		close(s.grown)
		s.grown = make(chan struct{})
		s.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (s *watchStream) broke(format string, args ...any) {
	s.broken = append(s.broken, fmt.Sprintf(format, args...))
}

// take sorts one response; mu is held.
func (s *watchStream) take(resp *pb.WatchResponse) {
	switch {
	case resp.Created:
		s.created = append(s.created, resp)
		if !resp.Canceled {
			s.begin(resp)
		}
	case resp.Canceled:
		s.canceled = append(s.canceled, resp)
		if s.watchers[resp.WatchId] == nil {
			s.broke("watcher %d canceled, never created", resp.WatchId)
		}
	case resp.WatchId == -1:
		s.progress = append(s.progress, resp)
		if len(resp.Events) > 0 {
			s.broke("events on watch_id -1")
		}
		s.promise(resp)
	default:
		s.deliver(resp)
	}
}

func (s *watchStream) begin(resp *pb.WatchResponse) {
	name := Watcher{ID: resp.WatchId}
	if old := s.watchers[name.ID]; old != nil {
		name.Generation = old.name.Generation + 1
	}
	log := &watcherLog{name: name, created: resp, askedBefore: s.asked}
	s.watchers[name.ID], s.logs[name] = log, log
}

// promise notes what a progress answer says: all events up to its revision came. A watcher created
// while an older progress request was still open is excused from the answer to that.
func (s *watchStream) promise(resp *pb.WatchResponse) {
	for _, log := range s.watchers {
		if log.open {
			s.broke("progress between two fragments for watcher %d", log.name.ID)
		}
		if len(s.progress) > log.askedBefore {
			log.promised = max(log.promised, resp.Header.GetRevision())
		}
	}
}

func (s *watchStream) deliver(resp *pb.WatchResponse) {
	log := s.watchers[resp.WatchId]
	if log == nil {
		s.broke("response for watcher %d before its creation", resp.WatchId)
		return
	}
	if len(resp.Events) == 0 {
		log.notified = append(log.notified, resp.Header.GetRevision())
		return
	}
	for i, e := range resp.Events {
		rev := e.Kv.GetModRevision()
		switch {
		case rev < log.lastRev:
			s.broke("watcher %d: event at revision %d after one at %d", resp.WatchId, rev, log.lastRev)
		case rev == log.lastRev && i == 0 && !log.open:
			s.broke("watcher %d: revision %d came in two responses, not marked as fragments", resp.WatchId, rev)
		case rev <= log.promised:
			s.broke("watcher %d: event at revision %d after progress to %d", resp.WatchId, rev, log.promised)
		case rev > resp.Header.GetRevision():
			s.broke("watcher %d: event at revision %d under header revision %d", resp.WatchId, rev, resp.Header.GetRevision())
		}
		log.lastRev = rev
	}
	log.open = resp.Fragment
	log.events = append(log.events, resp.Events...)
}

// wait returns once ready says so; ready is called with mu held.
func (s *watchStream) wait(ctx context.Context, what string, ready func() bool) error {
	for {
		s.mu.Lock()
		ok, grown, err := ready(), s.grown, s.err
		s.mu.Unlock()
		switch {
		case ok:
			return nil
		case err != nil:
			return fmt.Errorf("waiting for %s: stream ended: %w", what, err)
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w", what, ctx.Err())
		}
	}
}

// takeEvents waits until w was sent at least n events in all, and takes those not yet taken.
func (s *watchStream) takeEvents(ctx context.Context, w Watcher, n int) ([]*mvccpb.Event, error) {
	s.mu.Lock()
	log := s.logs[w]
	s.mu.Unlock()
	if log == nil {
		return nil, errors.New("no such watcher")
	}
	err := s.wait(ctx, fmt.Sprintf("%d events of watcher %v", n, w), func() bool { return log.taken+len(log.events) >= n && !log.open })
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		err = fmt.Errorf("%w (have %d)", err, log.taken+len(log.events))
	}
	events := log.events
	log.taken, log.events = log.taken+len(events), nil
	return events, err
}

// takeBroken empties the list of broken promises.
func (s *watchStream) takeBroken() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.broken
	s.broken = nil
	return b
}
