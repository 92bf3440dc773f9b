// Package login answers: who has shown who they are?
//
// A user shows a password once and gets a token for it. A simple token is known
// to all members, as it is issued through the log, and lives in memory only; a
// JWT is believed because of its signature. Users of etcd's v2 API have no tokens and
// show their password each time; one that was right is remembered. Passwords are kept as bcrypt hashes,
// and guessing them is slowed down.
package login
