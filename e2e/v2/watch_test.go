package v2

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"limpet/e2e/side"
)

// waiting is a request of both sides whose answer is read event by event.
type waiting struct {
	b       *beside
	request request
	bodies  [2]*bufio.Reader
	before  [2]string // the last event, by side
	close   func()
}

// wait sends a request with wait=true and compares what comes at once: status and headers.
func (b *beside) wait(line string) *waiting {
	b.t.Helper()
	ctx, cancel := context.WithCancel(b.t.Context())
	w := &waiting{b: b, request: parse(line), close: cancel}
	b.t.Cleanup(cancel)
	var heads [2]answer
	b.each(func(i int, at *side.Target) {
		late := time.AfterFunc(askDeadline, cancel)
		defer late.Stop()
		resp, err := w.request.open(ctx, at)
		if err != nil {
			heads[i] = answer{status: fmt.Sprintf("no answer: %v", err)}
			resp = &http.Response{Body: http.NoBody}
		} else {
			heads[i] = newAnswer(at, resp, "")
		}
		w.bodies[i] = bufio.NewReader(resp.Body)
	})
	b.alike(w.request, heads)
	return w
}

// next compares the next event on both sides, or that there is none any more, and gives etcd's.
func (w *waiting) next() string {
	w.b.t.Helper()
	var got [2]answer
	w.b.each(func(i int, at *side.Target) { got[i] = w.read(i, at) })
	w.b.alike(w.request, got)
	return got[0].body
}

func (w *waiting) read(i int, at *side.Target) answer {
	late := time.AfterFunc(askDeadline, w.close)
	defer late.Stop()
	line, err := w.bodies[i].ReadString('\n')
	for line != "" && line == w.before[i] { // streams hear of a removed directory twice in etcd
		line, err = w.bodies[i].ReadString('\n')
	}
	w.before[i] = line
	a := answer{}
	a.body, a.moments = plain(at.Names.Text(line), false)
	if err != nil {
		a.status = "the answer has ended"
	}
	if err != nil && err != io.EOF {
		w.b.t.Errorf("%s: %s has nothing more: %v", w.request, at.Label, err)
	}
	return a
}

// ends compares that both sides have ended the answer.
func (w *waiting) ends() {
	w.b.t.Helper()
	if last := w.next(); last != "" {
		w.b.t.Errorf("%s: want an end, etcd has %s", w.request, last)
	}
	w.close()
}

// TestWatch compares long polls and streams. That nothing arrives shows when the next thing does.
func TestWatch(t *testing.T) {
	t.Parallel()
	b := start(t, 1)
	for _, story := range []struct {
		name string
		tell func(*beside)
	}{
		{"one key", watchKey},
		{"below a directory", watchBelow},
		{"ancestors", watchAncestors},
		{"hidden keys", watchHidden},
		{"refresh", watchRefresh},
		{"streams", watchStream},
		{"bad requests", watchBad},
		{"from an index on", watchSince},
		{"many at once", watchMany},
		{"history", watchHistory},
		{"clients that hang up", watchGone},
	} {
		t.Run(story.name, func(t *testing.T) { story.tell(b.on(t)) })
	}
}

func watchKey(b *beside) {
	w := b.wait("GET /keys/w/a?wait=true")
	b.ask("PUT /keys/w/other value=0")
	b.ask("PUT /keys/w/a value=1")
	w.next()
	w.ends()
	for _, change := range []string{
		"PUT /keys/w/a value=2",
		"PUT /keys/w/a?prevExist=true value=3",
		"PUT /keys/w/a?prevValue=3 value=4",
		"PUT /keys/w/a?noValueOnSuccess=true value=5&ttl=500",
		"DELETE /keys/w/a?prevValue=5",
		"PUT /keys/w/a?prevExist=false value=6",
		"DELETE /keys/w/a",
		"PUT /keys/w/a?dir=true",
		"DELETE /keys/w/a?dir=true",
	} {
		w := b.wait("GET /keys/w/a?wait=true")
		b.ask(change)
		w.next()
		w.ends()
	}
	w = b.wait("GET /keys/w/a?wait=true&noValueOnSuccess=true&sorted=true&dir=true")
	b.ask("GET /keys/w/a?quorum=true&wait=true") // quorum wins: no watch
	b.ask("PUT /keys/w/a value=7")
	w.next()
	w.ends()
}

