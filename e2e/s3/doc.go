// Package s3 answers: are snapshots safe in a bucket of a real store that speaks S3?
//
// The store is versitygw, a gateway to a folder, as a process. Between it and limpet
// stands a line that the tests cut. The module is one of its own, since the store brings
// the clients of several clouds.
package s3
