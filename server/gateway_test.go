package server

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// busy is a deadline that a busy machine keeps, too.
func busy() time.Time { return time.Now().Add(30 * time.Second) }

// webSocket opens one, with headers as "Name: value"; code is the answer's where
// there is none.
func (m *member) webSocket(path string, headers ...string) (conn *websocket.Conn, code int) {
	m.t.Helper()
	header := http.Header{}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		header.Add(name, value)
	}
	conn, resp, err := websocket.DefaultDialer.DialContext(m.t.Context(), m.url("ws", path), header)
	if err != nil {
		if resp == nil {
			m.t.Fatal(err)
		}
		return nil, resp.StatusCode
	}
	m.t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetReadDeadline(busy())
	return conn, resp.StatusCode
}

func (m *member) url(scheme, path string) string {
	return scheme + strings.TrimPrefix(m.cfg.ListenClientURLs[0], "http") + path
}

// heard is the next message of a websocket, without the spaces that protobuf's
// JSON has at random; what names the end of it.
func heard(conn *websocket.Conn) string {
	var v any
	if err := conn.ReadJSON(&v); err != nil {
		return "end"
	}
	text, _ := json.Marshal(v) // of what was JSON
	return string(text)
}

// A watch over a websocket: each message is a piece of the request, and each piece
// of the answer a message.
func TestWebsocketWatch(t *testing.T) {
	m := start(t, newConfig(t))
	for _, path := range []string{"/v3/watch", "/v3beta/watch?method=GET"} {
		conn, _ := m.webSocket(path)
		for range 2 {
			if err := conn.WriteMessage(websocket.TextMessage, []byte(`{"create_request":{"key":"Zm9v"}}`)); err != nil {
				t.Fatal(err)
			}
			if got := heard(conn); !strings.Contains(got, `"created":true`) {
				t.Fatalf("got %s, want a watch that is created", got)
			}
		}
		rev := m.put("foo", "bar")
		for range 2 {
			if got := heard(conn); !strings.Contains(got, fmt.Sprintf(`"mod_revision":"%d","value":"YmFy"`, rev)) {
				t.Errorf("got %s, want the event at %d", got, rev)
			}
		}
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
		eventually(t, "the watch ends with the websocket", func() bool { return m.hub.Stats().Streams == 0 })
	}
}

// Other calls take the first message, and answer it.
func TestWebsocketCalls(t *testing.T) {
	m := start(t, newConfig(t))
	for _, c := range []struct{ path, say, want string }{
		{"/v3/kv/put", `{"key":"Zm9v","value":"YmFy","prev_kv":true}`, `"revision":"2"`},
		{"/v3/kv/range", `{"key":"Zm9v"}`, `"value":"YmFy"`},
		{"/v3/lease/keepalive", `{"ID":"7"}`, `"ID":"7"`},
		{"/v3/kv/range", `{}`, `{"code":3,"message":"etcdserver: key is not provided"}`},
		{"/v3/kv/range", `{"key":`, `unexpected EOF`},
		{"/v3/nothing", `{}`, `{"code":5,"message":"Not Found"}`},
		{"/v3/election/leader", `{"name":"Zm9v"}`, `{"code":2,"message":"election: no leader"}`},
	} {
		conn, _ := m.webSocket(c.path)
		if err := conn.WriteMessage(websocket.TextMessage, []byte(c.say)); err != nil {
			t.Fatal(err)
		}
		if got := heard(conn); !strings.Contains(got, c.want) {
			t.Errorf("%s %s: got %s, want %s", c.path, c.say, got, c.want)
		}
	}
	conn, _ := m.webSocket("/v3/election/observe")
	if err := conn.WriteMessage(websocket.TextMessage, []byte(`{"name":"aGVhZA=="}`)); err != nil {
		t.Fatal(err)
	}
	elected, _ := m.campaign("head", "one", 0)
	<-elected
	if got := heard(conn); !strings.Contains(got, `"value":"b25l"`) {
		t.Errorf("an observer heard %s, want of the leader", got)
	}
}

// What a websocket says without a break, or without sense, is not kept.
func TestWebsocketNonsense(t *testing.T) {
	cfg := newConfig(t)
	cfg.MaxRequestBytes = 1 << 10
	m := start(t, cfg)
	conn, _ := m.webSocket("/v3/watch")
	_ = conn.WriteMessage(websocket.TextMessage, []byte(strings.Repeat(" ", 5<<20))) // may be cut off
	if got := heard(conn); got != "end" {
		t.Errorf("to a message of 5 MiB: got %s, want the end", got)
	}
	conn, _ = m.webSocket("/v3/watch")
	for _, say := range []string{`{"create_request":{"key":"Zm9v"}}`, `nonsense`, `more of it`, `{}`} {
		if err := conn.WriteMessage(websocket.TextMessage, []byte(say)); err != nil {
			t.Fatal(err)
		}
	}
	if got := heard(conn); !strings.Contains(got, `"created":true`) {
		t.Errorf("got %s, want the watch", got)
	}
	m.put("foo", "bar")
	if got := heard(conn); !strings.Contains(got, `"value":"YmFy"`) {
		t.Errorf("got %s, want the event", got)
	}
	_ = conn.Close()
	eventually(t, "the watch ends with the websocket", func() bool { return m.hub.Stats().Streams == 0 })
}

