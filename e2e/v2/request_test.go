package v2

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"strings"

	"limpet/e2e/side"
)

const form = "application/x-www-form-urlencoded"

// request is one HTTP request, the same for every server.
type request struct {
	method string
	path   string // behind /v2, in neutral names; behind the port if it begins with //
	body   string // in neutral names
	kind   string // Content-Type
	user   string // name:password
}

// parse reads "[user:password AS] METHOD PATH [BODY]". The body is a form, or JSON if it begins with a
// brace.
func parse(line string) request {
	r := request{}
	if user, rest, ok := strings.Cut(line, " AS "); ok {
		r.user, line = user, rest
	}
	r.method, line, _ = strings.Cut(line, " ")
	var hasBody bool
	if r.path, r.body, hasBody = strings.Cut(line, " "); hasBody {
		r.kind = form
	}
	if strings.HasPrefix(r.body, "{") {
		r.kind = "application/json"
	}
	return r
}

func (r request) String() string {
	text := fmt.Sprintf("%s %s", r.method, r.url(""))
	if r.kind != "" || r.body != "" {
		text += fmt.Sprintf(" %s %q", r.kind, cut(r.body))
	}
	if r.user != "" {
		text += " as " + r.user
	}
	return text
}

func (r request) url(base string) string {
	if rest, ok := strings.CutPrefix(r.path, "//"); ok {
		return base + "/" + rest
	}
	return base + "/v2" + r.path
}

// build makes the request that one server must get.
func (r request) build(ctx context.Context, at *side.Target) (*http.Request, error) {
	url := r.url(at.Server.ClientURL())
	for n := 1; n <= maxMembers; n++ { // IDs are translated in paths alone
		url = strings.ReplaceAll(url, memberID(n), fmt.Sprintf("%x", at.Names.RealID(side.MemberID(n))))
	}
	req, err := http.NewRequestWithContext(ctx, r.method, url, strings.NewReader(at.Names.RealText(r.body)))
	if err != nil {
		return nil, err
	}
	if r.kind != "" {
		req.Header.Set("Content-Type", r.kind)
	}
	if r.user != "" {
		req.Header.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(r.user)))
	}
	return req, nil
}

// maxMembers are in a cluster of these tests.
const maxMembers = 4

// memberID is the neutral name of the n-th member's ID, as v2 writes it.
func memberID(n int) string { return fmt.Sprintf("%x", side.MemberID(n)) }

// send gives the server's answer; what hinders it is an answer, too.
func (r request) send(ctx context.Context, at *side.Target) answer {
	resp, err := r.open(ctx, at)
	if err != nil {
		return answer{status: fmt.Sprintf("no answer: %v", err)}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return answer{status: fmt.Sprintf("%s, broken off: %v", resp.Status, err)}
	}
	return newAnswer(at, resp, string(body))
}

// open sends the request and leaves the body to be read.
func (r request) open(ctx context.Context, at *side.Target) (*http.Response, error) {
	req, err := r.build(ctx, at)
	if err != nil {
		return nil, err
	}
	return http.DefaultTransport.RoundTrip(req)
}
