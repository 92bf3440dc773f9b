package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"limpet/cluster"
	"limpet/server"
	"limpet/trust"
)

func tokenCommand() *cli.Command {
	return &cli.Command{
		Name:  "token",
		Usage: "show, make and replace the secret that members of a cluster share",
		Description: "The first member of a cluster makes the token, and every member keeps it in its\n" +
			"data directory. Whoever has it can join the cluster and read everything.",
		Subcommands: []*cli.Command{
			{
				Name:         "show",
				Usage:        "print the token in a data directory",
				OnUsageError: usageError,
				Flags:        []cli.Flag{dataDirFlag()},
				Action: func(c *cli.Context) error {
					token, err := server.StoredToken(c.String("data-dir"))
					if err != nil {
						return err
					}
					_, err = fmt.Fprintln(c.App.Writer, token.Reveal())
					return err
				},
			},
			{
				Name:         "generate",
				Usage:        "print a new token",
				Description:  "Give the same token to every member, as LIMPET_TOKEN or with --token-file.",
				OnUsageError: usageError,
				Action: func(c *cli.Context) error {
					_, err := fmt.Fprintln(c.App.Writer, trust.GenerateToken())
					return err
				},
			},
			rotateCommand(),
		},
	}
}

func rotateCommand() *cli.Command {
	return &cli.Command{
		Name:  "rotate",
		Usage: "replace the cluster's token while it runs",
		Description: "Run it on one member, as the user that limpet runs as. All members get a new\n" +
			"token from each other, and use it once all have it; the old one is trusted until\n" +
			"--finish. In between, give the new token (limpet token show) and the new CA to\n" +
			"those who have the old ones. A member that is switched off is waited for; one\n" +
			"that will not come back is taken out with limpet member remove.",
		OnUsageError: usageError,
		Flags: []cli.Flag{
			dataDirFlag(),
			&cli.BoolFlag{Name: "finish", Usage: "trust the old token no more"},
			&cli.DurationFlag{Name: "timeout", Usage: "how long to wait for the members", Value: 15 * time.Second},
		},
		Action: func(c *cli.Context) error {
			ctx, cancel := context.WithTimeout(c.Context, c.Duration("timeout"))
			defer cancel()
			admin := server.AdminOf(c.String("data-dir"))
			if c.Bool("finish") {
				if _, err := admin.FinishRotation(ctx); err != nil {
					return err
				}
				_, err := fmt.Fprintln(c.App.Writer, "the old token is not trusted any more")
				return err
			}
			return rotate(ctx, c.App.Writer, admin)
		},
	}
}

// lookEvery is the pause between looks at how far the members are.
const lookEvery = 200 * time.Millisecond

// rotate begins, and waits until all members use the new token or ctx ends.
func rotate(ctx context.Context, w io.Writer, admin *server.Admin) error {
	report, err := admin.RotateToken(ctx)
	for err == nil && (report.Rotation == nil || !report.Rotation.Switched || len(report.Waits()) > 0) {
		select {
		case <-ctx.Done():
			_, err := fmt.Fprintf(w, "the token is being replaced; %s\n", rotationText(report))
			return err
		case <-time.After(lookEvery):
		}
		next, askErr := admin.Report(ctx)
		if askErr != nil && ctx.Err() == nil {
			return askErr
		}
		if askErr == nil {
			report = next
		}
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(w, "all members use the new token (limpet token show); the old one is trusted until: limpet token rotate --finish")
	return err
}

// rotationText says what the replacement of the token waits for.
func rotationText(r *cluster.Report) string {
	who := strings.Join(r.Waits(), ", ")
	switch {
	case r.Rotation == nil:
		return "this member has not heard of it yet"
	case who != "" && !r.Rotation.Switched:
		return "until these have the new one, all use the old: " + who
	case who != "":
		return "these do not use the new one yet: " + who
	case !r.Rotation.Switched:
		return "all have the new one, and will use it in a moment"
	}
	return "all use the new one, and trust the old until: limpet token rotate --finish"
}

// dataDirFlag names the data directory of a member on this machine.
func dataDirFlag() cli.Flag {
	return &cli.StringFlag{Name: "data-dir", Usage: "data directory of a member on this machine", Value: server.DefaultConfig().Name + ".limpet", EnvVars: envNames("data-dir")}
}

// showToken tells the operator once what the new cluster's token is: on the
// terminal. Where what is written is kept, in a journal or a file, it only says how
// to see it.
func showToken(w *os.File, dir, token string) {
	if !isTerminal(w) {
		token = "in the file named below"
	}
	writeToken(w, dir, token)
}

func writeToken(w io.Writer, dir, token string) {
	_, _ = fmt.Fprintf(w, "limpet: a new cluster begins. Its token, for members that are to join: %s\n"+
		"limpet: It is kept in %s/token. See it again with: limpet token show --data-dir %s\n", token, strings.TrimSuffix(dir, "/"), dir)
}

// isTerminal reports whether somebody looks at f.
func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
