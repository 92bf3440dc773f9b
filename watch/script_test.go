package watch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"limpet/sqlstore"
)

// TestScripts runs testdata/*.txt. Verbs:
//
//	open [store] [tail=BYTES] [stretch=N]   a hub over a source held still, or over a real store
//	commit [notify=no]                      one revision a line: put KEY VALUE or del KEY, apart by ';'
//	commits N KEY                           N revisions of one put each
//	notify                                  what a commit notify=no left
//	jump                                    the hub hears of a jump instead of what a commit notify=no left
//	watch STREAM KEY END [id=N] [start=N] [prev] [no-put] [no-delete] [progress] [fragment]
//	cancel STREAM ID | reject STREAM | ask STREAM (progress) | tick STREAM | close STREAM
//	next STREAM                             all that can be sent now
//	one STREAM                              the next response only
//	forget REV                              memory holds revisions from REV on
//	compact REV | flush | fail | stats
//
// END is a key, - for a single key, + for all from KEY on. Streams come to be
// when they are first named.
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		sc := &script{}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			sc.t, sc.d = t, d
			return sc.run()
		})
		for _, s := range sc.streams {
			s.Close()
		}
	})
}

type script struct {
	t       *testing.T
	d       *datadriven.TestData
	still   *still
	store   *sqlstore.Store
	hub     *Hub
	streams map[string]*Stream
	held    []*sqlstore.Commit // committed and not notified
}

func (sc *script) run() string {
	switch sc.d.Cmd {
	case "open":
		sc.open()
	case "commit":
		return sc.commit(strings.Split(sc.d.Input, "\n"))
	case "commits":
		var lines []string
		n := 0
		_, _ = fmt.Sscan(sc.arg(0), &n)
		for i := range n {
			lines = append(lines, fmt.Sprintf("put %s %d", sc.arg(1), i))
		}
		return sc.commit(lines)
	case "notify":
		sc.hub.Notify(sc.held)
		sc.held = nil
	case "jump":
		sc.hub.Jumped()
		sc.held = nil
	case "watch":
		return sc.watch()
	case "cancel":
		return errText(sc.stream().Cancel(context.Background(), sc.number(1)))
	case "reject":
		return errText(sc.stream().Reject(context.Background(), errors.New("not allowed")))
	case "ask":
		sc.stream().RequestProgress()
	case "tick":
		sc.stream().periodicProgress()
	case "close":
		sc.stream().Close()
		_, err := sc.stream().Next(context.Background(), nil)
		return errText(err)
	case "next":
		var out []string
		for _, r := range inOrder(drain(sc.t, sc.stream())) {
			out = append(out, text(r))
		}
		return strings.Join(out, "\n")
	case "one":
		r, err := sc.stream().Next(done(), nil)
		if err != nil {
			return errText(err)
		}
		return text(r)
	default:
		return sc.history()
	}
	return ""
}

func (sc *script) history() string {
	switch sc.d.Cmd {
	case "forget":
		sc.still.memory = sc.number(0)
	case "fail":
		sc.still.fail = errors.New("disk on fire")
	case "compact":
		if sc.store != nil {
			compactStore(sc.t, sc.store, sc.number(0))
		} else {
			sc.still.floor = sc.number(0)
		}
	case "flush":
		if err := sc.store.WaitDurable(context.Background(), sc.store.Applied()); err != nil {
			return err.Error()
		}
	case "stats":
		return fmt.Sprintf("%+v", sc.hub.Stats())
	default:
		sc.d.Fatalf(sc.t, "no verb %q", sc.d.Cmd)
	}
	return ""
}

func (sc *script) open() {
	for _, s := range sc.streams {
		s.Close()
	}
	sc.streams, sc.still, sc.store, sc.held = make(map[string]*Stream), nil, nil, nil
	if sc.d.HasArg("store") {
		tail := int64(-1)
		sc.d.MaybeScanArgs(sc.t, "tail", &tail)
		sc.store = openStore(sc.t, tail)
		sc.hub = NewHub(sc.store)
		return
	}
	sc.still = newStill()
	sc.d.MaybeScanArgs(sc.t, "stretch", &sc.still.stretch)
	sc.hub = NewHub(sc.still)
}

