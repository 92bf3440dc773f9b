package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"limpet/discovery"
	"limpet/peer"
	"limpet/raftfsm"
)

var (
	// ErrRemoved: this member was taken out of its cluster, for good.
	ErrRemoved = errors.New("this member was removed from its cluster; to join again as a new member, start with an empty data directory")
	// ErrRecovered: the cluster went on as another one, without this member.
	ErrRecovered = errors.New("the cluster lost its quorum and was recovered as a new one, without this member")
	// ErrCopy: another process runs with a copy of this data directory.
	ErrCopy = errors.New("another limpet runs with a copy of this data directory; stop it, or start here with an empty one")
)

// Identity is what a data directory says of its member.
type Identity struct {
	Member  uint64
	Cluster uint64 // 0: none yet
	// Forming: the cluster is being founded; nothing may have been agreed on yet.
	Forming bool
	Removed bool
	// Rejoin: the member's cluster was recovered without it. It joins the new one
	// and never founds another.
	Rejoin bool
}

// Founder is one of the members that --initial-cluster names.
type Founder struct {
	Name string
	URLs []string
}

// Config says who a member is and how it gets in.
type Config struct {
	Identity Identity
	Keep     func(Identity) error // writes it to disk, synced

	Name       string
	Version    string
	Format     int      // newest format of log entries understood
	PeerURLs   []string // empty: made of the address that gossip advertises
	ClientURLs []string // empty: made of the address that gossip advertises
	ClientPort string
	Scheme     string // of peer URLs: http or https
	PeerPort   string

	// Ways in; the first that is set is taken.
	Static   []Founder // etcd's initial cluster, this member among them
	Existing bool      // the static cluster exists already
	Expect   int       // found a cluster of so many members
	Join     []string  // gossip addresses, host:port
	Discover bool      // find members on the LAN

	// Begun: there is something in this member's log; founding is over for it.
	Begun bool

	// AutoAdd: whoever may join is added; without a token an operator adds.
	AutoAdd bool

	Gossip *discovery.Gossip // nil: there is none
	Beacon *discovery.Beacon // nil: there is none
	Roster *Roster
	Logger *slog.Logger
	// Broken hears that this member must stop: ErrRemoved or ErrCopy. It may be
	// called more than once.
	Broken func(error)
}

// Local is this member's standing in its cluster. All methods may be called
// concurrently.
type Local struct {
	cfg      Config
	log      *slog.Logger
	instance uint64
	port     *peer.Port    // set by Use
	used     chan struct{} // closed by Use
	node     atomic.Pointer[raftfsm.Node]
	wake     chan struct{} // holds one: look again now

	forms chan struct{}     // holds one: a founder is being answered
	joins chan struct{}     // holds one: a new member is being taken in
	given map[uint64]string // names that were promised to new members, by ID; of the holder of joins

	keeping sync.Mutex // held while the identity changes, and is written; before mu

	mu    sync.Mutex // guards what follows
	id    Identity
	name  string
	doing string // what it waits for, in words; empty once it is in
	stage Stage
	away  map[uint64]string // why new members were last turned away, by ID

	strange   map[uint64]bool // clusters in sight that were logged; of the goroutine of Run
	watch     presence        // the autopilot's memory; of the goroutine of Run
	forgotten int             // how many removed members were forgotten; of the goroutine of Run
}

// New returns the standing of a member that has not entered yet.
func New(cfg Config) *Local {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Local{
		cfg: cfg, log: cfg.Logger, instance: cfg.Roster.instance,
		id: cfg.Identity, name: cfg.Name,
		used: make(chan struct{}), wake: make(chan struct{}, 1),
		forms: make(chan struct{}, 1), joins: make(chan struct{}, 1), given: make(map[uint64]string), away: make(map[uint64]string),
	}
}

// Use tells which port reaches the others; once, before Enter. The port may
// have callers already.
func (l *Local) Use(p *peer.Port) {
	l.port = p
	close(l.used)
}

// Attach tells that this member takes part in the agreement.
func (l *Local) Attach(n *raftfsm.Node) { l.node.Store(n) }

// Identity is the present one.
func (l *Local) Identity() Identity {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.id
}

// Doing says what this member waits for; empty once it is in.
func (l *Local) Doing() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.doing
}

// wait notes what this member waits for, and logs it when it changes.
func (l *Local) wait(what string) {
	l.mu.Lock()
	changed := l.doing != what
	l.doing = what
	l.mu.Unlock()
	if changed && what != "" {
		l.log.Info("waiting: " + what)
	}
}

// keep writes a changed identity before anything follows from it; nothing
// changes if change returns an error.
func (l *Local) keep(change func(*Identity) error) error {
	l.keeping.Lock()
	defer l.keeping.Unlock()
	old := l.Identity()
	id := old
	if err := change(&id); err != nil || id == old {
		return err
	}
	if err := l.cfg.Keep(id); err != nil {
		return err
	}
	l.mu.Lock()
	l.id = id
	l.mu.Unlock()
	return nil
}

// Hello is what this member says of itself.
func (l *Local) Hello() peer.Hello {
	l.mu.Lock()
	id, name := l.id, l.name
	l.mu.Unlock()
	return peer.Hello{
		Protocol: peer.Protocol, ID: id.Member, Instance: l.instance, Cluster: id.Cluster,
		Name: name, Version: l.cfg.Version, Address: hostOf(l.PeerURLs()),
	}
}

