package cluster

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"limpet/peer"
)

func at(id, instance uint64, address string) peer.Hello {
	return peer.Hello{ID: id, Instance: instance, Address: address, Name: fmt.Sprint("m", id)}
}

// What was seen is there after a restart, by another process.
func TestRosterRemembers(t *testing.T) {
	file := filepath.Join(t.TempDir(), "peers.json")
	r := OpenRoster(file)
	r.saw(at(1, 10, "a:1"))
	r.saw(at(2, 20, "b:1"))
	r.saw(at(1, 11, "a:2")) // it has moved
	r.saw(at(3, 30, "c:1"))
	r.saw(at(4, 40, "")) // nowhere
	r.forget(3)
	r.forget(3)
	r.heard([]string{"y:1", "x:1"})
	r.heard(nil)

	again := OpenRoster(file)
	if again.Instance() == r.Instance() {
		t.Error("two processes have one instance")
	}
	if got := fmt.Sprint(again.seen); got != "map[1:{11 a:2 m1} 2:{20 b:1 m2}]" {
		t.Errorf("seen %s", got)
	}
	if got := again.addresses(1); !slices.Equal(got, []string{"b:1"}) {
		t.Errorf("addresses %v but that of 1", got)
	}
	if got := again.gossipAddresses(); !slices.Equal(got, []string{"x:1", "y:1"}) {
		t.Errorf("gossip addresses %v", got)
	}
}

// The file holds hints: without it, or with a damaged one, a member starts all
// the same, and writes it anew.
func TestRosterFileDamaged(t *testing.T) {
	for name, data := range map[string]string{
		"empty": "", "cut": `{"members":{"1":{"inst`, "other": `[1,2]`, "no IDs": `{"members":{"x":{"address":"a:1"}}}`,
	} {
		file := filepath.Join(t.TempDir(), "peers.json")
		if err := os.WriteFile(file, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
		r := OpenRoster(file)
		if len(r.addresses(0)) != 0 {
			t.Errorf("%s: addresses %v, want none", name, r.addresses(0))
		}
		r.saw(at(1, 10, "a:1"))
		if got := OpenRoster(file).sighting(1).Address; got != "a:1" {
			t.Errorf("%s: written anew it has %q, want a:1", name, got)
		}
	}
	nowhere := OpenRoster(filepath.Join(t.TempDir(), "no", "such", "folder"))
	nowhere.saw(at(1, 10, "a:1"))
	if nowhere.sighting(1).Address != "a:1" {
		t.Error("what cannot be written is not remembered")
	}
}

// Another process under an ID that was seen may be a copy.
func TestRosterOther(t *testing.T) {
	r := OpenRoster(filepath.Join(t.TempDir(), "peers.json"))
	r.saw(at(1, 10, "a:1"))
	for _, c := range []struct {
		h       peer.Hello
		differs bool
	}{
		{at(1, 10, "a:1"), false},
		{at(1, 10, "a:2"), false}, // it has moved
		{at(1, 11, "a:1"), true},
		{at(1, 11, "a:2"), true},
		{at(2, 11, "a:2"), false}, // nobody knows it
	} {
		if _, differs := r.other(c.h); differs != c.differs {
			t.Errorf("%+v: differs %v, want %v", c.h, differs, c.differs)
		}
	}
}

// Many may see and be seen at once; the file ends with the last of it.
func TestRosterConcurrently(t *testing.T) {
	file := filepath.Join(t.TempDir(), "peers.json")
	r := OpenRoster(file)
	var wg sync.WaitGroup
	for id := range uint64(8) {
		wg.Go(func() {
			for i := range uint64(10) {
				r.saw(at(id, i, "a:1"))
				r.addresses(id)
				r.heard([]string{fmt.Sprint(id, ":", i)})
			}
		})
	}
	wg.Wait()
	if got := OpenRoster(file); fmt.Sprint(got.seen) != fmt.Sprint(r.seen) || !slices.Equal(got.gossip, r.gossip) {
		t.Errorf("the file has %v %v, want %v %v", got.seen, got.gossip, r.seen, r.gossip)
	}
}
