// Package proc answers: how does a test get a running server, and how does it end it?
//
// Its nouns are the Binary (built once, kept in a folder), the Server (one child process with one
// data directory that outlives restarts) and the Log (what the child wrote, kept and searchable).
//
// Invariants:
//
//  1. Nothing waits by sleeping: every wait is a condition with a deadline.
//  2. A Server that a test started is dead when the test is over.
//  3. Ports and data directory belong to the Server, not to the process: a restart finds both again.
package proc
