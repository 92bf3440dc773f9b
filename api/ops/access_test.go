package ops

import (
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// answered is what a guarded page answers to a request with these headers.
func answered(a *Access, method, host, origin string, secure bool) *http.Response {
	r := httptest.NewRequest(method, "http://"+host+"/version", nil)
	r.Host = host
	if origin != "" {
		r.Header.Set("Origin", origin)
	}
	if secure {
		r.TLS = &tls.ConnectionState{}
	}
	w := httptest.NewRecorder()
	a.Guard(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusAccepted) })).ServeHTTP(w, r)
	return w.Result()
}

func TestOrigins(t *testing.T) {
	listed := []string{"http://a:1", "https://b:443", "http://c:80"}
	for _, c := range []struct {
		origins      []string
		origin, want string
	}{
		{nil, "", "*"},
		{nil, "http://x", "*"},
		{[]string{"*"}, "http://x", "*"},
		{listed, "", ""},
		{listed, "http://x", ""},
		{listed, "http://a:1", "http://a:1"},
		{listed, "http://a", ""},
		{listed, "https://a:1", ""},
		{listed, "https://b", "https://b"},
		{listed, "http://b", ""},
		{listed, "http://c", "http://c"},
		{listed, "*", ""},
		{listed, "null", ""},
	} {
		for method, status := range map[string]int{"GET": http.StatusAccepted, "OPTIONS": http.StatusOK} {
			resp := answered(&Access{Origins: c.origins}, method, "localhost", c.origin, false)
			got := resp.Header.Get("Access-Control-Allow-Origin")
			if resp.StatusCode != status || got != c.want || (resp.Header.Get("Access-Control-Allow-Methods") != "") != (c.want != "") {
				t.Errorf("%s from %q with %q listed: got %d, %v, want %d, origin %q", method, c.origin, c.origins, resp.StatusCode, resp.Header, status, c.want)
			}
		}
	}
}

func TestHosts(t *testing.T) {
	for _, c := range []struct {
		hosts  []string
		host   string
		secure bool
		want   int
	}{
		{nil, "x:1", false, http.StatusAccepted},
		{[]string{"*"}, "x:1", false, http.StatusAccepted},
		{[]string{"a", "::1"}, "a", false, http.StatusAccepted},
		{[]string{"a", "::1"}, "a:2379", false, http.StatusAccepted},
		{[]string{"a", "::1"}, "[::1]:2379", false, http.StatusAccepted},
		{[]string{"a", "::1"}, "A", false, http.StatusMisdirectedRequest},
		{[]string{"a", "::1"}, "evil.example.org", false, http.StatusMisdirectedRequest},
		{[]string{"a", "::1"}, "evil.example.org:2379", false, http.StatusMisdirectedRequest},
		{[]string{"a", "::1"}, "evil.example.org", true, http.StatusAccepted},
	} {
		resp := answered(&Access{Hosts: c.hosts}, "GET", c.host, "", c.secure)
		if resp.StatusCode != c.want {
			t.Errorf("host %q with %q listed, TLS %v: got %d, want %d", c.host, c.hosts, c.secure, resp.StatusCode, c.want)
		}
		if resp.StatusCode == http.StatusMisdirectedRequest && !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/plain") {
			t.Errorf("the refusal is %s, want plain text: it has words of the client's", resp.Header.Get("Content-Type"))
		}
	}
}

func TestMayConnect(t *testing.T) {
	for _, c := range []struct {
		origins []string
		origin  string
		want    bool
	}{
		{nil, "http://x", true},
		{[]string{"*"}, "http://x", true},
		{[]string{"http://a:1"}, "", true},
		{[]string{"http://a:1"}, "http://a:1", true},
		{[]string{"http://a:1"}, "http://here:2379", true},
		{[]string{"http://a:1"}, "http://x", false},
		{[]string{"http://a:1"}, "null", false},
		{[]string{"http://a:1"}, "%", false},
	} {
		r := httptest.NewRequest("GET", "http://here:2379/v3/watch", nil)
		if c.origin != "" {
			r.Header.Set("Origin", c.origin)
		}
		if got := (&Access{Origins: c.origins}).MayConnect(r); got != c.want {
			t.Errorf("from %q with %q listed: got %v, want %v", c.origin, c.origins, got, c.want)
		}
	}
}
