package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
	"go.etcd.io/etcd/etcdctl/v3/ctlv3"

	"limpet/cluster"
	"limpet/systemd"
)

// Run executes the command line, which is os.Args, and returns the exit code.
func Run(args []string, version string) int {
	// A link named etcdctl is etcdctl, and one named etcd the server.
	switch strings.TrimSuffix(filepath.Base(args[0]), ".exe") {
	case "etcdctl":
		return etcdctl(hideSecrets(args, false)[1:])
	case "etcd":
		args = append([]string{"limpet", "server"}, hideSecrets(args, true)[1:]...)
	default:
		args = hideSecrets(args, slices.Contains(args, "server"))
	}
	err := newApp(version, os.Stdout).Run(args)
	if err == nil {
		return 0
	}
	if code := exitCode(0); errors.As(err, &code) {
		return int(code)
	}
	fmt.Fprintf(os.Stderr, "limpet: %v\n", err)
	switch {
	case errors.As(err, new(wrongUsage)):
		return 2
	case errors.Is(err, cluster.ErrRemoved):
		return systemd.ExitRemoved
	}
	return 1
}

// wrongUsage is a command line that cannot be read; the exit code tells, as
// etcd's does.
type wrongUsage struct{ error }

// exitCode ends with itself, without a word: the answer is the code.
type exitCode int

// Error implements error.
func (e exitCode) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

func newApp(version string, out io.Writer) *cli.App {
	app := &cli.App{
		Name:            "limpet",
		Usage:           "a small, replicated, etcd-compatible key-value store",
		Version:         version,
		HideVersion:     true,
		HideHelpCommand: true,
		Writer:          out,
		Description: "Start a member with\n\n    limpet server\n\n" +
			"and talk to it with any etcd client, or with the etcdctl that is built in:\n\n" +
			"    limpet etcdctl put greeting hello\n    limpet etcdctl get greeting",
		Commands: []*cli.Command{serverCommand(version), statusCommand(), getCommand(), historyCommand(), diffCommand(), undeleteCommand(), sqlCommand(), memberCommand(), snapshotCommand(version), recoverCommand(version), importCommand(version), exportCommand(), tokenCommand(), certCommand(), configCommand(), serviceCommand(), k3sCommand(), etcdctlCommand(), versionCommand(version)},
		// Errors are printed once, by Run, without the whole help.
		ExitErrHandler: func(*cli.Context, error) {},
		OnUsageError:   usageError,
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return fmt.Errorf("there is no command %q; see limpet --help", c.Args().First())
			}
			return cli.ShowAppHelp(c)
		},
	}
	return app
}

// usageError makes one sentence of what the flag package says.
func usageError(c *cli.Context, err error, _ bool) error {
	text := err.Error()
	if name, ok := strings.CutPrefix(text, "flag provided but not defined: -"); ok {
		return wrongUsage{fmt.Errorf("there is no flag --%s; see %s --help", strings.TrimLeft(name, "-"), commandPath(c))}
	}
	return wrongUsage{fmt.Errorf("%s; see %s --help", text, commandPath(c))}
}

func commandPath(c *cli.Context) string {
	if c.Command != nil && c.Command.HelpName != "" {
		return c.Command.HelpName
	}
	return "limpet"
}

func etcdctlCommand() *cli.Command {
	return &cli.Command{
		Name:            "etcdctl",
		Usage:           "the official etcd client, built in; all its commands and flags",
		ArgsUsage:       "COMMAND …",
		SkipFlagParsing: true,
		Action: func(c *cli.Context) error {
			if code := etcdctl(c.Args().Slice()); code != 0 {
				return errors.New("etcdctl failed")
			}
			return nil
		},
	}
}

// etcdctl runs etcd's client as if it had been called by its own name. It
// exits the process itself on errors, with etcdctl's exit codes.
func etcdctl(args []string) int {
	os.Args = append([]string{"etcdctl"}, args...)
	ctlv3.MustStart()
	return 0
}
