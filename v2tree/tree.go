package v2tree

import (
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/tidwall/btree"
)

const (
	// firstIndex is the index of an empty tree: on a new cluster etcd has
	// counted three events of its own, in a part of the tree that no client sees.
	firstIndex = 3
	// maxEvents and maxEventBytes bound the history. etcd has the first bound
	// only; values of a megabyte would take two gigabytes with it. Views may hold
	// as many bytes again for a while.
	maxEvents     = 1000
	maxEventBytes = 16 << 20
	// longAgo is 2000-01-01. What expires before is taken for never, as in etcd,
	// which saw such times from clients that had counted wrong (minExpireTime).
	longAgo = 946_684_800_000_000_000
)

// Records keeps what the tree has to remember, in its order.
type Records interface {
	SetRecord(kind, name string, data []byte)
	DeleteRecord(kind, name string)
}

// Tree is the v2 keyspace. It belongs to one goroutine; View is for the others.
type Tree struct {
	now     View                        // as of now; its nodes are copied for others
	due     btree.Map[string, struct{}] // dueKey of all that expire
	bytes   int                         // of now.events
	records Records
}

// New returns the tree of a new cluster.
func New(records Records) *Tree {
	return &Tree{now: View{nodes: new(btree.Map[string, *Node]), start: 1, index: firstIndex}, records: records}
}

// View is the tree as it is now.
func (t *Tree) View() *View {
	v := t.now
	v.nodes = t.now.nodes.Copy() // they are shared, and copied when changed
	v.due = t.nextDue()
	return &v
}

func (t *Tree) nextDue() int64 {
	key, _, ok := t.due.Min()
	if !ok {
		return 0
	}
	return dueTime(key)
}

// Apply makes one change. On error nothing has changed, and the error is an
// *Error.
func (t *Tree) Apply(r *Request) (*Event, error) {
	e, err := t.apply(r)
	t.now.counts.count(r.Op, err == nil)
	if err != nil {
		return nil, err
	}
	e.Time = r.Time
	e.Refresh = r.Refresh && (r.Op == Set || r.Op == Update || r.Op == Swap)
	t.remember(e)
	return e, nil
}

func (t *Tree) apply(r *Request) (*Event, *Error) {
	switch r.Op {
	case Set:
		return t.set(r)
	case Create:
		return t.put(ActionCreate, r.Path, r)
	case CreateInOrder:
		return t.put(ActionCreate, fmt.Sprintf("%s/%020d", strings.TrimSuffix(r.Path, "/"), t.now.index+1), r)
	case Update:
		return t.update(r)
	case Swap:
		return t.swap(r)
	case Delete:
		return t.remove(r)
	case DeleteIf:
		return t.removeIf(r)
	}
	panic(fmt.Sprintf("v2tree: operation %d has an encoding but no meaning", r.Op))
}

func (t *Tree) fail(code Code, cause string) (*Event, *Error) {
	return nil, NewError(code, cause, t.now.index)
}

func (t *Tree) set(r *Request) (*Event, *Error) {
	if r.Refresh {
		n, err := t.now.Get(r.Path)
		if err != nil {
			return nil, err
		}
		kept := *r
		kept.Value = n.Value
		r = &kept
	}
	return t.put(ActionSet, r.Path, r)
}

// put makes a new node, in place of a file if the action is to set (etcd
// internalCreate). Directories on the way are made.
func (t *Tree) put(action, path string, r *Request) (*Event, *Error) {
	if path == "/" {
		return t.fail(RootReadOnly, "/")
	}
	missing, err := t.now.walk(path)
	if err != nil {
		return nil, err
	}
	prev, exists := t.now.nodes.Get(path)
	switch {
	case exists && action == ActionCreate:
		return t.fail(NodeExists, path)
	case exists && prev.Dir:
		return t.fail(NotFile, path)
	}
	index := t.now.index + 1
	for i := len(missing); i < len(path); i++ {
		if path[i] == '/' {
			t.place(path[:i], &Node{Dir: true, Created: index, Modified: index})
		}
	}
	n := &Node{Dir: r.Dir, Created: index, Modified: index, Expires: r.Expires}
	if n.Expires < longAgo {
		n.Expires = 0
	}
	if !n.Dir {
		n.Value = r.Value
	}
	t.place(path, n)
	return &Event{Action: action, Key: path, Node: n, Prev: prev}, nil
}

// update changes value and expiration. Of a directory the index stays, although
// the event tells another.
func (t *Tree) update(r *Request) (*Event, *Error) {
	if r.Path == "/" {
		return t.fail(RootReadOnly, "/")
	}
	prev, err := t.now.Get(r.Path)
	if err != nil {
		return nil, err
	}
	if prev.Dir && r.Value != "" {
		return t.fail(NotFile, r.Path)
	}
	n := t.rewritten(prev, r)
	if prev.Dir {
		stored := *n
		stored.Modified = prev.Modified
		t.place(r.Path, &stored)
	} else {
		t.place(r.Path, n)
	}
	return &Event{Action: ActionUpdate, Key: r.Path, Node: n, Prev: prev}, nil
}

// rewritten is a node with the request's value and expiration.
func (t *Tree) rewritten(prev *Node, r *Request) *Node {
	n := &Node{Dir: prev.Dir, Value: r.Value, Created: prev.Created, Modified: t.now.index + 1, Expires: r.Expires}
	if r.Refresh {
		n.Value = prev.Value
	}
	return n
}

