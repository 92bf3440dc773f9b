package ops

import (
	"encoding/json"
	"expvar"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"slices"
	"strings"
)

// debugPath begins everything that shows the process from within. Invariant: it
// is served through inside only, and never with CORS headers.
const debugPath = "/debug/"

// debugPages are the pages below debugPath. Without profiles they are not there,
// as in etcd.
func debugPages(m *Metrics, profiles bool) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/vars", m.serveVars)
	if profiles {
		mux.HandleFunc("/debug/pprof/", pprof.Index)
		mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	}
	return mux
}

// inside lets those through to pages who may see the process from within: who
// asks on this machine, over loopback or a unix socket, and root; nil: nobody is
// root. etcd shows these pages to everybody.
//
// What a request says of where it comes from, as in X-Forwarded-For, means
// nothing: anybody can write it. A page that a browser on this machine shows can
// send requests to loopback, too, so that what another page asks for is refused
// even to root, and loopback counts only under a name of its own: under another,
// the page's own DNS may have led here (DNS rebinding).
func inside(root func(*http.Request) bool, pages http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case ofAnotherPage(r):
			http.Error(w, "limpet: "+debugPath+" is not for other pages: open it in a window of its own", http.StatusForbidden)
		case onThisMachine(r), root != nil && root(r):
			pages.ServeHTTP(w, r)
		default:
			http.Error(w, "limpet: "+debugPath+" shows the process from within, to root and to this machine: ask there, with localhost or 127.0.0.1 in the URL", http.StatusForbidden)
		}
	})
}

// onThisMachine reports whether r came over a unix socket, whose file's mode says
// who may, or over loopback, to an address or to localhost.
func onThisMachine(r *http.Request) bool {
	if here, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr); ok && here.Network() == "unix" {
		return true
	}
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	return err == nil && from.Addr().Unmap().IsLoopback() && isOwnName(r.Host)
}

// isOwnName reports whether nobody's DNS has a say in where host leads.
func isOwnName(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	_, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil || strings.EqualFold(host, "localhost")
}

// ofAnotherPage reports whether a browser says that a page from elsewhere asks
// (Fetch Metadata; Origin in those that do not know it).
func ofAnotherPage(r *http.Request) bool {
	site := r.Header.Values("Sec-Fetch-Site")
	return len(r.Header.Values("Origin")) > 0 ||
		slices.ContainsFunc(site, func(s string) bool { return s != "none" && s != "same-origin" })
}

// serveVars is /debug/vars: the process's expvars and etcd's two.
func (m *Metrics) serveVars(w http.ResponseWriter, r *http.Request) {
	if !onlyGet(w, r) {
		return
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	_, _ = fmt.Fprint(w, "{\n")
	expvar.Do(func(kv expvar.KeyValue) { _, _ = fmt.Fprintf(w, "%q: %s,\n", kv.Key, kv.Value) })
	raft, _ := json.Marshal(m.src.Node.Status()) // numbers and strings cannot fail to marshal
	_, _ = fmt.Fprintf(w, "\"file_descriptor_limit\": %d,\n\"raft.status\": %s\n}\n", fileLimit(), raft)
}
