package server

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"limpet/cluster"
	"limpet/login"
	"limpet/trust"
)

// Config is what an operator can say. cli fills it; Validate checks it once.
type Config struct {
	Name    string
	DataDir string
	WALDir  string // below which the raft log is, from the first start on; empty: in DataDir

	ListenClientURLs     []string
	ListenClientHTTPURLs []string // for clients' HTTP, which then is not at ListenClientURLs
	AdvertiseClientURLs  []string
	ListenPeerURLs       []string
	AdvertisePeerURLs    []string
	ListenMetricsURLs    []string
	InitialCluster       string // name=url,…; empty: this member alone
	InitialClusterToken  string
	InitialClusterState  string // new or existing
	SRVDomain            string // or the domain whose SRV records name the members
	SRVName              string // end of the records' names; may be empty
	// etcd's discovery services, which limpet does not ask. Given to a member that is
	// new, they are refused.
	DiscoveryURL, DiscoveryToken string
	DiscoveryEndpoints           []string
	ForceNewCluster              bool // make a cluster of this member alone, if it is not
	ReusePort                    bool // SO_REUSEPORT on listeners

	Token           string   // the cluster's secret as text; empty: none
	TokenFile       string   // or the file that holds it
	Join            []string // gossip addresses of members, host or host:port
	Discover        bool     // find members on the local network
	BootstrapExpect int      // begin a cluster of so many members; 0 or 1: alone
	GossipAddress   string   // host:port to gossip on; empty: the default, if there is gossip
	StrictReconfig  bool     // protect the quorum when members change
	MaxLearners     int

	ClientTLS     SideTLS
	PeerTLS       SideTLS
	AutoTLS       bool // towards clients: an authority made of the token, or of a secret of this member's own, issues the certificate
	PeerAutoTLS   bool // between members that speak TLS: needs the token, with which it is so anyway
	TLSMinVersion string
	TLSMaxVersion string // empty: the newest
	CipherSuites  []string

	SnapshotCount     uint64
	MaxLogBytes       int64 // of the raft log on disk
	NoFsync           bool  // the raft log is not synced
	Heartbeat         time.Duration
	Election          time.Duration
	QuotaBytes        int64
	MaxTxnOps         int
	MaxRequestBytes   int
	MaxStreams        uint32
	KeepaliveMinTime  time.Duration
	KeepaliveInterval time.Duration
	KeepaliveTimeout  time.Duration
	ProgressEvery     time.Duration

	Login login.Config

	AutoCompactionMode      string // periodic or revision
	AutoCompactionRetention string // a duration, hours, or a number of revisions; 0: off

	Snapshots Snapshots

	CORS          []string // origins of pages that may ask; empty or *: all
	HostWhitelist []string // names by which clients may ask without TLS; empty or *: all

	Gateway bool // JSON over HTTP
	V2      bool // etcd's v2 API
	Pprof   bool
	Metrics string // basic or extensive
	Version string // limpet's own, for metrics and logs

	// ShowToken is called with the token that was made when a new cluster began:
	// once, after it was stored. nil: nobody looks.
	ShowToken func(token string)
	// Doing, if set, is told what a start is doing.
	Doing *Doing

	resolver *net.Resolver                             // of SRV records; nil: the system's
	statfs   func(dir string, st *unix.Statfs_t) error // nil: the system's
	found    []cluster.Founder                         // that the records name
	held     *tokenFile                                // the tokens, from Start on; nil: none
	ring     *trust.Keyring                            // of held; follows rotations
	minted   bool                                      // held was made by this start

	authority *trust.Keyring // of the certificates that --auto-tls shows: ring, or of a secret of this member's own
	ownMinted *trust.Token   // that secret, if it was made by this start and is not stored yet
}

