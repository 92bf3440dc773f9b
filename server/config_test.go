package server

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

func TestDefaultConfigIsValid(t *testing.T) {
	cfg := DefaultConfig()
	if err := cfg.Validate(); err != nil {
		t.Fatalf("DefaultConfig: %v", err)
	}
	if cfg.DataDir != "default.limpet" {
		t.Errorf("data directory of the default member: got %q, want default.limpet", cfg.DataDir)
	}
}

func TestValidateFillsIn(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Name, cfg.QuotaBytes = "board", 0
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	if cfg.DataDir != "board.limpet" {
		t.Errorf("data directory: got %q, want board.limpet", cfg.DataDir)
	}
	if cfg.QuotaBytes != 2<<30 {
		t.Errorf("quota of 0: got %d, want 2 GiB", cfg.QuotaBytes)
	}
	cfg.DataDir, cfg.QuotaBytes = "elsewhere", -1
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	if cfg.DataDir != "elsewhere" || cfg.QuotaBytes != -1 {
		t.Errorf("what was said is changed: data directory %q, quota %d; want elsewhere, -1", cfg.DataDir, cfg.QuotaBytes)
	}
}

func TestValidateSettlesAdvertised(t *testing.T) {
	for _, c := range []struct{ listen, want []string }{
		{[]string{"http://10.0.0.1:2379", "http://10.0.0.1:2379"}, []string{"http://10.0.0.1:2379"}},
		{[]string{"unix:///run/limpet.sock", "http://127.0.0.1:1"}, []string{"http://127.0.0.1:1", "unix:///run/limpet.sock"}},
		{[]string{"http://0.0.0.0:2379"}, []string{"http://localhost:2379"}}, // which gossip replaces
	} {
		cfg := DefaultConfig()
		cfg.Token, cfg.ListenClientURLs, cfg.AdvertiseClientURLs = "t", c.listen, nil
		if err := cfg.Validate(); err != nil || !slices.Equal(cfg.AdvertiseClientURLs, c.want) {
			t.Errorf("listening on %v: advertised %v, %v, want %v", c.listen, cfg.AdvertiseClientURLs, err, c.want)
		}
	}
}

