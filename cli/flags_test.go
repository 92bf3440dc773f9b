package cli

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"limpet/server"
)

func TestDefaultsAreTheServers(t *testing.T) {
	cleanEnv(t)
	if got, want := mustAsk(t), server.DefaultConfig(); !reflect.DeepEqual(got, want) {
		t.Errorf("limpet server without flags:\n got %+v\nwant %+v", got, want)
	}
}

func TestPrecedence(t *testing.T) {
	for _, c := range []struct {
		name string
		env  map[string]string
		args []string
		want string
	}{
		{"nothing", nil, nil, "default"},
		{"etcd's variable", map[string]string{"ETCD_NAME": "etcd"}, nil, "etcd"},
		{"limpet's variable", map[string]string{"LIMPET_NAME": "limpet"}, nil, "limpet"},
		{"limpet's over etcd's", map[string]string{"ETCD_NAME": "etcd", "LIMPET_NAME": "limpet"}, nil, "limpet"},
		{"an empty one is none", map[string]string{"ETCD_NAME": ""}, nil, "default"},
		{"an empty one hides none", map[string]string{"ETCD_NAME": "etcd", "LIMPET_NAME": ""}, nil, "etcd"},
		{"a flag over both", map[string]string{"ETCD_NAME": "etcd", "LIMPET_NAME": "limpet"}, []string{"--name", "flag"}, "flag"},
		{"a flag over one", map[string]string{"ETCD_NAME": "etcd"}, []string{"--name=flag"}, "flag"},
		{"the last of two", nil, []string{"--name=first", "--name", "last"}, "last"},
		{"one dash does", nil, []string{"-name", "flag"}, "flag"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cleanEnv(t)
			for name, value := range c.env {
				t.Setenv(name, value)
			}
			if got := mustAsk(t, c.args...).Name; got != c.want {
				t.Errorf("name: got %q, want %q", got, c.want)
			}
		})
	}
}

