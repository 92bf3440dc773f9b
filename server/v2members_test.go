package server

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"limpet/v2tree"
)

// v2Face is a member's v2 API, without a network before it: who asks from where
// is the test's choice.
type v2Face struct {
	t testing.TB
	http.Handler
	clusterID string
}

func faceOf(m *member) *v2Face {
	return &v2Face{m.t, m.v2Face().Beside(http.NotFoundHandler()), fmt.Sprintf("%x", m.clusterID())}
}

// ask sends a request; as is user:password, or empty.
func (f *v2Face) ask(method, path, as, body string, change ...func(*http.Request)) *httptest.ResponseRecorder {
	f.t.Helper()
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	if name, password, ok := strings.Cut(as, ":"); ok {
		r.SetBasicAuth(name, password)
	}
	for _, c := range change {
		c(r)
	}
	w := httptest.NewRecorder()
	f.ServeHTTP(w, r)
	return w
}

// step is a request and what is to come of it. In the body, ID stands for any ID.
type step struct {
	method, path, as, body string
	status                 int
	want                   string
}

var anyID = regexp.MustCompile(`"(id|leader)":"[0-9a-f]+"`)

func (f *v2Face) play(steps []step) {
	f.t.Helper()
	for _, s := range steps {
		w := f.ask(s.method, s.path, s.as, s.body)
		got := anyID.ReplaceAllString(strings.TrimSuffix(w.Body.String(), "\n"), `"$1":"ID"`)
		if w.Code != s.status || got != s.want {
			f.t.Errorf("%s %s as %q %s:\ngot  %d %s\nwant %d %s", s.method, s.path, s.as, s.body, w.Code, got, s.status, s.want)
		}
		id := w.Header().Get("X-Etcd-Cluster-Id")
		if want := s.status != http.StatusUnauthorized && s.want != `{"message":"Invalid path"}` && !strings.Contains(s.want, "Method Not Allowed"); want != (id == f.clusterID) {
			f.t.Errorf("%s %s: X-Etcd-Cluster-Id is %q", s.method, s.path, id)
		}
	}
}

