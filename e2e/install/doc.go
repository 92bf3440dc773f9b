// Package install answers: does install.sh leave a machine as it says, and one that runs for years?
//
// Its nouns: a Machine is a hosts.Host with a file system and a service manager of its own, Debian
// booted in a container. A Mirror is where machines download limpet from.
//
// Invariants:
//
//  1. Nothing of a machine outlives the test process: it is a tmpfs, mounts and processes in
//     namespaces that the kernel ends with their first process. Control groups do; they are named
//     after the test process, and the next one sweeps them.
//  2. The Debian that machines start from is made once, kept below the user's cache directory, and
//     never written to: a half made one does not have its name.
//
// All of it needs Linux, root, what package hosts needs, and the Debian packages debootstrap and
// systemd-container. A test that lacks one of them is skipped with a sentence.
package install
