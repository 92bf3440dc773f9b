package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"limpet/certs/certtest"
	"limpet/trust"
)

const oneToken = "000102030405060708090a0b0c0d0e0f"

// loopback is where the members of these tests are found.
var loopback = []string{"127.0.0.1", "localhost", "::1"}

// secure is the URL with https.
func secure(u string) string { return strings.Replace(u, "http:", "https:", 1) }

// visitor is a client that trusts ca and shows a certificate, if there is one.
func visitor(ca *x509.Certificate, shows *tls.Certificate) *tls.Config {
	cfg := &tls.Config{RootCAs: x509.NewCertPool(), ServerName: "127.0.0.1"}
	cfg.RootCAs.AddCert(ca)
	if shows != nil {
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return shows, nil }
	}
	return cfg
}

// askGRPC asks a member at a URL for a key.
func askGRPC(t *testing.T, at string, cfg *tls.Config) error {
	t.Helper()
	scheme, address, _ := strings.Cut(at, "://")
	creds := insecure.NewCredentials()
	if strings.HasSuffix(scheme, "s") {
		creds = credentials.NewTLS(cfg)
	}
	if strings.HasPrefix(scheme, "unix") {
		address = "unix:" + address
	}
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(creds))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithDeadline(t.Context(), soon())
	defer cancel()
	_, err = pb.NewKVClient(conn).Range(ctx, &pb.RangeRequest{Key: []byte("k")})
	return err
}

// askHTTP asks a member at a URL for a path as curl does, which offers HTTP/2
// where there is TLS.
func askHTTP(at, path string, cfg *tls.Config) (string, error) {
	transport := &http.Transport{DisableKeepAlives: true, TLSClientConfig: cfg, ForceAttemptHTTP2: true}
	scheme, address, _ := strings.Cut(at, "://")
	if strings.HasPrefix(scheme, "unix") {
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", address)
		}
		at = map[string]string{"unix": "http", "unixs": "https"}[scheme] + "://127.0.0.1"
	}
	resp, err := (&http.Client{Transport: transport}).Get(at + path)
	if err != nil {
		return "", err
	}
	body, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return "", errors.New(resp.Status)
	}
	return string(body), err
}

// One member listens in all ways at once; the files are those of etcd's flags.
func TestClientListeners(t *testing.T) {
	ca := certtest.NewCA(t, "ours")
	pair := ca.Issue(certtest.Leaf{CN: "board", Names: loopback})
	cfg := newConfig(t)
	both := freeURL(t)
	folder := t.TempDir()
	open, closed := "unix://"+filepath.Join(folder, "open.sock"), "unixs://"+filepath.Join(folder, "tls.sock")
	metrics := []string{secure(freeURL(t)), freeURL(t)}
	cfg.ListenClientURLs = []string{cfg.ListenClientURLs[0], secure(freeURL(t)), both, secure(both), open, closed}
	cfg.ListenMetricsURLs = metrics
	cfg.ClientTLS.Cert, cfg.ClientTLS.Key = pair.CertFile, pair.KeyFile
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	m := start(t, cfg)
	for _, u := range cfg.ListenClientURLs {
		if err := askGRPC(t, u, visitor(ca.Cert, nil)); err != nil {
			t.Errorf("gRPC at %s: %v", u, err)
		}
		if body, err := askHTTP(u, "/version", visitor(ca.Cert, nil)); err != nil || !strings.Contains(body, "etcdserver") {
			t.Errorf("HTTP at %s: %q, %v", u, body, err)
		}
	}
	for _, u := range metrics {
		if body, err := askHTTP(u, "/metrics", visitor(ca.Cert, nil)); err != nil || !strings.Contains(body, "\netcd_server_has_leader 1\n") {
			t.Errorf("metrics at %s: %d bytes, %v", u, len(body), err)
		}
		if err := askGRPC(t, u, visitor(ca.Cert, nil)); err == nil {
			t.Errorf("gRPC is served at %s", u)
		}
	}
	for _, u := range []string{open, closed} {
		_, file, _ := strings.Cut(u, "://")
		if info, err := os.Stat(file); err != nil || info.Mode() != os.ModeSocket|0o600 {
			t.Errorf("%s: %v, %v, want a socket of mode 0600", file, info, err)
		}
	}
	m.stop()
	if left, err := os.ReadDir(folder); err != nil || len(left) > 0 {
		t.Errorf("after the stop: %v, %v; want no socket files", left, err)
	}
}

