package discovery

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

// ErrClosed: the Gossip, or the Beacon, was closed.
var ErrClosed = errors.New("discovery: closed")

// KeySize is the size of the keys of Gossip and Beacon, in bytes (AES-256).
const KeySize = 32

// Config is what a Gossip needs to know.
type Config struct {
	// Bind is the host:port to listen on, TCP and UDP. The host may be
	// 0.0.0.0 or ::, or empty for both. Port 0 takes a free one.
	Bind string
	// Advertise is the host:port told to others. If it is empty, an address is
	// chosen, and chosen again when the machine loses it; see Addr.
	Advertise string
	// Key encrypts all gossip, KeySize bytes. Without one, Bind must be on
	// loopback.
	Key []byte
	// MoreKeys are understood, too; see SetKeys.
	MoreKeys [][]byte
	// Label is told in the clear in front of all gossip; that of other
	// programs, or of limpet in other roles, is thereby dropped unread.
	Label string
	// Self is what this member tells of itself, to be changed by Update.
	Self   Info
	Logger *slog.Logger
	// OnChange is called when something about the peers has changed, by one
	// goroutine. It must not block.
	OnChange func()
	// OnConflict is called, once while it lasts, when two live processes claim
	// one ID from two addresses, by one goroutine. here is this process if the
	// ID is its own, else the one that was seen first.
	OnConflict func(id uint64, here, there string)
	// OnComplaint, if set, is called with what is logged about a remote that an
	// operator can act on. It must not block, and may be called concurrently.
	OnComplaint func(remote, advice string)

	pace *pace // nil: the usual one
	host *host // nil: this machine
}

// pace is how often things are done.
type pace struct {
	gossip, probe, probeTimeout, pushPull time.Duration
	look                                  time.Duration // at our own addresses, and at claims
	reconnect                             time.Duration // to one of the dead
}

// usualPace is memberlist's LAN profile with slower gossip: a handful of
// members have little to say, and waking a small board five times a second
// costs more than a second's delay. A dead member is noticed in 5 to 10 s.
var usualPace = pace{
	gossip: time.Second, probe: time.Second, probeTimeout: 500 * time.Millisecond, pushPull: 30 * time.Second,
	look: 3 * time.Second, reconnect: 15 * time.Second,
}

const (
	// streamTimeout bounds connecting and each state exchange over TCP.
	streamTimeout = 5 * time.Second
	// packetSize keeps packets whole on links with IPv6's least MTU, 1280.
	packetSize = 1200
	// handoff bounds the packets that were decrypted and wait, each up to
	// 64 KiB because memberlist reads into buffers of that size.
	handoff = 128
)

// Gossip tells the members on the network of each other. All methods may be
// called concurrently.
type Gossip struct {
	cfg   Config
	pace  pace
	host  host
	log   *slog.Logger
	mlog  *log.Logger // of memberlist
	table *table
	keys  *memberlist.Keyring // nil: nothing is encrypted
	bind  netip.AddrPort      // with the real port
	fixed bool                // the advertised address is not ours to choose

	life   context.Context // ends with Close
	end    context.CancelFunc
	wg     sync.WaitGroup // goroutines started here
	wake   chan struct{}  // holds one: peers have changed
	doubt  chan struct{}  // holds one: look into claims
	name   chan struct{}  // holds one: this member has another ID
	closed sync.Once

	// moving is held while memberlist is replaced or closed: over the opening
	// and closing of local sockets, never while waiting for others. It comes
	// before mu.
	moving sync.Mutex
	shut   bool // guarded by moving: no more memberlists

	// telling orders what memberlist is told of us. It comes between moving
	// and mu.
	telling sync.Mutex

	// mu guards the fields below.
	mu      sync.Mutex
	self    Info
	id      uint64 // that self is to have; it changes with the name
	leaving bool
	again   bool // tell it once more
	list    *memberlist.Memberlist
	epoch   uint32         // of list, part of its name
	addr    netip.AddrPort // advertised
	down    bool           // list is shut down and none could be opened yet
}

// Open listens and begins to gossip; nobody is known until Join or until
// another joins. An error names the flag that helps.
func Open(cfg Config) (*Gossip, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	g := &Gossip{
		cfg: cfg, pace: usualPace, host: thisHost, log: cfg.Logger, self: cfg.Self, id: cfg.Self.ID,
		table: newTable(cfg.Self.ID, cfg.Self.Instance, time.Now),
		wake:  make(chan struct{}, 1), doubt: make(chan struct{}, 1), name: make(chan struct{}, 1),
	}
	if cfg.pace != nil {
		g.pace = *cfg.pace
	}
	if cfg.host != nil {
		g.host = *cfg.host
	}
	g.mlog = log.New(&memberLog{
		log: g.log, now: time.Now, where: g.table.where,
		suspected: func(name string) { g.note(g.table.suspect(name)) }, complain: cfg.OnComplaint,
	}, "", 0)

	addr, err := g.addresses()
	if err != nil {
		return nil, err
	}
	if cfg.Key != nil {
		g.keys = new(memberlist.Keyring)
		if err := g.SetKeys(cfg.Key, cfg.MoreKeys...); err != nil {
			return nil, err
		}
	}
	if err := g.open(0, addr); err != nil {
		return nil, err
	}
	g.life, g.end = context.WithCancel(context.Background())
	g.wg.Go(g.notify) // Owner: the Gossip; ends with life.
	g.wg.Go(g.mind)   // Owner: the Gossip; ends with life.
	return g, nil
}

