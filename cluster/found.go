package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"limpet/peer"
	"limpet/txn"
)

// Founding together, with the member of the lowest ID as the founder:
//
//  1. It asks all others to take part (asks). Who agrees writes the cluster's
//     ID down, and from then on agrees to no other founder, unless that has a
//     lower ID or this one is gone.
//  2. It asks them again (sure). From now on they leave it for nobody.
//  3. All still agree: its raft begins (begun), and so does that of the others,
//     as soon as they see it.
//
// A crash on the way leaves members that have written down an ID of which
// nothing came; they are empty, and a founding begins anew. Two who both take
// themselves for the founder, as they see different members, have a member in
// common, or found clusters without one: the common one agrees to a second
// founder only while the first is not sure, and the first finds out when it
// asks again.

// Stage is how far a member is in founding a cluster.
type Stage string

const (
	stageNone  Stage = ""
	stageAsks  Stage = "asks"  // whether the others take part
	stageSure  Stage = "sure"  // all did; it asks once more
	stageBegun Stage = "begun" // its log begins with the members
	stageIn    Stage = "in"    // it takes part in what another has begun
)

// lookAgain bounds the look at the founder that was agreed to before.
const lookAgain = time.Second

// errOther: this member agreed to another founder meanwhile.
var errOther = errors.New("limpet: the founding of another cluster came in between")

type formRequest struct {
	Cluster uint64       `json:"cluster"`
	Members []peer.Hello `json:"members"` // all founders, so that they find each other
}

// underWay returns a Start if this member has agreed to a founding that has
// begun: the others count on it.
func (l *Local) underWay(seen others) *Start {
	id := l.Identity()
	if !id.Forming {
		return nil
	}
	for _, d := range slices.Concat(seen.empty, seen.settled) {
		if d.Cluster == id.Cluster && (d.Stage == stageBegun || d.Index > 0) && d.founders(id.Member) {
			l.setStage(stageIn)
			return &Start{}
		}
	}
	return nil
}

// founders reports whether id is a member, or may be: nobody knows before the
// cluster has its name.
func (d *Description) founders(id uint64) bool {
	return len(d.Members) == 0 || slices.ContainsFunc(d.Members, func(m *txn.Member) bool { return m.ID == id })
}

func (l *Local) setStage(s Stage) {
	l.mu.Lock()
	l.stage = s
	l.mu.Unlock()
}

// advance enters a stage of founding cluster, unless this member has agreed to
// another founder.
func (l *Local) advance(cluster uint64, s Stage) error {
	return l.keep(func(id *Identity) error {
		if id.Cluster != cluster {
			return errOther
		}
		l.setStage(s)
		return nil
	})
}

// found makes this member the founder of a cluster of members.
func (l *Local) found(members []uint64) (*Start, error) {
	err := l.keep(func(id *Identity) error {
		if id.Cluster == 0 {
			id.Cluster = mint()
		}
		id.Forming = true
		return nil
	})
	return &Start{Bootstrap: members}, err
}

func mint() uint64 {
	for {
		if id := rand.Uint64(); id != 0 { // 0 means none
			return id
		}
	}
}

// foundWith founds a cluster with others if this member has the lowest ID;
// else it waits to be asked.
func (l *Local) foundWith(ctx context.Context, with []*Description) (*Start, error) {
	self := l.Identity().Member
	members, hellos := []uint64{self}, []peer.Hello{l.Hello()}
	for _, d := range with {
		switch {
		case d.Stage == stageBegun || d.Index > 0:
			l.wait(fmt.Sprintf("for %s to found the cluster that it has begun", d.Name))
			return nil, nil
		case d.ID < self && d.Stage != stageIn: // who is in does not found any more
			l.wait("for the cluster to be founded")
			return nil, nil
		}
		members, hellos = append(members, d.ID), append(hellos, d.Hello)
		l.cfg.Roster.saw(d.Hello)
	}
	slices.Sort(members)
	start, err := l.found(members)
	if err != nil {
		return nil, err
	}
	if who, err := l.agree(ctx, with, formRequest{l.Identity().Cluster, hellos}); err != nil {
		l.setStage(stageNone)
		l.wait("for " + who + " to take part in founding the cluster")
		l.log.Debug("a member does not take part", "member", who, "error", err)
		return nil, nil
	}
	l.log.Info("founding a cluster", "cluster", fmt.Sprintf("%x", l.Identity().Cluster), "members", len(members))
	return start, nil
}

