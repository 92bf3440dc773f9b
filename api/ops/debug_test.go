package ops

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"testing"
)

// visit is a request for a debug page, as it comes to the server.
type visit struct {
	from, host string
	unix       bool
	header     map[string]string
}

func (v visit) request(t testing.TB, method, path string) *http.Request {
	t.Helper()
	r := httptest.NewRequest(method, "/", nil)
	r.URL.Path, r.RemoteAddr, r.Host = path, v.from, v.host
	for k, s := range v.header {
		r.Header.Set(k, s)
	}
	var here net.Addr = &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 2379}
	if v.unix {
		here = &net.UnixAddr{Name: "/run/limpet.sock", Net: "unix"}
	}
	return r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, here))
}

// secretPage stands for all that the pages show.
const secretPage = "what is inside"

// answer is what the client port says, root being who sends the right word.
func (v visit) answer(t testing.TB, method, path string, root func(*http.Request) bool) *httptest.ResponseRecorder {
	t.Helper()
	mux := http.NewServeMux()
	mux.Handle(debugPath, inside(root, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(secretPage))
	})))
	w := httptest.NewRecorder()
	(&Access{}).Guard(mux).ServeHTTP(w, v.request(t, method, path))
	return w
}

func knowsTheWord(r *http.Request) bool { return r.Header.Get("Authorization") == "the word" }

// Debug pages are for this machine, and for root; neither a header nor the page
// of somebody else makes anybody local.
func TestDebugDoor(t *testing.T) {
	const local, remote = "127.0.0.1:40000", "192.0.2.7:40000"
	word := map[string]string{"Authorization": "the word"}
	for _, c := range []struct {
		name string
		v    visit
		open bool
	}{
		{"loopback", visit{from: local, host: "127.0.0.1:2379"}, true},
		{"loopback, all of 127/8", visit{from: "127.8.8.8:1", host: "127.8.8.8"}, true},
		{"loopback by name", visit{from: local, host: "localhost:2379"}, true},
		{"loopback by name, without a port", visit{from: local, host: "LocalHost"}, true},
		{"IPv6 loopback", visit{from: "[::1]:40000", host: "[::1]:2379"}, true},
		{"IPv6 loopback, without a port", visit{from: "[::1]:40000", host: "[::1]"}, true},
		{"IPv4 loopback on an IPv6 socket", visit{from: "[::ffff:127.0.0.1]:40000", host: "127.0.0.1:2379"}, true},
		{"unix socket", visit{from: "@", host: "whatever", unix: true}, true},
		{"unix socket without a name", visit{from: "", host: "localhost", unix: true}, true},

		{"another machine", visit{from: remote, host: "board1:2379"}, false},
		{"another machine that says localhost", visit{from: remote, host: "localhost:2379"}, false},
		{"another machine, forwarded for loopback", visit{from: remote, host: "127.0.0.1", header: map[string]string{
			"X-Forwarded-For": "127.0.0.1", "X-Real-Ip": "127.0.0.1", "Forwarded": "for=127.0.0.1"}}, false},
		{"no address", visit{from: "", host: "localhost"}, false},
		{"no address of a socket", visit{from: "@", host: "localhost"}, false},
		{"link-local", visit{from: "[fe80::1%eth0]:1", host: "[fe80::2]"}, false},

		{"a name that somebody's DNS leads here", visit{from: local, host: "evil.example:2379"}, false},
		{"a name that begins like loopback", visit{from: local, host: "127.0.0.1.evil.example"}, false},
		{"a name below localhost", visit{from: local, host: "localhost.evil.example"}, false},
		{"no name", visit{from: local, host: ""}, false},
		{"a page from elsewhere", visit{from: local, host: "127.0.0.1:2379", header: map[string]string{"Origin": "https://evil.example"}}, false},
		{"a page without an origin", visit{from: local, host: "127.0.0.1:2379", header: map[string]string{"Origin": "null"}}, false},
		{"an image in a page", visit{from: local, host: "127.0.0.1:2379", header: map[string]string{"Sec-Fetch-Site": "cross-site"}}, false},
		{"a page of another port", visit{from: local, host: "127.0.0.1:2379", header: map[string]string{"Sec-Fetch-Site": "same-site"}}, false},
		{"typed into a browser", visit{from: local, host: "127.0.0.1:2379", header: map[string]string{"Sec-Fetch-Site": "none"}}, true},
		{"a link in a profile", visit{from: local, host: "127.0.0.1:2379", header: map[string]string{"Sec-Fetch-Site": "same-origin"}}, true},

		{"root on another machine", visit{from: remote, host: "board1:2379", header: word}, true},
		{"root by another name", visit{from: local, host: "board1:2379", header: word}, true},
		{"root's browser, for a page from elsewhere", visit{from: remote, host: "board1:2379", header: map[string]string{
			"Authorization": "the word", "Sec-Fetch-Site": "cross-site"}}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := c.v.answer(t, http.MethodGet, "/debug/vars", knowsTheWord)
			if c.open && (w.Code != http.StatusOK || w.Body.String() != secretPage) {
				t.Errorf("got %d, %q; want the page", w.Code, w.Body)
			}
			if !c.open && (w.Code != http.StatusForbidden || !strings.HasPrefix(w.Body.String(), "limpet: /debug/ ")) {
				t.Errorf("got %d, %q; want 403 and a sentence", w.Code, w.Body)
			}
		})
	}
	// Without a way to be root nobody is.
	v := visit{from: remote, host: "board1:2379", header: word}
	if w := v.answer(t, http.MethodGet, "/debug/vars", nil); w.Code != http.StatusForbidden {
		t.Errorf("without a root: got %d, %q; want 403", w.Code, w.Body)
	}
}

