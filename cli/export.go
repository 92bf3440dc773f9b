package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"limpet/migrate"
	"limpet/safefile"
)

func exportCommand() *cli.Command {
	return &cli.Command{
		Name:  "export",
		Usage: "copy the keys to an etcd, or to a file",
		Description: "Copies the keys of a running limpet, as they are at one revision, to the etcd at\n" +
			"--to, with their leases and the time that is left of these, and then compares both\n" +
			"sides key by key. The etcd gives its own revisions: whoever keeps some, as\n" +
			"Kubernetes' components do, has to be restarted. Users and roles stay behind.\n\n" +
			"    limpet export --to http://127.0.0.1:12379\n" +
			"    limpet export --to https://etcd1:2379 --to-cacert ca.crt --to-cert c.crt --to-key c.key --prefix /registry/\n" +
			"    limpet export --out keys.jsonl\n\n" +
			"What was cut short goes on with --force, which leaves alone what is there already.\n" +
			"Stop whoever writes first: what is written meanwhile is not copied.",
		OnUsageError: usageError,
		Flags: slices.Concat(accessFlags(10*time.Second), remoteFlags("to", "to-", "client URLs of the etcd to write to; comma-separated"), []cli.Flag{
			&cli.StringFlag{Name: "prefix", Usage: "only keys that begin so"},
			&cli.StringFlag{Name: "out", Usage: "file for the keys as JSON, one a line, instead of --to; - is the output"},
			&cli.BoolFlag{Name: "force", Usage: "write although the target has keys below the prefix, or the file is there"},
			outputFlag(),
		}),
		Action: untilSignal(func(c *cli.Context) error {
			if c.Args().Present() {
				return fmt.Errorf("limpet export takes flags only, got %q; see limpet export --help", c.Args().First())
			}
			if (c.String("to") == "") == (c.String("out") == "") {
				return errors.New("say where to: --to with the client URL of an etcd, or --out with a file")
			}
			a, err := newAccess(c)
			if err != nil {
				return err
			}
			var target *access
			if c.String("to") != "" {
				if target, err = givenAccess(c, "to", "to-"); err != nil {
					return err
				}
			}
			from, err := reachable(c.Context, a)
			if err != nil {
				return err
			}
			defer func() { _ = from.Close() }()
			there, stop := a.whileThere(c.Context, from, "the source, "+strings.Join(a.endpoints, ",")+",")
			defer stop()
			if target == nil {
				err = dump(there, c, from)
			} else {
				err = export(there, c, from, target)
			}
			if errors.Is(err, rpctypes.ErrPermissionDenied) {
				err = fmt.Errorf("%w; the user has to have rights to all keys of --prefix, to read them, and at the target to write them, too", err)
			}
			return whySilent(there, err)
		}),
	}
}

func clientCountOnly() []clientv3.OpOption { return []clientv3.OpOption{clientv3.WithCountOnly()} }

// reachable is a client of a server that has answered once, if only that the user
// may not read the key that it was asked for.
func reachable(ctx context.Context, a *access) (*clientv3.Client, error) {
	client, err := a.client(a.endpoints...)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	if _, err := client.Get(ctx, "limpet", clientCountOnly()...); err != nil && !errors.Is(err, rpctypes.ErrPermissionDenied) {
		return nil, errors.Join(a.explain(a.endpoints[0], fmt.Errorf("ask %s: %w", strings.Join(a.endpoints, ","), err)), client.Close())
	}
	return client, nil
}

func export(ctx context.Context, c *cli.Context, from *clientv3.Client, target *access) error {
	to, err := reachable(ctx, target)
	if err != nil {
		return err
	}
	defer func() { _ = to.Close() }()
	there, stop := target.whileThere(ctx, to, "the target, "+strings.Join(target.endpoints, ",")+",")
	defer stop()
	progress, done := showProgress(os.Stderr)
	e := &migrate.Export{From: from, To: to, Prefix: c.String("prefix"), Force: c.Bool("force"), Progress: progress}
	out, err := e.Run(there)
	done()
	if err != nil {
		if context.Cause(ctx) != nil { // the source, about which the caller knows
			return err
		}
		return whySilent(there, err)
	}
	if c.String("output") == "json" {
		enc := json.NewEncoder(c.App.Writer)
		enc.SetIndent("", "  ")
		return enc.Encode(out)
	}
	_, err = fmt.Fprintf(c.App.Writer, "%d keys of revision %d are at the target, %d of them written now, with %d leases\n"+
		"both sides were read again and are the same: SHA-256 %s\n", out.Keys, out.Revision, out.Written, out.Leases, out.Hash)
	if out.Expired > 0 {
		_, err = fmt.Fprintf(c.App.Writer, "note: the time of %d keys was up meanwhile\n", out.Expired)
	}
	if out.Extra > 0 {
		_, err = fmt.Fprintf(c.App.Writer, "note: the target has %d keys more, which were there before\n", out.Extra)
	}
	return err
}

// dump writes a file that appears whole.
func dump(ctx context.Context, c *cli.Context, from *clientv3.Client) (err error) {
	out := c.String("out")
	progress, done := showProgress(os.Stderr)
	defer done()
	if out == "-" {
		_, _, err := migrate.Dump(ctx, from, c.String("prefix"), c.App.Writer, nil)
		return err
	}
	if err := mayWrite(out, c.Bool("force")); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(out), filepath.Base(out)+".*.tmp") // mode 0600: there are secrets in it
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(f, 1<<16)
	keys, rev, err := migrate.Dump(ctx, from, c.String("prefix"), w, progress)
	if err = errors.Join(err, w.Flush(), f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), out)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	done()
	if err := safefile.SyncDir(filepath.Dir(out)); err != nil {
		return err
	}
	if c.String("output") == "json" {
		return json.NewEncoder(c.App.Writer).Encode(map[string]any{"keys": keys, "revision": rev, "file": out})
	}
	_, err = fmt.Fprintf(c.App.Writer, "%d keys of revision %d are in %s\n", keys, rev, out)
	return err
}
