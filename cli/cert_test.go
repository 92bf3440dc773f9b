package cli

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"limpet/server"
	"limpet/server/servertest"
)

const oneToken = "000102030405060708090a0b0c0d0e0f"

// tokenDir is a data directory with a token, as far as these commands look.
func tokenDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "token"), []byte(oneToken+"\nretired 0123\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func mustLimpet(t *testing.T, args ...string) string {
	t.Helper()
	out, err := limpet(args...)
	if err != nil {
		t.Fatalf("limpet %s: %v", strings.Join(args, " "), err)
	}
	return out
}

// What is printed is one file for programs that want a certificate and a key.
func TestCertIsPrinted(t *testing.T) {
	cleanEnv(t)
	t.Chdir(t.TempDir())
	both := []byte(mustLimpet(t, "cert", "client", "--data-dir", tokenDir(t), "--cn", "alice", "--out", "-"))
	pair, err := tls.X509KeyPair(both, both)
	if err != nil {
		t.Fatal(err)
	}
	if cn := pair.Leaf.Subject.CommonName; cn != "alice" {
		t.Errorf("common name %q, want alice", cn)
	}
	if left, err := os.ReadDir("."); err != nil || len(left) != 0 {
		t.Errorf("files: %v, %v, want none", left, err)
	}
}

func TestCert(t *testing.T) {
	cleanEnv(t)
	dir, out := tokenDir(t), filepath.Join(t.TempDir(), "pair")
	block, _ := pem.Decode([]byte(mustLimpet(t, "cert", "ca", "--data-dir", dir)))
	ca, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	for _, c := range []struct {
		kind, cn string
		names    []string
		use      x509.ExtKeyUsage
		found    []string // under which the certificate holds
	}{
		{"client", "alice", nil, x509.ExtKeyUsageClientAuth, []string{""}},
		{"client", "alice", []string{"--san=alice.local"}, x509.ExtKeyUsageClientAuth, []string{"alice.local"}},
		{"server", "board", []string{"--san=board.local,10.0.0.1", "--san", "fd00::1"}, x509.ExtKeyUsageServerAuth, []string{"board", "board.local", "10.0.0.1", "fd00::1"}},
	} {
		mustLimpet(t, append([]string{"cert", c.kind, "--data-dir", dir, "--cn", c.cn, "--out", out, "--force"}, c.names...)...)
		pair, err := tls.LoadX509KeyPair(out+".crt", out+".key")
		if err != nil {
			t.Fatal(err)
		}
		if cn := pair.Leaf.Subject.CommonName; cn != c.cn {
			t.Errorf("%s: common name %q, want %q", c.kind, cn, c.cn)
		}
		for _, name := range c.found {
			if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: name, KeyUsages: []x509.ExtKeyUsage{c.use}}); err != nil {
				t.Errorf("%s at %q: %v", c.kind, name, err)
			}
		}
	}
	for file, want := range map[string]os.FileMode{out + ".crt": 0o644, out + ".key": 0o600} {
		if info, err := os.Stat(file); err != nil || info.Mode() != want {
			t.Errorf("%s: %v, %v, want mode %v", file, info, err, want)
		}
	}
	if left, err := os.ReadDir(filepath.Dir(out)); err != nil || len(left) != 2 {
		t.Errorf("files: %v, %v, want two", left, err)
	}
}