// Browsers are told that other pages may ask, as by etcd, but not for these.
func TestDebugWithoutCORS(t *testing.T) {
	v := visit{from: "127.0.0.1:40000", host: "127.0.0.1:2379"}
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodOptions} {
		w := v.answer(t, method, "/debug/vars", nil)
		for name := range w.Header() {
			if strings.HasPrefix(name, "Access-Control-") {
				t.Errorf("%s has the header %s", method, name)
			}
		}
		if w := v.answer(t, method, "/version", nil); w.Header().Get("Access-Control-Allow-Origin") != "*" {
			t.Errorf("%s of another path lacks the headers: %v", method, w.Header())
		}
	}
}

// As etcd's, /debug/vars is there to be read.
func TestVarsAreRead(t *testing.T) {
	for _, method := range []string{http.MethodPost, http.MethodHead, http.MethodPut} {
		w := httptest.NewRecorder()
		new(Metrics).serveVars(w, httptest.NewRequest(method, "/debug/vars", nil))
		if w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") != http.MethodGet {
			t.Errorf("%s: got %d, Allow %q, want 405 and GET", method, w.Code, w.Header().Get("Allow"))
		}
	}
}

// Every page below /debug/ goes through the door, also those that are not there,
// and only the extra listener has none of them.
func TestDebugPagesBehindTheDoor(t *testing.T) {
	h := &Health{Metrics: NewMetrics()}
	client := Handler(h, func(context.Context) any { return nil }, true, Who{})
	stranger := visit{from: "192.0.2.7:40000", host: "192.0.2.1:2379"}
	for _, path := range []string{
		"/debug/", "/debug/vars", "/debug/pprof/", "/debug/pprof/cmdline", "/debug/pprof/heap", "/debug/pprof/profile",
		"/debug/pprof/symbol", "/debug/pprof/trace", "/debug/requests",
	} {
		for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPost} {
			w := httptest.NewRecorder()
			client.ServeHTTP(w, stranger.request(t, method, path))
			if w.Code != http.StatusForbidden {
				t.Errorf("%s %s from another machine: got %d, want 403", method, path, w.Code)
			}
		}
		w := httptest.NewRecorder()
		MetricsHandler(h).ServeHTTP(w, stranger.request(t, http.MethodGet, path))
		if w.Code != http.StatusNotFound {
			t.Errorf("%s on the metrics listener: got %d, want 404", path, w.Code)
		}
	}
	local := visit{from: "127.0.0.1:40000", host: "localhost"}
	for path, want := range map[string]int{"/debug/pprof/": 200, "/debug/requests": 404} {
		w := httptest.NewRecorder()
		client.ServeHTTP(w, local.request(t, http.MethodGet, path))
		if w.Code != want {
			t.Errorf("%s on this machine: got %d, want %d", path, w.Code, want)
		}
	}
}

