// Package cli answers: what did the operator ask?
//
// It turns command lines, environment variables and configuration files into a
// server.Config or a client call, and errors into one sentence and an exit
// code. It decides nothing else.
package cli
