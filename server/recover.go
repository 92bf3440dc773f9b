package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"limpet/certs"
	"limpet/cluster"
	"limpet/peer"
	"limpet/raftfsm"
	"limpet/sqlstore"
)

// recoverBump is how far revisions go up: beyond all that the lost members can
// have acknowledged.
const recoverBump = 1_000_000_000

// surveyPatience bounds asking the other members of a lost cluster.
const surveyPatience = 5 * time.Second

// Survivor is a member of a cluster that lost its quorum.
type Survivor struct {
	ID          string `json:"id"`
	Name        string `json:"name"`
	Address     string `json:"address"`
	Here        bool   `json:"here"`
	Answers     bool   `json:"answers"`
	Term, Index uint64 // of the last entry of its log: the higher, the more it has
	Leader      bool   `json:"leader"` // it knows a leader: the quorum is not lost
	Voter       bool   `json:"voter"`  // a quorum counts it
}

// Survey tells what is left of a cluster.
type Survey struct {
	Cluster string     `json:"cluster"`
	Members []Survivor `json:"members"`
}

// Best is the survivor that has most.
func (s *Survey) Best() Survivor {
	best := Survivor{}
	for _, m := range s.Members {
		if m.Answers && (m.Term > best.Term || m.Term == best.Term && (m.Index > best.Index || m.Index == best.Index && m.Here)) {
			best = m
		}
	}
	return best
}

// Quorum reports whether the voters that answer, this member among them, are
// enough to elect a leader: then nothing is lost.
func (s *Survey) Quorum() bool {
	voters, here := 0, 0
	for _, m := range s.Members {
		if m.Voter {
			voters++
			if m.Answers {
				here++
			}
		}
	}
	return here > voters/2
}

// Recovery is a stopped member that may become a cluster of its own.
type Recovery struct {
	cfg   Config
	log   *slog.Logger
	dir   *dataDir
	given *certs.Guard // nil: no certificates were given
}

// OpenRecovery takes hold of the data directory of a stopped member.
func OpenRecovery(cfg Config, log *slog.Logger) (*Recovery, error) {
	if err := cfg.readTokens(log); err != nil {
		return nil, err
	}
	var given *certs.Guard
	if cfg.PeerTLS.Cert != "" {
		var err error
		if given, err = cfg.openPeerGuard(log); err != nil {
			return nil, err
		}
	}
	if err := inspectDataDir(cfg.DataDir); err != nil {
		return nil, err
	}
	// Before openDataDir, which would make a member there.
	if _, err := os.Stat(filepath.Join(cfg.DataDir, identityName)); err != nil {
		return nil, fmt.Errorf("there is no member in %s: %w", cfg.DataDir, unwrapPath(err))
	}
	dir, err := openDataDir(cfg.DataDir)
	if err != nil {
		return nil, err
	}
	if dir.id.ClusterID == "" {
		return nil, errors.Join(fmt.Errorf("the member in %s was never in a cluster", cfg.DataDir), dir.close())
	}
	return &Recovery{cfg, log, dir, given}, nil
}

// Close lets go of the data directory.
func (r *Recovery) Close() error { return r.dir.close() }

func (r *Recovery) openStore() (*sqlstore.Store, error) {
	if err := raftfsm.AdoptFile(r.dir.raftDir(), r.dir.file(databaseName), r.dir.id.member()); err != nil {
		return nil, err
	}
	return sqlstore.Open(sqlstore.Config{Path: r.dir.file(databaseName), Owner: r.dir.id.member(), TailBytes: -1, Logger: r.log})
}

// Unfinished reports whether a recovery has begun here, and has to be run again.
func (r *Recovery) Unfinished() bool { return r.dir.id.Recovering != "" }

// inspect tells what this member has.
func (r *Recovery) inspect() (*raftfsm.Inspection, error) {
	store, err := r.openStore()
	if err != nil {
		return nil, err
	}
	seen, err := raftfsm.Inspect(raftfsm.Config{Dir: r.dir.raftDir(), Store: store, MemberID: r.dir.id.member()})
	return seen, errors.Join(err, store.Close())
}