func watchBelow(b *beside) {
	b.ask("PUT /keys/below/d/x value=0")
	exact := b.wait("GET /keys/below/d?wait=true")
	below := b.wait("GET /keys/below?wait=true&recursive=true")
	root := b.wait("GET /keys?wait=true&recursive=true&stream=true")
	b.ask("PUT /keys/belowish value=0")
	b.ask("PUT /keys/below/d/x value=1")
	below.next()
	below.ends()
	b.ask("POST /keys/below/queue value=1")
	b.ask("PUT /keys/below/d?dir=true ttl=100") // fails
	b.ask("DELETE /keys/below/d?recursive=true")
	exact.next()
	exact.ends()
	for range 4 {
		root.next()
	}
	root.close()
}

// watchAncestors: whoever watches below a removed directory hears of it. That is so in limpet whether or
// not the watched key was there; in etcd it is so of keys that were, and in the history.
func watchAncestors(b *beside) {
	b.ask("PUT /keys/anc/d/e/f value=0")
	b.ask("PUT /keys/anc/d/e/_h value=0")
	file := b.wait("GET /keys/anc/d/e/f?wait=true")
	hidden := b.wait("GET /keys/anc/d/e/_h?wait=true")
	stream := b.wait("GET /keys/anc/d/e?wait=true&recursive=true&stream=true")
	b.ask("DELETE /keys/anc?recursive=true")
	file.next()
	file.ends()
	hidden.next()
	hidden.ends()
	b.ask("PUT /keys/anc/d/e/f value=1")
	b.ask("DELETE /keys/anc/d/e/f")
	for range 3 {
		stream.next()
	}
	stream.close()
}

func watchHidden(b *beside) {
	above := b.wait("GET /keys/hide?wait=true&recursive=true")
	hidden := b.wait("GET /keys/hide/_h?wait=true")
	inside := b.wait("GET /keys/hide/_d?wait=true&recursive=true")
	b.ask("PUT /keys/hide/_h value=1")
	b.ask("PUT /keys/hide/_d/x value=1")
	b.ask("PUT /keys/hide/d/_y/x value=1")
	b.ask("DELETE /keys/hide/_h")
	b.ask("PUT /keys/hide/seen value=1")
	for _, w := range []*waiting{above, hidden, inside} {
		w.next()
		w.ends()
	}
	since := b.now() - 4
	for n := range 5 { // the history follows rules of its own
		w := b.wait(fmt.Sprintf("GET /keys/hide?wait=true&recursive=true&waitIndex=%d", since+n))
		w.next()
		w.ends()
	}
}

func watchRefresh(b *beside) {
	b.ask("PUT /keys/fresh value=1&ttl=1000")
	since := b.now() + 1
	w := b.wait("GET /keys/fresh?wait=true")
	b.ask("PUT /keys/fresh ttl=500&refresh=true")
	b.ask("PUT /keys/fresh ttl=700&refresh=true&prevExist=true")
	b.ask("PUT /keys/fresh ttl=800&refresh=true&prevValue=1")
	b.ask("PUT /keys/fresh value=2")
	w.next()
	w.ends()
	w = b.wait(fmt.Sprintf("GET /keys/fresh?wait=true&waitIndex=%d", since))
	w.next()
	w.ends()
}

func watchStream(b *beside) {
	w := b.wait("GET /keys/s?wait=true&recursive=true&stream=true")
	first := b.now() + 1
	for n := range 20 {
		b.ask(fmt.Sprintf("PUT /keys/s/%d value=%d", n%3, n))
	}
	for range 20 {
		w.next()
	}
	w.close()
	// From an index that is in the history, a stream has one event only.
	w = b.wait(fmt.Sprintf("GET /keys/s?wait=true&recursive=true&stream=true&waitIndex=%d", first))
	w.next()
	b.ask("PUT /keys/s/again value=1")
	w.close()
	// From one to come, it goes on.
	w = b.wait(fmt.Sprintf("GET /keys/s?wait=true&recursive=true&stream=true&waitIndex=%d", b.now()+3))
	for n := range 6 {
		b.ask(fmt.Sprintf("PUT /keys/s/later value=%d", n))
	}
	for range 4 {
		w.next()
	}
	w.close()
}

