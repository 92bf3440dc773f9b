// Package witness answers: is there one history that explains what every client heard?
//
// Its nouns: a Call is one request with what came back, if anything did; the Ledger keeps all
// Calls; a Load is clients that make them, whatever happens to the servers. A History is what a member
// says has happened, revision by revision, and what the store therefore held at each of them. A Watcher
// keeps what one watch delivered.
//
// Every answer names its revision, so the order of events need not be searched for: the History is
// the witness, and linearizability comes down to comparing numbers. Invariants that are checked:
//
//  1. All members tell the same History: no revision is missing or stands for two things, and
//     each event's previous value, versions and creation follow from the events before it.
//  2. An acknowledged write stands in the History at the revision that was acknowledged, with
//     exactly its effects. A write without an answer stands there once and whole, or not at all.
//  3. Nothing stands there that nobody wrote.
//  4. A write's revision is higher than any revision heard of before it was sent, a linearizable
//     read's is not lower.
//  5. A read of revision R returned what the store held at R.
//  6. A Watcher was told of every event of its range once, in order, with the previous value.
package witness
