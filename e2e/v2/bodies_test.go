package v2

import (
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"limpet/e2e/side"
)

// silence on an open connection counts as waiting for more.
const silence = 3 * time.Second

// formLimit is how much of a form Go's server reads: 10 MiB.
const formLimit = 10 << 20

// TestBodies sends forms that do not end as they should. None of them may leave a part of itself.
func TestBodies(t *testing.T) {
	t.Parallel()
	b := start(t, 1)
	long := strings.Repeat("x", formLimit)
	for _, test := range []struct {
		name string
		send string
		half bool // the client closes its side
	}{
		{"a form that breaks off", post(100, "value=half"), true},
		{"chunks that break off", "PUT /v2/keys/body HTTP/1.1\r\nHost: x\r\nContent-Type: " + form + "\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nvalue\r\n", true},
		{"chunks that are none", "PUT /v2/keys/body HTTP/1.1\r\nHost: x\r\nContent-Type: " + form + "\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n", false},
		{"a length that is none", "PUT /v2/keys/body HTTP/1.1\r\nHost: x\r\nContent-Type: " + form + "\r\nContent-Length: -5\r\n\r\nvalue=1", false},
		{"no length", "PUT /v2/keys/body HTTP/1.1\r\nHost: x\r\nContent-Type: " + form + "\r\n\r\nvalue=1", true},
		{"no host", "PUT /v2/keys/body HTTP/1.1\r\nContent-Length: 0\r\n\r\n", false},
		{"a method that is none", "P\x00T /v2/keys/body HTTP/1.1\r\nHost: x\r\n\r\n", false},
		{"a path that is none", "PUT /v2/keys/bad%zz HTTP/1.1\r\nHost: x\r\n\r\n", false},
		{"a path without a slash", "PUT v2/keys/body HTTP/1.1\r\nHost: x\r\n\r\n", false},
		{"HTTP/1.0", "PUT /v2/keys/old HTTP/1.0\r\nContent-Type: " + form + "\r\nContent-Length: 7\r\n\r\nvalue=1", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := b.on(t)
			step := side.Bytes{Name: test.name, Send: []byte(test.send), HalfClose: test.half, Patience: silence}
			var got [2]side.Answer
			b.each(func(i int, at *side.Target) { got[i] = step.Run(b.t.Context(), at) })
			if !maps.Equal(got[0].Fields, got[1].Fields) {
				t.Errorf("etcd answers\n    %s\n%s\n    %s", got[0], b.sides[1].Kind, got[1])
			}
			b.ask("GET /keys/body")
			b.ask("GET /keys?recursive=true")
		})
	}
	// limpet hangs up as soon as a form is larger than any it would take, etcd after 10 MiB.
	for _, send := range []string{
		post(len(long)*100, "value="+long+long[:1024]),
		"PUT /v2/keys/huge HTTP/1.1\r\nHost: x\r\nContent-Type: " + form + "\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks("value="+long+long[:1<<20]),
	} {
		step := side.Bytes{Name: "a form without an end", Send: []byte(send), Patience: silence}
		b.each(func(_ int, at *side.Target) {
			if a := step.Run(b.t.Context(), at); a.Fields["connection open"] == "true" {
				t.Errorf("%s waits for more after %d bytes of a form", at.Label, len(send))
			}
		})
		b.ask("GET /keys?recursive=true")
	}
}

// post is a PUT of a form that says it has this length.
func post(length int, body string) string {
	return fmt.Sprintf("PUT /v2/keys/body HTTP/1.1\r\nHost: x\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s", form, length, body)
}

// chunks is a body without an end.
func chunks(body string) string { return fmt.Sprintf("%x\r\n%s\r\n", len(body), body) }
