package cli

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/urfave/cli/v2"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

func diffCommand() *cli.Command {
	return looking(&cli.Command{
		Name:      "diff",
		Usage:     "compare the keys at two points in history",
		ArgsUsage: "FROM TO [PREFIX]",
		Description: "FROM and TO are revisions, TIMEs, or now. Prints + for keys that were added, - for\n" +
			"removed ones and ~ for changed ones, with the bytes of their values, and with\n" +
			"--values the lines that differ, if both are text; JSON is indented before. Keys\n" +
			"that were written again with the same value count as changed.\n\n" +
			"    limpet diff 4711 now\n" +
			"    limpet diff 2h 10m config/ --values\n" +
			"    limpet diff 10m now /registry/secrets/ --exit-code || echo somebody was there\n\n" +
			"With --exit-code it ends with 0 if nothing differs, 1 if something does, and 2 if it\n" +
			"cannot tell.\n\n" + whenHelp,
		Flags: lookFlags(
			&cli.BoolFlag{Name: "values", Usage: "with the lines that differ"},
			&cli.BoolFlag{Name: "exit-code", Usage: "end with 1 if anything differs"},
			outputFlag()),
	}, 2, 3, diff)
}

func diff(c *cli.Context, l *looker, args []string) error {
	n, err := diffKeys(c, l, args)
	switch {
	case !c.Bool("exit-code"):
		return err
	case err != nil:
		return wrongUsage{err} // 2, as of diff
	case n > 0:
		return exitCode(1)
	}
	return nil
}

func diffKeys(c *cli.Context, l *looker, args []string) (n int, err error) {
	if o := c.String("output"); o != "text" && o != "json" {
		return 0, badValue("output", o, "text or json")
	}
	var revs [2]int64
	now := time.Now()
	for i, text := range args[:2] {
		w, err := parseWhen(text, now)
		if err != nil {
			return 0, err
		}
		m, err := l.resolve(c.Context, w)
		if err != nil {
			return 0, err
		}
		revs[i] = m.Revision
	}
	prefix := ""
	if len(args) > 2 {
		prefix = args[2]
	}
	out := bufio.NewWriter(c.App.Writer)
	p := diffPrinter{w: out, json: json.NewEncoder(out), asJSON: c.String("output") == "json", values: c.Bool("values")}
	err = l.compare(c.Context, revs, prefix, func(d difference) error { n++; p.count[d.sign]++; return p.print(d) })
	if err == nil && !p.asJSON {
		_, err = fmt.Fprintf(out, "%d added, %d removed, %d changed from revision %d to %d\n", p.count['+'], p.count['-'], p.count['~'], revs[0], revs[1])
	}
	if ferr := out.Flush(); err == nil {
		err = ferr
	}
	return n, err
}

// difference is one key that is not the same in both states; before or after is nil
// if it is not there.
type difference struct {
	sign          byte // + - ~
	before, after *mvccpb.KeyValue
}

// stateKeys walks the keys of one state, a page in memory.
type stateKeys struct {
	l         *looker
	rev       int64
	next, end string
	page      []*mvccpb.KeyValue
	last      bool
}

// diffPage is how many keys are read at once, without values.
const diffPage = 500

// peek is the key at hand; nil: there are no more.
func (s *stateKeys) peek(ctx context.Context) (*mvccpb.KeyValue, error) {
	if len(s.page) == 0 && !s.last {
		resp, err := s.l.read(ctx, s.next, clientv3.WithRange(s.end), clientv3.WithKeysOnly(), clientv3.WithLimit(diffPage), clientv3.WithRev(s.rev))
		if err != nil {
			return nil, s.l.explainRead(ctx, s.rev, err)
		}
		s.page, s.last = resp.Kvs, !resp.More || len(resp.Kvs) == 0
		if !s.last {
			s.next = string(s.page[len(s.page)-1].Key) + "\x00"
		}
	}
	if len(s.page) == 0 {
		return nil, nil
	}
	return s.page[0], nil
}

// compare calls fn for the keys that differ, in their order. Only of these values
// are read, one pair at a time.
func (l *looker) compare(ctx context.Context, revs [2]int64, prefix string, fn func(difference) error) error {
	begin, end := prefixRange(prefix)
	a, b := stateKeys{l: l, rev: revs[0], next: begin, end: end}, stateKeys{l: l, rev: revs[1], next: begin, end: end}
	for {
		before, err := a.peek(ctx)
		if err != nil {
			return err
		}
		after, err := b.peek(ctx)
		if err != nil {
			return err
		}
		if before == nil && after == nil {
			return nil
		}
		order := 0
		switch {
		case before == nil:
			order = 1
		case after == nil:
			order = -1
		default:
			order = bytes.Compare(before.Key, after.Key)
		}
		key := after
		if order <= 0 {
			key, a.page = before, a.page[1:]
		}
		if order >= 0 {
			b.page = b.page[1:]
		}
		if order == 0 && before.ModRevision == after.ModRevision {
			continue
		}
		d, err := l.both(ctx, string(key.Key), revs)
		if err == nil {
			err = fn(d)
		}
		if err != nil {
			return err
		}
	}
}

