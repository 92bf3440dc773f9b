package server

import (
	"bufio"
	"database/sql/driver"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"limpet/api/look"
	"limpet/login"
)

// lookAt asks a member for one of the pages of package look.
func (m *member) lookAt(path string, query url.Values, token string) (status int, body string) {
	m.t.Helper()
	r, err := http.NewRequestWithContext(m.t.Context(), http.MethodGet, m.cfg.ListenClientURLs[0]+path+"?"+query.Encode(), nil)
	if err != nil {
		m.t.Fatal(err)
	}
	if token != "" {
		r.Header.Set("Authorization", token)
	}
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(r)
	if err != nil {
		m.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		m.t.Fatal(err)
	}
	return resp.StatusCode, string(data)
}

// history is that of keys as the member tells it; it must be whole.
func (m *member) history(query url.Values) (changes []look.Change, more bool) {
	m.t.Helper()
	status, body := m.lookAt(look.HistoryPath, query, "")
	if status != http.StatusOK {
		m.t.Fatalf("history of %v: %d, %s", query, status, body)
	}
	lines := bufio.NewScanner(strings.NewReader(body))
	lines.Buffer(nil, 16<<20)
	var last look.Line
	for n := 0; lines.Scan(); n++ {
		last = look.Line{}
		if err := json.Unmarshal(lines.Bytes(), &last); err != nil || (last.Head != nil) != (n == 0) {
			m.t.Fatalf("line %d: %.200s, %v", n, lines.Text(), err)
		}
		if last.Change != nil {
			changes = append(changes, *last.Change)
		}
	}
	if last.End == nil {
		m.t.Fatalf("history of %v has no end: %s", query, body)
	}
	return changes, last.End.More
}

func (m *member) found(query url.Values) look.Found {
	m.t.Helper()
	status, body := m.lookAt(look.RevisionPath, query, "")
	var f look.Found
	if err := json.Unmarshal([]byte(body), &f); status != http.StatusOK || err != nil {
		m.t.Fatalf("revision of %v: %d, %s, %v", query, status, body, err)
	}
	return f
}

// Every member tells the same history, with the same times, from memory and from
// disk, before a compaction and after it.
func TestHistoryIsTheSameEverywhere(t *testing.T) {
	members := startThree(t)
	m := members[0]
	m.put("a", "1")
	members[1].put("a", "22")
	m.put("b", "x")
	if _, err := members[2].kv.DeleteRange(t.Context(), &pb.DeleteRangeRequest{Key: []byte("a")}); err != nil {
		t.Fatal(err)
	}
	last := members[1].put("a", "again")
	same := func(what string, query url.Values, want int) []look.Change {
		t.Helper()
		first, _ := m.history(query)
		if len(first) != want {
			t.Errorf("%s: got %d changes, want %d: %+v", what, len(first), want, first)
		}
		for _, other := range members[1:] {
			if got, _ := other.history(query); !reflect.DeepEqual(got, first) {
				t.Errorf("%s: two members tell\n%+v\n%+v", what, first, got)
			}
		}
		return first
	}
	now := time.Now().UnixMilli()
	a := same("a", url.Values{"key": {"a"}, "values": {"true"}}, 4)
	for i, want := range []look.Change{{Version: 1, Size: 1, Before: -1, Value: []byte("1")}, {Version: 2, Size: 2, Before: 1, Value: []byte("22")}, {Before: 2}, {Version: 1, Size: 5, Before: -1, Value: []byte("again")}} {
		got := a[i]
		if got.Version != want.Version || got.Size != want.Size || got.Before != want.Before || string(got.Value) != string(want.Value) {
			t.Errorf("change %d: got %+v, want %+v", i, got, want)
		}
		if got.Time < now-60000 || got.Time > now {
			t.Errorf("change %d: its time is %d, and now it is %d", i, got.Time, now)
		}
	}
	if f := m.found(url.Values{"at": {fmt.Sprint(now)}}); f.Found == nil || f.Found.Revision != last || f.Newest.Revision != last {
		t.Errorf("now: got %+v, want revision %d", f, last)
	}
	if f := m.found(url.Values{"at": {"1"}}); f.Found != nil || f.Oldest != (look.Moment{Revision: a[0].Revision, Time: a[0].Time}) {
		t.Errorf("in 1970: got %+v, want nothing, and where history begins", f)
	}
	if _, err := m.kv.Compact(t.Context(), &pb.CompactionRequest{Revision: a[1].Revision, Physical: true}); err != nil {
		t.Fatal(err)
	}
	for _, m := range members {
		if err := m.store.WaitDurable(t.Context(), m.store.Applied()); err != nil {
			t.Fatal(err)
		}
	}
	same("a, compacted", url.Values{"key": {"a"}}, 3)
	same("all", url.Values{"key": {"\x00"}, "range_end": {"\x00"}, "limit": {"2"}}, 2)
	if f := m.found(url.Values{"revision": {fmt.Sprint(a[0].Revision)}}); f.Found != nil || f.Oldest.Revision != a[1].Revision || f.Oldest.Time != a[1].Time {
		t.Errorf("a compacted revision: got %+v, want nothing, and where history begins", f)
	}
}