// forms is for each kind of flag how its value is written, and what comes of it.
var forms = []struct {
	flag, text string
	get        func(server.Config) any
	want       any
}{
	{"name", "näme", func(c server.Config) any { return c.Name }, "näme"},
	{"listen-client-urls", "http://a:1,http://b:2", func(c server.Config) any { return c.ListenClientURLs }, []string{"http://a:1", "http://b:2"}},
	{"listen-client-urls", " http://a:1 , ,http://b:2,", func(c server.Config) any { return c.ListenClientURLs }, []string{"http://a:1", "http://b:2"}},
	{"listen-client-http-urls", "http://a:1,http://b:2", func(c server.Config) any { return c.ListenClientHTTPURLs }, []string{"http://a:1", "http://b:2"}},
	{"cors", "http://a:1,http://b:2", func(c server.Config) any { return c.CORS }, []string{"http://a:1", "http://b:2"}},
	{"host-whitelist", "a,b", func(c server.Config) any { return c.HostWhitelist }, []string{"a", "b"}},
	{"listen-peer-urls", "http://a:1", func(c server.Config) any { return c.ListenPeerURLs }, []string{"http://a:1"}},
	{"advertise-client-urls", "http://a:1", func(c server.Config) any { return c.AdvertiseClientURLs }, []string{"http://a:1"}},
	{"initial-advertise-peer-urls", "http://a:1", func(c server.Config) any { return c.AdvertisePeerURLs }, []string{"http://a:1"}},
	{"listen-metrics-urls", "http://a:1", func(c server.Config) any { return c.ListenMetricsURLs }, []string{"http://a:1"}},
	{"data-dir", "/d", func(c server.Config) any { return c.DataDir }, "/d"},
	{"initial-cluster", "a=http://a:1,a=http://b:1", func(c server.Config) any { return c.InitialCluster }, "a=http://a:1,a=http://b:1"},
	{"initial-cluster-state", "existing", func(c server.Config) any { return c.InitialClusterState }, "existing"},
	{"initial-cluster-token", "t", func(c server.Config) any { return c.InitialClusterToken }, "t"},
	{"token", "abc", func(c server.Config) any { return c.Token }, "abc"},
	{"token-file", "/t", func(c server.Config) any { return c.TokenFile }, "/t"},
	{"join", "a,b:1", func(c server.Config) any { return c.Join }, []string{"a", "b:1"}},
	{"discover", "true", func(c server.Config) any { return c.Discover }, true},
	{"bootstrap-expect", "3", func(c server.Config) any { return c.BootstrapExpect }, 3},
	{"gossip-address", "0.0.0.0:1", func(c server.Config) any { return c.GossipAddress }, "0.0.0.0:1"},
	{"strict-reconfig-check", "false", func(c server.Config) any { return c.StrictReconfig }, false},
	{"max-learners", "3", func(c server.Config) any { return c.MaxLearners }, 3},
	{"max-log-bytes", "8388608", func(c server.Config) any { return c.MaxLogBytes }, int64(8 << 20)},
	{"snapshot-count", "5", func(c server.Config) any { return c.SnapshotCount }, uint64(5)},
	{"max-concurrent-streams", "7", func(c server.Config) any { return c.MaxStreams }, uint32(7)},
	{"max-txn-ops", "9", func(c server.Config) any { return c.MaxTxnOps }, 9},
	{"max-request-bytes", "10", func(c server.Config) any { return c.MaxRequestBytes }, 10},
	{"quota-backend-bytes", "8589934592", func(c server.Config) any { return c.QuotaBytes }, int64(8 << 30)},
	{"quota-backend-bytes", "-1", func(c server.Config) any { return c.QuotaBytes }, int64(-1)},
	{"heartbeat-interval", "50", func(c server.Config) any { return c.Heartbeat }, 50 * time.Millisecond},
	{"election-timeout", "500", func(c server.Config) any { return c.Election }, 500 * time.Millisecond},
	{"grpc-keepalive-min-time", "3s", func(c server.Config) any { return c.KeepaliveMinTime }, 3 * time.Second},
	{"grpc-keepalive-interval", "1h30m", func(c server.Config) any { return c.KeepaliveInterval }, 90 * time.Minute},
	{"grpc-keepalive-timeout", "100ms", func(c server.Config) any { return c.KeepaliveTimeout }, 100 * time.Millisecond},
	{"watch-progress-notify-interval", "1m", func(c server.Config) any { return c.ProgressEvery }, time.Minute},
	{"auto-compaction-mode", "revision", func(c server.Config) any { return c.AutoCompactionMode }, "revision"},
	{"auto-compaction-retention", "1000", func(c server.Config) any { return c.AutoCompactionRetention }, "1000"},
	{"auth-token", "jwt,sign-method=HS256,priv-key=/k", func(c server.Config) any { return c.Login.Token }, "jwt,sign-method=HS256,priv-key=/k"},
	{"auth-token-ttl", "60", func(c server.Config) any { return c.Login.TokenTTL }, time.Minute},
	{"bcrypt-cost", "4", func(c server.Config) any { return c.Login.Cost }, 4},
	{"metrics", "extensive", func(c server.Config) any { return c.Metrics }, "extensive"},
	{"cert-file", "/c", func(c server.Config) any { return c.ClientTLS.Cert }, "/c"},
	{"key-file", "/k", func(c server.Config) any { return c.ClientTLS.Key }, "/k"},
	{"auto-tls", "true", func(c server.Config) any { return c.AutoTLS }, true},
	{"client-cert-auth", "true", func(c server.Config) any { return c.ClientTLS.ClientAuth }, true},
	{"trusted-ca-file", "/ca", func(c server.Config) any { return c.ClientTLS.TrustedCA }, "/ca"},
	{"client-crl-file", "/crl", func(c server.Config) any { return c.ClientTLS.CRL }, "/crl"},
	{"client-cert-allowed-hostname", "a,b", func(c server.Config) any { return c.ClientTLS.AllowedHostnames }, []string{"a", "b"}},
	{"client-cert-allowed-cn", "a,b", func(c server.Config) any { return c.ClientTLS.AllowedCNs }, []string{"a", "b"}},
	{"peer-cert-file", "/c", func(c server.Config) any { return c.PeerTLS.Cert }, "/c"},
	{"peer-key-file", "/k", func(c server.Config) any { return c.PeerTLS.Key }, "/k"},
	{"peer-client-cert-file", "/c", func(c server.Config) any { return c.PeerTLS.CallerCert }, "/c"},
	{"peer-client-key-file", "/k", func(c server.Config) any { return c.PeerTLS.CallerKey }, "/k"},
	{"peer-client-cert-auth", "true", func(c server.Config) any { return c.PeerTLS.ClientAuth }, true},
	{"peer-trusted-ca-file", "/ca", func(c server.Config) any { return c.PeerTLS.TrustedCA }, "/ca"},
	{"peer-crl-file", "/crl", func(c server.Config) any { return c.PeerTLS.CRL }, "/crl"},
	{"peer-cert-allowed-cn", "a,b", func(c server.Config) any { return c.PeerTLS.AllowedCNs }, []string{"a", "b"}},
	{"peer-cert-allowed-hostname", "a,b", func(c server.Config) any { return c.PeerTLS.AllowedHostnames }, []string{"a", "b"}},
	{"peer-skip-client-san-verification", "true", func(c server.Config) any { return c.PeerTLS.SkipCallerSAN }, true},
	{"peer-auto-tls", "true", func(c server.Config) any { return c.PeerAutoTLS }, true},
	{"tls-min-version", "TLS1.3", func(c server.Config) any { return c.TLSMinVersion }, "TLS1.3"},
	{"tls-max-version", "TLS1.3", func(c server.Config) any { return c.TLSMaxVersion }, "TLS1.3"},
	{"cipher-suites", "A,B", func(c server.Config) any { return c.CipherSuites }, []string{"A", "B"}},
	{"wal-dir", "/w", func(c server.Config) any { return c.WALDir }, "/w"},
	{"socket-reuse-port", "true", func(c server.Config) any { return c.ReusePort }, true},
	{"discovery-srv", "example.com", func(c server.Config) any { return c.SRVDomain }, "example.com"},
	{"discovery-srv-name", "blue", func(c server.Config) any { return c.SRVName }, "blue"},
	{"discovery", "http://d:1/x", func(c server.Config) any { return c.DiscoveryURL }, "http://d:1/x"},
	{"discovery-token", "x", func(c server.Config) any { return c.DiscoveryToken }, "x"},
	{"discovery-endpoints", "d:1,e:1", func(c server.Config) any { return c.DiscoveryEndpoints }, []string{"d:1", "e:1"}},
	{"force-new-cluster", "true", func(c server.Config) any { return c.ForceNewCluster }, true},
	{"unsafe-no-fsync", "true", func(c server.Config) any { return c.NoFsync }, true},
	{"snapshot-schedule", "@daily", func(c server.Config) any { return c.Snapshots.Schedule }, "@daily"},
	{"snapshot-retention", "7", func(c server.Config) any { return c.Snapshots.Retention }, 7},
	{"snapshot-dir", "/s", func(c server.Config) any { return c.Snapshots.Dir }, "/s"},
	{"snapshot-name", "s", func(c server.Config) any { return c.Snapshots.Name }, "s"},
	{"snapshot-compress", "false", func(c server.Config) any { return c.Snapshots.Compress }, false},
	{"s3-bucket", "b", func(c server.Config) any { return c.Snapshots.S3.Bucket }, "b"},
	{"s3-endpoint", "h:1", func(c server.Config) any { return c.Snapshots.S3.Endpoint }, "h:1"},
	{"s3-folder", "f", func(c server.Config) any { return c.Snapshots.S3.Folder }, "f"},
	{"s3-region", "r", func(c server.Config) any { return c.Snapshots.S3.Region }, "r"},
	{"s3-access-key", "a", func(c server.Config) any { return c.Snapshots.S3.AccessKey }, "a"},
	{"s3-secret-key", "s", func(c server.Config) any { return c.Snapshots.S3.SecretKey }, "s"},
	{"s3-secret-key-file", "/s", func(c server.Config) any { return c.Snapshots.S3.SecretKeyFile }, "/s"},
	{"s3-session-token", "t", func(c server.Config) any { return c.Snapshots.S3.SessionToken }, "t"},
	{"s3-endpoint-ca", "/ca", func(c server.Config) any { return c.Snapshots.S3.CAFile }, "/ca"},
	{"s3-skip-ssl-verify", "true", func(c server.Config) any { return c.Snapshots.S3.SkipVerify }, true},
	{"s3-insecure", "true", func(c server.Config) any { return c.Snapshots.S3.Insecure }, true},
	{"s3-timeout", "1m", func(c server.Config) any { return c.Snapshots.S3.Timeout }, time.Minute},
	{"enable-v2", "false", func(c server.Config) any { return c.V2 }, false},
	{"enable-grpc-gateway", "false", func(c server.Config) any { return c.Gateway }, false},
	{"enable-pprof", "true", func(c server.Config) any { return c.Pprof }, true},
	{"enable-pprof", "false", func(c server.Config) any { return c.Pprof }, false},
}

