// Package cluster answers: how does a member come into a cluster, and stay?
//
// A member without a cluster is empty; it gets in by one of these ways, which
// all end the same: it knows the cluster's ID, and raft takes it from there.
//
//   - Alone: it founds a cluster of itself.
//   - Together: as many empty members as are expected, all of them present,
//     found one; the one with the lowest ID asks each of the others first.
//   - Join: it asks a member of the cluster, and the leader adds it as a learner
//     that will be promoted, or recognises the member that an operator added.
//
// Invariant: nobody founds a cluster in sight of one. Who has state is joined;
// founding together takes all who are expected, and all of them empty. An ID is
// minted with the data directory, so a wiped disk is a new member: it can never
// vote where the old one did.
//
// Later, the member that leads compares the replicated membership, raft's
// configuration and who really answers, and takes one step at a time
// (discovery.Plan); every member keeps its own record up to date.
package cluster
