package certs

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"limpet/certs/certtest"
)

// logbook is a log to look into.
type logbook struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

// Write implements io.Writer.
func (l *logbook) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

// count is how often text was logged.
func (l *logbook) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.buf.String(), text)
}

func open(t *testing.T, cfg Config) (*Guard, *logbook) {
	t.Helper()
	log := new(logbook)
	cfg.Logger = slog.New(slog.NewTextHandler(log, nil))
	if cfg.Limits.Min == 0 {
		cfg.Limits.Min = tls.VersionTLS12
	}
	g, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return g, log
}

func files(p *certtest.Pair) Files { return Files{Cert: p.CertFile, Key: p.KeyFile} }

// meet has a client call a server on 127.0.0.1, and returns what the client
// learnt and what each end says.
func meet(t *testing.T, server, client *tls.Config) (seen tls.ConnectionState, atServer, atClient error) {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", server)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	done := make(chan error, 1)
	// Owner: this call; ends with the connection.
	go func() {
		c, err := l.Accept()
		if err == nil {
			_, err = io.WriteString(c, "!") // after the handshake
			err = errors.Join(err, c.Close())
		}
		done <- err
	}()
	c, atClient := tls.Dial("tcp", l.Addr().String(), client)
	if atClient == nil {
		// With TLS 1.3 a refusal arrives after the client's own handshake.
		_, atClient = io.ReadFull(c, make([]byte, 1))
		seen = c.ConnectionState()
		_ = c.Close()
	}
	return seen, <-done, atClient
}

// visitor is a client that trusts ca and shows a certificate, if there is one.
func visitor(ca *certtest.CA, shows *certtest.Pair) *tls.Config {
	cfg := &tls.Config{RootCAs: x509.NewCertPool(), ServerName: "127.0.0.1"}
	cfg.RootCAs.AddCert(ca.Cert)
	if shows != nil {
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &shows.TLS, nil }
	}
	return cfg
}

func TestClients(t *testing.T) {
	ca, foreign := certtest.NewCA(t, "ours"), certtest.NewCA(t, "foreign")
	server := ca.Issue(certtest.Leaf{CN: "server", Names: []string{"127.0.0.1"}, Usages: certtest.Server})
	good := ca.Issue(certtest.Leaf{CN: "alice", Names: []string{"alice.local"}, Usages: certtest.Client})
	revoked := ca.Issue(certtest.Leaf{CN: "mallory", Usages: certtest.Client})
	crl := filepath.Join(t.TempDir(), "crl")
	ca.Revoke(crl, revoked)
	past := time.Now().Add(-time.Minute)

	open := func(set func(*Config)) *tls.Config {
		cfg := Config{Files: files(server), Protocols: []string{"http/1.1", "h2"}}
		set(&cfg)
		g, _ := open(t, cfg)
		return g.Server()
	}
	anybody := open(func(*Config) {})
	known := open(func(c *Config) { c.Files.TrustedCA = ca.File })
	listed := open(func(c *Config) { c.Files.TrustedCA, c.Files.CRL = ca.File, crl })
	named := open(func(c *Config) { c.Files.TrustedCA, c.AllowedHostnames = ca.File, []string{"bob.local", "alice.local"} })
	called := open(func(c *Config) { c.Files.TrustedCA, c.AllowedCNs = ca.File, []string{"bob", "alice"} })
	pool := x509.NewCertPool()
	pool.AddCert(ca.Cert)
	issued := open(func(c *Config) {
		c.Files, c.ClientAuth = Files{}, true
		c.Issued = func(net.Addr) (*tls.Certificate, error) { return &server.TLS, nil }
		c.Authority = func() *x509.CertPool { return pool }
	})
	system := open(func(c *Config) { c.ClientAuth = true })

	for _, c := range []struct {
		name   string
		server *tls.Config
		shows  *certtest.Pair
		ok     bool
	}{
		{"nothing is asked for", anybody, nil, true},
		{"shown though not asked for", anybody, foreign.Issue(certtest.Leaf{}), true},
		{"good", known, good, true},
		{"none", known, nil, false},
		{"foreign", known, foreign.Issue(certtest.Leaf{CN: "alice", Usages: certtest.Client}), false},
		{"expired", known, ca.Issue(certtest.Leaf{CN: "alice", Until: past}), false},
		{"not valid yet", known, ca.Issue(certtest.Leaf{CN: "alice", From: time.Now().Add(time.Minute)}), false},
		{"a server's", known, ca.Issue(certtest.Leaf{Usages: certtest.Server}), false},
		{"not on the list", listed, good, true},
		{"on the list", listed, revoked, false},
		{"allowed host", named, good, true},
		{"another host", named, ca.Issue(certtest.Leaf{CN: "alice.local", Names: []string{"carol.local"}}), false},
		{"allowed name", called, good, true},
		{"another name", called, ca.Issue(certtest.Leaf{CN: "carol"}), false},
		{"of the cluster's authority", issued, good, true},
		{"of another authority", issued, foreign.Issue(certtest.Leaf{}), false},
		{"without authorities but the system's", system, good, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			seen, atServer, atClient := meet(t, c.server, visitor(ca, c.shows))
			if (atServer == nil) != c.ok || (atClient == nil) != c.ok {
				t.Errorf("server: %v, client: %v; want success: %v", atServer, atClient, c.ok)
			}
			if c.ok && seen.PeerCertificates[0].Subject.CommonName != "server" {
				t.Errorf("the client saw %s", seen.PeerCertificates[0].Subject)
			}
		})
	}
}