// What clients must show, of the two authorities there may be: files, and the
// cluster's own with --auto-tls. Whoever is turned away is counted.
func TestClientCertificates(t *testing.T) {
	token, err := trust.ParseToken(oneToken)
	if err != nil {
		t.Fatal(err)
	}
	issue := func(cert, key []byte, err error) *tls.Certificate {
		if err != nil {
			t.Fatal(err)
		}
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		return &pair
	}
	ca := certtest.NewCA(t, "ours")
	ours := &ca.Issue(certtest.Leaf{CN: "alice"}).TLS
	clusters := issue(token.IssueClient("alice", nil))
	ring, err := trust.NewKeyring(token)
	if err != nil {
		t.Fatal(err)
	}
	member, err := ring.MemberTLS(1).GetClientCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	cluster, err := x509.ParseCertificate(authorityOf(t, token))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name      string
		set       func(*Config)
		authority *x509.Certificate
		good      *tls.Certificate
		bad       []*tls.Certificate
	}{
		{"automatic, anybody", func(c *Config) { c.AutoTLS = true }, cluster, nil, nil},
		{
			"automatic, known clients", func(c *Config) { c.AutoTLS, c.ClientTLS.ClientAuth = true, true },
			cluster, clusters, []*tls.Certificate{nil, ours, issue(token.IssueServer("server", nil))},
		},
		{
			"automatic, clients of another authority", func(c *Config) { c.AutoTLS, c.ClientTLS.TrustedCA = true, ca.File },
			cluster, ours, []*tls.Certificate{nil, clusters},
		},
		{
			"files, known clients", func(c *Config) {
				pair := ca.Issue(certtest.Leaf{Names: loopback})
				c.ClientTLS.Cert, c.ClientTLS.Key, c.ClientTLS.TrustedCA = pair.CertFile, pair.KeyFile, ca.File
			}, ca.Cert, ours, []*tls.Certificate{nil, clusters, member},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := newConfig(t)
			cfg.Token, cfg.GossipAddress = oneToken, strings.TrimPrefix(freeURL(t), "http://")
			cfg.ListenPeerURLs = []string{secure(cfg.ListenPeerURLs[0])}
			cfg.AdvertisePeerURLs = cfg.ListenPeerURLs
			at := secure(freeURL(t))
			cfg.ListenClientURLs = append(cfg.ListenClientURLs, at)
			c.set(&cfg)
			if err := cfg.Validate(); err != nil {
				t.Fatal(err)
			}
			m := start(t, cfg)
			if err := askGRPC(t, at, visitor(c.authority, c.good)); err != nil {
				t.Errorf("gRPC of a good client: %v", err)
			}
			if _, err := askHTTP(at, "/version", visitor(c.authority, c.good)); err != nil {
				t.Errorf("HTTP of a good client: %v", err)
			}
			before := m.metrics.Traffic.Rejected.Load()
			for i, shows := range c.bad {
				if err := askGRPC(t, at, visitor(c.authority, shows)); err == nil {
					t.Errorf("bad certificate %d does for gRPC", i)
				}
				if _, err := askHTTP(at, "/version", visitor(c.authority, shows)); err == nil {
					t.Errorf("bad certificate %d does for HTTP", i)
				}
			}
			const series = "\nlimpet_client_rejected_connections_total "
			eventually(t, "all to be counted", func() bool {
				text, err := askHTTP(cfg.ListenClientURLs[0], "/metrics", nil)
				n := m.metrics.Traffic.Rejected.Load() - before
				return err == nil && n >= int64(2*len(c.bad)) && strings.Contains(text, series+fmt.Sprint(before+n)+"\n")
			})
		})
	}
}

// A member that makes its client URLs of the address that gossip finds tells
// clients to come with TLS, if they must.
func TestFoundClientURLs(t *testing.T) {
	cfg := newConfig(t)
	cfg.Token, cfg.GossipAddress, cfg.AutoTLS = oneToken, strings.TrimPrefix(freeURL(t), "http://"), true
	cfg.ListenPeerURLs = []string{secure(cfg.ListenPeerURLs[0])}
	cfg.AdvertisePeerURLs = cfg.ListenPeerURLs
	local := cfg.ListenClientURLs[0]
	cfg.ListenClientURLs = []string{local, strings.Replace(secure(freeURL(t)), "127.0.0.1", "0.0.0.0", 1)}
	cfg.AdvertiseClientURLs = DefaultConfig().AdvertiseClientURLs
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	m := start(t, cfg)
	list, err := pb.NewClusterClient(m.conn).MemberList(t.Context(), &pb.MemberListRequest{})
	want := strings.Replace(cfg.ListenClientURLs[1], "0.0.0.0", "127.0.0.1", 1)
	if err != nil || len(list.Members) != 1 || !slices.Equal(list.Members[0].ClientURLs, []string{want}) {
		t.Errorf("MemberList: %v, %v; want client URL %s", list, err, want)
	}
}

// authorityOf is the certificate of the cluster's authority.
func authorityOf(t *testing.T, token trust.Token) []byte {
	t.Helper()
	cert, key, err := token.IssueServer("x", nil)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	pem, err := token.CAPEM()
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	chains, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: pool})
	if err != nil {
		t.Fatal(err)
	}
	return chains[0][1].Raw
}

