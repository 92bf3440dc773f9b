// Package login answers: who has shown who they are?
//
// A user shows a password once and gets a token for it. A simple token is known
// to all members, as it is issued through the log, and lives in memory only; a
// JWT is believed because of its signature. Passwords are kept as bcrypt hashes,
// and guessing them is slowed down.
package login