// agree gets the agreement of all before anything begins: who has not agreed
// could found another cluster. On error it names who does not.
func (l *Local) agree(ctx context.Context, with []*Description, req formRequest) (string, error) {
	for _, s := range []Stage{stageAsks, stageSure} {
		if err := l.advance(req.Cluster, s); err != nil {
			return l.cfg.Name, err
		}
		if who, err := l.askAll(ctx, with, req); err != nil {
			return who, err
		}
	}
	if err := l.advance(req.Cluster, stageBegun); err != nil {
		return l.cfg.Name, err
	}
	_, _ = l.askAll(ctx, with, req) // so that they look now; they would soon by themselves
	return "", nil
}

// askAll asks all to take part, at once, and names one that does not.
func (l *Local) askAll(ctx context.Context, with []*Description, req formRequest) (who string, err error) {
	ctx, cancel := context.WithTimeout(ctx, askFor)
	defer cancel()
	errs := make([]error, len(with))
	var wg sync.WaitGroup
	for i, d := range with {
		// Owner: this call; ends with the answer or its deadline.
		wg.Go(func() { errs[i] = l.ask(ctx, d.Address, "Form", req, new(struct{})) })
	}
	wg.Wait()
	for i, err := range errs {
		if err != nil {
			return with[i].Name, err
		}
	}
	return "", nil
}

// serveForm takes part in a cluster that another member founds, as long as
// this one is empty; one answer at a time, so that what is seen still holds
// when it is written down.
func (l *Local) serveForm(ctx context.Context, r *wrapperspb.BytesValue) (*wrapperspb.BytesValue, error) {
	req := new(formRequest)
	if err := json.Unmarshal(r.Value, req); err != nil || req.Cluster == 0 {
		return nil, status.Error(codes.InvalidArgument, "limpet: a founding without a cluster")
	}
	select {
	case l.forms <- struct{}{}:
		defer func() { <-l.forms }()
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	seen := l.Identity()
	founder, _ := peer.From(ctx)
	if err := l.mayForm(ctx, req, founder.ID); err != nil {
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	}
	err := l.keep(func(id *Identity) error {
		if *id != seen {
			return errOther
		}
		id.Cluster, id.Forming = req.Cluster, true
		return nil
	})
	if err != nil {
		return nil, status.Errorf(codes.Internal, "%v", err)
	}
	for _, h := range req.Members {
		if h.ID != seen.Member {
			l.cfg.Roster.saw(h)
		}
	}
	l.Wake()
	return answer(struct{}{})
}

// mayForm says why this member cannot take part in a founding.
func (l *Local) mayForm(ctx context.Context, req *formRequest, founder uint64) error {
	d := l.Description()
	switch {
	case d.Settled():
		return fmt.Errorf("limpet: %s belongs to cluster %x", d.Name, d.Cluster)
	case d.Cluster == req.Cluster:
		return nil
	case !l.expects(len(req.Members)):
		return fmt.Errorf("limpet: %s was not started to found a cluster of %d members", d.Name, len(req.Members))
	case d.Cluster == 0:
		return nil
	case d.keepsTo(d.Cluster, founder):
		return fmt.Errorf("limpet: %s founds cluster %x itself", d.Name, d.Cluster)
	}
	ctx, cancel := context.WithTimeout(ctx, lookAgain)
	defer cancel()
	seen := l.look(ctx, l.cfg.Roster.addresses(d.ID))
	for _, o := range slices.Concat(seen.empty, seen.settled) {
		if o.ID != founder && o.keepsTo(d.Cluster, founder) {
			return fmt.Errorf("limpet: %s takes part in founding cluster %x with %s", d.Name, d.Cluster, o.Name)
		}
	}
	return nil
}

// keepsTo reports whether the member, of cluster or founding it, does not make
// way for another founder.
func (d *Description) keepsTo(cluster, founder uint64) bool {
	if d.Cluster != cluster {
		return false
	}
	return d.Index > 0 || d.Settled() || d.Stage == stageSure || d.Stage == stageBegun || d.Stage == stageAsks && d.ID < founder
}

// expects reports whether this member was started to found a cluster of n.
func (l *Local) expects(n int) bool {
	switch {
	case l.cfg.Existing:
		return false
	case len(l.cfg.Static) > 1:
		return n == len(l.cfg.Static)
	}
	return l.cfg.Expect > 1 && n == l.cfg.Expect
}

// first are the members of a new cluster as far as this one knows them.
func (l *Local) first(servers []uint64) []*txn.Member {
	var out []*txn.Member
	for _, id := range servers {
		seen := l.cfg.Roster.sighting(id)
		m := &txn.Member{ID: id, Name: seen.Name} // with a name, as it has started
		if seen.Address != "" {
			m.PeerURLs = []string{l.cfg.Scheme + "://" + seen.Address}
		}
		if id == l.Identity().Member {
			m = l.record()
		}
		out = append(out, m)
	}
	return out
}
