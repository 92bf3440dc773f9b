package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"limpet/discovery"
	"limpet/peer"
	"limpet/raftfsm"
	"limpet/txn"
)

const (
	// tryAgain is the pause between attempts to get in.
	tryAgain = 500 * time.Millisecond
	// askFor bounds one question to another member.
	askFor = 3 * time.Second
	// lookFor is how long the LAN is asked at a time.
	lookFor = 2 * time.Second
)

// Start says how raft begins: Bootstrap is empty unless this member founds the
// cluster.
type Start struct {
	Bootstrap []uint64
}

// Enter returns once this member belongs to a cluster. It tries until ctx ends;
// an error of its own means that trying on would not help.
func (l *Local) Enter(ctx context.Context) (*Start, error) {
	id := l.Identity()
	if id.Removed {
		return nil, ErrRemoved
	}
	if err := l.greetOld(ctx); err != nil {
		return nil, err
	}
	if id.Cluster != 0 && (!id.Forming || l.cfg.Begun) {
		return &Start{}, nil
	}
	for {
		l.tell()
		start, err := l.attempt(ctx)
		if start != nil || err != nil {
			l.wait("")
			return start, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("stopped before the member was in a cluster (it waited: %s)", l.Doing())
		case <-l.wake:
		case <-time.After(tryAgain):
		}
	}
}

// greetOld asks whom we knew whether we may come back: a copy of a running
// member, or a removed one, must not even start.
func (l *Local) greetOld(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	addrs := l.cfg.Roster.addresses(l.Identity().Member)
	results := make(chan error, len(addrs))
	for _, addr := range addrs {
		// Owner: this call; ends with the answer or its deadline.
		go func() {
			qctx, cancel := context.WithTimeout(ctx, askFor)
			defer cancel()
			_, err := l.port.Who(qctx, addr)
			results <- err
		}()
	}
	for range addrs {
		var r *peer.Refusal
		switch err := <-results; {
		case errors.As(err, &r) && r.Code == peer.Copy:
			return fmt.Errorf("%w (%s)", ErrCopy, r.Text)
		case errors.As(err, &r) && r.Code == peer.Recovered:
			return fmt.Errorf("%w (%s)", ErrRecovered, r.Text)
		case errors.As(err, &r) && r.Code == peer.Removed:
			return errors.Join(l.keep(noteRemoved), ErrRemoved)
		}
	}
	return nil
}

// attempt tries once; a nil Start and no error: try again.
func (l *Local) attempt(ctx context.Context) (*Start, error) {
	switch {
	case l.Identity().Rejoin:
		return l.join(ctx, "a member of the recovered cluster")
	case len(l.cfg.Static) > 1 || l.cfg.Existing:
		return l.static(ctx)
	case l.cfg.Expect > 1:
		return l.together(ctx)
	case len(l.cfg.Join) > 0:
		return l.join(ctx, "a member at "+strings.Join(l.cfg.Join, ", "))
	case l.cfg.Discover:
		return l.join(ctx, "a member on the local network")
	}
	return l.found([]uint64{l.Identity().Member})
}

// others are whom we see: members with state, and empty ones.
type others struct {
	settled []*Description
	empty   []*Description
	token   error // somebody answers, with another token
}

// hint is what to say beside that nobody answered.
func (o *others) hint() string {
	if o.token == nil {
		return ""
	}
	return "; somebody there has another token, or only one of you has one"
}

