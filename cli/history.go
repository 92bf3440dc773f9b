package cli

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"limpet/api/look"
	"limpet/kubeobject"
)

func historyCommand() *cli.Command {
	return looking(&cli.Command{
		Name:      "history",
		Usage:     "show what happened to a key, and when",
		ArgsUsage: "KEY",
		Description: "One line for each change, the newest last, as far back as the last compaction. Of\n" +
			"objects of Kubernetes it shows who wrote them, by the newest entry of managedFields\n" +
			"that the version before did not have: manager, operation, and the subresource, if it\n" +
			"is one.\n\n" +
			"    limpet history config/region\n" +
			"    limpet history config/ --prefix --since 2h\n" +
			"    limpet history /registry/deployments/default/web --limit 5 --output json\n\n" +
			"--since takes a revision, from which on changes are shown, or a TIME.\n\n" + whenHelp,
		Flags: lookFlags(
			&cli.BoolFlag{Name: "prefix", Usage: "of all keys that begin with KEY"},
			&cli.Int64Flag{Name: "limit", Usage: "how many changes, the last ones; 0: all", Value: 20},
			&cli.StringFlag{Name: "since", Usage: "only changes from this revision on, or after this TIME"},
			&cli.BoolFlag{Name: "values", Usage: "with values"},
			outputFlag()),
	}, 1, 1, history)
}

func history(c *cli.Context, l *looker, args []string) error {
	if o := c.String("output"); o != "text" && o != "json" {
		return badValue("output", o, "text or json")
	}
	limit, prefix := int(c.Int64("limit")), c.Bool("prefix")
	if limit < 0 || limit > look.MaxChanges {
		return badValue("limit", strconv.Itoa(limit), fmt.Sprintf("a number up to %d, or 0 for all", look.MaxChanges))
	}
	query := url.Values{"key": {args[0]}, "values": {"true"}} // who wrote an object stands in its value
	if prefix {
		key, end := prefixRange(args[0])
		query.Set("key", key)
		query.Set("range_end", end)
	} else if args[0] == "" {
		return errors.New("KEY is empty; name one, or all with --prefix")
	}
	if since := c.String("since"); since != "" {
		from, err := l.since(c, since)
		if err != nil {
			return err
		}
		query.Set("from", strconv.FormatInt(from, 10))
	}
	out := bufio.NewWriter(c.App.Writer)
	p := &changePrinter{w: out, json: json.NewEncoder(out), asJSON: c.String("output") == "json", values: c.Bool("values"), keys: prefix}
	head, more, err := l.changes(c, query, limit, p.print)
	if ferr := out.Flush(); err == nil {
		err = ferr
	}
	if err != nil {
		return err
	}
	return p.tellOfRest(c.App.ErrWriter, args[0], c.String("since"), head, more, limit)
}

// since is the revision from which on changes are after a point in history. What
// is older than history is all of it.
func (l *looker) since(c *cli.Context, text string) (int64, error) {
	w, err := parseWhen(text, time.Now())
	if err != nil {
		return 0, fmt.Errorf("--since: %w", err)
	}
	if w.rev > 0 {
		return w.rev, nil
	}
	f, err := l.find(c.Context, w)
	if err != nil || f.Found == nil {
		return 0, err
	}
	return f.Found.Revision + 1, nil
}

// changes calls fn for the last limit changes, or for all of them, which come in
// pages, the first ones first.
func (l *looker) changes(c *cli.Context, query url.Values, limit int, fn func(*look.Change) error) (head look.Head, more bool, err error) {
	if limit > 0 {
		query.Set("limit", strconv.Itoa(limit))
		return l.history(c.Context, query, fn)
	}
	query.Set("limit", strconv.Itoa(look.MaxChanges))
	query.Set("oldest", "true")
	for more = true; more; {
		var last int64
		head, more, err = l.history(c.Context, query, func(ch *look.Change) error { last = ch.ID; return fn(ch) })
		if err != nil {
			return head, more, err
		}
		query.Set("after", strconv.FormatInt(last, 10))
	}
	return head, false, nil
}

// changePrinter prints changes.
type changePrinter struct {
	w            io.Writer
	json         *json.Encoder
	asJSON       bool
	values, keys bool

	n       int
	cut     bool                          // the first change is not the creation of its key
	objects map[string]*kubeobject.Object // by key, the last version
}

// changeJSON is one line of limpet history --output json.
type changeJSON struct {
	Revision    int64      `json:"revision"`
	Time        string     `json:"time,omitempty"`
	TimeMs      int64      `json:"time_ms,omitempty"`
	Kind        string     `json:"kind"` // create, put or delete
	Key         *string    `json:"key,omitempty"`
	KeyBase64   []byte     `json:"key_base64,omitempty"`
	Create      int64      `json:"create_revision,omitempty"`
	Version     int64      `json:"version"`
	Lease       int64      `json:"lease,omitempty"`
	Size        int64      `json:"size_bytes"`
	SizeBefore  *int64     `json:"size_before_bytes,omitempty"`
	Kubernetes  *writeJSON `json:"kubernetes,omitempty"`
	Value       *string    `json:"value,omitempty"`
	ValueBase64 []byte     `json:"value_base64,omitempty"`
}

// writeJSON is who wrote an object of Kubernetes.
type writeJSON struct {
	APIVersion  string `json:"api_version,omitempty"`
	Kind        string `json:"kind,omitempty"`
	Manager     string `json:"manager,omitempty"`
	Operation   string `json:"operation,omitempty"`
	Subresource string `json:"subresource,omitempty"`
	Time        string `json:"time,omitempty"`
	Encrypted   string `json:"encrypted,omitempty"`
}

