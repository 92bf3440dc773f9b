// Package e2e asks one question: can a client tell limpet from etcd?
//
// It holds tests only. They run the two real programs as child processes, on ports of 127.0.0.1
// that were free a moment before, and speak to them as a client would:
//
//   - side by side: the same seeded stream of requests to both, every answer compared (package side);
//   - crash: kill -9 under load, again and again; nothing acknowledged may be missing;
//   - hostile: idle connections, garbage, slow readers; the server must live and stay small;
//   - cli: flags, variables, files, and the one sentence a failing start owes to its operator.
//
// Set E2E_SUBJECT=etcd to put a second etcd in limpet's place. That run says whether the tests
// themselves are steady: it must not find one difference.
//
// See README.md for the other variables.
package e2e
