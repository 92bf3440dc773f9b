package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"limpet/peer"
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

// entry is the way into a cluster.
type entry struct {
	me       *standing
	line     *line
	outlook  *outlook
	founding *founding
}

// enter returns once this member belongs to a cluster. It tries until ctx ends;
// an error of its own means that trying on would not help.
func (e *entry) enter(ctx context.Context) (*Start, error) {
	id := e.me.Identity()
	if id.Removed {
		return nil, ErrRemoved
	}
	if err := e.greetOld(ctx); err != nil {
		return nil, err
	}
	if id.Cluster != 0 && (!id.Forming || e.me.cfg.Logged > 0) {
		return &Start{}, nil
	}
	for {
		e.outlook.tell()
		start, err := e.attempt(ctx)
		if start != nil || err != nil {
			e.me.wait("")
			return start, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("stopped before the member was in a cluster (it waited: %s)", e.me.Doing())
		case <-e.me.wake:
		case <-time.After(tryAgain):
		}
	}
}

// greetOld asks whom we knew whether we may come back: a copy of a running
// member, or a removed one, must not even start.
func (e *entry) greetOld(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	addrs := e.me.cfg.Roster.addresses(e.me.Identity().Member)
	results := make(chan error, len(addrs))
	for _, addr := range addrs {
		// Owner: this call; ends with the answer or its deadline.
		go func() {
			qctx, cancel := context.WithTimeout(ctx, askFor)
			defer cancel()
			_, err := e.line.port.Who(qctx, addr)
			results <- err
		}()
	}
	var recovered *peer.Refusal
	for range addrs {
		var r *peer.Refusal
		switch err := <-results; {
		case errors.As(err, &r) && r.Code == peer.Copy:
			return fmt.Errorf("%w (%s)", ErrCopy, r.Text)
		case errors.As(err, &r) && r.Code == peer.Recovered:
			recovered = r
		case errors.As(err, &r) && r.Code == peer.Removed:
			return errors.Join(e.me.keep(noteRemoved), ErrRemoved)
		}
	}
	if recovered != nil && !e.lives(ctx, addrs) {
		return fmt.Errorf("%w (%s)", ErrRecovered, recovered.Text)
	}
	return nil
}

// lives reports whether somebody at addrs follows a leader of our cluster.
func (e *entry) lives(ctx context.Context, addrs []string) bool {
	cluster := e.me.Identity().Cluster
	return slices.ContainsFunc(e.line.look(ctx, addrs).settled, func(d *Description) bool {
		return d.Cluster == cluster && d.Leader != 0
	})
}

// attempt tries once; a nil Start and no error: try again.
func (e *entry) attempt(ctx context.Context) (*Start, error) {
	switch {
	case e.me.Identity().Rejoin:
		return e.join(ctx, "a member of the recovered cluster")
	case len(e.me.cfg.Static) > 1 || e.me.cfg.Existing:
		return e.static(ctx)
	case e.me.cfg.Expect > 1:
		return e.together(ctx)
	case len(e.me.cfg.Join) > 0:
		return e.join(ctx, "a member at "+strings.Join(e.me.cfg.Join, ", "))
	case e.me.cfg.Discover:
		return e.join(ctx, "a member on the local network")
	}
	return e.founding.found([]uint64{e.me.Identity().Member})
}

// static is etcd's way: the members are named, and found a cluster together or
// join the one that exists.
func (e *entry) static(ctx context.Context) (*Start, error) {
	var addrs []string
	for _, f := range e.me.cfg.Static {
		if f.Name != e.me.cfg.Name {
			for _, u := range f.URLs {
				addrs = append(addrs, hostOf([]string{u}))
			}
		}
	}
	seen := e.line.look(ctx, addrs)
	if start := e.founding.underWay(seen); start != nil {
		return start, nil
	}
	if len(seen.settled) > 0 {
		return e.joinOne(ctx, seen.settled)
	}
	if e.me.cfg.Existing {
		e.me.wait("for a member of the cluster that --initial-cluster names to answer" + seen.hint())
		return nil, nil
	}
	with, ok := e.named(seen)
	if !ok {
		return nil, nil
	}
	return e.founding.foundWith(ctx, with)
}

