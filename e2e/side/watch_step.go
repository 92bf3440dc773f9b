package side

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
)

// WatchOpen opens a stream under a handle that later steps use.
type WatchOpen struct{ Handle int }

// Run opens the stream.
func (w WatchOpen) Run(ctx context.Context, t *Target) Answer {
	var a Answer
	s, err := openWatch(ctx, t)
	if err != nil {
		a.fail(t.Names, err)
		return a
	}
	t.setStream(w.Handle, s)
	return a
}

func (w WatchOpen) String() string { return fmt.Sprintf("watch stream %d: open", w.Handle) }

// WatchCreate creates a watcher and waits for the answer.
type WatchCreate struct {
	Handle  int
	Request *pb.WatchCreateRequest
	// Compacted waits for the cancellation that follows the creation as well, unless that was refused.
	Compacted bool
}

// Run sends the request; the answer has the created response, and the canceled one.
func (w WatchCreate) Run(ctx context.Context, t *Target) Answer {
	return onStream(t, w.Handle, func(s *watchStream, a *Answer) error {
		s.mu.Lock()
		created, canceled := len(s.created), len(s.canceled)
		s.mu.Unlock()
		req := &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: w.Request}}
		if err := s.client.Send(req); err != nil {
			return err
		}
		if err := s.wait(ctx, "created", func() bool { return len(s.created) > created }); err != nil {
			return err
		}
		a.Messages = append(a.Messages, s.created[created])
		if w.Compacted && !s.created[created].Canceled {
			if err := s.wait(ctx, "compacted", func() bool { return len(s.canceled) > canceled }); err != nil {
				return err
			}
			a.Messages = append(a.Messages, s.canceled[canceled])
		}
		return nil
	})
}

func (w WatchCreate) String() string {
	return fmt.Sprintf("watch stream %d: %s (compacted: %v)", w.Handle, Short(w.Request), w.Compacted)
}

// WatchCancel cancels a watcher; for a known one it waits for the answer.
type WatchCancel struct {
	Handle int
	ID     int64
	Known  bool
}

// Run sends the request.
func (w WatchCancel) Run(ctx context.Context, t *Target) Answer {
	return onStream(t, w.Handle, func(s *watchStream, a *Answer) error {
		s.mu.Lock()
		canceled := len(s.canceled)
		s.mu.Unlock()
		req := &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{CancelRequest: &pb.WatchCancelRequest{WatchId: w.ID}}}
		if err := s.client.Send(req); err != nil || !w.Known {
			return err
		}
		if err := s.wait(ctx, "canceled", func() bool { return len(s.canceled) > canceled }); err != nil {
			return err
		}
		a.Messages = append(a.Messages, s.canceled[canceled])
		return nil
	})
}

func (w WatchCancel) String() string {
	return fmt.Sprintf("watch stream %d: cancel %d (known: %v)", w.Handle, w.ID, w.Known)
}

// progressAgain is the pause before a progress request is repeated: one that meets a watcher which
// still catches up is dropped without an answer.
const progressAgain = 100 * time.Millisecond

// WatchProgress asks for progress. If Answered, it asks until an answer at or above Revision comes;
// otherwise the request must stay without an answer, which later steps on the stream would notice.
type WatchProgress struct {
	Handle   int
	Answered bool
	Revision int64
}

// Run sends the requests.
func (w WatchProgress) Run(ctx context.Context, t *Target) Answer {
	return onStream(t, w.Handle, func(s *watchStream, a *Answer) error {
		req := &pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}}
		s.mu.Lock()
		before := len(s.progress)
		s.mu.Unlock()
		var answer *pb.WatchResponse
		arrived := func() bool {
			for _, p := range s.progress[before:] {
				if p.Header.GetRevision() >= w.Revision {
					answer = p
					return true
				}
			}
			return false
		}
		for {
			s.mu.Lock()
			s.asked++
			s.mu.Unlock()
			if err := s.client.Send(req); err != nil || !w.Answered {
				return err
			}
			pause, cancel := context.WithTimeout(ctx, progressAgain)
			err := s.wait(pause, "progress", arrived)
			cancel()
			if err == nil {
				a.Messages = append(a.Messages, answer)
				return nil
			}
			if ctx.Err() != nil {
				return err
			}
		}
	})
}

func (w WatchProgress) String() string {
	return fmt.Sprintf("watch stream %d: progress (answered: %v, revision: %d)", w.Handle, w.Answered, w.Revision)
}

// WatchEmpty sends a request with nothing in it, which is to be ignored.
type WatchEmpty struct{ Handle int }

// Run sends it.
func (w WatchEmpty) Run(_ context.Context, t *Target) Answer {
	return onStream(t, w.Handle, func(s *watchStream, _ *Answer) error { return s.client.Send(&pb.WatchRequest{}) })
}

func (w WatchEmpty) String() string { return fmt.Sprintf("watch stream %d: empty request", w.Handle) }

