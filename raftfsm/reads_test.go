package raftfsm

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// late is a transport whose answers can be held up: they were given, and have
// not arrived.
type late struct {
	*raft.InmemTransport
	mu   sync.Mutex
	held map[raft.ServerID]bool // who has answered since hold; nil: nothing is held up
	free chan struct{}
}

func (l *late) AppendEntries(id raft.ServerID, at raft.ServerAddress, req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	err := l.InmemTransport.AppendEntries(id, at, req, resp)
	l.mu.Lock()
	if l.held == nil || err != nil {
		l.mu.Unlock()
		return err
	}
	l.held[id] = true
	free := l.free
	l.mu.Unlock()
	<-free
	return err
}

func (l *late) hold() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held, l.free = make(map[raft.ServerID]bool), make(chan struct{})
}

func (l *late) release() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held = nil
	close(l.free)
}

func (l *late) holding() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.held)
}

// A leader that was paused finds answers to heartbeats that are older than the
// question whether it still leads. They must not confirm that: another member
// leads by now, and has acknowledged writes.
func TestOldAnswersConfirmNothing(t *testing.T) {
	var all []*late
	c := newCluster(t, 3, func(cfg *Config) {
		cfg.ElectionTimeout, cfg.HeartbeatTimeout = 2*time.Second, 2*time.Second
		l := &late{InmemTransport: cfg.Transport.(*raft.InmemTransport)}
		all = append(all, l)
		cfg.Transport = l
	})
	old, heir := c.leaderAndHeir()
	line := all[old.id-1]
	line.hold()
	until(t, "answers on their way", func() bool { return line.holding() == 2 })
	c.cut(old.id)
	heir.Campaign(old.id)
	c.leader().put("k", "new")

	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	read := make(chan error, 1)
	// Owner: this test; ends with ctx.
	go func() { read <- old.ReadIndex(ctx) }()
	select {
	case <-ctx.Done():
	case <-time.After(50 * time.Millisecond): // for the question to have been asked
	}
	line.release()
	if err := <-read; err == nil {
		t.Errorf("a read at the old leader was confirmed at revision %d; revision %d was acknowledged before it", old.store.Rev(), heir.store.Rev())
	}
}

// What follows from leading is proposed by a leader or by nobody: not by a
// follower, and not by one that does not know yet that it was replaced.
func TestProposeAsLeader(t *testing.T) {
	c := newCluster(t, 3, nil)
	leader, follower := c.leader(), c.follower()
	grant := func(id int64) {
		if _, err := leader.Propose(t.Context(), &pb.LeaseGrantRequest{ID: id, TTL: 100}); err != nil {
			t.Fatal(err)
		}
	}
	grant(1)
	grant(2)
	revoke := &pb.LeaseRevokeRequest{ID: 1}
	if _, err := follower.ProposeAsLeader(t.Context(), revoke); !errors.Is(err, ErrNotLeader) {
		t.Errorf("a follower: %v, want ErrNotLeader", err)
	}
	// The late discovery: it is queued, and by then somebody else leads.
	if _, err := follower.proposer.propose(t.Context(), revoke, true); !errors.Is(err, ErrNotLeader) {
		t.Errorf("a follower that took itself for the leader: %v, want ErrNotLeader", err)
	}
	if _, err := leader.ProposeAsLeader(t.Context(), &pb.LeaseRevokeRequest{ID: 2}); err != nil {
		t.Errorf("the leader: %v", err)
	}
	if err := leader.StillLeads(t.Context()); err != nil {
		t.Errorf("the leader is told that it does not lead: %v", err)
	}
	if err := follower.StillLeads(t.Context()); err == nil {
		t.Error("a follower is told that it leads")
	}
	if _, err := leader.Propose(t.Context(), revoke); err != nil {
		t.Errorf("lease 1 is gone: %v", err)
	}
}
