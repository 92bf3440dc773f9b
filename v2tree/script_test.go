package v2tree

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
)

// TestScripts runs testdata/*.txt. Verbs:
//
//	open                     an empty tree
//	apply                    one request a line, see request
//	fill PATH n=N            so many times set
//	expire NOW               what is due
//	get                      one path a line
//	list PATH                what is in it
//	next PATH from=N [live=N] [recursive]   the events that a watcher hears
//	tree                     all nodes, index and what is due
//	counts
//	reopen                   the tree from its records
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata/scripts", func(t *testing.T, path string) {
		sc := &script{}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			sc.t, sc.d = t, d
			return sc.run()
		})
	})
}

// records keeps what a tree remembers.
type records map[[2]string]string

func (r records) SetRecord(kind, name string, data []byte) { r[[2]string{kind, name}] = string(data) }
func (r records) DeleteRecord(kind, name string)           { delete(r, [2]string{kind, name}) }

// load reads a tree, in an order that says nothing.
func (r records) load(t testing.TB) *Tree {
	t.Helper()
	tree := New(r)
	for key, data := range r {
		if err := tree.Load(key[0], key[1], []byte(data)); err != nil {
			t.Fatal(err)
		}
	}
	return tree
}

type script struct {
	t    *testing.T
	d    *datadriven.TestData
	kept records
	tree *Tree
}

func (sc *script) run() string {
	var out strings.Builder
	switch sc.d.Cmd {
	case "open":
		sc.kept = records{}
		sc.tree = New(sc.kept)
	case "reopen":
		sc.tree = sc.kept.load(sc.t)
	case "apply":
		for line := range strings.SplitSeq(sc.d.Input, "\n") {
			fmt.Fprintln(&out, outcome(sc.tree.Apply(sc.request(line))))
		}
	case "fill":
		n := 0
		sc.d.ScanArgs(sc.t, "n", &n)
		for range n {
			_, _ = sc.tree.Apply(&Request{Op: Set, Path: sc.d.CmdArgs[0].Key})
		}
	case "expire":
		now, err := strconv.ParseInt(sc.d.CmdArgs[0].Key, 10, 64)
		if err != nil {
			sc.t.Fatal(err)
		}
		for _, e := range sc.tree.Expire(now) {
			fmt.Fprintln(&out, outcome(e, nil))
		}
	case "next":
		return sc.next()
	default:
		return sc.inspect()
	}
	return out.String()
}

func (sc *script) inspect() string {
	var out strings.Builder
	v := sc.tree.View()
	switch sc.d.Cmd {
	case "get":
		for path := range strings.SplitSeq(sc.d.Input, "\n") {
			n, err := v.Get(path)
			if err != nil {
				fmt.Fprintln(&out, outcome(nil, err))
				continue
			}
			fmt.Fprintln(&out, show(n))
		}
	case "list":
		for path, n := range v.List(sc.d.CmdArgs[0].Key) {
			fmt.Fprintln(&out, path, show(n))
		}
	case "tree":
		v.nodes.Scan(func(path string, n *Node) bool {
			fmt.Fprintf(&out, "%s %s\n", path, show(n))
			return true
		})
		fmt.Fprintf(&out, "index %d, events %d from %d, due %d\n", v.Index(), len(v.events), v.start, v.Due())
	case "counts":
		return fmt.Sprintf("%+v", v.Counts())
	default:
		sc.d.Fatalf(sc.t, "no verb %q", sc.d.Cmd)
	}
	return out.String()
}

func (sc *script) next() string {
	in := Interest{Path: sc.d.CmdArgs[0].Key, Recursive: sc.d.HasArg("recursive")}
	from := uint64(0)
	sc.d.ScanArgs(sc.t, "from", &from)
	if sc.d.HasArg("live") {
		sc.d.ScanArgs(sc.t, "live", &in.Live)
	}
	var out strings.Builder
	for v := sc.tree.View(); ; {
		e, next, err := v.Next(in, from)
		if err != nil {
			return outcome(nil, err)
		}
		from = next
		if e == nil {
			fmt.Fprintln(&out, "then from", from)
			return out.String()
		}
		fmt.Fprintln(&out, outcome(e, nil))
	}
}

var ops = map[string]Op{"set": Set, "create": Create, "post": CreateInOrder, "update": Update, "swap": Swap, "delete": Delete, "deleteif": DeleteIf}

// request reads OP PATH [VALUE] [dir] [recursive] [refresh] [below] [was=VALUE] [at=INDEX]
// [expires=TIME] [time=TIME].
func (sc *script) request(line string) *Request {
	words := strings.Fields(line)
	r := &Request{Op: ops[words[0]], Path: words[1], Time: 1}
	if r.Op == 0 {
		sc.d.Fatalf(sc.t, "no operation %q", words[0])
	}
	for _, w := range words[2:] {
		name, arg, _ := strings.Cut(w, "=")
		n, _ := strconv.ParseInt(arg, 10, 64)
		switch name {
		case "dir":
			r.Dir = true
		case "recursive":
			r.Recursive = true
		case "refresh":
			r.Refresh = true
		case "below":
			r.Below = true
		case "was":
			r.PrevValue = arg
		case "at":
			r.PrevIndex = uint64(n)
		case "expires":
			r.Expires = n
		case "time":
			r.Time = n
		default:
			r.Value = w
		}
	}
	return r
}

func outcome(e *Event, err error) string {
	var refused *Error
	if errors.As(err, &refused) {
		return fmt.Sprintf("error %d %s: %s [%d]", refused.Code, refused.Message, refused.Cause, refused.Index)
	}
	out := fmt.Sprintf("%s %s %s", e.Action, e.Key, show(e.Node))
	if e.Prev != nil {
		out += ", was " + show(e.Prev)
	}
	if e.Creates() {
		out += ", new"
	}
	return out
}

func show(n *Node) string {
	out := fmt.Sprintf("%q", n.Value)
	if n.Dir {
		out = "dir"
	}
	out += fmt.Sprintf(" %d/%d", n.Created, n.Modified)
	if n.Expires != 0 {
		out += fmt.Sprintf(" expires %d", n.Expires)
	}
	return out
}

// everything is all that members must agree on.
func everything(t *Tree) string {
	var out strings.Builder
	v := t.View()
	v.nodes.Scan(func(path string, n *Node) bool {
		fmt.Fprintf(&out, "%q %+v\n", path, *n)
		return true
	})
	for _, e := range v.events {
		fmt.Fprintf(&out, "%+v %s %+v %+v\n", eventRecord{Action: e.Action, Time: e.Time, Refresh: e.Refresh}, e.Key, recordOf(e.Node), recordOf(e.Prev))
	}
	fmt.Fprint(&out, v.start, v.index, v.due, t.bytes)
	return out.String()
}

// sorted lists records for comparison.
func (r records) sorted() []string {
	var out []string
	for key, data := range r {
		out = append(out, fmt.Sprintf("%q %s", key, data))
	}
	slices.Sort(out)
	return out
}
