package cluster

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"sync"

	"limpet/peer"
	"limpet/safefile"
)

// Roster remembers where members were last seen, also across restarts: after a
// power cut, gossip must begin somewhere. What it says is a hint; whoever
// answers says who it is.
type Roster struct {
	file     string
	instance uint64 // of this process

	saving sync.Mutex // held while the file is written; before mu

	mu   sync.Mutex // guards seen and gossip
	seen map[uint64]sighting
	// gossip addresses at which others were heard.
	gossip []string
}

// sighting is a process that was seen as a member.
type sighting struct {
	Instance uint64 `json:"instance"`
	Address  string `json:"address"` // host:port of its peer port
	Name     string `json:"name,omitempty"`
}

// rosterFile is the roster on disk.
type rosterFile struct {
	Members map[string]sighting `json:"members"` // by ID in hex
	Gossip  []string            `json:"gossip"`
}

// OpenRoster reads the file, if there is one. A file that cannot be read is as
// good as none: it holds hints.
func OpenRoster(file string) *Roster {
	r := &Roster{file: file, instance: rand.Uint64(), seen: make(map[uint64]sighting)}
	data, err := os.ReadFile(file)
	if err != nil {
		return r
	}
	var f rosterFile
	if json.Unmarshal(data, &f) != nil {
		return r
	}
	for name, s := range f.Members {
		if id, err := strconv.ParseUint(name, 16, 64); err == nil {
			r.seen[id] = s
		}
	}
	r.gossip = f.Gossip
	return r
}

// Instance tells this process from others that may run with its data.
func (r *Roster) Instance() uint64 { return r.instance }

// other returns the process last seen as h's member, if it was another one.
func (r *Roster) other(h peer.Hello) (old sighting, differs bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	old, known := r.seen[h.ID]
	return old, known && old.Instance != h.Instance
}

func (r *Roster) saw(h peer.Hello) {
	s := sighting{h.Instance, h.Address, h.Name}
	r.change(func() bool {
		if s.Address == "" || r.seen[h.ID] == s {
			return false
		}
		r.seen[h.ID] = s
		return true
	})
}

// heard notes the gossip addresses of others.
func (r *Roster) heard(addrs []string) {
	slices.Sort(addrs)
	r.change(func() bool {
		if len(addrs) == 0 || slices.Equal(addrs, r.gossip) {
			return false
		}
		r.gossip = addrs
		return true
	})
}

func (r *Roster) forget(id uint64) {
	r.change(func() bool {
		_, known := r.seen[id]
		delete(r.seen, id)
		return known
	})
}

// change has mutate change what is remembered, with mu held, and writes the
// file if it says so.
func (r *Roster) change(mutate func() bool) {
	r.mu.Lock()
	changed := mutate()
	r.mu.Unlock()
	if changed {
		r.save()
	}
}

// save writes the file as of now; nobody but other writers waits for the disk.
// An error is no reason for anything: the file holds hints.
func (r *Roster) save() {
	r.saving.Lock()
	defer r.saving.Unlock()
	r.mu.Lock()
	f := rosterFile{Members: make(map[string]sighting), Gossip: r.gossip}
	for id, s := range r.seen {
		f.Members[fmt.Sprintf("%x", id)] = s
	}
	data, err := json.MarshalIndent(f, "", " ")
	r.mu.Unlock()
	if err == nil {
		_ = safefile.Write(r.file, append(data, '\n'))
	}
}

// sighting is where id was last seen, and what it is called; empty if it never
// was.
func (r *Roster) sighting(id uint64) sighting {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.seen[id]
}

func (r *Roster) gossipAddresses() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.gossip)
}

// addresses lists the peer addresses of all but except.
func (r *Roster) addresses(except uint64) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []string
	for _, id := range slices.Sorted(maps.Keys(r.seen)) {
		if id != except {
			out = append(out, r.seen[id].Address)
		}
	}
	return out
}

// hostOf is host:port of the first URL; empty if there is none.
func hostOf(urls []string) string {
	for _, s := range urls {
		if u, err := url.Parse(s); err == nil && u.Host != "" {
			return u.Host
		}
	}
	return ""
}

// joinPort is the host of addr with another port.
func joinPort(addr, port string) string {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		host = addr
	}
	return net.JoinHostPort(host, port)
}
