package cli

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"limpet/backup"
)

// manyArgs bounds nothing: who takes none says so in words of its own.
const manyArgs = math.MaxInt

// keepFlags say where snapshots are.
func keepFlags(more ...cli.Flag) []cli.Flag {
	return append(append([]cli.Flag{dataDirFolderFlag(), dirFlag()}, s3Flags()...), more...)
}

// placeGiven is where the flags say that snapshots are.
func placeGiven(c *cli.Context) (backup.Place, error) {
	p, err := place(c)
	if err == nil && p == nil {
		err = fmt.Errorf("%s wants to know where: give --data-dir, --dir or --s3-bucket", c.Command.HelpName)
	}
	return p, err
}

func snapshotListCommand() *cli.Command {
	return &cli.Command{
		Name: "list", Aliases: []string{"ls"}, Usage: "show the snapshots in a folder or a bucket, the newest last",
		OnUsageError: usageError,
		Flags:        keepFlags(outputFlag()),
		Action: func(c *cli.Context) error {
			if args, err := anyOrder(c, 0, manyArgs); err != nil || len(args) > 0 {
				return cmp.Or(err, errors.New("limpet snapshot list takes no argument; give a folder with --dir"))
			}
			p, err := placeGiven(c)
			if err != nil {
				return err
			}
			all, err := p.List(c.Context)
			if err != nil {
				return err
			}
			if c.String("output") == "json" {
				if all == nil {
					all = []backup.Snapshot{}
				}
				return printJSON(c.App.Writer, all)
			}
			if len(all) == 0 {
				_, err := fmt.Fprintf(c.App.Writer, "no snapshots in %s\n", p)
				return err
			}
			tw := tabwriter.NewWriter(c.App.Writer, 0, 0, 2, ' ', 0)
			_, _ = fmt.Fprintln(tw, "NAME\tSIZE\tCREATED\tLOCATION")
			for _, s := range all {
				_, _ = fmt.Fprintf(tw, "%s\t%s\t%s\t%s\n", s.Name, bytesText(s.Bytes), s.Created.Local().Format(time.RFC3339), s.Location)
			}
			return tw.Flush()
		},
	}
}

func snapshotDeleteCommand() *cli.Command {
	return &cli.Command{
		Name: "delete", Aliases: []string{"rm"}, Usage: "remove snapshots for good", ArgsUsage: "NAME…",
		OnUsageError: usageError,
		Flags:        keepFlags(),
		Action: func(c *cli.Context) error {
			names, err := anyOrder(c, 0, manyArgs)
			if err != nil {
				return err
			}
			if len(names) == 0 {
				return errors.New("limpet snapshot delete wants the names of snapshots; see limpet snapshot list")
			}
			p, err := placeGiven(c)
			if err != nil {
				return err
			}
			for _, name := range names {
				if err := p.Delete(c.Context, name); err != nil {
					return err
				}
				if _, err := fmt.Fprintf(c.App.Writer, "removed %s from %s\n", name, p); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

func snapshotPruneCommand() *cli.Command {
	return &cli.Command{
		Name: "prune", Usage: "remove all but the newest snapshots of each member",
		Description: "Counts those that are whole, of each member and cluster by itself: in a folder it\n" +
			"reads them for that. Those of other names than --snapshot-name stay. Damaged ones\n" +
			"that are newer than the oldest it keeps stay, too, and are named.",
		OnUsageError: usageError,
		Flags: keepFlags(
			nameFlag("what was given as --snapshot-name when they were taken"),
			&cli.Int64Flag{Name: "snapshot-retention", Usage: "how many to keep of each member", Value: 5, EnvVars: envNames("snapshot-retention")[:1]}),
		Action: func(c *cli.Context) error {
			if args, err := anyOrder(c, 0, manyArgs); err != nil || len(args) > 0 {
				return cmp.Or(err, errors.New("limpet snapshot prune takes no argument; give a folder with --dir"))
			}
			p, err := placeGiven(c)
			if err != nil {
				return err
			}
			return prune(c, p)
		},
	}
}

func prune(c *cli.Context, p backup.Place) error {
	if err := backup.CheckName(c.String("snapshot-name")); err != nil {
		return fmt.Errorf("--snapshot-name: %w", err)
	}
	all, err := p.List(c.Context)
	if err != nil {
		return err
	}
	gone := 0
	mine, unclear := backup.SeriesOf(all, c.String("snapshot-name"))
	for _, series := range unclear {
		_, _ = fmt.Fprintf(c.App.ErrWriter, "limpet: %s-… stay: they may be of another name; limpet snapshot delete removes them\n", series)
	}
	for _, series := range mine {
		removed, damaged, err := backup.Prune(c.Context, p, series, int(c.Int64("snapshot-retention")))
		for _, s := range removed {
			_, _ = fmt.Fprintf(c.App.Writer, "removed %s\n", s.Location)
		}
		for _, s := range damaged {
			_, _ = fmt.Fprintf(c.App.ErrWriter, "limpet: %s is damaged, and does not count\n", s.Location)
		}
		if err != nil {
			return err
		}
		gone += len(removed)
	}
	if gone == 0 {
		_, err = fmt.Fprintf(c.App.Writer, "nothing to remove from %s\n", p)
	}
	return err
}