func TestValidate(t *testing.T) {
	const ok = ""
	for _, c := range []struct {
		name string
		set  func(c *Config)
		want string // the sentence; ok: none
	}{
		// URLs to listen on.
		{"no client URL", func(c *Config) { c.ListenClientURLs = nil }, "--listen-client-urls is empty; give a URL such as http://localhost:2379"},
		{"no peer URL", func(c *Config) { c.ListenPeerURLs = nil }, "--listen-peer-urls is empty; give a URL such as http://localhost:2379"},
		{"no metrics URL", func(c *Config) { c.ListenMetricsURLs = nil }, ok},
		{"all interfaces", func(c *Config) {
			c.ListenClientURLs = []string{"http://0.0.0.0:2379", "http://[::]:2379", "http://:2379"}
		}, ok},
		{"IPv6", func(c *Config) { c.ListenClientURLs = []string{"http://[::1]:2379"} }, ok},
		{"any port", func(c *Config) { c.ListenClientURLs = []string{"http://127.0.0.1:0"} }, ok},
		{"trailing slash", func(c *Config) { c.ListenClientURLs = []string{"http://127.0.0.1:2379/"} }, ok},
		{
			"no scheme", func(c *Config) { c.ListenClientURLs = []string{"127.0.0.1:2379"} },
			`--listen-client-urls: "127.0.0.1:2379" is not a URL: parse "127.0.0.1:2379": first path segment in URL cannot contain colon`,
		},
		{
			"host as scheme", func(c *Config) { c.ListenClientURLs = []string{"localhost:2379"} },
			`--listen-client-urls: "localhost:2379": URL scheme must be http, https, unix, or unixs`,
		},
		{
			"other scheme", func(c *Config) { c.ListenPeerURLs = []string{"ftp://127.0.0.1:21"} },
			`--listen-peer-urls: "ftp://127.0.0.1:21": URL scheme must be http, https, unix, or unixs`,
		},
		{
			"https", func(c *Config) { c.ListenClientURLs = []string{"https://127.0.0.1:2379"} },
			"TLS key/cert (--cert-file, --key-file) must be provided for client url https://127.0.0.1:2379 with HTTPS scheme; --auto-tls makes them",
		},
		{"https with a certificate", func(c *Config) {
			c.ListenClientURLs, c.ClientTLS.Cert, c.ClientTLS.Key = []string{"https://127.0.0.1:2379"}, "c", "k"
		}, ok},
		{"https with one to be issued", func(c *Config) { c.ListenClientURLs, c.AutoTLS = []string{"https://127.0.0.1:2379"}, true }, ok},
		{"a socket file", func(c *Config) {
			c.ListenClientURLs, c.AdvertiseClientURLs = []string{"unix://localhost:2379", "unix:///run/limpet.sock"}, []string{"unix:///run/limpet.sock"}
		}, ok},
		{
			"a socket without a file", func(c *Config) { c.ListenClientURLs = []string{"unix://"} },
			`--listen-client-urls: "unix://" names no file; write unix:///run/limpet.sock`,
		},
		{
			"a socket for peers", func(c *Config) { c.ListenPeerURLs = []string{"unix:///run/limpet.sock"} },
			`--listen-peer-urls: "unix:///run/limpet.sock": members meet over TCP: write http or https`,
		},
		{
			"the second of two", func(c *Config) { c.ListenClientURLs = []string{"http://127.0.0.1:1", "unixs:///run/x"} },
			"TLS key/cert (--cert-file, --key-file) must be provided for client url unixs:///run/x with HTTPS scheme; --auto-tls makes them",
		},
		{
			"a path", func(c *Config) { c.ListenClientURLs = []string{"http://127.0.0.1:2379/v3"} },
			`--listen-client-urls: "http://127.0.0.1:2379/v3": URL must not contain a path`,
		},
		{
			"no port", func(c *Config) { c.ListenClientURLs = []string{"http://127.0.0.1"} },
			`--listen-client-urls: "http://127.0.0.1": URL address must have the form host:port`,
		},
		{
			"an empty port", func(c *Config) { c.ListenClientURLs = []string{"http://127.0.0.1:"} },
			`--listen-client-urls: "http://127.0.0.1:": URL address must have the form host:port`,
		},
		{
			"a name to listen on", func(c *Config) { c.ListenClientURLs = []string{"http://board.local:2379"} },
			"--listen-client-urls: expected IP in URL for binding (http://board.local:2379); localhost, 0.0.0.0 and [::] will do, too",
		},
		{
			"a control character", func(c *Config) { c.ListenClientURLs = []string{"http://127.0.0.1:2379\n"} },
			`--listen-client-urls: "http://127.0.0.1:2379\n" is not a URL: parse "http://127.0.0.1:2379\n": net/url: invalid control character in URL`,
		},
		{
			"metrics URL", func(c *Config) { c.ListenMetricsURLs = []string{"https://127.0.0.1:9000"} },
			"client TLS key/cert (--cert-file, --key-file) must be provided for metrics secure url https://127.0.0.1:9000; --auto-tls makes them",
		},
		// TLS.
		{"a certificate without a key", func(c *Config) { c.ClientTLS.Cert = "c" }, `--cert-file and --key-file must both be present: got "c" and ""`},
		{"a key without a certificate", func(c *Config) { c.PeerTLS.Key = "k" }, `--peer-cert-file and --peer-key-file must both be present: got "" and "k"`},
		{
			"half a pair for calls", func(c *Config) { c.PeerTLS.Cert, c.PeerTLS.Key, c.PeerTLS.CallerCert = "c", "k", "cc" },
			`--peer-client-cert-file and --peer-client-key-file must both be present: got "cc" and ""`,
		},
		{
			"a pair for calls alone", func(c *Config) { c.PeerTLS.CallerCert, c.PeerTLS.CallerKey = "c", "k" },
			"--peer-client-cert-file is for calls, and --peer-cert-file for being called: give both, or the second alone",
		},
		{
			"two limits on clients", func(c *Config) { c.ClientTLS.AllowedCNs, c.ClientTLS.AllowedHostnames = []string{"a"}, []string{"b"} },
			"--client-cert-allowed-cn and --client-cert-allowed-hostname are both given; give one",
		},
		{
			"two limits on members", func(c *Config) { c.PeerTLS.AllowedCNs, c.PeerTLS.AllowedHostnames = []string{"a"}, []string{"b"} },
			"--peer-cert-allowed-cn and --peer-cert-allowed-hostname are both given; give one",
		},
		{
			"an old version", func(c *Config) { c.TLSMinVersion = "TLS1.1" },
			`unexpected TLS version "TLS1.1" (must be one of: TLS1.2, TLS1.3); see --tls-min-version, --tls-max-version and --cipher-suites`,
		},
		{
			"no such suite", func(c *Config) { c.CipherSuites = []string{"ROT13"} },
			`unexpected TLS cipher suite "ROT13"; see --tls-min-version, --tls-max-version and --cipher-suites`,
		},
		{"members with certificates", func(c *Config) {
			c.ListenPeerURLs, c.AdvertisePeerURLs = []string{"https://127.0.0.1:2380"}, []string{"https://127.0.0.1:2380"}
			c.PeerTLS.Cert, c.PeerTLS.Key = "c", "k"
		}, ok},
		{
			"members with nothing", func(c *Config) {
				c.ListenPeerURLs, c.AdvertisePeerURLs = []string{"https://127.0.0.1:2380"}, []string{"https://localhost:2380"}
				c.InitialCluster = "default=https://localhost:2380,other=https://localhost:2390"
			},
			"--listen-peer-urls has https://127.0.0.1:2380, but without a token or certificates members cannot speak TLS: give --token-file, or --peer-cert-file and --peer-key-file, or write http",
		},
		{
			"members that would let everybody in", func(c *Config) {
				c.ListenPeerURLs, c.AdvertisePeerURLs, c.PeerAutoTLS = []string{"https://127.0.0.1:2380"}, []string{"https://localhost:2380"}, true
				c.InitialCluster = "default=https://localhost:2380,other=https://localhost:2390"
			},
			"--peer-auto-tls needs the cluster's token, of which members make their certificates, and by which they know each other (etcd's automatic ones let everybody in): give all members one token with --token-file, or LIMPET_TOKEN; or give --peer-cert-file and --peer-key-file",
		},
		{
			"members with and without TLS", func(c *Config) {
				c.ListenPeerURLs, c.PeerTLS.Cert, c.PeerTLS.Key = []string{"https://127.0.0.1:2380"}, "c", "k"
			},
			"--listen-peer-urls and --initial-advertise-peer-urls have https://127.0.0.1:2380 and http://localhost:2380: members speak TLS or do not; write https everywhere",
		},
		// URLs told to others: they may point at a proxy.
		{"a name to advertise", func(c *Config) { c.AdvertiseClientURLs = []string{"https://board.local:443"} }, ok},
		{
			"no client URL to advertise, and no gossip", func(c *Config) {
				c.AdvertiseClientURLs, c.AdvertisePeerURLs = nil, []string{"http://a:2380"}
			},
			"--advertise-client-urls is required when --listen-client-urls is set explicitly",
		},
		{"no client URL to advertise where gossip finds it", func(c *Config) { c.AdvertiseClientURLs, c.Token = nil, "t" }, ok},
		{"no peer URL to advertise", func(c *Config) { c.AdvertisePeerURLs = nil }, "--initial-advertise-peer-urls is empty; give a URL such as http://localhost:2379"},
		{
			"no port to advertise", func(c *Config) { c.AdvertisePeerURLs = []string{"http://board.local"} },
			`--initial-advertise-peer-urls: "http://board.local": URL address must have the form host:port`,
		},
		// Times and sizes.
		{"no heartbeat", func(c *Config) { c.Heartbeat = 0 }, "--heartbeat-interval must be >0 (set to 0ms)"},
		{"negative election", func(c *Config) { c.Election = -time.Millisecond }, "--election-timeout must be >0 (set to -1ms)"},
		{"five times the heartbeat", func(c *Config) { c.Heartbeat = 200 * time.Millisecond }, ok},
		{
			"less than five times", func(c *Config) { c.Heartbeat = 201 * time.Millisecond },
			"--election-timeout[1000ms] should be at least as 5 times as --heartbeat-interval[201ms]",
		},
		{"the longest election", func(c *Config) { c.Election = 50 * time.Second }, ok},
		{
			"a longer one", func(c *Config) { c.Election = 50*time.Second + time.Millisecond },
			"--election-timeout[50001ms] is too long, and should be set less than 50000ms",
		},
		{"no operations", func(c *Config) { c.MaxTxnOps = 0 }, "--max-txn-ops and --max-request-bytes must be above 0"},
		{"no bytes", func(c *Config) { c.MaxRequestBytes = -1 }, "--max-txn-ops and --max-request-bytes must be above 0"},
		{"no quota", func(c *Config) { c.QuotaBytes = -1 }, ok},
		// The cluster is this member.
		{"existing", func(c *Config) { c.InitialClusterState = "existing" }, ok},
		{"another state", func(c *Config) { c.InitialClusterState = "old" }, `unexpected clusterState "old": --initial-cluster-state is new or existing`},
		{"itself by name and by address", func(c *Config) {
			c.InitialCluster, c.AdvertisePeerURLs = "default=http://localhost:2380", []string{"http://127.0.0.1:2380"}
		}, ok},
		{"itself", func(c *Config) { c.InitialCluster = "default=http://localhost:2380" }, ok},
		{
			"itself under two URLs", func(c *Config) {
				c.AdvertisePeerURLs = []string{"http://a:1", "http://b:1"}
				c.InitialCluster = "default=http://a:1, default=http://b:1"
			}, ok,
		},
		{
			"another", func(c *Config) { c.InitialCluster = "default=http://localhost:2380,two=http://b:2380" }, ok,
		},
		{
			"others only", func(c *Config) { c.InitialCluster = "two=http://b:2380" },
			`couldn't find local name "default" in the initial cluster configuration`,
		},
		{
			"a URL that is not there", func(c *Config) {
				c.InitialCluster, c.AdvertisePeerURLs = "default=http://a:2380", []string{"http://a:2380", "http://b:2380"}
			},
			"--initial-advertise-peer-urls has http://b:2380 but missing from --initial-cluster=default=http://a:2380",
		},
		// Ways in.
		{"join", func(c *Config) { c.Join, c.TokenFile = []string{"a"}, "t" }, ok},
		{"join here", func(c *Config) { c.Join = []string{"127.0.0.2", "localhost:1", "[::1]:2"} }, ok},
		{
			"join there without a token", func(c *Config) { c.Join = []string{"127.0.0.2", "10.0.0.1:2382"} },
			"--join 10.0.0.1:2382 needs the cluster's token: give --token-file, or LIMPET_TOKEN (sudo drops variables); without one members meet on their own machine only",
		},
		{"gossip here", func(c *Config) { c.GossipAddress, c.BootstrapExpect = "127.0.0.2:2382", 3 }, ok},
		{"gossip there with a token", func(c *Config) { c.GossipAddress, c.Token = "0.0.0.0", "t" }, ok},
		{
			"gossip there without a token", func(c *Config) { c.GossipAddress, c.BootstrapExpect = "0.0.0.0:2382", 3 },
			"--gossip-address 0.0.0.0:2382 needs the cluster's token: give --token-file, or LIMPET_TOKEN; without one gossip stays on this machine",
		},
		{"expect with a hint", func(c *Config) { c.BootstrapExpect, c.Join, c.Token = 3, []string{"a"}, "t" }, ok},
		{"expect none", func(c *Config) { c.BootstrapExpect = -1 }, "--bootstrap-expect is -1, want a number of members up to 9"},
		{
			"two ways", func(c *Config) { c.InitialClusterState, c.Join = "existing", []string{"a"} },
			"--initial-cluster and --join name different ways into a cluster; give one",
		},
		{
			"discover without a token", func(c *Config) { c.Discover = true },
			"--discover needs the cluster's token: give --token-file, or LIMPET_TOKEN; limpet token generate makes one",
		},
		{"by the DNS", func(c *Config) { c.SRVDomain = "example.com" }, ok},
		{
			"by the DNS and by name", func(c *Config) { c.SRVDomain, c.InitialCluster = "example.com", "default=http://localhost:2380" },
			`multiple discovery or bootstrap flags are set. Choose one of "initial-cluster", "discovery-endpoints" or "discovery-srv"`,
		},
		{
			"by the DNS and by gossip", func(c *Config) { c.SRVDomain, c.Join = "example.com", []string{"a"} },
			"--discovery-srv and --join name different ways into a cluster; give one",
		},
		{"half of etcd's discovery", func(c *Config) { c.DiscoveryToken = "t" }, "both --discovery-token and --discovery-endpoints must be set"},
		{"two tokens", func(c *Config) { c.Token, c.TokenFile = "a", "b" }, "--token and --token-file are both given; give one"},
		{"learners", func(c *Config) { c.MaxLearners = -1 }, "--max-learners must not be negative"},
		{"no name", func(c *Config) { c.InitialCluster = "http://localhost:2380" }, `--initial-cluster has "http://localhost:2380", want name=url`},
		{"an empty name", func(c *Config) { c.InitialCluster = "=http://localhost:2380" }, `--initial-cluster has "=http://localhost:2380", want name=url`},
		{"a comma too much", func(c *Config) { c.InitialCluster = "default=http://localhost:2380," }, `--initial-cluster has "", want name=url`},
		{
			"a URL that is not advertised", func(c *Config) { c.InitialCluster = "default=http://other:2380" },
			"--initial-cluster has http://other:2380 but missing from --initial-advertise-peer-urls=http://localhost:2380",
		},
		// Compaction and metrics.
		{"another mode", func(c *Config) { c.AutoCompactionMode = "daily" }, `unknown auto-compaction-mode "daily": --auto-compaction-mode is periodic or revision`},
		{"retention", func(c *Config) { c.AutoCompactionRetention = "soon" }, `--auto-compaction-retention is "soon", want hours, or a duration such as 30m`},
		{"extensive metrics", func(c *Config) { c.Metrics = "extensive" }, ok},
		{"other metrics", func(c *Config) { c.Metrics = "" }, `--metrics is "", want basic or extensive`},
		// One sentence at a time, the first.
		{
			"two mistakes", func(c *Config) { c.Metrics, c.ListenPeerURLs = "all", nil },
			"--listen-peer-urls is empty; give a URL such as http://localhost:2379",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := DefaultConfig()
			c.set(&cfg)
			got := ""
			if err := cfg.Validate(); err != nil {
				got = err.Error()
			}
			if got != c.want {
				t.Errorf("Validate:\n got %q\nwant %q", got, c.want)
			}
		})
	}
}

