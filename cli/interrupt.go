package cli

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/urfave/cli/v2"
)

// untilSignal ends the context of a command with the first signal that asks for it,
// so that it removes what it has half done; the second one ends the process.
func untilSignal(do cli.ActionFunc) cli.ActionFunc {
	return func(c *cli.Context) error {
		ctx, cancel := context.WithCancelCause(c.Context)
		defer cancel(nil)
		came := make(chan os.Signal, 1)
		for _, s := range []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
			if !signal.Ignored(s) { // nohup
				signal.Notify(came, s)
			}
		}
		defer signal.Stop(came)
		// Owner: this call; ends with its context.
		go func() {
			select {
			case s := <-came:
				signal.Stop(came)
				_, _ = fmt.Fprintf(c.App.ErrWriter, "limpet: %v: tidying up; once more ends it at once\n", s)
				cancel(fmt.Errorf("ended by a signal (%v)", s))
			case <-ctx.Done():
			}
		}()
		c.Context = ctx
		err := do(c)
		if err != nil && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return err
	}
}

// endable has all of some commands end with a signal.
func endable(commands ...*cli.Command) []*cli.Command {
	for _, c := range commands {
		c.Action = untilSignal(c.Action)
	}
	return commands
}