// addresses checks the configured addresses, sets bind and fixed, and returns
// what to advertise; port 0 stands for the one that will be listened on.
func (g *Gossip) addresses() (netip.AddrPort, error) {
	// An address for memberlist must be numeric: it listens everywhere when it
	// cannot read it.
	bind, err := net.ResolveTCPAddr("tcp", g.cfg.Bind)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("gossip address %q (--gossip-address): %w", g.cfg.Bind, err)
	}
	ip, _ := netip.AddrFromSlice(bind.IP)
	if !ip.IsValid() {
		ip = netip.IPv6Unspecified()
	}
	ip = ip.Unmap()
	g.bind = netip.AddrPortFrom(ip, uint16(bind.Port))
	if g.cfg.Key == nil && !ip.IsLoopback() {
		return netip.AddrPort{}, fmt.Errorf("gossip on %s would be unencrypted: give all members one token, or a loopback --gossip-address", g.bind)
	}
	switch {
	case g.cfg.Advertise != "":
		g.fixed = true
		adv, err := net.ResolveTCPAddr("tcp", g.cfg.Advertise)
		if err != nil {
			return netip.AddrPort{}, fmt.Errorf("advertised gossip address %q: %w", g.cfg.Advertise, err)
		}
		a, ok := netip.AddrFromSlice(adv.IP)
		if a = a.Unmap(); !ok || a.IsUnspecified() || adv.Port == 0 {
			return netip.AddrPort{}, fmt.Errorf("advertised gossip address %q: others cannot dial it", g.cfg.Advertise)
		}
		return netip.AddrPortFrom(a, uint16(adv.Port)), nil
	case !ip.IsUnspecified():
		g.fixed = true
		return g.bind, nil
	}
	chosen, err := g.host.choose(nil)
	return netip.AddrPortFrom(chosen, 0), err
}

