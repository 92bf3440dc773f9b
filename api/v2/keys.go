package v2

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"limpet/api"
	"limpet/auth"
	"limpet/login"
	"limpet/raftfsm"
	"limpet/txn"
	"limpet/v2tree"
)

// bodyPatience is how long a body may take to arrive.
const bodyPatience = time.Minute

// keys serves /v2/keys.
func (f *Face) keys(w http.ResponseWriter, r *http.Request) {
	if !allow(w, r, http.MethodHead, http.MethodGet, http.MethodPut, http.MethodPost, http.MethodDelete) {
		return
	}
	f.sign(w)
	a, err := readForm(w, r)
	switch {
	case err != nil:
		writeError(w, err)
	case a.change != nil:
		f.change(w, r, a)
	case a.wait && !a.quorum:
		f.watch(w, r, a)
	default:
		f.get(w, r, a)
	}
}

// readForm reads what r asks for, but not for ever.
func readForm(w http.ResponseWriter, r *http.Request) (*ask, *v2tree.Error) {
	control := http.NewResponseController(w)
	// Where there are no deadlines, there is no network.
	_ = control.SetReadDeadline(time.Now().Add(bodyPatience))
	a, err := parse(r, time.Now())
	_ = control.SetReadDeadline(time.Time{}) // a watch listens for the client's hanging up
	return a, err
}

// get answers with the node at a path as this member knows it, or after a read
// index as the cluster does.
func (f *Face) get(w http.ResponseWriter, r *http.Request, a *ask) {
	if a.quorum {
		ctx, cancel := f.patience(r)
		defer cancel()
		if err := f.cfg.Node.ReadIndex(ctx); err != nil {
			f.refuse(w, err)
			return
		}
	}
	view, n, missing := f.cfg.Node.V2().Get(a.path)
	// After reading: what counts are the rules that hold then.
	if err := f.mayRead(r, a, n); err != nil {
		f.refuse(w, err)
		return
	}
	if missing != nil {
		writeError(w, missing)
		return
	}
	now := time.Now().UnixNano()
	out := &wireEvent{Action: "get", Node: nodeOnWire(a.path, n, now)}
	if n.Dir {
		out.Node.fill(view, a.path, a.recursive, now)
	}
	f.stamp(w, view.Index())
	writeJSON(w, http.StatusOK, out)
}

// patience is how long r may take. A client that has closed its side of the
// connection may still read the answer, so that alone does not end it.
func (f *Face) patience(r *http.Request) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(r.Context()), f.cfg.Timeout)
}

// mayRead returns an error unless the one who sends r may read what is asked for,
// of which n is what is there, nil if nothing is. With a slash at its end a
// directory is asked for as what is in it: whoever may read all that begins with
// "/app/" may list "/app/", as in etcd, and not read a file /app that way.
func (f *Face) mayRead(r *http.Request, a *ask, n *v2tree.Node) error {
	key := a.path
	if a.slash && (n == nil || n.Dir) {
		key += "/"
	}
	for again := false; ; again = true {
		c, err := f.cfg.Caller(r)
		if err == nil {
			err = f.cfg.Node.Rules().V2(c, key, a.recursive, false)
		}
		if again || !errors.Is(err, auth.ErrOldRevision) { // else they have changed in between
			return err
		}
	}
}

// stamp says of which state the answer is.
func (f *Face) stamp(w http.ResponseWriter, index uint64) {
	h := w.Header()
	h.Set("X-Etcd-Index", strconv.FormatUint(index, 10))
	h.Set("X-Raft-Index", strconv.FormatUint(f.cfg.Node.Committed(), 10))
	h.Set("X-Raft-Term", strconv.FormatUint(f.cfg.Node.Term(), 10))
}

// change answers with what was changed.
func (f *Face) change(w http.ResponseWriter, r *http.Request, a *ask) {
	e, err := f.agree(r, a.change, a.slash)
	if err != nil {
		f.refuse(w, err)
		return
	}
	status := http.StatusOK
	if e.Creates() {
		status = http.StatusCreated
	}
	out := eventOnWire(e)
	if a.brief && !e.Removes() {
		out = &wireEvent{Action: e.Action}
	}
	f.stamp(w, e.Index())
	writeJSON(w, status, out)
}

// agree has the cluster make a change as the one who sends r; once more if the
// rules have changed on the way.
func (f *Face) agree(r *http.Request, q *v2tree.Request, slash bool) (*v2tree.Event, error) {
	ctx, cancel := f.patience(r)
	defer cancel()
	for again := false; ; again = true {
		c, err := f.mayWrite(ctx, r, q, slash)
		if err == nil {
			err = f.cfg.API.CheckQuota(ctx, q)
		}
		if err != nil {
			return nil, err
		}
		var cmd txn.Command = q
		if c != (auth.Caller{}) {
			cmd = &txn.As{Caller: c, Command: q}
		}
		resp, err := f.cfg.Node.Propose(ctx, cmd)
		if err == nil {
			return resp.(*v2tree.Event), nil
		}
		if again || !errors.Is(err, auth.ErrOldRevision) {
			return nil, err
		}
	}
}

// mayWrite finds out who sends r, and refuses at once what that one may not do.
// This member may not have heard of a change of the rules: then it looks again.
// With a slash at its end a directory is asked for as what is in it, as in mayRead.
func (f *Face) mayWrite(ctx context.Context, r *http.Request, q *v2tree.Request, slash bool) (auth.Caller, error) {
	for fresh := false; ; fresh = true {
		c, err := f.cfg.Caller(r)
		if err != nil {
			return c, err
		}
		rules := f.cfg.Node.Rules()
		q.Below = false
		denied := rules.V2(c, q.Key(), q.Recursive, true)
		if denied != nil && slash && q.CanBeBelow() {
			q.Below = true
			denied = rules.V2(c, q.Key(), q.Recursive, true)
		}
		if denied == nil || fresh {
			return c, denied
		}
		if err := f.cfg.Node.ReadIndex(ctx); err != nil {
			return c, err
		}
	}
}

// denials are what is wrong with a caller. etcd does not tell one from another.
var denials = []error{
	auth.ErrDenied, auth.ErrFailed, auth.ErrUserEmpty, auth.ErrUserNotFound, auth.ErrNoPasswordUser, auth.ErrOldRevision,
}

// refuse answers with an error.
func (f *Face) refuse(w http.ResponseWriter, err error) {
	var known *v2tree.Error
	switch {
	case errors.As(err, &known):
	case errors.Is(err, login.ErrTooMany):
		known = v2tree.NewError(v2tree.Unauthorized, "too many logins from this address have failed: try again in a minute", 0)
	case slices.ContainsFunc(denials, func(d error) bool { return errors.Is(err, d) }):
		known = v2tree.NewError(v2tree.Unauthorized, "Insufficient credentials", 0)
	case errors.Is(err, raftfsm.ErrTooLarge):
		known = v2tree.NewError(v2tree.InvalidForm, api.Reason(err), 0)
	case errors.Is(err, raftfsm.ErrUnsent), errors.Is(err, context.DeadlineExceeded):
		known = v2tree.NewError(v2tree.RaftInternal, api.Reason(raftfsm.ErrTimeout), 0)
	default:
		known = v2tree.NewError(v2tree.RaftInternal, strings.TrimPrefix(api.Reason(err), "raftfsm: "), 0)
	}
	writeError(w, known)
}
