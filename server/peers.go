package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"limpet/api"
	"limpet/api/ops"
	"limpet/cluster"
	"limpet/discovery"
	"limpet/peer"
	"limpet/raftfsm"
)

const (
	// gossipPort and beaconPort follow etcd's 2379 and 2380; etcd uses 2381 for
	// metrics by habit.
	gossipPort = "2382"
	beaconPort = 2383
	// raftPool is how many idle raft streams to a member are kept: raft's own
	// replication and heartbeats, what is sent ahead, and questions before reads.
	raftPool = 4
)

// peerListeners opens the port for other members. With a token and nothing
// else said it listens everywhere: the token keeps strangers out.
func (c *Config) peerListeners() ([]net.Listener, error) {
	urls := c.ListenPeerURLs
	if c.held != nil && slices.Equal(urls, DefaultConfig().ListenPeerURLs) {
		urls = []string{"https://0.0.0.0:2380"}
	}
	ls, err := listenAll("listen-peer-urls", urls, c.ReusePort)
	var out []net.Listener
	for _, l := range ls {
		out = append(out, l)
	}
	return out, err
}

// fixedPeerURLs are what this member advertises to others; nil if that depends
// on the address that gossip finds.
func (c *Config) fixedPeerURLs() []string {
	if c.held != nil && slices.Equal(c.AdvertisePeerURLs, DefaultConfig().AdvertisePeerURLs) {
		return nil
	}
	return c.AdvertisePeerURLs
}

// fixedClientURLs are what this member tells clients; nil if that depends on the
// address that gossip finds: clients may come from elsewhere, and nobody said
// where this member is.
func (c *Config) fixedClientURLs() []string {
	if _, port := c.clientPort(); c.gossips() && port != "" && slices.Equal(c.AdvertiseClientURLs, DefaultConfig().AdvertiseClientURLs) {
		return nil
	}
	return c.AdvertiseClientURLs
}

// clientPort is that of a listener on all addresses, and its scheme; empty if
// there is none.
func (c *Config) clientPort() (scheme, port string) {
	for _, s := range c.ListenClientURLs {
		u, err := url.Parse(s)
		if err != nil || isUnix(u) {
			continue // validated before
		}
		if ip := net.ParseIP(u.Hostname()); u.Hostname() == "" || ip != nil && ip.IsUnspecified() {
			return u.Scheme, u.Port()
		}
	}
	return "", ""
}

// openPeers opens what this member needs to meet others, and its standing.
func (s *Server) openPeers(context.Context) error {
	var tlsConfig *tls.Config
	var tokens cluster.Tokens // stays nil without a vault
	scheme := "http"
	if s.vault != nil {
		scheme, tlsConfig, tokens = "https", s.vault.ring.MemberTLS(s.dir.now().member()), s.vault
	}
	var callTLS func(host string) *tls.Config
	if s.given != nil {
		scheme, tlsConfig, callTLS = "https", s.given.Server(), s.given.Client
	}
	if tlsConfig == nil {
		s.warnOfPlainPeers()
	}
	roster := cluster.OpenRoster(s.dir.file(rosterName))
	if err := s.openGossip(roster); err != nil {
		return err
	}
	founders, _ := s.cfg.founders() // validated
	clientScheme, clientPort := s.cfg.clientPort()
	_, port, _ := net.SplitHostPort(s.peers[0].Addr().String())
	last, err := raftfsm.LogIndex(s.dir.raftDir())
	if err != nil {
		return err
	}
	s.local = cluster.New(cluster.Config{
		Identity: s.dir.id.standing(), Keep: s.dir.keep, Logged: last,
		Name: s.cfg.memberName(), Version: s.cfg.Version, Format: raftfsm.EntryFormat,
		PeerURLs: s.cfg.fixedPeerURLs(), ClientURLs: s.cfg.fixedClientURLs(), ClientPort: clientPort, ClientScheme: clientScheme,
		Scheme: scheme, PeerPort: port,
		Static: founders, Existing: s.cfg.InitialClusterState == "existing",
		Expect: s.cfg.BootstrapExpect, Join: s.cfg.joinAddresses(), Discover: s.cfg.Discover,
		AutoAdd: s.cfg.gossips(),
		Tokens:  tokens, Gossip: s.gossip, Beacon: s.beacon, Roster: roster, Logger: s.log, Broken: s.broken,
	})
	s.port = peer.Open(peer.Config{
		Listeners: s.peers, TLS: tlsConfig, CallTLS: callTLS,
		Self: s.local.Hello, Admit: s.local.Admit, Meet: s.local.Meet, Where: s.local.Where, Refused: s.local.Refused,
		Services: s.local.Services(s.leadMethods()), Gone: s.gone, Notices: &s.notices, Logger: s.log,
	})
	s.local.Use(s.port)
	s.openAdmin()
	return nil
}

