package raftfsm

import (
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// holdPatience is how long the log is kept for a member that was sent an image.
const holdPatience = 10 * time.Minute

// progress is what is known of another member while this one leads.
type progress struct {
	turn sync.Mutex // held while an append is under way; before mu
	once sync.Once
	due  chan struct{} // holds one: look for what is to be sent

	mu      sync.Mutex // guards the fields below
	changed *sync.Cond // of ahead, lost, reign and ended
	ahead   *ahead     // what is sent while our own disk takes it; nil if nothing is
	header  raft.RPCHeader
	match   uint64        // the highest index known to be in its log
	commit  uint64        // the highest commit index it was told
	news    hint          // the newest commit that it should hear of
	contact time.Time     // its last answer
	asked   time.Time     // when the newest call was sent that it answered as our follower
	since   time.Time     // it has answered without a break since; zero if it does not
	write   time.Duration // what its newest write of entries took, with the way there and back
	lost    time.Time     // since when it has not answered; zero if it does
	held    *held
	reign   uint64 // counts this member's times as leader
	ended   bool   // nothing waits for it any more
	out     bool   // raft's configuration has it no more
	appends Appends
}

func newProgress() *progress {
	p := &progress{due: make(chan struct{}, 1)}
	p.changed = sync.NewCond(&p.mu)
	return p
}

// reset forgets what an earlier time as leader has found out.
func (p *progress) reset(ended bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reign++
	p.ended = ended
	p.match, p.commit, p.news, p.held = 0, 0, hint{}, nil
	p.endAheadLocked()
}

// awayAfter is how long a member has not answered when it counts as away.
const awayAfter = 500 * time.Millisecond

// awaitContact returns true once the member answers, or at once if it did not
// long ago; false if it is not worth waiting for any more.
func (p *progress) awaitContact() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for reign := p.reign; !p.lost.IsZero() && time.Since(p.lost) > awayAfter; {
		if p.ended || p.out || p.reign != reign {
			return false
		}
		p.changed.Wait()
	}
	return true
}

// dismiss notes whether raft goes on without the member: then nothing waits for
// it.
func (p *progress) dismiss(out bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.out = out
	p.changed.Broadcast()
}

// held says: the log above index is needed.
type held struct {
	index uint64
	until time.Time
}

// contacted notes the outcome of a call; changed if it is unlike the one
// before.
func (p *progress) contacted(err error) (changed bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err == nil {
		changed = !p.lost.IsZero()
		p.contact, p.lost = time.Now(), time.Time{}
		if changed {
			p.changed.Broadcast()
		}
		if p.since.IsZero() {
			p.since = p.contact
		}
		return changed
	}
	p.since = time.Time{}
	if changed = p.lost.IsZero(); changed {
		p.lost = time.Now()
	}
	return changed
}

// confirmed notes that the member follows this leader, as it answered to what was
// sent at that time.
func (p *progress) confirmed(sent time.Time, follows bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if follows && sent.After(p.asked) {
		p.asked = sent
	}
}

func (p *progress) sent(req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) {
	if !resp.Success {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	last := req.PrevLogEntry + uint64(len(req.Entries))
	p.match = max(p.match, last)
	p.ahead.wrote(req.Term, last)
	p.changed.Broadcast()
	p.commit = max(p.commit, min(req.LeaderCommitIndex, p.match))
	if p.held != nil && p.match > p.held.index {
		p.held.index = p.match
	}
	if p.tellable() || p.ahead != nil && len(p.ahead.queue) > 0 {
		signal(p.due)
	}
}

// tellable reports whether there is news of a commit. There is none before the
// member has the entry; then sent asks again. The caller has mu.
func (p *progress) tellable() bool { return p.news.index > p.commit && p.news.index <= p.match }

func (p *progress) wrote(took time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.write = took
}

func (p *progress) hold(index uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held = &held{index, time.Now().Add(holdPatience)}
}

func (p *progress) release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held = nil
}

func (p *progress) needs() (index uint64, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.held == nil || time.Now().After(p.held.until) {
		return 0, false
	}
	return p.held.index, true
}

func (p *progress) picture(id uint64) Progress {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := Progress{ID: id, Match: p.match, Silence: -1, Appends: p.appends}
	if !p.contact.IsZero() {
		out.Silence = time.Since(p.contact)
		out.Since = p.since
	}
	return out
}
