package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"limpet/e2e/pki"
	"limpet/e2e/proc"
)

// loopback is where servers of these tests are found.
var loopback = []string{"127.0.0.1", "localhost"}

// visit is one way to come to a TLS port; nil: let in.
type visit struct {
	name string
	come func(t *testing.T, addr string, cfg *tls.Config) error
}

// visits are those of a gRPC client, of an old HTTP client, and of one that offers HTTP/2 as curl
// does.
var visits = []visit{
	{"gRPC", func(t *testing.T, addr string, cfg *tls.Config) error {
		conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(credentials.NewTLS(cfg.Clone())))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		_, err = pb.NewKVClient(conn).Range(ctx, &pb.RangeRequest{Key: []byte("k")})
		return err
	}},
	{"HTTP/1", func(_ *testing.T, addr string, cfg *tls.Config) error { return version(addr, cfg, false) }},
	{"HTTP/2", func(_ *testing.T, addr string, cfg *tls.Config) error { return version(addr, cfg, true) }},
}

func version(addr string, cfg *tls.Config, h2 bool) error {
	client := &http.Client{Timeout: patience, Transport: &http.Transport{TLSClientConfig: cfg.Clone(), ForceAttemptHTTP2: h2, DisableKeepAlives: true}}
	resp, err := client.Get("https://" + addr + "/version")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && !strings.Contains(string(body), "etcdserver") {
		err = errors.New(resp.Status)
	}
	return err
}

// visitor is a client that trusts ca and shows a certificate, if there is one.
func visitor(ca *pki.CA, shows *pki.Pair) *tls.Config {
	cfg := &tls.Config{RootCAs: x509.NewCertPool(), ServerName: "127.0.0.1"}
	cfg.RootCAs.AddCert(ca.Cert)
	if shows != nil {
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &shows.TLS, nil }
	}
	return cfg
}

// startTLS starts a server that listens on http, for the test, and on https, at the address it
// returns.
func startTLS(t *testing.T, kind proc.Kind, flags ...string) (s *proc.Server, addr string) {
	t.Helper()
	addr = proc.FreeAddr(t)
	s = proc.New(t, kind)
	proc.Flags(append([]string{
		"--listen-client-urls=" + s.ClientURL() + ",https://" + addr,
		"--advertise-client-urls=" + s.ClientURL() + ",https://" + addr,
	}, flags...)...)(s)
	s.Run()
	return s, addr
}

// guest is a client of the matrix and the rows that let it in, by number.
type guest struct {
	name  string
	cfg   *tls.Config
	comes []int
}

// TestClientTLS has the same clients come to both servers, started with the same flags: whom the
// one lets in, the other does.
func TestClientTLS(t *testing.T) {
	ca, foreign := pki.New(t, "ours"), pki.New(t, "foreign")
	server := ca.Issue(pki.Leaf{CN: "server", Names: loopback, Usages: pki.Server})
	revoked := ca.Issue(pki.Leaf{CN: "mallory", Names: []string{"alice.local"}})
	crl := filepath.Join(t.TempDir(), "crl")
	ca.Revoke(crl, revoked)
	show := []string{"--cert-file=" + server.CertFile, "--key-file=" + server.KeyFile}
	known := append(show, "--client-cert-auth", "--trusted-ca-file="+ca.File)
	rows := [][]string{
		0: show,
		1: known,
		2: append(show, "--trusted-ca-file="+ca.File),
		3: append(known, "--client-crl-file="+crl),
		4: append(known, "--client-cert-allowed-hostname=bob.local,alice.local"),
		5: append(show, "--tls-min-version=TLS1.3"),
		6: append(show, "--tls-max-version=TLS1.2", "--cipher-suites=TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"),
	}
	limits := func(oldest, newest uint16, suites ...uint16) *tls.Config {
		cfg := visitor(ca, nil)
		cfg.MinVersion, cfg.MaxVersion, cfg.CipherSuites = oldest, newest, suites
		return cfg
	}
	elsewhere := visitor(ca, nil)
	elsewhere.ServerName = "board.local"
	guests := []guest{
		{"no certificate", visitor(ca, nil), []int{0, 5, 6}},
		{"good", visitor(ca, ca.Issue(pki.Leaf{CN: "alice", Names: []string{"alice.local"}, Usages: pki.Client})), []int{0, 1, 2, 3, 4, 5, 6}},
		{"without a name", visitor(ca, ca.Issue(pki.Leaf{CN: "alice.local", Usages: pki.Client})), []int{0, 1, 2, 3, 5, 6}},
		{"foreign", visitor(ca, foreign.Issue(pki.Leaf{CN: "alice", Names: []string{"alice.local"}})), []int{0, 5, 6}},
		{"expired", visitor(ca, ca.Issue(pki.Leaf{Names: []string{"alice.local"}, Until: time.Now().Add(-time.Minute)})), []int{0, 5, 6}},
		{"not valid yet", visitor(ca, ca.Issue(pki.Leaf{Names: []string{"alice.local"}, From: time.Now().Add(30 * time.Minute)})), []int{0, 5, 6}},
		{"a server's", visitor(ca, ca.Issue(pki.Leaf{Names: []string{"alice.local"}, Usages: pki.Server})), []int{0, 5, 6}},
		{"revoked", visitor(ca, revoked), []int{0, 1, 2, 4, 5, 6}},
		{"TLS 1.1", limits(tls.VersionTLS10, tls.VersionTLS11), nil},
		{"TLS 1.2", limits(0, tls.VersionTLS12), []int{0, 6}},
		{"TLS 1.3", limits(tls.VersionTLS13, 0), []int{0, 5}},
		{"another suite", limits(0, tls.VersionTLS12, tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384), []int{0}},
		{"another host", elsewhere, nil},
		{"no trust", visitor(foreign, nil), nil},
	}
	for i, flags := range rows {
		t.Run(strings.Join(flagNames(flags), " "), func(t *testing.T) {
			for _, kind := range []proc.Kind{proc.Etcd, subject()} {
				_, addr := startTLS(t, kind, flags...)
				for _, g := range guests {
					g.come(t, string(kind), addr, i)
				}
				if _, err := http.Get("http://" + addr + "/version"); err == nil {
					t.Errorf("%s answers plain HTTP where it was to speak TLS", kind)
				}
			}
		})
	}
}

