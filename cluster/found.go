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

// founding is this member's part in it, as the founder or as one who is asked.
type founding struct {
	me    *standing
	line  *line
	forms chan struct{} // holds one: a founder is being answered
}

type formRequest struct {
	Cluster uint64       `json:"cluster"`
	Members []peer.Hello `json:"members"` // all founders, so that they find each other
}

// underWay returns a Start if this member has agreed to a founding that has
// begun: the others count on it.
func (f *founding) underWay(seen others) *Start {
	id := f.me.Identity()
	if !id.Forming {
		return nil
	}
	for _, d := range slices.Concat(seen.empty, seen.settled) {
		if d.Cluster == id.Cluster && (d.Stage == stageBegun || d.Index > 0) && d.founders(id.Member) {
			f.me.setStage(stageIn)
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

// found makes this member the founder of a cluster of members.
func (f *founding) found(members []uint64) (*Start, error) {
	err := f.me.keep(func(id *Identity) error {
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
func (f *founding) foundWith(ctx context.Context, with []*Description) (*Start, error) {
	self := f.me.Identity().Member
	members, hellos := []uint64{self}, []peer.Hello{f.me.Hello()}
	for _, d := range with {
		switch {
		case d.Stage == stageBegun || d.Index > 0:
			f.me.wait(fmt.Sprintf("for %s to found the cluster that it has begun", d.Name))
			return nil, nil
		case d.ID < self && d.Stage != stageIn: // who is in does not found any more
			f.me.wait("for the cluster to be founded")
			return nil, nil
		}
		members, hellos = append(members, d.ID), append(hellos, d.Hello)
		f.me.cfg.Roster.saw(d.Hello)
	}
	slices.Sort(members)
	start, err := f.found(members)
	if err != nil {
		return nil, err
	}
	if who, err := f.agree(ctx, with, formRequest{f.me.Identity().Cluster, hellos}); err != nil {
		f.me.setStage(stageNone)
		f.me.wait("for " + who + " to take part in founding the cluster")
		f.me.log.Debug("a member does not take part", "member", who, "error", err)
		return nil, nil
	}
	f.me.log.Info("founding a cluster", "cluster", fmt.Sprintf("%x", f.me.Identity().Cluster), "members", len(members))
	return start, nil
}

// agree gets the agreement of all before anything begins: who has not agreed
// could found another cluster. On error it names who does not.
func (f *founding) agree(ctx context.Context, with []*Description, req formRequest) (string, error) {
	for _, s := range []Stage{stageAsks, stageSure} {
		if err := f.me.advance(req.Cluster, s); err != nil {
			return f.me.cfg.Name, err
		}
		if who, err := f.askAll(ctx, with, req); err != nil {
			return who, err
		}
	}
	if err := f.me.advance(req.Cluster, stageBegun); err != nil {
		return f.me.cfg.Name, err
	}
	_, _ = f.askAll(ctx, with, req) // so that they look now; they would soon by themselves
	return "", nil
}

// askAll asks all to take part, at once, and names one that does not.
func (f *founding) askAll(ctx context.Context, with []*Description, req formRequest) (who string, err error) {
	ctx, cancel := context.WithTimeout(ctx, askFor)
	defer cancel()
	errs := make([]error, len(with))
	var wg sync.WaitGroup
	for i, d := range with {
		// Owner: this call; ends with the answer or its deadline.
		wg.Go(func() { errs[i] = f.line.ask(ctx, d.Address, "Form", req, new(struct{})) })
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
func (f *founding) serveForm(ctx context.Context, r *wrapperspb.BytesValue) (*wrapperspb.BytesValue, error) {
	req := new(formRequest)
	if err := json.Unmarshal(r.Value, req); err != nil || req.Cluster == 0 {
		return nil, status.Error(codes.InvalidArgument, "limpet: a founding without a cluster")
	}
	select {
	case f.forms <- struct{}{}:
		defer func() { <-f.forms }()
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	seen := f.me.Identity()
	founder, _ := peer.From(ctx)
	if err := f.mayForm(ctx, req, founder.ID); err != nil {
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	}
	err := f.me.keep(func(id *Identity) error {
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
			f.me.cfg.Roster.saw(h)
		}
	}
	f.me.Wake()
	return answer(struct{}{})
}

// mayForm says why this member cannot take part in a founding.
func (f *founding) mayForm(ctx context.Context, req *formRequest, founder uint64) error {
	d := f.me.Description()
	switch {
	case d.Settled():
		return fmt.Errorf("limpet: %s belongs to cluster %x", d.Name, d.Cluster)
	case d.Cluster == req.Cluster:
		return nil
	case !f.expects(len(req.Members)):
		return fmt.Errorf("limpet: %s was not started to found a cluster of %d members", d.Name, len(req.Members))
	case d.Cluster == 0:
		return nil
	case d.keepsTo(d.Cluster, founder):
		return fmt.Errorf("limpet: %s founds cluster %x itself", d.Name, d.Cluster)
	}
	ctx, cancel := context.WithTimeout(ctx, lookAgain)
	defer cancel()
	seen := f.line.look(ctx, f.me.cfg.Roster.addresses(d.ID))
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
func (f *founding) expects(n int) bool {
	switch {
	case f.me.cfg.Existing:
		return false
	case len(f.me.cfg.Static) > 1:
		return n == len(f.me.cfg.Static)
	}
	return f.me.cfg.Expect > 1 && n == f.me.cfg.Expect
}
