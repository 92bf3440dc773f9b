package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/urfave/cli/v2"

	"limpet/safefile"
	"limpet/server"
	"limpet/trust"
)

// certMode is the mode of certificates, which are no secret. Keys have
// safefile's, 0600.
const certMode = 0o644

func certCommand() *cli.Command {
	return &cli.Command{
		Name:  "cert",
		Usage: "certificates of the cluster's authority, for clients and servers",
		Description: "The authority follows from the token, so that every member's data directory\n" +
			"does. A member with --auto-tls shows a certificate of it, and with\n" +
			"--client-cert-auth accepts clients that do.",
		Subcommands: []*cli.Command{
			{
				Name: "ca", Usage: "print the authority's certificate", OnUsageError: usageError,
				Flags: []cli.Flag{dataDirFlag()},
				Action: func(c *cli.Context) error {
					token, err := server.StoredAuthority(c.String("data-dir"))
					if err != nil {
						return err
					}
					ca, err := token.CAPEM()
					if err != nil {
						return err
					}
					_, err = c.App.Writer.Write(ca)
					return err
				},
			},
			issueCommand("client", "write a certificate for a client, and its key; with users, NAME is the user", trust.Token.IssueClient),
			issueCommand("server", "write a certificate for a server that clients find as NAME and as each --san, and its key", func(t trust.Token, cn string, names []string) ([]byte, []byte, error) {
				return t.IssueServer(cn, append(names, cn))
			}),
		},
	}
}

func forceFlag() cli.Flag {
	return &cli.BoolFlag{Name: "force", Usage: "replace files that are there already"}
}

// toOutput in place of a PREFIX: out of a container without a shell, files are
// hard to get.
const toOutput = "-"

// issueCommand writes PREFIX.crt and PREFIX.key, or both to the output.
func issueCommand(name, usage string, issue func(trust.Token, string, []string) (cert, key []byte, err error)) *cli.Command {
	return &cli.Command{
		Name: name, Usage: usage, OnUsageError: usageError,
		Flags: []cli.Flag{
			dataDirFlag(),
			&cli.StringFlag{Name: "cn", Usage: "common name", Required: true},
			&cli.StringSliceFlag{Name: "san", Usage: "host name or address; several, or comma-separated"},
			&cli.StringFlag{Name: "out", Usage: "where to write: PREFIX.crt and PREFIX.key, or - to print the certificate and, below it, its key", Required: true},
			forceFlag(),
		},
		Action: func(c *cli.Context) error {
			token, err := server.StoredAuthority(c.String("data-dir"))
			if err != nil {
				return err
			}
			cert, key, err := issue(token, c.String("cn"), c.StringSlice("san"))
			if err != nil {
				return err
			}
			if c.String("out") == toOutput {
				_, err = c.App.Writer.Write(append(cert, key...))
				return err
			}
			return writePair(c.String("out"), cert, key, c.Bool("force"))
		},
	}
}

// writePair writes PREFIX.key, and then PREFIX.crt.
func writePair(prefix string, cert, key []byte, force bool) error {
	for _, file := range []string{prefix + ".key", prefix + ".crt"} {
		if err := mayWrite(file, force); err != nil {
			return err
		}
	}
	if err := safefile.Write(prefix+".key", key); err != nil {
		return err
	}
	return writePublic(prefix+".crt", cert)
}

// mayWrite refuses to replace a file that is there, unless forced.
func mayWrite(file string, force bool) error {
	if _, err := os.Lstat(file); !force && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%s is there already: choose another name, or replace it with --force", file)
	}
	if _, err := os.Stat(filepath.Dir(file)); err != nil {
		return fmt.Errorf("the folder of %s cannot be written to: %w", file, err)
	}
	return nil
}

// writePublic writes what is no secret.
func writePublic(file string, data []byte) error {
	return errors.Join(safefile.Write(file, data), os.Chmod(file, certMode))
}