// DefaultConfig returns etcd's defaults.
func DefaultConfig() Config {
	return Config{
		Name:                    "default",
		ListenClientURLs:        []string{"http://localhost:2379"},
		AdvertiseClientURLs:     []string{"http://localhost:2379"},
		ListenPeerURLs:          []string{"http://localhost:2380"},
		AdvertisePeerURLs:       []string{"http://localhost:2380"},
		InitialClusterToken:     "etcd-cluster",
		InitialClusterState:     "new",
		StrictReconfig:          true,
		MaxLearners:             1,
		TLSMinVersion:           "TLS1.2",
		SnapshotCount:           10000,
		MaxLogBytes:             64 << 20,
		Heartbeat:               100 * time.Millisecond,
		Election:                time.Second,
		QuotaBytes:              2 << 30,
		MaxTxnOps:               128,
		MaxRequestBytes:         1536 << 10,
		MaxStreams:              1<<32 - 1,
		KeepaliveMinTime:        5 * time.Second,
		KeepaliveInterval:       2 * time.Hour,
		KeepaliveTimeout:        20 * time.Second,
		ProgressEvery:           10 * time.Minute,
		Login:                   login.Config{Token: "simple", TokenTTL: login.DefaultTokenTTL, Cost: login.DefaultCost},
		AutoCompactionMode:      "periodic",
		AutoCompactionRetention: "0",
		Snapshots:               defaultSnapshots(),
		CORS:                    []string{"*"},
		HostWhitelist:           []string{"*"},
		Gateway:                 true,
		V2:                      true,
		Metrics:                 "basic",
	}
}

// minLogBytes is a log that makes sense in tests at most.
const minLogBytes = 1 << 20

// maxRequestBytes is half of what raft-wal stores as one entry.
const maxRequestBytes = 32 << 20

// Validate finds what would keep the member from starting, in sentences that
// name the setting and the remedy.
func (c *Config) Validate() error {
	if c.DataDir == "" {
		c.DataDir = c.Name + ".limpet"
	}
	if c.QuotaBytes == 0 {
		c.QuotaBytes = 2 << 30
	}
	for _, urls := range []*[]string{&c.ListenClientURLs, &c.ListenPeerURLs, &c.AdvertiseClientURLs, &c.AdvertisePeerURLs, &c.ListenMetricsURLs} {
		*urls = slices.Compact(slices.Sorted(slices.Values(*urls))) // as etcd lists them
	}
	checks := []error{
		c.settleAdvertised(),
		checkURLs("listen-client-urls", c.ListenClientURLs, listening),
		checkURLs("listen-peer-urls", c.ListenPeerURLs, peering),
		checkURLs("advertise-client-urls", c.AdvertiseClientURLs, advertised),
		checkURLs("initial-advertise-peer-urls", c.AdvertisePeerURLs, advertised),
		c.checkTimes(),
		c.checkCluster(),
		c.checkEtcdsWays(),
		c.checkWaysIn(),
		c.checkPeerScheme(),
	}
	if len(c.ListenMetricsURLs) > 0 {
		checks = append(checks, checkURLs("listen-metrics-urls", c.ListenMetricsURLs, listening))
	}
	checks = append(checks, c.checkWeb(), c.checkTLS(), c.Snapshots.check())
	if _, err := parseRetention(c.AutoCompactionMode, c.AutoCompactionRetention); err != nil {
		checks = append(checks, err)
	}
	if c.Metrics != "basic" && c.Metrics != "extensive" {
		checks = append(checks, fmt.Errorf("--metrics is %q, want basic or extensive", c.Metrics))
	}
	for _, err := range checks {
		if err != nil {
			return err // one sentence at a time
		}
	}
	return nil
}

// settleAdvertised says where clients find this member if nobody has said that:
// where it listens, or where gossip finds it. Without gossip etcd asks, and rightly.
func (c *Config) settleAdvertised() error {
	_, everywhere := c.clientPort()
	switch {
	case len(c.AdvertiseClientURLs) > 0 || len(c.ListenClientURLs) == 0:
	case !c.gossips():
		return errors.New("--advertise-client-urls is required when --listen-client-urls is set explicitly")
	case everywhere != "":
		c.AdvertiseClientURLs = DefaultConfig().AdvertiseClientURLs
	default:
		c.AdvertiseClientURLs = c.ListenClientURLs
	}
	return nil
}