func kindOf(c *look.Change) string {
	switch c.Version {
	case 0:
		return "delete"
	case 1:
		return "create"
	}
	return "put"
}

func (p *changePrinter) print(c *look.Change) error {
	p.n++
	if p.n == 1 {
		p.cut = c.Version != 1
	}
	object, writer := p.object(c)
	if p.asJSON {
		return p.json.Encode(p.changeJSON(c, object, writer))
	}
	if p.n == 1 {
		if err := p.row("REVISION", "TIME", "KIND", "VERSION", "SIZE", "CHANGE", "LEASE", "WRITTEN BY", "KEY"); err != nil {
			return err
		}
	}
	version, lease := strconv.FormatInt(c.Version, 10), "-"
	if c.Version == 0 {
		version = "-"
	}
	if c.Lease != 0 {
		lease = fmt.Sprintf("%016x", c.Lease) // as etcdctl has it
	}
	err := p.row(strconv.FormatInt(c.Revision, 10), momentText(c.Time), kindOf(c), version, strconv.FormatInt(c.Size, 10), changeText(c), lease, writerText(object, writer), oneLine(c.Key))
	if err == nil && p.values && c.Version != 0 {
		err = p.value(c.Value)
	}
	return err
}

// object reads an object of Kubernetes, and who wrote it; nil if it is none.
func (p *changePrinter) object(c *look.Change) (*kubeobject.Object, kubeobject.Entry) {
	before, object := p.objects[string(c.Key)], kubeobject.Read(c.Value)
	if object == nil {
		delete(p.objects, string(c.Key))
		return nil, kubeobject.Entry{}
	}
	if p.objects == nil {
		p.objects = map[string]*kubeobject.Object{}
	}
	p.objects[string(c.Key)] = object
	writer, _ := object.Writer(before)
	return object, writer
}

// row is of fixed widths, so that it can be shown before the next one has come.
func (p *changePrinter) row(rev, at, kind, version, size, change, lease, by, key string) error {
	line := fmt.Sprintf("%-10s  %-23s  %-6s  %7s  %8s  %8s  %-16s  ", rev, at, kind, version, size, change, lease)
	if p.keys {
		line += fmt.Sprintf("%-34s  %s", by, key)
	} else {
		line += by
	}
	_, err := fmt.Fprintln(p.w, strings.TrimRight(line, " "))
	return err
}

// value is set off below its row.
func (p *changePrinter) value(value []byte) error {
	text := oneLine(value)
	if isText(value) {
		text = strings.ReplaceAll(strings.TrimRight(string(value), "\n"), "\n", "\n    ")
	}
	_, err := fmt.Fprintf(p.w, "    %s\n", strings.ReplaceAll(text, "\r", `\r`))
	return err
}

func changeText(c *look.Change) string {
	switch {
	case c.Before >= 0:
		return fmt.Sprintf("%+d", c.Size-c.Before)
	case c.Version == 1:
		return fmt.Sprintf("%+d", c.Size)
	}
	return "?" // what it was before is compacted
}

func writerText(o *kubeobject.Object, w kubeobject.Entry) string {
	switch {
	case o == nil:
		return "-"
	case o.Encrypted != "":
		return "encrypted by " + words(o.Encrypted)
	case w.Manager == "":
		return "-"
	}
	text := words(w.Manager) + " " + words(w.Operation)
	if w.Subresource != "" {
		text += " " + words(w.Subresource)
	}
	return text
}

func (p *changePrinter) changeJSON(c *look.Change, o *kubeobject.Object, w kubeobject.Entry) changeJSON {
	key := newJSONBytes(c.Key)
	out := changeJSON{
		Revision: c.Revision, Time: momentJSON(c.Time), TimeMs: c.Time, Kind: kindOf(c), Key: key.Text, KeyBase64: key.Base64,
		Create: c.Create, Version: c.Version, Lease: c.Lease, Size: c.Size,
	}
	if c.Before >= 0 {
		out.SizeBefore = &c.Before
	}
	if o != nil {
		out.Kubernetes = &writeJSON{o.APIVersion, o.Kind, w.Manager, w.Operation, w.Subresource, "", o.Encrypted}
		if !w.Time.IsZero() {
			out.Kubernetes.Time = w.Time.Format(time.RFC3339)
		}
	}
	if p.values && c.Version != 0 {
		value := newJSONBytes(c.Value)
		out.Value, out.ValueBase64 = value.Text, value.Base64
	}
	return out
}

// tellOfRest says what is not shown, and why.
func (p *changePrinter) tellOfRest(w io.Writer, key, since string, head look.Head, more bool, limit int) error {
	switch {
	case p.n == 0 && since != "":
		return fmt.Errorf("nothing has happened to %s since %s", words(key), since)
	case p.n == 0 && head.Floor > 0:
		return fmt.Errorf("nothing has happened to %s since revision %d, and what was before is compacted", words(key), head.Floor)
	case p.n == 0:
		return fmt.Errorf("nothing has ever happened to %s", words(key))
	case more:
		_, _ = fmt.Fprintf(w, "limpet: only the last %d changes; --limit 0 shows all\n", limit)
	case p.cut && !p.keys && since == "":
		_, _ = fmt.Fprintf(w, "limpet: what was before is compacted, at revision %d\n", head.Floor)
	}
	return nil
}
