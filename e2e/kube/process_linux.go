package kube

import "syscall"

// dieWithParent puts a child into a process group of its own (a Ctrl-C is for
// the test, which then cleans up) and has the kernel kill it when the test
// binary dies, be it by a panic or by go test's own timeout.
func dieWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
