// Package v2 answers: how does etcd's v2 API speak?
//
// It reads forms and JSON, asks raftfsm, and writes headers, bodies and errors
// as etcd does up to 3.5. It holds no state but of the requests under way.
package v2

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"limpet/api"
	"limpet/auth"
	"limpet/raftfsm"
	"limpet/v2tree"
)

// path begins what Face serves.
const path = "/v2/"

// Config wires a Face. All fields are needed.
type Config struct {
	ClusterID func() uint64 // the present one
	Node      *raftfsm.Node
	// Caller finds out who sends r; nobody if r does not say, which is no error.
	Caller  func(r *http.Request) (auth.Caller, error)
	Timeout time.Duration // after which a request is given up
	// Serving is closed once this member serves clients: before, it may know less
	// than it has told before it was restarted.
	Serving <-chan struct{}

	API *api.Server // changes the members, and knows the quota
	// Hash hashes a password, for somebody at host, as etcd's v3 requests carry it.
	Hash    func(ctx context.Context, host, password string) (string, error)
	Started time.Time // when this process began
	Logger  *slog.Logger
}

// Face is etcd's v2 API. It may be used concurrently.
type Face struct {
	cfg   Config
	mux   *http.ServeMux
	lines lines
}

// New returns a Face.
func New(cfg Config) *Face {
	f := &Face{cfg: cfg, mux: http.NewServeMux()}
	f.mux.HandleFunc(keysPath, f.keys)
	f.mux.HandleFunc(keysPath+"/", f.keys)
	f.mux.HandleFunc(membersPath, f.members)
	f.mux.HandleFunc(membersPath+"/", f.members)
	f.mux.HandleFunc(machinesPath, f.machines)
	f.mux.HandleFunc(statsPath+"self", f.selfStats)
	f.mux.HandleFunc(statsPath+"leader", f.leaderStats)
	f.mux.HandleFunc(statsPath+"store", f.storeStats)
	f.mux.HandleFunc(rolesPath, f.roles)
	f.mux.HandleFunc(rolesPath+"/", f.roles)
	f.mux.HandleFunc(usersPath, f.users)
	f.mux.HandleFunc(usersPath+"/", f.users)
	f.mux.HandleFunc(enablePath, f.enable)
	return f
}

// Beside serves the paths of the v2 API, and everything else by other.
func (f *Face) Beside(other http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case !strings.HasPrefix(r.URL.Path, path):
			other.ServeHTTP(w, r)
		case f.awaitServing(r):
			f.mux.ServeHTTP(w, r)
		default:
			writeMessage(w, http.StatusServiceUnavailable, "this member does not serve clients yet: ask again, or another one")
		}
	})
}

// awaitServing reports whether this member serves clients by the time at which r
// is given up.
func (f *Face) awaitServing(r *http.Request) bool {
	select {
	case <-f.cfg.Serving:
		return true
	default:
	}
	timer := time.NewTimer(f.cfg.Timeout)
	defer timer.Stop()
	select {
	case <-f.cfg.Serving:
		return true
	case <-timer.C:
	case <-r.Context().Done():
	}
	return false
}

// allow reports whether r has one of the methods, and answers it if not (etcd
// allowMethod).
func allow(w http.ResponseWriter, r *http.Request, methods ...string) bool {
	for _, m := range methods {
		if r.Method == m {
			return true
		}
	}
	w.Header().Set("Allow", strings.Join(methods, ","))
	http.Error(w, "Method Not Allowed", http.StatusMethodNotAllowed)
	return false
}

// sign says whose answer it is.
func (f *Face) sign(w http.ResponseWriter) {
	w.Header().Set("X-Etcd-Cluster-Id", strconv.FormatUint(f.cfg.ClusterID(), 16))
}

// statuses are those of the errors that are not 400 (etcd errorStatus).
var statuses = map[v2tree.Code]int{
	v2tree.KeyNotFound:   http.StatusNotFound,
	v2tree.NotFile:       http.StatusForbidden,
	v2tree.DirNotEmpty:   http.StatusForbidden,
	v2tree.Unauthorized:  http.StatusUnauthorized,
	v2tree.CompareFailed: http.StatusPreconditionFailed,
	v2tree.NodeExists:    http.StatusPreconditionFailed,
	v2tree.RaftInternal:  http.StatusInternalServerError,
	v2tree.LeaderElect:   http.StatusInternalServerError,
}

// writeError answers a request for keys with an error.
func writeError(w http.ResponseWriter, e *v2tree.Error) {
	status, ok := statuses[e.Code]
	if !ok {
		status = http.StatusBadRequest
	}
	w.Header().Set("X-Etcd-Index", strconv.FormatUint(e.Index, 10))
	writeJSON(w, status, e)
}

// writeMessage answers a request for anything but keys with an error. Its body
// has no newline, as etcd's (httptypes.HTTPError).
func writeMessage(w http.ResponseWriter, status int, message string) {
	body, _ := json.Marshal(struct { // a string cannot fail to marshal
		Message string `json:"message"`
	}{message})
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(body) // a client that has gone learns nothing
}

// writeJSON answers with v, which can be marshalled, and a newline.
func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // a client that has gone learns nothing
}
