package txn

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"limpet/auth"
	"limpet/sqlstore"
	"limpet/v2tree"
)

// MaxLeaseTTL is etcd's bound in seconds.
const MaxLeaseTTL = 9_000_000_000

// Kinds of records in the store.
const (
	recordLease    = "lease"
	recordAlarm    = "alarm"
	recordMember   = "member"
	recordRemoved  = "removed"
	recordCluster  = "cluster"
	recordRotation = "rotation"
)

// State is everything the cluster has agreed on. It belongs to one goroutine;
// Effects tells others what they may know of it.
type State struct {
	kv     *sqlstore.Writer
	leases map[int64]int64 // id to granted TTL in seconds
	alarms map[Alarm]bool
	rules  *auth.Rules
	v2     *v2tree.Tree
	membership
	effects Effects
}

// Moment is when a command is applied.
type Moment struct {
	Index     uint64 // of its log entry
	UnixMilli int64  // the clock of the member that proposed it
}

// Alarm is one raised alarm.
type Alarm struct {
	Member uint64
	Type   pb.AlarmType
}

// name is that of its record.
func (a Alarm) name() string { return fmt.Sprintf("%x/%s", a.Member, a.Type) }

// Effects is what commands changed beside keys, since the last TakeEffects.
type Effects struct {
	Leases  []LeaseChange // in their order: an ID may be granted again
	Alarms  bool          // the set of alarms changed
	Members bool          // the set of members changed
	Rules   bool          // users, roles or permissions changed
	V2      bool          // the v2 keyspace changed, or its counts
	// V2Events are the changes of the v2 keyspace, more of them than it may keep.
	V2Events []*v2tree.Event
	Tokens   []auth.TokenChange
	Ops      Ops
}

// Ops counts what commands did, as etcd's mvcc counters do: operations, not
// keys. A command with more than one operation counts as a transaction, too.
type Ops struct {
	Puts, Deletes, Ranges, Txns int64
	PutBytes                    int64 // keys and values
}

func (o Ops) total() int64 { return o.Puts + o.Deletes + o.Ranges }

// Lease is a lease's id and its granted time to live in seconds.
type Lease struct {
	ID, TTL int64
}

// LeaseChange is that a lease was granted, or revoked.
type LeaseChange struct {
	Lease
	Revoked bool
}

type leaseRecord struct {
	TTL int64 `json:"ttl"`
}

// LeaseRecord is how a store keeps that a lease exists.
func LeaseRecord(l Lease) (kind, name string, data []byte) {
	data, _ = json.Marshal(leaseRecord{TTL: l.TTL}) // a number cannot fail to marshal
	return recordLease, strconv.FormatInt(l.ID, 10), data
}

// Load reads the state that belongs to the store.
func Load(store *sqlstore.Store) (*State, error) {
	st := &State{
		kv:         store.Writer(),
		leases:     make(map[int64]int64),
		alarms:     make(map[Alarm]bool),
		rules:      auth.NewRules(),
		v2:         v2tree.New(store.Writer()),
		membership: membership{members: make(map[uint64]*Member), removed: make(map[uint64]bool)},
	}
	err := errors.Join(
		store.Records(recordLease, func(name string, data []byte) error {
			id, err := strconv.ParseInt(name, 10, 64)
			if err != nil {
				return fmt.Errorf("lease record %q: %w", name, err)
			}
			var r leaseRecord
			err = json.Unmarshal(data, &r)
			st.leases[id] = r.TTL
			return err
		}),
		store.Records(recordAlarm, func(name string, data []byte) error {
			var a Alarm
			err := json.Unmarshal(data, &a)
			st.alarms[a] = true
			return err
		}),
		store.Records(recordMember, st.loadMember),
		store.Records(recordRemoved, st.loadRemoved),
		store.Records(recordCluster, st.loadCluster),
		store.Records(recordRotation, st.loadRotation),
		st.loadRules(store),
		st.loadV2(store))
	if err != nil {
		return nil, fmt.Errorf("read the records: %w", err)
	}
	return st, nil
}

// TakeEffects returns the effects since the last call.
func (st *State) TakeEffects() Effects {
	e := st.effects
	st.effects = Effects{}
	return e
}

