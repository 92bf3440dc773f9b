// Package server answers: who is joined to whom, and in what order do they
// start and stop?
//
// It wires the other packages together and does nothing else: data directory
// and identity, listeners, the order of start (store, agreement, leases, then
// clients) and of stop (streams, clients, leases, agreement, store).
package server
