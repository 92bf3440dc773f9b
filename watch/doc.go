// Package watch answers: who must hear of it?
//
// A watcher is a cursor over history. A commit does not push events: it notes
// its revision at the watchers whose keys it touches and wakes their streams;
// whoever sends on a stream then pulls the events, from the tail of recent
// commits in memory or, when behind, from SQLite. A client that does not read
// costs only its own cursor.
//
// Nouns: the Hub knows all watchers; a Stream is the set of watchers that one
// client connection multiplexes; a Response is what the stream's sender sends
// next.
//
// Invariants:
//
//	I8  A watcher of keys K from revision S gets every event of K at or above S, once, in order, or one compaction error.
//	    All events of one revision come in one Response.
//	    A progress revision never overtakes an event at or below it.
//
// The store is reached through the Source interface, so that tests can hold it
// still.
package watch
