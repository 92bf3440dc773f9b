// Package backup answers: where are snapshots kept, and are they whole?
//
// Nouns: a snapshot is a file as etcdctl snapshot save receives it from a member,
// the database as one SQLite file and the SHA-256 of it behind that, compressed or
// not; a Place is where snapshots are kept, a folder (Dir) or a bucket of a store
// that speaks S3 (Bucket); Contents is what a snapshot turns out to hold when it is
// read whole; the Keeper takes snapshots of a member by a schedule.
//
// Invariants:
//
//	B1  A snapshot has its name, or is listed, only when it is whole, synced, and was read whole: hash, pages and rows.
//	B2  What a crash or a full disk leaves has another name (.part), and the next run removes it.
//	B3  The newest whole snapshot of a name and member is never removed to make room for another.
//
// Left to others: what a restored member is (server), what the rows mean (txn).
package backup
