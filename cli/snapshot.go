package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"
	clientv3 "go.etcd.io/etcd/client/v3"

	"limpet/backup"
	"limpet/server"
)

func snapshotCommand(version string) *cli.Command {
	return &cli.Command{
		Name:  "snapshot",
		Usage: "save all data into a file or a bucket, look at that, and restore it",
		Description: "Members take snapshots by themselves, see --snapshot-schedule of limpet server.\n" +
			"A snapshot is what etcdctl snapshot save writes: the database, and its hash\n" +
			"behind it. It holds all keys, users and leases, and no token: keep that\n" +
			"elsewhere, and snapshots where only you can read them.",
		Subcommands: endable(
			saveCommand(), snapshotStatusCommand(), restoreCommand(version), snapshotListCommand(), snapshotDeleteCommand(), snapshotPruneCommand(),
		),
	}
}

// onDemand begins the names of snapshots that somebody has asked for.
const onDemand = "on-demand"

func dirFlag() cli.Flag {
	return &cli.StringFlag{Name: "dir", Usage: "folder of snapshots (default: snapshots in --data-dir)", EnvVars: envNames("snapshot-dir")[:1]}
}

func tempFlag() cli.Flag {
	return &cli.StringFlag{Name: "temp-dir", Usage: "folder with room for the database, where a snapshot is unpacked, or kept on its way to a bucket (default: the system's)"}
}

func nameFlag(usage string) cli.Flag {
	return &cli.StringFlag{Name: "snapshot-name", Usage: usage, Value: onDemand}
}

func tempDir(c *cli.Context) string {
	if dir := c.String("temp-dir"); dir != "" {
		return dir
	}
	return os.TempDir()
}

// place is where the flags say that snapshots are; nil: they say nothing. What the
// command line says goes before the environment, which may be one made for the service.
func place(c *cli.Context) (backup.Place, error) {
	o, err := s3Of(c)
	bucket, dir := o.Given(), c.String("dir") != ""
	switch {
	case onLine(c, "dir") == onLine(c, "s3-bucket"):
		other := c.Command.Name == saveName || c.Command.Name == restoreName // where it says more than that
		if onLine(c, "data-dir") && !onLine(c, "dir") && !other {
			bucket, dir = false, false
		}
	case onLine(c, "dir"):
		bucket = false
	default:
		dir = false
	}
	switch {
	case bucket && dir:
		return nil, errors.New("--dir and --s3-bucket are both given; give one")
	case bucket && err == nil:
		return backup.OpenBucket(o)
	case bucket:
		return nil, err
	case dir: // keys of a bucket may be in the environment all the same
		return backup.Dir{Path: c.String("dir")}, nil
	case c.String("data-dir") != "":
		return backup.Dir{Path: filepath.Join(c.String("data-dir"), server.SnapshotsName)}, nil
	}
	return nil, err
}

// onLine reports whether a flag is on the command line, not just in the environment.
func onLine(c *cli.Context, name string) bool {
	line := *c
	line.Command = nil // its flags know of the environment
	return slices.Contains(line.LocalFlagNames(), name)
}

const saveName = "save"

