package proc

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync"
)

// Log keeps what a child process wrote and lets tests wait for a line. It is an io.Writer for
// any number of goroutines.
type Log struct {
	mu    sync.Mutex // guards all fields below
	text  bytes.Buffer
	since int           // where the running process's own output starts
	grown chan struct{} // closed and replaced whenever text grows
}

func newLog() *Log { return &Log{grown: make(chan struct{})} }

// Write appends p.
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text.Write(p)
	close(l.grown)
	l.grown = make(chan struct{})
	return len(p), nil
}

// mark makes Wait and Text look only at what comes from now on.
func (l *Log) mark(headline string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprintf(&l.text, "--- %s\n", headline)
	l.since = l.text.Len()
}

// Text is what the running process, or the last one, wrote.
func (l *Log) Text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.text.Bytes()[l.since:])
}

// Wait returns once the running process has written want.
func (l *Log) Wait(ctx context.Context, want string) error {
	for {
		l.mu.Lock()
		found := bytes.Contains(l.text.Bytes()[l.since:], []byte(want))
		grown := l.grown
		l.mu.Unlock()
		if found {
			return nil
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return fmt.Errorf("no log line with %q: %w", want, context.Cause(ctx))
		}
	}
}

// maxLine keeps a log line with a whole request in it from filling a report.
const maxLine = 250

// Tail gives the last n lines of all processes that shared the log.
func (l *Log) Tail(n int) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	lines := strings.Split(strings.TrimRight(l.text.String(), "\n"), "\n")
	lines = lines[max(0, len(lines)-n):]
	for i, line := range lines {
		if len(line) > maxLine {
			lines[i] = line[:maxLine] + "…"
		}
	}
	return strings.Join(lines, "\n")
}
