package raftfsm

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"testing"

	"github.com/hashicorp/raft"
)

// A member that ends has nothing to complain of.
func TestRaftLogger(t *testing.T) {
	for _, c := range []struct {
		err   error
		level string
	}{
		{raft.ErrTransportShutdown, "DEBUG"},
		{fmt.Errorf("read: %w", net.ErrClosed), "DEBUG"},
		{errors.New("unknown rpc type 9"), "ERROR"},
	} {
		var b bytes.Buffer
		log := NewRaftLogger(slog.New(slog.NewTextHandler(&b, &slog.HandlerOptions{Level: slog.LevelDebug})))
		log.Error("failed to decode incoming command", "error", c.err)
		if !strings.Contains(b.String(), "level="+c.level+" ") {
			t.Errorf("%v: got %q, want level %s", c.err, b.String(), c.level)
		}
	}
}