// What makes no sense is refused with a word, and costs nothing.
func TestHostileHistory(t *testing.T) {
	m := start(t, newConfig(t))
	binary := string([]byte{0, 255, '/', '&', '='})
	m.put(binary, strings.Repeat("x", 1<<20))
	m.put(binary, "")
	if got, _ := m.history(url.Values{"key": {binary}, "values": {"true"}}); len(got) != 2 || string(got[0].Key) != binary || len(got[0].Value) != 1<<20 || got[1].Before != 1<<20 {
		t.Errorf("a binary key with a large value: got %d changes", len(got))
	}
	if got, more := m.history(url.Values{"key": {"nothing"}}); len(got) != 0 || more {
		t.Errorf("a key that never was: got %+v", got)
	}
	for _, raw := range []string{
		"", "key=", "key=a&limit=0", "key=a&limit=-1", "key=a&limit=10001", "key=a&limit=99999999999999999999", "key=a&limit=x",
		"key=a&from=-1", "key=a&from=9223372036854775807", "key=a&after=-1", "key=a&oldest=perhaps", "key=a&key=b", "key=a&rage_end=b", "key=%zz", "key=a;b",
	} {
		if status, body := m.page(look.HistoryPath + "?" + raw); status != http.StatusBadRequest || !strings.HasPrefix(body, "limpet: ") && !strings.Contains(body, "key") {
			t.Errorf("history?%s: got %d, %s", raw, status, body)
		}
	}
	for _, raw := range []string{"at=-5", "at=x", "revision=-1", "revision=9223372036854775807", "at=1&revision=1", "when=now", "at=1&at=2"} {
		if status, body := m.page(look.RevisionPath + "?" + raw); status != http.StatusBadRequest {
			t.Errorf("revision?%s: got %d, %s", raw, status, body)
		}
	}
	for _, raw := range []string{"at=9223372036854775807", "revision=0", "revision=1", "revision=99", "local=true", ""} {
		if status, body := m.page(look.RevisionPath + "?" + raw); status != http.StatusOK || !strings.Contains(body, `"newest":{"revision":3`) {
			t.Errorf("revision?%s: got %d, %s", raw, status, body)
		}
	}
	resp, err := http.Post(m.cfg.ListenClientURLs[0]+look.HistoryPath+"?key=a", "text/plain", nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	http.DefaultClient.CloseIdleConnections()
	if resp.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST: got %d", resp.StatusCode)
	}
}

func (m *member) page(path string) (status int, body string) {
	m.t.Helper()
	return httpGet(m.t, m.cfg.ListenClientURLs[0]+path)
}