// A token comes as a subprotocol, or as a cookie that a page of this host got.
func TestWebsocketToken(t *testing.T) {
	m := start(t, newConfig(t))
	authc := pb.NewAuthClient(m.conn)
	for _, err := range []error{
		second(authc.UserAdd(t.Context(), &pb.AuthUserAddRequest{Name: "root", Password: "pw"})),
		second(authc.UserGrantRole(t.Context(), &pb.AuthUserGrantRoleRequest{User: "root", Role: "root"})),
		second(authc.AuthEnable(t.Context(), &pb.AuthEnableRequest{})),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	login, err := authc.Authenticate(t.Context(), &pb.AuthenticateRequest{Name: "root", Password: "pw"})
	if err != nil {
		t.Fatal(err)
	}
	const anonymous, known, wrong = `user name is empty`, `"header"`, `invalid auth token`
	for _, c := range []struct {
		headers []string
		want    string
	}{
		{nil, anonymous},
		{[]string{"Sec-WebSocket-Protocol: Bearer, " + login.Token}, known},
		{[]string{"Sec-WebSocket-Protocol: Bearer," + login.Token}, known},
		{[]string{"Sec-WebSocket-Protocol: Bearer, wrong"}, wrong},
		{[]string{"Sec-WebSocket-Protocol: chat"}, wrong},
		{[]string{"Cookie: token=" + login.Token}, known},
		{[]string{"Cookie: token=" + login.Token, "Origin: " + m.cfg.ListenClientURLs[0]}, known},
		{[]string{"Cookie: token=" + login.Token, "Origin: http://example.org"}, anonymous},
	} {
		conn, _ := m.webSocket("/v3/kv/range", c.headers...)
		if err := conn.WriteMessage(websocket.TextMessage, []byte(`{"key":"Zm9v"}`)); err != nil {
			t.Fatal(err)
		}
		if got := heard(conn); !strings.Contains(got, c.want) {
			t.Errorf("%d headers, the first %.20s: got %s, want %s", len(c.headers), strings.Join(c.headers, " "), got, c.want)
		}
	}
}

// Websockets of pages that may not read answers are refused, as are names that are
// not listed.
func TestListedOriginsAndHosts(t *testing.T) {
	cfg := newConfig(t)
	cfg.CORS, cfg.HostWhitelist = []string{"http://a:1"}, []string{"127.0.0.1"}
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	m := start(t, cfg)
	for origin, want := range map[string]int{
		"http://a:1": http.StatusSwitchingProtocols, cfg.ListenClientURLs[0]: http.StatusSwitchingProtocols, "http://example.org": http.StatusForbidden,
	} {
		if _, code := m.webSocket("/v3/watch", "Origin: "+origin); code != want {
			t.Errorf("a websocket of %s: got %d, want %d", origin, code, want)
		}
	}
	if code, body := httpGet(t, strings.Replace(cfg.ListenClientURLs[0], "127.0.0.1", "localhost", 1)+"/version"); code != http.StatusMisdirectedRequest || !strings.Contains(body, `"localhost"`) {
		t.Errorf("as localhost: got %d %s, want 421 that names it", code, body)
	}
}

// A member that stops ends websockets, also those that have asked nothing.
func TestStopEndsWebsockets(t *testing.T) {
	m := start(t, newConfig(t))
	silent, _ := m.webSocket("/v3/kv/put")
	watching, _ := m.webSocket("/v3/watch")
	if err := watching.WriteMessage(websocket.TextMessage, []byte(`{"create_request":{"key":"Zm9v"}}`)); err != nil {
		t.Fatal(err)
	}
	if got := heard(watching); !strings.Contains(got, `"created":true`) {
		t.Fatalf("got %s, want the watch", got)
	}
	m.stop()
	if got := heard(silent); got != "end" {
		t.Errorf("the silent one heard %s, want the end", got)
	}
	if got := heard(watching); got != "end" && !strings.Contains(got, `"message":"etcdserver: server stopped"`) { // if there is time to say so
		t.Errorf("the watch heard %s, want that the member stops, or the end", got)
	}
}

// raw is a connection to m that speaks HTTP by hand.
func (m *member) raw(say string) (net.Conn, *bufio.Reader) {
	m.t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(m.cfg.ListenClientURLs[0], "http://"))
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(busy())
	if _, err := io.WriteString(conn, say); err != nil {
		m.t.Fatal(err)
	}
	return conn, bufio.NewReader(conn)
}