func saveCommand() *cli.Command {
	flags := append(accessFlags(10*time.Second), dirFlag(), nameFlag("what the name begins with, in a folder or bucket"),
		&cli.BoolFlag{Name: "compress", Usage: "compress it with zstd, where that pays; etcdctl does not read that"}, tempFlag())
	return &cli.Command{
		Name: saveName, Usage: "take a snapshot of a member that runs", ArgsUsage: "[FILE]",
		Description: "Asks the member at the first endpoint that answers. The snapshot goes into FILE,\n" +
			"or gets a name of its own in a folder or a bucket. It is read whole before it\n" +
			"has its name; one that fails leaves nothing, and what was there before stays.\n\n" +
			"    limpet snapshot save backup.db\n" +
			"    limpet snapshot save --compress --dir /mnt/usb\n" +
			"    limpet snapshot save --data-dir /var/lib/limpet --endpoints https://board1:2379\n" +
			"    LIMPET_S3_SECRET_KEY=… limpet snapshot save --s3-bucket boards --s3-access-key …",
		OnUsageError: usageError,
		Flags:        append(append(flags, s3Flags()...), outputFlag()),
		Action: func(c *cli.Context) error {
			args, err := anyOrder(c, 0, 1)
			if err != nil {
				return err
			}
			a, err := newAccess(c)
			if err != nil {
				return err
			}
			if err := backup.CheckName(c.String("snapshot-name")); err != nil {
				return fmt.Errorf("--snapshot-name: %w", err)
			}
			if len(args) > 0 {
				if onLine(c, "dir") || onLine(c, "s3-bucket") {
					return errors.New("FILE, --dir and --s3-bucket are three places; give one")
				}
				if args[0] == "-" {
					return errors.New("limpet snapshot save writes no snapshot to standard output: one is read again before it counts; give a FILE, or ./- for one of that name")
				}
				if err := backup.CheckFile(args[0]); err != nil {
					return err
				}
				return save(c, a, nil, args[0])
			}
			to, err := place(c)
			if err == nil && to == nil {
				err = errors.New("limpet snapshot save wants a FILE, or --dir, --data-dir or --s3-bucket")
			}
			if err != nil {
				return err
			}
			return save(c, a, to, "")
		},
	}
}

// live is a member that answers.
type live struct {
	client  *clientv3.Client
	name    string // as it is called, or its ID
	cluster uint64 // its ID
	bytes   int64  // of its database, about
}

