package sqlstore

import (
	"cmp"
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
)

// TestScripts runs testdata/scripts/*.txt. Verbs:
//
//	open [tail=BYTES]           a new, empty store
//	apply [publish=no]          one command a line, ops apart by ';', then one Publish
//	    put KEY VALUE [lease=N] | del KEY | compact REV | record KIND NAME DATA | unrecord KIND NAME
//	publish                     what an apply publish=no left
//	get KEY [rev=N] [writer]    one key; writer: in the Writer's own view
//	meta KEY [rev=N]            the same without the value
//	range KEY END [rev=N] [limit=N] [keys-only] [count-only] [no-count]
//	history KEY END from=N to=N
//	previous KEY before=N
//	hash [rev=N]
//	flush | wait-compacted | reopen
//	crash                       what lies on disk becomes the store
//	rows | meta-table | records KIND | lease N | stats | tail
//
// END is a key, - for a single key, + for all from KEY on. ” is the empty
// value, VALUE*N repeats VALUE.
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata/scripts", func(t *testing.T, path string) {
		sc := &script{}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			sc.t, sc.d = t, d
			return sc.run()
		})
	})
}

type script struct {
	t *testing.T
	d *datadriven.TestData
	s *Store
}

func (sc *script) run() string {
	switch sc.d.Cmd {
	case "open":
		tail := int64(1 << 20)
		sc.d.MaybeScanArgs(sc.t, "tail", &tail)
		sc.s = newStore(sc.t, Config{TailBytes: tail})
		return sc.position()
	case "apply":
		return sc.apply()
	case "publish":
		return sc.publish()
	case "get", "meta":
		return sc.get()
	case "range":
		return sc.rangeKeys()
	case "history":
		return sc.history()
	case "previous":
		row, err := sc.s.Previous(sc.arg(0), sc.number("before", 0))
		return oneRow(row, err)
	case "hash":
		h, err := sc.s.HashKV(context.Background(), sc.number("rev", 0))
		if err != nil {
			return short(err)
		}
		return fmt.Sprintf("%d at rev %d, floor %d", h.Sum, h.Rev, h.Floor)
	case "flush":
		flush(sc.t, sc.s)
		return sc.position()
	case "wait-compacted":
		waitCompacted(sc.t, sc.s)
		return sc.position()
	case "reopen":
		if err := sc.s.Close(); err != nil {
			return err.Error()
		}
		sc.s = newStore(sc.t, sc.s.cfg)
		return sc.position()
	case "crash":
		return sc.crash()
	}
	return sc.inspect()
}

func (sc *script) inspect() string {
	var out strings.Builder
	switch sc.d.Cmd {
	case "rows":
		sc.query("SELECT id >> 22, id & 4194303, CAST(key AS TEXT), version, value IS NULL FROM revisions ORDER BY id", 5, func(row []driver.Value) {
			what := fmt.Sprintf("version %d", row[3])
			if row[4].(int64) == 1 {
				what = "deleted"
			}
			fmt.Fprintf(&out, "%d.%d %s %s\n", row[0], row[1], row[2], what)
		})
	case "meta-table":
		sc.query("SELECT name, value FROM meta ORDER BY name", 2, func(row []driver.Value) {
			fmt.Fprintf(&out, "%s %d\n", row[0], row[1])
		})
	case "records":
		err := sc.s.Records(sc.arg(0), func(name string, data []byte) error {
			fmt.Fprintf(&out, "%s %s\n", name, data)
			return nil
		})
		if err != nil {
			return short(err)
		}
	case "lease":
		n, _ := strconv.ParseInt(sc.arg(0), 10, 64)
		keys := sc.s.LeaseKeys(n)
		slices.Sort(keys)
		return strings.Join(keys, " ")
	case "stats":
		st := sc.s.Stats()
		return fmt.Sprintf("%d keys, %d bytes pending, %d rows written", st.Keys, st.Pending, st.Rows)
	case "tail":
		tl := &sc.s.tail
		if len(tl.commits) == 0 {
			return fmt.Sprintf("empty, flushed %d", tl.flushed)
		}
		return fmt.Sprintf("revs %d-%d, flushed %d", tl.commits[0].Rev, tl.commits[len(tl.commits)-1].Rev, tl.flushed)
	default:
		sc.d.Fatalf(sc.t, "no verb %q", sc.d.Cmd)
	}
	return out.String()
}

func (sc *script) arg(i int) string {
	sc.t.Helper()
	if i >= len(sc.d.CmdArgs) {
		sc.d.Fatalf(sc.t, "argument %d is missing", i+1)
	}
	return sc.d.CmdArgs[i].Key
}

func (sc *script) number(name string, def int64) int64 {
	sc.d.MaybeScanArgs(sc.t, name, &def)
	return def
}

func (sc *script) position() string {
	return fmt.Sprintf("rev %d, floor %d, applied %d, durable %d", sc.s.Rev(), sc.s.Floor(), sc.s.Applied(), sc.s.Durable())
}

func (sc *script) apply() string {
	w := sc.s.Writer()
	var out strings.Builder
	for i, line := range strings.Split(sc.d.Input, "\n") {
		w.Begin(int64(1000 * (i + 1)))
		for _, op := range strings.Split(line, ";") {
			if err := doOp(w, strings.Fields(op)); err != nil {
				fmt.Fprintf(&out, "%s: ", short(err))
			}
		}
		n := w.Changes()
		fmt.Fprintf(&out, "rev %d", w.End())
		if n > 1 {
			fmt.Fprintf(&out, ", %d changes", n)
		}
		out.WriteByte('\n')
	}
	var mode string
	if sc.d.MaybeScanArgs(sc.t, "publish", &mode); mode == "no" {
		return out.String()
	}
	sc.publish()
	return out.String()
}

