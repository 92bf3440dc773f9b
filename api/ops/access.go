package ops

import (
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// anyOf is the element of a list that stands for all there are.
const anyOf = "*"

// Access says from where the client port may be asked over HTTP: etcd's --cors and
// --host-whitelist. An empty list lets everybody.
type Access struct {
	Origins []string // whose pages may read answers, as http://host:port, or anyOf
	Hosts   []string // names by which clients without TLS may call this member, or anyOf
}

func lists(list []string, what string) bool {
	return len(list) == 0 || slices.Contains(list, anyOf) || slices.Contains(list, what)
}

// allowsOrigin reports whether pages of origin may read answers. Browsers leave
// the usual port out of an origin, and the list has it.
func (a *Access) allowsOrigin(origin string) bool {
	return lists(a.Origins, origin) ||
		strings.HasPrefix(origin, "http://") && lists(a.Origins, origin+":80") ||
		strings.HasPrefix(origin, "https://") && lists(a.Origins, origin+":443")
}

// MayConnect reports whether the page that has a browser send r may have a
// websocket: where Origins are listed, a page of those, or of this host. What
// comes over a websocket every page could read otherwise, as it can in etcd.
func (a *Access) MayConnect(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	if origin == "" || a.allowsOrigin(origin) {
		return true
	}
	u, err := url.Parse(origin)
	return err == nil && strings.EqualFold(u.Host, r.Host)
}

// Guard keeps next from whom a does not let, and tells browsers which pages may
// read its answers: the headers are on every answer, and OPTIONS is answered
// anywhere but below debugPath.
func (a *Access) Guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if host := hostOf(r); r.TLS == nil && !lists(a.Hosts, host) {
			http.Error(w, fmt.Sprintf("limpet: this member may not be asked as %q without TLS (a page in your browser could have led here by its own DNS): ask over https, or list the name in --host-whitelist", host), http.StatusMisdirectedRequest)
			return
		}
		if strings.HasPrefix(r.URL.Path, debugPath) {
			next.ServeHTTP(w, r)
			return
		}
		if origin := a.answerFor(r); origin != "" {
			h := w.Header()
			h.Set("Access-Control-Allow-Methods", "POST, GET, OPTIONS, PUT, DELETE")
			h.Set("Access-Control-Allow-Origin", origin)
			h.Set("Access-Control-Allow-Headers", "accept, content-type, authorization")
		}
		if r.Method == http.MethodOptions {
			w.WriteHeader(http.StatusOK)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// answerFor is whose pages may read the answer to r; empty: nobody's.
func (a *Access) answerFor(r *http.Request) string {
	if lists(a.Origins, anyOf) {
		return anyOf
	}
	if origin := r.Header.Get("Origin"); a.allowsOrigin(origin) {
		return origin
	}
	return ""
}

// hostOf is the name by which r calls this member.
func hostOf(r *http.Request) string {
	if host, _, err := net.SplitHostPort(r.Host); err == nil {
		return host
	}
	return r.Host
}