func TestParseRetention(t *testing.T) {
	bad := func(s, want string) string {
		return fmt.Sprintf("--auto-compaction-retention is %q, want %s", s, want)
	}
	const hours, revisions = "hours, or a duration such as 30m", "a number of revisions to keep"
	for _, c := range []struct {
		mode, text string
		want       retention
		err        string
	}{
		{"periodic", "0", retention{}, ""},
		{"periodic", "1", retention{period: time.Hour}, ""},
		{"", "24", retention{period: 24 * time.Hour}, ""},
		{"periodic", "30m", retention{period: 30 * time.Minute}, ""},
		{"periodic", "1h30m", retention{period: 90 * time.Minute}, ""},
		{"periodic", "0s", retention{}, ""},
		{"periodic", "-1", retention{}, bad("-1", hours)},
		{"periodic", "-1m", retention{}, bad("-1m", hours)},
		{"periodic", "", retention{}, bad("", hours)},
		{"periodic", "1.5", retention{}, bad("1.5", hours)},
		// More hours than a duration holds: 292 years.
		{"periodic", "9000000000000000000", retention{}, bad("9000000000000000000", hours)},
		{"periodic", "3000000", retention{}, bad("3000000", hours)},
		{"revision", "0", retention{}, ""},
		{"revision", "1000", retention{revisions: 1000}, ""},
		{"revision", "-1", retention{}, bad("-1", revisions)},
		{"revision", "1h", retention{}, bad("1h", revisions)},
		{"revision", "", retention{}, bad("", revisions)},
		{"revision", "99999999999999999999", retention{}, bad("99999999999999999999", revisions)},
		{"daily", "1", retention{}, `unknown auto-compaction-mode "daily": --auto-compaction-mode is periodic or revision`},
	} {
		got, err := parseRetention(c.mode, c.text)
		text := ""
		if err != nil {
			text = err.Error()
		}
		if got != c.want || text != c.err {
			t.Errorf("parseRetention(%q, %q):\n got %+v, %q\nwant %+v, %q", c.mode, c.text, got, text, c.want, c.err)
		}
	}
}