func TestV2Members(t *testing.T) {
	cfg := newConfig(t)
	m := start(t, cfg)
	f := faceOf(m)
	self := fmt.Sprintf(`{"id":"ID","name":%q,"peerURLs":[%q],"clientURLs":[%q]}`, cfg.Name, cfg.AdvertisePeerURLs[0], cfg.AdvertiseClientURLs[0])
	own := fmt.Sprintf("/v2/members/%x", m.dir.now().member())
	f.play([]step{
		{"GET", "/v2/members", "", "", 200, `{"members":[` + self + `]}`},
		{"GET", "/v2/members/", "", "", 200, `{"members":[` + self + `]}`},
		{"GET", "/v2/members/leader", "", "", 200, self},
		{"GET", own, "", "", 404, `{"message":"Not found"}`},
		{"POST", "/v2/members", "", `{"peerURLs":["bad"]}`, 400, `{"message":"URL scheme must be http, https, unix, or unixs: bad"}`},
		{"POST", "/v2/members", "", `{"peerURLs":["http://h"]}`, 400, `{"message":"URL address does not have the form \"host:port\": http://h"}`},
		{"POST", "/v2/members", "", `{"peerURLs":["http://h:1/p"]}`, 400, `{"message":"URL must not contain a path: http://h:1/p"}`},
		{"POST", "/v2/members", "", `{"peerURLs":["http://h:1%"]}`, 400, `{"message":"parse \"http://h:1%\": invalid port \":1%\" after host"}`},
		{"POST", "/v2/members", "", `{}`, 400, `{"message":"no valid URLs given"}`},
		{"POST", "/v2/members", "", ``, 400, `{"message":"unexpected end of JSON input"}`},
		{"POST", "/v2/members", "", strings.Repeat(" ", 2<<20), 400, `{"message":"http: request body too large"}`},
		{"POST", "/v2/members", "", fmt.Sprintf(`{"peerURLs":[%q]}`, cfg.AdvertisePeerURLs[0]), 409, `{"message":"membership: peerURL exists"}`},
		{"PUT", own, "", `{"peerURLs":[]}`, 400, `{"message":"no valid URLs given"}`},
		{"PUT", "/v2/members/01234", "", `{"peerURLs":["http://h:1"]}`, 404, `{"message":"No such member: 1234"}`},
		{"PUT", "/v2/members/xyz", "", `{"peerURLs":["http://h:1"]}`, 404, `{"message":"No such member: xyz"}`},
		{"DELETE", "/v2/members/1234", "", "", 404, `{"message":"No such member: 1234"}`},
		{"DELETE", "/v2/members/xyz", "", "", 404, `{"message":"No such member: xyz"}`},
		{"POST", "/v2/members", "", `{"peerURLs":["http://127.0.0.1:9"," http://127.0.0.1:10 "],"name":"ignored"}`, 201,
			`{"id":"ID","name":"","peerURLs":["http://127.0.0.1:10","http://127.0.0.1:9"],"clientURLs":[]}`},
	})
	var all struct {
		Members []struct{ ID, Name string }
	}
	if err := json.Unmarshal(f.ask("GET", "/v2/members", "", "").Body.Bytes(), &all); err != nil || len(all.Members) != 2 {
		t.Fatalf("members %+v, %v", all, err)
	}
	added := all.Members[0].ID
	if all.Members[0].Name != "" {
		added = all.Members[1].ID
	}
	f.play([]step{
		// One of two has started: another one would end the quorum.
		{"POST", "/v2/members", "", `{"peerURLs":["http://127.0.0.1:11"]}`, 500, `{"message":"Internal Server Error"}`},
		{"PUT", "/v2/members/" + added, "", fmt.Sprintf(`{"peerURLs":[%q]}`, cfg.AdvertisePeerURLs[0]), 409, `{"message":"membership: peerURL exists"}`},
		{"PUT", "/v2/members/" + added, "", `{"peerURLs":["http://127.0.0.1:12"]}`, 204, ""},
		{"DELETE", "/v2/members/" + added, "", "", 204, ""},
		{"DELETE", "/v2/members/" + added, "", "", 410, `{"message":"Member permanently removed: ` + added + `"}`},
		{"GET", "/v2/members", "", "", 200, `{"members":[` + self + `]}`},
	})

	for _, tc := range []struct {
		kind, want string
		status     int
	}{
		{"application/x-www-form-urlencoded", `{"message":"Bad Content-Type application/x-www-form-urlencoded, accept application/json"}`, 415},
		{"", `{"message":"Bad Content-Type , accept application/json"}`, 415},
		{"Application/JSON; charset=utf-8", `{"message":"no valid URLs given"}`, 400},
	} {
		w := f.ask("POST", "/v2/members", "", "{}", func(r *http.Request) { r.Header.Set("Content-Type", tc.kind) })
		if w.Code != tc.status || w.Body.String() != tc.want {
			t.Errorf("Content-Type %q: %d %s, want %d %s", tc.kind, w.Code, w.Body, tc.status, tc.want)
		}
	}
	for _, tc := range []step{
		{method: "PATCH", path: "/v2/members", want: "GET,POST,DELETE,PUT"}, {method: "HEAD", path: "/v2/members", want: "GET,POST,DELETE,PUT"},
		{method: "DELETE", path: "/v2/members"}, {method: "PUT", path: "/v2/members/"},
		{method: "POST", path: "/v2/machines", want: "GET,HEAD"}, {method: "HEAD", path: "/v2/stats/self", want: "GET"},
		{method: "POST", path: "/v2/stats/leader", want: "GET"}, {method: "PUT", path: "/v2/auth/users", want: "GET"},
		{method: "POST", path: "/v2/auth/roles/r", want: "GET,PUT,DELETE"}, {method: "POST", path: "/v2/auth/enable", want: "GET,PUT,DELETE"},
	} {
		w := f.ask(tc.method, tc.path, "", "")
		if allow := w.Header().Get("Allow"); w.Code != 405 || allow != tc.want || w.Body.String() != "Method Not Allowed\n" {
			t.Errorf("%s %s: %d, Allow %q, %s; want 405 and %q", tc.method, tc.path, w.Code, allow, w.Body, tc.want)
		}
	}
}

// slowWriter notes the deadlines of a request's body.
type slowWriter struct {
	*httptest.ResponseRecorder
	deadlines []time.Time
}

func (w *slowWriter) SetReadDeadline(at time.Time) error {
	w.deadlines = append(w.deadlines, at)
	return nil
}

