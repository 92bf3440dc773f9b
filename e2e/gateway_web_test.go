package e2e

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/gorilla/websocket"

	"limpet/e2e/proc"
	"limpet/e2e/side"
)

// TestWebAccess compares whom --cors and --host-whitelist let, and what they are told. What a refusal
// of a host says is each program's own.
func TestWebAccess(t *testing.T) {
	t.Parallel()
	for _, flags := range [][]string{
		nil,
		{"--cors=http://a:1,http://b:2"},
		{"--cors=*", "--host-whitelist=good,127.0.0.1"},
		{"--host-whitelist=*"},
		{"--host-whitelist=good", "--cors=http://a:1"},
	} {
		t.Run(strings.Join(flags, " "), func(t *testing.T) {
			pair := side.NewPair(t, subject(), proc.Flags(flags...))
			g := &gateway{t: t, pair: pair}
			for _, host := range []string{"", "good", "good:1", "bad", "bad:2379", "Good", "127.0.0.1", "[::1]:1"} {
				for _, origin := range []string{"", "http://a:1", "http://b:2", "http://c:3", "null", "*"} {
					for _, r := range []string{"GET /version", "OPTIONS /v3/kv/range", "OPTIONS /nothing", "POST /v3/kv/range", "POST /v3beta/kv/range", "GET /health"} {
						g.web(r, host, origin)
					}
				}
			}
		})
	}
}

// web compares what a browser acts upon.
func (g *gateway) web(request, host, origin string) {
	g.t.Helper()
	method, path, _ := strings.Cut(request, " ")
	g.compareTold(fmt.Sprintf("%s with host %q, origin %q", request, host, origin), func(at *side.Target) string {
		req, err := http.NewRequestWithContext(g.t.Context(), method, at.Server.ClientURL()+path, strings.NewReader(`{"key":"Zm9v"}`))
		if err != nil {
			g.t.Fatal(err)
		}
		req.Host = host
		if origin != "" {
			req.Header.Set("Origin", origin)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err.Error()
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil {
			return err.Error()
		}
		told := resp.Status + " " + resp.Header.Get("Content-Type")
		for _, name := range []string{"Origin", "Methods", "Headers"} {
			told += fmt.Sprintf(" %s %q", name, resp.Header.Values("Access-Control-Allow-"+name))
		}
		if resp.StatusCode == http.StatusMisdirectedRequest {
			return told
		}
		return told + " " + plain(body)
	})
}

// TestWebsocketHandshakes compares how what is no websocket, or not quite, is answered.
func TestWebsocketHandshakes(t *testing.T) {
	t.Parallel()
	pair := side.NewPair(t, subject())
	const key = "AAAAAAAAAAAAAAAAAAAAAA=="
	for _, path := range []string{"/v3/watch", "/v3beta/watch", "/v3/nothing", "/version"} {
		for _, header := range []map[string]string{
			{"Connection": "Upgrade", "Upgrade": "websocket"},
			{"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"},
			{"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "8", "Sec-WebSocket-Key": key},
			{"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "short"},
		} {
			for _, method := range []string{"GET", "POST"} {
				pair.Do(side.HTTP{Method: method, Path: path, Header: header})
			}
		}
	}
}

// TestWebOnItsOwn moves HTTP to another port.
func TestWebOnItsOwn(t *testing.T) {
	t.Parallel()
	pair := side.NewPair(t, subject(), proc.OwnWeb)
	pair.Do(put("foo", "bar"))
	pair.Do(get("foo"))
	g := &gateway{t: t, pair: pair}
	for _, path := range []string{"/version", "/health", "/nothing", "/v3/kv/range", "/v3/watch"} {
		g.compareTold(path, func(at *side.Target) string {
			resp, err := http.Get(at.Server.WebURL() + path)
			if err != nil {
				return err.Error()
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			return fmt.Sprint(resp.Status, " ", plain(body), err)
		})
	}
	g.compareTold("a websocket", func(at *side.Target) string {
		conn, resp, err := websocket.DefaultDialer.DialContext(t.Context(), "ws://"+at.Server.Web+"/v3/watch", nil)
		if err != nil {
			return err.Error()
		}
		defer conn.Close()
		return resp.Status
	})
	pair.Do(side.Bytes{Name: "HTTP where gRPC is", Send: []byte("GET /version HTTP/1.1\r\nHost: x\r\n\r\n"), Patience: patience, EndOnly: true})
}
