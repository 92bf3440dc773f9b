package raftfsm

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// line is a transport to one member. Each append waits for its answer from the
// test.
type line struct {
	*silent
	calls   chan *raft.AppendEntriesRequest
	answers chan error // errRefused: no success
}

var errRefused = errors.New("refused")

func newLine(t *testing.T) (*line, *transport) {
	t.Helper()
	l := &line{newSilent(), make(chan *raft.AppendEntriesRequest), make(chan error)}
	k := newQuiet(l)
	t.Cleanup(k.close)
	return l, k
}

func (l *line) AppendEntries(_ raft.ServerID, _ raft.ServerAddress, req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	l.calls <- req
	err := <-l.answers
	resp.Term, resp.Success = req.Term, err == nil
	if errors.Is(err, errRefused) {
		return nil
	}
	return err
}

// expect takes the next call, which must carry the entries from first to last.
func (l *line) expect(t *testing.T, first, last uint64) *raft.AppendEntriesRequest {
	t.Helper()
	select {
	case req := <-l.calls:
		n := len(req.Entries)
		if n == 0 || req.Entries[0].Index != first || req.Entries[n-1].Index != last || req.PrevLogEntry != first-1 {
			t.Fatalf("sent %s, want entries %d to %d", show(req), first, last)
		}
		return req
	case <-time.After(deadline):
		t.Fatalf("entries %d to %d are not sent", first, last)
		return nil
	}
}

func (l *line) answer(err error) { l.answers <- err }

func show(req *raft.AppendEntriesRequest) string {
	return fmt.Sprintf("%d entries of term %d after %d, commit %d", len(req.Entries), req.Term, req.PrevLogEntry, req.LeaderCommitIndex)
}

func entries(term, first, last uint64) (out []*raft.Log) {
	for i := first; i <= last; i++ {
		out = append(out, &raft.Log{Index: i, Term: term, Type: raft.LogCommand, Data: []byte{1}})
	}
	return out
}

// send is what raft itself does; the channel gives whether the member has the entries.
func send(k *transport, term, first, last uint64) <-chan bool {
	done := make(chan bool, 1)
	req := &raft.AppendEntriesRequest{Term: term, PrevLogEntry: first - 1, PrevLogTerm: term, Entries: entries(term, first, last)}
	go func() {
		resp := new(raft.AppendEntriesResponse)
		err := k.AppendEntries("b", "b", req, resp)
		done <- err == nil && resp.Success && resp.Term == term
	}()
	return done
}

func ahead1(k *transport, term, first, last uint64) {
	k.sendAhead([]raft.ServerID{"b"}, raft.RPCHeader{}, entries(term, first, last))
}

// reached has raft find out that the member has the entries up to last.
func reached(t *testing.T, l *line, k *transport, term, first, last uint64) {
	t.Helper()
	sent := send(k, term, first, last)
	l.expect(t, first, last)
	l.answer(nil)
	if !<-sent {
		t.Fatal("an append that succeeds is reported as failed")
	}
}

// Entries that were sent ahead are not sent again: raft gets the answer to them,
// also if it asks for several at once, and while they are still on their way.
func TestAhead(t *testing.T) {
	l, k := newLine(t)
	reached(t, l, k, 3, 1, 4)
	ahead1(k, 3, 5, 6)
	l.expect(t, 5, 6)
	ahead1(k, 3, 7, 7)
	ahead1(k, 3, 8, 9)
	asked := send(k, 3, 5, 9)
	l.answer(nil)
	l.expect(t, 7, 9) // what came meanwhile goes together
	select {
	case <-asked:
		t.Fatal("raft has an answer for entries that the member has not written")
	default:
	}
	l.answer(nil)
	if !<-asked {
		t.Error("raft is told that entries were refused that the member has written")
	}
	if got := k.peer("b").picture(0).Match; got != 9 {
		t.Errorf("match is %d, want 9", got)
	}
	if !<-send(k, 3, 6, 8) {
		t.Error("what raft asks for again is not known any more")
	}
}

