package side

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
)

// comparedHeaders are those of an HTTP answer that a client could act upon.
var comparedHeaders = []string{"Content-Type", "Allow", "Location", "X-Content-Type-Options"}

// corsHeaders are compared by steps that ask for it.
var corsHeaders = []string{"Access-Control-Allow-Headers", "Access-Control-Allow-Methods", "Access-Control-Allow-Origin"}

// HTTP is a plain request. Its answer's fields are status, headers and body.
type HTTP struct {
	Method string
	Path   string
	Body   string
	Header map[string]string
	// Unordered sorts the lines of the body: the verbose health lists come in map order.
	Unordered bool
	// CORS compares the headers for browsers too.
	CORS bool
}

// Run sends the request.
func (h HTTP) Run(ctx context.Context, t *Target) Answer {
	var a Answer
	req, err := http.NewRequestWithContext(ctx, h.Method, t.Server.ClientURL()+h.Path, strings.NewReader(h.Body))
	if err != nil {
		a.broke("%v", err)
		return a
	}
	for k, v := range h.Header {
		req.Header.Set(k, v)
	}
	transport := &http.Transport{DisableKeepAlives: true}
	defer transport.CloseIdleConnections()
	resp, err := transport.RoundTrip(req)
	if err != nil {
		a.Code, a.Text = codes.Unavailable, "no HTTP answer"
		return a
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		a.Code, a.Text = codes.DataLoss, "HTTP answer breaks off"
		return a
	}
	text := ownChecks.Replace(string(body))
	if h.Unordered {
		lines := strings.SplitAfter(text, "\n")
		slices.Sort(lines)
		text = strings.Join(lines, "")
	}
	a.set("status", resp.Proto+" "+resp.Status)
	a.set("body", t.Names.Text(text))
	names := comparedHeaders
	if h.CORS {
		names = slices.Concat(names, corsHeaders)
	}
	for _, name := range names {
		a.set("header "+name, strings.Join(resp.Header.Values(name), ", "))
	}
	return a
}

func (h HTTP) String() string {
	return fmt.Sprintf("%s %s %v %q", h.Method, h.Path, h.Header, cut(h.Body, 200))
}

// Bytes sends something that need not be a protocol at all. Its answer's fields are the first line
// that came back, the body after a blank line, and whether the server closed the connection.
type Bytes struct {
	Name      string
	Send      []byte
	HalfClose bool
	// Patience is how long silence on an open connection counts as "the server waits for more".
	Patience time.Duration
	// EndOnly compares whether the connection is closed, and nothing else: etcd hangs up on what
	// matches no protocol; a word of complaint before that harms nobody.
	EndOnly bool
}

// Run sends the bytes and reads until the server closes or stays silent.
func (b Bytes) Run(ctx context.Context, t *Target) Answer {
	var a Answer
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", t.Server.Client)
	if err != nil {
		a.broke("%v", err)
		return a
	}
	defer conn.Close()
	if _, err := conn.Write(b.Send); err != nil && !errors.Is(err, io.ErrClosedPipe) {
		a.set("connection open", "closed while sending")
		return a
	}
	if b.HalfClose {
		if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
			a.set("connection open", "closed while sending")
			return a
		}
	}
	got, open := readAll(conn, b.Patience)
	head, body, _ := bytes.Cut(got, []byte("\r\n\r\n"))
	first, _, _ := bytes.Cut(head, []byte("\r\n"))
	if !b.EndOnly {
		a.set("first line", string(first))
		a.set("body", t.Names.Text(string(body)))
	}
	a.set("connection open", fmt.Sprint(open))
	return a
}

func (b Bytes) String() string {
	return fmt.Sprintf("bytes: %s %q half-close: %v", b.Name, cut(string(b.Send), 120), b.HalfClose)
}

func readAll(conn net.Conn, patience time.Duration) (got []byte, open bool) {
	buf := make([]byte, 64<<10)
	for {
		conn.SetReadDeadline(time.Now().Add(patience))
		n, err := conn.Read(buf)
		got = append(got, buf[:n]...)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return got, true
		}
		if err != nil {
			return got, false
		}
	}
}
