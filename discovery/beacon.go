package discovery

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// BeaconPort is the UDP port of beacons, unless configured otherwise.
	BeaconPort = 2383

	// askEvery: packets are lost, on Wi-Fi above all broadcast ones.
	askEvery = 500 * time.Millisecond
	// quiet is how long Find waits for another answer after one.
	quiet = 300 * time.Millisecond
	// maxAnswers bounds the answers of one second, maxFound the addresses that
	// one Find gathers.
	maxAnswers = 20
	maxFound   = 256
	// regroup is how often interfaces are looked at for new ones.
	regroup = 10 * time.Second
)

// beaconGroup is the IPv6 group that beacons listen on, of link-local scope and
// transient (RFC 4291, 2.7); its last bytes spell "lmpt".
var beaconGroup = netip.MustParseAddr("ff12::6c6d:7074")

// BeaconConfig is what a Beacon needs to know.
type BeaconConfig struct {
	// Port is the UDP port; asks go to the same port elsewhere. 0 takes
	// BeaconPort.
	Port int
	// Key encrypts and authenticates, KeySize bytes.
	Key []byte
	// MoreKeys are used beside it; see SetKeys.
	MoreKeys [][]byte
	// Self returns the gossip addresses to announce, host:port; without a host,
	// or with an unspecified one, it is where the answer comes from. It must
	// not block. nil, or none: asks are not answered.
	Self   func() []string
	Logger *slog.Logger

	bind    netip.Addr              // for tests: listen here, on any port if Port is 0
	targets func() []netip.AddrPort // for tests: ask these
}

// Beacon finds members on the LAN, and is found. Asks go out by broadcast on
// IPv4 and by multicast on IPv6; answers come back directly. Every packet is
// sealed with the key, or one of the keys; others are dropped and counted.
//
// Packets may be replayed. A replayed ask is answered with something that only
// holders of the key can read, at most maxAnswers times a second, and with no
// more bytes than it had. A replayed answer is taken only by a Find that sent
// the ask it repeats, and says what it said before. And an address that is
// found is no more than a place to try: gossip there has to prove the key
// again.
//
// All methods may be called concurrently.
type Beacon struct {
	cfg   BeaconConfig
	log   *slog.Logger
	seals atomic.Pointer[[]sealer] // one for each key
	conns []*net.UDPConn           // IPv4, IPv6, or both
	port  uint16

	dropped atomic.Int64
	wg      sync.WaitGroup
	done    chan struct{} // closed by Close
	closed  sync.Once

	// mu guards the fields below.
	mu    sync.Mutex
	finds map[uint64]chan<- []string // by nonce of the ask
	rate  rate
}

// rate counts what was done within the running second.
type rate struct {
	second time.Time
	n      int
}

func (r *rate) allow(now time.Time, most int) bool {
	if s := now.Truncate(time.Second); s != r.second {
		*r = rate{second: s}
	}
	r.n++
	return r.n <= most
}

// OpenBeacon listens for asks, and answers them if there is something to
// announce.
func OpenBeacon(cfg BeaconConfig) (*Beacon, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Port == 0 && !cfg.bind.IsValid() {
		cfg.Port = BeaconPort
	}
	b := &Beacon{
		cfg: cfg, log: cfg.Logger, port: uint16(cfg.Port),
		done: make(chan struct{}), finds: make(map[uint64]chan<- []string),
	}
	if err := b.SetKeys(cfg.Key, cfg.MoreKeys...); err != nil {
		return nil, err
	}
	if err := b.listen(); err != nil {
		return nil, err
	}
	for _, c := range b.conns {
		b.wg.Go(func() { b.receive(c) }) // Owner: the Beacon; ends when Close closes c.
	}
	b.wg.Go(b.keepGroups) // Owner: the Beacon; ends with done.
	return b, nil
}

// SetKeys changes the keys, KeySize bytes each: asks go out sealed with each of
// them, and an ask is answered with the key that it came with.
func (b *Beacon) SetKeys(key []byte, more ...[]byte) error {
	var seals []sealer
	for _, k := range append([][]byte{key}, more...) {
		s, err := newSealer(k)
		if err != nil {
			return err
		}
		seals = append(seals, s)
	}
	b.seals.Store(&seals)
	return nil
}

