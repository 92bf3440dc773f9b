package raftfsm

import (
	"time"

	"github.com/hashicorp/raft"
)

const (
	// aheadEntries and aheadBytes bound what is sent ahead in one call; a larger
	// entry still goes, alone.
	aheadEntries = 256
	aheadBytes   = 1 << 20
	// aheadBacklog is how many bytes of entries may wait for a member that is
	// slower than our own disk. Beyond it, raft sends them in its own time.
	aheadBacklog = 8 << 20
	// aheadFresh is how old an answer may be to count as one to raft, which
	// takes it for a sign of life.
	aheadFresh = 100 * time.Millisecond
)

// position is where an entry is in the log.
type position struct{ index, term uint64 }

// hint is news of a commit: entry index of term is committed, by a leader of
// that very term.
type hint struct {
	header      raft.RPCHeader
	term, index uint64
}

// ahead is the entries of one term that a member is sent while our own disk
// takes them. raft still sends each entry itself, later: then the answer is at
// hand, or on its way.
//
// What a member has answered stays true for the term: it had these entries, on
// its disk, when it took part in no later one. So an answer may be given to
// raft whenever raft asks for it.
type ahead struct {
	term  uint64
	last  uint64      // the newest entry taken
	queue []*raft.Log // those that are not sent yet, without gaps, up to last
	bytes int         // of queue
	began bool        // some were sent; base and acked hold
	base  uint64      // the member had the entry before the first one sent
	acked uint64      // its log is ours up to here, on its disk
	at    time.Time   // when it said so
}

// tell has the members hear of a commit. It does not block: of several hints
// the newest goes.
func (t *transport) tell(ids []raft.ServerID, h hint) {
	for _, id := range ids {
		p := t.peer(id)
		p.mu.Lock()
		p.news = h
		p.mu.Unlock()
		t.wake(id, p)
	}
}

// sendAhead has the members take entries, all of the one term in which this
// member leads, as soon as their logs reach just before them. The entry before
// is of that term, too, and none of them changes any more. It does not block.
func (t *transport) sendAhead(ids []raft.ServerID, header raft.RPCHeader, entries []*raft.Log) {
	for _, id := range ids {
		p := t.peer(id)
		p.queueAhead(header, entries)
		t.wake(id, p)
	}
}

// wake has the goroutine that serves a member look for what is due to it.
func (t *transport) wake(id raft.ServerID, p *progress) {
	signal(p.due)
	p.once.Do(func() {
		// Owner: transport; ends when close closes quit.
		t.wg.Go(func() { t.serve(id, p) })
	})
}

func (t *transport) serve(id raft.ServerID, p *progress) {
	for {
		select {
		case <-p.due:
		case <-t.quit:
			return
		}
		for t.sendNext(id, p) {
		}
	}
}

// sendNext sends what is due to a member: entries, or else news of a commit. It
// reports whether to look again.
func (t *transport) sendNext(id raft.ServerID, p *progress) bool {
	// What is under way may bring the news itself, and the member does one thing
	// at a time anyway.
	p.turn.Lock()
	defer p.turn.Unlock()
	if t.stalled() {
		p.endAhead()
		return false
	}
	req := p.next()
	if req == nil {
		return false
	}
	resp := new(raft.AppendEntriesResponse)
	err := t.append(id, raft.ServerAddress(id), p, req, resp)
	if err != nil || !resp.Success {
		p.endAhead()
		return false // until raft itself has found out where the member is
	}
	return true
}

func (p *progress) queueAhead(header raft.RPCHeader, entries []*raft.Log) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.lost.IsZero() {
		p.endAheadLocked()
		return
	}
	a := p.ahead
	if a == nil || a.term != entries[0].Term || a.last+1 != entries[0].Index {
		p.endAheadLocked()
		a = &ahead{term: entries[0].Term}
		p.ahead = a
	}
	for _, e := range entries {
		a.bytes += len(e.Data)
	}
	if a.bytes > aheadBacklog {
		p.endAheadLocked()
		return
	}
	p.header = header
	a.queue = append(a.queue, entries...)
	a.last = entries[len(entries)-1].Index
}

// next is what the member is to be sent now; nil if there is nothing.
func (p *progress) next() *raft.AppendEntriesRequest {
	p.mu.Lock()
	defer p.mu.Unlock()
	if a := p.ahead; a != nil {
		a.drop(p.match)
		if len(a.queue) > 0 && a.queue[0].Index == p.match+1 {
			return p.entriesLocked(a)
		}
	}
	if !p.tellable() {
		return nil
	}
	// An append without entries, like those that raft itself sends: the member
	// checks that it has the very entry before it believes the commit.
	h := p.news
	return &raft.AppendEntriesRequest{
		RPCHeader: h.header, Term: h.term,
		PrevLogEntry: h.index, PrevLogTerm: h.term, LeaderCommitIndex: h.index,
	}
}

// entriesLocked takes what goes in one call.
func (p *progress) entriesLocked(a *ahead) *raft.AppendEntriesRequest {
	n, size := 0, 0
	for _, e := range a.queue {
		if n > 0 && (n == aheadEntries || size+len(e.Data) > aheadBytes) {
			break
		}
		n++
		size += len(e.Data)
	}
	entries := a.queue[:n:n]
	req := &raft.AppendEntriesRequest{
		RPCHeader: p.header, Term: a.term, Entries: entries,
		PrevLogEntry: entries[0].Index - 1, PrevLogTerm: a.term,
	}
	if p.news.term == a.term {
		req.LeaderCommitIndex = min(p.news.index, entries[n-1].Index)
	}
	if !a.began {
		a.began, a.base, a.acked = true, req.PrevLogEntry, req.PrevLogEntry
	}
	a.drop(entries[n-1].Index)
	return req
}

// drop takes the entries up to index off the queue.
func (a *ahead) drop(index uint64) {
	for len(a.queue) > 0 && a.queue[0].Index <= index {
		a.bytes -= len(a.queue[0].Data)
		a.queue = a.queue[1:]
	}
}

// wrote notes up to where the member's log is ours, as it has answered to
// a call of term.
func (a *ahead) wrote(term, index uint64) {
	if a != nil && a.term == term && a.began {
		a.acked, a.at = max(a.acked, index), time.Now()
	}
}

// awaitAhead returns once the member has written the entries of req because they
// were sent ahead; false if they have to be sent.
func (p *progress) awaitAhead(req *raft.AppendEntriesRequest) bool {
	if len(req.Entries) == 0 {
		return false
	}
	last := req.Entries[len(req.Entries)-1].Index
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		a := p.ahead
		switch {
		case a == nil || !a.began || a.term != req.Term || req.PrevLogEntry < a.base || last > a.last:
			return false
		case a.acked >= last:
			return time.Since(a.at) < aheadFresh
		}
		p.changed.Wait()
	}
}

// endAhead leaves it to raft to send what was not answered yet.
func (p *progress) endAhead() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.endAheadLocked()
}

func (p *progress) endAheadLocked() {
	p.ahead = nil
	p.changed.Broadcast()
}