// findLive returns the first member that answers.
func findLive(ctx context.Context, a *access) (*live, error) {
	var errs []error
	for _, ep := range a.endpoints {
		m, err := a.askLive(ctx, ep)
		if err == nil {
			return m, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", ep, a.explain(ep, err)))
	}
	return nil, errors.Join(errs...)
}

func (a *access) askLive(ctx context.Context, endpoint string) (*live, error) {
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	client, err := a.client(endpoint)
	if err != nil {
		return nil, err
	}
	st, err := client.Status(ctx, endpoint)
	if err != nil {
		return nil, errors.Join(err, client.Close())
	}
	m := &live{client, fmt.Sprintf("%x", st.Header.MemberId), st.Header.ClusterId, st.DbSize}
	list, err := client.MemberList(ctx, clientv3.WithSerializable()) // one without a leader answers, too
	if err != nil {
		return m, nil // then the ID has to do
	}
	for _, member := range list.Members {
		if member.ID == st.Header.MemberId && member.Name != "" {
			m.name = member.Name
		}
	}
	return m, nil
}

// source streams a snapshot of the member. It gives up when nothing comes any more.
func (m *live) source(patience time.Duration) backup.Source {
	return func(ctx context.Context, size func(int64) error, w io.Writer) error {
		if err := size(m.bytes); err != nil {
			return err
		}
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		stalled := time.AfterFunc(patience, func() { cancel(fmt.Errorf("for %v nothing came from the member", patience)) })
		defer stalled.Stop()
		resp, err := m.client.SnapshotWithVersion(ctx)
		if err != nil {
			return errors.Join(context.Cause(ctx), err)
		}
		_, err = io.Copy(writerFunc(func(p []byte) (int, error) {
			stalled.Reset(patience)
			return w.Write(p)
		}), resp.Snapshot)
		if cause := context.Cause(ctx); err != nil && cause != nil {
			err = cause
		}
		return errors.Join(err, resp.Snapshot.Close())
	}
}

type writerFunc func([]byte) (int, error)

// Write implements io.Writer.
func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// saved is what limpet snapshot save tells, and its JSON form.
type saved struct {
	Location string `json:"location"`
	Name     string `json:"name,omitempty"`
	*backup.Contents
}

// save takes a snapshot to a place; nil: into a file.
func save(c *cli.Context, a *access, to backup.Place, file string) error {
	m, err := findLive(c.Context, a)
	if err != nil {
		return err
	}
	defer func() { _ = m.client.Close() }()
	spool := tempDir(c)
	if d, ok := to.(backup.Dir); ok {
		if err := d.Open(); err != nil {
			return err
		}
		spool = d.Path
	} else if to == nil {
		spool = filepath.Dir(file)
	}
	series := backup.Series(c.String("snapshot-name"), m.name, m.cluster)
	if to != nil {
		if err := to.Tidy(c.Context, series); err != nil {
			return err
		}
	}
	meter := newMeter("saving")
	t, err := backup.Take(c.Context, backup.Taking{Source: m.source(a.timeout), Spool: spool, Compress: c.Bool("compress"), Progress: meter.tell})
	meter.end()
	if err != nil {
		return a.explain(a.endpoints[0], err)
	}
	out := saved{Contents: t.Contents}
	if to == nil {
		out.Location = file
		err = t.Keep(out.Location, true)
	} else {
		out.Name, out.Location, err = putInto(c, to, t, series)
	}
	if err != nil {
		return err
	}
	if c.String("output") == "json" {
		return printJSON(c.App.Writer, out)
	}
	_, err = fmt.Fprintf(c.App.Writer, "saved %s: revision %d, %s\n", out.Location, out.Revision, bytesText(out.Kept))
	return err
}

// putInto brings a snapshot into a folder, where it already lies, or into a bucket.
func putInto(c *cli.Context, to backup.Place, t *backup.Taken, series string) (name, location string, err error) {
	if d, ok := to.(backup.Dir); ok {
		s, err := backup.KeepIn(c.Context, d, t, series, time.Now())
		return s.Name, s.Location, err
	}
	all, err := to.List(c.Context)
	if err != nil {
		return "", "", errors.Join(err, t.Drop())
	}
	meter := newMeter("uploading")
	s, err := backup.Upload(c.Context, to, t.Path(), t.NameIn(all, series, time.Now()), meter.tell)
	meter.end()
	return s.Name, s.Location, errors.Join(err, t.Drop())
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

func snapshotStatusCommand() *cli.Command {
	return &cli.Command{
		Name: "status", Usage: "read a snapshot whole, and tell what it holds", ArgsUsage: "FILE|NAME|latest",
		Description: "Takes what limpet snapshot save and etcdctl snapshot save have written, also\n" +
			"through gzip, and the limpet.db of a member that was stopped. NAME is looked for\n" +
			"in the folder or the bucket that the flags name. Fails if it is damaged.\n\n" + latestRule,
		OnUsageError: usageError,
		Flags:        append(append([]cli.Flag{dataDirFolderFlag(), dirFlag(), tempFlag()}, s3Flags()...), outputFlag()),
		Action: func(c *cli.Context) error {
			args, err := anyOrder(c, 1, 1)
			if err != nil {
				return err
			}
			return withSnapshot(c, args[0], func(file string, contents *backup.Contents, d *backup.Database) error {
				var err error
				if contents.Keys, err = d.CountKeys(); err != nil {
					return err
				}
				if c.String("output") == "json" {
					return printJSON(c.App.Writer, contents)
				}
				return printContents(c.App.Writer, file, contents)
			})
		},
	}
}

func dataDirFolderFlag() cli.Flag {
	return &cli.StringFlag{Name: "data-dir", Usage: "data directory of a member here, in which its snapshots are", EnvVars: envNames("data-dir")[:1]}
}

func printContents(w io.Writer, file string, c *backup.Contents) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	hash := "none: only its pages and rows were checked"
	if c.Hashed {
		hash = "right"
	}
	compacted := "never"
	if c.Compacted >= 0 {
		compacted = fmt.Sprint("up to ", c.Compacted)
	}
	kept := bytesText(c.Kept)
	if c.Compressed != "" {
		kept += ", " + c.Compressed
	}
	for _, row := range [][2]string{
		{"snapshot", file}, {"hash", hash}, {"sha256", c.SHA256}, {"file", kept}, {"database", bytesText(c.Bytes)},
		{"revision", fmt.Sprint(c.Revision)}, {"keys", fmt.Sprint(c.Keys)}, {"versions", fmt.Sprint(c.Versions)}, {"compacted", compacted},
		{"raft index", fmt.Sprint(c.Index)}, {"cluster", c.Cluster}, {"members", strings.Join(c.Members, ", ")},
	} {
		_, _ = fmt.Fprintf(tw, "%s\t%s\n", row[0], row[1])
	}
	return tw.Flush()
}

// latest names the newest snapshot there is.
const latest = "latest"

// latestRule says which that is.
const latestRule = "latest is the newest of the member whose snapshots are there. Where several members,\n" +
	"or several names, have some, it is the one with the highest revision, in a bucket the\n" +
	"one that came there last, and the command says which it took.\n"

// withSnapshot finds the snapshot of a name, fetches it if it is in a bucket, reads it
// whole and hands it to do.
func withSnapshot(c *cli.Context, name string, do func(file string, contents *backup.Contents, d *backup.Database) error) error {
	s, err := findSnapshot(c, name)
	if err != nil {
		return err
	}
	meter := newMeter("reading")
	contents, d, err := s.open(c.Context, tempDir(c), meter.tell)
	meter.end()
	if err != nil {
		return errors.Join(err, s.drop())
	}
	return errors.Join(do(s.title, contents, d), d.Close(), s.drop())
}

// found is a snapshot that was asked for.
type found struct {
	file    string
	title   string          // what people call it
	fetched *backup.Fetched // nil: the file is the snapshot itself
}

func (f *found) open(ctx context.Context, spool string, progress backup.Progress) (*backup.Contents, *backup.Database, error) {
	if f.fetched == nil {
		return backup.Open(ctx, f.file, spool, progress)
	}
	return f.fetched.Open(ctx, f.title, spool, progress)
}

func (f *found) drop() error {
	if f.fetched == nil {
		return nil
	}
	return f.fetched.Drop()
}

// findSnapshot returns a file that is the snapshot, or a copy of it.
func findSnapshot(c *cli.Context, name string) (*found, error) {
	if info, err := os.Stat(name); err == nil && info.Mode().IsRegular() {
		return &found{file: name, title: name}, nil
	}
	from, err := place(c)
	if err != nil {
		return nil, err
	}
	if from == nil || strings.ContainsRune(name, os.PathSeparator) {
		return nil, fmt.Errorf("there is no file %s; a snapshot in a folder or a bucket is named with --dir, --data-dir or --s3-bucket", name)
	}
	if name == latest {
		if name, err = newest(c, from); err != nil {
			return nil, err
		}
	}
	if d, ok := from.(backup.Dir); ok {
		if _, err := os.Stat(d.File(name)); err != nil {
			return nil, fmt.Errorf("%w as %s in %s; see limpet snapshot list", backup.ErrNoSnapshot, name, from)
		}
		return &found{file: d.File(name), title: d.File(name)}, nil
	}
	meter := newMeter("downloading")
	f, err := backup.FetchTo(c.Context, from, name, tempDir(c), meter.tell)
	meter.end()
	if err != nil {
		return nil, err
	}
	return &found{f.Path(), from.String() + "/" + name, f}, nil
}

// newest is the name of the newest snapshot in a place; it says which it is, if there
// was a choice.
func newest(c *cli.Context, from backup.Place) (string, error) {
	s, note, err := backup.Newest(c.Context, from, tempDir(c))
	if err == nil && note != "" {
		_, _ = fmt.Fprintf(c.App.ErrWriter, "limpet: %s\n", note)
	}
	return s.Name, err
}
