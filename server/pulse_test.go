package server

import (
	"context"
	"errors"
	"testing"
	"time"

	"limpet/raftfsm"
)

// glance is what one look at the member finds, and what is to be thought of it.
type glance struct {
	after time.Duration // the look before
	v     raftfsm.Vitals
	loop  error // raft's loop does not answer
	disk  error
	alive bool
}

func TestPulse(t *testing.T) {
	const age, long = 20 * time.Second, time.Minute
	hangs, full := errors.New("hangs"), errors.New("no space left")
	idle := raftfsm.Vitals{Committed: 7, Applied: 7, Durable: 7}
	unwritten := raftfsm.Vitals{Committed: 9, Applied: 9, Durable: 7}
	unapplied := raftfsm.Vitals{Committed: 9, Applied: 7, Durable: 7}
	for name, looks := range map[string][]glance{
		"idle for long":             {{v: idle, alive: true}, {after: long, v: idle, alive: true}},
		"changes ripen":             {{v: idle, alive: true}, {after: long, v: unwritten, alive: true}, {after: age, v: unwritten, alive: true}},
		"changes are never written": {{v: unwritten, alive: true}, {after: age, v: unwritten, alive: true}, {after: age, v: unwritten}},
		"written at last": {{v: unwritten, alive: true}, {after: long, v: unwritten},
			{after: age, v: raftfsm.Vitals{Committed: 12, Applied: 12, Durable: 9}, alive: true}},
		"nothing is applied": {{v: unapplied, alive: true}, {after: long, v: unapplied}},
		"applied, slowly": {{v: unapplied, alive: true},
			{after: long, v: raftfsm.Vitals{Committed: 9, Applied: 8, Durable: 8}, alive: true}},
		"raft's loop hangs":          {{v: idle, loop: hangs}, {after: age, v: idle, alive: true}},
		"the disk is full":           {{v: unwritten, disk: full, alive: true}, {after: long, v: unwritten, disk: full, alive: true}},
		"no longer full, still dead": {{v: unwritten, disk: full, alive: true}, {after: age, v: unwritten, alive: true}, {after: age, v: unwritten}},
		"an image comes in": {{v: unapplied, alive: true},
			{after: long, v: raftfsm.Vitals{Committed: 9, Applied: 7, Durable: 7, Received: 1}, loop: hangs, alive: true},
			{after: long, v: raftfsm.Vitals{Committed: 9, Applied: 7, Durable: 7, Received: 1, Adopting: true}, loop: hangs, alive: true},
			{after: age, v: raftfsm.Vitals{Committed: 99, Applied: 99, Durable: 99, Received: 1}, alive: true}},
		"an image that stops coming": {{v: raftfsm.Vitals{Committed: 9, Received: 1}, loop: hangs, alive: true},
			{after: age, v: raftfsm.Vitals{Committed: 9, Received: 1}, loop: hangs}},
	} {
		t.Run(name, func(t *testing.T) {
			var now glance
			at := time.Unix(1000, 0)
			p := &pulse{
				now:    func() time.Time { return at },
				turns:  func(context.Context) error { return now.loop },
				vitals: func() raftfsm.Vitals { return now.v },
				disk:   func() error { return now.disk },
			}
			for i, l := range looks {
				now, at = l, at.Add(l.after)
				if err := p.check(t.Context()); (err == nil) != l.alive {
					t.Errorf("look %d: got %v, want alive: %v", i, err, l.alive)
				}
			}
		})
	}
}
