package v2

import (
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestRandom sends generated requests to both: all methods and parameters, good and bad ones, in the
// query, in a form or in both, over few paths, with watchers in between. E2E_SEED runs one seed only,
// E2E_SEEDS that many, E2E_STEPS sets the requests of each.
func TestRandom(t *testing.T) {
	t.Parallel()
	first, seeds := 1, count(t, "E2E_SEEDS", 3)
	if os.Getenv("E2E_SEED") != "" {
		first, seeds = count(t, "E2E_SEED", 1), 1
	}
	for seed := first; seed < first+seeds; seed++ {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			t.Parallel()
			g := &generator{kinds: map[string]int{}, b: start(t, 1), rng: rand.New(rand.NewPCG(uint64(seed), 0x7632))}
			g.run(count(t, "E2E_STEPS", 1500))
		})
	}
}

// count reads a number from the environment.
func count(t *testing.T, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s=%q is not a number", name, text)
	}
	return n
}

// maxMismatches end a session early: what follows is often a consequence.
const maxMismatches = 5

// generator draws requests. They depend on its seed and on the indexes that etcd answered.
type generator struct {
	b       *beside
	rng     *rand.Rand
	index   int // the newest
	watches []opened
	found   int            // mismatches
	kinds   map[string]int // answers by method, status and what they were about
}

func (g *generator) run(steps int) {
	g.b.t.Helper()
	before := g.counts()
	for done := 0; done < steps && g.found < maxMismatches; done++ {
		if g.chance(3) && len(g.watches) < 12 {
			g.watch()
			continue
		}
		r := g.request()
		if updates(r) && g.isDirectory(r.path) {
			continue // see directory_test.go
		}
		a, same := g.b.compare(r)
		if !same {
			g.found++
			g.b.t.Logf("that was step %d", done)
		}
		g.kinds[fmt.Sprint(r.method, " ", a.status[:3], about.FindString(a.body))]++
		if n, err := strconv.Atoi(a.header["X-Etcd-Index"]); err == nil && n > 0 {
			g.index = n
		}
	}
	g.b.t.Logf("answers: %v", g.kinds)
	g.drain()
	g.compareCounts(before)
}

// about is the part of a body that tells what was done or what was wrong.
var about = regexp.MustCompile(`(action|errorCode)":"?[a-zA-Z0-9]+`)

var paths = []string{
	"/a", "/a/b", "/a/b/c", "/a/x", "/ab", "/b", "/b/_s", "/b/_s/x", "/_h", "/_h/_y", "/q", "/q/r", "/f", "/f", "/g", "/g", "/f/g",
}

func (g *generator) path() string {
	switch n := g.rng.IntN(60); {
	case n == 0:
		return ""
	case n == 1:
		return "/"
	case n == 2:
		return "/a%20space"
	case n == 3:
		return "/q/" + fmt.Sprintf("%020d", g.nearIndex())
	}
	path := paths[g.rng.IntN(len(paths))]
	if g.chance(4) {
		path += "/"
	}
	return path
}

// nearIndex is an index that some node may have.
func (g *generator) nearIndex() int { return max(0, g.index-g.rng.IntN(12)+1) }

// chance is true n times in a hundred.
func (g *generator) chance(n int) bool { return g.rng.IntN(100) < n }

// pick draws one of some texts.
func (g *generator) pick(texts ...string) string { return texts[g.rng.IntN(len(texts))] }

var values = []string{"1", "2", "3", "", "two words", "<&>\"'\\", "é€\u2028", "\xff\xfe", "a=b&c", "\x00\n", strings.Repeat("long ", 300)}

func (g *generator) value() string {
	if g.chance(80) {
		return values[g.rng.IntN(3)]
	}
	return values[g.rng.IntN(len(values))]
}

// truth is what a parameter says that is true or false.
func (g *generator) truth() string {
	if g.chance(6) {
		return g.pick("", "x", "2", "yes", "tRUE")
	}
	return g.pick("true", "true", "true", "1", "t", "false", "0", "TRUE", "F")
}

func (g *generator) method() string {
	switch n := g.rng.IntN(100); {
	case n < 48:
		return "PUT"
	case n < 64:
		return "GET"
	case n < 69:
		return "POST"
	case n < 97:
		return "DELETE"
	case n < 99:
		return "HEAD"
	}
	return g.pick("PATCH", "OPTIONS", "TRACE")
}

// request draws one request about keys that is answered at once.
func (g *generator) request() request {
	r := request{method: g.method(), path: "/keys" + g.path()}
	query, body := url.Values{}, url.Values{}
	for name, value := range g.parameters(r.method) {
		switch g.rng.IntN(10) {
		case 0, 1, 2, 3:
			query.Set(name, value)
		case 5, 6, 7: // a body of these methods is not read
			if r.method == "GET" || r.method == "HEAD" || r.method == "DELETE" {
				query.Set(name, value)
			} else {
				body.Set(name, value)
			}
		case 4:
			query.Set(name, value)
			body.Set(name, g.pick(value, "other", "true"))
		default:
			body.Set(name, value)
		}
	}
	if len(query) > 0 {
		r.path += "?" + query.Encode()
	}
	if len(body) > 0 {
		r.body, r.kind = body.Encode(), form
	}
	if g.chance(3) {
		r.kind = g.pick("", "text/plain", form+"; charset=utf-8", "application/json", "bad/", "multipart/form-data")
	}
	return r
}

// updates tells whether a request may be an update: what a directory's are is etcd 3.5's fault.
func updates(r request) bool {
	return r.method == "PUT" && strings.Contains(r.path+r.body, "prevExist=")
}

func (g *generator) isDirectory(path string) bool {
	g.b.t.Helper()
	path, _, _ = strings.Cut(path, "?")
	return strings.Contains(g.b.ask("GET "+path).body, `"dir":true`)
}

