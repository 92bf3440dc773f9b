package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"limpet/api/look"
)

func undeleteCommand() *cli.Command {
	return looking(&cli.Command{
		Name:      "undelete",
		Usage:     "put a value again that a key had before",
		ArgsUsage: "KEY[@REV]",
		Description: "Puts the value that KEY had at revision REV, or, if it was deleted at REV, just\n" +
			"before that. Without @REV: before its newest deletion that is in history. It is an\n" +
			"ordinary put, of a new revision, in a transaction that does nothing if the key is\n" +
			"there; with --force it replaces what is there, if that has not changed meanwhile. A\n" +
			"lease does not come back: the key stays until somebody deletes it.\n\n" +
			"    limpet undelete config/region\n" +
			"    limpet undelete config/region@4711 --force\n" +
			"    limpet undelete odd@1 --rev 4711\n\n" +
			"With --rev, all of the argument is the key. An object of Kubernetes comes back as it\n" +
			"was, with the uid that it had; what belonged to it may be gone, or be replaced.",
		Flags: lookFlags(
			&cli.StringFlag{Name: "rev", Usage: "REV, for keys that end with @ and a number"},
			&cli.BoolFlag{Name: "force", Usage: "also if the key is there"},
			&cli.BoolFlag{Name: "dry-run", Usage: "only tell what would be put"},
			outputFlag()),
	}, 1, 1, undelete)
}

// undeleted is the JSON form of what limpet undelete did.
type undeleted struct {
	Key         *string `json:"key,omitempty"`
	KeyBase64   []byte  `json:"key_base64,omitempty"`
	From        int64   `json:"from_revision"` // in which the value was put before
	Revision    int64   `json:"revision,omitempty"`
	Size        int     `json:"size_bytes"`
	LeaseBefore int64   `json:"lease_before,omitempty"` // which it does not have now
	DryRun      bool    `json:"dry_run,omitempty"`
}

func undelete(c *cli.Context, l *looker, args []string) error {
	if o := c.String("output"); o != "text" && o != "json" {
		return badValue("output", o, "text or json")
	}
	key, rev, err := keyAtRevision(args[0], c.String("rev"))
	if err != nil {
		return err
	}
	now, err := l.read(c.Context, key)
	if err != nil {
		return l.explain(l.endpoints[0], err)
	}
	unchanged := clientv3.Compare(clientv3.ModRevision(key), "=", 0)
	if len(now.Kvs) > 0 {
		there := now.Kvs[0]
		if !c.Bool("force") {
			return fmt.Errorf("%s is there, since revision %d; --force puts the older value in its place", words(key), there.CreateRevision)
		}
		unchanged = clientv3.Compare(clientv3.ModRevision(key), "=", there.ModRevision)
	}
	old, err := l.before(c.Context, key, rev)
	if err != nil {
		return err
	}
	name := newJSONBytes([]byte(key))
	done := undeleted{Key: name.Text, KeyBase64: name.Base64, From: old.ModRevision, Size: len(old.Value), LeaseBefore: old.Lease, DryRun: c.Bool("dry-run")}
	if !done.DryRun {
		if done.Revision, err = l.putBack(c.Context, key, string(old.Value), unchanged); err != nil {
			return err
		}
	}
	return printUndeleted(c, key, done)
}

// keyAtRevision reads KEY[@REV]; 0: none is named.
func keyAtRevision(word, rev string) (key string, at int64, err error) {
	key = word
	if rev == "" {
		if i := strings.LastIndexByte(word, '@'); i >= 0 && i+1 < len(word) && strings.Trim(word[i+1:], "0123456789") == "" {
			key, rev = word[:i], word[i+1:]
		}
	}
	if key == "" {
		return "", 0, errors.New("KEY is empty; name one")
	}
	if rev == "" {
		return key, 0, nil
	}
	at, err = parseRevision(rev)
	return key, at, err
}

// before is what key was at rev, or just before it was deleted at rev; 0: before
// its newest deletion.
func (l *looker) before(ctx context.Context, key string, rev int64) (*mvccpb.KeyValue, error) {
	if rev == 0 {
		var err error
		if rev, err = l.deletion(ctx, key); err != nil {
			return nil, err
		}
	}
	for _, at := range []int64{rev, rev - 1} {
		if at < 1 {
			break
		}
		resp, err := l.read(ctx, key, clientv3.WithRev(at))
		if err != nil {
			return nil, l.explainRead(ctx, at, err)
		}
		if len(resp.Kvs) > 0 {
			return resp.Kvs[0], nil
		}
	}
	return nil, fmt.Errorf("%s was not there at revision %d, nor just before; limpet history shows when it was", words(key), rev)
}

// deletion is the revision of the newest deletion of key in history.
func (l *looker) deletion(ctx context.Context, key string) (int64, error) {
	query := url.Values{"key": {key}, "limit": {strconv.Itoa(look.MaxChanges)}, "oldest": {"true"}}
	newest := int64(0)
	for {
		var last int64
		head, more, err := l.history(ctx, query, func(c *look.Change) error {
			if last = c.ID; c.Version == 0 {
				newest = c.Revision
			}
			return nil
		})
		switch {
		case err != nil:
			return 0, err
		case more:
			query.Set("after", strconv.FormatInt(last, 10))
		case newest == 0 && head.Floor > 0:
			return 0, fmt.Errorf("%s was not deleted since revision %d, and what was before is compacted", words(key), head.Floor)
		case newest == 0:
			return 0, fmt.Errorf("%s was never deleted; name a revision, as in KEY@REV, see limpet history", words(key))
		default:
			return newest, nil
		}
	}
}

// putBack puts value if the key is still as it was looked at, and returns the new
// revision.
func (l *looker) putBack(ctx context.Context, key, value string, unchanged clientv3.Cmp) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	client, err := l.speak()
	if err != nil {
		return 0, l.explain(l.endpoints[0], err)
	}
	resp, err := client.Txn(ctx).If(unchanged).Then(clientv3.OpPut(key, value)).Commit()
	if err != nil {
		if errors.Is(err, context.DeadlineExceeded) || status.Code(err) == codes.Unavailable {
			return 0, fmt.Errorf("whether it was put is not known, limpet history tells: %w", l.explain(l.endpoints[0], err))
		}
		return 0, l.explain(l.endpoints[0], err)
	}
	if !resp.Succeeded {
		return 0, fmt.Errorf("%s has changed meanwhile, and nothing was put; look at limpet history, and try again", words(key))
	}
	return resp.Header.Revision, nil
}

func printUndeleted(c *cli.Context, key string, done undeleted) error {
	if c.String("output") == "json" {
		return json.NewEncoder(c.App.Writer).Encode(done)
	}
	text := fmt.Sprintf("%s is back, as revision %d: the %d bytes of revision %d", words(key), done.Revision, done.Size, done.From)
	if done.DryRun {
		text = fmt.Sprintf("%s would come back with the %d bytes of revision %d", words(key), done.Size, done.From)
	}
	if done.LeaseBefore != 0 {
		text += fmt.Sprintf("; without the lease %016x, which it had", done.LeaseBefore)
	}
	_, err := fmt.Fprintln(c.App.Writer, text)
	return err
}
