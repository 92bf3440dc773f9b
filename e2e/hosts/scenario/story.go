//go:build linux

package scenario

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"limpet/e2e/hosts/witness"
)

const (
	witnessed  = "load/" // the keys that the ledger knows about
	padding    = 8 << 10 // of values, where the log is to become long
	someWrites = 100     // so many acknowledgements show that the cluster goes on
)

// story is a Cluster under load with witnesses.
type story struct {
	*Cluster
	t        *testing.T
	from     int64 // the revision that the story begins after
	ledger   *witness.Ledger
	load     *witness.Load
	watchers []watcher
}

// watcher is a Watcher that asks one member only, or, without one, any.
type watcher struct {
	*witness.Watcher
	at *Member
}

// begin starts the load and the watchers, and returns once writes are acknowledged.
func begin(t *testing.T, c *Cluster) *story {
	t.Helper()
	return beginAfter(t, c, 1)
}

// beginAfter begins a story at a revision, where what lies before is not told any more.
func beginAfter(t *testing.T, c *Cluster, from int64) *story {
	t.Helper()
	s := &story{Cluster: c, t: t, from: from, ledger: witness.NewLedger(witnessed)}
	if c.Members()[0].ShortLog {
		s.ledger.Padding = padding
	}
	var conns []*grpc.ClientConn
	for _, m := range c.members {
		conns = append(conns, m.Conn)
		s.watch(m, true)
	}
	// It leaves resuming to the client library, and sees a part of the keys.
	s.watchers = append(s.watchers, watcher{witness.NewWatcher("at any member", c.Client(), witnessed+"03", from, false), nil})
	t.Cleanup(func() {
		for _, w := range s.watchers {
			w.Stop()
		}
	})
	s.load = witness.StartLoad(s.ledger, conns, c.Program.Excused...)
	t.Cleanup(func() { s.load.Stop() })
	s.goesOn()
	return s
}

// watch starts a watcher at m. One that does not require a leader stays through what m suffers,
// unless its connection breaks.
func (s *story) watch(m *Member, requireLeader bool) {
	s.t.Helper()
	name := fmt.Sprintf("at %s (leader required: %v)", m.Name, requireLeader)
	s.watchers = append(s.watchers, watcher{witness.NewWatcher(name, s.Client(m), witnessed, s.from, requireLeader), m})
}

// goesOn waits until some more writes were acknowledged.
func (s *story) goesOn() {
	s.t.Helper()
	s.writes(someWrites)
}

func (s *story) writes(more int) {
	s.t.Helper()
	ctx, cancel := context.WithTimeoutCause(s.t.Context(), patience, errors.New("deadline"))
	defer cancel()
	if err := s.ledger.AwaitWrites(ctx, more); err != nil {
		s.t.Fatal(err)
	}
}

// forget lets a member go that is no longer part of the cluster.
func (s *story) forget(m *Member) {
	s.members = s.Others(m)
	s.watchers = slices.DeleteFunc(s.watchers, func(w watcher) bool {
		if w.at == m {
			w.Stop()
		}
		return w.at == m
	})
}

// end stops the load, waits until all members serve, and has the witnesses compared.
func (s *story) end() {
	s.t.Helper()
	s.complain(s.load.Stop())
	for _, m := range s.members {
		m.Serves()
	}
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	to, err := s.members[0].revision(ctx)
	if err != nil {
		s.t.Fatal(err)
	}
	var first *witness.History
	for _, m := range s.members {
		h := s.history(ctx, m, to)
		if first == nil {
			first = h
		}
		s.complain(first.Compare(h))
	}
	s.sameHash(ctx, to)
	s.complain(s.ledger.Check(first))
	for _, w := range s.watchers {
		s.complain(w.Finish(ctx, first))
	}
	s.t.Logf("%s; the history goes to revision %d", s.ledger.Summary(), to)
}

// history is what m tells of everything from the story's beginning to revision to, and must tell of the state then.
func (s *story) history(ctx context.Context, m *Member, to int64) *witness.History {
	s.t.Helper()
	h, wrong, err := witness.ReadHistory(ctx, m.Conn, s.from, to)
	if err != nil {
		s.t.Fatalf("history of %s: %v", m.Name, err)
	}
	s.complain(wrong)
	state, err := pb.NewKVClient(m.Conn).Range(ctx, &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, Revision: to})
	if err != nil {
		s.t.Fatalf("state of %s: %v", m.Name, err)
	}
	s.complain(h.CheckState(state.Kvs))
	return h
}

// sameHash compares what the members store, as they themselves sum it up.
func (s *story) sameHash(ctx context.Context, rev int64) {
	s.t.Helper()
	hashes := map[uint32]string{}
	for _, m := range s.members {
		resp, err := pb.NewMaintenanceClient(m.Conn).HashKV(ctx, &pb.HashKVRequest{Revision: rev})
		if err != nil {
			s.t.Fatalf("hash of %s at %d: %v", m.Name, rev, err)
		}
		hashes[resp.Hash] += m.Name + " "
	}
	if len(hashes) != 1 {
		s.t.Errorf("members differ in their hashes at revision %d: %v", rev, hashes)
	}
}

const maxComplaints = 20

func (s *story) complain(wrong []string) {
	s.t.Helper()
	for i, w := range wrong {
		if i == maxComplaints {
			s.t.Errorf("… and %d more", len(wrong)-i)
			return
		}
		s.t.Error(w)
	}
}
