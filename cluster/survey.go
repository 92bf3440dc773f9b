package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/wrapperspb"

	"limpet/peer"
	"limpet/raftfsm"
	"limpet/txn"
)

// reportPatience bounds asking the other members how they are.
const reportPatience = time.Second

// Report is how the cluster is, for people.
type Report struct {
	Member  string         `json:"member"` // who reports
	Name    string         `json:"name"`
	Cluster string         `json:"cluster,omitempty"`
	Leader  string         `json:"leader,omitempty"`
	Waiting string         `json:"waiting,omitempty"` // what this member waits for, until it is in
	Members []MemberReport `json:"members,omitempty"`
	Notices []peer.Notice  `json:"notices,omitempty"`
	// Rotation is how far the token is replaced; nil: that is not going on.
	Rotation *RotationReport `json:"rotation,omitempty"`
	Others   []string        `json:"others,omitempty"` // processes in sight that do not belong here
}

// MemberReport is one member in a Report.
type MemberReport struct {
	ID         string   `json:"id"`
	Name       string   `json:"name"`
	Role       string   `json:"role"` // leader, voter, learner, or not started
	Version    string   `json:"version,omitempty"`
	Format     int      `json:"log_format,omitempty"` // newest format of log entries that it reads
	PeerURLs   []string `json:"peer_urls"`
	ClientURLs []string `json:"client_urls"`
	// What the leader knows of it, or without one who reports.
	Answers   bool   `json:"answers"`
	Index     uint64 `json:"index,omitempty"`           // last of its log
	Lag       uint64 `json:"lag"`                       // entries behind the leader, or who has most of those that answer
	ContactMs int64  `json:"last_contact_ms,omitempty"` // since its last answer to this leader; negative: there was none
	SyncMicro int64  `json:"log_sync_us,omitempty"`     // one write of its log in a hundred takes so long or longer
	Replaces  string `json:"replaces,omitempty"`
	// Fingerprints of the tokens that it trusts, the one in use first.
	Tokens []string `json:"tokens,omitempty"`
}

// RotationReport says that token From is being replaced by To; fingerprints name
// them.
type RotationReport struct {
	From     string `json:"from"`
	To       string `json:"to"`
	Switched bool   `json:"switched"` // all members have To, and are to use it
}

// Waits names the members for which the replacement of the token waits: before
// the switch to have the new one, after it, until it is finished, to use it.
func (r *Report) Waits() []string {
	if r.Rotation == nil {
		return nil
	}
	var out []string
	for _, m := range r.Members {
		there := slices.Contains(m.Tokens, r.Rotation.To)
		if r.Rotation.Switched {
			there = there && m.Tokens[0] == r.Rotation.To
		}
		if !there && m.Role != roleNotStarted {
			out = append(out, m.Name)
		}
	}
	return out
}

// roleNotStarted is that of a member that was announced and has not come.
const roleNotStarted = "not started"

// survey tells people how the cluster is.
type survey struct {
	me      *standing
	line    *line
	outlook *outlook
}

// report asks the leader how the members are; without one it asks them itself.
func (s *survey) report(ctx context.Context) *Report {
	h := s.me.Hello()
	r := &Report{Member: hex(h.ID), Name: h.Name, Waiting: s.me.Doing(), Notices: s.line.port.Notices(), Others: s.outlook.strangers(h)}
	if h.Cluster != 0 {
		r.Cluster = hex(h.Cluster)
	}
	n := s.me.node.Load()
	if n == nil {
		return r
	}
	if leader := n.Leader(); leader != 0 {
		r.Leader = hex(leader)
	}
	if turn := n.Membership().Rotation; turn.Phase == txn.RotationGathers || turn.Phase == txn.RotationSwitched {
		r.Rotation = &RotationReport{turn.From, turn.To, turn.Phase == txn.RotationSwitched}
	}
	if !n.Leading() {
		if said, err := s.askLeader(ctx); err == nil {
			r.Members = said
			return r
		}
	}
	r.Members = s.memberReports(ctx, n)
	return r
}

func (s *survey) askLeader(ctx context.Context) (said []MemberReport, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*reportPatience) // it asks the members
	defer cancel()
	out := new(wrapperspb.BytesValue)
	if err := s.line.callLeader(ctx, "Report", wrapperspb.Bytes(nil), out); err != nil {
		return nil, err
	}
	return said, json.Unmarshal(out.Value, &said)
}

func hex(id uint64) string { return fmt.Sprintf("%x", id) }

func (s *survey) serveReport(ctx context.Context, _ *wrapperspb.BytesValue) (*wrapperspb.BytesValue, error) {
	n := s.me.node.Load()
	if n == nil || !n.Leading() {
		return nil, toWire(raftfsm.ErrNotLeader)
	}
	return answer(s.memberReports(ctx, n))
}

// memberReports is what the members say themselves, with what is known of them
// here if this member leads.
func (s *survey) memberReports(ctx context.Context, n *raftfsm.Node) []MemberReport {
	ms, last := n.Membership(), n.Status().LastIndex
	leader := uint64(0)
	var progress []raftfsm.Progress
	answers := s.line.describeAll(ctx, ms)
	if n.Leading() {
		leader, progress = s.me.Identity().Member, n.Progress()
	} else {
		for _, d := range answers {
			last = max(last, d.Index)
		}
	}
	var out []MemberReport
	for _, m := range ms.Members {
		r := reportOf(m, leader)
		if r.Role == "voter" && !votes(n, m.ID) {
			r.Role = "joining"
		}
		if d := answers[m.ID]; d != nil {
			r.Answers, r.Index, r.SyncMicro, r.Tokens = true, d.Index, d.SyncMicro, d.Tokens
			r.Lag = last - min(last, d.Index)
		}
		if i := slices.IndexFunc(progress, func(p raftfsm.Progress) bool { return p.ID == m.ID }); i >= 0 {
			p := progress[i]
			r.ContactMs = max(p.Silence.Milliseconds(), -1)
			if !r.Answers {
				r.Index, r.Lag = p.Match, last-min(last, p.Match)
			}
		}
		out = append(out, r)
	}
	return out
}

func reportOf(m *txn.Member, leader uint64) MemberReport {
	r := MemberReport{ID: hex(m.ID), Name: m.Name, Role: "voter", Version: m.Version, Format: m.Format, PeerURLs: m.PeerURLs, ClientURLs: m.ClientURLs}
	switch {
	case m.ID == leader:
		r.Role = "leader"
	case !m.Started():
		r.Role = roleNotStarted
	case m.Learner:
		r.Role = "learner"
	}
	if m.Replaces != 0 {
		r.Replaces = hex(m.Replaces)
	}
	return r
}

// askAny describes a member, asked wherever it was last seen; nil if it does
// not answer. It needs no cluster: Enter and Attach need not have been called.
func (s *survey) askAny(ctx context.Context, m *txn.Member) *Description {
	addrs := []string{s.me.cfg.Roster.sighting(m.ID).Address}
	for _, u := range m.PeerURLs {
		addrs = append(addrs, hostOf([]string{u}))
	}
	for _, addr := range addrs {
		if addr == "" {
			continue
		}
		qctx, cancel := context.WithTimeout(ctx, askFor)
		d, err := s.line.describe(qctx, addr)
		cancel()
		if err == nil && d.ID == m.ID {
			return d
		}
	}
	return nil
}
