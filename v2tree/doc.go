// Package v2tree answers: what does a request of etcd's v2 API mean?
//
// The v2 keyspace is a tree of directories and files that knows nothing of v3's
// keys. It is pure like txn: the same requests give the same tree, whatever the
// member, as what a request needs of a clock is carried in it.
package v2tree