// FuzzDebugDoor: whatever is written into a request, only loopback sees the
// inside, and only by an address or the one name that is its own.
func FuzzDebugDoor(f *testing.F) {
	f.Add("127.0.0.1:1", "localhost:2379", "", "", "127.0.0.1", "/debug/vars")
	f.Add("192.0.2.7:1", "127.0.0.1:2379", "", "none", "127.0.0.1", "/debug/vars")
	f.Add("127.0.0.1:1", "evil.example", "", "", "", "/debug//vars")
	f.Add("[::1]:1", "[::1]", "https://evil.example", "cross-site", "", "/debug/pprof/../vars")
	f.Add("[::ffff:192.0.2.7]:1", "[::1", "", "", "", "/DEBUG/vars")
	f.Fuzz(func(t *testing.T, from, host, origin, site, forwarded, path string) {
		v := visit{from: from, host: host, header: map[string]string{}}
		for name, value := range map[string]string{"Origin": origin, "Sec-Fetch-Site": site, "X-Forwarded-For": forwarded} {
			if value != "" {
				v.header[name] = value
			}
		}
		w := v.answer(t, http.MethodGet, path, nil)
		if strings.HasPrefix(path, debugPath) && w.Header().Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%q has CORS headers", path)
		}
		if !strings.Contains(w.Body.String(), secretPage) {
			return
		}
		ap, err := netip.ParseAddrPort(from)
		if err != nil || !ap.Addr().Unmap().IsLoopback() || origin != "" || !slices.Contains([]string{"", "none", "same-origin"}, site) {
			t.Errorf("%+v sees %q", v, path)
		}
		u, err := url.Parse("http://" + host)
		if err == nil && !strings.EqualFold(u.Hostname(), "localhost") && net.ParseIP(strings.Split(u.Hostname(), "%")[0]) == nil {
			t.Errorf("%+v sees %q under the name %q", v, path, u.Hostname())
		}
	})
}

// How the cluster is may be known to whoever is known, and on this machine.
func TestReportIsForTheKnown(t *testing.T) {
	h := &Health{Metrics: NewMetrics()}
	report := func(context.Context) any { return secretPage }
	for name, c := range map[string]struct {
		v    visit
		who  Who
		want int
	}{
		"nothing is checked": {visit{from: "192.0.2.7:40000", host: "192.0.2.1:2379"}, Who{}, http.StatusOK},
		"nobody":             {visit{from: "192.0.2.7:40000", host: "192.0.2.1:2379"}, Who{Known: knowsTheWord}, http.StatusForbidden},
		"on this machine":    {visit{from: "127.0.0.1:40000", host: "localhost"}, Who{Known: knowsTheWord}, http.StatusOK},
		"known": {visit{from: "192.0.2.7:40000", host: "192.0.2.1:2379", header: map[string]string{"Authorization": "the word"}},
			Who{Known: knowsTheWord}, http.StatusOK},
	} {
		w := httptest.NewRecorder()
		Handler(h, report, false, c.who).ServeHTTP(w, c.v.request(t, http.MethodGet, ReportPath))
		if w.Code != c.want || strings.Contains(w.Body.String(), secretPage) != (c.want == http.StatusOK) {
			t.Errorf("%s: got %d, %q; want %d", name, w.Code, w.Body, c.want)
		}
	}
}
