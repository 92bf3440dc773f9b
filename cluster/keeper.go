package cluster

import (
	"context"
	"fmt"
	"slices"
	"time"

	"limpet/raftfsm"
	"limpet/txn"
)

const (
	// stepEvery is how often the leader looks at the members.
	stepEvery = time.Second
	// meetEvery is how often gossip looks for members that it misses.
	meetEvery = 10 * time.Second
	// leavePatience bounds how long a removed member waits until the leader has
	// raft go on without it.
	leavePatience = 5 * time.Second
	// wayPatience is how long a member has been without a leader when it gives way
	// to a cluster that was recovered from its own.
	wayPatience = 10 * time.Second
	// lookEvery is how often the LAN is asked although nobody is missed: there may
	// be another cluster.
	lookEvery = time.Minute
	// reportFor bounds a member's report of itself.
	reportFor = 5 * time.Second
)

// keeper keeps this member in its cluster: its record right and, while it
// leads, the membership. What it remembers belongs to the goroutine of Run.
type keeper struct {
	me       *standing
	line     *line
	outlook  *outlook
	pilot    *autopilot
	rotation *rotation

	removed   time.Time // since when another member leads that should let this one go
	forgotten int       // how many removed members were forgotten
	led       time.Time // when there was last a leader
	warned    bool      // that the cluster was recovered although it has a leader
}

// run keeps this member's record right and, while it leads, the membership; it
// returns when ctx ends.
func (k *keeper) run(ctx context.Context) {
	n := k.me.node.Load()
	ticker := time.NewTicker(stepEvery)
	defer ticker.Stop()
	met, looked := time.Now(), time.Now()
	k.led = time.Now()
	for {
		k.giveWay(n)
		k.settle(ctx, n)
		k.outlook.tell()
		k.rotation.follow(ctx, n)
		if n.Leading() {
			k.pilot.lead(ctx, n)
			k.rotation.lead(ctx, n)
		} else {
			k.pilot.rest()
		}
		k.report(ctx, n)
		if k.me.cfg.Gossip != nil && time.Since(met) > meetEvery {
			if k.outlook.misses(n) || time.Since(looked) > lookEvery {
				k.outlook.meet(ctx)
				looked = time.Now()
			}
			k.outlook.sayStrangers()
			met = time.Now()
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		case <-k.me.wake:
		}
	}
}

// giveWay ends this member once its cluster was recovered as another one: those
// who did it saw no quorum. While there is a leader they were wrong, and what it
// acknowledges must not be thrown away.
func (k *keeper) giveWay(n *raftfsm.Node) {
	heard := k.me.superseded()
	switch {
	case n.Leader() != 0:
		k.led = time.Now()
		if heard != "" && !k.warned {
			k.warned = true
			k.me.log.Warn("this cluster was recovered as another one although it has a leader: stop the members of the other one, and start them with empty data directories", "recovered", heard)
		}
	case heard != "" && time.Since(k.led) > wayPatience:
		k.me.cfg.Broken(fmt.Errorf("%w (%s)", ErrRecovered, heard))
	}
}

// settle notes that something has been agreed on: the founding is over.
func (k *keeper) settle(ctx context.Context, n *raftfsm.Node) {
	ms := n.Membership()
	if ms.WasRemoved(k.me.Identity().Member) {
		if k.outOfRaft(n) {
			k.me.removed()
		} else if n.Leader() == 0 {
			k.line.askAround(ctx)
		}
		return
	}
	if len(ms.Removed) != k.forgotten {
		for _, id := range ms.Removed {
			k.line.port.Forget(id)
			k.me.cfg.Roster.forget(id)
		}
		k.forgotten = len(ms.Removed)
	}
	if ms.Cluster != 0 && k.me.Identity().Forming {
		// The log is right about the name, should another founder have come first.
		err := k.me.keep(func(id *Identity) error { id.Cluster, id.Forming = ms.Cluster, false; return nil })
		if err != nil {
			k.me.log.Error("the identity of this member cannot be written", "error", err)
		}
	}
}

// outOfRaft reports whether a removed member may stop: once raft goes on
// without it, or another member has led for long and not taken it out. One that
// stopped before would be missed by a quorum that still counts it; of two members
// the other one might never have a quorum again.
func (k *keeper) outOfRaft(n *raftfsm.Node) bool {
	if k.removed.IsZero() || n.Leader() == 0 || n.Leading() {
		k.removed = time.Now()
	}
	return !inRaft(n, k.me.Identity().Member) || time.Since(k.removed) > leavePatience
}

func inRaft(n *raftfsm.Node, id uint64) bool {
	return slices.ContainsFunc(n.Servers(), func(s raftfsm.Server) bool { return s.ID == id })
}

// report brings this member's record up to date: its name, where it is, what
// it can read.
func (k *keeper) report(ctx context.Context, n *raftfsm.Node) {
	if n.Leader() == 0 || k.news(n) == nil {
		return
	}
	rctx, cancel := context.WithTimeout(ctx, reportFor)
	defer cancel()
	// A member that catches up sees the peer URLs of before: to report these would
	// undo what an operator was told is done since. Where an older member keeps the
	// report from leaving them out, little time is left for that.
	if err := n.ReadIndex(rctx); err != nil {
		k.me.log.Debug("this member is not up to date yet, and does not report itself", "error", err)
		return
	}
	now := k.news(n)
	if now == nil {
		return
	}
	if _, err := n.Propose(rctx, now); err != nil {
		k.me.log.Debug("this member could not report itself", "error", err)
	}
}

// news is what this member has to report; nil while its record is right, or while
// it has none. The peer URLs are left out where they stay what they are.
func (k *keeper) news(n *raftfsm.Node) *txn.Member {
	ms := n.Membership()
	if ms.Self == nil {
		return nil
	}
	now, parts := k.me.recordOver(ms, ms.Self), n.PartReports()
	if !parts || now.Restored == 0 { // 0 says nothing
		now.Restored = ms.Self.Restored
	}
	if same(ms.Self, now) {
		return nil
	}
	if parts && slices.Equal(now.PeerURLs, ms.Self.PeerURLs) {
		now.PeerURLs = nil
	}
	return now
}

func same(a, b *txn.Member) bool {
	return a.Name == b.Name && a.Version == b.Version && a.Format == b.Format && a.Restored == b.Restored &&
		slices.Equal(a.PeerURLs, b.PeerURLs) && slices.Equal(a.ClientURLs, b.ClientURLs)
}

// reported returns once the cluster knows this member as it is.
func (k *keeper) reported(ctx context.Context) error {
	n := k.me.node.Load()
	for {
		if n.Membership().Self != nil && k.news(n) == nil {
			return nil
		}
		if k.me.Identity().Removed {
			return ErrRemoved
		}
		k.me.Wake()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
}