func TestCertRefuses(t *testing.T) {
	cleanEnv(t)
	dir, folder := tokenDir(t), t.TempDir()
	there := filepath.Join(folder, "there")
	if err := os.WriteFile(there+".key", []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	empty := t.TempDir()
	for _, c := range []struct{ args, want string }{
		{"cert ca --data-dir " + empty, "there is no token in " + empty + ": give the data directory of a member that has one with --data-dir"},
		{"cert client --data-dir " + dir + " --out x", `Required flag "cn" not set`},
		{"cert client --data-dir " + dir + " --cn a --out " + there, there + ".key is there already: choose another name, or replace it with --force"},
		{"cert server --data-dir " + dir + " --cn a --out " + folder + "/none/x", "the folder of " + folder + "/none/x.key cannot be written to: …"},
	} {
		_, err := limpet(strings.Fields(c.args)...)
		wantError(t, err, c.want)
	}
	if data, err := os.ReadFile(there + ".key"); err != nil || string(data) != "mine" {
		t.Errorf("the key that was there: %q, %v", data, err)
	}
	if _, err := os.Stat(there + ".crt"); err == nil {
		t.Error("a certificate was written beside another's key")
	}
}

func TestK3sConfig(t *testing.T) {
	cleanEnv(t)
	dir, certs := tokenDir(t), filepath.Join(t.TempDir(), "certs")
	plain := "datastore-endpoint: unix:///run/limpet.sock\n"
	if out := mustLimpet(t, "k3s-config", "--endpoint", "unix:///run/limpet.sock"); out != plain {
		t.Errorf("a socket file: got %q, want %q", out, plain)
	}
	secure := "datastore-endpoint: https://a:1,https://b:1\ndatastore-cafile: " + certs + "/limpet-ca.crt\ndatastore-certfile: " + certs +
		"/limpet-client.crt\ndatastore-keyfile: " + certs + "/limpet-client.key\n"
	args := []string{"k3s-config", "--endpoint", "https://a:1, https://b:1", "--data-dir", dir, "--certs", certs}
	if out := mustLimpet(t, args...); out != secure {
		t.Errorf("https: got\n%s\nwant\n%s", out, secure)
	}
	if _, err := tls.LoadX509KeyPair(certs+"/limpet-client.crt", certs+"/limpet-client.key"); err != nil {
		t.Error(err)
	}
	ca, err := os.ReadFile(certs + "/limpet-ca.crt")
	if want := mustLimpet(t, "cert", "ca", "--data-dir", dir); err != nil || string(ca) != want {
		t.Errorf("the authority: got %q, %v, want %q", ca, err, want)
	}
	_, err = limpet(args...)
	wantError(t, err, certs+"/limpet-ca.crt is there already: choose another name, or replace it with --force")
	file := filepath.Join(t.TempDir(), "limpet.yaml")
	mustLimpet(t, append(args, "--force", "--out", file)...)
	if data, err := os.ReadFile(file); err != nil || string(data) != secure {
		t.Errorf("the file: got %q, %v, want %q", data, err, secure)
	}
	named := mustLimpet(t, "k3s-config", "--endpoint", "https://a:1", "--datastore-cafile", "/ca", "--datastore-certfile=/c", "--datastore-keyfile=/k")
	if want := "datastore-endpoint: https://a:1\ndatastore-cafile: /ca\ndatastore-certfile: /c\ndatastore-keyfile: /k\n"; named != want {
		t.Errorf("given files: got\n%s\nwant\n%s", named, want)
	}
	for _, c := range []struct{ args, want string }{
		{"--endpoint=a:1", `--endpoint has "a:1", want a URL such as https://127.0.0.1:2379 or unix:///run/limpet.sock`},
		{"--endpoint=etcd://a:1", `--endpoint has "etcd://a:1": k3s speaks with limpet over http, https, unix or unixs`},
		{"--endpoint=http://a:1,https://b:1", `--endpoint has "https://b:1" beside "http://a:1": k3s wants one scheme`},
		{"--endpoint=https://a:1 --datastore-certfile=/c", "--datastore-certfile and --datastore-keyfile belong together; give both"},
		{"--endpoint=http://a:1 --datastore-cafile=/c", "--endpoint http://a:1 speaks no TLS, which certificates are for; write https"},
		{"--endpoint=http://a:1 --out " + file, file + " is there already: choose another name, or replace it with --force"},
	} {
		_, err := limpet(append([]string{"k3s-config"}, strings.Fields(c.args)...)...)
		wantError(t, err, c.want)
	}
}

// A real member is asked over https, with files and with the token, and over
// socket files.
func TestAccess(t *testing.T) {
	cleanEnv(t)
	folder := t.TempDir()
	cfg := server.DefaultConfig()
	cfg.Name, cfg.DataDir, cfg.Token, cfg.GossipAddress = "board", filepath.Join(folder, "data"), oneToken, servertest.FreeAddr(t)
	at, gone := servertest.FreeAddr(t), servertest.FreeAddr(t)
	cfg.ListenClientURLs = []string{"https://" + at, "unix://" + folder + "/plain.sock", "unixs://" + folder + "/tls.sock"}
	cfg.ListenPeerURLs = []string{"https://" + servertest.FreeAddr(t)}
	cfg.AdvertisePeerURLs = cfg.ListenPeerURLs
	cfg.AutoTLS, cfg.ClientTLS.ClientAuth = true, true
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	s, err := server.Start(t.Context(), cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	}()
	dir, pair, ca := tokenDir(t), filepath.Join(folder, "pair"), filepath.Join(folder, "ca.crt")
	mustLimpet(t, "cert", "client", "--data-dir", dir, "--cn", "alice", "--out", pair)
	if err := os.WriteFile(ca, []byte(mustLimpet(t, "cert", "ca", "--data-dir", dir)), 0o600); err != nil {
		t.Fatal(err)
	}
	files := []string{"--cacert", ca, "--cert", pair + ".crt", "--key", pair + ".key"}
	for _, c := range []struct {
		name     string
		endpoint string
		flags    []string
	}{
		{"files", "https://" + at, files},
		{"files, without a scheme", at, files},
		{"the token", at, []string{"--data-dir", dir}},
		{"a socket file", "unix://" + folder + "/plain.sock", nil},
		{"a socket file with TLS", "unixs://" + folder + "/tls.sock", []string{"--data-dir", dir}},
		{"a socket file, with the token in vain", "unix://" + folder + "/plain.sock", []string{"--data-dir", dir}},
	} {
		out, err := limpet(slices.Concat([]string{"status", "--endpoints", c.endpoint}, c.flags)...)
		if err != nil || !strings.Contains(out, "seen from board") || !strings.Contains(out, c.endpoint) {
			t.Errorf("limpet status with %s: %v\n%s", c.name, err, out)
		}
		if out, err = limpet(slices.Concat([]string{"member", "list", "--endpoints", c.endpoint}, c.flags)...); err != nil || !strings.Contains(out, "board") {
			t.Errorf("limpet member list with %s: %v\n%s", c.name, err, out)
		}
	}
	// Whoever is not let in learns why.
	const remedy = "; give --cacert, --cert and --key, or a member's --data-dir"
	for _, c := range []struct {
		endpoint string
		flags    []string
		want     string
	}{
		{"https://" + at, nil, "certificate signed by unknown authority" + remedy},
		{"https://" + at, []string{"--cacert", ca}, "certificate required" + remedy},
		{"http://" + at, nil, "EOF"},
		{"https://" + gone, []string{"--data-dir", dir}, "connection refused"},
	} {
		flags := append([]string{"--timeout=500ms", "--endpoints", c.endpoint}, c.flags...)
		if out, err := limpet(append([]string{"status"}, flags...)...); err == nil || !strings.Contains(out, c.want) {
			t.Errorf("limpet status %v: %v, want %q in\n%s", flags, err, c.want, out)
		}
		if out, err := limpet(append([]string{"member", "list"}, flags...)...); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("limpet member list %v: %v, want %q; %s", flags, err, c.want, out)
		}
	}
	for _, c := range []struct{ args, want string }{
		{"--cert=/c", "--cert and --key belong together; give both"},
		{"--data-dir=" + dir + " --cacert=/c", "--data-dir stands in for --cacert, --cert and --key; give one or the other"},
		{"--endpoints=", "--endpoints is empty; give a client URL such as https://127.0.0.1:2379"},
		{"--cacert=/none", "--cacert: open /none: no such file or directory"},
		{"--cacert=" + pair + ".key", "--cacert: " + pair + ".key holds no certificate in PEM"},
	} {
		_, err := limpet(append([]string{"status"}, strings.Fields(c.args)...)...)
		wantError(t, err, c.want)
	}
}