// The server speaks what gRPC needs to those who offer only that, and HTTP/1
// to those who offer both: gRPC has HTTP/2 for itself.
func TestProtocols(t *testing.T) {
	ca := certtest.NewCA(t, "ours")
	g, _ := open(t, Config{Files: files(ca.Issue(certtest.Leaf{Names: []string{"127.0.0.1"}})), Protocols: []string{"http/1.1", "h2"}})
	for want, offers := range map[string][]string{"h2": {"h2"}, "http/1.1": {"h2", "http/1.1"}, "": nil} {
		cfg := visitor(ca, nil)
		cfg.NextProtos = offers
		seen, _, err := meet(t, g.Server(), cfg)
		if err != nil || seen.NegotiatedProtocol != want {
			t.Errorf("offered %v: got %q, %v, want %q", offers, seen.NegotiatedProtocol, err, want)
		}
	}
}

func TestLimitsHold(t *testing.T) {
	ca := certtest.NewCA(t, "ours")
	pair := ca.Issue(certtest.Leaf{Names: []string{"127.0.0.1"}})
	for _, c := range []struct {
		name, oldest, newest string
		ciphers              []string
		min, max             uint16 // of the client
		offers               []uint16
		ok                   bool
	}{
		{"1.1 is refused", "", "", nil, tls.VersionTLS10, tls.VersionTLS11, nil, false},
		{"1.2", "", "", nil, 0, tls.VersionTLS12, nil, true},
		{"1.2 at 1.3", "TLS1.3", "", nil, 0, tls.VersionTLS12, nil, false},
		{"1.3 at 1.3", "TLS1.3", "", nil, tls.VersionTLS13, 0, nil, true},
		{"1.3 at 1.2", "TLS1.2", "TLS1.2", nil, tls.VersionTLS13, 0, nil, false},
		{"the suite", "", "TLS1.2", []string{"TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"}, 0, 0, []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384}, true},
		{"another suite", "", "TLS1.2", []string{"TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"}, 0, 0, []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			limits, err := ParseLimits(c.oldest, c.newest, c.ciphers)
			if err != nil {
				t.Fatal(err)
			}
			g, _ := open(t, Config{Files: files(pair), Limits: limits})
			cfg := visitor(ca, nil)
			cfg.MinVersion, cfg.MaxVersion, cfg.CipherSuites = c.min, c.max, c.offers
			if _, atServer, atClient := meet(t, g.Server(), cfg); (atServer == nil) != c.ok || (atClient == nil) != c.ok {
				t.Errorf("server: %v, client: %v; want success: %v", atServer, atClient, c.ok)
			}
		})
	}
}

