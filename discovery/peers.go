package discovery

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

// Status is what gossip makes of a peer.
type Status uint8

const (
	// Alive: it takes part.
	Alive Status = iota
	// Suspect: it did not answer this member's last probe, directly or through
	// others. It is Dead or Alive again within a minute, mostly within 5 s.
	Suspect
	// Dead: it was given up without having said good-bye.
	Dead
	// Left: it said that it is leaving.
	Left
)

func (s Status) String() string {
	if names := [...]string{"alive", "suspect", "dead", "left"}; int(s) < len(names) {
		return names[s]
	}
	return fmt.Sprintf("status %d", uint8(s))
}

// Peer is another member as gossip knows it.
type Peer struct {
	Info
	Gossip string // host:port
	Status Status
	Since  time.Time // of Status
}

const (
	// maxGone bounds the peers remembered that are dead or left.
	maxGone = 256
	// suspectFor is when a suspicion has been settled for certain: memberlist
	// gives a node up after at most 24 probe intervals, 48 with a hundred
	// members.
	suspectFor = time.Minute
)

// nodeName is what memberlist knows this process by. Memberlist lets a name
// move to another address only once its old holder is dead, so every process,
// and every address that a process has had, gets a name of its own: a restarted
// or moved member is new to memberlist and is taken in at once. DESIGN.md tells
// what else was considered.
func nodeName(id, instance uint64, epoch uint32) string {
	return fmt.Sprintf("%016x-%016x-%d", id, instance, epoch)
}

func parseName(name string) (id, instance uint64, epoch uint32, err error) {
	parts := strings.Split(name, "-")
	if len(parts) != 3 || len(parts[0]) != 16 || len(parts[1]) != 16 {
		return 0, 0, 0, fmt.Errorf("%q is no node of ours", name)
	}
	id, err1 := strconv.ParseUint(parts[0], 16, 64)
	instance, err2 := strconv.ParseUint(parts[1], 16, 64)
	e, err3 := strconv.ParseUint(parts[2], 10, 32)
	if err1 != nil || err2 != nil || err3 != nil {
		return 0, 0, 0, fmt.Errorf("%q is no node of ours", name)
	}
	return id, instance, uint32(e), nil
}

// node is one node of memberlist, valid by its name, address and meta.
type node struct {
	name    string
	epoch   uint32 // of the process's address
	info    Info
	leaving bool
	addr    netip.AddrPort
}

func readNode(n *memberlist.Node) (node, error) {
	id, instance, epoch, err := parseName(n.Name)
	if err != nil {
		return node{}, err
	}
	info, leaving, err := decodeInfo(n.Meta)
	if err != nil {
		return node{}, err
	}
	if info.ID != id || info.Instance != instance {
		return node{}, fmt.Errorf("%q says it is member %016x, instance %016x", n.Name, info.ID, info.Instance)
	}
	ip, ok := netip.AddrFromSlice(n.Addr)
	if !ok || ip.IsUnspecified() || n.Port == 0 {
		return node{}, fmt.Errorf("%q has no address: %v port %d", n.Name, n.Addr, n.Port)
	}
	return node{n.Name, epoch, info, leaving, netip.AddrPortFrom(ip.Unmap(), n.Port)}, nil
}

// entry is what the table holds of a node.
type entry struct {
	node
	status Status
	since  time.Time
	order  uint64 // of first sight; later is greater
	list   uint32 // epoch of this process's memberlist that saw it last
	mute   bool   // a rival of its ID lives, and it does not answer to its name
}

func (e *entry) live() bool { return e.status == Alive || e.status == Suspect }

// table is all nodes that were seen, by name. All methods may be called
// concurrently; none blocks, so memberlist may call them holding its locks.
type table struct {
	proc uint64 // instance of this process
	now  func() time.Time

	// mu guards the fields below. It is the last in the lock order.
	mu     sync.Mutex
	self   uint64 // ID of this member
	nodes  map[string]*entry
	order  uint64
	list   uint32          // epoch of the memberlist whose word counts
	claims map[pair]*claim // of two nodes
	twins  map[pair]*claim // of two addresses of one node, by its name and the later one
}

func newTable(self, proc uint64, now func() time.Time) *table {
	return &table{
		self: self, proc: proc, now: now,
		nodes: make(map[string]*entry), claims: make(map[pair]*claim), twins: make(map[pair]*claim),
	}
}