// Survey asks the other members, who run without a quorum, how much they have.
func (r *Recovery) Survey(ctx context.Context) (*Survey, error) {
	seen, err := r.inspect()
	if err != nil {
		return nil, err
	}
	if err := r.checkMembers(seen.Membership); err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0") // nobody calls here
	if err != nil {
		return nil, err
	}
	var tlsConfig *tls.Config
	if r.cfg.ring != nil {
		tlsConfig = r.cfg.ring.MemberTLS(r.dir.id.member())
	}
	var callTLS func(host string) *tls.Config
	if r.given != nil {
		tlsConfig, callTLS = r.given.Server(), r.given.Client
	}
	roster := cluster.OpenRoster(r.dir.file(rosterName))
	local := cluster.New(cluster.Config{
		Identity: r.dir.id.standing(), Keep: func(cluster.Identity) error { return nil }, Name: r.cfg.memberName(),
		Version: r.cfg.Version, Roster: roster, Logger: r.log, Broken: func(error) {},
	})
	port := peer.Open(peer.Config{
		Listeners: []net.Listener{l}, TLS: tlsConfig, CallTLS: callTLS, Self: local.Hello, Admit: local.Admit, Where: local.Where,
		Services: local.Services(nil), Logger: r.log,
	})
	defer func() { _ = port.Close() }()
	local.Use(port)
	ctx, cancel := context.WithTimeout(ctx, surveyPatience)
	defer cancel()
	out := &Survey{Cluster: r.dir.id.ClusterID}
	for _, m := range seen.Membership.Members {
		s := Survivor{ID: fmt.Sprintf("%x", m.ID), Name: m.Name, Address: strings.Join(m.PeerURLs, ","), Here: m.ID == r.dir.id.member(), Voter: m.Started() && !m.Learner}
		if s.Here {
			s.Answers, s.Term, s.Index = true, seen.Term, seen.Index
		} else if d := local.AskAny(ctx, m); d != nil {
			s.Answers, s.Term, s.Index, s.Leader = true, d.LastTerm, d.Index, d.Leader != 0
		}
		out.Members = append(out.Members, s)
	}
	return out, nil
}

// checkMembers makes sure that the others can be asked: where they seem to be
// gone for another reason, a cluster that lives would be split.
func (r *Recovery) checkMembers(ms *raftfsm.Membership) error {
	if ms.Self == nil {
		return fmt.Errorf("the data in %s does not name this member: it was not in its cluster yet; start it as before, or with an empty data directory", r.cfg.DataDir)
	}
	for _, m := range ms.Members {
		for _, u := range m.PeerURLs {
			if r.cfg.held == nil && r.given == nil && strings.HasPrefix(u, "https:") {
				return errors.New("the members of this cluster have a token, or certificates, without which they do not answer: give --token or --token-file, or --peer-cert-file, --peer-key-file and --peer-trusted-ca-file")
			}
		}
	}
	return nil
}

// Run makes the member a cluster of its own, with all it has, and returns its
// ID and revision. After a crash it may be run again.
func (r *Recovery) Run() (clusterID string, rev int64, err error) {
	if r.dir.id.Recovering == "" {
		id := r.dir.id
		id.Recovering = mintID()
		if err := writeIdentity(r.dir.path, id); err != nil {
			return "", 0, err
		}
		r.dir.id = id
	}
	store, err := r.openStore()
	if err != nil {
		return "", 0, err
	}
	rev, err = raftfsm.Recover(raftfsm.Recovery{
		Config: raftfsm.Config{
			Dir: r.dir.raftDir(), MemberID: r.dir.id.member(), Store: store,
			MaxLogBytes: r.cfg.MaxLogBytes, Logger: r.log,
		},
		Cluster: parseHex(r.dir.id.Recovering), Bump: recoverBump,
	})
	if err = errors.Join(err, store.Close()); err != nil {
		return "", 0, err
	}
	id := r.dir.id
	id.ClusterID, id.Recovering, id.Forming = id.Recovering, "", false
	if err := writeIdentity(r.dir.path, id); err != nil {
		return "", 0, err
	}
	r.dir.id = id
	return id.ClusterID, rev, nil
}
