// Package ops answers operators and their tools over HTTP: which version is
// this, is it well, what has it done? It serves /version, /health, /livez,
// /readyz, /metrics, /debug/vars and, when asked for, /debug/pprof, in etcd's
// forms and under etcd's metric names.
package ops
