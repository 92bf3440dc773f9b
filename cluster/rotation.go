package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"limpet/peer"
	"limpet/raftfsm"
	"limpet/txn"
)

// Tokens keeps the cluster's tokens at this member; fingerprints name them. All
// methods may be called concurrently, and what they change is durable when they
// return.
type Tokens interface {
	// Fingerprints names the tokens that are trusted, the one in use first.
	Fingerprints() []string
	// Reveal is a token as text, if it is trusted.
	Reveal(fingerprint string) (text string, ok bool)
	// Mint makes a new token, and trusts it.
	Mint() (fingerprint string, err error)
	// Add trusts a token of another member, if the text has that fingerprint.
	Add(fingerprint, text string) error
	// Use takes a trusted token in use.
	Use(fingerprint string) error
	// Drop trusts a token no more that is not in use.
	Drop(fingerprint string) error
}

// rotationFormat is the format of log entries from which on all members
// understand a rotation.
const rotationFormat = 4

// rotation replaces the cluster's token by another one, while all goes on:
//
//  1. The member that is asked to makes the new token, stores it, and has the
//     log say that the cluster goes from the old to the new.
//  2. Every member fetches the new one, over the peer port, from one that has it,
//     stores it, and trusts both. When all members have it, the leader has the
//     log say that the cluster has switched.
//  3. Every member takes the new one in use, and goes on trusting the old.
//  4. An operator ends it: when all members show the new token, the log says so,
//     and every member drops the old one.
//
// The log and the tokens of each member say at any moment what is to be done
// next, so a crash anywhere only delays it. Invariant: nobody uses a token that
// another member does not trust.
type rotation struct {
	me   *standing
	line *line

	said string // the trouble last logged; of the goroutine of Run

	// begins is held while a new token is made and proposed: until that is agreed
	// on it looks like one that is left over.
	begins sync.Mutex
}

// follow brings this member to where the cluster is.
func (r *rotation) follow(ctx context.Context, n *raftfsm.Node) {
	if r.me.cfg.Tokens == nil {
		return
	}
	trouble := ""
	if err := r.catchUp(ctx, n); err != nil {
		trouble = plain(err)
	}
	if trouble != "" && trouble != r.said {
		r.me.log.Warn("the new token is not in order here yet; trying again", "error", trouble)
	}
	r.said = trouble
}

func (r *rotation) catchUp(ctx context.Context, n *raftfsm.Node) error {
	tokens, now := r.me.cfg.Tokens, n.Membership().Rotation
	held := tokens.Fingerprints()
	old, fresh := slices.Contains(held, now.From), slices.Contains(held, now.To)
	if err := r.dropLeftOver(n, now); err != nil {
		return err
	}
	if !old && !fresh {
		return nil // there was no rotation, or an operator gave all another token
	}
	if !fresh {
		if err := r.fetch(ctx, n, now.To); err != nil {
			return err
		}
		r.me.log.Info("the cluster's token is being replaced: this member has the new one", "from", now.From, "to", now.To)
	}
	if now.Phase != txn.RotationGathers && held[0] != now.To {
		if err := tokens.Use(now.To); err != nil {
			return err
		}
		r.me.log.Info("the new token is in use; the old one is trusted until limpet token rotate --finish", "from", now.From, "to", now.To)
	}
	if now.Phase == txn.RotationDone && old {
		if err := tokens.Drop(now.From); err != nil {
			return err
		}
		r.me.log.Info("the old token is not trusted any more", "from", now.From, "to", now.To)
	}
	return nil
}

// dropLeftOver trusts no token that belongs to no rotation: one that was made and
// not agreed on, or of a rotation that another one took the place of. Somebody may
// have had it meanwhile.
func (r *rotation) dropLeftOver(n *raftfsm.Node, now txn.Rotation) error {
	select {
	case <-n.Ready():
	default:
		return nil // now may be old
	}
	if !r.begins.TryLock() {
		return nil
	}
	defer r.begins.Unlock()
	for _, fp := range r.me.cfg.Tokens.Fingerprints()[1:] {
		if fp == now.To || fp == now.From && now.Phase != txn.RotationDone {
			continue
		}
		if err := r.me.cfg.Tokens.Drop(fp); err != nil {
			return err
		}
		if fp != now.From {
			r.me.log.Info("a token that was made and never used is not trusted any more", "token", fp)
		}
	}
	return nil
}

// fetch gets a token from a member that has it.
func (r *rotation) fetch(ctx context.Context, n *raftfsm.Node, fingerprint string) error {
	ctx, cancel := context.WithTimeout(ctx, askFor)
	defer cancel()
	var last error
	for id, d := range r.line.describeAll(ctx, n.Membership()) {
		if !slices.Contains(d.Tokens, fingerprint) {
			continue
		}
		out := new(wrapperspb.BytesValue)
		if last = r.line.port.Invoke(ctx, id, memberPath+"Token", wrapperspb.Bytes([]byte(fingerprint)), out); last == nil {
			return r.me.cfg.Tokens.Add(fingerprint, string(out.Value))
		}
	}
	if last == nil {
		last = errors.New("no member that answers has it")
	}
	return fmt.Errorf("the new token %s could not be fetched: %w", fingerprint, last)
}

