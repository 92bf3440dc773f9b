// Package proc answers: how does a test get a running server, and how does it end it?
//
// Its nouns are the Binary (built once, kept in a folder), the Process (one program, started again
// and again), the Server (a Process with one data directory and addresses that outlive restarts) and
// the Log (what the child wrote, kept and searchable).
//
// Invariants:
//
//  1. Nothing waits by sleeping: every wait is a condition with a deadline.
//  2. A Process that a test started is dead when the test is over.
//  3. Ports and data directory belong to the Server, not to the process: a restart finds both again.
package proc
