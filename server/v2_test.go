package server

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// v2Client asks a member's v2 API.
type v2Client struct {
	t    testing.TB
	base string
}

func (m *member) v2() v2Client { return v2Client{m.t, m.cfg.ListenClientURLs[0]} }

type v2Answer struct {
	status int
	header http.Header
	body   string
}

func (a v2Answer) String() string { return strings.TrimSpace(fmt.Sprint(a.status, " ", a.body)) }

// begin sends METHOD PATH [FORM].
func (v v2Client) begin(ctx context.Context, text string) (*http.Response, error) {
	v.t.Helper()
	words := append(strings.SplitN(text, " ", 3), "")
	r, err := http.NewRequestWithContext(ctx, words[0], v.base+"/v2/"+words[1], strings.NewReader(words[2]))
	if err != nil {
		v.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	return client.Do(r)
}

func (v v2Client) do(text string) v2Answer {
	v.t.Helper()
	ctx, cancel := context.WithTimeout(v.t.Context(), 20*time.Second)
	defer cancel()
	resp, err := v.begin(ctx, text)
	if err != nil {
		v.t.Fatalf("%.80s: %v", text, err)
	}
	body, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil {
		v.t.Fatalf("%.80s: %v", text, err)
	}
	return v2Answer{resp.StatusCode, resp.Header, string(body)}
}

// want compares the answer, times left out.
func (v v2Client) want(text, want string) {
	v.t.Helper()
	if got := timeless(v.do(text).String()); got != want {
		v.t.Errorf("%s:\n got %s\nwant %s", text, got, want)
	}
}

var aTime = regexp.MustCompile(`"expiration":"[^"]*"`)

func timeless(s string) string { return aTime.ReplaceAllString(s, `"expiration":"T"`) }

// raw sends bytes, closes its side, and returns all that comes.
func (v v2Client) raw(text string) string {
	v.t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(v.base, "http://"))
	if err != nil {
		v.t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_, err = io.WriteString(conn, text)
	if err = errors.Join(err, conn.(*net.TCPConn).CloseWrite(), conn.SetReadDeadline(time.Now().Add(20*time.Second))); err != nil {
		v.t.Fatal(err)
	}
	answer, err := io.ReadAll(conn)
	if err != nil {
		v.t.Fatalf("%q, then %v", answer, err)
	}
	return string(answer)
}

// events opens a watch and gives its lines, once the server has heard it.
func (v v2Client) events(path string) <-chan string {
	v.t.Helper()
	ctx, cancel := context.WithCancel(v.t.Context())
	v.t.Cleanup(cancel)
	resp, err := v.begin(ctx, "GET "+path)
	if err != nil {
		v.t.Fatalf("watch %s: %v", path, err)
	}
	lines := make(chan string)
	// Owner: the test; ends with ctx.
	go func() {
		defer close(lines)
		defer func() { _ = resp.Body.Close() }()
		for s := bufio.NewScanner(resp.Body); s.Scan(); {
			select {
			case lines <- timeless(s.Text()):
			case <-ctx.Done():
				return
			}
		}
	}()
	return lines
}

func wantLine(t testing.TB, lines <-chan string, want string) {
	t.Helper()
	select {
	case got, ok := <-lines:
		if got != want || ok != (want != "") {
			t.Errorf("got the event %q, %v; want %q", got, ok, want)
		}
	case <-time.After(20 * time.Second):
		t.Errorf("no event in 20 s, want %q", want)
	}
}

// What a client of a new cluster sees, as etcd 3.4 has told it.
func TestV2Keys(t *testing.T) {
	m := start(t, newConfig(t))
	v := m.v2()
	for _, row := range [][2]string{
		{"GET keys", `200 {"action":"get","node":{"dir":true}}`},
		{"PUT keys/message value=Hello+world", `201 {"action":"set","node":{"key":"/message","value":"Hello world","modifiedIndex":4,"createdIndex":4}}`},
		{"GET keys/message", `200 {"action":"get","node":{"key":"/message","value":"Hello world","modifiedIndex":4,"createdIndex":4}}`},
		{"GET keys/message?quorum=true&wait=true", `200 {"action":"get","node":{"key":"/message","value":"Hello world","modifiedIndex":4,"createdIndex":4}}`},
		{"PUT keys/message value=Hello+etcd", `200 {"action":"set","node":{"key":"/message","value":"Hello etcd","modifiedIndex":5,"createdIndex":5},"prevNode":{"key":"/message","value":"Hello world","modifiedIndex":4,"createdIndex":4}}`},
		{"DELETE keys/message", `200 {"action":"delete","node":{"key":"/message","modifiedIndex":6,"createdIndex":5},"prevNode":{"key":"/message","value":"Hello etcd","modifiedIndex":5,"createdIndex":5}}`},
		{"GET keys/message", `404 {"errorCode":100,"message":"Key not found","cause":"/message","index":6}`},
		{"PUT keys/foo value=bar&ttl=500", `201 {"action":"set","node":{"key":"/foo","value":"bar","expiration":"T","ttl":500,"modifiedIndex":7,"createdIndex":7}}`},
		{"PUT keys/foo ttl=100&refresh=true&prevExist=true", `200 {"action":"update","node":{"key":"/foo","value":"bar","expiration":"T","ttl":100,"modifiedIndex":8,"createdIndex":7},"prevNode":{"key":"/foo","value":"bar","expiration":"T","ttl":500,"modifiedIndex":7,"createdIndex":7}}`},
		{"PUT keys/foo value=bar&ttl=&prevExist=true", `200 {"action":"update","node":{"key":"/foo","value":"bar","modifiedIndex":9,"createdIndex":7},"prevNode":{"key":"/foo","value":"bar","expiration":"T","ttl":100,"modifiedIndex":8,"createdIndex":7}}`},
		{"POST keys/queue value=Job1", `201 {"action":"create","node":{"key":"/queue/00000000000000000010","value":"Job1","modifiedIndex":10,"createdIndex":10}}`},
		{"POST keys/queue value=", `201 {"action":"create","node":{"key":"/queue/00000000000000000011","value":"","modifiedIndex":11,"createdIndex":11}}`},
		{"GET keys/queue?recursive=true&sorted=true", `200 {"action":"get","node":{"key":"/queue","dir":true,"nodes":[{"key":"/queue/00000000000000000010","value":"Job1","modifiedIndex":10,"createdIndex":10},{"key":"/queue/00000000000000000011","value":"","modifiedIndex":11,"createdIndex":11}],"modifiedIndex":10,"createdIndex":10}}`},
		{"PUT keys/dir ttl=300&dir=true", `201 {"action":"set","node":{"key":"/dir","dir":true,"expiration":"T","ttl":300,"modifiedIndex":12,"createdIndex":12}}`},
		{"PUT keys/dir ttl=300&dir=true", `403 {"errorCode":102,"message":"Not a file","cause":"/dir","index":12}`},
		{"PUT keys/dir ttl=200&dir=true&prevExist=true", `200 {"action":"update","node":{"key":"/dir","dir":true,"expiration":"T","ttl":200,"modifiedIndex":13,"createdIndex":12},"prevNode":{"key":"/dir","dir":true,"expiration":"T","ttl":300,"modifiedIndex":12,"createdIndex":12}}`},
		{"PUT keys/foo?prevExist=false value=three", `412 {"errorCode":105,"message":"Key already exists","cause":"/foo","index":13}`},
		{"PUT keys/foo?prevValue=two value=three", `412 {"errorCode":101,"message":"Compare failed","cause":"[two != bar]","index":13}`},
		{"PUT keys/foo?prevValue=bar value=two", `200 {"action":"compareAndSwap","node":{"key":"/foo","value":"two","modifiedIndex":14,"createdIndex":7},"prevNode":{"key":"/foo","value":"bar","modifiedIndex":9,"createdIndex":7}}`},
		{"PUT keys/foo?noValueOnSuccess=true value=x", `200 {"action":"set"}`},
		{"DELETE keys/foo?prevValue=x&noValueOnSuccess=true", `200 {"action":"compareAndDelete","node":{"key":"/foo","modifiedIndex":16,"createdIndex":15},"prevNode":{"key":"/foo","value":"x","modifiedIndex":15,"createdIndex":15}}`},
		{"DELETE keys/queue?dir=true", `403 {"errorCode":108,"message":"Directory not empty","cause":"/queue","index":16}`},
		{"DELETE keys/queue?recursive=true", `200 {"action":"delete","node":{"key":"/queue","dir":true,"modifiedIndex":17,"createdIndex":10},"prevNode":{"key":"/queue","dir":true,"modifiedIndex":10,"createdIndex":10}}`},
		{"PUT keys/a/_hidden/x value=<%26>", `201 {"action":"set","node":{"key":"/a/_hidden/x","value":"\u003c\u0026\u003e","modifiedIndex":18,"createdIndex":18}}`},
		{"PUT keys/a/b/c value=%ff", `201 {"action":"set","node":{"key":"/a/b/c","value":"\ufffd","modifiedIndex":19,"createdIndex":19}}`},
		{"GET keys/a", `200 {"action":"get","node":{"key":"/a","dir":true,"nodes":[{"key":"/a/b","dir":true,"modifiedIndex":19,"createdIndex":19}],"modifiedIndex":18,"createdIndex":18}}`},
		{"GET keys/a/?recursive=true", `200 {"action":"get","node":{"key":"/a","dir":true,"nodes":[{"key":"/a/b","dir":true,"nodes":[{"key":"/a/b/c","value":"\ufffd","modifiedIndex":19,"createdIndex":19}],"modifiedIndex":19,"createdIndex":19}],"modifiedIndex":18,"createdIndex":18}}`},
		{"GET keys/a/_hidden", `200 {"action":"get","node":{"key":"/a/_hidden","dir":true,"nodes":[{"key":"/a/_hidden/x","value":"\u003c\u0026\u003e","modifiedIndex":18,"createdIndex":18}],"modifiedIndex":18,"createdIndex":18}}`},
		{"PUT keys/a/b/c/d value=1", `400 {"errorCode":104,"message":"Not a directory","cause":"/a/b/c","index":19}`},
		{"PUT keys value=1", `400 {"errorCode":107,"message":"Root is read only","cause":"/","index":19}`},
		{"PUT keys/x wait=true", `400 {"errorCode":209,"message":"Invalid field","cause":"\"wait\" can only be used with GET requests","index":0}`},
		{"PATCH keys/x value=1", `405 Method Not Allowed`},
		{"GET nothing", `404 404 page not found`},
		{"HEAD keys/a", `200`},
	} {
		v.want(row[0], row[1])
	}
	if resp, err := m.kv.Range(t.Context(), &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}}); err != nil || resp.Count != 0 {
		t.Errorf("v3 sees %v, %v; want nothing of v2", resp, err)
	}
}