// Who may not read keys does not see their history, on this machine either.
func TestHistoryRights(t *testing.T) {
	cfg := newConfig(t)
	cfg.Login.Cost = login.MinCost
	m := start(t, cfg)
	m.put("open/1", "o")
	m.put("secret/1", "s")
	users := pb.NewAuthClient(m.conn)
	for _, err := range []error{
		second(users.UserAdd(t.Context(), &pb.AuthUserAddRequest{Name: "ann", Password: "pw"})),
		second(users.RoleAdd(t.Context(), &pb.AuthRoleAddRequest{Name: "reader"})),
		second(users.RoleGrantPermission(t.Context(), &pb.AuthRoleGrantPermissionRequest{Name: "reader", Perm: &authpb.Permission{Key: []byte("open/"), RangeEnd: []byte("open0")}})),
		second(users.UserGrantRole(t.Context(), &pb.AuthUserGrantRoleRequest{User: "ann", Role: "reader"})),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	enableAuth(t, m)
	token := func(name string) string {
		resp, err := users.Authenticate(t.Context(), &pb.AuthenticateRequest{Name: name, Password: "pw"})
		if err != nil {
			t.Fatal(err)
		}
		return resp.Token
	}
	ann, root := token("ann"), token("root")
	for _, c := range []struct {
		query  string
		token  string
		status int
	}{
		{"key=open/1&values=true", "", http.StatusUnauthorized},
		{"key=open/1&values=true", "nonsense", http.StatusUnauthorized},
		{"key=open/1&values=true", ann, http.StatusOK},
		{"key=open/1&values=true", "Bearer " + ann, http.StatusOK},
		{"key=open/&range_end=open0", ann, http.StatusOK},
		{"key=open/&range_end=open1", ann, http.StatusForbidden},
		{"key=open/1&range_end=%00", ann, http.StatusForbidden},
		{"key=secret/1&values=true", ann, http.StatusForbidden},
		{"key=secret/1&values=true", "", http.StatusUnauthorized},
		{"key=secret/1&local=true", "", http.StatusUnauthorized},
		{"key=secret/1&local=true", ann, http.StatusForbidden},
		{"key=%00&range_end=%00", root, http.StatusOK},
	} {
		query, err := url.ParseQuery(c.query)
		if err != nil {
			t.Fatal(err)
		}
		status, body := m.lookAt(look.HistoryPath, query, c.token)
		if status != c.status || status != http.StatusOK && strings.Contains(body, `"key"`) {
			t.Errorf("%s as %q: got %d, %s, want %d", c.query, c.token, status, body, c.status)
		}
	}
	for as, want := range map[string]int{"": http.StatusUnauthorized, "nonsense": http.StatusUnauthorized, ann: http.StatusOK} {
		if status, body := m.lookAt(look.RevisionPath, nil, as); status != want {
			t.Errorf("revision as %q: got %d, %s, want %d", as, status, body, want)
		}
	}
}

// The answers to SQL are up to date while the member runs, and the same when it has
// stopped; what is asked of the wrong file is refused.
func TestAskDatabase(t *testing.T) {
	m := start(t, newConfig(t))
	m.put("a", "1")
	dir := m.cfg.DataDir
	ask := func(want string) {
		t.Helper()
		var got string
		err := AskDatabase(t.Context(), dir, "SELECT value FROM revisions ORDER BY id DESC LIMIT 1", Answer{
			Columns: func([]string) error { return nil },
			Row:     func(v []driver.Value) error { got = string(v[0].([]byte)); return nil },
		})
		if err != nil || got != want {
			t.Errorf("got %q, %v, want %q", got, err, want)
		}
	}
	ask("1")
	m.put("a", "2")
	ask("2")
	file := filepath.Join(dir, databaseName)
	if err := AskSnapshot(t.Context(), file, "SELECT 1", Answer{}); err == nil || !strings.Contains(err.Error(), "--data-dir") {
		t.Errorf("a live database as a snapshot: got %v", err)
	}
	m.stop()
	ask("2")
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	ask("2")
	if after, err := os.ReadFile(file); err != nil || string(after) != string(before) {
		t.Errorf("the file of a stopped member has changed, %v", err)
	}
	if err := AskDatabase(t.Context(), t.TempDir(), "SELECT 1", Answer{}); err == nil || !strings.Contains(err.Error(), "no data directory") {
		t.Errorf("an empty folder: got %v", err)
	}
	again := start(t, m.cfg)
	again.wantValue("a", "2")
	ask("2")
	if err := again.store.Err(); err != nil {
		t.Error(err)
	}
}
