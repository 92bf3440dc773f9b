// Package txn answers: what does a request mean?
//
// It is pure: state and command in, changes and response out. It imports no
// clock, no randomness, nothing of sync, os, net or raft; whatever a command
// needs of those (lease ids, times) is chosen before proposing and carried in
// it. The same log therefore gives the same state on every member, however it
// was cut into batches (I4).
//
// Commands are etcd's own request messages; responses are etcd's own response
// messages with only Header.Revision filled in, as the cluster's and member's
// names are not part of the meaning.
//
// One guard, State.admit, stands before one switch, State.Apply.
package txn
