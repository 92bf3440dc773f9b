package trust

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"testing"
	"time"
)

func pair(t *testing.T, cert, key []byte, err error) tls.Certificate {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	p, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func authorities(t *testing.T, token string) *x509.CertPool {
	t.Helper()
	ca, err := parse(t, token).CAPEM()
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		t.Fatalf("no certificate in %q", ca)
	}
	return pool
}

// Whoever has the authority's certificate knows the cluster's servers, under
// the names they were issued for, and clients; at any clock.
func TestIssuedCertificates(t *testing.T) {
	token := parse(t, text)
	cert, key, err := token.IssueServer("board", []string{"board.local", "10.0.0.1", "fd00::1"})
	server := pair(t, cert, key, err)
	cert, key, err = token.IssueClient("alice", nil)
	client := pair(t, cert, key, err)
	if server.Leaf.SerialNumber.Cmp(client.Leaf.SerialNumber) == 0 {
		t.Error("two certificates have one serial number")
	}
	if cn := client.Leaf.Subject.CommonName; cn != "alice" {
		t.Errorf("the client's common name is %q, want alice", cn)
	}
	year := func(y int) time.Time { return time.Date(y, 1, 1, 0, 0, 0, 0, time.UTC) }
	for _, c := range []struct {
		name  string
		leaf  *x509.Certificate
		roots string
		host  string
		use   x509.ExtKeyUsage
		at    time.Time
		ok    bool
	}{
		{"a name", server.Leaf, text, "board.local", x509.ExtKeyUsageServerAuth, year(2026), true},
		{"an address", server.Leaf, text, "10.0.0.1", x509.ExtKeyUsageServerAuth, year(2026), true},
		{"an IPv6 address", server.Leaf, text, "fd00::1", x509.ExtKeyUsageServerAuth, year(2026), true},
		{"a board without a clock", server.Leaf, text, "board.local", x509.ExtKeyUsageServerAuth, year(2001), true},
		{"a clock far ahead", server.Leaf, text, "board.local", x509.ExtKeyUsageServerAuth, year(2900), true},
		{"another name", server.Leaf, text, "other.local", x509.ExtKeyUsageServerAuth, year(2026), false},
		{"another token", server.Leaf, text + "ff", "board.local", x509.ExtKeyUsageServerAuth, year(2026), false},
		{"a server as client", server.Leaf, text, "", x509.ExtKeyUsageClientAuth, year(2026), false},
		{"a client", client.Leaf, text, "", x509.ExtKeyUsageClientAuth, year(2026), true},
		{"a client as server", client.Leaf, text, "", x509.ExtKeyUsageServerAuth, year(2026), false},
	} {
		_, err := c.leaf.Verify(x509.VerifyOptions{Roots: authorities(t, c.roots), DNSName: c.host, KeyUsages: []x509.ExtKeyUsage{c.use}, CurrentTime: c.at})
		if (err == nil) != c.ok {
			t.Errorf("%s: got %v, want it to hold: %v", c.name, err, c.ok)
		}
	}
}

// What the authority issues makes no member, whichever end shows it.
func TestIssuedCertificatesMakeNoMember(t *testing.T) {
	token := parse(t, text)
	for name, issue := range map[string]func(string, []string) ([]byte, []byte, error){"client": token.IssueClient, "server": token.IssueServer} {
		cert, key, err := issue("limpet member abc", []string{"limpet-member:abc", "127.0.0.1"})
		shown := pair(t, cert, key, err)
		as := memberTLS(t, text)
		as.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &shown, nil }
		as.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &shown, nil }
		if s, _ := handshake(t, memberTLS(t, text), as); !errors.Is(s, ErrNotMember) {
			t.Errorf("a %s's certificate as caller: %v, want ErrNotMember", name, s)
		}
		if _, c := handshake(t, as, memberTLS(t, text)); !errors.Is(c, ErrNotMember) {
			t.Errorf("a %s's certificate as member that is called: %v, want ErrNotMember", name, c)
		}
	}
}
