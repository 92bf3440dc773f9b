package cli

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"limpet/server"
)

// The flags of limpet server: etcd's names and defaults. Each can also be given
// as LIMPET_NAME or ETCD_NAME, upper case, - as _; LIMPET_ wins over ETCD_, a
// flag over both. A configuration file is asked alone.

// envNames are the variables of a flag.
func envNames(flag string) []string {
	n := strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
	return []string{"LIMPET_" + n, "ETCD_" + n}
}

// setting is one flag of limpet server and where its value goes.
type setting struct {
	flag  cli.Flag
	name  string
	apply func(c *cli.Context, cfg *server.Config) error
	// idle is why the flag has no effect; empty: it has one.
	idle string
	// newer is the flag whose older name this is; empty: it has none.
	newer string
}

func text(name, category, usage string, get func(*server.Config) *string) setting {
	def := server.DefaultConfig()
	return setting{
		flag:  &cli.StringFlag{Name: name, Category: category, Usage: usage, Value: *get(&def)},
		name:  name,
		apply: func(c *cli.Context, cfg *server.Config) error { *get(cfg) = c.String(name); return nil },
	}
}

func urls(name, category, usage string, get func(*server.Config) *[]string) setting {
	def := server.DefaultConfig()
	return setting{
		flag:  &cli.StringFlag{Name: name, Category: category, Usage: usage + "; comma-separated", Value: strings.Join(*get(&def), ",")},
		name:  name,
		apply: func(c *cli.Context, cfg *server.Config) error { *get(cfg) = splitList(c.String(name)); return nil },
	}
}

func splitList(s string) []string {
	var out []string
	for _, part := range strings.Split(s, ",") {
		if part = strings.TrimSpace(part); part != "" {
			out = append(out, part)
		}
	}
	return out
}

func number[T ~int | ~int64 | ~uint32 | ~uint64](name, category, usage string, get func(*server.Config) *T) setting {
	def := server.DefaultConfig()
	return setting{
		flag: &cli.Int64Flag{Name: name, Category: category, Usage: usage, Value: int64(*get(&def))},
		name: name,
		apply: func(c *cli.Context, cfg *server.Config) error {
			v := c.Int64(name)
			n := T(v)
			unsigned := ^T(0) > 0
			if int64(n) != v || unsigned && v < 0 {
				return badValue(name, fmt.Sprint(v), "a number that fits; see limpet server --help for the default")
			}
			*get(cfg) = n
			return nil
		},
	}
}

// seconds is a duration that etcd gives in seconds, without a unit.
func seconds(name, category, usage string, get func(*server.Config) *time.Duration) setting {
	def := server.DefaultConfig()
	return setting{
		flag: &cli.Int64Flag{Name: name, Category: category, Usage: usage + ", in seconds", Value: int64(get(&def).Seconds())},
		name: name,
		apply: func(c *cli.Context, cfg *server.Config) error {
			*get(cfg) = time.Duration(c.Int64(name)) * time.Second
			return nil
		},
	}
}

// millis is a duration that etcd gives in milliseconds, without a unit.
func millis(name, category, usage string, get func(*server.Config) *time.Duration) setting {
	def := server.DefaultConfig()
	return setting{
		flag: &cli.Int64Flag{Name: name, Category: category, Usage: usage + ", in milliseconds", Value: get(&def).Milliseconds()},
		name: name,
		apply: func(c *cli.Context, cfg *server.Config) error {
			*get(cfg) = time.Duration(c.Int64(name)) * time.Millisecond
			return nil
		},
	}
}

func duration(name, category, usage string, get func(*server.Config) *time.Duration) setting {
	def := server.DefaultConfig()
	return setting{
		flag:  &cli.DurationFlag{Name: name, Category: category, Usage: usage, Value: *get(&def)},
		name:  name,
		apply: func(c *cli.Context, cfg *server.Config) error { *get(cfg) = c.Duration(name); return nil },
	}
}

func boolean(name, category, usage string, get func(*server.Config) *bool) setting {
	def := server.DefaultConfig()
	return setting{
		flag:  &cli.BoolFlag{Name: name, Category: category, Usage: usage, Value: *get(&def)},
		name:  name,
		apply: func(c *cli.Context, cfg *server.Config) error { *get(cfg) = c.Bool(name); return nil },
	}
}

// The groups of the help, in the order of categories.
const (
	catMember    = "Member"
	catCluster   = "Clustering as etcd does it"
	catOwn       = "Clustering as limpet does it"
	catClients   = "Clients"
	catTLS       = "Security"
	catUsers     = "Users"
	catLimits    = "Limits"
	catCompact   = "Compaction"
	catSnapshots = "Snapshots"
	catTell      = "Logging and monitoring"
	catUnsafe    = "Unsafe"
	catIdle      = "Accepted for compatibility"
)

var categories = []string{catMember, catOwn, catCluster, catClients, catTLS, catUsers, catLimits, catCompact, catSnapshots, catTell, catUnsafe, catIdle}

