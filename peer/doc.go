// Package peer answers: how do members reach each other?
//
// A member has one port for the others. Every connection begins with TLS, if
// the cluster has a token or its members certificates that they were given, and
// a greeting: who calls, of which cluster, whom it wants, and what for. The port
// answers with who it is, or with a sentence that says why not; both sides log
// it. After that the connection is
//
//   - a stream of raft messages (Purpose Raft),
//   - or gRPC: calls between members (Call), and the few questions that anybody
//     with the token may ask, before it is a member (Ask).
//
// Members are called by ID. Where one is, the caller's Config.Where knows, and
// whoever answers must be the one that was meant: addresses may have changed
// hands.
package peer
