package v2tree

import (
	"cmp"
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/tidwall/btree"
)

// View is the tree at one moment. It never changes; all methods may be called
// concurrently.
type View struct {
	// nodes has all but the root, by path. What is in directory /d is what lies
	// from "/d/" up to "/d0", the character after the slash.
	nodes *btree.Map[string, *Node]
	// Invariant: events are those of the indexes start to index, in their order
	// and without a gap; but of the first three, for which see firstIndex.
	events []*Event
	start  uint64 // index of the oldest event that is still known
	index  uint64
	due    int64
	counts Counts
}

// Index counts the changes.
func (v *View) Index() uint64 { return v.index }

// Due is when the next node expires; 0: none does.
func (v *View) Due() int64 { return v.due }

// Counts are what requests came to on this member.
func (v *View) Counts() Counts { return v.counts }

var root = &Node{Dir: true}

// Get returns the node at path, which CheckPath accepts.
func (v *View) Get(path string) (*Node, *Error) {
	if path == "/" {
		return root, nil
	}
	if n, ok := v.nodes.Get(path); ok {
		return n, nil
	}
	missing, err := v.walk(path)
	if err == nil {
		err = NewError(KeyNotFound, missing, v.index)
	}
	return nil, err
}

// walk returns the first path on the way to path at which there is nothing, path
// itself if all directories are there; an error if one of them is a file.
func (v *View) walk(path string) (missing string, err *Error) {
	for i := 1; i < len(path); i++ {
		if path[i] != '/' {
			continue
		}
		switch n, ok := v.nodes.Get(path[:i]); {
		case !ok:
			return path[:i], nil
		case !n.Dir:
			return "", NewError(NotDir, path[:i], v.index)
		}
	}
	return path, nil
}

// List yields what is in a directory, and is not hidden, by path.
func (v *View) List(dir string) iter.Seq2[string, *Node] {
	return func(yield func(string, *Node) bool) {
		first, end := span(dir)
		nodes := v.nodes.Iter()
		for ok := nodes.Seek(first); ok && nodes.Key() < end; {
			key := nodes.Key()
			name := key[len(first):]
			if slash := strings.IndexByte(name, '/'); slash >= 0 {
				// In a directory that was yielded already.
				_, after := span(key[:len(first)+slash])
				ok = nodes.Seek(after)
				continue
			}
			if !hidden(name) && !yield(key, nodes.Value()) {
				return
			}
			ok = nodes.Next()
		}
	}
}

// span is the range of paths below a directory.
func span(dir string) (first, end string) {
	dir = strings.TrimSuffix(dir, "/")
	return dir + "/", dir + "0"
}

// empty reports whether there is nothing in a directory, hidden or not.
func (v *View) empty(dir string) bool {
	first, end := span(dir)
	nodes := v.nodes.Iter()
	return !nodes.Seek(first) || nodes.Key() >= end
}

// Next returns the first event from index on that in wants, nil if there is none
// yet, and the index to go on from. It is an error if events from there on are
// not known any more.
func (v *View) Next(in Interest, from uint64) (*Event, uint64, *Error) {
	if from < v.start {
		return nil, from, NewError(EventIndexCleared, fmt.Sprintf("the requested history has been cleared [%d/%d]", v.start, from), v.index)
	}
	i, _ := slices.BinarySearchFunc(v.events, from, func(e *Event, index uint64) int { return cmp.Compare(e.Index(), index) })
	for _, e := range v.events[i:] {
		if in.Wants(e) {
			return e, e.Index() + 1, nil
		}
	}
	return nil, max(from, v.index+1), nil
}