// settings lists the flags of limpet server but those that commonFlags has.
func settings() []setting {
	return slices.Concat(plainSettings(), tlsSettings(), snapshotSettings(), olderSettings(), idleSettings())
}

func plainSettings() []setting {
	type C = server.Config
	return []setting{
		text("name", catMember, "human-readable name of this member", func(c *C) *string { return &c.Name }),
		text("data-dir", catMember, "folder that holds everything this member must not forget (default: NAME.limpet)", func(c *C) *string { return &c.DataDir }),
		text("wal-dir", catMember, "folder for the raft log, on a disk of its own, say; chosen once, at the first start (default: the data directory)", func(c *C) *string { return &c.WALDir }),
		number("snapshot-count", catMember, "log entries after which the log may be trimmed", func(c *C) *uint64 { return &c.SnapshotCount }),
		number("max-log-bytes", catMember, "bytes of the raft log on disk; a quarter stays for members that lag", func(c *C) *int64 { return &c.MaxLogBytes }),
		millis("heartbeat-interval", catMember, "compared with --election-timeout, which must be five times as long; heartbeats go out every tenth to fifth of that", func(c *C) *time.Duration { return &c.Heartbeat }),
		millis("election-timeout", catMember, "time without a leader before an election; one and a half times it is the shortest lease", func(c *C) *time.Duration { return &c.Election }),
		urls("listen-client-urls", catClients, "URLs to listen on for clients", func(c *C) *[]string { return &c.ListenClientURLs }),
		urls("listen-client-http-urls", catClients, "URLs to listen on for clients' HTTP; gRPC alone is then served at --listen-client-urls", func(c *C) *[]string { return &c.ListenClientHTTPURLs }),
		urls("cors", catClients, "origins, as http://host:port, of pages in browsers that may read answers; * for all", func(c *C) *[]string { return &c.CORS }),
		urls("host-whitelist", catClients, "names by which clients without TLS may call this member over HTTP, against DNS rebinding; * for all", func(c *C) *[]string { return &c.HostWhitelist }),
		urls("advertise-client-urls", catClients, "this member's client URLs as told to clients", func(c *C) *[]string { return &c.AdvertiseClientURLs }),
		boolean("socket-reuse-port", catClients, "let another process listen on the same ports, as when one version takes over from another", func(c *C) *bool { return &c.ReusePort }),
		number("max-concurrent-streams", catClients, "concurrent streams that a client may open", func(c *C) *uint32 { return &c.MaxStreams }),
		duration("grpc-keepalive-min-time", catClients, "least interval at which a client may ping", func(c *C) *time.Duration { return &c.KeepaliveMinTime }),
		duration("grpc-keepalive-interval", catClients, "idle time after which the server pings a client", func(c *C) *time.Duration { return &c.KeepaliveInterval }),
		duration("grpc-keepalive-timeout", catClients, "time to wait for the answer to a ping", func(c *C) *time.Duration { return &c.KeepaliveTimeout }),
		duration("watch-progress-notify-interval", catClients, "interval of periodic watch progress notifications", func(c *C) *time.Duration { return &c.ProgressEvery }),
		urls("listen-peer-urls", catCluster, "URLs for other members", func(c *C) *[]string { return &c.ListenPeerURLs }),
		urls("initial-advertise-peer-urls", catCluster, "this member's peer URLs as told to other members", func(c *C) *[]string { return &c.AdvertisePeerURLs }),
		text("token", catOwn, "the cluster's secret, 32 hexadecimal digits or more: encrypts all that members say to each other; better given as LIMPET_TOKEN or a file (default: the one in the data directory, which the first member makes)", func(c *C) *string { return &c.Token }),
		text("token-file", catOwn, "file that holds the token", func(c *C) *string { return &c.TokenFile }),
		urls("join", catOwn, "members to join, as host or host:port of their gossip", func(c *C) *[]string { return &c.Join }),
		boolean("discover", catOwn, "find the members to join on the local network; needs the token", func(c *C) *bool { return &c.Discover }),
		number("bootstrap-expect", catOwn, "begin a cluster once so many empty members have found each other", func(c *C) *int { return &c.BootstrapExpect }),
		text("gossip-address", catOwn, "host:port to gossip on, TCP and UDP (default: 0.0.0.0:2382 with a token, else 127.0.0.1:2382 where gossip is needed)", func(c *C) *string { return &c.GossipAddress }),
		boolean("strict-reconfig-check", catCluster, "refuse changes of members that would endanger the quorum", func(c *C) *bool { return &c.StrictReconfig }),
		number("max-learners", catCluster, "learners that may be added by hand", func(c *C) *int { return &c.MaxLearners }),
		text("initial-cluster", catCluster, "members to begin with, as name=url", func(c *C) *string { return &c.InitialCluster }),
		text("initial-cluster-state", catCluster, "new or existing", func(c *C) *string { return &c.InitialClusterState }),
		text("initial-cluster-token", catCluster, "name of the cluster to begin", func(c *C) *string { return &c.InitialClusterToken }),
		text("discovery-srv", catCluster, "domain whose SRV records _etcd-server-ssl._tcp (https) and _etcd-server._tcp (http) name the members to begin with", func(c *C) *string { return &c.SRVDomain }),
		text("discovery-srv-name", catCluster, "end of the name of these records: _etcd-server-NAME._tcp", func(c *C) *string { return &c.SRVName }),
		text("discovery", catCluster, "refused at the first start: limpet asks no discovery service; its own ways are --join, --discover and --bootstrap-expect", func(c *C) *string { return &c.DiscoveryURL }),
		text("discovery-token", catCluster, "refused, as --discovery", func(c *C) *string { return &c.DiscoveryToken }),
		urls("discovery-endpoints", catCluster, "refused, as --discovery", func(c *C) *[]string { return &c.DiscoveryEndpoints }),
		boolean("force-new-cluster", catUnsafe, "make a cluster of this member alone, with all it has, as limpet recover does without asking; for a member whose others are lost for good", func(c *C) *bool { return &c.ForceNewCluster }),
		boolean("unsafe-no-fsync", catUnsafe, "do not wait for the disk: what a power cut leaves is anyone's guess; for tests", func(c *C) *bool { return &c.NoFsync }),
		text("auth-token", catUsers, "tokens for users that have logged in: simple, or jwt,sign-method=RS256,pub-key=FILE,priv-key=FILE,ttl=10m", func(c *C) *string { return &c.Login.Token }),
		seconds("auth-token-ttl", catUsers, "how long a simple token lives that is not used", func(c *C) *time.Duration { return &c.Login.TokenTTL }),
		number("bcrypt-cost", catUsers, "work of checking a password, 4 to 31; each step doubles it", func(c *C) *int { return &c.Login.Cost }),
		number("quota-backend-bytes", catLimits, "size of the database at which writes are refused; 0 is 2 GiB, negative no limit", func(c *C) *int64 { return &c.QuotaBytes }),
		number("max-txn-ops", catLimits, "operations in one transaction", func(c *C) *int { return &c.MaxTxnOps }),
		number("max-request-bytes", catLimits, "bytes of one request", func(c *C) *int { return &c.MaxRequestBytes }),
		text("auto-compaction-mode", catCompact, "periodic or revision", func(c *C) *string { return &c.AutoCompactionMode }),
		text("auto-compaction-retention", catCompact, "history to keep: a duration, a number of hours or, in mode revision, of revisions; 0 keeps all", func(c *C) *string { return &c.AutoCompactionRetention }),
		urls("listen-metrics-urls", catTell, "extra URLs for metrics and health", func(c *C) *[]string { return &c.ListenMetricsURLs }),
		boolean("enable-v2", catClients, "serve etcd's v2 API, under /v2/", func(c *C) *bool { return &c.V2 }),
		boolean("enable-grpc-gateway", catClients, "serve the v3 API as JSON over HTTP, under /v3/", func(c *C) *bool { return &c.Gateway }),
		text("metrics", catTell, "basic, or extensive with gRPC latency histograms", func(c *C) *string { return &c.Metrics }),
		boolean("enable-pprof", catTell, "serve Go's profiles under /debug/pprof/", func(c *C) *bool { return &c.Pprof }),
	}
}

