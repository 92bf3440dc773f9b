package discovery

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

const (
	// maxTargets bounds the addresses of one Join.
	maxTargets = 64
	// joinsAtOnce bounds the state exchanges under way for one Join.
	joinsAtOnce = 8
)

// Join exchanges states with the processes at addrs (host:port, or host with
// this member's port; a name may stand for several), and so with all that they
// know. It returns how many were reached, this process not counted, and an
// error only if there was somebody to reach and nobody was. That the other end
// has another key is also logged. It may be called again at any time.
func (g *Gossip) Join(ctx context.Context, addrs []string) (reached int, err error) {
	var targets []netip.AddrPort
	var errs []error
	for _, addr := range addrs {
		found, err := resolve(ctx, addr, g.bind.Port())
		if err != nil {
			errs = append(errs, err)
		}
		targets = append(targets, found...)
	}
	targets = g.others(targets)
	g.adviseBy(targets)
	known := append(g.table.addrs(Alive, Suspect), targets...)
	reached, err = g.joinAll(ctx, targets)
	if reached == 0 {
		return 0, errors.Join(append(errs, err)...)
	}
	g.meet(known)
	return reached, nil
}

// meet exchanges states with the peers that were not known before: so all know
// of this process, without waiting for gossip, which loses packets.
func (g *Gossip) meet(known []netip.AddrPort) {
	unmet := slices.DeleteFunc(g.table.addrs(Alive, Suspect), func(a netip.AddrPort) bool { return slices.Contains(known, a) })
	unmet = unmet[:min(len(unmet), maxTargets)]
	g.start(func() {
		if _, err := g.joinAll(g.life, unmet); err != nil {
			g.log.Debug("gossip: not all peers were met", "error", err)
		}
	})
}

// others returns targets without doubles and without this process.
func (g *Gossip) others(targets []netip.AddrPort) []netip.AddrPort {
	self := []netip.AddrPort{g.advertised(), g.bind}
	if g.bind.Addr().IsUnspecified() {
		local, err := g.host.addrs()
		if err != nil {
			g.log.Debug("gossip: addresses of this machine", "error", err)
		}
		for _, a := range local {
			self = append(self, netip.AddrPortFrom(a, g.bind.Port()))
		}
	}
	var rest []netip.AddrPort
	for _, t := range targets {
		if !slices.Contains(self, t) && !slices.Contains(rest, t) && len(rest) < maxTargets {
			rest = append(rest, t)
		}
	}
	return rest
}

// joinAll exchanges states with all targets, some at a time.
func (g *Gossip) joinAll(ctx context.Context, targets []netip.AddrPort) (reached int, err error) {
	if len(targets) == 0 {
		return 0, nil
	}
	results := make(chan error, len(targets)) // so that nobody waits to leave a result
	if !g.start(func() { g.exchange(ctx, targets, results) }) {
		return 0, ErrClosed
	}
	var errs []error
	for range targets {
		select {
		case err := <-results:
			if err == nil {
				reached++
			} else {
				errs = append(errs, err)
			}
		case <-ctx.Done():
			return reached, errors.Join(append(errs, ctx.Err())...)
		case <-g.life.Done():
			return reached, ErrClosed
		}
	}
	return reached, errors.Join(errs...)
}

// exchange starts a state exchange with each of targets when its turn comes.
func (g *Gossip) exchange(ctx context.Context, targets []netip.AddrPort, results chan<- error) {
	list := g.current()
	turn := make(chan struct{}, joinsAtOnce)
	for _, t := range targets {
		select {
		case turn <- struct{}{}:
		case <-ctx.Done():
			return
		case <-g.life.Done():
			return
		}
		// Owner: the Gossip; ends after streamTimeout, or when Close cuts the
		// connection.
		g.wg.Go(func() {
			_, err := list.Join([]string{t.String()})
			<-turn
			results <- err
		})
	}
}

// start runs fn on a goroutine that Close waits for, unless Close was called.
func (g *Gossip) start(fn func()) bool {
	g.moving.Lock()
	defer g.moving.Unlock()
	if g.shut {
		return false
	}
	g.wg.Go(fn) // Owner: the Gossip; ends with its life.
	return true
}

