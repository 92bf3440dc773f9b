// Package side answers: do two servers answer the same requests in the same way?
//
// Its nouns: a Target is one of the two servers with its connection and open streams. A Step is one
// request (or one thing done to a stream), written in neutral names. An Answer is all a Step brought
// back, turned into neutral names again. A Generator makes Steps from a seed and from what the
// reference answered so far. A Session runs them on both Targets and compares the Answers field by
// field, save what allowed.go lists. A Cluster is several members of one program, and Clusters are
// one of each: the n-th members of the two are a Pair. As is a step done with a token: users are who
// their tokens say, and tokens have neutral names like all else that a server chooses.
//
// Invariants:
//
//  1. Steps depend on the seed and the reference's answers alone: a seed replays.
//  2. Each step has finished on both sides before the next one starts. Only watch events flow
//     meanwhile; they are compared as the sequence each watcher got, at sync steps.
//  3. Whatever makes an answer depend on time is either kept out of the generated steps (short
//     leases, compaction under a watcher that still catches up) or listed in allowed.go.
//  4. Whatever followers answer from their own state is asked of them after they have applied it.
package side