// look asks all addresses who they are.
func (l *Local) look(ctx context.Context, addrs []string) others {
	self := l.Identity().Member
	type result struct {
		d   *Description
		err error
	}
	results := make(chan result, len(addrs))
	for _, addr := range addrs {
		// Owner: this call; ends with the answer or its deadline.
		go func() {
			qctx, cancel := context.WithTimeout(ctx, askFor)
			defer cancel()
			d, err := l.describe(qctx, addr)
			if err != nil {
				l.log.Debug("a member could not be asked", "address", addr, "error", err)
			}
			results <- result{d, err}
		}()
	}
	var out others
	known := map[uint64]bool{self: true}
	for range addrs {
		r := <-results
		if errors.Is(r.err, peer.ErrOtherToken) {
			out.token = r.err
		}
		d := r.d
		if d == nil || known[d.ID] {
			continue
		}
		known[d.ID] = true
		if d.Settled() {
			out.settled = append(out.settled, d)
		} else {
			out.empty = append(out.empty, d)
		}
	}
	return out
}

// gossipPeers are the peer addresses that gossip knows, after asking around.
func (l *Local) gossipPeers(ctx context.Context) []string {
	l.meet(ctx)
	var out []string
	for _, p := range l.cfg.Gossip.Peers() {
		if p.Status == discovery.Alive {
			out = append(out, p.Peer)
		}
	}
	return out
}

// meet has gossip find others: where it was told to look, where they were last
// time, and on the LAN.
func (l *Local) meet(ctx context.Context) {
	targets := slices.Concat(l.cfg.Join, l.cfg.Roster.gossipAddresses())
	if l.cfg.Beacon != nil {
		lctx, cancel := context.WithTimeout(ctx, lookFor)
		found, err := l.cfg.Beacon.Find(lctx)
		cancel()
		if err != nil {
			l.log.Debug("the local network could not be asked", "error", err)
		}
		targets = append(targets, found...)
	}
	if len(targets) == 0 {
		return
	}
	jctx, cancel := context.WithTimeout(ctx, askFor)
	defer cancel()
	if _, err := l.cfg.Gossip.Join(jctx, targets); err != nil {
		l.log.Debug("some addresses do not gossip", "error", err)
	}
}

// static is etcd's way: the members are named, and found a cluster together or
// join the one that exists.
func (l *Local) static(ctx context.Context) (*Start, error) {
	var addrs []string
	for _, f := range l.cfg.Static {
		if f.Name != l.cfg.Name {
			for _, u := range f.URLs {
				addrs = append(addrs, hostOf([]string{u}))
			}
		}
	}
	seen := l.look(ctx, addrs)
	if start := l.underWay(seen); start != nil {
		return start, nil
	}
	if len(seen.settled) > 0 {
		return l.joinOne(ctx, seen.settled)
	}
	if l.cfg.Existing {
		l.wait("for a member of the cluster that --initial-cluster names to answer" + seen.hint())
		return nil, nil
	}
	var with []*Description
	for _, f := range l.cfg.Static {
		if f.Name == l.cfg.Name {
			continue
		}
		i := slices.IndexFunc(seen.empty, func(d *Description) bool { return d.Name == f.Name })
		if i < 0 {
			l.wait(fmt.Sprintf("for all members of --initial-cluster to start; %s is missing", f.Name) + seen.hint())
			return nil, nil
		}
		with = append(with, seen.empty[i])
	}
	return l.foundWith(ctx, with)
}

// together founds a cluster of the members that expect each other.
func (l *Local) together(ctx context.Context) (*Start, error) {
	seen := l.look(ctx, l.gossipPeers(ctx))
	if start := l.underWay(seen); start != nil {
		return start, nil
	}
	if len(seen.settled) > 0 {
		return l.joinOne(ctx, seen.settled)
	}
	var alike []*Description
	for _, d := range seen.empty {
		if d.Expect == l.cfg.Expect {
			alike = append(alike, d)
		}
	}
	if len(alike)+1 < l.cfg.Expect {
		l.wait(fmt.Sprintf("for %d members that expect each other; %d are here", l.cfg.Expect, len(alike)+1))
		return nil, nil
	}
	// More than expected: the lowest IDs found it, the others join.
	slices.SortFunc(alike, byID)
	self := l.Identity().Member
	if len(alike) >= l.cfg.Expect && self > alike[l.cfg.Expect-1].ID {
		l.wait("for the cluster to be founded")
		return nil, nil
	}
	return l.foundWith(ctx, alike[:l.cfg.Expect-1])
}

