// Command bench answers one question: how does limpet stand beside etcd, and beside kine, on this machine today?
//
// It builds the servers (sides), runs each kind of work (rows) on every side in turn, A B C A B C, and prints medians
// with their range, the cost in CPU and bytes beside the rate, and limpet's share of etcd's figure against the floors
// and aims of the project's design.
//
// Nouns: a side is a program under test; a server is one running process of a side; a cluster is one server alone or
// three as members; a row is a kind of work with the metrics it yields; a sample is what one round of one row gave on
// one side; the recorder keeps them all. A knocker finds out when a cluster takes writes.
//
// What it leaves to others: members on machines of their own, since the three share loopback, cores and disk here, and
// every judgement beyond the figures.
//
// Invariant: every side of a row gets the same keys, values, number of clients, warm-up and window, from the same
// generator, in the same order; the members of a cluster are started with the same flags. Where a side refuses a request, its cell says so instead of showing something else.
package main
