package cli

import (
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/urfave/cli/v2"
)

// TestEndsWithSignal: a command hears of a signal, tidies up and says why it ended.
func TestEndsWithSignal(t *testing.T) {
	tidy := false
	var words strings.Builder
	app := &cli.App{Name: "limpet", ErrWriter: &words, Action: untilSignal(func(c *cli.Context) error {
		if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
			return err
		}
		select {
		case <-c.Context.Done():
			tidy = true
		case <-time.After(30 * time.Second):
		}
		return c.Context.Err()
	})}
	err := app.Run([]string{"limpet"})
	if err == nil || !strings.Contains(err.Error(), "ended by a signal (terminated)") || !tidy || !strings.Contains(words.String(), "tidying up") {
		t.Errorf("%v, tidied: %v, %q", err, tidy, words.String())
	}
}