// parameters draws some, each as often in a hundred requests as its row says.
func (g *generator) parameters(method string) map[string]string {
	draws := []struct {
		name       string
		put, other int
		value      func() string
	}{
		{"value", 80, 30, g.value},
		{"ttl", 12, 3, func() string { return g.pick("1000", "2000", "500", "", "-1", "x", "1.5", "99999999999999999999") }},
		{"prevValue", 18, 10, g.value},
		{"prevIndex", 14, 8, func() string { return g.pick(strconv.Itoa(g.nearIndex()), strconv.Itoa(g.nearIndex()), "0", "x", "-1") }},
		{"prevExist", 20, 4, g.truth},
		{"dir", 12, 25, g.truth},
		{"recursive", 3, 60, g.truth},
		{"sorted", 1, 15, g.truth},
		{"quorum", 1, 10, g.truth},
		{"noValueOnSuccess", 8, 4, g.truth},
		{"refresh", 6, 1, g.truth},
		{"stream", 1, 3, g.truth},
		{"waitIndex", 1, 2, func() string { return g.pick(strconv.Itoa(g.nearIndex()), "x") }},
		{"wait", 1, 1, func() string { return g.pick("false", "0", "x") }},
		{"unknown", 1, 1, g.value},
	}
	drawn := map[string]string{}
	for _, d := range draws {
		odds := d.other
		if method == "PUT" {
			odds = d.put
		}
		if g.chance(odds) {
			drawn[d.name] = d.value()
		}
	}
	if method != "GET" && method != "HEAD" && g.chance(1) {
		drawn["wait"] = "true" // refused
	}
	return drawn
}

// opened is a watcher that is open.
type opened struct {
	*waiting
	path string
	at   int // the index when it was opened
}

// watched are paths without a directory that could be removed above them: see watchAncestors.
var watched = []string{"/a", "/b", "/_h", "/q", "/f", "/g"}

// watch opens a watcher.
func (g *generator) watch() {
	g.b.t.Helper()
	o := opened{path: watched[g.rng.IntN(len(watched))], at: g.b.now()}
	line := "GET /keys" + o.path + "?wait=true"
	if g.chance(50) {
		line += "&recursive=true"
	}
	if g.chance(30) {
		line += "&stream=true"
	}
	if g.chance(40) {
		line += fmt.Sprintf("&waitIndex=%d", max(1, o.at-g.rng.IntN(300)+ahead))
	}
	o.waiting = g.b.wait(line)
	g.watches = append(g.watches, o)
}

// ahead of the newest index some watchers begin.
const ahead = 20

// drain removes everything and writes to every path that is watched until the watcher has heard of it.
func (g *generator) drain() {
	g.b.t.Helper()
	for range ahead + 1 {
		g.b.ask("PUT /keys/drain value=1")
	}
	for _, path := range paths {
		if strings.Count(path, "/") == 1 {
			g.b.ask("DELETE /keys" + path + "?recursive=true")
		}
	}
	for _, o := range g.watches {
		g.b.ask("PUT /keys" + o.path + " value=drained")
		o.drain()
		g.b.ask("DELETE /keys" + o.path)
	}
}

var modified = regexp.MustCompile(`"modifiedIndex":([0-9]+)`)

// drain reads what the watcher still has to say. A stream that began in the history has one event.
func (o opened) drain() {
	o.b.t.Helper()
	for !o.b.t.Failed() {
		event := o.next()
		found := modified.FindStringSubmatch(event)
		if found == nil {
			o.b.t.Errorf("%s: no event but %q", o.request, event)
			break
		}
		index, err := strconv.Atoi(found[1])
		if err != nil {
			o.b.t.Fatalf("%s: %v", event, err)
		}
		if !strings.Contains(o.request.path, "stream=true") || index <= o.at || strings.Contains(event, `"drained"`) {
			break
		}
	}
	o.close()
}

// counter is one of /v2/stats/store.
var counter = regexp.MustCompile(`"([a-zA-Z]+)":([0-9]+)`)

// counts gives both sides' statistics of the store, by name.
func (g *generator) counts() [2]map[string]int {
	g.b.t.Helper()
	var counts [2]map[string]int
	for i, at := range g.b.targets() {
		a := parse("GET /stats/store").send(g.b.t.Context(), at)
		counts[i] = map[string]int{}
		for _, match := range counter.FindAllStringSubmatch(a.body, -1) {
			n, err := strconv.Atoi(match[2])
			if err != nil {
				g.b.t.Fatalf("%s: %v", a.body, err)
			}
			name := match[1]
			for _, kind := range []string{"delete", "update", "compareAndSwap", "compareAndDelete"} {
				if strings.HasPrefix(name, kind+"S") || strings.HasPrefix(name, kind+"F") {
					name = kind // etcd counts some that failed among those that did not
				}
			}
			counts[i][name] += n
		}
	}
	return counts
}

// compareCounts wants both to have counted the same since before. Watchers that hung up may still be
// counted; etcd counts its own looks for users among the gets that failed, and a create below a file as a
// set that failed, too.
func (g *generator) compareCounts(before [2]map[string]int) {
	g.b.t.Helper()
	if g.found > 0 {
		return
	}
	after := g.counts()
	for name := range after[0] {
		want, got := after[0][name]-before[0][name], after[1][name]-before[1][name]
		if want != got && !slices.Contains([]string{"watchers", "getsFail", "setsFail"}, name) {
			g.b.t.Errorf("/v2/stats/store counted %d more %s, etcd %d", got, name, want)
		}
	}
	if len(after[0]) != len(after[1]) {
		g.b.t.Errorf("/v2/stats/store has %d counters, etcd %d", len(after[1]), len(after[0]))
	}
}
