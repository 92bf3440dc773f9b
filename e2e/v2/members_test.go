package v2

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"limpet/e2e/side"
)

// TestMembers compares /v2/members, /v2/machines and /v2/stats on three members.
func TestMembers(t *testing.T) {
	t.Parallel()
	b := start(t, 3)
	b.lead(1)
	t.Run("lists", func(t *testing.T) {
		for n := 1; n <= 3; n++ {
			b.on(t).member(n).script(`
				GET /members
				GET /members/
				GET /members/leader
				GET /members/nothing
				GET /members/7b00000000000001
				GET /members//
				HEAD /members
				GET /machines
				HEAD /machines`)
		}
	})
	t.Run("statistics", func(t *testing.T) { statistics(b.on(t)) })
	t.Run("wrong requests", func(t *testing.T) { wrongMembers(b.on(t)) })
	t.Run("changes", func(t *testing.T) { changeMembers(b.on(t)) })
	t.Run("keys everywhere", func(t *testing.T) { everywhere(b.on(t)) })
	t.Run("no majority", func(t *testing.T) { withoutMajority(b.on(t)) })
}

// lead makes the n-th member leader on both sides.
func (b *beside) lead(n int) {
	b.t.Helper()
	var others []int
	for o := 1; o <= 3; o++ {
		if o != n {
			others = append(others, o)
		}
	}
	var errs [2]error
	b.each(func(i int, _ *side.Target) { errs[i] = b.sides[i].Lead(n, others...) })
	if err := errors.Join(errs[:]...); err != nil {
		b.t.Fatal(err)
	}
}

func wrongMembers(b *beside) {
	b.script(`
		POST /members peerURLs=http://127.0.0.1:1
		POST /members
		POST /members {"peerURLs":["bad"]}
		POST /members {"peerURLs":["http://127.0.0.1:1/path"]}
		POST /members {"peerURLs":["ftp://127.0.0.1:1"]}
		POST /members {"peerURLs":["http://127.0.0.1"]}
		POST /members {"peerURLs":[]}
		POST /members {"peerURLs":"http://127.0.0.1:1"}
		POST /members {"peerURLs":[7]}
		POST /members {}
		POST /members {
		PUT /members {"peerURLs":["http://127.0.0.1:1"]}
		PUT /members/ {"peerURLs":["http://127.0.0.1:1"]}
		PUT /members/xyz {"peerURLs":["http://127.0.0.1:1"]}
		PUT /members/1234 {"peerURLs":["bad"]}
		PUT /members/1234 {"peerURLs":[]}
		PUT /members/1234 peerURLs=x
		DELETE /members
		DELETE /members/
		DELETE /members/xyz
		DELETE /members/leader
		DELETE /members/11111111111111111
		PATCH /members
		OPTIONS /members/1234`)
	for _, kind := range []string{"application/json; charset=utf-8", "APPLICATION/JSON", "Application/Json; x=y", "text/json", ";"} {
		b.compare(request{method: "POST", path: "/members", kind: kind, body: `{"peerURLs":["bad"]}`})
	}
}

// changeMembers adds a fourth member that never starts, changes and removes it. Three are a majority
// of four.
func changeMembers(b *beside) {
	b.addMember(4, `POST /members {"peerURLs":["http://peer-4:1"]}`)
	b.script(`
		GET /members
		GET /machines
		POST /members {"peerURLs":["http://peer-4:1","http://peer-4:9"]}
		POST /members {"peerURLs":["http://peer-2"]}
		PUT /members/7b00000000000004 {"peerURLs":["http://peer-2"]}
		PUT /members/7b00000000000004 {"peerURLs":["http://peer-4:2"]}
		PUT /members/7b00000000000004 {"peerURLs":["http://peer-4:2"]}
		GET /members
		PUT /members/1234 {"peerURLs":["http://peer-5:1"]}
		DELETE /members/1234
		DELETE /members/7b00000000000004
		DELETE /members/7b00000000000004
		GET /members`)
	b.member(3).ask("GET /members/leader")
}

// addMember adds the n-th member as soon as both sides let it, and learns its ID.
func (b *beside) addMember(n int, line string) {
	b.t.Helper()
	var got [2]answer
	for i, at := range b.targets() {
		await(b.t, at.Label+" takes a member", func(ctx context.Context) error {
			got[i] = parse(line).send(ctx, at)
			if got[i].status != fmt.Sprintf("201 %s", http.StatusText(201)) {
				return fmt.Errorf("answered\n%s", got[i])
			}
			return nil
		})
		var added struct{ ID string }
		if err := json.Unmarshal([]byte(got[i].body), &added); err != nil {
			b.t.Fatalf("%s: %v", got[i], err)
		}
		id, err := strconv.ParseUint(added.ID, 16, 64)
		if err != nil {
			b.t.Fatalf("%s: %v", got[i], err)
		}
		at.Names.Bind(side.MemberID(n), id)
		got[i].body = at.Names.Text(got[i].body)
	}
	b.alike(parse(line), got)
}

