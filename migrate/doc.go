// Package migrate answers: how does data of others become ours, and ours
// theirs?
//
// Nouns: a Source is the history that another store has kept, standing still;
// Import makes a database of it, in which nothing but the rows that nobody can
// ask for any more is missing; a Summary tells what came over. Export copies the
// present of a running limpet to an etcd, Dump to a file.
//
// Invariants:
//
//	M1  A source is never written to.
//	M2  Revisions stay what they are: whoever remembers one finds the same under it.
//	M3  Nothing is said to be done that was not read again on both sides and found equal.
//
// Left to others: what a database file looks like (sqlstore), what a data directory
// is (server), what records of leases and users look like (txn, auth).
package migrate
