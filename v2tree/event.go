package v2tree

import "strings"

// Node is a directory or a file. It never changes; the tree puts another in its
// place.
type Node struct {
	Dir      bool
	Value    string
	Created  uint64 // index
	Modified uint64 // index
	Expires  int64  // 0: never
}

// Event is one change of the tree. It never changes.
type Event struct {
	Action  string // etcd's name
	Key     string
	Node    *Node // as it is now; of one that is gone, only what it was and its indexes
	Prev    *Node // as it was; nil if there was none
	Time    int64 // from which times to live count
	Refresh bool  // no watcher hears of it
}

// Actions are etcd's names of events.
const (
	ActionSet      = "set"
	ActionCreate   = "create"
	ActionUpdate   = "update"
	ActionSwap     = "compareAndSwap"
	ActionDelete   = "delete"
	ActionDeleteIf = "compareAndDelete"
	ActionExpire   = "expire"
)

// Index is the tree's after the event.
func (e *Event) Index() uint64 { return e.Node.Modified }

// Creates reports whether there was nothing before (etcd IsCreated).
func (e *Event) Creates() bool {
	return e.Action == ActionCreate || e.Action == ActionSet && e.Prev == nil
}

// Removes reports whether there is nothing left.
func (e *Event) Removes() bool {
	return e.Action == ActionDelete || e.Action == ActionDeleteIf || e.Action == ActionExpire
}

// size is what the event takes in memory, about, in bytes.
func (e *Event) size() int {
	const overhead = 256
	n := overhead + len(e.Key) + len(e.Node.Value)
	if e.Prev != nil {
		n += len(e.Prev.Value)
	}
	return n
}

// Interest is what a watcher wants to hear of.
type Interest struct {
	Path      string
	Recursive bool // what is below Path, too
	// Live is the index at which the watcher began. Of older events it hears
	// even what is hidden, as in etcd, whose search of the history does not ask
	// for that (EventHistory.scan).
	Live uint64
}

// Wants reports whether the watcher hears of e: of what happens at its path,
// below it, or to a directory above that is removed with all it holds.
func (in Interest) Wants(e *Event) bool {
	switch {
	case e.Refresh:
		return false
	case e.Key == in.Path:
		return true
	case e.Removes() && e.Node.Dir && below(in.Path, e.Key):
		return true
	}
	return in.Recursive && below(e.Key, in.Path) && (e.Index() <= in.Live || !hidden(e.Key[len(in.Path):]))
}

// below reports whether p is in the directory dir, at any depth.
func below(p, dir string) bool {
	if dir == "/" {
		return p != "/"
	}
	return len(p) > len(dir) && p[len(dir)] == '/' && strings.HasPrefix(p, dir)
}

// hidden reports whether a name of the relative path begins with an underscore.
func hidden(rel string) bool { return strings.Contains("/"+rel, "/_") }
