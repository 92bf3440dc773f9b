package side

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"limpet/e2e/proc"
)

const (
	clusterPatience = time.Minute           // for what members must come to by themselves
	clusterPause    = 50 * time.Millisecond // between two looks
	attempt         = 3 * time.Second       // for one question among several
	goneDeadline    = 30 * time.Second      // for a member that was removed to stop
)

// MemberID is the neutral name of a cluster's n-th member, from 1 on.
func MemberID(n int) uint64 { return NeutralMember + uint64(n-1) }

// PeerURL is the neutral name of where the others find the n-th member.
func PeerURL(n int) string { return fmt.Sprintf("http://peer-%d", n) }

// ClientURL is the neutral name of where clients find it.
func ClientURL(n int) string { return fmt.Sprintf("http://client-%d", n) }

// Cluster is the members of one program, which share one set of names.
type Cluster struct {
	Kind  proc.Kind
	Names *Names

	t       testing.TB
	members map[int]*Target
}

// Found starts the first size members of a new cluster, with these flags behind the usual ones, and
// returns once they serve.
func Found(t testing.TB, kind proc.Kind, size int, flags ...string) *Cluster {
	t.Helper()
	c := &Cluster{Kind: kind, Names: NewNames(), t: t, members: map[int]*Target{}}
	var initial []string
	for n := 1; n <= size; n++ {
		server := c.Prepare(n, proc.Flags(flags...)).Server
		initial = append(initial, server.Name+"="+server.PeerURL())
	}
	for n := 1; n <= size; n++ {
		c.members[n].Server.Initial = strings.Join(initial, ",")
		c.members[n].Server.Launch()
	}
	for n := 1; n <= size; n++ {
		c.Await(n)
	}
	return c
}

// Prepare makes the n-th member: it has addresses and does not run yet.
func (c *Cluster) Prepare(n int, options ...proc.Option) *Target {
	c.t.Helper()
	server := proc.New(c.t, c.Kind, options...)
	server.Name = fmt.Sprintf("m%d", n)
	c.Names.BindText(ClientURL(n), server.ClientURL())
	c.Names.BindText(PeerURL(n), server.PeerURL())
	c.members[n] = &Target{
		Label: fmt.Sprintf("%s %s", c.Kind, server.Name), Server: server, Names: c.Names,
		number: n, streams: map[int]*watchStream{},
	}
	return c.members[n]
}

// Await returns once the n-th member, which was launched, serves, and connects to it.
func (c *Cluster) Await(n int) {
	c.t.Helper()
	m := c.members[n]
	if err := m.Server.Ready(); err != nil {
		c.t.Fatalf("%s is not ready: %v", m.Label, err)
	}
	if m.Conn == nil {
		m.Connect(c.t)
		c.t.Cleanup(m.Disconnect)
	}
}

// Join launches the n-th member, prepared before, with the lines NAME="value" that etcdctl printed
// when it was added; its addresses are all that it is told beside.
func (c *Cluster) Join(n int, lines []string) {
	c.t.Helper()
	s := c.members[n].Server
	var env []string
	for _, line := range lines {
		env = append(env, strings.ReplaceAll(c.Names.RealText(line), `"`, ""))
	}
	proc.Bare([]string{
		"--data-dir=" + s.DataDir, "--listen-peer-urls=" + s.PeerURL(),
		"--listen-client-urls=" + s.ClientURL(), "--advertise-client-urls=" + s.ClientURL(),
	}, env)(s)
	s.Launch()
}

// Member is the n-th member.
func (c *Cluster) Member(n int) *Target { return c.members[n] }

// Lead makes the n-th member leader and returns once these members, and itself, follow it.
func (c *Cluster) Lead(n int, others ...int) error {
	return c.until(fmt.Sprintf("m%d leads", n), func(ctx context.Context) error {
		leader, err := c.leader(ctx, n)
		if err != nil {
			return err
		}
		if leader != MemberID(n) {
			_, err := pb.NewMaintenanceClient(c.members[int(leader-NeutralMember)+1].Conn).
				MoveLeader(ctx, &pb.MoveLeaderRequest{TargetID: c.Names.RealID(MemberID(n))})
			return errors.Join(fmt.Errorf("%x leads", leader), err)
		}
		for _, o := range others {
			if l, err := c.leader(ctx, o); l != leader {
				return fmt.Errorf("m%d follows %x (%w)", o, l, err)
			}
		}
		return nil
	})
}

// leader is the neutral ID of whom the n-th member follows.
func (c *Cluster) leader(ctx context.Context, n int) (uint64, error) {
	status, err := pb.NewMaintenanceClient(c.members[n].Conn).Status(ctx, &pb.StatusRequest{})
	if err != nil {
		return 0, err
	}
	c.Names.ToNeutral(status)
	if status.Leader == 0 {
		return 0, fmt.Errorf("m%d knows no leader", n)
	}
	return status.Leader, nil
}

// until repeats check until it returns nil.
func (c *Cluster) until(what string, check func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(context.Background(), clusterPatience, errors.New("deadline"))
	defer cancel()
	err := proc.Eventually(ctx, clusterPause, func() error {
		ctx, cancel := context.WithTimeout(ctx, attempt)
		defer cancel()
		return check(ctx)
	})
	if err != nil {
		return fmt.Errorf("%s: %s: %w", c.Kind, what, err)
	}
	return nil
}

// Gone waits for the n-th member to end by itself, as one does that was removed.
func (c *Cluster) Gone(n int) error {
	m := c.members[n]
	exit := m.Server.WaitExit(time.Now(), goneDeadline)
	if exit.Signal != 0 {
		return fmt.Errorf("%s ended by signal %v, want an end of its own", m.Label, exit.Signal)
	}
	return nil
}
