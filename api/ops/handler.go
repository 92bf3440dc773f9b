package ops

import (
	"context"
	"encoding/json"
	"net/http"

	"limpet/api"
)

// ReportPath is where the client port tells how the cluster is, as JSON.
const ReportPath = "/limpet/v1/cluster"

// serveReport answers with what report returns, as JSON.
func serveReport(report func(context.Context) any) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !onlyGet(w, r) {
			return
		}
		body, err := json.Marshal(report(r.Context()))
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(body)
	}
}

// Who tells who sends a request. Its functions may be called concurrently.
type Who struct {
	Root  func(*http.Request) bool // may look inside the process; nil: nobody from elsewhere
	Known func(*http.Request) bool // may see how the cluster is; nil: anybody
}

// Handler serves everything of this package that belongs on the client port.
// Whoever asks on this machine need not be known.
func Handler(h *Health, report func(context.Context) any, profiles bool, who Who) http.Handler {
	mux := probes(h)
	mux.HandleFunc(ReportPath, known(who.Known, serveReport(report)))
	mux.HandleFunc("/version", serveVersion)
	mux.Handle(debugPath, inside(who.Root, debugPages(h.Metrics, profiles)))
	return mux
}

// known lets those through to a page who are on this machine, or whom known knows.
func known(known func(*http.Request) bool, page http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if onThisMachine(r) || known == nil || known(r) {
			page(w, r)
			return
		}
		http.Error(w, "limpet: authentication is enabled: ask as a user, with its token in the header Authorization, or on this machine", http.StatusForbidden)
	}
}

// Early serves while the member is not in its cluster yet; waits tells what for.
// The process is live, and not ready.
func Early(waits func() string, report func(context.Context) any) http.Handler {
	reason := func() string {
		if what := waits(); what != "" {
			return "this member waits " + what
		}
		return "this member is starting"
	}
	mux := http.NewServeMux()
	mux.HandleFunc(ReportPath, serveReport(report))
	mux.HandleFunc("/version", serveVersion)
	mux.HandleFunc("/livez", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) })
	mux.HandleFunc("/readyz", func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "[-]started failed: "+reason(), http.StatusServiceUnavailable)
	})
	mux.HandleFunc("/health", func(w http.ResponseWriter, _ *http.Request) {
		body, _ := json.Marshal(map[string]string{"health": "false", "reason": reason()}) // strings cannot fail
		http.Error(w, string(body), http.StatusServiceUnavailable)
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, reason(), http.StatusServiceUnavailable)
	})
	return mux
}

// MetricsHandler serves what belongs on the metrics listener: metrics and
// health, nothing that reveals data.
func MetricsHandler(h *Health) http.Handler { return probes(h) }

func probes(h *Health) *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("/health", h.serveHealth)
	h.install(mux, "livez", h.live())
	h.install(mux, "readyz", h.ready())
	mux.Handle("/metrics", h.Metrics.Handler())
	return mux
}

func serveVersion(w http.ResponseWriter, r *http.Request) {
	if !onlyGet(w, r) {
		return
	}
	body, _ := json.Marshal(struct { // strings cannot fail to marshal
		Server  string `json:"etcdserver"`
		Cluster string `json:"etcdcluster"`
		Storage string `json:"storage"`
	}{api.Version, api.ClusterVersion, api.ClusterVersion})
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(body)
}
