package cli

import (
	"fmt"

	"github.com/urfave/cli/v2"

	"limpet/trust"
)

func tokenCommand() *cli.Command {
	return &cli.Command{
		Name:  "token",
		Usage: "make the secret that members of a cluster share",
		Subcommands: []*cli.Command{{
			Name:         "generate",
			Usage:        "print a new token",
			Description:  "Give the same token to every member, as LIMPET_TOKEN or with --token-file.",
			OnUsageError: usageError,
			Action: func(c *cli.Context) error {
				_, err := fmt.Fprintln(c.App.Writer, trust.GenerateToken())
				return err
			},
		}},
	}
}
