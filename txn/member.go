package txn

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
)

// The members are replicated state. raft's own configuration follows it: a
// member enters raft only when it is really there, so that adding one that
// never starts costs no quorum.

// Member is one member of the cluster as etcd's membership calls show it. As a
// command it is a member's report of itself: name, URLs, what it can read and what
// made its data; the other fields of the report are ignored. A report without peer
// URLs leaves them as they are: one that repeated them would undo a change that was
// agreed on after the member looked.
type Member struct {
	ID         uint64   `json:"id"`
	Name       string   `json:"name"` // empty until the member has started
	PeerURLs   []string `json:"peer_urls"`
	ClientURLs []string `json:"client_urls"`
	Learner    bool     `json:"learner,omitempty"`
	// Auto: the member came by itself and becomes a voter when it is ready.
	Auto bool `json:"auto,omitempty"`
	// Replaces is the member whose place this one takes when it is ready, 0 if
	// there is none.
	Replaces uint64 `json:"replaces,omitempty"`
	Version  string `json:"version,omitempty"` // of limpet
	Format   int    `json:"format,omitempty"`  // newest format of log entries that it reads
	// Restored tells which restore of a snapshot made the member's data, 0 if none did,
	// or nobody knows. Reports have it in entries of format 8 (raftfsm).
	Restored uint64 `json:"restored,omitempty"`
}

// Started reports whether the member has ever reported itself.
func (m *Member) Started() bool { return m.Name != "" }

// Found names the cluster and its first members; the first command of a log.
// Recovered is the cluster whose data this one began with, 0 if it began empty.
type Found struct {
	Cluster   uint64    `json:"cluster"`
	Recovered uint64    `json:"recovered,omitempty"`
	Members   []*Member `json:"members"`
}

// MemberAdd adds a member. MaxLearners bounds the learners that were added by
// hand, 0 for no bound.
type MemberAdd struct {
	Member      *Member `json:"member"`
	MaxLearners int     `json:"max_learners,omitempty"`
}

// MemberRemove removes a member for good: its ID never comes back.
type MemberRemove struct {
	ID uint64 `json:"id"`
}

// MemberUpdate gives a member other peer URLs.
type MemberUpdate struct {
	ID       uint64   `json:"id"`
	PeerURLs []string `json:"peer_urls"`
}

// MemberPromote makes a learner a voter, which takes the place of Replaces if
// that is not 0.
type MemberPromote struct {
	ID       uint64 `json:"id"`
	Replaces uint64 `json:"replaces,omitempty"`
}

// MemberRelease lets a member take nobody's place any more.
type MemberRelease struct {
	ID uint64 `json:"id"`
}

// Membership is the response to a change of members: all of them, by ID.
type Membership []*Member

// membership is the part of State that concerns members.
type membership struct {
	cluster  Found // Members is nil
	members  map[uint64]*Member
	removed  map[uint64]bool
	rotation Rotation
}

func (st *State) loadMember(_ string, data []byte) error {
	m := new(Member)
	err := json.Unmarshal(data, m)
	st.members[m.ID] = m
	return err
}

func (st *State) loadRemoved(name string, _ []byte) error {
	id, err := strconv.ParseUint(name, 16, 64)
	st.removed[id] = true
	return err
}

func (st *State) loadCluster(_ string, data []byte) error { return json.Unmarshal(data, &st.cluster) }

// Members lists the members by ID. The members must not be changed.
func (st *State) Members() []*Member {
	return slices.SortedFunc(maps.Values(st.members), func(a, b *Member) int { return cmp.Compare(a.ID, b.ID) })
}

// Removed lists the IDs of removed members, ascending.
func (st *State) Removed() []uint64 { return slices.Sorted(maps.Keys(st.removed)) }

// Cluster is the cluster's ID and the one it was recovered from; 0 if there is
// none.
func (st *State) Cluster() (id, recovered uint64) { return st.cluster.Cluster, st.cluster.Recovered }

func (st *State) found(f *Found) error {
	if st.cluster.Cluster != 0 {
		return ErrFounded
	}
	st.cluster = Found{Cluster: f.Cluster, Recovered: f.Recovered}
	st.kv.SetRecord(recordCluster, "cluster", encode(st.cluster))
	for _, m := range f.Members {
		st.keepMember(m)
	}
	return nil
}

// report takes over what a member says of itself.
func (st *State) report(r *Member) error {
	m, err := st.member(r.ID)
	if err != nil {
		return err
	}
	now := *m
	now.Name, now.ClientURLs, now.Version, now.Format = r.Name, r.ClientURLs, r.Version, r.Format
	if r.Restored != 0 {
		now.Restored = r.Restored
	}
	if len(r.PeerURLs) > 0 {
		now.PeerURLs = r.PeerURLs
	}
	st.keepMember(&now)
	return nil
}

