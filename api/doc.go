// Package api answers: how does etcd's v3 gRPC protocol speak?
//
// It checks the form of requests, asks raftfsm, watch and lease, fills in
// response headers, and translates errors into etcd's: same codes, same texts,
// since clients match on both. It holds no state of its own.
package api