// figures are what statistics say that two servers never share.
var figures = []blank{
	{regexp.MustCompile(`"(startTime)":"[0-9T:.+Z-]+"`), `"$1":TIME`},
	{regexp.MustCompile(`"(uptime)":"[0-9a-zµ.]+"`), `"$1":TIME`},
	{regexp.MustCompile(`,"(send|recv)(PkgRate|BandwidthRate)":[0-9.e+-]+`), ``},
	{regexp.MustCompile(`:[0-9.e+-]+`), `:N`},
}

func statistics(b *beside) {
	for n := 1; n <= 3; n++ {
		for _, path := range []string{"/stats/self", "/stats/store", "/stats/leader"} {
			var got [2]answer
			at := b.member(n)
			at.each(func(i int, target *side.Target) {
				got[i] = parse("GET "+path).send(b.t.Context(), target)
				got[i].body = sortedObject(without(got[i].body, figures))
			})
			at.alike(parse("GET "+path), got)
		}
	}
}

var follower = regexp.MustCompile(`"7b0000000000000[0-9]":\{"latency":\{[^}]*\},"counts":\{[^}]*\}\}`)

// sortedObject orders the followers by their neutral IDs: JSON has them by the real ones.
func sortedObject(body string) string {
	found := follower.FindAllString(body, -1)
	slices.Sort(found)
	n := 0
	return follower.ReplaceAllStringFunc(body, func(string) string { n++; return found[n-1] })
}

// everywhere writes at each member and reads at the others: with quorum=true it is there at once.
func everywhere(b *beside) {
	b.level() // members have moved etcd's index
	for n := 1; n <= 3; n++ {
		at, next := b.member(n), b.member(n%3+1)
		at.ask(fmt.Sprintf("PUT /keys/from/%d value=%d", n, n))
		next.ask(fmt.Sprintf("GET /keys/from/%d?quorum=true", n))
		w := next.wait("GET /keys/from/waited?wait=true")
		at.ask("PUT /keys/from/waited value=" + strings.Repeat("x", n))
		w.next()
		w.ends()
		at.ask(fmt.Sprintf("PUT /keys/from/%d?prevExist=false value=again", n))
		next.ask(fmt.Sprintf("DELETE /keys/from/%d?prevValue=%d", n, n))
	}
	b.member(3).ask("PUT /keys/from/ttl value=1&ttl=1")
	w := b.member(2).wait(fmt.Sprintf("GET /keys/from?wait=true&recursive=true&waitIndex=%d", b.member(2).now()+1))
	w.next()
	w.ends()
	b.member(1).agree("GET /keys/from/ttl", http.StatusNotFound)
}

var timedOut = regexp.MustCompile(`request timed out[^"]*`)

// withoutMajority asks the last member of three. What needs no agreement works; the rest ends with an
// error, and with nothing done.
func withoutMajority(b *beside) {
	b.kill(2)
	b.kill(3)
	b.agree("GET /members/leader", http.StatusServiceUnavailable)
	b.script(`
		GET /keys/from?recursive=true
		GET /members
		GET /machines
		GET /stats/leader
		GET /auth/enable
		GET /auth/users`)
	b.wait("GET /keys/from?wait=true").close()
	var all sync.WaitGroup
	for _, line := range []string{
		"PUT /keys/from/lost value=1",
		"PUT /keys/from/lost?prevExist=false value=1",
		"POST /keys/from value=1",
		"DELETE /keys/from?recursive=true",
		"GET /keys/from?quorum=true",
		`POST /members {"peerURLs":["http://peer-4:7"]}`,
		`PUT /members/7b00000000000003 {"peerURLs":["http://peer-4:7"]}`,
		`DELETE /members/7b00000000000003`,
	} {
		all.Go(func() {
			var got [2]answer
			b.each(func(i int, at *side.Target) {
				got[i] = parse(line).send(b.t.Context(), at)
				got[i].body = timedOut.ReplaceAllString(got[i].body, "request timed out")
			})
			b.alike(parse(line), got)
		})
	}
	all.Wait()
	b.ask("GET /keys/from?recursive=true")
}
