package server

import (
	"context"
	"fmt"
	"log"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"limpet/server/servertest"
)

// TestMain fails the package when goroutines outlive its tests.
func TestMain(m *testing.M) {
	code := m.Run()
	if code == 0 {
		if left := leaked(10 * time.Second); left != "" {
			fmt.Fprintf(os.Stderr, "goroutines outlive the tests:\n\n%s\n", left)
			code = 1
		}
	}
	os.Exit(code)
}

// leaked waits until only the test's own goroutine is left, and returns the
// stacks of the others if that takes longer than patience. One may stay, as
// raftfsm says where it begins: raft leaves some futures without an answer when
// it is shut down, and whoever waits for one waits on.
func leaked(patience time.Duration) string {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		var left []string
		stacks := make([]byte, 1<<20)
		stacks = stacks[:runtime.Stack(stacks, true)]
		for _, s := range strings.Split(string(stacks), "\n\n") {
			if !strings.Contains(s, "testing.(*M).Run") && !strings.Contains(s, "server.leaked") && !strings.Contains(s, "os/signal.") &&
				!strings.Contains(s, "created by limpet/raftfsm.await in") {
				left = append(left, s)
			}
		}
		if len(left) == 0 {
			return ""
		}
		select {
		case <-ctx.Done():
			return strings.Join(left, "\n\n")
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// eventually waits until cond holds; what names it.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for !cond() {
		select {
		case <-ctx.Done():
			t.Fatalf("in 20 s never true: %s", what)
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// soon is a deadline for what should happen at once.
func soon() time.Time { return time.Now().Add(5 * time.Second) }

// quiet is a log for what a test provokes.
func quiet() *log.Logger { return slog.NewLogLogger(slog.DiscardHandler, slog.LevelError) }

// freeURL is a URL to listen on, of a port that nobody takes meanwhile.
func freeURL(t testing.TB) string {
	t.Helper()
	return "http://" + servertest.FreeAddr(t)
}