func TestFormsOnTheCommandLine(t *testing.T) {
	cleanEnv(t)
	for _, f := range forms {
		if got := f.get(mustAsk(t, "--"+f.flag+"="+f.text)); !reflect.DeepEqual(got, f.want) {
			t.Errorf("--%s=%s: got %v, want %v", f.flag, f.text, got, f.want)
		}
	}
	if !mustAsk(t, "--enable-pprof").Pprof {
		t.Error("--enable-pprof without a value: got false, want true")
	}
}

func TestFormsInTheEnvironment(t *testing.T) {
	for _, prefix := range []string{"ETCD_", "LIMPET_"} {
		for _, f := range forms {
			t.Run(prefix+f.flag, func(t *testing.T) {
				cleanEnv(t)
				t.Setenv(prefix+strings.ToUpper(strings.ReplaceAll(f.flag, "-", "_")), f.text)
				if got := f.get(mustAsk(t)); !reflect.DeepEqual(got, f.want) {
					t.Errorf("%q: got %v, want %v", f.text, got, f.want)
				}
			})
		}
	}
}

// Every setting is in the table of forms: a new flag gets its row.
func TestFormsAreComplete(t *testing.T) {
	for _, s := range settings() {
		seen := s.idle != "" || s.newer != ""
		for _, f := range forms {
			seen = seen || f.flag == s.name
		}
		if !seen {
			t.Errorf("no row for --%s", s.name)
		}
		if s.flag.Names()[0] != s.name {
			t.Errorf("setting %s has the flag --%s", s.name, s.flag.Names()[0])
		}
	}
}

