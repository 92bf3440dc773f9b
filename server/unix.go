package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"syscall"
	"time"
)

// isUnix reports whether a URL names a socket file.
func isUnix(u *url.URL) bool { return u.Scheme == "unix" || u.Scheme == "unixs" }

// socketFile is the path of a unix URL: unix:///run/limpet.sock names it in
// full, unix://localhost:2379 the file localhost:2379 in the present folder, as
// in etcd.
func socketFile(u *url.URL) string { return u.Host + u.Path }

// maxSocketPath is what the kernel takes (unix(7): 108 bytes, the last one 0).
const maxSocketPath = 107

// answerPatience is how long a program may take to accept on a socket that is
// its own.
const answerPatience = time.Second

// listenUnix listens on a socket file that only this user may use. It takes the
// place of one that nobody answers on.
func listenUnix(path string) (net.Listener, error) {
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("the path has %d bytes, want at most %d", len(path), maxSocketPath)
	}
	if err := clearSocket(path); err != nil {
		return nil, err
	}
	// On Linux the file is made with the mode of the socket, so that there is no
	// moment at which others may connect. Elsewhere that may fail, and Chmod does.
	own := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { _ = syscall.Fchmod(int(fd), 0o600) })
	}}
	l, err := own.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// clearSocket removes a socket that a dead process left.
func clearSocket(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return unwrapPath(err)
	case info.Mode()&os.ModeSocket == 0:
		return errors.New("there is something else that is not a socket; remove it, or choose another file")
	}
	c, err := net.DialTimeout("unix", path, answerPatience)
	switch {
	case err == nil:
		_ = c.Close()
		return syscall.EADDRINUSE
	case errors.Is(err, syscall.ECONNREFUSED):
		return os.Remove(path)
	}
	return err
}