func (c *Config) checkTimes() error {
	switch {
	case c.Heartbeat <= 0:
		return fmt.Errorf("--heartbeat-interval must be >0 (set to %dms)", c.Heartbeat.Milliseconds())
	case c.Election <= 0:
		return fmt.Errorf("--election-timeout must be >0 (set to %dms)", c.Election.Milliseconds())
	case c.Election < 5*c.Heartbeat:
		return fmt.Errorf("--election-timeout[%vms] should be at least as 5 times as --heartbeat-interval[%vms]",
			c.Election.Milliseconds(), c.Heartbeat.Milliseconds())
	case c.Election > 50*time.Second:
		return fmt.Errorf("--election-timeout[%vms] is too long, and should be set less than 50000ms", c.Election.Milliseconds())
	case c.MaxLogBytes < minLogBytes:
		return fmt.Errorf("--max-log-bytes is %d, want at least %d", c.MaxLogBytes, int64(minLogBytes))
	case c.MaxTxnOps <= 0 || c.MaxRequestBytes <= 0:
		return errors.New("--max-txn-ops and --max-request-bytes must be above 0")
	case c.MaxRequestBytes > maxRequestBytes:
		return fmt.Errorf("--max-request-bytes is %d, want at most %d: one log entry must hold a request", c.MaxRequestBytes, maxRequestBytes)
	case min(c.KeepaliveMinTime, c.KeepaliveInterval, c.KeepaliveTimeout, c.ProgressEvery) < 0:
		return errors.New("--grpc-keepalive-… and --watch-progress-notify-interval must not be negative")
	}
	return nil
}

// founders reads --initial-cluster, or tells what the DNS has named.
func (c *Config) founders() ([]cluster.Founder, error) {
	if c.found != nil {
		return c.found, nil
	}
	var out []cluster.Founder
	if c.InitialCluster == "" {
		return nil, nil
	}
	for _, part := range strings.Split(c.InitialCluster, ",") {
		name, u, ok := strings.Cut(strings.TrimSpace(part), "=")
		if !ok || name == "" || u == "" {
			return nil, fmt.Errorf("--initial-cluster has %q, want name=url", part)
		}
		i := slices.IndexFunc(out, func(f cluster.Founder) bool { return f.Name == name })
		if i < 0 {
			out = append(out, cluster.Founder{Name: name})
			i = len(out) - 1
		}
		out[i].URLs = append(out[i].URLs, u)
	}
	return out, nil
}

// checkCluster compares --initial-cluster with what this member says of
// itself, in etcd's words.
func (c *Config) checkCluster() error {
	if s := c.InitialClusterState; s != "new" && s != "existing" {
		return fmt.Errorf("unexpected clusterState %q: --initial-cluster-state is new or existing", s)
	}
	founders, err := c.founders()
	if err != nil || len(founders) == 0 {
		return err
	}
	i := slices.IndexFunc(founders, func(f cluster.Founder) bool { return f.Name == c.Name })
	if i < 0 {
		return fmt.Errorf("couldn't find local name %q in the initial cluster configuration", c.Name)
	}
	for _, f := range founders {
		if err := checkURLs("initial-cluster", f.URLs, advertised); err != nil {
			return err
		}
	}
	if c.sameAddresses(founders[i].URLs, c.AdvertisePeerURLs) {
		return nil
	}
	for _, u := range founders[i].URLs {
		if !slices.Contains(c.AdvertisePeerURLs, u) {
			return fmt.Errorf("--initial-cluster has %s but missing from --initial-advertise-peer-urls=%s", u, strings.Join(c.AdvertisePeerURLs, ","))
		}
	}
	for _, u := range c.AdvertisePeerURLs {
		if !slices.Contains(founders[i].URLs, u) {
			return fmt.Errorf("--initial-advertise-peer-urls has %s but missing from --initial-cluster=%s", u, c.InitialCluster)
		}
	}
	return nil
}

// lookUpPatience bounds resolving the names in this member's own peer URLs.
const lookUpPatience = 5 * time.Second

// sameAddresses reports whether URLs are the same, or lead to the same addresses:
// a manifest may name a member here, and give its address there. Names that nobody
// knows yet are compared as they are, at once where etcd tries for 30 s.
func (c *Config) sameAddresses(urls, others []string) bool {
	a, b := slices.Sorted(slices.Values(urls)), slices.Sorted(slices.Values(others))
	if slices.Equal(a, b) {
		return true
	}
	ctx, cancel := context.WithTimeout(context.Background(), lookUpPatience)
	defer cancel()
	return len(a) == len(b) && slices.Equal(c.resolved(ctx, a), c.resolved(ctx, b))
}

