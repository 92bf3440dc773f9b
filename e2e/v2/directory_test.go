package v2

import (
	"strings"
	"testing"

	"limpet/e2e/side"
)

// TestUpdatedDirectory: a directory's ttl is changed as etcd 3.4 and the documentation have it. etcd 3.5
// refuses every update of a directory with status 500, which no client expects.
func TestUpdatedDirectory(t *testing.T) {
	needsLimpet(t)
	t.Parallel()
	at := side.Found(t, subject(), 1).Member(1)
	for _, ask := range []struct{ line, status, body string }{
		{"PUT /keys/d?dir=true", "201 Created", `{"action":"set","node":{"key":"/d","dir":true,"modifiedIndex":`},
		{"PUT /keys/d?dir=true&prevExist=true ttl=500", "200 OK", `{"action":"update","node":{"key":"/d","dir":true,"expiration":`},
		{"GET /keys/d", "200 OK", `{"action":"get","node":{"key":"/d","dir":true,"expiration":`},
		{"PUT /keys/d?prevExist=true ttl=900&refresh=true", "200 OK", `{"action":"update","node":{"key":"/d","dir":true,"expiration":`},
		{"PUT /keys/d?dir=true&prevExist=true ttl=", "200 OK", `{"action":"update","node":{"key":"/d","dir":true,"modifiedIndex":`},
		{"GET /keys/d", "200 OK", `{"action":"get","node":{"key":"/d","dir":true,"modifiedIndex":`},
		{"PUT /keys/d?prevExist=true value=x", "403 Forbidden", `{"errorCode":102,"message":"Not a file","cause":"/d","index":`},
	} {
		if a := parse(ask.line).send(t.Context(), at); a.status != ask.status || !strings.HasPrefix(a.body, ask.body) {
			t.Errorf("%s: want %s and %s, got\n%s", ask.line, ask.status, ask.body, a)
		}
	}
	if p := (ctl{args: "updatedir --ttl 300 /d"}).run(t, at); p.code != 0 {
		t.Errorf("etcdctl updatedir: %s", p)
	}
}
