package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/urfave/cli/v2"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

func getCommand() *cli.Command {
	return looking(&cli.Command{
		Name:      "get",
		Usage:     "show a key as it is, or as it was at a revision or a time",
		ArgsUsage: "KEY",
		Description: "Prints the value of KEY, or with --prefix the keys that begin with KEY and their\n" +
			"values, a line each; in JSON, an object a line. It fails if KEY is not there.\n\n" +
			"    limpet get config/region\n" +
			"    limpet get config/region --at 10m\n" +
			"    limpet get config/ --prefix --rev 4711 --output json\n\n" + whenHelp,
		Flags: lookFlags(
			&cli.BoolFlag{Name: "prefix", Usage: "all keys that begin with KEY"},
			&cli.StringFlag{Name: "rev", Usage: "as it was at this revision"},
			&cli.StringFlag{Name: "at", Usage: "as it was at this TIME"},
			&cli.BoolFlag{Name: "keys-only", Usage: "without values"},
			outputFlag()),
	}, 1, 1, get)
}

func get(c *cli.Context, l *looker, args []string) error {
	if o := c.String("output"); o != "text" && o != "json" {
		return badValue("output", o, "text or json")
	}
	if args[0] == "" && !c.Bool("prefix") {
		return fmt.Errorf("KEY is empty; name one, or all with --prefix")
	}
	w, err := oneMoment(c.String("rev"), c.String("at"), time.Now())
	if err != nil {
		return err
	}
	rev := w.rev
	if !w.at.IsZero() {
		m, err := l.resolve(c.Context, w)
		if err != nil {
			return err
		}
		rev = m.Revision
	}
	out := bufio.NewWriter(c.App.Writer)
	p := keyPrinter{w: out, json: json.NewEncoder(out), asJSON: c.String("output") == "json", keysOnly: c.Bool("keys-only"), named: c.Bool("prefix") || c.Bool("keys-only")}
	n, seen, err := l.each(c.Context, args[0], c.Bool("prefix"), rev, c.Bool("keys-only"), p.print)
	if ferr := out.Flush(); err == nil {
		err = ferr
	}
	if err == nil && n == 0 && !c.Bool("prefix") {
		return fmt.Errorf("%s is not there at revision %d; limpet history shows what it was", words(args[0]), seen)
	}
	return err
}

// getPage is how many keys are read at once: values may have a megabyte and more.
const getPage = 64

// each calls fn for the keys at a revision, 0: now, and tells how many there were,
// and at which revision.
func (l *looker) each(ctx context.Context, key string, prefix bool, rev int64, keysOnly bool, fn func(*mvccpb.KeyValue) error) (n int, seen int64, err error) {
	end := ""
	if prefix {
		key, end = prefixRange(key)
	}
	for {
		opts := []clientv3.OpOption{clientv3.WithRev(rev), clientv3.WithLimit(getPage)}
		if end != "" {
			opts = append(opts, clientv3.WithRange(end))
		}
		if keysOnly {
			opts = append(opts, clientv3.WithKeysOnly())
		}
		resp, err := l.read(ctx, key, opts...)
		if err != nil {
			return n, rev, l.explainRead(ctx, rev, err)
		}
		if rev == 0 {
			rev = resp.Header.Revision // the following pages are of the same state
		}
		for _, kv := range resp.Kvs {
			n++
			if err := fn(kv); err != nil {
				return n, rev, err
			}
		}
		if !resp.More || len(resp.Kvs) == 0 || end == "" {
			return n, rev, nil
		}
		key = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
	}
}

// prefixRange is the range of the keys with a prefix, as etcd's requests have it.
func prefixRange(prefix string) (key, end string) {
	if prefix == "" {
		return "\x00", "\x00"
	}
	return prefix, clientv3.GetPrefixRangeEnd(prefix)
}

// keyPrinter prints keys.
type keyPrinter struct {
	w        io.Writer
	json     *json.Encoder
	asJSON   bool
	keysOnly bool
	named    bool // keys beside values
}

// keyJSON is one line of limpet get --output json.
type keyJSON struct {
	Key         *string `json:"key,omitempty"`
	KeyBase64   []byte  `json:"key_base64,omitempty"`
	Create      int64   `json:"create_revision"`
	Mod         int64   `json:"mod_revision"`
	Version     int64   `json:"version"`
	Lease       int64   `json:"lease,omitempty"`
	Value       *string `json:"value,omitempty"`
	ValueBase64 []byte  `json:"value_base64,omitempty"`
}

func (p *keyPrinter) print(kv *mvccpb.KeyValue) (err error) {
	if p.asJSON {
		key, value := newJSONBytes(kv.Key), jsonBytes{}
		if !p.keysOnly {
			value = newJSONBytes(kv.Value)
		}
		return p.json.Encode(keyJSON{key.Text, key.Base64, kv.CreateRevision, kv.ModRevision, kv.Version, kv.Lease, value.Text, value.Base64})
	}
	if p.named {
		if _, err = fmt.Fprintf(p.w, "%s\n", kv.Key); err != nil {
			return err
		}
	}
	if !p.keysOnly {
		_, err = fmt.Fprintf(p.w, "%s\n", kv.Value)
	}
	return err
}