// Leases lists all leases by id.
func (st *State) Leases() []Lease {
	out := make([]Lease, 0, len(st.leases))
	for id, ttl := range st.leases {
		out = append(out, Lease{id, ttl})
	}
	slices.SortFunc(out, func(a, b Lease) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

// Alarms lists the raised alarms by type, then member.
func (st *State) Alarms() []Alarm {
	out := make([]Alarm, 0, len(st.alarms))
	for a := range st.alarms {
		out = append(out, a)
	}
	slices.SortFunc(out, func(a, b Alarm) int {
		return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.Member, b.Member))
	})
	return out
}

// admit is the one guard before any change.
func (st *State) admit(cmd Command) error {
	if len(st.alarms) == 0 {
		return nil
	}
	return Admit(slices.Collect(maps.Keys(st.alarms)), cmd)
}

// Admit returns an error if a raised alarm forbids a command (etcd's corrupt and
// capped appliers).
func Admit(alarms []Alarm, cmd Command) error {
	raised := func(t pb.AlarmType) bool {
		return slices.ContainsFunc(alarms, func(a Alarm) bool { return a.Type == t })
	}
	if raised(pb.AlarmType_CORRUPT) {
		switch cmd.(type) {
		case *pb.PutRequest, *pb.DeleteRangeRequest, *pb.TxnRequest, *pb.CompactionRequest,
			*pb.LeaseGrantRequest, *pb.LeaseRevokeRequest:
			return ErrCorrupt
		}
	}
	if q, ok := cmd.(*v2tree.Request); ok && q.Adds() && raised(pb.AlarmType_CORRUPT) {
		return ErrCorrupt
	}
	if raised(pb.AlarmType_NOSPACE) && Cost(cmd) > 0 {
		return ErrNoSpace
	}
	return nil
}

// Apply executes one command. Its response is one of etcd's response messages,
// Membership or *RulesChange. On error nothing has changed.
func (st *State) Apply(cmd Command, at Moment) (resp any, err error) {
	caller := auth.Caller{} // nobody
	if as, ok := cmd.(*As); ok {
		caller, cmd = as.Caller, as.Command
	}
	if err := st.admit(cmd); err != nil {
		return nil, err
	}
	if err := st.permit(caller, cmd); err != nil {
		return nil, err
	}
	st.kv.Begin(at.UnixMilli)
	before := st.effects.Ops.total()
	resp, err = st.execute(caller, cmd, at)
	st.kv.End()
	if st.effects.Ops.total() > before+1 {
		st.effects.Ops.Txns++
	}
	return resp, err
}

func (st *State) execute(caller auth.Caller, cmd Command, at Moment) (resp any, err error) {
	switch c := cmd.(type) {
	case *pb.PutRequest:
		return st.put(c)
	case *pb.DeleteRangeRequest:
		return st.deleteRange(c)
	case *pb.TxnRequest:
		return st.txn(c)
	case *pb.CompactionRequest:
		return st.compact(c)
	case *pb.LeaseGrantRequest:
		return st.leaseGrant(c)
	case *pb.LeaseRevokeRequest:
		return st.leaseRevoke(c)
	case *pb.AlarmRequest:
		return st.alarm(c), nil
	case *Found, *Member, *MemberAdd, *MemberRemove, *MemberUpdate, *MemberPromote, *MemberRelease, *RotationStep:
		return st.applyMembership(c)
	case *Login:
		return st.login(caller, c, at.Index)
	case *v2tree.Request, *v2tree.Expire:
		return st.applyV2(c)
	}
	return st.applyRules(cmd)
}

// applyMembership answers with all members.
func (st *State) applyMembership(cmd Command) (resp any, err error) {
	switch c := cmd.(type) {
	case *Found:
		err = st.found(c)
	case *Member:
		err = st.report(c)
	case *MemberAdd:
		err = st.memberAdd(c)
	case *MemberRemove:
		err = st.memberRemove(c)
	case *MemberUpdate:
		err = st.memberUpdate(c)
	case *MemberPromote:
		err = st.memberPromote(c)
	case *MemberRelease:
		err = st.memberRelease(c)
	case *RotationStep:
		err = st.rotate(c)
	}
	if err != nil {
		return nil, err
	}
	return Membership(st.Members()), nil
}

