package backup

import (
	"context"
	"crypto/md5"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path"
	"strings"
	"sync"
	"testing"
	"time"
)

// shop is a store that keeps what is put into it, unless the test wants otherwise.
type shop struct {
	*Bucket
	old    bool              // it knows no conditions
	before func(name string) // called before an object is kept; may be nil
	got    func(name string) // called when it has been kept, before it is answered; may be nil
	serve  http.HandlerFunc  // answers GET instead; may be nil
	mu     sync.Mutex        // guards what follows
	kept   map[string]*kept  // by name
	asked  int               // puts with a condition
}

type kept struct{ data, bytes string }

func newShop(t *testing.T) *shop {
	t.Helper()
	s := &shop{kept: map[string]*kept{}}
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.answer(w, r) }))
	t.Cleanup(srv.Close)
	b, err := OpenBucket(S3{Endpoint: srv.URL, Bucket: "boards", Region: "us-east-1", AccessKey: "a", SecretKey: "s", SkipVerify: true, Timeout: 30 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	s.Bucket = b
	return s
}

// put keeps an object as another client would.
func (s *shop) put(name, data string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kept[name] = &kept{data, fmt.Sprint(len(data))}
}

// holds is what is kept under a name; empty: nothing.
func (s *shop) holds(name string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if o := s.kept[name]; o != nil {
		return o.data
	}
	return ""
}

func (s *shop) answer(w http.ResponseWriter, r *http.Request) {
	name := path.Base(r.URL.Path)
	switch r.Method {
	case http.MethodPut:
		s.take(w, r, name)
	case http.MethodDelete:
		s.mu.Lock()
		delete(s.kept, name)
		s.mu.Unlock()
		w.WriteHeader(http.StatusNoContent)
	default:
		if r.Method == http.MethodGet && s.serve != nil {
			s.serve(w, r)
			return
		}
		s.mu.Lock()
		o := s.kept[name]
		s.mu.Unlock()
		if o == nil {
			refuse(w, http.StatusNotFound, "NoSuchKey")
			return
		}
		w.Header().Set("Last-Modified", time.Unix(1700000000, 0).UTC().Format(http.TimeFormat))
		w.Header().Set("ETag", etagOf(o.data))
		w.Header().Set("Content-Length", fmt.Sprint(len(o.data)))
		w.Header().Set("X-Amz-Meta-"+sizeKey, o.bytes)
		_, _ = io.WriteString(w, o.data)
	}
}

func (s *shop) take(w http.ResponseWriter, r *http.Request, name string) {
	data, _ := io.ReadAll(r.Body)
	if s.before != nil {
		s.before(name)
	}
	condition := r.Header.Get("If-None-Match")
	s.mu.Lock()
	if condition != "" {
		s.asked++
	}
	taken := s.kept[name] != nil
	s.mu.Unlock()
	switch {
	case condition != "" && s.old:
		refuse(w, http.StatusNotImplemented, "NotImplemented")
		return
	case condition == "*" && taken:
		refuse(w, http.StatusPreconditionFailed, "PreconditionFailed")
		return
	}
	s.put(name, string(data))
	if s.got != nil {
		s.got(name)
	}
	w.Header().Set("ETag", etagOf(string(data)))
}

func etagOf(data string) string { return fmt.Sprintf(`"%x"`, md5.Sum([]byte(data))) }

func refuse(w http.ResponseWriter, status int, code string) {
	w.WriteHeader(status)
	_, _ = io.WriteString(w, "<Error><Code>"+code+"</Code></Error>")
}

// TestUploadRace: of two that upload under one name, none takes away what the other has
// put there.
func TestUploadRace(t *testing.T) {
	file := write(t, []byte("what is put"))
	const name, others = "s-m-1", "another's"

	s := newShop(t)
	s.before = func(string) { s.put(name, others) } // after it was looked for
	if _, err := Upload(t.Context(), s, file, name, nil); err == nil || !strings.Contains(err.Error(), "has s-m-1 already") {
		t.Errorf("another comes first: %v", err)
	}
	if got := s.holds(name); got != others || s.asked == 0 {
		t.Errorf("then the store has %q, and was asked %d times for the condition", got, s.asked)
	}

	s = newShop(t) // which comes last
	s.got = func(string) { s.put(name, others) }
	if _, err := Upload(t.Context(), s, file, name, nil); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "has been replaced") {
		t.Errorf("another comes last: %v", err)
	}
	if got := s.holds(name); got != others {
		t.Errorf("then the store has %q, want the other's", got)
	}

	s = newShop(t)
	s.old = true
	if _, err := Upload(t.Context(), s, file, name, nil); err != nil || s.holds(name) != "what is put" || s.asked == 0 {
		t.Errorf("a store that knows no conditions: %v, it has %q", err, s.holds(name))
	}
}

// TestReadBackBreaksOff: what could not be read back is not left to be listed; if it
// cannot be removed either, that is said.
func TestReadBackBreaksOff(t *testing.T) {
	file := write(t, []byte("what is put"))
	s := newShop(t)
	s.serve = func(w http.ResponseWriter, _ *http.Request) { refuse(w, http.StatusForbidden, "AccessDenied") }
	if _, err := Upload(t.Context(), s, file, "s-m-1", nil); err == nil || !strings.Contains(err.Error(), "could not be read back") || strings.Contains(err.Error(), "stays there") {
		t.Errorf("the read-back fails: %v", err)
	}
	if got := s.holds("s-m-1"); got != "" {
		t.Errorf("%q is there still", got)
	}
	// The one who asks gives up: it goes all the same.
	ctx, cancel := context.WithCancel(t.Context())
	s.serve = func(_ http.ResponseWriter, r *http.Request) { cancel(); <-r.Context().Done() }
	if _, err := Upload(ctx, s, file, "s-m-2", nil); !errors.Is(err, context.Canceled) || s.holds("s-m-2") != "" {
		t.Errorf("%v, and %q is there", err, s.holds("s-m-2"))
	}
	stays := &stubborn{Dir{t.TempDir()}}
	if _, err := Upload(t.Context(), stays, file, "s-m-1", nil); err == nil || !strings.Contains(err.Error(), stays.File("s-m-1")+" stays there") {
		t.Errorf("neither read nor removed: %v", err)
	}
}

// stubborn gives nothing back.
type stubborn struct{ Dir }

func (s *stubborn) Fetch(context.Context, string, func(int64) error, io.Writer) error {
	return errors.New("the line is cut")
}

func (s *stubborn) Withdraw(context.Context, Snapshot) error { return errors.New("the line is cut") }

// TestStall: a store that stops answering is told with the flag that waits longer.
func TestStall(t *testing.T) {
	s := newShop(t)
	end := make(chan struct{})
	defer close(end)
	s.serve = func(http.ResponseWriter, *http.Request) { <-end }
	s.opts.Timeout = 100 * time.Millisecond
	s.put("s-m-1", "data")
	_, errList := s.List(t.Context())
	_, errFetch := FetchTo(t.Context(), s, "s-m-1", t.TempDir(), nil)
	for what, err := range map[string]error{"list": errList, "fetch": errFetch} {
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "longer than --s3-timeout allows, 100ms") {
			t.Errorf("%s: %v", what, err)
		}
	}
}