// A body that never ends holds nobody, and a client that is gone has said what it
// wants.
func TestV2BodiesEnd(t *testing.T) {
	f := faceOf(start(t, newConfig(t)))
	for path, body := range map[string]string{"/v2/members/1": `{"peerURLs":["http://h:1"]}`, "/v2/auth/users/u": `{"user":"u","password":"p"}`} {
		w := &slowWriter{ResponseRecorder: httptest.NewRecorder()}
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		r := httptest.NewRequestWithContext(gone, "PUT", path, strings.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		f.ServeHTTP(w, r)
		if len(w.deadlines) != 2 || w.deadlines[0].IsZero() || !w.deadlines[1].IsZero() {
			t.Errorf("%s: deadlines %v, want one, and its end", path, w.deadlines)
		}
		if w.Code >= 500 {
			t.Errorf("%s of a client that is gone: %d %s", path, w.Code, w.Body)
		}
	}
}

func TestV2MachinesAndStats(t *testing.T) {
	members := startThree(t)
	var faces []*v2Face
	var urls []string
	for _, m := range members {
		faces = append(faces, faceOf(m))
		urls = append(urls, m.cfg.AdvertiseClientURLs...)
	}
	lead := -1
	eventually(t, "a leader that all know, and that has sent to all", func() bool {
		lead = -1
		for i, m := range members {
			if m.node.Leading() {
				lead = i
			}
		}
		if lead < 0 {
			return false
		}
		for _, m := range members {
			if m.node.Figures().Leader != members[lead].dir.now().member() {
				return false
			}
		}
		for _, p := range members[lead].node.Progress() {
			if p.Appends.Done == 0 {
				return false
			}
		}
		return len(members[lead].node.Progress()) == 2
	})
	id := func(i int) string { return fmt.Sprintf("%x", members[i].dir.now().member()) }
	for i, f := range faces {
		w := f.ask("GET", "/v2/machines", "", "")
		if got := strings.Split(w.Body.String(), ", "); len(got) != 3 || !sameSet(got, urls) || w.Header().Get("X-Etcd-Cluster-Id") != "" {
			t.Errorf("machines %q, want %q", got, urls)
		}
		var leader struct{ ID string }
		if err := json.Unmarshal(f.ask("GET", "/v2/members/leader", "", "").Body.Bytes(), &leader); err != nil || leader.ID != id(lead) {
			t.Errorf("m%d: leader %+v, %v, want %s", i+1, leader, err, id(lead))
		}
		var self map[string]any
		if err := json.Unmarshal(f.ask("GET", "/v2/stats/self", "", "").Body.Bytes(), &self); err != nil {
			t.Fatal(err)
		}
		state, appends := "StateFollower", "recvAppendRequestCnt"
		if i == lead {
			state, appends = "StateLeader", "sendAppendRequestCnt"
		}
		info := self["leaderInfo"].(map[string]any)
		_, uptimeErr := time.ParseDuration(info["uptime"].(string))
		_, startErr := time.Parse(time.RFC3339Nano, self["startTime"].(string))
		if self["name"] != members[i].cfg.Name || self["id"] != id(i) || self["state"] != state || self[appends].(float64) == 0 ||
			info["leader"] != id(lead) || uptimeErr != nil || startErr != nil {
			t.Errorf("m%d: %v", i+1, self)
		}
		w = f.ask("GET", "/v2/stats/leader", "", "")
		if i != lead {
			if w.Code != 403 || w.Body.String() != `{"message":"not current leader"}` {
				t.Errorf("m%d: stats of a leader: %d %s", i+1, w.Code, w.Body)
			}
			continue
		}
		var stats struct {
			Leader    string
			Followers map[string]struct {
				Latency struct{ Current, Average, StandardDeviation, Minimum, Maximum float64 }
				Counts  struct{ Fail, Success uint64 }
			}
		}
		if err := json.Unmarshal(w.Body.Bytes(), &stats); err != nil || stats.Leader != id(lead) || len(stats.Followers) != 2 {
			t.Errorf("stats of the leader: %s, %v", w.Body, err)
		}
		for j := range members {
			if s := stats.Followers[id(j)]; j != lead && (s.Counts.Success == 0 || s.Latency.Minimum <= 0 || s.Latency.Maximum < s.Latency.Average || s.Latency.Average < s.Latency.Minimum) {
				t.Errorf("stats of m%d: %+v", j+1, s)
			}
		}
	}
}

func sameSet(a, b []string) bool {
	count := map[string]int{}
	for i := range a {
		count[a[i]]++
		count[b[i]]--
	}
	for _, n := range count {
		if n != 0 {
			return false
		}
	}
	return len(a) == len(b)
}

func TestV2StoreStats(t *testing.T) {
	m := start(t, newConfig(t))
	f := faceOf(m)
	for _, q := range []v2tree.Request{
		{Op: v2tree.Set, Path: "/a"}, {Op: v2tree.Create, Path: "/a"}, {Op: v2tree.Create, Path: "/b"}, {Op: v2tree.Update, Path: "/none"},
		{Op: v2tree.Swap, Path: "/a", PrevValue: "x"}, {Op: v2tree.DeleteIf, Path: "/a", PrevValue: "x"}, {Op: v2tree.Delete, Path: "/b"},
	} {
		_, _ = m.node.Propose(t.Context(), &q) // some fail
	}
	for _, key := range []string{"/a", "/none", "/none"} {
		_, _, _ = m.node.V2().Get(key)
	}
	w := f.ask("GET", "/v2/stats/store", "", "")
	want := `{"getsSuccess":1,"getsFail":2,"setsSuccess":1,"setsFail":0,"deleteSuccess":1,"deleteFail":0,"updateSuccess":0,"updateFail":1,"createSuccess":1,"createFail":1,` +
		`"compareAndSwapSuccess":0,"compareAndSwapFail":1,"compareAndDeleteSuccess":0,"compareAndDeleteFail":1,"expireCount":0,"watchers":0}`
	if w.Code != 200 || w.Body.String() != want {
		t.Errorf("got  %d %s\nwant 200 %s", w.Code, w.Body, want)
	}
}
