// Package crash answers: is everything that a server acknowledged still there after kill -9?
//
// Its nouns: an Op is one write with the effects it must have; the Ledger keeps all Ops with what
// the client heard of them. A Load is a set of writers that go on until the server dies. A
// Follower watches everything across crashes and keeps what it saw, revision by revision.
//
// Invariants that the Ledger holds the server to:
//
//  1. An acknowledged Op is in the history at the revision that was acknowledged, with exactly its effects.
//  2. An Op without an answer is there once and whole, or not at all.
//  3. Each revision is explained by one Op; none is skipped, reused or rewritten.
//  4. After a restart each key is as its last acknowledged Op left it, or as a later Op without an answer did.
package crash