// warnOfPlainPeers says what it means that members speak plainly, if they do so
// beyond this machine.
func (s *Server) warnOfPlainPeers() {
	for _, u := range s.cfg.statedPeerURLs() {
		if at, err := url.Parse(u); err != nil || onThisMachine(at.Hostname()) {
			continue
		}
		const text = "members speak to each other without encryption: whoever is on the network between them can read and change all data; give all of them one token, and https peer URLs"
		s.notices.Stand("plain peers", text, "peer-url", u)
		s.log.Warn(text, "peer-url", u)
		return
	}
}

// memberName is the name given, or the machine's where members come by gossip:
// there all start with the same configuration.
func (c *Config) memberName() string {
	if c.gossips() && c.Name == DefaultConfig().Name {
		if host, err := os.Hostname(); err == nil && host != "" {
			return host
		}
	}
	return c.Name
}

func (c *Config) joinAddresses() []string {
	var out []string
	for _, a := range c.Join {
		if _, _, err := net.SplitHostPort(a); err != nil {
			a = net.JoinHostPort(strings.Trim(a, "[]"), gossipPort)
		}
		out = append(out, a)
	}
	return out
}

// openGossip opens gossip, and the beacon where the LAN can be seen.
func (s *Server) openGossip(roster *cluster.Roster) (err error) {
	if !s.cfg.gossips() {
		return nil
	}
	var key []byte
	var more [][]byte
	if s.vault != nil {
		key, more = s.vault.gossipKeys()
	}
	bind := s.cfg.GossipAddress
	if bind == "" {
		bind = net.JoinHostPort("127.0.0.1", gossipPort)
		if key != nil {
			bind = net.JoinHostPort("0.0.0.0", gossipPort)
		}
	}
	if _, _, err := net.SplitHostPort(bind); err != nil {
		bind = net.JoinHostPort(bind, gossipPort)
	}
	advertise := ""
	if urls := s.cfg.fixedPeerURLs(); len(urls) > 0 {
		advertise = gossipBeside(urls[0], bind)
	}
	s.gossip, err = discovery.Open(discovery.Config{
		Bind: bind, Advertise: advertise, Key: key, MoreKeys: more, Label: "limpet",
		Self:     discovery.Info{ID: s.dir.now().member(), Instance: roster.Instance(), Name: s.cfg.memberName(), Version: s.cfg.Version},
		Logger:   s.log,
		OnChange: func() { s.heard() }, OnConflict: s.conflict, OnComplaint: s.complaint,
	})
	if err != nil || key == nil {
		return err
	}
	s.openBeacon(bind)
	return nil
}

// openBeacon opens the beacon, unless gossip stays on this machine. It is one
// way to find others of several.
func (s *Server) openBeacon(bind string) {
	host, _, _ := net.SplitHostPort(bind)
	if ip := net.ParseIP(host); ip != nil && ip.IsLoopback() {
		return
	}
	key, more := s.vault.beaconKeys()
	beacon, err := discovery.OpenBeacon(discovery.BeaconConfig{
		Port: beaconPort, Key: key, MoreKeys: more,
		Self:   func() []string { return []string{s.gossip.Addr()} },
		Logger: s.log,
	})
	if err != nil { // another member on this machine has the port, say
		const text = "members on the local network cannot be found without help"
		s.notices.Add("beacon", text, "error", err)
		s.log.Warn(text, "error", err)
		return
	}
	s.beacon = beacon
}

// gossipBeside is the advertised peer host, if it is an address, with the port
// that gossip binds.
func gossipBeside(peerURL, bind string) string {
	u, err := url.Parse(peerURL)
	if err != nil || net.ParseIP(u.Hostname()) == nil {
		return ""
	}
	_, port, _ := net.SplitHostPort(bind)
	if n, err := strconv.Atoi(port); err != nil || n == 0 {
		return ""
	}
	return net.JoinHostPort(u.Hostname(), port)
}

// heard runs when gossip has news: whoever moved is called at the new address.
func (s *Server) heard() {
	select {
	case s.news <- struct{}{}:
	default:
	}
}

// followMoves closes connections to addresses that members have left.
func (s *Server) followMoves(done <-chan struct{}) {
	at := make(map[uint64]string)
	for {
		select {
		case <-done:
			return
		case <-s.news:
		}
		for _, p := range s.gossip.Peers() {
			if p.Status != discovery.Alive || p.Peer == "" {
				continue
			}
			if was, known := at[p.ID]; known && was != p.Peer {
				s.log.Info("a member has moved", "member", fmt.Sprintf("%x", p.ID), "name", p.Name, "from", was, "to", p.Peer)
				s.port.Moved(p.ID)
			}
			at[p.ID] = p.Peer
		}
		s.local.Wake()
	}
}

// complaint hears what gossip has logged about a remote: status shows it, too.
func (s *Server) complaint(remote, advice string) {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		host = remote
	}
	s.notices.Add("gossip "+host+" "+advice, advice, "remote", remote)
}

