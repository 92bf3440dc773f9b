package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// stalling passes on what a server says until it has said so many bytes, and then
// nothing any more, in either direction, nor on a new connection: as a machine
// without power looks from outside.
func stalling(t *testing.T, server string, bytes int64) (at string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var said atomic.Int64
	pass := func(from, to net.Conn, count bool) {
		buf := make([]byte, 4096)
		for {
			n, err := from.Read(buf)
			if count {
				said.Add(int64(n))
			}
			if said.Load() > bytes {
				<-ctx.Done()
			}
			if _, werr := to.Write(buf[:n]); err != nil || werr != nil || ctx.Err() != nil {
				return
			}
		}
	}
	// Owner: the test; ends with its listener.
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			context.AfterFunc(ctx, func() { _ = client.Close() })
			if said.Load() > bytes {
				continue
			}
			upstream, err := net.Dial("tcp", server)
			if err != nil {
				t.Error(err)
				continue
			}
			context.AfterFunc(ctx, func() { _ = upstream.Close() })
			go pass(client, upstream, false)
			go pass(upstream, client, true)
		}
	}()
	t.Cleanup(func() {
		cancel()
		_ = l.Close()
	})
	return l.Addr().String()
}

// TestExportFromAndToTheSilent: a server that is gone in the middle ends an export
// by and by, with a sentence that says which one it is.
func TestExportFromAndToTheSilent(t *testing.T) {
	cleanEnv(t)
	dir := t.TempDir()
	from, _ := runMember(t, filepath.Join(dir, "from"))
	to, _ := runMember(t, filepath.Join(dir, "to"))
	c := ctl(t, from)
	for i := range 20 {
		if _, err := c.Put(t.Context(), fmt.Sprint("key", i), strings.Repeat("v", 100_000)); err != nil {
			t.Fatal(err)
		}
	}
	out := filepath.Join(dir, "keys.jsonl")
	for _, run := range []struct {
		name  string
		args  []string
		wants []string
	}{
		{"source of a file", []string{"--endpoints", stalling(t, from, 300_000), "--out", out}, []string{"the source, 127.0.0.1:", "read the source"}},
		{"source", []string{"--endpoints", stalling(t, from, 300_000), "--to", to, "--force"}, []string{"the source, 127.0.0.1:", "--force to go on"}},
		{"target", []string{"--endpoints", from, "--to", stalling(t, to, 1000), "--force"}, []string{"the target"}},
		{"target, compared", []string{"--endpoints", from, "--to", stalling(t, to, 300_000), "--force"}, []string{"the target, 127.0.0.1:"}},
	} {
		t.Run(run.name, func(t *testing.T) {
			t.Parallel()
			ended := make(chan error, 1)
			go func() {
				var b bytes.Buffer
				ended <- newApp("v1", &b).Run(append([]string{"limpet", "export", "--timeout", "1s"}, run.args...))
			}()
			select {
			case err := <-ended:
				for _, want := range append(run.wants, "does not answer any more") {
					if err == nil || !strings.Contains(err.Error(), want) {
						t.Errorf("got %v, want an error with %q", err, want)
					}
				}
			case <-time.After(time.Minute):
				t.Fatal("it hangs")
			}
			if _, err := os.Stat(out); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("there is a file: %v", err)
			}
		})
	}
}