func TestV2Headers(t *testing.T) {
	m := start(t, newConfig(t))
	v := m.v2()
	cluster := fmt.Sprintf("%x", m.clusterID())
	for _, row := range []struct{ ask, index, raft string }{
		{"PUT keys/a value=1", "4", "term and index"},
		{"GET keys/a", "4", "term and index"},
		{"GET keys/none", "4", ""},
		{"GET keys/a?recursive=x", "0", ""},
		{"GET keys/a?waitIndex=4&wait=true", "4", "term and index"},
	} {
		h := v.do(row.ask).header
		raft := ""
		if h.Get("X-Raft-Term") != "" && h.Get("X-Raft-Index") != "" {
			raft = "term and index"
		}
		if h.Get("Content-Type") != "application/json" || h.Get("X-Etcd-Cluster-Id") != cluster || h.Get("X-Etcd-Index") != row.index || raft != row.raft {
			t.Errorf("%s: got %v, want index %s, raft's %q", row.ask, h, row.index, row.raft)
		}
	}
	if got := v.do("PATCH keys/a").header.Get("Allow"); got != "HEAD,GET,PUT,POST,DELETE" {
		t.Errorf("Allow: %q", got)
	}
}

func TestV2Watch(t *testing.T) {
	m := start(t, newConfig(t))
	v := m.v2()
	one, all := v.events("keys/a/b?wait=true"), v.events("keys/?wait=true&recursive=true&stream=true")
	v.do("PUT keys/a/b value=1")
	v.do("PUT keys/a/b value=2")
	v.do("PUT keys/a/b ttl=50&refresh=true")
	v.do("DELETE keys/a?recursive=true")
	const first = `{"action":"set","node":{"key":"/a/b","value":"1","modifiedIndex":4,"createdIndex":4}}`
	const second = `{"action":"set","node":{"key":"/a/b","value":"2","modifiedIndex":5,"createdIndex":5},"prevNode":{"key":"/a/b","value":"1","modifiedIndex":4,"createdIndex":4}}`
	const end = `{"action":"delete","node":{"key":"/a","dir":true,"modifiedIndex":7,"createdIndex":4},"prevNode":{"key":"/a","dir":true,"modifiedIndex":4,"createdIndex":4}}`
	wantLine(t, one, first)
	wantLine(t, one, "") // closed
	wantLine(t, all, first)
	wantLine(t, all, second)
	wantLine(t, all, end)
	wantLine(t, v.events("keys/a/b?wait=true&waitIndex=5"), second)
	wantLine(t, v.events("keys/a/b?wait=true&waitIndex=6"), end)
	v.do("PUT keys/short value=1&ttl=1")
	wantLine(t, v.events("keys/short?wait=true&waitIndex=9"), `{"action":"expire","node":{"key":"/short","modifiedIndex":9,"createdIndex":8},"prevNode":{"key":"/short","value":"1","expiration":"T","modifiedIndex":8,"createdIndex":8}}`)
}

