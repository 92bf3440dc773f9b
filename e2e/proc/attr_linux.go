package proc

import "syscall"

// childAttr lets the kernel end a child whose test process died without cleaning up.
func childAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
