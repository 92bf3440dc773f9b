package cli

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"limpet/server"
)

func recoverCommand(version string) *cli.Command {
	return &cli.Command{
		Name:  "recover",
		Usage: "make a new cluster of one survivor, when the quorum is lost for good",
		Description: "Run it on a stopped member while the other survivors still run: it asks them\n" +
			"how much they have and names the one that has most. There, it makes a cluster of\n" +
			"that member alone, with all its data, a new ID and higher revisions, so that\n" +
			"clients notice. Then start it as before. Members with the token join the new\n" +
			"cluster by themselves, and keep their old data in a folder of its own; others\n" +
			"are started with an empty data directory, after limpet member add.",
		OnUsageError: usageError,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "data-dir", Usage: "data directory of the stopped member", EnvVars: envNames("data-dir"), Required: true},
			&cli.StringFlag{Name: "token", Usage: "the cluster's secret", EnvVars: envNames("token")},
			&cli.StringFlag{Name: "token-file", Usage: "file that holds the token", EnvVars: envNames("token-file")},
			&cli.StringFlag{Name: "peer-cert-file", Usage: "certificate of this member, if members were given some", EnvVars: envNames("peer-cert-file")},
			&cli.StringFlag{Name: "peer-key-file", Usage: "key of --peer-cert-file", EnvVars: envNames("peer-key-file")},
			&cli.StringFlag{Name: "peer-trusted-ca-file", Usage: "authorities of members", EnvVars: envNames("peer-trusted-ca-file")},
			&cli.BoolFlag{Name: "dry-run", Usage: "only tell what is left of the cluster"},
			&cli.BoolFlag{Name: "here", Usage: "recover this member although another one has more"},
			&cli.BoolFlag{Name: "yes-i-lost-quorum", Usage: "do not ask"},
			outputFlag(),
		},
		Action: func(c *cli.Context) error {
			cfg := server.DefaultConfig()
			cfg.DataDir, cfg.Token, cfg.TokenFile, cfg.Version = c.String("data-dir"), c.String("token"), c.String("token-file"), version
			cfg.PeerTLS.Cert, cfg.PeerTLS.Key, cfg.PeerTLS.TrustedCA = c.String("peer-cert-file"), c.String("peer-key-file"), c.String("peer-trusted-ca-file")
			log, err := openLog("error", "text", "stderr")
			if err != nil {
				return err
			}
			defer log.close()
			r, err := server.OpenRecovery(cfg, log.Logger)
			if err != nil {
				return err
			}
			return errors.Join(recoverHere(c, r), r.Close())
		},
	}
}

func recoverHere(c *cli.Context, r *server.Recovery) error {
	survey, err := r.Survey(c.Context)
	if err != nil {
		return err
	}
	if err := printSurvey(c.App.Writer, survey, c.String("output")); err != nil {
		return err
	}
	best := survey.Best()
	for _, m := range survey.Members {
		if m.Leader {
			return fmt.Errorf("member %s, %s, knows a leader: the cluster has a quorum, and this member only needs to be started", m.ID, m.Name)
		}
	}
	switch {
	case survey.Quorum() && !r.Unfinished(): // also a second time: it would leave behind who has not heard of the first
		return errors.New("this member and those that answer are a quorum: nothing is lost, and this member only needs to be started")
	case c.Bool("dry-run"):
		return nil
	case !best.Here && !c.Bool("here"):
		return fmt.Errorf("member %s, %s, has more than this one: recover there, or lose what only it has with --here", best.ID, best.Name)
	case !c.Bool("yes-i-lost-quorum") && !confirmed(c.App.Writer, "The members that do not answer must never run again with their data.\nWhat only they had is lost. Type yes to make a new cluster of this member: "):
		return errors.New("nothing was changed")
	}
	id, rev, err := r.Run()
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(c.App.Writer, "this member is cluster %s now, at revision %d; start it as before\n", id, rev)
	return err
}

func confirmed(w io.Writer, question string) bool {
	_, _ = fmt.Fprint(w, question)
	line, _ := bufio.NewReader(os.Stdin).ReadString('\n')
	return strings.TrimSpace(line) == "yes"
}

func printSurvey(w io.Writer, s *server.Survey, output string) error {
	if output == "json" {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(s)
	}
	best := s.Best()
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintf(tw, "cluster %s\nMEMBER\tID\tLAST TERM\tLAST INDEX\t\n", s.Cluster)
	for _, m := range s.Members {
		var notes []string
		if m.Here {
			notes = append(notes, "this member")
		}
		if m.ID == best.ID {
			notes = append(notes, "has most")
		}
		if !m.Answers {
			_, _ = fmt.Fprintf(tw, "%s\t%s\t-\t-\tdoes not answer at %s\n", m.Name, m.ID, m.Address)
			continue
		}
		_, _ = fmt.Fprintf(tw, "%s\t%s\t%d\t%d\t%s\n", m.Name, m.ID, m.Term, m.Index, strings.Join(notes, ", "))
	}
	return tw.Flush()
}