func (sc *script) publish() string {
	commits := sc.s.Writer().Publish(sc.s.Applied() + 1)
	revs := make([]int64, len(commits))
	for i, c := range commits {
		revs[i] = c.Rev
	}
	return fmt.Sprintf("%v, %s", revs, sc.position())
}

func doOp(w *Writer, f []string) error {
	switch f[0] {
	case "put":
		var lease int64
		if len(f) > 3 {
			lease, _ = strconv.ParseInt(strings.TrimPrefix(f[3], "lease="), 10, 64)
		}
		w.Put(f[1], valueOf(f[2]), lease)
	case "del":
		w.Delete(f[1])
	case "compact":
		rev, _ := strconv.ParseInt(f[1], 10, 64)
		return w.Compact(rev)
	case "record":
		w.SetRecord(f[1], f[2], []byte(f[3]))
	case "unrecord":
		w.DeleteRecord(f[1], f[2])
	default:
		return fmt.Errorf("no op %q", f[0])
	}
	return nil
}

// valueOf reads a value: ” is empty, x*3 is xxx.
func valueOf(s string) []byte {
	if s == "''" {
		return nil
	}
	if v, n, ok := strings.Cut(s, "*"); ok {
		times, _ := strconv.Atoi(n)
		return []byte(strings.Repeat(v, times))
	}
	return []byte(s)
}

func (sc *script) view() (View, error) {
	if sc.d.HasArg("writer") {
		return sc.s.Writer().View(), nil
	}
	if sc.d.HasArg("rev") {
		return sc.s.At(sc.number("rev", 0))
	}
	return sc.s.View(), nil
}

func (sc *script) get() string {
	v, err := sc.view()
	if err != nil {
		return short(err)
	}
	if sc.d.Cmd == "meta" {
		return oneRow(v.Meta(sc.arg(0)))
	}
	return oneRow(v.Get(sc.arg(0)))
}

func (sc *script) span() Span {
	key, end := sc.arg(0), sc.arg(1)
	switch end {
	case "-":
		return Span{Key: key, Single: true}
	case "+":
		return Span{Key: key}
	}
	return Span{Key: key, End: end}
}

func (sc *script) rangeKeys() string {
	v, err := sc.view()
	if err != nil {
		return short(err)
	}
	span := sc.span()
	res, err := v.Range(span.Key, span.End, RangeOptions{
		Limit: int(sc.number("limit", 0)), KeysOnly: sc.d.HasArg("keys-only"),
		CountOnly: sc.d.HasArg("count-only"), NoCount: sc.d.HasArg("no-count"),
	})
	if err != nil {
		return short(err)
	}
	var out strings.Builder
	for _, r := range res.Rows {
		fmt.Fprintln(&out, rowText(r))
	}
	fmt.Fprintf(&out, "count %d", res.Count)
	return out.String()
}

func (sc *script) history() string {
	span := sc.span()
	from, to := sc.number("from", 0), min(sc.number("to", sc.s.Rev()), sc.s.Rev())
	var out strings.Builder
	for from <= to {
		commits, through, err := sc.s.History(span, from, to)
		if err != nil {
			return short(err)
		}
		for _, c := range commits {
			for i := range c.Rows {
				if span.Contains(c.Rows[i].Key) {
					fmt.Fprintln(&out, rowText(&c.Rows[i]))
				}
			}
		}
		from = through + 1
	}
	return out.String()
}

// crash copies the files between two steps of the keeper and opens the copy.
func (sc *script) crash() string {
	dir := sc.t.TempDir()
	path := ""
	onKeeper(sc.t, sc.s, func() { path = copyDatabase(sc.t, sc.s.cfg.Path, dir) })
	cfg := sc.s.cfg
	cfg.Path = path
	sc.s = newStore(sc.t, cfg)
	return sc.position()
}

func (sc *script) query(sql string, cols int, fn func(row []driver.Value)) {
	c, err := openConn(filepath.Clean(sc.s.cfg.Path), readerPragmas)
	if err != nil {
		sc.t.Fatal(err)
	}
	err = c.query(sql, cols, func(row []driver.Value) error { fn(row); return nil })
	if err = cmp.Or(err, c.close()); err != nil {
		sc.t.Fatalf("%s: %v", sql, err)
	}
}

func oneRow(r *Row, err error) string {
	switch {
	case err != nil:
		return short(err)
	case r == nil:
		return "absent"
	}
	return rowText(r)
}

func rowText(r *Row) string {
	if r == nil {
		return "nil"
	}
	if r.Tombstone() {
		return fmt.Sprintf("%d.%d %s deleted", r.ID.Rev(), r.ID.Sub(), r.Key)
	}
	value := string(r.Value)
	if len(value) > 20 {
		value = fmt.Sprintf("%s… (%d bytes)", value[:5], len(value))
	}
	if value == "" {
		value = "''"
	}
	out := fmt.Sprintf("%d.%d %s = %s, created %d, version %d", r.ID.Rev(), r.ID.Sub(), r.Key, value, r.Create, r.Version)
	if r.Lease != 0 {
		out += fmt.Sprintf(", lease %d", r.Lease)
	}
	return out
}

func short(err error) string {
	for name, e := range map[string]error{"compacted": ErrCompacted, "future": ErrFuture, "closed": ErrClosed} {
		if errors.Is(err, e) {
			return name
		}
	}
	return err.Error()
}
