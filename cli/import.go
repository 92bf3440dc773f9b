package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"limpet/migrate"
	"limpet/server"
)

func importCommand(version string) *cli.Command {
	return &cli.Command{
		Name:  "import",
		Usage: "make a data directory of what k3s's SQLite file or an etcd holds",
		Description: "Revisions stay what they are, so that Kubernetes goes on where it was. The source\n" +
			"is read only; what was written is read again and compared with it. Until all is\n" +
			"done and synced, the data directory is none that limpet server would start with.",
		Subcommands: endable(importKineCommand(version), importEtcdCommand(version)),
	}
}

func importKineCommand(version string) *cli.Command {
	return &cli.Command{
		Name:      "kine",
		Usage:     "of k3s's own datastore, while k3s is stopped",
		ArgsUsage: "STATE.DB",
		Description: "Stop k3s first; a file that it has open is refused.\n\n" +
			"    systemctl stop k3s\n" +
			"    limpet import kine --data-dir /var/lib/limpet /var/lib/rancher/k3s/server/db/state.db\n" +
			"    limpet server --data-dir /var/lib/limpet\n\n" +
			"kine does not count the versions of a key: they are counted from the history that\n" +
			"it has kept. Of a key that expires it keeps for how long, not since when: such\n" +
			"keys begin their time anew when limpet starts.",
		OnUsageError: usageError,
		Flags:        importFlags(),
		Action: func(c *cli.Context) error {
			args, err := onlyArgs(c)
			if err != nil {
				return err
			}
			if len(args) != 1 {
				return errors.New("name the file: limpet import kine --data-dir DIR /var/lib/rancher/k3s/server/db/state.db")
			}
			return runImport(c, version, args[0], func(*workplace) (migrate.Source, error) { return migrate.OpenKine(args[0]) })
		},
	}
}

func importEtcdCommand(version string) *cli.Command {
	return &cli.Command{
		Name:      "etcd",
		Usage:     "of a snapshot, a stopped member's file, or a running etcd",
		ArgsUsage: "[SNAPSHOT.DB]",
		Description: "A running etcd gives all it has, history, leases, users and roles, at one moment;\n" +
			"what is written there later is not taken. Where authentication is enabled, only\n" +
			"root may ask for that.\n\n" +
			"    limpet import etcd --data-dir /var/lib/limpet --endpoints https://10.0.0.1:2379 --cacert ca.crt --cert c.crt --key c.key\n" +
			"    etcdctl snapshot save snapshot.db; limpet import etcd --data-dir /var/lib/limpet snapshot.db\n\n" +
			"Of a stopped member, member/snap/db in its data directory will do if etcd was stopped\n" +
			"in order: one that was killed has more in its log, and is refused.",
		OnUsageError: usageError,
		Flags: slices.Concat(importFlags(), remoteFlags("endpoints", "", "client URLs of a running etcd, instead of a file; comma-separated"), []cli.Flag{
			&cli.DurationFlag{Name: "timeout", Usage: "how long to wait for an answer, and for an etcd that has gone silent meanwhile", Value: 10 * time.Second},
		}),
		Action: func(c *cli.Context) error {
			args, err := onlyArgs(c)
			if err != nil {
				return err
			}
			live := c.String("endpoints") != ""
			switch {
			case live && len(args) > 0:
				return errors.New("give a file or --endpoints, not both")
			case !live && len(args) != 1:
				return errors.New("name a snapshot, or give --endpoints of a running etcd: limpet import etcd --data-dir DIR SNAPSHOT.DB")
			case !live:
				return runImport(c, version, args[0], func(*workplace) (migrate.Source, error) { return migrate.OpenEtcd(args[0]) })
			}
			a, err := givenAccess(c, "endpoints", "")
			if err != nil {
				return err
			}
			return runImport(c, version, "", func(w *workplace) (migrate.Source, error) { return fetchEtcd(c, a, w) })
		},
	}
}

func importFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "data-dir", Usage: "data directory to make; empty, or not there yet", EnvVars: envNames("data-dir")},
		&cli.StringFlag{Name: "name", Usage: "name of the member to be; else the machine's"},
		&cli.StringFlag{Name: "wal-dir", Usage: "folder for the raft log, as of limpet server", EnvVars: envNames("wal-dir")},
		&cli.StringFlag{Name: "token", Usage: "the new cluster's secret; else one is made", EnvVars: envNames("token")},
		&cli.StringFlag{Name: "token-file", Usage: "file that holds the token", EnvVars: envNames("token-file")},
		&cli.Int64Flag{Name: "bump-revision", Usage: "let revisions go on so many higher, for when the source went on without limpet"},
		&cli.BoolFlag{Name: "mark-compacted", Usage: "count all revisions so far as compacted, so that who watches lists anew"},
		&cli.StringFlag{Name: "temp-dir", Usage: "folder to work in, with room for the database (default: beside the data directory; the system's with --dry-run)"},
		&cli.BoolFlag{Name: "dry-run", Usage: "only read the source, and tell what it holds"},
		outputFlag(),
	}
}

// onlyArgs are the arguments that are no flags; flags may stand behind them, too.
func onlyArgs(c *cli.Context) (args []string, err error) {
	rest := c.Args().Slice()
	for len(rest) > 0 {
		name, value, given := strings.Cut(strings.TrimLeft(rest[0], "-"), "=")
		if !strings.HasPrefix(rest[0], "-") {
			args, rest = append(args, rest[0]), rest[1:]
			continue
		}
		i := slices.IndexFunc(c.Command.Flags, func(f cli.Flag) bool { return slices.Contains(f.Names(), name) })
		if i < 0 {
			return nil, wrongUsage{fmt.Errorf("there is no flag --%s; see %s --help", name, commandPath(c))}
		}
		rest = rest[1:]
		if _, isBool := c.Command.Flags[i].(*cli.BoolFlag); isBool && !given {
			value = "true"
		} else if !given {
			if len(rest) == 0 {
				return nil, wrongUsage{fmt.Errorf("--%s wants a value; see %s --help", name, commandPath(c))}
			}
			value, rest = rest[0], rest[1:]
		}
		if err := c.Set(c.Command.Flags[i].Names()[0], value); err != nil {
			return nil, wrongUsage{fmt.Errorf("--%s: %w", name, err)}
		}
	}
	return args, nil
}

// importReport is what a script reads.
type importReport struct {
	*migrate.Summary
	DryRun    bool   `json:"dry_run,omitempty"`
	DataDir   string `json:"data_dir,omitempty"`
	ClusterID string `json:"cluster_id,omitempty"`
	MemberID  string `json:"member_id,omitempty"`
	// MemberRevision is the newest one of the member: higher with --bump-revision.
	MemberRevision int64 `json:"member_revision,omitempty"`
}