// Entries wait until the member is known to have what precedes them.
func TestAheadWaitsForWhatPrecedes(t *testing.T) {
	l, k := newLine(t)
	ahead1(k, 3, 5, 5)
	asked := send(k, 3, 4, 4)
	l.expect(t, 4, 4)
	ahead1(k, 3, 6, 6)
	l.answer(nil)
	if !<-asked {
		t.Error("raft's own append is reported as failed")
	}
	l.expect(t, 5, 6)
	l.answer(nil)
}

// What the member does not take, raft sends again by its own rules.
func TestAheadRefused(t *testing.T) {
	for _, answer := range []error{errRefused, errors.New("no way there")} {
		l, k := newLine(t)
		reached(t, l, k, 3, 1, 4)
		ahead1(k, 3, 5, 5)
		l.expect(t, 5, 5)
		asked := send(k, 3, 5, 5)
		l.answer(answer)
		l.expect(t, 5, 5)
		l.answer(nil)
		if !<-asked {
			t.Errorf("after %v: raft's own append is reported as failed", answer)
		}
		ahead1(k, 3, 6, 6) // and on from there
		l.expect(t, 6, 6)
		l.answer(nil)
	}
}

// An answer of one term is none in another.
func TestAheadOfAnotherTerm(t *testing.T) {
	l, k := newLine(t)
	reached(t, l, k, 3, 1, 4)
	ahead1(k, 3, 5, 5)
	l.expect(t, 5, 5)
	l.answer(nil)
	reached(t, l, k, 4, 5, 5)
}

// An answer that is old is no sign of life.
func TestAheadNotFresh(t *testing.T) {
	l, k := newLine(t)
	reached(t, l, k, 3, 1, 4)
	ahead1(k, 3, 5, 5)
	l.expect(t, 5, 5)
	l.answer(nil)
	p := k.peer("b")
	until(t, "the answer", func() bool { return p.picture(0).Match == 5 })
	p.mu.Lock()
	p.ahead.at = p.ahead.at.Add(-2 * aheadFresh)
	p.mu.Unlock()
	reached(t, l, k, 3, 5, 5)
}

// A member far behind costs no more than the backlog.
func TestAheadIsBounded(t *testing.T) {
	l, k := newLine(t)
	reached(t, l, k, 3, 1, 4)
	big := func(i uint64) []*raft.Log {
		return []*raft.Log{{Index: i, Term: 3, Type: raft.LogCommand, Data: make([]byte, 3<<20)}}
	}
	for i := uint64(5); i < 50; i++ { // the first is under way meanwhile
		k.sendAhead([]raft.ServerID{"b"}, raft.RPCHeader{}, big(i))
		if i == 5 {
			l.expect(t, 5, 5)
		}
		p := k.peer("b")
		p.mu.Lock()
		if p.ahead != nil && p.ahead.bytes > aheadBacklog {
			t.Fatalf("%d bytes wait, want at most %d", p.ahead.bytes, aheadBacklog)
		}
		p.mu.Unlock()
	}
	k.peer("b").endAhead()
	l.answer(nil)
}

// Commits travel with the entries.
func TestAheadCarriesCommits(t *testing.T) {
	l, k := newLine(t)
	reached(t, l, k, 3, 1, 4)
	ahead1(k, 3, 5, 5)
	l.expect(t, 5, 5)
	ahead1(k, 3, 6, 6)
	k.tell([]raft.ServerID{"b"}, hint{term: 3, index: 5})
	l.answer(nil)
	if req := l.expect(t, 6, 6); req.LeaderCommitIndex != 5 {
		t.Errorf("sent %s, want commit 5", show(req))
	}
	l.answer(nil)
}

