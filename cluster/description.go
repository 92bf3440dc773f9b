package cluster

import (
	"limpet/peer"
	"limpet/txn"
)

// Description is what a member tells about itself and its cluster.
type Description struct {
	peer.Hello
	Forming   bool          `json:"forming"`
	Expect    int           `json:"expect"`
	Index     uint64        `json:"index"` // last of its log
	Term      uint64        `json:"term"`
	LastTerm  uint64        `json:"last_term"` // of that entry
	Leader    uint64        `json:"leader"`
	Recovered uint64        `json:"recovered"`
	Members   []*txn.Member `json:"members"`
	Stage     Stage         `json:"stage,omitempty"`
	Applied   uint64        `json:"applied"`
	Tokens    []string      `json:"tokens,omitempty"` // fingerprints of those that it trusts, the one in use first
	SyncMicro int64         `json:"sync_us"`          // one write of the log in a hundred takes so long or longer
}

// Settled reports whether the member has state: something may have been agreed
// on where it is.
func (d *Description) Settled() bool { return d.Cluster != 0 && (!d.Forming || d.Index > 1) }

// Description is what this member tells about itself.
func (s *standing) Description() *Description {
	d := &Description{Hello: s.Hello(), Expect: s.cfg.Expect, Index: s.cfg.Logged}
	s.mu.Lock()
	d.Forming, d.Stage = s.id.Forming, s.stage
	s.mu.Unlock()
	if s.cfg.Tokens != nil {
		d.Tokens = s.cfg.Tokens.Fingerprints()
	}
	if n := s.node.Load(); n != nil {
		st, ms := n.Status(), n.Membership()
		d.Index, d.Term, d.Leader = st.LastIndex, st.Term, st.Leader
		d.Recovered, d.Members = ms.Recovered, ms.Members
		d.LastTerm = n.LastTerm()
		d.Applied, d.SyncMicro = st.Applied, st.Sync.Microseconds()
	}
	return d
}