// listen opens a socket for each IP version that the machine has.
func (b *Beacon) listen() error {
	hosts := [][2]string{{"udp4", "0.0.0.0"}, {"udp6", "::"}}
	if b.cfg.bind.IsValid() {
		hosts = [][2]string{{"udp4", b.cfg.bind.String()}}
	}
	var errs []error
	for _, h := range hosts {
		pc, err := net.ListenPacket(h[0], net.JoinHostPort(h[1], strconv.Itoa(b.cfg.Port)))
		switch {
		case err == nil:
			b.conns = append(b.conns, pc.(*net.UDPConn))
		case errors.Is(err, syscall.EADDRINUSE):
			_ = b.closeConns() // the error is the one to tell
			return fmt.Errorf("beacon port %d/udp is in use by another process: %w", b.cfg.Port, err)
		default:
			errs = append(errs, err) // no such IP version here, perhaps
		}
	}
	if len(b.conns) == 0 {
		return fmt.Errorf("beacon on port %d/udp: %w", b.cfg.Port, errors.Join(errs...))
	}
	if b.port == 0 {
		b.port = localAddr(b.conns[0]).Port()
	}
	b.joinGroups()
	return nil
}

func localAddr(c *net.UDPConn) netip.AddrPort { return c.LocalAddr().(*net.UDPAddr).AddrPort() }

func isIPv6(c *net.UDPConn) bool { return localAddr(c).Addr().Is6() }

// Close stops. It is safe twice and waits for all goroutines.
func (b *Beacon) Close() error {
	var err error
	b.closed.Do(func() {
		close(b.done)
		err = b.closeConns()
		b.wg.Wait()
	})
	return err
}

func (b *Beacon) closeConns() error {
	var errs []error
	for _, c := range b.conns {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

// Dropped is how many packets were not of a beacon with this key.
func (b *Beacon) Dropped() int64 { return b.dropped.Load() }

// Find asks the LAN and returns the gossip addresses (host:port, sorted) that
// answered: what has come when ctx ends, or a short time after the last answer.
// None is no error; that no ask could be sent is, as is ErrClosed.
func (b *Beacon) Find(ctx context.Context) ([]string, error) {
	answers := make(chan []string, 16)
	nonce := rand.Uint64()
	b.mu.Lock()
	b.finds[nonce] = answers
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		delete(b.finds, nonce)
		b.mu.Unlock()
	}()

	ask := packet{kind: kindAsk, nonce: nonce}
	sent, err := b.ask(ask)
	again := time.NewTicker(askEvery)
	defer again.Stop()
	var found []string
	var enough <-chan time.Time // nil until there is an answer
	for {
		select {
		case addrs := <-answers:
			if merge(&found, addrs) {
				enough = time.After(quiet)
			}
		case <-enough:
			return found, nil
		case <-again.C:
			s, askErr := b.ask(ask)
			sent, err = sent || s, askErr
		case <-b.done:
			return nil, ErrClosed
		case <-ctx.Done():
			if !sent {
				return nil, fmt.Errorf("beacon: no ask could be sent: %w", err)
			}
			return found, nil
		}
	}
}

// merge adds addrs to the sorted found and reports whether any is new.
func merge(found *[]string, addrs []string) (more bool) {
	for _, a := range addrs {
		if i, known := slices.BinarySearch(*found, a); !known && len(*found) < maxFound {
			*found, more = slices.Insert(*found, i, a), true
		}
	}
	return more
}

// ask sends a packet to everybody on all links. It reports whether any went
// out, and why others did not.
func (b *Beacon) ask(p packet) (sent bool, err error) {
	targets, err := b.everybody()
	if err != nil {
		return false, err
	}
	errs := []error{}
	for _, to := range targets {
		i := slices.IndexFunc(b.conns, func(c *net.UDPConn) bool { return isIPv6(c) == to.Addr().Is6() })
		if i < 0 {
			continue // no such IP version here
		}
		for _, s := range *b.seals.Load() {
			if _, err := b.conns[i].WriteToUDPAddrPort(s.seal(p), to); err != nil {
				errs = append(errs, err)
				continue
			}
			sent = true
		}
	}
	if len(targets) == 0 {
		errs = append(errs, errors.New("no interface is up"))
	}
	return sent, errors.Join(errs...)
}

// everybody returns, for each link that is up, the broadcast addresses of its
// IPv4 subnets and the IPv6 group.
func (b *Beacon) everybody() ([]netip.AddrPort, error) {
	if b.cfg.targets != nil {
		return b.cfg.targets(), nil
	}
	var all []netip.AddrPort
	err := eachLink(func(link net.Interface) {
		if link.Flags&net.FlagMulticast != 0 {
			all = append(all, netip.AddrPortFrom(beaconGroup.WithZone(link.Name), b.port))
		}
		if link.Flags&net.FlagBroadcast == 0 {
			return
		}
		addrs, err := link.Addrs()
		if err != nil {
			b.log.Debug("beacon: addresses of an interface", "interface", link.Name, "error", err)
			return
		}
		for _, a := range addrs {
			if bc, ok := broadcastOf(a); ok {
				all = append(all, netip.AddrPortFrom(bc, b.port))
			}
		}
	})
	return all, err
}

// eachLink calls fn for each interface that is up and leads outside.
func eachLink(fn func(net.Interface)) error {
	links, err := net.Interfaces()
	if err != nil {
		return err
	}
	for _, link := range links {
		if link.Flags&net.FlagUp != 0 && link.Flags&net.FlagLoopback == 0 {
			fn(link)
		}
	}
	return nil
}

// broadcastOf returns the last address of an IPv4 subnet that has one to spare.
func broadcastOf(a net.Addr) (netip.Addr, bool) {
	prefix, err := netip.ParsePrefix(a.String())
	if err != nil || !prefix.Addr().Is4() || prefix.Bits() > 30 {
		return netip.Addr{}, false
	}
	ip := prefix.Masked().Addr().As4()
	for i := range ip {
		ip[i] |= byte(0xff >> min(max(prefix.Bits()-8*i, 0), 8))
	}
	return netip.AddrFrom4(ip), true
}

// keepGroups joins the IPv6 group on interfaces that appear later.
func (b *Beacon) keepGroups() {
	ticker := time.NewTicker(regroup)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			b.joinGroups()
		case <-b.done:
			return
		}
	}
}

