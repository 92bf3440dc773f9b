package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/urfave/cli/v2"
	"google.golang.org/grpc/grpclog"

	"limpet/cluster"
	"limpet/server"
)

func serverCommand(version string) *cli.Command {
	all := settings()
	flags := serverFlags(all)
	return &cli.Command{
		Name:               "server",
		Usage:              "run a member",
		Flags:              named(flags),
		CustomHelpTemplate: serverHelp(flags),
		OnUsageError:       usageError,
		Action:             func(c *cli.Context) error { return serve(c, all, version) },
	}
}

// serve does what was asked of limpet server.
func serve(c *cli.Context, all []setting, version string) error {
	if stray := c.Args().First(); isToken(stray) {
		return errors.New("a token is no flag: give it with --token-file, or LIMPET_TOKEN")
	} else if c.Args().Present() {
		return fmt.Errorf("%q is not a valid flag; see limpet server --help", c.Args().First())
	}
	if c.Bool("version") {
		return printVersion(c.App.Writer, version)
	}
	o, err := takeOrders(c, all)
	if err != nil {
		return err
	}
	cfg := o.cfg
	cfg.Version, cfg.ShowToken = version, func(token string) { showToken(os.Stderr, cfg.DataDir, token) }
	log, closeLog, err := newLogger(c.String("log-level"), c.String("log-format"), c.String("log-outputs"))
	if err != nil {
		return err
	}
	defer closeLog()
	quietGRPC(log)
	for _, n := range o.notes {
		log.Warn(n.text, n.with...)
	}
	if err := cfg.Validate(); err != nil {
		return err
	}
	for {
		err := runServer(cfg, log)
		if err == nil || !server.Rejoins(err, cfg, log) {
			return err
		}
	}
}

// runServer runs a member until a signal or a failure.
func runServer(cfg server.Config, log *slog.Logger) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	s, err := server.Start(ctx, cfg, log)
	if err != nil {
		if ctx.Err() != nil {
			return nil // asked to stop before it was ready
		}
		return err
	}
	notify(daemon.SdNotifyReady, log)
	select {
	case <-ctx.Done():
		notify(daemon.SdNotifyStopping, log)
		log.Info("stopping: streams end, requests under way finish, the last changes are flushed")
	case err = <-s.Failed():
		if errors.Is(err, cluster.ErrRemoved) {
			// As etcd does: it is no failure, and trying again would not help.
			log.Error("the member has been permanently removed from the cluster; stopping")
			return s.Stop()
		}
		log.Error("stopping: the member cannot go on", "error", err)
	}
	began := time.Now()
	err = errors.Join(err, s.Stop())
	if err == nil {
		log.Info("stopped", "took", time.Since(began))
	}
	return err
}

// notify tells systemd how far this member is, where a unit of type notify waits
// for that.
func notify(state string, log *slog.Logger) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn("systemd cannot be told how far this member is", "state", state, "error", err)
	}
}

// quietGRPC has gRPC say to log what it would write to stderr by itself: mostly
// what is wrong with requests, so that clients decide how much it is.
func quietGRPC(log *slog.Logger) {
	w := slog.NewLogLogger(log.Handler(), slog.LevelDebug).Writer()
	grpclog.SetLoggerV2(grpclog.NewLoggerV2(io.Discard, w, w))
}

// newLogger makes the log. Keys and layout follow etcd's JSON lines: level,
// ts, msg.
func newLogger(level, format, outputs string) (*slog.Logger, func(), error) {
	var l slog.Level
	switch level {
	case "debug":
		l = slog.LevelDebug
	case "info", "":
	case "warn":
		l = slog.LevelWarn
	case "error", "dpanic", "panic", "fatal":
		l = slog.LevelError
	default:
		return nil, nil, badValue("log-level", level, "debug, info, warn or error")
	}
	w, closeAll, err := logOutput(outputs)
	if err != nil {
		return nil, nil, err
	}
	opts := &slog.HandlerOptions{Level: l, ReplaceAttr: etcdLayout}
	switch format {
	case "json":
		return slog.New(slog.NewJSONHandler(w, opts)), closeAll, nil
	case "text", "console":
		return slog.New(slog.NewTextHandler(w, opts)), closeAll, nil
	}
	closeAll()
	return nil, nil, badValue("log-format", format, "json or text")
}

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