// Whoever hangs up is forgotten.
func TestV2WatcherHangsUp(t *testing.T) {
	m := start(t, newConfig(t))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	resp, err := m.v2().begin(ctx, "GET keys/a?wait=true")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if got := m.node.V2().Stats().Watchers; got != 1 {
		t.Fatalf("%d watchers, want 1", got)
	}
	cancel()
	eventually(t, "the watcher to be forgotten", func() bool { return m.node.V2().Stats().Watchers == 0 })
}

// What is too large, breaks off or is no form changes nothing.
func TestV2BadBodies(t *testing.T) {
	cfg := newConfig(t)
	m := start(t, cfg)
	v := m.v2()
	big := strings.Repeat("x", cfg.MaxRequestBytes)
	v.want("PUT keys/big value="+big, `400 {"errorCode":210,"message":"Invalid POST form","cause":"etcdserver: request is too large","index":0}`)
	v.want("PUT keys/big value="+strings.Repeat(big, 8), `400 {"errorCode":210,"message":"Invalid POST form","cause":"http: POST too large","index":0}`)
	v.want("PUT keys/big value=%zz", `400 {"errorCode":210,"message":"Invalid POST form","cause":"invalid URL escape \"%zz\"","index":0}`)
	form := url.Values{"value": {strings.Repeat("\x01", cfg.MaxRequestBytes-200)}}.Encode()
	if got := v.do("PUT keys/fits " + form); got.status != 201 {
		t.Errorf("a value that fits, three bytes for each: %.200s", got)
	}

	half := v.raw("PUT /v2/keys/half HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 100\r\n\r\nvalue=half")
	if half != "" && !strings.HasPrefix(half, "HTTP/1.1 400") {
		t.Errorf("half a body: %q", half)
	}
	v.want("GET keys/half", `404 {"errorCode":100,"message":"Key not found","cause":"/half","index":4}`)
}

