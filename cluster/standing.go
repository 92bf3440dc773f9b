package cluster

import (
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"limpet/peer"
	"limpet/raftfsm"
	"limpet/txn"
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
	// Restored tells which restore of a snapshot made the data, 0 if none did. Restored
	// once more, on several machines, a member has the same ID and a log that lacks
	// what it agreed to since.
	Restored uint64
}

// standing is who this member is, on disk and in words, and what it takes part
// in. All methods may be called concurrently.
type standing struct {
	cfg      *Config
	log      *slog.Logger
	instance uint64                       // of this process
	node     atomic.Pointer[raftfsm.Node] // the agreement; nil until Attach
	wake     chan struct{}                // holds one: look again now

	keeping sync.Mutex // held while the identity changes, and is written; before mu

	mu    sync.Mutex // guards what follows
	id    Identity
	name  string
	doing string // what it waits for, in words; empty once it is in
	stage Stage
	heir  string // our cluster was recovered as another one: what was heard of it since it was last looked at
}

// supersede hears that our cluster was recovered as another one.
func (s *standing) supersede(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.heir = text
}

// superseded is what was heard since the last call; empty if nothing was.
func (s *standing) superseded() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	text := s.heir
	s.heir = ""
	return text
}

// Identity is the present one.
func (s *standing) Identity() Identity {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.id
}

// Doing says what this member waits for; empty once it is in.
func (s *standing) Doing() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.doing
}

// wait notes what this member waits for, and logs it when it changes.
func (s *standing) wait(what string) {
	s.mu.Lock()
	changed := s.doing != what
	s.doing = what
	s.mu.Unlock()
	if changed && what != "" {
		s.log.Info("waiting: " + what)
	}
}

// keep writes a changed identity before anything follows from it; nothing
// changes if change returns an error.
func (s *standing) keep(change func(*Identity) error) error {
	s.keeping.Lock()
	defer s.keeping.Unlock()
	old := s.Identity()
	id := old
	if err := change(&id); err != nil || id == old {
		return err
	}
	if err := s.cfg.Keep(id); err != nil {
		return err
	}
	s.mu.Lock()
	s.id = id
	s.mu.Unlock()
	return nil
}

func (s *standing) removed() {
	if err := s.keep(noteRemoved); err != nil {
		s.log.Error("the removal of this member could not be noted", "error", err)
	}
	s.cfg.Broken(ErrRemoved)
}

func noteRemoved(id *Identity) error { id.Removed = true; return nil }

// Hello is what this member says of itself.
func (s *standing) Hello() peer.Hello {
	s.mu.Lock()
	id, name := s.id, s.name
	s.mu.Unlock()
	return peer.Hello{
		Protocol: peer.Protocol, ID: id.Member, Instance: s.instance, Cluster: id.Cluster,
		Name: name, Version: s.cfg.Version, Address: hostOf(s.PeerURLs()), Restored: id.Restored,
	}
}

// PeerURLs is where the others find this member.
func (s *standing) PeerURLs() []string {
	if len(s.cfg.PeerURLs) > 0 || s.cfg.Gossip == nil {
		return s.cfg.PeerURLs
	}
	return []string{s.cfg.Scheme + "://" + joinPort(s.cfg.Gossip.Addr(), s.cfg.PeerPort)}
}

// clientURLs is where clients find this member.
func (s *standing) clientURLs() []string {
	if len(s.cfg.ClientURLs) > 0 || s.cfg.Gossip == nil {
		return s.cfg.ClientURLs
	}
	return []string{s.cfg.ClientScheme + "://" + joinPort(s.cfg.Gossip.Addr(), s.cfg.ClientPort)}
}

// record is what this member reports of itself.
func (s *standing) record() *txn.Member {
	h := s.Hello()
	return &txn.Member{
		ID: h.ID, Name: h.Name, PeerURLs: s.PeerURLs(), ClientURLs: s.clientURLs(),
		Version: s.cfg.Version, Format: s.cfg.Format, Restored: h.Restored,
	}
}

// recordOver is the record that is to replace self. Peer URLs that were given
// once are the cluster's from then on: an operator changes them with a member
// update, as in etcd. Those that follow from gossip follow the address.
func (s *standing) recordOver(ms *raftfsm.Membership, self *txn.Member) *txn.Member {
	now := s.record()
	if name := distinctName(ms, self, s.cfg.Name); name != now.Name {
		now.Name = name
		s.mu.Lock()
		s.name = name
		s.mu.Unlock()
	}
	if len(s.cfg.PeerURLs) > 0 && len(self.PeerURLs) > 0 {
		now.PeerURLs = self.PeerURLs
	}
	return now
}

// distinctName is the name wanted, or that with a piece of the ID: boards that
// were flashed alike have the same configuration. Of two that want a name, the
// one that has it keeps it; of two that have it, the one with the lower ID. It
// depends on the membership and the ID alone, so it is the same after a restart.
func distinctName(ms *raftfsm.Membership, self *txn.Member, want string) string {
	own := fmt.Sprintf("%s-%04x", want, uint16(self.ID))
	if self.Name == own {
		return own
	}
	for _, m := range ms.Members {
		if m.ID != self.ID && m.ID != self.Replaces && m.Name == want && (self.Name != want || m.ID < self.ID) {
			return own
		}
	}
	return want
}

// Wake has the member look again at what changed, now.
func (s *standing) Wake() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *standing) setStage(now Stage) {
	s.mu.Lock()
	s.stage = now
	s.mu.Unlock()
}

// advance enters a stage of founding cluster, unless this member has agreed to
// another founder.
func (s *standing) advance(cluster uint64, now Stage) error {
	return s.keep(func(id *Identity) error {
		if id.Cluster != cluster {
			return errOther
		}
		s.setStage(now)
		return nil
	})
}
