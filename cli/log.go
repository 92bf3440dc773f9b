package cli

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc/grpclog"
)

// quietGRPC has gRPC say to log what it would write to stderr by itself: mostly
// what is wrong with requests, so that clients decide how much it is.
func quietGRPC(log *slog.Logger) {
	w := slog.NewLogLogger(log.Handler(), slog.LevelDebug).Writer()
	grpclog.SetLoggerV2(grpclog.NewLoggerV2(io.Discard, w, w))
}

// logbook is the log of a member. Its level may change at any time.
type logbook struct {
	*slog.Logger
	level *slog.LevelVar
	close func()
}

// openLog opens the log. Keys and layout follow etcd's JSON lines: level, ts, msg.
func openLog(level, format, outputs string) (*logbook, error) {
	book := &logbook{level: new(slog.LevelVar)}
	if err := book.setLevel(level); err != nil {
		return nil, err
	}
	w, closeAll, err := logOutput(outputs)
	if err != nil {
		return nil, err
	}
	book.close = closeAll
	opts := &slog.HandlerOptions{Level: book.level, ReplaceAttr: etcdLayout}
	switch format {
	case "json":
		book.Logger = slog.New(slog.NewJSONHandler(w, opts))
	case "text", "console":
		book.Logger = slog.New(slog.NewTextHandler(w, opts))
	default:
		closeAll()
		return nil, badValue("log-format", format, "json or text")
	}
	return book, nil
}

// setLevel takes the names of levels that etcd knows.
func (b *logbook) setLevel(name string) error {
	switch name {
	case "debug":
		b.level.Set(slog.LevelDebug)
	case "info", "":
		b.level.Set(slog.LevelInfo)
	case "warn":
		b.level.Set(slog.LevelWarn)
	case "error", "dpanic", "panic", "fatal":
		b.level.Set(slog.LevelError)
	default:
		return badValue("log-level", name, "debug, info, warn or error")
	}
	return nil
}

func (b *logbook) levelName() string { return strings.ToLower(b.level.Level().String()) }

func logOutput(outputs string) (io.Writer, func(), error) {
	var ws []io.Writer
	var files []*os.File
	closeAll := func() {
		for _, f := range files {
			_ = f.Close()
		}
	}
	for _, o := range splitList(outputs) {
		switch o {
		case "default", "stderr", "systemd/journal": // systemd takes stderr into its journal
			ws = append(ws, os.Stderr)
		case "stdout":
			ws = append(ws, os.Stdout)
		default:
			f, err := os.OpenFile(o, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
			if err != nil {
				closeAll()
				return nil, nil, fmt.Errorf("--log-outputs: %w", err)
			}
			files = append(files, f)
			ws = append(ws, f)
		}
	}
	if len(ws) == 0 {
		return os.Stderr, closeAll, nil
	}
	return io.MultiWriter(ws...), closeAll, nil
}

// etcdLayout renames and formats what log processors of etcd look for.
func etcdLayout(groups []string, a slog.Attr) slog.Attr {
	if len(groups) > 0 {
		return a
	}
	switch {
	case a.Key == slog.TimeKey && a.Value.Kind() == slog.KindTime: // raft has a duration of that name
		return slog.String("ts", a.Value.Time().UTC().Format("2006-01-02T15:04:05.000000Z0700"))
	case a.Key == slog.LevelKey:
		return slog.String(slog.LevelKey, strings.ToLower(a.Value.String()))
	}
	if d, ok := a.Value.Any().(time.Duration); ok {
		return slog.String(a.Key, d.String())
	}
	return a
}
