package ops

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/status"
)

// Health answers whether the member is well. Its functions are the member's;
// all must be set and safe for concurrent use.
type Health struct {
	Alarms    func() []*pb.AlarmMember
	HasLeader func() bool
	Learner   func() bool
	// Disk is nil while the database can be written.
	Disk func() error
	// Read makes a read, linearizable or local.
	Read func(ctx context.Context, serializable bool) error

	Logger  *slog.Logger
	Metrics *Metrics
}

// serveHealth is etcd's old answer: a JSON object whose health is the string
// "true" or "false".
func (h *Health) serveHealth(w http.ResponseWriter, r *http.Request) {
	if !onlyGet(w, r) {
		return
	}
	query := r.URL.Query()
	reason := h.unwell(r.Context(), query["exclude"], query.Get("serializable") == "true")
	body, _ := json.Marshal(struct { // two strings cannot fail to marshal
		Health string `json:"health"`
		Reason string `json:"reason"`
	}{fmt.Sprint(reason == ""), reason})
	if reason != "" {
		h.Metrics.HealthFailures.Inc()
		h.Logger.Warn("/health answers false", "reason", reason)
		http.Error(w, string(body), http.StatusServiceUnavailable)
		return
	}
	h.Metrics.HealthSuccess.Inc()
	_, _ = w.Write(body)
}

// unwell is why /health answers false; empty if it does not.
func (h *Health) unwell(ctx context.Context, exclude []string, serializable bool) string {
	for _, a := range h.Alarms() {
		if !slices.Contains(exclude, a.Alarm.String()) {
			return "ALARM " + a.Alarm.String()
		}
	}
	if !serializable && !h.HasLeader() {
		return "RAFT NO LEADER"
	}
	if err := h.Read(ctx, serializable); err != nil {
		return "RANGE ERROR:" + sentence(err)
	}
	return ""
}

// sentence is an error's text without gRPC's decoration.
func sentence(err error) string {
	if s, ok := status.FromError(err); ok {
		return s.Message()
	}
	return err.Error()
}

type check struct {
	name string
	run  func(ctx context.Context) error
}

// live lists what must hold for the process to be kept, ready what must hold
// for clients to be sent here.
func (h *Health) live() []check {
	return []check{{"serializable_read", h.serializableRead}}
}

func (h *Health) ready() []check {
	return []check{
		{"data_corruption", h.noCorruption},
		{"serializable_read", h.serializableRead},
		{"linearizable_read", func(ctx context.Context) error { return h.read(ctx, false) }},
		{"non_learner", func(context.Context) error {
			if h.Learner() {
				return errors.New("not supported for learner")
			}
			return nil
		}},
		// limpet's own: a database that cannot be written stops everything soon.
		{"disk", func(context.Context) error { return h.Disk() }},
	}
}

func (h *Health) serializableRead(ctx context.Context) error { return h.read(ctx, true) }

func (h *Health) read(ctx context.Context, serializable bool) error {
	if err := h.Read(ctx, serializable); err != nil {
		return errors.New(sentence(err))
	}
	return nil
}

func (h *Health) noCorruption(context.Context) error {
	for _, a := range h.Alarms() {
		if a.Alarm == pb.AlarmType_CORRUPT {
			return errors.New("alarm activated: CORRUPT")
		}
	}
	return nil
}

// install adds /kind and /kind/check for each check.
func (h *Health) install(mux *http.ServeMux, kind string, checks []check) {
	mux.HandleFunc("/"+kind, func(w http.ResponseWriter, r *http.Request) {
		exclude := r.URL.Query()["exclude"]
		var chosen []check
		for _, c := range checks {
			if !slices.Contains(exclude, c.name) {
				chosen = append(chosen, c)
			}
		}
		h.serveChecks(w, r, kind, chosen)
	})
	for _, c := range checks {
		mux.HandleFunc("/"+kind+"/"+c.name, func(w http.ResponseWriter, r *http.Request) {
			h.serveChecks(w, r, kind, []check{c})
		})
	}
}

func (h *Health) serveChecks(w http.ResponseWriter, r *http.Request, kind string, checks []check) {
	if !onlyGet(w, r) {
		return
	}
	var report bytes.Buffer
	failed := false
	for _, c := range checks {
		err := c.run(r.Context())
		h.Metrics.check(kind, c.name, err)
		if err != nil {
			failed = true
			fmt.Fprintf(&report, "[-]%s failed: %v\n", c.name, err)
		} else {
			fmt.Fprintf(&report, "[+]%s ok\n", c.name)
		}
	}
	if failed {
		h.Logger.Warn("health check failed", "path", r.URL.Path, "report", report.String())
		http.Error(w, report.String(), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if r.URL.Query().Has("verbose") {
		_, _ = w.Write(report.Bytes())
	}
	_, _ = w.Write([]byte("ok\n"))
}

func onlyGet(w http.ResponseWriter, r *http.Request) bool {
	if r.Method == http.MethodGet {
		return true
	}
	w.Header().Set("Allow", http.MethodGet)
	http.Error(w, "Method Not Allowed", http.StatusMethodNotAllowed)
	return false
}