func chunk(text string) string { return fmt.Sprintf("%x\r\n%s\r\n", len(text), text) }

// A watch whose client goes on to ask, and then hangs up within the request.
func TestGatewayLongRequest(t *testing.T) {
	m := start(t, newConfig(t))
	const create = `{"create_request":{"key":"Zm9v"}}`
	conn, in := m.raw("POST /v3/watch HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(create+create))
	resp, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatal(err)
	}
	answers := bufio.NewReader(resp.Body)
	wantLine := func(want string) {
		t.Helper()
		line, err := answers.ReadString('\n')
		if err != nil || !strings.Contains(line, want) {
			t.Fatalf("got %q and %v, want %s", line, err, want)
		}
	}
	wantLine(`"created"`)
	wantLine(`"created"`)
	if _, err := io.WriteString(conn, chunk(create)); err != nil {
		t.Fatal(err)
	}
	wantLine(`"created"`)
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the watch ends with its client", func() bool { return m.hub.Stats().Streams == 0 })
}

// What a path of streams does not read of a request is no part of the next one.
func TestGatewayUnreadRequest(t *testing.T) {
	m := start(t, newConfig(t))
	const next = "GET /version HTTP/1.1\r\nHost: x\r\n\r\n"
	for body, closes := range map[string]bool{
		"Content-Length: 5\r\n\r\nhello":                                  false,
		"Transfer-Encoding: chunked\r\n\r\n" + chunk("hello") + chunk(""): true,
	} {
		_, in := m.raw("PUT /v3/watch HTTP/1.1\r\nHost: x\r\n" + body + next)
		for i, want := range []int{http.StatusNotImplemented, http.StatusOK} {
			resp, err := http.ReadResponse(in, nil)
			if err != nil {
				t.Fatalf("answer %d: %v", i, err)
			}
			if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != want || resp.Close != closes {
				t.Errorf("answer %d: got %s, closing %v, %v; want %d, %v", i, resp.Status, resp.Close, err, want, closes)
			}
			if closes {
				break
			}
		}
	}
}

// Requests that do not come to an end change nothing.
func TestGatewayBrokenRequest(t *testing.T) {
	cfg := newConfig(t)
	cfg.MaxRequestBytes = 1 << 10
	m := start(t, cfg)
	const put = `{"key":"Zm9v","value":"YmFy"}`
	for what, say := range map[string]string{
		"a body that is cut off":             "Content-Length: 100\r\n\r\n" + put,
		"a chunked body that is cut off":     "Transfer-Encoding: chunked\r\n\r\n" + chunk(put),
		"a chunk that is none":               "Transfer-Encoding: chunked\r\n\r\n" + chunk(put) + "zzz\r\n",
		"JSON that is cut off":               "Content-Length: 10\r\n\r\n" + put[:10],
		"a value without end":                "Transfer-Encoding: chunked\r\n\r\n" + chunk(`{"key":"Zm9v","value":"`) + strings.Repeat(chunk(strings.Repeat("YmFy", 1<<14)), 200),
		"spaces before anything, in a chunk": "Transfer-Encoding: chunked\r\n\r\n" + chunk(strings.Repeat(" ", 6<<20)) + chunk(put),
	} {
		conn, _ := m.rawMayEnd("POST /v3/kv/put HTTP/1.1\r\nHost: x\r\n" + say)
		_ = conn.(*net.TCPConn).CloseWrite()
		answer, _ := io.ReadAll(conn) // how it ends is not the point
		if strings.Contains(string(answer), "200 OK") {
			t.Errorf("%s: got %s", what, answer)
		}
	}
	// More behind it than a message can have, and all of it is there.
	more := io.MultiReader(strings.NewReader(put), strings.NewReader(strings.Repeat(" ", 12<<20)))
	if resp, err := http.Post(m.cfg.ListenClientURLs[0]+"/v3/kv/put", "application/json", more); err == nil {
		_ = resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			t.Error("a put with 12 MiB of spaces behind it is done")
		}
	}
	if rev := m.put("other", "x"); rev != 2 {
		t.Errorf("after all that the first put has revision %d, want 2", rev)
	}
}

// rawMayEnd is raw where the member may hang up before all is said.
func (m *member) rawMayEnd(say string) (net.Conn, error) {
	m.t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(m.cfg.ListenClientURLs[0], "http://"))
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(busy())
	_, err = io.WriteString(conn, say)
	return conn, err
}