// come has a guest try all ways in.
func (g guest) come(t *testing.T, kind, addr string, row int) {
	want := false
	for _, r := range g.comes {
		want = want || r == row
	}
	for _, v := range visits {
		if err := v.come(t, addr, g.cfg); (err == nil) != want {
			t.Errorf("%s, %s over %s: %v; want it let in: %v", kind, g.name, v.name, err, want)
		}
	}
}

func flagNames(flags []string) (names []string) {
	for _, f := range flags {
		name, _, _ := strings.Cut(strings.TrimPrefix(f, "--"), "=")
		names = append(names, name)
	}
	return names
}

// TestRotatedFiles replaces certificate and revocation list of running servers: the next client
// meets the new ones.
func TestRotatedFiles(t *testing.T) {
	for _, kind := range []proc.Kind{proc.Etcd, subject()} {
		ca := pki.New(t, "ours")
		server := ca.Issue(pki.Leaf{CN: "old", Names: loopback})
		alice, crl := ca.Issue(pki.Leaf{CN: "alice"}), filepath.Join(t.TempDir(), "crl")
		ca.Revoke(crl)
		_, addr := startTLS(t, kind, "--cert-file="+server.CertFile, "--key-file="+server.KeyFile, "--trusted-ca-file="+ca.File, "--client-crl-file="+crl)
		shown := func() string {
			c, err := tls.Dial("tcp", addr, visitor(ca, alice))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			return c.ConnectionState().PeerCertificates[0].Subject.CommonName
		}
		if cn := shown(); cn != "old" {
			t.Errorf("%s shows %s", kind, cn)
		}
		ca.Issue(pki.Leaf{CN: "new", Names: loopback}).Copy(t, server)
		if cn := shown(); cn != "new" {
			t.Errorf("%s shows %s after the files were replaced", kind, cn)
		}
		for _, v := range visits {
			if err := v.come(t, addr, visitor(ca, alice)); err != nil {
				t.Errorf("%s, before alice is revoked: %v", kind, err)
			}
		}
		ca.Revoke(crl, alice)
		for _, v := range visits {
			if err := v.come(t, addr, visitor(ca, alice)); err == nil {
				t.Errorf("%s lets alice in over %s after she was revoked", kind, v.name)
			}
		}
	}
}

// TestSocketFile starts both servers on a socket file, as k3s reaches them.
func TestSocketFile(t *testing.T) {
	for _, kind := range []proc.Kind{proc.Etcd, subject()} {
		file := filepath.Join(t.TempDir(), "s")
		s := proc.New(t, kind)
		proc.Flags("--listen-client-urls="+s.ClientURL()+",unix://"+file, "--advertise-client-urls="+s.ClientURL()+",unix://"+file)(s)
		s.Run()
		res := proc.Command{Path: proc.Binary(t, proc.Etcdctl), Args: []string{"--endpoints=unix://" + file, "put", "a", "1"}}.Run(t)
		if res.Code != 0 || res.Stdout != "OK\n" {
			t.Errorf("%s: %q, %s", kind, res.Stdout, res.Stderr)
		}
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", file)
		}}}
		resp, err := client.Get("http://localhost/version")
		if err != nil {
			t.Errorf("%s: %v", kind, err)
			continue
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Errorf("%s over the socket file: %s", kind, resp.Status)
		}
	}
}
