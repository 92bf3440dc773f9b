// Package ops answers operators and their tools over HTTP: which version is
// this, is it well, what has it done? It serves /version, /health, /livez,
// /readyz, /metrics, /debug/vars and, when asked for, /debug/pprof, in etcd's
// forms and under etcd's metric names.
//
// Invariant: what shows the process from within lies below /debug/, and is for
// this machine and for root.
package ops