// Both ends of a call between members judge each other.
func TestMembers(t *testing.T) {
	ca, foreign := certtest.NewCA(t, "ours"), certtest.NewCA(t, "foreign")
	here := []string{"127.0.0.1"}
	crl := filepath.Join(t.TempDir(), "crl")
	revoked := ca.Issue(certtest.Leaf{Names: here})
	ca.Revoke(crl, revoked)
	// visit has a member with the usual certificate meet another, which may be no
	// member at all; the one judges, whichever end it is.
	visit := func(t *testing.T, host string, other *certtest.Pair, set func(*Config)) (called, calls error) {
		cfg := Config{Members: true, Files: files(ca.Issue(certtest.Leaf{CN: "m", Names: here})), Protocols: []string{"p"}}
		cfg.Files.TrustedCA, cfg.Files.CRL = ca.File, crl
		set(&cfg)
		judge, _ := open(t, cfg)
		as := visitor(ca, other)
		as.NextProtos = []string{"p"}
		_, called, _ = meet(t, judge.Server(), as)
		blind := &tls.Config{Certificates: []tls.Certificate{other.TLS}, ClientAuth: tls.RequestClientCert, NextProtos: []string{"p"}}
		_, _, calls = meet(t, blind, judge.Client(host))
		return called, calls
	}
	usual := func(*Config) {}
	for _, c := range []struct {
		name          string
		host          string
		other         *certtest.Pair
		set           func(*Config)
		called, calls bool
	}{
		{"a member", "127.0.0.1", ca.Issue(certtest.Leaf{Names: here}), usual, true, true},
		{"usages of no kind", "127.0.0.1", ca.Issue(certtest.Leaf{Names: here, Usages: []x509.ExtKeyUsage{}}), usual, true, true},
		{"a client", "127.0.0.1", ca.Issue(certtest.Leaf{Names: here, Usages: certtest.Client}), usual, false, false},
		{"a server", "127.0.0.1", ca.Issue(certtest.Leaf{Names: here, Usages: certtest.Server}), usual, false, false},
		{"foreign", "127.0.0.1", foreign.Issue(certtest.Leaf{Names: here}), usual, false, false},
		{"expired", "127.0.0.1", ca.Issue(certtest.Leaf{Names: here, Until: time.Now().Add(-time.Minute)}), usual, false, false},
		{"revoked", "127.0.0.1", revoked, usual, false, false},
		{"wrong host", "board.local", ca.Issue(certtest.Leaf{Names: here}), usual, true, false},
		{"another address", "127.0.0.1", ca.Issue(certtest.Leaf{Names: []string{"192.0.2.1"}}), usual, false, false},
		{"another address, which is not looked at", "127.0.0.1", ca.Issue(certtest.Leaf{Names: []string{"192.0.2.1"}}), func(c *Config) { c.SkipCallerSAN = true }, true, false},
		{"no names", "127.0.0.1", ca.Issue(certtest.Leaf{}), usual, true, false},
		{"an allowed name", "127.0.0.1", ca.Issue(certtest.Leaf{CN: "a", Names: here}), func(c *Config) { c.AllowedCNs = []string{"a"} }, true, true},
		{"a name that is not", "127.0.0.1", ca.Issue(certtest.Leaf{CN: "b", Names: here}), func(c *Config) { c.AllowedCNs = []string{"a"} }, false, false},
		{"the system's authorities", "127.0.0.1", ca.Issue(certtest.Leaf{Names: here}), func(c *Config) { c.Files.TrustedCA = "" }, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			called, calls := visit(t, c.host, c.other, c.set)
			if (called == nil) != c.called || (calls == nil) != c.calls {
				t.Errorf("as caller: %v, as the one called: %v; want it welcome: %v, %v", called, calls, c.called, c.calls)
			}
		})
	}
}

// A member that calls shows the certificate that is for calls.
func TestCallersCertificate(t *testing.T) {
	ca := certtest.NewCA(t, "ours")
	here := []string{"127.0.0.1"}
	called, caller := ca.Issue(certtest.Leaf{CN: "called", Names: here}), ca.Issue(certtest.Leaf{CN: "caller", Names: here})
	g, _ := open(t, Config{Members: true, Files: Files{Cert: called.CertFile, Key: called.KeyFile, CallerCert: caller.CertFile, CallerKey: caller.KeyFile, TrustedCA: ca.File}})
	server, shown := g.Server(), ""
	real := server.GetConfigForClient
	server.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		cfg, err := real(h)
		judge := cfg.VerifyConnection
		cfg.VerifyConnection = func(s tls.ConnectionState) error {
			shown = s.PeerCertificates[0].Subject.CommonName
			return judge(s)
		}
		return cfg, err
	}
	seen, atServer, atClient := meet(t, server, g.Client("127.0.0.1"))
	if atServer != nil || atClient != nil || shown != "caller" || seen.PeerCertificates[0].Subject.CommonName != "called" {
		t.Errorf("%v, %v; the caller showed %q, the other end %q", atServer, atClient, shown, seen.PeerCertificates[0].Subject)
	}
}

