package cluster

import (
	"context"
	"errors"
	"log/slog"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"limpet/discovery"
	"limpet/peer"
	"limpet/raftfsm"
	"limpet/txn"
)

var (
	// ErrRemoved: this member was taken out of its cluster, for good.
	ErrRemoved = errors.New("this member was removed from its cluster; to join again as a new member, start with an empty data directory")
	// ErrRecovered: the cluster went on as another one, without this member.
	ErrRecovered = errors.New("the cluster lost its quorum and was recovered as a new one, without this member")
	// ErrCopy: another process runs with a copy of this data directory.
	ErrCopy = errors.New("another limpet runs with a copy of this data directory; stop it, or start here with an empty one")
)

// Founder is one of the members that --initial-cluster names, or the DNS.
type Founder struct {
	Name string // empty: whoever answers at its URLs
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
	// ClientScheme is that of client URLs, Scheme that of peer URLs: http or https.
	ClientScheme, Scheme string
	PeerPort             string

	// Ways in; the first that is set is taken.
	Static   []Founder // etcd's initial cluster, this member among them
	Existing bool      // the static cluster exists already
	Expect   int       // found a cluster of so many members
	Join     []string  // gossip addresses, host:port
	Discover bool      // find members on the LAN

	// Logged is the last index in this member's log at the start; with anything in
	// it, founding is over for it.
	Logged uint64

	// AutoAdd: whoever may join is added; without a token an operator adds.
	AutoAdd bool

	Tokens Tokens            // nil: there is none
	Gossip *discovery.Gossip // nil: there is none
	Beacon *discovery.Beacon // nil: there is none
	Roster *Roster
	Logger *slog.Logger
	// Broken hears that this member must stop: ErrRemoved or ErrCopy. It may be
	// called more than once.
	Broken func(error)
}

// Local is this member's standing in its cluster, made of what it takes to get
// in, to stay, and to tell. All methods may be called concurrently.
type Local struct {
	me       *standing // who this member is
	line     *line     // questions to the others
	outlook  *outlook  // what gossip shows
	door     *door     // who may call
	founding *founding // of a new cluster
	entry    *entry    // into a cluster
	intake   *intake   // of new members, by the leader
	keeper   *keeper   // of what the cluster knows of its members
	rotation *rotation // of the cluster's token
	survey   *survey   // for people
}

// New returns the standing of a member that has not entered yet.
func New(cfg Config) *Local {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	me := &standing{
		cfg: &cfg, log: cfg.Logger, instance: cfg.Roster.instance, wake: make(chan struct{}, 1),
		id: cfg.Identity, name: cfg.Name,
	}
	ln := &line{me: me, used: make(chan struct{})}
	out := &outlook{me: me}
	turn := &rotation{me: me, line: ln}
	forming := &founding{me: me, line: ln, forms: make(chan struct{}, 1)}
	return &Local{
		me: me, line: ln, outlook: out, founding: forming,
		door:     &door{me: me, line: ln},
		entry:    &entry{me: me, line: ln, outlook: out, founding: forming},
		intake:   &intake{me: me, line: ln, joins: make(chan struct{}, 1), given: make(map[uint64]string), away: make(map[uint64]string)},
		keeper:   &keeper{me: me, line: ln, outlook: out, pilot: &autopilot{me: me, line: ln}, rotation: turn},
		rotation: turn,
		survey:   &survey{me: me, line: ln, outlook: out},
	}
}

// Services registers what members ask each other. lead are further methods of
// the leader, by name.
func (l *Local) Services(lead []grpc.MethodDesc) func(grpc.ServiceRegistrar) {
	return func(r grpc.ServiceRegistrar) {
		r.RegisterService(&grpc.ServiceDesc{ServiceName: askService, HandlerType: (*any)(nil), Methods: []grpc.MethodDesc{
			peer.Unary(askService, "Describe", l.line.serveDescribe),
			peer.Unary(askService, "Join", l.intake.serveJoin),
			peer.Unary(askService, "Form", l.founding.serveForm),
		}}, l)
		r.RegisterService(&grpc.ServiceDesc{ServiceName: memberService, HandlerType: (*any)(nil), Methods: append(lead,
			peer.Unary(memberService, "Ping", l.line.servePing),
			peer.Unary(memberService, "Join", l.intake.serveJoin),
			peer.Unary(memberService, "Report", l.survey.serveReport),
			peer.Unary(memberService, "Propose", l.line.servePropose),
			peer.Unary(memberService, "ReadIndex", l.line.serveReadIndex),
			peer.Unary(memberService, "Hear", l.line.serveHear),
			peer.Unary(memberService, "Token", l.rotation.serveToken),
		)}, l)
	}
}