func (t *Tree) swap(r *Request) (*Event, *Error) {
	if r.Path == "/" {
		return t.fail(RootReadOnly, "/")
	}
	prev, err := t.compare(r)
	if err != nil {
		return nil, err
	}
	n := t.rewritten(prev, r)
	t.place(r.Path, n)
	return &Event{Action: ActionSwap, Key: r.Path, Node: n, Prev: prev}, nil
}

// compare returns the file at the request's path if it is as the request says.
func (t *Tree) compare(r *Request) (*Node, *Error) {
	n, err := t.now.Get(r.Path)
	if err != nil {
		return nil, err
	}
	if n.Dir {
		// The root's own path is no cause to tell.
		return nil, NewError(NotFile, strings.TrimSuffix(r.Path, "/"), t.now.index)
	}
	var differ []string
	if r.PrevValue != "" && r.PrevValue != n.Value {
		differ = append(differ, fmt.Sprintf("[%s != %s]", r.PrevValue, n.Value))
	}
	if r.PrevIndex != 0 && r.PrevIndex != n.Modified {
		differ = append(differ, fmt.Sprintf("[%d != %d]", r.PrevIndex, n.Modified))
	}
	if differ != nil {
		return nil, NewError(CompareFailed, strings.Join(differ, " "), t.now.index)
	}
	return n, nil
}

func (t *Tree) remove(r *Request) (*Event, *Error) {
	if r.Path == "/" {
		return t.fail(RootReadOnly, "/")
	}
	n, err := t.now.Get(r.Path)
	switch {
	case err != nil:
		return nil, err
	case !n.Dir && r.Below:
		return nil, NewError(Unauthorized, "Insufficient credentials", 0) // it is no directory, so not the caller's
	case n.Dir && !r.Dir && !r.Recursive:
		return t.fail(NotFile, r.Path)
	case n.Dir && !r.Recursive && !t.now.empty(r.Path):
		return t.fail(DirNotEmpty, r.Path)
	}
	return t.take(ActionDelete, r.Path, n), nil
}

func (t *Tree) removeIf(r *Request) (*Event, *Error) {
	n, err := t.compare(r)
	if err != nil {
		return nil, err
	}
	return t.take(ActionDeleteIf, r.Path, n), nil
}

// Expire removes what expires up to now: what expires first, first.
func (t *Tree) Expire(now int64) (events []*Event) {
	for {
		key, _, ok := t.due.Min()
		if !ok || dueTime(key) > now {
			return events
		}
		path := key[8:]
		n, _ := t.now.nodes.Get(path)
		e := t.take(ActionExpire, path, n)
		e.Time = now
		t.now.counts.Expired++
		t.remember(e)
		events = append(events, e)
	}
}

// take removes a node, and all below it.
func (t *Tree) take(action, path string, n *Node) *Event {
	if n.Dir {
		first, end := span(path)
		var gone []string
		t.now.nodes.Ascend(first, func(key string, _ *Node) bool {
			if key < end {
				gone = append(gone, key)
			}
			return key < end
		})
		for _, key := range gone {
			t.drop(key)
		}
	}
	t.drop(path)
	return &Event{Action: action, Key: path, Node: &Node{Dir: n.Dir, Created: n.Created, Modified: t.now.index + 1}, Prev: n}
}

// place puts a node into the tree and its records.
func (t *Tree) place(path string, n *Node) {
	old, existed := t.now.nodes.Set(path, n)
	if existed && old.Expires != 0 {
		t.due.Delete(dueKey(old.Expires, path))
	}
	if n.Expires != 0 {
		t.due.Set(dueKey(n.Expires, path), struct{}{})
	}
	t.records.SetRecord(RecordNode, path, encodeNode(n))
}

func (t *Tree) drop(path string) {
	if old, _ := t.now.nodes.Delete(path); old.Expires != 0 {
		t.due.Delete(dueKey(old.Expires, path))
	}
	t.records.DeleteRecord(RecordNode, path)
}

// dueKey orders by time, then by path: the sign bit is turned, so that times
// before 1970 come first.
func dueKey(expires int64, path string) string {
	return string(binary.BigEndian.AppendUint64(nil, uint64(expires)^1<<63)) + path
}

func dueTime(key string) int64 { return int64(binary.BigEndian.Uint64([]byte(key)) ^ 1<<63) }

// remember makes e the newest event.
func (t *Tree) remember(e *Event) {
	t.now.index = e.Index()
	t.now.events = append(t.now.events, e) // views see no more of the array than they had
	t.bytes += e.size()
	t.records.SetRecord(RecordEvent, slot(e.Index()), encodeEvent(e))
	for t.now.index-t.now.start >= maxEvents || t.bytes > maxEventBytes && len(t.now.events) > 1 {
		t.forget()
	}
	t.records.SetRecord(RecordIndex, "", encode(indexRecord{t.now.start, t.now.index}))
}

// forget drops the oldest event, if it is not one of etcd's own.
func (t *Tree) forget() {
	if oldest := t.now.events[0]; oldest.Index() == t.now.start {
		t.bytes -= oldest.size()
		t.now.events = t.now.events[1:]
		if slot(oldest.Index()) != slot(t.now.index) { // else the newest one took its place
			t.records.DeleteRecord(RecordEvent, slot(oldest.Index()))
		}
	}
	t.now.start++
}