// WatchHalfClose closes the sending side; events go on coming.
type WatchHalfClose struct{ Handle int }

// Run closes it.
func (w WatchHalfClose) Run(_ context.Context, t *Target) Answer {
	return onStream(t, w.Handle, func(s *watchStream, _ *Answer) error { return s.client.CloseSend() })
}

func (w WatchHalfClose) String() string { return fmt.Sprintf("watch stream %d: half-close", w.Handle) }

// WatchClose ends a stream.
type WatchClose struct{ Handle int }

// Run ends it.
func (w WatchClose) Run(_ context.Context, t *Target) Answer {
	t.dropStream(w.Handle)
	return Answer{}
}

func (w WatchClose) String() string { return fmt.Sprintf("watch stream %d: close", w.Handle) }

// onStream runs verb on the stream behind handle and adds what the stream itself found broken.
func onStream(t *Target, handle int, verb func(*watchStream, *Answer) error) Answer {
	var a Answer
	s, err := t.stream(handle)
	if err != nil {
		a.broke("%v", err)
		return a
	}
	if err := verb(s, &a); err != nil {
		a.fail(t.Names, err)
	}
	a.Broken = append(a.Broken, s.takeBroken()...)
	return a
}

// Expectation says how many events a watcher must have been sent in all by now.
type Expectation struct {
	Handle  int
	Watcher Watcher
	Events  int
}

// WatchSync waits until every watcher was sent what it must have been sent, and compares the
// events since the last sync, one sequence for each watcher.
type WatchSync struct{ Expect []Expectation }

// Run collects the events. The answer has one message for each expectation.
func (w WatchSync) Run(ctx context.Context, t *Target) Answer {
	var all Answer
	for _, e := range w.Expect {
		a := onStream(t, e.Handle, func(s *watchStream, a *Answer) error {
			events, err := s.takeEvents(ctx, e.Watcher, e.Events)
			a.Messages = []proto.Message{&pb.WatchResponse{WatchId: e.Watcher.ID, Events: events}}
			return err
		})
		all.Messages = append(all.Messages, a.Messages...)
		all.Broken = append(all.Broken, a.Broken...)
		if a.Text != "" {
			all.broke("stream %d watcher %v: %s", e.Handle, e.Watcher, a.Text)
		}
	}
	return all
}

func (w WatchSync) String() string { return fmt.Sprintf("watch sync %v", w.Expect) }

// WatchNotified waits for N progress notifications to a watcher at revision Revision or above.
type WatchNotified struct {
	Handle   int
	Watcher  Watcher
	N        int
	Revision int64
}

// Run waits. The answer is empty: how many more come is a matter of time.
func (w WatchNotified) Run(ctx context.Context, t *Target) Answer {
	return onStream(t, w.Handle, func(s *watchStream, a *Answer) error {
		return s.wait(ctx, "progress notifications", func() bool {
			log := s.logs[w.Watcher]
			if log == nil {
				return false
			}
			n := 0
			for _, rev := range log.notified {
				if rev >= w.Revision {
					n++
				}
			}
			return n >= w.N
		})
	})
}

func (w WatchNotified) String() string {
	return fmt.Sprintf("watch stream %d: %d notifications to %v", w.Handle, w.N, w.Watcher)
}

// WatchSilent checks that a watcher was sent no progress notification.
type WatchSilent struct {
	Handle  int
	Watcher Watcher
}

// Run looks.
func (w WatchSilent) Run(_ context.Context, t *Target) Answer {
	return onStream(t, w.Handle, func(s *watchStream, a *Answer) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if log := s.logs[w.Watcher]; log == nil || len(log.notified) > 0 {
			a.broke("watcher %v was sent notifications it did not ask for", w.Watcher)
		}
		return nil
	})
}

func (w WatchSilent) String() string {
	return fmt.Sprintf("watch stream %d: no notifications to %v", w.Handle, w.Watcher)
}

// WatchAnyOrder waits like WatchSync and gives the events of one watcher sorted by key, without
// revisions: for changes whose order among themselves is open, such as leases that expire together.
type WatchAnyOrder struct {
	Handle  int
	Watcher Watcher
	Events  int
}

// Run collects the events.
func (w WatchAnyOrder) Run(ctx context.Context, t *Target) Answer {
	return onStream(t, w.Handle, func(s *watchStream, a *Answer) error {
		events, err := s.takeEvents(ctx, w.Watcher, w.Events)
		for _, e := range events {
			e.Kv.ModRevision = 0
		}
		slices.SortStableFunc(events, func(x, y *mvccpb.Event) int { return bytes.Compare(x.Kv.Key, y.Kv.Key) })
		a.Messages = []proto.Message{&pb.WatchResponse{Events: events}}
		return err
	})
}

func (w WatchAnyOrder) String() string {
	return fmt.Sprintf("watch stream %d: %d events of %v in any order", w.Handle, w.Events, w.Watcher)
}