// What is replaced counts from the next handshake on; what is broken leaves the
// last good content in force, and is said once.
func TestFilesChange(t *testing.T) {
	ca, next := certtest.NewCA(t, "ours"), certtest.NewCA(t, "next")
	server := ca.Issue(certtest.Leaf{CN: "old", Names: []string{"127.0.0.1"}})
	alice, bob := ca.Issue(certtest.Leaf{CN: "alice"}), next.Issue(certtest.Leaf{CN: "bob"})
	bundle, crl := filepath.Join(t.TempDir(), "bundle"), filepath.Join(t.TempDir(), "crl")
	copyFile(t, ca.File, bundle)
	ca.Revoke(crl)
	cfg := Config{Files: files(server)}
	cfg.Files.TrustedCA, cfg.Files.CRL = bundle, crl
	g, log := open(t, cfg)
	// want tells which certificate is shown to whom.
	want := func(cn string, of *certtest.CA, who *certtest.Pair, ok bool) {
		t.Helper()
		seen, _, err := meet(t, g.Server(), visitor(of, who))
		if (err == nil) != ok || ok && seen.PeerCertificates[0].Subject.CommonName != cn {
			t.Errorf("%s: %v, want success: %v, and %s shown", who.TLS.Leaf.Subject, err, ok, cn)
		}
	}
	want("old", ca, alice, true)

	broken := server.CertFile
	copyFile(t, ca.File, broken) // no key of the server's
	for range 3 {
		want("old", ca, alice, true)
	}
	if n := log.count("stays in force"); n != 1 {
		t.Errorf("a broken file was told of %d times, want once", n)
	}
	next.Issue(certtest.Leaf{CN: "new", Names: []string{"127.0.0.1"}}).Copy(t, server)
	want("new", next, alice, true)

	copyFile(t, next.File, bundle)
	want("new", next, alice, false)
	want("new", next, bob, true)
	if err := os.Remove(bundle); err != nil {
		t.Fatal(err)
	}
	want("new", next, bob, true)
	copyFile(t, next.File, bundle)

	next.Revoke(crl, bob)
	want("new", next, bob, false)
	if err := os.WriteFile(crl, []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	want("new", next, bob, false)
	next.Revoke(crl)
	want("new", next, bob, true)
}

// An operator who asks for the files to be read again hears at once what is wrong
// with them.
func TestReread(t *testing.T) {
	ca := certtest.NewCA(t, "ours")
	server, caller := ca.Issue(certtest.Leaf{CN: "old"}), ca.Issue(certtest.Leaf{CN: "caller"})
	bundle, crl := filepath.Join(t.TempDir(), "bundle"), filepath.Join(t.TempDir(), "crl")
	copyFile(t, ca.File, bundle)
	ca.Revoke(crl)
	cfg := Config{Files: files(server), Members: true}
	cfg.Files.CallerCert, cfg.Files.CallerKey = caller.CertFile, caller.KeyFile
	cfg.Files.TrustedCA, cfg.Files.CRL = bundle, crl
	g, log := open(t, cfg)
	if err := g.Reread(); err != nil {
		t.Errorf("nothing has changed: %v", err)
	}
	if n := log.count("were read again"); n != 4 {
		t.Errorf("the log names %d groups of files, want 4", n)
	}
	for _, file := range []string{server.CertFile, caller.KeyFile, bundle, crl} {
		good, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte("nonsense"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := g.Reread(); err == nil || !strings.Contains(err.Error(), file) {
			t.Errorf("nonsense in %s: got %v, want an error that names it", file, err)
		}
		if err := os.WriteFile(file, good, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := g.Reread(); err != nil {
			t.Errorf("put right again: %v", err)
		}
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestOpenNeedsFilesThatMakeSense(t *testing.T) {
	ca := certtest.NewCA(t, "ours")
	good, client := ca.Issue(certtest.Leaf{}), ca.Issue(certtest.Leaf{Usages: certtest.Client})
	junk := filepath.Join(t.TempDir(), "junk")
	if err := os.WriteFile(junk, []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		cfg  Config
		want string
	}{
		{"no file", Config{Files: Files{Cert: junk + "?", Key: junk}}, "no such file"},
		{"no certificate", Config{Files: Files{Cert: junk, Key: good.KeyFile}}, "are not a certificate and its key"},
		{"another's key", Config{Files: Files{Cert: good.CertFile, Key: client.KeyFile}}, "are not a certificate and its key"},
		{"no authority", Config{Files: Files{Cert: good.CertFile, Key: good.KeyFile, TrustedCA: junk}}, "holds no certificate"},
		{"no list", Config{Files: Files{Cert: good.CertFile, Key: good.KeyFile, CRL: junk}}, "not a revocation list"},
		{"a member that is a client", Config{Members: true, Files: files(client)}, "both server and client authentication"},
		{"a caller that is a client", Config{Members: true, Files: Files{Cert: good.CertFile, Key: good.KeyFile, CallerCert: client.CertFile, CallerKey: client.KeyFile}}, "both server and client authentication"},
	} {
		if _, err := Open(c.cfg); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}
