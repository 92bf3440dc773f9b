// Package raftfsm answers: what has the cluster agreed on?
//
// A Node takes commands from any goroutine, gathers those that arrive while
// the disk is busy into one raft entry, and hands each its own result once the
// entry is committed and applied. hashicorp/raft does the agreeing, raft-wal
// keeps the log, and the log is the only thing a client's write waits for on
// disk.
//
// Invariants:
//
//	I3  The raft log is never cut above what SQLite holds, synced.
//	I6  Applying an entry at or below the applied index changes nothing.
//	I7  A linearizable read is served at an index the leader confirmed after the read began.
//	I9  View swapped, then watchers marked, then the proposer answered.
//
// DESIGN.md beside this file has the ideas, what a crash leaves, and the roads
// not taken.
package raftfsm