// A client that has said all may close its side and still read the answer.
func TestV2ClientHasSaidAll(t *testing.T) {
	v := start(t, newConfig(t)).v2()
	for _, ask := range []string{"PUT /v2/keys/a?value=1", "GET /v2/keys/a?quorum=true"} {
		if got := v.raw(ask + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.1 20") {
			t.Errorf("%s: %q", ask, got)
		}
	}
}

func TestV2Off(t *testing.T) {
	cfg := newConfig(t)
	cfg.V2 = false
	v := start(t, cfg).v2()
	for _, text := range []string{"GET keys/a", "PUT keys/a value=1", "GET "} {
		v.want(text, "404 404 page not found")
	}
}

// Who may use which keys: whom the name and password of a request name, and nobody
// what the role guest permits.
func TestV2KeysOfUsers(t *testing.T) {
	cfg := newConfig(t)
	cfg.Login.Cost = 4
	m := start(t, cfg)
	v := m.v2()
	as := func(user string) v2Client {
		return v2Client{t, strings.Replace(v.base, "http://", "http://"+user+"@", 1)}
	}
	v.do("PUT keys/app/x value=1")
	v.do("PUT keys/other value=1")
	auth := pb.NewAuthClient(m.conn)
	perm := &authpb.Permission{PermType: authpb.READWRITE, Key: []byte("/app/"), RangeEnd: []byte("/app0")}
	for _, do := range []func() error{
		func() error {
			_, err := auth.UserAdd(t.Context(), &pb.AuthUserAddRequest{Name: "root", Password: "r"})
			return err
		},
		func() error { _, err := auth.RoleAdd(t.Context(), &pb.AuthRoleAddRequest{Name: "root"}); return err },
		func() error {
			_, err := auth.UserGrantRole(t.Context(), &pb.AuthUserGrantRoleRequest{User: "root", Role: "root"})
			return err
		},
		func() error {
			_, err := auth.UserAdd(t.Context(), &pb.AuthUserAddRequest{Name: "ann", Password: "a"})
			return err
		},
		func() error { _, err := auth.RoleAdd(t.Context(), &pb.AuthRoleAddRequest{Name: "app"}); return err },
		func() error {
			_, err := auth.RoleGrantPermission(t.Context(), &pb.AuthRoleGrantPermissionRequest{Name: "app", Perm: perm})
			return err
		},
		func() error {
			_, err := auth.UserGrantRole(t.Context(), &pb.AuthUserGrantRoleRequest{User: "ann", Role: "app"})
			return err
		},
		func() error { _, err := auth.AuthEnable(t.Context(), &pb.AuthEnableRequest{}); return err },
	} {
		if err := do(); err != nil {
			t.Fatal(err)
		}
	}
	const no = `401 {"errorCode":110,"message":"The request requires user authentication","cause":"Insufficient credentials","index":0}`
	for _, row := range []struct {
		who    v2Client
		ask    string
		status int
	}{
		{v, "GET keys/app/x", 401}, {v, "PUT keys/app/x value=2", 401}, {v, "GET keys/app?wait=true&waitIndex=4", 401}, {v, "GET keys/none", 401},
		{as("ann:wrong"), "GET keys/app/x", 401}, {as("nobody:a"), "GET keys/app/x", 401},
		{as("ann:a"), "GET keys/app/x", 200}, {as("ann:a"), "GET keys/app/x?quorum=true", 200}, {as("ann:a"), "PUT keys/app/x value=2", 200},
		{as("ann:a"), "GET keys/app/?recursive=true", 200}, {as("ann:a"), "GET keys/app/?wait=true&recursive=true&waitIndex=4", 200},
		{as("ann:a"), "GET keys/app?recursive=true", 401}, {as("ann:a"), "DELETE keys/app?recursive=true", 401},
		{as("ann:a"), "POST keys/app value=1", 401}, {as("ann:a"), "POST keys/app/ value=1", 201},
		{as("ann:a"), "DELETE keys/other/?recursive=true", 401}, {as("ann:a"), "POST keys/other/ value=1", 401}, {as("ann:a"), "PUT keys/app/ value=1", 401},
		{as("ann:a"), "GET keys/other", 401}, {as("ann:a"), "GET keys/other/", 401}, {as("ann:a"), "PUT keys/other value=2", 401}, {as("ann:a"), "GET keys?recursive=true", 401},
		{as("ann:a"), "GET keys/app/none", 404}, {as("root:r"), "GET keys?recursive=true", 200}, {as("root:r"), "DELETE keys/other", 200},
	} {
		got := row.who.do(row.ask)
		if got.status != row.status || row.status == 401 && got.String() != no {
			t.Errorf("%s: %s: got %s, want %d", row.who.base, row.ask, got, row.status)
		}
	}
	// A file where there was a directory is no part of what may be read below it.
	watch := as("ann:a").events("keys/app/?wait=true&stream=true")
	as("ann:a").do("DELETE keys/app/?recursive=true")
	as("root:r").do("PUT keys/app value=secret")
	if got := as("ann:a").do("DELETE keys/app/?recursive=true"); got.String() != no {
		t.Errorf("the file is removed for who may remove what is in a directory: %s", got)
	}
	as("root:r").do("PUT keys/app dir=true")
	as("root:r").do("DELETE keys/app?dir=true")
	wantLine(t, watch, `{"action":"delete","node":{"key":"/app","dir":true,"modifiedIndex":9,"createdIndex":4},"prevNode":{"key":"/app","dir":true,"modifiedIndex":4,"createdIndex":4}}`)
	wantLine(t, watch, `{"action":"delete","node":{"key":"/app","dir":true,"modifiedIndex":12,"createdIndex":11},"prevNode":{"key":"/app","dir":true,"modifiedIndex":11,"createdIndex":11}}`)
}

