package systemd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// ear is what a service manager hears.
type ear struct {
	t    *testing.T
	conn *net.UnixConn
}

// listen makes this process one that a service manager has started, with a
// watchdog that waits so long; 0: none.
func listen(t *testing.T, watchdog time.Duration) *ear {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	t.Setenv("NOTIFY_SOCKET", socket)
	t.Setenv("WATCHDOG_PID", fmt.Sprint(os.Getpid()))
	t.Setenv("WATCHDOG_USEC", "")
	if watchdog > 0 {
		t.Setenv("WATCHDOG_USEC", fmt.Sprint(watchdog.Microseconds()))
	}
	return &ear{t, conn}
}

func (e *ear) next() string {
	e.t.Helper()
	if err := e.conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		e.t.Fatal(err)
	}
	buf := make([]byte, 4096)
	n, err := e.conn.Read(buf)
	if err != nil {
		e.t.Fatalf("nothing was said: %v", err)
	}
	return string(buf[:n])
}

func (e *ear) wants(parts ...string) {
	e.t.Helper()
	said := e.next()
	for _, part := range parts {
		if !strings.Contains(said, part) {
			e.t.Errorf("got %q, want %q in it", said, part)
		}
	}
}

func manager() (*Manager, *bytes.Buffer) {
	log := new(bytes.Buffer)
	return FromEnvironment(slog.New(slog.NewTextHandler(log, nil))), log
}

func TestLifeIsTold(t *testing.T) {
	e := listen(t, 0)
	m, _ := manager()
	m.Ready()
	e.wants("READY=1", "STATUS=serving")
	m.Reload(func() { e.wants("RELOADING=1", "MONOTONIC_USEC=") })
	e.wants("READY=1")
	m.Stopping()
	e.wants("STOPPING=1")
}

// A start that lasts asks for more time at once, and tells what it waits for
// when that changes.
func TestStartingAsksForTime(t *testing.T) {
	e := listen(t, 0)
	m, _ := manager()
	ctx, cancel := context.WithCancel(t.Context())
	doings := []string{"waits for 2 members", "waits for 2 members", "waits for 1 member"}
	ended := make(chan struct{})
	// Owner: this test; ends with cancel.
	go func() {
		defer close(ended)
		m.Starting(ctx, func() string {
			if len(doings) > 1 {
				defer func() { doings = doings[1:] }()
			}
			return doings[0]
		})
	}()
	e.wants("EXTEND_TIMEOUT_USEC=60000000", "STATUS=waits for 2 members")
	e.wants("STATUS=waits for 1 member")
	cancel()
	<-ended
}

// The watchdog is fed once for each time that the member is found alive, and
// not when it is not.
func TestWatchdogIsFedWhileAlive(t *testing.T) {
	e := listen(t, 30*time.Millisecond)
	m, log := manager()
	ctx, cancel := context.WithCancel(t.Context())
	asked := 0
	stuck := errors.New("the raft loop does not turn")
	m.Feed(ctx, func(ctx context.Context) error {
		switch asked++; asked {
		case 1, 2, 5:
			return nil
		case 3:
			return stuck
		case 4:
			<-ctx.Done() // hangs: the time it is given ends
			return ctx.Err()
		}
		cancel()
		return stuck
	})
	m.tell("END")
	for range 3 {
		e.wants("WATCHDOG=1")
	}
	e.wants("END")
	if got := strings.Count(log.String(), "makes no progress"); got != 1 {
		t.Errorf("the log complains %d times, want once while it lasts: %s", got, log)
	}
}

func TestNobodyListens(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	t.Setenv("WATCHDOG_USEC", "")
	m, log := manager()
	m.Ready()
	m.Feed(t.Context(), func(context.Context) error { t.Error("asked without a watchdog"); return nil })
	m.Stopping()
	if log.Len() > 0 {
		t.Errorf("got %q in the log, want nothing", log)
	}
}