// both reads a key in both states.
func (l *looker) both(ctx context.Context, key string, revs [2]int64) (d difference, err error) {
	var found [2]*mvccpb.KeyValue
	for i, rev := range revs {
		resp, err := l.read(ctx, key, clientv3.WithRev(rev))
		if err != nil {
			return d, l.explainRead(ctx, rev, err)
		}
		if len(resp.Kvs) > 0 {
			found[i] = resp.Kvs[0]
		}
	}
	d.before, d.after, d.sign = found[0], found[1], '~'
	switch {
	case d.before == nil && d.after == nil:
		return d, errors.New("a key is there no more: ask again")
	case d.before == nil:
		d.sign = '+'
	case d.after == nil:
		d.sign = '-'
	}
	return d, nil
}

// diffPrinter prints differences.
type diffPrinter struct {
	w      io.Writer
	json   *json.Encoder
	asJSON bool
	values bool
	count  [256]int // by sign
}

// diffJSON is one line of limpet diff --output json.
type diffJSON struct {
	Change    string     `json:"change"` // added, removed or changed
	Key       *string    `json:"key,omitempty"`
	KeyBase64 []byte     `json:"key_base64,omitempty"`
	Before    *stateJSON `json:"before,omitempty"`
	After     *stateJSON `json:"after,omitempty"`
}

type stateJSON struct {
	Mod         int64   `json:"mod_revision"`
	Version     int64   `json:"version"`
	Lease       int64   `json:"lease,omitempty"`
	Size        int     `json:"size_bytes"`
	Value       *string `json:"value,omitempty"`
	ValueBase64 []byte  `json:"value_base64,omitempty"`
}

var changeNames = map[byte]string{'+': "added", '-': "removed", '~': "changed"}

func (p *diffPrinter) print(d difference) error {
	kv := d.after
	if kv == nil {
		kv = d.before
	}
	if p.asJSON {
		key := newJSONBytes(kv.Key)
		return p.json.Encode(diffJSON{changeNames[d.sign], key.Text, key.Base64, p.state(d.before), p.state(d.after)})
	}
	size := fmt.Sprintf("%d bytes", len(kv.Value))
	if d.sign == '~' {
		size = fmt.Sprintf("%d → %d bytes", len(d.before.Value), len(d.after.Value))
		if bytes.Equal(d.before.Value, d.after.Value) {
			size = fmt.Sprintf("%d bytes, the same value", len(kv.Value))
		}
	}
	_, err := fmt.Fprintf(p.w, "%c %s  %s\n", d.sign, oneLine(kv.Key), size)
	if err != nil || !p.values {
		return err
	}
	return p.lines(d)
}

func (p *diffPrinter) state(kv *mvccpb.KeyValue) *stateJSON {
	if kv == nil {
		return nil
	}
	s := &stateJSON{Mod: kv.ModRevision, Version: kv.Version, Lease: kv.Lease, Size: len(kv.Value)}
	if p.values {
		value := newJSONBytes(kv.Value)
		s.Value, s.ValueBase64 = value.Text, value.Base64
	}
	return s
}

// lines shows how values differ, if they are text.
func (p *diffPrinter) lines(d difference) error {
	before, isText := shown(d.before)
	after, isTextToo := shown(d.after)
	if !isText || !isTextToo {
		_, err := fmt.Fprintln(p.w, "    (not text)")
		return err
	}
	for _, l := range nearChanges(diffLines(before, after)) {
		text := fmt.Sprintf("    %c %s\n", l.sign, words(l.text))
		if l.sign == 0 {
			text = "      …\n"
		}
		if _, err := io.WriteString(p.w, text); err != nil {
			return err
		}
	}
	return nil
}

// shown is a value as text, JSON indented.
func shown(kv *mvccpb.KeyValue) (text string, ok bool) {
	if kv == nil {
		return "", true
	}
	if !isText(kv.Value) {
		return "", false
	}
	value := bytes.TrimSpace(kv.Value)
	if len(value) > 0 && (value[0] == '{' || value[0] == '[') {
		var b bytes.Buffer
		if json.Indent(&b, value, "", "  ") == nil {
			return b.String(), true
		}
	}
	return string(kv.Value), true
}
