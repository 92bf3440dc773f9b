// Package kine pins the release of kine that bench measures. It is a module of its own because kine asks for newer
// versions of gRPC and others than etcd's release does: in one module etcd would be built from parts it was not
// released with.
package kine