// conflict hears of two processes with one ID.
func (s *Server) conflict(id uint64, here, there string) {
	s.notices.Add("conflict "+there, "two processes run with the same data directory, or a copy of it", "member", fmt.Sprintf("%x", id), "here", here, "there", there)
	s.log.Error("two processes run with the same data directory, or a copy of it", "member", fmt.Sprintf("%x", id), "here", here, "there", there)
	if id != s.dir.now().member() {
		return
	}
	select {
	case <-s.serving:
		// We were first: the other one stops.
	default:
		s.broken(fmt.Errorf("%w (it runs at %s)", cluster.ErrCopy, there))
	}
}

// campaignStep is by how much later each further voter stands for election when
// the leader's process has ended, so that they do not split the votes.
const campaignStep = 150 * time.Millisecond

// deathLooks is how often within that time the leader's port is looked at.
const deathLooks = 5

// gone hears that a raft stream from member id broke. When nobody listens any
// more where the leader was, its process has ended: there is no need to wait an
// election timeout for it. It must not block.
func (s *Server) gone(id uint64) {
	select {
	case <-s.built:
	default:
		return
	}
	if s.node.Leader() != id {
		return
	}
	// Owner: Server; ends with the dial, or after some steps.
	s.goUnlessEnding(func() {
		if !s.dies(id) {
			return
		}
		rank := 0
		for _, srv := range s.node.Servers() {
			if srv.Voter && srv.ID != id && srv.ID < s.dir.now().member() {
				rank++
			}
		}
		select {
		case <-s.ended:
			return
		case <-time.After(time.Duration(rank) * campaignStep):
		}
		s.node.Campaign(id)
	})
}

// dies reports whether the process of a member that leads comes to its end: its
// port may outlive its streams by a moment.
func (s *Server) dies(leader uint64) bool {
	for range deathLooks {
		if s.node.Leader() != leader {
			return false
		}
		if nobodyListens(s.local.Where(leader)) {
			return true
		}
		select {
		case <-s.ended:
			return false
		case <-time.After(campaignStep / deathLooks):
		}
	}
	return false
}

// goUnlessEnding runs fn beside, and Stop waits for it; not at all once Stop has
// begun.
func (s *Server) goUnlessEnding(fn func()) {
	s.ending.RLock()
	defer s.ending.RUnlock()
	select {
	case <-s.ended:
	default:
		s.wg.Go(fn)
	}
}

// nobodyListens reports whether all addresses refuse connections.
func nobodyListens(addrs []string) bool {
	for _, a := range addrs {
		c, err := net.DialTimeout("tcp", a, campaignStep)
		if err == nil {
			_ = c.Close()
			return false
		}
		if !errors.Is(err, syscall.ECONNREFUSED) {
			return false
		}
	}
	return len(addrs) > 0
}

// stream adapts the port's raft side to raft's types.
type stream struct{ *peer.Stream }

// Dial implements raft.StreamLayer.
func (s stream) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	return s.Stream.Dial(string(address), timeout)
}

// images counts the databases that raft sends to members that are far behind.
type images struct {
	*raft.NetworkTransport
	counted *ops.Images
}

// InstallSnapshot implements raft.Transport.
func (i images) InstallSnapshot(id raft.ServerID, at raft.ServerAddress, req *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	to, err := strconv.ParseUint(string(id), 16, 64)
	if err != nil {
		return fmt.Errorf("send an image to %q: %w", id, err)
	}
	sent := i.counted.Send(to)
	err = i.NetworkTransport.InstallSnapshot(id, at, req, resp, data)
	sent(err == nil && resp.Success)
	return err
}

// leadMethods are the calls that only the leader answers. They may come before
// the API is there: then this member does not lead.
func (s *Server) leadMethods() []grpc.MethodDesc {
	return []grpc.MethodDesc{
		lead(s, "MemberAdd", (*api.Server).LeadMemberAdd), lead(s, "MemberRemove", (*api.Server).LeadMemberRemove),
		lead(s, "MemberUpdate", (*api.Server).LeadMemberUpdate), lead(s, "MemberPromote", (*api.Server).LeadMemberPromote),
		lead(s, "LeaseKeepAlive", (*api.Server).LeadKeepAlive), lead(s, "LeaseTimeToLive", (*api.Server).LeadTimeToLive),
	}
}

func lead[Req any, PReq interface {
	*Req
	proto.Message
}, Resp proto.Message](s *Server, name string, fn func(*api.Server, context.Context, PReq) (Resp, error)) grpc.MethodDesc {
	return cluster.Lead(name, func(ctx context.Context, r PReq) (Resp, error) {
		select {
		case <-s.built:
		default:
			var none Resp
			return none, raftfsm.ErrNotLeader
		}
		if !s.node.Leading() {
			var none Resp
			return none, raftfsm.ErrNotLeader
		}
		return fn(s.api, ctx, r)
	})
}