// PeerURLs is where the others find this member.
func (l *Local) PeerURLs() []string {
	if len(l.cfg.PeerURLs) > 0 || l.cfg.Gossip == nil {
		return l.cfg.PeerURLs
	}
	return []string{l.cfg.Scheme + "://" + joinPort(l.cfg.Gossip.Addr(), l.cfg.PeerPort)}
}

// clientURLs is where clients find this member.
func (l *Local) clientURLs() []string {
	if len(l.cfg.ClientURLs) > 0 || l.cfg.Gossip == nil {
		return l.cfg.ClientURLs
	}
	return []string{"http://" + joinPort(l.cfg.Gossip.Addr(), l.cfg.ClientPort)}
}

// Admit says whether a caller is wanted.
func (l *Local) Admit(h peer.Hello) *peer.Refusal {
	id := l.Identity()
	if h.ID == id.Member && h.Instance != l.instance {
		return &peer.Refusal{Code: peer.Copy, Text: fmt.Sprintf("member %x runs here, as another process: one of the two data directories is a copy", h.ID)}
	}
	// While raft counts on a removed member, a quorum may need it.
	if n := l.node.Load(); n != nil && n.Membership().WasRemoved(h.ID) && !inRaft(n, h.ID) {
		return &peer.Refusal{Code: peer.Removed, Text: fmt.Sprintf("member %x was removed from the cluster", h.ID)}
	}
	if h.Purpose == peer.Ask && l.recoveredFrom(h.Cluster) {
		return &peer.Refusal{Code: peer.Recovered, Text: fmt.Sprintf("cluster %x lost its quorum and was recovered as cluster %x", h.Cluster, id.Cluster)}
	}
	if h.Purpose != peer.Ask {
		switch {
		case id.Cluster == 0:
			return &peer.Refusal{Code: peer.NoMember, Text: "this member is in no cluster yet"}
		case l.recoveredFrom(h.Cluster):
			return &peer.Refusal{Code: peer.Recovered, Text: fmt.Sprintf("cluster %x lost its quorum and was recovered as cluster %x", h.Cluster, id.Cluster)}
		case h.Cluster != id.Cluster:
			return &peer.Refusal{Code: peer.OtherCluster, Text: fmt.Sprintf("the caller belongs to cluster %x, this member to cluster %x: two clusters never become one; to move a member, start it with an empty data directory", h.Cluster, id.Cluster)}
		}
	}
	if old, differs := l.cfg.Roster.other(h); differs && l.alive(old, h.ID) {
		return &peer.Refusal{Code: peer.Copy, Text: fmt.Sprintf("member %x runs at %s, as another process: one of the two data directories is a copy", h.ID, old.Address)}
	}
	if id.Cluster != 0 && h.Cluster == id.Cluster { // strangers would fill the file
		l.cfg.Roster.saw(h)
	}
	return nil
}

// recoveredFrom reports whether our cluster is what cluster was recovered as.
func (l *Local) recoveredFrom(cluster uint64) bool {
	n := l.node.Load()
	return n != nil && cluster != 0 && n.Membership().Recovered == cluster && l.Identity().Cluster != cluster
}

// alivePatience bounds the look at a process that may be gone.
const alivePatience = time.Second

// alive reports whether the process that was seen as member id still answers.
func (l *Local) alive(old sighting, id uint64) bool {
	<-l.used
	ctx, cancel := context.WithTimeout(context.Background(), alivePatience)
	defer cancel()
	there, err := l.port.Who(ctx, old.Address)
	return err == nil && there.ID == id && there.Instance == old.Instance
}

// Refused hears that another member does not want us.
func (l *Local) Refused(r *peer.Refusal) {
	switch r.Code {
	case peer.Removed:
		l.removed()
	case peer.Recovered:
		l.cfg.Broken(fmt.Errorf("%w (%s)", ErrRecovered, r.Text))
	case peer.Copy:
		l.cfg.Broken(fmt.Errorf("%w (%s)", ErrCopy, r.Text))
	}
}

func (l *Local) removed() {
	if err := l.keep(noteRemoved); err != nil {
		l.log.Error("the removal of this member could not be noted", "error", err)
	}
	l.cfg.Broken(ErrRemoved)
}

func noteRemoved(id *Identity) error { id.Removed = true; return nil }

// Where lists the addresses at which a member may be found, the likeliest
// first.
func (l *Local) Where(id uint64) []string {
	var out []string
	add := func(addr string) {
		if addr == "" {
			return
		}
		for _, a := range out {
			if a == addr {
				return
			}
		}
		out = append(out, addr)
	}
	if l.cfg.Gossip != nil {
		for _, p := range l.cfg.Gossip.Peers() {
			if p.ID == id && (p.Status == discovery.Alive || p.Status == discovery.Suspect) {
				add(p.Peer)
			}
		}
	}
	add(l.cfg.Roster.sighting(id).Address)
	if n := l.node.Load(); n != nil {
		if m := n.Membership().Member(id); m != nil {
			for _, u := range m.PeerURLs {
				add(hostOf([]string{u}))
			}
		}
	}
	return out
}

// Wake has the member look again at what changed, now.
func (l *Local) Wake() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}
