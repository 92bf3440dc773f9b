// Package auth answers: who may do what?
//
// Rules are users, roles and permissions as etcd's Auth service has them
// (server/v3/auth): a value that never changes; a change makes another one. txn
// keeps the present one as replicated state and asks it before each command, api
// asks it before each read.
//
// Tokens stand for users that have shown their password. A simple token is known
// to all members, as it is issued through the log, and lives in memory only; a JWT
// is believed because of its signature.
package auth
