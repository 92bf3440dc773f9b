package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"limpet/server"
)

// etcd's own sample, as far as it concerns one member.
const sample = `
# This is the configuration file for the etcd server.
name: 'board'
data-dir: /var/lib/limpet
wal-dir:
snapshot-count: 5000
heartbeat-interval: 50
election-timeout: 500
quota-backend-bytes: 8589934592
listen-peer-urls: http://localhost:2380
listen-client-urls: http://localhost:2379,http://10.0.0.1:2379
advertise-client-urls: [http://localhost:2379, "http://10.0.0.1:2379"]
initial-cluster-token: 'etcd-cluster'
initial-cluster-state: 'new'
enable-pprof: true
client-transport-security:
  cert-file:
log-level: debug
log-outputs: [stderr]
auto-compaction-mode: periodic
auto-compaction-retention: "1"
`

func TestConfigFile(t *testing.T) {
	cleanEnv(t)
	want := server.DefaultConfig()
	want.Name, want.DataDir, want.SnapshotCount = "board", "/var/lib/limpet", 5000
	want.Heartbeat, want.Election = 50*time.Millisecond, 500*time.Millisecond
	want.QuotaBytes, want.Pprof, want.AutoCompactionRetention = 8<<30, true, "1"
	want.ListenClientURLs = []string{"http://localhost:2379", "http://10.0.0.1:2379"}
	want.AdvertiseClientURLs = want.ListenClientURLs
	got := mustAsk(t, "--config-file", writeFile(t, "sample.yml", sample))
	if !reflect.DeepEqual(got, want) {
		t.Errorf("from etcd's sample:\n got %+v\nwant %+v", got, want)
	}
}

// A token in a file that others may read is told of.
func TestConfigFileWithToken(t *testing.T) {
	cleanEnv(t)
	file := writeFile(t, "limpet.yml", "token: "+aToken+"\n")
	for mode, want := range map[os.FileMode]int{0o600: 0, 0o640: 1, 0o644: 1} {
		if err := os.Chmod(file, mode); err != nil {
			t.Fatal(err)
		}
		_, notes, err := asked(t, "--config-file", file)
		if err != nil || len(notes) != want || want > 0 && !strings.Contains(notes[0], "chmod 600 it") {
			t.Errorf("mode %o: got %q, %v, want %d notes", mode, notes, err, want)
		}
	}
}

// The file alone counts: flags and variables beside it are as if not given
// (etcd: "If any configuration file is provided, other command line flags and
// environment variables are ignored").
func TestConfigFileAloneCounts(t *testing.T) {
	cleanEnv(t)
	t.Setenv("ETCD_NAME", "etcd")
	t.Setenv("LIMPET_MAX_TXN_OPS", "1")
	t.Setenv("ETCD_ENABLE_PPROF", "true")
	file := writeFile(t, "limpet.yml", "data-dir: /d\n")
	want := server.DefaultConfig()
	want.DataDir = "/d"
	got := mustAsk(t, "--config-file", file, "--data-dir", "/flag", "--metrics=extensive", "--grpc-keepalive-timeout=1s", "--listen-client-urls=http://x:1")
	if !reflect.DeepEqual(got, want) {
		t.Errorf("a file beside flags and variables:\n got %+v\nwant %+v", got, want)
	}
}

func TestConfigFileFromTheEnvironment(t *testing.T) {
	for _, name := range []string{"ETCD_CONFIG_FILE", "LIMPET_CONFIG_FILE"} {
		cleanEnv(t)
		t.Setenv(name, writeFile(t, "limpet.yml", "name: board\n"))
		if got := mustAsk(t).Name; got != "board" {
			t.Errorf("name by %s: got %q, want board", name, got)
		}
	}
}

func TestFormsInAFile(t *testing.T) {
	cleanEnv(t)
	for _, f := range forms {
		for _, text := range []string{fmt.Sprintf("%s: %q\n", f.flag, f.text), fmt.Sprintf(`{%q: %q}`, f.flag, f.text)} {
			if got := f.get(mustAsk(t, "--config-file", writeFile(t, "f", text))); !reflect.DeepEqual(got, f.want) {
				t.Errorf("%s: got %v, want %v", strings.TrimSpace(text), got, f.want)
			}
		}
	}
}

