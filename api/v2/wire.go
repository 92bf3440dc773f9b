package v2

import (
	"time"

	"limpet/v2tree"
)

// wireEvent and wireNode are etcd's JSON, its fields in their order.
type wireEvent struct {
	Action string    `json:"action"`
	Node   *wireNode `json:"node,omitempty"`
	Prev   *wireNode `json:"prevNode,omitempty"`
}

type wireNode struct {
	Key        string      `json:"key,omitempty"`
	Value      *string     `json:"value,omitempty"`
	Dir        bool        `json:"dir,omitempty"`
	Expiration *time.Time  `json:"expiration,omitempty"`
	TTL        int64       `json:"ttl,omitempty"`
	Nodes      []*wireNode `json:"nodes,omitempty"`
	Modified   uint64      `json:"modifiedIndex,omitempty"`
	Created    uint64      `json:"createdIndex,omitempty"`
}

// nodeOnWire is a node without what is in it; its time to live counts from at.
func nodeOnWire(key string, n *v2tree.Node, at int64) *wireNode {
	out := &wireNode{Key: key, Dir: n.Dir, Modified: n.Modified, Created: n.Created}
	if key == "/" {
		out.Key = ""
	}
	if !n.Dir {
		out.Value = &n.Value
	}
	if n.Expires != 0 {
		expires := time.Unix(0, n.Expires).UTC()
		out.Expiration, out.TTL = &expires, secondsLeft(expires.Sub(time.Unix(0, at)))
	}
	return out
}

// secondsLeft rounds up; what is over since less than a second is 0.
func secondsLeft(left time.Duration) int64 {
	n := int64(left / time.Second)
	if left%time.Second > 0 {
		n++
	}
	return n
}

// fill adds what is in a directory, with all that is below if it is recursive.
func (out *wireNode) fill(view *v2tree.View, dir string, recursive bool, at int64) {
	for key, n := range view.List(dir) {
		child := nodeOnWire(key, n, at)
		if recursive && n.Dir {
			child.fill(view, key, recursive, at)
		}
		out.Nodes = append(out.Nodes, child)
	}
}

func eventOnWire(e *v2tree.Event) *wireEvent {
	out := &wireEvent{Action: e.Action, Node: nodeOnWire(e.Key, e.Node, e.Time)}
	if e.Removes() {
		out.Node.Value = nil
	}
	if e.Prev != nil {
		out.Prev = nodeOnWire(e.Key, e.Prev, e.Time)
	}
	return out
}
