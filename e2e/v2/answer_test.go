package v2

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"limpet/e2e/side"
)

// event is the body of an answer about keys, with its fields in etcd's order.
type event struct {
	Action string `json:"action"`
	Node   *node  `json:"node,omitempty"`
	Prev   *node  `json:"prevNode,omitempty"`
}

type node struct {
	Key           string     `json:"key,omitempty"`
	Value         *string    `json:"value,omitempty"`
	Dir           bool       `json:"dir,omitempty"`
	Expiration    *time.Time `json:"expiration,omitempty"`
	TTL           int64      `json:"ttl,omitempty"`
	Nodes         []*node    `json:"nodes,omitempty"`
	ModifiedIndex uint64     `json:"modifiedIndex,omitempty"`
	CreatedIndex  uint64     `json:"createdIndex,omitempty"`
}

// answer is what a request brought, in neutral names, with what depends on the moment taken out.
type answer struct {
	status  string
	header  map[string]string
	body    string
	moments []time.Time // expirations and ttls in the order in which they stood in the body
}

// comparedHeaders are those that a client could act upon.
var comparedHeaders = []string{
	"Access-Control-Allow-Headers", "Access-Control-Allow-Methods", "Access-Control-Allow-Origin",
	"Allow", "Content-Type", "Location", "Www-Authenticate", "X-Content-Type-Options",
	"X-Etcd-Cluster-Id", "X-Etcd-Index", "X-Raft-Index", "X-Raft-Term",
}

var number = regexp.MustCompile(`^[0-9]+$`)

func newAnswer(at *side.Target, resp *http.Response, body string) answer {
	a := answer{status: resp.Status, header: map[string]string{}}
	body = at.Names.Text(body)
	for _, name := range comparedHeaders {
		if values := resp.Header.Values(name); len(values) > 0 {
			a.header[name] = at.Names.Text(strings.Join(values, ", "))
		}
	}
	for _, name := range []string{"X-Raft-Index", "X-Raft-Term"} { // two logs are never the same
		if number.MatchString(a.header[name]) {
			a.header[name] = "N"
		}
	}
	if resp.Request.URL.Path == "/v2/machines" {
		body = sortedList(body)
	}
	sorted, err := strconv.ParseBool(resp.Request.URL.Query().Get("sorted"))
	a.body, a.moments = plain(body, sorted && err == nil)
	return a
}

// plain takes the moments out of an event and, unless it is sorted, orders the nodes of directories,
// which come in the order of a map. Any other text stays as it is.
func plain(body string, sorted bool) (string, []time.Time) {
	if members, ok := sortedMembers(body); ok {
		return members, nil
	}
	var e event
	decoder := json.NewDecoder(strings.NewReader(body))
	decoder.DisallowUnknownFields()
	if decoder.Decode(&e) != nil || e.Action == "" {
		return body, nil
	}
	if _, err := decoder.Token(); err != io.EOF {
		return body + "\n(more than one event)", nil
	}
	body = strings.ReplaceAll(body, `\ufffd`, "\ufffd") // bytes that are no text
	if again := encode(e); again != body {
		return body + "\n(which etcd would write)\n" + again, nil
	}
	var moments []time.Time
	for _, n := range []*node{e.Node, e.Prev} {
		n.calm(sorted, &moments)
	}
	return encode(e), moments
}

// sortedList orders what commas separate: members by their neutral names, once they have them.
func sortedList(text string) string {
	parts := strings.Split(text, ", ")
	slices.Sort(parts)
	return strings.Join(parts, ", ")
}

// sortedMembers orders a list of members by their neutral IDs: it comes by the real ones.
func sortedMembers(body string) (string, bool) {
	inner, ok := strings.CutPrefix(body, `{"members":[{`)
	inner, end, found := strings.Cut(inner, "}]")
	if !ok || !found {
		return "", false
	}
	members := strings.Split(inner, "},{")
	slices.Sort(members)
	return `{"members":[{` + strings.Join(members, "},{") + "}]" + end, true
}

func encode(e event) string {
	var text bytes.Buffer
	if err := json.NewEncoder(&text).Encode(e); err != nil {
		panic(err) // of fields that JSON has no trouble with
	}
	return text.String()
}

// some is written for any expiration and any ttl; what they were is compared apart.
var some = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

func (n *node) calm(sorted bool, moments *[]time.Time) {
	if n == nil {
		return
	}
	if !sorted {
		slices.SortFunc(n.Nodes, func(x, y *node) int { return cmp.Compare(x.Key, y.Key) })
	}
	if n.Expiration != nil {
		*moments = append(*moments, *n.Expiration)
		n.Expiration = &some
	}
	if n.TTL > 0 {
		*moments = append(*moments, some.Add(time.Duration(n.TTL)*time.Second))
		n.TTL = 1
	}
	for _, child := range n.Nodes {
		child.calm(sorted, moments)
	}
}

// apart is how far two servers' moments for one request may lie from one another.
const apart = 20 * time.Second

// difference says in what two answers are unlike, in a line, or nothing.
func difference(want, got answer) string {
	switch {
	case want.status != got.status:
		return fmt.Sprintf("status %s, want %s", got.status, want.status)
	case want.body != got.body:
		return "another body"
	case !maps.Equal(want.header, got.header):
		return "other headers"
	case len(want.moments) != len(got.moments):
		return "another number of expirations"
	}
	for i := range want.moments {
		if d := want.moments[i].Sub(got.moments[i]); d.Abs() > apart {
			return fmt.Sprintf("expirations lie %v apart", d)
		}
	}
	return ""
}

func (a answer) String() string {
	text := a.status + "\n"
	for _, name := range slices.Sorted(maps.Keys(a.header)) {
		text += fmt.Sprintf("%s: %s\n", name, a.header[name])
	}
	return text + strings.TrimSuffix(cut(a.body), "\n") + "\n"
}

// cut shortens a text for a report.
func cut(text string) string {
	const most = 1000
	if len(text) <= most {
		return text
	}
	return fmt.Sprintf("%s …(%d bytes)… %s", text[:most/2], len(text)-most, text[len(text)-most/2:])
}