// The certificate of --auto-tls names the address at which it was asked for,
// also one that the machine did not have before.
func TestIssuerFollowsAddresses(t *testing.T) {
	token, err := trust.ParseToken(oneToken)
	if err != nil {
		t.Fatal(err)
	}
	ring, err := trust.NewKeyring(token)
	if err != nil {
		t.Fatal(err)
	}
	i := &issuer{ring: ring, names: []string{"board.local", "10.1.1.1"}}
	at := func(ip string) *tls.Certificate {
		t.Helper()
		pair, err := i.certificate(&net.TCPAddr{IP: net.ParseIP(ip)})
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{ip, "board.local", "10.1.1.1", "127.0.0.1"} {
			if err := pair.Leaf.VerifyHostname(name); err != nil {
				t.Errorf("asked at %s: %v", ip, err)
			}
		}
		return pair
	}
	first := at("127.0.0.1")
	if at("127.0.0.1") != first || at("10.1.1.1") != first {
		t.Error("another certificate is made for an address that the first one names")
	}
	if at("192.0.2.7") == first {
		t.Error("the certificate does not follow the address")
	}
	if pair, err := i.certificate(&net.UnixAddr{Name: "x", Net: "unix"}); pair == nil || err != nil {
		t.Errorf("on a socket file: %v, %v", pair, err)
	}
	// While a rotation lasts, clients that know only one of the two CAs accept it.
	old, next := poolOf(t, token), parseToken(t, strings.Repeat("ab", 16))
	if err := ring.Set(next, token); err != nil {
		t.Fatal(err)
	}
	rotated := at("127.0.0.1")
	between := x509.NewCertPool()
	for _, der := range rotated.Certificate[1:] {
		between.AddCert(certOf(t, der))
	}
	for which, roots := range map[string]*x509.CertPool{"old": old, "new": poolOf(t, next)} {
		if _, err := rotated.Leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between}); err != nil {
			t.Errorf("for a client of the %s token: %v", which, err)
		}
	}
	if err := ring.Set(next); err != nil {
		t.Fatal(err)
	}
	if finished := at("127.0.0.1"); finished == rotated || len(finished.Certificate) != 1 {
		t.Errorf("after the rotation %d certificates are shown", len(finished.Certificate))
	}
}

func certOf(t *testing.T, der []byte) *x509.Certificate {
	t.Helper()
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func poolOf(t *testing.T, token trust.Token) *x509.CertPool {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AddCert(certOf(t, authorityOf(t, token)))
	return pool
}

// What cannot work is said before anything is touched.
func TestTLSThatCannotWork(t *testing.T) {
	ca := certtest.NewCA(t, "ours")
	client := ca.Issue(certtest.Leaf{Usages: certtest.Client})
	for _, c := range []struct {
		name string
		set  func(*Config)
		want string
	}{
		{"no such file", func(c *Config) { c.ClientTLS.Cert, c.ClientTLS.Key = "/none", "/none" }, "TLS for clients: open /none: no such file"},
		{"members as clients", func(c *Config) {
			c.ListenClientURLs = c.ListenClientURLs[:1]
			c.ListenPeerURLs = []string{secure(c.ListenPeerURLs[0])}
			c.AdvertisePeerURLs = c.ListenPeerURLs
			c.PeerTLS.Cert, c.PeerTLS.Key = client.CertFile, client.KeyFile
		}, "both server and client authentication"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := newConfig(t)
			cfg.ListenClientURLs = append(cfg.ListenClientURLs, secure(freeURL(t)))
			c.set(&cfg)
			if err := cfg.Validate(); err != nil {
				t.Fatal(err)
			}
			_, err := Start(t.Context(), cfg, slog.New(slog.DiscardHandler))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Start: %v, want %q", err, c.want)
			}
			if _, err := os.Stat(cfg.DataDir); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the data directory was made (%v)", err)
			}
		})
	}
}

// Clients without TLS beyond this machine are possible, as with etcd, and said
// loudly as long as the member runs.
func TestPlainClientsAreANotice(t *testing.T) {
	cfg := newConfig(t)
	m := start(t, cfg)
	if n := m.local.Report(t.Context()).Notices; len(n) > 0 {
		t.Errorf("on loopback: %v, want no notice", n)
	}
	m.stop()
	cfg.ListenClientURLs = []string{strings.Replace(freeURL(t), "127.0.0.1", "0.0.0.0", 1)}
	m = start(t, cfg)
	for _, want := range []string{"without TLS beyond this machine", cfg.ListenClientURLs[0]} {
		if n := m.local.Report(t.Context()).Notices; len(n) != 1 || !strings.Contains(n[0].Text, want) {
			t.Errorf("everywhere: %v, want a notice with %q", n, want)
		}
	}
}

// Names that clients may use are in the certificate of --auto-tls once.
func TestServerNames(t *testing.T) {
	cfg := DefaultConfig()
	cfg.ListenClientURLs = []string{"https://0.0.0.0:1", "https://[::]:1", "https://10.0.0.1:2", "unixs:///run/x.sock"}
	cfg.AdvertiseClientURLs = []string{"https://board.local:1"}
	got := cfg.serverNames()
	for _, want := range []string{"localhost", "127.0.0.1", "::1", "10.0.0.1", "board.local", "x.sock"} {
		if !slices.Contains(got, want) {
			t.Errorf("no %s in %v", want, got)
		}
	}
	for _, not := range []string{"0.0.0.0", "::", "", "/run/x.sock"} {
		if slices.Contains(got, not) {
			t.Errorf("%q in %v", not, got)
		}
	}
}
