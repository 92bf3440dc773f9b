package witness

import (
	"context"
	"fmt"
	"slices"
	"sort"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

// History is the sequence of all events up to a revision. It is not changed once it is made.
type History struct {
	To     int64 // the last revision in it
	events []*mvccpb.Event
	states map[string][]*mvccpb.KeyValue // by key, in order of ModRevision; Version 0 marks a deletion
}

// newHistory is that of a store which holds kvs at revision from. An empty one is at revision 1.
func newHistory(from int64, kvs []*mvccpb.KeyValue) *History {
	h := &History{To: from, states: map[string][]*mvccpb.KeyValue{}}
	for _, kv := range kvs {
		h.states[string(kv.Key)] = []*mvccpb.KeyValue{kv}
	}
	return h
}

// ReadHistory asks the member behind conn for the state at revision from and everything after it up
// to revision to, which must have been reached. The answer must keep the rules; wrong lists where it
// does not.
func ReadHistory(ctx context.Context, conn *grpc.ClientConn, from, to int64) (h *History, wrong []string, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	first, err := pb.NewKVClient(conn).Range(ctx, &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, Revision: from})
	if err != nil {
		return nil, nil, fmt.Errorf("state at revision %d: %w", from, err)
	}
	stream, err := pb.NewWatchClient(conn).Watch(ctx)
	if err != nil {
		return nil, nil, err
	}
	create := &pb.WatchCreateRequest{Key: []byte{0}, RangeEnd: []byte{0}, StartRevision: from + 1, PrevKv: true, Fragment: true}
	if err := stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}}); err != nil {
		return nil, nil, err
	}
	h = newHistory(from, first.Kvs)
	for h.To < to {
		resp, err := stream.Recv()
		if err != nil {
			return nil, nil, fmt.Errorf("history ends at revision %d of %d: %w", h.To, to, err)
		}
		if resp.Canceled {
			return nil, nil, fmt.Errorf("history ends at revision %d of %d: %s (compacted at %d)", h.To, to, resp.CancelReason, resp.CompactRevision)
		}
		for _, e := range resp.Events {
			// A response may hold more than was asked for, of commits that came since.
			if e.Kv.ModRevision <= to {
				wrong = append(wrong, h.add(e)...)
			}
		}
	}
	return h, wrong, nil
}

// add appends an event after checking it against what went before.
func (h *History) add(e *mvccpb.Event) (wrong []string) {
	rev := e.Kv.ModRevision
	if rev != h.To && rev != h.To+1 {
		wrong = append(wrong, fmt.Sprintf("history goes from revision %d to %d", h.To, rev))
	}
	if prev := h.at(string(e.Kv.Key), rev-1); !proto.Equal(prev, e.PrevKv) {
		wrong = append(wrong, fmt.Sprintf("event %v has previous value %v, want %v", e, e.PrevKv, prev))
	} else if want := successor(prev, e); e.Kv.Version != want.Version || e.Kv.CreateRevision != want.CreateRevision {
		wrong = append(wrong, fmt.Sprintf("event %v has version %d and create revision %d, want %d and %d",
			e, e.Kv.Version, e.Kv.CreateRevision, want.Version, want.CreateRevision))
	}
	h.events = append(h.events, e)
	h.states[string(e.Kv.Key)] = append(h.states[string(e.Kv.Key)], e.Kv)
	h.To = rev
	return wrong
}

// successor gives the version and creation that follow from the key's former state.
func successor(prev *mvccpb.KeyValue, e *mvccpb.Event) *mvccpb.KeyValue {
	switch {
	case e.Type == mvccpb.Event_DELETE:
		return &mvccpb.KeyValue{}
	case prev == nil:
		return &mvccpb.KeyValue{Version: 1, CreateRevision: e.Kv.ModRevision}
	}
	return &mvccpb.KeyValue{Version: prev.Version + 1, CreateRevision: prev.CreateRevision}
}

// at is what the key held at revision rev, nil for nothing.
func (h *History) at(key string, rev int64) *mvccpb.KeyValue {
	states := h.states[key]
	i := sort.Search(len(states), func(i int) bool { return states[i].ModRevision > rev })
	if i == 0 || states[i-1].Version == 0 {
		return nil
	}
	return states[i-1]
}

// inRange gives the events from revision from on whose keys begin with prefix.
func (h *History) inRange(prefix string, from int64) []*mvccpb.Event {
	i := sort.Search(len(h.events), func(i int) bool { return h.events[i].Kv.ModRevision >= from })
	var events []*mvccpb.Event
	for _, e := range h.events[i:] {
		if strings.HasPrefix(string(e.Kv.Key), prefix) {
			events = append(events, e)
		}
	}
	return events
}

// Compare lists where other, another member's History, says something else.
func (h *History) Compare(other *History) []string {
	var wrong []string
	if h.To != other.To {
		wrong = append(wrong, fmt.Sprintf("one history ends at revision %d, the other at %d", h.To, other.To))
	}
	for i := range min(len(h.events), len(other.events)) {
		if !proto.Equal(h.events[i], other.events[i]) {
			return append(wrong, fmt.Sprintf("event %d of the history is %v on one member, %v on another", i, h.events[i], other.events[i]))
		}
	}
	if len(h.events) != len(other.events) {
		wrong = append(wrong, fmt.Sprintf("the history has %d events on one member, %d on another", len(h.events), len(other.events)))
	}
	return wrong
}

// CheckState compares a list of all keys, as read at h.To, with what must be there.
func (h *History) CheckState(kvs []*mvccpb.KeyValue) []string {
	var wrong []string
	listed := map[string]bool{}
	for _, kv := range kvs {
		listed[string(kv.Key)] = true
		if want := h.at(string(kv.Key), h.To); !proto.Equal(kv, want) {
			wrong = append(wrong, fmt.Sprintf("the store holds %v, want %v", kv, want))
		}
	}
	for key := range h.states {
		if want := h.at(key, h.To); want != nil && !listed[key] {
			wrong = append(wrong, fmt.Sprintf("the store lacks %v", want))
		}
	}
	slices.Sort(wrong)
	return wrong
}