// resolved puts addresses in the place of names.
func (c *Config) resolved(ctx context.Context, urls []string) []string {
	var out []string
	for _, s := range urls {
		if u, err := url.Parse(s); err == nil {
			all := c.addresses(ctx, u.Hostname(), u.Port())
			at := slices.IndexFunc(all, func(a string) bool { return a[0] >= '0' && a[0] <= '9' }) // IPv4, as Go dials
			s = u.Scheme + "://" + all[max(at, 0)]
		}
		out = append(out, s)
	}
	slices.Sort(out)
	return out
}

// checkEtcdsWays makes sure that at most one of etcd's ways is given, in its words.
func (c *Config) checkEtcdsWays() error {
	ways := 0
	for _, given := range []bool{c.InitialCluster != "", c.SRVDomain != "", len(c.DiscoveryEndpoints) > 0} {
		if given {
			ways++
		}
	}
	switch {
	case ways > 1:
		return errors.New(`multiple discovery or bootstrap flags are set. Choose one of "initial-cluster", "discovery-endpoints" or "discovery-srv"`)
	case (c.DiscoveryToken != "") != (len(c.DiscoveryEndpoints) > 0):
		return errors.New("both --discovery-token and --discovery-endpoints must be set")
	}
	return nil
}

// checkWaysIn makes sure that at most one way into a cluster is given, and that
// it can be gone.
func (c *Config) checkWaysIn() error {
	var ways []string
	if founders, _ := c.founders(); len(founders) > 1 || c.InitialClusterState == "existing" {
		ways = append(ways, "--initial-cluster")
	}
	if c.SRVDomain != "" {
		ways = append(ways, "--discovery-srv")
	}
	if c.BootstrapExpect > 1 {
		ways = append(ways, "--bootstrap-expect")
	} else if len(c.Join) > 0 {
		ways = append(ways, "--join")
	}
	if c.Discover && c.BootstrapExpect <= 1 {
		ways = append(ways, "--discover")
	}
	switch {
	case len(ways) > 1 && !slices.Equal(ways, []string{"--join", "--discover"}):
		return fmt.Errorf("%s name different ways into a cluster; give one", strings.Join(ways, " and "))
	case c.BootstrapExpect < 0 || c.BootstrapExpect > maxExpect:
		return fmt.Errorf("--bootstrap-expect is %d, want a number of members up to %d", c.BootstrapExpect, maxExpect)
	case c.MaxLearners < 0:
		return errors.New("--max-learners must not be negative")
	case c.Token != "" && c.TokenFile != "":
		return errors.New("--token and --token-file are both given; give one")
	case c.Discover && !c.secured():
		return errors.New("--discover needs the cluster's token: give --token-file, or LIMPET_TOKEN; limpet token generate makes one")
	case !c.secured():
		if c.GossipAddress != "" && !onThisMachine(c.GossipAddress) {
			return fmt.Errorf("--gossip-address %s needs the cluster's token: give --token-file, or LIMPET_TOKEN; without one gossip stays on this machine", c.GossipAddress)
		}
		for _, a := range c.Join {
			if !onThisMachine(a) {
				return fmt.Errorf("--join %s needs the cluster's token: give --token-file, or LIMPET_TOKEN (sudo drops variables); without one members meet on their own machine only", a)
			}
		}
	}
	return nil
}

