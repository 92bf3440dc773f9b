package e2e

import (
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"limpet/e2e/side"
)

// TestHTTP compares what the client port says to plain HTTP/1, in health and under alarms.
func TestHTTP(t *testing.T) {
	pair := side.NewPair(t, subject())
	steps := []side.HTTP{
		{Method: "GET", Path: "/version"},
		{Method: "GET", Path: "/version/"},
		{Method: "GET", Path: "/version?x=y"},
		{Method: "POST", Path: "/version"},
		{Method: "PUT", Path: "/version", Body: "x"},
		{Method: "HEAD", Path: "/version"},
		{Method: "GET", Path: "/"},
		{Method: "GET", Path: "/nothing/here"},
		{Method: "POST", Path: "/nothing"},
		{Method: "GET", Path: "/metrics/x"},
		{Method: "GET", Path: "/debug/pprof/"},
		{Method: "GET", Path: "/debug/requests"},
		{Method: "POST", Path: "/etcdserverpb.KV/Range", Header: map[string]string{"Content-Type": "application/grpc"}},
		{Method: "GET", Path: "/etcdserverpb.KV/Range"},
	}
	for _, s := range steps {
		t.Run(s.Method+" "+s.Path, func(t *testing.T) { pair.On(t).Do(s) })
	}

	alarm := func(action pb.AlarmRequest_AlarmAction, typ pb.AlarmType) {
		pair.On(t).Do(side.Call{
			Method:  "/etcdserverpb.Maintenance/Alarm",
			Request: &pb.AlarmRequest{Action: action, Alarm: typ, MemberID: side.NeutralMember},
		})
	}
	t.Run("healthy", func(t *testing.T) { health(t, pair) })
	alarm(pb.AlarmRequest_ACTIVATE, pb.AlarmType_NOSPACE)
	t.Run("NOSPACE", func(t *testing.T) { health(t, pair) })
	alarm(pb.AlarmRequest_ACTIVATE, pb.AlarmType_CORRUPT)
	t.Run("NOSPACE and CORRUPT", func(t *testing.T) { health(t, pair) })
	alarm(pb.AlarmRequest_DEACTIVATE, pb.AlarmType_NOSPACE)
	t.Run("CORRUPT", func(t *testing.T) { health(t, pair) })
	alarm(pb.AlarmRequest_DEACTIVATE, pb.AlarmType_CORRUPT)
	t.Run("healthy again", func(t *testing.T) { health(t, pair) })
}

// TestCORS compares what browsers are told.
func TestCORS(t *testing.T) {
	pair := side.NewPair(t, subject())
	for _, method := range []string{"GET", "POST", "OPTIONS"} {
		for _, path := range []string{"/version", "/health", "/nothing"} {
			for _, header := range []map[string]string{nil, {"Origin": "http://example.org"}} {
				pair.Do(side.HTTP{Method: method, Path: path, Header: header, CORS: true})
			}
		}
	}
}

// health asks everything that can be asked of the three health paths. Of two alarms etcd names
// whichever comes first in a map, so that /health is left out when there are two.
func health(t *testing.T, pair *side.Pair) {
	paths := []string{
		"/livez", "/livez?verbose", "/livez?exclude=serializable_read", "/livez?verbose&exclude=serializable_read", "/livez?exclude=x", "/livez?verbose&exclude=x",
		"/livez?verbose=false", "/livez?exclude=", "/livez?allowlist=x",
		"/livez/serializable_read", "/livez/data_corruption", "/livez/x", "/livez/", "/livez/serializable_read?verbose",
		"/readyz", "/readyz?verbose", "/readyz?exclude=data_corruption", "/readyz?exclude=data_corruption&exclude=non_learner&verbose", "/readyz?exclude=x&verbose",
		"/readyz?allowlist=data_corruption&verbose", "/readyz?allowlist=data_corruption&exclude=data_corruption",
		"/readyz/data_corruption", "/readyz/serializable_read", "/readyz/linearizable_read", "/readyz/non_learner", "/readyz/x", "/readyz/",
		"/readyz/data_corruption?verbose", "/readyz/linearizable_read?exclude=linearizable_read",
	}
	if !strings.HasSuffix(t.Name(), "NOSPACE_and_CORRUPT") {
		paths = append(paths, "/health")
	}
	paths = append(paths,
		"/health?exclude=NOSPACE&exclude=CORRUPT", "/health?serializable=true&exclude=NOSPACE", "/health?serializable=nonsense&exclude=CORRUPT",
		"/health?exclude=NOSPACE", "/health?exclude=CORRUPT", "/health?exclude=x&exclude=NOSPACE", "/health/", "/health/x")
	for _, path := range paths {
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "DELETE"} {
			if method != "GET" && strings.ContainsAny(path, "?") {
				continue
			}
			pair.On(t).Do(side.HTTP{Method: method, Path: path, Unordered: true})
		}
	}
}
