package v2

import (
	"encoding/json"
	"math"
	"testing"

	"limpet/v2tree"
)

func TestTimesToLive(t *testing.T) {
	const now = 1_700_000_000_000_000_000
	for expires, want := range map[int64]int64{
		now + 1: 1, now + 1e9: 1, now + 1e9 + 1: 2, now: 0, now - 1: 0, now - 999_999_999: 0, now - 1e9: -1,
		math.MaxInt64: 7523372037, math.MinInt64 + 1: -9223372036, // a difference beyond int64 is its end
	} {
		if got := nodeOnWire("/a", &v2tree.Node{Expires: expires}, now).TTL; got != want {
			t.Errorf("%d ns from now: %d s, want %d", expires-now, got, want)
		}
	}
}

// Fields that are empty are left out; the value of a file never is, but for one
// that is gone.
func TestEventsOnTheWire(t *testing.T) {
	file, gone := &v2tree.Node{Created: 4, Modified: 5}, &v2tree.Node{Created: 4, Modified: 6}
	for want, e := range map[string]*v2tree.Event{
		`{"action":"set","node":{"key":"/a","value":"","modifiedIndex":5,"createdIndex":4}}`: {Action: "set", Key: "/a", Node: file},
		`{"action":"expire","node":{"key":"/a","modifiedIndex":6,"createdIndex":4},"prevNode":{"key":"/a","value":"","expiration":"1970-01-01T00:00:01.000000005Z","ttl":1,"modifiedIndex":5,"createdIndex":4}}`: {
			Action: "expire", Key: "/a", Node: gone, Prev: &v2tree.Node{Created: 4, Modified: 5, Expires: 1_000_000_005}, Time: 1_000_000_000,
		},
	} {
		if got, err := json.Marshal(eventOnWire(e)); err != nil || string(got) != want {
			t.Errorf("got %s, %v; want %s", got, err, want)
		}
	}
}
