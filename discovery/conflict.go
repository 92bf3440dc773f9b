package discovery

import (
	"cmp"
	"net/netip"
	"slices"
	"time"
)

// Two live processes with one ID: a cloned data directory, or for a moment a
// restarted member of which memberlist still believes that its earlier process
// lives. Which of the two it is shows when the processes are asked by name:
// only one that lives answers. Where UDP does not pass nobody answers; then
// memberlist's word after settleAfter decides, which it bases on TCP, too. By
// then it has given up a process that is dead: its turn to be probed comes once
// in as many seconds as there are members, and suspicion lasts 24 s at most.
const settleAfter = 2 * time.Minute

// pair is the names of two nodes, the one seen first in front. This process
// itself is "".
type pair [2]string

// claim is two live nodes of one ID.
type claim struct {
	pair    pair
	id      uint64
	nodes   [2]node // nodes[0] is empty if this process is one of them
	since   time.Time
	asked   bool // and one of them did not answer
	settled bool // as a conflict, which was told
}

// disputed returns the claims to be looked into now, by ID.
func (t *table) disputed() []claim {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.pairLocked()
	var due []claim
	for _, c := range t.claims {
		if !c.settled && (!c.asked || t.now().Sub(c.since) > settleAfter) {
			due = append(due, *c)
		}
	}
	slices.SortFunc(due, func(a, b claim) int {
		return cmp.Or(cmp.Compare(a.id, b.id), cmp.Compare(a.pair[1], b.pair[1]))
	})
	return due
}

// pairLocked brings claims up to date with the live nodes. Each node is paired
// with the first of its ID: more would only tell the same conflict again.
func (t *table) pairLocked() {
	live := make(map[uint64][]*entry)
	for _, e := range t.nodes {
		if e.live() {
			live[e.info.ID] = append(live[e.info.ID], e)
		}
	}
	current := make(map[pair]*claim)
	for id, es := range live {
		slices.SortFunc(es, func(a, b *entry) int { return cmp.Compare(a.order, b.order) })
		var first node
		if id != t.self {
			first, es = es[0].node, es[1:]
		}
		for _, e := range es {
			p := pair{first.name, e.name}
			c := t.claims[p]
			if c == nil {
				c = &claim{pair: p, id: id, since: t.now()}
			}
			c.nodes = [2]node{first, e.node}
			current[p] = c
		}
	}
	t.claims = current
}

// settle takes which nodes of a claim did not answer to their names, and
// reports whether the claim is a conflict.
func (t *table) settle(c claim, silent []string) (conflict, changed bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	known := t.claims[c.pair]
	if known == nil {
		return false, false
	}
	known.asked = true
	known.settled = len(silent) == 0 || t.now().Sub(known.since) > settleAfter
	for _, name := range c.pair {
		e := t.nodes[name]
		if e == nil {
			continue
		}
		if mute := !known.settled && slices.Contains(silent, name); e.mute != mute {
			e.mute, changed = mute, true
		}
	}
	return known.settled, changed
}

// maxTwins bounds the twins remembered as told.
const maxTwins = 64

// twin notes that a live node known at one address is also at another: a copy
// of a running process, such as a resumed snapshot of a virtual machine.
func (t *table) twin(n node, known netip.AddrPort) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := pair{n.name, n.addr.String()}
	if t.twins[p] == nil && len(t.twins) < maxTwins {
		t.twins[p] = &claim{pair: p, id: n.info.ID, nodes: [2]node{{addr: known}, n}}
	}
}

// newTwins returns the twins not told yet.
func (t *table) newTwins() []claim {
	t.mu.Lock()
	defer t.mu.Unlock()
	var due []claim
	for _, c := range t.twins {
		if !c.settled {
			c.settled = true
			due = append(due, *c)
		}
	}
	return due
}

// settleClaims looks into all claims. It runs on the minder's goroutine.
func (g *Gossip) settleClaims() {
	for _, c := range g.table.newTwins() {
		g.conflict(c.id, c.nodes[0].addr, c.nodes[1].addr)
	}
	for _, c := range g.table.disputed() {
		var silent []string
		for _, n := range c.nodes {
			if n.name != "" && !g.answers(n) {
				silent = append(silent, n.name)
			}
		}
		conflict, changed := g.table.settle(c, silent)
		if changed {
			g.changed()
		}
		if !conflict {
			continue
		}
		here := c.nodes[0].addr
		if c.nodes[0].name == "" {
			here = g.advertised()
		}
		g.conflict(c.id, here, c.nodes[1].addr)
	}
}

// answers asks a node by its name; another process at its address keeps silent.
func (g *Gossip) answers(n node) bool {
	list := g.current()
	for range 3 { // a packet may be lost
		if g.life.Err() != nil {
			return false
		}
		if _, err := list.Ping(n.name, udpAddr(n.addr)); err == nil {
			return true
		}
	}
	return false
}

func (g *Gossip) conflict(id uint64, here, there netip.AddrPort) {
	if g.cfg.OnConflict != nil {
		g.cfg.OnConflict(id, here.String(), there.String())
	}
}