// runImport builds the database in a folder beside the data directory, and has
// a member made of it. file is the source, if it is one.
func runImport(c *cli.Context, version, file string, open func(*workplace) (migrate.Source, error)) (err error) {
	dir, temp, dry := c.String("data-dir"), c.String("temp-dir"), c.Bool("dry-run")
	if dir == "" {
		return errors.New("--data-dir is missing: give the folder of the member to be")
	}
	if err := server.MayRestore(memberToBe(c, version), c.Int64("bump-revision")); err != nil {
		return err
	}
	if dry && temp == "" {
		temp = os.TempDir()
	}
	if !dry {
		if err := server.MayMake(dir); err != nil {
			return err
		}
	}
	w, err := openWorkplace(dir, temp, file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	progress, done := showProgress(os.Stderr)
	defer done()
	src, err := open(w)
	if err != nil {
		return err
	}
	report := importReport{DryRun: dry}
	if report.DryRun {
		report.Summary, err = migrate.Look(c.Context, src, progress)
	} else {
		report.Summary, err = migrate.Import(c.Context, src, w.database(), progress)
	}
	if err := errors.Join(err, src.Close()); err != nil {
		return err
	}
	done()
	if !report.DryRun {
		made, err := makeMember(c, version, w.database())
		if err != nil {
			return err
		}
		report.DataDir, report.ClusterID, report.MemberID, report.MemberRevision = dir, made.ClusterID, made.MemberID, made.Revision
	}
	return printImport(c.App.Writer, report, c.String("output"))
}

func memberToBe(c *cli.Context, version string) server.Config {
	cfg := server.DefaultConfig()
	cfg.DataDir, cfg.WALDir, cfg.Version = c.String("data-dir"), c.String("wal-dir"), version
	cfg.Token, cfg.TokenFile = c.String("token"), c.String("token-file")
	if name := c.String("name"); name != "" {
		cfg.Name = name
	}
	return cfg
}

func makeMember(c *cli.Context, version, database string) (server.Restored, error) {
	log, err := openLog("error", "text", "stderr")
	if err != nil {
		return server.Restored{}, err
	}
	defer log.close()
	meter := newMeter("copying")
	made, err := server.Restore(c.Context, memberToBe(c, version), server.Restoring{
		Database: database, Bump: c.Int64("bump-revision"), MarkCompacted: c.Bool("mark-compacted"), Progress: meter.tell,
	}, log.Logger)
	meter.end()
	if err != nil {
		return made, fmt.Errorf("make a member of what was imported: %w", err)
	}
	return made, nil
}

func printImport(w io.Writer, r importReport, output string) error {
	if output == "json" {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(r)
	}
	compacted := "never compacted"
	if r.Compacted >= 0 {
		compacted = fmt.Sprintf("compacted at %d", r.Compacted)
	}
	_, _ = fmt.Fprintf(w, "%s: %d keys, %d versions of keys, revision %d, %s\n", r.Source, r.Keys, r.Rows, r.Revision, compacted)
	_, _ = fmt.Fprintf(w, "%d leases, %d users, %d roles; authentication is %s\n", r.Leases, r.Users, r.Roles, map[bool]string{true: "enabled", false: "not enabled"}[r.Auth])
	for _, n := range r.Notes {
		_, _ = fmt.Fprintf(w, "note: %s\n", n)
	}
	if r.DryRun {
		_, err := fmt.Fprintln(w, "nothing was written (--dry-run)")
		return err
	}
	_, _ = fmt.Fprintf(w, "both sides were read again and are the same: SHA-256 %s\n", r.Hash)
	_, err := fmt.Fprintf(w, "%s is cluster %s of one member, at revision %d; start it with limpet server --data-dir %s\n", r.DataDir, r.ClusterID, r.MemberRevision, r.DataDir)
	return err
}

// fetchEtcd takes a snapshot of a running etcd.
func fetchEtcd(c *cli.Context, a *access, w *workplace) (migrate.Source, error) {
	client, err := reachable(c.Context, a)
	if err != nil {
		return nil, err
	}
	defer func() { _ = client.Close() }()
	if err := w.hasRoom(snapshotBytes(c.Context, client, a)); err != nil {
		return nil, err
	}
	progress, done := showProgress(os.Stderr)
	defer done()
	who := strings.Join(a.endpoints, ",")
	there, stop := a.whileThere(c.Context, client, who)
	defer stop()
	if err := whySilent(there, migrate.Fetch(there, client, w.snapshot(), progress)); err != nil {
		if isLost(err) {
			err = fmt.Errorf("%s %w: %w", who, errSilent, err)
		}
		if errors.Is(err, errSilent) {
			err = fmt.Errorf("%w; nothing was imported: run it again when that etcd answers", err)
		}
		if errors.Is(rpctypes.Error(err), rpctypes.ErrPermissionDenied) || strings.Contains(err.Error(), rpctypes.ErrorDesc(rpctypes.ErrGRPCPermissionDenied)) {
			err = fmt.Errorf("%w: with authentication enabled only root may take a snapshot; give --user root:PASSWORD", err)
		}
		return nil, err
	}
	return migrate.OpenEtcd(w.snapshot())
}

// snapshotBytes is about how much a server will send; 0: it does not say.
func snapshotBytes(ctx context.Context, client *clientv3.Client, a *access) int64 {
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	st, err := client.Status(ctx, a.endpoints[0])
	if err != nil {
		return 0
	}
	return st.DbSize
}

// showProgress tells somebody who looks at f how far a step is, and nobody
// else. done takes it off the screen.
func showProgress(f *os.File) (progress migrate.Progress, done func()) {
	if !isTerminal(f) {
		return nil, func() {}
	}
	var last time.Time
	progress = func(step string, n int64) {
		if now := time.Now(); now.Sub(last) > 200*time.Millisecond {
			last = now
			_, _ = fmt.Fprintf(f, "\r\033[K%s: %d", step, n)
		}
	}
	return progress, func() { _, _ = fmt.Fprint(f, "\r\033[K") }
}