// Cost estimates what a command adds to the database, in bytes; 0 for one that
// adds nothing (etcd BackendQuota.Cost).
func Cost(cmd Command) int {
	const leaseOverhead = 64
	switch c := cmd.(type) {
	case *pb.PutRequest:
		return costPut(c)
	case *pb.TxnRequest:
		return costTxn(c)
	case *pb.LeaseGrantRequest:
		return leaseOverhead
	case *v2tree.Request:
		return costV2(c)
	}
	return 0
}

func costPut(r *pb.PutRequest) int {
	const kvOverhead = 256
	return kvOverhead + len(r.Key) + len(r.Value)
}

func costTxn(r *pb.TxnRequest) int { return max(costOps(r.Success), costOps(r.Failure)) }

func costOps(ops []*pb.RequestOp) int {
	n := 0
	for _, op := range ops {
		if p := op.GetRequestPut(); p != nil {
			n += costPut(p)
		}
		if t := op.GetRequestTxn(); t != nil {
			n += costTxn(t)
		}
	}
	return n
}

func (st *State) compact(r *pb.CompactionRequest) (*pb.CompactionResponse, error) {
	switch err := st.kv.Compact(r.Revision); {
	case errors.Is(err, sqlstore.ErrCompacted):
		return nil, ErrCompacted
	case errors.Is(err, sqlstore.ErrFuture):
		return nil, ErrFutureRev
	}
	return &pb.CompactionResponse{Header: st.header()}, nil
}

func (st *State) leaseGrant(r *pb.LeaseGrantRequest) (*pb.LeaseGrantResponse, error) {
	if r.TTL > MaxLeaseTTL {
		return nil, ErrLeaseTTLTooLong
	}
	if _, exists := st.leases[r.ID]; exists {
		return nil, ErrLeaseExists
	}
	st.leases[r.ID] = r.TTL
	st.kv.SetRecord(LeaseRecord(Lease{r.ID, r.TTL}))
	st.effects.Leases = append(st.effects.Leases, LeaseChange{Lease: Lease{r.ID, r.TTL}})
	return &pb.LeaseGrantResponse{Header: st.header(), ID: r.ID, TTL: r.TTL}, nil
}

// leaseRevoke deletes the lease and, in one revision, its keys in key order.
func (st *State) leaseRevoke(r *pb.LeaseRevokeRequest) (*pb.LeaseRevokeResponse, error) {
	if _, ok := st.leases[r.ID]; !ok {
		return nil, ErrLeaseNotFound
	}
	keys := st.kv.View().Store().LeaseKeys(r.ID)
	slices.Sort(keys)
	for _, k := range keys {
		st.kv.Delete(k)
	}
	st.effects.Ops.Deletes += int64(len(keys))
	delete(st.leases, r.ID)
	st.kv.DeleteRecord(recordLease, strconv.FormatInt(r.ID, 10))
	st.effects.Leases = append(st.effects.Leases, LeaseChange{Lease: Lease{ID: r.ID}, Revoked: true})
	return &pb.LeaseRevokeResponse{Header: st.header()}, nil
}

func (st *State) alarm(r *pb.AlarmRequest) *pb.AlarmResponse {
	resp := &pb.AlarmResponse{Header: st.header()}
	a := Alarm{r.MemberID, r.Alarm}
	switch {
	case r.Action == pb.AlarmRequest_ACTIVATE && r.Alarm != pb.AlarmType_NONE:
		if !st.alarms[a] {
			data, _ := json.Marshal(a) // two numbers cannot fail to marshal
			st.alarms[a] = true
			st.kv.SetRecord(recordAlarm, a.name(), data)
			st.effects.Alarms = true
		}
	case r.Action == pb.AlarmRequest_DEACTIVATE && st.alarms[a]:
		delete(st.alarms, a)
		st.kv.DeleteRecord(recordAlarm, a.name())
		st.effects.Alarms = true
	default:
		return resp
	}
	resp.Alarms = []*pb.AlarmMember{{MemberID: a.Member, Alarm: a.Type}}
	return resp
}

// header carries the revision after all changes of the command so far.
func (st *State) header() *pb.ResponseHeader {
	return &pb.ResponseHeader{Revision: st.kv.View().Rev()}
}