func TestOtherFormsInAFile(t *testing.T) {
	cleanEnv(t)
	def := server.DefaultConfig()
	for _, c := range []struct {
		line string
		get  func(server.Config) any
		want any
	}{
		// As etcd's JSON has durations: in nanoseconds.
		{"grpc-keepalive-timeout: 5000000000", func(c server.Config) any { return c.KeepaliveTimeout }, 5 * time.Second},
		{"watch-progress-notify-interval: 1000000", func(c server.Config) any { return c.ProgressEvery }, time.Millisecond},
		{"grpc-keepalive-interval: 0", func(c server.Config) any { return c.KeepaliveInterval }, time.Duration(0)},
		// Bare values.
		{"max-txn-ops: 5", func(c server.Config) any { return c.MaxTxnOps }, 5},
		{"name: 12", func(c server.Config) any { return c.Name }, "12"},
		{"auto-compaction-retention: 1000", func(c server.Config) any { return c.AutoCompactionRetention }, "1000"},
		{"enable-pprof: true", func(c server.Config) any { return c.Pprof }, true},
		{"listen-client-urls:\n- http://a:1\n- http://b:2", func(c server.Config) any { return c.ListenClientURLs }, []string{"http://a:1", "http://b:2"}},
		{"listen-metrics-urls: []", func(c server.Config) any { return c.ListenMetricsURLs }, []string(nil)},
		{`listen-client-urls: ""`, func(c server.Config) any { return c.ListenClientURLs }, []string(nil)},
		// A key without a value is as if it were not there (etcd: JSON null).
		{"data-dir:", func(c server.Config) any { return c.DataDir }, def.DataDir},
		{"initial-cluster:", func(c server.Config) any { return c.InitialCluster }, def.InitialCluster},
		{"listen-client-urls: null", func(c server.Config) any { return c.ListenClientURLs }, def.ListenClientURLs},
		{"max-txn-ops: ~", func(c server.Config) any { return c.MaxTxnOps }, def.MaxTxnOps},
		// Keys of other etcd versions.
		{"no-such-key: 1", func(c server.Config) any { return c.Name }, def.Name},
		{"", func(c server.Config) any { return c.Name }, def.Name},
	} {
		t.Run(c.line, func(t *testing.T) {
			cfg, _, err := asked(t, "--config-file", writeFile(t, "f", c.line+"\n"))
			if err != nil {
				t.Fatal(err)
			}
			if got := c.get(cfg); !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

// etcd's mappings about TLS stand for flags; k3s writes some of their keys.
func TestTLSInAFile(t *testing.T) {
	cleanEnv(t)
	want := server.DefaultConfig()
	want.ClientTLS.Cert, want.ClientTLS.Key, want.ClientTLS.TrustedCA = "/c", "/k", "/ca"
	want.ClientTLS.ClientAuth, want.AutoTLS, want.ClientTLS.AllowedCNs = true, true, []string{"a", "b"}
	want.PeerTLS.Cert, want.PeerTLS.Key, want.PeerTLS.TrustedCA = "/pc", "/pk", "/pca"
	want.PeerTLS.CallerCert, want.PeerTLS.CallerKey = "/cc", "/ck"
	want.PeerTLS.ClientAuth, want.PeerTLS.SkipCallerSAN, want.PeerTLS.AllowedHostnames = true, true, []string{"h"}
	want.CipherSuites = []string{"A", "B"}
	got := mustAsk(t, "--config-file", writeFile(t, "etcd.yml", `
client-transport-security:
  cert-file: /c
  key-file: /k
  client-cert-file: /ignored
  client-cert-auth: true
  trusted-ca-file: /ca
  auto-tls: true
  allowed-cn: [a, b]
  no-such-key:
peer-transport-security: {cert-file: /pc, key-file: /pk, client-cert-file: /cc, client-key-file: /ck, client-cert-auth: true,
  trusted-ca-file: /pca, allowed-hostname: [h], skip-client-san-verification: true, auto-tls: false}
cipher-suites: [A, B]
`))
	if !reflect.DeepEqual(got, want) {
		t.Errorf("from mappings:\n got %+v\nwant %+v", got, want)
	}
	if got := mustAsk(t, "--config-file", writeFile(t, "empty.yml", "client-transport-security:\npeer-transport-security: {}\n")); !reflect.DeepEqual(got, server.DefaultConfig()) {
		t.Errorf("from empty mappings: %+v", got)
	}
}

// On 32-bit machines, yaml gives numbers above 2^31 as int64.
func TestValueTextOfAnyInteger(t *testing.T) {
	for _, v := range []any{5000000000, int64(5000000000), uint64(5000000000)} {
		if got := valueText(v, true); got != "5s" {
			t.Errorf("valueText(%T(%v), a duration): got %q, want 5s", v, v, got)
		}
		if got := valueText(v, false); got != "5000000000" {
			t.Errorf("valueText(%T(%v)): got %q, want 5000000000", v, v, got)
		}
	}
}

func TestBadConfigFiles(t *testing.T) {
	cleanEnv(t)
	gone := filepath.Join(t.TempDir(), "gone.yml")
	_, _, err := asked(t, "--config-file", gone)
	wantError(t, err, "--config-file: open "+gone+": no such file or directory")

	for _, c := range []struct{ text, want string }{
		{"max-txn-ops: many\n", `--config-file FILE: max-txn-ops is "many": …`},
		{"grpc-keepalive-timeout: soon\n", `--config-file FILE: grpc-keepalive-timeout is "soon": …`},
		{"enable-pprof: perhaps\n", `--config-file FILE: enable-pprof is "perhaps": …`},
		{"a list\n", "--config-file FILE is not valid YAML: …"},
		{"name: [", "--config-file FILE is not valid YAML: …"},
		{"name: {a: b}\n", "--config-file FILE: name is …"},
		{"client-transport-security: {cert_file: /c}\n", "--config-file FILE: client-transport-security has no key cert_file"},
		{"peer-transport-security: /c\n", `--config-file FILE: peer-transport-security is "/c", want a mapping`},
		{"peer-transport-security: {auto-tls: perhaps}\n", `--config-file FILE: peer-auto-tls is "perhaps": …`},
	} {
		t.Run(c.text, func(t *testing.T) {
			file := writeFile(t, "bad.yml", c.text)
			_, _, err := asked(t, "--config-file", file)
			if err != nil {
				err = fmt.Errorf("%s", strings.ReplaceAll(err.Error(), "\n", " ")) // yaml's errors have lines
			}
			wantError(t, err, strings.ReplaceAll(c.want, "FILE", file))
		})
	}
}
