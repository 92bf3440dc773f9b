package raftfsm

import "errors"

var (
	ErrNoLeader = errors.New("raftfsm: no leader")
	// ErrNotLeader: whoever was asked does not lead; nothing happened.
	ErrNotLeader       = errors.New("raftfsm: not the leader")
	ErrLeaderChanged   = errors.New("raftfsm: leader changed")
	ErrStopped         = errors.New("raftfsm: server stopped")
	ErrTooManyRequests = errors.New("raftfsm: too many requests")
	// ErrLogFailed: the log could not be written. The proposal may still happen
	// once it can.
	ErrLogFailed = errors.New("raftfsm: the raft log could not be written")
	ErrTimeout   = errors.New("raftfsm: request timed out")
	// ErrUnsent: there was no leader to propose to for so long; nothing happened.
	ErrUnsent   = errors.New("raftfsm: no leader to propose to")
	ErrTooLarge = errors.New("raftfsm: request is too large")
	// ErrOldMember: nothing happened; the member's log could not hold it.
	ErrOldMember = errors.New("raftfsm: a member of the cluster runs a limpet that does not know the v2 API: upgrade limpet on every member")
)