// Use tells which port reaches the others; once, before Enter. The port may
// have callers already.
func (l *Local) Use(p *peer.Port) { l.line.use(p) }

// Enter returns once this member belongs to a cluster. It tries until ctx ends;
// an error of its own means that trying on would not help.
func (l *Local) Enter(ctx context.Context) (*Start, error) { return l.entry.enter(ctx) }

// Attach tells that this member takes part in the agreement.
func (l *Local) Attach(n *raftfsm.Node) { l.me.node.Store(n) }

// Run keeps this member's record right and, while it leads, the membership; it
// returns when ctx ends. It is called once, after Attach.
func (l *Local) Run(ctx context.Context) { l.keeper.run(ctx) }

// Probe measures how long the other members take to answer, until ctx ends. It
// is called once, after Attach.
func (l *Local) Probe(ctx context.Context) { l.line.probe(ctx) }

// Reported returns once the cluster knows this member as it is.
func (l *Local) Reported(ctx context.Context) error { return l.keeper.reported(ctx) }

// Wake has the member look again at what changed, now.
func (l *Local) Wake() { l.me.Wake() }

// Identity is the present one.
func (l *Local) Identity() Identity { return l.me.Identity() }

// Doing says what this member waits for; empty once it is in.
func (l *Local) Doing() string { return l.me.Doing() }

// Hello is what this member says of itself.
func (l *Local) Hello() peer.Hello { return l.me.Hello() }

// Admit says whether a caller is wanted.
func (l *Local) Admit(h peer.Hello) *peer.Refusal { return l.door.admit(h) }

// Refused hears that another member does not want us.
func (l *Local) Refused(r *peer.Refusal) { l.door.refused(r) }

// Meet says why a member that was called is not wanted, nil if it is.
func (l *Local) Meet(h peer.Hello) *peer.Refusal { return l.door.meet(h) }

// Where lists the addresses at which a member may be found, the likeliest
// first.
func (l *Local) Where(id uint64) []string { return l.door.where(id) }

// Propose implements raftfsm.Peers.
func (l *Local) Propose(ctx context.Context, leader, term uint64, entry []byte) error {
	return l.line.propose(ctx, leader, term, entry)
}

// ReadIndex implements raftfsm.Peers.
func (l *Local) ReadIndex(ctx context.Context, leader uint64) (uint64, error) {
	return l.line.readIndex(ctx, leader)
}

// Hear implements raftfsm.Peers.
func (l *Local) Hear(ctx context.Context, member, leader, term uint64) (raftfsm.Hearing, error) {
	return l.line.hear(ctx, member, leader, term)
}

// CallLeader has the leader do one of its methods.
func (l *Local) CallLeader(ctx context.Context, method string, req, resp proto.Message) error {
	return l.line.callLeader(ctx, method, req, resp)
}

// Report asks the leader how the members are; without one it tells what is
// known here.
func (l *Local) Report(ctx context.Context) *Report { return l.survey.report(ctx) }

// RotateToken begins to replace the cluster's token; the Report says how far
// that is. It does nothing if that has begun.
func (l *Local) RotateToken(ctx context.Context) error { return l.rotation.begin(ctx) }

// FinishRotation has all members drop the token that was replaced. It is refused
// while a member does not use the new one.
func (l *Local) FinishRotation(ctx context.Context) error { return l.rotation.finish(ctx) }

// AskAny describes a member, asked wherever it was last seen; nil if it does
// not answer. It needs no cluster: Enter and Attach need not have been called.
func (l *Local) AskAny(ctx context.Context, m *txn.Member) *Description {
	return l.survey.askAny(ctx, m)
}
