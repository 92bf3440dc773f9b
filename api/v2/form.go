package v2

import (
	"net/http"
	"net/url"
	pathpkg "path"
	"strconv"
	"strings"
	"time"

	"limpet/v2tree"
)

const keysPath = "/v2/keys"

// ask is a request for keys.
type ask struct {
	path      string
	slash     bool            // it was asked for with a slash at its end
	change    *v2tree.Request // nil: it only reads
	recursive bool
	quorum    bool
	wait      bool
	stream    bool
	since     uint64
	brief     bool // the answer to a change is its action alone
}

// flags are the parameters that are true or false, in the order in which etcd
// looks at them (parseKeyRequest). What is in a directory is always told in its
// order, sorted or not.
type flags struct {
	recursive, sorted, wait, dir, quorum, stream bool
}

func (f *flags) read(form url.Values) *v2tree.Error {
	for _, p := range []struct {
		name string
		to   *bool
	}{
		{"recursive", &f.recursive}, {"sorted", &f.sorted}, {"wait", &f.wait}, {"dir", &f.dir}, {"quorum", &f.quorum}, {"stream", &f.stream},
	} {
		if err := readBool(form, p.name, p.to); err != nil {
			return invalid(`invalid value for "` + p.name + `"`)
		}
	}
	return nil
}

func invalid(cause string) *v2tree.Error { return v2tree.NewError(v2tree.InvalidField, cause, 0) }

// readBool and readUint leave to alone if there is no such parameter; of several
// the first counts.
func readBool(form url.Values, name string, to *bool) (err error) {
	if vals, ok := form[name]; ok {
		*to, err = strconv.ParseBool(vals[0])
	}
	return err
}

func readUint(form url.Values, name string, to *uint64) (err error) {
	if vals, ok := form[name]; ok {
		*to, err = strconv.ParseUint(vals[0], 10, 64)
	}
	return err
}

// parse reads what r asks for, at the time now. The first thing that is wrong is
// told, in etcd's order. net/http bounds a form by 10 MiB.
func parse(r *http.Request, now time.Time) (*ask, *v2tree.Error) {
	if err := r.ParseForm(); err != nil {
		return nil, v2tree.NewError(v2tree.InvalidForm, err.Error(), 0)
	}
	q := &v2tree.Request{Path: pathpkg.Clean("/" + strings.TrimPrefix(r.URL.Path, keysPath)), Time: now.UnixNano()}
	a := &ask{path: q.Path, slash: q.Path != "/" && strings.HasSuffix(r.URL.Path, "/")}
	if readUint(r.Form, "prevIndex", &q.PrevIndex) != nil {
		return nil, v2tree.NewError(v2tree.IndexNotANumber, `invalid value for "prevIndex"`, 0)
	}
	if readUint(r.Form, "waitIndex", &a.since) != nil {
		return nil, v2tree.NewError(v2tree.IndexNotANumber, `invalid value for "waitIndex"`, 0)
	}
	var f flags
	if err := f.read(r.Form); err != nil {
		return nil, err
	}
	a.recursive, a.wait, a.quorum, a.stream = f.recursive, f.wait, f.quorum && r.Method == http.MethodGet, f.stream
	q.Recursive, q.Dir = f.recursive, f.dir
	if f.wait && r.Method != http.MethodGet {
		return nil, invalid(`"wait" can only be used with GET requests`)
	}
	prevExist, err := readChange(r.Form, q, &a.brief, now)
	if err != nil {
		return nil, err
	}
	if err := v2tree.CheckPath(q.Path); err != nil {
		return nil, v2tree.NewError(v2tree.InvalidForm, strings.TrimPrefix(err.Error(), "v2tree: "), 0)
	}
	if q.Op = operation(r.Method, q, prevExist); q.Op != 0 {
		a.change = q
	}
	return a, nil
}

// readChange reads what only changes need; of every request, as etcd does.
// prevExist is nil if nothing is said of it.
func readChange(form url.Values, q *v2tree.Request, brief *bool, now time.Time) (prevExist *bool, err *v2tree.Error) {
	q.Value, q.PrevValue = form.Get("value"), form.Get("prevValue")
	if form.Has("prevValue") && q.PrevValue == "" {
		return nil, v2tree.NewError(v2tree.PrevValueRequired, `"prevValue" cannot be empty`, 0)
	}
	if readBool(form, "noValueOnSuccess", brief) != nil {
		return nil, invalid(`invalid value for "noValueOnSuccess"`)
	}
	hasTTL := form.Get("ttl") != ""
	if hasTTL {
		var ttl uint64
		if readUint(form, "ttl", &ttl) != nil {
			return nil, v2tree.NewError(v2tree.TTLNotANumber, `invalid value for "ttl"`, 0)
		}
		// A number that overflows comes to the time that it comes to in etcd.
		q.Expires = now.Add(time.Duration(ttl) * time.Second).UnixNano()
	}
	if form.Has("prevExist") {
		prevExist = new(bool)
		if readBool(form, "prevExist", prevExist) != nil {
			return nil, invalid("invalid value for prevExist")
		}
	}
	if readBool(form, "refresh", &q.Refresh) != nil {
		return nil, invalid("invalid value for refresh")
	}
	switch {
	case q.Refresh && q.Value != "":
		return nil, v2tree.NewError(v2tree.RefreshValue, "A value was provided on a refresh", 0)
	case q.Refresh && !hasTTL:
		return nil, v2tree.NewError(v2tree.RefreshWithoutTTL, "No TTL value set", 0)
	}
	return prevExist, nil
}

// operation is what a request asks for; 0 if it only reads (etcd's applierV2store).
func operation(method string, q *v2tree.Request, prevExist *bool) v2tree.Op {
	compares := q.PrevIndex > 0 || q.PrevValue != ""
	switch method {
	case http.MethodPost:
		return v2tree.CreateInOrder
	case http.MethodDelete:
		if compares {
			return v2tree.DeleteIf
		}
		return v2tree.Delete
	case http.MethodPut:
		switch {
		case prevExist != nil && !*prevExist:
			return v2tree.Create
		case compares:
			return v2tree.Swap
		case prevExist != nil:
			return v2tree.Update
		}
		return v2tree.Set
	}
	return 0
}