// A stream ends with what its client may hear, or with the client's name.
func TestV2StreamsEndWithTheRight(t *testing.T) {
	cfg := newConfig(t)
	cfg.Login.Cost = 4
	m := start(t, cfg)
	v := m.v2()
	as := func(user string) v2Client {
		return v2Client{t, strings.Replace(v.base, "http://", "http://"+user+"@", 1)}
	}
	put := func(path, body string) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPut, as("root:r").base+"/v2/auth/"+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil || resp.StatusCode >= 300 {
			t.Fatalf("PUT auth/%s: %v, %v", path, resp, err)
		}
		_ = resp.Body.Close()
	}
	put("users/root", `{"user":"root","password":"r"}`)
	put("roles/app", `{"role":"app","permissions":{"kv":{"read":["/app/*"],"write":[]}}}`)
	put("users/ann", `{"user":"ann","password":"a","roles":["app"]}`)
	put("users/bob", `{"user":"bob","password":"b","roles":["app"]}`)
	put("enable", "")
	put("roles/guest", `{"role":"guest","revoke":{"kv":{"read":["/*"],"write":["/*"]}}}`)
	ann, bob := as("ann:a").events("keys/app/?recursive=true&wait=true&stream=true"), as("bob:b").events("keys/app/?recursive=true&wait=true&stream=true")
	as("root:r").do("PUT keys/app/x value=1")
	const first = `{"action":"set","node":{"key":"/app/x","value":"1","modifiedIndex":4,"createdIndex":4}}`
	wantLine(t, ann, first)
	wantLine(t, bob, first)
	put("users/bob", `{"user":"bob","password":"other"}`)
	as("root:r").do("PUT keys/app/x value=2")
	wantLine(t, ann, `{"action":"set","node":{"key":"/app/x","value":"2","modifiedIndex":5,"createdIndex":5},"prevNode":{"key":"/app/x","value":"1","modifiedIndex":4,"createdIndex":4}}`)
	wantLine(t, bob, "")
	put("users/ann", `{"user":"ann","revoke":["app"]}`)
	as("root:r").do("PUT keys/app/x value=3")
	wantLine(t, ann, "")
}

