package cli

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"limpet/server"
)

// The flags of limpet server: etcd's names and defaults. Each can also be given
// as LIMPET_NAME or ETCD_NAME, upper case, - as _; LIMPET_ wins over ETCD_, a
// flag over both.

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
}

func text(name, category, usage string, get func(*server.Config) *string) setting {
	def := server.DefaultConfig()
	return setting{
		flag:  &cli.StringFlag{Name: name, Category: category, Usage: usage, Value: *get(&def), EnvVars: envNames(name)},
		name:  name,
		apply: func(c *cli.Context, cfg *server.Config) error { *get(cfg) = c.String(name); return nil },
	}
}

func urls(name, category, usage string, get func(*server.Config) *[]string) setting {
	def := server.DefaultConfig()
	return setting{
		flag:  &cli.StringFlag{Name: name, Category: category, Usage: usage + "; comma-separated", Value: strings.Join(*get(&def), ","), EnvVars: envNames(name)},
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
		flag: &cli.Int64Flag{Name: name, Category: category, Usage: usage, Value: int64(*get(&def)), EnvVars: envNames(name)},
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
		flag: &cli.Int64Flag{Name: name, Category: category, Usage: usage + ", in seconds", Value: int64(get(&def).Seconds()), EnvVars: envNames(name)},
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
		flag: &cli.Int64Flag{Name: name, Category: category, Usage: usage + ", in milliseconds", Value: get(&def).Milliseconds(), EnvVars: envNames(name)},
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
		flag:  &cli.DurationFlag{Name: name, Category: category, Usage: usage, Value: *get(&def), EnvVars: envNames(name)},
		name:  name,
		apply: func(c *cli.Context, cfg *server.Config) error { *get(cfg) = c.Duration(name); return nil },
	}
}

func boolean(name, category, usage string, get func(*server.Config) *bool) setting {
	def := server.DefaultConfig()
	return setting{
		flag:  &cli.BoolFlag{Name: name, Category: category, Usage: usage, Value: *get(&def), EnvVars: envNames(name)},
		name:  name,
		apply: func(c *cli.Context, cfg *server.Config) error { *get(cfg) = c.Bool(name); return nil },
	}
}

// ignored is a flag of etcd's that limpet takes and has no use for; why says so
// in its help.
func ignored(name, category, why string) setting {
	return setting{
		flag:  &cli.StringFlag{Name: name, Category: category, Usage: "has no effect: " + why, EnvVars: envNames(name)},
		name:  name,
		apply: func(*cli.Context, *server.Config) error { return nil },
	}
}

const (
	catMember  = "Member"
	catCluster = "Cluster"
	catClients = "Clients"
	catUsers   = "Users"
	catTLS     = "TLS"
	catLimits  = "Limits"
	catCompact = "Compaction"
	catTell    = "Logs and metrics"
)

// settings lists the flags that end in server.Config.
func settings() []setting { return append(plainSettings(), tlsSettings()...) }

