// Package v2tree answers: what does a request of etcd's v2 API mean?
//
// Its nouns: a Tree of directories and files, which knows nothing of v3's keys; a
// Request that changes it; the Event that tells what changed; and the View that
// readers have of it, which includes the newest Events.
//
// It is pure like txn: the same requests make the same tree, whatever the
// member, as what a request needs of a clock is carried in it. Times are Unix
// nanoseconds.
package v2tree