// reconnect tries the next of the dead after the member last, by ID, and
// returns it: after a partition both sides have given each other up, and
// memberlist by itself forgets its dead.
func (g *Gossip) reconnect(last uint64) uint64 {
	var dead []Peer
	for _, p := range g.table.peers() {
		if p.Status == Dead {
			dead = append(dead, p)
		}
	}
	if len(dead) == 0 {
		return last
	}
	i, found := slices.BinarySearchFunc(dead, last, func(p Peer, id uint64) int { return cmp.Compare(p.ID, id) })
	if found {
		i++
	}
	next := dead[i%len(dead)]
	if _, err := g.joinAll(g.life, []netip.AddrPort{netip.MustParseAddrPort(next.Gossip)}); err != nil {
		g.log.Debug("gossip: a dead peer stays so", "member", fmt.Sprintf("%x", next.ID), "error", err)
	}
	return next.ID
}

// adviseBy takes the route to targets for the address to tell others, if
// nothing better is known: no peer has been found under the address told so far.
func (g *Gossip) adviseBy(targets []netip.AddrPort) {
	if g.fixed || len(targets) == 0 || len(g.table.addrs(Alive, Suspect)) > 0 {
		return
	}
	if slices.ContainsFunc(targets, func(t netip.AddrPort) bool { return t.Addr().IsLoopback() }) {
		return // on this machine every address of ours does
	}
	g.readdress(targets)
}

// keepAddress chooses again when the machine has lost the advertised address,
// or had none when it was chosen.
func (g *Gossip) keepAddress() {
	if g.fixed {
		return
	}
	local, err := g.host.addrs()
	if err != nil {
		g.log.Debug("gossip: addresses of this machine", "error", err)
		return
	}
	g.mu.Lock()
	addr, down := g.addr.Addr(), g.down
	g.mu.Unlock()
	if down || addr.IsLoopback() || !slices.Contains(local, addr) {
		g.readdress(g.table.addrs(Alive, Suspect))
	}
}

// readdress chooses the address for targets and, if it is another, moves.
func (g *Gossip) readdress(targets []netip.AddrPort) {
	ips := make([]netip.Addr, 0, len(targets))
	for _, t := range targets {
		ips = append(ips, t.Addr())
	}
	next, err := g.host.choose(ips)
	if err != nil {
		g.log.Debug("gossip: the address told stays", "error", err)
		return
	}
	g.mu.Lock()
	addr, down := g.addr, g.down
	g.mu.Unlock()
	if next == addr.Addr() && !down {
		return
	}
	moved, err := g.move(netip.AddrPortFrom(next, g.bind.Port()))
	if err != nil {
		g.log.Error("gossip is interrupted, it is tried again soon", "error", err)
		return
	}
	if moved {
		g.log.Info("gossip address has changed", "from", addr.String(), "to", g.Addr())
		g.rejoin()
	}
}

// keepName takes a name of the ID that this member has now, if it has another:
// an operator may have given it one. It also opens again what could not be
// opened where the address is fixed.
func (g *Gossip) keepName() {
	g.mu.Lock()
	id, addr := g.id, g.addr
	due := id != g.self.ID || g.fixed && g.down
	g.mu.Unlock()
	if !due {
		return
	}
	moved, err := g.move(addr)
	if err != nil {
		g.log.Error("gossip is interrupted, it is tried again soon", "error", err)
		return
	}
	if moved {
		g.log.Debug("gossip goes on under another name", "member", id)
		g.rejoin()
	}
}

// move replaces memberlist by one with another name and, maybe, address:
// memberlist cannot change the address it tells, and others would not believe
// that a live node has moved.
func (g *Gossip) move(to netip.AddrPort) (bool, error) {
	g.moving.Lock()
	defer g.moving.Unlock()
	if g.shut {
		return false, nil
	}
	g.telling.Lock() // so that an Update in between is not told to the old one
	defer g.telling.Unlock()
	g.mu.Lock()
	old, epoch := g.list, g.epoch+1
	g.epoch, g.down = epoch, true // a name that failed is not used again
	g.mu.Unlock()
	if err := old.Shutdown(); err != nil {
		g.log.Debug("gossip: closing the old address", "error", err)
	}
	g.mu.Lock()
	g.self.ID = g.id
	g.table.become(g.id)
	g.mu.Unlock()
	return true, g.open(epoch, to)
}

// rejoin meets all known peers again after a move.
func (g *Gossip) rejoin() {
	if _, err := g.joinAll(g.life, g.table.addrs(Alive, Suspect, Dead)); err != nil {
		g.log.Debug("gossip: not all peers have heard of the new address", "error", err)
	}
	g.note(g.table.expire())
	signal(g.doubt)
}
