package auth

import (
	"cmp"
	"slices"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// Caller is who asks, as found out when the request came. The zero Caller is
// nobody.
type Caller struct {
	User     string
	Revision uint64 // of the rules when it was looked up, or that its JWT names
}

// LeaseKeys lists the keys that are attached to a lease.
type LeaseKeys func(lease int64) []string

// Known returns an error if the caller is nobody.
func (r *Rules) Known(c Caller) error {
	if r.enabled && c == (Caller{}) {
		return ErrUserEmpty
	}
	return nil
}

// Admin returns an error unless the caller has the root role.
func (r *Rules) Admin(c Caller) error {
	switch {
	case !r.enabled:
		return nil
	case c.User == "":
		return ErrUserEmpty
	case r.users[c.User] == nil:
		return ErrUserNotFound
	case !r.HasRole(c.User, Root):
		return ErrDenied
	}
	return nil
}

// Read returns an error unless the caller may read the keys from key to end, or
// just key if end is empty.
func (r *Rules) Read(c Caller, key, end []byte) error {
	return r.permits(c, key, end, func(g *grants) spans { return g.read })
}

// Write is Read for changing keys.
func (r *Rules) Write(c Caller, key, end []byte) error {
	return r.permits(c, key, end, func(g *grants) spans { return g.write })
}

func (r *Rules) permits(c Caller, key, end []byte, of func(*grants) spans) error {
	switch {
	case !r.enabled:
		return nil
	case c.Revision == 0:
		return ErrUserEmpty
	case c.Revision < r.revision:
		return ErrOldRevision
	case r.users[c.User] == nil:
		return ErrDenied
	case r.HasRole(c.User, Root), of(r.granted(c.User)).cover(key, end):
		return nil
	}
	return ErrDenied
}

// Put returns an error unless the caller may do a put: attached to a lease, it
// must be able to revoke that, too.
func (r *Rules) Put(c Caller, q *pb.PutRequest, keys LeaseKeys) error {
	err := r.Write(c, q.Key, nil)
	if err == nil && q.Lease != 0 {
		err = r.Lease(c, keys(q.Lease))
	}
	if err == nil && q.PrevKv {
		err = r.Read(c, q.Key, nil)
	}
	return err
}

// Delete returns an error unless the caller may do a deletion.
func (r *Rules) Delete(c Caller, q *pb.DeleteRangeRequest) error {
	err := r.Write(c, q.Key, q.RangeEnd)
	if err == nil && q.PrevKv {
		err = r.Read(c, q.Key, q.RangeEnd)
	}
	return err
}

// Lease returns an error unless the caller may write all keys of a lease.
func (r *Rules) Lease(c Caller, keys []string) error {
	return r.all(keys, c, r.Write)
}

// ReadLease returns an error unless the caller may read all keys of a lease.
func (r *Rules) ReadLease(c Caller, keys []string) error {
	return r.all(keys, c, r.Read)
}

func (r *Rules) all(keys []string, c Caller, may func(c Caller, key, end []byte) error) error {
	if r.Admin(c) == nil { // also while nothing is checked
		return nil
	}
	for _, k := range keys {
		if err := may(c, []byte(k), nil); err != nil {
			return err
		}
	}
	return nil
}

// Txn returns an error unless the caller may do all that a transaction compares,
// and all operations of both its branches.
func (r *Rules) Txn(c Caller, q *pb.TxnRequest, keys LeaseKeys) error {
	if !r.enabled {
		return nil
	}
	for _, cmp := range q.Compare {
		if err := r.Read(c, cmp.Key, cmp.RangeEnd); err != nil {
			return err
		}
	}
	for _, ops := range [][]*pb.RequestOp{q.Success, q.Failure} {
		for _, op := range ops {
			if err := r.op(c, op, keys); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *Rules) op(c Caller, op *pb.RequestOp, keys LeaseKeys) error {
	switch o := op.Request.(type) {
	case *pb.RequestOp_RequestRange:
		return r.Read(c, o.RequestRange.Key, o.RequestRange.RangeEnd)
	case *pb.RequestOp_RequestPut:
		return r.Put(c, o.RequestPut, keys)
	case *pb.RequestOp_RequestDeleteRange:
		return r.Delete(c, o.RequestDeleteRange)
	case *pb.RequestOp_RequestTxn:
		return r.Txn(c, o.RequestTxn, keys)
	}
	return nil
}

// grants is all that a user's roles permit, merged.
type grants struct{ read, write spans }

// spans are disjoint, not adjacent, and sorted.
type spans []span

// span is the keys from key up to end, without end.
type span struct {
	key, end string
	open     bool // there is no end
}

func openEnd(end []byte) bool { return len(end) == 1 && end[0] == 0 }

func spanOf(key, end []byte) span {
	switch {
	case openEnd(end):
		return span{key: string(key), open: true}
	case len(end) == 0:
		return span{key: string(key), end: string(key) + "\x00"}
	}
	return span{key: string(key), end: string(end)}
}

// granted is what the roles of a user permit.
func (r *Rules) granted(user string) *grants { return r.mergedFor(user, r.users[user].Roles) }

// mergedFor merges what the roles of somebody permit, once for these rules.
func (r *Rules) mergedFor(who any, roles []string) *grants {
	if g, ok := r.grants.Load(who); ok {
		return g.(*grants)
	}
	g := new(grants)
	for _, name := range roles {
		role := r.roles[name]
		if role == nil {
			continue
		}
		for _, p := range role.Perms {
			s := spanOf(p.Key, p.End)
			if p.Type == authpb.Permission_READ || p.Type == authpb.Permission_READWRITE {
				g.read = append(g.read, s)
			}
			if p.Type == authpb.Permission_WRITE || p.Type == authpb.Permission_READWRITE {
				g.write = append(g.write, s)
			}
		}
	}
	g.read, g.write = g.read.merge(), g.write.merge()
	r.grants.Store(who, g)
	return g
}

func (s spans) merge() spans {
	slices.SortFunc(s, func(a, b span) int { return cmp.Compare(a.key, b.key) })
	var out spans
	for _, next := range s {
		if n := len(out); n > 0 && (out[n-1].open || next.key <= out[n-1].end) {
			last := &out[n-1]
			last.open = last.open || next.open
			last.end = max(last.end, next.end)
			continue
		}
		out = append(out, next)
	}
	return out
}

// cover reports whether all keys from key to end are in s.
func (s spans) cover(key, end []byte) bool {
	want := spanOf(key, end)
	i, found := slices.BinarySearchFunc(s, want.key, func(sp span, key string) int { return cmp.Compare(sp.key, key) })
	if !found {
		i--
	}
	if i < 0 {
		return false
	}
	has := s[i]
	// A range that ends before it begins is empty; as in etcd it still needs its
	// first key.
	return has.open || !want.open && want.key < has.end && want.end <= has.end
}