func watchBad(b *beside) {
	b.script(`
		GET /keys/w?wait=perhaps
		GET /keys/w?wait=
		GET /keys/w?wait=true&waitIndex=-1
		GET /keys/w?wait=true&waitIndex=x
		GET /keys/w?wait=true&recursive=x
		GET /keys/w?wait=true&stream=x
		PUT /keys/w?wait=true value=1
		POST /keys/w?wait=true value=1
		DELETE /keys/w?wait=true
		HEAD /keys/w?wait=true
		GET /keys/w?wait=false&waitIndex=1
		GET /keys/w?waitIndex=1&stream=true&recursive=true&sorted=true`)
}

func watchSince(b *beside) {
	b.script(`
		PUT /keys/since/a value=1
		PUT /keys/since/b value=1
		PUT /keys/since/_c value=1
		PUT /keys/since/a?prevExist=true value=2
		PUT /keys/since/d/e value=1
		DELETE /keys/since/d?recursive=true
		DELETE /keys/since/a
		PUT /keys/since/end value=1
		PUT /keys/since/a value=end
		PUT /keys/since/_c value=end
		PUT /keys/since/d/e value=end`)
	last := b.now()
	for _, path := range []string{"/since?recursive=true", "/since/a?x=y", "/since/_c?x=y", "/since/d?recursive=true", "/since/d/e?x=y", "?recursive=true"} {
		for index := last - 10; index <= last; index++ {
			line := fmt.Sprintf("GET /keys%s&wait=true&waitIndex=%d", path, index)
			if path == "/since/a?x=y" && index > last-2 || path == "/since/_c?x=y" && index > last-1 {
				continue // nothing to come
			}
			w := b.wait(line)
			w.next()
			w.ends()
		}
	}
	future := b.wait(fmt.Sprintf("GET /keys/since?recursive=true&wait=true&waitIndex=%d", last+3))
	for n := range 3 {
		b.ask(fmt.Sprintf("PUT /keys/since/later value=%d", n))
	}
	future.next()
	future.ends()
	zero := b.wait("GET /keys/since/later?wait=true&waitIndex=0")
	b.ask("PUT /keys/since/later value=end")
	zero.next()
	zero.ends()
}

func watchMany(b *beside) {
	var all []*waiting
	for n := range 40 {
		all = append(all, b.wait(fmt.Sprintf("GET /keys/many/%d?wait=true", n%10)))
	}
	for n := range 10 {
		b.ask(fmt.Sprintf("PUT /keys/many/%d value=%d", n, n))
	}
	var done sync.WaitGroup
	for _, w := range all {
		done.Go(func() { w.next(); w.ends() })
	}
	done.Wait()
}

// watchHistory writes more events than the history holds, and asks at and behind its end.
func watchHistory(b *beside) {
	const events = 1000
	begin := b.now()
	b.ask("PUT /keys/fill value=begin")
	b.each(func(_ int, at *side.Target) {
		for n := range events {
			parse(fmt.Sprintf("PUT /keys/filled/%d value=%d", n%7, n)).send(b.t.Context(), at)
		}
	})
	last := b.now()
	b.script(fmt.Sprintf(`
		GET /keys/fill?wait=true&waitIndex=%d
		GET /keys/fill?wait=true&waitIndex=%d
		GET /keys/fill?wait=true&waitIndex=1
		GET /keys/fill?wait=true&stream=true&recursive=true&waitIndex=%d`, begin, last-events, last-events))
	for _, index := range []int{last - events + 1, last - events/2, last} {
		w := b.wait(fmt.Sprintf("GET /keys/filled?recursive=true&wait=true&waitIndex=%d", index))
		w.next()
		w.ends()
	}
}

// watchGone: a watcher ends with its client.
func watchGone(b *beside) {
	none := func(at *side.Target) func(context.Context) error {
		return func(ctx context.Context) error {
			if a := parse("GET /stats/store").send(ctx, at); !strings.Contains(a.body, `"watchers":0}`) {
				return fmt.Errorf("%s", a)
			}
			return nil
		}
	}
	var all []*waiting
	for n := range 30 {
		all = append(all, b.wait(fmt.Sprintf("GET /keys/gone/%d?wait=true&stream=%v&recursive=%v", n, n%2 == 0, n%3 == 0)))
	}
	for _, at := range b.targets() {
		a := parse("GET /stats/store").send(b.t.Context(), at)
		if strings.Contains(a.body, `"watchers":0`) {
			b.t.Errorf("%s has no watchers while there are 30: %s", at.Label, a)
		}
	}
	for _, w := range all {
		w.close()
	}
	for _, at := range b.targets() {
		await(b.t, at.Label+" has no watchers any more", none(at))
	}
}