// joinGroups joins the IPv6 group on all links. The standard library joins one
// interface per socket (net.ListenMulticastUDP); one socket for all needs this
// one system call.
func (b *Beacon) joinGroups() {
	i := slices.IndexFunc(b.conns, isIPv6)
	if i < 0 {
		return
	}
	raw, err := b.conns[i].SyscallConn()
	if err != nil {
		b.log.Debug("beacon: IPv6 group", "error", err)
		return
	}
	err = eachLink(func(link net.Interface) {
		mreq := &syscall.IPv6Mreq{Multiaddr: beaconGroup.As16(), Interface: uint32(link.Index)}
		var joinErr error
		err := raw.Control(func(fd uintptr) {
			joinErr = syscall.SetsockoptIPv6Mreq(int(fd), syscall.IPPROTO_IPV6, syscall.IPV6_JOIN_GROUP, mreq)
		})
		// EADDRINUSE: joined already.
		if err := cmp.Or(err, joinErr); err != nil && !errors.Is(err, syscall.EADDRINUSE) {
			b.log.Debug("beacon: IPv6 group", "interface", link.Name, "error", err)
		}
	})
	if err != nil {
		b.log.Debug("beacon: interfaces", "error", err)
	}
}

// receive handles the packets of one socket.
func (b *Beacon) receive(c *net.UDPConn) {
	buf := make([]byte, packetBytes+1) // a longer packet shows as longer
	for {
		n, from, err := c.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			b.log.Debug("beacon: receive", "error", err)
			select {
			case <-time.After(time.Second): // so that a lasting error does not spin
			case <-b.done:
				return
			}
			continue
		}
		p, seal, err := b.open(buf[:n])
		if err != nil {
			b.dropped.Add(1)
			continue
		}
		from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
		if p.kind == kindAsk {
			b.answer(c, seal, p.nonce, from)
		} else {
			b.deliver(p, from)
		}
	}
}

// open opens a packet, and returns the sealer that did.
func (b *Beacon) open(data []byte) (p packet, s sealer, err error) {
	for _, s = range *b.seals.Load() {
		if p, err = s.open(data); err == nil {
			break
		}
	}
	return p, s, err
}

// answer tells an asker our addresses, unless it is ourselves.
func (b *Beacon) answer(c *net.UDPConn, s sealer, nonce uint64, to netip.AddrPort) {
	b.mu.Lock()
	own := b.finds[nonce] != nil
	allowed := own || b.rate.allow(time.Now(), maxAnswers)
	b.mu.Unlock()
	if own || !allowed || b.cfg.Self == nil {
		return
	}
	addrs := b.cfg.Self()
	if len(addrs) == 0 {
		return
	}
	p := s.seal(packet{kind: kindAnswer, nonce: nonce, addrs: addrs})
	if _, err := c.WriteToUDPAddrPort(p, to); err != nil {
		b.log.Debug("beacon: answer", "to", to.String(), "error", err)
	}
}

// deliver hands an answer to the Find that asked.
func (b *Beacon) deliver(p packet, from netip.AddrPort) {
	var addrs []string
	for _, a := range p.addrs {
		if a, ok := seenFrom(a, from.Addr()); ok {
			addrs = append(addrs, a)
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case b.finds[p.nonce] <- addrs: // of nobody: nil, not taken
	default: // it has enough to do; it asks again
	}
}

// seenFrom completes an announced address that has no host by where the answer
// came from. Link-local addresses are of no use to gossip, which carries no
// zones.
func seenFrom(addr string, from netip.Addr) (string, bool) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", false
	}
	if p, err := strconv.ParseUint(port, 10, 16); err != nil || p == 0 {
		return "", false
	}
	if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip.IsUnspecified() {
		if from.IsLinkLocalUnicast() {
			return "", false
		}
		return net.JoinHostPort(from.String(), port), true
	}
	return addr, true
}