func plainSettings() []setting {
	type C = server.Config
	return []setting{
		text("name", catMember, "human-readable name of this member", func(c *C) *string { return &c.Name }),
		text("data-dir", catMember, "folder that holds everything this member must not forget (default: NAME.limpet)", func(c *C) *string { return &c.DataDir }),
		number("snapshot-count", catMember, "log entries after which the log may be trimmed", func(c *C) *uint64 { return &c.SnapshotCount }),
		number("max-log-bytes", catMember, "bytes of the raft log on disk; a quarter stays for members that lag", func(c *C) *int64 { return &c.MaxLogBytes }),
		millis("heartbeat-interval", catMember, "time between heartbeats", func(c *C) *time.Duration { return &c.Heartbeat }),
		millis("election-timeout", catMember, "time without a leader before an election; one and a half times it is the shortest lease", func(c *C) *time.Duration { return &c.Election }),
		urls("listen-client-urls", catClients, "URLs to listen on for clients", func(c *C) *[]string { return &c.ListenClientURLs }),
		urls("advertise-client-urls", catClients, "this member's client URLs as told to clients", func(c *C) *[]string { return &c.AdvertiseClientURLs }),
		number("max-concurrent-streams", catClients, "concurrent streams that a client may open", func(c *C) *uint32 { return &c.MaxStreams }),
		duration("grpc-keepalive-min-time", catClients, "least interval at which a client may ping", func(c *C) *time.Duration { return &c.KeepaliveMinTime }),
		duration("grpc-keepalive-interval", catClients, "idle time after which the server pings a client", func(c *C) *time.Duration { return &c.KeepaliveInterval }),
		duration("grpc-keepalive-timeout", catClients, "time to wait for the answer to a ping", func(c *C) *time.Duration { return &c.KeepaliveTimeout }),
		duration("watch-progress-notify-interval", catClients, "interval of periodic watch progress notifications", func(c *C) *time.Duration { return &c.ProgressEvery }),
		urls("listen-peer-urls", catCluster, "URLs for other members", func(c *C) *[]string { return &c.ListenPeerURLs }),
		urls("initial-advertise-peer-urls", catCluster, "this member's peer URLs as told to other members", func(c *C) *[]string { return &c.AdvertisePeerURLs }),
		text("token", catCluster, "the cluster's secret, 32 hexadecimal digits or more: encrypts all that members say to each other; better given as LIMPET_TOKEN or a file (default: the one in the data directory, which the first member makes)", func(c *C) *string { return &c.Token }),
		text("token-file", catCluster, "file that holds the token", func(c *C) *string { return &c.TokenFile }),
		urls("join", catCluster, "members to join, as host or host:port of their gossip", func(c *C) *[]string { return &c.Join }),
		boolean("discover", catCluster, "find the members to join on the local network; needs the token", func(c *C) *bool { return &c.Discover }),
		number("bootstrap-expect", catCluster, "begin a cluster once so many empty members have found each other", func(c *C) *int { return &c.BootstrapExpect }),
		text("gossip-address", catCluster, "host:port to gossip on, TCP and UDP (default: 0.0.0.0:2382 with a token, else 127.0.0.1:2382 where gossip is needed)", func(c *C) *string { return &c.GossipAddress }),
		boolean("strict-reconfig-check", catCluster, "refuse changes of members that would endanger the quorum", func(c *C) *bool { return &c.StrictReconfig }),
		number("max-learners", catCluster, "learners that may be added by hand", func(c *C) *int { return &c.MaxLearners }),
		text("initial-cluster", catCluster, "members to begin with, as name=url", func(c *C) *string { return &c.InitialCluster }),
		text("initial-cluster-state", catCluster, "new or existing", func(c *C) *string { return &c.InitialClusterState }),
		text("initial-cluster-token", catCluster, "name of the cluster to begin", func(c *C) *string { return &c.InitialClusterToken }),
		text("auth-token", catUsers, "tokens for users that have logged in: simple, or jwt,sign-method=RS256,pub-key=FILE,priv-key=FILE,ttl=10m", func(c *C) *string { return &c.Login.Token }),
		seconds("auth-token-ttl", catUsers, "how long a simple token lives that is not used", func(c *C) *time.Duration { return &c.Login.TokenTTL }),
		number("bcrypt-cost", catUsers, "work of checking a password, 4 to 31; each step doubles it", func(c *C) *int { return &c.Login.Cost }),
		number("quota-backend-bytes", catLimits, "size of the database at which writes are refused; 0 is 2 GiB, negative no limit", func(c *C) *int64 { return &c.QuotaBytes }),
		number("max-txn-ops", catLimits, "operations in one transaction", func(c *C) *int { return &c.MaxTxnOps }),
		number("max-request-bytes", catLimits, "bytes of one request", func(c *C) *int { return &c.MaxRequestBytes }),
		text("auto-compaction-mode", catCompact, "periodic or revision", func(c *C) *string { return &c.AutoCompactionMode }),
		text("auto-compaction-retention", catCompact, "history to keep: a duration, a number of hours or, in mode revision, of revisions; 0 keeps all", func(c *C) *string { return &c.AutoCompactionRetention }),
		urls("listen-metrics-urls", catTell, "extra URLs for metrics and health", func(c *C) *[]string { return &c.ListenMetricsURLs }),
		boolean("enable-grpc-gateway", catClients, "serve the v3 API as JSON over HTTP, under /v3/", func(c *C) *bool { return &c.Gateway }),
		text("metrics", catTell, "basic, or extensive with gRPC latency histograms", func(c *C) *string { return &c.Metrics }),
		boolean("enable-pprof", catTell, "serve Go's profiles under /debug/pprof/", func(c *C) *bool { return &c.Pprof }),
	}
}

// logFlags do not end in server.Config.
func logFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "config-file", Usage: "YAML file with the flags' names as keys; all other flags and variables are then ignored", EnvVars: envNames("config-file"), Category: catMember},
		&cli.StringFlag{Name: "log-level", Usage: "debug, info, warn or error", Value: "info", EnvVars: envNames("log-level"), Category: catTell},
		&cli.StringFlag{Name: "log-format", Usage: "json or text", Value: "json", EnvVars: envNames("log-format"), Category: catTell},
		&cli.StringFlag{Name: "log-outputs", Usage: "stderr, stdout or file names; comma-separated", Value: "default", EnvVars: envNames("log-outputs"), Category: catTell},
		&cli.StringFlag{Name: "logger", Usage: "accepted for etcd's sake; zap", Value: "zap", EnvVars: envNames("logger"), Category: catTell},
	}
}

// serverFlags are all flags of limpet server.
func serverFlags(all []setting) []cli.Flag {
	flags := logFlags()
	for _, s := range all {
		flags = append(flags, s.flag)
	}
	return flags
}

// strayVariables lists ETCD_ and LIMPET_ variables that name no flag.
func strayVariables(flags []cli.Flag) []string {
	known := map[string]bool{}
	for _, f := range flags {
		for _, n := range f.Names() {
			for _, e := range envNames(n) {
				known[e] = true
			}
		}
	}
	var stray []string
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		if (strings.HasPrefix(name, "ETCD_") || strings.HasPrefix(name, "LIMPET_")) && !known[name] {
			stray = append(stray, name)
		}
	}
	return stray
}

func badValue(flag, got, want string) error {
	return fmt.Errorf("--%s is %q, want %s", flag, got, want)
}
