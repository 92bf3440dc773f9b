package v2

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"limpet/v2tree"
)

func TestErrorsAreEtcds(t *testing.T) {
	for _, tc := range []struct {
		write  func(http.ResponseWriter)
		status int
		index  string
		body   string
	}{
		{func(w http.ResponseWriter) { writeError(w, v2tree.NewError(v2tree.KeyNotFound, "/a", 7)) }, 404, "7",
			`{"errorCode":100,"message":"Key not found","cause":"/a","index":7}` + "\n"},
		{func(w http.ResponseWriter) { writeError(w, v2tree.NewError(v2tree.InvalidForm, "", 0)) }, 400, "0",
			`{"errorCode":210,"message":"Invalid POST form","index":0}` + "\n"},
		{func(w http.ResponseWriter) { writeMessage(w, 409, "no") }, 409, "", `{"message":"no"}`},
	} {
		w := httptest.NewRecorder()
		tc.write(w)
		if w.Code != tc.status || w.Header().Get("X-Etcd-Index") != tc.index || w.Body.String() != tc.body {
			t.Errorf("got %d, index %q, %s; want %d, %q, %s", w.Code, w.Header().Get("X-Etcd-Index"), w.Body, tc.status, tc.index, tc.body)
		}
	}
}

func TestOtherPathsAreLeftAlone(t *testing.T) {
	h := New(Config{Serving: open()}).Beside(teapot)
	for path, want := range map[string]int{"/": 418, "/v2": 418, "/v3/kv/put": 418, "/v2/": 404, "/v2/nothing": 404} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		if w.Code != want {
			t.Errorf("%s: status %d, want %d", path, w.Code, want)
		}
	}
}

var teapot = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })

func open() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}

// A member that does not serve yet is waited for, but not for ever; its other
// pages are there.
func TestWhatComesTooEarlyWaits(t *testing.T) {
	serving := make(chan struct{})
	early := func(timeout time.Duration, path string) <-chan int {
		h := New(Config{Serving: serving, Timeout: timeout}).Beside(teapot)
		status := make(chan int, 1)
		// Owner: the test; ends with the answer.
		go func() {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
			status <- w.Code
		}()
		return status
	}
	if got := <-early(time.Millisecond, "/v2/nothing"); got != http.StatusServiceUnavailable {
		t.Errorf("given up: status %d, want 503", got)
	}
	if got := <-early(time.Hour, "/health"); got != http.StatusTeapot {
		t.Errorf("another page: status %d, want 418", got)
	}
	waits := early(time.Hour, "/v2/nothing")
	close(serving)
	if got := <-waits; got != http.StatusNotFound {
		t.Errorf("once it serves: status %d, want 404", got)
	}
}