func TestBadFlags(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string // the sentence, or its beginning if it ends in …
	}{
		{[]string{"--nosuch"}, "there is no flag --nosuch; see limpet server --help"},
		{[]string{"--max-wals=-1"}, `invalid value "-1" for flag -max-wals: …`},
		{[]string{"--corrupt-check-time=5"}, `invalid value "5" for flag -corrupt-check-time: …`},
		{[]string{"--pre-vote=perhaps"}, `invalid boolean value "perhaps" for -pre-vote: …`},
		{[]string{"--v2-deprecation=never"}, `--v2-deprecation is "never", want one of not-yet, write-only, …`},
		{[]string{"--proxy=on"}, `--proxy is "on", want one of off`},
		{[]string{"--logger=syslog"}, `--logger is "syslog", want one of zap, …`},
		{[]string{"--feature-gates=Nonsense=true"}, "unrecognized feature gate: Nonsense; …"},
		{[]string{"--feature-gates=InitialCorruptCheck"}, "missing bool value for InitialCorruptCheck; …"},
		{[]string{"--feature-gates=InitialCorruptCheck=perhaps"}, "invalid value of InitialCorruptCheck=perhaps, err: …"},
		{[]string{"--feature-gates=LeaseCheckpointPersist=true"}, "enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint"},
		{[]string{"--nosuch=1"}, "there is no flag --nosuch; see limpet server --help"},
		{[]string{"-n"}, "there is no flag --n; see limpet server --help"},
		{[]string{"--max-txn-ops=many"}, `invalid value "many" for flag -max-txn-ops: …`},
		{[]string{"--max-txn-ops", "99999999999999999999"}, `invalid value "99999999999999999999" for flag -max-txn-ops: …`},
		{[]string{"--grpc-keepalive-timeout=5"}, `invalid value "5" for flag -grpc-keepalive-timeout: …`},
		{[]string{"--enable-pprof=perhaps"}, `invalid boolean value "perhaps" for -enable-pprof: …`},
		{[]string{"--name"}, "flag needs an argument: -name; see limpet server --help"},
		// What is no number of things is refused, as by etcd, not wrapped around.
		{[]string{"--snapshot-count=-1"}, `--snapshot-count is "-1", want a number that fits; …`},
		{[]string{"--max-concurrent-streams=-1"}, `--max-concurrent-streams is "-1", want a number that fits; …`},
		{[]string{"--max-concurrent-streams=4294967296"}, `--max-concurrent-streams is "4294967296", want a number that fits; …`},
	} {
		t.Run(strings.Join(c.args, " "), func(t *testing.T) {
			cleanEnv(t)
			cfg, _, err := asked(t, c.args...)
			if err == nil {
				err = cfg.Validate() // the later of the two places
			}
			wantError(t, err, c.want)
		})
	}
}

