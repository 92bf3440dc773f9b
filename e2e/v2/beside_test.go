package v2

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"limpet/e2e/proc"
	"limpet/e2e/side"
)

const (
	askDeadline = 30 * time.Second      // for one request, and for an event that must come
	patience    = time.Minute           // for what members come to by themselves
	pause       = 50 * time.Millisecond // between two looks
)

// subject is the server that the tests judge: limpet, or etcd to judge the tests.
func subject() proc.Kind {
	if os.Getenv("E2E_SUBJECT") == "etcd" {
		return proc.Etcd35
	}
	return proc.Limpet
}

// needsLimpet skips what only limpet has to do.
func needsLimpet(t *testing.T) {
	t.Helper()
	if subject() != proc.Limpet {
		t.Skip("limpet's own behaviour; E2E_SUBJECT names another program")
	}
}

// beside is etcd and the server to judge: clusters of as many members each.
type beside struct {
	t     *testing.T
	sides [2]*side.Cluster // etcd first
	at    int              // the member that is asked, from 1 on

	// forget is what answers may differ in; the index in the header is then forgotten, too.
	forget []blank
}

// blank is something in a text that depends on the moment or the server, and what is put in its place.
type blank struct {
	form *regexp.Regexp
	text string
}

func without(text string, blanks []blank) string {
	for _, b := range blanks {
		text = b.form.ReplaceAllString(text, b.text)
	}
	return text
}

// found starts both clusters with these flags.
func found(t *testing.T, size int, flags ...string) *beside {
	t.Helper()
	return &beside{t: t, at: 1, sides: [2]*side.Cluster{
		side.Found(t, proc.Etcd35, size, flags...),
		side.Found(t, subject(), size, flags...),
	}}
}

// start founds both clusters and levels their indexes.
func start(t *testing.T, size int) *beside {
	t.Helper()
	b := found(t, size, "--enable-v2=true")
	for _, cluster := range b.sides {
		awaitVersion(t, cluster.Member(1))
	}
	b.level()
	return b
}

// on gives the same clusters for a subtest, which hears of mismatches then.
func (b *beside) on(t *testing.T) *beside {
	c := *b
	c.t = t
	return &c
}

// member gives the same clusters, with questions for their n-th members.
func (b *beside) member(n int) *beside {
	c := *b
	c.at = n
	return &c
}

// targets are the members that are asked, etcd's first.
func (b *beside) targets() [2]*side.Target {
	return [2]*side.Target{b.sides[0].Member(b.at), b.sides[1].Member(b.at)}
}

// each does something on both sides at the same time.
func (b *beside) each(do func(i int, at *side.Target)) {
	var both sync.WaitGroup
	for i, target := range b.targets() {
		both.Go(func() { do(i, target) })
	}
	both.Wait()
}

// awaitVersion waits until the members have agreed on the cluster's version: etcd keeps it in the v2
// store, where it moves the index.
func awaitVersion(t *testing.T, at *side.Target) {
	t.Helper()
	await(t, at.Label+" has a cluster version", func(ctx context.Context) error {
		a := parse("GET //version").send(ctx, at)
		if !strings.Contains(a.body, `"etcdcluster":"3.`) {
			return fmt.Errorf("/version is %s", a.body)
		}
		return nil
	})
}

// await repeats check until it returns nil.
func await(t *testing.T, what string, check func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	err := proc.Eventually(ctx, pause, func() error {
		ctx, cancel := context.WithTimeout(ctx, patience/4)
		defer cancel()
		return check(ctx)
	})
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// level writes to the side whose index is lower until both are equal: etcd counts its members and its
// version as changes of the v2 store, how many depends on the start. The key is a hidden one.
func (b *beside) level() {
	b.t.Helper()
	bump := parse("PUT /keys/_level value=")
	var index [2]int
	for i, at := range b.targets() {
		index[i] = b.index(bump.send(b.t.Context(), at))
	}
	for i, at := range b.targets() {
		for index[i] < max(index[0], index[1]) {
			index[i] = b.index(bump.send(b.t.Context(), at))
		}
	}
}

// index is the v2 index that an answer names.
func (b *beside) index(a answer) int {
	b.t.Helper()
	n, err := strconv.Atoi(a.header["X-Etcd-Index"])
	if err != nil {
		b.t.Fatalf("no X-Etcd-Index in\n%s", a)
	}
	return n
}

// now is the index both sides are at; the member that is asked has heard of it.
func (b *beside) now() int {
	b.t.Helper()
	return b.index(b.ask("GET /keys/?quorum=true"))
}

// settle waits until the member that is asked has applied what all others have heard of: /health asks
// for an agreement. In etcd, the change of members before this one is then over, too; it drops another
// one that comes meanwhile.
func (b *beside) settle() {
	b.t.Helper()
	b.each(func(_ int, at *side.Target) {
		ctx, cancel := context.WithTimeout(b.t.Context(), askDeadline)
		defer cancel()
		if a := parse("GET //health").send(ctx, at); a.status != "200 OK" {
			b.t.Errorf("%s: /health is %s", at.Label, a)
		}
	})
}

// ask sends a request to both sides, compares the answers and gives etcd's.
func (b *beside) ask(line string) answer {
	b.t.Helper()
	want, _ := b.compare(parse(line))
	return want
}

// script asks line by line. Empty lines and those that begin with # are for the reader.
func (b *beside) script(text string) {
	b.t.Helper()
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			b.ask(line)
		}
	}
}

// compare sends a request to both sides and tells whether the answers are alike.
func (b *beside) compare(r request) (want answer, same bool) {
	b.t.Helper()
	if r.method != "GET" && strings.HasPrefix(r.path, "/members/") {
		b.settle()
	}
	var got [2]answer
	b.each(func(i int, at *side.Target) {
		ctx, cancel := context.WithTimeout(b.t.Context(), askDeadline)
		defer cancel()
		got[i] = r.send(ctx, at)
	})
	return got[0], b.alike(r, got)
}

// alike tells whether two answers are, and reports if they are not.
func (b *beside) alike(r request, got [2]answer) bool {
	b.t.Helper()
	if b.forget != nil {
		for i := range got {
			got[i].body = without(got[i].body, b.forget)
			got[i].header = maps.Clone(got[i].header)
			if got[i].header["X-Etcd-Index"] != "0" {
				delete(got[i].header, "X-Etcd-Index")
			}
		}
	}
	d := difference(got[0], got[1])
	if d != "" {
		b.t.Errorf("%s\n%s\n-- etcd\n%s-- %s\n%s", r, d, got[0], b.sides[1].Kind, got[1])
	}
	return d == ""
}

// kill ends the n-th member of both.
func (b *beside) kill(n int) {
	b.t.Helper()
	for _, cluster := range b.sides {
		cluster.Member(n).Server.Kill()
	}
}

// run starts it again.
func (b *beside) run(n int) {
	b.t.Helper()
	for _, cluster := range b.sides {
		cluster.Member(n).Server.Launch()
	}
	for _, cluster := range b.sides {
		cluster.Await(n)
	}
}

// agree waits until both sides have answered with this status, and compares what they then say.
func (b *beside) agree(line string, status int) {
	b.t.Helper()
	want := fmt.Sprintf("%d %s", status, http.StatusText(status))
	for _, at := range b.targets() {
		await(b.t, fmt.Sprintf("%s: %s is %s", at.Label, line, want), func(ctx context.Context) error {
			if a := parse(line).send(ctx, at); a.status != want {
				return fmt.Errorf("answered\n%s", a)
			}
			return nil
		})
	}
	b.ask(line)
}
