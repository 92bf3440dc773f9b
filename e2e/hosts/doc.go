// Package hosts answers: how does a test get several hosts on one machine, and break what is
// between them?
//
// Its nouns: a Net is a bridge, its hub (where the test's clients are) and its Hosts, each a network
// namespace with one address. A Disk is a Host's own file system, which can be slow, hang, or lose
// its power. Programs run on a Host as proc.Process.
//
// Invariants:
//
//  1. The machine's own network namespace is never changed: no bridge, address or rule is put there.
//  2. Namespaces have no names and are held by file descriptors: they end with the test process and
//     its children, however those end.
//  3. What outlives a process (mounts, control groups, images) lies in a folder that the process has
//     locked. Whoever finds such a folder unlocked clears it away.
//  4. Two frames either may pass or not by the ports they come from and go to; addresses do not
//     matter, so that a cut stays when a host gets a new one.
//
// All of it needs Linux, root, and the Debian packages iproute2, nftables, e2fsprogs and mount. A
// test that lacks one of them is skipped with a sentence.
package hosts
