package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
)

const (
	// trio is the number of members of the rows with several.
	trio = 3
	// agreeEvery is the pause between two questions for the leader.
	agreeEvery = 10 * time.Millisecond
	// statusWithin bounds one such question.
	statusWithin = time.Second
)

// cluster is the servers of a side that are one store together: one alone, or three members. One goroutine uses it at
// a time.
//
// Invariant: members[0] led when order was last called; fresh calls it.
type cluster struct {
	side    *side
	members []*server
}

// fresh starts a cluster of a side on empty data folders of its own.
func (b *bench) fresh(ctx context.Context, s *side, members int) (*cluster, error) {
	b.served++
	var dirs []string
	for i := range members {
		dirs = append(dirs, filepath.Join(b.work, fmt.Sprintf("%s-%03d-%d", s.name, b.served, i+1)))
	}
	places, err := newPlaces(dirs...)
	if err != nil {
		return nil, err
	}
	return s.startCluster(ctx, places, b.config.profile != "" && s.pprof != nil)
}

// startCluster starts a server at each place and returns once every one answers and all name the same leader. On error
// nothing is left running.
func (s *side) startCluster(ctx context.Context, places []place, pprof bool) (c *cluster, err error) {
	c = &cluster{side: s}
	defer func() {
		if err != nil {
			err = c.end(err)
			c = nil
		}
	}()
	for _, at := range places { // all before the first wait: none of several gets ready alone
		v, err := s.launch(at, pprof)
		if err != nil {
			return c, err
		}
		c.members = append(c.members, v)
	}
	for _, v := range c.members {
		if err := v.becomeReady(ctx); err != nil {
			return c, err
		}
	}
	return c, c.order(ctx)
}

// order puts the leader first, once all members agree about it. One alone leads itself.
func (c *cluster) order(ctx context.Context) error {
	if len(c.members) == 1 {
		return nil
	}
	lead, err := awaitLeader(ctx, c.members)
	if err != nil {
		return err
	}
	c.members[0], c.members[lead] = c.members[lead], c.members[0]
	return nil
}

// sameLeader remarks when a window of a row has not ended under the leader it began with: its figures then contain an
// election that nobody asked for.
func (b *bench) sameLeader(ctx context.Context, c *cluster, row string) error {
	was := c.members[0]
	if err := c.order(ctx); err != nil {
		return err
	}
	if c.members[0] != was {
		b.rec.remark(fmt.Sprintf("%s: %s changed its leader in the middle of a round.", row, c.side.name))
	}
	return nil
}

// awaitLeader waits until all of members vote and name one of them as the leader, and returns its place among them.
func awaitLeader(ctx context.Context, members []*server) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	conns := make([]*grpc.ClientConn, len(members))
	for i, v := range members {
		conn, err := dial(v.address())
		if err != nil {
			return 0, err
		}
		defer conn.Close()
		conns[i] = conn
	}
	for {
		lead, err := askLeader(ctx, conns)
		if err == nil {
			return lead, nil
		}
		if pauseErr := sleep(ctx, agreeEvery); pauseErr != nil {
			return 0, fmt.Errorf("wait for a leader: %w; last answer: %v", pauseErr, err)
		}
		for _, v := range members {
			if err := v.exited(); err != nil {
				return 0, err
			}
		}
	}
}

// askLeader asks members once which of them leads.
func askLeader(ctx context.Context, conns []*grpc.ClientConn) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, statusWithin)
	defer cancel()
	var named uint64
	lead := -1
	for i, conn := range conns {
		st, err := pb.NewMaintenanceClient(conn).Status(ctx, &pb.StatusRequest{})
		if err != nil {
			return 0, err
		}
		if i == 0 {
			named = st.Leader
		}
		if st.Leader == 0 || st.Leader != named || st.IsLearner {
			return 0, fmt.Errorf("member %d names leader %x (learner: %v), the first one %x", i, st.Leader, st.IsLearner, named)
		}
		if st.Header.MemberId == named {
			lead = i
		}
	}
	if lead < 0 {
		return 0, fmt.Errorf("leader %x is none of those asked", named)
	}
	return lead, nil
}

// address is the leader's host:port for clients.
func (c *cluster) address() string { return c.members[0].address() }

// addresses are all members' host:port for clients, the leader's first.
func (c *cluster) addresses() []string {
	var out []string
	for _, v := range c.members {
		out = append(out, v.address())
	}
	return out
}

// cost is the CPU and bytes of all members so far.
func (c *cluster) cost() (usage, error) { return c.sum((*server).cost) }

// runtime is the CPU of all members so far, finer than cost's.
func (c *cluster) runtime() (usage, error) {
	return c.sum(func(v *server) (u usage, err error) {
		u.cpu, err = readRuntime(v.pid)
		return u, err
	})
}

// memory is what all members hold now; pages that they share, such as the binary's, count in each.
func (c *cluster) memory() (usage, error) { return c.sum((*server).memory) }

func (c *cluster) sum(of func(*server) (usage, error)) (usage, error) {
	var total usage
	for _, v := range c.members {
		u, err := of(v)
		if err != nil {
			return usage{}, err
		}
		total = total.plus(u)
	}
	return total, nil
}

// stop ends all members cleanly, one after the other and the leader last: told to stop together, etcd's leader looks for
// a successor among members that are ending too, for 7 s, and the CPU of that time would count as the cost of puts.
func (c *cluster) stop() error {
	var errs []error
	for _, v := range slices.Backward(c.members) {
		errs = append(errs, v.stop())
	}
	return errors.Join(errs...)
}

// final is the members' whole cost; they must have ended.
func (c *cluster) final() usage {
	var total usage
	for _, v := range c.members {
		total = total.plus(v.final)
	}
	return total
}

// end kills every member; err is the failure so far, see server.end.
func (c *cluster) end(err error) error {
	for _, v := range c.members {
		err = v.end(err)
	}
	return err
}

// discard ends a cluster and deletes its data; err is the failure so far, see server.end.
func (b *bench) discard(c *cluster, err error) error {
	err = c.end(err)
	for _, v := range c.members {
		v.place.remove()
	}
	return err
}