// open starts memberlist number epoch, which tells others addr.
func (g *Gossip) open(epoch uint32, addr netip.AddrPort) error {
	tr, err := listen(g.bind, g.mlog)
	if err != nil {
		return err
	}
	if g.bind.Port() == 0 {
		g.bind = netip.AddrPortFrom(g.bind.Addr(), uint16(tr.GetAutoBindPort()))
	}
	if addr.Port() == 0 {
		addr = netip.AddrPortFrom(addr.Addr(), g.bind.Port())
	}
	g.table.moved(epoch)
	list, err := memberlist.Create(g.memberConfig(epoch, addr, tr))
	if err != nil {
		// The error is the one to tell; nothing was written.
		_ = tr.Shutdown()
		return fmt.Errorf("gossip: %w", err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.list, g.epoch, g.addr, g.down = list, epoch, addr, false
	return nil
}

func (g *Gossip) memberConfig(epoch uint32, addr netip.AddrPort, tr *transport) *memberlist.Config {
	c := memberlist.DefaultLANConfig()
	c.Name = nodeName(g.selfID(), g.cfg.Self.Instance, epoch)
	c.Transport, c.Logger, c.Label = tr, g.mlog, g.cfg.Label
	c.BindPort = int(g.bind.Port())
	c.AdvertiseAddr, c.AdvertisePort = addr.Addr().String(), int(addr.Port())
	c.Keyring = g.keys
	c.GossipVerifyIncoming, c.GossipVerifyOutgoing = true, true
	c.GossipInterval, c.PushPullInterval = g.pace.gossip, g.pace.pushPull
	c.ProbeInterval, c.ProbeTimeout = g.pace.probe, g.pace.probeTimeout
	// Questions to nodes that are gone (see settleClaims) carry broadcasts, too,
	// and use up their number.
	c.RetransmitMult = 8
	c.TCPTimeout, c.UDPBufferSize, c.HandoffQueueDepth = streamTimeout, packetSize, handoff
	// States are small, and what is not compressed cannot be a bomb.
	c.EnableCompression = false
	// A name never moves to another address, see nodeName.
	c.DeadNodeReclaimTime = 0
	d := &delegate{g: g, epoch: epoch}
	c.Delegate, c.Events, c.Alive, c.Conflict, c.Ping = d, d, d, d, d
	return c
}

// SetKeys encrypts with key from now on, and understands what is encrypted with
// it or with one of more, KeySize bytes each. It is only for a Gossip that was
// opened with a key.
func (g *Gossip) SetKeys(key []byte, more ...[]byte) error {
	all := append([][]byte{key}, more...)
	for _, k := range all {
		if len(k) != KeySize {
			return fmt.Errorf("gossip key has %d bytes, want %d", len(k), KeySize)
		}
		if err := g.keys.AddKey(k); err != nil {
			return err
		}
	}
	if err := g.keys.UseKey(key); err != nil {
		return err
	}
	for _, k := range slices.Clone(g.keys.GetKeys()) {
		if !slices.ContainsFunc(all, func(a []byte) bool { return bytes.Equal(a, k) }) {
			if err := g.keys.RemoveKey(k); err != nil {
				return err
			}
		}
	}
	return nil
}

// Addr returns the host:port told to others now.
func (g *Gossip) Addr() string { return g.advertised().String() }

func (g *Gossip) advertised() netip.AddrPort {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.addr
}

func (g *Gossip) selfID() uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.self.ID
}

func (g *Gossip) current() *memberlist.Memberlist {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.list
}

// Peers returns the other members that were seen, one Peer for each ID, by ID.
// Of several processes of one member it is the one that lives, of several that
// live the one seen last. The dead are remembered, up to a few hundred.
func (g *Gossip) Peers() []Peer { return g.table.peers() }

// Update changes what this member tells of itself and begins to tell it; it
// does not wait. change gets a copy; what it does to Instance is ignored. Another
// ID is told a moment later, as it takes another name.
func (g *Gossip) Update(change func(*Info)) {
	g.tell(func() {
		info := g.self
		info.Client = append([]string(nil), info.Client...)
		change(&info)
		if info.ID != g.id {
			g.id = info.ID
			signal(g.name)
		}
		info.ID, info.Instance = g.self.ID, g.cfg.Self.Instance
		g.self = info
	})
}

// tell makes a change under mu and lets memberlist broadcast the result, if it
// differs.
func (g *Gossip) tell(change func()) {
	g.telling.Lock()
	defer g.telling.Unlock()
	g.mu.Lock()
	before := encodeInfo(&g.self, g.leaving)
	change()
	differs := string(before) != string(encodeInfo(&g.self, g.leaving))
	g.again = g.again || differs
	g.mu.Unlock()
	if differs {
		g.broadcast()
	}
}

// retell tells the last change once more. Memberlist's queue (v0.7.0) at times
// loses a broadcast, see DESIGN.md. The next state exchange would heal that,
// after half a minute.
func (g *Gossip) retell() {
	g.telling.Lock()
	defer g.telling.Unlock()
	g.mu.Lock()
	again := g.again
	g.again = false
	g.mu.Unlock()
	if again {
		g.broadcast()
	}
}

// broadcast queues what this member tells of itself. The caller holds telling.
func (g *Gossip) broadcast() {
	// The broadcast is queued before UpdateNode waits for it to have been sent,
	// which takes some seconds and which nobody needs; so its timeout is no
	// failure.
	_ = g.current().UpdateNode(time.Nanosecond)
}

// Leave tells all live peers that this member leaves for good, over TCP, so
// that they need not find out. It returns when all have heard it or cannot be
// reached; the error is ctx's. Close is still to be called.
func (g *Gossip) Leave(ctx context.Context) error {
	g.tell(func() { g.leaving = true })
	_, err := g.joinAll(ctx, g.table.addrs(Alive, Suspect))
	if ctx.Err() != nil {
		return fmt.Errorf("leave: %w", err)
	}
	return nil // who was not reached finds out by itself
}

// Close stops. Peers that were not told by Leave will take this member for
// dead. It is safe twice and waits for all goroutines started here;
// memberlist's own timers end within a probe.
func (g *Gossip) Close() error {
	var err error
	g.closed.Do(func() {
		g.end()
		g.moving.Lock()
		g.shut = true
		err = g.current().Shutdown()
		g.moving.Unlock()
		g.wg.Wait()
	})
	return err
}

// notify calls OnChange.
func (g *Gossip) notify() {
	for {
		select {
		case <-g.wake:
			if g.cfg.OnChange != nil {
				g.cfg.OnChange()
			}
		case <-g.life.Done():
			return
		}
	}
}

func (g *Gossip) changed() { signal(g.wake) }

// note passes on that something about a peer has changed, if it has.
func (g *Gossip) note(changed bool) {
	if changed {
		signal(g.wake)
	}
}

// signal puts a token into a channel that holds one.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func udpAddr(a netip.AddrPort) net.Addr { return net.UDPAddrFromAddrPort(a) }

// mind looks after our own address, claims, and peers that were lost.
func (g *Gossip) mind() {
	look := time.NewTicker(g.pace.look)
	defer look.Stop()
	reconnect := time.NewTicker(g.pace.reconnect)
	defer reconnect.Stop()
	var last uint64 // the dead member tried last
	for {
		select {
		case <-look.C:
			g.keepAddress()
			g.keepName()
			g.retell()
			g.note(g.table.sweep())
			g.settleClaims()
		case <-g.doubt:
			g.settleClaims()
		case <-g.name:
			g.keepName()
		case <-reconnect.C:
			last = g.reconnect(last)
		case <-g.life.Done():
			return
		}
	}
}
