package raftfsm

import (
	"math"
	"time"
)

// Figures are what etcd's v2 API tells of a member's part in the agreement. They
// count since the Node was opened; heartbeats are not counted, as in etcd.
type Figures struct {
	Leader                       uint64    // the newest one this member has seen; 0: none yet
	Since                        time.Time // when it was first seen; zero: never
	SentAppends, ReceivedAppends uint64
}

// Figures returns the present ones.
func (n *Node) Figures() Figures {
	f := Figures{SentAppends: n.transport.sent.Load(), ReceivedAppends: n.transport.received.Load()}
	if r := n.lead.Load(); r != nil {
		f.Leader, f.Since = r.leader, r.since
	}
	return f
}

// leadership is who leads, and since when this member knows.
type leadership struct {
	leader uint64
	since  time.Time
}

// Appends counts the appends to a member, and tells what those took that it
// answered, in milliseconds.
type Appends struct {
	Failed, Done                    uint64
	Newest, Mean, Shortest, Longest float64 // 0 while none is done
	meanOfSquares                   float64
}

// Deviation is the standard deviation.
func (a Appends) Deviation() float64 {
	return math.Sqrt(max(0, a.meanOfSquares-a.Mean*a.Mean)) // rounding can go below
}

// done adds one that was answered.
func (a *Appends) done(took time.Duration) {
	ms := float64(took) / float64(time.Millisecond)
	if a.Done == 0 {
		a.Shortest = ms
	}
	n := float64(a.Done)
	a.Mean = (n*a.Mean + ms) / (n + 1)
	a.meanOfSquares = (n*a.meanOfSquares + ms*ms) / (n + 1)
	a.Newest, a.Shortest, a.Longest = ms, min(a.Shortest, ms), max(a.Longest, ms)
	a.Done++
}

// measured notes what an append took, or that it failed.
func (p *progress) measured(took time.Duration, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil {
		p.appends.Failed++
		return
	}
	p.appends.done(took)
}
