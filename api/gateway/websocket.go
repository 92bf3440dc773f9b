package gateway

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"

	"github.com/gorilla/websocket"
)

// Browsers cannot send a header Authorization with a websocket: the token comes as
// a subprotocol, "Bearer, TOKEN", or in a cookie, as etcd's proxy of websockets
// (github.com/tmc/grpc-websocket-proxy) takes it.
const (
	protocolHeader = "Sec-Websocket-Protocol"
	bearer         = "Bearer"
	tokenCookie    = "token"
)

// serveWebsocket has a request of which each message of the websocket is a piece
// of the body, and each line of the answer a message. It is a POST to the path on
// which the websocket was opened. Where a request is one message, the rest is not
// looked at.
func (g *Gateway) serveWebsocket(w http.ResponseWriter, r *http.Request) {
	var answer http.Header
	if strings.HasPrefix(r.Header.Get(protocolHeader), bearer) {
		answer = http.Header{protocolHeader: {bearer}}
	}
	conn, err := g.upgrader.Upgrade(w, r, answer)
	if err != nil {
		return // the client has been told
	}
	conn.SetReadLimit(int64(g.cfg.MaxBytes) * jsonPerByte)
	ctx, cancel := context.WithCancel(r.Context())
	in, said := io.Pipe()
	end := func() {
		cancel()
		_ = in.Close()
		_ = conn.Close()
	}
	stop := context.AfterFunc(g.ctx, end)
	defer stop()
	stream := lasting[r.URL.Path]
	var hearing sync.WaitGroup
	// Owner: this call; ends with the connection.
	hearing.Go(func() {
		defer cancel()
		hear(conn, said, stream)
	})
	out := &lines{conn: conn}
	g.mux.ServeHTTP(out, posted(ctx, r, &body{ReadCloser: in, cancel: cancel, lasting: stream, left: g.maxBody()}))
	out.end()
	end()
	hearing.Wait()
}

// posted is the request that a websocket makes, of which only the token is taken
// over.
func posted(ctx context.Context, r *http.Request, body io.ReadCloser) *http.Request {
	req := r.Clone(ctx)
	req.Method, req.Body, req.ContentLength, req.Header = http.MethodPost, body, -1, http.Header{}
	if protocol := r.Header.Get(protocolHeader); protocol != "" {
		token := ""
		if _, after, ok := strings.Cut(protocol, bearer+","); ok {
			token = bearer + " " + strings.Trim(after, " ")
		}
		req.Header.Set("Authorization", token)
	}
	if c, err := r.Cookie(tokenCookie); err == nil && ofSameHost(r) {
		req.Header.Set("Authorization", bearer+" "+c.Value)
	}
	return req
}

// ofSameHost reports whether a browser's page asks the host that it came from, or
// no page at all. A browser adds its cookies to what any page asks; etcd takes
// those, too.
func ofSameHost(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	u, err := url.Parse(origin)
	return origin == "" || err == nil && strings.EqualFold(u.Host, r.Host)
}

// hear passes on what the client says: all of it, or the first message. It returns
// when the client is gone.
func hear(conn *websocket.Conn, said *io.PipeWriter, all bool) {
	defer func() { _ = said.Close() }()
	for first := true; ; first = false {
		_, message, err := conn.ReadMessage()
		if err != nil {
			return
		}
		if !first && !all {
			continue
		}
		if _, err := said.Write(append(message, '\n')); err == nil && !all {
			_ = said.Close()
		}
	}
}

// lines is an answer that goes out line by line, each as a message. Headers and
// status have no place there.
type lines struct {
	conn   *websocket.Conn
	header http.Header
	rest   []byte // what no line has ended yet
}

// Header implements http.ResponseWriter.
func (l *lines) Header() http.Header {
	if l.header == nil {
		l.header = http.Header{}
	}
	return l.header
}

// WriteHeader implements http.ResponseWriter.
func (l *lines) WriteHeader(int) {}

// Write implements http.ResponseWriter.
func (l *lines) Write(p []byte) (int, error) {
	l.rest = append(l.rest, p...)
	for {
		line, rest, ok := bytes.Cut(l.rest, []byte("\n"))
		if !ok {
			return len(p), nil
		}
		if err := l.send(line); err != nil {
			return 0, err
		}
		l.rest = rest
	}
}

// Flush implements http.Flusher: lines go out when they are whole.
func (l *lines) Flush() {}

// end sends what is left.
func (l *lines) end() { _ = l.send(l.rest) }

func (l *lines) send(line []byte) error {
	if len(line) == 0 {
		return nil
	}
	return l.conn.WriteMessage(websocket.TextMessage, line)
}