// The others hear of entries before our own disk does.
func TestStoringComesFirst(t *testing.T) {
	l := openTestLog(t, t.TempDir(), 1<<20)
	var heard []uint64
	l.onStoring = func(logs []*raft.Log) {
		last, err := l.LastIndex()
		if err != nil || last >= logs[0].Index {
			t.Errorf("heard of entry %d when the log ended at %d (%v)", logs[0].Index, last, err)
		}
		heard = append(heard, logs[0].Index)
	}
	for i := uint64(1); i <= 3; i++ {
		if err := l.StoreLogs(entries(1, i, i)); err != nil {
			t.Fatal(err)
		}
	}
	if len(heard) != 3 {
		t.Errorf("heard of entries %v, want all three", heard)
	}
}

// counted is a transport that counts how often each entry travels.
type counted struct {
	*raft.InmemTransport
	mu    sync.Mutex
	times map[uint64]int
}

func (c *counted) AppendEntries(id raft.ServerID, at raft.ServerAddress, req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	c.mu.Lock()
	for _, e := range req.Entries {
		c.times[e.Index]++
	}
	c.mu.Unlock()
	return c.InmemTransport.AppendEntries(id, at, req, resp)
}

// A leader's entries travel once to each of the others.
func TestEntriesTravelOnce(t *testing.T) {
	var all []*counted
	c := newCluster(t, 3, func(cfg *Config) {
		counts := &counted{InmemTransport: cfg.Transport.(*raft.InmemTransport), times: make(map[uint64]int)}
		all = append(all, counts)
		cfg.Transport = counts
	})
	leader := c.leader()
	leader.put("k", "v")
	first := leader.Status().LastIndex + 1
	until(t, "the others to have it", func() bool {
		for _, p := range leader.Progress() {
			if p.Match < first-1 {
				return false
			}
		}
		return true
	})
	for range 50 {
		leader.put("k", "v")
	}
	until(t, "the others to have all", func() bool {
		for _, p := range c.members {
			if p.Status().Applied < leader.Status().LastIndex {
				return false
			}
		}
		return true
	})
	counts := all[leader.id-1]
	counts.mu.Lock()
	defer counts.mu.Unlock()
	again := 0
	for i := first; i <= leader.Status().LastIndex; i++ {
		if counts.times[i] < 2 {
			t.Errorf("entry %d travelled %d times, want once to each of two", i, counts.times[i])
		}
		again += counts.times[i] - 2
	}
	if again > 10 { // a busy machine may make an answer too old to count
		t.Errorf("%d of 50 entries travelled again", again)
	}
}

// What raft sends to a member that is away waits for a heartbeat to be answered,
// instead of failing ever again; and not for ever.
func TestAppendsWaitForContact(t *testing.T) {
	l, k := newLine(t)
	away := func() <-chan bool {
		sent := send(k, 3, 1, 1)
		l.expect(t, 1, 1)
		l.answer(errors.New("no way there"))
		<-sent
		p := k.peer("b")
		p.mu.Lock()
		p.lost = p.lost.Add(-2 * awayAfter)
		p.mu.Unlock()
		sent = send(k, 3, 1, 1)
		select {
		case req := <-l.calls:
			t.Fatalf("sent %s to a member that does not answer", show(req))
		case <-time.After(20 * time.Millisecond):
		}
		return sent
	}
	beat := func() {
		beaten := make(chan error, 1)
		go func() {
			beaten <- k.AppendEntries("b", "b", &raft.AppendEntriesRequest{Term: 3}, new(raft.AppendEntriesResponse))
		}()
		<-l.calls
		l.answer(nil)
		if err := <-beaten; err != nil {
			t.Fatal(err)
		}
	}
	sent := away()
	beat()
	l.expect(t, 1, 1)
	l.answer(nil)
	if !<-sent {
		t.Error("the append that waited is reported as failed")
	}
	removal := func() { k.peer("b").dismiss(true) }
	for what, end := range map[string]func(){"a removal": removal, "another term": k.reset} {
		sent = away()
		end()
		if <-sent {
			t.Errorf("after %s: reported as sent", what)
		}
		k.peer("b").dismiss(false)
		beat()
	}
	sent = away()
	k.interrupt()
	if <-sent {
		t.Error("at the end: reported as sent")
	}
}
