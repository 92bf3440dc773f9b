package raftfsm

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// words is what members log.
type words struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (w *words) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.Write(b)
}

func (w *words) has(part string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Contains(w.buf.String(), part)
}

// A leader that falls silent is replaced because the others agree that it is,
// by the one with more of the log.
func TestSilentLeader(t *testing.T) {
	said := new(words)
	c := newCluster(t, 3, func(cfg *Config) {
		// raft's own timers run for up to twice as long.
		cfg.ElectionTimeout, cfg.HeartbeatTimeout = 2*time.Second, 2*time.Second
		cfg.Logger = slog.New(slog.NewTextHandler(said, nil))
	})
	for range 5 { // raft's own timer may be first by chance
		old := c.leader()
		old.put("k", "v")
		c.cut(old.id)
		c.leader().put("k", "w")
		c.cut()
		if said.has("a quorum does not hear the leader") {
			return
		}
	}
	t.Error("nobody asks around: raft's own timers find out")
}

// One that does not hear a leader which others hear leaves it in peace.
func TestWhoHearsNothingAloneWaits(t *testing.T) {
	c := newCluster(t, 3, nil)
	leader, deaf := c.leader(), c.follower()
	leader.put("k", "v")
	term := leader.Term()
	leader.transport.Disconnect(raft.ServerAddress(serverID(deaf.id)))
	until(t, "silence", func() bool { return time.Since(deaf.raft.LastContact()) > 2*quick })
	if h := deaf.Hear(leader.id, term); !h.Silent {
		t.Errorf("the member that is cut off answers %+v, want silence", h)
	}
	for range 3 {
		deaf.askAround(leader.id, term)
	}
	leader.put("k", "w")
	if got := leader.Term(); got != term || !leader.Leading() {
		t.Errorf("term %d, leading %v; want term %d as before", got, leader.Leading(), term)
	}
	if h := leader.Hear(leader.id, term); h.Silent {
		t.Errorf("the leader answers %+v, want that it hears itself", h)
	}
}

func TestMoreOfTheLog(t *testing.T) {
	for _, c := range []struct {
		a, b Hearing
		want bool
	}{
		{Hearing{LastTerm: 2, LastIndex: 1}, Hearing{LastTerm: 1, LastIndex: 9}, true},
		{Hearing{LastTerm: 1, LastIndex: 9}, Hearing{LastTerm: 2, LastIndex: 1}, false},
		{Hearing{LastTerm: 2, LastIndex: 9}, Hearing{LastTerm: 2, LastIndex: 8}, true},
		{Hearing{LastTerm: 2, LastIndex: 9}, Hearing{LastTerm: 2, LastIndex: 9}, false},
	} {
		if got := c.a.more(c.b); got != c.want {
			t.Errorf("%+v has more than %+v: %v, want %v", c.a, c.b, got, c.want)
		}
	}
}
