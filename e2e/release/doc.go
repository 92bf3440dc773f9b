// Package release answers: is what make release builds what it says, and does it run?
//
// Its nouns are the Release (a folder that the real make target built, once for each test process)
// and its archs; processors that the machine does not have come from qemu-user.
//
// By default the tests look at the architecture of the machine, built with what the go command has in
// its cache. With E2E_LONG=1 they look at all, and the proof that releases are reproducible
// compiles everything twice.
package release
