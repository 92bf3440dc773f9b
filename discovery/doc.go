// Package discovery answers: who is out there, and what one membership step is
// right now?
//
// Nouns: the Gossip knows the Peers that live on the network and tells them of
// this process (memberlist); the Beacon finds gossip addresses on the LAN with
// nothing but a key; a Plan is the one Step that the leader takes next, a pure
// function of a View of the cluster.
//
// Invariants:
//
//   - What comes from the network without the key changes nothing and is not
//     answered. Memory held for it is bounded.
//   - An old process never hides a newer one of the same member: each process,
//     and each address it has had, is a node of its own to memberlist.
//   - No Step leaves the raft configuration without a quorum of voters that are
//     present; nobody is removed whose place nobody has taken, save by hand.
//
// Left to others: keys (trust), connections between members (peer), the state
// machine of joining and carrying out Steps (server). It imports nothing of the
// project.
package discovery