// onThisMachine reports whether host, or host:port, is certain to be local.
func onThisMachine(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		host = strings.Trim(address, "[]")
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// checkPeerScheme: members speak TLS if there is a token, or if their URLs say
// so and they were given certificates.
func (c *Config) checkPeerScheme() error {
	def := DefaultConfig()
	token, secure, plain := c.secured(), "", ""
	for _, f := range []struct {
		flag      string
		urls, def []string
	}{
		{"listen-peer-urls", c.ListenPeerURLs, def.ListenPeerURLs},
		{"initial-advertise-peer-urls", c.AdvertisePeerURLs, def.AdvertisePeerURLs},
	} {
		for _, u := range f.urls {
			switch https := strings.HasPrefix(u, "https:"); {
			case token && !https && !slices.Equal(f.urls, f.def):
				return fmt.Errorf("--%s has %s, but with a token (given, or stored in %s) members speak TLS: write https", f.flag, u, c.DataDir)
			case !token && https && c.PeerTLS.Cert == "" && c.PeerAutoTLS:
				return fmt.Errorf("--peer-auto-tls needs the cluster's token, of which members make their certificates, and by which they know each other (etcd's automatic ones let everybody in): give all members one token with --token-file, or LIMPET_TOKEN; or give --peer-cert-file and --peer-key-file")
			case !token && https && c.PeerTLS.Cert == "":
				return fmt.Errorf("--%s has %s, but without a token or certificates members cannot speak TLS: give --token-file, or --peer-cert-file and --peer-key-file, or write http", f.flag, u)
			case https:
				secure = u
			default:
				plain = u
			}
		}
	}
	if !token && secure != "" && plain != "" {
		return fmt.Errorf("--listen-peer-urls and --initial-advertise-peer-urls have %s and %s: members speak TLS or do not; write https everywhere", secure, plain)
	}
	return nil
}

// maxExpect bounds how many members found a cluster together.
const maxExpect = 9

// gossips reports whether members may be found by gossip.
func (c *Config) gossips() bool {
	return c.secured() || c.GossipAddress != "" || len(c.Join) > 0 || c.BootstrapExpect > 1
}

type urlUse int

const (
	listening urlUse = iota
	advertised
	peering // to listen on for other members
)

func checkURLs(flag string, urls []string, use urlUse) error {
	if len(urls) == 0 {
		return fmt.Errorf("--%s is empty; give a URL such as http://localhost:2379", flag)
	}
	for _, s := range urls {
		if err := checkURL(s, use); err != nil {
			return fmt.Errorf("--%s: %w", flag, err)
		}
	}
	return nil
}

func checkURL(s string, use urlUse) error {
	u, err := url.Parse(s)
	if err != nil {
		return fmt.Errorf("%q is not a URL: %w", s, err)
	}
	switch {
	case isUnix(u) && use == peering:
		return fmt.Errorf("%q: members meet over TCP: write http or https", s)
	case isUnix(u) && socketFile(u) == "":
		return fmt.Errorf("%q names no file; write unix:///run/limpet.sock", s)
	case isUnix(u):
		return nil
	case u.Scheme != "http" && u.Scheme != "https":
		return fmt.Errorf("%q: URL scheme must be http, https, unix, or unixs", s)
	}
	if u.Path != "" && u.Path != "/" {
		return fmt.Errorf("%q: URL must not contain a path", s)
	}
	host, port, err := net.SplitHostPort(u.Host)
	if err != nil || port == "" {
		return fmt.Errorf("%q: URL address must have the form host:port", s)
	}
	if use != advertised && host != "localhost" && host != "" && net.ParseIP(host) == nil {
		return fmt.Errorf("expected IP in URL for binding (%s); localhost, 0.0.0.0 and [::] will do, too", s)
	}
	return nil
}

// retention is parsed auto compaction: every period, or down to a number of
// revisions. Both zero: off.
type retention struct {
	period    time.Duration
	revisions int64
}

func parseRetention(mode, s string) (retention, error) {
	bad := func(want string) (retention, error) {
		return retention{}, fmt.Errorf("--auto-compaction-retention is %q, want %s", s, want)
	}
	switch mode {
	case "revision":
		n, err := parseInt(s)
		if err != nil || n < 0 {
			return bad("a number of revisions to keep")
		}
		return retention{revisions: n}, nil
	case "periodic", "":
		if n, err := parseInt(s); err == nil { // a bare number is hours
			if n < 0 || n > math.MaxInt64/int64(time.Hour) {
				return bad("hours, or a duration such as 30m")
			}
			return retention{period: time.Duration(n) * time.Hour}, nil
		}
		d, err := time.ParseDuration(s)
		if err != nil || d < 0 {
			return bad("hours, or a duration such as 30m")
		}
		return retention{period: d}, nil
	}
	return retention{}, fmt.Errorf("unknown auto-compaction-mode %q: --auto-compaction-mode is periodic or revision", mode)
}
