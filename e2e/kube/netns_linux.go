package kube

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// netns is a network namespace that nobody but this process and its children
// knows: it ends with them.
type netns struct {
	file *os.File // keeps it alive
}

// newNetns makes one with nothing in it but a loopback that is down.
func newNetns() (made netns, err error) {
	err = onOwnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace: %w", err)
		}
		made.file, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	return made, err
}

// onOwnThread calls f on a thread that ends with it, whatever f did to it.
func onOwnThread(f func() error) error {
	done := make(chan error, 1)
	// Owner: this call; ends with f.
	go func() {
		runtime.LockOSThread() // and never unlock: the thread ends with this goroutine
		done <- f()
	}()
	return <-done
}

// enter takes the calling thread there.
func (n netns) enter() error {
	if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter a network namespace: %w", err)
	}
	return nil
}

// do calls f inside. Sockets that f itself makes, not its goroutines, belong to
// the namespace.
func (n netns) do(f func() error) error {
	return onOwnThread(func() error {
		if err := n.enter(); err != nil {
			return err
		}
		return f()
	})
}

// path is where other programs of this user find the namespace.
func (n netns) path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.file.Fd()) }

// ip runs commands of iproute2 inside.
func (n netns) ip(commands ...string) error {
	return n.do(func() error {
		cmd := exec.Command("ip", "-batch", "-")
		cmd.Stdin = strings.NewReader(strings.Join(commands, "\n") + "\n")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("ip, %q: %w\n%s", commands, err, out)
		}
		return nil
	})
}

// DialContext dials from inside; the address must be numeric, as names would be
// looked up elsewhere.
func (n netns) DialContext(ctx context.Context, network, addr string) (conn net.Conn, err error) {
	err = n.do(func() (err error) {
		conn, err = new(net.Dialer).DialContext(ctx, network, addr)
		return err
	})
	return conn, err
}

func (n netns) close() { n.file.Close() }
