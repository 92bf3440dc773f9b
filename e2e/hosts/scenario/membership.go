//go:build linux

package scenario

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// memberAdded adds a member as a learner, promotes it, and then needs it for a majority.
func memberAdded(t *testing.T, c *Cluster) {
	s := begin(t, c)
	leader := c.Leader(c.Members()...)
	added := s.join(leader)
	if !c.Program.PromotesLearners {
		refusesAsLearner(t, added)
	}
	s.promote(added)
	added.Serves()
	s.watch(added, true)
	leader.Process.Kill()
	c.Leader(c.Others(leader)...)
	s.goesOn()
	leader.Start()
	c.Leader(c.Members()...)
	s.goesOn()
	s.end()
}

// join makes a spare member a learner of the cluster and starts it.
func (s *story) join(via *Member) *Member {
	s.t.Helper()
	m := s.spares[0]
	s.spares = s.spares[1:]
	s.Eventually("add "+m.Name, func(ctx context.Context) error {
		_, err := pb.NewClusterClient(via.Conn).MemberAdd(ctx, &pb.MemberAddRequest{PeerURLs: []string{m.PeerURL()}, IsLearner: true})
		return err
	})
	s.members = append(s.members, m)
	m.Start()
	s.Eventually(m.Name+" is a learner with a leader", func(ctx context.Context) error {
		status, err := m.Status(ctx)
		if err == nil && (status.Leader == 0 || !status.IsLearner && !s.Program.PromotesLearners) {
			err = fmt.Errorf("status is %v", status)
		}
		return err
	})
	return m
}

// refusesAsLearner checks that a learner serves what may be old, and nothing else.
func refusesAsLearner(t *testing.T, m *Member) {
	t.Helper()
	want := rpctypes.ErrorDesc(rpctypes.ErrGRPCNotSupportedForLearner)
	for _, r := range agreementRequests(m) {
		if r.learner {
			continue
		}
		ctx, cancel := context.WithTimeout(t.Context(), attempt)
		err := r.call(ctx)
		cancel()
		if rpctypes.ErrorDesc(err) != want {
			t.Errorf("%s at learner %s gave %v, want %q", r.name, m.Name, err, want)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), attempt)
	defer cancel()
	if _, err := pb.NewKVClient(m.Conn).Range(ctx, &pb.RangeRequest{Key: []byte("learner"), Serializable: true}); err != nil {
		t.Errorf("a serializable read at learner %s gave %v", m.Name, err)
	}
}

// promote asks until the cluster agrees that the learner is in step.
func (s *story) promote(m *Member) {
	s.t.Helper()
	s.Eventually("promote "+m.Name, func(ctx context.Context) error {
		status, err := m.Status(ctx)
		if err != nil || !status.IsLearner {
			return err
		}
		if s.Program.PromotesLearners {
			return errors.New("still a learner")
		}
		cluster := pb.NewClusterClient(s.members[0].Conn)
		if _, err := cluster.MemberPromote(ctx, &pb.MemberPromoteRequest{ID: status.Header.MemberId}); err != nil {
			return err
		}
		return errors.New("promoted, and does not know it yet")
	})
}

// followerRemoved removes a member that is alive and not the leader.
func followerRemoved(t *testing.T, c *Cluster) {
	s := begin(t, c)
	s.remove(c.Others(c.Leader(c.Members()...))[0])
	c.Leader(c.Members()...)
	s.goesOn()
	s.end()
}

// leaderRemoved removes the leader itself, by its own hand.
func leaderRemoved(t *testing.T, c *Cluster) {
	s := begin(t, c)
	s.remove(c.Leader(c.Members()...))
	c.Leader(c.Members()...)
	s.goesOn()
	s.end()
}

// remove removes m, which must then end by itself; all others must know.
func (s *story) remove(m *Member) {
	s.t.Helper()
	var id uint64
	s.Eventually("status of "+m.Name, func(ctx context.Context) error {
		status, err := m.Status(ctx)
		id = status.GetHeader().GetMemberId()
		return err
	})
	s.Eventually("remove "+m.Name, func(ctx context.Context) error {
		_, err := pb.NewClusterClient(m.Conn).MemberRemove(ctx, &pb.MemberRemoveRequest{ID: id})
		if errors.Is(rpctypes.Error(err), rpctypes.ErrMemberNotFound) {
			return nil // an earlier attempt did it
		}
		if !m.Process.Alive() {
			return nil
		}
		return err
	})
	exit := m.Process.WaitExit(time.Now(), patience)
	s.t.Logf("%s was removed and ended with %+v", m.Name, exit)
	s.forget(m)
	for _, o := range s.members {
		s.Eventually(o.Name+" knows of the removal", func(ctx context.Context) error { return o.lacks(ctx, id) })
	}
}

// lacks tells whether m does not list the member any more.
func (m *Member) lacks(ctx context.Context, id uint64) error {
	list, err := pb.NewClusterClient(m.Conn).MemberList(ctx, &pb.MemberListRequest{})
	for _, o := range list.GetMembers() {
		if o.ID == id {
			return fmt.Errorf("%s still lists %x", m.Name, id)
		}
	}
	return err
}
