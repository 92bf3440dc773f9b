package look

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"limpet/auth"
	"limpet/sqlstore"
)

const (
	// HistoryPath serves the changes of keys, a Line each. Its query: key, and
	// range_end as in etcd, both percent-encoded; from, a revision; after, the id of a
	// change; limit, up to MaxChanges; oldest=true for the first changes instead of
	// the last; values=true; local=true to read what this member knows.
	HistoryPath = "/limpet/v1/history"
	// RevisionPath serves a Found: for at, Unix milliseconds, the newest revision
	// whose time is not later; for revision, that one. local=true as above.
	RevisionPath = "/limpet/v1/revision"

	// MaxChanges is how many changes one answer has at most. They are found before
	// the first is sent, 16 bytes each.
	MaxChanges     = 10000
	defaultChanges = 100
	// linePatience is how long a client may take none of what is sent.
	linePatience = 30 * time.Second
)

// Config wires a Face. All fields are needed.
type Config struct {
	Store *sqlstore.Store
	// Ready returns once the store has all that was acknowledged before the call; with
	// local, once this member serves anybody.
	Ready func(ctx context.Context, local bool) error
	// MayRead returns an error, one of package auth, unless who sends r may read the keys from key to end,
	// as etcd's ranges have them. still returns an error once that is not certain any
	// more.
	MayRead func(r *http.Request, key, end []byte) (still func() error, err error)
	// Known reports whether somebody is known to send r, or nothing is checked.
	Known func(r *http.Request) bool
}

// Face serves history. It may be used concurrently.
type Face struct {
	cfg Config
	mux *http.ServeMux
}

// New returns a Face.
func New(cfg Config) *Face {
	f := &Face{cfg: cfg, mux: http.NewServeMux()}
	f.mux.HandleFunc(HistoryPath, f.history)
	f.mux.HandleFunc(RevisionPath, f.revision)
	return f
}

// Beside serves this package's paths, and everything else by other.
func (f *Face) Beside(other http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path != HistoryPath && r.URL.Path != RevisionPath:
			other.ServeHTTP(w, r)
		case r.Method != http.MethodGet:
			w.Header().Set("Allow", http.MethodGet)
			http.Error(w, "Method Not Allowed", http.StatusMethodNotAllowed)
		default:
			f.mux.ServeHTTP(w, r)
		}
	})
}

const nobody = "limpet: authentication is enabled: ask as a user, with its token in the header Authorization, or with its certificate"

func (f *Face) history(w http.ResponseWriter, r *http.Request) {
	q := newQuery(r)
	key, end, ask, local := q.history()
	if q.err != nil {
		http.Error(w, "limpet: "+q.err.Error(), http.StatusBadRequest)
		return
	}
	if err := f.cfg.Ready(r.Context(), local); err != nil {
		http.Error(w, "limpet: "+err.Error(), http.StatusServiceUnavailable)
		return
	}
	still, err := f.cfg.MayRead(r, key, end)
	if err != nil {
		refuse(w, err)
		return
	}
	f.tell(w, ask, still)
}

// history reads what is asked of the history of keys.
func (q *query) history() (key, rangeEnd []byte, ask sqlstore.Changes, local bool) {
	key, rangeEnd = []byte(q.text("key")), []byte(q.text("range_end"))
	end, single := sqlstore.End(key, rangeEnd)
	ask = sqlstore.Changes{
		Span: sqlstore.Span{Key: string(key), End: end, Single: single},
		From: q.number("from", 0, 0), After: sqlstore.ID(q.number("after", 0, 0)),
		Limit:  int(q.number("limit", defaultChanges, 1)),
		Oldest: q.flag("oldest"), Values: q.flag("values"),
	}
	switch {
	case len(key) == 0:
		q.wrong("key is empty; name one, or with range_end the first of a range, percent-encoded")
	case ask.Limit > MaxChanges:
		q.wrong(fmt.Sprintf("limit is %d, want at most %d; ask for the rest with after", ask.Limit, MaxChanges))
	case ask.From > maxRevision:
		q.wrong(fmt.Sprintf("from is %d, which no revision reaches", ask.From))
	}
	return key, rangeEnd, ask, q.flag("local")
}

// maxRevision is the largest that fits the id of a row.
const maxRevision = 1<<41 - 1

// refuse answers who may not read.
func refuse(w http.ResponseWriter, err error) {
	switch {
	case errors.Is(err, auth.ErrDenied):
		http.Error(w, "limpet: permission denied: who may read all of these keys may see their history", http.StatusForbidden)
	case errors.Is(err, auth.ErrUserEmpty):
		http.Error(w, nobody, http.StatusUnauthorized)
	default:
		http.Error(w, "limpet: the token is not valid, or older than the last change of users and roles: log in again", http.StatusUnauthorized)
	}
}

