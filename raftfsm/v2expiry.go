package raftfsm

import (
	"context"
	"time"

	"limpet/v2tree"
)

// expiryPause is how long at least passes between two removals of v2 keys whose
// time is up: many that run out one after the other share log entries. etcd looks
// this often whenever there is any.
const expiryPause = 500 * time.Millisecond

// expireV2 removes v2 keys at the moment their time is up, while this member
// leads. It sleeps while there are none.
func (n *Node) expireV2() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	last := time.Time{}
	for {
		var fired <-chan time.Time
		if wait, ok := n.untilDue(last); ok {
			if wait <= 0 {
				n.expireNow()
				last = time.Now()
				continue
			}
			timer.Reset(wait)
			fired = timer.C
		}
		select {
		case <-n.ctx.Done():
			return
		case <-n.fsm.v2.due:
		case <-fired:
		}
	}
}

// untilDue is how long to wait for the next v2 key to run out, if this member is
// to remove any.
func (n *Node) untilDue(last time.Time) (wait time.Duration, ok bool) {
	due := n.fsm.v2.View().Due()
	if due == 0 || !n.Leading() {
		return 0, false
	}
	if now := time.Now().UnixNano(); due > now { // a difference of what is far below 0 would overflow
		wait = time.Duration(due - now)
	}
	return max(wait, time.Until(last.Add(expiryPause))), true
}

// expireNow fails when this member ceases to lead; if it leads on, it tries again.
func (n *Node) expireNow() {
	ctx, cancel := context.WithTimeout(n.ctx, n.cfg.ProposeTimeout)
	defer cancel()
	if _, err := n.ProposeAsLeader(ctx, &v2tree.Expire{Now: time.Now().UnixNano()}); err != nil {
		n.log.Debug("v2 keys whose time is up could not be removed; trying again", "error", err)
	}
}