// join looks for a cluster and asks to be taken in. nil means: try again.
func (l *Local) join(ctx context.Context, where string) (*Start, error) {
	addrs := l.gossipPeers(ctx)
	if len(addrs) == 0 {
		// Gossip does not say why it is silent; the peer ports there do.
		for _, a := range l.cfg.Join {
			addrs = append(addrs, joinPort(a, l.cfg.PeerPort))
		}
	}
	seen := l.look(ctx, addrs)
	if len(seen.settled) == 0 {
		l.wait("for " + where + " to answer" + seen.hint())
		return nil, nil
	}
	return l.joinOne(ctx, seen.settled)
}

// joinOne asks the members of the cluster that was found. With two clusters in
// sight there is no telling which is meant.
func (l *Local) joinOne(ctx context.Context, settled []*Description) (*Start, error) {
	slices.SortFunc(settled, byID)
	for _, d := range settled {
		if d.Cluster != settled[0].Cluster {
			l.wait(fmt.Sprintf("for there to be one cluster: %s belongs to cluster %x, %s to cluster %x",
				settled[0].Name, settled[0].Cluster, d.Name, d.Cluster))
			return nil, nil
		}
	}
	var last error
	for _, d := range settled {
		reply, err := l.askJoin(ctx, d)
		if err == nil {
			return l.joined(reply)
		}
		last = err
	}
	l.wait("to be taken into the cluster: " + plain(last))
	return nil, nil
}

func (l *Local) joined(r *joinReply) (*Start, error) {
	err := l.keep(func(id *Identity) error {
		id.Member, id.Cluster, id.Forming, id.Rejoin = r.ID, r.Cluster, false, false
		return nil
	})
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	l.name = r.Name
	l.mu.Unlock()
	l.log.Info("joined a cluster", "cluster", fmt.Sprintf("%x", r.Cluster), "member", fmt.Sprintf("%x", r.ID), "name", r.Name)
	return &Start{}, nil
}

func byID(a, b *Description) int {
	switch {
	case a.ID < b.ID:
		return -1
	case a.ID > b.ID:
		return 1
	}
	return 0
}

// recordOver is the record that is to replace self. Peer URLs that were given
// once are the cluster's from then on: an operator changes them with a member
// update, as in etcd. Those that follow from gossip follow the address.
func (l *Local) recordOver(ms *raftfsm.Membership, self *txn.Member) *txn.Member {
	now := l.record()
	if name := distinctName(ms, self, l.cfg.Name); name != now.Name {
		now.Name = name
		l.mu.Lock()
		l.name = name
		l.mu.Unlock()
	}
	if len(l.cfg.PeerURLs) > 0 && len(self.PeerURLs) > 0 {
		now.PeerURLs = self.PeerURLs
	}
	return now
}

// distinctName is the name wanted, or that with a piece of the ID: boards that
// were flashed alike have the same configuration. Of two that want a name, the
// one that has it keeps it; of two that have it, the one with the lower ID. It
// depends on the membership and the ID alone, so it is the same after a restart.
func distinctName(ms *raftfsm.Membership, self *txn.Member, want string) string {
	own := fmt.Sprintf("%s-%04x", want, uint16(self.ID))
	if self.Name == own {
		return own
	}
	for _, m := range ms.Members {
		if m.ID != self.ID && m.ID != self.Replaces && m.Name == want && (self.Name != want || m.ID < self.ID) {
			return own
		}
	}
	return want
}

// record is what this member reports of itself.
func (l *Local) record() *txn.Member {
	h := l.Hello()
	return &txn.Member{
		ID: h.ID, Name: h.Name, PeerURLs: l.PeerURLs(), ClientURLs: l.clientURLs(),
		Version: l.cfg.Version, Format: l.cfg.Format,
	}
}
