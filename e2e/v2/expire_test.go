package v2

import (
	"fmt"
	"strings"
	"testing"
)

// TestExpire lets keys run out. Watchers tell when, so that no test waits for a time.
func TestExpire(t *testing.T) {
	t.Parallel()
	b := start(t, 1)
	for _, story := range []struct {
		name string
		tell func(*beside)
	}{
		{"a file", expireFile},
		{"a directory", expireDirectory},
		{"at once", expireAtOnce},
		{"too far", expireTooFar},
		{"kept", expireKept},
		{"one after the other", expireOrder},
		{"a day no clock reaches", expireNever},
	} {
		t.Run(story.name, func(t *testing.T) { story.tell(b.on(t)) })
	}
}

func expireFile(b *beside) {
	b.ask("PUT /keys/ex/file value=1&ttl=1")
	w := b.wait(fmt.Sprintf("GET /keys/ex?wait=true&recursive=true&waitIndex=%d", b.now()+1))
	w.next()
	w.ends()
	b.ask("GET /keys/ex/file")
	b.ask("GET /keys/ex")
	b.ask("PUT /keys/ex/file value=2")
	b.ask("DELETE /keys/ex/file")
}

// expireDirectory: the watchers below a directory hear of it, and those of hidden keys.
func expireDirectory(b *beside) {
	b.script(`
		PUT /keys/exdir?dir=true ttl=1
		PUT /keys/exdir/a value=1
		PUT /keys/exdir/_h value=1
		PUT /keys/exdir/d/e value=1&ttl=900`)
	var all []*waiting
	for _, path := range []string{"/exdir?x=y", "/exdir?recursive=true", "/exdir/a?x=y", "/exdir/_h?x=y", "/exdir/d?recursive=true", "/exdir/d/e?x=y", "?recursive=true"} {
		all = append(all, b.wait(fmt.Sprintf("GET /keys%s&wait=true&waitIndex=%d", path, b.now()+1)))
	}
	for _, w := range all {
		w.next()
		w.ends()
	}
	b.ask("GET /keys/exdir")
	b.ask("GET /keys/exdir/d/e")
	b.ask("PUT /keys/exdir/d/e value=2") // no trace of the old expiration
	b.ask("GET /keys/exdir?recursive=true")
}

// expireAtOnce: a ttl of 0 is over when it begins, and so is one that counts backwards.
func expireAtOnce(b *beside) {
	for _, change := range []string{
		"PUT /keys/once/zero value=1&ttl=0",
		"PUT /keys/once/back value=1&ttl=18446744073709551615",
		"POST /keys/once value=1&ttl=0",
		"PUT /keys/once/dir?dir=true ttl=0",
	} {
		w := b.wait("GET /keys/once?wait=true&recursive=true&stream=true")
		b.ask(strings.Replace(change, " value", "?noValueOnSuccess=true value", 1))
		w.next()
		w.next()
		w.close()
	}
	b.ask("GET /keys/once?recursive=true")
}

// expireTooFar: what a clock cannot hold is before the year 2000, and that is no expiration. An update
// does not look.
func expireTooFar(b *beside) {
	for _, ttl := range []string{"9223372036", "9223372037", "18446744072709551615"} {
		b.ask("PUT /keys/far/" + ttl + " value=1&ttl=" + ttl)
		b.ask("GET /keys/far/" + ttl)
	}
	b.ask("PUT /keys/far/updated value=1")
	w := b.wait("GET /keys/far/updated?wait=true&stream=true")
	b.ask("PUT /keys/far/updated?prevExist=true&noValueOnSuccess=true value=2&ttl=9223372037")
	w.next()
	w.next()
	w.close()
	b.ask("GET /keys/far?recursive=true")
}

// expireKept: a new ttl, an empty one and a new value without one all keep a key.
func expireKept(b *beside) {
	b.script(`
		PUT /keys/kept/refreshed value=1&ttl=4
		PUT /keys/kept/refreshed ttl=900&refresh=true&prevExist=true
		PUT /keys/kept/updated value=1&ttl=4
		PUT /keys/kept/updated value=2&ttl=&prevExist=true
		PUT /keys/kept/set value=1&ttl=4
		PUT /keys/kept/set value=2
		PUT /keys/kept/swapped value=1&ttl=4
		PUT /keys/kept/swapped?prevValue=1 value=2&ttl=700
		PUT /keys/kept/deleted value=1&ttl=4
		DELETE /keys/kept/deleted
		PUT /keys/kept/last value=1&ttl=4`)
	w := b.wait(fmt.Sprintf("GET /keys/kept?wait=true&recursive=true&waitIndex=%d", b.now()+1))
	w.next() // that of last: no other one came before it
	w.ends()
	b.ask("GET /keys/kept?recursive=true&sorted=true")
}

// expireOrder: what is due goes by its expiration, not by its name.
func expireOrder(b *beside) {
	w := b.wait("GET /keys/order?wait=true&recursive=true&stream=true")
	for _, name := range []string{"c", "a", "b", "e", "d"} {
		b.ask("PUT /keys/order/" + name + " value=1&ttl=1")
		w.next()
	}
	for range 5 {
		w.next()
	}
	w.close()
	b.ask("GET /keys/order")
}

// expireNever: a ttl that ends in another century is a ttl.
func expireNever(b *beside) {
	b.ask("PUT /keys/never value=1&ttl=3000000000")
	b.ask("GET /keys/never")
	b.ask("PUT /keys/never value=1&ttl=")
}