func (st *State) member(id uint64) (*Member, error) {
	if m := st.members[id]; m != nil {
		return m, nil
	}
	if st.removed[id] {
		return nil, ErrMemberRemoved
	}
	return nil, ErrMemberNotFound
}

// memberAdd checks in the order of etcd's ValidateConfigurationChange.
func (st *State) memberAdd(c *MemberAdd) error {
	switch {
	case st.removed[c.Member.ID]:
		return ErrMemberRemoved
	case st.members[c.Member.ID] != nil:
		return ErrMemberExists
	case st.peerURLTaken(c.Member.PeerURLs, c.Member.Replaces):
		return ErrPeerURLExists
	case c.Member.Learner && c.MaxLearners > 0 && st.learners()+1 > c.MaxLearners:
		return ErrTooManyLearners
	}
	st.keepMember(c.Member)
	return nil
}

// learners counts those added by hand.
func (st *State) learners() int {
	n := 0
	for _, m := range st.members {
		if m.Learner && !m.Auto {
			n++
		}
	}
	return n
}

// peerURLTaken reports whether a member other than except has one of urls.
func (st *State) peerURLTaken(urls []string, except uint64) bool {
	for id, m := range st.members {
		if id != except && slices.ContainsFunc(urls, func(u string) bool { return slices.Contains(m.PeerURLs, u) }) {
			return true
		}
	}
	return false
}

func (st *State) memberRemove(c *MemberRemove) error {
	if _, err := st.member(c.ID); err != nil {
		return err
	}
	delete(st.members, c.ID)
	st.removed[c.ID] = true
	name := strconv.FormatUint(c.ID, 16)
	st.kv.DeleteRecord(recordMember, name)
	st.kv.SetRecord(recordRemoved, name, []byte("{}"))
	st.effects.Members = true
	return nil
}

func (st *State) memberUpdate(c *MemberUpdate) error {
	m, err := st.member(c.ID)
	if err != nil {
		return err
	}
	if st.peerURLTaken(c.PeerURLs, c.ID) {
		return ErrPeerURLExists
	}
	now := *m
	now.PeerURLs = c.PeerURLs
	st.keepMember(&now)
	return nil
}

func (st *State) memberPromote(c *MemberPromote) error {
	m, err := st.member(c.ID)
	switch {
	case err != nil:
		return err
	case !m.Learner:
		return ErrNotLearner
	}
	now := *m
	now.Learner, now.Replaces = false, c.Replaces
	st.keepMember(&now)
	return nil
}

func (st *State) memberRelease(c *MemberRelease) error {
	m, err := st.member(c.ID)
	if err != nil {
		return err
	}
	now := *m
	now.Replaces = 0
	st.keepMember(&now)
	return nil
}

func (st *State) keepMember(m *Member) {
	st.members[m.ID] = m
	st.kv.SetRecord(recordMember, strconv.FormatUint(m.ID, 16), encode(m))
	st.effects.Members = true
}

// encode is for what cannot fail to marshal: strings, numbers, lists of them.
func encode(v any) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("txn: encode %T: %v", v, err))
	}
	return data
}

// Recover makes the cluster a new one that consists of member self alone, with
// all the data. It is for a log that will not be continued by anybody else.
func (st *State) Recover(cluster, self uint64) error {
	m, err := st.member(self)
	if err != nil {
		return err
	}
	st.cluster = Found{Cluster: cluster, Recovered: st.cluster.Cluster}
	st.kv.SetRecord(recordCluster, "cluster", encode(st.cluster))
	for id := range st.members {
		if id != self {
			delete(st.members, id)
			st.kv.DeleteRecord(recordMember, strconv.FormatUint(id, 16))
		}
	}
	now := *m
	now.Learner, now.Auto, now.Replaces = false, false, 0
	st.keepMember(&now)
	return nil
}

// Restore makes the cluster a new one of the members that f names, with all the
// data. Nothing of the members before comes along: neither they, nor who was
// removed, nor their alarms, nor how far they were in replacing their token.
func (st *State) Restore(f *Found) {
	for id := range st.members {
		st.kv.DeleteRecord(recordMember, strconv.FormatUint(id, 16))
	}
	for id := range st.removed {
		st.kv.DeleteRecord(recordRemoved, strconv.FormatUint(id, 16))
	}
	for a := range st.alarms {
		st.kv.DeleteRecord(recordAlarm, a.name())
	}
	clear(st.members)
	clear(st.removed)
	clear(st.alarms)
	st.rotation = Rotation{}
	st.kv.DeleteRecord(recordRotation, recordRotation)
	st.cluster = Found{Cluster: f.Cluster}
	st.kv.SetRecord(recordCluster, "cluster", encode(st.cluster))
	for _, m := range f.Members {
		st.keepMember(m)
	}
	st.effects.Alarms = true
}
