package server

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Config is what an operator can say. cli fills it; Validate checks it once.
type Config struct {
	Name    string
	DataDir string

	ListenClientURLs    []string
	AdvertiseClientURLs []string
	ListenPeerURLs      []string
	AdvertisePeerURLs   []string
	ListenMetricsURLs   []string
	InitialCluster      string // name=url,…; empty: this member alone
	InitialClusterToken string
	InitialClusterState string // new or existing

	SnapshotCount     uint64
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

	AutoCompactionMode      string // periodic or revision
	AutoCompactionRetention string // a duration, hours, or a number of revisions; 0: off

	Pprof   bool
	Metrics string // basic or extensive
	Version string // limpet's own, for metrics and logs
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
		SnapshotCount:           10000,
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
		AutoCompactionMode:      "periodic",
		AutoCompactionRetention: "0",
		Metrics:                 "basic",
	}
}

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
	checks := []error{
		checkURLs("listen-client-urls", c.ListenClientURLs, listening),
		checkURLs("listen-peer-urls", c.ListenPeerURLs, listening),
		checkURLs("advertise-client-urls", c.AdvertiseClientURLs, advertised),
		checkURLs("initial-advertise-peer-urls", c.AdvertisePeerURLs, advertised),
		c.checkTimes(),
		c.checkCluster(),
	}
	if len(c.ListenMetricsURLs) > 0 {
		checks = append(checks, checkURLs("listen-metrics-urls", c.ListenMetricsURLs, listening))
	}
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

func (c *Config) checkTimes() error {
	switch {
	case c.Heartbeat <= 0 || c.Election <= 0:
		return errors.New("--heartbeat-interval and --election-timeout must be above 0 ms")
	case c.Election < 5*c.Heartbeat:
		return fmt.Errorf("--election-timeout[%vms] should be at least as 5 times as --heartbeat-interval[%vms]",
			c.Election.Milliseconds(), c.Heartbeat.Milliseconds())
	case c.Election > 50*time.Second:
		return fmt.Errorf("--election-timeout[%vms] is too long, and should be set less than 50000ms", c.Election.Milliseconds())
	case c.MaxTxnOps <= 0 || c.MaxRequestBytes <= 0:
		return errors.New("--max-txn-ops and --max-request-bytes must be above 0")
	case c.MaxRequestBytes > maxRequestBytes:
		return fmt.Errorf("--max-request-bytes is %d, want at most %d: one log entry must hold a request", c.MaxRequestBytes, maxRequestBytes)
	case min(c.KeepaliveMinTime, c.KeepaliveInterval, c.KeepaliveTimeout, c.ProgressEvery) < 0:
		return errors.New("--grpc-keepalive-… and --watch-progress-notify-interval must not be negative")
	}
	return nil
}

// checkCluster makes sure that the cluster named is this member alone.
func (c *Config) checkCluster() error {
	if s := c.InitialClusterState; s != "new" && s != "existing" {
		return fmt.Errorf("--initial-cluster-state is %q, want new or existing", s)
	}
	if c.InitialCluster == "" {
		return nil
	}
	var urls []string
	for _, part := range strings.Split(c.InitialCluster, ",") {
		name, u, ok := strings.Cut(strings.TrimSpace(part), "=")
		if !ok || name == "" || u == "" {
			return fmt.Errorf("--initial-cluster has %q, want name=url", part)
		}
		if name != c.Name {
			return fmt.Errorf("--initial-cluster names member %q beside %q: this version of limpet runs one member; name only %s", name, c.Name, c.Name)
		}
		urls = append(urls, u)
	}
	for _, u := range urls {
		if !slices.Contains(c.AdvertisePeerURLs, u) {
			return fmt.Errorf("--initial-cluster has %s but missing from --initial-advertise-peer-urls=%s", u, strings.Join(c.AdvertisePeerURLs, ","))
		}
	}
	return nil
}

type urlUse int

const (
	listening urlUse = iota
	advertised
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
	switch u.Scheme {
	case "http":
	case "https", "unix", "unixs":
		if use == listening {
			return fmt.Errorf("%q: this version of limpet listens on http only", s)
		}
	default:
		return fmt.Errorf("%q: URL scheme must be http, https, unix, or unixs", s)
	}
	if u.Path != "" && u.Path != "/" {
		return fmt.Errorf("%q: URL must not contain a path", s)
	}
	host, port, err := net.SplitHostPort(u.Host)
	if err != nil || port == "" {
		return fmt.Errorf("%q: URL address must have the form host:port", s)
	}
	if use == listening && host != "localhost" && host != "" && net.ParseIP(host) == nil {
		return fmt.Errorf("%q: expected IP or localhost in a URL to listen on, not a name", s)
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
	return retention{}, fmt.Errorf("--auto-compaction-mode is %q, want periodic or revision", mode)
}