// tell streams the changes, one in memory at a time.
func (f *Face) tell(w http.ResponseWriter, ask sqlstore.Changes, still func() error) {
	w.Header().Set("Content-Type", "application/jsonl")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	enc, control := json.NewEncoder(w), http.NewResponseController(w)
	send := func(l Line) error {
		_ = control.SetWriteDeadline(time.Now().Add(linePatience)) // where there are none, there is no network
		return enc.Encode(l)
	}
	view := f.cfg.Store.View()
	if send(Line{Head: &Head{Revision: view.Rev(), Floor: f.cfg.Store.Floor()}}) != nil {
		return
	}
	gone := false
	more, err := view.Changes(ask, func(c *sqlstore.Change) error {
		if err := still(); err != nil {
			return err
		}
		err := send(Line{Change: &Change{
			Revision: c.ID.Rev(), ID: int64(c.ID), Time: c.Time, Key: c.KeyBytes(), Create: c.Create, Version: c.Version,
			Lease: c.Lease, Size: c.Size, Before: c.Before, Value: c.Value,
		}})
		gone = err != nil
		return err
	})
	switch {
	case gone:
	case errors.Is(err, sqlstore.ErrCompacted):
		_ = send(Line{Error: "a compaction has removed what was about to be told: ask again"})
	case err != nil:
		_ = send(Line{Error: sentence(err)})
	default:
		_ = send(Line{End: &End{More: more}})
	}
	_ = control.SetWriteDeadline(time.Time{})
}

// sentence is what an error says without the package that says it.
func sentence(err error) string {
	if _, text, ok := strings.Cut(err.Error(), ": "); ok {
		return text
	}
	return err.Error()
}

func (f *Face) revision(w http.ResponseWriter, r *http.Request) {
	q := newQuery(r)
	at, rev := q.number("at", -1, 0), q.number("revision", -1, 0)
	local := q.flag("local")
	switch {
	case at >= 0 && rev >= 0:
		q.wrong("at and revision exclude each other")
	case rev > maxRevision:
		q.wrong(fmt.Sprintf("revision is %d, which none reaches", rev))
	}
	if q.err != nil {
		http.Error(w, "limpet: "+q.err.Error(), http.StatusBadRequest)
		return
	}
	if err := f.cfg.Ready(r.Context(), local); err != nil {
		http.Error(w, "limpet: "+err.Error(), http.StatusServiceUnavailable)
		return
	}
	if !f.cfg.Known(r) {
		http.Error(w, nobody, http.StatusUnauthorized)
		return
	}
	found, err := f.find(at, rev)
	if err != nil {
		http.Error(w, "limpet: "+err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(found) // a client that has gone learns nothing
}

// find finds the revision of a time, or the time of a revision; negative: it is not
// asked for.
func (f *Face) find(at, rev int64) (*Found, error) {
	s := f.cfg.Store
	view := s.View()
	out := &Found{Newest: Moment{Revision: view.Rev()}}
	newest, err := s.From(view.Rev())
	if err != nil {
		return nil, err
	}
	out.Newest.Time = newest.Time
	var (
		m  sqlstore.Moment
		ok bool
	)
	switch {
	case at >= 0:
		m, ok, err = view.AsOf(at)
	case rev >= 0:
		m, err = s.From(rev)
		ok = rev <= view.Rev() && rev >= max(s.Floor(), sqlstore.Initial)
		if m.Rev != rev { // of the first one, and of those that recover leaves out, nothing is known
			m = sqlstore.Moment{Rev: rev}
		}
	}
	if err != nil {
		return nil, err
	}
	// Last: what was found may be compacted by now.
	floor := s.Floor()
	oldest, err := s.From(max(floor, sqlstore.Initial))
	if err != nil {
		return nil, err
	}
	out.Oldest = Moment{Revision: max(floor, sqlstore.Initial)}
	if oldest.Rev != 0 && (oldest.Rev == floor || floor < 0) {
		out.Oldest = Moment{oldest.Rev, oldest.Time}
	}
	if ok && m.Rev >= floor {
		out.Found = &Moment{m.Rev, m.Time}
	}
	return out, nil
}

// query reads the parameters of a request; err is the first that cannot be read.
type query struct {
	values map[string][]string
	err    error
}

// newQuery refuses names that are not known: a limit that is misspelled is none.
func newQuery(r *http.Request) *query {
	values, err := url.ParseQuery(r.URL.RawQuery)
	q := &query{values: values, err: err}
	for name, v := range values {
		if !slices.Contains(parameters[r.URL.Path], name) || len(v) > 1 {
			q.wrong(fmt.Sprintf("the query has %.40q, or has it twice; it may have %s", name, strings.Join(parameters[r.URL.Path], ", ")))
		}
	}
	return q
}

var parameters = map[string][]string{
	HistoryPath:  {"key", "range_end", "from", "after", "limit", "oldest", "values", "local"},
	RevisionPath: {"at", "revision", "local"},
}

func (q *query) wrong(text string) {
	if q.err == nil {
		q.err = errors.New(text)
	}
}

func (q *query) text(name string) string {
	if v := q.values[name]; len(v) > 0 {
		return v[0]
	}
	return ""
}

func (q *query) number(name string, otherwise, least int64) int64 {
	text := q.text(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < least {
		q.wrong(fmt.Sprintf("%s is %.40q, want a number of at least %d", name, text, least))
	}
	return n
}

func (q *query) flag(name string) bool {
	text := q.text(name)
	if text == "" {
		return false
	}
	on, err := strconv.ParseBool(text)
	if err != nil {
		q.wrong(fmt.Sprintf("%s is %.40q, want true or false", name, text))
	}
	return on
}