func TestBadVariable(t *testing.T) {
	cleanEnv(t)
	t.Setenv("ETCD_QUOTA_BACKEND_BYTES", "much")
	_, _, err := asked(t)
	wantError(t, err, `invalid value "much" for ETCD_QUOTA_BACKEND_BYTES: …`)
}

// wantError compares the sentence; an … ends what must stand at its beginning.
func wantError(t *testing.T, err error, want string) {
	t.Helper()
	begin, open := strings.CutSuffix(want, "…")
	switch {
	case err == nil:
		t.Errorf("got no error, want %s", want)
	case open && !strings.HasPrefix(err.Error(), begin), !open && err.Error() != want:
		t.Errorf("\n got %s\nwant %s", err, want)
	case strings.Contains(err.Error(), "\n"):
		t.Errorf("got more than one sentence: %s", err)
	}
}

func TestStrayVariables(t *testing.T) {
	cleanEnv(t)
	for name, text := range map[string]string{
		"ETCD_NAME": "x", "LIMPET_DATA_DIR": "x", "LIMPET_LOG_LEVEL": "info", // flags
		"ETCD_VERSION": "3.5.0", "ETCD_UNSUPPORTED_ARCH": "arm", // tolerated
		"ETCD_PORT": "tcp://10.0.0.1:2379", "LIMPET_NAM": "x", "ETCD_": "x", "ETCD_ROOT_PASSWORD": "secret", // stray
		"ETCDCTL_API": "3", "MY_ETCD_NAME": "x", "LIMPETS": "x", // somebody else's
	} {
		t.Setenv(name, text)
	}
	_, got, err := asked(t)
	want := []string{
		"unrecognized environment variable variable ETCD_", "unrecognized environment variable variable ETCD_PORT",
		"unrecognized environment variable variable ETCD_ROOT_PASSWORD", "unrecognized environment variable variable LIMPET_NAM",
	}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("stray variables: got %q, %v, want %q", got, err, want)
	}
}
