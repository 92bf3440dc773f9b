package v2

import (
	"fmt"
	"testing"
)

// TestRestart kills both servers: keys, indexes, expirations and the history are there again.
func TestRestart(t *testing.T) {
	t.Parallel()
	b := start(t, 1)
	b.script(`
		PUT /keys/r/a value=1
		PUT /keys/r/a?prevValue=1 value=2
		PUT /keys/r/dir?dir=true ttl=900
		PUT /keys/r/dir/_hidden/x value=1
		POST /keys/r/queue value=1
		POST /keys/r/queue value=2
		PUT /keys/r/long value=1&ttl=600
		PUT /keys/r/refreshed value=1&ttl=600
		PUT /keys/r/refreshed ttl=700&refresh=true
		PUT /keys/r/gone value=1
		DELETE /keys/r/gone
		PUT /keys/r/short value=1&ttl=4`)
	last := b.now()
	b.kill(1)
	b.run(1)
	b.level() // etcd's member tells its addresses again
	w := b.wait(fmt.Sprintf("GET /keys/r/short?wait=true&waitIndex=%d", last+1))
	b.ask("GET /keys/r?recursive=true&sorted=true")
	for index := last - 10; index <= last; index++ {
		w := b.wait(fmt.Sprintf("GET /keys/r?wait=true&recursive=true&waitIndex=%d", index))
		w.next()
		w.ends()
	}
	b.script(`
		GET /keys/r/dir/_hidden/x
		PUT /keys/r/a?prevIndex=1 value=3
		PUT /keys/r/a?prevValue=2 value=3
		POST /keys/r/queue value=3`)
	w.next()
	w.ends()
	b.ask("GET /keys/r?recursive=true&sorted=true")
}

// TestOff: without --enable-v2 nothing of it is there.
func TestOff(t *testing.T) {
	t.Parallel()
	b := found(t, 1, "--enable-v2=false")
	b.script(`
		GET /keys
		PUT /keys/a value=1
		GET /members
		GET /members/leader
		GET /machines
		GET /stats/self
		GET /auth/enable
		PUT /auth/users/root {"user":"root","password":"pw"}
		GET //v2
		GET //v2/`)
}
