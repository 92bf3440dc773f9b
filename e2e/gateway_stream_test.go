package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/gorilla/websocket"

	"limpet/e2e/proc"
	"limpet/e2e/side"
)

// TestGatewayStreams compares what lasts: watches, keep-alives and observers over HTTP/1, with several
// objects in a request, and over websockets.
func TestGatewayStreams(t *testing.T) {
	t.Parallel()
	pair := side.NewPair(t, subject(), proc.Flags(cheapHash))
	g := &gateway{t: t, pair: pair, tokens: make(map[string]string)}
	for _, r := range []string{
		`/v3/kv/put {"key":"Zm9v","value":"YmFy"}`,
		`/v3/kv/put {"key":"Zm9v","value":"YmF6"}`,
		`/v3/lease/grant {"TTL":"1000","ID":"7"}`,
		`/v3/lease/grant {"TTL":"1000","ID":"8"}`,
		`/v3/kv/put {"key":"eg==","lease":"8"}`,
		`/v3/election/campaign {"name":"ZQ==","value":"djE=","lease":"7"}`,
		`/v3/kv/compaction {"revision":"3"}`,
	} {
		g.ask(r)
	}
	for _, s := range streams {
		g.stream(s, "")
		if s.path == "/v3/watch" || s.path == "/v3/lease/keepalive" { // others wait in etcd, see there
			g.socket(s, "/v3")
			g.socket(s, "/v3beta")
		}
	}
	for _, r := range []string{
		`/v3/auth/user/add {"name":"root","password":"pw"}`,
		`/v3/auth/user/grant {"user":"root","role":"root"}`,
		`/v3/auth/user/add {"name":"ann","password":"wonder"}`,
		`/v3/auth/role/add {"name":"app"}`,
		`/v3/auth/role/grant {"name":"app","perm":{"permType":"READWRITE","key":"YQ==","range_end":"Yg=="}}`,
		`/v3/auth/user/grant {"user":"ann","role":"app"}`,
		`/v3/auth/enable {}`,
		`ann: /v3/auth/authenticate {"name":"ann","password":"wonder"}`,
	} {
		g.ask(r)
	}
	for _, caller := range []string{"", "ann", "nobody"} {
		for _, s := range []stream{
			{"/v3/lease/keepalive", `{"ID":"7"}{"ID":"8"}`, 9},
			{"/v3/watch", `{"create_request":{"key":"Zm9v"}}`, 1},
			{"/v3/watch", `{"create_request":{"key":"YQ=="}}`, 1},
			{"/v3/election/observe", `{"name":"ZQ=="}`, 9},
			{"/v3/lock/lock", `{"name":"bG9jaw==","lease":"7"}`, 9},
			{"/v3/maintenance/snapshot", `{}`, 9},
		} {
			g.stream(s, caller)
			if strings.HasSuffix(s.path, "keepalive") || strings.HasSuffix(s.path, "watch") {
				g.socket(s, "/v3", "Sec-WebSocket-Protocol", "Bearer, <"+caller+">")
			}
		}
	}
	g.socket(stream{"/v3/watch", `{"create_request":{"key":"YQ=="}}`, 1}, "/v3", "Cookie", "token=<ann>")
	g.socket(stream{"/v3/watch", `{"create_request":{"key":"YQ=="}}`, 1}, "/v3", "Sec-WebSocket-Protocol", "Bearer,<ann>")
	g.socket(stream{"/v3/watch", `{"create_request":{"key":"YQ=="}}`, 1}, "/v3", "Sec-WebSocket-Protocol", "chat")
	g.socket(stream{"/v3/watch", `{"create_request":{"key":"YQ=="}}`, 1}, "/v3", "Authorization", "<ann>")
	g.socket(stream{"/v3/watch", `{"create_request":{"key":"YQ=="}}`, 1}, "/v3", "Origin", "http://example.org")
	logIsJSON(t, pair.Subject)
}

// logIsJSON: whatever clients say, each line of limpet's log is an object.
func logIsJSON(t *testing.T, target *side.Target) {
	t.Helper()
	for line := range strings.Lines(target.Server.Log.Text()) {
		if target.Server.Kind == proc.Limpet && !json.Valid([]byte(line)) {
			t.Errorf("the log has a line that is no JSON: %s", line)
		}
	}
}

// stream is a request whose answer has several objects, of which up to lines are read.
type stream struct {
	path, body string
	lines      int
}

