package v2

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"limpet/e2e/side"
)

// walk is a classic tutorial on three members, and the reader who follows it.
type walk struct {
	t       *testing.T
	cluster *side.Cluster
}

// TestTutorial: a page of the years when etcd had v2 alone, word for word, on three members.
func TestTutorial(t *testing.T) {
	t.Parallel()
	w := &walk{t: t, cluster: side.Found(t, subject(), 3, "--enable-v2=true")}
	w.curl(1, "GET //version", 200, `"etcdserver":"3.`)
	for n := 1; n <= 3; n++ {
		w.curl(1, "GET /members", 200, fmt.Sprintf(`"name":"m%d","peerURLs":["http://peer-%d"],"clientURLs":["http://client-%d"]`, n, n, n))
	}
	w.etcdctl(1, "cluster-health", 0, "cluster is healthy")
	w.curl(1, "PUT /keys/message value=Hello", 201, `{"action":"set","node":{"key":"/message","value":"Hello",`)
	for n := 1; n <= 3; n++ {
		w.etcdctl(n, "get --quorum /message", 0, "Hello")
	}

	dead := w.leader()
	left := dead%3 + 1
	w.cluster.Member(dead).Server.Kill()
	w.elected(left, dead)
	w.etcdctl(left, "cluster-health", 5, "cluster is degraded")
	w.etcdctl(left, "cluster-health", 5, memberID(dead)+" is unreachable")
	w.etcdctl(left, "get /message", 0, "Hello")
	w.etcdctl(left, "set /message World", 0, "World")
	w.curl(left, "PUT /keys/meanwhile?prevExist=false value=1", 201, `"action":"create"`)

	w.cluster.Member(dead).Server.Launch()
	w.cluster.Await(dead)
	w.healthy(left)
	w.etcdctl(dead, "get --quorum /message", 0, "World")
	w.curl(dead, "GET /keys/meanwhile", 200, `"value":"1"`)
	w.etcdctl(dead, "member list", 0, "isLeader=true")
	w.etcdctl(dead, "rm /message", 0, "PrevNode.Value: World")
	w.etcdctl(left, "get --quorum /message", 4, "100: Key not found (/message)")
}

// curl asks the n-th member; the answer must have this status and this text.
func (w *walk) curl(n int, line string, status int, text string) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), askDeadline)
	defer cancel()
	a := parse(line).send(ctx, w.cluster.Member(n))
	if !strings.HasPrefix(a.status, fmt.Sprint(status)) || !strings.Contains(a.body, text) {
		w.t.Fatalf("%s at member %d: want %d and %q, got\n%s", line, n, status, text, a)
	}
}

// etcdctl asks the n-th member; it must end with this code and print this text.
func (w *walk) etcdctl(n int, line string, code int, text string) {
	w.t.Helper()
	p := ctl{args: line}.run(w.t, w.cluster.Member(n))
	if p.code != code || !strings.Contains(p.stdout+p.stderr, text) {
		w.t.Fatalf("etcdctl %s at member %d: want exit code %d and %q, got\n%s", line, n, code, text, p)
	}
}

// leader is the number of the member that leads.
func (w *walk) leader() int {
	w.t.Helper()
	a := parse("GET /members/leader").send(w.t.Context(), w.cluster.Member(1))
	for n := 1; n <= 3; n++ {
		if strings.Contains(a.body, fmt.Sprintf(`"id":"%s"`, memberID(n))) {
			return n
		}
	}
	w.t.Fatalf("nobody leads: %s", a)
	return 0
}

// elected waits until the n-th member follows another leader than the dead one.
func (w *walk) elected(n, dead int) {
	w.t.Helper()
	await(w.t, "a new leader", func(ctx context.Context) error {
		a := parse("GET /members/leader").send(ctx, w.cluster.Member(n))
		if a.status != "200 OK" || strings.Contains(a.body, memberID(dead)) {
			return fmt.Errorf("leader is\n%s", a)
		}
		return nil
	})
}

// healthy waits until the n-th member finds the whole cluster well.
func (w *walk) healthy(n int) {
	w.t.Helper()
	await(w.t, "a healthy cluster", func(context.Context) error {
		if p := (ctl{args: "cluster-health"}).run(w.t, w.cluster.Member(n)); p.code != 0 {
			return fmt.Errorf("cluster-health: %s", p)
		}
		return nil
	})
}
