package raftfsm

import (
	"errors"
	"math"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

func TestAppendsAreMeasured(t *testing.T) {
	p := newProgress()
	p.measured(time.Hour, errors.New("no answer"))
	for _, took := range []time.Duration{2, 4, 4, 4, 5, 5, 7, 9} {
		p.measured(took*time.Millisecond, nil)
	}
	a := p.picture(1).Appends
	if a.Failed != 1 || a.Done != 8 || a.Newest != 9 || a.Shortest != 2 || a.Longest != 9 || math.Abs(a.Mean-5) > 1e-9 || math.Abs(a.Deviation()-2) > 1e-6 {
		t.Errorf("got %+v, deviation %v; want 8 done, 1 failed, newest 9, from 2 to 9, mean 5, deviation 2", a, a.Deviation())
	}
}

// Heartbeats are not counted.
func TestReceivedAppendsAreCounted(t *testing.T) {
	under := newSilent()
	k := newQuiet(under)
	defer k.close()
	for _, req := range []*raft.AppendEntriesRequest{{}, {PrevLogEntry: 1}, {LeaderCommitIndex: 1}, {Entries: []*raft.Log{{}}}} {
		under.rpcs <- raft.RPC{Command: req}
		nextRPC(t, k.Consumer())
	}
	if n := k.received.Load(); n != 3 {
		t.Errorf("%d appends were counted, want 3", n)
	}
}
