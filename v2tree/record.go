package v2tree

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"unicode/utf8"
)

// Kinds of records that keep the tree.
const (
	RecordNode  = "v2"      // by path
	RecordEvent = "v2event" // by index modulo maxEvents
	RecordIndex = "v2index" // one, without a name
)

type nodeRecord struct {
	Dir      bool   `json:"dir,omitempty"`
	Value    text   `json:"value,omitempty"`
	Created  uint64 `json:"created"`
	Modified uint64 `json:"modified"`
	Expires  int64  `json:"expires,omitempty"`
}

type eventRecord struct {
	Action  string      `json:"action"`
	Key     text        `json:"key"`
	Node    *nodeRecord `json:"node"`
	Prev    *nodeRecord `json:"prev,omitempty"`
	Time    int64       `json:"time"`
	Refresh bool        `json:"refresh,omitempty"`
}

type indexRecord struct {
	Start uint64 `json:"start"`
	Index uint64 `json:"index"`
}

// text is a string that JSON must not change: what is not UTF-8 is kept as a list
// of one, in base64.
type text string

// MarshalJSON implements json.Marshaler.
func (s text) MarshalJSON() ([]byte, error) {
	if utf8.ValidString(string(s)) {
		return json.Marshal(string(s))
	}
	return json.Marshal([][]byte{[]byte(s)})
}

// UnmarshalJSON implements json.Unmarshaler.
func (s *text) UnmarshalJSON(data []byte) error {
	if data[0] != '[' {
		return json.Unmarshal(data, (*string)(s))
	}
	var raw [][]byte
	if err := json.Unmarshal(data, &raw); err != nil || len(raw) != 1 {
		return cmp.Or(err, errors.New("a text that is no list of one"))
	}
	*s = text(raw[0])
	return nil
}

func encode(v any) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("v2tree: %T: %v", v, err)) // strings and numbers only
	}
	return data
}

func recordOf(n *Node) *nodeRecord {
	if n == nil {
		return nil
	}
	return &nodeRecord{n.Dir, text(n.Value), n.Created, n.Modified, n.Expires}
}

func (r *nodeRecord) node() *Node {
	if r == nil {
		return nil
	}
	return &Node{r.Dir, string(r.Value), r.Created, r.Modified, r.Expires}
}

func encodeNode(n *Node) []byte { return encode(recordOf(n)) }

func encodeEvent(e *Event) []byte {
	return encode(eventRecord{e.Action, text(e.Key), recordOf(e.Node), recordOf(e.Prev), e.Time, e.Refresh})
}

func slot(index uint64) string { return strconv.FormatUint(index%maxEvents, 10) }

// Load adds a record to a tree that nobody else has seen yet.
func (t *Tree) Load(kind, name string, data []byte) error {
	var err error
	switch kind {
	case RecordNode:
		err = t.loadNode(name, data)
	case RecordEvent:
		err = t.loadEvent(data)
	case RecordIndex:
		var r indexRecord
		err = json.Unmarshal(data, &r)
		t.now.start, t.now.index = r.Start, r.Index
	default:
		err = errors.New("unknown kind")
	}
	if err != nil {
		return fmt.Errorf("v2tree: %s record %q: %w", kind, name, err)
	}
	return nil
}

func (t *Tree) loadNode(name string, data []byte) error {
	var r nodeRecord
	if err := json.Unmarshal(data, &r); err != nil {
		return err
	}
	if len(name) < 2 || name[0] != '/' || path.Clean(name) != name {
		return errors.New("no path of a node")
	}
	n := r.node()
	t.now.nodes.Set(name, n)
	if n.Expires != 0 {
		t.due.Set(dueKey(n.Expires, name), struct{}{})
	}
	return nil
}

// loadEvent takes events in any order: that of the records is of their slots.
func (t *Tree) loadEvent(data []byte) error {
	var r eventRecord
	if err := json.Unmarshal(data, &r); err != nil {
		return err
	}
	if r.Node == nil {
		return errors.New("an event without a node")
	}
	e := &Event{Action: r.Action, Key: string(r.Key), Node: r.Node.node(), Prev: r.Prev.node(), Time: r.Time, Refresh: r.Refresh}
	i, _ := slices.BinarySearchFunc(t.now.events, e.Index(), func(e *Event, index uint64) int { return cmp.Compare(e.Index(), index) })
	t.now.events = slices.Insert(t.now.events, i, e)
	t.bytes += e.size()
	return nil
}
