// Package sqlstore answers: what is true, and what was true?
//
// It keeps every version of every key (MVCC) in one SQLite table, revisions,
// which only grows at its end, and an ordered index of the keys in memory.
//
// Nouns: a Row is one version of one key; a Commit is all rows of one revision;
// a View is the state at one revision; the Writer is the single hand that makes
// commits; the tail holds the commits that are not in SQLite yet and some that
// already are; the keeper is the one goroutine that writes SQLite; a Builder
// makes the file of a store that was never open, of another store's history.
//
// Invariants (DESIGN.md beside this file says how each is kept):
//
//	I1  Effects of raft entry i and the fact "i applied" reach disk in one SQLite transaction.
//	I2  Only the Writer changes state in memory (the keeper prunes compacted versions, and between batches takes in
//	    an adopted image); only the keeper writes SQLite.
//	I3  Durable <= Applied, both monotonic; the tail is never trimmed above Durable.
//	I5  Rows at or above the compaction floor never change; a View at R >= floor returns exactly R.
//
// Left to others: what a request means (txn), agreement (raftfsm), delivery (watch).
package sqlstore