// seen takes what memberlist number list says of a live node, and reports
// whether that changes anything.
func (t *table) seen(list uint32, n node) bool {
	if n.info.Instance == t.proc {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if list != t.list {
		return false
	}
	for name, e := range t.nodes {
		if e.info.Instance == n.info.Instance && e.name != n.name {
			if e.epoch > n.epoch {
				return false // where the process was before
			}
			delete(t.nodes, name)
		}
	}
	e := t.nodes[n.name]
	if e == nil {
		t.order++
		e = &entry{order: t.order, since: t.now()}
		t.nodes[n.name] = e
	}
	e.node, e.list = n, list
	status := Alive
	if n.leaving {
		status = Left
	}
	e.set(status, t.now())
	t.pruneLocked()
	return true
}

func (e *entry) set(s Status, now time.Time) {
	if e.status != s {
		e.status, e.since = s, now
	}
}

// lost takes memberlist's word that a node is dead.
func (t *table) lost(list uint32, name string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.nodes[name]
	if e == nil || list != t.list || !e.live() {
		return false
	}
	e.set(Dead, t.now())
	return true
}

// suspect and answered take the outcome of memberlist's probes.
func (t *table) suspect(name string) bool  { return t.turn(name, Alive, Suspect) }
func (t *table) answered(name string) bool { return t.turn(name, Suspect, Alive) }

func (t *table) turn(name string, from, to Status) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.nodes[name]
	if e == nil || e.status != from {
		return false
	}
	e.set(to, t.now())
	return true
}

// sweep ends suspicions that were settled and forgets nodes that a newer one of
// the same member has replaced.
func (t *table) sweep() (changed bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for name, e := range t.nodes {
		if e.status == Suspect && t.now().Sub(e.since) > suspectFor {
			e.set(Alive, t.now())
			changed = true
		}
		if !e.live() && e != t.bestLocked(e.info.ID) {
			delete(t.nodes, name) // not shown, so nothing changes
		}
	}
	return changed
}

// pruneLocked forgets the longest gone beyond the bound.
func (t *table) pruneLocked() {
	gone, oldest := 0, (*entry)(nil)
	for _, e := range t.nodes {
		if e.live() {
			continue
		}
		gone++
		if oldest == nil || e.since.Before(oldest.since) {
			oldest = e
		}
	}
	if gone > maxGone {
		delete(t.nodes, oldest.name)
	}
}

// become takes another ID for this member.
func (t *table) become(id uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.self = id
}

// moved begins the time of another memberlist: its word counts from now on.
func (t *table) moved(list uint32) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.list = list
}

// expire gives up the nodes that the new memberlist has not found.
func (t *table) expire() (changed bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, e := range t.nodes {
		if e.list != t.list && e.live() {
			e.set(Dead, t.now())
			changed = true
		}
	}
	return changed
}

// bestLocked is the node that stands for a member: one that lives and answers
// before one that does not, then the one seen last.
func (t *table) bestLocked(id uint64) *entry {
	var best *entry
	for _, e := range t.nodes {
		if e.info.ID == id && (best == nil || e.before(best)) {
			best = e
		}
	}
	return best
}

func (e *entry) before(f *entry) bool {
	if e.live() != f.live() {
		return e.live()
	}
	if e.live() && e.mute != f.mute {
		return f.mute
	}
	return e.order > f.order
}

// peers returns one Peer for each other member, by ID.
func (t *table) peers() []Peer {
	t.mu.Lock()
	defer t.mu.Unlock()
	best := make(map[uint64]*entry)
	for _, e := range t.nodes {
		if b := best[e.info.ID]; e.info.ID != t.self && (b == nil || e.before(b)) {
			best[e.info.ID] = e
		}
	}
	peers := make([]Peer, 0, len(best))
	for _, e := range best {
		p := Peer{Info: e.info, Gossip: e.addr.String(), Status: e.status, Since: e.since}
		p.Client = slices.Clone(p.Client)
		peers = append(peers, p)
	}
	slices.SortFunc(peers, func(a, b Peer) int { return cmp.Compare(a.ID, b.ID) })
	return peers
}

// where returns the address of a node, "" if it is unknown.
func (t *table) where(name string) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.nodes[name]; e != nil {
		return e.addr.String()
	}
	return ""
}

// addrs returns the gossip addresses of the peers of a status, by ID.
func (t *table) addrs(of ...Status) []netip.AddrPort {
	var all []netip.AddrPort
	for _, p := range t.peers() {
		if slices.Contains(of, p.Status) {
			all = append(all, netip.MustParseAddrPort(p.Gossip))
		}
	}
	return all
}
