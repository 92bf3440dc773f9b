package raftfsm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// chatter is what raft says, as a warning or an error, again and again while a
// member is away. transport tells it once.
var chatter = map[string]bool{
	"failed to appendEntries to": true, "failed to heartbeat to": true, "failed to contact": true,
	"failed to make requestVote RPC": true, "failed to make requestPreVote RPC": true,
	"appendEntries rejected, sending older logs": true, "failed to contact quorum of nodes, stepping down": false,
	"Election timeout reached, restarting election": true, "no known peers, aborting election": true,
	"failed to get log": true, "failed to get previous log": true, "previous log term mis-match": true,
}

// NewRaftLogger passes raft's log lines on. What raft calls info is of no use
// to an operator and becomes debug.
func NewRaftLogger(log *slog.Logger) hclog.Logger {
	l := hclog.NewInterceptLogger(&hclog.LoggerOptions{Name: "raft", Output: discard{}, Level: hclog.Debug})
	l.RegisterSink(raftSink{log})
	return l
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

type raftSink struct{ log *slog.Logger }

// closing reports whether what raft complains of is that this member ends, or has
// turned somebody away.
func closing(arg any) bool {
	err, ok := arg.(error)
	return ok && (errors.Is(err, raft.ErrTransportShutdown) || errors.Is(err, net.ErrClosed))
}

// Accept implements hclog.SinkAdapter.
func (s raftSink) Accept(_ string, level hclog.Level, msg string, args ...any) {
	to := slog.LevelDebug
	switch {
	case chatter[msg], slices.ContainsFunc(args, closing):
	case level == hclog.Warn:
		to = slog.LevelWarn
	case level == hclog.Error:
		to = slog.LevelError
	}
	if !s.log.Enabled(context.Background(), to) {
		return
	}
	for i, a := range args {
		if f, ok := a.(hclog.Format); ok && len(f) > 0 {
			args[i] = fmt.Sprintf(fmt.Sprint(f[0]), f[1:]...)
		}
	}
	s.log.Log(context.Background(), to, "raft: "+msg, args...)
}