// serveToken gives a token to another member. It has shown to have a token that
// is trusted here.
func (r *rotation) serveToken(ctx context.Context, req *wrapperspb.BytesValue) (*wrapperspb.BytesValue, error) {
	n := r.me.node.Load()
	who, _ := peer.From(ctx)
	if n == nil || n.Membership().Member(who.ID) == nil {
		return nil, status.Error(codes.PermissionDenied, "limpet: tokens are for members")
	}
	if r.me.cfg.Tokens != nil {
		if text, ok := r.me.cfg.Tokens.Reveal(string(req.Value)); ok {
			return wrapperspb.Bytes([]byte(text)), nil
		}
	}
	return nil, status.Error(codes.NotFound, "limpet: this member does not have the token")
}

// lead switches the cluster once all members have the new token.
func (r *rotation) lead(ctx context.Context, n *raftfsm.Node) {
	now := n.Membership().Rotation
	if now.Phase != txn.RotationGathers || r.me.cfg.Tokens == nil {
		return
	}
	if len(r.behind(ctx, n, func(held []string) bool { return slices.Contains(held, now.To) })) > 0 {
		return // limpet status says who
	}
	if err := r.step(ctx, n, now, txn.RotationSwitched); err != nil {
		r.me.log.Debug("the cluster has not switched to the new token yet", "error", err)
	}
}

// behind names the members that do not answer, or whose tokens are not ok. Who
// was announced and never came is not waited for.
func (r *rotation) behind(ctx context.Context, n *raftfsm.Node, ok func(held []string) bool) []string {
	ctx, cancel := context.WithTimeout(ctx, askFor)
	defer cancel()
	ms := n.Membership()
	said := r.line.describeAll(ctx, ms)
	var out []string
	for _, m := range ms.Members {
		if d := said[m.ID]; (m.Started() || m.Auto) && (d == nil || !ok(d.Tokens)) {
			out = append(out, m.Name)
		}
	}
	return out
}

func (r *rotation) step(ctx context.Context, n *raftfsm.Node, was txn.Rotation, to txn.RotationPhase) error {
	now := was
	now.Phase = to
	_, err := n.Propose(ctx, &txn.RotationStep{Was: was, Now: now})
	return err
}

// begin begins to replace the token, if that has not begun.
func (r *rotation) begin(ctx context.Context) error {
	n, err := r.ready()
	if err != nil {
		return err
	}
	tokens, ms := r.me.cfg.Tokens, n.Membership()
	held, now := tokens.Fingerprints(), ms.Rotation
	if err := r.mayBegin(ctx, n, ms, held[0]); err != nil {
		if errors.Is(err, errUnderWay) {
			return nil
		}
		return err
	}
	r.begins.Lock()
	defer r.begins.Unlock()
	to, err := tokens.Mint()
	if err != nil {
		return err
	}
	// If this is not agreed on, dropLeftOver drops it.
	_, err = n.Propose(ctx, &txn.RotationStep{Was: now, Now: txn.Rotation{From: held[0], To: to, Phase: txn.RotationGathers}})
	return err
}

// errUnderWay: a rotation has begun, and waits for members.
var errUnderWay = errors.New("the token is being replaced already")

// mayBegin says why the token in use cannot be replaced now.
func (r *rotation) mayBegin(ctx context.Context, n *raftfsm.Node, ms *raftfsm.Membership, inUse string) error {
	now := ms.Rotation
	switch {
	case ms.Format() < rotationFormat:
		return errors.New("some members run an older limpet that cannot replace the token: limpet status shows their versions; upgrade them first")
	case now.Phase == txn.RotationDone && inUse == now.From:
		return errors.New("this member has not finished the rotation before: try again in a moment")
	case inUse != now.From && inUse != now.To, now.Phase == txn.RotationDone:
		return nil
	case now.Phase == txn.RotationSwitched:
		return errors.New("the token was replaced, and the old one is still trusted: end that first with limpet token rotate --finish")
	}
	if slices.Contains(r.me.cfg.Tokens.Fingerprints(), now.To) || r.fetch(ctx, n, now.To) == nil {
		return errUnderWay
	}
	return nil // nobody here has the new one: who made it is gone
}

// finish ends a rotation: the old token is not trusted any more.
func (r *rotation) finish(ctx context.Context) error {
	n, err := r.ready()
	if err != nil {
		return err
	}
	now := n.Membership().Rotation
	switch now.Phase {
	case txn.RotationGathers, txn.RotationSwitched:
	case txn.RotationDone: // whoever has not heard the answer asks again
		return nil
	default:
		return errors.New("the token is not being replaced; limpet token rotate begins that")
	}
	shows := func(held []string) bool { return len(held) > 0 && held[0] == now.To }
	if behind := r.behind(ctx, n, shows); len(behind) > 0 {
		return fmt.Errorf("these members do not use the new token yet: %s; start them, or take them out with limpet member remove, and try again", strings.Join(behind, ", "))
	}
	return r.step(ctx, n, now, txn.RotationDone)
}

// ready is the agreement that this member takes part in, with a token.
func (r *rotation) ready() (*raftfsm.Node, error) {
	switch n := r.me.node.Load(); {
	case r.me.cfg.Tokens == nil:
		return nil, errors.New("this cluster has no token")
	case n == nil || n.Membership().Cluster == 0:
		return nil, errors.New("this member is in no cluster yet")
	default:
		return n, nil
	}
}
