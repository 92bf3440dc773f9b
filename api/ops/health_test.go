package ops

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// brokenHealth is that of a member under an alarm, with a disk that cannot be
// written.
func brokenHealth() *Health {
	return &Health{
		Alarms:    func() []*pb.AlarmMember { return []*pb.AlarmMember{{MemberID: 1, Alarm: pb.AlarmType_NOSPACE}} },
		HasLeader: func() bool { return true },
		Learner:   func() bool { return false },
		Disk:      func() error { return errors.New("the disk is full") },
		Read:      func(context.Context, bool) error { return nil },
		Logger:    slog.New(slog.DiscardHandler),
		Metrics:   NewMetrics(),
	}
}

// FuzzHealthQuery: whatever is asked for, a check that fails is passed over
// only by its own name, and the answer is one that etcd knows.
func FuzzHealthQuery(f *testing.F) {
	for _, q := range []string{"", "exclude=data_corruption", "exclude=a&exclude=b&verbose", "exclude=%zz", "verbose=&serializable=true", "exclude;exclude=disk", "%00=&&=="} {
		f.Add("GET", "readyz", q)
	}
	f.Add("POST", "livez/serializable_read", "verbose")
	f.Add("HEAD", "health", "exclude=NOSPACE")
	handler := MetricsHandler(brokenHealth())
	f.Fuzz(func(t *testing.T, method, path, query string) {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Method, r.URL.Path, r.URL.RawQuery = method, "/"+path, query
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		known := []int{200, 301, 307, 404, 405, 503}
		if !slices.Contains(known, w.Code) {
			t.Errorf("%s /%s?%s: got %d, want one of %v", method, path, query, w.Code, known)
		}
		if method != http.MethodGet || w.Code != http.StatusOK {
			return
		}
		excluded := r.URL.Query()["exclude"]
		if path == "readyz" && !slices.Contains(excluded, "disk") {
			t.Errorf("/readyz?%s is well, and the disk is not", query)
		}
		if path == "health" && !slices.Contains(excluded, "NOSPACE") {
			t.Errorf("/health?%s is well under an alarm", query)
		}
	})
}
