// Command bench answers one question: how does limpet stand beside etcd, and beside kine, on this machine today?
//
// It builds the servers (sides), runs each kind of work (rows) on every side in turn, A B C A B C, and prints medians
// with their range, the cost in CPU and bytes beside the rate, and limpet's share of etcd's figure against the floors
// and aims of the project's design.
//
// Nouns: a side is a program under test; a server is one running process of a side; a row is a kind of work with the
// metrics it yields; a sample is what one round of one row gave on one side; the recorder keeps them all.
//
// What it leaves to others: rows that need three members, and every judgement beyond the figures.
//
// Invariant: every side of a row gets the same keys, values, number of clients, warm-up and window, from the same
// generator, in the same order. Where a side refuses a request, its cell says so instead of showing something else.
package main
