package cli

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"

	"limpet/backup"
	"limpet/server"
)

const restoreName = "restore"

func restoreFlags() []cli.Flag {
	def := server.DefaultConfig()
	flags := []cli.Flag{
		&cli.StringFlag{Name: "data-dir", Usage: "folder of the member to be: empty, or not there yet; required", EnvVars: envNames("data-dir")},
		dirFlag(), tempFlag(),
		&cli.StringFlag{Name: "name", Usage: "name of the member", Value: def.Name, EnvVars: envNames("name")},
		&cli.StringFlag{Name: "wal-dir", Usage: "folder for the raft log, as the member will be started with", EnvVars: envNames("wal-dir")},
		&cli.StringFlag{Name: "initial-cluster", Usage: "all members that are restored of this snapshot, as name=url (default: this one alone)", EnvVars: envNames("initial-cluster")},
		&cli.StringFlag{Name: "initial-cluster-token", Usage: "name of the cluster, the same for all members", Value: def.InitialClusterToken, EnvVars: envNames("initial-cluster-token")},
		&cli.StringFlag{Name: "initial-advertise-peer-urls", Usage: "this member's peer URLs (default: those in --initial-cluster)", EnvVars: envNames("initial-advertise-peer-urls")},
		&cli.StringFlag{Name: "token", Usage: "the cluster's secret; better given as LIMPET_TOKEN or a file (default: the first start decides, as for a new cluster)", EnvVars: envNames("token")},
		&cli.StringFlag{Name: "token-file", Usage: "file that holds the token", EnvVars: envNames("token-file")},
		&cli.Int64Flag{Name: "bump-revision", Usage: "by how much revisions go up, so that none comes a second time that clients have seen after the snapshot", Value: server.RestoreBump},
		&cli.BoolFlag{Name: "mark-compacted", Usage: "have clients that watch from older revisions list anew; off keeps the history", Value: true},
		&cli.BoolFlag{Name: "skip-hash-check", Usage: "take a file that carries no hash, such as limpet.db of a stopped member; a hash that is there is compared all the same"},
	}
	return append(append(flags, s3Flags()...), outputFlag())
}

func restoreCommand(version string) *cli.Command {
	return &cli.Command{
		Name: restoreName, Usage: "make the data directory of a new cluster out of a snapshot", ArgsUsage: "FILE|NAME|latest",
		Description: "The member must not run. With the keys come users, roles, leases and the v2 API's\n" +
			"keys; members, tokens and alarms do not. The cluster is a new one: members of the\n" +
			"old one must not run again with their data.\n\n" +
			"Restored alone, the member begins the cluster, and others join it with empty\n" +
			"data directories. Or restore the same snapshot on each member, with the same\n" +
			"--initial-cluster, as with etcd; once they run, no single one of them again: the\n" +
			"others refuse it, and with an empty data directory it joins instead.\n\n" + latestRule + "\n" +
			"    limpet snapshot restore --data-dir /var/lib/limpet backup.db\n" +
			"    limpet snapshot restore --data-dir /var/lib/limpet --dir /mnt/usb latest",
		OnUsageError: usageError,
		Flags:        restoreFlags(),
		Action: func(c *cli.Context) error {
			args, err := anyOrder(c, 1, 1)
			if err != nil {
				return err
			}
			log, err := openLog("warn", "text", "stderr")
			if err != nil {
				return err
			}
			defer log.close()
			cfg := restoreConfig(c, version)
			if cfg.DataDir == "" {
				return errors.New("limpet snapshot restore wants --data-dir, the folder of the member to be")
			}
			return withSnapshot(c, args[0], func(title string, contents *backup.Contents, d *backup.Database) error {
				if !contents.Hashed && !c.Bool("skip-hash-check") {
					return fmt.Errorf("%s carries no hash, so that nobody can tell whether it is what was saved: give what limpet or etcdctl snapshot save has written; if you trust it, as the limpet.db of a member that was stopped, give --skip-hash-check", title)
				}
				meter := newMeter("copying")
				out, err := server.Restore(c.Context, cfg, server.Restoring{
					Database: d.Path, Tail: d.Tail, Bump: c.Int64("bump-revision"), MarkCompacted: c.Bool("mark-compacted"), Progress: meter.tell,
				}, log.Logger)
				meter.end()
				if err != nil {
					return err
				}
				if c.String("output") == "json" {
					return printJSON(c.App.Writer, out)
				}
				return printRestored(c.App.Writer, cfg, out)
			})
		},
	}
}

func restoreConfig(c *cli.Context, version string) server.Config {
	cfg := server.DefaultConfig()
	cfg.Version, cfg.DataDir, cfg.WALDir, cfg.Name = version, c.String("data-dir"), c.String("wal-dir"), c.String("name")
	cfg.Token, cfg.TokenFile = c.String("token"), c.String("token-file")
	cfg.InitialCluster, cfg.InitialClusterToken = c.String("initial-cluster"), c.String("initial-cluster-token")
	cfg.AdvertisePeerURLs = splitList(c.String("initial-advertise-peer-urls"))
	return cfg
}

// printRestored says what to do next.
func printRestored(w io.Writer, cfg server.Config, r server.Restored) error {
	_, _ = fmt.Fprintf(w, "%s is member %s of the new cluster %s now, at revision %d\n", cfg.DataDir, r.MemberID, r.ClusterID, r.Revision)
	if len(r.Members) > 1 {
		_, err := fmt.Fprintf(w, "Restore the same snapshot with the same --initial-cluster and --initial-cluster-token on %s,\n"+
			"then start all of them as before. Each must say cluster %s.\n", strings.Join(others(r.Members, cfg.Name), " and "), r.ClusterID)
		return err
	}
	text := "Start it as before. Members that are to join need an empty data directory, and its token:\n" +
		"limpet token show --data-dir %s\n"
	if !r.Secured {
		text = "Start it as before: without --token or --token-file here, it makes a new token then, if its\n" +
			"members are to have one. Members that are to join need an empty data directory, and that token\n" +
			"(limpet token show --data-dir %s), or without one limpet member add.\n"
	}
	_, err := fmt.Fprintf(w, text, cfg.DataDir)
	return err
}

func others(names []string, but string) []string {
	var out []string
	for _, n := range names {
		if n != but {
			out = append(out, n)
		}
	}
	return out
}