// named picks the other founders out of who answered; false if one is missing.
func (e *entry) named(seen others) (with []*Description, ok bool) {
	for _, f := range e.me.cfg.Static {
		if f.Name == e.me.cfg.Name {
			continue
		}
		if f.Name == "" { // and neither have the others: all who were asked are founders
			if len(seen.empty) < len(e.me.cfg.Static)-1 {
				e.me.wait(fmt.Sprintf("for all members that the DNS names to start; %d of %d are here", len(seen.empty)+1, len(e.me.cfg.Static)) + seen.hint())
				return nil, false
			}
			return seen.empty, true
		}
		i := slices.IndexFunc(seen.empty, func(d *Description) bool { return d.Name == f.Name })
		if i < 0 {
			e.me.wait(fmt.Sprintf("for all members of --initial-cluster to start; %s is missing", f.Name) + seen.hint())
			return nil, false
		}
		with = append(with, seen.empty[i])
	}
	return with, true
}

// together founds a cluster of the members that expect each other.
func (e *entry) together(ctx context.Context) (*Start, error) {
	seen := e.line.look(ctx, e.outlook.gossipPeers(ctx))
	if start := e.founding.underWay(seen); start != nil {
		return start, nil
	}
	if len(seen.settled) > 0 {
		return e.joinOne(ctx, seen.settled)
	}
	var alike []*Description
	for _, d := range seen.empty {
		if d.Expect == e.me.cfg.Expect {
			alike = append(alike, d)
		}
	}
	if len(alike)+1 < e.me.cfg.Expect {
		e.me.wait(fmt.Sprintf("for %d members that expect each other; %d are here", e.me.cfg.Expect, len(alike)+1) + e.onlyHere())
		return nil, nil
	}
	// More than expected: the lowest IDs found it, the others join.
	slices.SortFunc(alike, byID)
	self := e.me.Identity().Member
	if len(alike) >= e.me.cfg.Expect && self > alike[e.me.cfg.Expect-1].ID {
		e.me.wait("for the cluster to be founded")
		return nil, nil
	}
	return e.founding.foundWith(ctx, alike[:e.me.cfg.Expect-1])
}

// onlyHere is what to say beside that others are missing.
func (e *entry) onlyHere() string {
	if e.me.cfg.Scheme == "http" {
		return "; without a token only this machine is looked at: give LIMPET_TOKEN, or --token-file"
	}
	return ""
}

// join looks for a cluster and asks to be taken in. nil means: try again.
func (e *entry) join(ctx context.Context, where string) (*Start, error) {
	seen := e.line.look(ctx, e.outlook.gossipPeers(ctx))
	if len(seen.settled) == 0 {
		e.me.wait("for " + where + " to answer" + seen.hint())
		return nil, nil
	}
	return e.joinOne(ctx, seen.settled)
}

// joinOne asks the members of the cluster that was found. With two clusters in
// sight there is no telling which is meant.
func (e *entry) joinOne(ctx context.Context, settled []*Description) (*Start, error) {
	slices.SortFunc(settled, byID)
	for _, d := range settled {
		if d.Cluster != settled[0].Cluster {
			e.me.wait(fmt.Sprintf("for there to be one cluster: %s belongs to cluster %x, %s to cluster %x",
				settled[0].Name, settled[0].Cluster, d.Name, d.Cluster))
			return nil, nil
		}
	}
	var last error
	for _, d := range settled {
		reply, err := e.askJoin(ctx, d)
		if err == nil {
			return e.joined(reply)
		}
		last = err
	}
	e.me.wait("to be taken into the cluster: " + plain(last))
	return nil, nil
}

func (e *entry) askJoin(ctx context.Context, d *Description) (*joinReply, error) {
	ctx, cancel := context.WithTimeout(ctx, askFor)
	defer cancel()
	h, reply := e.me.Hello(), new(joinReply)
	err := e.line.ask(ctx, d.Address, "Join", joinRequest{
		ID: h.ID, Name: h.Name, PeerURLs: e.me.PeerURLs(), ClientURLs: e.me.clientURLs(), Format: e.me.cfg.Format, Follows: len(e.me.cfg.PeerURLs) == 0,
	}, reply)
	return reply, err
}

func (e *entry) joined(r *joinReply) (*Start, error) {
	err := e.me.keep(func(id *Identity) error {
		id.Member, id.Cluster, id.Forming, id.Rejoin = r.ID, r.Cluster, false, false
		return nil
	})
	if err != nil {
		return nil, err
	}
	e.me.mu.Lock()
	e.me.name = r.Name
	e.me.mu.Unlock()
	e.me.log.Info("joined a cluster", "cluster", fmt.Sprintf("%x", r.Cluster), "member", fmt.Sprintf("%x", r.ID), "name", r.Name)
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