func (sc *script) commit(lines []string) string {
	for _, line := range lines {
		var kvs []string
		for op := range strings.SplitSeq(line, ";") {
			switch f := strings.Fields(op); f[0] {
			case "put":
				kvs = append(kvs, f[1], f[2])
			case "del":
				kvs = append(kvs, "-"+f[1], "")
			}
		}
		if sc.store != nil {
			sc.held = append(sc.held, publish(sc.store, kvs...)...)
		} else {
			sc.held = append(sc.held, sc.still.commit(kvs...))
		}
	}
	var mode string
	if sc.d.MaybeScanArgs(sc.t, "notify", &mode); mode != "no" {
		sc.hub.Notify(sc.held)
		sc.held = nil
	}
	return fmt.Sprintf("rev %d, notified %d", sc.hub.source.Rev(), sc.hub.notified.Load())
}

func (sc *script) watch() string {
	req := Request{
		Span:   sqlstore.Span{Key: sc.arg(1)},
		PrevKV: sc.d.HasArg("prev"), NoPut: sc.d.HasArg("no-put"), NoDelete: sc.d.HasArg("no-delete"),
		Progress: sc.d.HasArg("progress"), Fragment: sc.d.HasArg("fragment"),
	}
	switch end := sc.arg(2); end {
	case "-":
		req.Span.Single = true
	case "+":
	default:
		req.Span.End = end
	}
	sc.d.MaybeScanArgs(sc.t, "id", &req.ID)
	sc.d.MaybeScanArgs(sc.t, "start", &req.Start)
	return errText(sc.stream().Watch(context.Background(), req))
}

func (sc *script) stream() *Stream {
	name := sc.arg(0)
	if sc.streams[name] == nil {
		sc.streams[name] = sc.hub.NewStream()
	}
	return sc.streams[name]
}

func (sc *script) arg(i int) string {
	sc.t.Helper()
	if i >= len(sc.d.CmdArgs) {
		sc.d.Fatalf(sc.t, "argument %d is missing", i+1)
	}
	return sc.d.CmdArgs[i].Key
}

func (sc *script) number(i int) (n int64) {
	_, _ = fmt.Sscan(sc.arg(i), &n)
	return n
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// inOrder sorts neighbouring events of different watchers by watcher: whose turn
// comes first is nobody's business, what comes between is.
func inOrder(rs []Response) []Response {
	for i := 0; i < len(rs); {
		n := i
		for n < len(rs) && len(rs[n].Events) > 0 {
			n++
		}
		slices.SortStableFunc(rs[i:n], func(a, b Response) int { return cmp.Compare(a.ID, b.ID) })
		i = n + 1
	}
	return rs
}

// text prints a response on one line.
func text(r Response) string {
	var b strings.Builder
	fmt.Fprintf(&b, "watcher %d at %d:", r.ID, r.Rev)
	if r.Created {
		b.WriteString(" created")
	}
	if r.Canceled {
		b.WriteString(" canceled")
	}
	if r.Floor != 0 {
		fmt.Fprintf(&b, " compacted to %d", r.Floor)
	}
	if r.Err != nil {
		fmt.Fprintf(&b, " (%v)", r.Err)
	}
	if r.Fragment {
		b.WriteString(" fragment")
	}
	if !r.Created && !r.Canceled && len(r.Events) == 0 {
		b.WriteString(" progress")
	}
	if n := len(r.Events); n > 20 {
		fmt.Fprintf(&b, " %d events of %d to %d", n, r.Events[0].Row.ID.Rev(), r.Events[n-1].Row.ID.Rev())
		return b.String()
	}
	for _, e := range r.Events {
		if e.Row.Tombstone() {
			fmt.Fprintf(&b, " %d del %s", e.Row.ID.Rev(), e.Row.Key)
		} else {
			fmt.Fprintf(&b, " %d put %s=%s", e.Row.ID.Rev(), e.Row.Key, e.Row.Value)
		}
		if e.Prev != nil {
			fmt.Fprintf(&b, " (was %s)", e.Prev.Value)
		}
	}
	return b.String()
}
