package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"limpet/cluster"
	"limpet/server"
	"limpet/systemd"
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
	book, err := openLog(c.String("log-level"), c.String("log-format"), c.String("log-outputs"))
	if err != nil {
		return err
	}
	defer book.close()
	quietGRPC(book.Logger)
	for _, n := range o.notes {
		book.Warn(n.text, n.with...)
	}
	if err := cfg.Validate(); err != nil {
		return err
	}
	r := &runner{cfg: cfg, file: o.configFile, log: book, manager: systemd.FromEnvironment(book.Logger)}
	for {
		err := r.run()
		if err == nil || !server.Rejoins(err, cfg, book.Logger) {
			return err
		}
	}
}

// runner runs a member under what has started it: a service manager, or somebody
// at a terminal.
type runner struct {
	cfg     server.Config
	file    string // the configuration file; empty: there is none
	log     *logbook
	manager *systemd.Manager
}

// run runs a member until a signal or a failure.
func (r *runner) run() error {
	ctx, stop := signal.NotifyContext(context.Background(), r.endings()...)
	defer stop()
	reload := make(chan os.Signal, 1)
	if !isTerminal(os.Stdin) {
		signal.Notify(reload, syscall.SIGHUP)
		defer signal.Stop(reload)
	}
	s, err := r.start(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil // asked to stop before it was ready
		}
		return err
	}
	r.manager.Ready()
	watched, unwatched := context.WithCancel(ctx)
	defer unwatched()
	// Owner: this call; ends with unwatched.
	go r.manager.Feed(watched, s.Alive)
	for err == nil && ctx.Err() == nil {
		select {
		case <-ctx.Done():
			r.manager.Stopping()
			r.log.Info("stopping: streams end, requests under way finish, the last changes are flushed")
		case <-reload:
			r.manager.Reload(func() { r.reload(s) })
		case err = <-s.Failed():
			if errors.Is(err, cluster.ErrRemoved) {
				// As etcd does: it is no failure, and trying again would not help.
				r.log.Error("the member has been permanently removed from the cluster; stopping")
				return s.Stop()
			}
			r.log.Error("stopping: the member cannot go on", "error", err)
		}
	}
	unwatched()
	began := time.Now()
	err = errors.Join(err, s.Stop())
	if err == nil {
		r.log.Info("stopped", "took", time.Since(began))
	}
	return err
}

// endings are the signals that end a member. A terminal that goes away ends what
// runs in it; elsewhere that signal asks for the configuration to be read again.
func (r *runner) endings() []os.Signal {
	ends := []os.Signal{syscall.SIGTERM, syscall.SIGINT}
	if isTerminal(os.Stdin) {
		ends = append(ends, syscall.SIGHUP)
	}
	return ends
}

// start starts the member, and tells the service manager meanwhile how far it is.
func (r *runner) start(ctx context.Context) (*server.Server, error) {
	cfg := r.cfg
	cfg.Doing = new(server.Doing)
	starting, started := context.WithCancel(ctx)
	var told sync.WaitGroup
	// Owner: this call; ends with started.
	told.Go(func() { r.manager.Starting(starting, cfg.Doing.String) })
	s, err := server.Start(ctx, cfg, r.log.Logger)
	started()
	told.Wait()
	return s, err
}

// reload reads again what may change while a member runs: the files of TLS, and
// the level of the log if a file says it.
func (r *runner) reload(s *server.Server) {
	err := s.Reload()
	if r.file != "" {
		level, fileErr := levelInFile(r.file)
		if fileErr == nil {
			fileErr = r.log.setLevel(level)
		}
		err = errors.Join(err, fileErr)
	}
	if err != nil {
		r.log.Error("not all could be read again; what was in force stays so", "error", err)
		return
	}
	r.log.Info("read again: the files of TLS, and the level of the log from the configuration file; all else takes a restart", "log-level", r.log.levelName())
}
