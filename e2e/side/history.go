package side

import (
	"bytes"
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// recorderHandle is the stream of the watcher that sees everything.
const recorderHandle = 0

// recorderRequest starts the recorder at revision rev.
func recorderRequest(rev int64) *pb.WatchCreateRequest {
	return &pb.WatchCreateRequest{Key: []byte{0}, RangeEnd: []byte{0}, StartRevision: rev, PrevKv: true}
}

// history is every event of a session, as the reference told it. It says how many events a
// watcher has to get, so that a test can wait for them.
type history struct {
	events []brief
	offset int   // events in it when the recorder last started
	floor  int64 // the revision at which it did; nothing below is heard again
}

// brief is what selecting needs of an event; values are not kept.
type brief struct {
	rev int64
	key []byte
	typ mvccpb.Event_EventType
}

// recordUntil waits for the reference's recorder to reach rev and takes its new events into the
// history without taking them from the recorder.
func (h *history) recordUntil(ctx context.Context, reference *Target, rev int64) error {
	s, err := reference.stream(recorderHandle)
	if err != nil {
		return err
	}
	var log *watcherLog
	err = s.wait(ctx, "the recorder", func() bool {
		log = s.logs[Watcher{}]
		return log != nil && (log.lastRev >= rev || rev <= h.floor) && !log.open
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	first := h.offset + log.taken // number in the history of log.events[0]
	for i, e := range log.events {
		if first+i >= len(h.events) {
			h.events = append(h.events, brief{e.Kv.ModRevision, e.Kv.Key, e.Type})
		}
	}
	return nil
}

// matching counts the events from start on that req asks for.
func (h *history) matching(req *pb.WatchCreateRequest, start int64) int {
	n := 0
	for _, e := range h.events {
		if e.rev >= start && inRange(req.Key, req.RangeEnd, e.key) && !filtered(req.Filters, e.typ) {
			n++
		}
	}
	return n
}

func inRange(key, end, k []byte) bool {
	if len(key) == 0 {
		key = []byte{0}
	}
	switch {
	case len(end) == 0:
		return bytes.Equal(k, key)
	case len(end) == 1 && end[0] == 0:
		return bytes.Compare(k, key) >= 0
	}
	return bytes.Compare(k, key) >= 0 && bytes.Compare(k, end) < 0
}

func filtered(filters []pb.WatchCreateRequest_FilterType, typ mvccpb.Event_EventType) bool {
	for _, f := range filters {
		if f == pb.WatchCreateRequest_NOPUT && typ == mvccpb.Event_PUT || f == pb.WatchCreateRequest_NODELETE && typ == mvccpb.Event_DELETE {
			return true
		}
	}
	return false
}
