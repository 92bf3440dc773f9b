// Package look answers: what was there before, and when?
//
// Beside etcd's API, which has neither, it serves the history of keys and the
// revision of a time over HTTP, in the form of package look's own Line and Moment.
//
// Invariant: who may not read keys by etcd's API does not see their history.
package look