// commonFlags do not end in server.Config.
func commonFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "config-file", Usage: "YAML file with the flags' names as keys; all other flags and variables are then ignored", Category: catMember},
		&cli.StringFlag{Name: "log-level", Usage: "debug, info, warn or error", Value: "info", Category: catTell},
		&cli.StringFlag{Name: "log-format", Usage: "json or text", Value: "json", Category: catTell},
		&cli.StringFlag{Name: "log-outputs", Usage: "stderr, stdout or file names; comma-separated", Value: "default", Category: catTell},
		&cli.BoolFlag{Name: "version", Usage: "print the versions and exit", Category: catMember},
	}
}

// serverFlags are all flags of limpet server.
func serverFlags(all []setting) []cli.Flag {
	flags := commonFlags()
	for _, s := range all {
		flags = append(flags, s.flag)
	}
	return flags
}

// namedFlag is a flag that has worked out its name. urfave/cli asks each flag for
// it again and again, for each of the others, and finds it with regular
// expressions: with two hundred flags that is the better part of a start.
type namedFlag struct {
	cli.Flag
	names []string
}

// Names implements cli.Flag.
func (f namedFlag) Names() []string { return f.names }

func named(flags []cli.Flag) []cli.Flag {
	out := make([]cli.Flag, 0, len(flags))
	for _, f := range flags {
		out = append(out, namedFlag{f, f.Names()})
	}
	return out
}

func badValue(flag, got, want string) error {
	return fmt.Errorf("--%s is %q, want %s", flag, got, want)
}
