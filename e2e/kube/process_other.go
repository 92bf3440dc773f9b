//go:build !linux

package kube

import "syscall"

// dieWithParent can only separate the process groups here: a test binary that is
// killed leaves its children behind.
func dieWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