var streams = []stream{
	{"/v3/watch", `{"create_request":{"key":"Zm9v","start_revision":"3"}}`, 2},
	{"/v3/watch", `{"create_request":{"key":"Zm9v","start_revision":"1"}}`, 2},
	{"/v3/watch", `{"create_request":{"key":"Zm9v","start_revision":"-1"}}`, 1},
	{"/v3/watch", `{"create_request":{"key":"Zm9v","watch_id":"7"}}{"create_request":{"key":"Zm9v","watch_id":"7"}} {"create_request":{}}{"cancel_request":{"watch_id":"7"}}`, 4},
	{"/v3/watch", `{"create_request":{"key":"Zm9v","range_end":"YQ=="}}`, 1},
	{"/v3/watch", `{"createRequest":{"key":"Zm9v","prevKv":true,"startRevision":3,"filters":["NODELETE"]}}`, 2},
	{"/v3/watch", `{}{"cancel_request":{"watch_id":"5"}}{"create_request":{"key":"Zm9v"}}nonsense`, 1},
	{"/v3/watch", `{"create_request":{"key":"Zm9v"}}nonsense{"create_request":{"key":"Zm9v"}}`, 1},
	{"/v3/lease/keepalive", `{"ID":"7"}{"ID":"9"}`, 2},
	{"/v3/lease/keepalive", `{"ID":"7"}`, 1},
	{"/v3/election/observe", `{"name":"ZQ=="}`, 1},
}

// stream posts s and compares status, header and lines.
func (g *gateway) stream(s stream, caller string) {
	g.t.Helper()
	g.compareTold(fmt.Sprintf("POST %s %s as %q", s.path, s.body, caller), func(at *side.Target) string {
		ctx, cancel := context.WithTimeout(g.t.Context(), patience)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, "POST", at.Server.ClientURL()+s.path, strings.NewReader(s.body))
		if err != nil {
			g.t.Fatal(err)
		}
		if caller != "" {
			req.Header.Set("Authorization", g.real("<"+caller+">", at))
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err.Error()
		}
		defer resp.Body.Close()
		told := []string{resp.Status + " " + resp.Header.Get("Content-Type")}
		in := bufio.NewReader(resp.Body)
		for range s.lines {
			line, err := in.ReadBytes('\n')
			if len(line) > 0 {
				told = append(told, plain(line))
			}
			if err != nil {
				if !errors.Is(err, io.EOF) {
					told = append(told, err.Error())
				}
				break
			}
		}
		return strings.Join(told, "\n  ")
	})
}

// socket says s over a websocket, an object a message, with one header.
func (g *gateway) socket(s stream, prefix string, header ...string) {
	g.t.Helper()
	path := prefix + strings.TrimPrefix(s.path, "/v3")
	g.compareTold(fmt.Sprintf("websocket %s %s with %v", path, s.body, header), func(at *side.Target) string {
		h := http.Header{}
		if len(header) == 2 {
			h.Set(header[0], g.real(header[1], at))
		}
		conn, resp, err := websocket.DefaultDialer.DialContext(g.t.Context(), "ws://"+at.Server.Client+path, h)
		if err != nil {
			return fmt.Sprintf("%v: %v", err, resp)
		}
		defer conn.Close()
		told := []string{resp.Status + " " + conn.Subprotocol()}
		dec := json.NewDecoder(strings.NewReader(s.body))
		for {
			var message json.RawMessage
			err := dec.Decode(&message)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				message = []byte("nonsense")
			}
			if err := conn.WriteMessage(websocket.TextMessage, message); err != nil {
				return err.Error()
			}
			if err != nil {
				break
			}
		}
		for range min(s.lines, 2) {
			kind, message, err := conn.ReadMessage()
			if err != nil {
				told = append(told, "end")
				break
			}
			told = append(told, fmt.Sprint(kind, " ", plain(message)))
		}
		return strings.Join(told, "\n  ")
	})
}

// real puts tokens in the place of their users' names.
func (g *gateway) real(text string, at *side.Target) string {
	for _, caller := range []string{"ann", "nobody", ""} {
		token := g.tokens[caller+at.Server.Client]
		if token == "" {
			token = "no-token"
		}
		text = strings.ReplaceAll(text, "<"+caller+">", token)
	}
	return text
}

// plain is JSON without what two servers never share.
func plain(data []byte) string {
	var out bytes.Buffer
	if json.Compact(&out, data) != nil {
		out.Write(data)
	}
	return unlike.ReplaceAllString(strings.ReplaceAll(out.String(), "\u00a0", " "), `"$1":…`)
}

// compareTold has both servers asked at once.
func (g *gateway) compareTold(what string, ask func(*side.Target) string) {
	g.t.Helper()
	want, got := ask(g.pair.Reference), ask(g.pair.Subject)
	if want != got {
		g.t.Errorf("%s:\n etcd\n  %s\n limpet\n  %s", what, want, got)
	}
}