// Without space nothing is added, and what is there can be removed.
func TestV2WithoutSpace(t *testing.T) {
	m := start(t, newConfig(t))
	v := m.v2()
	v.do("PUT keys/a value=1")
	alarm := &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: 1, Alarm: pb.AlarmType_NOSPACE}
	if _, err := pb.NewMaintenanceClient(m.conn).Alarm(t.Context(), alarm); err != nil {
		t.Fatal(err)
	}
	v.want("PUT keys/b value=1", `500 {"errorCode":300,"message":"Raft Internal Error","cause":"etcdserver: mvcc: database space exceeded","index":0}`)
	v.want("DELETE keys/a", `200 {"action":"delete","node":{"key":"/a","modifiedIndex":5,"createdIndex":4},"prevNode":{"key":"/a","value":"1","modifiedIndex":4,"createdIndex":4}}`)
}

// The quota holds for v2, too, and raises the alarm.
func TestV2Quota(t *testing.T) {
	cfg := newConfig(t)
	cfg.QuotaBytes = 1 << 20
	v := start(t, cfg).v2()
	value := strings.Repeat("x", 100<<10)
	eventually(t, "the quota to be reached", func() bool { return v.do("PUT keys/a value="+value).status == 500 })
	v.want("PUT keys/b value=1", `500 {"errorCode":300,"message":"Raft Internal Error","cause":"etcdserver: mvcc: database space exceeded","index":0}`)
}

// A key written at one member is read there at once, heard of at every other, and
// is still there after a restart.
func TestV2OnThreeMembers(t *testing.T) {
	members := startThree(t)
	var heard []<-chan string
	for _, m := range members {
		heard = append(heard, m.v2().events("keys/app?wait=true&recursive=true&stream=true"))
	}
	for i, m := range members {
		v, key := m.v2(), fmt.Sprint("keys/app/", i)
		eventually(t, "a write at each member", func() bool { return v.do("PUT "+key+"?prevExist=false value=1").status != 500 })
		if got := v.do("GET " + key); got.status != 200 {
			t.Errorf("after its write member %d reads %s", i+1, got)
		}
	}
	for i := range members {
		for _, lines := range heard {
			index := 4 + i
			wantLine(t, lines, fmt.Sprintf(`{"action":"create","node":{"key":"/app/%d","value":"1","modifiedIndex":%d,"createdIndex":%d}}`, i, index, index))
		}
	}
	cfg := members[2].cfg
	members[2].stop()
	again := start(t, cfg).v2()
	again.want("GET keys/app/0", `200 {"action":"get","node":{"key":"/app/0","value":"1","modifiedIndex":4,"createdIndex":4}}`)
	wantLine(t, again.events("keys/app/1?wait=true&waitIndex=4"), `{"action":"create","node":{"key":"/app/1","value":"1","modifiedIndex":5,"createdIndex":5}}`)
}
