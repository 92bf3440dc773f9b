//go:build linux

package hosts

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// threadNamespace is the calling thread's network namespace.
const threadNamespace = "/proc/thread-self/ns/net"

// namespace is a network namespace that nobody but this process and its children knows. Its
// methods may be called concurrently.
type namespace struct {
	file *os.File // keeps it alive
}

// newNamespace makes one with nothing in it but a loopback that is down.
func newNamespace() (*namespace, error) {
	var made *namespace
	err := keepingNamespace(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace: %w", err)
		}
		f, err := os.Open(threadNamespace)
		made = &namespace{f}
		return err
	})
	return made, err
}

// path is where other programs of this user find the namespace.
func (s *namespace) path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), s.file.Fd()) }

// do calls f on a thread that is inside. Sockets made and programs started by f itself, not by its
// goroutines, belong to the namespace.
func (s *namespace) do(f func() error) error {
	return keepingNamespace(func() error {
		if err := unix.Setns(int(s.file.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter a network namespace: %w", err)
		}
		return f()
	})
}

func (s *namespace) close() { s.file.Close() }

// keepingNamespace calls f, which may change the thread's network namespace, and takes the thread
// back to where it was, also when f ends its goroutine. The runtime never starts a thread from a
// locked one, so that no other thread can come by f's namespace.
func keepingNamespace(f func() error) error {
	runtime.LockOSThread()
	home, err := os.Open(threadNamespace)
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer func() {
		// A thread that stayed abroad would give its sockets to whoever runs on it next.
		if err := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); err != nil {
			panic(fmt.Sprintf("thread cannot return to its network namespace: %v", err))
		}
		home.Close()
		runtime.UnlockOSThread()
	}()
	return f()
}
