package cli

import (
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"

	"github.com/urfave/cli/v2"

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
		},
	}
}

// dataDirFlag names the data directory of a member on this machine.
func dataDirFlag() cli.Flag {
	return &cli.StringFlag{Name: "data-dir", Usage: "data directory of a member on this machine", Value: server.DefaultConfig().Name + ".limpet", EnvVars: envNames("data-dir")}
}

// showToken tells the operator once what the new cluster's token is: on the
// terminal, and not through the log. Where it would end in the journal, it only
// says how to see it.
func showToken(w *os.File, dir, token string) {
	if goesToJournal(w) {
		token = "in the file named below"
	}
	writeToken(w, dir, token)
}

func writeToken(w io.Writer, dir, token string) {
	_, _ = fmt.Fprintf(w, "limpet: a new cluster begins. Its token, for members that are to join: %s\n"+
		"limpet: It is kept in %s/token. See it again with: limpet token show --data-dir %s\n", token, strings.TrimSuffix(dir, "/"), dir)
}

// goesToJournal reports whether systemd keeps what is written to w (systemd.exec(5),
// JOURNAL_STREAM).
func goesToJournal(w *os.File) bool {
	stream := streamName(w)
	return stream != "" && os.Getenv("JOURNAL_STREAM") == stream
}

// streamName is an open file as systemd names it; empty if it cannot be told.
func streamName(f *os.File) string {
	info, err := f.Stat()
	if err != nil {
		return ""
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return ""
	}
	return fmt.Sprintf("%d:%d", st.Dev, st.Ino)
}
