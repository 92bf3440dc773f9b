// Package recipepb answers: what do clients of etcd's Lock and Election services
// say, and hear?
//
// etcd keeps these two descriptions in its server's module, which limpet does
// not build on; the .proto files here are limpet's own, and say the same on the
// wire. The Go files are generated from them.
package recipepb

//go:generate go -C ../../tools run ./genproto ../api/recipepb v3lock.proto v3election.proto
