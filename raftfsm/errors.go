package raftfsm

import "errors"

var (
	ErrNoLeader        = errors.New("raftfsm: no leader")
	ErrLeaderChanged   = errors.New("raftfsm: leader changed")
	ErrStopped         = errors.New("raftfsm: server stopped")
	ErrTooManyRequests = errors.New("raftfsm: too many requests")
	// ErrLogFailed: the log could not be written. The proposal may still happen
	// once it can.
	ErrLogFailed = errors.New("raftfsm: the raft log could not be written")
	ErrTimeout   = errors.New("raftfsm: request timed out")
	ErrTooLarge  = errors.New("raftfsm: request is too large")
)
